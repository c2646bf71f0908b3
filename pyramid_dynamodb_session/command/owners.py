"""``sessions``, and ``delete --owner``: all sessions of one user."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from ..dynamodb.index import require_index
from ..errors import SessionError
from ..store import DynamoDBSessionStore
from . import scans
from .context import Context
from .output import (
    Command,
    Result,
    columns,
    iso,
    number_of,
    print_error,
    timestamp,
)

WHICH_OWNER = 'give the text that the application sets as session.owner'


def list_sessions(args: argparse.Namespace) -> Result:
    owner = owner_argument(args)
    store = store_with_index(args)
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
    counts = store_with_index(args).end_sessions_of(owner)
    deleted = Deleted(counts)
    status, ended = 0, ''
    try:
        report_deleted(deleted, args.plain)
    except KeyboardInterrupt:
        status, ended = 130, 'Interrupted; run it again to go on.'
    except SessionError as error:
        status, ended = 1, f'Stopped: {error}'
    data = {
        'deleted': deleted.count,
        'complete': not ended,
        'error': ended or None,
    }
    line = f'{number_of(deleted.count, "session")} of the owner deleted.'
    return Result(data, [*([ended] if ended else []), line], status)


def store_with_index(args: argparse.Namespace) -> DynamoDBSessionStore:
    """The store, whose table has the index, if one is set."""
    context = Context(args)
    index = context.settings.owner_index
    if index is not None:
        require_index(context.client, context.existing_table(), index)
    return context.store


class Deleted:
    """Iterates over the `counts` of what is deleted; keeps the last one."""

    def __init__(self, counts: Iterator[int]) -> None:
        self._counts = counts
        self.count = 0

    def __iter__(self) -> Iterator[int]:
        for count in self._counts:
            self.count = count
            yield count


def report_deleted(deleted: Deleted, plain: bool) -> None:
    """Run to the end, reporting progress: in a bar, or in lines."""
    tqdm = scans.progress_bar(plain)
    if tqdm is None:
        next_line = time.monotonic() + scans.LINES_EVERY
        for count in deleted:
            if time.monotonic() >= next_line:
                next_line += scans.LINES_EVERY
                print_error(f'{number_of(count, "session")} deleted')
        return
    with tqdm(unit=' sessions', file=sys.stderr) as bar:
        for _ in deleted:
            bar.update()


def owner_argument(args: argparse.Namespace) -> str:
    """The owner that was given, or what the standard input has instead."""
    owner: str = args.owner
    if owner == '-':
        owner = (sys.stdin.readline() if sys.stdin else '').strip()
    if not owner:
        raise SessionError('no owner is given: ' + WHICH_OWNER)
    return owner


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
