"""What an attacker can not do, and what is kept secret."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import re
import secrets
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPException
from webtest import TestApp

from pyramid_dynamodb_session import (
    DynamoDBSession,
    DynamoDBSessionFactory,
    DynamoDBSessionStore,
    SessionConflict,
    SessionError,
    SessionLockLost,
    SessionSerializationError,
    SessionStoreUnavailable,
    SessionTooLarge,
)
from pyramid_dynamodb_session.cookie import SessionCookie
from pyramid_dynamodb_session.events import SessionEvent
from pyramid_dynamodb_session.settings import FactorySettings
from pyramid_dynamodb_session.store.encryption import Cipher
from pyramid_dynamodb_session.store.item import ITEM_LIMIT, hash_key
from pyramid_dynamodb_session.store.policy import policy
from pyramid_dynamodb_session.toolbar import SessionReport
from pyramid_dynamodb_session.unit_of_work import UnitOfWork
from tests.apps.small_app import PREFIX, SmallApp, session_id
from tests.apps.views import count, read
from tests.support.docs_pages import ROOT
from tests.support.proxy import LOSE_REPLY, FaultProxy, error
from tests.support.together import together, wait_until

FIRST, SECOND = 'first-' + 'f' * 32, 'second-' + 's' * 32
KEY, OTHER_KEY = 'k' * 43, 'K' * 43
ID = 'i' * 43

MakeApp = Callable[..., SmallApp]
MakeStore = Callable[..., DynamoDBSessionStore]
RawItem = Callable[[str], 'dict[str, Any] | None']


@pytest.fixture
def wired(proxied: dict[str, str], proxy: FaultProxy) -> Any:
    """A boto3 client, made by our own settings, through ``proxy``."""
    settings = {
        name.removeprefix(PREFIX): value for name, value in proxied.items()
    }
    factory = DynamoDBSessionFactory(
        **settings, connect_timeout=0.5, read_timeout=5, max_attempts=3
    )
    return factory.store.client


@pytest.fixture
def make_app(wired: Any, settings: dict[str, str]) -> MakeApp:
    """A function that makes an application on the wire, to add views to."""

    def make_app(**options: Any) -> SmallApp:
        return SmallApp(wired, settings, **options)

    return make_app


@pytest.fixture
def make_store(client: Any, table: str, application: str) -> MakeStore:
    def make_store(client: Any = client, **settings: Any) -> Any:
        given = {'table': table, 'application': application, **settings}
        return DynamoDBSessionStore(client, **given)

    return make_store


def log_out(request: Any) -> Any:
    request.session.invalidate()
    return {}


def log_in(request: Any) -> Any:
    request.session.regenerate_id()
    return {}


def cookie(browser: TestApp) -> str:
    return str(browser.cookies['session']).strip('"')


def with_cookie(app: SmallApp, value: str) -> TestApp:
    return app.browser(value)


# -- the signed cookie ----------------------------------------------------


def test_secrets_are_rotated_without_logging_anyone_out(
    make_app: MakeApp,
) -> None:
    def opened(secret: str) -> SmallApp:
        app = make_app(secret=secret)
        app.add(count, read)
        app.open()
        return app

    old = opened(FIRST)
    browser = old.browser()
    browser.get('/count')
    signed_by_first = cookie(browser)
    # added at the end, so that all servers know it before one signs with it
    assert signed_by_first not in ('', ID)
    for secret in (f'{FIRST}\n{SECOND}', f'{SECOND} {FIRST}'):
        browser = with_cookie(opened(secret), signed_by_first)
        assert browser.get('/read').json['n'] >= 1
    new = opened(f'{SECOND} {FIRST}')
    browser = new.browser()
    browser.get('/count')
    only_second = opened(SECOND)
    assert with_cookie(only_second, cookie(browser)).get('/read').json
    assert not with_cookie(only_second, signed_by_first).get('/read').json


def test_forged_or_damaged_cookie_costs_no_call(
    make_app: MakeApp, proxy: FaultProxy
) -> None:
    app = make_app(secret=FIRST)
    app.add(count, read)
    browser = app.open()
    browser.get('/count')
    genuine = cookie(browser)
    assert len(genuine) == 100
    stranger = SessionCookie(FactorySettings(secret=(SECOND,)))
    (unsalted,) = SessionCookie(FactorySettings(secret=(FIRST,)))._signers
    mine = unsalted.dumps('short').decode()
    forged = [
        ID,
        genuine[:-1],
        genuine + 'A',
        genuine[:50] + '!' + genuine[50:],
        genuine[43:] + genuine[:43],
        genuine.swapcase(),
        mine,
        stranger._signers[0].dumps(ID).decode(),
        *(
            genuine[:i]
            + ('A' if genuine[i] != 'A' else 'B')
            + genuine[i + 1 :]
            for i in range(0, 100, 7)
        ),
    ]
    proxy.clear()
    for value in forged:
        response = with_cookie(app, value).get('/read')
        assert response.json == {}
        assert 'Max-Age=0' in response.headers['Set-Cookie']
    assert proxy.operations == []
    assert with_cookie(app, genuine).get('/read').json == {'n': 1}


def test_cookie_without_a_secret_is_asked_for_only_if_it_can_be_an_id(
    make_app: MakeApp, proxy: FaultProxy
) -> None:
    app = make_app()
    app.add(read)
    app.open()
    proxy.clear()
    for value in ('', ID[:-1], ID + 'i', ID[:-1] + '+', ID[:-1] + '='):
        assert with_cookie(app, value).get('/read').json == {}
    assert proxy.operations == []
    assert with_cookie(app, ID).get('/read').json == {}
    assert proxy.operations[:1] == ['UpdateItem']


def test_cookie_of_others_that_is_no_text_hides_nothing(
    make_app: MakeApp,
) -> None:
    """A browser sends what a neighbouring site has set, too."""
    app = make_app()
    app.add(count, read)
    browser = app.open()
    browser.get('/count')
    for header, found in [
        (f'a="\\377"; session={cookie(browser)}', {'n': 1}),
        ('session="\\377"', {}),
        ('a="\\377"', {}),
    ]:
        response = app.browser().get('/read', headers={'Cookie': header})
        assert response.json == found


def test_short_secret_is_refused_with_the_reason() -> None:
    for short in ('x' * 31, f'{FIRST} short', '\ud800' * 40):
        with pytest.raises(ConfigurationError, match='32 characters') as why:
            FactorySettings.parse({'secret': short})
        assert 'short;' not in str(why.value)
        assert short not in str(why.value)


# -- the cookie's attributes ----------------------------------------------


@pytest.mark.parametrize('name', ['__Host-id', '__Secure-id'])
def test_prefixed_cookie_has_what_browsers_demand(
    name: str, make_app: MakeApp
) -> None:
    app = make_app(cookie_name=name, cookie_secure='true', secret=FIRST)
    app.add(count, log_out)
    app.open()
    browser = TestApp(app.wsgi, extra_environ={'wsgi.url_scheme': 'https'})
    for path in ('/count', '/log_out'):
        (header,) = browser.get(path).headers.getall('Set-Cookie')
        attributes = {part.lower() for part in header.split('; ')[1:]}
        assert {'secure', 'httponly', 'path=/', 'samesite=lax'} <= attributes
        assert not any(part.startswith('domain') for part in attributes)


def test_response_that_sets_the_cookie_is_not_made_public(
    make_app: MakeApp,
) -> None:
    app = make_app(cookie_max_age=60)
    app.add(count)
    response = app.open().get('/count')
    assert response.headers.getall('Set-Cookie')
    assert 'Cache-Control' not in response.headers
    assert response.headers['Vary'] == 'Cookie'


# -- fixation, hijacking, replay ------------------------------------------


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
def test_id_is_never_the_clients(state: str, make_app: MakeApp) -> None:
    def twice(request: Any) -> Any:
        request.session.invalidate()
        request.session['n'] = 1
        return {}

    app = make_app(session_state=state)
    app.add(count, log_in, twice)
    app.open()
    for path in ('/count', '/twice'):
        browser = app.browser(ID)
        browser.get(path)
        assert cookie(browser) != ID
        assert app.elsewhere.get_item(ID) is None
        fixed = cookie(browser)
        browser.get('/twice')
        assert cookie(browser) != fixed
        assert app.elsewhere.get_item(fixed) is None


def test_ids_are_256_random_bits(make_app: MakeApp) -> None:
    app = make_app()
    app.add(count)
    app.open()
    ids = set()
    for _ in range(8):
        browser = app.browser()
        browser.get('/count')
        ids.add(cookie(browser))
    assert len(ids) == 8
    assert all(len(base64.urlsafe_b64decode(each + '=')) == 32 for each in ids)


@pytest.mark.parametrize('end', [log_out, log_in])
@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
def test_old_id_ends_before_the_response_even_if_the_reply_is_lost(
    end: Any, state: str, make_app: MakeApp, proxy: FaultProxy
) -> None:
    app = make_app(session_state=state)
    app.add(count, end)
    browser = app.open()
    browser.get('/count')
    old = cookie(browser)
    operation = 'UpdateItem' if end is log_out else 'TransactWriteItems'
    is_locked = end is log_out and state == 'exclusive'
    proxy.inject(LOSE_REPLY, operation, after=int(is_locked))
    proxy.clear()
    browser.get(f'/{end.__name__}')
    assert proxy.operations.count(operation) == 2 + is_locked
    assert app.elsewhere.get_item(old) is None
    if end is log_in:
        assert cookie(browser) != old
        assert app.stored(browser) == {'n': 1}


@pytest.mark.parametrize('new_id', [False, True], ids=['logout', 'login'])
@pytest.mark.parametrize('held', ['exclusive', 'optimistic', 'read_only'])
def test_parallel_request_can_not_bring_the_old_id_back(
    held: str, new_id: bool, make_store: MakeStore, raw_item: RawItem
) -> None:
    """Also one that has never been locked, and one that got a new id."""
    store = make_store(lock_wait=0.1)
    store.set_and_release_item_exclusive(ID, {'user': 1}, None, True)
    slow = UnitOfWork(store, ID, state=held, touch_interval=0)
    assert slow.read() == {'user': 1}
    quick = UnitOfWork(make_store(), ID, state='optimistic')
    if held == 'exclusive':
        # whoever ends a session under somebody's lock
        make_store().remove_item(ID)
    elif new_id:
        quick.must_move()
        quick.persist()
    else:
        quick.invalidate()
        quick.persist()
    ended = raw_item(ID)
    if held == 'read_only':
        slow.persist()
    else:
        slow.write()['user'] = 2
        if new_id:
            slow.must_move()
        with pytest.raises((SessionLockLost, SessionConflict)):
            slow.persist()
    slow.release()
    assert raw_item(ID) == ended
    assert ended is not None and 'Ended' in ended
    assert store.get_item(ID) is None


def test_request_that_waits_for_a_removed_session_gets_an_empty_one(
    make_app: MakeApp, proxy: FaultProxy
) -> None:
    app = make_app()
    app.add(count, read, log_out)
    browser = app.open()
    browser.get('/count')
    old = cookie(browser)

    def logged_out() -> Any:
        return app.browser(old).get('/log_out').json

    def waiting() -> Any:
        wait_until(lambda: len(arrived) == 2)
        return app.browser(old).get('/read').json

    arrived: list[str] = []
    proxy.fault = lambda number, operation, request: arrived.append(operation)
    proxy.delay = 0.05
    assert together([logged_out, waiting]) == [{}, {}]


def test_applications_are_apart_whatever_their_names(
    make_store: MakeStore, application: str
) -> None:
    a, ab = f'{application}-a', f'{application}-a-b'
    # what an id hashes to may look like the end of another's key
    hashed = hash_key('c', None)
    cases = [
        *((a, 'b-c'), (ab, 'c'), (None, f'{a}-c'), (f'{a}-', 'c')),
        *((a, f'b-{hashed}'), (ab, hashed), (None, hashed)),
    ]
    stores = {name: make_store(application=name) for name, _ in cases}
    for number, (name, id) in enumerate(cases):
        stores[name].set_and_release_item_exclusive(
            id, {'n': number}, None, True
        )
    for name, id in itertools.product(stores, {id for _, id in cases}):
        found = stores[name].get_item(id)
        if (name, id) in cases:
            assert found and found.items == {'n': cases.index((name, id))}
            stores[name].remove_item(id)
        else:
            assert found is None


# -- encryption -----------------------------------------------------------

PAYLOAD = 'correct horse battery staple'


def planted(
    client: Any, table: str, item: dict[str, Any], **changes: Any
) -> None:
    client.put_item(TableName=table, Item={**item, **changes})


@pytest.fixture
def sealed(make_store: MakeStore) -> DynamoDBSessionStore:
    store = make_store(encryption_keys=KEY)
    for id in (ID, 'other'):
        store.set_and_release_item_exclusive(id, {'p': PAYLOAD}, None, True)
    return store


def stored(raw_item: RawItem, id: str = ID) -> dict[str, Any]:
    item = raw_item(id)
    assert item is not None
    return item


def test_encrypted_session_comes_back_and_can_not_be_read_in_the_table(
    sealed: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    record = sealed.get_item_exclusive(ID)
    assert record is not None and record.items == {'p': PAYLOAD}
    sealed.set_and_release_item_exclusive(
        ID, {'p': PAYLOAD * 2}, str(record.lock_id)
    )
    first, second = stored(raw_item), stored(raw_item, 'other')
    assert set(first['SessionItems']) == {'B'}
    assert PAYLOAD.encode() not in first['SessionItems']['B']
    assert first['SessionItems'] != second['SessionItems']
    again = sealed.get_item(ID)
    assert again is not None and again.items == {'p': PAYLOAD * 2}


def test_no_item_is_encrypted_by_the_key_itself(
    sealed: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    """Or the random nonces of all sessions would meet before long."""
    item = stored(raw_item)
    data, name = item['SessionItems']['B'], item['SessionId']['S']
    aes = AESGCM(base64.urlsafe_b64decode(KEY + '='))
    with pytest.raises(InvalidTag):
        aes.decrypt(data[:12], data[12:], name.encode())


def flipped(data: bytes, index: int) -> bytes:
    changed = bytearray(data)
    changed[index] ^= 1
    return bytes(changed)


TAMPERED: dict[str, Callable[[bytes, bytes], dict[str, Any]]] = {
    'nonce': lambda own, other: {'B': flipped(own, 0)},
    'data': lambda own, other: {'B': flipped(own, 20)},
    'tag': lambda own, other: {'B': flipped(own, -1)},
    'truncated': lambda own, other: {'B': own[:-1]},
    'too short': lambda own, other: {'B': own[:5]},
    'only a nonce': lambda own, other: {'B': own[:12]},
    'swapped': lambda own, other: {'B': other},
    'plain text': lambda own, other: {'S': '{"p":"forged"}'},
    'plain binary': lambda own, other: {'B': zlib.compress(b'{"p":1}')},
}


@pytest.mark.parametrize('kind', TAMPERED)
def test_tampered_swapped_or_plain_item_is_no_session_and_logged(
    kind: str,
    sealed: DynamoDBSessionStore,
    client: Any,
    table: str,
    raw_item: RawItem,
    caplog: pytest.LogCaptureFixture,
) -> None:
    item, other = stored(raw_item), stored(raw_item, 'other')
    own = item['SessionItems']['B'], other['SessionItems']['B']
    planted(client, table, item, SessionItems=TAMPERED[kind](*own))
    for open_it in (sealed.get_item, sealed.get_item_exclusive):
        caplog.clear()
        assert open_it(ID) is None
        assert 'corrupt and counts as none: SessionItems' in caplog.text
        assert ('tampered' in caplog.text) is (kind != 'plain text')
        assert 'forged' not in caplog.text


def test_item_of_another_application_does_not_open(
    sealed: DynamoDBSessionStore,
    make_store: MakeStore,
    client: Any,
    table: str,
    application: str,
    raw_item: RawItem,
) -> None:
    elsewhere = application + '-elsewhere'
    key = {'S': hash_key(ID, elsewhere)}
    planted(client, table, stored(raw_item), SessionId=key)
    other = make_store(application=elsewhere, encryption_keys=KEY)
    assert other.get_item(ID) is None


def test_keys_are_rotated_without_losing_a_session(
    sealed: DynamoDBSessionStore, make_store: MakeStore
) -> None:
    both = make_store(encryption_keys=f'{OTHER_KEY} {KEY}')
    record = both.get_item_exclusive(ID)
    assert record is not None and record.items == {'p': PAYLOAD}
    both.set_and_release_item_exclusive(ID, record.items, str(record.lock_id))
    new = make_store(encryption_keys=[OTHER_KEY])
    again = new.get_item(ID)
    assert again is not None and again.items == {'p': PAYLOAD}
    assert new.get_item('other') is None
    assert sealed.get_item(ID) is None


def test_key_of_a_wrong_length_is_refused() -> None:
    for key in ('x' * 42, 'x' * 44, secrets.token_hex(16), 'ü' * 43):
        with pytest.raises(ConfigurationError, match='32 bytes') as why:
            FactorySettings.parse({'encryption_keys': key})
        assert key not in str(why.value)


def test_without_the_extra_the_keys_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'cryptography.exceptions', None)
    with pytest.raises(ConfigurationError, match=r'\[encryption\]'):
        Cipher([b'k' * 32])


# -- hostile data ---------------------------------------------------------

MEASURE = """
import resource, sys, time, tracemalloc, zlib
from pyramid_dynamodb_session.store.encryption import Cipher
from pyramid_dynamodb_session.store.item import CorruptItem, ItemCodec
from pyramid_dynamodb_session.serializer import JSONSerializer

