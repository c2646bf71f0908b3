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


# -- operators: the permissions tried, unlock, delete, purge ----------------

#: A condition that no item fulfils: nothing is written, but IAM is asked.
IMPOSSIBLE = 'attribute_exists(#key) AND attribute_not_exists(#key)'
#: Removes nothing anybody needs, should it ever be carried out.
HARMLESS_UPDATE = 'REMOVE Flags'
OF_APPLICATION = 'begins_with(#key, :application)'
#: Expired, and its lock, if it has one, is not alive: an expired session
#: whose holder still renews the lock counts as living.
EXPIRED = (
    'Expires <= :now AND '
    'NOT (attribute_exists(LockId) AND LockDate > :lease_end)'
)
#: How many robbed holders ``TakenOver`` lists.
TAKE_OVERS_LISTED = 8
#: Seconds after which a session that was deleted is gone from the table.
TOMBSTONE_SECONDS = 60


def unlock(item: Item) -> dict[str, Any]:
    """The ``UpdateItem`` that takes the lock from the holder in an `item`.

    The holder's ``LockCount`` joins ``TakenOver``, so that its save is
    refused for certain. Neither can change while that lock is held, and the
    condition is that it is.
    """
    values = {
        ':lock_id': item['LockId'],
        ':taken_over': {'S': taken_over_with_holder(item)},
    }
    same_date = 'attribute_not_exists(LockDate)'
    if 'LockDate' in item:
        values[':lock_date'] = item['LockDate']
        same_date = 'LockDate = :lock_date'
    return {
        'UpdateExpression': (
            'SET TakenOver = :taken_over REMOVE LockId, LockDate'
        ),
        'ConditionExpression': f'LockId = :lock_id AND {same_date}',
        'ExpressionAttributeValues': values,
    }


def taken_over_with_holder(item: Item) -> str:
    """``TakenOver`` as it is when the holder of the lock was robbed too."""
    count = str(item.get('LockCount', {}).get('N', 0))
    earlier = str(item.get('TakenOver', {}).get('S', '')).split()
    return ' '.join([count, *earlier][:TAKE_OVERS_LISTED])


def end_session(
    key_name: str, now: float, ttl_attribute: str, ttl_grace: int
) -> dict[str, Any]:
    """The ``UpdateItem`` that turns a session into a tombstone.

    A lock stays where it is: its holder then learns for certain that nothing
    of its request was saved.
    """
    expires = now + TOMBSTONE_SECONDS
    assignments = ['Ended = :now', 'Expires = :expires']
    # a word that DynamoDB reserves
    names = {'#key': key_name, '#owner': 'Owner'}
    values: Item = {':now': number(now), ':expires': number(expires)}
    if ttl_attribute not in ('', 'Expires'):
        assignments.append('#ttl = :ttl')
        names['#ttl'] = ttl_attribute
        values[':ttl'] = number(expires + ttl_grace)
    return {
        'UpdateExpression': (
            f'SET {", ".join(assignments)} '
            'REMOVE SessionItems, SessionTimeout, #owner, Flags'
        ),
        'ConditionExpression': (
            'attribute_exists(#key) AND attribute_not_exists(Ended)'
        ),
        'ExpressionAttributeNames': names,
        'ExpressionAttributeValues': values,
    }


def expired(now: float, dead_after: float) -> tuple[str, Item]:
    """The condition :data:`EXPIRED`, and its values.

    :param dead_after: seconds after which a lock that was not renewed is
        not alive any more.
    """
    lease_end = number(now - dead_after)
    return EXPIRED, {':now': number(now), ':lease_end': lease_end}
