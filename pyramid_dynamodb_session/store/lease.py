"""How long a lock lasts: when it has expired, and how it is renewed.

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

from ..errors import SessionLockTimeout
from .item import LockId, SessionRecord

log = logging.getLogger(__name__)

#: Seconds between two looks at a lock that another process holds.
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.05
#: Seconds that an ``optimistic`` request pauses, at the most, before its
#: second attempt and before any.
FIRST_RETRY_PAUSE = 0.01
LONGEST_RETRY_PAUSE = 0.32
#: Seconds by which ``LockDate`` may be wrong, where DynamoDB's clock was not
#: known yet when it was written.
CLOCK_SKEW = 30
#: A lock is handed on within its process at most so often, and for so many
#: seconds: then it is the turn of other processes.
MOST_HAND_ONS = 16
LONGEST_HAND_ONS = 1.0


def dead_after(lease: float) -> float:
    """Seconds after its ``LockDate`` at which a lock is dead for certain."""
    return lease + CLOCK_SKEW


def is_lock_dead(date: float, now: float, lease: float) -> bool:
    """Whether a lock of that ``LockDate`` can't have a living holder.

    :param now: the time of day by DynamoDB's clock.
    """
    return now - date >= dead_after(lease)


@dataclasses.dataclass(slots=True)
class ObservedLock:
    """A lock that somebody else holds, and since when it stands unchanged.

    ``date`` is ``LockDate`` as text; ``observed_at`` is on this process's
    monotonic clock. ``count`` and ``taken_over`` are what the item says.
    """

    token: str
    date: str
    count: int = dataclasses.field(default=0, compare=False)
    taken_over: list[int] = dataclasses.field(
        default_factory=list, compare=False
    )
    observed_at: float = dataclasses.field(
        default_factory=time.monotonic, compare=False
    )


@dataclasses.dataclass(slots=True, eq=False)
class HeldLock:
    """A lock that this process holds, with the session under it.

    ``record`` is the session as it is stored now. ``confirmed_at`` is when
    the last call that DynamoDB has confirmed began, on the monotonic clock.
    """

    name: str
    lock: LockId
    record: SessionRecord
    date: int
    confirmed_at: float
    #: how often it was handed on within this process, and since when
    hand_ons: int = 0
    handed_on_since: float | None = None
    renewals: int = 0
    #: as long as it is alive, the lock is renewed
    owner: weakref.ref[Any] | None = None
    #: a renewal is on its way
    is_being_renewed: bool = False
    #: the call that gives it back is on its way
    is_being_released: bool = False
    lock_id: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.lock_id = str(self.lock)

    def age(self) -> float:
        """Seconds since DynamoDB has confirmed it."""
        return time.monotonic() - self.confirmed_at

    def is_turn_over(self) -> bool:
        """Whether it is the turn of other processes."""
        if self.handed_on_since is None:
            return False
        seconds = time.monotonic() - self.handed_on_since
        return self.hand_ons >= MOST_HAND_ONS or seconds >= LONGEST_HAND_ONS

    def inherited(self) -> HeldLock:
        """The same lock, for the next request of this process."""
        return HeldLock(
            self.name,
            self.lock,
            self.record,
            self.date,
            self.confirmed_at,
            self.hand_ons + 1,
            self.handed_on_since or time.monotonic(),
        )

    def observed(self) -> ObservedLock:
        """The lock as another request sees it."""
        return ObservedLock(
            self.lock.token,
            str(self.date),
            self.lock.count,
            self.record.taken_over,
            self.confirmed_at,
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
        #: Seconds for which the lock just observed has stood unchanged.
        self.watched = 0.0

    def lease_expired(self, observed: ObservedLock, now: float) -> bool:
        """Whether the lock just observed may be taken over.

        It stood unchanged for a lease on our own monotonic clock, or its date
        is older than that by more than any clock's skew explains.

        :param now: the time of day by DynamoDB's clock.
        """
        if observed != self._observed:
            self._observed = observed
        self.watched = time.monotonic() - self._observed.observed_at
        return self.watched >= self._lease or is_lock_dead(
            float(observed.date), now, self._lease
        )

    def back_off(self) -> None:
        """Sleep a little; :class:`SessionLockTimeout` after the deadline."""
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


def back_off_before_retry(attempt: int) -> None:
    """Sleep before an attempt that follows others: longer after each.

    Those who have just met over the same session so meet less often.

    :param attempt: how many there have been.
    """
    longest = min(FIRST_RETRY_PAUSE * 2**attempt, LONGEST_RETRY_PAUSE)
    time.sleep(random.uniform(0, longest))  # noqa: S311


def yield_to_other_processes() -> None:
    """Sleep for longer than others pause between two looks at the lock."""
    time.sleep(LONGEST_PAUSE * random.uniform(1, 2))  # noqa: S311


def back_off_randomly(call: float) -> bool:
    """Every other time, let others who see the lock free try for it first.

    Fewer writes fail (and are billed) when not everybody tries at once.

    :param call: how long a call takes just now, in seconds.
    """
    backs_off = random.random() < 0.5  # noqa: S311
    if backs_off:
        pause = call * random.uniform(1, 2)  # noqa: S311
        time.sleep(min(pause, LONGEST_PAUSE))
    return backs_off


class LeaseRenewer:
    """Renews held locks once a third of their lease has passed.

    A thread looks for them, and lives only while locks are held; each renewal
    has a thread of its own, so that none waits for another. Owners are held
    weakly: a lock whose owner is gone is renewed no more.

    :param lease: seconds.
    :param renew: a method that renews a lock, and returns whether it is still
        held. What it raises is logged, and tried again.
    """

    def __init__(
        self, lease: float, renew: Callable[[HeldLock], bool]
    ) -> None:
        self._lease = lease
        self._renew = weakref.WeakMethod(renew)
        self._mutex = threading.Lock()
        self._is_running = False
        self._idle = 0
        self._held: dict[str, HeldLock] = {}
        #: when the thread was last awake, on the monotonic clock
        self._awake_at = 0.0
        #: when it last slept for far too long, and for how long
        self._standstill = (0.0, 0.0)

    def add(self, held: HeldLock) -> None:
        """Renew a lock from now on, for as long as its owner is alive."""
        self._held[held.lock_id] = held
        if not self._is_running:
            self._start()

    def discard(self, held: HeldLock) -> None:
        """Renew a lock no more."""
        self._held.pop(held.lock_id, None)

    def standstill_since(self, moment: float) -> float:
        """Seconds for which no other thread could run; 0 for none.

        Only where that ended after a `moment` on the monotonic clock, and
        was too long for locks to be renewed. The process was suspended; or
        under gevent, a request has computed for so long.
        """
        self._look_for_standstill()
        end, seconds = self._standstill
        return seconds if end > moment else 0

    def _start(self) -> None:
        with self._mutex:
            if self._is_running:
                return
            self._awake_at = time.monotonic()
            self._is_running = True
        if not start_thread(self._run):
            # the next lock tries again
            self._is_running = False

    def _run(self) -> None:
        while self._is_needed():
            time.sleep(self._lease / 6)
            self._look_for_standstill()
            self._awake_at = time.monotonic()
            self._renew_due()

    def _look_for_standstill(self) -> None:
        now = time.monotonic()
        seconds = now - self._awake_at
        if self._is_running and seconds > self._lease / 2:
            self._standstill = (now, seconds)

    def _is_needed(self) -> bool:
        """False, and the thread is over, after a lease with nothing held."""
        with self._mutex:
            self._idle = 0 if self._held else self._idle + 1
            if self._idle > 6:
                self._idle = 0
                self._is_running = False
                # a lock that came meanwhile may have seen it running
                self._is_running = bool(self._held)
            return self._is_running

    def _renew_due(self) -> None:
        for held in self._held.copy().values():
            if held.owner is None or held.owner() is None:
                self.discard(held)
            elif held.age() >= self._lease / 3 and not held.is_being_renewed:
                held.is_being_renewed = True
                if not start_thread(self._renew_one, held):
                    self._renew_one(held)

    def _renew_one(self, held: HeldLock) -> None:
        try:
            renew = self._renew()
            is_held = renew is not None and renew(held)
        except Exception:
            log.warning('a lock could not be renewed', exc_info=True)
            return
        finally:
            held.is_being_renewed = False
        if is_held:
            held.renewals += 1
            return
        is_lost = self._held.pop(held.lock_id, None) is not None
        if is_lost and not held.is_being_released:
            log.warning(
                'the lock of a request in progress was taken over, or its '
                'session has ended'
            )


def start_thread(target: Callable[..., None], *args: Any) -> bool:
    """Whether a daemon thread could be started; the machine may refuse."""
    thread = threading.Thread(
        target=target, args=args, name='session-locks', daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:
        log.warning('no thread could be started to renew locks: %s', error)
        return False
    return True
