"""The queue of the requests of one session in one process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pyramid_dynamodb_session.errors import SessionLockTimeout
from pyramid_dynamodb_session.store.lease import ObservedLock
from pyramid_dynamodb_session.store.lock_queue import LockQueue, Ticket
from tests.support.forks import forked
from tests.support.together import wait_until

KEY = 'key'


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def soon(seconds: float = 5) -> float:
    return time.monotonic() + seconds


def wait_in(
    queue: LockQueue,
    threads: ThreadPoolExecutor,
    then: Callable[[Ticket], Any] = lambda ticket: ticket,
    deadline: float | None = None,
) -> Future[Any]:
    """Queue up in a thread, and return when that thread waits."""

    def wait() -> Any:
        with queue.ticket(KEY, deadline or soon()) as ticket:
            return then(ticket)

    before = waiting(queue)
    future = threads.submit(wait)
    wait_until(lambda: waiting(queue) > before or future.done())
    return future


def waiting(queue: LockQueue) -> int:
    return len(queue._queues.get(KEY, ()))


def test_first_in_is_first_out(threads: ThreadPoolExecutor) -> None:
    queue, order = LockQueue(10, 10), []
    with queue.ticket(KEY, soon()):
        futures = [
            wait_in(queue, threads, lambda ticket, n=n: order.append(n))
            for n in range(5)
        ]
        assert order == []
    for future in futures:
        future.result()
    assert order == [0, 1, 2, 3, 4]
    assert queue._queues == {}


def test_sessions_do_not_wait_for_each_other() -> None:
    queue = LockQueue(0, 10)
    with queue.ticket('one', soon()), queue.ticket('other', soon()):
        pass


def test_lock_holder_stays_first_in_the_queue() -> None:
    queue = LockQueue(10, 10)
    with queue.ticket(KEY, soon()) as ticket:
        ticket.hold('1.token', ObservedLock('token', '0'))
    assert queue.holder(KEY, '1.token') is ticket
    assert queue.holder(KEY, '2.other') is None
    assert queue.holder('other', '1.token') is None
    with pytest.raises(SessionLockTimeout, match='kept the lock'):
        queue.ticket(KEY, soon(0.05))
    queue.leave(KEY, ticket)
    assert queue._queues == {}
    queue.leave(KEY, ticket)


def test_full_queue_refuses_at_once(threads: ThreadPoolExecutor) -> None:
    queue = LockQueue(2, 10)
    with queue.ticket(KEY, soon()):
        waiting = [wait_in(queue, threads) for _ in range(2)]
        started = time.monotonic()
        with (
            pytest.raises(SessionLockTimeout, match='2 requests') as refused,
            queue.ticket(KEY, soon(60)),
        ):
            pass
        assert time.monotonic() - started < 1
        assert refused.value.headers['Retry-After'] == '1'
    for future in waiting:
        future.result()
    with queue.ticket(KEY, soon()):
        pass


def test_request_that_times_out_leaves_the_others_queued(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 7)
    with queue.ticket(KEY, soon()):
        short = wait_in(queue, threads, deadline=soon(0.1))
        long = wait_in(queue, threads)
        with pytest.raises(SessionLockTimeout) as timeout:
            short.result()
        assert timeout.value.headers['Retry-After'] == '7'
        assert not long.done()
    long.result()


def test_first_request_without_a_lock_is_never_skipped(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 0.01)
    with queue.ticket(KEY, soon()):
        second = wait_in(queue, threads)
        time.sleep(0.1)
        assert not second.done()
    second.result()


def test_holder_without_renewal_is_skipped_after_a_lease(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 0.2)
    with queue.ticket(KEY, soon()) as dead:
        dead.hold('1.dead', ObservedLock('dead', '0'))
    second = wait_in(queue, threads).result()
    assert dead.held and time.monotonic() - dead.held.observed_at >= 0.2
    assert second.abandoned_lock is dead.held
    queue.leave(KEY, dead)
    assert queue._queues == {}


def test_holder_that_renews_is_not_skipped(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 0.3)
    with queue.ticket(KEY, soon()) as living:
        living.hold('1.living', ObservedLock('living', '0'))
    second = wait_in(queue, threads)
    for date in range(1, 6):
        time.sleep(0.1)
        living.hold('1.living', ObservedLock('living', str(date)))
    assert not second.done()
    queue.leave(KEY, living)
    assert second.result().abandoned_lock is None


def test_skipped_holder_that_leaves_later_changes_nothing(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 0.05)
    with queue.ticket(KEY, soon()) as dead:
        dead.hold('1.dead', ObservedLock('dead', '0'))
    second = wait_in(
        queue,
        threads,
        lambda ticket: ticket.hold('2.new', ObservedLock('new', '1')),
    )
    second.result()
    queue.leave(KEY, dead)
    assert queue.holder(KEY, '1.dead') is None
    assert queue.holder(KEY, '2.new') is not None


def test_contention_is_told_to_the_next_request(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 10)
    with queue.ticket(KEY, soon()) as ticket:
        second = wait_in(queue, threads)
        ticket.contended = True
    assert second.result().contended


def test_fork_starts_with_an_empty_queue() -> None:
    queue = LockQueue(0, 10)

    def free() -> bool:
        with queue.ticket(KEY, soon(1)):
            return True

    with queue.ticket(KEY, soon()), queue._mutex:
        assert forked(free)


def test_fork_hook_keeps_no_queue_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hooks: list[Callable[[], None]] = []
    monkeypatch.setattr(
        os, 'register_at_fork', lambda **hook: hooks.extend(hook.values())
    )
    queue = LockQueue(0, 10)
    queue.ticket(KEY, soon())
    hooks[0]()
    assert queue._queues == {}
    del queue
    hooks[0]()
