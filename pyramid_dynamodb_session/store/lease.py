"""When a lock counts as dead, how to wait for it, and how to keep one.

Only *when* to try is decided here; whether a lock is held is for DynamoDB
alone to say. Nothing here makes a call.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from .._process import reset_after_fork
from ..errors import SessionLockTimeout

log = logging.getLogger(__name__)

#: Seconds between two looks at a lock that another process holds.
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.05
#: Seconds that the clocks of two web servers may differ.
CLOCK_SKEW = 30


@dataclasses.dataclass(slots=True)
class ObservedLock:
    """Whose lock was seen, of which ``LockDate``, and since when it stands.

    ``date`` is a number of DynamoDB's, as text; ``observed_at`` is on this
    process's monotonic clock.
    """

    token: str
    date: str
    observed_at: float = dataclasses.field(
        default_factory=time.monotonic, compare=False
    )


class LockWait:
    """How one request waits for a lock that somebody else holds.

    :param lease: seconds after which an unchanged lock may be taken over.
    :param deadline: when to give up, on the monotonic clock.
    """

    def __init__(
        self, lease: float, deadline: float, observed: ObservedLock | None
    ) -> None:
        self._lease = lease
        self._deadline = deadline
        self._pause = FIRST_PAUSE
        self._observed = observed
        #: Seconds for which the lock just seen has stood unchanged.
        self.watched = 0.0

    def lease_expired(self, seen: ObservedLock, now: float) -> bool:
        """Whether the lock just seen may be taken over.

        It stood unchanged for a lease on our own clock, or its date is older
        than any clock's skew explains, `now` being the time of day.
        """
        if seen != self._observed:
            self._observed = seen
        self.watched = time.monotonic() - self._observed.observed_at
        return (
            self.watched >= self._lease
            or now - float(seen.date) >= self._lease + CLOCK_SKEW
        )

    def back_off(self) -> None:
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


def back_off_randomly(call: float) -> bool:
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


class LeaseRenewer:
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
