"""The transport `direct`: the same replies and errors as boto3's."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import random
import socket
import threading
import time
import types
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import boto3
import botocore.endpoint
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from pyramid_dynamodb_session.dynamodb import _http, _retries, direct
from pyramid_dynamodb_session.dynamodb.direct import DirectClient
from tests.support.aws import ACCESS_KEY, SECRET_KEY
from tests.support.proxy import (
    LOSE_REPLY,
    RESET,
    FaultProxy,
    error,
    hang,
    malformed,
)
from tests.support.wire import Request, Wire, answer

CREDENTIALS = Credentials(ACCESS_KEY, SECRET_KEY, 'token')
KEY = {'SessionId': {'S': 'a'}}
REQUEST_ID = 'x-amzn-requestid'


def boto3_client(url: str, region: str = 'us-west-2', **config: Any) -> Any:
    config = {
        'connect_timeout': 0.5,
        'read_timeout': 5,
        'retries': {'mode': 'standard', 'total_max_attempts': 3},
        'user_agent': 'test/1',
    } | config
    return boto3.client(
        'dynamodb',
        endpoint_url=url,
        region_name=region,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(**config),
    )


def direct_client(
    url: str,
    credentials: Any = CREDENTIALS,
    ca_bundle: str | None = None,
    **config: Any,
) -> DirectClient:
    return DirectClient(boto3_client(url, **config), credentials, ca_bundle)


def get(client: Any) -> Any:
    return client.get_item(TableName='sessions', Key=KEY)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been slept between attempts."""
    pauses: list[float] = []
    clock = types.SimpleNamespace(sleep=pauses.append)
    monkeypatch.setattr(direct, 'time', clock)
    monkeypatch.setattr(botocore.endpoint, 'time', clock)
    return pauses


# The same as boto3, on a real engine


BINARY = {
    'Blob': {'B': b'\x00\xff' * 50},
    'Blobs': {'BS': [b'one', b'\xfe']},
    'Nested': {'M': {'B': {'B': b'deep'}, 'BS': {'L': [{'B': b''}]}}},
}
TEXT = {
    'Text': {'S': '"B":"eA==" Größe 日本 \u2028 \\ 🍪'},
    'B': {'S': 'eA=='},
    'BS': {'SS': ['x', 'y']},
    'Other': {
        'M': {'B': {'S': 'eA=='}, 'N': {'N': '1.5'}, 'T': {'NULL': True}}
    },
}


def outcomes(client: Any, table: str, key: str) -> Iterator[Any]:
    """Every operation, and what comes of it."""
    Key = {'SessionId': {'S': key}}
    never = {
        'ConditionExpression': 'attribute_not_exists(SessionId)',
        'ReturnValuesOnConditionCheckFailure': 'ALL_OLD',
    }

    def call(operation: str, **parameters: Any) -> Any:
        try:
            reply = getattr(client, operation)(**parameters)
        except ClientError as failed:
            exceptions = client.exceptions
            reply = copy.deepcopy(failed.response)
            reply['kind'] = type(failed)
            reply['known'] = isinstance(
                failed,
                (
                    exceptions.ConditionalCheckFailedException,
                    exceptions.TransactionCanceledException,
                    exceptions.ResourceNotFoundException,
                ),
            )
            reply['text'] = str(failed)
        metadata = reply.pop('ResponseMetadata')
        # an invention of older motos, which boto3 leaves out
        reply.pop('ConsumedCapacityUnits', None)
        return reply, metadata['HTTPStatusCode'], metadata['RetryAttempts']

    def item(operation: str, **parameters: Any) -> Any:
        return call(operation, TableName=table, Key=Key, **parameters)

    yield item('get_item', ConsistentRead=True)
    for attributes in (TEXT, TEXT | BINARY):
        Item = Key | attributes
        yield call('put_item', TableName=table, Item=Item)
        yield call('put_item', TableName=table, Item=Item, **never)
        yield item('get_item', ReturnConsumedCapacity='TOTAL')
        yield item(
            'update_item',
            UpdateExpression='SET Extra = :e, #b = :b ADD Runs :one',
            ExpressionAttributeNames={'#b': 'B'},
            ExpressionAttributeValues={
                ':e': {'B': b'\x01\x02'},
                ':b': {'S': 'é'},
                ':one': {'N': '1'},
            },
            ReturnValues='ALL_NEW',
        )
        yield item('update_item', UpdateExpression='REMOVE Extra', **never)
        yield call(
            'transact_write_items',
            TransactItems=[
                {'Put': {'TableName': table, 'Item': Item, **never}},
                {
                    'Delete': {
                        'TableName': table,
                        'Key': {'SessionId': {'S': '-'}},
                    }
                },
            ],
        )
        yield call(
            'transact_write_items',
            TransactItems=[{'Put': {'TableName': table, 'Item': Item}}],
        )
        yield item('delete_item', **never)
        yield item('delete_item', ReturnValues='ALL_OLD')
        yield item('delete_item')
    yield item('get_item', ProjectionExpression='((')
    yield call('get_item', TableName='no-such-table', Key=Key)


