"""``show``, ``unlock`` and ``delete``: one session at a time."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from ..cookie import SESSION_ID
from ..dynamodb.calls import Item
from ..errors import SessionError
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
from .output import Command, Result, columns, iso, size, when
from .site import Site


def find(site: Site, text: str) -> tuple[str, Item]:
    """The name and the item of the session that somebody means by `text`."""
    for name in names(site, text):
        item = site.sessions.read(name)
        if item is not None:
            return name, item
    raise SessionError(
        f'there is no such session ({site.whose}).\n'
        'It was never stored, has been removed, or belongs to another '
        'application.\nGive the value of the cookie, the session id, or the '
        'key under which it is stored.'
    )


def names(site: Site, text: str) -> list[str]:
    """Under which names it may be stored, the likeliest first."""
    application = site.settings.application
    cookie = site.settings.cookie_name
    text = text.strip().removeprefix(f'{cookie}=').strip('"')
    session_id = site.factory.cookie.id_in(text)
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


def of(args: argparse.Namespace) -> str:
    """What was typed, or what comes from the standard input."""
    text: str = args.session
    return sys.stdin.readline() if text == '-' else text


# -- show -----------------------------------------------------------------


def show(args: argparse.Namespace) -> Result:
    site = Site(args)
    name, item = find(site, of(args))
    codec = ItemCodec(site.settings.serializer, site.settings.encryption_keys)
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
        'lock': lock_of(site, item, now),
        'times_locked': read(item, 'LockCount') or 0,
        'bytes': item_size(item),
        'stored_as': {'S': 'text', 'B': 'binary'}.get(kind, ''),
        'corrupt': corrupt or None,
    }
    lines = columns(facts(site, item, data, now))
    if record is not None:
        keys = weighed(codec, record)
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


def lock_of(site: Site, item: Item, now: float) -> dict[str, Any] | None:
    """Who holds the lock, as far as the item tells; None for nobody."""
    if 'LockId' not in item:
        return None
    since = read(item, 'LockDate') or 0
    lease = site.settings.lock_lease
    return {
        'holder': str(item['LockId'].get('S'))[:8],
        'since': iso(since),
        'seconds': round(now - since),
        'is_abandoned': is_abandoned(since, lease, now),
    }


def facts(
    site: Site, item: Item, data: dict[str, Any], now: float
) -> list[tuple[str, str]]:
    """What there is to say of an item, but for its keys."""
    rows = [('key', data['key'])]
    for what, attribute in (('created', 'CreateDate'), ('expires', 'Expires')):
        seconds = read(item, attribute)
        if seconds is not None:
            told = 'expired' if what == 'expires' and seconds <= now else what
            rows.append((told, when(seconds, now)))
    if data['timeout'] is not None:
        rows.append(('timeout', f'{data["timeout"]:,} s, its own'))
    rows.append(('locked', lock_words(data['lock'], now, item)))
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


def lock_words(lock: dict[str, Any] | None, now: float, item: Item) -> str:
    times = f'{read(item, "LockCount") or 0:,} times so far'
    if lock is None:
        return f'no; {times}'
    since = when(read(item, 'LockDate') or 0, now)
    words = f'by {lock["holder"]}…, renewed last at {since}; {times}'
    if lock['is_abandoned']:
        words += '; abandoned: the next request takes it over'
    return words


def weighed(codec: ItemCodec, record: SessionRecord) -> dict[str, int]:
    """The bytes that each key takes with its value, the largest first."""
    parts = codec.parts(record.payload)
    sizes = {key: len(part) for key, part in parts.items()}
    return dict(sorted(sizes.items(), key=lambda pair: -pair[1]))


def key_lines(
    keys: dict[str, int], record: SessionRecord, values: bool
) -> list[str]:
    """One line each; nothing in them can steer a terminal."""
    before = size(len(record.payload))
    title = f'{len(keys)} keys, {before} before compression'
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
    site = Site(args)
    name, item = find(site, of(args))
    if 'LockId' not in item:
        return Result(
            {'key': name, 'unlocked': False}, [f'{name} is not locked.']
        )
    now = time.time()
    lock = lock_of(site, item, now)
    data = {'key': name, 'unlocked': True, 'lock': lock}
    if not site.sessions.unlock(name, item['LockId']):
        data['unlocked'] = False
        lines = [f'{name} was just given back by its holder: nothing done.']
        return Result(data, lines)
    return Result(
        data,
        [
            f'{name} is unlocked.',
            f'It was locked {lock_words(lock, now, item)}.',
            'If that request is still running, nothing of it will be saved, '
            'and its user gets a 409.',
        ],
    )


def delete(args: argparse.Namespace) -> Result:
    site = Site(args)
    name, _ = find(site, of(args))
    if not site.sessions.delete(name):
        return Result(
            {'key': name, 'deleted': False},
            [f'{name} was just deleted by somebody else.'],
        )
    return Result({'key': name, 'deleted': True}, [f'{name} is deleted.'])


def add_session(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'session',
        type=str.strip,
        metavar='COOKIE-OR-ID',
        help='the value of the cookie, signed or not, the session id, or the '
        'key under which it is stored; - reads it from the standard input, '
        'so that it is in no history',
    )


def add_show(parser: argparse.ArgumentParser) -> None:
    add_session(parser)
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
        add_show,
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
        add_session,
    ),
    'delete': Command(
        delete,
        'delete one session, which logs its user out',
        """\
Delete one session, locked or not. Its user has a new, empty one with the next
request. A request that is holding it gets a SessionLockLost.""",
        """\
example:
  dynamodb-session production.ini delete 'session=BZkrxMB…'
""",
        add_session,
    ),
}
