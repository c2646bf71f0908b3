"""The stores: dynoxide, Redis, and the relays and TLS in front of them.

And the earlier version of the package that it is measured beside.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.engines import DYNOXIDE, free_port, running, started

from .apps import EARLIER
from .worker import ROOT

HAPROXY = """
global
    maxconn 1000
    nbthread 1
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""


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
    port = free_port()
    command = [
        *(program_of('redis-server', 'redis-server'), '--port', str(port)),
        *('--bind', '127.0.0.1'),
    ]
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


@contextlib.contextmanager
def tls(*targets: int) -> Iterator[tuple[list[int], Path]]:
    """HAProxy, which speaks TLS for these ports.

    Its port for each of them, and the file of the authority to trust.
    """
    with tempfile.TemporaryDirectory() as folder:
        authority = certificate(Path(folder))
        ports = [free_port() for _ in targets]
        listeners = [
            f'listen port{target}\n'
            f'    bind 127.0.0.1:{port} ssl crt {authority}\n'
            f'    server target 127.0.0.1:{target}\n'
            for port, target in zip(ports, targets, strict=True)
        ]
        configuration = Path(folder, 'haproxy.cfg')
        configuration.write_text(HAPROXY + ''.join(listeners))
        command = [program_of('haproxy', 'haproxy'), '-db', '-f']
        with running([*command, str(configuration)], ports[0]):
            yield ports, authority


def certificate(folder: Path) -> Path:
    """A certificate that is its own authority, for a day, beside its key."""
    certificate = folder / 'server.pem'
    # where HAProxy looks for it
    key = folder / 'server.pem.key'
    subprocess.run(
        [
            *(program_of('openssl', 'openssl'), 'req', '-x509', '-nodes'),
            *('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'),
            *('-subj', '/CN=benchmarks', '-days', '1'),
            *('-addext', 'subjectAltName=IP:127.0.0.1'),
            *('-out', str(certificate), '-keyout', str(key)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate


def program_of(name: str, package: str) -> str:
    """The path of a program; ``SystemExit`` tells what to install."""
    # Debian's servers are in sbin, which not every PATH has
    path = f'{os.environ.get("PATH", "")}{os.pathsep}/usr/sbin'
    program = shutil.which(name, path=path)
    if program is None:
        raise SystemExit(f'{name} is missing: apt install {package}')
    return program


@contextlib.contextmanager
def earlier_version() -> Iterator[str]:
    """A directory with the package as the commit `EARLIER` had it."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ['git', 'archive', EARLIER, 'pyramid_dynamodb_session'],
            cwd=ROOT,
            capture_output=True,
        )
        if archive.returncode:
            raise SystemExit(
                f'no earlier version: git archive {EARLIER} in {ROOT}: '
                f'{archive.stderr.decode().strip()}\nIt needs a clone with '
                'all commits; --only names those that need none.'
            )
        subprocess.run(
            ['tar', '-x', '-C', folder], input=archive.stdout, check=True
        )
        yield folder


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
        'isal',
        'orjson',
    ):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        'CPU': f'{os.cpu_count()} cores, {cpu_model()}',
        'system': f'{platform.system()} {platform.machine()}',
        'Python': platform.python_version(),
        'libcurl': libcurl(),
        'dynoxide': DYNOXIDE.version,
        'Redis': version_of('redis-server', '--version', 'v='),
        'HAProxy': version_of('haproxy', '-v', 'version '),
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


def version_of(name: str, option: str, before: str) -> str:
    """The version that a program tells of itself."""
    try:
        program = program_of(name, name)
    except SystemExit:
        return 'none'
    output = subprocess.run(
        [program, option], capture_output=True, text=True, check=True
    ).stdout
    return output.partition(before)[2].split()[0]
