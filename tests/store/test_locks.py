"""Locking and releasing a session in the table."""

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pyramid_dynamodb_session import (
    DynamoDBSessionFactory,
    DynamoDBSessionStore,
    SessionLockLost,
    SessionLockTimeout,
)
from tests.support.clients import Interposed
from tests.support.clocks import set_clock
from tests.support.forks import forked
from tests.support.sessions import (
    ID,
    MakeStore,
    Plant,
    RawItem,
    create,
    is_about,
    items,
    locked,
    raw,
    seconds,
)
from tests.support.together import together, wait_until

#: Strings that no holder of a lock was ever given.
UNKNOWN_LOCK_IDS = [
    '',
    '0',
    'x',
    '1.',
    '.x',
    '1.x',
    '-1.x',
    '9' * 50 + '.x',
    '٣.x',
]


def test_lock_is_held_by_one_at_a_time(
    store: DynamoDBSessionStore, other: DynamoDBSessionStore
) -> None:
    create(store)
    record = locked(store)
    with pytest.raises(SessionLockTimeout):
        other.get_item_exclusive(ID)
    store.release_item_exclusive(ID, record.lock_id)
    again = locked(other)
    count, _, token = record.lock_id.partition('.')
    assert again.lock_id.startswith(f'{int(count) + 1}.')
    assert token not in again.lock_id


def test_lock_released_by_another_server_goes_to_the_waiting_request(
    store: DynamoDBSessionStore, make_store: MakeStore
) -> None:
    create(store)
    lock_id = locked(store).lock_id
    waiting = make_store(lock_wait=30)

    def give_back() -> None:
        time.sleep(0.2)
        store.release_item_exclusive(ID, lock_id)

    record, _ = together([lambda: locked(waiting), give_back])
    assert record.items == {'n': 1}


def test_release_unlocks_and_slides(
    store: DynamoDBSessionStore, plant: Plant, raw_item: RawItem
) -> None:
    item = plant(Expires=seconds(60))
    store.release_item_exclusive(ID, locked(store).lock_id)
    released = raw(raw_item)
    assert is_about(released['Expires'], 1200)
    assert released == item | {
        'Expires': released['Expires'],
        'LockCount': {'N': '1'},
    }


@pytest.mark.parametrize('lock_id', UNKNOWN_LOCK_IDS)
def test_unknown_lock_id_does_nothing(
    lock_id: str, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    held = locked(store).lock_id
    before = raw(raw_item)
    store.release_item_exclusive(ID, lock_id)
    assert not store.renew_lock(ID, lock_id)
    with pytest.raises(SessionLockLost):
        store.remove_item(ID, lock_id)
    assert raw(raw_item) == before
    store.set_and_release_item_exclusive(ID, {'n': 2}, held)
    assert items(store) == {'n': 2}


@pytest.mark.parametrize('lock_id', [None, *UNKNOWN_LOCK_IDS, '7.x'])
def test_saving_with_an_unknown_lock_id_is_refused(
    lock_id: Any, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    before = raw(raw_item)
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)
    assert raw(raw_item) == before


def test_lock_of_another_session_does_nothing(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    create(store, 'another')
    lock_id = locked(store).lock_id
    locked(store, 'another')
    before = raw(raw_item, 'another')
    store.release_item_exclusive('another', lock_id)
    assert raw(raw_item, 'another') == before


def test_lock_is_taken_over_and_the_late_holder_is_told(
    store: DynamoDBSessionStore, make_store: MakeStore, raw_item: RawItem
) -> None:
    create(store)
    dead = locked(store).lock_id
    living = locked(make_store(lock_lease=0.1)).lock_id
    assert raw(raw_item)['TakenOver'] == {'S': '1'}
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 'dead'}, dead)
    with pytest.raises(SessionLockLost):
        store.remove_item(ID, dead)
    store.release_item_exclusive(ID, dead)
    assert not store.renew_lock(ID, dead)
    store.set_and_release_item_exclusive(ID, {'n': 'living'}, living)
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 'dead'}, dead)
    assert items(store) == {'n': 'living'}


