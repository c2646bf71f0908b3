"""Waiting for a lock and keeping it: queue, patience, renewal.

What is decided here is only *when* to try; whether a lock is held is for
DynamoDB alone to say. Nothing here makes a call.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from .errors import SessionLockTimeout

log = logging.getLogger(__name__)

#: Seconds between two looks at a lock that another process holds.
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.05
#: Seconds that the clocks of two web servers may differ.
CLOCK_SKEW = 30


def reset_after_fork(thing: Any) -> None:
    """Call ``thing.reset()`` in each process forked while it lives."""
    reference = weakref.ref(thing)

    def reset() -> None:
        forked = reference()
        if forked is not None:
            forked.reset()

    os.register_at_fork(after_in_child=reset)


@dataclasses.dataclass(slots=True)
class Sighting:
    """Whose lock was seen, of which ``LockDate``, and since when it stands.

    ``date`` is a number of DynamoDB's, as text; ``since`` is on this
    process's monotonic clock.
    """

    token: str
    date: str
    since: float = dataclasses.field(
        default_factory=time.monotonic, compare=False
    )


class Turn:
    """A request's place in the queue of one session.

    As a context manager it leaves, unless it holds the lock by then.
    """

    #: Set once it is our turn; only who must wait has one.
    called: threading.Event

    def __init__(self, queue: LockQueue, key: str) -> None:
        self._queue = queue
        self._key = key
        self.lock_id: str | None = None
        #: Our lock, once we have it, as of its last sign of life.
        self.held: Sighting | None = None
        #: The lock that a predecessor left behind by dying.
        self.left_behind: Sighting | None = None
        #: Other processes want the session too: look before trying.
        self.contended = False
        #: The lock was not to be had at once.
        self.waited = False

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.lock_id is None:
            self._queue.leave(self._key, self)

    def hold(self, lock_id: str, held: Sighting) -> None:
        self.held = held
        self.lock_id = lock_id


class LockQueue:
    """First-in first-out queues, one per session, within this process.

    The head of a queue is the only one who talks to DynamoDB: it tries for
    the lock, then holds it. It may die without leaving; whoever is next gives
    it one `lease`, in seconds, from its last sign of life.
    """

    def __init__(self, limit: int, lease: float) -> None:
        self._limit = limit
        self._lease = lease
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        self._mutex = threading.Lock()
        self._queues: dict[str, collections.deque[Turn]] = {}

    def turn(self, key: str, deadline: float) -> Turn:
        """Queue up, and return when it is our turn.

        Raises :class:`SessionLockTimeout` at once when the queue is full, or
        when `deadline` (on the monotonic clock) has passed.
        """
        turn = Turn(self, key)
        with self._mutex:
            queue = self._queues.setdefault(key, collections.deque())
            if len(queue) > self._limit:
                raise SessionLockTimeout(
                    f'{len(queue) - 1} requests of this session wait for its '
                    'lock in this process already, as many as '
                    'lock_queue_limit allows',
                    retry_after=1,
                )
            if queue:
                turn.called = threading.Event()
            queue.append(turn)
            if queue[0] is turn:
                return turn
        turn.waited = True
        try:
            self._wait(key, turn, deadline)
        except BaseException:
            self.leave(key, turn)
            raise
        return turn

    def _wait(self, key: str, turn: Turn, deadline: float) -> None:
        while not turn.called.wait(self._patience(key, deadline)):
            if time.monotonic() >= deadline:
                raise SessionLockTimeout(
                    'the requests before this one kept the lock of the '
                    'session for all of lock_wait',
                    retry_after=math.ceil(self._lease),
                )
            self._pass_over_dead_head(key)

    def _patience(self, key: str, deadline: float) -> float:
        """Seconds until the head counts as dead or our own time is up."""
        with self._mutex:
            until = min(deadline, self._alive_until(self._queues[key][0]))
        return max(0.0, until - time.monotonic())

    def _alive_until(self, head: Turn) -> float:
        return head.held.since + self._lease if head.held else math.inf

    def _pass_over_dead_head(self, key: str) -> None:
        with self._mutex:
            queue = self._queues[key]
            head = queue[0]
            if self._alive_until(head) <= time.monotonic():
                log.warning(
                    'a request of this process has held a lock for a lease '
                    'without renewing it: it is not waited for any longer'
                )
                self._call_next(key)
                queue[0].left_behind = head.held

    def leave(self, key: str, turn: Turn) -> None:
        """Give up the place; call the next one if it was the first."""
        with self._mutex:
            queue = self._queues.get(key)
            if queue is None or turn not in queue:
                return
            if queue[0] is turn:
                self._call_next(key)
            else:
                queue.remove(turn)

    def let_go(self, key: str, lock_id: str) -> None:
        """Have the one leave who holds `lock_id`, if it is the first."""
        with self._mutex:
            queue = self._queues.get(key)
            if queue is not None and queue[0].lock_id == lock_id:
                self._call_next(key)

    def _call_next(self, key: str) -> None:
        queue = self._queues[key]
        last = queue.popleft()
        if queue:
            queue[0].contended = last.contended
            queue[0].called.set()
        else:
            del self._queues[key]

    def holder(self, key: str, lock_id: str) -> Turn | None:
        """Whose turn it is, if it is the one who holds `lock_id`."""
        with self._mutex:
            queue = self._queues.get(key)
            if queue is not None and queue[0].lock_id == lock_id:
                return queue[0]
        return None


class Patience:
    """How one request waits for a lock that somebody else holds.

    :param lease: seconds after which an unchanged lock may be taken over.
    :param deadline: when to give up, on the monotonic clock.
    """

    def __init__(
        self, lease: float, deadline: float, sighting: Sighting | None
    ) -> None:
        self._lease = lease
        self._deadline = deadline
        self._pause = FIRST_PAUSE
        self._sighting = sighting
        #: Seconds for which the lock just seen has stood unchanged.
        self.watched = 0.0

    def is_over(self, seen: Sighting, now: float) -> bool:
        """Whether the lock just seen may be taken over.

        It stood unchanged for a lease on our own clock, or its date is older
        than any clock's skew explains, `now` being the time of day.
        """
        if seen != self._sighting:
            self._sighting = seen
        self.watched = time.monotonic() - self._sighting.since
        return (
            self.watched >= self._lease
            or now - float(seen.date) >= self._lease + CLOCK_SKEW
        )

    def pause(self) -> None:
        """Sleep a little; :class:`SessionLockTimeout` after too long."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise SessionLockTimeout(
                'another request held the lock of the session for all of '
                'lock_wait',
                retry_after=math.ceil(self._lease),
            )
        jitter = random.uniform(0.5, 1)  # noqa: S311
        time.sleep(min(left, self._pause * jitter))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


