"""The debug toolbar's panel, in whole applications and in a browser."""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory
from webtest import TestApp

from pyramid_dynamodb_session import DynamoDBSession
from pyramid_dynamodb_session.toolbar import SessionReport
from pyramid_dynamodb_session.unit_of_work import UnitOfWork
from tests.apps.small_app import ReleasedAtFirstSight, SmallApp, session_id
from tests.apps.views import count, none, read
from tests.support.chromium import Page
from tests.support.clients import Interposed
from tests.support.servers import Server

Make = Callable[..., SmallApp]
PANEL = 'pyramid_dynamodb_session.toolbar'
CALLBACKS = {'pyramid.tweens': 'pyramid_debugtoolbar.toolbar_tween_factory'}
CONTENT = '#pDebugPanel-dynamodb_session-content'


@pytest.fixture
def make(client: Any, settings: dict[str, str]) -> Make:
    """A function that makes an application with views and the toolbar."""

    def make(
        panel: str = PANEL,
        more: dict[str, Any] | None = None,
        client: Any = client,
        **options: Any,
    ) -> SmallApp:
        toolbar = {
            'debugtoolbar.hosts': '::1',
            'debugtoolbar.includes': panel,
            # the others take time
            'debugtoolbar.panels': 'session dynamodb_session'
            if panel
            else 'session',
            'debugtoolbar.global_panels': 'routes',
            'pyramid.includes': 'pyramid_debugtoolbar',
        }
        app = SmallApp(client, settings, toolbar | (more or {}), **options)
        app.add(count, none, read, look, change, pair)
        app.add(remove, restart, much)
        app.add(read_only, session_state='read_only')
        return app

    return make


@pytest.fixture
def app(make: Make) -> SmallApp:
    return make()


def look(request: Any) -> Any:
    return request.session.state


def read_only(request: Any) -> Any:
    return dict(request.session)


def change(request: Any) -> Any:
    request.session.update({'a <b>': ['secret'], 'n': 2, 'kept': 1})
    request.session.pop('gone', None)


def pair(request: Any) -> Any:
    request.session['pair'] = 1, 2


def remove(request: Any) -> Any:
    request.session.invalidate()


def restart(request: Any) -> Any:
    request.session.invalidate()
    request.session['new'] = 1


def much(request: Any) -> Any:
    request.session['much'] = 'much ' * int(request.params['times'])


class Panel:
    """What the panel says of a browser's last request."""

    def __init__(self, browser: TestApp) -> None:
        page = browser.get('/_debug_toolbar/')
        (self.html,) = page.html.select(CONTENT)
        self.text = ' '.join(self.html.get_text(' ').split())
        (tab,) = page.html.select('#pDebugPanel-dynamodb_session')
        self.tab = ' '.join(tab.get_text(' ').split())

    def __getitem__(self, heading: str) -> str:
        """What stands beside a heading such as ``Lock``."""
        for row in self.html.select('tr'):
            if row.th and row.th.get_text() == heading:
                return ' '.join(row.td.get_text().split())
        raise KeyError(heading)

    def table(self, heading: str) -> list[list[str]]:
        """The body of the table below a heading such as ``Keys``."""
        (found,) = self.html.find_all('h4', string=heading)
        return [
            [' '.join(cell.get_text().split()) for cell in row.select('td')]
            for row in found.find_next('table').select('tbody tr')
        ]


# -- what it says --------------------------------------------------------


def test_panel_of_a_session_that_is_saved(app: SmallApp) -> None:
    browser = app.open()
    browser.get('/count')
    created = Panel(browser)
    assert created['Outcome'] == 'created'
    assert created['Lock'] == 'not taken'
    assert created.table('Keys') == [['n', '7', 'added']]
    assert created.tab == '1 call DynamoDB Session'
    browser.get('/count')
    saved = Panel(browser)
    assert saved['State'] == 'exclusive'
    assert saved['Lock'].startswith('taken in ')
    assert saved['Outcome'] == 'saved'
    assert saved['In use'].endswith(' ms')
    assert saved.tab == '2 calls DynamoDB Session'
    calls = saved.table('Calls to DynamoDB')
    assert [(row[0], row[3]) for row in calls] == [
        ('update_item', 'lock taken'),
        ('update_item', 'session saved'),
    ]
    assert all(float(row[1]) > 0 and float(row[2]) > 0 for row in calls)