def test_replies_and_errors_are_those_of_boto3(
    endpoint: str, table: str, application: str
) -> None:
    client = direct_client(endpoint)
    ours = list(outcomes(client, table, application))
    theirs = list(outcomes(boto3_client(endpoint), table, application))
    assert ours == theirs
    kinds = [reply.get('kind') for reply, *_ in ours]
    # moto passes a malformed projection
    assert sum(kind is not None for kind in kinds) >= 9


def test_everything_else_is_the_boto3_clients(
    endpoint: str, table: str
) -> None:
    boto = boto3_client(endpoint)
    client = DirectClient(boto, CREDENTIALS)
    assert client.meta is boto.meta
    assert client.describe_table(TableName=table)['Table']
    with pytest.raises(AttributeError):
        client.no_such_operation  # noqa: B018


@pytest.mark.parametrize(
    'canned',
    [
        answer(b'{"__type":"a.b#Odd","message":"m"}', '400 Bad Request'),
        answer(
            b'{"__type":"x#ThrottlingException","Message":"m"}',
            '400 Bad Request',
            'x-amzn-RequestId: R1',
        ),
        answer(b'<html>bad gateway</html>', '502 Bad Gateway'),
        answer(b'upstream is away', '503 Service Unavailable'),
        answer(b'', '500 Internal Server Error'),
        answer(b'too much', '413 Too Large'),
        pytest.param(
            answer(b'{"message":"slow"}', '429 Too Many'),
            # older ones repeat it
            marks=pytest.mark.recent_botocore,
        ),
        answer(b'', '302 Found', 'Location: /elsewhere'),
    ],
)
def test_odd_errors_are_those_of_boto3(
    wire: Wire, pauses: list[float], canned: bytes
) -> None:
    wire.answers = [canned]
    errors, attempts = [], []
    for client in (direct_client(wire.url), boto3_client(wire.url)):
        with pytest.raises(ClientError) as caught:
            get(client)
        errors.append((str(caught.value), caught.value.response))
        attempts.append(len(wire.requests))
    assert errors[0] == errors[1]
    assert attempts[1] == 2 * attempts[0]


# What goes over the wire


def botocore_signature(request: Request, url: str, credentials: Any) -> str:
    authorization = request.headers['authorization']
    scope, signed = authorization.split('Credential=')[1].split(
        ', SignedHeaders='
    )
    names = signed.split(', ')[0].split(';')
    again = AWSRequest(
        'POST',
        url,
        headers={name: request.headers[name] for name in names},
        data=request.body,
    )
    again.context['timestamp'] = request.headers['x-amz-date']
    signer = SigV4Auth(credentials, 'dynamodb', scope.split('/')[2])
    to_sign = signer.string_to_sign(again, signer.canonical_request(again))
    return signer.signature(to_sign, again)


