"""Calls whose reply is lost, and a store that fails: what users notice."""

from __future__ import annotations

import itertools
import json
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from webtest import TestApp

from pyramid_dynamodb_session import DynamoDBSessionStore
from tests.apps import wsgi_app
from tests.apps.small_app import session_id
from tests.support.browser import Browser
from tests.support.proxy import (
    LOSE_REPLY,
    Fault,
    FaultProxy,
    error,
    hang,
    malformed,
    mixed_up,
)
from tests.support.servers import Server
from tests.support.together import together, wait_until

PREFIX = 'dynamodb_session.'
COUNT = '/exclusive/count'
READ = '/exclusive/read'


@pytest.fixture
def open_app(proxied: dict[str, str]) -> Callable[..., TestApp]:
    """Make the application; returns a browser that has a session."""

    def open_app(**settings: object) -> TestApp:
        given = {PREFIX + name: str(v) for name, v in settings.items()}
        browser = TestApp(wsgi_app.main({}, **(proxied | given)))
        assert browser.get(COUNT).json == {'n': 1}
        return browser

    return open_app


@pytest.fixture
def elsewhere(
    client: Any, table: str, application: str
) -> DynamoDBSessionStore:
    """The provider in another process, whose calls are never lost."""
    return DynamoDBSessionStore(client, table=table, application=application)


# -- a lost reply ---------------------------------------------------------


@pytest.mark.parametrize(
    ('lost', 'path', 'operation', 'before', 'calls', 'left'),
    [
        ('lock', COUNT, 'UpdateItem', 0, 2, {'n': 2}),
        ('save', COUNT, 'UpdateItem', 1, 2, {'n': 2}),
        ('release', READ, 'UpdateItem', 1, 2, {'n': 1}),
        ('read', '/read_only/read', 'GetItem', 0, 1, {'n': 1}),
        ('optimistic', '/optimistic/count', 'UpdateItem', 0, 1, {'n': 2}),
        ('end', '/invalidate', 'UpdateItem', 1, 2, {}),
        ('transaction', '/regenerate', 'TransactWriteItems', 0, 1, {'n': 1}),
    ],
)
def test_lost_reply(
    lost: str,
    path: str,
    operation: str,
    before: int,
    calls: int,
    left: dict[str, int],
    open_app: Callable[..., TestApp],
    proxy: FaultProxy,
) -> None:
    browser = open_app()
    proxy.clear()
    proxy.inject(LOSE_REPLY, operation, after=before)
    answer = browser.get(path)
    assert answer.status_int == 200
    assert answer.json in ({}, left)
    assert LOSE_REPLY in [call.fault for call in proxy.calls]
    # once more, and not more often
    assert proxy.operations.count(operation) == calls + 1
    started = time.monotonic()
    assert browser.get(READ).json == left
    assert time.monotonic() - started < 1


def test_lost_reply_to_the_first_write(
    proxied: dict[str, str], proxy: FaultProxy
) -> None:
    browser = TestApp(wsgi_app.main({}, **proxied))
    proxy.clear()
    proxy.inject(LOSE_REPLY, 'PutItem')
    assert browser.get(COUNT).json == {'n': 1}
    assert proxy.operations == ['PutItem'] * 2
    assert browser.get(COUNT).json == {'n': 2}


def test_lost_reply_to_a_touch(
    open_app: Callable[..., TestApp],
    proxy: FaultProxy,
    raw_item: Callable[[str], dict[str, Any] | None],
) -> None:
    browser = open_app(touch_interval=0)

    def expires() -> int:
        item = raw_item(session_id(browser))
        assert item is not None
        return int(item['Expires']['N'])

    before = expires()
    time.sleep(1.1)
    proxy.clear()
    proxy.inject(LOSE_REPLY, 'UpdateItem')
    assert browser.get('/read_only/read').json == {'n': 1}
    assert proxy.operations == ['GetItem'] + ['UpdateItem'] * 2
    assert before < expires() <= before + 5


def test_lost_reply_to_a_poll(
    open_app: Callable[..., TestApp],
    proxy: FaultProxy,
    elsewhere: DynamoDBSessionStore,
) -> None:
    browser = open_app()
    held = elsewhere.get_item_exclusive(session_id(browser))
    assert held and held.lock_id
    proxy.inject(LOSE_REPLY, 'GetItem')
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(browser.get, COUNT)
        wait_until(lambda: LOSE_REPLY in [c.fault for c in proxy.calls])
        elsewhere.release_item_exclusive(session_id(browser), held.lock_id)
    assert answer.result().json == {'n': 2}


def test_lost_reply_to_a_renewal(
    open_app: Callable[..., TestApp], proxy: FaultProxy
) -> None:
    browser = open_app(lock_lease=0.9)
    proxy.clear()
    proxy.inject(LOSE_REPLY, 'UpdateItem', after=1)
    assert browser.get(COUNT, {'hold': 0.7}).json == {'n': 2}
    lost = [c for c in proxy.calls if c.fault is LOSE_REPLY]
    assert [call.request['UpdateExpression'] for call in lost] == [
        'SET LockDate = :LockDate'
    ]
    assert browser.get(COUNT).json == {'n': 3}


