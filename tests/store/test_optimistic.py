"""Saves that take no lock and detect conflicts."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionConflict,
    SessionLockLost,
    SessionLockTimeout,
    SessionTooLarge,
)
from tests.support.sessions import (
    ID,
    TOO_LARGE,
    MakeStore,
    RawItem,
    create,
    items,
    locked,
    raw,
    save_optimistically,
)


def test_optimistic_save(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    receipts: list[str] = []
    for n in range(2, 22):
        save_optimistically(store, store.get_item(ID), n=n)
        item = raw(raw_item)
        receipt, *earlier = item['SavedBy']['S'].split()
        assert earlier == receipts[:15]
        receipts.insert(0, receipt)
    assert len(set(receipts)) == 20
    assert items(store) == {'n': 21}
    assert item['Version'] == {'N': '21'}
    assert not item.keys() & {'LockId', 'LockDate', 'LockCount'}


def test_receipts_have_no_holes_once_an_optimistic_save_began_them(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    save_exclusively(store, n=2)
    assert 'SavedBy' not in raw(raw_item)
    save_optimistically(store, store.get_item(ID), n=3)
    (first,) = raw(raw_item)['SavedBy']['S'].split()
    save_exclusively(store, n=4)
    second, *rest = raw(raw_item)['SavedBy']['S'].split()
    assert rest == [first] and second != first
    store.release_item_exclusive(ID, locked(store).lock_id)
    item = raw(raw_item)
    assert item['SavedBy'] == {'S': f'{second} {first}'}
    assert item['Version'] == {'N': '4'}


def save_exclusively(store: DynamoDBSessionStore, **changed: Any) -> None:
    lock_id = locked(store).lock_id
    store.set_and_release_item_exclusive(ID, changed, lock_id)


@pytest.mark.parametrize('between', ['save', 'remove', 'optimistic', 'move'])
def test_optimistic_save_conflicts_with_another_change(
    between: str, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    record = store.get_item(ID)
    assert record is not None
    if between == 'optimistic':
        save_optimistically(store, record, n=2)
    elif between == 'remove':
        store.remove_item(ID)
    elif between == 'move':
        store.change_session_id(ID, 'new', {}, b'{}', locked(store))
    else:
        save_exclusively(store, n=2)
    before = raw_item(ID)
    with pytest.raises(SessionConflict):
        save_optimistically(store, record, n=3)
    assert raw_item(ID) == before


# -- a lock in the way ---------------------------------------------------


def test_optimistic_save_during_a_lock_conflicts_with_its_save(
    store: DynamoDBSessionStore, other: DynamoDBSessionStore
) -> None:
    """Read while the lock is held, save after it was given back."""
    create(store)
    lock_id = locked(store).lock_id
    record = other.get_item(ID)
    store.set_and_release_item_exclusive(ID, {'holder': 1}, lock_id)
    with pytest.raises(SessionConflict):
        save_optimistically(other, record, n=2)
    assert items(store) == {'holder': 1}


@pytest.mark.parametrize('place', ['same process', 'another process'])
@pytest.mark.parametrize(
    'end', ['release', 'save', 'remove', 'remove elsewhere']
)
def test_optimistic_save_waits_for_a_lock(
    end: str,
    place: str,
    store: DynamoDBSessionStore,
    make_store: MakeStore,
    raw_item: RawItem,
) -> None:
    create(store)
    saving = store if place == 'same process' else make_store()
    record = saving.get_item(ID)
    lock_id = locked(store).lock_id

    def save() -> str:
        try:
            save_optimistically(saving, record, n=2)
        except SessionConflict:
            return 'conflict'
        return 'saved'

    with ThreadPoolExecutor() as threads:
        saved = threads.submit(save)
        time.sleep(0.2)
        assert not saved.done()
        if end == 'release':
            store.release_item_exclusive(ID, lock_id)
        elif end == 'save':
            store.set_and_release_item_exclusive(ID, {'n': 3}, lock_id)
        else:
            elsewhere = 'elsewhere' in end
            store.remove_item(ID, None if elsewhere else lock_id)
            if elsewhere:
                with pytest.raises(SessionLockLost):
                    store.set_and_release_item_exclusive(ID, {}, lock_id)
    expected = 'saved' if end == 'release' else 'conflict'
    assert saved.result() == expected
    stored = {'release': {'n': 2}, 'save': {'n': 3}}.get(end)
    assert items(store) == stored
    assert 'LockId' not in raw(raw_item) or end == 'remove elsewhere'
    if stored:
        # under the lock it leaves its receipt likewise
        assert raw(raw_item)['Version'] == {'N': '2'}
        save_exclusively(store, n=4)


def test_optimistic_save_replaces_a_dead_holder(
    store: DynamoDBSessionStore, make_store: MakeStore, raw_item: RawItem
) -> None:
    create(store)
    dead = locked(store).lock_id
    other = make_store(lock_lease=0.1)
    save_optimistically(other, other.get_item(ID), n=2)
    item = raw(raw_item)
    assert item['TakenOver'] == {'S': '1'}
    assert 'LockId' not in item
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 'dead'}, dead)
    assert items(store) == {'n': 2}


def test_optimistic_save_waits_no_longer_than_lock_wait(
    store: DynamoDBSessionStore, other: DynamoDBSessionStore
) -> None:
    create(store)
    locked(store)
    with pytest.raises(SessionLockTimeout):
        save_optimistically(other, other.get_item(ID), n=2)
    assert items(store) == {'n': 1}


def test_optimistic_save_that_is_too_large_changes_nothing(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    before = raw(raw_item)
    with pytest.raises(SessionTooLarge):
        save_optimistically(store, store.get_item(ID), n=TOO_LARGE)
    assert raw(raw_item) == before


def test_optimistic_save_of_an_item_that_became_corrupt_conflicts(
    store: DynamoDBSessionStore,
    other: DynamoDBSessionStore,
    client: Any,
    table: str,
    raw_item: RawItem,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was refused by a lock, and what is locked then is no session."""
    create(store)
    record = store.get_item(ID)
    locked(other)
    junk = raw(raw_item) | {'SessionItems': {'S': '{'}}

    def save() -> None:
        save_optimistically(store, record, n=2)

    with ThreadPoolExecutor() as threads:
        saved = threads.submit(save)
        time.sleep(0.2)
        del junk['LockId'], junk['LockDate']
        client.put_item(TableName=table, Item=junk)
    assert isinstance(saved.exception(), SessionConflict)
    assert 'corrupt and counts as none: SessionItems' in caplog.text
    assert 'LockId' not in raw(raw_item)
