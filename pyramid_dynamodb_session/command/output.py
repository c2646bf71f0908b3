"""The output of commands: results, times, sizes, columns."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from collections.abc import Callable, Iterable
from typing import Any


@dataclasses.dataclass
class Result:
    """The output of a command: ``data`` for ``--json``, ``lines`` otherwise.

    ``status`` is the exit status.
    """

    data: dict[str, Any]
    lines: list[str]
    status: int = 0


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the command line.

    :param help: one line, in the list of commands; ``description`` and
        ``epilog`` are what its own ``--help`` prints.
    """

    run: Callable[[argparse.Namespace], Result]
    help: str
    description: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], object] = id


def utc_datetime(seconds: float) -> datetime.datetime:
    """Seconds since the epoch as UTC; the last possible time at most."""
    latest = datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)
    try:
        return min(
            datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc),
            latest,
        )
    except (OSError, OverflowError, ValueError):
        return latest


def iso(seconds: float) -> str:
    return utc_datetime(seconds).isoformat().replace('+00:00', 'Z')


def timestamp(seconds: float, now: float) -> str:
    """A time, and how far from now it is."""
    stamp = f'{utc_datetime(seconds):%Y-%m-%d %H:%M:%S} UTC'
    if seconds >= now:
        return f'{stamp} (in {duration(seconds - now)})'
    return f'{stamp} ({duration(now - seconds)} ago)'


def duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def size(count: float) -> str:
    """Bytes as DynamoDB counts them: a KB is 1,024."""
    if count < 1024:
        return f'{count:,.0f} B'
    return f'{count / 1024:,.1f} KB'


def columns(rows: Iterable[tuple[str, ...]], indent: str = '') -> list[str]:
    """Rows of texts, each column as wide as its longest text."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent
        + '  '.join(
            word.ljust(width) for word, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
