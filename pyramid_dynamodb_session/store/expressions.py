"""What is asked of DynamoDB's items, as expressions; no call is made here."""

from __future__ import annotations

import functools
from typing import Any

from ..dynamodb.calls import Item
from .item import (
    VERSION,
    LockId,
    SessionRecord,
    item_size,
    number,
)

ALIVE = 'Expires > :now'
FREE = f'{ALIVE} AND attribute_not_exists(LockId)'
HELD_AS_OBSERVED = f'{ALIVE} AND LockId = :dead AND LockDate = :since'
LOCK_ID_HELD = 'LockId = :me'
LOCK_HELD = f'{LOCK_ID_HELD} AND LockCount = :count'
LOCK = ' REMOVE Flags ADD LockCount :one'
TAKE_OVER = f', TakenOver = if_not_exists(LockCount, :zero){LOCK}'
UNLOCK = ' REMOVE LockId, LockDate'
SAVE_OPTIMISTIC = ' ADD LockCount :one'
ABSENT = 'attribute_not_exists(#key)'
#: What a locked item has besides its key and data, each at its longest: it
#: must fit as well, or a session could be saved and never locked again.
LOCKED: Item = {
    'CreateDate': {'N': '1' * 10},
    'LockId': {'S': 'x' * 22},
    'LockDate': {'N': '1' * 10},
    'LockCount': {'N': '1' * 8},
    'Ver': VERSION,
}


def update(
    attributes: Item,
    condition: str,
    values: Item,
    more: str = '',
    ttl_attribute: str = '',
) -> dict[str, Any]:
    """The ``UpdateItem`` that sets `attributes` under a `condition`.

    :param values: those that the condition, and `more`, speak of.
    :param more: what is done besides.
    :param ttl_attribute: the one whose name may be no word of expressions.
    """
    assignments, names = assigned(tuple(attributes), ttl_attribute)
    assigned_values = zip(names, attributes.values(), strict=True)
    parameters = {
        'UpdateExpression': f'SET {assignments}{more}',
        'ConditionExpression': condition,
        'ExpressionAttributeValues': values | dict(assigned_values),
        'ReturnValuesOnConditionCheckFailure': 'ALL_OLD',
    }
    if ':ttl' in names:
        parameters['ExpressionAttributeNames'] = {'#ttl': ttl_attribute}
    return parameters


@functools.lru_cache
def assigned(
    attributes: tuple[str, ...], ttl_attribute: str
) -> tuple[str, tuple[str, ...]]:
    """The assignments of `attributes`, and what their values are called."""
    pairs = [
        ('#ttl', ':ttl')
        if attribute == ttl_attribute != 'Expires'
        else (attribute, f':{attribute}')
        for attribute in attributes
    ]
    return ', '.join(map(' = '.join, pairs)), tuple(pair[1] for pair in pairs)


@functools.lru_cache
def overhead(key_name: str, key_bytes: int, written: tuple[str, ...]) -> int:
    """Bytes of a locked item besides the value of ``SessionItems``.

    `written` are the names of the numbers that are saved along with it.
    """
    numbers: Item = {name: {'N': '1' * 12} for name in written}
    key: Item = {key_name: {'S': 'x' * key_bytes}}
    return item_size({**LOCKED, **key, **numbers}) + len('SessionItems')


def lock_condition(lock_id: str) -> tuple[str, Item]:
    """The condition that we hold a lock, and its values.

    Of text that is no ``lock_id``, a lock that nobody holds. The count counts
    as well: a lock call that comes through late, when its retry has long
    been answered, brings back our token but never our count.
    """
    lock = LockId.parse(lock_id) or LockId('nobody', 0)
    values: Item = {':me': {'S': lock.token}}
    if not lock.count:
        # none that makes sense was stored
        return LOCK_ID_HELD, values
    values[':count'] = number(lock.count)
    return LOCK_HELD, values


def unchanged(record: SessionRecord) -> str:
    """The condition that nobody locked or saved since `record` was read."""
    same = 'LockCount = :count'
    if record.lock_count == 0:
        # a removed one is not unchanged
        never = 'attribute_exists(Ver) AND attribute_not_exists(LockCount)'
        same = f'({never} OR {same})'
    return f'attribute_not_exists(LockId) AND {same}'
