"""A session record <-> a DynamoDB item; nothing here makes a call."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import zlib
from collections.abc import Sequence
from typing import Any

from ..dynamodb.calls import Item
from ..errors import SessionSerializationError, SessionTooLarge
from ..serializer import UnserializableValue, path_text, type_name
from .encryption import Cipher

try:
    # the same format, in a fifth of the time
    from isal.isal_zlib import compress
except ImportError:
    from zlib import compress

#: DynamoDB's limit on an item, in bytes.
ITEM_LIMIT = 400 * 1024
#: The most bytes that a stored session may expand to.
PAYLOAD_LIMIT = 4 * 1024 * 1024
#: How many take-overs, and how many saves, an item remembers.
TAKE_OVERS = 8
RECEIPTS = 16
#: Bytes that ``TakenOver`` and ``SavedBy`` may take; what they don't yet is
#: kept free for them.
RESERVE = 256
#: DynamoDB bills a write by each started KB of the whole item.
WRITE_UNIT = 1024
#: The level of compression. Higher ones save a unit now and then, and take
#: several times as long.
FASTEST = 1
#: No date, timeout or count is as large.
NUMBER_LIMIT = 10**15
#: The record format that this version writes and reads, ``Ver``.
FORMAT = {'N': '1'}


class CorruptItem(Exception):
    """A stored item that is no session; says which attribute is wrong."""


@dataclasses.dataclass(slots=True)
class LockId:
    """Who holds a session: a random token, and the fencing number."""

    token: str
    count: int

    def __str__(self) -> str:
        return f'{self.count}.{self.token}'

    @classmethod
    def parse(cls, lock_id: object) -> LockId:
        """The lock behind an opaque ``lock_id``.

        Behind any other text there is a lock that nobody holds.
        """
        count, _, token = str(lock_id).partition('.')
        is_number = count.isascii() and count.isdigit()
        # no more digits than a number has in DynamoDB
        if token and is_number and len(count) <= 38:
            return cls(token, int(count))
        return cls('nobody', 0)


@dataclasses.dataclass
class SessionRecord:
    """A session as it is stored.

    ``created`` and ``expires`` are seconds since the epoch; ``lock_id`` is
    None unless the record was read with :meth:`get_item_exclusive
    <pyramid_dynamodb_session.DynamoDBSessionStore.get_item_exclusive>`.
    ``timeout`` is the session's own, in seconds, where it has one;
    ``owner`` is the hash under which its owner is stored.
    """

    items: dict[str, Any] = dataclasses.field(repr=False)
    created: int
    expires: int
    lock_id: str | None = dataclasses.field(default=None, repr=False)
    timeout: int | None = None
    version: int = 0
    owner: str | None = dataclasses.field(default=None, repr=False)
    taken_over: list[int] = dataclasses.field(default_factory=list, repr=False)
    receipts: list[str] = dataclasses.field(default_factory=list, repr=False)
    payload: bytes = dataclasses.field(default=b'', repr=False)
    #: ``SessionItems`` as it is stored
    attribute: dict[str, Any] = dataclasses.field(
        default_factory=dict, repr=False
    )
    #: ``SessionItems`` as the vote of a transaction has made it, and of what
    prepared: tuple[Any, dict[str, Any]] | None = dataclasses.field(
        default=None, repr=False
    )


@dataclasses.dataclass(frozen=True)
class EndedSession:
    """A tombstone: the session was removed, or moved to another id.

    ``at`` is when, in seconds since the epoch by DynamoDB's clock.
    """

    at: int


class ItemCodec:
    """Encodes and decodes items as a store does.

    :param keys: those of ``encryption_keys``; none, and nothing is encrypted.
    """

    def __init__(self, serializer: Any, keys: Sequence[bytes] = ()) -> None:
        self._serializer = serializer
        self._cipher = Cipher(keys) if keys else None

    def dumps(self, items: Any) -> bytes:
        """What would be stored.

        Raises :class:`SessionSerializationError` naming the key.
        """
        try:
            return bytes(self._serializer.dumps(items))
        except Exception as error:
            raise self._serialization_error(items, error) from error

    def _serialization_error(
        self, items: Any, error: Exception
    ) -> SessionSerializationError:
        if isinstance(error, UnserializableValue) and error.path:
            key, *inner = error.path
            name = type_name(error.type)
            article = 'an' if name[0] in 'aeiou' else 'a'
            what = 'has a key of type' if error.is_key else f'holds {article}'
            where = f' at {path_text(tuple(inner))}' if inner else ''
            return SessionSerializationError(
                f'session[{key!r}] {what} {name}{where}: '
                'JSON can not store it; store its id, or set a serializer',
                key=key,
            )
        key = self._unserializable(items)
        return SessionSerializationError(
            f'session[{key!r}] can not be serialized: {type(error).__name__}',
            key=key,
        )

    def loads(self, payload: bytes) -> Any:
        """The items in a `payload` that :meth:`dumps` has made."""
        return self._serializer.loads(payload)

    def parts(self, payload: bytes) -> dict[str, bytes]:
        """What each key in a `payload` would be stored as alone."""
        items = self._serializer.loads(payload)
        return {
            str(key): self.dumps({key: value}) for key, value in items.items()
        }

    def differs(self, items: Any, payload: bytes) -> bool:
        """Whether `items` are others than those in `payload`."""
        try:
            dumped = self.dumps(items)
        except SessionSerializationError:
            return True
        if dumped == payload:
            return False
        # some serializers write the same in more than one way
        return dumped != self.dumps(self._serializer.loads(payload))

    def _unserializable(self, items: dict[str, Any]) -> object:
        for key, value in items.items():
            try:
                self._serializer.dumps({key: value})
            except Exception:
                return key
        return None

    def attribute(
        self,
        payload: bytes,
        items: Any,
        name: str,
        overhead: int,
        reserve: int = RESERVE,
    ) -> dict[str, Any]:
        """``SessionItems`` of the item `name`, for `payload`.

        Text, as long as that is no write unit dearer than binary; `overhead`
        is the size of all else in the item, `reserve` what must stay free.
        Raises :class:`SessionTooLarge` with the size and the largest keys.
        """
        if self._cipher is None:
            attribute = smallest(payload, overhead)
        else:
            packed = compress(payload, FASTEST)
            attribute = {'B': self._cipher.encrypt(packed, name)}
        size = overhead + attribute_size(attribute) + reserve
        if size > ITEM_LIMIT or len(payload) > PAYLOAD_LIMIT:
            raise self._too_large(items, size, len(payload))
        return attribute

    def _too_large(
        self, items: dict[str, Any], size: int, expanded: int
    ) -> SessionTooLarge:
        sizes = sorted(
            (
                (str(key), len(self._serializer.dumps({key: value})))
                for key, value in items.items()
            ),
            key=lambda pair: -pair[1],
        )
        largest = tuple(sizes[:3])
        limit = f'{size} bytes in DynamoDB, over its limit of {ITEM_LIMIT}'
        if expanded > PAYLOAD_LIMIT:
            limit = (
                f'{expanded} bytes before compression, over the limit of '
                f'{PAYLOAD_LIMIT}'
            )
        return SessionTooLarge(
            f'the session would take {limit}; its largest keys: '
            + ', '.join(f'{key} ({length} bytes)' for key, length in largest),
            size=size,
            largest=largest,
        )

    def record(self, item: Item, name: str) -> SessionRecord:
        """The session in the stored `item`; CorruptItem if it is none."""
        if item.get('Ver') != FORMAT:
            raise CorruptItem('Ver')
        payload = self._payload(item, name)
        try:
            items = self._serializer.loads(payload)
        except Exception as error:
            raise CorruptItem(
                f'SessionItems ({type(error).__name__})'
            ) from error
        if not isinstance(items, dict):
            raise CorruptItem('SessionItems')
        optional_number(item, 'LockCount')
        return SessionRecord(
            items=items,
            created=whole_number(item, 'CreateDate'),
            expires=whole_number(item, 'Expires'),
            timeout=optional_number(item, 'SessionTimeout'),
            version=optional_number(item, 'Version') or 0,
            owner=optional_text(item, 'Owner'),
            taken_over=taken_over_of(item),
            receipts=receipts_of(item),
            payload=payload,
            attribute=item['SessionItems'],
        )

    def _payload(self, item: Item, name: str) -> bytes:
        """The serializer's output as it went into ``SessionItems``."""
        try:
            ((kind, value),) = item['SessionItems'].items()
            if kind == 'B':
                # bytes() would make as many zeros of a number
                packed = memoryview(value).tobytes()
                return expand(self._decrypted(packed, name))
            if kind == 'S' and self._cipher is None:
                return bytes(value.encode())
        except (AttributeError, KeyError, TypeError, ValueError, zlib.error):
            pass
        raise CorruptItem('SessionItems')

    def _decrypted(self, data: bytes, name: str) -> bytes:
        if self._cipher is None:
            return data
        try:
            return self._cipher.decrypt(data, name)
        except ValueError as error:
            raise CorruptItem(f'SessionItems ({error})') from None


