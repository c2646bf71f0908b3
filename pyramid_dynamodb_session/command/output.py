"""How things are said to people: times, sizes, tables of words."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from collections.abc import Callable, Iterable
from typing import Any


@dataclasses.dataclass
class Result:
    """What a command has to say: ``data`` to machines, ``lines`` to people.

    ``status`` is the exit status.
    """

    data: dict[str, Any]
    lines: list[str]
    status: int = 0


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the command line.

    :param help: a few words; ``description`` and ``epilog`` teach.
    """

    run: Callable[[argparse.Namespace], Result]
    help: str
    description: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], object] = id


def moment(seconds: float) -> datetime.datetime:
    """Seconds since the epoch as UTC; the far end of time at most."""
    far = datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)
    try:
        return min(
            datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc),
            far,
        )
    except (OSError, OverflowError, ValueError):
        return far


def iso(seconds: float) -> str:
    return moment(seconds).isoformat().replace('+00:00', 'Z')


def when(seconds: float, now: float) -> str:
    """A time, and how long from now that is."""
    stamp = f'{moment(seconds):%Y-%m-%d %H:%M:%S} UTC'
    if seconds >= now:
        return f'{stamp} (in {span(seconds - now)})'
    return f'{stamp} ({span(now - seconds)} ago)'


def span(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def size(count: float) -> str:
    """Bytes, as DynamoDB reckons: a KB is 1,024 of them."""
    if count < 1024:
        return f'{count:,.0f} B'
    return f'{count / 1024:,.1f} KB'


def columns(rows: Iterable[tuple[str, ...]], indent: str = '') -> list[str]:
    """Rows of words, each column as wide as its widest word."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent
        + '  '.join(
            word.ljust(width) for word, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
