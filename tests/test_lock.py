"""The queue, the patience and the renewals, without a DynamoDB."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pyramid_dynamodb_session.errors import SessionLockTimeout
from pyramid_dynamodb_session.store.lease import (
    CLOCK_SKEW,
    LeaseRenewer,
    LockWait,
    ObservedLock,
)
from pyramid_dynamodb_session.store.lock_queue import LockQueue, Ticket
from tests.together import wait_until

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
    then: Callable[[Ticket], Any] = lambda turn: turn,
    deadline: float | None = None,
) -> Future[Any]:
    """Queue up in a thread, and return when that thread waits."""

    def wait() -> Any:
        with queue.ticket(KEY, deadline or soon()) as turn:
            return then(turn)

    before = waiting(queue)
    future = threads.submit(wait)
    wait_until(lambda: waiting(queue) > before or future.done())
    return future


def waiting(queue: LockQueue) -> int:
    return len(queue._queues.get(KEY, ()))


# -- the queue ------------------------------------------------------------


def test_first_in_is_first_out(threads: ThreadPoolExecutor) -> None:
    queue, order = LockQueue(10, 10), []
    with queue.ticket(KEY, soon()):
        futures = [
            wait_in(queue, threads, lambda turn, n=n: order.append(n))
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


def test_whoever_has_the_lock_stays_at_the_head() -> None:
    queue = LockQueue(10, 10)
    with queue.ticket(KEY, soon()) as turn:
        turn.hold('1.token', ObservedLock('token', '0'))
    assert queue.holder(KEY, '1.token') is turn
    assert queue.holder(KEY, '2.other') is None
    assert queue.holder('other', '1.token') is None
    with pytest.raises(SessionLockTimeout, match='kept the lock'):
        queue.ticket(KEY, soon(0.05))
    queue.leave(KEY, turn)
    assert queue._queues == {}
    queue.leave(KEY, turn)


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


def test_whoever_gives_up_leaves_the_others_in_line(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 7)
    with queue.ticket(KEY, soon()):
        impatient = wait_in(queue, threads, deadline=soon(0.1))
        patient = wait_in(queue, threads)
        with pytest.raises(SessionLockTimeout) as timeout:
            impatient.result()
        assert timeout.value.headers['Retry-After'] == '7'
        assert not patient.done()
    patient.result()


def test_head_that_only_tries_is_never_passed_over(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 0.01)
    with queue.ticket(KEY, soon()):
        second = wait_in(queue, threads)
        time.sleep(0.1)
        assert not second.done()
    second.result()


def test_dead_head_is_passed_over_after_a_lease(
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


def test_head_that_renews_is_waited_for(threads: ThreadPoolExecutor) -> None:
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


def test_dead_head_that_comes_back_disturbs_nobody(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 0.05)
    with queue.ticket(KEY, soon()) as dead:
        dead.hold('1.dead', ObservedLock('dead', '0'))
    second = wait_in(
        queue,
        threads,
        lambda turn: turn.hold('2.new', ObservedLock('new', '1')),
    )
    second.result()
    queue.leave(KEY, dead)
    assert queue.holder(KEY, '1.dead') is None
    assert queue.holder(KEY, '2.new') is not None


def test_next_in_line_knows_that_other_processes_compete(
    threads: ThreadPoolExecutor,
) -> None:
    queue = LockQueue(10, 10)
    with queue.ticket(KEY, soon()) as turn:
        second = wait_in(queue, threads)
        turn.contended = True
    assert second.result().contended


# -- patience -------------------------------------------------------------


def test_unchanged_lock_may_be_taken_over_after_a_lease() -> None:
    patience = LockWait(0.2, soon(), None)
    assert not patience.lease_expired(ObservedLock('token', '100'), 100)
    assert not patience.lease_expired(ObservedLock('token', '100'), 100)
    time.sleep(0.2)
    assert not patience.lease_expired(ObservedLock('other', '100'), 100)
    assert not patience.lease_expired(ObservedLock('other', '101'), 101)
    time.sleep(0.2)
    assert patience.lease_expired(ObservedLock('other', '101'), 101)


def test_date_is_believed_when_no_skew_explains_it() -> None:
    patience = LockWait(10, soon(), None)
    seen = ObservedLock('token', '100')
    assert not patience.lease_expired(seen, 110 + CLOCK_SKEW - 1)
    assert patience.lease_expired(seen, 110 + CLOCK_SKEW)


def test_wait_of_a_predecessor_counts() -> None:
    long_since = ObservedLock('token', '100', time.monotonic() - 10)
    patience = LockWait(10, soon(), long_since)
    assert patience.lease_expired(ObservedLock('token', '100'), 100)


def test_pauses_grow_and_stay_short(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, 'sleep', pauses.append)
    patience = LockWait(10, soon(60), None)
    for _ in range(50):
        patience.back_off()
    assert 0.0025 <= pauses[0] <= 0.005
    assert all(0.025 <= pause <= 0.05 for pause in pauses[10:])
    assert len(set(pauses[10:])) > 1


def test_patience_ends_at_the_deadline() -> None:
    patience = LockWait(2.5, soon(0.05), None)
    started = time.monotonic()
    with pytest.raises(SessionLockTimeout, match='lock_wait') as timeout:
        while True:
            patience.back_off()
    assert 0.05 <= time.monotonic() - started < 1
    assert timeout.value.headers['Retry-After'] == '3'


# -- renewals -------------------------------------------------------------

LEASE = 0.3


class Renewer:
    """A store that only renews; ``answers`` are given in turn."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.renewed: list[tuple[str, str]] = []
        self.at: list[float] = []
        self.renewals = LeaseRenewer(LEASE, self.renew)

    def renew(self, session_id: str, lock_id: str) -> bool:
        self.at.append(time.monotonic())
        self.renewed.append((session_id, lock_id))
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)