GB = 1024 ** 3
# no room for what the bombs claim to be
resource.setrlimit(resource.RLIMIT_AS, (2 * GB, 2 * GB))

def bomb():
    press = zlib.compressobj(9)
    part = bytes(16 * 1024 ** 2)
    packed = b''.join(press.compress(part) for _ in range(25))
    return packed + press.flush()

keys = [b'k' * 32]
packed = bomb()
assert 380_000 < len(packed) < 420_000
items = {
    'bomb': {'B': packed},
    'nested': {'S': '[' * 400_000},
    'nested in the bomb': {'B': zlib.compress(b'{"a":' * 800_000)},
    'many lists': {'B': zlib.compress(b'[' + b'[],' * 1_390_000 + b'[]]')},
    'digits': {'B': zlib.compress(b'{"n":' + b'9' * 4_000_000 + b'}')},
    'a number': {'B': 10 ** 11},
}
sealed = {'B': Cipher(keys).encrypt(packed, 'name')}
cases = [(ItemCodec(JSONSerializer()), item) for item in items.values()]
cases.append((ItemCodec(JSONSerializer(), keys), sealed))
for codec, attribute in cases:
    tracemalloc.start()
    started = time.process_time()
    try:
        codec.record({'Ver': {'N': '1'}, 'SessionItems': attribute}, 'name')
    except CorruptItem as error:
        print('refused:', error)
    print(tracemalloc.get_traced_memory()[1], time.process_time() - started)
    tracemalloc.stop()
