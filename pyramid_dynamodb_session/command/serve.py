"""``serve``: the embedded DynamoDB in a process of its own."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import urlsplit

from pyramid.exceptions import ConfigurationError

from .. import local
from ..settings import PREFIX
from .context import parse_overrides, read_settings
from .output import Command, Result

#: The port unless the settings, or the command line, have another.
PORT = 8044
LOOPBACK = {'127.0.0.1', 'localhost'}


def serve(args: argparse.Namespace) -> Result:
    settings = read_settings(args.ini, parse_overrides(args))
    server = make_server(port_of(settings) if args.port is None else args.port)
    url = f'http://127.0.0.1:{server.server_port}'
    needed = local.settings_for(url, settings)
    lines = [
        f'An embedded DynamoDB serves at {url} until it is interrupted.',
        'It outlives the application; what it keeps is lost when it ends.',
    ]
    missing = {
        name: value
        for name, value in needed.items()
        if settings.get(name) != value
    }
    if missing:
        lines += ['', f'{args.ini} needs these settings to use it:', '']
        lines += [f'  {name} = {value}' for name, value in missing.items()]

    data = {'url': url, 'settings': needed}
    # it returns when it is interrupted
    return Result(data, lines, then=server.serve_forever)


def port_of(settings: dict[str, str]) -> int:
    """That of ``endpoint_url``, where that is on this machine."""
    url = urlsplit(settings.get(f'{PREFIX}endpoint_url', ''))
    if url.hostname in LOOPBACK and url.port:
        return url.port
    return PORT


def make_server(port: int) -> Any:
    """The server, which listens from now on; 0 is any port.

    Raises :class:`pyramid.exceptions.ConfigurationError` without moto, or
    when the port is in use.
    """
    try:
        return local.make_server(port)
    except (OSError, SystemExit) as error:
        raise ConfigurationError(
            f'port {port} can not be listened on; is it in use? Give another '
            'with --port'
        ) from error


def port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**16:
        raise ValueError(text)
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--port',
        type=port,
        metavar='N',
        help='the port to listen on; otherwise that of '
        f'{PREFIX}endpoint_url, or {PORT}',
    )


COMMANDS = {
    'serve': Command(
        serve,
        'run an embedded DynamoDB for development',
        """\
Run the embedded DynamoDB of pyramid_dynamodb_session.local in a process of its
own, on a fixed port, so that the sessions outlive each restart of the
application. For development only. It prints the settings that the application
needs for it. Ctrl-C ends it, and what it keeps is lost.""",
        """\
examples:
  dynamodb-session development.ini serve
  dynamodb-session development.ini serve --port 8000
""",
        add_arguments,
    ),
}
