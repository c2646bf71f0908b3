"""Run the simulation: ``python -m tests.simulation``.

Random histories of a whole application under faults, 1,000,000 requests from
seed 7 on, two histories at a time::

    python -m tests.simulation --requests 1000000 --seed 7 --jobs 2

prints the figures by kind of answer and fault, and of each violation how the
history came to it; the exit status is 1 if there is any. A history of
``--chunk`` requests depends on its own seed alone: ``--seed 12 --requests
300`` repeats the one that a violation was found in, ``--digest`` shows a hash
of everything that happened in it. ``--kinds write,read`` restricts the
requests.

Every interleaving of two requests of each pair of kinds, with every single
fault or early timer, and of three requests without: no limit is needed, for
each state is gone on from once (:mod:`tests.simulation.fingerprints`)::

    python -m tests.simulation --exhaustive --jobs 2

The single-line breakages of :mod:`tests.simulation.breakages`, and what finds
each of them::

    python -m tests.simulation --breakages
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from typing import Any

from tests.simulation import breakages, exhaustive
from tests.simulation.run import Profile, Statistics, run_task

#: So many lines of the story of a violation are printed.
EXAMPLES = 3


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.breakages:
        return show_breakages()
    if options.exhaustive:
        return show_exhaustive(options)
    return show_random(options)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog='python -m tests.simulation',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add('--requests', type=int, default=20_000)
    add('--seed', type=int, default=0)
    add('--chunk', type=int, default=300, help='requests of one history')
    add('--jobs', type=int, default=1, help='processes of this machine')
    add('--processes', type=int, help='simulated processes; 1 to 4')
    add('--kinds', help='only these kinds of requests, comma-separated')
    add('--digest', action='store_true')
    add('--examples', type=int, default=EXAMPLES)
    add('--exhaustive', action='store_true')
    add('--limit', type=int, help='schedules of each case, at the most')
    add('--disturbances', type=int, default=1, help='of each pair')
    add('--breakages', action='store_true')
    return found


def profile_of(options: Any) -> Profile:
    profile = Profile()
    if options.kinds:
        wanted = options.kinds.split(',')
        profile.kinds = {kind: profile.kinds[kind] for kind in wanted}
    if options.processes:
        profile.processes = (options.processes,)
    return profile


# -- random histories ----------------------------------------------------


def show_random(options: Any) -> int:
    profile = profile_of(options)
    seeds = range(
        options.seed,
        options.seed + -(-options.requests // options.chunk),
    )
    left = options.requests
    tasks = []
    for seed in seeds:
        tasks.append((seed, min(options.chunk, left), profile, options.digest))
        left -= options.chunk
    total = Statistics()
    started = shown = time.monotonic()
    for statistics in mapped(run_task, tasks, options.jobs):
        total.add(statistics, options.examples)
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            show_progress(total, options.requests, shown - started)
    show_progress(total, options.requests, time.monotonic() - started)
    print(figures(total))
    for seed, violation, story in total.examples:
        print(f'\nseed {seed}: {violation.kind}: {violation.text}\n{story}')
    if options.digest:
        print('digest', total.digest)
    return int(bool(total.violations))


def mapped(function: Any, tasks: list[Any], jobs: int) -> Any:
    if jobs == 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context('spawn')
    with context.Pool(jobs) as pool:
        yield from pool.imap(function, tasks, chunksize=1)


def show_progress(total: Statistics, requests: int, seconds: float) -> None:
    print(
        f'{total.requests:,} of about {requests:,} requests, '
        f'{total.requests / max(seconds, 1e-3):,.0f}/s, '
        f'{sum(total.violations.values())} violations',
        file=sys.stderr,
        flush=True,
    )


def figures(total: Statistics) -> str:
    """The table of what happened."""
    lines = [
        f'{total.histories:,} histories, {total.requests:,} requests, '
        f'{total.calls:,} calls carried out, {total.seconds:,.0f} simulated '
        'seconds'
    ]
    for title, counts in (
        ('Answers', total.answers),
        ('Database', total.rows),
        ('Owners', total.owners),
        ('Kinds', total.kinds),
        ('Faults', total.faults),
        ('Violations', total.violations),
    ):
        lines += ['', f'{title} ({sum(counts.values()):,})']
        lines += table(counts)
    return '\n'.join(lines)


def table(counts: Counter[str]) -> list[str]:
    return [f'  {count:>10,}  {name}' for name, count in counts.most_common()]


# -- exhaustive ----------------------------------------------------------


def show_exhaustive(options: Any) -> int:
    pairs, triples = [*exhaustive.pairs()], [*exhaustive.triples()]
    limit = options.limit
    tasks = [
        *((*case, limit, options.disturbances) for case in pairs),
        *((*case, limit, 0) for case in triples),
    ]
    total = exhaustive.Report()
    for report in mapped(exhaustive.explore_task, tasks, options.jobs):
        total.add(report)
        for name, count in report.by_case.items():
            found = dict(report.violations) or ''
            print(f'{count:>10,}  {name}  {found}', flush=True)
    print(
        f'{total.schedules:,} schedules of {len(tasks)} cases; '
        f'{total.pruned:,} of them ended in a state that was known'
    )
    print('\n'.join(['Violations', *table(total.violations)]))
    for example in total.examples[: options.examples]:
        print(f'\n{example}')
    return int(bool(total.violations))


# -- breakages -----------------------------------------------------------


def show_breakages() -> int:
    missed = 0
    for breakage in breakages.BREAKAGES:
        found = breakages.find(breakage)
        missed += found is None
        print(f'{breakage.name}: {found or "NOT FOUND"}', flush=True)
    return int(bool(missed))


if __name__ == '__main__':
    sys.exit(main())
