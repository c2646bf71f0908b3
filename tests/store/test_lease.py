"""The lease of a lock: when it has expired, and how it is renewed."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref

import pytest

from pyramid_dynamodb_session.errors import SessionLockTimeout
from pyramid_dynamodb_session.store.item import LockId, SessionRecord
from pyramid_dynamodb_session.store.lease import (
    CLOCK_SKEW,
    HeldLock,
    LeaseRenewer,
    LockWait,
    ObservedLock,
)
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
    long_since = ObservedLock(
        'token', '100', observed_at=time.monotonic() - 10
    )
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

    def __init__(self, *answers: object, lease: float = LEASE) -> None:
        self.answers = list(answers)
        self.renewed: list[str] = []
        self.at: list[float] = []
        self.renewer = LeaseRenewer(lease, self.renew)

    def renew(self, held: HeldLock) -> bool:
        self.at.append(time.monotonic())
        self.renewed.append(held.lock_id)
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        if answer:
            held.confirmed_at = time.monotonic()
        return bool(answer)

    def add(self, owner: object, count: int = 1) -> HeldLock:
        """Have the lock of a session renewed for its ``owner``."""
        held = held_lock(LockId('token', count))
        held.owner = weakref.ref(owner)
        self.renewer.add(held)
        return held


class Owner:
    """Something that can be held weakly."""


def held_lock(lock: LockId, age: float = 0) -> HeldLock:
    record = SessionRecord({}, created=0, expires=0)
    return HeldLock('name', lock, record, 100, time.monotonic() - age)


def renewals_of(renewer: LeaseRenewer) -> list[threading.Thread]:
    """The threads that renew for a ``renewer``."""
    return [
        thread
        for thread in threading.enumerate()
        if getattr(thread, '_target', None)
        in (renewer._run, renewer._renew_one)
    ]


def test_lock_is_renewed_after_a_third_of_the_lease() -> None:
    store, owner, started = Renewer(), Owner(), time.monotonic()
    held = store.add(owner)
    wait_until(lambda: held.renewals == 3)
    assert set(store.renewed) == {'1.token'}
    assert store.at[0] - started >= LEASE / 3
    assert store.at[2] - store.at[1] >= LEASE / 3


def test_released_lock_is_not_renewed() -> None:
    store, owner = Renewer(), Owner()
    held = store.add(owner)
    store.renewer.discard(held)
    store.renewer.discard(held_lock(LockId('unknown', 2)))
    time.sleep(LEASE)
    assert store.renewed == []


def test_lock_of_a_collected_owner_is_not_renewed() -> None:
    store, owner = Renewer(), Owner()
    store.add(owner)
    del owner
    gc.collect()
    wait_until(lambda: not store.renewer._held)
    assert store.renewed == []


def test_lock_of_a_collected_store_is_not_renewed() -> None:
    store, owner = Renewer(), Owner()
    renewer = store.renewer
    store.add(owner)
    del store
    gc.collect()
    wait_until(lambda: not renewer._held)


def test_lock_taken_over_is_not_renewed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, owner = Renewer(False), Owner()
    store.add(owner)
    wait_until(lambda: not store.renewer._held)
    time.sleep(LEASE)
    assert len(store.renewed) == 1
    assert 'was taken over, or its session has ended' in caplog.text


def test_failed_renewal_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, owner = Renewer(RuntimeError('no network')), Owner()
    held = store.add(owner)
    wait_until(lambda: len(store.renewed) == 2)
    assert store.at[1] - store.at[0] < LEASE / 3 * 1.5
    assert 'could not be renewed' in caplog.text
    wait_until(lambda: held.renewals == 1)


@pytest.mark.parametrize('answer', [True, False])
def test_lock_released_during_its_renewal_logs_no_warning(
    answer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Renewer):
        def renew(self, held: HeldLock) -> bool:
            self.renewer.discard(held)
            return super().renew(held)

    store, owner = Slow(answer), Owner()
    store.add(owner)
    wait_until(lambda: bool(store.renewed))
    time.sleep(LEASE)
    assert store.renewer._held == {}
    assert len(store.renewed) == 1
    assert caplog.text == ''


def test_renewals_do_not_wait_for_each_other() -> None:
    class Slow(Renewer):
        """Each of its answers takes as long as a lease."""

        def renew(self, held: HeldLock) -> bool:
            renewed = super().renew(held)
            time.sleep(LEASE)
            return renewed

    store, owner, started = Slow(), Owner(), time.monotonic()
    locks = [store.add(owner, count) for count in range(1, 33)]
    wait_until(lambda: len(set(store.renewed)) == 32)
    # one after the other, they would take 32 leases
    assert max(store.at[:32]) - started < LEASE
    wait_until(lambda: all(held.renewals for held in locks))


def test_renewal_that_hangs_costs_no_other_lock() -> None:
    hangs = threading.Event()

    class Hanging(Renewer):
        def renew(self, held: HeldLock) -> bool:
            if held.lock.count == 1:
                self.renewed.append(held.lock_id)
                hangs.wait(10)
                return False
            return super().renew(held)

    store, owner = Hanging(), Owner()
    store.add(owner, 1)
    other = store.add(owner, 2)
    wait_until(lambda: other.renewals == 4)
    # not tried again, side by side with itself
    assert store.renewed.count('1.token') == 1
    hangs.set()


def test_thread_ends_after_a_lease_without_locks_and_starts_again() -> None:
    store, owner = Renewer(), Owner()
    held = store.add(owner)
    (thread,) = renewals_of(store.renewer)
    another = store.add(owner, 2)
    assert renewals_of(store.renewer) == [thread]
    store.renewer.discard(held)
    store.renewer.discard(another)
    wait_until(lambda: not thread.is_alive())
    store.add(owner, 3)
    wait_until(lambda: '3.token' in store.renewed)


def test_locks_that_come_at_once_start_one_thread() -> None:
    store, owner = Renewer(), Owner()
    store.add(owner)
    # as seen by another thread, before the first one had started it
    store.renewer._start()
    assert len(renewals_of(store.renewer)) == 1


def test_lock_that_comes_while_the_thread_ends_is_renewed() -> None:
    store, owner = Renewer(), Owner()
    renewer = store.renewer
    added: list[HeldLock] = []

    class AddedTo(dict[str, HeldLock]):
        """Empty to the thread; a lock comes right after it has looked."""

        def __bool__(self) -> bool:
            is_full = len(self) > 0
            if renewer._idle >= 6 and not added:
                added.append(store.add(owner, 2))
            return is_full

    renewer._held = AddedTo()
    renewer.discard(store.add(owner))
    wait_until(lambda: bool(added) and added[0].renewals > 0)


def test_standstill_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic, ahead, woken = time.monotonic, 0.0, threading.Event()
    monkeypatch.setattr(time, 'monotonic', lambda: monotonic() + ahead)
    monkeypatch.setattr(time, 'sleep', lambda seconds: woken.wait())
    store, owner, start = Renewer(lease=60), Owner(), time.monotonic()
    ahead = 100
    assert store.renewer.standstill_since(start) == 0
    store.add(owner)
    ahead = 120
    assert store.renewer.standstill_since(start) == 0
    ahead = 140
    # it lasts, is over, and was before the request
    assert 40 <= store.renewer.standstill_since(start) < 60
    ahead = 145
    woken.set()
    while store.renewer._awake_at < start + 145:
        pass
    ahead = 150
    assert 45 <= store.renewer.standstill_since(start) < 60
    assert store.renewer.standstill_since(time.monotonic()) == 0


@pytest.mark.parametrize('refused', [1, 2])
def test_thread_that_can_not_be_started_ends_no_renewals(
    refused: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    start, starts = threading.Thread.start, itertools.count(1)

    def limited(thread: threading.Thread) -> None:
        if thread.name == 'session-locks' and next(starts) == refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, 'start', limited)
    store, owner = Renewer(), Owner()
    first, second = store.add(owner, 1), store.add(owner, 2)
    # the thread that looks for locks, or the one of the first renewal
    wait_until(lambda: first.renewals > 1 and second.renewals > 1)
    assert "no thread could be started to renew locks: can't" in caplog.text


def test_lock_is_handed_on_sixteen_times_or_for_a_second() -> None:
    held = held_lock(LockId('token', 1))
    assert not held.is_turn_over()
    for _ in range(16):
        assert not held.is_turn_over()
        held = held.inherited()
    assert held.is_turn_over()
    held = held_lock(LockId('token', 1)).inherited()
    since = held.handed_on_since
    assert since is not None and not held.is_turn_over()
    held.handed_on_since = since - 1
    assert held.inherited().handed_on_since == since - 1
    assert held.is_turn_over()