@pytest.mark.parametrize('path', ['', '/', '/db', '/a%20b/%C3%A4/', '/x~y-z/'])
@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost'])
@pytest.mark.parametrize('with_token', [False, True])
def test_the_signature_is_botocores(
    wire: Wire, path: str, host: str, with_token: bool
) -> None:
    dice = random.Random(f'{path} {host} {with_token}')
    secret = ''.join(dice.choices('xyz+/:=', k=40))
    token = ''.join(dice.choices('ab+/=', k=300)) if with_token else None
    credentials = Credentials('AKID', secret, token)
    url = f'http://{host}:{wire.port}{path}'
    region = dice.choice(['us-west-2', 'eu-central-1', 'local'])
    client = direct_client(url, credentials, region=region)
    for _ in range(5):
        noise = ''.join(map(chr, dice.choices(range(1, 0xD7FF), k=90)))
        client.put_item(TableName=noise, Item={'S': {'S': noise}})
        client.put_item(
            TableName='sessions', Item={'B': {'B': dice.randbytes(99)}}
        )

    assert len(wire.requests) == 10
    for request in wire.requests:
        authorization = request.headers['authorization']
        assert request.headers['host'] == f'{host}:{wire.port}'
        assert request.headers.get('x-amz-security-token') == token
        assert f'/{region}/dynamodb/aws4_request' in authorization
        assert authorization.endswith(
            'Signature=' + botocore_signature(request, url, credentials)
        )
        signed = authorization.split('SignedHeaders=')[1].split(',')[0]
        assert signed == (
            'content-type;host;x-amz-date;x-amz-security-token;x-amz-target'
            if with_token
            else 'content-type;host;x-amz-date;x-amz-target'
        )


def test_the_body_is_boto3s(wire: Wire) -> None:
    parameters: dict[str, Any] = {
        'TableName': 'sessions',
        'Key': KEY,
        'UpdateExpression': 'SET a = :a, b = :b, c = :c',
        'ExpressionAttributeValues': {
            ':a': {'B': b'\x00\xff'},
            ':b': {'BS': [b'a', bytearray(b'b')]},
            ':c': {'M': {'L': {'L': [{'B': b'x'}, {'S': '\ud800 é'}]}}},
        },
    }
    for client in (direct_client(wire.url), boto3_client(wire.url)):
        client.update_item(**parameters)
    ours, theirs = wire.requests
    assert json.loads(ours.body) == json.loads(theirs.body)
    for name in ('content-type', 'x-amz-target'):
        assert ours.headers[name] == theirs.headers[name]
    assert ours.headers['user-agent'].startswith('test/1')
    assert ours.headers['user-agent'] == theirs.headers['user-agent']


def test_a_transaction_gets_one_token_for_all_attempts(
    wire: Wire, pauses: list[float]
) -> None:
    wire.answers = [answer(b'', '500 Oops'), answer()]
    client = direct_client(wire.url)
    client.transact_write_items(TransactItems=[])
    client.transact_write_items(TransactItems=[])
    client.transact_write_items(TransactItems=[], ClientRequestToken='mine')
    tokens = [
        json.loads(request.body)['ClientRequestToken']
        for request in wire.requests
    ]
    assert tokens[0] == tokens[1] != tokens[2]
    assert len(tokens[0]) == 36
    assert tokens[3] == 'mine'


def test_a_long_request_does_not_wait_for_a_go_ahead(wire: Wire) -> None:
    direct_client(wire.url).put_item(
        TableName='sessions', Item={'S': 'x' * 1_200_000}
    )
    (request,) = wire.requests
    assert 'expect' not in request.headers
    assert len(request.body) > 1_200_000


def test_connections_are_kept(wire: Wire) -> None:
    client = direct_client(wire.url)
    for _ in range(3):
        get(client)
    assert {request.connection for request in wire.requests} == {1}


