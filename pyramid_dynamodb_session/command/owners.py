"""``sessions``, and ``delete --owner``: all sessions of one user."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from pyramid.exceptions import ConfigurationError

from ..errors import SessionError
from .context import Context
from .output import Command, Result, columns, iso, number_of, timestamp

WHICH_OWNER = 'give the text that the application sets as session.owner'


def list_sessions(args: argparse.Namespace) -> Result:
    owner = owner_argument(args)
    store = indexed_store(Context(args))
    now = time.time()
    records = sorted(store.sessions_of(owner), key=lambda each: each.created)
    data = {
        'sessions': [
            {
                'key': record.name,
                'created': iso(record.created),
                'expires': iso(record.expires),
            }
            for record in records
        ]
    }
    rows = [
        (
            record.name,
            f'created {timestamp(record.created, now)}',
            f'expires {timestamp(record.expires, now)}',
        )
        for record in records
    ]
    count = number_of(len(rows), 'session')
    return Result(data, [f'The owner has {count}.', *columns(rows, '  ')])


def delete_sessions(args: argparse.Namespace) -> Result:
    """End all sessions of an owner, which signs the user out everywhere."""
    owner = owner_argument(args)
    count = indexed_store(Context(args)).remove_sessions_of(owner)
    text = f'{number_of(count, "session")} of the owner deleted.'
    return Result({'deleted': count}, [text])


def owner_argument(args: argparse.Namespace) -> str:
    """The owner that was given, or what the standard input has instead."""
    owner: str = args.owner
    if owner == '-':
        owner = (sys.stdin.readline() if sys.stdin else '').strip()
    if not owner:
        raise SessionError('no owner is given: ' + WHICH_OWNER)
    return owner


def indexed_store(context: Context) -> Any:
    """The store, which has an index of owners.

    Raises :class:`pyramid.exceptions.ConfigurationError` without one.
    """
    if context.settings.owner_index is None:
        raise ConfigurationError(
            'the sessions of one owner are found by an index: set '
            'dynamodb_session.owner_index'
        )
    return context.store


def add_owner_argument(
    parser: argparse.ArgumentParser, required: bool = True
) -> None:
    parser.add_argument(
        '--owner',
        required=required,
        metavar='OWNER',
        help='all sessions of this user, the text that the application sets '
        'as session.owner; - reads it from the standard input, so that it is '
        'in no history',
    )


COMMANDS = {
    'sessions': Command(
        list_sessions,
        'list the sessions of one user',
        """\
List the sessions of one user: the key of each, when it was created and when it
expires. The setting dynamodb_session.owner_index is needed.""",
        """\
examples:
  dynamodb-session production.ini sessions --owner anna
  dynamodb-session production.ini sessions --owner anna --json
""",
        add_owner_argument,
    ),
}
