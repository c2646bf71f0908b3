"""The simulated table and the engine under test give the same answers."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.attribute_values import SETS, canonical, item_size
from tests.simulation.table import (
    ITEM_LIMIT,
    Index,
    Refused,
    SimulatedTable,
)

KEY = 'SessionId'
CASES = 3000
#: What DynamoDB reads or writes at once.
BATCH = 25

# -- random items, conditions and updates --------------------------------

NAMES = (
    'LockId',
    'LockDate',
    'LockCount',
    'Version',
    'TakenOver',
    'SavedBy',
    'Ended',
    'Expires',
    'SessionItems',
    'Flags',
    'Ver',
    'Owner',
    'Holders',
    'Counts',
    'Notes',
)
TEXTS = ('', 'a', 'ab', 'abc', 'b', '1', 'ä', '€uro', '\U0001f36a', 'x' * 30)
NUMBERS = (
    '0',
    '1',
    '2',
    '3',
    '10',
    '-1',
    '1.5',
    '1712345678',
    '1712346878',
    '007',
    '1e3',
    '2.50',
    '1E-5',
    '99999999999999999999999999999999999999',
    '1E125',
    '0.000001',
)
BYTES = (b'', b'a', b'ab', b'\x00\xff', b'\x80')
SCALARS = {'S': TEXTS, 'N': NUMBERS, 'B': BYTES}
USUAL = {
    'LockId': 'S',
    'TakenOver': 'S',
    'SavedBy': 'S',
    'SessionItems': 'SB',
    'Owner': 'S',
}
#: Words that expressions must not use as they are.
RESERVED = {'Owner'}
SET_NAMES = {'Holders': 'S', 'Counts': 'N'}
LIST_NAME = 'Notes'
#: DynamoDB Local is older than empty texts and bytes in DynamoDB.
NO_EMPTY_VALUES = {'dynamodb-local'}
FAULTY_VALUES = (
    {'N': 'one'},
    {'N': ''},
    {'N': '1' * 39},
    {'N': '1E126'},
    {'N': '1E-131'},
    {'SS': []},
    {'SS': ['a', 'a']},
    {'NS': ['1', '1.0']},
)


class Generator:
    """Random calls, the same for the same `chance`."""

    def __init__(self, chance: random.Random, engine: str) -> None:
        self.chance, self.engine = chance, engine

    def pick(self, choices: Any) -> Any:
        return choices[self.chance.randrange(len(choices))]

    def once_in(self, number: int) -> bool:
        return self.chance.randrange(number) == 0

    # items

    def scalar(self, kinds: str = 'SNB') -> dict[str, Any]:
        kind = self.pick(kinds)
        choices: Any = SCALARS[kind]
        if self.engine in NO_EMPTY_VALUES and not choices[0]:
            choices = choices[1:]
        return {kind: self.pick(choices)}

    def value(self) -> dict[str, Any]:
        """A value of any type, most often a scalar."""
        if not self.once_in(3):
            return self.scalar()
        kind = self.pick(('SS', 'NS', 'BS', 'L', 'M', 'BOOL', 'NULL'))
        if kind == 'NULL':
            return {'NULL': True}
        if kind == 'BOOL':
            return {'BOOL': self.once_in(2)}
        some = [self.scalar() for _ in range(self.chance.randrange(3))]
        if kind == 'L':
            return {'L': some}
        if kind == 'M':
            return {'M': {self.pick('abc'): each for each in some}}
        return {kind: self.set_elements(kind[0])}

    def set_elements(self, kind: str) -> list[Any]:
        choices = {'S': TEXTS[1:5], 'N': NUMBERS[:5], 'B': BYTES[1:]}[kind]
        return self.chance.sample(choices, self.chance.randrange(1, 4))

    def usual_value(self, name: str) -> dict[str, Any]:
        """A value of the type that the package gives this attribute."""
        if name in SET_NAMES:
            kind = SET_NAMES[name]
            return {f'{kind}S': self.set_elements(kind)}
        if name == LIST_NAME:
            return {'L': [self.scalar()]}
        return self.scalar(USUAL.get(name, 'N'))

    def name_of_type(self, name: str) -> str:
        """Mostly one of an attribute of the same type as this one."""
        if self.once_in(8):
            return self.pick(NAMES)
        if name in SET_NAMES or name == LIST_NAME:
            return name
        kinds = USUAL.get(name, 'N')
        same = [
            each
            for each in NAMES[: NAMES.index('Holders')]
            if USUAL.get(each, 'N') == kinds
        ]
        return self.pick(same)

    def item(self, key: str) -> dict[str, Any]:
        item = {KEY: {'S': key}}
        for name in NAMES:
            if self.once_in(2):
                odd = self.once_in(6)
                item[name] = self.value() if odd else self.usual_value(name)
        return item


class Expressions(Generator):
    """The expressions of one call, and their names and values."""

    def __init__(self, chance: random.Random, engine: str) -> None:
        super().__init__(chance, engine)
        self.names: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def path(self, name: str = '') -> str:
        name = name or self.pick(NAMES)
        if name in RESERVED:
            is_aliased = not self.once_in(40)
        else:
            is_aliased = self.once_in(4)
        if not is_aliased:
            return name
        self.names[f'#{name.lower()}'] = name
        return f'#{name.lower()}'

    def given(self, value: dict[str, Any]) -> str:
        """A placeholder of a value."""
        placeholder = f':v{len(self.values)}'
        if self.once_in(150):
            value = self.pick(FAULTY_VALUES)
        self.values[placeholder] = value
        return placeholder

    def fitting(self, name: str) -> str:
        odd = self.once_in(12)
        return self.given(self.value() if odd else self.usual_value(name))

    def operand(self, name: str) -> str:
        other = self.name_of_type(name)
        if self.once_in(50 if other == name else 5):
            return self.path(other)
        if self.once_in(20):
            return f'size({self.path()})'
        return self.fitting(name)

    # conditions

    def condition(self, depth: int = 3) -> str:
        shape = self.chance.randrange(9)
        if depth and shape < 4:
            sign = self.pick(('AND', 'and', 'OR'))
            parts = self.condition(depth - 1), self.condition(depth - 1)
            text = f' {sign} '.join(parts)
            return f'({text})' if self.once_in(3) else text
        if depth and shape == 4:
            return f'NOT {self.condition(depth - 1)}'
        return self.simple_condition()

    def simple_condition(self) -> str:
        name = self.pick(NAMES)
        path = self.path(name)
        kind = self.chance.randrange(12)
        if kind < 2:
            return f'{path} {self.pick(("=", "<>"))} {self.operand(name)}'
        if kind < 5:
            word = self.pick(('attribute_exists', 'attribute_not_exists'))
            return f'{word}({path})'
        has_order = name not in SET_NAMES and name != LIST_NAME
        if not has_order and not self.once_in(15):
            return self.pick((self.contains, self.size))(name, path)
        if kind < 8:
            sign = self.pick(('<', '<=', '>', '>='))
            return f'{path} {sign} {self.operand(name)}'
        return self.pick(
            (
                self.between,
                self.among,
                self.begins_with,
                self.contains,
                self.attribute_type,
                self.size,
            )
        )(name, path)

    def between(self, name: str, path: str) -> str:
        return f'{path} BETWEEN {self.operand(name)} AND {self.operand(name)}'

    def among(self, name: str, path: str) -> str:
        some = [self.operand(name) for _ in range(self.chance.randrange(1, 4))]
        return f'{path} IN ({", ".join(some)})'

    def begins_with(self, name: str, path: str) -> str:
        if self.once_in(5):
            return f'begins_with({path}, {self.operand(name)})'
        return f'begins_with({path}, {self.given(self.scalar("SSB"))})'

    def contains(self, name: str, path: str) -> str:
        return f'contains({path}, {self.operand(name)})'

    def attribute_type(self, name: str, path: str) -> str:
        kinds = ('S', 'N', 'B', 'SS', 'NS', 'BS', 'L', 'M', 'BOOL', 'NULL')
        kind = 'STRING' if self.once_in(20) else self.pick(kinds)
        value = {'N': '1'} if self.once_in(20) else {'S': kind}
        return f'attribute_type({path}, {self.given(value)})'

    def size(self, name: str, path: str) -> str:
        sign = self.pick(('=', '<>', '<', '<=', '>', '>='))
        value = {'N': self.pick(NUMBERS[:5])}
        return f'size({path}) {sign} {self.given(value)}'

    # updates

    def update(self) -> str:
        names = self.chance.sample(NAMES, self.chance.randrange(1, 6))
        if self.once_in(30):
            names.append(names[0])
        if self.once_in(60):
            names.append(KEY)
        sections: dict[str, list[str]] = {}
        for name in names:
            section = self.section(name)
            clause = getattr(self, f'{section.lower()}_clause')(name)
            sections.setdefault(section, []).append(clause)
        order = self.chance.sample(sorted(sections), len(sections))
        return ' '.join(
            f'{each} {", ".join(sections[each])}' for each in order
        )

    def section(self, name: str) -> str:
        if self.once_in(15):
            return self.pick(('SET', 'REMOVE', 'ADD', 'DELETE'))
        if name in SET_NAMES:
            return self.pick(('ADD', 'DELETE', 'SET', 'REMOVE'))
        if name == LIST_NAME or name in USUAL:
            return self.pick(('SET', 'SET', 'REMOVE'))
        return self.pick(('SET', 'SET', 'REMOVE', 'ADD', 'ADD'))

    def set_clause(self, name: str) -> str:
        return f'{self.path(name)} = {self.set_value(name)}'

    def set_value(self, name: str) -> str:
        kind = self.chance.randrange(8)
        if kind < 4:
            return self.fitting(name)
        if kind == 4:
            return self.path(self.name_of_type(name))
        if kind == 5:
            return self.path_or_default(name)
        if name == LIST_NAME or self.once_in(30):
            some = self.fitting(name), self.path_or_default(name)
            return f'list_append({", ".join(self.chance.sample(some, 2))})'
        if name in SET_NAMES or name in USUAL:
            return self.fitting(name)
        second = self.fitting(name)
        is_plain = self.once_in(6)
        first = self.path(name) if is_plain else self.path_or_default(name)
        return f'{first} {self.pick("+-")} {second}'

    def path_or_default(self, name: str) -> str:
        path = self.path(self.name_of_type(name))
        default = self.fitting(name)
        if self.once_in(8):
            other = self.path(self.name_of_type(name))
            default = f'if_not_exists({other}, {default})'
        return f'if_not_exists({path}, {default})'

    def remove_clause(self, name: str) -> str:
        return self.path(name)

    def add_clause(self, name: str) -> str:
        return f'{self.path(name)} {self.fitting(name)}'

    def delete_clause(self, name: str) -> str:
        return f'{self.path(name)} {self.fitting(name)}'

    def placeholders(self) -> dict[str, Any]:
        if self.once_in(60):
            self.values[':unused'] = {'N': '1'}
        if self.once_in(60):
            self.names['#unused'] = 'LockId'
        if self.values and self.once_in(60):
            self.values.popitem()
        found: dict[str, Any] = {}
        if self.names:
            found['ExpressionAttributeNames'] = self.names
        if self.values:
            found['ExpressionAttributeValues'] = self.values
        return found


class Calls(Generator):
    """Random calls on one item."""

    def __init__(
        self, chance: random.Random, engine: str, table: str, key: str
    ) -> None:
        super().__init__(chance, engine)
        self.table, self.key = table, key

    @property
    def on_item(self) -> dict[str, Any]:
        return {'TableName': self.table, 'Key': {KEY: {'S': self.key}}}

    def call(self) -> tuple[str, dict[str, Any]]:
        kind = self.chance.randrange(12)
        if kind < 7:
            return 'update_item', self.returning(
                self.update(), ('ALL_NEW', 'UPDATED_OLD', 'UPDATED_NEW')
            )
        if kind < 9:
            return 'put_item', self.returning(self.put())
        if kind == 9:
            return 'delete_item', self.returning(self.delete())
        if kind == 10:
            return 'get_item', self.get()
        return self.transaction()

    def returning(
        self, parameters: dict[str, Any], more: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        if 'UpdateExpression' in parameters or not more:
            parameters['ReturnValues'] = self.pick(('NONE', 'ALL_OLD', *more))
        return parameters

    def conditional(self, expressions: Expressions) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if not self.once_in(5):
            found['ConditionExpression'] = expressions.condition()
            if not self.once_in(4):
                found['ReturnValuesOnConditionCheckFailure'] = 'ALL_OLD'
        return found

    def update(self) -> dict[str, Any]:
        expressions = Expressions(self.chance, self.engine)
        parameters = self.on_item | self.conditional(expressions)
        if not self.once_in(30):
            parameters['UpdateExpression'] = expressions.update()
        return parameters | expressions.placeholders()

    def put(self) -> dict[str, Any]:
        expressions = Expressions(self.chance, self.engine)
        item = self.item(self.key)
        if self.once_in(40):
            item['Flags'] = self.pick(FAULTY_VALUES)
        if self.once_in(40):
            del item[KEY]
        return {
            'TableName': self.table,
            'Item': item,
            **self.conditional(expressions),
            **expressions.placeholders(),
        }

    def delete(self) -> dict[str, Any]:
        expressions = Expressions(self.chance, self.engine)
        return (
            self.on_item
            | self.conditional(expressions)
            | expressions.placeholders()
        )

    def get(self) -> dict[str, Any]:
        expressions = Expressions(self.chance, self.engine)
        parameters = self.on_item
        if self.once_in(2):
            some = self.chance.sample(NAMES, self.chance.randrange(1, 4))
            paths = [expressions.path(name) for name in some]
            parameters['ProjectionExpression'] = ', '.join(paths)
        names = expressions.placeholders().get('ExpressionAttributeNames')
        if names:
            parameters['ExpressionAttributeNames'] = names
        return parameters

    def transaction(self) -> tuple[str, dict[str, Any]]:
        other = Calls(
            self.chance, self.engine, self.table, other_key(self.key)
        )
        actions = [self.action(), other.action()]
        if self.once_in(20):
            actions.append(self.action())
        return 'transact_write_items', {'TransactItems': actions}

    def action(self) -> dict[str, Any]:
        kind = self.pick(('Put', 'Update', 'Update', 'Delete', 'Check'))
        if kind == 'Put':
            return {'Put': self.put()}
        if kind == 'Update':
            parameters = self.update()
            if 'UpdateExpression' not in parameters:
                return self.action()
            return {'Update': parameters}
        parameters = self.delete()
        if kind == 'Check' and 'ConditionExpression' in parameters:
            return {'ConditionCheck': parameters}
        return {'Delete': parameters}


def other_key(key: str) -> str:
    return f'{key}-other'


# -- answers, and what engines are known to answer otherwise --------------

Answer = dict[str, Any]
Call = tuple[str, dict[str, Any]]


@dataclass
class Deviation:
    """Where an engine is known to be wrong, or older than AWS.

    Where it `applies` to a call and the simulated table's answer, the
    engine may answer anything.
    """

    reason: str
    applies: Callable[[str, dict[str, Any], Answer], bool]


def refused_with(
    *starts: str,
) -> Callable[[str, dict[str, Any], Answer], bool]:
    return lambda operation, parameters, answer: answer.get(
        'message', ''
    ).startswith(starts)


def is_invalid_transaction(
    operation: str, parameters: dict[str, Any], answer: Answer
) -> bool:
    codes = [reason['Code'] for reason in answer.get('reasons') or ()]
    return 'ValidationError' in codes


def is_upsert_returning_old(
    operation: str, parameters: dict[str, Any], answer: Answer
) -> bool:
    returned = parameters.get('ReturnValues')
    return (
        operation == 'update_item'
        and returned in ('ALL_OLD', 'UPDATED_OLD')
        and answer == {}
    )


DEVIATIONS = {
    'moto': (
        Deviation(
            'UPDATED_NEW leaves out what was set to the value that it had',
            lambda operation, parameters, answer: (
                parameters.get('ReturnValues') == 'UPDATED_NEW'
            ),
        ),
    ),
    'dynamodb-local': (
        Deviation(
            'an update that meets a wrong type cancels no transaction: the '
            'whole call is a ValidationException',
            is_invalid_transaction,
        ),
        Deviation(
            'several operations on one item are not always refused',
            refused_with('Transaction request cannot include multiple'),
        ),
    ),
    'dynoxide': (
        Deviation(
            'operands are checked when they are reached, not before',
            refused_with(
                'Invalid ConditionExpression: The first operand must be',
                'Invalid ConditionExpression: Incorrect operand type',
                'Incorrect operand type',
                'Invalid attribute type name',
                'The BETWEEN operator requires',
            ),
        ),
        Deviation(
            'whether placeholders are defined and used is asked after the '
            'condition, and only of the part that was evaluated',
            refused_with(
                'Value provided in ExpressionAttribute',
                'An expression attribute value used',
                'Invalid ConditionExpression: An expression attribute',
            ),
        ),
        Deviation(
            'values of a transaction are checked one write at a time',
            lambda operation, parameters, answer: (
                operation == 'transact_write_items'
                and answer.get('error') == 'ValidationException'
            ),
        ),
        Deviation(
            'an update that creates an item returns its key as the old one',
            is_upsert_returning_old,
        ),
    ),
}
#: Engines that return no item when a condition fails, as AWS did until 2023.
NO_OLD_ITEMS = {'dynamodb-local'}


def engine_answer(client: Any, call: Call) -> Answer:
    operation, parameters = call
    try:
        reply = getattr(client, operation)(**parameters)
    except ClientError as error:
        response = error.response
        return {
            'error': response['Error']['Code'],
            'message': response['Error']['Message'],
            'item': response.get('Item'),
            'reasons': response.get('CancellationReasons'),
        }
    del reply['ResponseMetadata']
    return reply  # type: ignore[no-any-return]


def simulated_answer(table: SimulatedTable, call: Call) -> Answer:
    try:
        return table.call(*call)
    except Refused as refused:
        return {
            'error': refused.code,
            'message': refused.message,
            'item': refused.item,
            'reasons': refused.reasons,
        }


def comparable(answer: Answer, engine: str, call: Call) -> Answer:
    """An answer without what no engine has in common with another."""
    answer = dict(answer)
    answer.pop('message', None)
    if 'ReturnConsumedCapacity' not in call[1]:
        # DynamoDB Local tells it of a delete that finds nothing
        answer.pop('ConsumedCapacity', None)
    answer.pop('ItemCollectionMetrics', None)
    if not answer.get('Attributes'):
        # moto 5.0 returns none where it was not asked to return any
        answer.pop('Attributes', None)
    if 'reasons' in answer:
        answer['reasons'] = [
            {
                name: value
                for name, value in reason.items()
                if name == 'Code'
                or (name == 'Item' and engine not in NO_OLD_ITEMS)
            }
            for reason in answer['reasons'] or ()
        ]
    if 'item' in answer and engine in NO_OLD_ITEMS:
        answer['item'] = None
    return without_order(answer)  # type: ignore[no-any-return]


def without_order(answer: Any) -> Any:
    """The same, sets being sorted and numbers in their one true form.

    DynamoDB Local returns some numbers as they were given.
    """
    if isinstance(answer, list):
        return [without_order(each) for each in answer]
    if not isinstance(answer, dict):
        return answer
    if len(answer) == 1 and not answer.keys().isdisjoint(('N', *SETS)):
        return canonical(answer)
    return {name: without_order(value) for name, value in answer.items()}


class Comparison:
    """One engine's table and a simulated one, called side by side."""

    def __init__(
        self, client: Any, engine: str, simulated: SimulatedTable
    ) -> None:
        self.client, self.engine = client, engine
        self.simulated = simulated

    def agree(self, *call: Any) -> bool:
        """Fail if they differ; False where the engine is known to."""
        given = simulated_answer(self.simulated, call)
        found = engine_answer(self.client, call)
        for deviation in DEVIATIONS[self.engine]:
            if deviation.applies(*call, given):
                return False
        expected = comparable(found, self.engine, call)
        assert comparable(given, self.engine, call) == expected, (given, found)
        return True


