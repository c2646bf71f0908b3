"""The ``session_state`` of a view, and what each state allows and costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.events import NewRequest
from pyramid.exceptions import ConfigurationError
from pyramid.response import Response
from pyramid.view import render_view_to_response, view_config
from webtest import TestApp

from pyramid_dynamodb_session import (
    SessionClosed,
    SessionDisabled,
    SessionReadOnly,
)
from tests.apps.small_app import SmallApp, session_id
from tests.apps.views import count, none, read
from tests.apps.wsgi_app import STATES
from tests.support.browser import Browser
from tests.support.servers import Server
from tests.support.together import together

Make = Callable[..., SmallApp]

LOCK = SAVE = RELEASE = TOUCH = 'update_item'
READ = 'get_item'


@pytest.fixture
def make(client: Any, settings: dict[str, str]) -> Make:
    """A function that makes an application, to add views to."""

    def make(**options: Any) -> SmallApp:
        return SmallApp(client, settings, **options)

    return make


@pytest.fixture
def app(make: Make) -> SmallApp:
    return make()


def opened(app: SmallApp) -> TestApp:
    """A browser that has a session, ``{'n': 1}``."""
    app.add(count)
    browser = app.open()
    browser.get('/count')
    app.calls()
    return browser


def state_of(request: Any) -> Any:
    return request.session.state


def in_state(app: SmallApp, state: str, *views: Any) -> None:
    app.add(*views, session_state=state)


def skip_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    later = time.time() + seconds
    monkeypatch.setattr(time, 'time', lambda: later)


# -- the view option -----------------------------------------------------


@pytest.mark.parametrize('state', STATES)
def test_state_by_add_view(state: str, app: SmallApp) -> None:
    app.add(state_of, session_state=state)
    assert app.open().get('/state_of').json == state


@view_config(
    route_name='declared', session_state='optimistic', renderer='json'
)
def declared(request: Any) -> Any:
    return request.session.state


class Declared:
    """Views of a class, each with a state of its own."""

    def __init__(self, request: Any) -> None:
        self.request = request

    @view_config(route_name='one', session_state='read_only', renderer='json')
    @view_config(route_name='other', renderer='json')
    def view(self) -> Any:
        return self.request.session.state


def test_state_by_view_config(app: SmallApp) -> None:
    for name in ('declared', 'one', 'other'):
        app.config.add_route(name, f'/{name}')
    app.config.scan(__name__)
    browser = app.open()
    assert browser.get('/declared').json == 'optimistic'
    assert browser.get('/one').json == 'read_only'
    assert browser.get('/other').json == 'exclusive'


def test_views_that_say_nothing_have_the_state_of_the_settings(
    make: Make,
) -> None:
    app = make(session_state='read_only')
    app.add(state_of)
    assert app.open().get('/state_of').json == 'read_only'


def test_exception_view_has_a_state(app: SmallApp) -> None:
    def fail(request: Any) -> Any:
        request.session['n'] = 100
        raise ValueError

    def handle(error: ValueError, request: Any) -> Any:
        return [request.session.state, dict(request.session)]

    app.add(fail)
    app.config.add_exception_view(
        handle, context=ValueError, session_state='read_only', renderer='json'
    )
    browser = opened(app)
    assert browser.get('/fail').json == ['read_only', {'n': 100}]
    assert app.calls() == [LOCK, SAVE]


def test_exception_view_reads_what_is_stored_if_nothing_is_saved(
    make: Make,
) -> None:
    def fail(request: Any) -> Any:
        request.session['n'] = 100
        raise ValueError

    def handle(error: ValueError, request: Any) -> Any:
        return [request.session.state, dict(request.session)]

    app = make(set_on_exception=False)
    app.add(fail)
    app.config.add_exception_view(
        handle, context=ValueError, session_state='optimistic', renderer='json'
    )
    browser = opened(app)
    assert browser.get('/fail').json == ['optimistic', {'n': 1}]
    assert app.calls() == [LOCK, RELEASE, READ]
    assert app.stored(browser) == {'n': 1}


def test_wrong_state_names_the_view(app: SmallApp) -> None:
    in_state(app, 'readonly', none)
    with pytest.raises(ConfigurationError) as caught:
        app.open()
    for part in ('readonly', 'none', *STATES):
        assert part in str(caught.value)


@pytest.mark.parametrize('wrong', [True, 1, '', [], 'Exclusive'])
def test_wrong_state_is_refused(wrong: Any, app: SmallApp) -> None:
    in_state(app, wrong, none)
    with pytest.raises(ConfigurationError, match='session_state='):
        app.open()


def test_state_is_shown_by_introspection(app: SmallApp) -> None:
    in_state(app, 'read_only', read)
    app.add(none)
    app.open()
    views = {
        item['introspectable']['callable']: item['introspectable']
        for item in app.config.introspector.get_category('views')
    }
    assert views[read]['session_state'] == 'read_only'
    assert 'session_state' not in views[none]


# -- when it takes effect ------------------------------------------------


class Guard:
    """Lets nobody in, and notes in which state the session is then."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def identity(self, request: Any) -> Any:
        return None

    authenticated_userid = remember = forget = identity

    def permits(self, request: Any, context: Any, permission: str) -> bool:
        self.states.append(request.session.state)
        return False


