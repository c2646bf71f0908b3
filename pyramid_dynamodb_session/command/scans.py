"""``purge`` and ``stats``: commands that scan the table."""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from ..dynamodb.scan import Progress, TableScan
from ..errors import SessionError
from ..store.admin import Counts, SessionCounter
from ..store.purge import Purge
from .context import Context
from .output import (
    Command,
    Result,
    columns,
    duration,
    number_of,
    print_error,
    size,
)
from .tables import billing

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

#: Seconds between two lines where there is no terminal.
LINES_EVERY = 10
#: The upper limits of the histogram's rows, in bytes.
SIZE_LIMITS = [512, *(1024 * 2**power for power in range(9)), 400 * 1024]
#: Characters of the longest bar of the histogram.
BAR_WIDTH = 40

Figures = Callable[[], dict[str, str]]


def report_progress(
    progress: Progress,
    scan: TableScan,
    items: int,
    figures: Figures,
    plain: bool,
) -> None:
    """Run to the end, reporting progress: in a bar, or in lines.

    :param items: how many the table has, roughly.
    :param figures: more numbers to show.
    """
    with contextlib.closing(progress):
        bar = progress_bar(plain)
        if bar is None:
            print_progress(progress, scan, figures)
        else:
            show_progress_bar(bar, progress, scan, items, figures)


def progress_bar(plain: bool) -> Any:
    """tqdm; None where lines are printed instead."""
    return None if plain or not is_terminal(sys.stderr) else tqdm


def is_terminal(file: Any) -> bool:
    """Whether somebody watches; a closed one is None."""
    return file is not None and bool(file.isatty())


def print_progress(
    progress: Progress, scan: TableScan, figures: Figures
) -> None:
    next_line = time.monotonic() + LINES_EVERY
    for _ in progress:
        if time.monotonic() >= next_line:
            next_line += LINES_EVERY
            numbers = [f'{number_of(scan.scanned, "item")} read']
            numbers += [f'{n} {what}' for what, n in figures().items()]
            print_error(', '.join(numbers))


def show_progress_bar(
    tqdm: Any,
    progress: Progress,
    scan: TableScan,
    items: int,
    figures: Figures,
) -> None:
    with tqdm(total=items or None, unit=' items', file=sys.stderr) as bar:
        for _ in progress:
            bar.set_postfix(figures(), refresh=False)
            bar.update(scan.scanned - bar.n)


# -- purge ----------------------------------------------------------------


def purge(args: argparse.Namespace) -> Result:
    context = Context(args)
    table = context.existing_table()
    hint_at_rate(args, table)
    job = Purge(
        context.calls,
        context.table,
        context.settings.application,
        context.settings.lock_lease,
        segments=args.segments,
        rate=args.rate,
        dry_run=args.dry_run,
    )
    start = time.monotonic()
    status, ended = 0, ''

    def figures() -> dict[str, str]:
        seconds = max(time.monotonic() - start, 0.001)
        found = 'expired' if args.dry_run else 'deleted'
        count = getattr(job, found)
        return {
            found: f'{count:,}',
            f'{found}/s': f'{count / seconds:,.0f}',
            'units': f'{job.scan.units:,.0f}',
        }

    try:
        report_progress(
            job.run(), job.scan, table['ItemCount'], figures, args.plain
        )
    except KeyboardInterrupt:
        status, ended = 130, 'Interrupted; run it again to go on.'
    except SessionError as error:
        status, ended = 1, f'Stopped: {error}'
    seconds = time.monotonic() - start
    data = {
        'expired': job.expired,
        'deleted': job.deleted,
        'scanned': job.scan.scanned,
        'units': job.scan.units,
        'seconds': round(seconds, 1),
        'dry_run': args.dry_run,
        'complete': not ended,
        'error': ended or None,
    }
    lines = [
        f'{number_of(job.expired, "expired session")} found, '
        f'{job.deleted:,} deleted'
        f'{" (a dry run)" if args.dry_run else ""}: {context.scope}.',
        f'{number_of(job.scan.scanned, "item")} read in {duration(seconds)}, '
        f'{number_of(job.scan.units, "capacity unit")}.',
    ]
    return Result(data, [*([ended] if ended else []), *lines], status)


def hint_at_rate(args: argparse.Namespace, table: dict[str, Any]) -> None:
    """Say that a scan without a rate can take all units of a table."""
    paid = billing(table)
    if args.rate is None and paid.startswith('provisioned'):
        print_error(
            f'The table is {paid} a second: --rate leaves some of them to '
            'the application.'
        )


# -- stats ----------------------------------------------------------------


def stats(args: argparse.Namespace) -> Result:
    context = Context(args)
    table = context.existing_table()
    items = table['ItemCount']
    counter = SessionCounter(
        context.calls,
        context.table,
        context.settings.application,
        context.settings.lock_lease,
    )
    if args.all:
        hint_at_rate(args, table)
        scan = TableScan(context.calls, args.segments, args.rate)
        progress = counter.count_table(scan)
        report_progress(progress, scan, items, dict, args.plain)
    else:
        counter.count_sample(args.sample, items)
    counts = counter.counts
    is_sample = not args.all and 0 < counts.seen < items
    factor = items / counts.seen if is_sample else 1
    data = {
        'items': items,
        'sampled': counts.seen if is_sample else None,
        **{
            what: round(n * factor)
            for what, n in counts_by_kind(counts).items()
        },
        'bytes': sizes(counts),
        'histogram': histogram(counts),
    }
    lines = [
        f'Sessions of {context.scope}: '
        + (
            f'a sample of {counts.seen:,} of about {number_of(items, "item")}.'
            if is_sample
            else f'all {number_of(counts.seen, "item")}.'
        ),
        '',
        *columns(count_rows(counts, factor, is_sample), '  '),
        '',
        *size_lines(counts),
    ]
    return Result(data, lines)