def test_panel_says_what_changed(app: SmallApp) -> None:
    def prepare(request: Any) -> Any:
        request.session.update({'n': 1, 'gone': 1, 'kept': 1})

    app.add(prepare)
    browser = app.open()
    browser.get('/prepare')
    browser.get('/change')
    panel = Panel(browser)
    assert panel.table('Keys') == [
        ['a <b>', '20', 'added'],
        ['kept', '10', ''],
        ['n', '7', 'changed'],
        ['gone', '', 'removed'],
    ]
    assert 'secret' not in panel.text


@pytest.mark.parametrize(
    ('path', 'outcome', 'keys'),
    [
        ('/read', 'not saved, only released', [['n', '7', '']]),
        ('/read_only', 'only read', [['n', '7', '']]),
        ('/remove', 'removed', [['n', '', 'removed']]),
        (
            '/restart',
            'removed, created',
            [['new', '9', 'added'], ['n', '', 'removed']],
        ),
    ],
)
def test_panel_shows_the_outcome(
    path: str, outcome: str, keys: list[Any], app: SmallApp
) -> None:
    browser = app.open()
    browser.get('/count')
    browser.get(path)
    panel = Panel(browser)
    assert panel['Outcome'] == outcome
    assert panel.table('Keys') == keys


def test_panel_of_a_session_without_data(app: SmallApp) -> None:
    browser = app.open()
    browser.get('/read')
    panel = Panel(browser)
    assert panel['Outcome'] == 'nothing stored'
    assert 'Session not stored' in panel.text
    assert 'Calls to DynamoDB None.' in panel.text


def test_panel_of_a_request_without_a_session(app: SmallApp) -> None:
    browser = app.open()
    browser.get('/none')
    assert 'This request asked for no session.' in Panel(browser).text


def test_panel_of_a_session_that_is_not_used(make: Make) -> None:
    # without the toolbar's own, which reads what was asked for
    app = make(more={'debugtoolbar.panels': 'dynamodb_session'})
    browser = app.open()
    browser.get('/look')
    panel = Panel(browser)
    assert panel['Outcome'] == 'not used'
    assert panel.tab == '0 calls DynamoDB Session'


def test_panel_shows_the_size_before_and_after_compression(
    app: SmallApp,
) -> None:
    browser = app.open()
    browser.get('/much?times=1')
    plain = Panel(browser)['Size']
    assert plain.endswith('of 409,600 bytes (0.0 %); 16 bytes of data')
    browser.get('/much?times=80000')
    packed = Panel(browser)['Size']
    assert packed.endswith('400,011 bytes of data, compressed')
    size = packed.split()[0].replace(',', '')
    item = app.elsewhere.client.get_item(
        TableName=app.elsewhere.settings.table,
        Key={'SessionId': {'S': app.name(browser)}},
    )['Item']
    stored = len(item['SessionItems']['B'])
    # the rest of the item
    assert stored < int(size) < stored + 250


def test_panel_shows_the_id_only_hashed_and_shortened(app: SmallApp) -> None:
    browser = app.open()
    browser.get('/count')
    panel = Panel(browser)
    hashed = app.name(browser)
    assert f'Session {hashed[:-35]}…' in panel.text
    assert len(hashed[:-35].rpartition('-')[2]) <= 8
    assert hashed[:-34] not in panel.text
    assert session_id(browser) not in panel.text


def test_panel_of_a_request_that_waited(make: Make, client: Any) -> None:
    look = ReleasedAtFirstSight(client)
    app = make(client=Interposed(client, get_item=look))
    browser = app.open()
    browser.get('/count')
    look.lock(app, session_id(browser))
    browser.get('/count')
    panel = Panel(browser)
    assert panel['Lock'].startswith('taken after waiting ')
    calls = panel.table('Calls to DynamoDB')
    assert calls[0][3] == 'ConditionalCheckFailedException'
    assert calls[-2][3] == 'lock waited, lock taken'


