"""Tables of the results, for the terminal and for the docs."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .apps import CONTENDERS, EARLIER

Results = dict[str, Any]
#: Where there is nothing to measure; a dash would look like a bullet.
NOTHING = 'n/a'
#: The label of our own contenders is this and the transport.
OURS = 'ours, '


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ''
    #: The name of a plot that shows the same.
    plot: str = ''

    def text(self) -> str:
        rows = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            '  '.join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(
                    zip(row, widths, strict=True)
                )
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, '-' * len(lines[0]))
        return '\n'.join(['', self.title, '', *lines, ''])

    def rst(self) -> str:
        lines = [self.title, '-' * len(self.title), '']
        if self.note:
            lines += [self.note.strip(), '']
        lines += ['.. list-table::', '    :header-rows: 1', '']
        for row in [self.header, *self.rows]:
            for index, cell in enumerate(row):
                bullet = '*' if index == 0 else ' '
                lines.append(f'    {bullet} - {cell}'.rstrip())
        lines.append('')
        if self.plot:
            lines += [
                f'.. image:: _static/benchmarks/{self.plot}.svg',
                f'    :alt: {self.title}',
                '',
            ]
        return '\n'.join(lines)


def label(name: str) -> str:
    return CONTENDERS[name].label


def spread(values: Iterable[float], form: str = '{:,.0f}') -> str:
    """The median, and from where to where."""
    values = list(values)
    if not values:
        return NOTHING
    middle = form.format(statistics.median(values))
    low, high = form.format(min(values)), form.format(max(values))
    return middle if low == high else f'{middle} ({low} to {high})'


def medians(runs: list[list[float]]) -> list[float]:
    """The median of each run."""
    return [statistics.median(run) for run in runs]


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(of, to, strict=True)]


# -- the tables ------------------------------------------------------------


def cpu(data: Any) -> Iterable[Table]:
    yield cpu_times(
        data,
        'CPU time of a request',
        f"""
Of the whole application, called in its process, in microseconds: the median,
and in brackets the medians of the lowest and the highest run. ``read`` is a
``read_only`` view for ours. The cart has 20 lines. The bare calls are the two
calls of the floor outside of any request. The earlier version is the commit
``{EARLIER}`` of this repository: without handing on the lock, and with libcurl
where ``direct`` is now.
""",
        'cpu',
    )
    yield from cpu_ratios(data, 'CPU time, as a ratio to the floor')


def tls(data: Any) -> Iterable[Table]:
    yield cpu_times(
        data,
        'CPU time of a request, over TLS',
        """
The same, with HAProxy before DynamoDB and Redis, which speaks TLS 1.3 over
connections that stay open. On AWS each call is so encrypted. The CPU time is
the application's, not that of HAProxy.
""",
    )
    yield from cpu_ratios(data, 'CPU time over TLS, as a ratio to the floor')


def cpu_times(data: Any, title: str, note: str, plot: str = '') -> Table:
    columns = requests_of(data)
    return Table(
        title,
        ['µs', *columns],
        [
            [
                label(name),
                *(
                    spread(medians(of[column])) if column in of else NOTHING
                    for column in columns
                ),
            ]
            for name, of in data.items()
        ],
        note,
        plot,
    )


def cpu_ratios(data: Any, title: str) -> Iterable[Table]:
    floor = data.get('floor-boto3')
    if floor is None:
        return
    shown = [c for c in requests_of(data) if c not in ('none', 'bare calls')]

    def cell(of: Any, column: str) -> str:
        if column not in of:
            return NOTHING
        found = ratios(medians(of[column]), medians(floor[column]))
        return spread(found, '{:.2f}')

    yield Table(
        title,
        ['ratio', *shown],
        [
            [label(name), *(cell(of, column) for column in shown)]
            for name, of in data.items()
        ],
        """
