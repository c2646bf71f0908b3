"""Every expression that is sent to DynamoDB; no call is made here."""

from __future__ import annotations

import functools
from typing import Any

from ..dynamodb.calls import Item
from .item import (
    FORMAT,
    TAKE_OVERS,
    LockId,
    SessionRecord,
    item_size,
    number,
    remembered,
)

ABSENT = 'attribute_not_exists(#key)'
PRESENT = 'attribute_exists(#key)'
NOT_ENDED = 'attribute_not_exists(Ended)'
UNEXPIRED = 'Expires > :now'
LIVING = f'{UNEXPIRED} AND {NOT_ENDED}'
UNLOCKED = 'attribute_not_exists(LockId)'
FREE = f'{LIVING} AND {UNLOCKED}'
HELD_AS_OBSERVED = f'{LIVING} AND LockId = :holder AND LockDate = :since'
LOCK_ID_HELD = f'LockId = :me AND {NOT_ENDED}'
LOCK_HELD = f'{LOCK_ID_HELD} AND LockCount = :count'

OWNED = f'#Owner = :owner AND {NOT_ENDED}'

LOCK = ('LockId', 'LockDate')
#: What a session that has ended has no more.
DATA = ('SessionItems', 'SessionTimeout', 'Owner', 'Flags')
#: Attributes whose names are words of DynamoDB's expressions.
RESERVED_WORDS = {'Owner'}
ONE: Item = {':one': {'N': '1'}}
#: What tells who holds a lock, and whether there is a session at all.
HOLDER = '#key, LockId, LockDate, LockCount, TakenOver, Ended'

#: What a locked item has besides its key and data, each at its longest: it
#: must fit as well, or a session could be saved and never locked again.
LOCKED: Item = {
    'CreateDate': {'N': '1' * 10},
    'LockId': {'S': 'x' * 22},
    'LockDate': {'N': '1' * 10},
    'LockCount': {'N': '1' * 8},
    'Ver': FORMAT,
    'Version': {'N': '1' * 8},
}


def update(
    attributes: Item,
    condition: str,
    values: Item,
    *,
    remove: tuple[str, ...] = (),
    add: tuple[str, ...] = (),
    ttl_attribute: str = '',
) -> dict[str, Any]:
    """The ``UpdateItem`` that sets `attributes` under a `condition`.

    :param values: those that the condition speaks of.
    :param remove: attributes to remove.
    :param add: attributes to add 1 to.
    :param ttl_attribute: the one whose name may be no word of expressions.
    """
    expression, value_names, names = update_expression(
        tuple(attributes), remove, add, ttl_attribute
    )
    values = values | dict(zip(value_names, attributes.values(), strict=True))
    if add:
        values |= ONE
    parameters = {
        'UpdateExpression': expression,
        'ConditionExpression': condition,
        'ExpressionAttributeValues': values,
        'ReturnValuesOnConditionCheckFailure': 'ALL_OLD',
    }
    if names:
        parameters['ExpressionAttributeNames'] = names
    return parameters


@functools.lru_cache
def update_expression(
    attributes: tuple[str, ...],
    remove: tuple[str, ...],
    add: tuple[str, ...],
    ttl_attribute: str,
) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The expression, what its values are called, and its ``#`` names."""
    names: dict[str, str] = {}

    def name(attribute: str) -> str:
        if attribute == ttl_attribute != 'Expires':
            placeholder = '#ttl'
        elif attribute in RESERVED_WORDS:
            placeholder = f'#{attribute}'
        else:
            return attribute
        names[placeholder] = attribute
        return placeholder

    set_names = [name(attribute) for attribute in attributes]
    values = tuple(f':{name.lstrip("#")}' for name in set_names)
    clauses = []
    if attributes:
        pairs = zip(set_names, values, strict=True)
        clauses.append(f'SET {", ".join(map(" = ".join, pairs))}')
    if remove:
        clauses.append(f'REMOVE {", ".join(map(name, remove))}')
    if add:
        clauses.append(f'ADD {", ".join(f"{name} :one" for name in add)}')
    return ' '.join(clauses), values, names


