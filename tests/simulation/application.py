"""The Pyramid application under simulation.

A request carries its script along: views are what a browser asks for.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response

from tests.simulation.kinds import KINDS as SESSION_KINDS
from tests.simulation.orders import ORDERS
from tests.simulation.ownership import OWNER_KINDS

KINDS = {kind.name: kind for kind in (*SESSION_KINDS, *ORDERS, *OWNER_KINDS)}

APPLICATION = 'shop'
TABLE = 'Pyramid_SessionState'
SCRIPT = 'simulation.request'
#: What the application includes besides ``pyramid_retry``.
INCLUDES = ('pyramid_tm', 'pyramid_dynamodb_session')
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


def make_application(
    client: Any,
    settings: dict[str, Any],
    includes: tuple[str, ...] = INCLUDES,
) -> Any:
    """A WSGI application of its own, on this client.

    Transactions are begun for the requests that ask for them.
    """
    config = Configurator(
        settings={
            'dynamodb_session.client': client,
            'dynamodb_session.application': APPLICATION,
            'dynamodb_session.table': TABLE,
            'tm.manager_hook': 'pyramid_tm.explicit_manager',
            'tm.activate_hook': uses_database,
            **settings,
        }
    )
    config.include('pyramid_retry')
    for name in includes:
        config.include(name)
    for state in ('exclusive', 'optimistic', 'read_only', 'disabled'):
        config.add_view(view, name=state, session_state=state)
    config.add_view(view)
    config.add_exception_view(error_view, context=package().SessionError)
    return config.make_wsgi_app()


def uses_database(request: Any) -> bool:
    return bool(request.environ[SCRIPT].uses_database)


def view(request: Any) -> Any:
    script = request.environ[SCRIPT]
    script.begin_attempt()
    script.kind.run(request, script)
    return Response(b'')


def error_view(error: Any, request: Any) -> Any:
    """The error itself, and its name for the checker."""
    response = error if hasattr(error, 'status_int') else Response(status=500)
    response.headers['X-Error'] = type(error).__name__
    response.headers['X-Outcome'] = getattr(error, 'outcome', 'unknown')
    response.headers['X-Transaction'] = getattr(error, 'transaction', '')
    response.headers['X-Message'] = str(error)
    return response
