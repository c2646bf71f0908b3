"""The embedded DynamoDB: moto's server in this process, for development.

The only module that imports moto, and only when it is included.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyramid.exceptions import ConfigurationError

log = logging.getLogger(__name__)

WSGI = Callable[..., Iterable[bytes]]


@functools.cache
def start() -> str:
    """Start the server, once in a process; return its URL.

    Raises :class:`pyramid.exceptions.ConfigurationError` without moto.
    """
    try:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server
    except ImportError as error:
        raise ConfigurationError(
            'pyramid_dynamodb_session.local needs moto: '
            'pip install "pyramid_dynamodb_session[local]"'
        ) from error
    # it logs each request that it serves
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    app = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server('127.0.0.1', 0, app, threaded=True)
    threading.Thread(
        target=server.serve_forever, name='embedded-dynamodb', daemon=True
    ).start()
    return f'http://127.0.0.1:{server.server_port}'


def one_at_a_time(app: WSGI) -> WSGI:
    """moto is not atomic: two threads can both pass the same condition."""
    mutex = threading.Lock()

    def serialized(
        environ: dict[str, Any], start_response: Any
    ) -> list[bytes]:
        with mutex:
            return list(app(environ, start_response))

    return serialized


def includeme(config: Any) -> None:
    """Point the provider at an embedded DynamoDB, gone with the process.

    Include ``pyramid_dynamodb_session.local`` in a development ``.ini``
    besides the package itself. Each process has its own: it serves one
    process with many threads, as waitress is.
    """
    if config.get_settings().get('dynamodb_session.endpoint_url'):
        raise ConfigurationError(
            'pyramid_dynamodb_session.local starts a DynamoDB of its own: '
            'remove it from pyramid.includes, or '
            'dynamodb_session.endpoint_url from the settings'
        )
    url = start()
    log.warning(
        'sessions are kept in an embedded DynamoDB at %s, which is lost when '
        'this process ends: for development only',
        url,
    )
    config.add_settings(settings_for(url, config.get_settings()))
    config.include('pyramid_dynamodb_session')


def settings_for(url: str, settings: Mapping[str, str]) -> dict[str, str]:
    """What is added to `settings` to reach the embedded DynamoDB."""
    return {
        'dynamodb_session.endpoint_url': url,
        'dynamodb_session.region': settings.get(
            'dynamodb_session.region', 'us-east-1'
        ),
        'dynamodb_session.aws_access_key_id': 'local',
        'dynamodb_session.aws_secret_access_key': 'local',
    }
