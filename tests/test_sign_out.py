"""Signing out everywhere, as the views of an application do it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.interfaces import ISessionFactory
from webtest import TestApp

from pyramid_dynamodb_session import SessionReadOnly, events
from pyramid_dynamodb_session.store.item import hash_key
from tests.apps.small_app import PREFIX, SmallApp, session_id
from tests.apps.views import count, read

OWNER = 'anna@example.com'
Make = Callable[..., SmallApp]

pytestmark = pytest.mark.usefixtures('settled_soon')


@pytest.fixture
def make(client: Any, settings: dict[str, str], indexed_table: str) -> Make:
    """A function that makes an application, to add views to."""

    def make(**options: Any) -> SmallApp:
        given = {'owner_index': 'Owner-index', **options}
        on_table = settings | {f'{PREFIX}table': indexed_table}
        app = SmallApp(client, on_table, **given)
        app.add(log_in, count, read, sign_out_others, sign_out)
        app.add(sign_out_everywhere)
        return app

    return make


@pytest.fixture
def app(make: Make) -> SmallApp:
    return make()


def log_in(request: Any) -> Any:
    request.session.regenerate_id()
    request.session.owner = OWNER
    return {}


def store_of(request: Any) -> Any:
    return request.registry.getUtility(ISessionFactory).store


def sign_out_others(request: Any) -> Any:
    """As after a change of the password, which gets a new id."""
    session = request.session
    session.regenerate_id()
    ended = store_of(request).remove_sessions_of(OWNER, keep=session)
    session['ended'] = ended
    return {'ended': ended}


def sign_out(request: Any) -> Any:
    """Everywhere, this browser included."""
    request.session.invalidate()
    return {'ended': store_of(request).remove_sessions_of(OWNER)}


def sign_out_everywhere(request: Any) -> Any:
    """Without an end of this session before: a mistake."""
    request.session['n'] = 0
    return {'ended': store_of(request).remove_sessions_of(OWNER)}


def logged_in(app: SmallApp, browsers: int) -> list[TestApp]:
    """So many browsers of one user."""
    opened = [app.browser() for _ in range(browsers)]
    for browser in opened:
        browser.get('/count')
        browser.get('/log_in')
    return opened


def test_others_are_signed_out(app: SmallApp) -> None:
    app.open()
    here, there, elsewhere = logged_in(app, 3)
    before = session_id(here)
    assert here.get('/sign_out_others').json == {'ended': 2}
    assert session_id(here) != before
    assert here.get('/read').json == {'n': 1, 'ended': 2}
    for browser in (there, elsewhere):
        assert browser.get('/read').json == {}
    # it has its owner still
    assert logged_in(app, 1)[0].get('/sign_out_others').json == {'ended': 1}


def test_browser_is_signed_out_with_all_others(app: SmallApp) -> None:
    app.open()
    here, there = logged_in(app, 2)
    assert here.get('/sign_out').json == {'ended': 2}
    assert 'session' not in here.cookies
    assert here.get('/read').json == there.get('/read').json == {}


def test_own_session_that_was_ended_is_not_saved(app: SmallApp) -> None:
    app.open()
    (here,) = logged_in(app, 1)
    here.get('/sign_out_everywhere', status=409)
    assert here.get('/read').json == {}


def test_owner_is_not_set_where_nothing_may_be_written(make: Make) -> None:
    app = make()
    refused: list[type[Exception]] = []

    def only_reads(request: Any) -> Any:
        try:
            request.session.owner = OWNER
        except SessionReadOnly as error:
            refused.append(type(error))

    app.add(only_reads, session_state='read_only')
    (here,) = logged_in_at(app)
    here.get('/only_reads')
    assert refused == [SessionReadOnly]


def logged_in_at(app: SmallApp) -> list[TestApp]:
    app.open()
    return logged_in(app, 1)


def test_owner_costs_no_call(make: Make) -> None:
    made = []
    for index in (None, 'Owner-index'):
        app = make(owner_index=index)

        def begin(request: Any, index: str | None = index) -> Any:
            if index:
                request.session.owner = OWNER
            request.session['n'] = 1
            return {}

        app.add(begin)
        browser = app.open()
        for path in ('/begin', '/count', '/read'):
            browser.get(path)
        made.append(app.calls())
    without, with_index = made
    assert without == with_index == ['put_item', *['update_item'] * 4]


def test_owner_is_shown_nowhere(
    app: SmallApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, 'pyramid_dynamodb_session')
    told: list[str] = []

    def listen(event: Any) -> None:
        told.append(repr(event) + repr(vars(event)))

    for event in events.SessionEvent.__subclasses__():
        app.config.add_subscriber(listen, event)
    reprs: list[str] = []

    def show(request: Any) -> Any:
        request.session.owner = OWNER
        found = list(store_of(request).sessions_of(OWNER))
        reprs.extend(map(repr, [request.session, store_of(request), found]))
        return {}

    app.add(show)
    app.open()
    here, there = logged_in(app, 2)
    here.get('/show')
    there.get('/sign_out_others')
    assert told and reprs and 'OwnedSession' in reprs[-1]
    application = app.elsewhere.settings.application
    hashed = hash_key(OWNER, application)
    for text in ('anna', hashed, hash_key(OWNER, None)):
        assert text not in caplog.text
        assert text not in ''.join(told)
        assert text not in ''.join(reprs)


def test_owner_is_not_in_the_panel(make: Make) -> None:
    toolbar = {
        'debugtoolbar.hosts': '::1',
        'debugtoolbar.includes': 'pyramid_dynamodb_session.toolbar',
        'debugtoolbar.panels': 'session dynamodb_session',
        'debugtoolbar.global_panels': 'routes',
        'pyramid.includes': 'pyramid_debugtoolbar',
    }
    app = make(more=toolbar)
    (here,) = logged_in_at(app)
    shown = here.get('/_debug_toolbar/').text
    assert 'pDebugPanel-dynamodb_session-content' in shown
    application = app.elsewhere.settings.application
    assert 'anna' not in shown
    assert hash_key(OWNER, application) not in shown
