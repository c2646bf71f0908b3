"""One DynamoDB table in memory, which answers as AWS's does.

Pure Python, without clock, thread or chance of its own; faults and reads of
old versions are its caller's.
"""

from __future__ import annotations

import bisect
import functools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation.attribute_values import (
    Invalid,
    Item,
    Value,
    canonical,
    copied,
    item_size,
    kind_of,
)
from tests.simulation.expressions import (
    Check,
    Condition,
    Projection,
    Update,
    Uses,
    Values,
    parse_condition,
    parse_projection,
    parse_update,
)

#: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
ITEM_LIMIT = 400 * 1024
KEY_LIMIT = 2048
PAGE_LIMIT = 1024 * 1024
TRANSACTION_LIMIT = 100
#: Seconds for which a ``ClientRequestToken`` is remembered.
TOKEN_SECONDS = 600

EXPRESSIONS = {'ExpressionAttributeNames', 'ExpressionAttributeValues'}
ON_ITEM = {'TableName', 'Key', 'ReturnConsumedCapacity', *EXPRESSIONS}
CONDITIONAL = {
    'ConditionExpression',
    'ReturnValues',
    'ReturnValuesOnConditionCheckFailure',
}
READ = {'ConsistentRead', 'ProjectionExpression'}
PAGED = {
    'TableName',
    'FilterExpression',
    'Limit',
    'ExclusiveStartKey',
    'IndexName',
    'Select',
    'ReturnConsumedCapacity',
    *READ,
    *EXPRESSIONS,
}
#: What each operation understands; anything else is a mistake of the caller.
PARAMETERS = {
    'get_item': ON_ITEM | READ,
    'put_item': (ON_ITEM | CONDITIONAL | {'Item'}) - {'Key'},
    'update_item': ON_ITEM | CONDITIONAL | {'UpdateExpression'},
    'delete_item': ON_ITEM | CONDITIONAL,
    'transact_write_items': {
        'TransactItems',
        'ClientRequestToken',
        'ReturnConsumedCapacity',
    },
    'query': PAGED | {'KeyConditionExpression', 'ScanIndexForward'},
    'scan': PAGED | {'Segment', 'TotalSegments'},
    'describe_table': {'TableName'},
    'describe_time_to_live': {'TableName'},
}
RETURN_VALUES = {
    'put_item': ('NONE', 'ALL_OLD'),
    'delete_item': ('NONE', 'ALL_OLD'),
    'update_item': (
        'NONE',
        'ALL_OLD',
        'ALL_NEW',
        'UPDATED_OLD',
        'UPDATED_NEW',
    ),
}