@pytest.mark.parametrize('max_attempts', [4, 1])
def test_every_seventh_reply_lost_under_six_clients(
    max_attempts: int, proxied: dict[str, str], proxy: FaultProxy
) -> None:
    """What was answered with 200 is stored, once; so is nothing else twice.

    With a single attempt a lost reply to a lock leaves one that nobody
    holds: it lapses.
    """
    settings = proxied | {PREFIX + 'max_attempts': str(max_attempts)}
    if max_attempts == 1:
        settings[PREFIX + 'lock_lease'] = '0.3'

    def append(browser: Browser, client: int) -> list[tuple[str, int]]:
        tokens = [f'{client}.{n}' for n in range(5)]
        return [
            (token, browser.get('/append', token=token).status)
            for token in tokens
        ]

    with (
        Server(settings, threads=6) as one,
        Server(settings, threads=6) as other,
    ):
        browser = Browser(one.url)
        assert browser.get('/count').status == 200
        proxy.clear()
        proxy.fault = every_seventh
        browsers = [browser.at(server.url) for server in (one, other)] * 3
        outcomes = together(
            lambda b=b, n=n: append(b, n) for n, b in enumerate(browsers)
        )
        lost = sum(call.fault is LOSE_REPLY for call in proxy.calls)
        proxy.heal()
        stored = Counter(browser.get('/read').json['tokens'])
    assert lost >= 5
    statuses = dict(itertools.chain(*outcomes))
    answered = {token for token, status in statuses.items() if status == 200}
    assert set(stored.values()) == {1}
    assert answered <= set(stored)
    if max_attempts > 1:
        assert len(answered) == len(statuses)
    assert set(statuses.values()) <= {200, 503}


def every_seventh(
    number: int, operation: str, request: dict[str, Any]
) -> Fault | None:
    return LOSE_REPLY if number % 7 == 0 else None


# -- a store that fails ---------------------------------------------------

QUICK = {'max_attempts': 2, 'connect_timeout': 1, 'read_timeout': 1}
#: Seconds that botocore may pause before the second attempt.
BACKOFF = 1
#: Each attempt connects and waits for an answer; what Python needs besides.
BOUND = 2 * (1 + 1) + BACKOFF + 1

FAULTS = {
    'hangs': hang(20),
    'fails': error(500, 'InternalServerError'),
    'is not there': error(503, 'ServiceUnavailable'),
    'throttles': error(400, 'ThrottlingException'),
    'is out of capacity': error(400, 'ProvisionedThroughputExceededException'),
    'refuses old credentials': error(400, 'ExpiredTokenException'),
    'refuses all access': error(400, 'AccessDeniedException'),
    'talks nonsense': malformed(b'<html>welcome to our airport</html>'),
    'breaks off': malformed(b'{"Attributes": {"SessionItems": {"S"'),
    'says nothing': malformed(b'{}'),
    'says null': malformed(b'null'),
    'lies': malformed(b'{"Attributes": {}, "Item": {}}'),
}


def assert_store_fails(browser: TestApp) -> None:
    """A 503 in bounded time, without a cookie; other views go on."""
    for path in (COUNT, READ):
        started = time.monotonic()
        answer = browser.get(path, status=503)
        assert time.monotonic() - started <= BOUND
        assert answer.headers['Retry-After'] == '5'
        assert 'Set-Cookie' not in answer.headers
    assert browser.get('/none').json == {}


@pytest.mark.parametrize('fault', FAULTS.values(), ids=FAULTS)
def test_store_that(
    fault: Fault, open_app: Callable[..., TestApp], proxy: FaultProxy
) -> None:
    browser = open_app(**QUICK)
    proxy.inject(fault, times=math.inf)
    assert_store_fails(browser)
    proxy.heal()
    assert browser.get(COUNT).json == {'n': 2}


def test_store_that_refuses_connections(
    open_app: Callable[..., TestApp], proxy: FaultProxy
) -> None:
    browser = open_app(**QUICK)
    proxy.refuse()
    assert_store_fails(browser)
    proxy.heal()
    assert browser.get(COUNT).json == {'n': 2}


def test_table_that_was_deleted(
    open_app: Callable[..., TestApp], client: Any, application: str
) -> None:
    table = f'Gone-{uuid.uuid4().hex[:8]}'
    browser = open_app(**QUICK, table=table)
    client.delete_table(TableName=table)
    client.get_waiter('table_not_exists').wait(TableName=table)
    assert_store_fails(browser)
    DynamoDBSessionStore(client, table=table).initialize()
    assert browser.get(COUNT).json == {'n': 1}
    client.delete_table(TableName=table)


def test_store_that_fails_between_lock_and_save(
    open_app: Callable[..., TestApp], proxy: FaultProxy
) -> None:
    """Nothing is saved; the lock lapses, and the session goes on."""
    browser = open_app(**QUICK, lock_lease=0.5)
    proxy.inject(
        error(500, 'InternalServerError'),
        'UpdateItem',
        after=1,
        times=math.inf,
    )
    answer = browser.get(COUNT, status=503)
    assert 'Set-Cookie' not in answer.headers
    proxy.heal()
    assert browser.get(COUNT).json == {'n': 2}


# -- replies that are mixed up --------------------------------------------


@pytest.mark.parametrize(
    ('state', 'operation'),
    [
        ('exclusive', 'UpdateItem'),
        ('read_only', 'GetItem'),
        ('optimistic', 'GetItem'),
    ],
)
def test_reply_to_the_request_of_another_is_no_session(
    state: str,
    operation: str,
    open_app: Callable[..., TestApp],
    proxy: FaultProxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when processes share a connection."""
    browser = open_app(lock_lease=1)
    other = TestApp(browser.app)
    other.get(COUNT, {'key': 'secret'})
    proxy.clear()
    other.get(f'/{state}/read')
    theirs = json.dumps(proxy.calls[0].response).encode()
    assert proxy.operations[0] == operation
    proxy.inject(mixed_up(theirs), operation)
    answer = browser.get(f'/{state}/read', status=503)
    assert 'secret' not in answer
    (record,) = [r for r in caplog.records if r.levelname == 'ERROR']
    assert 'another item than the one asked for' in record.message
    assert browser.get(READ).json == {'n': 1}
    assert other.get(READ).json == {'secret': 1}