def test_state_counts_before_the_permission_check(app: SmallApp) -> None:
    guard = Guard()
    app.config.set_security_policy(guard)
    app.add(none, permission='view', session_state='optimistic')
    app.open().get('/none', status=403)
    assert guard.states == ['optimistic']


def test_state_counts_before_the_csrf_check(app: SmallApp) -> None:
    app.config.set_csrf_storage_policy(SessionCSRFStoragePolicy())
    app.config.set_default_csrf_options(require_csrf=True)
    app.add(none, session_state='read_only')
    browser = opened(app)
    with pytest.raises(SessionReadOnly):
        browser.post('/none', {'csrf_token': 'x'})
    assert app.calls() == [READ]


def use_before_the_view(app: SmallApp) -> list[str]:
    """Use the session as soon as there is a request; in which state?"""

    def use(event: Any) -> None:
        if event.request.path != '/count':
            states.append(event.request.session.state)
            assert event.request.session['n'] == 1

    states: list[str] = []
    app.config.add_subscriber(use, NewRequest)
    return states


@pytest.mark.parametrize(
    ('default', 'state', 'expected'),
    [
        ('exclusive', 'exclusive', [LOCK, RELEASE]),
        ('exclusive', 'read_only', [LOCK, RELEASE]),
        ('exclusive', 'optimistic', [LOCK, RELEASE, READ]),
        ('read_only', 'exclusive', [READ, LOCK, RELEASE]),
        ('read_only', 'read_only', [READ]),
        ('read_only', 'optimistic', [READ, READ]),
        ('optimistic', 'exclusive', [READ, LOCK, RELEASE]),
        ('optimistic', 'read_only', [READ]),
        ('optimistic', 'optimistic', [READ]),
    ],
)
def test_from_the_default_to_the_state_of_the_view(
    default: str, state: str, expected: list[str], make: Make
) -> None:
    def view(request: Any) -> Any:
        assert request.session.state == state
        assert dict(request.session) == {'n': 1}
        return {'locked': request.session.locked}

    app = make(session_state=default)
    states = use_before_the_view(app)
    app.add(view, session_state=state)
    app.add(count, session_state='exclusive')
    browser = app.open()
    browser.get('/count')
    app.calls()
    answer = browser.get('/view').json
    assert states == [default]
    assert answer == {'locked': state == 'exclusive'}
    assert app.calls() == expected
    assert not app.is_locked(browser)


