"""Who is next: first-in first-out queues for locks, within one process."""

from __future__ import annotations

import collections
import enum
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from .._threads import server_threads
from ..errors import SessionLockTimeout
from .lease import HeldLock, ObservedLock

log = logging.getLogger(__name__)

#: Requests of one session that may queue where ``lock_queue_limit`` is
#: ``auto``.
AUTOMATIC_LIMIT = 10


class Ticket:
    """A request's place in the queue for the lock of one session."""

    #: Set once it is the head; only who must wait has one.
    called: threading.Event
    #: What the process knows of its locks, as the locks have it.
    process: Any
    #: The lock, once this request has it.
    held: HeldLock | None = None
    #: The lock of a predecessor that has died.
    abandoned_lock: ObservedLock | None = None
    #: Other processes want the session too: look before trying.
    is_contended = False
    #: This process had the lock for long: let others have it first.
    must_yield = False
    #: The lock was not to be had at once.
    has_waited = False
    #: It counts as a waiting request of this process.
    is_waiting = False
    #: How many requests were before it, and the one that had the lock.
    position = 0
    waits_for = ''

    def __init__(self, name: str, request_line: Callable[[], str]) -> None:
        self.name = name
        self.request_line = request_line
        #: What ``LockId`` is to be.
        self.token = os.urandom(11).hex()


class HandOn(enum.Enum):
    """What became of a lock that was to be handed on."""

    HANDED_ON = enum.auto()
    NOBODY_WAITS = enum.auto()
    #: the holder counts as dead: its successor looks after itself
    PASSED_OVER = enum.auto()


