"""``show``, ``unlock`` and ``delete``: one session at a time."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from ..cookie import SESSION_ID
from ..dynamodb.calls import Item
from ..errors import SessionError
from ..settings import PREFIX
from ..store.admin import is_abandoned
from ..store.item import (
    ITEM_LIMIT,
    CorruptItem,
    ItemCodec,
    SessionRecord,
    belongs_to,
    hash_key,
    item_size,
    optional_number,
)
from .context import Context
from .output import (
    Command,
    Result,
    UsageError,
    columns,
    iso,
    number_of,
    size,
    timestamp,
)
from .owners import add_owner_argument, delete_sessions

WHICH_SESSION = (
    'give the value of the cookie, the session id, or the key under which '
    'the session is stored'
)


def find(context: Context, text: str) -> tuple[str, Item]:
    """The name and the item of the session that a `text` identifies."""
    for name in names(context, text):
        item = context.sessions.read(name)
        if item is not None:
            return name, item
    raise SessionError(
        f'there is no such session ({context.scope}).\n'
        'It was never stored, has been removed, or belongs to another '
        f'application; {WHICH_SESSION}.'
    )


def names(context: Context, text: str) -> list[str]:
    """The names under which it may be stored, the most likely first."""
    application = context.settings.application
    cookie = context.settings.cookie_name
    text = text.strip().removeprefix(f'{cookie}=').strip('"')
    session_id = context.factory.cookie.id_in(text)
    found = []
    if session_id is not None:
        found.append(hash_key(session_id, application))
    if SESSION_ID.fullmatch(text):
        # an id, or its hash: they look alike
        found.append(hash_key(text, application))
        found.append(f'{application}-{text}' if application else text)
    elif belongs_to(application, text):
        found.append(text)
    return list(dict.fromkeys(found))


def session_argument(args: argparse.Namespace) -> str:
    """The session that was given, or what the standard input has instead.

    Settings may have been given before it, or without it. Raises
    :class:`.output.UsageError` for none.
    """
    words = [args.session or '', *args.variables]
    named = [word for word in words if word and not word.startswith(PREFIX)]
    if not named:
        raise UsageError(WHICH_SESSION)
    text: str = named[0]
    words.remove(text)
    args.variables = [word for word in words if word]
    if text != '-':
        return text
    text = (sys.stdin.readline() if sys.stdin else '').strip()
    if not text:
        raise SessionError('the standard input is empty: ' + WHICH_SESSION)
    return text


# -- show -----------------------------------------------------------------


def show(args: argparse.Namespace) -> Result:
    text = session_argument(args)
    context = Context(args)
    name, item = find(context, text)
    codec = ItemCodec(
        context.settings.serializer, context.settings.encryption_keys
    )
    record, corrupt = None, ''
    try:
        record = codec.record(item, name)
    except CorruptItem as error:
        corrupt = str(error)
    now = time.time()
    kind = next(iter(item.get('SessionItems', {'': ''})))
    data: dict[str, Any] = {
        'key': name,
        'created': stamp(item, 'CreateDate'),
        'expires': stamp(item, 'Expires'),
        'is_expired': (read(item, 'Expires') or 0) <= now,
        'timeout': read(item, 'SessionTimeout'),
        'uninitialized': 'Flags' in item,
        'lock': lock_of(context, item, now),
        'times_locked': read(item, 'LockCount') or 0,
        'bytes': item_size(item),
        'stored_as': {'S': 'text', 'B': 'binary'}.get(kind, ''),
        'corrupt': corrupt or None,
    }
    lines = columns(item_rows(context, item, data, now))
    if record is not None:
        keys = key_sizes(codec, record)
        data['bytes_before_compression'] = len(record.payload)
        data['keys'] = keys
        lines += ['', *key_lines(keys, record, args.values)]
        if args.values:
            data['values'] = record.items
    return Result(data, lines)


def read(item: Item, name: str) -> int | None:
    """A number, of an item that may be corrupt."""
    try:
        return optional_number(item, name)
    except CorruptItem:
        return None


def stamp(item: Item, name: str) -> str | None:
    seconds = read(item, name)
    return None if seconds is None else iso(seconds)


def lock_of(context: Context, item: Item, now: float) -> dict[str, Any] | None:
    """The holder of the lock, as stored; None where it is not held."""
    if 'LockId' not in item:
        return None
    since = read(item, 'LockDate') or 0
    lease = context.settings.lock_lease
    return {
        'holder': str(item['LockId'].get('S'))[:8],
        'since': iso(since),
        'seconds': round(now - since),
        'is_abandoned': is_abandoned(since, lease, now),
    }


def item_rows(
    context: Context, item: Item, data: dict[str, Any], now: float
) -> list[tuple[str, str]]:
    """All that is shown of an item but its keys."""
    rows = [('key', data['key'])]
    for what, attribute in (('created', 'CreateDate'), ('expires', 'Expires')):
        seconds = read(item, attribute)
        if seconds is not None:
            label = 'expired' if what == 'expires' and seconds <= now else what
            rows.append((label, timestamp(seconds, now)))
    if data['timeout'] is not None:
        rows.append(('timeout', f'{data["timeout"]:,} s, its own'))
    rows.append(('locked', lock_text(data['lock'], now, item)))
    share = data['bytes'] / ITEM_LIMIT
    rows.append(
        (
            'size',
            f'{size(data["bytes"])}, stored as {data["stored_as"]}, '
            f'{share:.1%} of the limit',
        )
    )
    if data['uninitialized']:
        rows.append(('state', 'uninitialized: nobody has used it yet'))
    if data['corrupt']:
        rows.append(('corrupt', f'{data["corrupt"]}: it counts as no session'))
    return rows


def lock_text(lock: dict[str, Any] | None, now: float, item: Item) -> str:
    times = number_of(read(item, 'LockCount') or 0, 'time') + ' so far'
    if lock is None:
        return f'no; {times}'
    since = timestamp(read(item, 'LockDate') or 0, now)
    text = f'by {lock["holder"]}…, renewed last at {since}; {times}'
    if lock['is_abandoned']:
        text += '; abandoned: the next request takes it over'
    return text


def key_sizes(codec: ItemCodec, record: SessionRecord) -> dict[str, int]:
    """The bytes that each key takes with its value, the largest first."""
    parts = codec.parts(record.payload)
    sizes = {key: len(part) for key, part in parts.items()}
    return dict(sorted(sizes.items(), key=lambda pair: -pair[1]))


def key_lines(
    keys: dict[str, int], record: SessionRecord, values: bool
) -> list[str]:
    """One line for each key; no character in them controls a terminal."""
    before = size(len(record.payload))
    title = f'{number_of(len(keys), "key")}, {before} before compression'
    if not keys:
        return [title]
    texts = {str(key): repr(value) for key, value in record.items.items()}
    rows = [
        (printable(key), size(weight), texts[key] if values else '')
        for key, weight in keys.items()
    ]
    return [title, *columns(rows, '  ')]


def printable(text: str) -> str:
    return text if text.isprintable() else repr(text)


# -- unlock, delete -------------------------------------------------------


def unlock(args: argparse.Namespace) -> Result:
    text = session_argument(args)
    context = Context(args)
    name, item = find(context, text)
    if 'LockId' not in item:
        return Result(
            {'key': name, 'unlocked': False}, [f'{name} is not locked.']
        )
    now = time.time()
    lock = lock_of(context, item, now)
    data = {'key': name, 'unlocked': True, 'lock': lock}
    if not context.sessions.unlock(name, item):
        data['unlocked'] = False
        lines = [
            f'Nothing done: the lock of {name} was just released or renewed.'
        ]
        return Result(data, lines)
    return Result(
        data,
        [
            f'{name} is unlocked.',
            f'It was locked {lock_text(lock, now, item)}.',
            'If that request is still running, nothing of it will be saved, '
            'and its user gets a 409.',
        ],
    )


def delete(args: argparse.Namespace) -> Result:
    if args.owner is not None:
        if args.session:
            args.variables.append(args.session)
        return delete_sessions(args)
    text = session_argument(args)
    context = Context(args)
    name, _ = find(context, text)
    if not context.sessions.delete(name):
        return Result(
            {'key': name, 'deleted': False},
            [f'{name} was just deleted by somebody else.'],
        )
    return Result({'key': name, 'deleted': True}, [f'{name} is deleted.'])


def add_session_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'session',
        type=str.strip,
        nargs='?',
        metavar='COOKIE-OR-ID',
        help='the value of the cookie, signed or not, the session id, or the '
        'key under which it is stored; - reads it from the standard input, '
        'so that it is in no history',
    )


def add_delete_arguments(parser: argparse.ArgumentParser) -> None:
    add_session_argument(parser)
    add_owner_argument(parser, required=False)
    parser.add_argument(
        '--plain',
        action='store_true',
        help='with --owner: lines instead of a progress bar, as where there '
        'is no terminal',
    )


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    add_session_argument(parser)
    parser.add_argument(
        '--values',
        action='store_true',
        help='print the data as well, which may be personal',
    )


COMMANDS = {
    'show': Command(
        show,
        'show one session: its times, its lock, its size, its keys',
        """\