# -- the tests -----------------------------------------------------------

CHECKED_BY = pytest.mark.engines(
    'dynamodb-local',
    'dynoxide',
    reason='moto checks few operands, and rounds numbers',
)
EXACT = pytest.mark.engines(
    'dynoxide', reason='the others do not report the exact capacity'
)


@pytest.fixture
def comparison(client: Any, engine: str) -> Comparison:
    return Comparison(client, engine, SimulatedTable())


def write_batch(
    client: Any, table: str, simulated: SimulatedTable, items: list[Any]
) -> None:
    for item in items:
        simulated.call('put_item', {'TableName': table, 'Item': item})
    for start in range(0, len(items), BATCH):
        puts = [
            {'PutRequest': {'Item': item}}
            for item in items[start : start + BATCH]
        ]
        reply = client.batch_write_item(RequestItems={table: puts})
        assert not reply['UnprocessedItems']


def read_batch(client: Any, table: str, keys: list[str]) -> dict[str, Any]:
    wanted = [{KEY: {'S': key}} for key in keys]
    reply = client.batch_get_item(
        RequestItems={table: {'Keys': wanted, 'ConsistentRead': True}}
    )
    assert not reply['UnprocessedKeys']
    items = reply['Responses'][table]
    return {item[KEY]['S']: without_order(item) for item in items}


