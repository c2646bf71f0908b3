"""The embedded DynamoDB, and that nobody pays for it who does not use it."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from webtest import TestApp

from pyramid_dynamodb_session import local

PREFIX = 'dynamodb_session.'
BOTH = ('pyramid_dynamodb_session', 'pyramid_dynamodb_session.local')
ALONE = ('pyramid_dynamodb_session.local',)


def count(request: Any) -> Any:
    request.session['n'] = request.session.get('n', 0) + 1
    return request.session['n']


def browser(*includes: str, **settings: str) -> TestApp:
    given = {PREFIX + name: value for name, value in settings.items()}
    given['pyramid.includes'] = ' '.join(includes)
    with Configurator(settings=given) as config:
        config.add_route('count', '/')
        config.add_view(count, route_name='count', renderer='json')
    return TestApp(config.make_wsgi_app())


@pytest.mark.parametrize('includes', [BOTH, BOTH[::-1], ALONE])
def test_session_lasts_with_nothing_but_the_package(
    includes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    visitor = browser(*includes)
    assert [visitor.get('/').json for _ in range(3)] == [1, 2, 3]
    warnings = [
        record.message
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]
    assert len(warnings) == 1
    assert 'embedded DynamoDB at http://127.0.0.1:' in warnings[0]
    assert 'for development only' in warnings[0]


def test_settings_of_the_session_count() -> None:
    visitor = browser(
        *BOTH, table='MyTable', region='eu-west-1', cookie_name='mine'
    )
    visitor.get('/')
    assert 'mine' in visitor.cookies


def test_applications_of_a_process_share_one_server() -> None:
    assert local.start() == local.start()


def test_client_that_is_suspended_while_it_sends_keeps_nobody_waiting() -> (
    None
):
    host, _, port = local.start().removeprefix('http://').partition(':')
    head = b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n'
    with socket.create_connection((host, int(port))) as suspended:
        suspended.sendall(head)
        # time to begin with it: the kernel has accepted the connection
        time.sleep(0.5)
        connection = HTTPConnection(host, int(port), timeout=10)
        headers = {'X-Amz-Target': 'DynamoDB_20120810.ListTables'}
        connection.request('POST', '/', b'{}', headers)
        assert connection.getresponse().status == 200
        connection.close()


def test_endpoint_besides_it_is_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        browser(*BOTH, endpoint_url='http://127.0.0.1:8000')
    assert f'{PREFIX}endpoint_url' in str(error.value)
    assert 'pyramid.includes' in str(error.value)


@pytest.mark.parametrize('module', ['moto.server', 'flask_cors'])
def test_missing_moto_names_the_extra(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(local, 'start', local.start.__wrapped__)
    with pytest.raises(ConfigurationError) as error:
        browser(*BOTH)
    assert '"pyramid_dynamodb_session[local]"' in str(error.value)


# -- pserve --reload ------------------------------------------------------

RELOADED_APP = """\
from pyramid.config import Configurator

VERSION = {version}

def count(request):
    request.session['n'] = request.session.get('n', 0) + 1
    return [VERSION, request.session['n']]

def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.add_route('count', '/')
        config.add_view(count, route_name='count', renderer='json')
    return config.make_wsgi_app()
"""
RELOADED_INI = """\
[app:main]
use = call:reloaded:main
pyramid.includes = pyramid_dynamodb_session.local

