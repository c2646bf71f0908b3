"""``dynamodb-session``: parses the command line and runs a command."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Sequence

from pyramid.exceptions import ConfigurationError

from ..errors import SessionError
from . import check, scans, sessions, tables
from .output import Result

DESCRIPTION = """\
Look after the sessions that an application keeps in DynamoDB.

The settings are read from the application's .ini file; the application itself
is not started."""

EPILOG = """\
examples:
  dynamodb-session production.ini create-table --point-in-time-recovery
  dynamodb-session production.ini check
  dynamodb-session production.ini purge --rate 50
  dynamodb-session production.ini show 'session=BZkrxMB…'
  dynamodb-session production.ini policy --role runtime > runtime.json
  dynamodb-session production.ini#shop stats --json

`dynamodb-session INI COMMAND --help` tells more, with examples.

The exit status is 0 when all is well, 1 when something is not (the output
says what to do about it), 2 for a mistyped command, 130 when interrupted."""

VARIABLES = """\

name=value after the command replaces a setting of the file, such as
dynamodb_session.table=Other, or a variable that the file leaves open."""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each module adds its commands."""
    top = argparse.ArgumentParser(
        prog='dynamodb-session',
        description=DESCRIPTION,
        epilog=EPILOG + '\n' + VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        'ini',
        metavar='INI[#section]',
        help="the application's .ini file; its section [app:main] unless "
        'another is named',
    )
    commands = top.add_subparsers(
        metavar='COMMAND', dest='command', required=True
    )
    for module in (tables, check, scans, sessions):
        for name, command in module.COMMANDS.items():
            sub = commands.add_parser(
                name,
                help=command.help,
                description=command.description,
                epilog=command.epilog + VARIABLES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            sub.set_defaults(run=command.run)
            command.add_arguments(sub)
            sub.add_argument(
                '--json', action='store_true', help='output for machines'
            )
            sub.add_argument(
                'variables',
                nargs='*',
                metavar='name=value',
                help='a setting to replace',
            )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    top = parser()
    args = top.parse_args(
        escape_leading_dashes(sys.argv[1:] if argv is None else argv)
    )
    wrong = [word for word in args.variables if '=' not in word]
    if wrong:
        top.error(f'{wrong[0]!r} is no name=value')
    try:
        result: Result = args.run(args)
    except (ConfigurationError, SessionError) as error:
        print(f'dynamodb-session: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.json:
        print(json.dumps(result.data, indent=2, default=repr))
    else:
        print('\n'.join(result.lines))
    return result.status


def escape_leading_dashes(argv: Sequence[str]) -> list[str]:
    """Arguments in which a session id that begins with a dash is no option."""
    return [
        f' {word}' if re.fullmatch(r'-[A-Za-z0-9_.-]{42,}', word) else word
        for word in argv
    ]


def run() -> None:
    """The console script."""
    logging.basicConfig(format='%(message)s')
    # what it logs are errors that are told at the end anyway
    logging.getLogger('pyramid_dynamodb_session.calls').disabled = True
    logging.getLogger('pyramid_dynamodb_session.table').setLevel('INFO')
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever reads has read enough; Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
