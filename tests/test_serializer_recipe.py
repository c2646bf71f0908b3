"""The serializer on the documentation's page of items: JSON by orjson."""

from __future__ import annotations

import datetime
import enum
import math
from collections import OrderedDict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_dynamodb_session.serializer import (
    JSONSerializer,
    UnserializableValue,
)
from tests.support.docs_pages import ROOT, Page

UUID_ONE = UUID(int=1)
SAME = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.frozensets(st.integers(0, 99)),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.text('~', min_size=1), inner)
    ),
    max_leaves=12,
)


class Color(enum.Enum):
    RED = 'red'


@pytest.fixture(scope='module')
def orjson_serializer() -> Iterator[Any]:
    yield Page(ROOT / 'docs' / 'item.rst').run().OrjsonSerializer()


@settings(deadline=None, max_examples=300)
@given(value=SAME)
def test_values_come_back_whichever_serializer_reads_them(
    orjson_serializer: Any, value: Any
) -> None:
    usual = JSONSerializer()
    session = {'value': value}
    written = orjson_serializer.dumps(session)
    for serializer in (usual, orjson_serializer):
        assert serializer.loads(written) == session
    assert orjson_serializer.loads(usual.dumps(session)) == session


def test_what_orjson_has_no_word_for_keeps_its_type(
    orjson_serializer: Any,
) -> None:
    value = [
        {'~date': 'text'},
        {1, 2},
        b'bytes',
        Decimal('1.50'),
        datetime.date(2026, 11, 21),
    ]
    found = orjson_serializer.loads(orjson_serializer.dumps(value))
    assert found == value
    assert list(map(type, found)) == list(map(type, value))


@pytest.mark.parametrize(
    'value, found',
    [
        (UUID_ONE, str(UUID_ONE)),
        ({'id': UUID_ONE}, {'id': str(UUID_ONE)}),
        (Color.RED, 'red'),
        (math.nan, None),
        (-math.inf, None),
        (2**70, float(2**70)),
        ((1, 2), [1, 2]),
        ({1: 'a'}, {'1': 'a'}),
        (OrderedDict(a=1), {'a': 1}),
    ],
    ids=repr,
)
def test_what_comes_back_as_something_else(
    orjson_serializer: Any, value: Any, found: Any
) -> None:
    back = orjson_serializer.loads(orjson_serializer.dumps(value))
    assert back == found
    assert type(back) is type(found)


def test_what_can_not_be_stored_is_told_as_before(
    orjson_serializer: Any,
) -> None:
    with pytest.raises(UnserializableValue) as error:
        orjson_serializer.dumps({'a': [object()]})
    assert error.value.path == ('a', 0)


@pytest.mark.parametrize('data', [b'', b'{', b'{} {}', b'\xff'], ids=repr)
def test_what_is_malformed_is_a_value_error(
    orjson_serializer: Any, data: bytes
) -> None:
    with pytest.raises(ValueError):
        orjson_serializer.loads(data)
