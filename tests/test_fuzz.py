"""Any input gives a typed error or a right answer, in bounded time."""

from __future__ import annotations

import json
import string
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyramid.exceptions import ConfigurationError
from webob import Response

from pyramid_dynamodb_session import DynamoDBSessionStore, SessionError
from pyramid_dynamodb_session._recorder import RequestRecorder
from pyramid_dynamodb_session.cookie import SessionCookie
from pyramid_dynamodb_session.dynamodb.calls import cancellation_codes
from pyramid_dynamodb_session.dynamodb.client import client_from_settings
from pyramid_dynamodb_session.settings import FactorySettings
from pyramid_dynamodb_session.store.item import SessionRecord
from tests.apps.small_app import SmallApp
from tests.apps.views import count, read
from tests.fuzz import targets
from tests.support.aws import ACCESS_KEY, REGION, SECRET_KEY
from tests.support.clients import Interposed
from tests.support.wire import Wire, answer

CORPUS = Path(__file__).parent / 'fuzz' / 'corpus'


def quickly(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(
    'path', sorted(CORPUS.glob('*/*')), ids=lambda path: path.name
)
def test_what_the_fuzzers_found(path: Path) -> None:
    getattr(targets, path.parent.name)(path.read_bytes())


# -- cookies and headers --------------------------------------------------

SIGNED = [signer.dumps(targets.ID) for signer in targets.SIGNED._signers]
cookie_values = st.one_of(
    st.sampled_from([*SIGNED, targets.ID.encode()]),
    st.builds(
        lambda value, at, more: value[:at] + more + value[at:],
        st.sampled_from(SIGNED),
        st.integers(0, 100),
        st.binary(max_size=3),
    ),
    st.text(string.printable).map(str.encode),
    st.binary(),
)


@quickly(300)
@given(st.binary(max_size=20), cookie_values, st.binary(max_size=20))
@example(b'other="\\377"; ', SIGNED[0], b'')
def test_any_cookie_is_an_id_or_none(
    before: bytes, value: bytes, after: bytes
) -> None:
    targets.cookie(before + b'session=' + value + after)


json_texts = st.recursive(
    st.integers().map(str)
    | st.sampled_from(['null', 'true', '1.5', 'NaN', '"\\ud800"', '""'])
    | st.text().map(json.dumps)
    | st.sampled_from(
        [
            *('"2026-11-21"', '"2026-11-21T14:05:00+01:00[Europe/Berlin]"'),
            *('"14:05:00"', '[1,2,3]', '"12.50"', '"AP8="'),
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda texts: f'[{",".join(texts)}]')
        | st.builds(
            '{{"{}":{}}}'.format,
            st.sampled_from([*targets.TAGS, '~tuple', '~~date', 'a']),
            inner,
        )
    ),
)


@quickly(300)
@given(
    st.integers(0, len(targets.TAGS)),
    json_texts.map(str.encode) | st.binary(max_size=20),
)
def test_any_data_is_malformed_or_stays_as_it_is(
    tag: int, data: bytes
) -> None:
    targets.serializer(bytes([tag]) + data)


class Refusing:
    """A client that refuses all calls."""

    def update_item(self, **parameters: Any) -> Any:
        raise OSError('unreachable')

    describe_table = update_item


headers = st.dictionaries(
    st.sampled_from(
        [
            *('HTTP_ACCEPT', 'HTTP_ACCEPT_LANGUAGE', 'HTTP_COOKIE'),
            *('HTTP_FORWARDED', 'HTTP_HOST', 'HTTP_ORIGIN', 'HTTP_REFERER'),
            *('HTTP_X_FORWARDED_FOR', 'HTTP_X_FORWARDED_PROTO'),
        ]
    ),
    st.text(st.characters(max_codepoint=255)),
)


@pytest.fixture(scope='module')
def apps(client: Any, table: str) -> list[Any]:
    """Applications whose store works, and whose store does not."""

    def made(client: Any) -> Any:
        names = {'table': table, 'application': 'test-fuzz'}
        given = {f'dynamodb_session.{name}': names[name] for name in names}
        app = SmallApp(client, given, secret='s' * 32)
        app.add(count, read)
        app.open()
        return app.wsgi

    down = Interposed(client, update_item=Refusing().update_item)
    return [made(client), made(down)]


@quickly(60)
@given(headers, st.booleans())
def test_any_headers_are_answered(
    apps: list[Any], headers: dict[str, str], known: bool
) -> None:
    if known:
        headers = {**headers, 'HTTP_COOKIE': f'session={SIGNED[0].decode()}'}
    environ = {
        'REQUEST_METHOD': 'GET',
        'PATH_INFO': '/read',
        'SCRIPT_NAME': '',
        'SERVER_NAME': 'localhost',
        'SERVER_PORT': '80',
        'SERVER_PROTOCOL': 'HTTP/1.1',
        'wsgi.url_scheme': 'http',
        **headers,
    }
    works, down = (answered(wsgi, dict(environ)) for wsgi in apps)
    assert works == '200 OK'
    assert down == ('503 Service Unavailable' if known else '200 OK')


def answered(wsgi: Any, environ: dict[str, Any]) -> str:
    """The status of the response."""
    statuses: list[str] = []

    def start_response(status: str, *more: object) -> None:
        statuses.append(status)

    list(wsgi(environ, start_response))
    return statuses[-1]


# -- settings -------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.sampled_from(['', ' ', 'none', 'true', 'nan', 'inf', '1e999', 'a.b']),
    st.binary(),
    st.lists(st.text(st.characters()) | st.binary() | st.integers()),
    st.builds(object),
)
NAMES = sorted(FactorySettings.__dataclass_fields__)


