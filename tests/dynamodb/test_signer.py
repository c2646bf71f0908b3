"""Signatures: AWS's published ones, and botocore's byte for byte."""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator
from email.utils import formatdate
from hashlib import sha256
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_dynamodb_session.dynamodb import signer
from pyramid_dynamodb_session.dynamodb._connection import Options
from pyramid_dynamodb_session.dynamodb._endpoint import Endpoint, Resolved
from pyramid_dynamodb_session.dynamodb.signer import (
    Clock,
    Signer,
    canonical_request,
    signed_headers,
)

# no engine takes part: once is enough
pytestmark = pytest.mark.engines('moto', reason='no engine takes part')

NOW = '20150830T123600Z'
EXAMPLE = ReadOnlyCredentials(
    'AKIDEXAMPLE', 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY', None
)
STS_TOKEN = (
    'AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKW'
    'HGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4'
    'IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE'
    '8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yj'
    'c8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=='
)
FORM = 'application/x-www-form-urlencoded'

#: Of AWS's Signature Version 4 test suite: all without a query, and without a
#: header that comes twice.
PUBLISHED = [
    (
        'get-vanilla',
        'GET /',
        {},
        '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31',
    ),
    (
        'get-unreserved',
        'GET /-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'
        'abcdefghijklmnopqrstuvwxyz',
        {},
        '07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f',
    ),
    (
        'get-utf8',
        'GET /\u1234',
        {},
        '8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85',
    ),
    (
        'get-header-value-trim',
        'GET /',
        {'my-header1': ' value1', 'my-header2': ' "a   b   c"'},
        'acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736',
    ),
    (
        'normalize-path/get-relative-relative',
        'GET /example1/example2/../..',
        {},
        '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31',
    ),
    (
        'normalize-path/get-slash-pointless-dot',
        'GET /./example',
        {},
        'ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5',
    ),
    (
        'normalize-path/get-slash',
        'GET //',
        {},
        '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31',
    ),
    (
        'normalize-path/get-slashes',
        'GET //example//',
        {},
        '9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84',
    ),
    (
        'normalize-path/get-space',
        'GET /example space/',
        {},
        '652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741',
    ),
    (
        'post-vanilla',
        'POST /',
        {},
        '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b',
    ),
    (
        'post-header-key-sort',
        'POST /',
        {'my-header1': 'value1'},
        'c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c',
    ),
    (
        'post-header-value-case',
        'POST /',
        {'my-header1': 'VALUE1'},
        'cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d',
    ),
    (
        'post-sts-token/post-sts-header-before',
        'POST /',
        {'x-amz-security-token': STS_TOKEN},
        '85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead',
    ),
    (
        'post-x-www-form-urlencoded',
        'POST /\nParam1=value1',
        {'content-type': FORM},
        'ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a',
    ),
    (
        'post-x-www-form-urlencoded-parameters',
        'POST /\nParam1=value1',
        {'content-type': f'{FORM}; charset=utf8'},
        '1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe',
    ),
]


@pytest.mark.parametrize(
    ('name', 'request_line', 'headers', 'signature'),
    PUBLISHED,
    ids=[name for name, *_ in PUBLISHED],
)
def test_the_published_signatures(
    name: str, request_line: str, headers: dict[str, str], signature: str
) -> None:
    method, _, path = request_line.partition(' ')
    path, _, body = path.partition('\n')
    headers = {
        'host': 'example.amazonaws.com',
        'x-amz-date': NOW,
        **headers,
    }
    payload_hash = sha256(body.encode()).hexdigest()
    request = canonical_request(method, path, headers, payload_hash)
    signed = signed_headers(headers)
    found = Signer('us-east-1', 'service').authorization(
        EXAMPLE, NOW, request, signed
    )
    assert found == (
        'AWS4-HMAC-SHA256 '
        'Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, '
        f'SignedHeaders={signed}, Signature={signature}'
    )


# Requests, and what botocore signs of them

OPTIONS = Options(1, 1, 1, '')
HOSTS = [
    'dynamodb.us-west-2.amazonaws.com',
    'DynamoDB.Example.COM',
    '127.0.0.1',
    '[::1]',
    '[FE80::1]',
    'localhost',
]
PORTS = ['', ':80', ':443', ':8000']
PATHS = st.one_of(
    st.sampled_from(
        ['', '/', '//', '/a//b/', '/a/./b/../c', '/a%20b/%C3%A4', '/x~y-z/']
    ),
    st.lists(
        st.text('abc.~-_%20ä!*()\'+=:@,;$&"', max_size=5), max_size=4
    ).map(lambda parts: '/' + '/'.join(parts)),
)
TEXT = st.text('abcXYZ019+/=', min_size=1, max_size=60)
OPERATIONS = ['GetItem', 'UpdateItem', 'TransactWriteItems']


def endpoint(url: str, region: str = 'us-west-2', **config: Any) -> Endpoint:
    config = {'user_agent': 'test/1', 'proxies': {}, **config}
    resolved = Resolved(url, region, 'dynamodb')
    return Endpoint(resolved, Config(**config), OPTIONS)


def parsed(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b'\r\n\r\n')
    first, *lines = head.decode().split('\r\n')
    pairs = (line.split(': ', 1) for line in lines)
    return first, {name.lower(): value for name, value in pairs}, body


