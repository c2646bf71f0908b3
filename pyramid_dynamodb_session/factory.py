"""The life of a request: when its session is made, saved, closed.

The session is saved once, after the exception views and the database
commit, by the tween; by a response callback where the tween does not run.
A finished callback gives back what is still held.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pyramid.httpexceptions import HTTPException, HTTPNotFound
from pyramid.interfaces import ISessionFactory
from pyramid.threadlocal import manager
from zope.interface import implementedBy, implementer

from ._recorder import Recorder
from .cookie import SessionCookie
from .dynamodb.client import client_from_settings
from .errors import SessionClosed, SessionError, SessionResponseError
from .events import CookieRejected, SessionEvent, SessionUsed
from .session import DynamoDBSession
from .settings import STATES, FactorySettings, documents_settings
from .store import DynamoDBSessionStore

try:
    from pyramid_retry import is_error_retryable
except ImportError:

    def is_error_retryable(request: Any, exc: Exception) -> bool:
        """Nobody is there to retry."""
        return False


log = logging.getLogger(__name__)

#: Where a request keeps its lives with sessions, and its view's state.
LIFECYCLES = '_dynamodb_session_lifecycles'
STATE = '_dynamodb_session_state'
#: Where a registry keeps whether anybody listens; applications do not change.
LISTENED = '_dynamodb_session_listened'


@documents_settings(FactorySettings)
@implementer(ISessionFactory)
class DynamoDBSessionFactory:
    """Makes the session of a request; no call until the session is used.

    :param settings: those of the settings reference, by the same names.

    Raises :class:`pyramid.exceptions.ConfigurationError`.
    """

    def __init__(self, **settings: Any) -> None:
        self._set_up(FactorySettings.parse(settings))

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], prefix: str
    ) -> DynamoDBSessionFactory:
        """As made with the `settings` whose keys bear the `prefix`."""
        factory = cls.__new__(cls)
        factory._set_up(FactorySettings.parse(settings, prefix))
        return factory

    def _set_up(self, settings: FactorySettings) -> None:
        self.settings = settings
        self.cookie = SessionCookie(settings)
        self.store = DynamoDBSessionStore.from_settings(
            client_from_settings(settings), settings
        )

    def __call__(self, request: Any) -> DynamoDBSession:
        return self._lifecycle(request).session

    def _lifecycle(self, request: Any) -> RequestLifecycle:
        lives = lifecycles_of(request)
        if self in lives:
            return lives[self]
        parent = self._parent(request)
        if parent is not None:
            return self._lifecycle(parent)
        life = lives[self] = RequestLifecycle(self, request)
        return life

    def _parent(self, request: Any) -> Any:
        """The request of the same session that this one is a part of.

        The outermost one, if the router made it: a request that a script or
        a test has prepared is part of nothing, and answered by nobody.
        """
        registry = getattr(request, 'registry', None)
        for frame in manager.stack:
            parent = frame['request']
            if parent is request:
                break
            if (
                hasattr(parent, 'invoke_subrequest')
                and frame['registry'] is registry
                and self.cookie.read(parent) == self.cookie.read(request)
            ):
                return parent
        return None

    def state(self, request: Any) -> str:
        """The state of the view; where it says nothing, the default."""
        state = getattr(request, STATE, None)
        if state is None and self.settings.state_hook is not None:
            state = self.settings.state_hook(request)
        if state not in (None, *STATES):
            raise ValueError(
                f'state_hook returned {state!r}, which is neither None nor '
                f'one of {", ".join(STATES)}'
            )
        return state or self.settings.session_state


class RequestLifecycle:
    """What a request does with its session, from the first use to the end."""

    def __init__(self, factory: DynamoDBSessionFactory, request: Any) -> None:
        self._factory = factory
        self._sent_id = factory.cookie.read(request)
        self._recorder = Recorder(request) if is_listened(request) else None
        rejected = self._sent_id is None and factory.cookie.is_sent(request)
        if rejected and self._recorder is not None:
            self._recorder.notify(CookieRejected)
        self.session = DynamoDBSession(
            factory.store,
            session_id=self._sent_id,
            state=factory.state(request),
            touch_interval=factory.settings.touch_interval,
            on_load=partial(self._begin, request),
            recorder=self._recorder,
        )
        self._finished = False
        #: when the session was first used, on the monotonic clock
        self._begun: float | None = None
        request.add_finished_callback(self._end)

    def _begin(self, request: Any) -> None:
        """Before the session is loaded: see to it that it will be saved."""
        if has_ended(request):
            raise SessionClosed(
                'the session can not be loaded any more: the request has '
                'ended; use it in the view before the response streams'
            )
        self._begun = self._begun or time.monotonic()
        request.add_response_callback(self._respond)

    def _respond(self, request: Any, response: Any) -> None:
        """Where the tween has not run, or the session was used after it."""
        finished = self.finish(request, response)
        if finished is not response:
            replace_response(response, finished, request)

    def finish(self, request: Any, response: Any) -> Any:
        """Save; return the response with the cookie, or that of the error."""
        session = self.session
        if self._finished or not session.used:
            return response
        self._finished = True
        saves = self.saves(request)
        try:
            if saves:
                session.persist()
        except SessionResponseError as error:
            response = error_response(request, error)
            saves = False
        finally:
            session.close('the response has been made')
        vary = response.vary
        if vary is None:
            # in nearly every request, where setting the list costs more
            response.headers['Vary'] = 'Cookie'
        else:
            response.vary = sorted({*vary, 'Cookie'})
        if saves:
            self._write_cookie(request, response)
        return response

    def _write_cookie(self, request: Any, response: Any) -> None:
        cookie, session = self._factory.cookie, self.session
        session_id = session.stored_id
        if session_id is None:
            if cookie.is_sent(request):
                cookie.remove(request, response)
        elif session_id != self._sent_id or (
            session.slid and self._factory.settings.cookie_max_age is not None
        ):
            cookie.write(request, response, session_id, session.timeout)

    def saves(self, request: Any) -> bool:
        """Whether this attempt counts, so that changes may be saved."""
        exception = getattr(request, 'exception', None)
        if exception is None:
            return True
        if is_error_retryable(request, exception):
            return False
        return self._factory.settings.set_on_exception

    def _end(self, request: Any) -> None:
        """Give back what is held. Must not raise: others wait in line."""
        session = self.session
        if session.used and not self._finished and sys.exc_info()[1] is None:
            log.warning(
                'a session was used only after the response callbacks had '
                'run: changes to it are not saved'
            )
        try:
            session.release()
        except SessionError as error:
            log.warning('the lock of a session was not given back: %s', error)
        session.close('the request has ended')
        if self._recorder is not None:
            if self._begun is not None:
                seconds = time.monotonic() - self._begun
                self._recorder.notify(SessionUsed, seconds)
            self._recorder.close()


def is_listened(request: Any) -> bool:
    """Whether anybody subscribed to what happens to sessions."""
    registry = getattr(request, 'registry', None)
    if registry is None or not registry.has_listeners:
        return False
    if LISTENED not in registry:
        registry[LISTENED] = any(
            registry.adapters.subscriptions([implementedBy(event)], None)
            for event in SessionEvent.__subclasses__()
        )
    return bool(registry[LISTENED])


def has_ended(request: Any) -> bool:
    """Whether the router is through with a request, and all its callbacks."""
    attributes = vars(request)
    # which it takes away at the end, from a request that ever had one
    if 'context' in attributes:
        return False
    return 'traversed' in attributes or (
        'invoke_subrequest' in attributes
        and all(frame['request'] is not request for frame in manager.stack)
    )


def lifecycles_of(
    request: Any,
) -> dict[DynamoDBSessionFactory, RequestLifecycle]:
    """The lives that are a request's own, one for each session factory."""
    lives: dict[DynamoDBSessionFactory, RequestLifecycle] = vars(
        request
    ).setdefault(LIFECYCLES, {})
    return lives


