"""The life cycle of a request: when its session is made, saved, closed.

The session is saved once, after the exception views and the database
commit, by the tween; by a response callback where the tween does not run.
A finished callback gives back what is still held.
"""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from pyramid.httpexceptions import HTTPException, HTTPNotFound
from pyramid.interfaces import ISessionFactory
from pyramid.threadlocal import manager
from zope.interface import implementedBy, implementer

from . import transaction
from ._recorder import Recorder, RequestRecorder
from .cookie import SessionCookie
from .dynamodb.client import client_from_settings
from .errors import SessionClosed, SessionError, SessionResponseError
from .events import CookieRejected, SessionEvent, SessionUsed
from .session import DynamoDBSession
from .settings import (
    PREFIX,
    STATES,
    FactorySettings,
    documents_settings,
    refuse_similar_prefixes,
)
from .store import DynamoDBSessionStore
from .unit_of_work import UnitOfWork

try:
    from pyramid_retry import is_error_retryable
except ImportError:

    def is_error_retryable(request: Any, exc: Exception) -> bool:
        """Nobody is there to retry."""
        return False


log = logging.getLogger(__name__)

#: Where a request keeps its life cycles, and the state of its view.
LIFECYCLES = '_dynamodb_session_lifecycles'
STATE = '_dynamodb_session_state'
#: Where it keeps that the tween will save its sessions.
IN_TWEEN = '_dynamodb_session_in_tween'
#: Where the environment keeps the ids that earlier attempts of pyramid_retry
#: have stored, by the names of their cookies.
STORED_IDS = 'pyramid_dynamodb_session.stored_ids'
#: Where it keeps when the first attempt has asked for its session.
STARTED_AT = 'pyramid_dynamodb_session.started_at'
#: Where a registry keeps whether anybody listens; applications do not change.
LISTENED = '_dynamodb_session_listened'

#: The outermost request that is being answered, as a weak reference.
ANSWERED: ContextVar[Callable[[], Any] | None] = ContextVar(
    'pyramid_dynamodb_session.answered', default=None
)


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
        lifecycles = lifecycles_of(request)
        if self in lifecycles:
            return lifecycles[self]
        if answered_request() is None:
            # the tween does not run
            ANSWERED.set(weakref.ref(outermost(request)))
        parent = enclosing_request(request)
        if parent is not None and (
            self.cookie.read(parent) == self.cookie.read(request)
        ):
            return self._lifecycle(parent)
        lifecycle = RequestLifecycle(self, request, parent is not None)
        lifecycles[self] = lifecycle
        return lifecycle

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


def session_factory_from_settings(
    settings: Mapping[str, Any], prefix: str = PREFIX
) -> DynamoDBSessionFactory:
    """A session factory from the settings that bear the `prefix`.

    Raises :class:`pyramid.exceptions.ConfigurationError` for an unknown key,
    a value that can't be parsed, or a misspelt prefix. No call is made.
    """
    if prefix == PREFIX:
        refuse_similar_prefixes(settings, prefix)
    return DynamoDBSessionFactory.from_settings(
        {
            key: value
            for key, value in settings.items()
            if key.startswith(prefix)
        },
        prefix,
    )


