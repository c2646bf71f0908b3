"""One contender in a process of its own, told over pipes what to do.

``python -m benchmarks.worker NAME OPTIONS`` is what runs in that process;
:class:`Worker` is how others talk to it.
"""

from __future__ import annotations

import cProfile
import dataclasses
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from .apps import CONTENDERS, Options

ROOT = Path(__file__).parents[1]


class Worker:
    """A process with a contender's application in it."""

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [
                *(sys.executable, '-W', 'ignore', '-m', __name__, name),
                json.dumps(dataclasses.asdict(options)),
            ],
            cwd=ROOT,
            env=environment(options.authority),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        #: What starting cost, see :func:`main`.
        self.start: dict[str, Any] = self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __getattr__(self, name: str) -> Any:
        """Have a method of :class:`Contest` called in the process."""

        def call(*arguments: Any) -> Any:
            print(
                json.dumps([name, *arguments]),
                file=self._process.stdin,
                flush=True,
            )
            return self._answer()

        return call

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f'the process of {self.name} has ended')
        return json.loads(line)


def environment(authority: str = '') -> dict[str, str]:
    """What a process is started with: nothing that is this machine's.

    :param authority: the file of the authority that it trusts, if any
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(('AWS_', 'COVERAGE'))
        and key != 'PYTHONDONTWRITEBYTECODE'
    }
    if authority:
        kept['AWS_CA_BUNDLE'] = authority
    return kept | {
        'AWS_EC2_METADATA_DISABLED': 'true',
        'NO_PROXY': '127.0.0.1,localhost',
        'no_proxy': '127.0.0.1,localhost',
    }


class Contest:
    """What can be asked of the process: each method is one question."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._cookies = {'': ''}
        self._visitor = ''

    def visit(self, visitor: str) -> None:
        """The next requests are those of this visitor."""
        self._visitor = visitor

    def forget(self) -> None:
        """The visitor has lost the cookie."""
        self._cookies.pop(self._visitor, None)

    def requests(self, path: str, count: int, query: str = '') -> Any:
        """Call the application `count` times; CPU and wall-clock seconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            self._request(path, query)
        return {
            'cpu': time.process_time() - cpu,
            'wall': time.perf_counter() - wall,
        }

    def times(self, path: str, count: int) -> Any:
        """Call the application `count` times; the seconds of each."""
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self._request(path, '')
            seconds.append(time.perf_counter() - start)
        return seconds

    def profile(self, path: str, count: int) -> Any:
        """The share of each place in the time of `count` requests."""
        profile = cProfile.Profile(time.process_time)
        profile.runcall(self.requests, path, count)
        spent: Counter[str] = Counter()
        for entry in profile.getstats():
            spent[place_of(entry.code)] += entry.inlinetime
        return {
            place: seconds / spent.total()
            for place, seconds in spent.most_common()
        }

    def bare(self, count: int) -> Any:
        """CPU seconds of a floor's two calls outside of any request."""
        cpu = time.process_time()
        self._app.bare(count)
        return {'cpu': time.process_time() - cpu}

    def serve(self, threads: int) -> Any:
        """Serve under waitress from now on; the port."""
        from waitress.server import create_server

        server = create_server(
            self._app, host='127.0.0.1', port=0, threads=threads, backlog=256
        )
        threading.Thread(target=server.run, daemon=True).start()
        return server.effective_port

    def usage(self) -> Any:
        """CPU seconds so far, resident KB, and whether modules are loaded."""
        return {
            'cpu': time.process_time(),
            'kilobytes': resident(),
            'boto3': 'boto3' in sys.modules,
            'pycurl': 'pycurl' in sys.modules,
        }

    def _request(self, path: str, query: str) -> None:
        environ = {
            'REQUEST_METHOD': 'GET',
            'SCRIPT_NAME': '',
            'PATH_INFO': path,
            'QUERY_STRING': query,
            'SERVER_NAME': 'localhost',
            'SERVER_PORT': '80',
            'SERVER_PROTOCOL': 'HTTP/1.1',
            'HTTP_HOST': 'localhost',
            'wsgi.version': (1, 0),
            'wsgi.url_scheme': 'http',
            'wsgi.input': None,
            'wsgi.errors': sys.stderr,
            'wsgi.multithread': True,
            'wsgi.multiprocess': True,
            'wsgi.run_once': False,
        }
        cookie = self._cookies.get(self._visitor)
        if cookie:
            environ['HTTP_COOKIE'] = cookie
        replies = self._app(environ, self._start_response)
        for _ in replies:
            pass
        if hasattr(replies, 'close'):
            replies.close()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], *_: Any
    ) -> None:
        if not status.startswith('200'):
            raise RuntimeError(status)
        for name, value in headers:
            if name == 'Set-Cookie':
                self._cookies[self._visitor] = value.partition(';')[0]


def place_of(code: Any) -> str:
    """A module of ours, another's package, a built-in type or module."""
    if isinstance(code, str):
        # <method 'get' of 'dict' objects>, <built-in method builtins.len>
        owner = code.strip('<>').split(' of ')[-1].split(' ')[-2:]
        kind = owner[0] if 'objects' in owner else owner[-1].rpartition('.')[0]
        return 'built-in ' + kind.strip("'")
    path = Path(code.co_filename)
    for folder in sys.path:
        if folder and path.is_relative_to(folder):
            package, *module = path.relative_to(folder).with_suffix('').parts
            ours = package == 'pyramid_dynamodb_session'
            return '.'.join([package, *module]) if ours else package
    return path.stem


def resident() -> int:
    """The memory of this process in KB."""
    try:
        with open('/proc/self/statm') as statm:
            pages = int(statm.read().split()[1])
        return pages * resource.getpagesize() // 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(name: str, options: str) -> None:
    logging.disable(logging.CRITICAL)
    given = json.loads(options)
    given['poll'] = tuple(given['poll'])
    # what every Pyramid application has loaded anyway
    import pyramid.config
    import pyramid.response  # noqa: F401

    contender = CONTENDERS[name]
    if not contender.has_isal:
        # as if it was not installed
        sys.modules['isal'] = None  # type: ignore[assignment]
    if contender.is_earlier:
        # before the directory that this runs in, which PYTHONPATH is not
        sys.path.insert(0, given['earlier'])
    start = time.perf_counter()
    contest = Contest(contender.make(Options(**given)))
    app = time.perf_counter()
    contest.requests('/write', 1)
    first = time.perf_counter()
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    answer: Any = {
        'app': app - start,
        'first': first - app,
        **contest.usage(),
    }
    while True:
        print(json.dumps(answer), file=answers, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        method, *arguments = json.loads(line)
        answer = getattr(contest, method)(*arguments)


if __name__ == '__main__':
    main(*sys.argv[1:])
