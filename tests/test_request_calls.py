"""What a request costs: its calls to DynamoDB, counted at the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.browser import Browser
from tests.support.proxy import FaultProxy
from tests.support.servers import Server

LOCK = SAVE = RELEASE = 'UpdateItem'


@pytest.fixture(scope='module')
def wire(endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(endpoint) as wire:
        yield wire


@pytest.fixture(scope='module')
def server(
    wire: FaultProxy, settings_at: Callable[..., dict[str, str]]
) -> Iterator[Server]:
    """A server process whose every call goes through ``wire``."""
    with Server(
        settings_at(wire.url), app='tests.apps.wsgi_app:main'
    ) as server:
        yield server


@pytest.fixture
def browser(server: Server, wire: FaultProxy) -> Browser:
    """A browser that has no cookie."""
    wire.clear()
    return Browser(server.url)


@pytest.fixture
def known(browser: Browser, wire: FaultProxy) -> Browser:
    """A browser that has a session."""
    assert browser.get('/exclusive/count').json == {'n': 1}
    wire.clear()
    return browser


def calls(wire: FaultProxy, browser: Browser, path: str) -> list[str]:
    """What one uncontended request, which succeeds, asks of DynamoDB."""
    assert browser.get(path).status == 200
    assert wire.failed_conditions == 0
    return wire.operations


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        ('/none', []),
        ('/exclusive/none', []),
        ('/exclusive/read', []),
        ('/exclusive/count', ['PutItem']),
        ('/invalidate', []),
        ('/regenerate', []),
        ('/save', ['PutItem']),
        ('/read_only/read', []),
        ('/optimistic/read', []),
        ('/optimistic/count', ['PutItem']),
        ('/disabled/none', []),
    ],
)
def test_calls_of_a_browser_without_a_cookie(
    path: str, expected: list[str], browser: Browser, wire: FaultProxy
) -> None:
    assert calls(wire, browser, path) == expected


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        ('/none', []),
        ('/exclusive/none', []),
        ('/exclusive/read', [LOCK, RELEASE]),
        ('/exclusive/count', [LOCK, SAVE]),
        ('/invalidate', [LOCK, SAVE]),
        ('/regenerate', [LOCK, 'TransactWriteItems']),
        ('/save', [LOCK, SAVE]),
        ('/stream', [LOCK, SAVE]),
        ('/read_only/none', []),
        ('/read_only/read', ['GetItem']),
        ('/optimistic/none', []),
        ('/optimistic/read', ['GetItem']),
        ('/optimistic/count', ['GetItem', SAVE]),
        ('/disabled/none', []),
    ],
)
def test_calls_of_a_browser_that_has_a_session(
    path: str, expected: list[str], known: Browser, wire: FaultProxy
) -> None:
    assert calls(wire, known, path) == expected


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        ('/exclusive/read', [LOCK]),
        ('/exclusive/count', [LOCK, 'PutItem']),
        ('/read_only/read', ['GetItem']),
        ('/optimistic/read', ['GetItem']),
        ('/optimistic/count', ['GetItem', 'PutItem']),
    ],
)
def test_calls_for_an_unknown_id(
    path: str,
    expected: list[str],
    browser: Browser,
    wire: FaultProxy,
    engine: str,
) -> None:
    browser.cookies['session'] = 'x' * 43
    assert browser.get(path).status == 200
    if engine == 'dynamodb-local' and expected[0] is LOCK:
        # it does not say what stands where the condition failed
        expected = [LOCK, 'GetItem', *expected[1:]]
    assert wire.operations == expected


@pytest.mark.parametrize('value', ['', 'x', 'x' * 42 + '!', 'x' * 4000])
def test_calls_for_what_can_be_no_id(
    value: str, browser: Browser, wire: FaultProxy
) -> None:
    browser.cookies['session'] = value
    assert calls(wire, browser, '/exclusive/read') == []


def test_unknown_id_creates_nothing(
    browser: Browser, wire: FaultProxy
) -> None:
    for _ in range(2):
        browser.cookies['session'] = 'x' * 43
        assert browser.get('/exclusive/read').json == {}
    assert not {'PutItem', 'TransactWriteItems'} & set(wire.operations)
