"""The queue of the requests of one session in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pyramid_dynamodb_session.errors import SessionLockTimeout
from pyramid_dynamodb_session.store import lock_queue
from pyramid_dynamodb_session.store.item import LockId, SessionRecord
from pyramid_dynamodb_session.store.lease import HeldLock, ObservedLock
from pyramid_dynamodb_session.store.lock_queue import (
    HandOn,
    LockQueue,
    Ticket,
)

KEY = 'key'


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def soon(seconds: float = 5) -> float:
    return time.monotonic() + seconds


def enter(queue: LockQueue, name: str = KEY, path: str = '/') -> Ticket:
    return queue.enter(name, lambda: f'GET {path}')


def wait_in(
    queue: LockQueue,
    threads: ThreadPoolExecutor,
    then: Callable[[Ticket], Any] = lambda ticket: None,
    deadline: float | None = None,
) -> Future[Ticket]:
    """Queue up, and in a thread wait for the turn; leave after ``then``."""
    ticket = enter(queue)

    def wait() -> Ticket:
        try:
            queue.wait(ticket, deadline or soon())
            then(ticket)
        finally:
            queue.leave(ticket)
        return ticket

    return threads.submit(wait)


def held_lock(count: int = 1) -> HeldLock:
    record = SessionRecord({}, created=0, expires=0)
    lock = LockId('token', count)
    return HeldLock(KEY, lock, record, 100, time.monotonic())


def test_first_in_is_first_out(threads: ThreadPoolExecutor) -> None:
    queue = LockQueue(10, 10)
    order: list[int] = []
    first = enter(queue)
    queue.wait(first, soon(0))
    futures = [
        wait_in(queue, threads, lambda ticket, n=n: order.append(n))
        for n in range(5)
    ]
    time.sleep(0.1)
    assert order == []
    queue.leave(first)
    positions = [future.result().position for future in futures]
    assert order == [0, 1, 2, 3, 4]
    assert positions == [1, 2, 3, 4, 5]
    assert not first.has_waited
    assert all(future.result().has_waited for future in futures)
    assert queue._queues == {}
    assert queue._waiting == 0


def test_sessions_do_not_wait_for_each_other() -> None:
    queue = LockQueue(0, 10)
    queue.wait(enter(queue, 'one'), soon(0))
    queue.wait(enter(queue, 'other'), soon(0))


def test_holder_stays_first_in_the_queue() -> None:
    queue = LockQueue(10, 10)
    ticket = enter(queue, path='/holder')
    queue.hold(ticket, held_lock())
    second = enter(queue)
    with pytest.raises(SessionLockTimeout, match='kept the lock'):
        queue.wait(second, soon(0.05))
    assert second.waits_for == 'GET /holder'
    queue.leave(second)
    queue.leave(ticket)
    assert queue._queues == {}
    queue.leave(ticket)
    assert queue._waiting == 0


def test_full_queue_refuses_at_once(threads: ThreadPoolExecutor) -> None:
    queue = LockQueue(2, 10)
    first = enter(queue)
    waiting = [wait_in(queue, threads) for _ in range(2)]
    with pytest.raises(SessionLockTimeout, match='2 requests') as refused:
        enter(queue)
    assert 'lock_queue_limit' in str(refused.value)
    assert refused.value.headers['Retry-After'] == '1'
    # of other sessions any number may wait
    others = [enter(queue, 'other') for _ in range(3)]
    assert queue._waiting == 4
    for ticket in [*others, first]:
        queue.leave(ticket)
    for future in waiting:
        future.result()
    assert enter(queue).position == 0
    assert queue._waiting == 0


def test_request_that_times_out_leaves_the_others_queued(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 7)
    first = enter(queue)
    short = wait_in(queue, threads, deadline=soon(0.1))
    long = wait_in(queue, threads)
    with pytest.raises(SessionLockTimeout) as timeout:
        short.result()
    assert timeout.value.headers['Retry-After'] == '7'
    assert not long.done()
    queue.leave(first)
    long.result()
    assert queue._waiting == 0


def test_first_request_without_a_lock_is_never_passed_over(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 0.01)
    first = enter(queue)
    second = wait_in(queue, threads)
    time.sleep(0.1)
    assert not second.done()
    queue.leave(first)
    second.result()


def test_holder_without_renewal_is_passed_over_after_a_lease(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    queue = LockQueue(10, 0.2)
    dead, held = enter(queue, path='/dead'), held_lock()
    queue.hold(dead, held)
    second = wait_in(queue, threads).result()
    assert held.age() >= 0.2
    assert second.abandoned_lock == ObservedLock('token', '100')
    assert second.abandoned_lock.observed_at == held.confirmed_at
    assert 'GET /dead' in caplog.text
    # what it does afterwards changes nothing
    third = enter(queue)
    assert queue.next_ticket(dead) is None
    assert queue.hand_on(dead, held) is HandOn.PASSED_OVER
    queue.leave(dead)
    assert list(queue._queues[KEY]) == [third]


def test_holder_that_renews_is_not_passed_over(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 0.3)
    living, held = enter(queue), held_lock()
    queue.hold(living, held)
    second = wait_in(queue, threads)
    for _ in range(5):
        time.sleep(0.1)
        held.confirmed_at = time.monotonic()
    assert not second.done()
    queue.leave(living)
    assert second.result().abandoned_lock is None


def test_contention_and_turns_are_told_to_the_next_request(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 10)
    first = enter(queue)
    second = wait_in(queue, threads)
    first.is_contended = True
    queue.leave(first, must_yield=True)
    assert second.result().is_contended
    assert second.result().must_yield


# -- handing on ----------------------------------------------------------


def test_lock_is_handed_on_to_whoever_is_next_by_then(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 10)
    first = enter(queue)
    queue.hold(first, held_lock())
    assert queue.next_ticket(first) is None
    second, third = enter(queue), enter(queue)
    assert queue.next_ticket(first) is second
    assert queue.next_ticket(second) is None
    assert queue.give_up(second) is None
    lock = held_lock(2)
    assert queue.hand_on(first, lock) is HandOn.HANDED_ON
    queue.wait(third, soon(0))
    assert third.held is lock
    assert queue.hand_on(third, lock) is HandOn.NOBODY_WAITS
    assert queue._queues == {}
    assert queue._waiting == 0


def test_lock_handed_on_to_who_gives_up_is_told_to_him() -> None:
    queue = LockQueue(10, 10)
    first, second = enter(queue), enter(queue)
    lock = held_lock()
    queue.hold(first, lock)
    queue.hand_on(first, lock)
    assert queue.give_up(second) is lock
    assert list(queue._queues[KEY]) == [second]


# -- as many as leave the server a thread --------------------------------


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_queue, 'server_threads', lambda: 4)


@pytest.mark.usefixtures('four_threads')
def test_waiting_requests_leave_the_server_a_thread() -> None:
    queue = LockQueue(None, 10)
    first = enter(queue)
    waiting = [enter(queue), enter(queue)]
    other = enter(queue, 'other')
    for name in (KEY, 'other'):
        with pytest.raises(SessionLockTimeout, match='last thread') as error:
            enter(queue, name)
        assert error.value.headers['Retry-After'] == '1'
    # who would wait for another process is refused likewise
    with pytest.raises(SessionLockTimeout, match='last thread'):
        queue.poll(other)
    for ticket in (first, *waiting, other):
        queue.leave(ticket)
    assert queue._waiting == 0
    assert queue._queues == {}


@pytest.mark.usefixtures('four_threads')
def test_request_that_polls_counts_as_waiting_until_it_holds_the_lock() -> (
    None
):
    queue = LockQueue(None, 10)
    tickets = [enter(queue, str(n)) for n in range(3)]
    for _ in range(2):
        queue.poll(tickets[0])
    assert queue._waiting == 1
    queue.poll(tickets[1])
    with pytest.raises(SessionLockTimeout):
        queue.poll(tickets[2])
    queue.hold(tickets[0], held_lock())
    assert queue._waiting == 1
    queue.poll(tickets[2])
    for ticket in tickets:
        queue.leave(ticket)
    assert queue._waiting == 0


def test_automatic_limit_is_ten_where_the_threads_are_not_known() -> None:
    queue = LockQueue(None, 10)
    for _ in range(11):
        enter(queue)
    with pytest.raises(SessionLockTimeout, match='10 requests'):
        enter(queue)
    for name in range(100):
        enter(queue, str(name))
        enter(queue, str(name))


@pytest.mark.parametrize('count', [1, 2])
def test_one_may_wait_however_few_threads_there_are(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_queue, 'server_threads', lambda: count)
    queue = LockQueue(None, 10)
    enter(queue)
    enter(queue)
    with pytest.raises(SessionLockTimeout):
        enter(queue)


def test_session_that_becomes_free_meanwhile_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = LockQueue(None, 10)
    first = enter(queue)

    def leave_meanwhile() -> int:
        queue.leave(first)
        return 4

    monkeypatch.setattr(lock_queue, 'server_threads', leave_meanwhile)
    ticket = enter(queue)
    queue.wait(ticket, soon(0))
    assert ticket.position == 0
    assert not ticket.has_waited