def test_panel_of_a_lock_that_is_taken_over_and_renewed(make: Make) -> None:
    def slow(request: Any) -> Any:
        request.session['n'] += 1
        time.sleep(0.4)

    app = make(lock_lease=0.3)
    app.add(slow)
    browser = app.open()
    browser.get('/count')
    app.elsewhere.get_item_exclusive(session_id(browser))
    browser.get('/slow')
    lock = Panel(browser)['Lock']
    assert 'taken over from a dead request after ' in lock
    assert ', renewed ' in lock
    assert lock.endswith(('once', 'times'))


def test_panel_of_a_request_that_fails(make: Make) -> None:
    app = make(lock_wait=0.05)
    browser = app.open()
    browser.get('/count')
    browser.get('/much?times=1000000', status=500)
    panel = Panel(browser)
    assert 'over the limit of 4194304' in panel.text
    assert panel['Outcome'] == 'not saved, only released'
    app.elsewhere.get_item_exclusive(session_id(browser))
    browser.get('/count', status=503)
    panel = Panel(browser)
    assert panel['Lock'].startswith('not to be had in ')
    assert 'held the lock of the session for all of lock_wait' in panel.text
    assert panel['Outcome'] == 'nothing stored'


def history(browser: TestApp) -> dict[str, int]:
    """The status of each path, as the toolbar's history shows it."""
    stream = browser.get('/_debug_toolbar/sse').text
    (data,) = re.findall('^data:(.*)$', stream, re.MULTILINE)
    return {
        entry['path']: entry['status_code'] for _, entry, _ in json.loads(data)
    }


@pytest.mark.parametrize(
    'more',
    [{}, {'pyramid.includes': ''}, CALLBACKS],
    ids=['toolbar first', 'session first', 'callbacks'],
)
def test_history_shows_the_status_of_a_save_that_failed(
    more: dict[str, str], make: Make
) -> None:
    def wrong(request: Any) -> Any:
        request.session['form'] = {'user': object()}

    app = make(more=more)
    if more.get('pyramid.includes') == '':
        app.config.include('pyramid_debugtoolbar')
    app.add(wrong)
    browser = app.open()
    browser.get('/count')
    browser.get('/wrong', status=500)
    panel = Panel(browser)
    assert "session['form'] holds an object at ['user']" in panel.text
    assert panel['Outcome'] == 'not saved, only released'
    assert history(browser) == {'/count': 200, '/wrong': 500}


def test_history_shows_a_redirection_that_the_toolbar_has_stopped(
    make: Make,
) -> None:
    def leave(request: Any) -> Any:
        request.session['n'] = 1
        raise HTTPFound('/count')

    app = make(more={'debugtoolbar.intercept_redirects': 'true'})
    app.add(leave)
    browser = app.open()
    browser.get('/leave', status=200)
    assert history(browser) == {'/leave': 302}


def test_panel_warns_of_what_would_not_come_back_equal(app: SmallApp) -> None:
    def mixed(request: Any) -> Any:
        request.session['kept'] = [datetime.date(2026, 11, 21), {'a': 1}]
        request.session['cart'] = {'items': [{7: 'seven'}, (1, 2)]}
        request.session['name'] = Markup('<b>')

    def again(request: Any) -> Any:
        return sorted(request.session)

    app.add(mixed, again)
    browser = app.open()
    browser.get('/mixed')
    (warning,) = Panel(browser).html.select('.alert-warning')
    assert [row.get_text() for row in warning.select('li')] == [
        "session['cart']['items'][0][7]: a key of type int",
        "session['cart']['items'][1]: tuple",
        "session['name']: markupsafe.Markup",
    ]
    # what has been read comes back as it is
    browser.get('/again')
    assert not Panel(browser).html.select('.alert-warning')


def test_panel_does_not_know_what_another_serializer_changes(
    make: Make,
) -> None:
    app = make(serializer='pyramid.session.JSONSerializer')
    browser = app.open()
    browser.get('/pair')
    assert not Panel(browser).html.select('.alert-warning')