def test_headers_are_those_of_the_reply(wire: Wire) -> None:
    odd = answer(b'{"Item":{}}', '200 OK', 'X-Odd:  a: b ')
    wire.answers = [odd, answer()]
    client = direct_client(wire.url)
    assert headers(get(client)) == {'content-length': '11', 'x-odd': 'a: b'}
    assert headers(get(client)) == {'content-length': '2'}


def headers(reply: dict[str, Any]) -> Any:
    return reply['ResponseMetadata']['HTTPHeaders']


@pytest.mark.parametrize(
    'stored, found',
    [
        ('{"B":"eA=="}', {'B': b'x'}),
        ('{"BS":["eA==","eQ=="]}', {'BS': [b'x', b'y']}),
        ('{ "BS" : [ "eA==" ] }', {'BS': [b'x']}),
        (r'{"S":"{\"B\":\"eA==\"}"}', {'S': '{"B":"eA=="}'}),
    ],
)
def test_binary_values_are_decoded_and_text_is_not(
    stored: str, found: Any, wire: Wire
) -> None:
    wire.answers = [answer(f'{{"Item":{{"a":{stored}}}}}'.encode())]
    assert get(direct_client(wire.url))['Item'] == {'a': found}


# What goes wrong on the way


def add_one(client: Any, table: str, key: str) -> Any:
    return client.update_item(
        TableName=table,
        Key={'SessionId': {'S': key}},
        UpdateExpression='ADD Runs :one',
        ExpressionAttributeValues={':one': {'N': '1'}},
        ReturnValues='ALL_NEW',
    )


def test_a_lost_reply_is_asked_for_again(
    proxy: FaultProxy, table: str, application: str
) -> None:
    proxy.inject(LOSE_REPLY)
    reply = add_one(direct_client(proxy.url), table, application)
    assert reply['Attributes']['Runs'] == {'N': '2'}
    assert reply['ResponseMetadata']['RetryAttempts'] == 1
    assert proxy.operations == ['UpdateItem', 'UpdateItem']


@pytest.mark.parametrize(
    'fault',
    [
        RESET,
        error(500, 'InternalServerError'),
        error(503, 'ServiceUnavailable'),
        error(400, 'ThrottlingException'),
        error(400, 'ProvisionedThroughputExceededException'),
        error(400, 'RequestLimitExceeded'),
        error(400, 'TransactionInProgressException'),
        malformed(b'{"Item":{"SessionI'),
        malformed(b''),
    ],
    ids=lambda fault: f'{fault.name}-{fault.reply and fault.reply.body[:50]}',
)
def test_a_passing_fault_is_not_noticed(
    proxy: FaultProxy, table: str, application: str, fault: Any
) -> None:
    client = direct_client(proxy.url)
    add_one(client, table, application)
    proxy.clear()
    proxy.inject(fault, times=2)
    reply = add_one(client, table, application)
    assert reply['Attributes']['Runs'] == {'N': '2'}
    assert reply['ResponseMetadata']['RetryAttempts'] == 2
    assert len(proxy.calls) == 3


def test_a_failed_condition_is_not_repeated(
    proxy: FaultProxy, table: str
) -> None:
    client = direct_client(proxy.url)
    with pytest.raises(client.exceptions.ConditionalCheckFailedException):
        client.delete_item(
            TableName=table,
            Key={'SessionId': {'S': 'nobody'}},
            ConditionExpression='attribute_exists(SessionId)',
        )
    assert proxy.operations == ['DeleteItem']


def test_throttling_ends_with_the_last_attempt(
    proxy: FaultProxy, table: str
) -> None:
    proxy.inject(error(400, 'ThrottlingException'), times=math.inf)
    with pytest.raises(ClientError, match='reached max retries: 2') as caught:
        add_one(direct_client(proxy.url), table, 'a')
    assert caught.value.response['Error']['Code'] == 'ThrottlingException'
    assert len(proxy.calls) == 3


