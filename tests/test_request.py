"""A request: when its session is loaded, saved and closed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyramid import testing
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.events import NewRequest, NewResponse
from pyramid.httpexceptions import HTTPFound, HTTPNotModified
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.security import remember
from webtest import TestApp

from pyramid_dynamodb_session import (
    DynamoDBSession,
    DynamoDBSessionFactory,
    SessionClosed,
    SessionLockLost,
    SessionLockTimeout,
)
from pyramid_dynamodb_session.unit_of_work import new_session_id
from tests.apps.small_app import SmallApp, session_id
from tests.apps.views import count, none, read

EXCVIEW = 'pyramid.tweens.excview_tween_factory'
SESSION_TWEEN = 'pyramid_dynamodb_session.factory.session_tween_factory'
TM = 'pyramid_tm.tm_tween_factory'

Make = Callable[..., SmallApp]

#: The ways in which a session gets saved.
TWEEN: dict[str, Any] = {}
CALLBACKS: dict[str, Any] = {'more': {'pyramid.tweens': EXCVIEW}}
BARE: dict[str, Any] = {'include': False}


@pytest.fixture
def make(client: Any, settings: dict[str, str]) -> Make:
    """A function that makes an application, to add views to."""

    def make(**options: Any) -> SmallApp:
        return SmallApp(client, settings, **options)

    return make


@pytest.fixture(
    params=[TWEEN, CALLBACKS, BARE], ids=['tween', 'callbacks', 'no include']
)
def app(request: pytest.FixtureRequest, make: Make) -> SmallApp:
    """An application, with the tween and without."""
    return make(**request.param)


class Handled(Exception):
    """Has an exception view, where one is added."""


def fail(request: Any) -> Any:
    request.session['failed'] = True
    raise RuntimeError('not handled')


def handled(request: Any) -> Any:
    request.session['handled'] = True
    raise Handled


def handle(error: Exception, request: Any) -> Any:
    request.response.status_code = 400
    return {'error': type(error).__name__}


def set_cookies(response: Any) -> list[str]:
    cookies: list[str] = response.headers.getall('Set-Cookie')
    return cookies


# -- saved or not --------------------------------------------------------


def test_session_lasts_from_request_to_request(app: SmallApp) -> None:
    app.add(count, read)
    browser = app.open()
    assert [browser.get('/count').json['n'] for _ in range(3)] == [1, 2, 3]
    assert browser.get('/read').json == {'n': 3}
    assert app.browser().get('/read').json == {}
    assert not app.is_locked(browser)


def test_redirect_after_flash_is_saved(app: SmallApp) -> None:
    def flash(request: Any) -> Any:
        request.session.flash('saved')
        raise HTTPFound('/messages')

    def messages(request: Any) -> Any:
        return request.session.pop_flash()

    app.add(flash, messages)
    browser = app.open()
    for _ in range(2):
        assert browser.get('/flash').follow().json == ['saved']
    assert browser.get('/messages').json == []


@pytest.mark.parametrize('saving', [True, False])
def test_exception_view_saves_by_set_on_exception(
    saving: bool, make: Make
) -> None:
    for way in (TWEEN, CALLBACKS, BARE):
        app = make(**way, set_on_exception=saving)
        app.add(count, handled)
        app.config.add_view(handle, context=Handled, renderer='json')
        browser = app.open()
        response = browser.get('/handled', status=400)
        assert bool(set_cookies(response)) is saving
        assert 'Cookie' in response.headers['Vary']
        browser.get('/count')
        browser.get('/handled', status=400)
        assert app.stored(browser).get('handled', False) is saving
        assert not app.is_locked(browser)


def test_unhandled_exception_saves_nothing_and_unlocks(app: SmallApp) -> None:
    app.add(count, fail)
    browser = app.open()
    browser.get('/count')
    with pytest.raises(RuntimeError, match='not handled'):
        browser.get('/fail')
    assert not app.is_locked(browser)
    assert browser.get('/count').json == {'n': 2}
    assert app.stored(browser) == {'n': 2}


def test_unhandled_exception_makes_no_session(app: SmallApp) -> None:
    app.add(fail)
    browser = app.open()
    with pytest.raises(RuntimeError):
        browser.get('/fail')
    assert app.calls() == []


def test_reading_by_someone_unknown_stores_nothing(app: SmallApp) -> None:
    app.add(read, none)
    browser = app.open()
    for path in ('/read', '/none'):
        assert set_cookies(browser.get(path)) == []
    assert app.calls() == []


def test_request_that_uses_no_session_leaves_it_alone(app: SmallApp) -> None:
    app.add(count, none)
    browser = app.open()
    browser.get('/count')
    app.calls()
    response = browser.get('/none')
    assert set_cookies(response) == []
    assert 'Vary' not in response.headers
    assert app.calls() == []


def test_invalidate_removes_session_and_cookie(app: SmallApp) -> None:
    def log_out(request: Any) -> Any:
        request.session.invalidate()
        return {}

    app.add(count, log_out)
    browser = app.open()
    browser.get('/count')
    old = session_id(browser)
    (cookie,) = set_cookies(browser.get('/log_out'))
    assert cookie.startswith('session=; Max-Age=0; Path=/')
    assert app.elsewhere.get_item(old) is None
    assert 'session' not in browser.cookies
    assert browser.get('/count').json == {'n': 1}


def test_log_in_gives_a_new_id_to_the_same_data(app: SmallApp) -> None:
    def log_in(request: Any) -> Any:
        request.session.regenerate_id()
        return {}

    app.add(count, read, log_in)
    browser = app.open()
    browser.get('/count')
    old = session_id(browser)
    assert len(set_cookies(browser.get('/log_in'))) == 1
    assert session_id(browser) != old
    assert browser.get('/count').json == {'n': 2}
    assert app.elsewhere.get_item(old) is None
    stolen = app.browser(old)
    assert stolen.get('/read').json == {}
    assert set_cookies(stolen.get('/count', status=409)) == []
    assert session_id(stolen) == old


# -- the cookie ----------------------------------------------------------


def test_one_set_cookie_and_only_when_the_id_is_new(app: SmallApp) -> None:
    app.add(count, read)
    browser = app.open()
    (cookie,) = set_cookies(browser.get('/count'))
    name, *attributes = cookie.split('; ')
    assert name == f'session={session_id(browser)}'
    assert sorted(attributes) == ['HttpOnly', 'Path=/', 'SameSite=Lax']
    assert set_cookies(browser.get('/count')) == []
    assert set_cookies(browser.get('/read')) == []


def test_one_set_cookie_beside_those_of_the_view(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        request.session.flash('a')
        request.session.invalidate()
        request.session['b'] = 1
        request.session.regenerate_id()
        request.response.set_cookie('other', 'x')
        return {}

    app.add(view)
    browser = app.open()
    for _ in range(2):
        cookies = set_cookies(browser.get('/view'))
        assert sorted(cookie.split('=')[0] for cookie in cookies) == [
            'other',
            'session',
        ]


def test_cookie_that_has_an_age_slides(make: Make) -> None:
    app = make(cookie_max_age=3600)
    app.add(count, read, none)
    browser = app.open()
    assert 'Max-Age=3600' in set_cookies(browser.get('/count'))[0]
    assert 'Max-Age=3600' in set_cookies(browser.get('/read'))[0]
    assert set_cookies(browser.get('/none')) == []


def test_cookie_is_secure_where_the_request_is(app: SmallApp) -> None:
    app.add(count)
    app.open()
    https = TestApp(app.wsgi, extra_environ={'wsgi.url_scheme': 'https'})
    assert 'secure' in set_cookies(https.get('/count'))[0]


def test_cookie_as_the_settings_have_it(make: Make) -> None:
    app = make(
        cookie_name='abc',
        cookie_path='/foo',
        cookie_domain='localhost',
        cookie_secure='true',
        cookie_httponly='false',
        cookie_samesite='None',
    )
    app.add(count)
    (cookie,) = set_cookies(app.open().get('/count'))
    name, *attributes = cookie.split('; ')
    assert name.startswith('abc=')
    assert sorted(attributes) == [
        'Domain=localhost',
        'Path=/foo',
        'SameSite=None',
        'secure',
    ]


def test_vary_is_added_to_what_the_view_says(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        request.response.vary = ['Accept']
        return {'n': len(request.session)}

    app.add(view, read)
    browser = app.open()
    assert browser.get('/view').headers['Vary'] == 'Accept, Cookie'
    assert browser.get('/read').headers['Vary'] == 'Cookie'


@pytest.mark.parametrize(
    'cookie',
    [
        '',
        'x',
        'x' * 43,
        'x' * 4096,
        '"' + 'x' * 43 + '"',
        '"',
        '\\"',
        'a=b',
        'ü' * 43,
        '\x7f',
        '../../etc/passwd',
        '%00',
        'None',
        "' OR 1=1 --",
    ],
)
def test_any_cookie_is_a_new_session_at_most(cookie: str, make: Make) -> None:
    app = make()
    app.add(read, count)
    app.open()
    headers = {'Cookie': f'session={cookie}'}
    if not cookie.isascii():
        headers['Cookie'] = headers['Cookie'].encode().decode('latin-1')
    response = app.browser().get('/read', headers=headers)
    assert response.json == {}
    assert len(set_cookies(response)) <= 1
    could_be = cookie.strip('"') == 'x' * 43
    assert app.calls()[:1] == ['update_item'] * could_be
    browser = app.browser()
    assert browser.get('/count', headers=headers).json == {'n': 1}
    assert session_id(browser) != cookie


def test_cookie_of_a_removed_session_is_removed(app: SmallApp) -> None:
    app.add(count, read)
    app.open()
    for dead in ('x' * 43, 'garbage'):
        browser = app.browser(dead)
        (cookie,) = set_cookies(browser.get('/read'))
        assert cookie.startswith('session=; Max-Age=0; Path=/')


def test_cookie_of_a_removed_session_is_replaced_by_a_write(
    app: SmallApp,
) -> None:
    app.add(count)
    app.open()
    browser = app.browser('x' * 43)
    assert len(set_cookies(browser.get('/count'))) == 1
    assert session_id(browser) != 'x' * 43


def test_session_of_another_application_is_not_found(
    make: Make, application: str
) -> None:
    app = make()
    app.add(count)
    browser = app.open()
    browser.get('/count')
    other = make(application='other-' + application)
    other.add(read)
    other.open()
    assert other.browser(session_id(browser)).get('/read').json == {}


# -- failures become responses -------------------------------------------


class Root:
    """A root factory that greets the user by name."""

    def __init__(self, request: Any) -> None:
        self.name = request.session.get('name')


def in_view(app: SmallApp) -> None:
    app.add(read)


def in_view_predicate(app: SmallApp) -> None:
    app.config.add_view_predicate('named', Named)
    app.add(none)
    app.config.add_route('read', '/read')
    app.config.add_view(none, route_name='read', renderer='json', named=True)


class Named:
    """A view predicate that looks into the session."""

    def __init__(self, value: Any, info: Any) -> None:
        pass

    def text(self) -> str:
        return 'named'

    phash = text

    def __call__(self, context: Any, request: Any) -> bool:
        return 'name' in request.session


def in_root_factory(app: SmallApp) -> None:
    app.config.set_root_factory(Root)
    app.add(none)
    app.config.add_route('read', '/read')
    app.config.add_view(none, route_name='read', renderer='json')


def in_subscriber(app: SmallApp) -> None:
    app.config.add_subscriber(
        lambda event: len(event.request.session), NewRequest
    )
    in_root_factory(app)


def in_tm(app: SmallApp) -> None:
    app.config.include('pyramid_tm')
    app.config.set_security_policy(SessionPolicy())
    app.config.add_route('read', '/read')
    app.config.add_view(none, route_name='read', renderer='json')


class SessionPolicy:
    """Who you are is in the session; a friend may do everything."""

    def __init__(self) -> None:
        self._helper = SessionAuthenticationHelper()

    def identity(self, request: Any) -> Any:
        return self.authenticated_userid(request)

    def authenticated_userid(self, request: Any) -> Any:
        return self._helper.authenticated_userid(request)

    def permits(self, request: Any, context: Any, permission: str) -> bool:
        return bool(self.identity(request) == permission)

    def remember(self, request: Any, userid: str, **kw: Any) -> Any:
        return self._helper.remember(request, userid, **kw)

    def forget(self, request: Any, **kw: Any) -> Any:
        return self._helper.forget(request, **kw)


def hold_lock(app: SmallApp) -> TestApp:
    """The browser of a session whose lock another server holds."""
    session_id = new_session_id()
    app.elsewhere.set_and_release_item_exclusive(
        session_id, {'name': 'me'}, None, new_item=True
    )
    assert app.elsewhere.get_item_exclusive(session_id)
    return app.browser(session_id)


PLACES = [in_view, in_view_predicate, in_root_factory, in_subscriber]


@pytest.mark.parametrize(
    ('way', 'place'),
    [
        *((TWEEN, place) for place in [*PLACES, in_tm]),
        # pyramid_tm is above the exception views, as only our tween is
        *((CALLBACKS, place) for place in PLACES),
    ],
)
def test_lock_timeout_is_a_response_wherever_it_happens(
    way: Any, place: Any, make: Make
) -> None:
    for rendered in (True, False):
        app = make(**way, lock_wait=0.01)
        place(app)
        if rendered:
            app.config.add_view(
                handle, context=SessionLockTimeout, renderer='json'
            )
        app.open()
        browser = hold_lock(app)
        response = browser.get('/read', status=400 if rendered else 503)
        if rendered:
            assert response.json == {'error': 'SessionLockTimeout'}
        else:
            assert 'Another request of yours' in response.text
            assert int(response.headers['Retry-After']) > 0
        assert set_cookies(response) == []


def test_lock_timeout_without_any_exception_view(make: Make) -> None:
    app = make(lock_wait=0.01, more={'pyramid.tweens': SESSION_TWEEN})
    app.add(read)
    app.open()
    response = hold_lock(app).get('/read', status=503)
    assert 'Another request of yours' in response.text


def test_error_page_that_uses_the_session_does_not_wait_again(
    make: Make,
) -> None:
    def page(error: Exception, request: Any) -> Any:
        calls_before.append(len(app.calls()))
        return {'name': request.session['name']}

    calls_before: list[int] = []
    app = make(lock_wait=0.1)
    app.add(read)
    app.config.add_view(page, context=SessionLockTimeout, renderer='json')
    app.open()
    response = hold_lock(app).get('/read', status=503)
    assert 'Another request of yours' in response.text
    assert calls_before[0] > 1
    assert app.calls() == []


def lose_lock(request: Any) -> Any:
    """Writes, but another server takes the lock over meanwhile."""
    request.session['mine'] = True
    attempts = request.registry.settings.setdefault('attempts', [])
    attempts.append(request.session.session_id)
    if len(attempts) == 1:
        app: SmallApp = request.registry.settings['app']
        app.take_over(request.session.session_id)
    return {'attempt': len(attempts)}


def with_lost_lock(app: SmallApp) -> TestApp:
    """A browser whose first ``/lose_lock`` loses the lock."""
    app.config.add_settings(app=app)
    app.add(lose_lock, count, read)
    browser = app.open()
    browser.get('/count')
    return browser


def test_lost_lock_is_told_and_saves_nothing(app: SmallApp) -> None:
    browser = with_lost_lock(app)
    response = browser.get('/lose_lock', status=409)
    assert 'nothing of this one was saved' in response.text
    assert response.content_length == len(response.body)
    assert set_cookies(response) == []
    assert app.stored(browser) == {'n': 1, 'other': True}
    assert browser.get('/lose_lock').json == {'attempt': 2}


def test_lost_lock_is_shown_by_an_exception_view(app: SmallApp) -> None:
    app.config.add_view(handle, context=SessionLockLost, renderer='json')
    browser = with_lost_lock(app)
    response = browser.get('/lose_lock', status=400)
    assert response.json == {'error': 'SessionLockLost'}


def test_lost_lock_without_any_exception_view(make: Make) -> None:
    app = make(more={'pyramid.tweens': SESSION_TWEEN})
    browser = with_lost_lock(app)
    response = browser.get('/lose_lock', status=409)
    assert 'nothing of this one was saved' in response.text


def test_redirect_becomes_the_error_when_saving_fails(app: SmallApp) -> None:
    def not_modified(request: Any) -> Any:
        request.session['bad'] = object()
        return HTTPNotModified()

    def redirect(request: Any) -> Any:
        request.session['bad'] = object()
        raise HTTPFound('/count')

    app.add(not_modified, redirect)
    browser = app.open()
    for path in ('/not_modified', '/redirect'):
        response = browser.get(path, status=500)
        assert 'Your session could not be saved' in response.text
        assert 'Location' not in response.headers
        assert set_cookies(response) == []


def test_page_of_a_failed_save_reads_and_does_not_write(
    app: SmallApp,
) -> None:
    def page(error: Exception, request: Any) -> Any:
        request.response.status_code = 400
        if 'write' in request.params:
            request.session.pop_flash()
        return {'n': request.session['n']}

    app.config.add_view(page, context=SessionLockLost, renderer='json')
    browser = with_lost_lock(app)
    assert browser.get('/lose_lock', status=400).json == {'n': 1}
    app.config.registry.settings['attempts'].clear()
    response = browser.get('/lose_lock?write', status=409)
    assert 'nothing of this one was saved' in response.text


def break_store(app: SmallApp) -> None:
    def unreachable(**_: Any) -> Any:
        raise OSError('no route to host')

    for operation in ('update_item', 'get_item', 'put_item', 'delete_item'):
        setattr(app.client, operation, unreachable)


def test_store_that_fails_is_a_503_and_leaves_the_cookie(
    app: SmallApp,
) -> None:
    app.add(count, none, read)
    browser = app.open()
    browser.get('/count')
    break_store(app)
    for path in ('/count', '/read'):
        response = browser.get(path, status=503)
        assert int(response.headers['Retry-After']) > 0
        assert set_cookies(response) == []
        assert 'no route' not in response.text
    assert browser.get('/none').status_int == 200


def test_unlocking_that_fails_is_only_logged(
    app: SmallApp, caplog: pytest.LogCaptureFixture
) -> None:
    def view(request: Any) -> Any:
        request.session['n'] += 1
        break_store(app)
        raise RuntimeError('the error of the view')

    app.add(count, view)
    browser = app.open()
    browser.get('/count')
    with pytest.raises(RuntimeError, match='the error of the view'):
        browser.get('/view')
    assert 'was not given back' in caplog.text


# -- pyramid_retry and pyramid_tm ----------------------------------------


@pytest.fixture(params=[TWEEN, CALLBACKS, BARE], ids=['tween', 'cb', 'bare'])
def retrying(request: pytest.FixtureRequest, make: Make) -> SmallApp:
    app = make(**request.param)
    app.config.include('pyramid_retry')
    return app


def test_lost_lock_is_retried(retrying: SmallApp) -> None:
    browser = with_lost_lock(retrying)
    assert browser.get('/lose_lock').json == {'attempt': 2}
    assert retrying.stored(browser) == {'n': 1, 'other': True, 'mine': True}


def test_discarded_attempts_save_nothing(retrying: SmallApp) -> None:
    from pyramid_retry import RetryableException

    def view(request: Any) -> Any:
        attempts.append(dict(request.session))
        request.session['attempt'] = len(attempts)
        if len(attempts) < 3 or 'never' in request.params:
            raise RetryableException
        return {}

    attempts: list[Any] = []
    retrying.add(view, count)
    browser = retrying.open()
    browser.get('/count')
    browser.get('/view')
    assert attempts == [{'n': 1}] * 3
    assert retrying.stored(browser) == {'n': 1, 'attempt': 3}
    with pytest.raises(RetryableException):
        browser.get('/view?never')
    assert len(attempts) == 6
    assert retrying.stored(browser) == {'n': 1, 'attempt': 3}
    assert not retrying.is_locked(browser)


def test_discarded_responses_save_nothing(retrying: SmallApp) -> None:
    from pyramid_retry import RetryableException

    def view(request: Any) -> Any:
        attempts.append(dict(request.session))
        request.session['attempt'] = len(attempts)
        raise RetryableException

    attempts: list[Any] = []
    retrying.add(view, count)
    retrying.config.add_view(
        handle, context=RetryableException, renderer='json'
    )
    browser = retrying.open()
    browser.get('/count')
    browser.get('/view', status=400)
    assert attempts == [{'n': 1}] * 3
    assert retrying.stored(browser) == {'n': 1, 'attempt': 3}


def test_without_pyramid_retry(
    client: Any,
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(sys.modules):
        if name.partition('.')[0] == 'pyramid_dynamodb_session':
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'pyramid_retry', None)
    alone = importlib.import_module('pyramid_dynamodb_session')
    config = Configurator()
    config.set_session_factory(
        alone.DynamoDBSessionFactory(
            client=client,
            table=settings['dynamodb_session.table'],
            application=settings['dynamodb_session.application'],
        )
    )
    config.add_route('handled', '/handled')
    config.add_view(handled, route_name='handled')
    config.add_view(handle, context=Handled, renderer='json')
    browser = TestApp(config.make_wsgi_app())
    assert set_cookies(browser.get('/handled', status=400))


def test_lock_timeout_is_not_retried(make: Make) -> None:
    app = make(lock_wait=0.01)
    app.config.include('pyramid_retry')
    tried = []

    def view(request: Any) -> Any:
        tried.append(request)
        return dict(request.session)

    app.add(view)
    app.open()
    hold_lock(app).get('/view', status=503)
    assert len(tried) == 1


class Database:
    """A data manager that tells when it commits."""

    def __init__(self, manager: Any, notify: list[str], fails: bool) -> None:
        self.transaction_manager = manager
        self._notify = notify
        self._fails = fails
        manager.get().join(self)

    def nothing(self, transaction: Any) -> None:
        pass

    tpc_begin = commit = tpc_abort = abort = nothing

    def tpc_vote(self, transaction: Any) -> None:
        if self._fails:
            raise Handled

    def tpc_finish(self, transaction: Any) -> None:
        self._notify.append('commit')

    def sortKey(self) -> str:
        return 'database'


@pytest.mark.parametrize(
    'more',
    [
        {},
        {'pyramid.includes': 'pyramid_tm'},
        {'pyramid.tweens': [TM, EXCVIEW]},
    ],
)
def test_session_is_saved_after_the_commit(more: Any, make: Make) -> None:
    notify: list[str] = []

    def view(request: Any) -> Any:
        Database(request.tm, notify, 'fail' in request.params)
        request.session['ordered'] = request.session.get('ordered', 0) + 1
        return {}

    app = make(more=more, set_on_exception=False)
    if 'pyramid.includes' not in more:
        app.config.include('pyramid_tm')
    app.config.add_view(handle, context=Handled, renderer='json')
    app.add(view)
    browser = app.open()
    put_item = app.client.put_item

    def put(**parameters: Any) -> Any:
        notify.append('save')
        return put_item(**parameters)

    app.client.put_item = put  # type: ignore[attr-defined]
    browser.get('/view')
    assert notify == ['commit', 'save']
    browser.get('/view?fail', status=400)
    assert app.stored(browser) == {'ordered': 1}


# -- subrequests ---------------------------------------------------------


@pytest.mark.parametrize('tweens', [True, False])
def test_subrequest_shares_the_session(tweens: bool, app: SmallApp) -> None:
    def parent(request: Any) -> Any:
        request.session['parent'] = True
        child = Request.blank('/child', cookies=request.cookies)
        answer = request.invoke_subrequest(child, use_tweens=tweens)
        assert 'Set-Cookie' not in answer.headers
        assert child.session is request.session
        request.session['after'] = True
        return answer.json

    def child(request: Any) -> Any:
        request.session['child'] = request.session.get('child', 0) + 1
        return dict(request.session)

    app.add(parent, child)
    browser = app.open()
    for number in (1, 2):
        response = browser.get('/parent')
        assert len(set_cookies(response)) == (number == 1)
        assert response.json['parent'] is True
        assert response.json['child'] == number
    assert app.calls() == ['put_item', 'update_item', 'update_item']
    assert app.stored(browser) == {'parent': True, 'child': 2, 'after': True}


def test_subrequest_that_is_first_to_use_the_session(app: SmallApp) -> None:
    def parent(request: Any) -> Any:
        child = Request.blank('/count', cookies=request.cookies)
        return request.invoke_subrequest(child).json

    app.add(parent, count)
    browser = app.open()
    assert [browser.get('/parent').json['n'] for _ in range(2)] == [1, 2]
    assert app.stored(browser) == {'n': 2}


def test_requests_after_a_subrequest_of_its_own_session(
    app: SmallApp,
) -> None:
    """The next one on this thread is a parent of its own."""

    def apart(request: Any) -> Any:
        child = Request.blank('/count')
        return request.invoke_subrequest(child).json

    def parent(request: Any) -> Any:
        child = Request.blank('/count', cookies=request.cookies)
        return request.invoke_subrequest(child).json

    app.add(apart, parent, count)
    browser = app.open()
    browser.get('/count')
    for number in (2, 3):
        assert browser.get('/apart').json == {'n': 1}
        assert browser.get('/parent').json == {'n': number}
    assert app.stored(browser) == {'n': 3}


def test_subrequest_that_fails_leaves_the_session_to_its_parent(
    app: SmallApp,
) -> None:
    def parent(request: Any) -> Any:
        child = Request.blank('/fail', cookies=request.cookies)
        with pytest.raises(RuntimeError, match='not handled'):
            request.invoke_subrequest(child, use_tweens=True)
        request.session['parent'] = True
        return {}

    app.add(parent, fail, count)
    browser = app.open()
    browser.get('/count')
    browser.get('/parent')
    assert app.stored(browser) == {'n': 1, 'failed': True, 'parent': True}


def test_subrequest_with_another_cookie_has_its_own_session(
    app: SmallApp,
) -> None:
    def parent(request: Any) -> Any:
        request.session['n'] = 100
        child = Request.blank('/count')
        return request.invoke_subrequest(child, use_tweens=True).json

    app.add(parent, count)
    browser = app.open()
    browser.get('/count')
    assert browser.get('/parent').json == {'n': 1}
    assert app.stored(browser) == {'n': 100}


# -- before the first callback and after the last ------------------------


def streaming(request: Any) -> Any:
    """Uses the session only while its response streams."""

    def chunks() -> Iterator[bytes]:
        try:
            chunks_session.append(dict(request.session))
        except SessionClosed as error:
            yield str(error).encode()

    chunks_session: list[Any] = []
    return Response(app_iter=chunks(), content_type='text/plain')


def test_first_use_while_streaming_is_refused(app: SmallApp) -> None:
    app.add(count, streaming)
    browser = app.open()
    browser.get('/count')
    app.calls()
    assert 'the request has ended' in browser.get('/streaming').text
    assert app.calls() == []


def test_first_use_while_an_error_page_streams_is_refused(
    app: SmallApp,
) -> None:
    def root_factory(request: Any) -> Any:
        if request.path == '/none':
            raise Handled

    app.config.set_root_factory(root_factory)
    app.config.add_view(
        lambda error, request: streaming(request), context=Handled
    )
    app.add(count, none)
    browser = app.open()
    browser.get('/count')
    app.calls()
    assert 'the request has ended' in browser.get('/none').text
    assert app.calls() == []


def test_what_was_read_before_streaming_stays_readable(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        def chunks() -> Iterator[bytes]:
            yield str(session['n']).encode()
            try:
                session['n'] = 2
            except SessionClosed as error:
                yield str(error).encode()

        session = request.session
        session['n'] = 1
        return Response(app_iter=chunks(), content_type='text/plain')

    app.add(view)
    browser = app.open()
    text = browser.get('/view').text
    assert text.startswith('1the session can not be changed any more')
    assert app.stored(browser) == {'n': 1}


def test_response_callback_may_use_the_session(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        def callback(request: Any, response: Any) -> None:
            request.session['n'] = request.session.get('n', 0) + 1

        request.add_response_callback(callback)
        return {}

    app.add(view)
    browser = app.open()
    browser.get('/view')
    browser.get('/view')
    assert app.stored(browser) == {'n': 2}


def test_failing_save_after_a_response_callback_is_a_response(
    app: SmallApp,
) -> None:
    def view(request: Any) -> Any:
        def callback(request: Any, response: Any) -> None:
            request.session['bad'] = object()

        request.add_response_callback(callback)
        return {}

    app.add(view)
    app.open().get('/view', status=500)


def test_response_callback_after_the_tween_finds_the_session_saved(
    make: Make,
) -> None:
    def view(request: Any) -> Any:
        def callback(request: Any, response: Any) -> None:
            response.headers['X-N'] = str(request.session['n'])
            with pytest.raises(SessionClosed, match='response has been made'):
                request.session['n'] = 2

        request.session['n'] = 1
        request.add_response_callback(callback)
        return {}

    app = make()
    app.add(view)
    assert app.open().get('/view').headers['X-N'] == '1'


def test_use_after_the_callbacks_is_unlocked_unsaved_and_logged(
    app: SmallApp, caplog: pytest.LogCaptureFixture
) -> None:
    def late(event: Any) -> None:
        if event.request.path == '/none':
            event.request.session['late'] = True

    app.add(count, none)
    app.config.add_subscriber(late, NewResponse)
    browser = app.open()
    browser.get('/count')
    assert not caplog.records
    browser.get('/none')
    assert 'changes to it are not saved' in caplog.text
    assert app.stored(browser) == {'n': 1}
    assert not app.is_locked(browser)


def test_use_in_a_finished_callback_is_unlocked(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        request.add_finished_callback(lambda request: len(request.session))
        return {}

    app.add(count, view)
    browser = app.open()
    browser.get('/count')
    browser.get('/view')
    assert not app.is_locked(browser)


def test_session_can_not_be_used_after_the_request(app: SmallApp) -> None:
    kept: list[DynamoDBSession] = []

    def view(request: Any) -> Any:
        kept.append(request.session)
        return {}

    app.add(view, count)
    browser = app.open()
    browser.get('/count')
    browser.get('/view')
    app.calls()
    with pytest.raises(SessionClosed, match='the request has ended'):
        len(kept[0])
    assert app.calls() == []


def test_first_use_after_the_request_is_refused(app: SmallApp) -> None:
    kept: list[Any] = []

    def view(request: Any) -> Any:
        kept.append(request)
        return {}

    app.add(view, count)
    browser = app.open()
    browser.get('/count')
    browser.get('/view')
    app.calls()
    with pytest.raises(SessionClosed, match='the request has ended'):
        len(kept[0].session)
    assert app.calls() == []


# -- with other people's tools -------------------------------------------


@pytest.mark.parametrize('first', [True, False])
@pytest.mark.parametrize('active', ['session', ''])
def test_debugtoolbar(first: bool, active: str, make: Make) -> None:
    def page(request: Any) -> Any:
        request.session['n'] = request.session.get('n', 0) + 1
        return Response(f'<body>{request.session["n"]}</body>')

    toolbar = {
        'debugtoolbar.hosts': '::1',
        'debugtoolbar.active_panels': active,
        'pyramid.includes': 'pyramid_debugtoolbar' if first else '',
    }
    app = make(more=toolbar)
    if not first:
        app.config.include('pyramid_debugtoolbar')
    app.add(page)
    browser = app.open()
    for number in (1, 2, 3):
        response = browser.get('/page')
        assert f'<body>{number}' in response.text
        assert 'pDebugToolbar' in response.text
        assert len(set_cookies(response)) == (number == 1)
    assert app.calls() == ['put_item', *['update_item'] * 4]
    (toolbar_link,) = set(response.html.find_all('a', href=True))
    panels = browser.get(toolbar_link['href'])
    assert 'DynamoDBSessionFactory' in panels.text


def test_factory_may_be_wrapped(make: Make) -> None:
    app = make()
    app.add(count)
    app.config.commit()
    factory = app.factory

    def wrapped(request: Any) -> Any:
        session = factory(request)
        assert factory(request) is session
        return session

    app.config.registry.registerUtility(wrapped, ISessionFactory)
    app.wsgi = app.config.make_wsgi_app()
    browser = app.browser()
    assert [browser.get('/count').json['n'] for _ in range(2)] == [1, 2]


def test_two_factories_in_one_request(make: Make, table: str) -> None:
    def view(request: Any) -> Any:
        other = second(request)
        other['n'] = other.get('n', 0) + 1
        request.session['n'] = 100
        return other['n']

    app = make()
    second = DynamoDBSessionFactory(
        client=app.client,
        table=table,
        application=app.elsewhere.settings.application,
        cookie_name='second',
    )
    app.add(view)
    browser = app.open()
    assert [browser.get('/view').json for _ in range(2)] == [1, 2]
    assert app.stored(browser) == {'n': 100}
    assert set(browser.cookies) == {'session', 'second'}


def test_dummy_request(make: Make) -> None:
    app = make()
    app.add(count)
    app.open()
    request = testing.DummyRequest()
    session = app.factory(request)
    session['a'] = 1
    response = Response()
    request._process_response_callbacks(response)
    (cookie,) = set_cookies(response)
    again = testing.DummyRequest(
        cookies={'session': cookie.partition('=')[2].partition(';')[0]}
    )
    assert dict(app.factory(again)) == {'a': 1}
    again._process_finished_callbacks()
    assert not app.factory(again).locked


@pytest.mark.parametrize('saving', [True, False])
def test_dummy_request_with_an_exception(saving: bool, make: Make) -> None:
    app = make(set_on_exception=saving)
    app.open()
    request = testing.DummyRequest()
    request.exception = True
    app.factory(request)['a'] = 1
    response = Response()
    request._process_response_callbacks(response)
    assert bool(set_cookies(response)) is saving


def test_testing_securitypolicy(make: Make) -> None:
    def view(request: Any) -> Any:
        request.session['user'] = request.authenticated_userid
        return {'user': request.authenticated_userid}

    app = make()
    app.config.testing_securitypolicy('hank', permissive=True)
    app.add(view, permission='view')
    browser = app.open()
    assert browser.get('/view').json == {'user': 'hank'}
    assert app.stored(browser) == {'user': 'hank'}


def test_log_in_with_the_session(make: Make) -> None:
    def log_in(request: Any) -> Any:
        request.session.regenerate_id()
        request.response.headerlist.extend(remember(request, 'friend'))
        return {}

    app = make()
    app.config.set_security_policy(SessionPolicy())
    app.add(log_in)
    app.add(count, permission='friend')
    browser = app.open()
    browser.get('/count', status=403)
    browser.get('/log_in')
    assert browser.get('/count').json == {'n': 1}


def test_csrf_token_in_the_session(make: Make) -> None:
    def token(request: Any) -> Any:
        return request.session.get_csrf_token()

    app = make()
    app.config.set_csrf_storage_policy(SessionCSRFStoragePolicy())
    app.config.set_default_csrf_options(require_csrf=True)
    app.add(token, count)
    browser = app.open()
    csrf_token = browser.get('/token').json
    assert browser.post('/count', {'csrf_token': csrf_token}).json['n'] == 1
    browser.post('/count', {'csrf_token': 'forged'}, status=400)
    assert app.stored(browser)['n'] == 1


def test_prepared_request_as_pshell_has_it(make: Make) -> None:
    app = make()
    app.add(read)
    browser = app.open()
    with prepare(registry=app.config.registry) as environment:
        session = environment['request'].session
        session['a'] = 1
        session.save()
        session_id = session.session_id
    with pytest.raises(SessionClosed):
        session['a'] = 2
    browser = app.browser(session_id)
    assert browser.get('/read').json == {'a': 1}
    request = Request.blank('/', cookies={'session': session_id})
    with prepare(request, registry=app.config.registry):
        assert request.session['a'] == 1
        assert request.session.locked
    assert not app.is_locked(browser)
    with pytest.raises(SessionClosed, match='the request has ended'):
        request.session['a'] = 2


def test_requests_beside_a_prepared_one_have_their_own_sessions(
    make: Make,
) -> None:
    app = make()
    app.add(count)
    browser = app.open()
    with prepare(registry=app.config.registry) as environment:
        environment['request'].session['a'] = 1
        for another in (browser, app.browser()):
            assert another.get('/count').json == {'n': 1}
            assert app.stored(another) == {'n': 1}


# -- shared caches -------------------------------------------------------


@pytest.mark.parametrize(
    ('cache_control', 'warns'),
    [
        ('public, max-age=60', True),
        ('s-maxage=60', True),
        ('private, max-age=60', False),
        ('', False),
    ],
)
def test_cookie_in_a_response_for_shared_caches_is_warned_of(
    cache_control: str,
    warns: bool,
    app: SmallApp,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def cached(request: Any) -> Any:
        request.session['n'] = 1
        if cache_control:
            request.response.headers['Cache-Control'] = cache_control
        return {}

    app.add(cached)
    app.open().get('/cached')
    told = 'GET /cached (route cached): the response carries' in caplog.text
    assert told == warns


# -- whatever becomes of the request -------------------------------------


@pytest.mark.parametrize(
    'error', [RuntimeError('not handled'), KeyboardInterrupt(), SystemExit()]
)
def test_lock_goes_with_a_request_that_fails(
    error: BaseException, make: Make
) -> None:
    """Also where a finished callback of others ends all further ones."""
    locked_after: list[bool] = []

    def fails(request: Any) -> Any:
        def callback(request: Any) -> None:
            locked_after.append(app.is_locked(browser))
            raise ValueError('a finished callback of others')

        request.add_finished_callback(callback)
        request.session['failed'] = True
        raise error

    app = make()
    app.add(count, fails)
    browser = app.open()
    browser.get('/count')
    with pytest.raises((ValueError, type(error))):
        browser.get('/fails')
    assert locked_after == [False]
    assert app.stored(browser) == {'n': 1}


def test_lock_of_a_request_in_a_garbage_cycle_is_renewed_no_more(
    make: Make,
) -> None:
    """Finished callbacks of others have kept ours from running."""
    kept: list[Any] = []

    def cycle(request: Any) -> Any:
        def callback(request: Any) -> None:
            raise ValueError('a finished callback of others')

        request.add_finished_callback(callback)
        kept.append(request)
        return dict(request.session)

    app = make(include=False, lock_lease=0.3)
    app.add(count, cycle)
    browser = app.open()
    browser.get('/count')
    with pytest.raises(ValueError, match='callback of others'):
        browser.get('/cycle')
    assert not app.is_locked(browser)
    # whoever still has the request has no lock with it
    assert kept[0].session == {'n': 1}
    renewer = app.factory.store._locks._process.get().renewer
    assert renewer._held == {}
    assert browser.get('/count').json == {'n': 2}


def test_request_that_was_released_saves_only_what_nobody_has_changed(
    make: Make,
) -> None:
    """The lock was given back before the save, for whatever reason."""

    def released(request: Any) -> Any:
        request.session['late'] = request.params.get('rival', 'no')
        request.session._work.release()
        if 'rival' in request.params:
            app.take_over(session_id(browser))
        return {}

    app = make()
    app.add(count, released)
    browser = app.open()
    browser.get('/count')
    browser.get('/released')
    assert app.stored(browser) == {'n': 1, 'late': 'no'}
    browser.get('/count')
    browser.get('/released?rival=yes', status=409)
    assert app.stored(browser) == {'n': 2, 'late': 'no', 'other': True}