The floor is the same Pyramid application whose view makes the bare calls, one
to read and two to write, on the tuned boto3 client. Each run gives one ratio.
""",
    )


def requests_of(data: Any) -> list[str]:
    """The kinds of request that anybody was measured with."""
    return [*dict.fromkeys(column for of in data.values() for column in of)]


def calls(data: Any) -> Iterable[Table]:
    columns = requests_of(data)

    def cell(sums: Any) -> str:
        if sums is None:
            return NOTHING
        units = [
            f'{sums[kind]:g} {kind[0].upper()}'
            for kind in ('writes', 'reads')
            if sums[kind]
        ]
        return f'{sums["calls"]:g}' + (f': {" ".join(units)}' * bool(units))

    yield Table(
        'Calls and capacity units of a request',
        ['calls', *columns],
        [
            [label(name), *(cell(of.get(column)) for column in columns)]
            for name, of in data.items()
        ],
        """
Calls, write units (W) and read units (R), as dynoxide reports the consumed
capacity, which is as AWS counts. A read unit costs about a fifth of a write
unit. An eventually consistent read is half a unit.
""",
    )


def throughput(data: Any) -> Iterable[Table]:
    for clients in next(iter(data.values())):
        yield Table(
            f'Requests per second, {clients} client' + 's' * (clients != '1'),
            ['requests', 'per second', 'p50, ms', 'p99, ms', 'CPU', 'failed'],
            [
                [
                    label(name),
                    spread(turn['per second'] for turn in of[clients]),
                    spread((turn['p50'] for turn in of[clients]), '{:.1f}'),
                    spread((turn['p99'] for turn in of[clients]), '{:.1f}'),
                    spread(
                        (100 * turn['cpu share'] for turn in of[clients]),
                        '{:.0f} %',
                    ),
                    str(sum(turn['failed'] for turn in of[clients])),
                ]
                for name, of in data.items()
            ],
            """
Read+write requests, under waitress with 16 threads, each client with a
session of its own. The store, Redis as well, answers 2 ms late. CPU is what
the server takes of one core: at 100 % it is Python that sets the limit.
""",
            'throughput' if clients != '1' else '',
        )


def survival(data: Any) -> Iterable[Table]:
    columns = list(next(iter(data.values())))

    def cell(done: Any) -> str:
        errors = f', {done["failed"]} errors' * bool(done['failed'])
        return f'{done["survived"]}{errors}'

    yield Table(
        'Parallel increments of one session',
        ['of 400, survived', *(f'held for {column}' for column in columns)],
        [
            [label(name), *(cell(of[column]) for column in columns)]
            for name, of in data.items()
        ],
        """
One browser sends 400 requests, 16 at a time, each of which adds one to a
number in the session, and holds it for so long between reading and writing.
""",
    )


def contention(data: Any) -> Iterable[Table]:
    for hold, contests in data.items():
        yield burst_table(
            contests,
            f'Time of contending requests, {hold} ms each',
            burst_time,
            f"""
So many requests of one session come at once, from one browser, and each holds
it for {hold} ms. The store answers 2 ms late. Milliseconds until the last one
is answered, the median.
""",
            'contention' if hold == '0' else '',
        )
        yield burst_table(
            contests,
            f'Calls of contending requests, {hold} ms each',
            burst_calls,
            """
The calls that all these requests took, with their write units (W) and read
units (R), and how many of the writes were refused, if any: these are billed
like any other. The medians.
""",
        )


def burst_table(
    contests: Any,
    title: str,
    cell: Callable[[Any], str],
    note: str,
    plot: str = '',
) -> Table:
    counts = list(next(iter(contests.values())))
    return Table(
        title,
        ['at once', *counts],
        [
            [
                contest,
                *(
                    cell(of[count]) if count in of else NOTHING
                    for count in counts
                ),
            ]
            for contest, of in contests.items()
        ],
        note,
        plot,
    )


def burst_time(found: Any) -> str:
    time = f'{statistics.median(found["ms"]):,.0f}'
    failed = sum(found['failed'])
    return time + f', {failed} failed' * bool(failed)


def burst_calls(found: Any) -> str:
    calls, writes, reads, refused = (
        statistics.median(found[what])
        for what in ('calls', 'writes', 'reads', 'refused')
    )
    return (
        f'{calls:g}: {writes:g} W'
        + f' {reads:g} R' * bool(reads)
        + f', {refused:g} refused' * bool(refused)
    )


def size(data: Any) -> Iterable[Table]:
    sizes = list(next(iter(data.values())))
    yield Table(
        'Units by size',
        ['KB of JSON', *sizes],
        [
            [
                label(name),
                *(
                    f'{of[kb]["writes"]:g} W'
                    + f' {of[kb]["reads"]:g} R' * bool(of[kb]['reads'])
                    for kb in sizes
                ),
            ]
            for name, of in data.items()
            if CONTENDERS[name].store == 'dynamodb'
        ],
        """
