"""The race: parallel requests that all count in the same session."""

import secrets
import threading
import time
from typing import NamedTuple

from pyramid.events import ApplicationCreated, subscriber
from pyramid.interfaces import ISessionFactory
from pyramid.session import SignedCookieSessionFactory
from pyramid.view import exception_view_config, view_config, view_defaults

from pyramid_dynamodb_session import SessionConflict
from pyramid_dynamodb_session.events import LockWaited

#: Seconds that each request works with its session, as a real view would.
WORK = 0.02


class Contender(NamedTuple):
    title: str
    text: str
    writes: bool = True


CONTENDERS = {
    'exclusive': Contender(
        'Exclusive',
        'The default. One request at a time holds the session, so none can '
        'overwrite the changes of another.',
    ),
    'cookie': Contender(
        'Signed cookies',
        'SignedCookieSessionFactory, which comes with Pyramid. Each request '
        'works on its own copy, and the last answer wins.',
    ),
    'read_only': Contender(
        'Read only',
        'Reads what is stored and never waits for another '
        'request; writing is an error.',
        writes=False,
    ),
    'optimistic': Contender(
        'Optimistic',
        'Takes no lock. Whoever saves second is refused, with a 409 unless '
        'the application has its own answer, and may try again, which '
        'pyramid_retry does by itself.',
    ),
    'disabled': Contender(
        'Disabled',
        'Uses no session and makes no call.',
        writes=False,
    ),
}

cookie_session = SignedCookieSessionFactory(
    secrets.token_hex(), cookie_name='cookie_session'
)


# Checking a CSRF token would itself use the session that is being measured.
@view_defaults(route_name='race', renderer='json', require_csrf=False)
class Race:
    def __init__(self, request):
        self.request = request

    @property
    def session(self):
        if self.request.matchdict['contender'] == 'cookie':
            return cookie_session(self.request)
        return self.request.session

    @view_config(request_method='PUT')
    def start(self):
        self.session['updates'] = 0
        return {}

    @view_config(request_method='GET', session_state='read_only')
    def result(self):
        return {'updates': self.session.get('updates', 0)}

    @view_config(request_method='POST', match_param='contender=exclusive')
    @view_config(request_method='POST', match_param='contender=cookie')
    @view_config(
        request_method='POST',
        match_param='contender=optimistic',
        session_state='optimistic',
    )
    def update(self):
        session = self.session
        updates, times = self.read_updates()
        time.sleep(WORK)
        session['updates'] = updates + 1
        return times

    @view_config(
        request_method='POST',
        match_param='contender=read_only',
        session_state='read_only',
    )
    def read(self):
        _, times = self.read_updates()
        time.sleep(WORK)
        return times

    @view_config(
        request_method='POST',
        match_param='contender=disabled',
        session_state='disabled',
    )
    def work(self):
        time.sleep(WORK)
        return {'waited': 0, 'loaded': 0}

    def read_updates(self):
        """The number, and the milliseconds until it was there.

        ``waited`` are those for the lock alone; the rest were spent on the
        call to DynamoDB, which here runs in the same process.
        """
        session = self.session
        updates, milliseconds = timed(session.get, 'updates', 0)
        waited = 1000 * getattr(self.request, 'lock_waited', 0)
        loaded = max(0, milliseconds - waited)
        return updates, {'waited': waited, 'loaded': loaded}


@subscriber(LockWaited)
def note_wait(event):
    event.request.lock_waited = event.seconds


@exception_view_config(SessionConflict, route_name='race', renderer='json')
def refused(error, request):
    """An answer, not an error in the browser's console: it is the point."""
    return {'refused': error.code}


def timed(function, *args):
    """The result of a call, and the milliseconds that it took."""
    began = time.perf_counter()
    result = function(*args)
    return result, 1000 * (time.perf_counter() - began)


class Calls(threading.local):
    """The DynamoDB calls that this thread has made."""

    made = 0

    def count(self, **kwargs):
        self.made += 1


calls = Calls()


@subscriber(ApplicationCreated)
def count_calls(event):
    store = event.app.registry.getUtility(ISessionFactory).store
    store.client.meta.events.register('before-send.dynamodb', calls.count)


def measure(handler, registry):
    """A tween around all others: what did this request cost?"""

    def measured(request):
        calls.made = 0
        response, milliseconds = timed(handler, request)
        response.headers['X-Calls'] = str(calls.made)
        response.headers['X-Milliseconds'] = f'{milliseconds:.1f}'
        return response

    return measured