@quickly(500)
@given(st.dictionaries(st.sampled_from(NAMES), ODD, max_size=3))
@example({'cookie_path': '\u0100'})
@example({'cookie_domain': '\u0100'})
def test_any_settings_are_parsed_or_a_configuration_error(
    given: dict[str, Any],
) -> None:
    try:
        parsed = FactorySettings.parse(given)
    except ConfigurationError as error:
        assert str(error)
        return
    repr(parsed)
    response = Response()
    SessionCookie(parsed).write(None, response, targets.ID, None)
    (header,) = response.headers.getall('Set-Cookie')
    assert '\n' not in header and '\r' not in header


SECRET = st.text(st.characters(), min_size=4).filter(lambda text: text.strip())
SECRETS = [name for name in NAMES if 'secret' in name or 'key' in name]


@quickly(100)
@given(st.sampled_from(SECRETS), SECRET)
def test_secrets_are_in_no_message(name: str, secret: str) -> None:
    try:
        FactorySettings.parse({name: [secret, 1]})
    except ConfigurationError as error:
        assert str(error).startswith(f'{name} = (not shown) is not right')
        assert error.__cause__ is None


# -- stored items and replies ---------------------------------------------

PAYLOADS = [
    {'S': '{"n":1}'},
    {'B': b64encode(zlib.compress(b'{"n":1}')).decode()},
    {'B': b64encode(zlib.compress(b'{"n":1}')[:-2]).decode()},
]
NUMBERS = st.sampled_from(
    ['0', '1', '-1', '1.5', '9' * 38, '1e125', 'NaN', 'Infinity', '٣', '', 'x']
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(['S', 'N', 'B', 'M', 'L', 'BS', 'x']),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)
ATTRIBUTES = st.one_of(
    st.builds(lambda number: {'N': number}, NUMBERS),
    st.builds(lambda text: {'S': text}, st.text()),
    JSON,
)
FUTURE = {'N': str(int(time.time()) + 10**6)}


@st.composite
def items(draw: Any) -> Any:
    """A stored item in which some attributes are odd, or missing."""
    item = {
        'SessionId': {'S': 'x'},
        'SessionItems': draw(st.sampled_from(PAYLOADS)),
        'CreateDate': {'N': '1'},
        'Expires': FUTURE,
        'LockId': {'S': 'somebody'},
        'LockDate': {'N': '1'},
        'LockCount': {'N': '3'},
        'Ver': {'N': '1'},
    }
    names = [*item, 'TakenOver', 'SavedBy', 'SessionTimeout', 'Flags']
    for name in draw(st.lists(st.sampled_from(names), max_size=4)):
        if draw(st.booleans()):
            item[name] = draw(ATTRIBUTES)
        else:
            item.pop(name, None)
    return item


