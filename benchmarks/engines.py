"""The stores: dynoxide, Redis, and relays in front of them."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

from tests.support.engines import DYNOXIDE, free_port, running, started

from .worker import ROOT


@contextlib.contextmanager
def dynoxide() -> Iterator[str]:
    """A DynamoDB in memory; its URL. ``DYNOXIDE`` may name the program."""
    given = os.environ.get('DYNOXIDE')
    if not given:
        with started(DYNOXIDE) as url:
            yield url
        return
    port = free_port()
    with running([given, '--port', str(port)], port):
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
        'dynoxide': DYNOXIDE.version,
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
