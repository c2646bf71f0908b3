"""The Pyramid application under simulation, and the kinds of its requests.

A request carries its script along: views are what a browser asks for.
Each write appends the request's own token to the list ``log`` in the session;
a request that is run again appends the same token.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import importlib
from collections.abc import Callable
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPBadRequest, HTTPSeeOther
from pyramid.response import Response
from pyramid_retry import RetryableException

from tests.simulation.stdlib import current_world

APPLICATION = 'shop'
TABLE = 'Pyramid_SessionState'
SCRIPT = 'simulation.request'
#: The environment of each request, but for its cookie and path.
ENVIRON = {
    'REQUEST_METHOD': 'GET',
    'SCRIPT_NAME': '',
    'QUERY_STRING': '',
    'SERVER_NAME': 'localhost',
    'SERVER_PORT': '80',
    'SERVER_PROTOCOL': 'HTTP/1.1',
    'HTTP_HOST': 'localhost',
    'wsgi.version': (1, 0),
    'wsgi.url_scheme': 'http',
    'wsgi.multithread': True,
    'wsgi.multiprocess': True,
    'wsgi.run_once': False,
}


def package(name: str = '') -> Any:
    """A module of the package, as it is loaded just now."""
    return importlib.import_module(f'pyramid_dynamodb_session{name}')


@functools.lru_cache(4096)
def item_name(session_id: str) -> str:
    """The key of a session's item."""
    digest = hashlib.sha256(session_id.encode()).digest()
    hashed = base64.urlsafe_b64encode(digest).rstrip(b'=').decode()
    return f'{APPLICATION}-{hashed}'


def make_application(client: Any, settings: dict[str, Any]) -> Any:
    """A WSGI application of its own, on this client."""
    config = Configurator(
        settings={
            'dynamodb_session.client': client,
            'dynamodb_session.application': APPLICATION,
            'dynamodb_session.table': TABLE,
            **settings,
        }
    )
    config.include('pyramid_retry')
    config.include('pyramid_dynamodb_session')
    for state in ('exclusive', 'optimistic', 'read_only', 'disabled'):
        config.add_view(view, name=state, session_state=state)
    config.add_view(view)
    config.add_exception_view(error_view, context=package().SessionError)
    return config.make_wsgi_app()


def view(request: Any) -> Any:
    script = request.environ[SCRIPT]
    script.attempts += 1
    script.kind.run(request, script)
    return Response(b'')


