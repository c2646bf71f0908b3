"""The simulated table and the engine under test give the same answers."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.attribute_values import SETS, canonical
from tests.simulation.table import Refused, SimulatedTable

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
    'moto': (),
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
