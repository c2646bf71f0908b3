"""The index of owners, which follows the table some time later.

Each item follows for itself, so that a session which moves to another id may
be in the index under both, or for a moment under none.
"""

from __future__ import annotations

from typing import Any

from tests.simulation.scheduler import World
from tests.simulation.table import Index, Item, SimulatedTable

#: Seconds by which an item in the index is behind, at the most: half of the
#: second for which a removal asks, as a session may move to another id before
#: the index has shown it at all.
LONGEST_LAG = 0.45


class LaggingIndex:
    """Answers queries from what the index has of the table by now.

    :param is_instant: whether it follows at once.
    """

    def __init__(self, world: World, is_instant: bool = False) -> None:
        self._world = world
        self._index = Index()
        self.is_instant = is_instant
        self._replica = SimulatedTable(index=self._index)
        #: how many writes there were of each item, and which has arrived
        self._sent: dict[str, int] = {}
        self._arrived: dict[str, int] = {}

    def written(self, name: str, old: Item | None, new: Item | None) -> None:
        """Have a write to the table follow, if it concerns the index."""
        if self._entry(old) == self._entry(new):
            return
        number = self._sent[name] = self._sent.get(name, 0) + 1
        if self.is_instant:
            self._follow(name, number, new)
            return
        draw = self._world.random.random
        lag = LONGEST_LAG * draw() ** 2
        self._world.after(lag, self._follow, name, number, new)

    def _follow(self, name: str, number: int, item: Item | None) -> None:
        if number < self._arrived.get(name, 0):
            return
        self._arrived[name] = number
        self._replica.store(name, item)

    def query(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return self._replica.call('query', parameters)

    def _entry(self, item: Item | None) -> tuple[Any, ...] | None:
        if item is None or self._index.key not in item:
            return None
        return (
            item[self._index.key],
            *(item.get(name) for name in self._index.included),
        )
