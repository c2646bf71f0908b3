"""Sizes, compression and the way of data into an item and back."""

from __future__ import annotations

import itertools
import pickle
import random
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyramid.session import PickleSerializer

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionSerializationError,
    SessionTooLarge,
)
from pyramid_dynamodb_session.serializer import JSONSerializer
from pyramid_dynamodb_session.store.item import (
    FASTEST,
    PAYLOAD_LIMIT,
    CorruptItem,
    ItemCodec,
    LockId,
    attribute_size,
    compress,
    expand,
    hash_key,
    item_size,
    smallest,
    write_units,
)

EXACT = pytest.mark.engines(
    'dynoxide', reason='the others do not report the exact capacity'
)
OVERHEAD = 200

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=())),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=15,
)
SESSIONS = st.dictionaries(st.text(st.characters(exclude_categories=())), JSON)


def item(attribute: dict[str, Any], **others: Any) -> dict[str, Any]:
    numbers = {
        'CreateDate': {'N': '1712345678'},
        'Expires': {'N': '1712346878'},
        'Ver': {'N': '1'},
    }
    return {**numbers, 'SessionItems': attribute, **others}


def there_and_back(
    codec: ItemCodec, items: Any, overhead: int = OVERHEAD
) -> Any:
    payload = codec.dumps(items)
    attribute = codec.attribute(payload, items, 'name', overhead)
    record = codec.record(item(attribute), 'name')
    assert record.payload == payload
    return record.items


# -- there and back -------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(SESSIONS)
@example({'\ud800': '\udfff'})
@example({'n': 10**400, 'e': 5e-324, '': ''})
def test_json_comes_back_as_it_was(items: dict[str, Any]) -> None:
    assert there_and_back(ItemCodec(JSONSerializer()), items) == items


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), st.binary() | st.tuples(st.integers())))
def test_pickle_comes_back_as_it_was(items: dict[str, Any]) -> None:
    assert there_and_back(ItemCodec(pickle), items) == items
    assert there_and_back(ItemCodec(PickleSerializer()), items) == items


@settings(max_examples=40, deadline=None)
@given(SESSIONS, st.binary(min_size=32, max_size=32))
def test_what_is_encrypted_comes_back_as_it_was(
    items: dict[str, Any], key: bytes
) -> None:
    codec = ItemCodec(JSONSerializer(), [key])
    assert there_and_back(codec, items) == items
    attribute = codec.attribute(codec.dumps(items), items, 'name', OVERHEAD)
    for stranger, name in (
        (codec, 'another name'),
        (ItemCodec(JSONSerializer(), [bytes(31) + b'x']), 'name'),
        (ItemCodec(JSONSerializer()), 'name'),
    ):
        with pytest.raises(CorruptItem):
            stranger.record(item(attribute), name)
    with pytest.raises(CorruptItem):
        codec.record(item({'S': '{}'}), 'name')


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=4096), st.binary(max_size=2))
def test_whatever_is_stored_is_a_session_or_corrupt(
    junk: bytes, flip: bytes
) -> None:
    codec = ItemCodec(JSONSerializer())
    packed = bytearray(zlib.compress(b'{"n":1}'))
    packed[len(junk) % len(packed)] ^= len(flip)
    for attribute in (
        {'B': junk},
        {'B': bytes(packed)},
        {'B': zlib.compress(junk)},
        {'S': junk.decode('latin-1')},
    ):
        try:
            record = codec.record(item(attribute), 'name')
        except CorruptItem:
            continue
        assert isinstance(record.items, dict)


def test_binary_serializers_are_stored_compressed() -> None:
    payload = pickle.dumps({'n': list(range(100))})
    assert expand(smallest(payload, OVERHEAD)['B']) == payload


def test_serializer_that_says_nothing_is_stored_all_the_same() -> None:
    class Silent:
        def dumps(self, obj: Any) -> bytes:
            return b''

        def loads(self, data: bytes) -> Any:
            return {'said': data}

    assert there_and_back(ItemCodec(Silent()), {}) == {'said': b''}


def test_json_may_be_edited_by_hand_but_not_be_followed_by_more() -> None:
    serializer = JSONSerializer()
    assert serializer.loads(b' {"n": 1}\n') == {'n': 1}
    for data in (b'', b' ', b'{"n":1}{}', b'{"n":1},', b'{"n":1'):
        with pytest.raises(ValueError):
            serializer.loads(data)


# -- what can't be stored -------------------------------------------------


@pytest.mark.parametrize(
    'value', [object(), {1j, 2}, 1j, {(1, 2): 3}], ids=repr
)
def test_key_that_can_not_be_serialized_is_named(value: Any) -> None:
    codec = ItemCodec(JSONSerializer())
    with pytest.raises(SessionSerializationError, match='culprit') as error:
        codec.dumps({'good': 1, 'culprit': value, 'fine': 2})
    assert error.value.key == 'culprit'
    assert repr(value) not in str(error.value)


def test_value_that_contains_itself_is_named() -> None:
    endless: dict[str, Any] = {}
    endless['endless'] = endless
    with pytest.raises(SessionSerializationError) as error:
        ItemCodec(JSONSerializer()).dumps({'culprit': endless})
    assert error.value.key == 'culprit'


def test_value_that_is_nested_too_deeply_is_named() -> None:
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(SessionSerializationError) as error:
        ItemCodec(JSONSerializer()).dumps({'culprit': deep})
    assert error.value.key == 'culprit'


