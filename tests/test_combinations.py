"""Two features in one request, each tested alone elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from transaction.interfaces import TransientError
from webtest import TestApp

from pyramid_dynamodb_session import SessionClosed
from tests.apps.small_app import PREFIX, SmallApp, session_id
from tests.apps.views import count, read
from tests.support.database import Voter
from tests.support.docs_pages import page
from tests.support.together import wait_until

OWNER = 'anna'
Make = Callable[..., SmallApp]

pytestmark = pytest.mark.usefixtures('settled_soon')


@pytest.fixture
def make(client: Any, settings: dict[str, str], indexed_table: str) -> Make:
    """A function from packages to be included, and options, to an app."""

    def make(*includes: str, **options: Any) -> SmallApp:
        app = SmallApp(
            client,
            settings | {f'{PREFIX}table': indexed_table},
            {'pyramid.includes': ' '.join(includes)},
            owner_index='Owner-index',
            **options,
        )
        app.add(count, read, log_in)
        return app

    return make


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


@pytest.fixture
def documented() -> Iterator[ModuleType]:
    """The code of the page on logging in."""
    yield page('login').run()
    del sys.modules['shop']


def log_in(request: Any) -> Any:
    request.session.regenerate_id()
    request.session.owner = OWNER
    return {}


def opened(app: SmallApp) -> TestApp:
    """A browser that has a session, ``{'n': 1}``."""
    browser = app.open()
    browser.get('/count')
    app.calls()
    return browser


def owned(app: SmallApp) -> list[str]:
    """The names of the items of the owner."""
    return [found.name for found in app.factory.store.sessions_of(OWNER)]


def other_browser(app: SmallApp) -> TestApp:
    """Another browser of the same user."""
    browser = app.browser()
    browser.get('/count')
    browser.get('/log_in')
    return browser


# -- an owner and a transaction ------------------------------------------


class Unanswered(Exception):
    """Has no exception view."""


class Transient(TransientError):
    """May be retried."""


def succeed(request: Any) -> None:
    pass


def raise_unanswered(request: Any) -> None:
    raise Unanswered


def doom(request: Any) -> None:
    request.tm.doom()


def fail_at_vote(request: Any) -> None:
    Voter(request.tm, lambda: raise_unanswered(request))


def fail_once(request: Any) -> None:
    if request.environ['retry.attempt'] == 0:
        raise Transient


def status_of(browser: TestApp, path: str) -> int | None:
    """None for an exception that escapes."""
    try:
        return int(browser.get(path, status='*').status_int)
    except Unanswered:
        return None


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
@pytest.mark.parametrize(
    ('then', 'status', 'saved'),
    [
        (succeed, 200, True),
        (doom, 200, True),
        (raise_unanswered, None, False),
        (fail_at_vote, None, False),
        (fail_once, 200, True),
    ],
)
def test_owner_is_stored_with_the_data_or_not_at_all(
    then: Callable[[Any], None],
    status: int | None,
    saved: bool,
    state: str,
    make: Make,
) -> None:
    def begin(request: Any) -> Any:
        request.session.owner = OWNER
        request.session.regenerate_id()
        request.session['n'] += 1
        then(request)
        return {}

    app = make('pyramid_tm', 'pyramid_retry')
    app.add(begin, session_state=state)
    browser = opened(app)
    before = session_id(browser)
    assert status_of(browser, '/begin') == status
    assert app.stored(browser) == {'n': 2 if saved else 1}
    assert not app.is_locked(browser)
    assert (session_id(browser) != before) is saved
    assert owned(app) == ([app.name(browser)] if saved else [])


@pytest.mark.parametrize(
    ('then', 'status'),
    [
        (succeed, 200),
        (doom, 200),
        (raise_unanswered, None),
        (fail_at_vote, None),
        (fail_once, 200),
    ],
)
def test_sessions_that_were_ended_stay_so_if_the_transaction_aborts(
    then: Callable[[Any], None], status: int | None, make: Make
) -> None:
    ended = []

    def sign_out_others(request: Any) -> Any:
        session = request.session
        session.regenerate_id()
        store = app.factory.store
        ended.append(store.remove_sessions_of(OWNER, keep=session))
        then(request)
        return {}

    app = make('pyramid_tm', 'pyramid_retry')
    app.add(sign_out_others)
    here = opened(app)
    here.get('/log_in')
    there = other_browser(app)
    assert status_of(here, '/sign_out_others') == status
    # a second attempt finds none
    assert ended == ([1, 0] if then is fail_once else [1])
    assert there.get('/read').json == {}
    # the one that was to be kept was, with its owner
    assert here.get('/read').json == {'n': 1}
    assert owned(app) == [app.name(here)]


@pytest.mark.parametrize(
    ('then', 'status', 'committed'),
    [
        (succeed, 200, True),
        (doom, 200, False),
        (raise_unanswered, None, False),
        (fail_at_vote, None, False),
        (fail_once, 200, True),
    ],
)
def test_sessions_are_ended_after_the_commit_by_the_hook_on_the_page(
    then: Callable[[Any], None],
    status: int | None,
    committed: bool,
    make: Make,
    documented: ModuleType,
) -> None:
    def change_password(request: Any) -> Any:
        request.session.regenerate_id()
        documented.end_others_after_commit(request, OWNER)
        then(request)
        return {}

    app = make('pyramid_tm', 'pyramid_retry')
    app.add(change_password)
    here = opened(app)
    here.get('/log_in')
    there = other_browser(app)
    assert status_of(here, '/change_password') == status
    assert there.get('/read').json == ({} if committed else {'n': 1})
    assert here.get('/read').json == {'n': 1}
    assert app.name(here) in owned(app)
    assert len(owned(app)) == (1 if committed else 2)


@pytest.mark.parametrize('retries', [True, False])
def test_request_that_ends_its_own_session_commits_nothing(
    retries: bool, make: Make
) -> None:
    """A mistake: the session is not kept, and written to."""
    committed, attempts = [], []

    def sign_out(request: Any) -> Any:
        attempts.append(request.session.get('n'))
        request.session['n'] = 0
        app.factory.store.remove_sessions_of(OWNER)
        Voter(request.tm, finish=lambda: committed.append(True))
        return {}

    # the lock is confirmed at the vote whenever it was taken
    app = make('pyramid_tm', *(['pyramid_retry'] * retries), lock_lease=0.04)
    app.add(sign_out)
    here = opened(app)
    here.get('/log_in')
    here.get('/sign_out', status=409)
    assert not committed
    # the next attempt finds that it has ended, and may store no other
    assert attempts == [1, None] if retries else [1]
    assert here.get('/read').json == {}
    assert owned(app) == []


# -- an owner, a new id and a race ---------------------------------------


@pytest.mark.parametrize('retries', [True, False])
def test_owner_and_new_id_of_an_optimistic_request_that_lost_a_race(
    retries: bool, make: Make
) -> None:
    def log_in_too_late(request: Any) -> Any:
        request.session.owner = OWNER
        request.session.regenerate_id()
        if request.environ.get('retry.attempt', 0) == 0:
            app.take_over(session_id(browser))
        return {}

    app = make(*(['pyramid_retry'] * retries))
    app.add(log_in_too_late, session_state='optimistic')
    browser = opened(app)
    before = session_id(browser)
    browser.get('/log_in_too_late', status=200 if retries else 409)
    assert app.stored(browser) == {'n': 1, 'other': True}
    assert (session_id(browser) != before) is retries
    assert owned(app) == ([app.name(browser)] if retries else [])
    if retries:
        assert app.elsewhere.get_item(before) is None


def test_one_of_two_optimistic_logins_at_once_is_told_of_the_other(
    make: Make, threads: ThreadPoolExecutor
) -> None:
    """Neither leaves a second session of the owner behind."""
    both = threading.Barrier(2)

    def log_in_at_once(request: Any) -> Any:
        request.session.owner = OWNER
        request.session.regenerate_id()
        both.wait(10)
        return {}

    app = make()
    app.add(log_in_at_once, session_state='optimistic')
    browser = opened(app)
    browsers = [app.browser(session_id(browser)) for _ in range(2)]
    statuses = [
        (future.result().status_int, each)
        for future, each in [
            (threads.submit(each.get, '/log_in_at_once', status='*'), each)
            for each in browsers
        ]
    ]
    ((ok, winner), (refused, _)) = sorted(statuses, key=lambda pair: pair[0])
    assert (ok, refused) == (200, 409)
    assert owned(app) == [app.name(winner)]


# -- a subrequest that ends or moves the session -------------------------


@pytest.fixture(params=[True, False], ids=['tweens', 'no tweens'])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A function that makes a subrequest with the cookies of a request."""

    def ask(parent: Any, path: str) -> Response:
        child = Request.blank(path, cookies=parent.cookies)
        return parent.invoke_subrequest(child, use_tweens=request.param)

    return ask