"""


def test_bombs_are_refused_in_bounded_memory_and_time() -> None:
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', MEASURE],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:8] for line in lines[::2]] == ['refused:'] * 7
    for line in lines[1::2]:
        memory, seconds = map(float, line.split())
        assert memory < 160 * 1024**2
        assert seconds < 10


# -- nothing leaks --------------------------------------------------------

VALUE = 'the-value-of-the-session'
ACCESS, PRIVATE, TOKEN = 'AKIAINTERCEPTED', 'private-' + 'p' * 32, 'token-xyz'
OURS = ('pyramid_dynamodb_session', 'pyramid')
#: boto3, and an engine that may be in this process.
OTHERS = ('boto3', 'botocore', 'urllib3', 'moto', 'werkzeug')
CANONICAL = f'wrong signature\nPOST\n/\n\nx-amz-security-token:{TOKEN}\n'


class Revealing:
    """Its ``repr`` is a secret, as that of a user may be."""

    def __repr__(self) -> str:
        return f'<{VALUE}>'


def put(request: Any) -> Any:
    request.session['v'] = VALUE
    request.session.flash(VALUE)
    return {}


def too_much(request: Any) -> Any:
    # six bits a character, whatever zlib does
    request.session['large'] = VALUE + secrets.token_urlsafe(ITEM_LIMIT)
    return {}


def not_json(request: Any) -> Any:
    request.session['odd'] = [VALUE, Revealing()]
    return {}


def fails(request: Any) -> Any:
    request.session['v'] = VALUE
    raise RuntimeError('of the application')


def looks(request: Any) -> Any:
    """Show all that a debugger or an error page might show."""
    session = request.session
    session['v'] = VALUE
    store, id = session._work._store, session._work._id
    record = store.get_item(id) if id else None
    seen: list[Any] = request.registry['seen']
    seen += [session, store, record, store._codec, store._codec._cipher]
    process = store._locks._process.get()
    seen += [store.settings, store._locks, process, process.queue]
    seen += [*process.holders.values(), process.renewer, store._calls]
    seen += [part for holder in process.holders.values() for part in holder]
    seen += [session._work, session._work.recorder]
    seen += [store.client, store.table]
    return {}


class Seen(logging.Handler):
    """Keeps all that is logged, tracebacks included."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter('%(name)s %(message)s'))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logged() -> Iterator[Seen]:
    """Everything is logged, but what boto3 and the engine say."""
    seen = Seen()
    root = logging.getLogger()
    loggers = {root: logging.DEBUG}
    loggers |= {logging.getLogger(name): logging.DEBUG for name in OURS}
    loggers |= {logging.getLogger(name): logging.WARNING for name in OTHERS}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
    for name, logger in root.manager.loggerDict.items():
        if name.startswith(OURS) and isinstance(logger, logging.Logger):
            # a test that configures logging may have switched it off
            logger.disabled = False
    root.addHandler(seen)
    yield seen
    root.removeHandler(seen)
    for logger, level in before.items():
        logger.setLevel(level)