def test_lock_is_released_on_entering_a_disabled_view(
    app: SmallApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def view(request: Any) -> Any:
        assert not app.is_locked(browser)
        assert app.calls() == [LOCK, RELEASE]
        with pytest.raises(SessionDisabled):
            request.session['n']
        skip_time(monkeypatch, 100)
        return {}

    use_before_the_view(app)
    in_state(app, 'disabled', view)
    browser = opened(app)
    browser.get('/view')
    assert app.calls() == []


def test_changes_made_before_a_read_only_view_are_saved(
    app: SmallApp,
) -> None:
    def use(event: Any) -> None:
        event.request.session['visits'] = 1

    app.config.add_subscriber(use, NewRequest)
    in_state(app, 'read_only', read)
    browser = app.open()
    assert browser.get('/read').json == {'visits': 1}
    assert app.calls() == ['put_item']
    assert app.stored(browser) == {'visits': 1}


def test_exclusive_view_sees_what_others_saved_since(make: Make) -> None:
    def use(event: Any) -> None:
        if event.request.path == '/read':
            assert dict(event.request.session) == {'n': 1}
            app.take_over(session_id(browser))

    app = make(session_state='read_only')
    app.config.add_subscriber(use, NewRequest)
    in_state(app, 'exclusive', read, count)
    browser = app.open()
    browser.get('/count')
    assert browser.get('/read').json == {'n': 1, 'other': True}


def test_session_invalidated_before_the_view_stays_so(app: SmallApp) -> None:
    def use(event: Any) -> None:
        if event.request.path == '/read':
            event.request.session.invalidate()

    app.config.add_subscriber(use, NewRequest)
    in_state(app, 'optimistic', read)
    browser = opened(app)
    old = session_id(browser)
    assert browser.get('/read').json == {}
    assert app.elsewhere.get_item(old) is None


# -- state_hook ----------------------------------------------------------


def hook(request: Any) -> Any:
    return request.params.get('state')


def test_state_hook_decides_before_the_view_is_known(make: Make) -> None:
    app = make(state_hook='tests.test_states.hook')
    app.add(state_of)
    in_state(app, 'optimistic', none, declared)
    browser = app.open()
    assert browser.get('/state_of').json == 'exclusive'
    assert browser.get('/state_of?state=read_only').json == 'read_only'
    assert browser.get('/declared?state=read_only').json == 'optimistic'
    assert browser.get('/state_of?state=disabled').json == 'disabled'


def test_state_hook_is_asked_for_use_before_the_view(make: Make) -> None:
    app = make(state_hook=hook)
    states = use_before_the_view(app)
    app.add(read)
    browser = opened(app)
    browser.get('/read?state=read_only')
    assert states == ['read_only']
    assert app.calls() == [READ]


@pytest.mark.parametrize('garbage', ['', 'readonly'])
def test_state_hook_that_returns_garbage(garbage: str, make: Make) -> None:
    app = make(state_hook=hook)
    app.add(read, none)
    browser = app.open()
    with pytest.raises(ValueError, match=f'state_hook returned {garbage!r}'):
        browser.get(f'/read?state={garbage}')
    browser.get(f'/none?state={garbage}')


@pytest.mark.parametrize(
    'wrong', ['no.such.module', 'tests.support.aws.REGION']
)
def test_state_hook_that_is_none(wrong: str, make: Make) -> None:
    with pytest.raises(ConfigurationError, match='state_hook'):
        make(state_hook=wrong).open()


# -- read_only -----------------------------------------------------------


def test_read_only_reads_while_another_holds_the_lock(app: SmallApp) -> None:
    in_state(app, 'read_only', read)
    browser = opened(app)
    assert app.elsewhere.get_item_exclusive(session_id(browser))
    assert browser.get('/read').json == {'n': 1}
    assert app.calls() == [READ]
    assert app.is_locked(browser)


@pytest.mark.parametrize(
    'write',
    [
        lambda session: session.update(a=1),
        lambda session: session.pop('n'),
        lambda session: session.popitem(),
        lambda session: session.clear(),
        lambda session: session.setdefault('n', 1),
        lambda session: session.__delitem__('n'),
        lambda session: session.flash('a'),
        lambda session: session.pop_flash(),
        lambda session: session.get_csrf_token(),
        lambda session: session.new_csrf_token(),
        lambda session: session.changed(),
        lambda session: session.invalidate(),
        lambda session: session.regenerate_id(),
        lambda session: session.adjust_timeout(10),
    ],
)
def test_read_only_refuses_to_write(write: Any, app: SmallApp) -> None:
    def view(request: Any) -> Any:
        with pytest.raises(SessionReadOnly, match='"exclusive" or'):
            write(request.session)
        return [request.session.peek_flash(), dict(request.session)]

    in_state(app, 'read_only', view)
    browser = opened(app)
    assert browser.get('/view').json == [[], {'n': 1}]
    assert app.stored(browser) == {'n': 1}


@pytest.mark.parametrize('state', ['read_only', 'optimistic'])
def test_reading_slides_the_expiry_now_and_then(
    state: str, app: SmallApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_state(app, state, read)
    browser = opened(app)
    skip_time(monkeypatch, 50)
    browser.get('/read')
    assert app.calls() == [READ]
    skip_time(monkeypatch, 15)
    browser.get('/read')
    assert app.calls() == [READ, TOUCH]
    browser.get('/read')
    assert app.calls() == [READ]
    record = app.elsewhere.get_item(session_id(browser))
    assert record and record.expires == int(time.time()) + 1200


def test_sliding_neither_unlocks_nor_recreates(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def view(request: Any) -> Any:
        assert dict(request.session) == {'n': 1}
        if 'remove' in request.params:
            app.elsewhere.remove_item(session_id(browser))
        return {}

    app = make(touch_interval=0)
    in_state(app, 'read_only', view)
    browser = opened(app)
    assert app.elsewhere.get_item_exclusive(session_id(browser))
    skip_time(monkeypatch, 100)
    browser.get('/view')
    assert app.calls() == [READ, TOUCH]
    assert app.is_locked(browser)
    skip_time(monkeypatch, 100)
    browser.get('/view?remove')
    assert app.calls() == [READ, TOUCH]
    assert app.stored(browser) is None


def test_nested_changes_in_read_only_views_are_not_saved(
    app: SmallApp,
) -> None:
    def fill(request: Any) -> Any:
        request.session['nested'] = []
        return {}

    def view(request: Any) -> Any:
        request.session['nested'].append(1)
        return {}

    app.add(fill)
    in_state(app, 'read_only', view)
    browser = app.open()
    browser.get('/fill')
    browser.get('/view')
    assert app.stored(browser) == {'nested': []}


# -- disabled ------------------------------------------------------------


@pytest.mark.parametrize(
    'use',
    [
        dict,
        len,
        bool,
        lambda session: session.get('n'),
        lambda session: session.update(a=1),
        lambda session: session.session_id,
        lambda session: session.created,
        lambda session: session.new,
        lambda session: session.peek_flash(),
        lambda session: session.get_csrf_token(),
        lambda session: session.invalidate(),
        lambda session: session.save(),
    ],
)
def test_disabled_refuses_any_use(
    use: Any, app: SmallApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def view(request: Any) -> Any:
        with pytest.raises(SessionDisabled, match='give it another state'):
            use(request.session)
        return repr(request.session)

    in_state(app, 'disabled', view)
    browser = opened(app)
    skip_time(monkeypatch, 1000)
    response = browser.get('/view')
    assert response.json == '<DynamoDBSession disabled, not loaded>'
    assert app.calls() == []
    assert 'Set-Cookie' not in response.headers
    assert 'Vary' not in response.headers


# -- optimistic ----------------------------------------------------------


def test_optimistic_takes_no_lock(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        request.session['n'] += 1
        assert not request.session.locked
        assert not app.is_locked(browser)
        return dict(request.session)

    in_state(app, 'optimistic', view)
    browser = opened(app)
    assert [browser.get('/view').json['n'] for _ in range(3)] == [2, 3, 4]
    assert app.calls() == [READ, SAVE] * 3
    assert app.stored(browser) == {'n': 4}


def write_with_rival(app: SmallApp, rival: Callable[[str], Any]) -> TestApp:
    """A browser whose ``/view`` writes, and whose `rival` was first."""

    def view(request: Any) -> Any:
        request.session['mine'] = True
        if 'regenerate' in request.params:
            request.session.regenerate_id()
        rival(session_id(browser))
        return {}

    in_state(app, 'optimistic', view)
    browser = opened(app)
    return browser


@pytest.mark.parametrize('query', ['', '?regenerate'])
def test_concurrent_change_is_a_conflict_and_saves_nothing(
    query: str, app: SmallApp
) -> None:
    browser = write_with_rival(app, app.take_over)
    response = browser.get('/view' + query, status=409)
    assert 'nothing of this one was saved' in response.text
    assert app.stored(browser) == {'n': 1, 'other': True}


def test_optimistic_save_leaves_an_exclusive_holder_alone(make: Make) -> None:
    app = make(lock_wait=0.1)
    lock_ids = []

    def lock(session_id: str) -> None:
        record = app.elsewhere.get_item_exclusive(session_id)
        assert record
        lock_ids.append(record.lock_id)

    browser = write_with_rival(app, lock)
    browser.get('/view', status=503)
    app.elsewhere.set_and_release_item_exclusive(
        session_id(browser), {'n': 5}, lock_ids[0]
    )
    assert app.stored(browser) == {'n': 5}


@pytest.mark.parametrize('query', ['', '?regenerate'])
def test_optimistic_save_waits_for_an_exclusive_holder(
    query: str, app: SmallApp
) -> None:
    """Who gives the lock back as it was."""
    release = app.elsewhere.release_item_exclusive

    def lock(session_id: str) -> None:
        record = app.elsewhere.get_item_exclusive(session_id)
        assert record and record.lock_id
        later = threading.Timer(0.2, release, (session_id, record.lock_id))
        later.start()

    browser = write_with_rival(app, lock)
    browser.get('/view' + query)
    assert app.stored(browser) == {'n': 1, 'mine': True}
    assert not app.is_locked(browser)


def test_read_during_a_lock_and_saved_after_it_is_a_conflict(
    app: SmallApp,
) -> None:
    """The change of the exclusive request that was on its way is kept."""
    held = HolderElsewhere(app)

    def view(request: Any) -> Any:
        request.session['mine'] = True
        held.end(request.cookies['session'])
        return {}

    in_state(app, 'optimistic', view)
    browser = opened(app)
    held.begin(session_id(browser))
    browser.get('/view', status=409)
    assert app.stored(browser) == {'n': 1, 'holder': True}


class HolderElsewhere:
    """An exclusive request on another web server."""

    def __init__(self, app: SmallApp) -> None:
        self._app = app

    def begin(self, session_id: str) -> None:
        record = self._app.elsewhere.get_item_exclusive(session_id)
        assert record
        self._record = record

    def end(self, session_id: str) -> None:
        self._app.elsewhere.set_and_release_item_exclusive(
            session_id,
            {**self._record.items, 'holder': True},
            self._record.lock_id,
        )


def test_optimistic_save_does_not_recreate_a_removed_session(
    app: SmallApp,
) -> None:
    browser = write_with_rival(app, app.elsewhere.remove_item)
    browser.get('/view', status=409)
    assert app.stored(browser) is None


def test_conflict_on_the_way_to_another_state_is_a_response(
    app: SmallApp,
) -> None:
    def view(request: Any) -> Any:
        request.session['mine'] = True
        app.take_over(session_id(browser))
        raise ValueError

    app.config.add_exception_view(
        none, context=ValueError, session_state='read_only'
    )
    in_state(app, 'optimistic', view)
    browser = opened(app)
    browser.get('/view', status=409)
    assert app.stored(browser) == {'n': 1, 'other': True}


def test_conflict_is_retried(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        request.session['mine'] = attempts.append(None)
        if len(attempts) < 3:
            app.take_over(session_id(browser))
        return {}

    attempts: list[None] = []
    app.config.include('pyramid_retry')
    in_state(app, 'optimistic', view)
    browser = opened(app)
    browser.get('/view')
    assert len(attempts) == 3
    assert app.stored(browser) == {'n': 1, 'other': True, 'mine': None}


def test_conflict_of_the_last_attempt_is_told(app: SmallApp) -> None:
    app.config.include('pyramid_retry')
    browser = write_with_rival(app, app.take_over)
    browser.get('/view', status=409)
    assert app.calls().count(SAVE) == 3


# -- what a session may do in a state that allows it ---------------------


def test_save_lets_the_next_request_in(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        request.session['n'] += 1
        request.session.save()
        other = app.browser(session_id(browser))
        in_background(lambda: other.get('/count')).join()
        with pytest.raises(SessionClosed, match=r'save\(\)'):
            request.session['n'] = 0
        return dict(request.session)

    app.add(view)
    browser = opened(app)
    response = browser.get('/view')
    assert response.json == {'n': 2}
    assert app.stored(browser) == {'n': 3}
    assert app.calls() == [LOCK, SAVE] * 2


def test_save_of_a_new_session_sends_its_cookie(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        request.session['n'] = 1
        request.session.save()
        return request.session.session_id

    app.add(view)
    browser = app.open()
    assert browser.get('/view').json == session_id(browser)


def test_failing_save_in_the_middle_is_a_response(app: SmallApp) -> None:
    def view(request: Any) -> Any:
        request.session['bad'] = object()
        request.session.save()

    app.add(view)
    browser = opened(app)
    browser.get('/view', status=500)
    assert app.stored(browser) == {'n': 1}
    assert not app.is_locked(browser)


def test_remember_me(make: Make) -> None:
    def remember_me(request: Any) -> Any:
        request.session.adjust_timeout(86400 * 30)
        return {}

    app = make(cookie_max_age=3600, timeout=3600)
    app.add(remember_me, read)
    browser = opened(app)
    for path in ('/remember_me', '/read', '/count'):
        cookie = browser.get(path).headers['Set-Cookie']
        assert 'Max-Age=2592000' in cookie
        record = app.elsewhere.get_item(session_id(browser))
        assert record and record.expires - time.time() > 86400 * 29
    assert 'Max-Age=3600' in app.browser().get('/count').headers['Set-Cookie']


def test_remembered_session_has_no_lasting_cookie_unless_cookies_last(
    app: SmallApp,
) -> None:
    def remember_me(request: Any) -> Any:
        request.session.adjust_timeout(86400)
        return {}

    app.add(remember_me)
    cookie = app.open().get('/remember_me').headers['Set-Cookie']
    assert 'Max-Age' not in cookie


def test_absolute_timeout_ends_a_busy_session(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_in(request: Any) -> Any:
        request.session.adjust_timeout(86400)
        request.session.regenerate_id()
        return {}

    app = make(absolute_timeout=3000)
    app.add(log_in)
    browser = opened(app)
    for n in (2, 3):
        skip_time(monkeypatch, 1000)
        browser.get('/log_in')
        assert browser.get('/count').json == {'n': n}
    skip_time(monkeypatch, 1001)
    assert browser.get('/count').json == {'n': 1}


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
def test_new_id_ends_the_old_one(state: str, app: SmallApp) -> None:
    def log_in(request: Any) -> Any:
        request.session.regenerate_id()
        return {}

    in_state(app, state, log_in)
    browser = opened(app)
    old = session_id(browser)
    browser.get('/log_in')
    assert app.elsewhere.get_item(old) is None
    assert app.stored(browser) == {'n': 1}


# -- as real processes ---------------------------------------------------

APP = 'tests.apps.wsgi_app:main'
#: What four clients at once need on one session; see the documentation.
ATTEMPTS = 30


@pytest.mark.parametrize('path', ['/save', '/stream'])
def test_long_response_does_not_block_the_next_request(
    path: str, settings: dict[str, str]
) -> None:
    with Server(settings, app=APP) as server:
        browser = Browser(server.url)
        assert browser.get('/exclusive/count').json == {'n': 1}
        slow = in_background(lambda: browser.clone().get(path, hold=1.5))
        time.sleep(0.2)
        while browser.get('/exclusive/read').json == {'n': 1}:
            time.sleep(0.05)
        assert browser.get('/exclusive/count').json == {'n': 3}
        assert slow.is_alive()
        slow.join()


def in_background(act: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_optimistic_increments_all_survive(settings: dict[str, str]) -> None:
    settings = settings | {
        'pyramid.includes': 'pyramid_retry',
        'retry.attempts': str(ATTEMPTS),
    }
    with ThreadPoolExecutor() as pool:
        servers = list(pool.map(lambda _: Server(settings, app=APP), range(4)))
    try:
        first = Browser(servers[0].url)
        first.get('/optimistic/count')
        statuses: list[int] = []

        def client(server: Server) -> None:
            browser = first.at(server.url)
            for _ in range(25):
                statuses.append(browser.get('/optimistic/count').status)

        clients = [
            in_background(lambda server=server: client(server))  # type: ignore
            for server in servers
        ]
        for thread in clients:
            thread.join()
        assert statuses == [200] * 100
        assert first.get('/read_only/read').json == {'n': 101}
    finally:
        for server in servers:
            server.close()


def test_read_only_warns_of_a_nested_change_that_is_not_saved(
    app: SmallApp, caplog: pytest.LogCaptureFixture
) -> None:
    def write(request: Any) -> Any:
        request.session['cart'] = ['tea']

    def change(request: Any) -> Any:
        request.session['cart'].append('honey')

    def spoil(request: Any) -> Any:
        request.session['cart'].append(object())

    app.add(write)
    app.add(change, spoil, session_state='read_only')
    browser = app.open()
    browser.get('/write')
    for path in ('/change', '/spoil'):
        caplog.clear()
        assert browser.get(path).status_int == 200
        assert 'the change is not saved' in caplog.text


def test_read_only_does_not_warn_of_what_a_serializer_writes_differently(
    app: SmallApp, caplog: pytest.LogCaptureFixture
) -> None:
    record = app.elsewhere.create_new_store_data()
    record.payload = b'{ "a": 1 }'
    assert not app.elsewhere.differs({'a': 1}, record)
    assert app.elsewhere.differs({'a': 2}, record)


# -- views within views --------------------------------------------------


@pytest.mark.parametrize('state', ['read_only', 'disabled', 'optimistic'])
def test_view_that_another_one_renders_leaves_the_state_as_it_is(
    state: str, app: SmallApp
) -> None:
    def inner(context: Any, request: Any) -> Any:
        request.session['inner'] = request.session.state
        return Response('rendered')

    def outer(request: Any) -> Any:
        request.session['outer'] = 1
        assert render_view_to_response(None, request, 'inner').text
        assert (request.session.state, request.session.locked) == (
            'exclusive',
            True,
        )
        request.session['after'] = 2
        return {}

    app.config.add_view(inner, name='inner', session_state=state)
    app.add(outer)
    browser = opened(app)
    browser.get('/outer')
    assert app.calls() == [LOCK, SAVE]
    assert app.stored(browser) == {
        'n': 1,
        'outer': 1,
        'inner': 'exclusive',
        'after': 2,
    }


# -- timeouts of one's own -----------------------------------------------


def adjust(request: Any) -> Any:
    request.session.adjust_timeout(30 * 86400)
    return {}


def expires_in(app: SmallApp, browser: TestApp) -> float:
    record = app.elsewhere.get_item(session_id(browser))
    assert record is not None
    return record.expires - time.time()


def test_late_touch_shrinks_no_timeout(make: Make) -> None:
    """It had read the session before its timeout was adjusted."""

    def stale(request: Any) -> Any:
        assert request.session['n'] == 1
        other = app.browser(session_id(browser))
        together([lambda: other.get('/adjust')])
        return {}

    app = make(touch_interval=0)
    app.add(adjust)
    in_state(app, 'read_only', stale)
    browser = opened(app)
    time.sleep(1.1)
    browser.get('/stale')
    assert expires_in(app, browser) > 29 * 86400


def test_release_after_invalidate_shrinks_no_timeout(make: Make) -> None:
    def changes_its_mind(request: Any) -> Any:
        request.session.invalidate()
        raise RuntimeError('not handled')

    app = make()
    app.add(adjust, changes_its_mind)
    browser = opened(app)
    browser.get('/adjust')
    with pytest.raises(RuntimeError):
        browser.get('/changes_its_mind')
    assert expires_in(app, browser) > 29 * 86400
    assert not app.is_locked(browser)


# -- a holder that has died ----------------------------------------------


def test_optimistic_request_replaces_a_dead_holder(make: Make) -> None:
    app = make(lock_lease=0.2)
    in_state(app, 'optimistic', write)
    browser = opened(app)
    assert app.elsewhere.get_item_exclusive(session_id(browser))
    browser.get('/write')
    assert app.stored(browser) == {'n': 1, 'written': True}
    assert not app.is_locked(browser)


def write(request: Any) -> Any:
    request.session['written'] = True
    return {}


# -- load_session --------------------------------------------------------


def test_load_session_loads_before_the_view_is_permitted(
    app: SmallApp,
) -> None:
    calls = []

    class Policy:
        def permits(self, request: Any, context: Any, permission: str) -> Any:
            calls.append(app.calls())
            return True

    app.config.set_security_policy(Policy())
    app.add(none, load_session=True, permission='look')
    app.add(read, load_session=False, permission='look')
    browser = opened(app)
    browser.get('/none')
    browser.get('/read')
    assert calls == [[LOCK], [RELEASE]]
    assert app.calls() == [LOCK, RELEASE]


def test_load_session_follows_the_state_of_the_view(app: SmallApp) -> None:
    app.add(none, load_session=True, session_state='read_only')
    opened(app).get('/none')
    assert app.calls() == [READ]


def test_disabled_view_can_not_load_the_session(app: SmallApp) -> None:
    app.add(none, load_session=True, session_state='disabled')
    with pytest.raises(ConfigurationError, match='remove one of them'):
        app.open()
