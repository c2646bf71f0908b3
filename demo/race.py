"""The race: parallel requests that all count in the same session."""

import secrets
import threading
import time
from typing import NamedTuple

from pyramid.events import ApplicationCreated, subscriber
from pyramid.interfaces import ISessionFactory
from pyramid.session import SignedCookieSessionFactory
from pyramid.view import view_config, view_defaults

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
        'Takes no lock. Whoever saves second is refused with a 409 and may '
        'try again, which pyramid_retry does by itself.',
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
        updates, waited = timed(session.get, 'updates', 0)
        time.sleep(WORK)
        session['updates'] = updates + 1
        return {'waited': waited}

    @view_config(
        request_method='POST',
        match_param='contender=read_only',
        session_state='read_only',
    )
    def read(self):
        _, waited = timed(self.session.get, 'updates', 0)
        time.sleep(WORK)
        return {'waited': waited}

    @view_config(
        request_method='POST',
        match_param='contender=disabled',
        session_state='disabled',
    )
    def work(self):
        time.sleep(WORK)
        return {'waited': 0}


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
    """A tween around everything: what did this request cost?"""

    def measured(request):
        calls.made = 0
        response, milliseconds = timed(handler, request)
        response.headers['X-Calls'] = str(calls.made)
        response.headers['X-Milliseconds'] = f'{milliseconds:.1f}'
        return response

    return measured
