"""Application servers as processes of their own, to load and to kill.

``python -m tests.support.servers FD THREADS`` is what such a process runs.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pyramid.path import DottedNameResolver

ROOT = Path(__file__).parents[2]
SETTINGS = 'TEST_SERVER_SETTINGS'
APP = 'TEST_SERVER_APP'


class Server:
    """A server process: waitress, or gunicorn when ``workers`` is given.

    It inherits a listening socket, so its port is known beforehand and
    requests wait in the socket's queue until it is up.
    """

    def __init__(
        self,
        settings: dict[str, str],
        *,
        threads: int = 4,
        workers: int = 0,
        app: str = 'tests.apps.wsgi_app:main',
        start_timeout: float = 60,
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        with socket.create_server(('127.0.0.1', 0), backlog=256) as listener:
            fd = listener.fileno()
            self.port: int = listener.getsockname()[1]
            self.process = subprocess.Popen(
                gunicorn(fd, threads, workers)
                if workers
                else waitress(fd, threads),
                cwd=ROOT,
                env=os.environ | {SETTINGS: json.dumps(settings), APP: app},
                pass_fds=[fd],
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
            connection.request('GET', '/none')
            connection.getresponse().read()
        except OSError as error:
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


def waitress(fd: int, threads: int) -> list[str]:
    return [
        sys.executable,
        '-m',
        'tests.support.servers',
        str(fd),
        str(threads),
    ]


def gunicorn(fd: int, threads: int, workers: int) -> list[str]:
    return [
        *(sys.executable, '-m', 'gunicorn', '--preload'),
        f'--bind=fd://{fd}',
        f'--workers={workers}',
        f'--threads={threads}',
        'tests.support.servers:application()',
    ]


def application() -> Any:
    """The WSGI application that this process was started for."""
    main = DottedNameResolver().resolve(os.environ[APP])
    return main({}, **json.loads(os.environ[SETTINGS]))


def serve(fd: int, threads: int) -> None:
    """Serve until SIGTERM; requests that are under way may finish."""
    from waitress.server import create_server

    server = create_server(
        application(), sockets=[socket.socket(fileno=fd)], threads=threads
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server.run()


if __name__ == '__main__':
    serve(*map(int, sys.argv[1:]))
