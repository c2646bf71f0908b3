"""The kinds of requests that browsers send, and what their views do.

Each write appends the request's own token to the list ``log`` in the session;
a request that is run again appends the same token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pyramid.httpexceptions import HTTPBadRequest, HTTPSeeOther
from pyramid_retry import RetryableException

from tests.simulation.stdlib import current_world

TIMEOUT = 86_400
LONG_TIMEOUT = 30 * 86_400


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
    #: rows that a request stores in the database, if its answer is 200; None
    #: for one that does not know of a database
    rows: int | None = None
    #: what it does to owners; see :mod:`tests.simulation.ownership`
    ownership: str = ''

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


KINDS = (
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
