"""Endpoints and signing scopes: those that botocore itself would send to."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, EndpointVariantError

from pyramid_dynamodb_session.dynamodb import _connection
from pyramid_dynamodb_session.dynamodb._http import Response
from pyramid_dynamodb_session.dynamodb.direct import DirectClient
from tests.support.aws import ACCESS_KEY, KNOWS_ACCOUNTS, SECRET_KEY

# no engine takes part: once is enough
pytestmark = pytest.mark.engines('moto', reason='no engine takes part')

ACCOUNT = '123456789012'
OTHER_ACCOUNT = '210987654321'
ARN = f'arn:aws:dynamodb:us-west-2:{OTHER_ACCOUNT}:table/t'
KEY = {'SessionId': {'S': 'a'}}
DEFAULT_PORTS = {'http': 80, 'https': 443}

#: One for all: it reads botocore's data once.
SESSION = botocore.session.Session()
REGIONS = sorted(
    {
        region
        for partition in SESSION.get_available_partitions()
        for region in [
            *SESSION.get_available_regions('dynamodb', partition),
            *SESSION.get_available_regions('dynamodb', partition, True),
        ]
    }
)


class Empty:
    """The body of a reply."""

    def stream(self, **options: Any) -> Any:
        yield b'{}'


def client_of(
    region: str | None = 'us-west-2',
    account: str | None = None,
    **options: Any,
) -> Any:
    config = options.pop('config', {})
    if account is not None and KNOWS_ACCOUNTS:
        options['aws_account_id'] = account
    return boto3.Session(botocore_session=SESSION).client(
        'dynamodb',
        region_name=region,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(user_agent='test/1', proxies={}, **config),
        **options,
    )


def boto3s(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
    """Where boto3 sends a call, and the scope of its signature."""
    sent: list[Any] = []

    def send(request: Any, **more: Any) -> AWSResponse:
        sent.append(request)
        return AWSResponse(request.url, 200, {}, Empty())

    client.meta.events.register('before-send.dynamodb', send)
    try:
        getattr(client, operation)(**parameters)
    except BotoCoreError as error:
        return type(error)
    (request,) = sent
    url = urlsplit(request.url)
    port = url.port or DEFAULT_PORTS[url.scheme]
    return (
        (url.scheme, url.hostname, port, url.path or '/'),
        scope(request.headers['Authorization'].decode()),
    )


def ours(
    client: Any,
    operation: str,
    parameters: dict[str, Any],
    patch: pytest.MonkeyPatch,
) -> Any:
    """The same, of the transport `direct`."""
    sent: list[Any] = []

    def exchange(pool: Any, request: bytes) -> Response:
        sent.append((pool._origin, request))
        return Response(200, {}, b'{}', True)

    patch.setattr(_connection.Pool, 'exchange', exchange)
    credentials = client._request_signer._credentials
    direct = DirectClient(client, credentials)
    try:
        getattr(direct, operation)(**parameters)
    except BotoCoreError as error:
        return type(error)
    ((origin, request),) = sent
    first, *lines = request.partition(b'\r\n\r\n')[0].decode().split('\r\n')
    headers = {
        name.lower(): value
        for name, value in (x.split(': ', 1) for x in lines)
    }
    assert headers['host'] == origin.authority
    return (
        (*origin, first.split(' ')[1]),
        scope(headers['authorization']),
    )


def scope(authorization: str) -> list[str]:
    """Region, service, and what follows them."""
    credential = authorization.split('Credential=')[1].split(',')[0]
    return credential.split('/')[2:]


@pytest.mark.parametrize('fips', [False, True])
@pytest.mark.parametrize('dualstack', [False, True])
@pytest.mark.parametrize('account', [None, ACCOUNT])
def test_every_region_that_botocore_knows(
    monkeypatch: pytest.MonkeyPatch,
    account: str | None,
    dualstack: bool,
    fips: bool,
) -> None:
    assert len(REGIONS) > 30
    config = {
        'use_dualstack_endpoint': dualstack,
        'use_fips_endpoint': fips,
    }
    wrong = {}
    for region in [*REGIONS, 'local', 'us-new-9']:
        try:
            client = client_of(region, account, config=config)
        except EndpointVariantError:
            continue  # there is no such endpoint
        call = 'get_item', {'TableName': 'sessions', 'Key': KEY}
        expected = boto3s(client, *call)
        found = ours(client, *call, monkeypatch)
        if found != expected:
            wrong[region] = found, expected
    assert wrong == {}


@pytest.mark.recent_botocore
@pytest.mark.parametrize('mode', ['preferred', 'disabled', 'required'])
@pytest.mark.parametrize('account', [None, ACCOUNT])
@pytest.mark.parametrize(
    ('operation', 'parameters'),
    [
        ('get_item', {'TableName': 'sessions', 'Key': KEY}),
        ('get_item', {'TableName': ARN, 'Key': KEY}),
        ('put_item', {'TableName': ARN, 'Item': KEY}),
        (
            'transact_write_items',
            {
                'TransactItems': [
                    {'Put': {'TableName': 'sessions', 'Item': KEY}}
                ]
            },
        ),
        (
            'transact_write_items',
            {
                'TransactItems': [
                    {'Delete': {'TableName': ARN, 'Key': KEY}},
                    {'Put': {'TableName': 'sessions', 'Item': KEY}},
                ]
            },
        ),
        (
            'transact_write_items',
            {
                'TransactItems': [
                    {'Put': {'TableName': 'sessions', 'Item': KEY}},
                    {'Delete': {'TableName': ARN, 'Key': KEY}},
                ]
            },
        ),
    ],
)
def test_endpoints_of_accounts(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    account: str | None,
    operation: str,
    parameters: dict[str, Any],
) -> None:
    config = {'account_id_endpoint_mode': mode}
    client = client_of(account=account, config=config)
    expected = boto3s(client, operation, parameters)
    assert ours(client, operation, parameters, monkeypatch) == expected


@pytest.mark.recent_botocore
def test_an_account_is_in_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = client_of(account=ACCOUNT)
    call = 'get_item', {'TableName': 'sessions', 'Key': KEY}
    (_, host, *_), _ = ours(client, *call, monkeypatch)
    assert host.startswith(f'{ACCOUNT}.ddb.')
    call = 'get_item', {'TableName': ARN, 'Key': KEY}
    (_, host, *_), _ = ours(client, *call, monkeypatch)
    assert host.startswith(f'{OTHER_ACCOUNT}.ddb.')


URLS = [
    'http://localhost:8000',
    'http://LocalHost:80/',
    'https://[::1]:8443',
    'https://vpce-1-a.dynamodb.us-west-2.vpce.amazonaws.com',
    'https://dynamodb.eu-west-1.amazonaws.com',
    'https://gateway.example:443/dynamodb',
    'https://gateway.example/dynamodb/',
    'https://gateway.example//a//b/',
    'https://gateway.example/a/../b/./c',
]


@pytest.mark.parametrize('region', ['us-west-2', 'local', 'us-gov-west-1'])
@pytest.mark.parametrize('url', URLS)
def test_an_endpoint_url(
    monkeypatch: pytest.MonkeyPatch, region: str, url: str
) -> None:
    client = client_of(region, ACCOUNT, endpoint_url=url)
    call = 'get_item', {'TableName': 'sessions', 'Key': KEY}
    assert ours(client, *call, monkeypatch) == boto3s(client, *call)


@pytest.mark.parametrize(
    'name', ['AWS_ENDPOINT_URL', 'AWS_ENDPOINT_URL_DYNAMODB']
)
def test_an_endpoint_url_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, 'http://engine.example:8000/path')
    client = client_of()
    call = 'get_item', {'TableName': 'sessions', 'Key': KEY}
    found = ours(client, *call, monkeypatch)
    assert found == boto3s(client, *call)
    assert found[0] == ('http', 'engine.example', 8000, '/path')


def test_the_endpoint_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = client_of()
    resolved: list[Any] = []
    presigned = client.generate_presigned_url

    def noted(*given: Any) -> Any:
        resolved.append(given)
        return presigned(*given)

    monkeypatch.setattr(client, 'generate_presigned_url', noted)
    monkeypatch.setattr(
        _connection.Pool,
        'exchange',
        lambda pool, request: Response(200, {}, b'{}', True),
    )
    direct = DirectClient(client, client._request_signer._credentials)
    for table in ('one', 'two', ARN, ARN):
        direct.get_item(TableName=table, Key=KEY)
        direct.put_item(TableName=table, Item=KEY)
    assert len(resolved) == 2
