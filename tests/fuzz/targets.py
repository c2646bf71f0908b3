"""The fuzzed decoders: any bytes give a value or a documented error."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import boto3
from botocore.exceptions import ClientError, ResponseStreamingError
from pyramid.request import Request

from pyramid_dynamodb_session.cookie import SESSION_ID, SessionCookie
from pyramid_dynamodb_session.dynamodb._http import read_response
from pyramid_dynamodb_session.dynamodb._replies import (
    BINARY_DECODER,
    ReplyReader,
)
from pyramid_dynamodb_session.dynamodb.calls import ConditionFailed
from pyramid_dynamodb_session.serializer import (
    DECODERS,
    JSONSerializer,
    changed_by_storing,
)
from pyramid_dynamodb_session.settings import FactorySettings
from pyramid_dynamodb_session.store.encryption import Cipher
from pyramid_dynamodb_session.store.expiry import is_unexpired
from pyramid_dynamodb_session.store.item import (
    PAYLOAD_LIMIT,
    CorruptItem,
    ItemCodec,
    LockId,
    ended_session,
)
from pyramid_dynamodb_session.store.outcome import (
    Outcome,
    outcome_of_optimistic,
    outcome_under_lock,
)

ID = 'i' * 43
NAME = 'fuzz-' + 'n' * 43
KEYS = (b'1' * 32, b'2' * 32)
PLAIN = SessionCookie(FactorySettings())
SIGNED = SessionCookie(FactorySettings(secret=('s' * 32, 't' * 32)))
CIPHER = Cipher(KEYS)
SERIALIZER = JSONSerializer()
TAGS = sorted({*DECODERS} - {'~tuple'})
CODECS = (
    ItemCodec(JSONSerializer()),
    ItemCodec(JSONSerializer(), KEYS),
)

READER = ReplyReader(boto3.client('dynamodb', 'us-west-2'), 4)

#: A write that was refused only when it was sent again.
RETRIED = ConditionFailed(ClientError({}, 'UpdateItem'))
#: How the bytes after the first become ``SessionItems``.
WAYS: tuple[Callable[[bytes], dict[str, Any]], ...] = (
    lambda data: {'S': data.decode('utf-8', 'surrogateescape')},
    lambda data: {'B': data},
    lambda data: {'B': zlib.compress(data, 1)},
    lambda data: {'B': CIPHER.encrypt(data, NAME)},
    lambda data: {'B': CIPHER.encrypt(zlib.compress(data, 1), NAME)},
)


def cookie(data: bytes) -> None:
    """Read a ``Cookie`` header: an id, or None, and no id that is forged."""
    request = Request({'HTTP_COOKIE': data.decode('latin-1')})
    for reader in (PLAIN, SIGNED):
        found = reader.read(request)
        assert found is None or SESSION_ID.fullmatch(found)
        assert found is None or reader.is_sent(request)
    assert SIGNED.read(request) in (None, ID)


def item(data: bytes) -> None:
    """Decode a stored item: a session, or CorruptItem."""
    way, rest = data[:1], data[1:]
    if way and way[0] < len(WAYS):
        decode(
            {
                'Ver': {'N': '1'},
                'CreateDate': {'N': '1'},
                'Expires': {'N': '2'},
                'SessionItems': WAYS[way[0]](rest),
            }
        )
        return
    # as a reply has it that nobody has looked into
    try:
        reply = BINARY_DECODER.decode(data.decode())
    except (AttributeError, RecursionError, TypeError, ValueError):
        return
    if isinstance(reply, dict):
        decode(reply)


def serializer(data: bytes) -> None:
    """Read what may be a session: what comes back as it was, or ValueError.

    The first byte chooses whether the rest is read as a tag's value.
    """
    tag, rest = data[:1], data[1:]
    if tag and tag[0] < len(TAGS):
        rest = f'{{"{TAGS[tag[0]]}":'.encode() + rest + b'}'
    try:
        found = SERIALIZER.loads(rest)
        written = SERIALIZER.dumps(found)
    except (RecursionError, ValueError):
        return
    assert SERIALIZER.dumps(SERIALIZER.loads(written)) == written
    # only by hand is there a tuple that is in no set
    if b'tuple' not in data:
        assert changed_by_storing(found) == []


def decode(item: dict[str, Any]) -> None:
    for codec in CODECS:
        try:
            record = codec.record(item, NAME)
        except CorruptItem as error:
            assert len(str(error)) < 100
        else:
            assert isinstance(record.items, dict)
            assert len(record.payload) <= PAYLOAD_LIMIT
            assert len(repr(record)) < 300
    for read in (ended_session, is_unexpired):
        try:
            read(item)
        except CorruptItem:
            pass
    for outcome in (
        outcome_under_lock(RETRIED, item, LockId('token', 3)),
        outcome_of_optimistic(RETRIED, item, 3, 'receipt'),
    ):
        assert isinstance(outcome, Outcome)


def reply(data: bytes) -> None:
    """Read a response and what it says: a reply, or a typed error.

    The first byte says in which pieces the others arrive.
    """
    size, sent = (*data[:1], 0)[0] + 1, data[1:]
    pieces = iter(range(0, len(sent), size))

    def receive() -> bytes:
        start = next(pieces, len(sent))
        return sent[start : start + size]

    try:
        response = read_response(receive(), receive)
    except (ConnectionError, HTTPException):
        return
    assert 200 <= response.status <= 999
    assert response.body in sent or b'chunked' in sent.lower()
    assert all(name == name.lower() for name in response.headers)
    try:
        found = READER.reply('GetItem', response, 0)
    except (ClientError, ResponseStreamingError) as error:
        assert len(str(error)) < len(data) + 200
    else:
        assert found['ResponseMetadata']['HTTPStatusCode'] == 200