Write and read units of a read+write request, as dynoxide reports them. The
session is a cart with ever more lines. The floors do not compress.
""",
        'size',
    )
    yield Table(
        'CPU time by size',
        ['KB of JSON', *sizes],
        [
            [label(name), *(spread(of[kb]['cpu']) for kb in sizes)]
            for name, of in data.items()
        ],
        """
Microseconds of a read+write request. The floors make no JSON, and all
others do (pyramid_session_redis: pickle; Flask-Session: msgpack).
""",
    )


def threads(data: Any) -> Iterable[Table]:
    counts = list(next(iter(data.values())))
    yield Table(
        'Requests per second by threads',
        ['threads', *counts],
        [
            [label(name), *(spread(of[count]) for count in counts)]
            for name, of in data.items()
        ],
        """
Read+write requests, with as many clients as waitress has threads; the store,
Redis as well, answers 2 ms late.
""",
        'threads',
    )


def items(data: Any) -> Iterable[Table]:
    if not data:
        return
    counts = list(next(iter(data.values())))

    def cell(turns: Any) -> str:
        return (
            f'{spread(turn["cpu"] for turn in turns)} µs, '
            f'{spread((turn["p50"] for turn in turns), "{:.2f}")} ms'
        )

    yield Table(
        'Sessions in the table',
        ['sessions', *(f'{int(count):,}' for count in counts)],
        [
            [label(name), *(cell(of[count]) for count in counts)]
            for name, of in data.items()
        ],
        """
CPU time and median duration of a read+write request, while so many other
sessions are in the table. The duration is that of dynoxide as well.
""",
    )


def start(data: Any) -> Iterable[Table]:
    def loaded(turn: Any) -> str:
        names = [name for name in ('boto3', 'pycurl') if turn.get(name)]
        return ', '.join(names) or 'neither'

    def of(turns: Any, what: str, form: str = '{:,.0f}') -> str:
        return spread((turn[what] for turn in turns if what in turn), form)

    yield Table(
        'Start and memory',
        [
            'ms',
            'import',
            'which loads',
            'make the app',
            'first request',
            'later ones',
            'memory, MB',
        ],
        [
            [
                label(name),
                of(turns, 'import'),
                loaded(turns[0]) if 'import' in turns[0] else NOTHING,
                of(turns, 'app'),
                of(turns, 'first', '{:.1f}'),
                of(turns, 'later', '{:.2f}'),
                of(turns, 'megabytes'),
            ]
            for name, turns in data.items()
        ],
        """
Beyond what Pyramid takes itself. Making the application makes the client,
once in a process, and looks at the table. The first request creates a
session. Memory is that of the process after the first request.
""",
    )


def soak(data: Any) -> Iterable[Table]:
    if not data:
        return
    last = next(iter(data.values()))[-1][0]
    marks = [
        mark for mark in (100, 2000, 10_000, 20_000, 50_000) if mark < last
    ]
    marks.append(last)

    def at(readings: Any, mark: int) -> str:
        found = [kb for count, kb in readings if count <= mark][-1]
        return f'{found / 1e3:.1f}'

    yield Table(
        'Memory after many requests',
        ['MB after', *(f'{mark:,}' for mark in marks)],
        [
            [label(name), *(at(readings, mark) for mark in marks)]
            for name, readings in data.items()
        ],
        """