def test_item_tells_the_last_eight_take_overs(
    make_store: MakeStore, raw_item: RawItem
) -> None:
    create(make_store())
    for _ in range(11):
        locked(make_store(lock_lease=0.02))
    item = raw(raw_item)
    assert item['TakenOver'] == {'S': '10 9 8 7 6 5 4 3'}
    assert item['LockCount'] == {'N': '11'}


def test_save_of_a_removed_session_is_a_lost_lock(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    lock_id = locked(store).lock_id
    store.remove_item(ID)
    before = raw(raw_item)
    assert not store.renew_lock(ID, lock_id)
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)
    assert raw(raw_item) == before


def test_renewed_lock_gets_another_date_and_nothing_else(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    lock_id = locked(store).lock_id
    before = raw(raw_item)
    assert store.renew_lock(ID, lock_id)
    after = raw(raw_item)
    assert int(after['LockDate']['N']) > int(before['LockDate']['N'])
    assert after == before | {'LockDate': after['LockDate']}


def test_lock_of_another_process_can_be_renewed(
    store: DynamoDBSessionStore, other: DynamoDBSessionStore
) -> None:
    create(store)
    assert other.renew_lock(ID, locked(store).lock_id)


def test_lock_is_renewed_in_the_background(
    make_store: MakeStore, raw_item: RawItem
) -> None:
    store = make_store(lock_lease=0.3)
    create(store)
    record = locked(store)
    date = raw(raw_item)['LockDate']
    store.renew_while_alive(record, record.lock_id)
    wait_until(lambda: raw(raw_item)['LockDate'] != date)
    store.release_item_exclusive(ID, record.lock_id)
    store.renew_while_alive(record, record.lock_id)


def test_renewal_slides_the_expiry_when_it_comes_close(
    make_store: MakeStore, raw_item: RawItem
) -> None:
    store = make_store(timeout=15, lock_lease=10, ttl_attribute='ttl')
    create(store)
    record = locked(store)
    raw_before = raw(raw_item)
    time.sleep(1.1)
    assert store.renew_lock(ID, record.lock_id)
    slid = raw(raw_item)
    assert int(slid['Expires']['N']) > int(raw_before['Expires']['N'])
    assert slid['ttl'] == slid['Expires']
    patient = make_store(timeout=60, lock_lease=10)
    time.sleep(1.1)
    assert patient.renew_lock(ID, record.lock_id)
    assert raw(raw_item)['Expires'] == slid['Expires']


def test_session_that_expires_while_it_is_held_goes_on(
    store: DynamoDBSessionStore,
    make_store: MakeStore,
    plant: Plant,
    raw_item: RawItem,
) -> None:
    plant(Expires=seconds(1.5))
    record = locked(store)
    wait_until(lambda: int(raw(raw_item)['Expires']['N']) <= time.time())
    assert items(make_store()) == {'n': 1}
    assert make_store().delete_expired_sessions() == 0
    with pytest.raises(SessionLockTimeout):
        make_store(lock_wait=0).get_item_exclusive(ID)
    store.set_and_release_item_exclusive(ID, {'n': 2}, record.lock_id)
    assert items(make_store()) == {'n': 2}
    assert is_about(raw(raw_item)['Expires'], 1200)


def test_session_that_expired_under_a_dead_holder_is_none(
    store: DynamoDBSessionStore, plant: Plant, raw_item: RawItem
) -> None:
    dead = {'LockId': {'S': 'dead'}, 'LockCount': {'N': '1'}}
    item = plant(Expires=seconds(-1), LockDate=seconds(-41), **dead)
    assert store.get_item(ID) is None
    assert store.get_item_exclusive(ID) is None
    assert raw(raw_item) == item
    assert store.delete_expired_sessions() == 1


def test_expired_session_is_read_and_kept_until_its_lock_is_dead(
    store: DynamoDBSessionStore, plant: Plant
) -> None:
    held = {'LockId': {'S': 'held'}, 'LockCount': {'N': '1'}}
    # older than a lease, and not by more than clocks may be wrong
    plant(Expires=seconds(-1), LockDate=seconds(-30), **held)
    assert items(store) == {'n': 1}
    assert store.delete_expired_sessions() == 0


def test_save_after_a_lease_revives_no_expired_session(
    make_store: MakeStore, plant: Plant, raw_item: RawItem
) -> None:
    store = make_store(lock_lease=0.2)
    plant(Expires=seconds(1))
    record = locked(store)
    wait_until(lambda: int(raw(raw_item)['Expires']['N']) <= time.time())
    # it may have expired within a lease
    time.sleep(0.3)
    before = raw(raw_item)
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 2}, record.lock_id)
    assert raw(raw_item) == before


