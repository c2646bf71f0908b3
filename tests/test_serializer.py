"""The default serializer: plain JSON for plain data, and tags for the rest."""

from __future__ import annotations

import datetime as dt
import enum
import json
import subprocess
import sys
from collections import OrderedDict, defaultdict, namedtuple
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from pyramid.i18n import TranslationString

from pyramid_dynamodb_session.serializer import (
    JSONSerializer,
    UnserializableValue,
    changed_by_storing,
    path_text,
)

# no engine takes part: once is enough
pytestmark = pytest.mark.engines('moto', reason='no engine takes part')

SERIALIZER = JSONSerializer()
BERLIN = ZoneInfo('Europe/Berlin')
UTC = dt.timezone.utc
Point = namedtuple('Point', 'x y')


class Colour(enum.IntEnum):
    RED = 1


class Day(dt.date):
    """A type of a library's that inherits from one that is stored."""


def stored(value: Any) -> str:
    return SERIALIZER.dumps(value).decode()


def there_and_back(value: Any) -> Any:
    return SERIALIZER.loads(SERIALIZER.dumps(value))


# -- plain data -----------------------------------------------------------

plain_keys = st.text(max_size=5) | st.sampled_from(['~', '~~', '~date', '~x'])
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(['~', '"~', '{"~date":"2026-11-21"}']),
    lambda inner: (
        st.lists(inner) | st.dictionaries(plain_keys, inner, max_size=4)
    ),
    max_leaves=20,
)


def is_tag_like(value: Any) -> bool:
    """Whether a dict somewhere in it has to be escaped."""
    if isinstance(value, dict):
        found = len(value) == 1 and next(iter(value)).startswith('~')
        return found or any(map(is_tag_like, value.values()))
    return isinstance(value, list) and any(map(is_tag_like, value))


@settings(max_examples=150, deadline=None)
@given(plain)
def test_plain_data_is_plain_json(value: Any) -> None:
    assert there_and_back(value) == value
    assert changed_by_storing(value) == []
    if is_tag_like(value):
        return
    text = json.dumps(value, ensure_ascii=False, separators=(',', ':'))
    try:
        expected = text.encode()
    except UnicodeEncodeError:
        expected = json.dumps(value, separators=(',', ':')).encode()
    assert SERIALIZER.dumps(value) == expected


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        ({'~date': 'x'}, '{"~~date":"x"}'),
        ({'~~date': {'~': 1}}, '{"~~~date":{"~~":1}}'),
        ([{'~date': 'x', 'b': 1}], '[{"~date":"x","b":1}]'),
        ({'a': ({'~': []},)}, '{"a":[{"~~":[]}]}'),
    ],
)
def test_dict_that_looks_like_a_tag_is_escaped(value: Any, text: str) -> None:
    assert stored(value) == text
    assert there_and_back(value) == json.loads(json.dumps(value))


# -- tags -----------------------------------------------------------------

TAGGED = [
    (
        dt.datetime(2026, 11, 21, 14, 5, 0, 7),
        '{"~datetime":"2026-11-21T14:05:00.000007"}',
    ),
    (
        dt.datetime(2026, 11, 21, 14, 5, tzinfo=UTC),
        '{"~datetime":"2026-11-21T14:05:00+00:00"}',
    ),
    (
        dt.datetime(2026, 7, 1, tzinfo=BERLIN),
        '{"~datetime":"2026-07-01T00:00:00+02:00[Europe/Berlin]"}',
    ),
    (dt.date(2026, 11, 21), '{"~date":"2026-11-21"}'),
    (dt.time(14, 5), '{"~time":"14:05:00"}'),
    (dt.time(14, 5, tzinfo=UTC), '{"~time":"14:05:00+00:00"}'),
    (
        dt.time(14, 5, tzinfo=BERLIN),
        '{"~time":"14:05:00[Europe/Berlin]"}',
    ),
    (dt.timedelta(-1, 2, 3), '{"~timedelta":[-1,2,3]}'),
    (Decimal('12.50'), '{"~decimal":"12.50"}'),
    (
        UUID('12345678-1234-5678-1234-567812345678'),
        '{"~uuid":"12345678-1234-5678-1234-567812345678"}',
    ),
    (b'\x00\xff', '{"~bytes":"AP8="}'),
    ({3, 1, 2}, '{"~set":[1,2,3]}'),
    (frozenset(), '{"~frozenset":[]}'),
    (
        {('b', (1,)), 'a'},
        '{"~set":["a",{"~tuple":["b",{"~tuple":[1]}]}]}',
    ),
]


@pytest.mark.parametrize(('value', 'text'), TAGGED, ids=lambda value: None)
def test_tagged_value_comes_back(value: Any, text: str) -> None:
    assert stored(value) == text
    for found in (there_and_back(value), there_and_back([{'a': value}])[0]):
        back = found['a'] if isinstance(found, dict) else found
        assert back == value
        assert type(back) is type(value)
        assert getattr(back, 'tzinfo', 0) is getattr(value, 'tzinfo', 0)
    # whoever edits it by hand may write it wider
    spaced = json.dumps(json.loads(text), indent=2).encode()
    assert SERIALIZER.loads(spaced) == value


