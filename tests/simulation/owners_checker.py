"""Says whether the sessions of an owner end together, and no others.

A session is followed from one id to the next. Once a removal is over, none is
left that has had that owner since before the removal began.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from tests.simulation.application import item_name
from tests.simulation.client import Call, short
from tests.simulation.ownership import REMOVES, SETS, SIGNS_OUT
from tests.simulation.table import Item


@dataclasses.dataclass(eq=False, slots=True)
class Owned:
    """Whose a session is, and since when; ``first`` is its first name."""

    owner: str | None
    since: float
    first: str


@dataclasses.dataclass(eq=False, slots=True)
class Removal:
    """All sessions of an owner are being ended, but one."""

    request: Any
    owner: str
    keep: str | None
    started: float
    ended: list[str] = dataclasses.field(default_factory=list)


class OwnersChecker:
    """The part of the checker that knows of owners."""

    def __init__(self, checker: Any) -> None:
        self._checker = checker
        self._world = checker.world
        #: the living sessions, by their names
        self._owned: dict[str, Owned] = {}
        self._removals: dict[int, Removal] = {}
        self.counts: Counter[str] = Counter()

    # -- what was committed ----------------------------------------------

    def committed(
        self, call: Call, writes: list[tuple[str, Item | None, Item | None]]
    ) -> None:
        before: Owned | None = None
        for name, _, new in writes:
            if name in self._owned and not is_living(new):
                before = self._owned.pop(name)
                self._ended(call, name, before)
        for name, _, new in writes:
            if new is not None and is_living(new):
                self._lives(call, name, new, before)

    def _lives(
        self, call: Call, name: str, item: Item, moved: Owned | None
    ) -> None:
        owner = item['Owner']['S'] if 'Owner' in item else None
        known = self._owned.get(name)
        if known is None:
            first = name if moved is None else moved.first
            old = None if moved is None else moved.owner
        else:
            first, old = known.first, known.owner
        self._check_change(call, name, old, owner)
        if known is None or owner != old:
            since = self._world.now
            if moved is not None and owner == old:
                since = moved.since
            self._owned[name] = Owned(owner, since, first)

    def _check_change(
        self, call: Call, name: str, old: str | None, new: str | None
    ) -> None:
        if old == new:
            return
        request = call.request
        does = request.kind.ownership if request else ''
        is_set = does in (SETS, SIGNS_OUT) and new == item_name(request.owner)
        if not is_set and not (does == REMOVES and new is None):
            text = f'{request}: {short(name)} changes its owner'
            self._checker.violation('owner changed', text, name)

    # -- sessions that are ended -----------------------------------------

    def _ended(self, call: Call, name: str, owned: Owned) -> None:
        removal = self._removal_of(call)
        if removal is None:
            return
        removal.ended.append(name)
        self.counts['sessions signed out'] += 1
        if owned.owner != removal.owner:
            text = f'{removal.request} ended {short(name)} of somebody else'
            self._checker.violation('signed out a stranger', text, name)
        if name == removal.keep:
            text = f'{removal.request} ended {short(name)}, which is to stay'
            self._checker.violation('signed out itself', text, name)

    def _removal_of(self, call: Call) -> Removal | None:
        """The removal that a call is made for, if it is."""
        request = call.request
        if request is None or not self.is_removing(call):
            return None
        return self._removals[request.number]

    def is_removing(self, call: Call) -> bool:
        """Whether a call is to end sessions of an owner."""
        request = call.request
        return (
            request is not None
            and request.number in self._removals
            and call.operation == 'update_item'
            and '#Owner' in call.parameters.get('ExpressionAttributeNames', {})
            and 'Ended' in call.parameters['UpdateExpression']
            and ':me' not in call.parameters['ExpressionAttributeValues']
        )

    # -- removals --------------------------------------------------------

    def begins_removal(self, request: Any, keep: str | None) -> Removal:
        removal = Removal(
            request, item_name(request.owner), keep, self._world.now
        )
        self._removals[request.number] = removal
        self._world.note('removal', request, keep and short(keep))
        return removal

    def fails_removal(self, removal: Removal) -> None:
        self.counts['removals that failed'] += 1

    def ends_removal(self, removal: Removal, count: int) -> None:
        self.counts['removals'] += 1
        self._world.note('removed', removal.request, count)
        kept = self._owned.get(removal.keep or '')
        for name, owned in self._owned.items():
            if owned.owner != removal.owner or owned.since > removal.started:
                continue
            if kept is None or owned.first != kept.first:
                text = f'{removal.request} has left {short(name)}'
                self._checker.violation('not signed out', text, name)
        if count > len(removal.ended):
            text = f'{removal.request}: {count} are {len(removal.ended)}'
            self._checker.violation('wrong count', text)


def is_living(item: Item | None) -> bool:
    return item is not None and 'SessionItems' in item and 'Ended' not in item