class Refused(Exception):
    """An error that DynamoDB answers with, as boto3's ``ClientError`` tells.

    ``item`` is what stood there when a condition failed, if asked for;
    ``reasons`` are those of a cancelled transaction, one for each write.
    """

    def __init__(
        self,
        code: str,
        message: str,
        item: Item | None = None,
        reasons: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(f'{code}: {message}')
        self.code = code
        self.message = message
        self.item = item
        self.reasons = reasons


@dataclass(frozen=True)
class Index:
    """A global secondary index: its name, its hash key, what it projects."""

    name: str = 'Owner-index'
    key: str = 'Owner'
    included: tuple[str, ...] = ('CreateDate', 'Expires')


class SimulatedTable:
    """A table with one string hash key.

    :param index: a global secondary index, always up to date.
    :param idempotent: whether a ``ClientRequestToken`` that has been
        carried out is not carried out again; moto does not care.
    :param clock: seconds; without it no token is ever forgotten.

    ``items`` are the items by their key. They are never changed, only
    replaced by others: whoever has one may keep it. ``written``, if set, is
    called with the key, the item before and the item after each write that
    was carried out, None being no item.
    """

    def __init__(
        self,
        key_name: str = 'SessionId',
        index: Index | None = None,
        *,
        idempotent: bool = True,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.key_name = key_name
        self.index = index
        self.idempotent = idempotent
        self.items: dict[str, Item] = {}
        self.written: (
            Callable[[str, Item | None, Item | None], None] | None
        ) = None
        self._clock = clock or (lambda: 0)
        self._tokens: dict[str, tuple[float, Any]] = {}
        self._indexed: dict[str, set[str]] = {}

    def call(
        self, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        """The reply to a call of a boto3 client. Raises :class:`Refused`."""
        unknown = parameters.keys() - PARAMETERS[operation]
        if unknown:
            raise NotImplementedError(f'{operation}: {sorted(unknown)}')
        try:
            reply: dict[str, Any] = getattr(self, operation)(parameters)
        except Invalid as error:
            raise Refused('ValidationException', str(error)) from error
        return reply

    # -- reading ---------------------------------------------------------

    def get_item(self, parameters: dict[str, Any]) -> dict[str, Any]:
        key = checked_key(self.key_name, parameters['Key'])
        return self.get_item_reply(self.items.get(key), parameters)

    def get_item_reply(
        self, stored: Item | None, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        """The reply to a `get_item` that finds this version of the item."""
        plan = planned(self.key_name, parameters)
        reply: dict[str, Any] = {}
        if stored is not None:
            reply['Item'] = projected(stored, plan.projection)
        if wants_capacity(parameters):
            size = 0 if stored is None else item_size(stored)
            reply['ConsumedCapacity'] = capacity(
                parameters, read_units(size, parameters)
            )
        return reply

    def query(self, parameters: dict[str, Any]) -> dict[str, Any]:
        plan = planned(self.key_name, parameters)
        values = plan.checked_values(parameters)
        index = self._index(parameters)
        if index is not None and parameters.get('ConsistentRead'):
            raise Invalid(
                'Consistent reads are not supported on global secondary '
                'indexes'
            )
        if plan.key_condition is None or plan.key_condition.equality is None:
            raise Invalid('Query condition missed key schema element')
        name, value = plan.key_condition.equality
        if name != (index.key if index else self.key_name):
            raise Invalid(f'Query condition missed key schema element: {name}')
        if 'S' not in values[value]:
            raise Invalid(
                'One or more parameter values were invalid: Condition '
                'parameter type does not match schema type'
            )
        wanted = values[value]['S']
        if index is not None:
            keys = sorted(self._indexed.get(wanted, ()))
        else:
            keys = [wanted] if wanted in self.items else []
        return self._page(keys, parameters, plan, values, index)

    def scan(self, parameters: dict[str, Any]) -> dict[str, Any]:
        plan = planned(self.key_name, parameters)
        values = plan.checked_values(parameters)
        index = self._index(parameters)
        total = parameters.get('TotalSegments')
        keys = sorted(self.items)
        if total is not None:
            segment = parameters['Segment']
            keys = [
                key
                for key in keys
                if zlib.crc32(key.encode()) % total == segment
            ]
        if index is not None:
            keys = [key for key in keys if index.key in self.items[key]]
        return self._page(keys, parameters, plan, values, index)

    def _index(self, parameters: dict[str, Any]) -> Index | None:
        name = parameters.get('IndexName')
        if name is None:
            return None
        if self.index is None or self.index.name != name:
            raise Invalid(
                'The table does not have the specified index: ' + name
            )
        return self.index

    def _page(
        self,
        keys: list[str],
        parameters: dict[str, Any],
        plan: Plan,
        values: Values,
        index: Index | None,
    ) -> dict[str, Any]:
        """What stands at sorted `keys`, as far as one reply goes."""
        limit = parameters.get('Limit')
        if limit is not None and limit < 1:
            raise Invalid(
                "1 validation error detected: Value at 'limit' failed to "
                'satisfy constraint'
            )
        start = parameters.get('ExclusiveStartKey')
        if start is not None:
            after = start[self.key_name]['S']
            keys = keys[bisect.bisect_right(keys, after) :]
        found: list[Item] = []
        count = scanned = size = 0
        last: Item | None = None
        for key in keys:
            item = self.items[key]
            seen = self._projected_by_index(item) if index else item
            scanned += 1
            size += item_size(seen)
            if plan.holds(seen, values):
                count += 1
                found.append(projected(seen, plan.projection))
            if scanned == limit or size >= PAGE_LIMIT:
                last = self._page_key(item, index)
                break
        reply: dict[str, Any] = {'Count': count, 'ScannedCount': scanned}
        if parameters.get('Select') != 'COUNT':
            reply['Items'] = found
        if last is not None:
            reply['LastEvaluatedKey'] = last
        if wants_capacity(parameters):
            reply['ConsumedCapacity'] = capacity(
                parameters, read_units(size, parameters)
            )
        return reply

    def _page_key(self, item: Item, index: Index | None) -> Item:
        names = [self.key_name] + ([index.key] if index else [])
        return copied({name: item[name] for name in names})

    def _projected_by_index(self, item: Item) -> Item:
        assert self.index is not None
        names = (self.key_name, self.index.key, *self.index.included)
        return {name: item[name] for name in names if name in item}

    # -- writing ---------------------------------------------------------

    def put_item(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return self._write_one('put_item', parameters)

    def update_item(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return self._write_one('update_item', parameters)

    def delete_item(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return self._write_one('delete_item', parameters)

    def _write_one(
        self, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        returned = parameters.get('ReturnValues', 'NONE')
        if returned not in RETURN_VALUES[operation]:
            raise Invalid('Return values set to invalid value')
        write = WRITES[operation](self, parameters)
        old = self.items.get(write.key)
        new = write.outcome(old)
        self._store(write.key, old, new)
        reply: dict[str, Any] = {}
        if returned != 'NONE':
            attributes = returned_attributes(returned, old, new, write.plan)
            if attributes:
                reply['Attributes'] = copied(attributes)
        if wants_capacity(parameters):
            reply['ConsumedCapacity'] = capacity(
                parameters, self._write_units(old, new)
            )
        return reply

    def transact_write_items(
        self, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        actions = parameters['TransactItems']
        if not 0 < len(actions) <= TRANSACTION_LIMIT:
            raise Invalid(
                "1 validation error detected: Value at 'transactItems' "
                'failed to satisfy constraint'
            )
        writes = [self._transact_item(action) for action in actions]
        if len({write.key for write in writes}) != len(writes):
            raise Invalid(
                'Transaction request cannot include multiple operations on '
                'one item'
            )
        token = parameters.get('ClientRequestToken')
        if token is not None and self._is_repeated(token, actions):
            return self._transact_reply(parameters, writes, read_again=True)
        olds = [self.items.get(write.key) for write in writes]
        news, reasons = [], []
        for write, old in zip(writes, olds, strict=True):
            new, reason = outcome_in_transaction(write, old)
            news.append(new)
            reasons.append(reason)
        if any(reason['Code'] != 'None' for reason in reasons):
            codes = ', '.join(reason['Code'] for reason in reasons)
            raise Refused(
                'TransactionCanceledException',
                'Transaction cancelled, please refer cancellation reasons '
                f'for specific reasons [{codes}]',
                reasons=reasons,
            )
        reply = self._transact_reply(
            parameters, writes, list(zip(olds, news, strict=True))
        )
        for write, old, new in zip(writes, olds, news, strict=True):
            if write.writes:
                self._store(write.key, old, new)
        if token is not None and self.idempotent:
            self._tokens[token] = self._clock(), without_reference(actions)
        return reply

    def _transact_item(self, action: dict[str, Any]) -> Write:
        ((name, parameters),) = action.items()
        unknown = parameters.keys() - TRANSACTED_PARAMETERS
        if unknown:
            raise NotImplementedError(f'{name}: {sorted(unknown)}')
        return TRANSACTED[name](self, parameters)

    def _is_repeated(self, token: str, actions: list[Any]) -> bool:
        oldest = self._clock() - TOKEN_SECONDS
        while self._tokens:
            first = next(iter(self._tokens))
            if self._tokens[first][0] > oldest or oldest < 0:
                break
            del self._tokens[first]
        if token not in self._tokens:
            return False
        if self._tokens[token][1] != actions:
            raise Refused(
                'IdempotentParameterMismatchException',
                'Idempotent Parameter Mismatch',
            )
        return True

    def _transact_reply(
        self,
        parameters: dict[str, Any],
        writes: list[Write],
        changes: list[tuple[Item | None, Item | None]] | None = None,
        read_again: bool = False,
    ) -> dict[str, Any]:
        if not wants_capacity(parameters):
            return {}
        units = 0.0
        for position, write in enumerate(writes):
            if read_again:
                stored = self.items.get(write.key)
                size = 0 if stored is None else item_size(stored)
                units += 2 * max(1, math.ceil(size / 4096))
            else:
                assert changes is not None
                units += 2 * self._write_units(*changes[position])
        first = writes[0].parameters
        return {'ConsumedCapacity': [capacity(first, units)]}

    def store(self, key: str, item: Item | None) -> None:
        """Have this stand there, whatever stood there before."""
        self._store(key, self.items.get(key), item)

    def _store(self, key: str, old: Item | None, new: Item | None) -> None:
        if new is None:
            if old is not None:
                del self.items[key]
        else:
            self.items[key] = new
        if self.index is not None:
            self._index_item(key, old, new, self.index.key)
        if self.written is not None:
            self.written(key, old, new)

    def _index_item(
        self, key: str, old: Item | None, new: Item | None, name: str
    ) -> None:
        before = old.get(name) if old else None
        after = new.get(name) if new else None
        if before == after:
            return
        if before is not None:
            keys = self._indexed[before['S']]
            keys.discard(key)
            if not keys:
                del self._indexed[before['S']]
        if after is not None:
            self._indexed.setdefault(after['S'], set()).add(key)

    def _write_units(self, old: Item | None, new: Item | None) -> float:
        """Capacity that a write consumes, that of the index included."""
        sizes = [item_size(item) for item in (old, new) if item is not None]
        units = max(1, math.ceil(max(sizes, default=0) / 1024))
        if self.index is not None:
            units += self._index_units(old, new, self.index.key)
        return float(units)

    def _index_units(
        self, old: Item | None, new: Item | None, name: str
    ) -> int:
        before, after = (
            self._projected_by_index(item) if item and name in item else None
            for item in (old, new)
        )
        if before == after:
            return 0
        entries = [entry for entry in (before, after) if entry is not None]
        units = [math.ceil(item_size(entry) / 1024) for entry in entries]
        is_moved = len({entry[name]['S'] for entry in entries}) == 2
        return sum(units) if is_moved else max(units)

    # -- the table -------------------------------------------------------

    def describe_table(self, parameters: dict[str, Any]) -> dict[str, Any]:
        attributes = [self.key_name]
        description: dict[str, Any] = {
            'TableName': parameters['TableName'],
            'TableStatus': 'ACTIVE',
            'KeySchema': [key_schema(self.key_name)],
            'ItemCount': len(self.items),
            'BillingModeSummary': {'BillingMode': 'PAY_PER_REQUEST'},
        }
        if self.index is not None:
            attributes.append(self.index.key)
            description['GlobalSecondaryIndexes'] = [
                {
                    'IndexName': self.index.name,
                    'IndexStatus': 'ACTIVE',
                    'KeySchema': [key_schema(self.index.key)],
                    'Projection': {
                        'ProjectionType': 'INCLUDE',
                        'NonKeyAttributes': list(self.index.included),
                    },
                }
            ]
        description['AttributeDefinitions'] = [
            {'AttributeName': name, 'AttributeType': 'S'}
            for name in attributes
        ]
        return {'Table': description}

    def describe_time_to_live(
        self, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            'TimeToLiveDescription': {
                'TimeToLiveStatus': 'ENABLED',
                'AttributeName': 'Expires',
            }
        }


# -- the writes ----------------------------------------------------------


class Write:
    """One conditional write, checked and ready to meet an item."""

    writes = True

    def __init__(
        self, table: SimulatedTable, parameters: dict[str, Any]
    ) -> None:
        self.table = table
        self.parameters = parameters
        self.plan = planned(table.key_name, parameters)
        self.key = self.find_key()
        self.values = self.plan.checked_values(parameters)

    def find_key(self) -> str:
        return checked_key(self.table.key_name, self.parameters['Key'])

    def outcome(self, old: Item | None) -> Item | None:
        """What the item becomes. Raises :class:`Refused`."""
        if not self.plan.holds(old or {}, self.values):
            shown = None
            wanted = self.parameters.get('ReturnValuesOnConditionCheckFailure')
            if wanted == 'ALL_OLD' and old is not None:
                shown = copied(old)
            raise Refused(
                'ConditionalCheckFailedException',
                'The conditional request failed',
                item=shown,
            )
        return self.changed(old)

    def changed(self, old: Item | None) -> Item | None:
        raise NotImplementedError

    def check_index_key(self, item: Item) -> None:
        index = self.table.index
        if index is None or index.key not in item:
            return
        kind = kind_of(item[index.key])
        if kind != 'S':
            raise Invalid(
                'One or more parameter values were invalid: Type mismatch '
                f'for Index Key {index.key} Expected: S Actual: {kind} '
                f'IndexName: {index.name}'
            )
        if not item[index.key]['S']:
            raise Invalid(
                'One or more parameter values are not valid. A value '
                'specified for a secondary index key is not supported. The '
                'AttributeValue for a key attribute cannot contain an empty '
                f'string value. IndexName: {index.name}, '
                f'IndexKey: {index.key}'
            )


class Put(Write):
    def find_key(self) -> str:
        self.item = {
            name: canonical(value)
            for name, value in self.parameters['Item'].items()
        }
        name = self.table.key_name
        if name not in self.item:
            raise Invalid(
                'One or more parameter values were invalid: Missing the key '
                f'{name} in the item'
            )
        self.check_index_key(self.item)
        if item_size(self.item) > ITEM_LIMIT:
            raise Invalid('Item size has exceeded the maximum allowed size')
        return checked_key(name, {name: self.item[name]})

    def changed(self, old: Item | None) -> Item | None:
        return self.item


class UpdateWrite(Write):
    def changed(self, old: Item | None) -> Item | None:
        if old is None:
            old = {self.table.key_name: {'S': self.key}}
        if self.plan.update is None:
            return old
        if self.table.key_name in self.plan.update.paths:
            raise Invalid(
                'One or more parameter values were invalid: Cannot update '
                f'attribute {self.table.key_name}. This attribute is part of '
                'the key'
            )
        new = self.plan.update.apply(old, self.values)
        self.check_index_key(new)
        if item_size(new) > ITEM_LIMIT:
            raise Invalid(
                'Item size to update has exceeded the maximum allowed size'
            )
        return new


class Delete(Write):
    def changed(self, old: Item | None) -> Item | None:
        return None


class ConditionCheck(Write):
    writes = False

    def changed(self, old: Item | None) -> Item | None:
        return old


WRITES: dict[str, type[Write]] = {
    'put_item': Put,
    'update_item': UpdateWrite,
    'delete_item': Delete,
}
TRANSACTED: dict[str, type[Write]] = {
    'Put': Put,
    'Update': UpdateWrite,
    'Delete': Delete,
    'ConditionCheck': ConditionCheck,
}
TRANSACTED_PARAMETERS = {
    'TableName',
    'Key',
    'Item',
    'UpdateExpression',
    'ConditionExpression',
    'ReturnValuesOnConditionCheckFailure',
    *EXPRESSIONS,
}


def outcome_in_transaction(
    write: Write, old: Item | None
) -> tuple[Item | None, dict[str, Any]]:
    """What an item becomes, and the reason why the transaction can't be."""
    try:
        return write.outcome(old), {'Code': 'None'}
    except Refused as refusal:
        reason: dict[str, Any] = {
            'Code': 'ConditionalCheckFailed',
            'Message': refusal.message,
        }
        if refusal.item is not None:
            reason['Item'] = refusal.item
        return old, reason
    except Invalid as error:
        return old, {'Code': 'ValidationError', 'Message': str(error)}


def returned_attributes(
    returned: str, old: Item | None, new: Item | None, plan: Plan
) -> Item | None:
    """What ``ReturnValues`` asks for."""
    if returned == 'ALL_OLD':
        return old
    if returned == 'ALL_NEW':
        return new
    item = (old if returned == 'UPDATED_OLD' else new) or {}
    paths = plan.update.paths if plan.update else ()
    return {name: item[name] for name in paths if name in item}


# -- expressions and their names and values ------------------------------


@dataclass
class Plan:
    """The expressions of one kind of call, compiled and found consistent."""

    condition: Condition | None = None
    update: Update | None = None
    projection: Projection | None = None
    key_condition: Condition | None = None
    checks: tuple[Check, ...] = ()

    def checked_values(self, parameters: dict[str, Any]) -> Values:
        given = parameters.get('ExpressionAttributeValues')
        if given is None:
            return {}
        values = {name: canonical(value) for name, value in given.items()}
        for check in self.checks:
            check(values)
        return values

    def holds(self, item: Item, values: Values) -> bool:
        return self.condition is None or self.condition.holds(item, values)


def planned(key_name: str, parameters: dict[str, Any]) -> Plan:
    """The compiled expressions of a call. Raises :class:`Invalid`."""
    get = parameters.get
    names = get('ExpressionAttributeNames')
    values = get('ExpressionAttributeValues')
    return compiled(
        key_name,
        get('ConditionExpression', get('FilterExpression')),
        get('UpdateExpression'),
        get('ProjectionExpression'),
        get('KeyConditionExpression'),
        None if names is None else tuple(names.items()),
        None if values is None else tuple(values),
    )


@functools.lru_cache(maxsize=4096)
def compiled(
    key_name: str,
    condition: str | None,
    update: str | None,
    projection: str | None,
    key_condition: str | None,
    name_items: tuple[tuple[str, str], ...] | None,
    value_names: tuple[str, ...] | None,
) -> Plan:
    names = dict(name_items or ())
    plan = Plan()
    uses: list[Uses] = []
    for kind, text, attribute, parse in (
        ('Update', update, 'update', parse_update),
        ('Condition', condition, 'condition', parse_condition),
        ('KeyCondition', key_condition, 'key_condition', parse_condition),
        ('Projection', projection, 'projection', parse_projection),
    ):
        if text is None:
            continue
        try:
            expression: Any = parse(text, names)  # type: ignore[operator]
        except Invalid as error:
            raise Invalid(f'Invalid {kind}Expression: {error}') from None
        setattr(plan, attribute, expression)
        uses.append(expression.uses)
    check_placeholders(
        'Names', name_items, names, set().union(*(each.names for each in uses))
    )
    check_placeholders(
        'Values',
        value_names,
        value_names or (),
        set().union(*(each.values for each in uses)),
    )
    plan.checks = tuple(check for each in uses for check in each.checks)
    return plan


def check_placeholders(
    kind: str, given: Any, placeholders: Any, used: set[str]
) -> None:
    """Have the placeholders used that are given, and no others."""
    if given is not None and not placeholders:
        raise Invalid(f'ExpressionAttribute{kind} must not be empty')
    unused = set(placeholders) - used
    if unused:
        raise Invalid(
            f'Value provided in ExpressionAttribute{kind} unused in '
            f'expressions: keys: {{{", ".join(sorted(unused))}}}'
        )
    missing = used - set(placeholders)
    if missing:
        raise Invalid(
            'An expression attribute value used in expression is not '
            f'defined; attribute value: {min(missing)}'
        )


# -- keys, projections, capacity -----------------------------------------


def checked_key(name: str, key: Item) -> str:
    """The value of a key. Raises :class:`Invalid`."""
    if key.keys() != {name}:
        raise Invalid('The provided key element does not match the schema')
    value: Value = key[name]
    if value.keys() != {'S'}:
        raise Invalid(
            'One or more parameter values were invalid: Type mismatch for '
            f'key {name} expected: S actual: {kind_of(value)}'
        )
    text: str = value['S']
    if not text:
        raise Invalid(
            'One or more parameter values are not valid. The AttributeValue '
            'for a key attribute cannot contain an empty string value. '
            f'Key: {name}'
        )
    if len(text) * 4 > KEY_LIMIT and len(text.encode()) > KEY_LIMIT:
        raise Invalid(
            'One or more parameter values were invalid: Size of hashkey has '
            'exceeded the maximum size limit of2048 bytes'
        )
    return text


def key_schema(name: str) -> dict[str, str]:
    return {'AttributeName': name, 'KeyType': 'HASH'}


def projected(item: Item, projection: Projection | None) -> Item:
    """A copy of an item, or of the part of it that is asked for."""
    if projection is not None:
        item = {name: item[name] for name in projection.paths if name in item}
    return copied(item)


def without_reference(actions: list[Any]) -> list[Any]:
    """What a transaction does, kept safe from later changes."""
    return [
        {name: {**parameters} for name, parameters in action.items()}
        for action in actions
    ]


def wants_capacity(parameters: dict[str, Any]) -> bool:
    return parameters.get('ReturnConsumedCapacity', 'NONE') != 'NONE'


def capacity(parameters: dict[str, Any], units: float) -> dict[str, Any]:
    return {'TableName': parameters['TableName'], 'CapacityUnits': units}


def read_units(size: int, parameters: dict[str, Any]) -> float:
    units = max(1, math.ceil(size / 4096))
    return float(units) if parameters.get('ConsistentRead') else units / 2