Resident memory of one process; of a hundred requests, the first creates a
session, 54 write, 25 are ``read_only``, 10 read under the lock, and 10 use
no session.
""",
        'soak',
    )


def profile(data: Any) -> Iterable[Table]:
    for name, sizes in data.items():
        for kilobytes, shares in sizes.items():
            size = f', {kilobytes} KB' if kilobytes != '0' else ''
            shown = list(shares.items())[: 8 if size else 20]
            others = 1 - sum(share for _, share in shown)
            yield Table(
                f'Where the CPU time goes: {label(name)}{size}',
                ['place', 'share'],
                [
                    [place, f'{100 * share:.1f} %']
                    for place, share in [*shown, ('all others', others)]
                ],
                """
Of a read+write request, by ``cProfile``, which makes Python's functions look
dearer than built-in ones: a module of this package, another package as a
whole, or the functions of a built-in type or module; each without what it
calls.
""",
            )


# -- the bounds ------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """What a figure, mostly a ratio of two contenders, is meant to be."""

    what: str
    limit: float
    found: list[float]
    #: Is the limit the least that it is meant to be, not the most?
    is_least: bool = False

    def row(self) -> list[str]:
        middle = statistics.median(self.found)
        met = middle >= self.limit if self.is_least else middle <= self.limit
        return [
            self.what,
            f'{self.limit:g} or {"more" if self.is_least else "less"}',
            spread(self.found, '{:.2f}'),
            'yes' if met else 'no',
        ]


def bounds(results: Results) -> Iterable[Table]:
    rows = [
        bound.row()
        for section, find in BOUNDS.items()
        if section in results
        for bound in find(results[section]['data'])
    ]
    if rows:
        yield Table(
            'Bounds',
            ['ratio', 'meant to be', 'is', 'met'],
            rows,
            """
What this package sets itself. The median ratio, and in brackets the lowest
and the highest run; the median decides.
""",
        )


#: Whose CPU time, as a ratio to whose; without and with the cart.
CPU_LIMITS = [
    ('direct', 'floor-boto3', 0.20, 0.25),
    ('direct', 'floor-pycurl', 1.0, 1.0),
    ('direct', 'redis', 1.4, 1.4),
    ('boto3', 'floor-boto3', 1.06, 1.12),
    ('boto3', 'earlier-boto3', 1.03, 1.03),
]


def cpu_bounds(data: Any, what: str = 'CPU') -> Iterable[Bound]:
    for name, to, *limits in CPU_LIMITS:
        if name in data and to in data:
            requests = ('read+write', 'read+write, cart')
            for request, limit in zip(requests, limits, strict=True):
                yield Bound(
                    f'{what}, {request}: {label(name)} ÷ {label(to)}',
                    limit,
                    ratios(
                        medians(data[name][request]),
                        medians(data[to][request]),
                    ),
                )


def tls_bounds(data: Any) -> Iterable[Bound]:
    return cpu_bounds(data, 'CPU over TLS')


def thread_bounds(data: Any) -> Iterable[Bound]:
    if not {'direct', 'redis'} <= data.keys():
        return
    for count, limit in (('16', 0.95), ('64', 0.9)):
        if count in data['direct']:
            yield Bound(
                f'Requests per second, {count} threads: {label("direct")} ÷ '
                f'{label("redis")}',
                limit,
                ratios(data['direct'][count], data['redis'][count]),
                is_least=True,
            )


def size_bounds(data: Any) -> Iterable[Bound]:
    yield from owner_bounds(data)
    for name, earlier, floor in (
        ('direct', 'earlier-curl', 'floor-pycurl'),
        ('direct-isal', 'earlier-curl', 'floor-pycurl'),
        ('direct-orjson', 'earlier-curl', 'floor-pycurl'),
    ):
        if not {name, earlier, floor} <= data.keys():
            continue
        for kb in ('64', '128', '300'):
            if kb in data[name]:
                bare = statistics.median(data[floor][kb]['cpu'])
                own, former = (
                    [cpu - bare for cpu in data[who][kb]['cpu']]
                    for who in (name, earlier)
                )
                yield Bound(
                    f'CPU beyond the bare calls, {kb} KB: {label(name)} ÷ '
                    f'{label(earlier)}',
                    0.5,
                    ratios(own, former),
                )


def owner_bounds(data: Any) -> Iterable[Bound]:
    """An ordinary save writes nothing to the index of owners."""
    if {'owner', 'boto3'} <= data.keys():
        units = [
            [of['writes'] for of in data[name].values()]
            for name in ('owner', 'boto3')
        ]
        yield Bound(
            f'Write units, all sizes: {label("owner")} ÷ {label("boto3")}',
            1,
            ratios(*units),
        )


def contention_bounds(data: Any) -> Iterable[Bound]:
    contests = data.get('0', {})
    for transport, former in (('direct', 'libcurl'), ('boto3', 'boto3')):
        ours = contests.get(f'{OURS}{transport}, one process', {}).get('8')
        earlier = contests.get(f'earlier version, {former}, one process')
        if ours and earlier:
            yield Bound(
                f'Time of 8 contending requests, 0 ms each: {OURS}{transport} '
                f'÷ earlier version, {former}',
                0.5,
                ratios(ours['ms'], earlier['8']['ms']),
            )
        if ours:
            yield Bound(
                f'Calls of 8 contending requests, 0 ms each: {OURS}'
                f'{transport}',
                9,
                ours['calls'],
            )


BOUNDS: dict[str, Callable[[Any], Iterable[Bound]]] = {
    'cpu': cpu_bounds,
    'tls': tls_bounds,
    'threads': thread_bounds,
    'size': size_bounds,
    'contention': contention_bounds,
}

TABLES: dict[str, Callable[[Any], Iterable[Table]]] = {
    'cpu': cpu,
    'tls': tls,
    'calls': calls,
    'throughput': throughput,
    'threads': threads,
    'survival': survival,
    'contention': contention,
    'size': size,
    'items': items,
    'start': start,
    'soak': soak,
    'profile': profile,
}


def tables(results: Results) -> list[Table]:
    return [
        table
        for section, make in TABLES.items()
        if section in results
        for table in make(results[section]['data'])
    ]


# -- the page --------------------------------------------------------------

PAGE = """\
.. Written by ``python -m benchmarks``: change benchmarks/report.py instead.