class RequestLifecycle:
    """What a request does with its session, from the first use to the end.

    It refers to its request weakly: a request that is dropped, whatever
    became of its callbacks, keeps no lock.

    :param is_enclosed: whether the request is a part of another one.
    """

    _is_finished = False
    #: when the session was first used, on the monotonic clock
    _begun: float | None = None
    #: the id that an earlier attempt has stored
    _continued_id: str | None = None

    def __init__(
        self, factory: DynamoDBSessionFactory, request: Any, is_enclosed: bool
    ) -> None:
        self._factory = factory
        self._is_enclosed = is_enclosed
        self._request = weakref.ref(request)
        self._sent_id = factory.cookie.read(request)
        environ = request.environ
        if STORED_IDS in environ:
            stored_ids = environ[STORED_IDS]
            self._continued_id = stored_ids.get(factory.settings.cookie_name)
        kind = RequestRecorder if is_listened(request) else Recorder
        self._recorder = kind(self._request)
        if self._sent_id is None and factory.cookie.is_sent(request):
            self._recorder.record_event(CookieRejected)
            self._recorder.notify()
        self.work = UnitOfWork(
            factory.store,
            session_id=self._continued_id or self._sent_id,
            state=factory.state(request),
            touch_interval=factory.settings.touch_interval,
            on_load=self._begin,
            recorder=self._recorder,
            started_at=environ.setdefault(STARTED_AT, time.monotonic()),
            attempt=environ.get('retry.attempt', 0),
        )
        self.session = DynamoDBSession(self.work)
        request.add_finished_callback(self._end)

    def _begin(self) -> None:
        """Before the session is loaded: see to it that it will be saved."""
        request = self._request()
        if request is None:
            # dropped by a script: nobody will save
            return
        if has_ended(request):
            raise SessionClosed(
                'the session can not be loaded any more: the request has '
                'ended; use it in the view before the response streams'
            )
        if self._begun is None:
            self._begun = time.monotonic()
            if IN_TWEEN not in vars(request):
                request.add_response_callback(self._respond)
        if self._is_enclosed or transaction.may_concern(request):
            join_transaction(request, [self.work])

    def _respond(self, request: Any, response: Any) -> None:
        """Where the tween has not run, or the session was used after it."""
        finished = self.finish(request, response)
        if finished is not response:
            replace_response(response, finished, request)

    def finish(self, request: Any, response: Any) -> Any:
        """Save; return the response with the cookie, or that of the error."""
        work = self.work
        if self._is_finished or not (work.used or self._continued_id):
            return response
        self._is_finished = True
        saves = self.saves(request)
        try:
            if saves:
                work.persist()
        except SessionResponseError as error:
            response = error_response(request, error)
            saves = False
        finally:
            self.give_up(request, 'the response has been made')
        vary_by_cookie(response)
        self._write_cookie(request, response, saves)
        return response

    def _write_cookie(self, request: Any, response: Any, saves: bool) -> None:
        """Send the id of a session that was stored, whatever came after."""
        cookie, work = self._factory.cookie, self.work
        session_id = work.session_id
        if not work.used:
            session_id = self._continued_id
        if session_id is None:
            if saves and not work.is_overtaken and cookie.is_sent(request):
                cookie.remove(request, response)
        elif session_id != self._sent_id or (
            saves
            and work.slid
            and self._factory.settings.cookie_max_age is not None
        ):
            timeout = work.record.timeout if work.used else None
            cookie.write(request, response, session_id, timeout)
            self._warn_of_shared_cache(request, response)

    def _warn_of_shared_cache(self, request: Any, response: Any) -> None:
        """A cache that keeps the cookie hands it to other visitors."""
        cache_control = response.headers.get('Cache-Control', '')
        if 'public' in cache_control or 's-maxage' in cache_control:
            route = getattr(request, 'matched_route', None)
            log.warning(
                '%s (route %s): the response carries a session cookie, and '
                'its Cache-Control (%s) lets shared caches give it to other '
                'visitors; use the session in no view that is cached publicly',
                self._recorder.request_line(),
                route and route.name,
                cache_control,
            )

    def saves(self, request: Any) -> bool:
        """Whether this attempt counts, so that changes may be saved."""
        exception = getattr(request, 'exception', None)
        if exception is None:
            return True
        if is_error_retryable(request, exception):
            return False
        return self._factory.settings.set_on_exception

    def give_up(self, request: Any, reason: str) -> None:
        """Give back what is held; let a further attempt go on from here."""
        work = self.work
        work.release()
        work.close(reason)
        session_id = work.session_id
        if session_id is not None and session_id != self._sent_id:
            stored_ids = request.environ.setdefault(STORED_IDS, {})
            stored_ids[self._factory.settings.cookie_name] = session_id

    def _end(self, request: Any) -> None:
        """Give back what is held. Must not raise: others wait in line."""
        if (
            self.work.used
            and not self._is_finished
            and not self.work.closed
            and sys.exc_info()[1] is None
        ):
            log.warning(
                '%s: a session was used only after the response callbacks '
                'had run: changes to it are not saved',
                self._recorder.request_line(),
            )
        if not self._is_finished:
            self.give_up(request, 'the request has ended')
        reference = ANSWERED.get()
        if reference is not None and reference() is request:
            ANSWERED.set(None)
        if self._begun is not None:
            seconds = time.monotonic() - self._begun
            self._recorder.record_event(SessionUsed, seconds)
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
        'invoke_subrequest' in attributes and not is_being_answered(request)
    )