Show one session: when it was created and when it expires, who has locked it
and since when, its size and its keys. It reads, and neither locks nor slides
the session. The values are shown only with --values.""",
        """\
examples:
  dynamodb-session production.ini show 'session=BZkrxMB…'
  dynamodb-session production.ini show shop-pSqGJ0WXz…
  xclip -o | dynamodb-session production.ini show - --values
""",
        add_show_arguments,
    ),
    'unlock': Command(
        unlock,
        'take the lock of a session away from its holder',
        """\
Take the lock of one session away. This is hardly ever needed: the lock of a
holder that has died is taken over by the next request after lock_lease. A
holder that is still alive gets a SessionLockLost, and nothing of it is
saved.""",
        """\
example:
  dynamodb-session production.ini unlock 'session=BZkrxMB…'
""",
        add_session_argument,
    ),
    'delete': Command(
        delete,
        'delete one session, which logs its user out, or all of one user',
        """\
Delete one session, locked or not. Its user has a new, empty one with the next
request. A request that is holding it gets a SessionLockLost.

With --owner, all sessions of one user are deleted, a hundred a second, for
which the setting dynamodb_session.owner_index is needed. Ctrl-C stops it; what
was deleted stays deleted.""",
        """\
examples:
  dynamodb-session production.ini delete 'session=BZkrxMB…'
  dynamodb-session production.ini delete --owner anna
""",
        add_delete_arguments,
    ),
}