Benchmarks
==========

{headline}
How it was measured
-------------------

On {date}: {machine}.

This package, on both transports, beside others that do the same job, all in
one run. Each contender is a process of its own, and they take short turns, so
that other load on the machine affects all of them. Trust the ratios. The
absolute figures are those of one small machine, and of dynoxide, a DynamoDB
that answers at once. How to run the benchmarks, and what
each figure means in detail, is told in ``benchmarks/README.rst``. All figures
are in :download:`results.json <_static/benchmarks/results.json>`.

{tables}"""


def headline(results: Results) -> str:
    """What an adopter wants to know: a sentence each, and a plot."""
    found = {
        section: results[section]['data']
        for section, _ in SENTENCES
        if section in results
    }
    sentences = [
        textwrap.fill(sentence(found[section]), 79)
        for section, sentence in SENTENCES
        if section in found
    ]
    if 'survival' in found:
        sentences.append(
            '.. image:: _static/benchmarks/survival.svg\n'
            '    :alt: Of 400 parallel increments of one session, how many '
            'each contender kept'
        )
    return '\n\n'.join([*sentences, ''])


def kept(data: Any) -> str:
    """How many of 400 parallel increments were kept."""

    def counts(name: str) -> str:
        numbers = sorted({done['survived'] for done in data[name].values()})
        return ' to '.join(map(str, [numbers[0], *numbers[1:][-1:]]))

    ours, others = split(data)
    return (
        '**No change is lost:** of 400 increments of one session, sent 16 at '
        f'a time, this package kept {counts(ours[0])}; '
        + ', '.join(f'{other(name)} {counts(name)}' for name in others)
        + '.'
    )


def cpu_time(data: Any) -> str:
    """The CPU time of a request that reads and writes."""

    def of(name: str) -> float:
        return statistics.median(medians(data[name]['read+write']))

    ours, others = split(data)
    return (
        '**CPU time:** a request that reads and writes its session takes '
        + ' and '.join(
            f'{of(name):,.0f} µs over {transport(name)}' for name in ours
        )
        + ', Pyramid included; '
        + ', '.join(f'{other(name)} {of(name):,.0f} µs' for name in others)
        + '.'
    )


def request_rate(data: Any) -> str:
    """How many such requests a process serves in a second."""
    ours, others = split(data)
    clients = max(data[ours[0]], key=int)

    def of(name: str) -> float:
        return statistics.median(
            turn['per second'] for turn in data[name][clients]
        )

    return (
        f'**Throughput:** with {clients} clients and threads, and a store '
        'that answers in 2 ms, one process serves so many such requests a '
        'second: '
        + ' and '.join(
            f'{of(name):,.0f} over {transport(name)}' for name in ours
        )
        + '; '
        + ', '.join(f'{other(name)} {of(name):,.0f}' for name in others)
        + '.'
    )


SENTENCES: list[tuple[str, Callable[[Any], str]]] = [
    ('survival', kept),
    ('cpu', cpu_time),
    ('throughput', request_rate),
]


def split(data: Any) -> tuple[list[str], list[str]]:
    """The names of ours, and those of others; not of the floors."""
    ours = [name for name in data if label(name).startswith(OURS)]
    others = [
        name
        for name in data
        if name not in ours
        and not CONTENDERS[name].is_floor
        and not CONTENDERS[name].is_earlier
    ]
    return ours, others


def transport(name: str) -> str:
    return label(name).removeprefix(OURS)


def other(name: str) -> str:
    """The label of another's, in a sentence."""
    return label(name).replace(', ', ' on ')