def test_a_refused_connection(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(EndpointConnectionError, match=proxy.url):
        get(direct_client(proxy.url))
    proxy.accept()


def test_an_unknown_host() -> None:
    retries = {'total_max_attempts': 1}
    client = direct_client('http://no.invalid', retries=retries)
    with pytest.raises(EndpointConnectionError, match=r'no\.invalid'):
        get(client)


def test_silence(proxy: FaultProxy) -> None:
    proxy.inject(hang(10), times=math.inf)
    client = direct_client(proxy.url, connect_timeout=0.05, read_timeout=0.05)
    with pytest.raises(ReadTimeoutError, match=proxy.url):
        get(client)


def test_silence_on_a_kept_connection(wire: Wire) -> None:
    client = direct_client(wire.url, connect_timeout=0.05, read_timeout=0.05)
    get(client)
    release = threading.Event()
    wire.hook = release.wait
    with pytest.raises(ReadTimeoutError):
        get(client)
    release.set()


def test_nobody_accepts() -> None:
    with socket.socket() as full:
        full.bind(('127.0.0.1', 0))
        full.listen(0)
        address = full.getsockname()
        crowd = [socket.socket() for _ in range(3)]
        for each in crowd:
            each.setblocking(False)
            each.connect_ex(address)
        url = f'http://127.0.0.1:{address[1]}'
        client = direct_client(url, connect_timeout=0.05)
        started = time.monotonic()
        with pytest.raises(ConnectTimeoutError, match=url):
            get(client)
        assert time.monotonic() - started < 3
        for each in crowd:
            each.close()


@pytest.mark.parametrize(
    ('canned', 'kind'),
    [
        (b'', ConnectionClosedError),
        (
            answer(b'{}', '200 OK', 'Connection: close').replace(
                b': 2', b': 9'
            ),
            ConnectionClosedError,
        ),
        (b'SSH-2.0-x\r\nConnection: close\r\n\r\n', HTTPClientError),
        (answer(b'[]'), ResponseStreamingError),
        (answer(b'null'), ResponseStreamingError),
        (answer(b'{}', '200 OK', 'x-amz-crc32: 1'), ResponseStreamingError),
        (answer(b'{}', '200 OK', 'x-amz-crc32: x'), ResponseStreamingError),
        (answer(b'{"Item":{"B":"x"}}'), ResponseStreamingError),
        (answer(b'\xff', '200 OK'), ResponseStreamingError),
        (answer(b'[' * 100_000, '200 OK'), ResponseStreamingError),
        (answer(b'{}', '204 No Content')[:-2], ResponseStreamingError),
        (answer(b'\xff', '400 Bad Request'), ResponseStreamingError),
        (answer(b'[]', '400 Bad Request'), ResponseStreamingError),
    ],
)
def test_what_is_no_reply_is_an_error(
    wire: Wire, pauses: list[float], canned: bytes, kind: type[Exception]
) -> None:
    wire.answers = [canned]
    with pytest.raises(HTTPClientError) as caught:
        get(direct_client(wire.url))
    assert type(caught.value) is kind
    assert len(pauses) == 2


def test_the_checksum_is_of_the_body(wire: Wire) -> None:
    body = b'{"Item":{"S":{"S":"text"}}}'
    crc = f'x-amz-crc32: {zlib.crc32(body)}'
    wire.answers = [answer(body, '200 OK', crc)]
    assert get(direct_client(wire.url))['Item'] == {'S': {'S': 'text'}}


@pytest.mark.parametrize(
    'earlier',
    [
        b'',
        b'HTTP/1.1 100 Continue\r\nx-amz-crc32: 7\r\n\r\n',
        b'HTTP/1.1 103 Early Hints\r\nx-amzn-requestid: not me\r\n\r\n',
    ],
)
@pytest.mark.parametrize('end', [b'\r\n', b'\n'])
def test_headers_are_the_last_ones(
    wire: Wire, earlier: bytes, end: bytes
) -> None:
    crc = f'X-AMZ-CRC32:{zlib.crc32(b"{}")} '
    canned = answer(
        b'{}', '200 OK', 'Server: \xe9', crc, 'x-amzn-RequestId: I'
    )
    wire.answers = [earlier + canned.replace(b'\r\n', end)]
    metadata = get(direct_client(wire.url))['ResponseMetadata']
    assert metadata['RequestId'] == metadata['HTTPHeaders'][REQUEST_ID] == 'I'
    assert metadata['HTTPHeaders']['content-length'] == '2'
    assert 'x-amz-crc32' in metadata['HTTPHeaders']
    assert len(metadata['HTTPHeaders']) == 4
    assert "'server': " in repr(metadata['HTTPHeaders'])


def test_a_reply_is_not_read_without_end(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, 'LONGEST_REPLY', 1000)
    body = b'{"Item":{"S":{"S":""}}}'.ljust(1000)
    wire.answers = [answer(body), answer(body + b' ')]
    client = direct_client(wire.url, retries={'total_max_attempts': 1})
    assert get(client)['Item']
    with pytest.raises(HTTPClientError):
        get(client)
    # one that doesn't say how long it will be
    chunk = b'%x\r\n%b\r\n' % (len(body), body)
    wire.answers = [
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b%b' % ends
        for ends in ((chunk, b'0\r\n\r\n'), (chunk, chunk))
    ]
    assert get(client)['Item']
    with pytest.raises(HTTPClientError):
        get(client)


# Pauses and limits of retrying


def test_pauses_grow_and_are_jittered(
    wire: Wire, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.answers = [answer(b'', '500 Oops')]
    spans: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        spans.append((low, high))
        return high

    monkeypatch.setattr(_retries.random, 'uniform', uniform)
    client = direct_client(wire.url, retries={'total_max_attempts': 8})
    with pytest.raises(ClientError):
        get(client)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1, 1]
    assert all(low == 0 for low, _ in spans)


def test_retry_after_is_honoured(wire: Wire, pauses: list[float]) -> None:
    in_three_seconds = datetime.now(timezone.utc) + timedelta(seconds=3.9)
    date = format_datetime(in_three_seconds, usegmt=True)
    wire.answers = [
        answer(b'', '503 Busy', 'Retry-After: 2'),
        answer(b'', '503 Busy', f'Retry-After: {date}'),
        answer(),
    ]
    get(direct_client(wire.url))
    assert pauses[0] == 2
    assert 2 <= pauses[1] <= 4


@pytest.mark.parametrize(
    ('header', 'least'),
    [
        ('x-amz-retry-after: 1500', 1.5),
        ('x-amz-retry-after: soon', 0),
        ('Retry-After: soon', 0),
        ('Retry-After: -3', 0),
        ('Retry-After: Sun, 30 Aug 99999 12:36:00 GMT', 0),
        ('Retry-After: Sun, 30 Aug 2015 12:36:00 GMT', 0),
    ],
)
def test_a_pause_that_the_server_asks_for(
    wire: Wire, pauses: list[float], header: str, least: float
) -> None:
    wire.answers = [answer(b'', '503 Busy', header), answer()]
    get(direct_client(wire.url))
    (pause,) = pauses
    assert least <= pause <= least + 0.05


def test_a_long_retry_after_is_for_the_caller(
    wire: Wire, pauses: list[float]
) -> None:
    wire.answers = [answer(b'', '503 Busy', 'Retry-After: 60')]
    with pytest.raises(ClientError) as caught:
        get(direct_client(wire.url))
    headers = caught.value.response['ResponseMetadata']['HTTPHeaders']
    assert headers['retry-after'] == '60'
    assert pauses == []


def test_a_store_that_is_down_is_not_stormed(
    wire: Wire, pauses: list[float]
) -> None:
    wire.answers = [answer(b'', '500 Oops')]
    client = direct_client(wire.url, retries={'total_max_attempts': 300})
    with pytest.raises(ClientError):
        get(client)
    assert len(pauses) == 100
    wire.answers = [answer()]
    for _ in range(5):
        get(client)
    wire.answers = [answer(b'', '500 Oops'), answer()]
    assert get(client)['ResponseMetadata']['RetryAttempts'] == 1
    wire.answers = [answer(b'', '500 Oops'), answer()]
    assert get(client)['ResponseMetadata']['RetryAttempts'] == 1


# Threads, forks, connections


def test_threads_share_a_client(
    endpoint: str, table: str, application: str
) -> None:
    client = direct_client(endpoint)

    def work(number: int) -> set[str]:
        key = f'{application}-{number % 4}'
        runs = (add_one(client, table, key)['Attributes'] for _ in range(5))
        return {item['SessionId']['S'] for item in runs} - {key}

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(work, range(32))) == [set()] * 32
    for number in range(4):
        attributes = add_one(client, table, f'{application}-{number}')
        assert attributes['Attributes']['Runs'] == {'N': '41'}


