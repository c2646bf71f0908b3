"""What happens to sessions, as Pyramid events: to collect metrics.

None of them carries an id or data. Subscribe to :class:`SessionEvent` for
all, or to one of its subclasses.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Call:
    """One call to DynamoDB, the client's own retries included.

    ``seconds`` is how long it took, ``units`` the capacity that it consumed
    where DynamoDB told, ``error`` the type of what it raised.
    """

    operation: str
    seconds: float
    units: float | None = None
    error: str = ''


@dataclasses.dataclass(frozen=True)
class SessionEvent:
    """Something notify to the session of a ``request``.

    ``seconds`` is how long it took, 0 for what takes no time; ``calls`` are
    all that the request has made for its session so far.
    """

    request: Any = dataclasses.field(repr=False)
    seconds: float
    calls: tuple[Call, ...]

    @property
    def units(self) -> float:
        """The capacity that the calls consumed, in read and write units."""
        return sum(call.units or 0 for call in self.calls)


class LockTaken(SessionEvent):
    """The session is locked, and loaded; ``seconds`` with all waiting."""


@dataclasses.dataclass(frozen=True)
class LockWaited(SessionEvent):
    """The lock was not free at once; ``seconds`` is the wait.

    ``queue_length`` is how many requests of this process were before it.
    """

    queue_length: int = 0


class LockTakenOver(SessionEvent):
    """The lock was taken over from a holder that counts as dead.

    ``seconds`` is how long this request had watched it do nothing.
    """


class LockLost(SessionEvent):
    """The lock was taken over from this request; it saved nothing."""


class LockTimedOut(SessionEvent):
    """The lock was not to be had within ``lock_wait``, or the queue full."""


class SaveConflicted(SessionEvent):
    """Somebody else saved since this optimistic request had read."""


class StoreFailed(SessionEvent):
    """DynamoDB did not answer, or refused, after all retries."""


class CookieRejected(SessionEvent):
    """The cookie holds no id, or its signature is wrong."""


class ItemCorrupt(SessionEvent):
    """A stored item is no session, and counts as none."""


class SessionCreated(SessionEvent):
    """A new session was stored."""


class SessionSaved(SessionEvent):
    """The changes of a stored session were saved."""


class SessionRemoved(SessionEvent):
    """An invalidated session was removed."""


class SessionUsed(SessionEvent):
    """A request that used its session has ended; ``calls`` are all of them.

    ``seconds`` have passed since it first used the session. The calls that
    renew a lock in the background are not among the ``calls``.
    """