CODES = st.sampled_from(
    [
        'ConditionalCheckFailedException',
        'TransactionCanceledException',
        'ProvisionedThroughputExceededException',
        'ValidationException',
        'AccessDeniedException',
        '',
        'com.amazonaws#',
    ]
)
BODIES = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            'Item': items() | JSON,
            'Attributes': items() | JSON,
            'Items': st.lists(items(), max_size=2) | JSON,
            'LastEvaluatedKey': st.none() | JSON,
            'ConsumedCapacity': JSON,
        },
    ),
    st.fixed_dictionaries(
        {'__type': CODES},
        optional={
            'message': JSON,
            'Item': items() | JSON,
            'CancellationReasons': JSON
            | st.lists(st.fixed_dictionaries({'Code': CODES})),
        },
    ),
    JSON,
).map(lambda body: json.dumps(body).encode())
DAMAGED = st.one_of(
    BODIES,
    BODIES,
    st.builds(lambda body, end: body[:end], BODIES, st.integers(0, 40)),
    st.binary(),
    st.sampled_from([b'', b'[' * 10**5, b'{"Item":' * 10**4, b'\xff']),
)
REFUSED = b'{"__type":"ConditionalCheckFailedException"}'
STATUSES = st.sampled_from(['200 OK', '200 OK', '400 Bad', '500 Oops'])
ENDS = st.sampled_from(['whole', 'whole', 'whole', 'cut off', 'checksum'])


def replied(body: bytes, status: str, end: str) -> bytes:
    if end == 'checksum':
        return answer(body, status, 'x-amz-crc32: 1')
    if end == 'cut off':
        return answer(body + b'more', status, 'Connection: close')[:-4]
    return answer(body, status)


Operation = Callable[[DynamoDBSessionStore], object]
RECORD = SessionRecord(items={}, created=1, expires=2)
LOCKED = SessionRecord(items={}, created=1, expires=2, lock_id='1.t')
OPERATIONS: dict[str, Operation] = {
    'get': lambda store: store.get_item('x'),
    'get exclusive': lambda store: store.get_item_exclusive('x'),
    'save': lambda store: store.set_and_release_item_exclusive('x', {}, '1.t'),
    'create': lambda store: store.set_and_release_item_exclusive(
        'x', {}, None, True
    ),
    'release': lambda store: store.release_item_exclusive('x', '1.t'),
    'remove': lambda store: store.remove_item('x', '1.t'),
    'reset': lambda store: store.reset_item_timeout('x'),
    'renew': lambda store: store.renew_lock('x', '1.t'),
    'optimistic': lambda store: store.set_item_optimistic(
        'x', {}, b'{}', RECORD
    ),
    'move': lambda store: store.change_session_id('x', 'y', {}, b'{}', LOCKED),
}
DESCRIBED = {
    'Table': {
        'TableName': 'sessions',
        'TableStatus': 'ACTIVE',
        'KeySchema': [{'AttributeName': 'SessionId', 'KeyType': 'HASH'}],
        'AttributeDefinitions': [
            {'AttributeName': 'SessionId', 'AttributeType': 'S'}
        ],
    }
}


@pytest.fixture(scope='module')
def server() -> Iterator[Wire]:
    server = Wire()

    def give_up() -> None:
        # or a request that is never satisfied would hang the test
        if len(server.requests) > 200:
            raise ConnectionError

    server.hook = give_up
    yield server
    server.close()


@pytest.fixture(scope='module', params=['boto3', 'direct'])
def store(request: pytest.FixtureRequest, server: Wire) -> Any:
    """A store whose DynamoDB says whatever ``server`` is told to."""
    client = client_from_settings(
        FactorySettings(
            transport=request.param,
            endpoint_url=server.url,
            region=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            max_attempts=1,
        )
    )
    store = DynamoDBSessionStore(client, table='sessions', lock_wait=0.02)
    server.requests.clear()
    server.answers = [answer(json.dumps(DESCRIBED).encode())]
    store.initialize()
    return store