def test_error_names_no_key_where_no_single_one_fails() -> None:
    class Stubborn:
        def dumps(self, items: dict[str, Any]) -> bytes:
            if len(items) > 1:
                raise ValueError('one at a time')
            return b'{}'

    with pytest.raises(SessionSerializationError) as error:
        ItemCodec(Stubborn()).dumps({'a': 1, 'b': 2})
    assert error.value.key is None


def test_what_could_not_be_expanded_again_is_too_large() -> None:
    codec = ItemCodec(JSONSerializer())
    fits = {'n': 'x' * (PAYLOAD_LIMIT - len('{"n":""}'))}
    assert there_and_back(codec, fits) == fits
    fits['n'] += 'x'
    with pytest.raises(SessionTooLarge, match='n '):
        there_and_back(codec, fits)


def test_zlib_bomb_is_refused_in_little_memory() -> None:
    stream = zlib.compressobj(9)
    megabyte = bytes(1024 * 1024)
    parts = [stream.compress(megabyte) for _ in range(100)]
    bomb = b''.join([*parts, stream.flush()])
    assert len(bomb) < 400 * 1024
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match='too large'):
            expand(bomb)
        assert tracemalloc.get_traced_memory()[1] < 5 * PAYLOAD_LIMIT
    finally:
        tracemalloc.stop()


# -- sizes and compression ------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.characters(exclude_categories=['Cs']), max_size=50),
    st.integers(0, 4000),
    st.integers(60, 1200),
)
def test_compressed_exactly_when_it_saves_a_write_unit(
    text: str, length: int, overhead: int
) -> None:
    payload = (text * length)[:length].encode()
    packed = compress(payload, FASTEST)
    saves = write_units(overhead + len(packed)) < write_units(
        overhead + len(payload)
    )
    attribute = smallest(payload, overhead)
    assert set(attribute) == {'B' if saves or not payload else 'S'}
    if not saves and payload:
        assert attribute == {'S': payload.decode()}


def test_size_of_an_item() -> None:
    assert item_size({'n': {'S': 'ü'}}) == 3
    assert item_size({'ü': {'B': b'ab'}}) == 4
    assert item_size({'n': {'N': '1700000000'}}) == 7
    assert item_size({'n': {'N': '1'}}) == 3
    assert attribute_size({'S': ''}) == 0


@EXACT
@pytest.mark.parametrize('units', [1, 2, 5, 400])
@pytest.mark.parametrize('kind', ['S', 'B'])
def test_size_is_what_dynamodb_bills(
    kind: str, units: int, client: Any, table: str, application: str
) -> None:
    def billed(filling: int) -> float:
        value: Any = 'x' * filling if kind == 'S' else b'x' * filling
        stored = item({kind: value}, SessionId={'S': application})
        assert item_size(stored) == empty + filling
        answer = client.put_item(
            TableName=table, Item=stored, ReturnConsumedCapacity='TOTAL'
        )
        total: float = answer['ConsumedCapacity']['CapacityUnits']
        return total

    empty = item_size(item({'S': ''}, SessionId={'S': application}))
    assert billed(units * 1024 - empty) == units
    if units < 400:
        assert billed(units * 1024 - empty + 1) == units + 1


@EXACT
def test_request_is_billed_no_more_than_it_must(
    client: Any, table: str, application: str
) -> None:
    """Whatever the size: locking and saving cost the units of the smaller."""
    store = DynamoDBSessionStore(client, table=table, application=application)
    word = random.Random(1)
    for size in itertools.chain(range(600, 4000, 150), (20_000, 60_000)):
        items = {'n': ''.join(word.choices('abcd', k=size))}
        session_id = f'{size}'
        store.set_and_release_item_exclusive(session_id, items, None, True)
        record = store.get_item_exclusive(session_id)
        assert record is not None and record.lock_id
        name = store._name(session_id)
        key = {'SessionId': {'S': name}}
        stored = client.get_item(TableName=table, Key=key)['Item']
        payload = store.dumps(items)
        rest = item_size(stored) - attribute_size(stored['SessionItems'])
        packed = len(compress(payload, FASTEST))
        best = write_units(rest + min(packed, len(payload)))
        billed = client.update_item(
            TableName=table,
            Key=key,
            UpdateExpression='REMOVE LockId, LockDate',
            ReturnConsumedCapacity='TOTAL',
        )['ConsumedCapacity']['CapacityUnits']
        assert billed == best, size


# -- keys and locks -------------------------------------------------------


def test_key_of_a_session() -> None:
    assert hash_key('an-id', None) == hash_key('an-id', '')
    assert len(hash_key('an-id', None)) == 43
    assert hash_key('an-id', 'a-b') == 'a-b-' + hash_key('an-id', None)
    assert hash_key('b-c', 'a') != hash_key('c', 'a-b')


def test_lock_id_is_read_as_it_was_written() -> None:
    assert LockId.parse(str(LockId('to.ken', 12))) == LockId('to.ken', 12)


@pytest.mark.parametrize(
    'lock_id', [None, '', 'x', '.x', '1.', '-1.x', '1', '٣.x', '1' * 39 + '.x']
)
def test_other_strings_are_no_lock(lock_id: object) -> None:
    assert LockId.parse(lock_id) == LockId('nobody', 0)
