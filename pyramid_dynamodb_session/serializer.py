"""JSON, compact: how a session's items become bytes unless told otherwise.

What JSON has no word for is stored as an object with a single key that
begins with ``~``, its tag: ``{"~date":"2026-11-21"}``.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

DECODER = json.JSONDecoder()

#: The keys and indexes that lead to a value.
Path = tuple[Any, ...]

#: What a tag begins with: a character that is rare, and found at once.
MARK = '~'


class UnserializableValue(TypeError):
    """JSON can't store a value.

    ``path`` are the keys and indexes that lead to the value from what was to
    be serialized, ``type`` is the value's type. ``is_key`` tells that it is
    the key of a dict that can't be stored, which is the last of the path.
    """

    def __init__(self, path: Path, type: type, is_key: bool = False) -> None:
        what = 'a key of type ' if is_key else ''
        super().__init__(
            f'{what}{type_name(type)} at {path_text(path)}: '
            'JSON can not store it'
        )
        self.path = path
        self.type = type
        self.is_key = is_key


class JSONSerializer:
    """Pyramid's serializer contract over the standard library's JSON.

    Besides what JSON has, these come back as what they were: datetime, date,
    time, timedelta, Decimal, UUID, bytes, set and frozenset. A datetime comes
    back with its ``ZoneInfo``; of any other time zone with the offset.

    Text is kept as UTF-8, so that it is small, and readable in the AWS
    console; only what UTF-8 can't say (lone surrogates) is escaped.
    """

    def __repr__(self) -> str:
        return 'JSONSerializer()'

    def dumps(self, obj: Any) -> bytes:
        """Serialize.

        Raises :class:`UnserializableValue` for a type that can't be stored,
        ValueError or RecursionError for a value within itself.
        """
        try:
            return encode(obj, UTF8_ENCODER).encode()
        except UnicodeEncodeError:
            return encode(obj, ASCII_ENCODER).encode()

    def loads(self, data: bytes) -> Any:
        """Deserialize; ValueError when malformed."""
        text = data.decode()
        if MARK in text and f'"{MARK}' in text:
            return decode(text, TAG_DECODER)
        return decode(text)


def decode(text: str, decoder: json.JSONDecoder = DECODER) -> Any:
    """As ``decoder.decode``, which takes longer over what is short."""
    text = text.strip()
    found, end = decoder.raw_decode(text)
    if end != len(text):
        raise ValueError(f'more than JSON: {len(text) - end} characters')
    return found


def encode(obj: Any, encoder: json.JSONEncoder) -> str:
    try:
        text = encoder.encode(obj)
        if MARK in text and f'{{"{MARK}' in text:
            # tags of ours, and maybe dicts that look like them
            text = encoder.encode(escaped(obj))
    except TypeError as error:
        for path, value, is_key in unserializable(obj, ()):
            raise UnserializableValue(path, type(value), is_key) from error
        raise
    return text


def escaped(obj: Any) -> Any:
    """A copy in which no dict looks like a tag: its key has a mark more."""
    if isinstance(obj, dict):
        if len(obj) == 1:
            ((key, value),) = obj.items()
            if isinstance(key, str) and key.startswith(MARK):
                return {MARK + key: escaped(value)}
        return {key: escaped(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [escaped(value) for value in obj]
    return obj


# -- tags -----------------------------------------------------------------


def zoned(text: str, zone: datetime.tzinfo | None) -> str:
    """ISO 8601 with the name of the zone, as RFC 9557 has it."""
    if isinstance(zone, ZoneInfo) and zone.key:
        return f'{text}[{zone.key}]'
    return text


def split_zone(text: str) -> tuple[str, ZoneInfo | None]:
    """ISO 8601, and the zone if one is named that this machine knows."""
    text, _, name = text.partition('[')
    try:
        return text, ZoneInfo(name.rstrip(']')) if name else None
    except (KeyError, OSError, ValueError):
        return text, None


def encode_datetime(value: datetime.datetime) -> str:
    return zoned(datetime.datetime.isoformat(value), value.tzinfo)


def decode_datetime(text: str) -> datetime.datetime:
    text, zone = split_zone(text)
    value = datetime.datetime.fromisoformat(text)
    if zone is None:
        return value
    for fold in (0, 1):
        local = value.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == value.utcoffset():
            return local
    # the rules of the zone have changed, and the moment stays
    return value.astimezone(zone)


def encode_time(value: datetime.time) -> str:
    return zoned(datetime.time.isoformat(value), value.tzinfo)


def decode_time(text: str) -> datetime.time:
    text, zone = split_zone(text)
    value = datetime.time.fromisoformat(text)
    return value if zone is None else value.replace(tzinfo=zone)


def encode_timedelta(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def encode_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def encode_set(value: set[Any] | frozenset[Any]) -> list[Any]:
    """The elements, in an order that does not depend on the process."""
    return sorted(map(encode_element, value), key=UTF8_ENCODER.encode)


def encode_element(value: Any) -> Any:
    """A tuple in a set stays one: a list can't be in a set."""
    if isinstance(value, tuple):
        return {'~tuple': [encode_element(element) for element in value]}
    return value