def test_the_pool_keeps_no_more_than_it_may(wire: Wire) -> None:
    client = direct_client(wire.url, max_pool_connections=2)
    wire.hook = threading.Barrier(5).wait
    with ThreadPoolExecutor(5) as threads:
        list(threads.map(get, [client] * 5))
    wait_for(lambda: len(wire.open) == 2)
    wire.hook = lambda: None
    get(client)
    assert len(wire.open) == 2
    client.close()
    wait_for(lambda: not wire.open)


def test_closing_closes_the_boto3_client_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boto = boto3_client('http://localhost')
    closed: list[bool] = []
    monkeypatch.setattr(boto, 'close', lambda: closed.append(True))
    DirectClient(boto, CREDENTIALS).close()
    assert closed == [True]


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(500):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError('never notify')


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_a_forked_process_has_its_own_connections(wire: Wire) -> None:
    client = direct_client(wire.url)
    get(client)
    child = os.fork()
    if child == 0:
        try:
            get(client)
            get(client)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    get(client)
    first, *childs, ours = [request.connection for request in wire.requests]
    assert childs[0] == childs[1]
    assert first == ours != childs[0]


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_a_connection_in_use_during_a_fork_stays_the_parents(
    wire: Wire,
) -> None:
    client = direct_client(wire.url)
    arrived, go_on = threading.Event(), threading.Event()

    def hook() -> None:
        arrived.set()
        go_on.wait(5)

    wire.hook = hook
    with ThreadPoolExecutor(1) as threads:
        in_flight = threads.submit(get, client)
        arrived.wait(5)
        child = os.fork()
        if child == 0:
            os._exit(0 if not client._this_process().endpoints else 1)
        go_on.set()
        assert in_flight.result()
    assert os.waitpid(child, 0)[1] == 0
    get(client)
    assert {request.connection for request in wire.requests} == {1}