class LockQueue:
    """First-in first-out queues, one per session, within this process.

    The head of a queue is the only one who talks to DynamoDB: it tries for
    the lock, then holds it. It may die without leaving; whoever is next gives
    it one `lease`, in seconds, from its last confirmation.

    :param limit: requests of one session that may wait; None: as many as
        leave a thread of the server to others.
    """

    def __init__(self, limit: int | None, lease: float) -> None:
        self._limit = limit
        self._lease = lease
        self._mutex = threading.Lock()
        self._queues: dict[str, collections.deque[Ticket]] = {}
        self._waiting = 0

    def enter(self, name: str, request_line: Callable[[], str]) -> Ticket:
        """Queue up for the session of this `name`.

        Raises :class:`SessionLockTimeout` at once when the queue is full.
        """
        ticket = Ticket(name, request_line)
        with self._mutex:
            queue = self._queues.setdefault(name, collections.deque())
            if not queue:
                queue.append(ticket)
                return ticket
        refusal = self._enter_behind(ticket)
        if refusal:
            raise SessionLockTimeout(refusal, retry_after=1)
        return ticket

    def _enter_behind(self, ticket: Ticket) -> str:
        """Queue up behind others; why that is refused, if it is."""
        most = self._most_waiting()
        holder: Ticket | None = None
        with self._mutex:
            queue = self._queues.setdefault(ticket.name, collections.deque())
            if queue:
                limit = AUTOMATIC_LIMIT if self._limit is None else self._limit
                if len(queue) > limit:
                    return (
                        f'{len(queue) - 1} requests of this session wait for '
                        'its lock in this process already, as many as '
                        'lock_queue_limit allows'
                    )
                if self._waiting >= most:
                    return self._too_many_waiting()
                ticket.position = len(queue)
                holder = queue[0]
                ticket.has_waited = True
                ticket.called = threading.Event()
                self._count_waiting(ticket)
            queue.append(ticket)
        if holder is not None:
            # now: it is gone when the wait is over
            ticket.waits_for = holder.request_line()
        return ''

    def _most_waiting(self) -> float:
        """How many requests of this process may wait for locks."""
        if self._limit is not None:
            return math.inf
        threads = server_threads()
        # one for the holder, one for everybody else
        return math.inf if threads is None else max(1, threads - 2)

    def _too_many_waiting(self) -> str:
        return (
            f'{self._waiting} requests wait for locks in this process '
            'already: one more would take the last thread of the server'
        )

    def _count_waiting(self, ticket: Ticket) -> None:
        ticket.is_waiting = True
        self._waiting += 1

    def _count_called(self, ticket: Ticket) -> None:
        if ticket.is_waiting:
            ticket.is_waiting = False
            self._waiting -= 1

    def wait(self, ticket: Ticket, deadline: float) -> None:
        """Return when it is this ticket's turn.

        Raises :class:`SessionLockTimeout` when the `deadline`, on the
        monotonic clock, has passed.
        """
        if not ticket.is_waiting:
            return
        while not ticket.called.wait(self._seconds(ticket, deadline)):
            if time.monotonic() >= deadline and not self._is_head(ticket):
                raise SessionLockTimeout(
                    'the requests before this one kept the lock of the '
                    'session for all of lock_wait',
                    retry_after=math.ceil(self._lease),
                )
            self._pass_over_dead_head(ticket.name)

    def _is_head(self, ticket: Ticket) -> bool:
        with self._mutex:
            return self._queues[ticket.name][0] is ticket

    def _seconds(self, ticket: Ticket, deadline: float) -> float:
        """Seconds until the head counts as dead or our own time is up."""
        with self._mutex:
            head = self._queues[ticket.name][0]
            until = min(deadline, self._alive_until(head))
        return max(0.0, until - time.monotonic())

    def _alive_until(self, head: Ticket) -> float:
        return head.held.confirmed_at + self._lease if head.held else math.inf

    def _pass_over_dead_head(self, name: str) -> None:
        with self._mutex:
            queue = self._queues[name]
            head = queue[0]
            is_dead = self._alive_until(head) <= time.monotonic()
            if is_dead and head.held is not None:
                self._call_next(name)
                queue[0].abandoned_lock = head.held.observed()
        if is_dead:
            log.warning(
                'a request of this process (%s) has held a lock for a lease '
                'without renewing it: it is not waited for any longer',
                head.request_line(),
            )

    def poll(self, ticket: Ticket) -> None:
        """The head waits for a lock that another process holds.

        Raises :class:`SessionLockTimeout` at once when too many requests of
        this process wait already.
        """
        if ticket.is_waiting:
            return
        most = self._most_waiting()
        with self._mutex:
            refusal = self._waiting >= most and self._too_many_waiting()
            if not refusal:
                self._count_waiting(ticket)
        if refusal:
            raise SessionLockTimeout(refusal, retry_after=1)

    def hold(self, ticket: Ticket, held: HeldLock) -> None:
        """The head has got the lock."""
        ticket.held = held
        if ticket.is_waiting:
            with self._mutex:
                self._count_called(ticket)

    def next_ticket(self, ticket: Ticket) -> Ticket | None:
        """Who waits behind the head, if `ticket` is the head."""
        queue = self._queues.get(ticket.name)
        if queue is None or len(queue) == 1:
            # nearly always; who comes just now comes too late
            return None
        with self._mutex:
            is_head = len(queue) > 1 and queue[0] is ticket
            return queue[1] if is_head else None

    def hand_on(self, ticket: Ticket, held: HeldLock) -> HandOn:
        """Leave, and give the lock `held` to whoever is next by now."""
        with self._mutex:
            queue = self._queues.get(ticket.name)
            if queue is None or queue[0] is not ticket:
                return HandOn.PASSED_OVER
            if len(queue) > 1:
                queue[1].held = held
            self._call_next(ticket.name)
            return HandOn.HANDED_ON if queue else HandOn.NOBODY_WAITS

    def leave(self, ticket: Ticket, must_yield: bool = False) -> None:
        """Give up the place; call the next one if it was the first.

        :param must_yield: the next one lets other processes go first.
        """
        with self._mutex:
            self._leave(ticket, must_yield)

    def give_up(self, ticket: Ticket) -> HeldLock | None:
        """Leave, unless the lock was handed on to this ticket meanwhile."""
        with self._mutex:
            if ticket.held is None:
                self._leave(ticket, must_yield=False)
            return ticket.held

    def _leave(self, ticket: Ticket, must_yield: bool) -> None:
        queue = self._queues.get(ticket.name)
        if queue is None or ticket not in queue:
            return
        if queue[0] is not ticket:
            queue.remove(ticket)
            self._count_called(ticket)
            return
        self._call_next(ticket.name)
        if queue:
            queue[0].must_yield = must_yield

    def _call_next(self, name: str) -> None:
        queue = self._queues[name]
        head = queue.popleft()
        self._count_called(head)
        if queue:
            queue[0].is_contended = head.is_contended
            self._count_called(queue[0])
            queue[0].called.set()
        else:
            del self._queues[name]
