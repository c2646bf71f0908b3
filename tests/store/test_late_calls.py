"""Calls that DynamoDB applies long after the client has given them up."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import pytest

from pyramid_dynamodb_session import DynamoDBSessionStore, SessionLockLost
from pyramid_dynamodb_session.store.item import SessionRecord, hash_key
from pyramid_dynamodb_session.unit_of_work import new_session_id


class LateClient:
    """A client whose calls can be applied once more, later."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.on_get: Callable[[], None] = lambda: None

    def __getattr__(self, operation: str) -> Any:
        call = getattr(self.client, operation)

        def made(**parameters: Any) -> Any:
            self.made.append((operation, parameters))
            if operation == 'get_item':
                self.on_get()
            return call(**parameters)

        return made

    def again(self, number: int) -> Any:
        """Apply the call of this ``number`` once more."""
        operation, parameters = self.made[number]
        return getattr(self.client, operation)(**parameters)


@pytest.fixture
def late(client: Any) -> LateClient:
    return LateClient(client)


@pytest.fixture
def late_store(
    late: LateClient, table: str, application: str
) -> DynamoDBSessionStore:
    store = DynamoDBSessionStore(
        late, table=table, application=application, lock_lease=2
    )
    store.initialize()
    late.made.clear()
    return store


@pytest.fixture
def store(client: Any, table: str, application: str) -> DynamoDBSessionStore:
    return DynamoDBSessionStore(
        client, table=table, application=application, lock_lease=2
    )


@pytest.fixture
def session_id(store: DynamoDBSessionStore) -> str:
    session_id = new_session_id()
    store.set_and_release_item_exclusive(session_id, {'n': 0}, None, True)
    return session_id


def locked(store: DynamoDBSessionStore, session_id: str) -> SessionRecord:
    record = store.get_item_exclusive(session_id)
    assert record is not None and record.lock_id is not None
    return record


def save(
    store: DynamoDBSessionStore, session_id: str, record: SessionRecord, n: int
) -> None:
    store.set_and_release_item_exclusive(
        session_id, {'n': n}, str(record.lock_id), record=record
    )


def stored(store: DynamoDBSessionStore, session_id: str) -> int:
    record = store.get_item(session_id)
    assert record is not None
    return int(record.items['n'])


def test_late_lock_lets_no_late_save_through(
    late: LateClient,
    late_store: DynamoDBSessionStore,
    store: DynamoDBSessionStore,
    session_id: str,
    client: Any,
) -> None:
    save(late_store, session_id, locked(late_store, session_id), 1)
    save(store, session_id, locked(store, session_id), 2)
    late.again(0)
    with pytest.raises(client.exceptions.ConditionalCheckFailedException):
        late.again(1)
    assert stored(store, session_id) == 2


def test_late_lock_restores_no_lost_lock(
    late: LateClient,
    late_store: DynamoDBSessionStore,
    store: DynamoDBSessionStore,
    session_id: str,
) -> None:
    suspended = locked(late_store, session_id)
    save(store, session_id, locked(store, session_id), 2)
    late.again(0)
    with pytest.raises(SessionLockLost):
        late_store.change_session_id(
            session_id, secrets.token_urlsafe(), {}, b'{}', suspended
        )
    with pytest.raises(SessionLockLost):
        save(late_store, session_id, suspended, 1)
    assert stored(store, session_id) == 2


def test_late_lock_of_a_request_that_still_waits_is_its_own(
    late: LateClient,
    late_store: DynamoDBSessionStore,
    store: DynamoDBSessionStore,
    session_id: str,
) -> None:
    other = locked(store, session_id)

    def come_through() -> None:
        late.on_get = lambda: None
        save(store, session_id, other, 1)
        late.again(0)

    late.on_get = come_through
    started = time.monotonic()
    record = locked(late_store, session_id)
    assert time.monotonic() - started < 1
    assert record.items == {'n': 1}
    save(late_store, session_id, record, 2)
    assert stored(store, session_id) == 2


def lock_date(store: DynamoDBSessionStore, session_id: str) -> int:
    name = hash_key(session_id, store.settings.application)
    item = store.client.get_item(
        TableName=store.settings.table,
        Key={'SessionId': {'S': name}},
        ConsistentRead=True,
    )['Item']
    return int(item['LockDate']['N'])


def test_late_renewal_makes_a_lock_look_no_older(
    late: LateClient,
    late_store: DynamoDBSessionStore,
    session_id: str,
    client: Any,
) -> None:
    lock_id = str(locked(late_store, session_id).lock_id)
    assert late_store.renew_lock(session_id, lock_id)
    assert late_store.renew_lock(session_id, lock_id)
    renewed = lock_date(late_store, session_id)
    with pytest.raises(client.exceptions.ConditionalCheckFailedException):
        late.again(1)
    assert lock_date(late_store, session_id) == renewed


def test_renewal_that_the_next_one_overtakes_loses_no_lock(
    late: LateClient, late_store: DynamoDBSessionStore, session_id: str
) -> None:
    lock_id = str(locked(late_store, session_id).lock_id)

    def renewed_late(**parameters: Any) -> Any:
        del vars(late)['update_item']
        assert late_store.renew_lock(session_id, lock_id)
        return late.update_item(**parameters)

    vars(late)['update_item'] = renewed_late
    assert late_store.renew_lock(session_id, lock_id)
    assert late_store.renew_lock(session_id, lock_id)


@pytest.mark.parametrize('end', ['remove', 'move'])
def test_late_create_brings_no_ended_session_back(
    end: str,
    late: LateClient,
    late_store: DynamoDBSessionStore,
    client: Any,
) -> None:
    session_id, moved = new_session_id(), new_session_id()
    late_store.set_and_release_item_exclusive(session_id, {'n': 1}, None, True)
    record = locked(late_store, session_id)
    if end == 'remove':
        late_store.remove_item(session_id, record.lock_id)
    else:
        late_store.change_session_id(
            session_id, moved, record.items, record.payload, record
        )
    with pytest.raises(client.exceptions.ConditionalCheckFailedException):
        late.again(0)
    assert late_store.get_item(session_id) is None
    assert (late_store.get_item(moved) is None) == (end == 'remove')
