"""``serve``: an embedded DynamoDB in a process of its own."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Callable

import pytest

from pyramid_dynamodb_session import local, session_factory_from_settings
from pyramid_dynamodb_session.command import serve
from tests.support.aws import REGION
from tests.support.command import ID, PREFIX, Run, script


@pytest.fixture
def serve_ini(write_ini: Callable[..., str]) -> str:
    return write_ini({f'{PREFIX}region': REGION})


def test_served_sessions_outlive_the_application(
    serve_ini: str, settings: dict[str, str]
) -> None:
    """Two stores, as before and after a reload, see the same session."""
    # a shell's background jobs ignore it, and so would our child
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = script(serve_ini, 'serve', '--port', '0')
    signal.signal(signal.SIGINT, handler)
    assert process.stdout
    try:
        lines = [process.stdout.readline() for _ in range(8)]
        needed = dict(line.strip().split(' = ') for line in lines[5:])
        assert needed[f'{PREFIX}endpoint_url'] in lines[0]
        for found in (None, {'n': 1}):
            given = {**needed, f'{PREFIX}region': REGION}
            store = session_factory_from_settings(given).store
            store.initialize()
            record = store.get_item(ID)
            assert (record and record.items) == found
            if record is None:
                store.set_and_release_item_exclusive(
                    ID, {'n': 1}, None, new_item=True
                )
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert 'Traceback' not in err


@pytest.mark.parametrize(
    'url, port',
    [
        ('', 8044),
        ('http://127.0.0.1:8123', 8123),
        ('http://localhost:8123/', 8123),
        ('http://localhost', 8044),
        ('https://dynamodb.example:8123', 8044),
    ],
)
def test_port_is_that_of_the_settings(url: str, port: int) -> None:
    assert serve.port_of({f'{PREFIX}endpoint_url': url}) == port
    assert serve.port_of({}) == 8044


def test_settings_that_are_there_already_are_not_asked_for(
    write_ini: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server:
        server_port = 8123

        def serve_forever(self) -> None:
            pass

    monkeypatch.setattr(serve, 'make_server', lambda port: Server())
    url = f'http://127.0.0.1:{Server.server_port}'
    ini = write_ini(local.settings_for(url, {}))
    args = argparse.Namespace(ini=ini, port=None, variables=[])
    result = serve.serve(args)
    assert len(result.lines) == 2
    assert result.data['url'] == url
    result.then()


def test_port_in_use(command: Run, serve_ini: str, endpoint: str) -> None:
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        listening.listen()
        port = listening.getsockname()[1]
        output = command('serve', '--port', str(port), ini=serve_ini)
    assert output.status == 1
    assert f'port {port} can not be listened on' in output.err


@pytest.mark.parametrize('port', ['x', '-1', '65536'])
def test_port_that_is_none_is_a_usage_error(command: Run, port: str) -> None:
    assert command('serve', f'--port={port}').status == 2


def test_serve_without_moto_names_the_extra(
    command: Run, serve_ini: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'flask_cors', None)
    output = command('serve', ini=serve_ini)
    assert output.status == 1
    assert 'pyramid_dynamodb_session[local]' in output.err