def of_contenders(results: Results) -> Results:
    """Without those of contenders that there are no more."""
    return {
        section: {
            **found,
            'data': {
                name: data
                for name, data in found['data'].items()
                if section == 'contention' or name in CONTENDERS
            },
        }
        for section, found in results.items()
    }


def page(results: Results) -> str:
    dates = sorted({section['date'] for section in results.values()})
    last = max(results.values(), key=lambda section: section['date'])
    machine = '; '.join(
        f'{what} {value}' if what not in ('CPU', 'system') else value
        for what, value in last['machine'].items()
        if what != 'packages'
    )
    return PAGE.format(
        headline=headline(results),
        date=' and '.join(dates),
        machine=f'{machine}; {last["machine"]["packages"]}',
        tables='\n'.join(
            table.rst() for table in (*tables(results), *bounds(results))
        ),
    )


# -- the figures of other pages --------------------------------------------

#: The rows of the comparison in docs/why.rst, and whose figures they give.
COMPARED = {
    'this package, ``exclusive``, over boto3': 'boto3',
    'this package, ``exclusive``, over ``direct``': 'direct',
    '``SignedCookieSessionFactory``': 'cookie',
    'pyramid_session_redis 1.8': 'redis',
    'pyramid_dynamodb_sessions 0.1.3': 'luhn',
    'Flask-Session 0.8 with DynamoDB': 'flask',
}


def comparison(text: str, results: Results) -> str:
    """The comparison of docs/why.rst, with the figures that there are."""
    survived = results.get('survival', {}).get('data', {})
    spent = results.get('cpu', {}).get('data', {})
    for row, name in COMPARED.items():
        start = text.index(f'    * - {row}\n')
        before, row_text = text[:start], text[start:]
        cells = row_text.split('\n      - ', 4)
        if name in survived:
            numbers = sorted(
                {done['survived'] for done in survived[name].values()}
            )
            cells[2] = ' to '.join(map(str, numbers))
        if name in spent:
            runs = medians(spent[name]['read+write'])
            cells[3] = f'{statistics.median(runs):,.0f}'
        text = before + '\n      - '.join(cells)
    return text


def results_in(docs: Path) -> Path:
    return docs / '_static' / 'benchmarks' / 'results.json'