def hash_key(session_id: str, application: str | None) -> str:
    """The provider's ``GetHashKey``, with the id hashed at rest."""
    digest = hashlib.sha256(session_id.encode()).digest()
    hashed = base64.urlsafe_b64encode(digest).rstrip(b'=').decode()
    return f'{application}-{hashed}' if application else hashed


def belongs_to(application: str | None, name: str) -> bool:
    """Whether an item of this `name` is one of the `application`'s.

    One whose own name only begins alike is another.
    """
    if application is None:
        return True
    length = len(hash_key('', application))
    return name.startswith(f'{application}-') and len(name) == length


def smallest(payload: bytes, overhead: int) -> dict[str, Any]:
    """Text, or binary where that saves a write unit or text can't be."""
    size = overhead + len(payload)
    text = as_text(payload)
    if text is not None and size <= WRITE_UNIT:
        return {'S': text}
    packed = compress(payload, FASTEST)
    saves = write_units(overhead + len(packed)) < write_units(size)
    if text is None or saves:
        return {'B': packed}
    return {'S': text}


def as_text(payload: bytes) -> str | None:
    """Text, when `payload` is some; DynamoDB may refuse an empty one."""
    try:
        return payload.decode() or None
    except UnicodeDecodeError:
        return None


def expand(packed: bytes) -> bytes:
    """Decompress, within bounds: a few KB may claim to be gigabytes."""
    stream = zlib.decompressobj()
    payload = stream.decompress(packed, PAYLOAD_LIMIT)
    if not stream.eof or stream.unused_data:
        raise ValueError('truncated, trailed by something, or too large')
    return payload