def enter_state(request: Any, state: str | None) -> None:
    """Go on in the `state` of a view, which may be None for the default."""
    setattr(request, STATE, state)
    for factory, life in lifecycles_of(request).items():
        life.session.enter(factory.state(request), life.saves(request))


def session_tween_factory(
    handler: Callable[[Any], Any], registry: Any
) -> Callable[[Any], Any]:
    """Save sessions after the exception views and the database commit."""

    def session_tween(request: Any) -> Any:
        try:
            response = handler(request)
        except SessionResponseError as error:
            # from a tween above the exception views, as pyramid_tm is
            response = error_response(request, error)
        for life in tuple(lifecycles_of(request).values()):
            response = life.finish(request, response)
        return response

    return session_tween


def error_response(request: Any, error: SessionResponseError) -> Any:
    """What the application's exception view, or the error itself, says."""
    exc_info = (type(error), error, error.__traceback__)
    try:
        return request.invoke_exception_view(exc_info)
    except (HTTPNotFound, SessionError):
        # no such view, or one that needs the session
        request.exception = error
        request.exc_info = exc_info
        return error


def replace_response(response: Any, other: Any, request: Any) -> None:
    """Ticket a `response` that can't be replaced any more into the `other`."""
    if isinstance(other, HTTPException):
        other.prepare(request.environ)
    response.status = other.status
    response.headerlist = other.headerlist
    response.app_iter = other.app_iter
