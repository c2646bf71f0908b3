"""First-in first-out queues for the locks of sessions, in one process."""

from __future__ import annotations

import collections
import logging
import math
import threading
import time

from .._process import reset_after_fork
from ..errors import SessionLockTimeout
from .lease import ObservedLock

log = logging.getLogger(__name__)


class Ticket:
    """A request's place in the queue of one session.

    As a context manager it leaves, unless it holds the lock by then.
    """

    #: Set once it is our ticket; only who must wait has one.
    called: threading.Event

    def __init__(self, queue: LockQueue, key: str) -> None:
        self._queue = queue
        self._key = key
        self.lock_id: str | None = None
        #: Our lock, once we have it, as of its last sign of life.
        self.held: ObservedLock | None = None
        #: The lock that a predecessor left behind by dying.
        self.abandoned_lock: ObservedLock | None = None
        #: Other processes want the session too: look before trying.
        self.contended = False
        #: The lock was not to be had at once.
        self.waited = False

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.lock_id is None:
            self._queue.leave(self._key, self)

    def hold(self, lock_id: str, held: ObservedLock) -> None:
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
        self._queues: dict[str, collections.deque[Ticket]] = {}

    def ticket(self, key: str, deadline: float) -> Ticket:
        """Queue up, and return when it is our ticket.

        Raises :class:`SessionLockTimeout` at once when the queue is full, or
        when `deadline` (on the monotonic clock) has passed.
        """
        ticket = Ticket(self, key)
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
                ticket.called = threading.Event()
            queue.append(ticket)
            if queue[0] is ticket:
                return ticket
        ticket.waited = True
        try:
            self._wait(key, ticket, deadline)
        except BaseException:
            self.leave(key, ticket)
            raise
        return ticket

    def _wait(self, key: str, ticket: Ticket, deadline: float) -> None:
        while not ticket.called.wait(self._patience(key, deadline)):
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

    def _alive_until(self, head: Ticket) -> float:
        return head.held.observed_at + self._lease if head.held else math.inf

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
                queue[0].abandoned_lock = head.held

    def leave(self, key: str, ticket: Ticket) -> None:
        """Give up the place; call the next one if it was the first."""
        with self._mutex:
            queue = self._queues.get(key)
            if queue is None or ticket not in queue:
                return
            if queue[0] is ticket:
                self._call_next(key)
            else:
                queue.remove(ticket)

    def leave_holder(self, key: str, lock_id: str) -> None:
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

    def holder(self, key: str, lock_id: str) -> Ticket | None:
        """Whose ticket it is, if it is the one who holds `lock_id`."""
        with self._mutex:
            queue = self._queues.get(key)
            if queue is not None and queue[0].lock_id == lock_id:
                return queue[0]
        return None