def botocores_authorization(
    url: str, region: str, headers: dict[str, str], body: bytes, who: Any
) -> str:
    again = AWSRequest(
        'POST',
        url,
        headers={
            name: value
            for name, value in headers.items()
            if name == 'content-type' or name.startswith('x-amz-')
        },
        data=body,
    )
    again.context['timestamp'] = headers['x-amz-date']
    auth = SigV4Auth(who, 'dynamodb', region)
    to_sign = auth.string_to_sign(again, auth.canonical_request(again))
    auth._inject_signature_to_request(again, auth.signature(to_sign, again))
    return str(again.headers['Authorization'])


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.sampled_from(['http', 'https']),
    st.sampled_from(HOSTS),
    st.sampled_from(PORTS),
    PATHS,
    st.sampled_from(['us-west-2', 'local', 'us-gov-west-1']),
    st.lists(
        st.tuples(
            st.sampled_from(OPERATIONS),
            st.binary(max_size=200),
            st.builds(
                ReadOnlyCredentials, TEXT, TEXT, st.one_of(st.none(), TEXT)
            ),
            st.sampled_from([NOW, '20150831T000000Z']),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_the_signature_is_botocores(
    scheme: str,
    host: str,
    port: str,
    path: str,
    region: str,
    calls: list[Any],
) -> None:
    url = f'{scheme}://{host}{port}{path}'
    signed_there = endpoint(url, region)
    for operation, body, credentials, timestamp in calls:
        request = signed_there.request(operation, body, credentials, timestamp)
        first, headers, sent = parsed(request)
        assert sent == body
        assert headers['content-length'] == str(len(body))
        assert headers['x-amz-date'] == timestamp
        assert headers['x-amz-target'] == f'DynamoDB_20120810.{operation}'
        assert headers.get('x-amz-security-token') == credentials.token
        assert first.isascii() and len(first.split(' ')) == 3
        who = Credentials(*credentials[:3])
        assert headers['authorization'] == botocores_authorization(
            url, region, headers, body, who
        )


@pytest.mark.parametrize(
    ('url', 'host', 'target'),
    [
        ('https://A.example', 'a.example', '/'),
        ('https://a.example:443/x', 'a.example', '/x'),
        ('http://a.example:443', 'a.example:443', '/'),
        ('http://[::1]:8000//a b/', '[::1]:8000', '//a%20b/'),
        ('http://user:key@a.example/é', 'a.example', '/%C3%A9'),
    ],
)
def test_host_and_target(url: str, host: str, target: str) -> None:
    request = endpoint(url).request('GetItem', b'', EXAMPLE, NOW)
    first, headers, _ = parsed(request)
    assert first == f'POST {target} HTTP/1.1'
    assert headers['host'] == host


# The key of the day


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The secrets that keys were derived from."""
    derived: list[str] = []
    digest = hmac.digest

    def noted(key: bytes, *more: Any) -> bytes:
        if key.startswith(b'AWS4'):
            derived.append(key[4:].decode())
        return digest(key, *more)

    monkeypatch.setattr(signer.hmac, 'digest', noted)
    return derived


def test_the_key_is_made_once_a_day_and_for_each_secret(
    keys: list[str],
) -> None:
    one = Signer('us-east-1', 'service')
    first, second = (Credentials('a', secret) for secret in ('one', 'two'))
    for who, timestamp in [
        (first, NOW),
        (first, '20150830T235959Z'),
        (first, '20150831T000000Z'),
        (second, '20150831T000000Z'),
        (second, '20150831T000001Z'),
    ]:
        one.authorization(who, timestamp, '', '')
    assert keys == ['one', 'one', 'two']


# Clocks


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A list of one: what the machine's clock says."""
    seconds = [1_440_938_160.5]
    monkeypatch.setattr(signer.time, 'time', lambda: seconds[0])
    yield seconds


def test_the_timestamp_is_utc(now: list[float]) -> None:
    clock = Clock()
    assert clock.timestamp() == clock.timestamp() == NOW
    now[0] += 1
    assert clock.timestamp() == '20150830T123601Z'


@pytest.mark.parametrize('offset', [-3600, 301, 86_400 * 365])
def test_a_clock_that_is_off_learns(now: list[float], offset: int) -> None:
    clock = Clock()
    theirs = now[0] + offset
    assert clock.learn(formatdate(theirs, usegmt=True))
    assert clock.timestamp() == time.strftime(
        '%Y%m%dT%H%M%SZ', time.gmtime(int(theirs))
    )
    # refused again at the same time: it was not the clock
    assert not clock.learn(formatdate(theirs, usegmt=True))
    # somebody has put the machine's clock right
    now[0] += offset
    assert clock.learn(formatdate(theirs, usegmt=True))
    assert abs(clock.offset) < 1


@pytest.mark.parametrize(
    'date',
    [
        '',
        'yesterday',
        'Sun, 99 Aug 2015 12:36:00 GMT',
        'Sun, 30 Aug 99999 12:36:00 GMT',
        formatdate(1_440_938_160 + 30, usegmt=True),
    ],
)
def test_a_date_that_tells_nothing(now: list[float], date: str) -> None:
    clock = Clock()
    assert not clock.learn(date)
    assert clock.offset == 0
