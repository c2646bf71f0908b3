"""Application servers as processes of their own, to load and to kill.

``python -m tests.support.servers NAME FD THREADS`` runs one that has no
command of its own for an inherited socket.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyramid.path import DottedNameResolver

from tests.support.engines import wait_until_it_listens

ROOT = Path(__file__).parents[2]
SETTINGS = 'TEST_SERVER_SETTINGS'
APP = 'TEST_SERVER_APP'
#: What a server is to run, as ``module:callable``; it returns the WSGI
#: application.
FACTORY = 'tests.support.servers:application'

#: From a listening socket to the command of a server. One that can not
#: inherit a socket closes this one, and listens on its port.
Command = Callable[[socket.socket], list[str]]


class Server:
    """A server process: waitress, or gunicorn when ``workers`` is given.

    It inherits a listening socket, so its port is known beforehand and
    requests wait in the socket's queue until it is up.

    :param command: another server, and how it is started.
    """

    def __init__(
        self,
        settings: dict[str, str],
        *,
        threads: int = 4,
        workers: int = 0,
        app: str = 'tests.apps.wsgi_app:main',
        start_timeout: float = 60,
        command: Command | None = None,
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        if command is None and workers:
            options = ('--preload', f'--workers={workers}')
            command = gunicorn(*options, f'--threads={threads}')
        command = command or own('waitress', threads)
        with socket.create_server(('127.0.0.1', 0), backlog=256) as listener:
            self.port: int = listener.getsockname()[1]
            arguments = command(listener)
            is_open = listener.fileno() >= 0
            self.process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                env=os.environ | {SETTINGS: json.dumps(settings), APP: app},
                pass_fds=[listener.fileno()] if is_open else [],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_it_answers(start_timeout)
        except BaseException:
            self.close()
            raise

    def _wait_until_it_answers(self, timeout: float) -> None:
        connection = http.client.HTTPConnection(
            '127.0.0.1', self.port, timeout=timeout
        )
        try:
            wait_until_it_listens(self.process, self.port, timeout)
            connection.request('GET', '/none')
            connection.getresponse().read()
        except (OSError, RuntimeError) as error:
            raise RuntimeError(f'no server came up:\n{self.log}') from error
        finally:
            connection.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """All that the process has printed and logged."""
        # pread leaves alone the offset that the process writes at.
        fd = self._log.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors='replace')

    def kill(self) -> None:
        """SIGKILL, its workers too: no chance to release anything."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """SIGSTOP, its workers too: it stands still until :meth:`cont`."""
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM; waits until the process has ended."""
        self.process.terminate()
        self.process.wait(30)

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def close(self) -> None:
        """End it, in whatever state it is."""
        if self.process.poll() is None:
            self.cont()
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self.kill()


def own(name: str, threads: int) -> Command:
    """The command of one of our own :data:`SERVERS`."""
    return lambda listener: [
        *(sys.executable, '-m', 'tests.support.servers'),
        *(name, str(listener.fileno()), str(threads)),
    ]


def gunicorn(*options: str) -> Command:
    return lambda listener: [
        *(sys.executable, '-m', 'gunicorn', *options),
        *(f'--bind=fd://{listener.fileno()}', f'{FACTORY}()'),
    ]


def application() -> Any:
    """The WSGI application that this process was started for."""
    logging.basicConfig(format='%(levelname)s %(name)s: %(message)s')
    main = DottedNameResolver().resolve(os.environ[APP])
    return main({}, **json.loads(os.environ[SETTINGS]))


def serve_waitress(listener: socket.socket, threads: int) -> None:
    from waitress.server import create_server

    create_server(application(), sockets=[listener], threads=threads).run()


def serve_cheroot(listener: socket.socket, threads: int) -> None:
    from cheroot.wsgi import Server

    server = Server(listener.getsockname(), application(), threads)
    # as systemd hands a socket over
    os.dup2(listener.fileno(), 3)
    os.environ['LISTEN_PID'] = str(os.getpid())
    try:
        server.start()
    finally:
        server.stop()


#: Each serves until SIGTERM; requests that are under way may finish.
SERVERS = {'waitress': serve_waitress, 'cheroot': serve_cheroot}


def serve(name: str, fd: str, threads: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    SERVERS[name](socket.socket(fileno=int(fd)), int(threads))


if __name__ == '__main__':
    serve(*sys.argv[1:])
