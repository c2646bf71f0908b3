"""The operations of the store, and what each leaves in the table."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionConflict,
    SessionLockLost,
    SessionLockTimeout,
    SessionSerializationError,
    SessionStoreUnavailable,
    SessionTooLarge,
)
from pyramid_dynamodb_session.store.expiry import NEVER
from pyramid_dynamodb_session.store.item import ITEM_LIMIT
from tests.support.sessions import (
    ID,
    TOO_LARGE,
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

# -- making sessions ------------------------------------------------------


def test_new_store_data_is_empty_and_stored_nowhere(
    store: DynamoDBSessionStore,
) -> None:
    record = store.create_new_store_data()
    assert record.items == {}
    assert record.lock_id is None
    assert abs(record.created - time.time()) < 10


def test_uninitialized_item_is_empty_until_it_is_locked(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    store.create_uninitialized_item(ID)
    assert items(store) == {}
    item = raw(raw_item)
    assert item['Flags'] == {'N': '1'}
    assert set(item) == {
        *('SessionId', 'SessionItems', 'CreateDate', 'Expires'),
        *('Flags', 'Ver', 'Version'),
    }
    assert locked(store).items == {}
    assert 'Flags' not in raw(raw_item)


def test_uninitialized_item_replaces_no_session(
    store: DynamoDBSessionStore,
) -> None:
    create(store)
    store.create_uninitialized_item(ID)
    assert items(store) == {'n': 1}


def test_item_at_rest_is_exactly_this(
    store: DynamoDBSessionStore, raw_item: RawItem, application: str
) -> None:
    create(store, text='ü"\U0001f600')
    item = raw(raw_item)
    assert item['SessionId']['S'].startswith(f'{application}-')
    assert len(item['SessionId']['S']) == len(application) + 1 + 43
    assert is_about(item.pop('CreateDate'), 0)
    assert is_about(item.pop('Expires'), 1200)
    assert item == {
        'SessionId': item['SessionId'],
        'SessionItems': {'S': '{"text":"ü\\"\U0001f600"}'},
        'Ver': {'N': '1'},
        'Version': {'N': '1'},
    }


def test_locked_item_is_exactly_this(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    before = raw(raw_item)
    lock_id = locked(store).lock_id
    item = raw(raw_item)
    assert is_about(item.pop('LockDate'), 0)
    assert item == before | {
        'LockId': {'S': lock_id.partition('.')[2]},
        'LockCount': {'N': '1'},
    }


def test_key_is_the_hash_of_the_id_without_an_application_too(
    make_store: MakeStore, client: Any, table: str
) -> None:
    store = make_store(application=None)
    session_id = uuid.uuid4().hex
    create(store, session_id)
    digest = hashlib.sha256(session_id.encode()).digest()
    name = base64.urlsafe_b64encode(digest).decode().rstrip('=')
    deleted = client.delete_item(
        TableName=table,
        Key={'SessionId': {'S': name}},
        ReturnValues='ALL_OLD',
    )
    assert deleted['Attributes']['SessionItems'] == {'S': '{"n":1}'}


def test_id_is_nowhere_in_the_item(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store, 'secret-session-id')
    assert 'secret-session-id' not in str(raw(raw_item, 'secret-session-id'))


def test_new_item_is_created_once(store: DynamoDBSessionStore) -> None:
    create(store, n=1)
    create(store, n=2)
    assert items(store) == {'n': 1}


def test_new_item_keeps_what_its_record_says(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    record = store.create_new_store_data()
    record.created -= 500
    record.timeout = 60
    store.set_and_release_item_exclusive(ID, {}, None, True, record=record)
    item = raw(raw_item)
    assert is_about(item['CreateDate'], -500)
    assert is_about(item['Expires'], 60)
    assert item['SessionTimeout'] == {'N': '60'}


# -- reading --------------------------------------------------------------


def test_unknown_session_is_none_and_is_not_created(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    assert store.get_item(ID) is None
    assert store.get_item_exclusive(ID) is None
    assert raw_item(ID) is None


def test_record_says_when(store: DynamoDBSessionStore) -> None:
    create(store)
    record = store.get_item(ID)
    assert record is not None
    assert abs(record.created - time.time()) < 10
    assert abs(record.expires - time.time() - 1200) < 10
    assert record.lock_id is None


def test_reading_does_not_wait_for_the_lock_nor_touch_it(
    store: DynamoDBSessionStore,
    other: DynamoDBSessionStore,
    raw_item: RawItem,
) -> None:
    create(store)
    record = locked(store)
    before = raw(raw_item)
    assert items(other) == {'n': 1}
    assert raw(raw_item) == before
    store.set_and_release_item_exclusive(ID, {'n': 2}, record.lock_id)
    assert items(other) == {'n': 2}


def test_expired_session_is_none_and_is_not_locked(
    store: DynamoDBSessionStore, plant: Plant, raw_item: RawItem
) -> None:
    item = plant(Expires=seconds(-1))
    assert store.get_item(ID) is None
    assert store.get_item_exclusive(ID) is None
    assert raw(raw_item) == item


# -- saving ---------------------------------------------------------------


def test_save_unlocks_slides_and_keeps_the_date(
    store: DynamoDBSessionStore, plant: Plant, raw_item: RawItem
) -> None:
    item = plant(CreateDate=seconds(-500), Expires=seconds(60))
    record = locked(store)
    store.set_and_release_item_exclusive(ID, {'m': 2}, record.lock_id)
    saved = raw(raw_item)
    assert is_about(saved['Expires'], 1200)
    assert saved == item | {
        'SessionItems': {'S': '{"m":2}'},
        'Expires': saved['Expires'],
        'LockCount': {'N': '1'},
        'Version': {'N': '2'},
    }


@pytest.mark.parametrize(
    ('value', 'raised'),
    [(object(), SessionSerializationError), (TOO_LARGE, SessionTooLarge)],
    ids=['unserializable', 'too large'],
)
def test_what_can_not_be_saved_leaves_the_session_and_unlocks_it(
    value: Any,
    raised: type[Exception],
    store: DynamoDBSessionStore,
    raw_item: RawItem,
) -> None:
    record = store.create_new_store_data()
    record.timeout = 10**6
    store.set_and_release_item_exclusive(
        ID, {'n': 1}, None, True, record=record
    )
    before = raw(raw_item)
    record = locked(store)
    with pytest.raises(raised, match='culprit'):
        store.set_and_release_item_exclusive(
            ID, {'n': 2, 'culprit': value}, record.lock_id, record=record
        )
    after = raw(raw_item)
    assert is_about(after['Expires'], 10**6)
    assert after == before | {
        'Expires': after['Expires'],
        'LockCount': {'N': '1'},
    }
    assert locked(store).items == {'n': 1}


@pytest.mark.parametrize('value', [object(), TOO_LARGE], ids=['bad', 'large'])
def test_what_can_not_be_saved_makes_no_session(
    value: Any, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    with pytest.raises((SessionSerializationError, SessionTooLarge)):
        create(store, culprit=value)
    assert raw_item(ID) is None


def test_too_large_tells_the_size_and_the_largest_keys(
    store: DynamoDBSessionStore,
) -> None:
    with pytest.raises(SessionTooLarge) as error:
        create(store, small=1, large=TOO_LARGE, medium='x' * 5000)
    assert error.value.size > 400 * 1024
    assert [key for key, _ in error.value.largest] == [
        *('large', 'medium', 'small')
    ]
    assert str(error.value.size) in str(error.value)
    assert TOO_LARGE[:50] not in str(error.value)


class Verbatim:
    """Stores the bytes under ``data`` as they are."""

    def dumps(self, items: dict[str, Any]) -> bytes:
        return bytes(items['data'])

    def loads(self, data: bytes) -> dict[str, Any]:
        return {'data': data}


@pytest.mark.engines(
    'dynamodb-local', 'dynoxide', reason="moto's size limit is another"
)
def test_largest_session_can_be_locked_taken_over_and_saved(
    make_store: MakeStore,
) -> None:
    store = make_store(lock_lease=0.1, serializer=Verbatim())
    data = random.Random(2).randbytes(ITEM_LIMIT + 1000)
    while store.get_item(ID) is None:
        try:
            create(store, data=data)
        except SessionTooLarge as error:
            data = data[: ITEM_LIMIT - error.size]
    locked(store)
    record = locked(store)
    store.set_and_release_item_exclusive(ID, {'data': data}, record.lock_id)
    record = store.get_item(ID)
    assert record is not None and len(record.items['data']) > 400_000
    for _ in range(10):
        store.set_item_optimistic(ID, record.items, data, record)
        record = locked(store)
        store.release_item_exclusive(ID, record.lock_id)


# -- removing and sliding -------------------------------------------------


@pytest.mark.parametrize('slide', ['reset', 'release'])
def test_no_operation_recreates_a_removed_session(
    slide: str, store: DynamoDBSessionStore, plant: Plant, raw_item: RawItem
) -> None:
    def do(session_id: str) -> None:
        if slide == 'reset':
            store.reset_item_timeout(session_id)
        else:
            store.release_item_exclusive(session_id, '1.token')

    do('unknown')
    assert raw_item('unknown') is None
    item = plant(Expires=seconds(-1))
    do(ID)
    assert raw(raw_item) == item


def test_reset_slides_and_leaves_the_lock_alone(
    store: DynamoDBSessionStore,
    other: DynamoDBSessionStore,
    plant: Plant,
    raw_item: RawItem,
) -> None:
    plant(Expires=seconds(60))
    lock_id = locked(store).lock_id
    before = raw(raw_item)
    other.reset_item_timeout(ID)
    after = raw(raw_item)
    assert is_about(after['Expires'], 1200)
    assert after == before | {'Expires': after['Expires']}
    store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)


@pytest.mark.parametrize('is_known', [True, False])
def test_reset_keeps_a_timeout_of_ones_own(
    is_known: bool,
    store: DynamoDBSessionStore,
    plant: Plant,
    raw_item: RawItem,
) -> None:
    plant(Expires=seconds(60), SessionTimeout={'N': '9000'})
    record = store.get_item(ID) if is_known else None
    store.reset_item_timeout(ID, record=record)
    assert is_about(raw(raw_item)['Expires'], 9000)


def test_reset_of_an_unknown_session_makes_none(
    store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    store.reset_item_timeout(ID)
    assert raw_item(ID) is None


# -- applications ---------------------------------------------------------


def test_applications_do_not_see_each_others_sessions(
    make_store: MakeStore, application: str
) -> None:
    one = make_store(application=application)
    two = make_store(application=f'{application}-b')
    none = make_store(application=None)
    create(one, 'b-c', n=1)
    create(two, 'c', n=2)
    create(none, f'{application}-b-c', n=3)
    assert [items(store, 'b-c') for store in (one, two, none)] == [
        *({'n': 1}, None, None)
    ]
    assert [items(store, 'c') for store in (one, two, none)] == [
        *(None, {'n': 2}, None)
    ]
    none.remove_item(f'{application}-b-c')


# -- expiry ---------------------------------------------------------------


def test_timeout_of_none_is_never(
    make_store: MakeStore, raw_item: RawItem
) -> None:
    store = make_store(timeout=None)
    create(store)
    assert raw(raw_item)['Expires'] == {'N': str(NEVER)}
    assert locked(store).items == {'n': 1}


def test_session_ends_at_its_absolute_timeout_however_busy_it_is(
    make_store: MakeStore, plant: Plant, raw_item: RawItem
) -> None:
    store = make_store(absolute_timeout=1000)
    plant(CreateDate=seconds(-900))
    record = locked(store)
    store.release_item_exclusive(ID, record.lock_id)
    assert is_about(raw(raw_item)['Expires'], 100)
    store.reset_item_timeout(ID, record=record)
    assert is_about(raw(raw_item)['Expires'], 100)
    record = locked(store)
    store.set_and_release_item_exclusive(ID, {}, record.lock_id, record=record)
    assert is_about(raw(raw_item)['Expires'], 100)


def test_session_beyond_its_absolute_timeout_is_none_and_unlocked(
    make_store: MakeStore, plant: Plant, raw_item: RawItem
) -> None:
    store = make_store(absolute_timeout=1000)
    plant(CreateDate=seconds(-1001))
    assert store.get_item(ID) is None
    assert store.get_item_exclusive(ID) is None
    assert 'LockId' not in raw(raw_item)


@pytest.mark.parametrize(('grace', 'value'), [(0, 1200), (500, 1700)])
def test_ttl_attribute_of_its_own_is_written_with_every_expiry(
    grace: int, value: int, make_store: MakeStore, raw_item: RawItem
) -> None:
    store = make_store(ttl_attribute='my ttl', ttl_grace=grace)

    def is_written() -> bool:
        item = raw(raw_item)
        expires = int(item['Expires']['N'])
        assert item['my ttl'] == {'N': str(expires + grace)}
        return is_about(item['my ttl'], value)

    create(store)
    assert is_written()
    store.set_and_release_item_exclusive(ID, {}, locked(store).lock_id)
    assert is_written()
    store.release_item_exclusive(ID, locked(store).lock_id)
    store.reset_item_timeout(ID)
    assert is_written()


def test_no_ttl_attribute_changes_nothing_in_the_item(
    make_store: MakeStore, raw_item: RawItem
) -> None:
    create(make_store(ttl_attribute=''))
    assert set(raw(raw_item)) == {
        *('SessionId', 'SessionItems', 'CreateDate', 'Expires', 'Ver'),
        'Version',
    }


# -- a table of one's own -------------------------------------------------


@pytest.fixture
def named_otherwise(client: Any) -> Iterator[str]:
    """A table whose key is called something that is a reserved word."""
    name = f'Other-{uuid.uuid4().hex[:8]}'
    client.create_table(
        TableName=name,
        KeySchema=[{'AttributeName': 'Key', 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': 'Key', 'AttributeType': 'S'}],
        BillingMode='PAY_PER_REQUEST',
    )
    client.get_waiter('table_exists').wait(
        TableName=name, WaiterConfig={'Delay': 1}
    )
    yield name
    client.delete_table(TableName=name)


def test_key_may_have_any_name(
    make_store: MakeStore, client: Any, named_otherwise: str
) -> None:
    store = make_store(table=named_otherwise)
    create(store)
    record = locked(store)
    with pytest.raises(SessionLockTimeout):
        make_store(table=named_otherwise, lock_wait=0).get_item_exclusive(ID)
    store.change_session_id(ID, 'new', record.items, record.payload, record)
    assert items(store, 'new') == {'n': 1}
    ended, living = sorted(
        client.scan(TableName=named_otherwise)['Items'],
        key=lambda item: 'SessionItems' in item,
    )
    assert ended.keys() >= {'Key', 'Ended'}
    assert living.keys() >= {'Key', 'SessionItems'}
    for item in (ended, living):
        client.put_item(
            TableName=named_otherwise, Item=item | {'Expires': seconds(-1)}
        )
    assert store.delete_expired_sessions() == 2
    assert items(store, 'new') is None


def test_store_that_is_used_before_its_table_can_be(
    make_store: MakeStore,
) -> None:
    store = make_store(table='no-such-table', create_if_not_exist=False)
    with pytest.raises(SessionStoreUnavailable, match='no-such-table') as no:
        store.get_item(ID)
    assert int(no.value.headers['Retry-After']) >= 1


# -- another id -----------------------------------------------------------


@pytest.mark.parametrize('exclusive', [True, False])
def test_session_moves_to_its_new_id(
    exclusive: bool, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    record = locked(store) if exclusive else store.get_item(ID)
    assert record is not None
    record.created -= 100
    store.change_session_id(ID, 'new', {'n': 2}, b'{"n":2}', record)
    assert items(store) is None
    assert 'Ended' in raw(raw_item)
    item = raw(raw_item, 'new')
    assert is_about(item['CreateDate'], -100)
    assert item['Version'] == {'N': '1'}
    assert 'LockId' not in item
    assert locked(store, 'new').items == {'n': 2}


@pytest.mark.parametrize('exclusive', [True, False])
def test_session_does_not_move_after_another_save(
    exclusive: bool,
    store: DynamoDBSessionStore,
    make_store: MakeStore,
    raw_item: RawItem,
) -> None:
    create(store)
    record = locked(store) if exclusive else store.get_item(ID)
    assert record is not None
    other = make_store(lock_lease=0.1)
    lock_id = locked(other).lock_id
    other.set_and_release_item_exclusive(ID, {'n': 3}, lock_id)
    before = raw(raw_item)
    with pytest.raises(SessionLockLost if exclusive else SessionConflict):
        store.change_session_id(ID, 'new', {'n': 2}, b'{"n":2}', record)
    assert raw(raw_item) == before
    assert raw_item('new') is None


@pytest.mark.parametrize('end', ['release', 'save', 'remove'])
def test_optimistic_move_waits_for_a_lock(
    end: str, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    record = store.get_item(ID)
    assert record is not None
    lock_id = locked(store).lock_id

    def move() -> None:
        store.change_session_id(ID, 'new', {'n': 2}, b'{"n":2}', record)

    with ThreadPoolExecutor() as threads:
        moved = threads.submit(move)
        time.sleep(0.2)
        assert not moved.done()
        if end == 'release':
            store.release_item_exclusive(ID, lock_id)
        elif end == 'save':
            store.set_and_release_item_exclusive(ID, {'n': 3}, lock_id)
        else:
            store.remove_item(ID, lock_id)
    error = moved.exception()
    assert isinstance(error, SessionConflict) == (end != 'release'), error
    assert items(store, 'new') == ({'n': 2} if end == 'release' else None)
    assert items(store) == ({'n': 3} if end == 'save' else None)


@pytest.mark.parametrize('exclusive', [True, False])
def test_session_that_has_grown_too_large_does_not_move(
    exclusive: bool, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    create(store)
    record = locked(store) if exclusive else store.get_item(ID)
    grown = {'n': TOO_LARGE}
    payload = json.dumps(grown).encode()
    with pytest.raises(SessionTooLarge):
        store.change_session_id(ID, 'new', grown, payload, record)
    assert raw_item('new') is None
    assert 'LockId' not in raw(raw_item)
    assert items(store) == {'n': 1}
