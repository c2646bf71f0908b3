"""The embedded DynamoDB: moto's server, for development.

It runs in this process; under ``pserve --reload`` in one of its own, which
outlives the reloads. The only module that imports moto, and only when a
server is started.
"""

from __future__ import annotations

import functools
import http.client
import io
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pyramid.exceptions import ConfigurationError

log = logging.getLogger(__name__)

WSGI = Callable[..., Iterable[bytes]]

#: Where a server says for which ``pserve`` it was started.
MONITOR_PATH = '/monitor'
#: Seconds between looks at whether that ``pserve`` still runs.
WATCH_INTERVAL = 0.5


def make_server(port: int = 0, monitor: int | None = None) -> Any:
    """A server that listens on 127.0.0.1; 0 is any port that is free.

    Raises :class:`pyramid.exceptions.ConfigurationError` without moto, and
    OSError or SystemExit when it can't listen on the `port`.
    """
    try:
        # without it, moto.server can be imported, and does not work
        import flask_cors  # noqa: F401
        from moto.server import create_backend_app
        from werkzeug.serving import make_server
    except ImportError as error:
        raise ConfigurationError(
            'the embedded DynamoDB needs moto: '
            'pip install "pyramid_dynamodb_session[local]"'
        ) from error
    # it logs each request that it serves
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    app = one_at_a_time(create_backend_app('dynamodb'), monitor)
    return make_server('127.0.0.1', port, app, threaded=True)


def one_at_a_time(app: WSGI, monitor: int | None = None) -> WSGI:
    """moto is not atomic: two threads can both pass the same condition."""
    mutex = threading.Lock()

    def serialized(environ: dict[str, Any], start_response: Any) -> Any:
        if environ['PATH_INFO'] == MONITOR_PATH:
            start_response('200 OK', [('Content-Type', 'text/plain')])
            return [str(monitor).encode()]
        # before the mutex, or all wait for a client that is suspended
        length = int(environ.get('CONTENT_LENGTH') or 0)
        environ['wsgi.input'] = io.BytesIO(environ['wsgi.input'].read(length))
        with mutex:
            return list(app(environ, start_response))

    return serialized


@functools.cache
def start() -> str:
    """Start the server in this process, once; return its URL.

    Raises :class:`pyramid.exceptions.ConfigurationError` without moto.
    """
    return start_thread(make_server())


def start_thread(server: Any) -> str:
    threading.Thread(
        target=server.serve_forever, name='embedded-dynamodb', daemon=True
    ).start()
    return url_of(server.server_port)


def url_of(port: int) -> str:
    return f'http://127.0.0.1:{port}'


# -- under pserve --reload ------------------------------------------------


def reloading_monitor() -> int | None:
    """The id of the ``pserve --reload`` that starts this process anew.

    None without one, and on Windows, where a process can't be watched so.
    """
    # hupper is imported where it reloads
    hupper: Any = sys.modules.get('hupper')
    if hupper is None or not hupper.is_active() or os.name != 'posix':
        return None
    return os.getppid()


def start_beside(monitor: int) -> str:
    """The URL of the server that runs as long as a `monitor` process does.

    The first call starts it, in a process of its own; those after a reload
    find it.
    """
    port = port_beside(monitor)
    if port is None:
        program = (
            f'import sys; sys.path[:] = {sys.path!r}; '
            'from pyramid_dynamodb_session import local; '
            f'local.serve_beside({monitor})'
        )
        server = subprocess.Popen(  # noqa: S603
            [sys.executable, '-W', 'ignore', '-c', program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # Ctrl-C is for pserve, whose end it waits for
            start_new_session=True,
        )
        stdout: Any = server.stdout
        with stdout:
            line = stdout.readline()
        if not line:
            raise ConfigurationError(
                'the embedded DynamoDB could not be started; the reason is '
                'above, in the output'
            )
        port = int(line)
        # nobody waits for it, and that is no mistake
        server.returncode = 0
    return url_of(port)


def port_beside(monitor: int) -> int | None:
    """The port of the server that runs for a `monitor`; None without one."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW
        with open(os.open(port_file(monitor), flags)) as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            port = int(file.read())
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=5)
        connection.request('GET', MONITOR_PATH)
        answer = connection.getresponse().read()
        connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return port if answer == str(monitor).encode() else None


def port_file(monitor: int) -> Path:
    name = f'pyramid_dynamodb_session-{os.getuid()}-{monitor}'
    return Path(tempfile.gettempdir(), name)


def serve_beside(monitor: int) -> None:
    """Serve until the `monitor` process has ended, and write the port."""
    server = make_server(monitor=monitor)
    start_thread(server)
    # what others may read there, they may not have written
    with tempfile.NamedTemporaryFile('w', delete=False) as file:
        file.write(str(server.server_port))
    path = port_file(monitor)
    os.replace(file.name, path)
    try:
        print(server.server_port, flush=True)
        while is_running(monitor):
            time.sleep(WATCH_INTERVAL)
    finally:
        path.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


# -- the include ----------------------------------------------------------


def includeme(config: Any) -> None:
    """Point the provider at an embedded DynamoDB, and include the package.

    Include ``pyramid_dynamodb_session.local`` in a development ``.ini``.
    Each process has a DynamoDB of its own, which is gone with it: it serves
    one process with many threads, as waitress is. Under ``pserve --reload``
    it lasts until ``pserve`` ends.
    """
    if config.get_settings().get('dynamodb_session.endpoint_url'):
        raise ConfigurationError(
            'pyramid_dynamodb_session.local starts a DynamoDB of its own: '
            'remove it from pyramid.includes, or '
            'dynamodb_session.endpoint_url from the settings'
        )
    monitor = reloading_monitor()
    url = start() if monitor is None else start_beside(monitor)
    log.warning(
        'sessions are kept in an embedded DynamoDB at %s, which is lost when '
        '%s ends: for development only',
        url,
        'this process' if monitor is None else 'pserve',
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
