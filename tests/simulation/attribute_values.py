"""DynamoDB's attribute values in their one canonical wire form, and sizes."""

from __future__ import annotations

import decimal
import functools
from typing import Any

Value = dict[str, Any]
Item = dict[str, Value]

#: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
NUMBER_DIGITS = 38
EXACT = decimal.Context(prec=10_000, Emax=99_999, Emin=-99_999)
LARGEST = 125
SMALLEST = -130

SETS = {'SS', 'NS', 'BS'}
ORDERED = {'S', 'N', 'B'}
DOCUMENTS = {'L', 'M'}
TYPES = ORDERED | SETS | DOCUMENTS | {'BOOL', 'NULL'}


class Invalid(Exception):
    """What DynamoDB answers with a ``ValidationException``."""


def canonical(value: Value) -> Value:
    """A copy of a value as DynamoDB stores it; equal values are ``==``.

    Raises :class:`Invalid`.
    """
    if len(value) != 1:
        raise Invalid(
            'Supplied AttributeValue has more than one datatypes set, or none'
        )
    ((kind, content),) = value.items()
    if kind == 'S':
        return {'S': content}
    if kind == 'N':
        return {'N': canonical_number(content)}
    if kind == 'B':
        return {'B': bytes(content)}
    if kind in SETS:
        return {kind: canonical_set(kind, content)}
    if kind == 'L':
        return {'L': [canonical(element) for element in content]}
    if kind == 'M':
        return {'M': {name: canonical(each) for name, each in content.items()}}
    if kind == 'NULL' and content is not True:
        raise Invalid(
            'One or more parameter values were invalid: Null attribute value '
            'types must have the value of true'
        )
    if kind not in TYPES:
        raise Invalid('Supplied AttributeValue is empty')
    return {kind: content}


def canonical_number(text: str) -> str:
    if text.isdigit() and text.isascii() and len(text) <= NUMBER_DIGITS:
        return text.lstrip('0') or '0' if text[0] == '0' else text
    try:
        number = EXACT.create_decimal(text)
    except decimal.InvalidOperation:
        number = decimal.Decimal('NaN')
    if not number.is_finite():
        raise Invalid(
            'The parameter cannot be converted to a numeric value: ' + text
        )
    return number_text(number)


def number_text(number: decimal.Decimal) -> str:
    """Plain digits without needless zeros. Raises :class:`Invalid`."""
    if not number:
        return '0'
    number = number.normalize(EXACT)
    if number.adjusted() > LARGEST:
        raise Invalid(
            'Number overflow. Attempting to store a number with '
            'magnitude larger than supported range'
        )
    if number.adjusted() < SMALLEST:
        raise Invalid(
            'Number underflow. Attempting to store a number with '
            'magnitude smaller than supported range'
        )
    if len(number.as_tuple().digits) > NUMBER_DIGITS:
        raise Invalid(
            'Attempting to store more than 38 significant digits in a Number'
        )
    return format(number, 'f')


def canonical_set(kind: str, elements: list[Any]) -> list[Any]:
    if not elements:
        raise Invalid(
            'One or more parameter values were invalid: An string set may '
            'not be empty'
        )
    if kind == 'NS':
        elements = [canonical_number(each) for each in elements]
    elif kind == 'BS':
        elements = [bytes(each) for each in elements]
    return sorted_set(kind, elements)


def sorted_set(kind: str, elements: list[Any]) -> list[Any]:
    unique = set(elements)
    if len(unique) != len(elements):
        raise Invalid(
            'One or more parameter values were invalid: Input collection '
            'contains duplicates.'
        )
    return sorted(unique, key=decimal.Decimal if kind == 'NS' else None)


def kind_of(value: Value) -> str:
    return next(iter(value))


def number_of(text: str) -> decimal.Decimal | int:
    """A number that compares fast where it is short and whole."""
    return int(text) if text.isdigit() else decimal.Decimal(text)


def add_numbers(first: str, second: str, sign: int = 1) -> str:
    """The sum, or the difference, of two canonical numbers."""
    if (
        len(first) < NUMBER_DIGITS > len(second)
        and first.isdigit()
        and second.isdigit()
    ):
        return str(int(first) + sign * int(second))
    other = decimal.Decimal(second)
    if sign < 0:
        other = other.copy_negate()
    return number_text(EXACT.add(decimal.Decimal(first), other))


def copied(item: Item) -> Item:
    """A copy of which nothing is shared that a caller could change."""
    return {name: copied_value(value) for name, value in item.items()}


def copied_value(value: Value) -> Value:
    ((kind, content),) = value.items()
    if kind in SETS:
        return {kind: content.copy()}
    if kind == 'L':
        return {kind: [copied_value(element) for element in content]}
    if kind == 'M':
        return {kind: copied(content)}
    return {kind: content}


def item_size(item: Item) -> int:
    """Bytes as DynamoDB counts them.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    size = 0
    for name, value in item.items():
        size += text_size(name) + value_size(value)
    return size


def value_size(value: Value) -> int:
    ((kind, content),) = value.items()
    if kind == 'S':
        return text_size(content)
    if kind == 'N':
        return number_size(content)
    if kind == 'B':
        return len(content)
    if kind == 'SS':
        return sum(map(text_size, content))
    if kind == 'NS':
        return sum(map(number_size, content))
    if kind == 'BS':
        return sum(map(len, content))
    if kind == 'L':
        return 3 + sum(1 + value_size(element) for element in content)
    if kind == 'M':
        return 3 + sum(
            1 + text_size(name) + value_size(element)
            for name, element in content.items()
        )
    return 1


def text_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


@functools.lru_cache(maxsize=4096)
def number_size(text: str) -> int:
    """A byte for each pair of digits, one more, and one for a sign.

    Pairs are counted from the decimal point: 1.5 has two.
    """
    whole, _, fraction = text.lstrip('-').partition('.')
    if len(whole) % 2:
        whole = '0' + whole
    digits = whole + fraction
    first = len(digits) - len(digits.lstrip('0'))
    last = len(digits.rstrip('0'))
    pairs = (last + 1) // 2 - first // 2 if last else 0
    return 1 + pairs + text.startswith('-')