def spoken(error: BaseException) -> str:
    """All that an error says, and those that it comes from.

    botocore's own are left out: their message is AWS's.
    """
    said = []
    link: BaseException | None = error
    while link is not None:
        if not isinstance(link, ClientError):
            lines = traceback.format_exception(link, chain=False)
            said += [str(link), repr(link), repr(link.args), *lines]
        if isinstance(link, HTTPException):
            link.prepare({'HTTP_ACCEPT': 'text/html'})
            said += [link.text, str(link.headerlist)]
        link = link.__cause__ or link.__context__
    return '\n'.join(said)


@pytest.mark.filterwarnings('always')
@pytest.mark.parametrize('transport', ['boto3', 'direct'])
def test_nothing_secret_in_logs_reprs_errors_and_events(
    transport: str,
    proxied: dict[str, str],
    proxy: FaultProxy,
    logged: Seen,
    recwarn: pytest.WarningsRecorder,
) -> None:
    given = {
        **proxied,
        PREFIX + 'aws_access_key_id': ACCESS,
        PREFIX + 'aws_secret_access_key': PRIVATE,
        PREFIX + 'aws_session_token': TOKEN,
        PREFIX + 'secret': f'{FIRST} {SECOND}',
        PREFIX + 'encryption_keys': KEY,
        PREFIX + 'lock_lease': '0.2',
        PREFIX + 'lock_wait': '0.05',
        PREFIX + 'max_attempts': '2',
        PREFIX + 'on_demand_capacity': 'true',
        PREFIX + 'transport': transport,
    }
    events: list[SessionEvent] = []
    seen: list[Any] = []
    errors: list[BaseException] = []

    def handle(error: Exception, request: Any) -> Any:
        errors.append(error)
        request.response.status_code = 500
        return {'error': type(error).__name__}

    with Configurator(settings=given) as config:
        config.include('pyramid_dynamodb_session')
        config.add_subscriber(events.append, SessionEvent)
        config.registry['seen'] = seen
        views = (read, count, put, too_much, not_json, looks, fails)
        for view in (*views, log_in, log_out):
            config.add_route(view.__name__, f'/{view.__name__}')
            config.add_view(view, route_name=view.__name__, renderer='json')
        config.add_view(handle, context=SessionError, renderer='json')
        wsgi = config.make_wsgi_app()
    browser = TestApp(wsgi)
    cookies: set[str] = set()

    def get(path: str, status: int = 200) -> None:
        browser.get(path, status=status)
        if 'session' in browser.cookies:
            cookies.add(cookie(browser))

    for path in ('/put', '/count', '/looks', '/read', '/log_in', '/put'):
        get(path)
    get('/too_much', 500)
    get('/not_json', 500)
    with pytest.raises(RuntimeError):
        browser.get('/fails')
    proxy.inject(error(400, 'InvalidSignatureException', CANONICAL))
    get('/count', 500)
    proxy.inject(error(500, 'InternalServerError'), times=5)
    get('/count', 500)
    proxy.inject(LOSE_REPLY, 'UpdateItem')
    get('/count')
    # whoever holds the lock meanwhile, and takes it over
    store = seen[1]
    (signer, _) = SessionCookie(FactorySettings.parse(given, PREFIX))._signers
    id = signer.loads(cookie(browser).encode())
    held = store.get_item_exclusive(id)
    get('/count', 500)
    store.release_item_exclusive(id, held.lock_id)
    damaged = {'Cookie': f'session={cookie(browser)[:-1]}!'}
    TestApp(wsgi).get('/read', headers=damaged)
    client, name = store.client, hash_key(id, given[PREFIX + 'application'])
    item = {
        **store._calls.read(name, ConsistentRead=True),
        'SessionItems': {'S': json.dumps({'v': VALUE})},
    }
    client.put_item(TableName=given[PREFIX + 'table'], Item=item)
    get('/read')
    get('/put')
    get('/log_out')

    names = {type(error) for error in errors}
    assert {SessionTooLarge, SessionSerializationError} <= names
    assert SessionStoreUnavailable in names
    notify = {type(event).__name__ for event in events}
    assert {'CookieRejected', 'ItemCorrupt', 'StoreFailed'} <= notify
    assert any('corrupt' in line for line in logged.lines)
    assert any('wrong signature' in line for line in logged.lines)

    factory = DynamoDBSessionFactory.from_settings(
        {key: value for key, value in given.items() if PREFIX in key}, PREFIX
    )
    seen += [factory, factory.cookie, factory.settings, held, *events]
    shown = [*map(repr, seen), *map(str, seen), *map(spoken, errors)]
    for session in seen:
        if isinstance(session, DynamoDBSession):
            # what the debug toolbar's panel is made of
            notes = SessionReport(session)
            shown += [repr(vars(notes)), repr([notes.name, notes.keys])]
            shown += [repr(vars(session._work.recorder)), notes.lock]
    said = [str(warning.message) for warning in recwarn]
    text = '\n'.join([*logged.lines, *shown, *said])
    ids = {signer.loads(each.encode()) for each in cookies}
    assert len(ids) >= 3
    secrets_ = {PRIVATE, TOKEN, ACCESS, FIRST, SECOND, KEY, VALUE}
    key_bytes = base64.urlsafe_b64decode(KEY + '=')
    for needle in {*secrets_, *ids, *cookies, repr(key_bytes)}:
        assert needle not in text
    # what DynamoDB, and whoever logs its requests, is told
    wire = json.dumps([call.request for call in proxy.calls])
    encoded = {base64.b64encode(id.encode()).decode()[:40] for id in ids}
    for needle in {*ids, *encoded, *cookies, FIRST, PRIVATE}:
        assert needle not in wire