def is_being_answered(request: Any) -> bool:
    """Whether the router of this thread is at work on a request.

    Greenlets may share the thread-local that tells, so this alone does not
    make one request a part of another: see :data:`ANSWERED`.
    """
    return request in [frame['request'] for frame in manager.stack]


def answered_request() -> Any:
    """The outermost request that is being answered here; None for none."""
    reference = ANSWERED.get()
    request = reference and reference()
    if request is None or not is_being_answered(request):
        return None
    return request


def outermost(request: Any) -> Any:
    """The outermost request that this thread answers, and `request` is in."""
    greenlet = sys.modules.get('greenlet')
    if greenlet is not None and greenlet.getcurrent().parent is not None:
        # others may share the stack
        return request
    answered = [
        frame['request']
        for frame in manager.stack
        if hasattr(frame['request'], 'invoke_subrequest')
    ]
    return answered[0] if request in answered else request


def enclosing_request(request: Any) -> Any:
    """The outermost request that this one is a part of; None if it is that.

    Only one that the router made: a request that a script or a test has
    prepared is part of nothing, and answered by nobody.
    """
    reference = ANSWERED.get()
    parent = reference and reference()
    if (
        parent is None
        or parent is request
        or not hasattr(parent, 'invoke_subrequest')
        or parent.registry is not getattr(request, 'registry', None)
        or not is_being_answered(parent)
    ):
        return None
    return parent


def join_transaction(request: Any, works: list[UnitOfWork]) -> None:
    """Have sessions vote in the transactions of the outermost request."""
    outermost_request = enclosing_request(request) or request
    transaction.join(request, outermost_request, works)


def lifecycles_of(
    request: Any,
) -> dict[DynamoDBSessionFactory, RequestLifecycle]:
    """The life cycles that are a request's own, by session factories."""
    lifecycles: dict[DynamoDBSessionFactory, RequestLifecycle]
    lifecycles = vars(request).setdefault(LIFECYCLES, {})
    return lifecycles


def enter_state(request: Any, state: str | None) -> None:
    """Go on in the `state` of a view, which may be None for the default."""
    setattr(request, STATE, state)
    if transaction.is_active(request):
        join_transaction(
            request, [found.work for found in lifecycles_of(request).values()]
        )
    for factory, lifecycle in lifecycles_of(request).items():
        lifecycle.work.enter(factory.state(request), lifecycle.saves(request))


def session_tween_factory(
    handler: Callable[[Any], Any], registry: Any
) -> Callable[[Any], Any]:
    """Save sessions after the exception views and the database commit."""

    def session_tween(request: Any) -> Any:
        is_outermost = answered_request() is None
        if is_outermost:
            ANSWERED.set(weakref.ref(request))
        try:
            return answer(request)
        except BaseException:
            vars(request).pop(IN_TWEEN, None)
            for lifecycle in tuple(lifecycles_of(request).values()):
                lifecycle.give_up(request, 'the request has failed')
            raise
        finally:
            if is_outermost:
                ANSWERED.set(None)

    def answer(request: Any) -> Any:
        attributes = vars(request)
        attributes[IN_TWEEN] = True
        try:
            response = handler(request)
        except SessionResponseError as error:
            # from a tween above the exception views, as pyramid_tm is
            response = error_response(request, error)
        if STORED_IDS in request.environ:
            # stored by an earlier attempt: the browser must learn the id
            for _, factory in registry.getUtilitiesFor(ISessionFactory):
                factory(request)
        # what is used from now on is saved by a response callback
        del attributes[IN_TWEEN]
        for lifecycle in tuple(lifecycles_of(request).values()):
            response = lifecycle.finish(request, response)
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


def vary_by_cookie(response: Any) -> None:
    """Keep caches from giving the response to those with another cookie."""
    headers = response.headerlist
    if 'vary' in {name.lower() for name, _ in headers}:
        response.vary = sorted({*(response.vary or ()), 'Cookie'})
    else:
        # in nearly every request, where WebOb's own way costs much more
        headers.append(('Vary', 'Cookie'))


def replace_response(response: Any, other: Any, request: Any) -> None:
    """Turn a `response` that is on its way already into the `other`."""
    if isinstance(other, HTTPException):
        other.prepare(request.environ)
    response.status = other.status
    response.headerlist = other.headerlist
    response.app_iter = other.app_iter
