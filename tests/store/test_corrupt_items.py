"""Items that are not what the store writes."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionLockLost,
)
from tests.support.sessions import (
    ID,
    Plant,
    RawItem,
    raw,
)

PACKED = zlib.compress(b'{"n":1}')
BOMB = zlib.compress(bytes(64 * 1024 * 1024), 9)
CORRUPT = {
    'no version': {'Ver': None},
    'version of the future': {'Ver': {'N': '2'}},
    'version as text': {'Ver': {'S': '1'}},
    'no items': {'SessionItems': None},
    'no JSON': {'SessionItems': {'S': '{"n":'}},
    'a list': {'SessionItems': {'S': '[]'}},
    'null': {'SessionItems': {'S': 'null'}},
    'deeply nested': {'SessionItems': {'S': '{"n":' * 50_000}},
    'items as a number': {'SessionItems': {'N': '1'}},
    'items as a map': {'SessionItems': {'M': {'n': {'N': '1'}}}},
    'not compressed': {'SessionItems': {'B': b'{"n":1}'}},
    'truncated': {'SessionItems': {'B': PACKED[:-1]}},
    'trailed': {'SessionItems': {'B': PACKED + b'x'}},
    'not UTF-8': {'SessionItems': {'B': zlib.compress(b'"\xff"')}},
    'zlib bomb': {'SessionItems': {'B': BOMB}},
    'no creation': {'CreateDate': None},
    'creation as text': {'CreateDate': {'S': '1'}},
    'creation as a fraction': {'CreateDate': {'N': '1.5'}},
    'creation before time': {'CreateDate': {'N': '-1'}},
    'no expiry': {'Expires': None},
    'expiry as a fraction': {'Expires': {'N': '9999999999.5'}},
    'expiry beyond time': {'Expires': {'N': '1' * 38}},
    'lock count as a fraction': {'LockCount': {'N': '1.5'}},
    'lock count below zero': {'LockCount': {'N': '-5'}},
    'lock count beyond counting': {'LockCount': {'N': '1' * 38}},
    'version of the data as text': {'Version': {'S': '1'}},
    'version of the data below zero': {'Version': {'N': '-1'}},
    'take-overs as a number': {'TakenOver': {'N': '1'}},
    'take-overs that are no counts': {'TakenOver': {'S': '2 x'}},
    'receipts as a number': {'SavedBy': {'N': '1'}},
    'owner as a number': {'Owner': {'N': '1'}},
    'end as text': {'Ended': {'S': '1'}},
    'timeout as text': {'SessionTimeout': {'S': '1'}},
    'timeout below zero': {'SessionTimeout': {'N': '-1'}},
}
BAD_LOCKS = {
    'lock as a number': {'LockId': {'N': '1'}, 'LockDate': {'N': '1'}},
    'lock without a date': {'LockId': {'S': 'x'}},
    'lock with a date as text': {
        'LockId': {'S': 'x'},
        'LockDate': {'S': 'x'},
    },
}


MISTYPED = {
    'expiry as text': {'Expires': {'S': '9999999999'}},
    'lock count as text': {'LockCount': {'S': '1'}},
}
TYPED_ENGINES = pytest.mark.engines(
    'dynamodb-local', 'dynoxide', reason='moto fails on operand types'
)


@pytest.mark.parametrize(
    'changes',
    [
        *(pytest.param(value, id=key) for key, value in CORRUPT.items()),
        *(
            pytest.param(value, id=key, marks=TYPED_ENGINES)
            for key, value in MISTYPED.items()
        ),
    ],
)
def test_corrupt_item_is_no_session_and_stays_unlocked(
    changes: dict[str, Any],
    other: DynamoDBSessionStore,
    plant: Plant,
    raw_item: RawItem,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plant(**changes)
    (attribute,) = changes
    for read in (other.get_item, other.get_item_exclusive):
        caplog.clear()
        assert read(ID) is None
        assert f'corrupt and counts as none: {attribute}' in caplog.text
        assert 'LockId' not in raw(raw_item)
        assert ID not in caplog.text


@pytest.mark.parametrize('changes', BAD_LOCKS.values(), ids=BAD_LOCKS.keys())
def test_corrupt_lock_is_no_session(
    changes: dict[str, Any],
    other: DynamoDBSessionStore,
    plant: Plant,
    raw_item: RawItem,
    caplog: pytest.LogCaptureFixture,
) -> None:
    item = plant(**changes)
    assert other.get_item_exclusive(ID) is None
    assert 'corrupt and counts as none: LockId' in caplog.text
    assert raw(raw_item) == item


def test_corrupt_take_over_count_is_a_lost_lock(
    store: DynamoDBSessionStore, plant: Plant, raw_item: RawItem
) -> None:
    item = plant(TakenOver={'S': 'x'}, LockCount={'N': '5'})
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 2}, '3.token')
    assert raw(raw_item) == item