zones = st.sampled_from(
    ['Europe/Berlin', 'UTC', 'Asia/Kathmandu', 'America/New_York']
).map(ZoneInfo)
# whole minutes: datetime.fromisoformat takes one microsecond for none
offsets = st.integers(-1439, 1439).map(
    lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))
)
scalars = st.one_of(
    st.datetimes(),
    st.datetimes(timezones=offsets),
    st.builds(
        lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold),
        st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)),
        zones,
        st.sampled_from([0, 1]),
    ),
    st.dates(),
    st.times(),
    st.times(timezones=offsets),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.binary(),
)
elements = st.recursive(
    scalars | st.integers() | st.text() | st.booleans() | st.none(),
    lambda inner: (
        st.frozensets(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=6,
)
values = st.recursive(
    plain | scalars | st.sets(elements) | st.frozensets(elements),
    lambda inner: (
        st.lists(inner) | st.dictionaries(plain_keys, inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_whatever_can_be_stored_comes_back_as_it_was(value: Any) -> None:
    data = SERIALIZER.dumps(value)
    back = SERIALIZER.loads(data)
    assert back == value
    assert repr_of_types(back) == repr_of_types(value)
    assert SERIALIZER.dumps(back) == data
    assert changed_by_storing(value) == []


def repr_of_types(value: Any) -> Any:
    """The types in a value, but of sets, where equal ones are one."""
    if isinstance(value, dict):
        return {key: repr_of_types(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [repr_of_types(inner) for inner in value]
    fold = value.fold if isinstance(value, dt.datetime) else 0
    zone = getattr(value, 'tzinfo', None)
    # a fold says nothing where there is no zone with summer time
    return (
        type(value),
        zone,
        isinstance(zone, ZoneInfo)
        and fold * (value.replace(fold=0).utcoffset() != value.utcoffset()),
    )


def test_hour_that_comes_twice_and_one_that_does_not_come() -> None:
    twice = dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
    for value in (
        twice,
        twice.replace(fold=1),
        dt.datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN),
    ):
        back = there_and_back(value)
        assert back == value
        assert back.utcoffset() == value.utcoffset()
        assert back.tzinfo is BERLIN


def test_zone_whose_rules_have_changed_keeps_the_moment() -> None:
    data = b'{"~datetime":"2026-07-01T00:00:00+03:00[Europe/Berlin]"}'
    back = SERIALIZER.loads(data)
    assert back == dt.datetime(2026, 6, 30, 21, tzinfo=UTC)
    assert back.tzinfo is BERLIN


@pytest.mark.parametrize('name', ['Mars/Olympus', '../../etc', '\x00', 'ü'])
def test_zone_that_is_not_known_here_leaves_the_offset(name: str) -> None:
    text = f'2026-07-01T00:00:00+02:00[{name}]'
    back = SERIALIZER.loads(json.dumps({'~datetime': text}).encode())
    assert back == dt.datetime(2026, 7, 1, tzinfo=BERLIN)
    assert back.tzinfo == dt.timezone(dt.timedelta(hours=2))


def test_zone_without_a_name_keeps_the_offset() -> None:
    path = Path('/usr/share/zoneinfo/Europe/Berlin')
    if path.exists():
        with path.open('rb') as file:
            zone = ZoneInfo.from_file(file)
    else:
        import tzdata

        path = Path(tzdata.__path__[0]) / 'zoneinfo' / 'Europe' / 'Berlin'
        with path.open('rb') as file:
            zone = ZoneInfo.from_file(file)
    value = dt.datetime(2026, 7, 1, tzinfo=zone)
    assert stored(value) == '{"~datetime":"2026-07-01T00:00:00+02:00"}'


def test_lone_surrogate_besides_a_tag() -> None:
    value = {'a': '\ud800', 'b': dt.date(2026, 11, 21), 'c': {'\ud800', 'd'}}
    assert there_and_back(value) == value


def test_set_is_written_alike_by_all_processes() -> None:
    program = (
        'from pyramid_dynamodb_session.serializer import JSONSerializer\n'
        'words = "set of some words that hashes put in any order".split()\n'
        'print(JSONSerializer().dumps(set(words)))'
    )
    said = {
        subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', program],
            env={'PYTHONHASHSEED': seed, 'PYTHONPATH': ':'.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in '123'
    }
    assert len(said) == 1


@pytest.mark.parametrize(
    'text',
    [
        '{"n":1}{}',
        '{"~unknown":1}',
        '{"~":1}',
        '{"~date":"soon"}',
        '{"~date":5}',
        '{"~datetime":null}',
        '{"~datetime":"2026-13-01"}',
        '{"~time":"25:00"}',
        '{"~timedelta":["a"]}',
        '{"~timedelta":5}',
        '{"~timedelta":[99999999999]}',
        '{"~decimal":"x"}',
        '{"~decimal":{}}',
        '{"~uuid":5}',
        '{"~uuid":"5"}',
        '{"~bytes":"*"}',
        '{"~bytes":5}',
        '{"~set":5}',
        '{"~set":[[]]}',
        '{"~frozenset":[{}]}',
        '{"~tuple":5}',
    ],
)
def test_what_is_no_tag_or_no_json_is_malformed(text: str) -> None:
    with pytest.raises(ValueError):
        SERIALIZER.loads(text.encode())


# -- what can't be stored -------------------------------------------------


class Model:
    """What newcomers put into sessions."""


@pytest.mark.parametrize(
    ('value', 'path', 'type', 'said'),
    [
        (
            {'form': {'user': Model()}},
            ('form', 'user'),
            Model,
            "tests.test_serializer.Model at ['form']['user']: "
            'JSON can not store it',
        ),
        (
            {'a': [1, ({'b': 1j},)]},
            ('a', 1, 0, 'b'),
            complex,
            "complex at ['a'][1][0]['b']: JSON can not store it",
        ),
        (
            {'a': {'b': {(1, 2): 3}}},
            ('a', 'b', (1, 2)),
            tuple,
            "a key of type tuple at ['a']['b'][(1, 2)]: JSON can not store it",
        ),
        (
            {'a': [{2, (3, frozenset([1j]))}]},
            ('a', 0),
            complex,
            "complex at ['a'][0]: JSON can not store it",
        ),
        (
            Model(),
            (),
            Model,
            'tests.test_serializer.Model at the top: JSON can not store it',
        ),
        (
            {'fine': dt.date.max, '~': Model()},
            ('~',),
            Model,
            "tests.test_serializer.Model at ['~']: JSON can not store it",
        ),
    ],
)
def test_error_names_path_and_type(
    value: Any, path: tuple[Any, ...], type: type, said: str
) -> None:
    with pytest.raises(UnserializableValue) as error:
        SERIALIZER.dumps(value)
    assert isinstance(error.value, TypeError)
    assert error.value.path == path
    assert error.value.type is type
    assert error.value.is_key == said.startswith('a key')
    assert str(error.value) == said


def test_error_of_a_value_s_own_making_is_passed_on() -> None:
    class Stubborn(dict[str, int]):
        def items(self) -> Any:
            raise TypeError('mine')

    with pytest.raises(TypeError, match=r'^mine$'):
        SERIALIZER.dumps({'a': [1, {2}], 'b': Stubborn(n=1)})


# -- what is changed in silence -------------------------------------------


@pytest.mark.parametrize(
    ('value', 'paths'),
    [
        ({'a': [1, {2}], 'b': None}, []),
        ({'a': (1, 2)}, [('a',)]),
        ({'a': {1: 'b', 'c': ()}}, [('a', 1), ('a', 'c')]),
        ({1: 'a', '1': 'b'}, [(1,)]),
        ([Markup('<b>'), TranslationString('x')], [(0,), (1,)]),
        ({Markup('a'): 1}, [('a',)]),
        ({'a': OrderedDict(b=1), 'c': defaultdict(int)}, [('a',), ('c',)]),
        ([Point(1, 2), Colour.RED, Day(2026, 1, 1)], [(0,), (1,), (2,)]),
        ([float('nan'), Decimal('nan')], []),
        (
            {'a': {float('inf'): 1, None: 2}},
            [('a', float('inf')), ('a', None)],
        ),
        (dt.time(1, tzinfo=BERLIN), []),
    ],
)
def test_what_storing_changes_is_told(
    value: Any, paths: list[tuple[Any, ...]]
) -> None:
    assert changed_by_storing(value) == paths


class Whole(dt.tzinfo):
    """A zone of another library's, whose rules are not known here."""

    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        # as an hour that comes twice: equal to no time of another zone
        fold = when.fold if when else 0
        return dt.timedelta(hours=2 - fold)

    dst = utcoffset


def test_value_that_is_not_equal_any_more_is_told() -> None:
    value = dt.datetime(2026, 10, 25, 2, 30, tzinfo=Whole())
    assert changed_by_storing({'at': value}) == [('at',)]


def test_what_can_not_be_stored_is_an_error_here_too() -> None:
    with pytest.raises(UnserializableValue):
        changed_by_storing({'a': Model()})


def test_path_is_written_as_in_python() -> None:
    assert path_text(('form', 2, None)) == "['form'][2][None]"


def test_session_within_itself_is_found_before_it_fills_the_memory() -> None:
    """Each level repeats what stands beside it."""
    session: dict[str, Any] = {'text': 'x' * 100_000}
    session['session'] = session
    with pytest.raises(ValueError, match='Circular'):
        JSONSerializer().dumps(session)