# -- least privilege ------------------------------------------------------

ARN = 'arn:aws:dynamodb:us-west-2:123456789012:table/'
#: What is covered by the permissions of another operation.
COVERED = {'TransactWriteItems': ('PutItem', 'UpdateItem')}


class Guarded:
    """A client that refuses what an IAM policy does not allow."""

    def __init__(self, client: Any, policy: dict[str, Any]) -> None:
        self._client = client
        self._policy = policy
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._client, name)
        called = ''.join(map(str.capitalize, name.split('_')))

        def call(**parameters: Any) -> Any:
            keys = leading_keys(parameters)
            for each in COVERED.get(called, (called,)):
                action = f'dynamodb:{each}'
                if not self._allows(action, parameters, keys):
                    raise denied(called)
                self.used.add(action)
            return operation(**parameters)

        return call

    def _allows(
        self, action: str, parameters: dict[str, Any], keys: list[str]
    ) -> bool:
        return any(
            action in actions_of(statement) and fits(statement, keys)
            for statement in self._policy['Statement']
        )


def actions_of(statement: dict[str, Any]) -> list[str]:
    actions = statement['Action']
    return [actions] if isinstance(actions, str) else actions


def leading_keys(parameters: dict[str, Any]) -> list[str]:
    writes = parameters.get('TransactItems')
    if writes:
        parts = [part for write in writes for part in write.values()]
        return [key for part in parts for key in leading_keys(part)]
    key = parameters.get('Key') or parameters.get('Item') or {}
    return [key['SessionId']['S']] if key else []