@CHECKED_BY
@pytest.mark.parametrize('batch', range(CASES // BATCH))
def test_random_call_has_the_same_answer_and_effect(
    comparison: Comparison, client: Any, engine: str, table: str, batch: int
) -> None:
    simulated = comparison.simulated
    chance = random.Random(batch)
    prefix = uuid.uuid4().hex[:8]
    keys = [f'{prefix}-{number}' for number in range(BATCH)]
    cases = {key: Calls(chance, engine, table, key) for key in keys}
    items = [
        calls.item(each)
        for key, calls in cases.items()
        for each in (key, other_key(key))
        if chance.randrange(4)
    ]
    write_batch(client, table, simulated, items)
    compared = [
        each
        for key, calls in cases.items()
        if comparison.agree(*calls.call())
        for each in (key, other_key(key))
    ]
    assert compared
    assert read_batch(client, table, compared) == {
        key: simulated.items[key] for key in compared if key in simulated.items
    }


@CHECKED_BY
@settings(max_examples=100, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_random_calls_in_a_row_have_the_same_answers(
    chance: random.Random, client: Any, engine: str, table: str
) -> None:
    comparison = Comparison(client, engine, SimulatedTable())
    calls = Calls(chance, engine, table, uuid.uuid4().hex)
    write_batch(client, table, comparison.simulated, [calls.item(calls.key)])
    for _ in range(4):
        if not comparison.agree(*calls.call()):
            return
    comparison.agree('get_item', calls.on_item)


# -- the protocol's own expressions --------------------------------------

ALIVE = 'Expires > :now AND attribute_not_exists(Ended)'
HELD = 'LockId = :me AND LockCount = :count AND attribute_not_exists(Ended)'
LOCK = 'SET LockId = :me, LockDate = :now REMOVE Flags ADD LockCount :one'
UNLOCK = 'SET Expires = :expires REMOVE LockId, LockDate'
SAVE = (
    'SET SessionItems = :items, Expires = :expires '
    'REMOVE LockId, LockDate ADD Version :one'
)
ENTOMB = (
    'SET Ended = :now, Expires = :expires '
    'REMOVE SessionItems, LockId, LockDate, #owner'
)
VALUES = {
    ':now': {'N': '1712345678'},
    ':expires': {'N': '1712346878'},
    ':one': {'N': '1'},
    ':items': {'S': '{"n": 1}'},
    ':other': {'S': 'other'},
}
NAMED = {'#key': KEY, '#owner': 'Owner'}


class Protocol:
    """The calls of the lock protocol, by whoever has this token."""

    def __init__(self, table: str, key: str) -> None:
        self.table, self.key = table, key

    def update(
        self, update: str, condition: str, key: str = '', **values: str
    ) -> dict[str, Any]:
        given = VALUES | {
            f':{name}': {'N' if value.isdigit() else 'S': value}
            for name, value in values.items()
        }
        return self.placed(
            f'{update} {condition}',
            given,
            Key={KEY: {'S': key or self.key}},
            UpdateExpression=update,
            ConditionExpression=condition,
        )

    def put(self, key: str = '', **attributes: Any) -> dict[str, Any]:
        item = {
            KEY: {'S': key or self.key},
            'SessionItems': {'B': b'x\x9c\x00\xff'},
            'CreateDate': VALUES[':now'],
            'Expires': VALUES[':expires'],
            'Version': {'N': '1'},
            'Ver': {'N': '1'},
            **attributes,
        }
        condition = 'attribute_not_exists(#key)'
        return self.placed(
            condition, {}, Item=item, ConditionExpression=condition
        )

    def placed(
        self, text: str, values: dict[str, Any], **parameters: Any
    ) -> dict[str, Any]:
        """The call with those placeholders that its expressions have."""
        words = set(text.replace(',', ' ').replace('(', ' ').split())
        words |= {word.rstrip(')') for word in words}
        found: dict[str, Any] = {
            'TableName': self.table,
            'ReturnValuesOnConditionCheckFailure': 'ALL_OLD',
            **parameters,
        }
        for name, placeholders in (
            ('ExpressionAttributeNames', NAMED),
            ('ExpressionAttributeValues', values),
        ):
            used = {k: v for k, v in placeholders.items() if k in words}
            if used:
                found[name] = used
        return found

    def get(self, **options: Any) -> Call:
        key = {KEY: {'S': self.key}}
        return 'get_item', {'TableName': self.table, 'Key': key, **options}

    def acquire(self, me: str, condition: str = '') -> Call:
        free = condition or f'{ALIVE} AND attribute_not_exists(LockId)'
        parameters = self.update(LOCK, free, me=me)
        return 'update_item', parameters | {'ReturnValues': 'ALL_NEW'}

    def take_over(self, me: str, dead: str, taken_over: str) -> Call:
        update = LOCK.replace(' REMOVE', ', TakenOver = :taken REMOVE')
        parameters = self.update(
            update,
            f'{ALIVE} AND LockId = :dead AND LockDate = :since',
            me=me,
            dead=dead,
            since=VALUES[':now']['N'],
        )
        values = parameters['ExpressionAttributeValues']
        values[':taken'] = {'S': taken_over}
        return 'update_item', parameters | {'ReturnValues': 'ALL_NEW'}

    def take_over_in_place(self, me: str, dead: str) -> Call:
        """With the list made of what stands there by DynamoDB itself."""
        update = LOCK.replace(
            ' REMOVE', ', TakenOver = if_not_exists(LockCount, :zero) REMOVE'
        )
        condition = f'{ALIVE} AND LockId = :dead'
        parameters = self.update(update, condition, me=me, dead=dead, zero='0')
        return 'update_item', parameters | {'ReturnValues': 'UPDATED_NEW'}

    def held(self, update: str, me: str, count: str) -> Call:
        return 'update_item', self.update(update, HELD, me=me, count=count)

    def hand_on(self, me: str, count: str, heir: str) -> Call:
        update = (
            'SET SessionItems = :items, Expires = :expires, LockId = :next, '
            'LockDate = :now ADD LockCount :one, Version :one'
        )
        parameters = self.update(update, HELD, me=me, count=count, next=heir)
        return 'update_item', parameters | {'ReturnValues': 'ALL_NEW'}

    def save_optimistic(self, version: str, receipts: str) -> Call:
        update = (
            'SET SessionItems = :items, Expires = :expires, '
            'SavedBy = :receipts ADD Version :one'
        )
        condition = (
            'Version = :version AND attribute_not_exists(LockId) '
            'AND attribute_not_exists(Ended)'
        )
        return 'update_item', self.update(
            update, condition, version=version, receipts=receipts
        )

    def touch(self) -> Call:
        return 'update_item', self.update(
            'SET Expires = :expires', f'{ALIVE} AND Expires < :expires'
        )

    def end(self) -> Call:
        return 'update_item', self.update(
            ENTOMB.replace(', LockId, LockDate', ''), ALIVE
        )

    def regenerate(self, me: str, count: str, new_key: str) -> Call:
        put = self.put(new_key, LockCount={'N': '3'})
        entomb = self.held(ENTOMB, me, count)[1]
        writes = [{'Put': put}, {'Update': entomb}]
        return 'transact_write_items', {'TransactItems': writes}

    def delete_expired(self) -> Call:
        parameters = self.update('', 'Expires <= :expires')
        del parameters['UpdateExpression']
        return 'delete_item', parameters


def protocol_calls(table: str) -> dict[str, list[Call]]:
    """Calls in the order in which requests make them, by what they show."""
    on = Protocol(table, uuid.uuid4().hex)
    new = uuid.uuid4().hex
    create = 'put_item', on.put(Owner={'S': 'shop-anna'})
    create_uninitialized = 'put_item', on.put(Flags={'N': '1'})
    queued = on.acquire(
        'b', f'{ALIVE} AND attribute_not_exists(LockId) AND Version = :one'
    )
    calls: dict[str, list[Call]] = {
        'no session': [
            on.get(),
            on.acquire('a'),
            on.held(SAVE, 'a', '1'),
            on.touch(),
            on.end(),
        ],
        'lock, renew, save': [
            create,
            create,
            on.acquire('a'),
            on.acquire('a'),
            on.acquire('b'),
            on.held('SET LockDate = :expires', 'a', '1'),
            on.held('SET LockDate = :expires', 'a', '2'),
            on.held(SAVE, 'a', '2'),
            on.held(SAVE, 'a', '1'),
            on.held(SAVE, 'a', '1'),
            on.acquire('b'),
            on.held(UNLOCK, 'b', '2'),
        ],
        'uninitialized': [
            create_uninitialized,
            on.acquire('a'),
            on.held(UNLOCK, 'a', '1'),
        ],
        'taken over': [
            create,
            on.acquire('a'),
            on.take_over('b', 'x', '1'),
            on.take_over('b', 'a', '1'),
            on.held(SAVE, 'a', '1'),
            on.take_over('c', 'b', '2,1'),
            on.take_over_in_place('d', 'c'),
            on.held(SAVE, 'b', '2'),
            on.held(SAVE, 'd', '4'),
        ],
        'optimistic': [
            create,
            on.save_optimistic('1', 'r1'),
            on.save_optimistic('1', 'r2'),
            on.acquire('a'),
            on.save_optimistic('2', 'r2,r1'),
            on.held(UNLOCK, 'a', '1'),
            on.save_optimistic('2', 'r2,r1'),
            queued,
        ],
        'handed on': [
            create,
            on.acquire('a'),
            on.hand_on('a', '2', 'b'),
            on.hand_on('a', '1', 'b'),
            on.hand_on('a', '1', 'b'),
            on.held(SAVE, 'b', '2'),
        ],
        'ended under a lock': [
            create,
            on.acquire('a'),
            on.end(),
            on.end(),
            on.held(SAVE, 'a', '1'),
            on.acquire('b'),
            on.touch(),
            create,
            on.delete_expired(),
            on.delete_expired(),
            create,
        ],
        'regenerated': [
            create,
            on.acquire('a'),
            on.regenerate('a', '2', new),
            on.regenerate('a', '1', new),
            on.regenerate('a', '1', new),
            on.held(SAVE, 'a', '1'),
            Protocol(table, new).acquire('b'),
            Protocol(table, new).get(ConsistentRead=True),
        ],
    }
    return {
        name: [part for each in steps for part in (each, on.get())]
        for name, steps in calls.items()
    }


@pytest.mark.parametrize('sequence', protocol_calls(''))
def test_the_protocol_has_the_same_answers(
    comparison: Comparison, table: str, sequence: str
) -> None:
    for call in protocol_calls(table)[sequence]:
        comparison.agree(*call)


def test_the_protocol_succeeds_where_it_should() -> None:
    """Or the engines would only agree on what they refuse."""
    succeeded = {}
    for name, calls in protocol_calls('t').items():
        table = SimulatedTable()
        answers = [simulated_answer(table, call) for call in calls[::2]]
        codes = {answer.get('error') for answer in answers}
        assert codes <= {
            None,
            'ConditionalCheckFailedException',
            'TransactionCanceledException',
        }
        succeeded[name] = ''.join(
            '-' if 'error' in answer else '+' for answer in answers
        )
    assert succeeded == {
        'no session': '+----',
        'lock, renew, save': '+-+--+--+-++',
        'uninitialized': '+++',
        'taken over': '++-+-++-+',
        'optimistic': '++-+-++-',
        'handed on': '++-+-+',
        'ended under a lock': '+++-----+-+',
        'regenerated': '++-+--++',
    }


# -- transactions --------------------------------------------------------


def count_call(table: str, key: str, token: str, by: str = '1') -> Call:
    update = {
        'TableName': table,
        'Key': {KEY: {'S': key}},
        'UpdateExpression': 'ADD Version :by',
        'ExpressionAttributeValues': {':by': {'N': by}},
    }
    return 'transact_write_items', {
        'TransactItems': [{'Update': update}],
        'ClientRequestToken': token,
    }


@pytest.mark.engines(
    'dynamodb-local', 'dynoxide', reason='moto ignores the token'
)
def test_a_transaction_is_not_carried_out_twice(
    comparison: Comparison, table: str
) -> None:
    key, token = uuid.uuid4().hex, uuid.uuid4().hex
    read = Protocol(table, key).get()
    for call in (
        count_call(table, key, token),
        count_call(table, key, token),
        read,
        count_call(table, key, token, by='2'),
        count_call(table, key, uuid.uuid4().hex),
        read,
    ):
        assert comparison.agree(*call)
    assert comparison.simulated.items[key]['Version'] == {'N': '2'}


def test_a_token_is_forgotten_after_ten_minutes() -> None:
    now = [1_000_000.0]
    table = SimulatedTable(clock=lambda: now[0])
    for seconds, count in ((0, '1'), (599, '1'), (2, '2')):
        now[0] += seconds
        table.call(*count_call('t', 'k', 'token'))
        assert table.items['k']['Version'] == {'N': count}


def test_a_condition_check_writes_nothing() -> None:
    on = Protocol('t', 'k')
    table = SimulatedTable()
    table.call('put_item', on.put())
    seen = []
    table.written = lambda *change: seen.append(change)
    check = on.update('', 'Version = :one')
    del check['UpdateExpression']
    actions = [{'ConditionCheck': check}, {'Put': on.put('new')}]
    table.call('transact_write_items', {'TransactItems': actions})
    assert seen == [('new', None, table.items['new'])]


def test_tokens_can_be_ignored() -> None:
    table = SimulatedTable(idempotent=False)
    table.call(*count_call('t', 'k', 'token'))
    table.call(*count_call('t', 'k', 'token'))
    assert table.items['k']['Version'] == {'N': '2'}


# -- what is stored, and how large it is ---------------------------------


def test_items_are_replaced_and_never_shared() -> None:
    table = SimulatedTable()
    seen = []
    table.written = lambda *change: seen.append(change)
    given_item = {KEY: {'S': 'k'}, 'Notes': {'L': [{'S': 'a'}]}}
    table.call('put_item', {'TableName': 't', 'Item': given_item})
    given_item['Notes']['L'].append({'S': 'given'})
    before = table.items['k']
    found = table.call(*Protocol('t', 'k').get())['Item']
    found['Notes']['L'].append({'S': 'found'})
    update = {
        'TableName': 't',
        'Key': {KEY: {'S': 'k'}},
        'UpdateExpression': 'SET Notes = list_append(Notes, :more)',
        'ExpressionAttributeValues': {':more': {'L': [{'S': 'b'}]}},
    }
    table.call('update_item', update)
    after = table.items['k']
    assert before['Notes'] == {'L': [{'S': 'a'}]}
    assert after['Notes'] == {'L': [{'S': 'a'}, {'S': 'b'}]}
    assert seen == [('k', None, before), ('k', before, after)]


def test_unknown_parameters_are_no_silent_success() -> None:
    with pytest.raises(NotImplementedError):
        SimulatedTable().call(
            'delete_item',
            {'TableName': 't', 'Key': {KEY: {'S': 'k'}}, 'Expected': {}},
        )


@EXACT
def test_sizes_and_capacity_are_exact(
    comparison: Comparison, engine: str, table: str
) -> None:
    """Items that just fit into so many units, and those one byte larger."""
    chance = random.Random(1)
    for number in range(100):
        key = uuid.uuid4().hex
        calls = Calls(chance, engine, table, key)
        item = calls.item(key)
        item['SessionItems'] = {'S': ''}
        stored = {name: canonical(value) for name, value in item.items()}
        units = item_size(stored) // 1024 + 1 + number % 5
        for excess in (0, 1):
            length = 1024 * units + excess - item_size(stored)
            item['SessionItems'] = {'S': 'x' * length}
            total = {'ReturnConsumedCapacity': 'TOTAL'}
            put = {'TableName': table, 'Item': item, **total}
            assert comparison.agree('put_item', put)
            read = total | {'ConsistentRead': excess == 0}
            assert comparison.agree(*Protocol(table, key).get(**read))
            reply = comparison.simulated.call('put_item', put)
            capacity = reply['ConsumedCapacity']['CapacityUnits']
            assert capacity == units + excess
        assert comparison.agree('delete_item', calls.on_item | total)


def item_at_limit(excess: int) -> dict[str, Any]:
    """An item of 400 KB and `excess` bytes more."""
    item: dict[str, Any] = {
        KEY: {'S': uuid.uuid4().hex},
        'SessionItems': {'S': ''},
        'Counts': {'NS': ['0', '1.5', '-12.5', '1712345678', '0.001']},
        'Notes': {'L': [{'M': {'ä': {'BOOL': True}}}]},
        'SavedBy': {'SS': ['ä', 'b']},
    }
    missing = ITEM_LIMIT + excess - item_size(item)
    return item | {'SessionItems': {'S': 'x' * missing}}


@pytest.mark.engines(
    'dynamodb-local', 'dynoxide', reason="moto's limit is another"
)
@pytest.mark.parametrize('excess', [0, 1])
def test_an_item_is_put_up_to_400_kb(
    comparison: Comparison, table: str, excess: int
) -> None:
    put = {'TableName': table, 'Item': item_at_limit(excess)}
    assert comparison.agree('put_item', put)
    assert len(comparison.simulated.items) == 1 - excess


@pytest.mark.engines(
    'dynamodb-local',
    reason='dynoxide measures some updates a few bytes too large',
)
@pytest.mark.parametrize('excess', [0, 1])
def test_an_item_is_updated_up_to_400_kb(
    comparison: Comparison, table: str, excess: int
) -> None:
    values = item_at_limit(excess)
    sets = ', '.join(f'{name} = :{name}' for name in values if name != KEY)
    update = {
        'TableName': table,
        'Key': {KEY: values.pop(KEY)},
        'UpdateExpression': f'SET {sets}',
        'ExpressionAttributeValues': {
            f':{name}': value for name, value in values.items()
        },
    }
    assert comparison.agree('update_item', update)
    assert len(comparison.simulated.items) == 1 - excess


# -- the index, and the whole table --------------------------------------

INDEX = Index()


@pytest.fixture(scope='module')
def indexed_table(client: Any) -> Iterator[str]:
    name = f'Owned-{uuid.uuid4().hex[:8]}'
    described = SimulatedTable(index=INDEX).call(
        'describe_table', {'TableName': name}
    )['Table']
    indexes = [
        {key: index[key] for key in ('IndexName', 'KeySchema', 'Projection')}
        for index in described['GlobalSecondaryIndexes']
    ]
    client.create_table(
        TableName=name,
        KeySchema=described['KeySchema'],
        AttributeDefinitions=described['AttributeDefinitions'],
        GlobalSecondaryIndexes=indexes,
        BillingMode='PAY_PER_REQUEST',
    )
    deadline = time.monotonic() + 30
    while not is_active(client.describe_table(TableName=name)['Table']):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield name
    client.delete_table(TableName=name)


def is_active(description: dict[str, Any]) -> bool:
    return (
        all(
            index.get('IndexStatus', 'ACTIVE') == 'ACTIVE'
            for index in description['GlobalSecondaryIndexes']
        )
        and description['TableStatus'] == 'ACTIVE'
    )


def all_pages(
    call: Callable[..., dict[str, Any]], **parameters: Any
) -> dict[str, Any]:
    """The items of all pages by their keys; and that each comes once."""
    found: list[dict[str, Any]] = []
    count = scanned = pages = 0
    while True:
        reply = call(**parameters)
        pages += 1
        scanned += reply['ScannedCount']
        found += reply.get('Items', ())
        count += reply['Count']
        if 'LastEvaluatedKey' not in reply:
            break
        parameters['ExclusiveStartKey'] = reply['LastEvaluatedKey']
    items = {item[KEY]['S']: without_order(item) for item in found}
    assert len(items) == len(found)
    totals = {'count': count, 'scanned': scanned, 'pages': pages}
    return {'items': items, **totals}


@pytest.mark.engines(
    'dynamodb-local',
    'dynoxide',
    reason='after a full last page moto announces no further one',
)
def test_index_and_scan_have_the_same_items(
    client: Any, engine: str, indexed_table: str
) -> None:
    simulated = SimulatedTable(index=INDEX)
    comparison = Comparison(client, engine, simulated)
    chance = random.Random(1)
    owners = ('anna', 'bert', 'carl')
    for _ in range(150):
        on = Protocol(indexed_table, f'k{chance.randrange(20)}')
        owner = {'S': chance.choice(owners)}
        name = owner['S']
        for call in chance.choice(
            (
                [('put_item', on.put(Owner=owner))],
                [
                    (
                        'update_item',
                        on.update(
                            'SET #owner = :name',
                            'attribute_exists(#key)',
                            name=name,
                        ),
                    )
                ],
                [
                    (
                        'update_item',
                        on.update(ENTOMB, '#owner = :name', name=name),
                    )
                ],
                [on.delete_expired()],
            )
        ):
            assert comparison.agree(*call)
    table = {'TableName': indexed_table}
    query = {
        **table,
        'IndexName': INDEX.name,
        'KeyConditionExpression': '#owner = :owner',
        'ExpressionAttributeNames': {'#owner': 'Owner'},
    }
    living = {
        'FilterExpression': 'attribute_not_exists(Ended)',
        'ProjectionExpression': '#key, Expires',
        'ExpressionAttributeNames': {'#key': KEY},
    }
    calls: list[Call] = [
        ('scan', table),
        ('scan', table | {'Limit': 3}),
        ('scan', table | living),
        ('scan', table | living | {'Limit': 3}),
        ('scan', table | {'Select': 'COUNT', 'Limit': 4}),
        ('scan', table | {'IndexName': INDEX.name}),
    ]
    for owner in owners:
        values = {'ExpressionAttributeValues': {':owner': {'S': owner}}}
        calls.append(('query', query | values))
        calls.append(('query', query | values | {'Limit': 2}))
    for operation, parameters in calls:

        def simulate(operation: str = operation, **given: Any) -> Any:
            return simulated.call(operation, given)

        expected = all_pages(getattr(client, operation), **parameters)
        assert all_pages(simulate, **parameters) == expected
        assert expected['count']
    segments = [
        all_pages(
            lambda **given: simulated.call('scan', given),
            **table,
            Segment=segment,
            TotalSegments=3,
        )['count']
        for segment in range(3)
    ]
    assert sum(segments) == len(simulated.items)


@pytest.mark.engines(
    'dynoxide', reason='the others put a key of the wrong type'
)
@pytest.mark.parametrize('owner', [{'N': '1'}, {'S': ''}, {'S': 'anna'}])
def test_keys_of_the_index_are_checked(
    client: Any, engine: str, indexed_table: str, owner: dict[str, str]
) -> None:
    comparison = Comparison(client, engine, SimulatedTable(index=INDEX))
    on = Protocol(indexed_table, uuid.uuid4().hex)
    update = on.update('SET #owner = :owner', 'attribute_not_exists(#key)')
    update['ExpressionAttributeValues'] = {':owner': owner}
    assert comparison.agree('put_item', on.put(Owner=owner))
    on.key = uuid.uuid4().hex
    update['Key'] = {KEY: {'S': on.key}}
    assert comparison.agree('update_item', update)
    assert comparison.agree(*on.get())


@EXACT
def test_capacity_counts_the_index(
    client: Any, engine: str, indexed_table: str
) -> None:
    comparison = Comparison(client, engine, SimulatedTable(index=INDEX))
    on = Protocol(indexed_table, uuid.uuid4().hex)
    total = {'ReturnConsumedCapacity': 'TOTAL'}
    exists = 'attribute_exists(#key)'
    for call in (
        ('put_item', on.put()),
        ('update_item', on.update('SET #owner = :a', exists, a='anna')),
        ('update_item', on.update('SET #owner = :b', exists, b='bert')),
        ('update_item', on.update('SET SessionItems = :items', exists)),
        ('update_item', on.update('SET Expires = :now', exists)),
        ('update_item', on.update(ENTOMB, exists)),
        on.delete_expired(),
    ):
        assert comparison.agree(call[0], call[1] | total)