def log_out(request: Any) -> Any:
    request.session.invalidate()
    return {}


def log_in_and_save(request: Any) -> Any:
    log_in(request)
    request.session.save()
    return {}


def set_cookies(response: Any) -> list[str]:
    return list(response.headers.getall('Set-Cookie'))


@pytest.mark.parametrize('used_before', [True, False])
@pytest.mark.parametrize('path', ['/log_in', '/log_in_and_save'])
def test_session_gets_a_new_id_in_a_subrequest(
    path: str, used_before: bool, ask: Any, make: Make
) -> None:
    def parent(request: Any) -> Any:
        if used_before:
            request.session['before'] = True
        answer = ask(request, path)
        assert not set_cookies(answer)
        if path == '/log_in':
            request.session['after'] = True
        # which has the old id, as the browser has
        return ask(request, '/read').json

    app = make()
    app.add(parent, log_in_and_save)
    browser = opened(app)
    before = session_id(browser)
    response = browser.get('/parent')
    assert len(set_cookies(response)) == 1
    expected = {'n': 1}
    if used_before:
        expected['before'] = True
    if path == '/log_in':
        expected['after'] = True
    assert response.json == app.stored(browser) == expected
    assert session_id(browser) != before
    assert app.elsewhere.get_item(before) is None
    assert owned(app) == [app.name(browser)]
    assert len(app.calls()) == 3