@pytest.mark.engines(
    'moto', 'dynoxide', reason='DynamoDB Local 1.11 does not tell its time'
)
@pytest.mark.parametrize('skew', [-45, 45])
def test_clock_of_a_web_server_robs_no_living_holder(
    skew: float,
    store: DynamoDBSessionStore,
    other: DynamoDBSessionStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create(store)
    items(other)
    set_clock(monkeypatch, skew)
    lock_id = locked(store).lock_id
    set_clock(monkeypatch, 0)
    with pytest.raises(SessionLockTimeout):
        other.get_item_exclusive(ID)
    assert store.renew_lock(ID, lock_id)
    set_clock(monkeypatch, -skew)
    with pytest.raises(SessionLockTimeout):
        other.get_item_exclusive(ID)
    set_clock(monkeypatch, 0)
    store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)


def test_fork_has_a_queue_and_renewals_of_its_own(
    settings: dict[str, str],
) -> None:
    """And a client of its own, as an application's store has."""
    prefix = 'dynamodb_session.'
    short = {prefix + 'lock_lease': '0.6', prefix + 'lock_wait': '0'}
    store = DynamoDBSessionFactory.from_settings(
        settings | short, prefix
    ).store
    create(store)
    create(store, 'another')
    record = locked(store)

    def date(session_id: str) -> Any:
        item = store._calls.read(store._name(session_id), ConsistentRead=True)
        return item and item['LockDate']

    def is_apart() -> bool:
        # DynamoDB is asked, not the queue of the parent
        with pytest.raises(SessionLockTimeout, match='another request'):
            store.get_item_exclusive(ID)
        child = locked(store, 'another')
        before = date('another')
        store.renew_while_alive(child, child.lock_id)
        wait_until(lambda: date('another') != before)
        return store._locks._process.get().holders.keys() == {child.lock_id}

    assert forked(is_apart)
    before = date(ID)
    store.renew_while_alive(record, record.lock_id)
    wait_until(lambda: date(ID) != before)
    assert store._locks._process.get().holders.keys() == {record.lock_id}
    store.release_item_exclusive(ID, record.lock_id)


def test_lock_that_this_process_does_not_hold_is_not_confirmed(
    store: DynamoDBSessionStore, other: DynamoDBSessionStore
) -> None:
    create(store)
    lock_id = locked(store).lock_id
    assert store.confirm_lock(lock_id)
    assert not other.confirm_lock(lock_id)
    store.release_item_exclusive(ID, lock_id)
    assert not store.confirm_lock(lock_id)


def test_lock_refused_though_nothing_stands_in_the_way_is_waited_for(
    make_store: MakeStore, client: Any
) -> None:
    """Until ``lock_wait`` is over, and no longer."""
    refusals = 3

    def update_item(**parameters: Any) -> Any:
        nonlocal refusals
        refusals -= 1
        if refusals < 0:
            return client.update_item(**parameters)
        item = client.get_item(
            TableName=parameters['TableName'],
            Key=parameters['Key'],
            ConsistentRead=True,
        )['Item']
        error = {'Code': 'ConditionalCheckFailedException', 'Message': ''}
        metadata = {'RetryAttempts': 0, 'HTTPStatusCode': 400}
        raise ClientError(
            {'Error': error, 'Item': item, 'ResponseMetadata': metadata},  # type: ignore
            'UpdateItem',
        )

    store = make_store(
        Interposed(client, update_item=update_item), lock_wait=5
    )
    create(store)
    assert locked(store).items == {'n': 1}
    refusals = 10**6
    create(store, 'another')
    store = make_store(
        Interposed(client, update_item=update_item), lock_wait=0.1
    )
    with pytest.raises(SessionLockTimeout):
        store.get_item_exclusive('another')
