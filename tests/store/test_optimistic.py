"""Saves that take no lock and detect conflicts."""

from __future__ import annotations

from typing import Any

import pytest

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionConflict,
    SessionTooLarge,
)
from tests.support.clients import Interposed
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
    for n in range(2, 13):
        save_optimistically(store, store.get_item(ID), n=n)
    assert items(store) == {'n': 12}
    item = raw(raw_item)
    assert item['LockCount'] == {'N': '11'}
    assert len(item['SavedBy']['S'].split()) == 8
    assert 'LockId' not in item


@pytest.mark.parametrize('between', ['save', 'lock', 'remove', 'optimistic'])
def test_optimistic_save_conflicts_with_another_change(
    between: str, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    record = store.get_item(ID)
    if between == 'optimistic':
        save_optimistically(store, record, n=2)
    elif between == 'remove':
        store.remove_item(ID)
    else:
        lock_id = locked(store).lock_id
        if between == 'save':
            store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)
    before = raw_item(ID)
    with pytest.raises(SessionConflict):
        save_optimistically(store, record, n=3)
    assert raw_item(ID) == before


def test_optimistic_save_knows_its_own_lost_reply(
    make_store: MakeStore, client: Any
) -> None:
    def twice(**parameters: Any) -> Any:
        client.update_item(**parameters)
        return client.update_item(**parameters)

    store = make_store(Interposed(client, update_item=twice))
    create(store)
    save_optimistically(store, store.get_item(ID), n=2)
    assert items(store) == {'n': 2}


def test_optimistic_save_that_is_too_large_changes_nothing(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    before = raw(raw_item)
    with pytest.raises(SessionTooLarge):
        save_optimistically(store, store.get_item(ID), n=TOO_LARGE)
    assert raw(raw_item) == before
