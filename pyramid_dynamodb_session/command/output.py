"""The output of commands: results, times, sizes, columns."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any


@dataclasses.dataclass
class Result:
    """The output of a command: ``data`` for ``--json``, ``lines`` otherwise.

    ``status`` is the exit status. ``then`` is called after the output.
    """

    data: dict[str, Any]
    lines: list[str]
    status: int = 0
    then: Callable[[], object] = bool


class UsageError(Exception):
    """A mistyped command that only its own function could recognize."""


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


def write(text: str) -> bool:
    """Print on the standard output; False if that can't be written."""
    if sys.stdout is None:
        print_error('dynamodb-session: the standard output is closed')
        return False
    try:
        print(text)
    except OSError as error:
        return discard_output(error)
    return flush()


def flush() -> bool:
    """Write what is buffered; False if the output can't be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return discard_output(error)
    return True


def discard_output(error: OSError) -> bool:
    """Report that the output can't be written; always False.

    Python flushes once more when it ends, so the rest goes nowhere.
    """
    if not isinstance(error, BrokenPipeError):
        print_error(f'dynamodb-session: the output is incomplete: {error}')
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return False


def print_error(text: str) -> None:
    """Print on the standard error, if it can be written at all."""
    try:
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)
    except OSError:
        pass


def number_of(count: float, noun: str) -> str:
    """``1 session`` or ``2,000 sessions``."""
    return f'{count:,.0f} {noun}{"" if round(count) == 1 else "s"}'


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