def counts_by_kind(counts: Counts) -> dict[str, int]:
    return {
        'live': counts.live,
        'locked': counts.locked,
        'abandoned_locks': counts.abandoned,
        'expired': counts.expired,
        'ended': counts.ended,
        'corrupt': counts.corrupt,
        'other_items': counts.others,
    }


def count_rows(
    counts: Counts, factor: float, is_sample: bool
) -> list[tuple[str, ...]]:
    """How many there are of each kind; of a sample, give or take."""
    rows: list[tuple[str, ...]] = []
    for what, count in counts_by_kind(counts).items():
        share = count / counts.seen if counts.seen else 0
        # 95 % of all samples are no further off
        error = 1.96 * math.sqrt(share * (1 - share) * counts.seen) * factor
        margin = f'± {error:,.0f}' if is_sample and error else ''
        row = what.replace('_', ' '), f'{count * factor:,.0f}', margin
        rows.append((*row, f'{share:.1%}'))
    return rows


def sizes(counts: Counts) -> dict[str, float]:
    """Median, the size that 95 % stay under, largest, all in bytes."""
    if not counts.sizes:
        return {}
    ordered = sorted(counts.sizes)
    return {
        'median': statistics.median(ordered),
        'p95': ordered[math.ceil(len(ordered) * 0.95) - 1],
        'largest': ordered[-1],
    }


def histogram(counts: Counts) -> dict[str, int]:
    """How many sessions are at most so many bytes, and above the last."""
    found = dict.fromkeys(SIZE_LIMITS, 0)
    for count in counts.sizes:
        found[next(end for end in SIZE_LIMITS if count <= end)] += 1
    return {str(end): count for end, count in found.items()}


def size_lines(counts: Counts) -> list[str]:
    if not counts.sizes:
        return ['There are no sessions.']
    found = sizes(counts)
    bars = histogram(counts)
    last = max(place for place, n in enumerate(bars.values()) if n)
    highest = max(bars.values())
    rows = [
        (
            f'<= {size(int(end))}',
            f'{count:,}',
            '#' * math.ceil(BAR_WIDTH * count / highest),
        )
        for end, count in list(bars.items())[: last + 1]
    ]
    return [
        f'Sizes: half of them up to {size(found["median"])}, 95 % up to '
        f'{size(found["p95"])}, the largest {size(found["largest"])}.',
        '',
        *columns(rows, '  '),
    ]


def positive(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        value = convert(text)
        if not 0 < value < 10**6:
            raise argparse.ArgumentTypeError(f'{text} is not above 0')
        return value

    return number


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--segments',
        type=positive(int),
        default=8,
        metavar='N',
        help='how many parts of the table are read at once (8)',
    )
    parser.add_argument(
        '--rate',
        type=positive(float),
        metavar='UNITS',
        help='the most capacity units to use in a second, reads and writes '
        'together; no limit unless given',
    )
    parser.add_argument(
        '--plain',
        action='store_true',
        help='lines instead of a progress bar, as where there is no terminal',
    )


def add_purge_arguments(parser: argparse.ArgumentParser) -> None:
    add_scan_arguments(parser)
    parser.add_argument(
        '--dry-run', action='store_true', help='count, and delete nothing'
    )


def add_stats_arguments(parser: argparse.ArgumentParser) -> None:
    add_scan_arguments(parser)
    parser.add_argument(
        '--sample',
        type=positive(int),
        default=1000,
        metavar='N',
        help='how many items to look at (1000)',
    )
    parser.add_argument(
        '--all',
        action='store_true',
        help='read the whole table, at the price of reading the whole table',
    )


COMMANDS = {
    'purge': Command(
        purge,
        'delete expired sessions',
        """\
Delete expired sessions; with dynamodb_session.application set, only its own.
Where DynamoDB's Time to Live is on, this is not needed.

The whole table is read, which costs read units, and each delete costs write
units. A session that is used again meanwhile is left alone. Several
purges may run at once. Ctrl-C stops it after the calls under way; what was
deleted stays deleted.""",
        """\
examples:
  dynamodb-session production.ini purge --dry-run
  dynamodb-session production.ini purge --rate 50 --segments 2
  0 4 * * *  dynamodb-session /srv/shop/production.ini purge
""",
        add_purge_arguments,
    ),
    'stats': Command(
        stats,
        'count live, expired and locked sessions, and show their sizes',
        """\
Count the sessions that are live, expired, locked, and show how large they
are. Without --all, it reads a sample of the table, from places chosen at
random, and extrapolates from DynamoDB's own count of items, which in AWS is up
to six hours old.""",
        """\
examples:
  dynamodb-session production.ini stats
  dynamodb-session production.ini stats --sample 10000
  dynamodb-session production.ini stats --all --rate 100
""",
        add_stats_arguments,
    ),
}