def number(value: float) -> dict[str, str]:
    return {'N': str(int(value))}


def whole_number(item: Item, name: str) -> int:
    try:
        value = int(item[name]['N'])
    except (KeyError, OverflowError, TypeError, ValueError):
        raise CorruptItem(name) from None
    if not 0 <= value < NUMBER_LIMIT:
        raise CorruptItem(name)
    return value


def optional_number(item: Item, name: str) -> int | None:
    return whole_number(item, name) if name in item else None


def ended_session(item: Item) -> EndedSession:
    return EndedSession(whole_number(item, 'Ended'))


def optional_text(item: Item, name: str) -> str | None:
    if name not in item:
        return None
    text = item[name].get('S')
    if not isinstance(text, str):
        raise CorruptItem(name)
    return text


def receipts_of(item: Item) -> list[str]:
    """The receipts of the last saves, the newest first."""
    if 'SavedBy' not in item:
        return []
    return (optional_text(item, 'SavedBy') or '').split()


def taken_over_of(item: Item) -> list[int]:
    """The counts of the last locks taken over, the newest first."""
    if 'TakenOver' not in item:
        return []
    counts = (optional_text(item, 'TakenOver') or '').split()
    try:
        return [int(count) for count in counts]
    except ValueError:
        raise CorruptItem('TakenOver') from None


def remembered(
    newest: Any, earlier: Sequence[Any], most: int
) -> dict[str, str]:
    """The attribute that lists the `newest` and what came `earlier`."""
    return {'S': ' '.join(map(str, [newest, *earlier][:most]))}


def write_units(size: int) -> int:
    return math.ceil(size / WRITE_UNIT)


def item_size(item: Item) -> int:
    """Bytes as DynamoDB counts them: names and values, UTF-8.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    return sum(
        len(name.encode()) + attribute_size(attribute)
        for name, attribute in item.items()
    )


def attribute_size(attribute: dict[str, Any]) -> int:
    ((kind, value),) = attribute.items()
    if kind == 'N':
        return math.ceil(len(value) / 2) + 1
    return len(value.encode() if kind == 'S' else value)