[server:main]
use = egg:waitress#main
listen = 127.0.0.1:{port}
"""


class Reloading:
    """An application under ``pserve --reload``, and its visitor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = 0
        with socket.create_server(('127.0.0.1', 0)) as listener:
            self._port = listener.getsockname()[1]
        self._cookie = ''
        ini = folder / 'reloaded.ini'
        ini.write_text(RELOADED_INI.format(port=self._port))
        self.write(1)
        paths = [str(folder), os.getcwd(), os.environ.get('PYTHONPATH', '')]
        self.process = subprocess.Popen(
            [
                *(sys.executable, '-W', 'ignore'),
                *('-m', 'pyramid.scripts.pserve', str(ini), '--reload'),
            ],
            env=os.environ | {'PYTHONPATH': os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def write(self, version: int | str) -> None:
        """Change the file of the application."""
        path = self._folder / 'reloaded.py'
        # of another size each time, or its bytecode of the same second counts
        self._written += 1
        text = RELOADED_APP.format(version=version)
        path.write_text(f'{text}#{"-" * self._written}\n')

    def visit(self, version: int) -> int:
        """The count, as soon as the `version` of the application runs."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            connection = HTTPConnection('127.0.0.1', self._port, timeout=30)
            try:
                connection.request('GET', '/', headers=self._headers())
                answer = connection.getresponse()
                found, n = json.loads(answer.read())
            except (OSError, HTTPException):
                found = None
            else:
                cookie = answer.headers.get('Set-Cookie', self._cookie)
                self._cookie = cookie.partition(';')[0]
            finally:
                connection.close()
            if found == version:
                return int(n)
            if found is not None:
                # the monitor may have looked first when it was changed
                os.utime(self._folder / 'reloaded.py')
            time.sleep(0.1)
        raise AssertionError('it does not answer')

    def _headers(self) -> dict[str, str]:
        return {'Cookie': self._cookie} if self._cookie else {}


def test_sessions_outlive_reloads_and_end_with_pserve(tmp_path: Path) -> None:
    app = Reloading(tmp_path)
    monitor = app.process.pid
    try:
        first = app.visit(1)
        assert first == 1
        port = local.port_beside(monitor)
        assert port is not None
        app.write(2)
        assert app.visit(2) > first
        # a worker that can not start leaves the server alone
        app.write('mistake')
        time.sleep(2 * local.WATCH_INTERVAL)
        app.write(3)
        assert app.visit(3) > first + 1
        assert local.port_beside(monitor) == port
    finally:
        app.process.terminate()
        app.process.wait()
    end = time.monotonic() + 60
    while local.port_file(monitor).exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not local.port_file(monitor).exists()
    assert local.port_beside(monitor) is None


def test_server_beside_a_process_that_has_ended_ends_at_once() -> None:
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    local.serve_beside(ended.pid)
    assert not local.port_file(ended.pid).exists()


def test_server_beside_is_looked_for_before_it_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = local.start_beside(os.getpid())
    monkeypatch.setattr(subprocess, 'Popen', None)
    assert local.start_beside(os.getpid()) == url


NOBODY = 2**22 + 1


@pytest.fixture
def port_file() -> Iterator[Path]:
    """The file of a server beside a process that there can't be."""
    path = local.port_file(NOBODY)
    yield path
    path.unlink()


@pytest.mark.parametrize('text', ['', 'x', '70000'])
def test_port_file_that_makes_no_sense_is_no_server(
    text: str, port_file: Path
) -> None:
    port_file.write_text(text)
    assert local.port_beside(NOBODY) is None


def test_server_of_another_monitor_is_not_taken(port_file: Path) -> None:
    server = local.make_server(monitor=NOBODY - 1)
    local.start_thread(server)
    port_file.write_text(str(server.server_port))
    assert local.port_beside(NOBODY) is None


def test_port_file_of_another_user_is_not_believed(
    port_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = local.make_server(monitor=NOBODY)
    local.start_thread(server)
    port_file.write_text(str(server.server_port))
    assert local.port_beside(NOBODY) == server.server_port
    monkeypatch.setattr(local, 'port_file', lambda monitor: port_file)
    monkeypatch.setattr(os, 'getuid', lambda: port_file.stat().st_uid + 1)
    assert local.port_beside(NOBODY) is None


def test_server_that_does_not_start_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'path', [])
    with pytest.raises(ConfigurationError, match='could not be started'):
        local.start_beside(os.getppid())
    assert 'Error' in capfd.readouterr().err


class Hupper:
    """What hupper says in a process that it starts anew, or does not."""

    def __init__(self, active: bool) -> None:
        self._active = active

    def is_active(self) -> bool:
        return self._active


@pytest.mark.parametrize(
    ('hupper', 'name', 'reloads'),
    [
        (None, 'posix', False),
        (Hupper(False), 'posix', False),
        (Hupper(True), 'posix', True),
        (Hupper(True), 'nt', False),
    ],
)
def test_reloading_is_what_hupper_says(
    hupper: Any, name: str, reloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'hupper', hupper)
    monkeypatch.setattr(os, 'name', name)
    monitor = local.reloading_monitor()
    monkeypatch.undo()
    assert monitor == (os.getppid() if reloads else None)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        'import sys, pyramid_dynamodb_session as package\n'
        'import pyramid_dynamodb_session.local\n'
        'package.DynamoDBSessionFactory(region="us-west-2")\n'
        'heavy = {"boto3", "botocore", "cryptography", "moto"}\n'
        'print(sorted(heavy & set(sys.modules)))\n'
    )
    answer = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == '[]\n'