@quickly(250)
@given(
    st.sampled_from(list(OPERATIONS)), DAMAGED, STATUSES, ENDS, st.booleans()
)
@example('get exclusive', b'{"Attributes":5}', '200 OK', 'whole', True)
@example('get', b'{"ConsumedCapacity":[5]}', '200 OK', 'whole', True)
@example('get', b'{"Item":5}', '200 OK', 'whole', True)
@example('get', b'{"Item":{"Ver":5}}', '200 OK', 'whole', True)
@example('get', REFUSED, '400 Bad', 'whole', True)
@example('move', REFUSED, '400 Bad', 'whole', True)
@example(
    'get exclusive',
    json.dumps(
        {
            'Attributes': {
                'LockId': {'S': 'somebody'},
                'LockDate': {'N': '1'},
                'Expires': FUTURE,
            }
        }
    ).encode(),
    '200 OK',
    'whole',
    True,
)
def test_any_reply_is_a_typed_error_or_an_answer(
    store: DynamoDBSessionStore,
    server: Wire,
    operation: str,
    body: bytes,
    status: str,
    end: str,
    noted: bool,
) -> None:
    if noted:
        store = store.bind(RequestRecorder(lambda: None))
    server.answers = [replied(body, status, end)]
    server.requests.clear()
    try:
        found = OPERATIONS[operation](store)
    except SessionError:
        pass
    else:
        assert found in (None, True, False) or found.items in ({}, {'n': 1})
    assert len(server.requests) < 50
    process = store._locks._process.get()
    assert process.queue._queues == process.holders == {}


@quickly(80)
@given(DAMAGED, STATUSES, ENDS)
def test_any_description_of_the_table_is_a_configuration_error_at_worst(
    store: DynamoDBSessionStore,
    server: Wire,
    body: bytes,
    status: str,
    end: str,
) -> None:
    server.answers = [replied(body, status, end)]
    server.requests.clear()
    other = DynamoDBSessionStore(
        store.client, table='sessions', create_if_not_exist=False
    )
    with pytest.raises(ConfigurationError):
        other.initialize()


# -- replies, as bytes ----------------------------------------------------

WHOLE = [
    answer(b'{"Item":{"S":{"S":"text"}}}', '200 OK', 'X-Amzn-RequestId: 1'),
    answer(b'{"__type":"a#ThrottlingException"}', '400 Bad Request'),
    answer(b'{}', '200 OK', f'x-amz-crc32: {zlib.crc32(b"{}")}'),
    b'HTTP/1.1 100 Continue\r\n\r\n' + answer(),
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
    b'1\r\n{\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n',
    b'HTTP/1.0 200\nContent-Length: 2\n\n{}',
]
PIECES = st.sampled_from(
    [
        *(
            b'\r\n',
            b'\n',
            b'\r\n\r\n',
            b' ',
            b':',
            b'\0',
            b'\xff',
            b'9' * 5000,
        ),
        *(b'HTTP/1.1 200 OK\r\n', b'HTTP/1.1 103 Hints\r\n\r\n'),
        *(b'Content-Length: ', b'Transfer-Encoding: chunked\r\n'),
        *(b'Content-Length: 1\r\n', b'Content-Length: -1\r\n'),
        *(b'Content-Type: multipart/mixed; boundary=x\r\n', b'--x'),
        *(b'Retry-After: ', b'x-amz-crc32: ', b'\r\n folded\r\n'),
    ]
)


@quickly(500)
@given(
    st.binary(max_size=1),
    st.sampled_from(WHOLE),
    st.lists(
        st.tuples(
            st.integers(0, 120),
            st.integers(0, 20),
            st.one_of(PIECES, st.binary(max_size=5)),
        ),
        max_size=4,
    ),
)
@example(b'', b'', [])
@example(b'\xff', WHOLE[0].replace(b': 27', b': ' + b'9' * 5000), [])
def test_any_bytes_are_a_reply_or_a_typed_error(
    size: bytes, sent: bytes, damages: list[tuple[int, int, bytes]]
) -> None:
    for start, length, put in damages:
        sent = sent[:start] + put + sent[start + length :]
    targets.reply(size + sent)


@pytest.mark.parametrize(
    ('reasons', 'codes'),
    [
        (None, []),
        (5, []),
        (
            [None, {'Code': 'ConditionalCheckFailed'}],
            ['', 'ConditionalCheckFailed'],
        ),
    ],
)
def test_garbled_reasons_of_a_cancelled_transaction(
    reasons: Any, codes: list[str]
) -> None:
    error = ClientError({'CancellationReasons': reasons}, 'Any')
    assert cancellation_codes(error) == codes
