"""What the rest of an execution of a small world depends on, as a hash.

Executions that differ only in the order of steps which do not touch each
other arrive at the same state: only one of them has to go on. A state is

- what stands in the table, and every version that stood there;
- of each process that will do anything yet all that it was told, in order,
  and when: starts, replies, timers. That determines what its threads do next,
  for each of them draws its random numbers from a source of its own;
- the calls that are on their way, and how many disturbances are left;
- what the checker remembers and may still use.

Times are those of timers: what follows at once, follows within a millisecond.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from typing import Any

from tests.simulation.checker import Checker
from tests.simulation.client import Call
from tests.simulation.observations import HeldLock, Request
from tests.simulation.scheduler import EPOCH, Fiber, Process, World
from tests.simulation.table import Item


class RandomOfEachThread:
    """Random numbers that do not depend on what other threads draw."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sources: dict[Any, random.Random] = {}

    def __getattr__(self, name: str) -> Any:
        def draw(*args: Any, **parameters: Any) -> Any:
            return getattr(self._source(), name)(*args, **parameters)

        setattr(self, name, draw)
        return draw

    def _source(self) -> random.Random:
        fiber = self._world.current
        key = 'hub' if fiber is None else thread_key(fiber)
        if key not in self._sources:
            self._sources[key] = random.Random(repr(key))
        return self._sources[key]


class NoChance:
    """Draws the same number again and again."""

    def random(self) -> float:
        return 0.5

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


def thread_key(fiber: Fiber) -> tuple[str, int]:
    """A thread: its process, and as which of its threads it was started."""
    return fiber.process.name, fiber.ordinal


class RememberingChecker(Checker):
    """Remembers what a fingerprint needs, by numbers instead of times."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: how many versions there were when a request began to load
        self.marks: dict[int, tuple[int, ...]] = {}
        self.requests: list[Request] = []

    def start(self, request: Request, process: Process) -> None:
        self.requests.append(request)
        self._mark(request)
        super().start(request, process)

    def begin_attempt(self, request: Request) -> None:
        self._mark(request)
        super().begin_attempt(request)

    def _mark(self, request: Request) -> None:
        self.marks[request.number] = tuple(
            len(versions) for _, versions in sorted(self.history.items())
        )

    def read(self, request: Request, *what: Any) -> None:
        super().read(request, *what)
        self.marks.pop(request.number, None)

    def end(self, request: Request) -> None:
        super().end(request)
        self.marks.pop(request.number, None)

    # -- what it remembers -----------------------------------------------

    def remembered(self, active: set[Any]) -> tuple[Any, ...]:
        pids = {process.pid for process in active}
        return (
            [self._request(request) for request in self.requests],
            sorted(self.marks.items()),
            sorted(
                (name, [data for _, data in versions])
                for name, versions in self.history.items()
            ),
            sorted((name, rounded(at)) for name, at in self.ended.items()),
            sorted(
                (name, lock_state(lock)) for name, lock in self.locks.items()
            ),
            sorted((pid, rounded(self.trouble.get(pid))) for pid in pids),
            sorted(
                (pid, rounded(self.background_trouble.get(pid)))
                for pid in pids
            ),
            len(self.violations),
        )

    def _request(self, request: Request) -> tuple[Any, ...]:
        left = (
            request.number,
            request.verdict,
            request.committed,
            request.has_ended,
        )
        if request.ended is not None:
            return left
        return (
            *left,
            request.attempts,
            request.created,
            request.is_contended,
            rounded(request.loaded),
        )


def lock_state(lock: HeldLock) -> tuple[Any, ...]:
    return (
        lock.token,
        lock.process.name,
        rounded(lock.renewed),
        rounded(lock.dead_since),
        lock.is_stray,
        bool(lock.call.faults),
    )


def rounded(time: float | None) -> float | None:
    return None if time is None else round(time - EPOCH, 3)


class Histories:
    """What each process was told, as a hash."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hashes: dict[str, bytes] = {}
        self._calls: Counter[tuple[str, int]] = Counter()
        self._keys: dict[int, tuple[Any, ...]] = {}

    def tell(self, process: Process, *what: Any) -> None:
        """A process learns of something, just now."""
        before = self._hashes.get(process.name, b'')
        now = rounded(self._world.now)
        self._hashes[process.name] = hashed((before, now, what))

    def call_key(self, call: Call, fiber: Fiber | None) -> tuple[Any, ...]:
        """A call: which thread makes it, and as which of its calls."""
        if call.number not in self._keys:
            assert fiber is not None
            thread = thread_key(fiber)
            self._calls[thread] += 1
            self._keys[call.number] = (*thread, self._calls[thread])
        return self._keys[call.number]

    def state(self, active: set[Any]) -> list[tuple[str, bytes | None]]:
        """Of the processes that will do anything yet."""
        return sorted(
            (process.name, self._hashes.get(process.name))
            for process in active
        )


def hashed(state: Any) -> bytes:
    return hashlib.blake2b(repr(state).encode(), digest_size=16).digest()


def late_state(call: Call) -> tuple[Any, ...]:
    """A duplicate that may arrive yet: whose it was does not matter."""
    return (
        call.operation,
        repr(sorted(call.parameters.items())),
        call.carried_out,
        # the checker looks at who has sent it
        call.request.number if call.request else 0,
        call.ended is None,
    )


def items_of(items: dict[str, Item]) -> list[tuple[str, str]]:
    return sorted(
        (name, repr(sorted(item.items()))) for name, item in items.items()
    )