@pytest.mark.parametrize('used_before', [True, False])
@pytest.mark.parametrize('writes', [True, False])
def test_session_is_ended_by_a_subrequest(
    writes: bool, used_before: bool, ask: Any, make: Make
) -> None:
    def parent(request: Any) -> Any:
        if used_before:
            request.session['before'] = True
        answer = ask(request, '/log_out')
        assert not set_cookies(answer)
        if writes:
            request.session['after'] = True
        return dict(request.session)

    app = make()
    app.add(parent, log_out)
    browser = opened(app)
    before = session_id(browser)
    response = browser.get('/parent')
    assert response.json == ({'after': True} if writes else {})
    assert app.elsewhere.get_item(before) is None
    (cookie,) = set_cookies(response)
    if writes:
        assert app.stored(browser) == {'after': True}
        assert session_id(browser) != before
    else:
        assert 'Max-Age=0' in cookie


def test_subrequest_that_fails_after_a_new_id_keeps_it(
    ask: Any, make: Make
) -> None:
    def parent(request: Any) -> Any:
        with pytest.raises(Unanswered):
            ask(request, '/fail')
        return dict(request.session)

    def fail(request: Any) -> Any:
        log_in(request)
        raise Unanswered

    app = make()
    app.add(parent, fail)
    browser = opened(app)
    before = session_id(browser)
    assert browser.get('/parent').json == {'n': 1}
    assert app.stored(browser) == {'n': 1}
    assert session_id(browser) != before
    assert owned(app) == [app.name(browser)]


# -- load_session and a state that takes no lock -------------------------