# Credentials


def test_credentials_refresh_themselves(wire: Wire) -> None:
    given = 0

    def refresh() -> dict[str, str]:
        nonlocal given
        given += 1
        expiry = datetime.now(timezone.utc) + timedelta(seconds=1)
        return {
            'access_key': f'KEY{given}',
            'secret_key': f'secret{given}',
            'token': f'token{given}',
            'expiry_time': expiry.isoformat(),
        }

    credentials = RefreshableCredentials.create_from_metadata(
        refresh(), refresh, 'test'
    )
    client = direct_client(wire.url, credentials)
    get(client)
    get(client)
    for number, request in enumerate(wire.requests, start=2):
        token = request.headers['x-amz-security-token']
        assert f'Credential=KEY{number}/' in request.headers['authorization']
        assert token == f'token{number}'
        now = Credentials(f'KEY{number}', f'secret{number}', token)
        assert request.headers['authorization'].endswith(
            botocore_signature(request, wire.url, now)
        )


def test_no_credentials(wire: Wire) -> None:
    with pytest.raises(NoCredentialsError):
        get(direct_client(wire.url, credentials=None))
    assert wire.requests == []


def test_nothing_secret_is_shown(
    wire: Wire, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ('AKIDEXAMPLE', 'TOPSECRET', 'TOKENSECRET')
    client = direct_client(wire.url, Credentials(*secrets))
    shown = [repr(client), str(client)]
    assert shown[0] == f'<DirectClient {wire.url} us-west-2>'
    caplog.clear()
    for canned in (b'', answer(b'', '500 Oops'), answer(b'[]')):
        wire.answers = [canned]
        with pytest.raises((BotoCoreError, ClientError)) as caught:
            get(client)
        shown += [str(caught.value), repr(caught.value)]
        shown += [repr(vars(caught.value)), repr(caught.value.__cause__)]
    assert 'GetItem: ConnectionClosedError' in caplog.messages
    for text in [*shown, caplog.text]:
        for secret in secrets:
            assert secret not in text


def test_a_client_that_says_nothing_of_retries(
    wire: Wire, pauses: list[float]
) -> None:
    wire.answers = [answer(b'', '500 Oops')]
    client = direct_client(wire.url, retries=None)
    with pytest.raises(ClientError):
        get(client)
    assert len(wire.requests) == 4


# A clock that is off


def refusal(code: str, date: str) -> bytes:
    body = {'__type': f'com.amazon.coral.service#{code}', 'message': 'm'}
    status = '400 Bad Request'
    return answer(json.dumps(body).encode(), status, f'Date: {date}')


def in_an_hour() -> str:
    now = datetime.now(timezone.utc)
    return format_datetime(now + timedelta(hours=1), usegmt=True)


def dates(wire: Wire) -> list[datetime]:
    """When the requests say they were signed."""
    return [
        datetime.strptime(
            request.headers['x-amz-date'] + '+0000', '%Y%m%dT%H%M%SZ%z'
        )
        for request in wire.requests
    ]


def test_a_refusal_tells_the_time(wire: Wire, pauses: list[float]) -> None:
    refused = refusal('InvalidSignatureException', in_an_hour())
    wire.answers = [refused, answer()]
    client = direct_client(wire.url)
    assert get(client)['ResponseMetadata']['RetryAttempts'] == 1
    assert get(client)['ResponseMetadata']['RetryAttempts'] == 0
    first, *later = dates(wire)
    for date in later:
        assert date - first > timedelta(minutes=55)
    for request in wire.requests:
        assert request.headers['authorization'].endswith(
            botocore_signature(request, wire.url, CREDENTIALS)
        )


def test_the_last_attempt_learns_too(wire: Wire) -> None:
    refused = refusal('InvalidSignatureException', in_an_hour())
    wire.answers = [refused, answer()]
    client = direct_client(wire.url, retries={'total_max_attempts': 1})
    with pytest.raises(ClientError, match='InvalidSignature'):
        get(client)
    get(client)
    first, second = dates(wire)
    assert second - first > timedelta(minutes=55)


def test_a_wrong_key_is_not_blamed_on_the_clock(wire: Wire) -> None:
    now = format_datetime(datetime.now(timezone.utc), usegmt=True)
    wire.answers = [refusal('InvalidSignatureException', now)]
    with pytest.raises(ClientError, match='InvalidSignature'):
        get(direct_client(wire.url))
    assert len(wire.requests) == 1


def test_another_error_tells_no_time(wire: Wire, pauses: list[float]) -> None:
    wire.answers = [refusal('ThrottlingException', in_an_hour()), answer()]
    get(direct_client(wire.url))
    first, second = dates(wire)
    assert second - first < timedelta(minutes=5)