#: Type, tag, and what makes JSON of a value and the value of JSON.
TAGS: tuple[
    tuple[type, str, Callable[[Any], Any], Callable[[Any], Any]], ...
] = (
    # before date, whose subclass it is
    (datetime.datetime, '~datetime', encode_datetime, decode_datetime),
    (
        datetime.date,
        '~date',
        datetime.date.isoformat,
        datetime.date.fromisoformat,
    ),
    (datetime.time, '~time', encode_time, decode_time),
    (
        datetime.timedelta,
        '~timedelta',
        encode_timedelta,
        lambda parts: datetime.timedelta(*parts),
    ),
    (Decimal, '~decimal', Decimal.__str__, Decimal),
    (UUID, '~uuid', UUID.__str__, UUID),
    (
        bytes,
        '~bytes',
        encode_bytes,
        lambda text: base64.b64decode(text, validate=True),
    ),
    (set, '~set', encode_set, set),
    (frozenset, '~frozenset', encode_set, frozenset),
)
DECODERS: dict[str, Callable[[Any], Any]] = {
    **{tag: decode for _, tag, _, decode in TAGS},
    '~tuple': tuple,
}


def tagged(value: Any) -> dict[str, Any]:
    """What JSON has no word for, as an object; TypeError if unknown."""
    for kind, tag, encode, _ in TAGS:
        if isinstance(value, kind):
            return {tag: encode(value)}
    raise TypeError(type_name(type(value)))


def untagged(found: dict[str, Any]) -> Any:
    """The value of a tag; any other object as it is, or was."""
    if len(found) != 1:
        return found
    ((key, value),) = found.items()
    if not key.startswith(MARK):
        return found
    if key.startswith(MARK * 2):
        return {key[1:]: value}
    try:
        return DECODERS[key](value)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f'a tag that is none: {key!r}') from error


UTF8_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(',', ':'), default=tagged
)
ASCII_ENCODER = json.JSONEncoder(separators=(',', ':'), default=tagged)
TAG_DECODER = json.JSONDecoder(object_hook=untagged)


# -- what is not stored, or not as it is ----------------------------------


def unserializable(obj: Any, path: Path) -> Iterator[tuple[Path, Any, bool]]:
    """Where values are that can't be stored; which, and whether a key."""
    if isinstance(obj, dict):
        for key, value in dict.items(obj):
            if not isinstance(key, (str, int, float, type(None))):
                yield (*path, key), key, True
            yield from unserializable(value, (*path, key))
    elif isinstance(obj, (list, tuple)):
        for index, value in enumerate(obj):
            yield from unserializable(value, (*path, index))
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            # an element has no index
            for _, culprit, is_key in unserializable(value, ()):
                yield path, culprit, is_key
    elif not isinstance(obj, STORED):
        yield path, obj, False


STORED: tuple[type, ...] = (
    *(str, int, float, type(None)),
    *(kind for kind, *_ in TAGS),
)


def changed_by_storing(obj: Any) -> list[Path]:
    """Where values are that :class:`JSONSerializer` changes in silence.

    Keys that are no text become text, tuples lists, and what inherits from
    such a type, as ``Markup`` does, becomes a plain one. Of these, and of
    whatever else does not come back equal, the paths from `obj` on.

    Raises what :meth:`JSONSerializer.dumps` raises.
    """
    serializer = JSONSerializer()
    return list(changes(obj, serializer.loads(serializer.dumps(obj)), ()))


def changes(one: Any, other: Any, path: Path) -> Iterator[Path]:
    """The paths to what has changed from `one` to `other`."""
    if type(one) is not type(other):
        yield path
    elif isinstance(one, dict):
        kinds = {key: type(key) for key in other}
        for key, value in one.items():
            if kinds.get(key) is type(key):
                yield from changes(value, other[key], (*path, key))
            else:
                yield (*path, key)
    elif isinstance(one, list):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from changes(*pair, (*path, index))
    elif one != other and (one == one or other == other):
        # but for what differs from itself, as NaN does
        yield path


def path_text(path: Path) -> str:
    """A path as it is written behind a name: ``['form'][2]``."""
    return ''.join(f'[{key!r}]' for key in path) or 'the top'


def type_name(type: type) -> str:
    """The name by which a type is imported; a built-in one's alone."""
    if type.__module__ == 'builtins':
        return type.__qualname__
    return f'{type.__module__}.{type.__qualname__}'