@pytest.mark.parametrize('includes', ['', 'pyramid_tm pyramid_retry'])
def test_read_only_view_is_loaded_while_another_request_holds_the_lock(
    includes: str, make: Make
) -> None:
    loaded = []

    def look(request: Any) -> Any:
        loaded.append(app.calls())
        return dict(request.session)

    app = make(*includes.split(), lock_wait=0)
    app.add(look, load_session=True, session_state='read_only')
    browser = opened(app)
    record = app.elsewhere.get_item_exclusive(session_id(browser))
    assert record and record.lock_id
    assert browser.get('/look').json == {'n': 1}
    assert loaded == [['get_item']]
    assert app.calls() == []
    assert app.is_locked(browser)


def test_lock_taken_before_a_read_only_view_is_given_back_before_it_loads(
    make: Make,
) -> None:
    """A root factory has used the session, and may have changed it."""

    def root_factory(request: Any) -> Any:
        if request.path == '/look':
            request.session['seen'] = True

    def look(request: Any) -> Any:
        assert not app.is_locked(browser)
        return dict(request.session)

    app = make()
    app.config.set_root_factory(root_factory)
    app.add(look, load_session=True, session_state='read_only')
    browser = opened(app)
    expected = {'n': 1, 'seen': True}
    assert browser.get('/look').json == expected == app.stored(browser)
    assert app.calls() == ['update_item'] * 2


# -- requests that wait in the same process ------------------------------


def waiting(app: SmallApp) -> int:
    """How many requests wait in line for a lock, its holder included."""
    queues = app.factory.store._locks._process.get().queue._queues
    return sum(map(len, queues.values()))


class Line:
    """Requests of one session that wait behind one that holds its lock."""

    def __init__(
        self, app: SmallApp, browser: TestApp, threads: ThreadPoolExecutor
    ) -> None:
        self._app = app
        self._session_id = session_id(browser)
        self._threads = threads
        self._length = 0

    def enter(self, path: str) -> Future[Any]:
        """Returns when the request has its place."""
        browser = self._app.browser(self._session_id)
        request = self._threads.submit(browser.get, path, status='*')
        self._length += 1
        wait_until(lambda: waiting(self._app) == self._length)
        return request


def test_those_who_wait_get_the_session_before_it_is_streamed(
    make: Make, threads: ThreadPoolExecutor
) -> None:
    go_on = threading.Event()
    others: list[Future[Any]] = []

    def stream(request: Any) -> Any:
        line = Line(app, browser, threads)
        line._length = 1
        session = request.session
        session['n'] += 1
        others.extend(line.enter('/count') for _ in range(3))
        session.save()

        def chunks() -> Iterator[bytes]:
            yield f'{session["n"]} '.encode()
            for other in others:
                other.result()
            # as it has saved it, whatever the others have made of it since
            yield f'{session["n"]}'.encode()
            with pytest.raises(SessionClosed):
                session['n'] = 0
            go_on.set()

        return Response(app_iter=chunks(), content_type='text/plain')

    app = make()
    app.add(stream)
    browser = opened(app)
    assert browser.get('/stream').text == '2 2'
    assert go_on.is_set()
    assert sorted(other.result().json['n'] for other in others) == [3, 4, 5]
    assert app.stored(browser) == {'n': 5}
    # one locks, four save, three of them for the next in line
    assert app.calls() == ['update_item'] * 5
    assert not app.is_locked(browser)
    assert waiting(app) == 0


def test_those_who_wait_get_what_a_streaming_view_leaves_to_its_end(
    make: Make, threads: ThreadPoolExecutor
) -> None:
    """Without ``save()``: the lock goes before the body does."""
    others: list[Future[Any]] = []

    def stream(request: Any) -> Any:
        line = Line(app, browser, threads)
        line._length = 1
        request.session['n'] += 1
        others.extend(line.enter('/count') for _ in range(3))

        def chunks() -> Iterator[bytes]:
            for other in others:
                yield f'{other.result().json["n"]} '.encode()

        return Response(app_iter=chunks(), content_type='text/plain')

    app = make()
    app.add(stream)
    browser = opened(app)
    assert browser.get('/stream').text == '3 4 5 '
    assert app.calls() == ['update_item'] * 5
    assert not app.is_locked(browser)


