"""Requests whose session is ended by a login or a logout meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from webtest import TestApp

from tests.apps.small_app import ReleasedAtFirstSight, SmallApp, session_id
from tests.apps.views import count, read
from tests.support.clients import Interposed

End = Callable[[SmallApp, str], None]


def log_in(app: SmallApp, session_id: str) -> None:
    """As another web server does in the middle of a login."""
    record = app.elsewhere.get_item_exclusive(session_id)
    assert record
    app.elsewhere.change_session_id(
        session_id, 'n' * 43, record.items, record.payload, record
    )


def log_out(app: SmallApp, session_id: str) -> None:
    app.elsewhere.remove_item(session_id)


class EndedAtFirstSight(ReleasedAtFirstSight):
    """``get_item``, but the session ends just before its lock is seen."""

    def end(self, app: SmallApp, session_id: str, end: End) -> None:
        record = app.elsewhere.get_item_exclusive(session_id)
        assert record and record.lock_id
        lock_id = record.lock_id

        def release_and_end() -> None:
            app.elsewhere.release_item_exclusive(session_id, lock_id)
            end(app, session_id)

        self._release.append(release_and_end)


@pytest.fixture
def look(client: Any) -> EndedAtFirstSight:
    return EndedAtFirstSight(client)


@pytest.fixture
def app(
    client: Any, settings: dict[str, str], look: EndedAtFirstSight
) -> SmallApp:
    app = SmallApp(Interposed(client, get_item=look), settings)
    app.add(count, read)
    return app


@pytest.fixture
def browser(app: SmallApp) -> TestApp:
    """A browser that has a session."""
    browser = app.open()
    browser.get('/count')
    return browser


@pytest.mark.parametrize('end', [log_in, log_out])
def test_request_that_waited_keeps_its_cookie_and_stores_nothing(
    end: End, app: SmallApp, browser: TestApp, look: EndedAtFirstSight
) -> None:
    old = session_id(browser)
    look.end(app, old, end)
    response = browser.get('/read')
    assert response.json == {}
    assert 'Set-Cookie' not in response.headers
    response = browser.get('/count', status=409)
    assert 'Set-Cookie' not in response.headers
    assert session_id(browser) == old
    moved = app.elsewhere.get_item('n' * 43)
    assert (moved and moved.items) == ({'n': 1} if end is log_in else None)


@pytest.mark.parametrize('state', ['exclusive', 'optimistic', 'read_only'])
def test_request_that_comes_late_keeps_its_cookie(
    state: str, client: Any, settings: dict[str, str]
) -> None:
    app = SmallApp(client, settings, session_state=state)
    app.add(read)
    app.add(count, session_state='exclusive')
    browser = app.open()
    browser.get('/count')
    log_out(app, session_id(browser))
    assert 'Set-Cookie' not in browser.get('/read').headers


def test_cookie_of_a_session_long_ended_is_removed(
    app: SmallApp, browser: TestApp, client: Any, table: str, raw_item: Any
) -> None:
    log_out(app, session_id(browser))
    item = raw_item(session_id(browser))
    item['Ended'] = {'N': str(int(item['Ended']['N']) - 12)}
    client.put_item(TableName=table, Item=item)
    assert 'Max-Age=0' in browser.get('/read').headers['Set-Cookie']
    assert 'session' not in browser.cookies


def test_overtaken_request_is_told_so_and_can_not_succeed_by_a_retry(
    client: Any, settings: dict[str, str]
) -> None:
    app = SmallApp(client, settings)
    app.config.include('pyramid_retry')
    attempts: list[int] = []

    def write(request: Any) -> Any:
        attempts.append(1)
        request.session['m'] = 1
        return {}

    app.add(count, write)
    browser = app.open()
    browser.get('/count')
    log_out(app, session_id(browser))
    browser.get('/write', status=409)
    assert len(attempts) == 1