class Owner:
    """Something that can be held weakly."""


def test_lock_is_renewed_after_a_third_of_the_lease() -> None:
    store, owner, started = Renewer(), Owner(), time.monotonic()
    store.renewals.add(owner, 'id', '1.token')
    wait_until(lambda: len(store.renewed) == 3)
    assert set(store.renewed) == {('id', '1.token')}
    assert store.at[0] - started >= LEASE / 3
    assert store.at[2] - store.at[1] >= LEASE / 3


def test_lock_given_back_is_renewed_no_more() -> None:
    store, owner = Renewer(), Owner()
    store.renewals.add(owner, 'id', '1.token')
    store.renewals.discard('1.token')
    store.renewals.discard('2.unknown')
    time.sleep(LEASE)
    assert store.renewed == []


def test_lock_of_an_owner_who_is_gone_is_renewed_no_more() -> None:
    store, owner = Renewer(), Owner()
    store.renewals.add(owner, 'id', '1.token')
    del owner
    gc.collect()
    wait_until(lambda: not store.renewals._held)
    assert store.renewed == []


def test_lock_of_a_store_that_is_gone_is_renewed_no_more() -> None:
    store, owner = Renewer(), Owner()
    renewals = store.renewals
    renewals.add(owner, 'id', '1.token')
    del store
    gc.collect()
    wait_until(lambda: not renewals._held)


def test_lock_taken_over_is_renewed_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, owner = Renewer(False), Owner()
    store.renewals.add(owner, 'id', '1.token')
    wait_until(lambda: not store.renewals._held)
    time.sleep(LEASE)
    assert len(store.renewed) == 1
    assert 'taken over from a request in progress' in caplog.text


def test_failed_renewal_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, owner = Renewer(RuntimeError('no network')), Owner()
    store.renewals.add(owner, 'id', '1.token')
    wait_until(lambda: len(store.renewed) == 2)
    assert store.at[1] - store.at[0] < LEASE / 3 * 1.5
    assert 'could not be renewed' in caplog.text


@pytest.mark.parametrize('answer', [True, False])
def test_lock_given_back_during_its_renewal_is_nothing_to_warn_of(
    answer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Renewer):
        def renew(self, session_id: str, lock_id: str) -> bool:
            self.renewals.discard(lock_id)
            return super().renew(session_id, lock_id)

    store, owner = Slow(answer), Owner()
    store.renewals.add(owner, 'id', '1.token')
    wait_until(lambda: bool(store.renewed))
    time.sleep(LEASE)
    assert store.renewals._held == {}
    assert len(store.renewed) == 1
    assert caplog.text == ''


def test_thread_ends_with_the_last_lock_and_starts_again() -> None:
    store, owner = Renewer(), Owner()
    store.renewals.add(owner, 'id', '1.token')
    first = store.renewals._thread
    store.renewals.add(owner, 'id', '2.token')
    assert store.renewals._thread is first
    for lock_id in ('1.token', '2.token'):
        store.renewals.discard(lock_id)
    wait_until(lambda: store.renewals._thread is None)
    store.renewals.add(owner, 'id', '3.token')
    wait_until(lambda: ('id', '3.token') in store.renewed)


# -- forks ----------------------------------------------------------------


def forked(check: Callable[[], bool]) -> bool:
    """Whether ``check`` is true in a forked process."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def test_fork_starts_with_an_empty_queue() -> None:
    queue = LockQueue(0, 10)

    def free() -> bool:
        with queue.ticket(KEY, soon(1)):
            return True

    with queue.ticket(KEY, soon()), queue._mutex:
        assert forked(free)


def test_fork_renews_its_own_locks_and_no_others() -> None:
    store, owner = Renewer(), Owner()
    store.renewals.add(owner, 'id', '1.parent')

    def renews_its_own() -> bool:
        store.renewed.clear()
        store.renewals.add(owner, 'id', '2.child')
        wait_until(lambda: len(store.renewed) == 2)
        return set(store.renewed) == {('id', '2.child')}

    with store.renewals._mutex:
        assert forked(renews_its_own)
    wait_until(lambda: ('id', '1.parent') in store.renewed)


def test_fork_keeps_nothing_alive(monkeypatch: pytest.MonkeyPatch) -> None:
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