def test_handed_on_to_requests_whose_race_it_decides(
    make: Make, threads: ThreadPoolExecutor
) -> None:
    """Optimistic ones wait in line, conflict by the save, and are retried."""
    go_on = threading.Event()
    attempts: list[int] = []

    def hold(request: Any) -> Any:
        request.session['n'] += 1
        holds.set()
        go_on.wait(10)
        return {}

    def add(request: Any) -> Any:
        attempts.append(request.environ['retry.attempt'])
        request.session['n'] += 1
        return {}

    holds = threading.Event()
    app = make('pyramid_retry', lock_queue_limit=20)
    app.config.add_settings({'retry.attempts': 20})
    app.add(hold)
    app.add(add, session_state='optimistic')
    browser = opened(app)
    line = Line(app, browser, threads)
    requests = [line.enter('/hold')]
    holds.wait(10)
    for _ in range(3):
        requests += [line.enter('/add'), line.enter('/count')]
    go_on.set()
    assert {request.result().status_int for request in requests} == {200}
    assert app.stored(browser) == {'n': 1 + len(requests)}
    # each of the three has met with the change of those before it
    assert sorted(attempts)[:4] == [0, 0, 0, 1]
    assert not app.is_locked(browser)
    assert waiting(app) == 0


def test_discarded_attempt_hands_the_lock_on(
    make: Make, threads: ThreadPoolExecutor
) -> None:
    """And what it has changed with it to nobody."""
    others: list[Future[Any]] = []

    def fail(request: Any) -> Any:
        request.session['n'] += 100
        if request.environ['retry.attempt'] == 0:
            line = Line(app, browser, threads)
            line._length = 1
            others.extend(line.enter('/count') for _ in range(2))
            raise Transient
        return {}

    app = make('pyramid_retry')
    app.add(fail)
    browser = opened(app)
    browser.get('/fail')
    # the second attempt has its place behind them
    assert sorted(other.result().json['n'] for other in others) == [2, 3]
    assert app.stored(browser) == {'n': 103}
    assert not app.is_locked(browser)


@pytest.mark.parametrize('writes', [True, False])
def test_those_who_wait_for_a_session_whose_owner_is_signed_out(
    writes: bool, make: Make, threads: ThreadPoolExecutor
) -> None:
    """Its holder and they learn of it, and none waits for a lease."""
    others: list[Future[Any]] = []

    def end(request: Any) -> Any:
        line = Line(app, browser, threads)
        line._length = 1
        request.session['n'] += writes
        others.extend(map(line.enter, ['/count', '/read', '/count']))
        assert app.factory.store.remove_sessions_of(OWNER) == 1
        return {}

    app = make()
    app.add(end)
    browser = opened(app)
    browser.get('/log_in')
    browser.get('/end', status=409 if writes else 200)
    answers = [other.result() for other in others]
    assert [answer.status_int for answer in answers] == [409, 200, 409]
    assert answers[1].json == {}
    for answer in answers:
        assert not set_cookies(answer)
    assert owned(app) == []
    assert waiting(app) == 0


def test_who_waits_behind_a_reader_may_see_what_has_been_ended_meanwhile(
    make: Make, threads: ThreadPoolExecutor
) -> None:
    """The lock is handed on without a call; a save finds out."""
    others: list[Future[Any]] = []

    def look(request: Any) -> Any:
        line = Line(app, browser, threads)
        line._length = 1
        len(request.session)
        others.extend(map(line.enter, ['/read', '/count', '/read']))
        assert app.factory.store.remove_sessions_of(OWNER) == 1
        return {}

    app = make()
    app.add(look)
    browser = opened(app)
    browser.get('/log_in')
    browser.get('/look')
    answers = [other.result() for other in others]
    assert [answer.status_int for answer in answers] == [200, 409, 200]
    assert [answers[0].json, answers[2].json] == [{'n': 1}, {}]
    assert browser.get('/read').json == {}