def test_panel_of_a_request_that_lost_the_lock(app: SmallApp) -> None:
    def lose(request: Any) -> Any:
        request.session['n'] += 1
        app.take_over(request.cookies['session'])

    app.add(lose)
    browser = app.open()
    browser.get('/count')
    browser.get('/lose', status=409)
    panel = Panel(browser)
    assert panel['Lock'].endswith(', lost to another request')
    assert 'nothing of it was saved' in panel.text


def test_panel_of_a_subrequest_shows_its_parents_session(
    app: SmallApp,
) -> None:
    def parent(request: Any) -> Any:
        child = request.blank('/count')
        child.remote_addr = '::1'
        child.cookies.update(request.cookies)
        request.session['parent'] = True
        return request.invoke_subrequest(child, use_tweens=True).json

    app.add(parent)
    browser = app.open()
    browser.get('/count')
    browser.get('/parent')
    (child,) = (
        id
        for id, toolbar in app.config.registry.pdtb_history.last(2)
        if toolbar.request.path == '/count'
    )
    (panel,) = browser.get(f'/_debug_toolbar/{child}').html.select(CONTENT)
    assert 'parent' in panel.get_text()


# -- what it does not do -------------------------------------------------


@pytest.mark.parametrize('active', ['', 'session dynamodb_session'])
@pytest.mark.parametrize(
    'more',
    [{}, {'pyramid.includes': ''}, CALLBACKS],
    ids=['session first', 'toolbar first', 'callbacks'],
)
def test_panel_changes_nothing(
    more: dict[str, str], active: str, make: Make
) -> None:
    def page(request: Any) -> Any:
        count(request)
        return Response(f'<body>{request.session["n"]}</body>')

    def calls_of(panel: str) -> list[Any]:
        app = make(panel, more={'debugtoolbar.active_panels': active, **more})
        if more.get('pyramid.includes') == '':
            app.config.include('pyramid_debugtoolbar')
        app.add(page)
        browser = app.open()
        seen: list[Any] = []
        for path in ('/none', '/page', '/page', '/read', '/none'):
            answer = browser.get(path)
            cookies = len(answer.headers.getall('Set-Cookie'))
            seen.append((path, answer.status, cookies, app.calls()))
        assert not app.is_locked(browser)
        if panel:
            browser.get('/page')
            app.calls()
            assert Panel(browser)['Outcome'] == 'saved'
            assert app.calls() == []
        return seen

    assert calls_of(PANEL) == calls_of('')


def test_panel_beside_another_session_factory(make: Make) -> None:
    app = make()
    app.config.commit()
    app.config.set_session_factory(SignedCookieSessionFactory('secret'))
    app.wsgi = app.config.make_wsgi_app()
    browser = app.browser()
    browser.get('/read')
    assert 'This request asked for no session.' in Panel(browser).text


# -- in a browser --------------------------------------------------------


def test_panel_in_a_browser(
    settings: dict[str, str], driver: Any, tmp_path: Path
) -> None:
    toolbar = {
        'pyramid.includes': 'pyramid_debugtoolbar',
        'debugtoolbar.includes': PANEL,
    }
    with Server(settings | toolbar, app='tests.apps.wsgi_app:main') as server:
        driver.get(f'{server.url}/exclusive/count')
        driver.get(f'{server.url}/exclusive/count')
        driver.get(f'{server.url}/_debug_toolbar/')
        page = Page(driver)
        assert not page.one(CONTENT).is_displayed()
        page.one('#pDebugPanel-dynamodb_session a').click()
        page.wait_for(CONTENT, 'Calls to DynamoDB')
        text = page.text(CONTENT)
        assert 'Outcome saved' in text
        assert text.count('update_item') == 2
        assert 'n 7 changed' in text
        bar = page.one(f'{CONTENT} .progress-bar').size
        whole = page.one(f'{CONTENT} .progress').size
        assert 0 < bar['width'] < whole['width'] / 10
        width = 'return document.documentElement.scrollWidth'
        assert (
            driver.execute_script(width) <= driver.get_window_size()['width']
        )


def test_report_of_a_session_that_nobody_recorded_is_empty(
    client: Any, settings: dict[str, str]
) -> None:
    app = SmallApp(client, settings)
    report = SessionReport(DynamoDBSession(UnitOfWork(app.elsewhere)))
    assert (report.calls, report.name, report.outcome) == ([], '', 'not used')