def error_view(error: Any, request: Any) -> Any:
    """The error itself, and its name for the checker."""
    response = error if hasattr(error, 'status_int') else Response(status=500)
    response.headers['X-Error'] = type(error).__name__
    response.headers['X-Outcome'] = getattr(error, 'outcome', 'unknown')
    return response


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a request does with its session.

    ``state`` is that of its view, '' for one that says nothing; ``run`` is
    what the view does. ``statuses`` are those that say that it was saved, if
    it ``writes``. ``calls`` are how many it makes when nobody is in its way,
    for a browser with a living session and one without a cookie; None for
    any number.
    """

    name: str
    state: str
    run: Callable[[Any, Any], None]
    writes: bool = True
    ends: bool = False
    statuses: tuple[int, ...] = (200,)
    calls: tuple[int | None, int | None] = (None, None)

    def __str__(self) -> str:
        return self.name


# -- what views do -------------------------------------------------------


def load(request: Any, script: Any) -> Any:
    """The session, loaded; what was read is told the checker."""
    session = request.session
    world = current_world()
    since = world.now
    log = session.get('log')
    script.has_read(
        since, session.session_id, tuple(log or ()), session.get('user')
    )
    return session


def append(session: Any, script: Any) -> None:
    log = session.setdefault('log', [])
    # a nested change and an assignment must be found alike
    if script.number % 2:
        log.append(script.number)
    else:
        session['log'] = [*log, script.number]


def save(session: Any, script: Any) -> None:
    session.save()
    script.saved_id = session.session_id


def hold(script: Any) -> None:
    if script.hold:
        current_world().sleep(script.hold, 'view')


def write(request: Any, script: Any) -> None:
    session = load(request, script)
    hold(script)
    append(session, script)


def read(request: Any, script: Any) -> None:
    load(request, script)
    hold(script)


def use_nothing(request: Any, script: Any) -> None:
    hold(script)


def login(request: Any, script: Any) -> None:
    session = load(request, script)
    session.regenerate_id()
    session['user'] = script.user
    append(session, script)
    hold(script)


def login_and_save(request: Any, script: Any) -> None:
    login(request, script)
    save(request.session, script)
    current_world().sleep(script.pause, 'view')


def login_save_and_fail(request: Any, script: Any) -> None:
    """The database fails after the session was saved; then all is well."""
    session = load(request, script)
    if script.number not in session.get('log', ()):
        session.regenerate_id()
        session['user'] = script.user
        append(session, script)
        save(session, script)
    if script.attempts == 1:
        raise RetryableException


def login_and_fail(request: Any, script: Any) -> None:
    login(request, script)
    if script.attempts == 1:
        raise RetryableException


def logout(request: Any, script: Any) -> None:
    session = load(request, script)
    hold(script)
    session.invalidate()


def logout_and_write(request: Any, script: Any) -> None:
    logout(request, script)
    append(request.session, script)


def redirect(request: Any, script: Any) -> None:
    write(request, script)
    raise HTTPSeeOther('/')


def refuse(request: Any, script: Any) -> None:
    write(request, script)
    raise HTTPBadRequest


def fail_at_first(request: Any, script: Any) -> None:
    """Raise a retryable error so many times as the script says."""
    write(request, script)
    if script.attempts <= script.failures:
        raise RetryableException


def crash(request: Any, script: Any) -> None:
    write(request, script)
    raise ViewFailed


def save_midway(request: Any, script: Any) -> None:
    write(request, script)
    save(request.session, script)
    current_world().sleep(script.pause, 'view')
    assert script.number in request.session['log']


def save_and_fail(request: Any, script: Any) -> None:
    session = load(request, script)
    if script.number not in session.get('log', ()):
        append(session, script)
        save(session, script)
    if script.attempts == 1:
        raise RetryableException


def adjust_timeout(request: Any, script: Any) -> None:
    write(request, script)
    request.session.adjust_timeout(LONG_TIMEOUT)


class ViewFailed(Exception):
    """An error in the application's own code."""


TIMEOUT = 86_400
LONG_TIMEOUT = 30 * 86_400

KINDS = {
    kind.name: kind
    for kind in (
        Kind('write', 'exclusive', write, calls=(2, 1)),
        Kind('write by default', '', write, calls=(2, 1)),
        Kind('read', 'exclusive', read, writes=False, calls=(2, 0)),
        Kind('optimistic write', 'optimistic', write, calls=(2, 1)),
        Kind('optimistic read', 'optimistic', read, False, calls=(1, 0)),
        Kind('read_only', 'read_only', read, writes=False, calls=(1, 0)),
        Kind('none', 'disabled', use_nothing, writes=False, calls=(0, 0)),
        Kind('login', 'exclusive', login, calls=(2, 1)),
        Kind('login, save', 'exclusive', login_and_save, calls=(2, 1)),
        Kind('login, save, fail', 'exclusive', login_save_and_fail),
        Kind('login, fail', 'exclusive', login_and_fail),
        Kind('optimistic login', 'optimistic', login, calls=(2, 1)),
        Kind('logout', 'exclusive', logout, False, True, calls=(2, 0)),
        Kind(
            'logout, write',
            'exclusive',
            logout_and_write,
            ends=True,
            calls=(3, 1),
        ),
        Kind('redirect', 'exclusive', redirect, statuses=(303,), calls=(2, 1)),
        Kind('refuse', 'exclusive', refuse, statuses=(400,), calls=(2, 1)),
        Kind('fail at first', 'exclusive', fail_at_first),
        Kind('optimistic, fail', 'optimistic', fail_at_first),
        Kind('crash', 'exclusive', crash, calls=(2, 0)),
        Kind('save midway', 'exclusive', save_midway, calls=(2, 1)),
        Kind('save, fail', 'exclusive', save_and_fail),
        Kind('adjust timeout', 'exclusive', adjust_timeout, calls=(2, 1)),
        Kind('end elsewhere', '', use_nothing, False, True, calls=(1, 0)),
    )
}
