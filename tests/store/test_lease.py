"""The lease of a lock: when it has expired, and how it is renewed."""

from __future__ import annotations

import gc
import time

import pytest

from pyramid_dynamodb_session.errors import SessionLockTimeout
from pyramid_dynamodb_session.store.lease import (
    CLOCK_SKEW,
    LeaseRenewer,
    LockWait,
    ObservedLock,
)
from tests.support.forks import forked
from tests.support.together import wait_until


def soon(seconds: float = 5) -> float:
    return time.monotonic() + seconds


# -- the wait for a lock --------------------------------------------------


def test_unchanged_lock_may_be_taken_over_after_a_lease() -> None:
    wait = LockWait(0.2, soon(), None)
    assert not wait.lease_expired(ObservedLock('token', '100'), 100)
    assert not wait.lease_expired(ObservedLock('token', '100'), 100)
    time.sleep(0.2)
    assert not wait.lease_expired(ObservedLock('other', '100'), 100)
    assert not wait.lease_expired(ObservedLock('other', '101'), 101)
    time.sleep(0.2)
    assert wait.lease_expired(ObservedLock('other', '101'), 101)


def test_lock_date_counts_beyond_the_clock_skew() -> None:
    wait = LockWait(10, soon(), None)
    seen = ObservedLock('token', '100')
    assert not wait.lease_expired(seen, 110 + CLOCK_SKEW - 1)
    assert wait.lease_expired(seen, 110 + CLOCK_SKEW)


def test_wait_of_an_earlier_request_counts() -> None:
    long_since = ObservedLock('token', '100', time.monotonic() - 10)
    wait = LockWait(10, soon(), long_since)
    assert wait.lease_expired(ObservedLock('token', '100'), 100)


def test_pauses_grow_and_stay_short(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, 'sleep', pauses.append)
    wait = LockWait(10, soon(60), None)
    for _ in range(50):
        wait.back_off()
    assert 0.0025 <= pauses[0] <= 0.005
    assert all(0.025 <= pause <= 0.05 for pause in pauses[10:])
    assert len(set(pauses[10:])) > 1


def test_wait_ends_at_the_deadline() -> None:
    wait = LockWait(2.5, soon(0.05), None)
    started = time.monotonic()
    with pytest.raises(SessionLockTimeout, match='lock_wait') as timeout:
        while True:
            wait.back_off()
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


def test_released_lock_is_not_renewed() -> None:
    store, owner = Renewer(), Owner()
    store.renewals.add(owner, 'id', '1.token')
    store.renewals.discard('1.token')
    store.renewals.discard('2.unknown')
    time.sleep(LEASE)
    assert store.renewed == []


def test_lock_of_a_collected_owner_is_not_renewed() -> None:
    store, owner = Renewer(), Owner()
    store.renewals.add(owner, 'id', '1.token')
    del owner
    gc.collect()
    wait_until(lambda: not store.renewals._held)
    assert store.renewed == []


def test_lock_of_a_collected_store_is_not_renewed() -> None:
    store, owner = Renewer(), Owner()
    renewals = store.renewals
    renewals.add(owner, 'id', '1.token')
    del store
    gc.collect()
    wait_until(lambda: not renewals._held)


def test_lock_taken_over_is_not_renewed(
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
def test_lock_released_during_its_renewal_logs_no_warning(
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