def fits(statement: dict[str, Any], keys: list[str]) -> bool:
    condition = statement.get('Condition')
    if condition is None:
        return True
    patterns = condition['ForAllValues:StringLike']['dynamodb:LeadingKeys']
    return all(
        any(fnmatchcase(key, pattern) for pattern in patterns) for key in keys
    )


def denied(operation: str) -> ClientError:
    details = {'Code': 'AccessDeniedException', 'Message': 'not authorized'}
    return ClientError({'Error': details}, operation)  # type: ignore


def documented(page: str, index: int) -> dict[str, Any]:
    """The policy in a page of the documentation."""
    text = (Path(ROOT) / page).read_text()
    blocks = re.findall(r'code-block:: json\n\n((?: +.*\n|\n)+)', text)
    found: dict[str, Any] = json.loads(blocks[index])
    return found


POLICIES = {
    'docs': lambda: documented('docs/permissions.rst', 0),
    'docs, one application': lambda: documented('docs/permissions.rst', 2),
    'command': lambda: policy('runtime', ARN, 'shop'),
}


def save(request: Any) -> Any:
    request.session['saved'] = True
    request.session.save()
    return {}


@pytest.mark.parametrize('source', POLICIES)
def test_documented_policy_is_enough_and_no_more_than_enough(
    source: str, client: Any, settings: dict[str, str]
) -> None:
    allowed = POLICIES[source]()
    guarded = Guarded(client, allowed)
    given = {**settings, PREFIX + 'application': 'shop'}
    app = SmallApp(guarded, given, touch_interval=0, lock_lease=0.1)
    app.add(count, log_in, log_out, save)
    for state in ('read_only', 'optimistic'):
        app.config.add_route(state, f'/{state}')
        view = read if state == 'read_only' else count
        app.config.add_view(
            view, route_name=state, renderer='json', session_state=state
        )
    # the locked requests below are those of one that died
    browser = app.open()
    paths = ('/count', '/read_only', '/optimistic', '/save', '/log_in')
    for path in (*paths, '/count'):
        browser.get(path)
    assert app.elsewhere.get_item_exclusive(session_id(browser))
    assert browser.get('/count').json['n'] >= 3
    app.factory.store.renew_lock(session_id(browser), '1.nobody')
    browser.get('/log_out')
    statements = allowed['Statement']
    assert guarded.used == {
        action for each in statements for action in actions_of(each)
    }


def test_policy_of_one_application_denies_the_others(
    client: Any, settings: dict[str, str]
) -> None:
    for allowed in (
        POLICIES['docs, one application'](),
        POLICIES['command'](),
    ):
        guarded = Guarded(client, allowed)
        for application in ('shop-eu', 'sho', 'other'):
            given = {**settings, PREFIX + 'application': application}
            app = SmallApp(guarded, given)
            app.add(count)
            app.open().get('/count', status=503)
        given = {**settings, PREFIX + 'application': 'shop'}
        app = SmallApp(guarded, given)
        app.add(count)
        app.open().get('/count')


def test_policy_of_the_web_servers_makes_no_table(client: Any) -> None:
    missing = 'Missing-' + secrets.token_hex(4)
    store = DynamoDBSessionStore(
        Guarded(client, POLICIES['docs']()), table=missing
    )
    with pytest.raises(ConfigurationError, match='IAM policy'):
        store.initialize()