@functools.lru_cache
def overhead(key_name: str, key_bytes: int, written: tuple[str, ...]) -> int:
    """Bytes of a locked item besides the value of ``SessionItems``.

    `written` are the names of the numbers that are saved along with it.
    """
    numbers: Item = {name: {'N': '1' * 12} for name in written}
    key: Item = {key_name: {'S': 'x' * key_bytes}}
    return item_size({**LOCKED, **key, **numbers}) + len('SessionItems')


def lock_held(lock: LockId) -> tuple[str, Item]:
    """The condition that a lock is held and the session has not ended.

    The count is part of the condition: a late duplicate of the call that has
    taken the lock brings back its token, but never its count.
    """
    values: Item = {':me': {'S': lock.token}}
    if not lock.count:
        # none that makes sense was stored
        return LOCK_ID_HELD, values
    values[':count'] = number(lock.count)
    return LOCK_HELD, values


def version_unchanged(version: int) -> tuple[str, Item]:
    """The condition that nobody has saved since a `version` was read."""
    if version == 0:
        return 'attribute_not_exists(Version)', {}
    return 'Version = :version', {':version': number(version)}


def unchanged(record: SessionRecord, now: float) -> tuple[str, Item]:
    """The condition that nobody has locked, saved or ended a session."""
    condition, values = version_unchanged(record.version)
    return f'{condition} AND {FREE}', {':now': number(now), **values}


def timeout_unchanged(record: SessionRecord, now: float) -> tuple[str, Item]:
    """The condition that a session lives, with the timeout of `record`."""
    values: Item = {':now': number(now)}
    if record.timeout is None:
        return f'{LIVING} AND attribute_not_exists(SessionTimeout)', values
    values[':timeout'] = number(record.timeout)
    return f'{LIVING} AND SessionTimeout = :timeout', values


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


def unlock(item: Item) -> dict[str, Any]:
    """The ``UpdateItem`` that takes the lock from the holder in an `item`.

    The holder's ``LockCount`` joins ``TakenOver``, so that its save is
    refused for certain. Neither can change while that lock is held, and the
    condition is that it is.
    """
    count = str(item.get('LockCount', {}).get('N', 0))
    earlier = str(item.get('TakenOver', {}).get('S', '')).split()
    values = {':lock_id': item['LockId']}
    same_date = 'attribute_not_exists(LockDate)'
    if 'LockDate' in item:
        values[':lock_date'] = item['LockDate']
        same_date = 'LockDate = :lock_date'
    return update(
        {'TakenOver': remembered(count, earlier, TAKE_OVERS)},
        f'LockId = :lock_id AND {same_date}',
        values,
        remove=LOCK,
    )


def end_session(
    now: float, expiry: Item, key_name: str, ttl_attribute: str
) -> dict[str, Any]:
    """The ``UpdateItem`` that ends a session, whoever holds its lock.

    The lock stays where it is: its holder then learns for certain that
    nothing of its request was saved.

    :param expiry: the attributes by which the tombstone expires.
    """
    parameters = update(
        {'Ended': number(now), **expiry},
        f'{PRESENT} AND {NOT_ENDED}',
        {},
        remove=DATA,
        ttl_attribute=ttl_attribute,
    )
    names = {**parameters['ExpressionAttributeNames'], '#key': key_name}
    return {**parameters, 'ExpressionAttributeNames': names}


def sessions_of(owner_index: str, owner: str) -> dict[str, Any]:
    """The ``Query`` for the sessions of an `owner`, hashed as it is stored."""
    return {
        'IndexName': owner_index,
        'KeyConditionExpression': '#owner = :owner',
        'ExpressionAttributeNames': {'#owner': 'Owner'},
        'ExpressionAttributeValues': {':owner': {'S': owner}},
    }


def expired(now: float, dead_after: float) -> tuple[str, Item]:
    """The condition :data:`EXPIRED`, and its values.

    :param dead_after: seconds after which a lock that was not renewed is
        not alive any more.
    """
    lease_end = number(now - dead_after)
    return EXPIRED, {':now': number(now), ':lease_end': lease_end}
