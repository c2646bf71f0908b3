"""DynamoDB's expressions, each parsed once and compiled into functions.

Of document paths only the names of top-level attributes are known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from moto.dynamodb.parsing.reserved_keywords import ReservedKeywords

from tests.simulation.attribute_values import (
    DOCUMENTS,
    ORDERED,
    SETS,
    TYPES,
    Invalid,
    Item,
    Value,
    add_numbers,
    kind_of,
    number_of,
    sorted_set,
)

Values = dict[str, Value]
Test = Callable[[Item, Values], bool]
Getter = Callable[[Item, Values], 'Value | None']
Check = Callable[[Values], None]
T = TypeVar('T')

TOKEN = re.compile(
    r'\s*(?:([A-Za-z][A-Za-z0-9_]*)|(#[A-Za-z0-9_]+)|(:[A-Za-z0-9_]+)'
    r'|(<=|>=|<>|[=<>(),+\-])|(\S))'
)
#: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ReservedWords.html
RESERVED_WORDS = frozenset(ReservedKeywords.get_reserved_keywords())
SECTIONS = ('SET', 'REMOVE', 'ADD', 'DELETE')
KEYWORDS = {'AND', 'OR', 'NOT', 'BETWEEN', 'IN', *SECTIONS}
COMPARATORS = {'=', '<>', '<', '<=', '>', '>='}
PREDICATES = {
    'attribute_exists': 1,
    'attribute_not_exists': 1,
    'attribute_type': 2,
    'begins_with': 2,
    'contains': 2,
}
INCORRECT_TYPE = (
    'An operand in the update expression has an incorrect data type'
)
NO_SUCH_ATTRIBUTE = (
    'The provided expression refers to an attribute that does not exist in '
    'the item'
)


class Operand(NamedTuple):
    """An attribute, a given value, or what a function makes of them."""

    kind: str
    text: str
    get: Getter


@dataclass
class Uses:
    """What an expression refers to, and asks of the types of its values."""

    names: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    checks: list[Check] = field(default_factory=list)


@dataclass
class Condition:
    """A condition; `equality` is its attribute and value if it is one."""

    holds: Test
    uses: Uses
    equality: tuple[str, str] | None = None


@dataclass
class Update:
    """An update; `apply` makes a new item of one that it leaves alone."""

    apply: Callable[[Item, Values], Item]
    paths: tuple[str, ...]
    uses: Uses


@dataclass
class Projection:
    paths: tuple[str, ...]
    uses: Uses


def parse_condition(text: str, names: dict[str, str]) -> Condition:
    """Compile a condition or filter. Raises :class:`Invalid`."""
    return ConditionParser(text, names).parse()


def parse_update(text: str, names: dict[str, str]) -> Update:
    """Compile an update expression. Raises :class:`Invalid`."""
    return UpdateParser(text, names).parse()


def parse_projection(text: str, names: dict[str, str]) -> Projection:
    """Compile a projection expression. Raises :class:`Invalid`."""
    return ProjectionParser(text, names).parse()


# -- parsing -------------------------------------------------------------


class Token(NamedTuple):
    kind: str
    text: str


def tokens(text: str) -> Iterator[Token]:
    for match in TOKEN.finditer(text):
        word, name, value, symbol, other = match.groups()
        if other in ('.', '['):
            raise NotImplementedError(f'a nested path: {text}')
        if other is not None:
            raise Invalid(f'Syntax error; token: "{other}"')
        if word is not None:
            is_keyword = word.upper() in KEYWORDS
            yield Token(
                'keyword' if is_keyword else 'word',
                word.upper() if is_keyword else word,
            )
        elif name is not None:
            yield Token('name', name)
        elif value is not None:
            yield Token('value', value)
        else:
            yield Token('symbol', symbol)


class Parser:
    """What the kinds of expressions have in common."""

    def __init__(self, text: str, names: dict[str, str]) -> None:
        self._tokens = [*tokens(text), Token('end', '<EOF>')]
        self._position = 0
        self._names = names
        self.uses = Uses()
        if len(self._tokens) == 1:
            raise Invalid('The expression can not be empty;')

    @property
    def token(self) -> Token:
        return self._tokens[self._position]

    @property
    def next_token(self) -> Token:
        return self._tokens[min(self._position + 1, len(self._tokens) - 1)]

    def take(self) -> Token:
        token = self.token
        self._position += 1
        return token

    def accept(self, text: str) -> bool:
        if self.token.kind in ('keyword', 'symbol') and (
            self.token.text == text
        ):
            self._position += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail()

    def expect_end(self) -> None:
        if self.token.kind != 'end':
            self.fail()

    def fail(self) -> Any:
        raise Invalid(f'Syntax error; token: "{self.token.text}"')

    def separated(self, parse: Callable[[], T]) -> list[T]:
        """What stands between commas."""
        found = [parse()]
        while self.accept(','):
            found.append(parse())
        return found

    def path(self) -> str:
        token = self.take()
        if token.kind == 'word':
            if token.text.upper() in RESERVED_WORDS:
                raise Invalid(
                    'Attribute name is a reserved keyword; reserved keyword: '
                    + token.text
                )
            return token.text
        if token.kind != 'name':
            self._position -= 1
            self.fail()
        self.uses.names.add(token.text)
        if token.text not in self._names:
            raise Invalid(
                'An expression attribute name used in the document path is '
                f'not defined; attribute name: {token.text}'
            )
        return self._names[token.text]

    def value(self) -> str:
        if self.token.kind != 'value':
            self.fail()
        name = self.take().text
        self.uses.values.add(name)
        return name

    def path_or_value(self) -> Operand:
        if self.token.kind == 'value':
            name = self.value()
            return Operand('value', name, given(name))
        name = self.path()
        return Operand('path', name, attribute(name))

    def require(
        self, operand: Operand, kinds: set[str], function: str
    ) -> None:
        """Have the type of an operand checked that no item decides."""
        name = operand.text

        def check_kind(kind: str) -> None:
            if kind not in kinds:
                raise Invalid(
                    'Incorrect operand type for operator or function; '
                    f'operator or function: {function}, operand type: {kind}'
                )

        if operand.kind == 'size':
            check_kind('N')
        elif operand.kind == 'value':
            self.uses.checks.append(
                lambda values: check_kind(kind_of(values[name]))
            )


class ConditionParser(Parser):
    def parse(self) -> Condition:
        self.equality: tuple[str, str] | None = None
        self.comparisons = 0
        holds = self.disjunction()
        self.expect_end()
        equality = self.equality if self.comparisons == 1 else None
        return Condition(holds, self.uses, equality)

    def disjunction(self) -> Test:
        holds = self.conjunction()
        while self.accept('OR'):
            holds = either(holds, self.conjunction())
        return holds

    def conjunction(self) -> Test:
        holds = self.negation()
        while self.accept('AND'):
            holds = both(holds, self.negation())
        return holds

    def negation(self) -> Test:
        if self.accept('NOT'):
            self.comparisons += 1
            return negated(self.negation())
        return self.primary()

    def primary(self) -> Test:
        self.comparisons += 1
        if self.token == Token('symbol', '('):
            return self.parenthesized()
        if self.token.text in PREDICATES and self.next_token.text == '(':
            return self.predicate()
        return self.comparison()

    def parenthesized(self) -> Test:
        self.take()
        start = self._position
        holds = self.disjunction()
        self.expect(')')
        if self.is_wrapped(start, self._position - 2):
            raise Invalid('The expression has redundant parentheses;')
        return holds

    def is_wrapped(self, first: int, last: int) -> bool:
        """Whether one pair of parentheses goes round all these tokens."""
        depth = 0
        for position in range(first, last + 1):
            text = self._tokens[position].text
            depth += (text == '(') - (text == ')')
            if depth == 0:
                return self._tokens[first].text == '(' and position == last
        return False

    def predicate(self) -> Test:
        function = self.take().text
        self.expect('(')
        operands = self.separated(self.operand)
        self.expect(')')
        if len(operands) != PREDICATES[function]:
            raise Invalid(
                'Incorrect number of operands for operator or function; '
                f'operator or function: {function}, '
                f'number of operands: {len(operands)}'
            )
        self.require_distinct(function, operands)
        return getattr(self, function)(*operands)  # type: ignore[no-any-return]

    def operand(self) -> Operand:
        if self.token.text == 'size' and self.next_token.text == '(':
            self.take()
            self.expect('(')
            sized = self.operand()
            self.expect(')')
            if sized.kind == 'size':
                raise Invalid(
                    'The function is not allowed to be used this '
                    'way in an expression; function: size'
                )
            self.require(sized, SETS | DOCUMENTS | {'S', 'B'}, 'size')
            text = f'size({sized.text})'
            return Operand('size', text, size_getter(sized.get))
        if self.token.kind == 'word' and self.next_token.text == '(':
            raise Invalid(
                f'Invalid function name; function: {self.token.text}'
            )
        return self.path_or_value()

    def comparison(self) -> Test:
        first = self.operand()
        token = self.take()
        if token.kind == 'symbol' and token.text in COMPARATORS:
            return self.compared(first, token.text, self.operand())
        if token == Token('keyword', 'BETWEEN'):
            low = self.operand()
            self.expect('AND')
            return self.between(first, low, self.operand())
        if token == Token('keyword', 'IN'):
            self.expect('(')
            choices = self.separated(self.operand)
            self.expect(')')
            return self.among(first, choices)
        self._position -= 1
        return self.fail()  # type: ignore[no-any-return]

    def compared(self, first: Operand, sign: str, second: Operand) -> Test:
        self.require_distinct(sign, [first, second])
        if sign == '=' and (first.kind, second.kind) == ('path', 'value'):
            self.equality = first.text, second.text
            return equal_to_value(first.text, second.text)
        if sign not in ('=', '<>'):
            self.require(first, ORDERED, sign)
            self.require(second, ORDERED, sign)
        return COMPARISONS[sign](first.get, second.get)

    def between(self, operand: Operand, low: Operand, high: Operand) -> Test:
        self.require_distinct('BETWEEN', [operand, low, high])
        for each in (operand, low, high):
            self.require(each, ORDERED, 'BETWEEN')
        if low.kind == high.kind == 'value':
            self.uses.checks.append(bounds_check(low.text, high.text))
        return both(
            at_least(operand.get, low.get), at_most(operand.get, high.get)
        )

    def among(self, operand: Operand, choices: list[Operand]) -> Test:
        self.require_distinct('IN', [operand, *choices])
        if len(choices) > 100:
            raise Invalid('Invalid number of operands; IN: at most 100')
        getters = [choice.get for choice in choices]

        def holds(item: Item, values: Values) -> bool:
            found = operand.get(item, values)
            return found is not None and any(
                found == get(item, values) for get in getters
            )

        return holds

    def require_distinct(self, function: str, operands: list[Operand]) -> None:
        first, *rest = operands
        if any(each[:2] == first[:2] for each in rest):
            raise Invalid(
                'The first operand must be distinct from the remaining '
                f'operands for this operator or function; operator: '
                f'{function}, first operand: [{first.text}]'
            )

    def require_path(self, function: str, operand: Operand) -> str:
        if operand.kind != 'path':
            raise Invalid(
                'Operator or function requires a document path; operator or '
                f'function: {function}'
            )
        return operand.text

    def attribute_exists(self, operand: Operand) -> Test:
        name = self.require_path('attribute_exists', operand)
        return lambda item, values: name in item

    def attribute_not_exists(self, operand: Operand) -> Test:
        name = self.require_path('attribute_not_exists', operand)
        return lambda item, values: name not in item

    def attribute_type(self, operand: Operand, kind: Operand) -> Test:
        get = operand.get
        self.require_path('attribute_type', operand)
        if kind.kind != 'value':
            raise Invalid('attribute_type requires a value')
        self.require(kind, {'S'}, 'attribute_type')
        name = kind.text

        def check(values: Values) -> None:
            if values[name]['S'] not in TYPES:
                raise Invalid(
                    'Invalid attribute type name found; type: '
                    f'{values[name]["S"]}'
                )

        def holds(item: Item, values: Values) -> bool:
            found = get(item, values)
            return found is not None and kind_of(found) == values[name]['S']

        self.uses.checks.append(check)
        return holds

    def begins_with(self, operand: Operand, start: Operand) -> Test:
        for each in (operand, start):
            self.require(each, {'S', 'B'}, 'begins_with')

        def holds(item: Item, values: Values) -> bool:
            found = operand.get(item, values)
            wanted = start.get(item, values)
            if found is None or wanted is None:
                return False
            kind = kind_of(found)
            return (
                kind in ('S', 'B')
                and kind in wanted
                and found[kind].startswith(wanted[kind])
            )

        return holds

    def contains(self, operand: Operand, element: Operand) -> Test:
        self.require(operand, SETS | {'S', 'B', 'L'}, 'contains')

        def holds(item: Item, values: Values) -> bool:
            found = operand.get(item, values)
            wanted = element.get(item, values)
            if found is None or wanted is None:
                return False
            return is_contained(wanted, found)

        return holds


class UpdateParser(Parser):
    def parse(self) -> Update:
        self.sets: list[tuple[str, Getter]] = []
        self.removed: list[str] = []
        self.added: list[tuple[str, str]] = []
        self.deleted: list[tuple[str, str]] = []
        seen: set[str] = set()
        while self.token.kind == 'keyword':
            section = self.take().text
            if section not in SECTIONS:
                self._position -= 1
                self.fail()
            if section in seen:
                raise Invalid(
                    f'The "{section}" section can only be used once in an '
                    'update expression;'
                )
            seen.add(section)
            self.separated(getattr(self, f'parse_{section.lower()}'))
        self.expect_end()
        return Update(self.applied(), self.distinct_paths(), self.uses)

    def distinct_paths(self) -> tuple[str, ...]:
        paths = [
            *(name for name, _ in self.sets),
            *self.removed,
            *(name for name, _ in self.added),
            *(name for name, _ in self.deleted),
        ]
        if len(set(paths)) != len(paths):
            raise Invalid(
                'Two document paths overlap with each other; must remove or '
                'rewrite one of these paths;'
            )
        return tuple(paths)

    def parse_set(self) -> None:
        name = self.path()
        self.expect('=')
        first = self.operand()
        if self.accept('+'):
            get = self.arithmetic('+', first, self.operand())
        elif self.accept('-'):
            get = self.arithmetic('-', first, self.operand())
        else:
            get = existing(first.get)
        self.sets.append((name, get))

    def parse_remove(self) -> None:
        self.removed.append(self.path())

    def parse_add(self) -> None:
        self.added.append(self.path_and_value('ADD', SETS | {'N'}))

    def parse_delete(self) -> None:
        self.deleted.append(self.path_and_value('DELETE', SETS))

    def path_and_value(self, section: str, kinds: set[str]) -> tuple[str, str]:
        name, value = self.path(), self.value()
        self.require(Operand('value', value, given(value)), kinds, section)
        return name, value

    def operand(self) -> Operand:
        if self.token.kind == 'word' and self.next_token.text == '(':
            function = self.take().text
            self.expect('(')
            if function == 'if_not_exists':
                operand = self.if_not_exists()
            elif function == 'list_append':
                operand = self.list_append()
            else:
                raise Invalid(f'Invalid function name; function: {function}')
            self.expect(')')
            return operand
        return self.path_or_value()

    def if_not_exists(self) -> Operand:
        if self.token.kind == 'value':
            raise Invalid(
                'Operator or function requires a document path; operator or '
                'function: if_not_exists'
            )
        name = self.path()
        self.expect(',')
        default = self.operand()

        def get(item: Item, values: Values) -> Value | None:
            return item[name] if name in item else default.get(item, values)

        return Operand('function', 'if_not_exists', get)

    def list_append(self) -> Operand:
        first = self.operand()
        self.expect(',')
        second = self.operand()
        for each in (first, second):
            self.require(each, {'L'}, 'list_append')
        start, end = existing(first.get), existing(second.get)

        def get(item: Item, values: Values) -> Value:
            one, other = start(item, values), end(item, values)
            if 'L' not in one or 'L' not in other:  # type: ignore[operator]
                raise Invalid(INCORRECT_TYPE)
            return {'L': one['L'] + other['L']}  # type: ignore[index]

        return Operand('function', 'list_append', get)

    def arithmetic(self, sign: str, first: Operand, second: Operand) -> Getter:
        for each in (first, second):
            self.require(each, {'N'}, sign)
        start, end = existing(first.get), existing(second.get)
        factor = 1 if sign == '+' else -1

        def get(item: Item, values: Values) -> Value:
            one, other = start(item, values), end(item, values)
            if 'N' not in one or 'N' not in other:  # type: ignore[operator]
                raise Invalid(INCORRECT_TYPE)
            return {'N': add_numbers(one['N'], other['N'], factor)}  # type: ignore[index]

        return get

    def applied(self) -> Callable[[Item, Values], Item]:
        sets, removed = tuple(self.sets), tuple(self.removed)
        added, deleted = tuple(self.added), tuple(self.deleted)

        def apply(item: Item, values: Values) -> Item:
            new = item.copy()
            for name, get in sets:
                new[name] = get(item, values)  # type: ignore[assignment]
            for name in removed:
                new.pop(name, None)
            for name, value in added:
                new[name] = sum_of(item.get(name), values[value])
            for name, value in deleted:
                if name in item:
                    rest = difference(item[name], values[value])
                    if rest is None:
                        del new[name]
                    else:
                        new[name] = rest
            return new

        return apply


class ProjectionParser(Parser):
    def parse(self) -> Projection:
        paths = self.separated(self.path)
        self.expect_end()
        if len(set(paths)) != len(paths):
            raise Invalid('Two document paths overlap with each other;')
        return Projection(tuple(paths), self.uses)


# -- what the functions are made of --------------------------------------


def attribute(name: str) -> Getter:
    return lambda item, values: item.get(name)


def given(name: str) -> Getter:
    return lambda item, values: values[name]


def existing(get: Getter) -> Getter:
    """The same, of attributes that must be there."""

    def getter(item: Item, values: Values) -> Value | None:
        found = get(item, values)
        if found is None:
            raise Invalid(NO_SUCH_ATTRIBUTE)
        return found

    return getter


def size_getter(get: Getter) -> Getter:
    def getter(item: Item, values: Values) -> Value | None:
        found = get(item, values)
        if found is None:
            return None
        ((kind, content),) = found.items()
        if kind in ('N', 'BOOL', 'NULL'):
            return None
        # of texts as Java counts them: in UTF-16
        if kind == 'S' and not content.isascii():
            return {'N': str(len(content.encode('utf-16-le')) // 2)}
        return {'N': str(len(content))}

    return getter


def either(first: Test, second: Test) -> Test:
    return lambda item, values: first(item, values) or second(item, values)


def both(first: Test, second: Test) -> Test:
    return lambda item, values: first(item, values) and second(item, values)


def negated(holds: Test) -> Test:
    return lambda item, values: not holds(item, values)


def equal_to_value(name: str, value: str) -> Test:
    return lambda item, values: item.get(name) == values[value]


def equal(first: Getter, second: Getter) -> Test:
    def holds(item: Item, values: Values) -> bool:
        found = first(item, values)
        return found is not None and found == second(item, values)

    return holds


def unequal(first: Getter, second: Getter) -> Test:
    is_equal = equal(first, second)
    return lambda item, values: not is_equal(item, values)


def ordering(
    compare: Callable[[Any, Any], bool],
) -> Callable[[Getter, Getter], Test]:
    def ordered(first: Getter, second: Getter) -> Test:
        def holds(item: Item, values: Values) -> bool:
            one, other = first(item, values), second(item, values)
            if one is None or other is None:
                return False
            kind = kind_of(one)
            if kind not in other or kind not in ORDERED:
                return False
            if kind == 'N':
                return compare(number_of(one['N']), number_of(other['N']))
            return compare(one[kind], other[kind])

        return holds

    return ordered


at_least = ordering(lambda one, other: one >= other)
at_most = ordering(lambda one, other: one <= other)
COMPARISONS: dict[str, Callable[[Getter, Getter], Test]] = {
    '=': equal,
    '<>': unequal,
    '<': ordering(lambda one, other: one < other),
    '<=': at_most,
    '>': ordering(lambda one, other: one > other),
    '>=': at_least,
}


def bounds_check(low: str, high: str) -> Check:
    in_order = at_most(given(low), given(high))

    def check(values: Values) -> None:
        if kind_of(values[low]) != kind_of(values[high]):
            raise Invalid(
                'The BETWEEN operator requires same data type for lower and '
                'upper bounds'
            )
        if not in_order({}, values):
            raise Invalid(
                'The BETWEEN operator requires upper bound to be greater '
                'than or equal to lower bound'
            )

    return check


def is_contained(wanted: Value, found: Value) -> bool:
    ((kind, content),) = found.items()
    if kind == 'L':
        return wanted in content
    if kind in SETS:
        return kind[0] in wanted and wanted[kind[0]] in content
    return kind in ('S', 'B') and kind in wanted and wanted[kind] in content


def sum_of(old: Value | None, value: Value) -> Value:
    """What ``ADD`` makes of an attribute."""
    if old is None:
        return value
    kind = kind_of(value)
    if kind not in old:
        raise Invalid(INCORRECT_TYPE)
    if kind == 'N':
        return {'N': add_numbers(old['N'], value['N'])}
    return {kind: sorted_set(kind, list({*old[kind], *value[kind]}))}


def difference(old: Value, value: Value) -> Value | None:
    """What ``DELETE`` leaves of a set; None for nothing."""
    kind = kind_of(value)
    if kind not in old:
        raise Invalid(INCORRECT_TYPE)
    rest = [each for each in old[kind] if each not in value[kind]]
    return {kind: rest} if rest else None
