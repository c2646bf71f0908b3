"""What is left of a session that was removed or moved to another id."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pyramid_dynamodb_session import DynamoDBSessionStore, SessionLockLost
from pyramid_dynamodb_session.store.item import EndedSession
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
    save_optimistically,
    seconds,
)


@pytest.mark.parametrize('end', ['remove', 'remove the locked one', 'move'])
def test_tombstone_is_exactly_this(
    end: str, make_store: MakeStore, raw_item: RawItem
) -> None:
    store = make_store(ttl_attribute='ttl', ttl_grace=100)
    create(store)
    record = store.get_item(ID)
    assert record is not None
    record.timeout = 300
    store.set_item_optimistic(ID, {'n': 2}, b'{"n":2}', record)
    locked(store)
    taken = locked(make_store(lock_lease=0.05))
    store.release_item_exclusive(ID, taken.lock_id)
    before = raw(raw_item)
    if end == 'remove':
        store.remove_item(ID)
    elif end == 'move':
        record = store.get_item(ID)
        assert record is not None
        store.change_session_id(ID, 'new', {}, b'{}', record)
    else:
        lock_id = locked(store).lock_id
        before = raw(raw_item)
        store.remove_item(ID, lock_id)
    ended = raw(raw_item)
    assert is_about(ended['Ended'], 0)
    assert int(ended['Expires']['N']) == int(ended['Ended']['N']) + 60
    assert int(ended['ttl']['N']) == int(ended['Expires']['N']) + 100
    kept = {'SessionId', 'CreateDate', 'Ver'}
    kept |= {'Version', 'LockCount', 'TakenOver', 'SavedBy'}
    assert ended.keys() == kept | {'Ended', 'Expires', 'ttl'}
    assert {name: ended[name] for name in kept} == {
        name: before[name] for name in kept
    }


def test_every_operation_takes_a_tombstone_for_no_session(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    store.remove_item(ID)
    before = raw(raw_item)
    assert store.get_item(ID) is None
    assert store.get_item_exclusive(ID) is None
    store.reset_item_timeout(ID)
    store.release_item_exclusive(ID, '1.token')
    assert not store.renew_lock(ID, '1.token')
    store.create_uninitialized_item(ID)
    create(store, n=2)
    store.remove_item(ID)
    store.remove_item(ID, '1.token')
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 2}, '1.token')
    assert raw(raw_item) == before
    assert store.delete_expired_sessions() == 0


def test_removed_session_says_when_it_ended(
    store: DynamoDBSessionStore,
) -> None:
    create(store)
    store.remove_item(ID)
    for found in (store.find_item(ID), store.find_item_exclusive(ID)):
        assert isinstance(found, EndedSession)
        assert abs(found.at - time.time()) < 10
        assert store.ended_lately(found, 10)
        assert not store.ended_lately(EndedSession(found.at - 20), 10)


def test_tombstone_is_deleted_once_it_has_expired(
    store: DynamoDBSessionStore, plant: Plant, raw_item: RawItem
) -> None:
    plant(Ended=seconds(-61), Expires=seconds(-1))
    assert store.delete_expired_sessions() == 1
    assert raw_item(ID) is None


def test_session_removed_under_a_lock_leaves_its_holder_the_lock(
    store: DynamoDBSessionStore,
    other: DynamoDBSessionStore,
    raw_item: RawItem,
) -> None:
    create(store)
    lock_id = locked(store).lock_id
    before = raw(raw_item)
    other.remove_item(ID)
    ended = raw(raw_item)
    for name in ('LockId', 'LockDate', 'LockCount'):
        assert ended[name] == before[name]
    # nobody waits for it
    assert other.get_item_exclusive(ID) is None
    for _ in range(2):
        with pytest.raises(SessionLockLost):
            store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)
    store.remove_item(ID, lock_id)
    assert raw(raw_item) == ended


def test_holder_removes_its_session_and_a_second_time_is_no_error(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    lock_id = locked(store).lock_id
    store.remove_item(ID, lock_id)
    before = raw(raw_item)
    store.remove_item(ID, lock_id)
    assert raw(raw_item) == before


def test_unknown_session_can_be_removed(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    store.remove_item('unknown')
    store.remove_item('unknown', '1.token')
    assert raw_item('unknown') is None


def test_optimistic_read_of_an_ended_session_is_none(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    record: Any = store.get_item(ID)
    save_optimistically(store, record, n=2)
    store.remove_item(ID)
    assert items(store) is None
    assert raw(raw_item)['Version'] == {'N': '2'}