def give_way(call: float) -> bool:
    """Every other time, let others who see the lock free try for it first.

    Fewer writes fail (and are billed) when not everybody tries at once.

    :param call: how long a call takes just now, in seconds.
    """
    gives = random.random() < 0.5  # noqa: S311
    if gives:
        pause = call * random.uniform(1, 2)  # noqa: S311
        time.sleep(min(pause, LONGEST_PAUSE))
    return gives


@dataclasses.dataclass(slots=True)
class Held:
    """A lock that is renewed as long as its owner is alive."""

    owner: weakref.ref[Any]
    name: str
    #: when it was taken or last renewed, on the monotonic clock
    since: float = dataclasses.field(default_factory=time.monotonic)
    renewals: int = 0


class Renewals:
    """Renews held locks once a third of their lease has passed.

    One thread per process, which lives only while locks are held. Owners are
    held weakly: a lock whose owner is gone is renewed no more.

    :param lease: seconds.
    :param renew: a method that takes the name of an item and a lock id, and
        returns whether the lock is still held. What it raises is logged, and
        tried again.
    """

    def __init__(
        self, lease: float, renew: Callable[[str, str], bool]
    ) -> None:
        self._lease = lease
        self._renew = weakref.WeakMethod(renew)
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._idle = 0
        self._held: dict[str, Held] = {}

    def add(self, owner: Any, name: str, lock_id: str) -> None:
        """Renew `lock_id` from now on, for as long as `owner` is alive."""
        with self._mutex:
            self._held[lock_id] = Held(weakref.ref(owner), name)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name='session-locks', daemon=True
                )
                self._thread.start()

    def discard(self, lock_id: str) -> int:
        """Renew `lock_id` no more; return how often it was renewed."""
        held = self._held.pop(lock_id, None)
        return held.renewals if held else 0

    def _run(self) -> None:
        while self._is_needed():
            time.sleep(self._lease / 6)
            self._renew_due()

    def _is_needed(self) -> bool:
        """False, and the thread is over, after a lease with nothing held."""
        with self._mutex:
            self._idle = 0 if self._held else self._idle + 1
            if self._idle > 6:
                self._idle = 0
                self._thread = None
            return self._thread is not None

    def _renew_due(self) -> None:
        renew = self._renew()
        due = time.monotonic() - self._lease / 3
        for lock_id, held in self._held.copy().items():
            if renew is None or held.owner() is None:
                self.discard(lock_id)
            elif held.since <= due:
                self._renew_one(renew, lock_id, held)

    def _renew_one(
        self,
        renew: Callable[[str, str], bool],
        lock_id: str,
        held: Held,
    ) -> None:
        try:
            is_ours = renew(held.name, lock_id)
        except Exception:
            log.warning('a lock could not be renewed', exc_info=True)
            return
        with self._mutex:
            if lock_id not in self._held:
                return
            if is_ours:
                held.since = time.monotonic()
                held.renewals += 1
            else:
                del self._held[lock_id]
                log.warning('a lock was taken over from a request in progress')
