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
from ..version import VERSION
from . import check, owners, scans, serve, sessions, tables
from .output import Result, UsageError, flush, print_error, write

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

The exit status is 0 when all is well; 1 when something is not, and the output
or the standard error says what to do about it; 2 for a mistyped command; 130
when interrupted."""

VARIABLES = """\

name=value after the command replaces a setting of the file, such as
dynamodb_session.table=Other, or a variable that the file leaves open."""

MODULES = (tables, check, scans, sessions, owners, serve)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each module adds its commands."""
    top = argparse.ArgumentParser(
        prog='dynamodb-session',
        description=DESCRIPTION,
        epilog=EPILOG + '\n' + VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        '--version', action='version', version=f'%(prog)s {VERSION}'
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
    for module in MODULES:
        for name, command in module.COMMANDS.items():
            sub = commands.add_parser(
                name,
                help=command.help,
                description=command.description,
                epilog=command.epilog + VARIABLES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            sub.set_defaults(run=command.run, usage_error=sub.error)
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
    argv = sys.argv[1:] if argv is None else argv
    top = parser()
    mistake = misplaced_ini(argv)
    if mistake:
        top.error(mistake)
    args = top.parse_args(escape_leading_dashes(argv))
    try:
        result: Result = args.run(args)
    except UsageError as error:
        args.usage_error(str(error))
    except (ConfigurationError, SessionError) as error:
        print_error(f'dynamodb-session: {error}')
        return 1
    except KeyboardInterrupt:
        return 130
    text = '\n'.join(result.lines)
    if args.json:
        text = json.dumps(result.data, indent=2, default=repr)
    if not write(text):
        return 1
    result.then()
    return result.status


def misplaced_ini(argv: Sequence[str]) -> str:
    """What is wrong where a command stands in the place of the .ini file."""
    names = {name for module in MODULES for name in module.COMMANDS}
    if not argv or argv[0] not in names or os.path.exists(argv[0]):
        return ''
    command, *rest = argv
    files = [word for word in rest if re.search(r'\.ini(#|$)', word)]
    if files:
        return (
            f'the .ini file comes first: dynamodb-session {files[0]} {command}'
        )
    return f'the .ini file is missing: dynamodb-session INI {command}'


def escape_leading_dashes(argv: Sequence[str]) -> list[str]:
    """Arguments in which a session id that begins with a dash is no option."""
    return [
        f' {word}' if re.fullmatch(r'-[A-Za-z0-9_.-]{42,}', word) else word
        for word in argv
    ]


def run() -> int:
    """Run the console script; return the exit status."""
    logging.basicConfig(format='%(message)s')
    # what it logs are errors that are told at the end anyway
    logging.getLogger(
        'pyramid_dynamodb_session.dynamodb.calls'
    ).disabled = True
    logging.getLogger('pyramid_dynamodb_session.dynamodb.table').setLevel(
        'INFO'
    )
    try:
        status = main()
    except SystemExit as end:
        status = int(str(end.code))
    # argparse has printed without a look at full disks and closed pipes
    return status if flush() else 1
