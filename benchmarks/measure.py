"""The measurements. Each is a function that returns what JSON can hold.

Contenders are interleaved everywhere: round by round, each one's turn is
short, so that what else happens on the machine hits them all.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import engines
from .apps import (
    CONTENDERS,
    EVERY_HALF_SECOND,
    JITTER,
    BarePycurl,
    Options,
    cart,
)
from .counting import CountingProxy
from .load import Jar, Load, load
from .worker import ROOT, Worker, environment

try:
    from tqdm import tqdm
except ImportError:

    def tqdm(iterable: Iterable[Any], **_: Any) -> Iterable[Any]:
        """No progress is shown."""
        return iterable


OURS = ('boto3', 'direct')
#: Ours and the earlier version: who locks a session.
LOCKS = (*OURS, 'earlier-boto3', 'earlier-curl')
#: Milliseconds for which contending requests hold their session, and how
#: many bursts are timed where one was enough if it took longer.
HOLDS = {0: 3, 5: 2, 50: 1}
#: Bytes of JSON: a cart of 20 lines.
CART = 1500
KILOBYTE = 1024
#: KB of JSON that DynamoDB's limit still has room for, uncompressed.
LARGEST = 300


@dataclass(frozen=True)
class Effort:
    """How often, how long, how much."""

    #: The CPU time is measured in so many runs of so many rounds.
    runs: int = 3
    rounds: int = 9
    #: Requests in a round.
    batch: int = 200
    #: Seconds and rounds of load.
    seconds: float = 3
    loads: int = 3
    latency: float = 0.002
    clients: tuple[int, ...] = (1, 16)
    threads: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    contending: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    kilobytes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 300)
    items: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    soak: int = 100_000


QUICK = Effort(
    runs=1,
    rounds=1,
    batch=5,
    seconds=0.2,
    loads=1,
    clients=(1, 2),
    threads=(1, 2),
    contending=(1, 2),
    kilobytes=(1, 4),
    items=(100, 1_000),
    soak=200,
)


@dataclass(frozen=True)
class Bench:
    """Who takes part, how hard it tries, and where the stores are."""

    names: tuple[str, ...]
    effort: Effort
    options: Options
    #: Each question to Redis is a command, too.
    asked: list[str] = field(default_factory=list)

    def steps(self, steps: Iterable[Any], what: str) -> Iterable[Any]:
        return tqdm(
            list(steps),
            desc=what,
            leave=False,
            dynamic_ncols=True,
            disable=None,
        )

    def of_these(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self.names]

    def taking_part(self, section: str) -> list[str]:
        """The names of those who take part in a section."""
        return [
            name
            for name in self.names
            if section in (CONTENDERS[name].sections or (section,))
        ]

    @contextlib.contextmanager
    def workers(
        self, names: Iterable[str], **options: Any
    ) -> Iterator[dict[str, Worker]]:
        """A process for each of these contenders."""
        given = replace(self.options, **options)
        with contextlib.ExitStack() as stack:
            yield {
                name: stack.enter_context(Worker(name, given))
                for name in names
            }


# -- CPU -------------------------------------------------------------------

#: What a request does: its name, the visitor, the path.
REQUESTS = {
    'none': ('', '/none'),
    'read': ('', '/read'),
    'read under the lock': ('', '/locked'),
    'read+write': ('', '/write'),
    'read+write, cart': ('cart', '/write'),
}


def takes_part(name: str, request: str) -> bool:
    return request != 'read under the lock' or (
        name in LOCKS or CONTENDERS[name].is_floor
    )


def cpu(bench: Bench) -> Any:
    """CPU microseconds per request: a list of rounds for each run."""
    return cpu_of(bench, bench.taking_part('cpu'), 'CPU')


def tls(bench: Bench) -> Any:
    """The same where the stores speak TLS."""
    names = [
        name for name in bench.taking_part('tls') if CONTENDERS[name].store
    ]
    targets = [int(bench.options.endpoint.rpartition(':')[2])]
    if bench.options.redis_port:
        targets.append(bench.options.redis_port)
    with engines.tls(*targets) as (ports, authority):
        return cpu_of(
            bench,
            names,
            'CPU over TLS',
            endpoint=f'https://127.0.0.1:{ports[0]}',
            redis_port=ports[-1],
            authority=str(authority),
        )


def cpu_of(
    bench: Bench, names: Sequence[str], what: str, **options: Any
) -> Any:
    result: dict[str, dict[str, list[list[float]]]] = {
        name: {} for name in names
    }
    effort = bench.effort
    rounds = [(a, b) for a in range(effort.runs) for b in range(effort.rounds)]
    with bench.workers(names, **options) as workers:
        for worker in workers.values():
            worker.visit('cart')
            worker.requests('/fill', 1, str(CART))
        for run, number in bench.steps(rounds, what):
            for name, worker in workers.items():
                times = measured_once(name, worker, effort.batch, number == 0)
                for request, microseconds in times.items():
                    runs = result[name].setdefault(request, [])
                    if len(runs) == run:
                        runs.append([])
                    runs[run].append(microseconds)
    return result


def measured_once(
    name: str, worker: Worker, batch: int, first: bool
) -> dict[str, float]:
    times = {}
    for request, (visitor, path) in REQUESTS.items():
        if takes_part(name, request):
            worker.visit(visitor)
            worker.requests(path, batch if first else 5)
            spent = worker.requests(path, batch)['cpu']
            times[request] = spent / batch * 1e6
    if CONTENDERS[name].is_floor:
        times['bare calls'] = worker.bare(batch)['cpu'] / batch * 1e6
    return times


def profile(bench: Bench) -> Any:
    """The share of each place in the CPU time of a read+write request.

    By the KB of JSON in the session; 0 is one with a number in it.
    """
    names = bench.of_these(['direct', 'floor-pycurl', 'redis'])
    result: dict[str, Any] = {}
    batch = bench.effort.batch
    with bench.workers(names) as workers:
        for name, worker in bench.steps(workers.items(), 'profile'):
            for kilobytes, count in ((0, batch * 5), (LARGEST, batch // 2)):
                if kilobytes:
                    filled(worker, kilobytes)
                worker.requests('/write', min(batch, count))
                result.setdefault(name, {})[str(kilobytes)] = worker.profile(
                    '/write', count
                )
    return result


# -- calls and units -------------------------------------------------------


def calls(bench: Bench) -> Any:
    """Calls and capacity units of one request."""
    result: dict[str, dict[str, Any]] = {}
    count = 10
    with CountingProxy(bench.options.endpoint) as proxy:
        for name in bench.steps(bench.taking_part('calls'), 'calls and units'):
            with bench.workers([name], endpoint=proxy.url) as workers:
                worker = workers[name]
                worker.visit('cart')
                worker.requests('/fill', 1, str(CART))
                worker.requests('/write', 1)
                worker.visit('')
                worker.requests('/write', 1)
                for request, (visitor, path) in REQUESTS.items():
                    if not takes_part(name, request):
                        continue
                    worker.visit(visitor)
                    proxy.clear()
                    before = redis_calls(bench, name)
                    worker.requests(path, count)
                    sums = proxy.sums()
                    sums['calls'] += redis_calls(bench, name) - before
                    result.setdefault(name, {})[request] = {
                        what: value / count for what, value in sums.items()
                    }
    return result


def redis_calls(bench: Bench, name: str) -> int:
    if CONTENDERS[name].store != 'redis':
        return 0
    processed = engines.commands_of_redis(bench.options.redis_port)
    bench.asked.append(name)
    return processed - len(bench.asked)


# -- load ------------------------------------------------------------------


@contextlib.contextmanager
def slow_stores(bench: Bench) -> Iterator[dict[str, Any]]:
    """Options for stores that answer as late as the effort says."""
    latency = bench.effort.latency
    dynamodb = int(bench.options.endpoint.rpartition(':')[2])
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        port = enter(engines.relay(dynamodb, latency))
        options: dict[str, Any] = {'endpoint': f'http://127.0.0.1:{port}'}
        if bench.options.redis_port:
            options['redis_port'] = enter(
                engines.relay(bench.options.redis_port, latency)
            )
        yield options


def throughput(bench: Bench) -> Any:
    """Requests per second, and how long they take, under waitress."""
    result: dict[str, Any] = {}
    effort = bench.effort
    names = bench.taking_part('throughput')
    with slow_stores(bench) as slow, bench.workers(names, **slow) as workers:
        ports = {name: worker.serve(16) for name, worker in workers.items()}
        for _ in bench.steps(range(effort.loads), 'throughput'):
            for clients in effort.clients:
                for name, port in ports.items():
                    before = workers[name].usage()['cpu']
                    done = load(
                        [port], clients, '/write', seconds=effort.seconds
                    )
                    spent = workers[name].usage()['cpu'] - before
                    of_clients = result.setdefault(name, {})
                    of_clients.setdefault(str(clients), []).append(
                        {
                            'per second': done.per_second,
                            'p50': done.quantile(0.5) * 1e3,
                            'p99': done.quantile(0.99) * 1e3,
                            'failed': done.failed,
                            'cpu share': spent / done.elapsed,
                        }
                    )
    return result


def threads(bench: Bench) -> Any:
    """Requests per second with as many clients as threads."""
    names = bench.taking_part('threads')
    result: dict[str, Any] = {name: {} for name in names}
    effort = bench.effort
    with slow_stores(bench) as slow:
        for count in bench.steps(effort.threads, 'threads'):
            with bench.workers(names, **slow) as workers:
                ports = {
                    name: worker.serve(count)
                    for name, worker in workers.items()
                }
                for _ in range(effort.loads):
                    for name, port in ports.items():
                        done = load(
                            [port], count, '/write', seconds=effort.seconds / 2
                        )
                        result[name].setdefault(str(count), []).append(
                            done.per_second
                        )
    return result


# -- parallel requests of one session --------------------------------------


def survival(bench: Bench) -> Any:
    """Of 400 increments, 16 at a time, how many are found at the end."""
    clients, each = 16, 25
    result: dict[str, Any] = {}
    with bench.workers(bench.taking_part('survival')) as workers:
        ports = {name: worker.serve(16) for name, worker in workers.items()}
        turns = [(hold, name) for hold in (0, 5) for name in ports]
        for hold, name in bench.steps(turns, 'parallel increments'):
            jar = Jar()
            ask = {'jar': jar, 'warm_up': False}
            load([ports[name]], 1, '/write', count=1, **ask)
            done = load(
                [ports[name]],
                clients,
                f'/hold?{hold}',
                count=clients * each,
                **ask,
            )
            left = load([ports[name]], 1, '/read', count=1, **ask)
            result.setdefault(name, {})[f'{hold} ms'] = {
                'of': clients * each,
                'survived': int(left.text) - 1,
                'failed': done.failed,
                'seconds': done.elapsed,
            }
    return result


@dataclass(frozen=True)
class Contest:
    """Who contends for one session, from how many processes."""

    contender: str
    processes: int = 1
    poll: tuple[float, float] = JITTER
    holds: Sequence[int] = tuple(HOLDS)
    #: At most so many requests at once: what takes long enough as it is.
    most: int = 64


#: By what the tables call them.
CONTESTS = {
    f'{CONTENDERS[name].label}, {count}': Contest(name, processes)
    for count, processes in (('one process', 1), ('four processes', 4))
    for name in LOCKS
} | {
    'lock polled by writes, jittered': Contest('floor-boto3'),
    'lock polled by writes, every 500 ms': Contest(
        'floor-boto3', poll=EVERY_HALF_SECOND, holds=(50,), most=8
    ),
}


@dataclass(frozen=True)
class Burst:
    """So many requests of one session at once; each holds it for `hold`."""

    contest: str
    hold: int
    count: int


def contention(bench: Bench) -> Any:
    """What it takes until so many requests of one session are done.

    The time is taken in one series of bursts; the calls are counted in
    another, as the proxy that counts them takes time itself.
    """
    result: dict[str, Any] = {}
    with slow_stores(bench) as slow:
        for burst, ports in bursts(bench, 'contention', slow, HOLDS):
            done = burst_of(ports, burst, lambda: None)
            note(result, burst, ms=done.elapsed * 1e3, failed=done.failed)
        with CountingProxy(slow['endpoint']) as proxy:
            options = {'endpoint': proxy.url}
            once = dict.fromkeys(HOLDS, 1)
            for burst, ports in bursts(
                bench, 'calls of bursts', options, once
            ):
                burst_of(ports, burst, proxy.clear)
                note(result, burst, **proxy.sums())
    return result


def bursts(
    bench: Bench, what: str, options: dict[str, Any], repeats: dict[int, int]
) -> Iterator[tuple[Burst, list[int]]]:
    """Each burst in its turn, and the ports of those who serve it."""
    contests = {
        name: contest
        for name, contest in CONTESTS.items()
        if contest.contender in bench.names
    }
    effort = bench.effort
    turns = [
        Burst(name, hold, count)
        for hold, repeat in repeats.items()
        for _ in range(effort.loads * repeat)
        for count in effort.contending
        for name, contest in contests.items()
        if hold in contest.holds and count <= contest.most
    ]
    with contextlib.ExitStack() as stack:
        ports = {
            name: [
                stack.enter_context(
                    Worker(
                        contest.contender,
                        replace(bench.options, poll=contest.poll, **options),
                    )
                ).serve(max(effort.contending))
                for _ in range(contest.processes)
            ]
            for name, contest in contests.items()
        }
        for burst in bench.steps(turns, what):
            yield burst, ports[burst.contest]


def burst_of(
    ports: list[int], burst: Burst, begin: Callable[[], None]
) -> Load:
    """A burst of a new session, once each process has connected."""
    ask: dict[str, Any] = {'jar': Jar(), 'warm_up': False}
    for port in ports:
        load([port], 1, '/write', count=1, **ask)
    begin()
    path = f'/hold?{burst.hold}'
    return load(ports, burst.count, path, count=burst.count, **ask)


def note(result: dict[str, Any], burst: Burst, **found: float) -> None:
    """Add what was found in a burst to the result."""
    contests = result.setdefault(str(burst.hold), {})
    counts = contests.setdefault(burst.contest, {})
    lists = counts.setdefault(str(burst.count), {})
    for what, value in found.items():
        lists.setdefault(what, []).append(value)


# -- as work grows ---------------------------------------------------------


def size(bench: Bench) -> Any:
    """Units and CPU of a read+write request, by the session's size."""
    result: dict[str, Any] = {}
    effort = bench.effort
    names = [
        name for name in bench.taking_part('size') if CONTENDERS[name].store
    ]
    with (
        CountingProxy(bench.options.endpoint) as proxy,
        bench.workers(names, endpoint=proxy.url) as workers,
    ):
        for kilobytes in bench.steps(effort.kilobytes, 'units by size'):
            for name, worker in workers.items():
                filled(worker, kilobytes)
                proxy.clear()
                worker.requests('/write', 4)
                result.setdefault(name, {})[str(kilobytes)] = {
                    what: value / 4 for what, value in proxy.sums().items()
                }
    count = max(5, effort.batch // 4)
    with bench.workers(names) as workers:
        for kilobytes in bench.steps(effort.kilobytes, 'CPU by size'):
            for worker in workers.values():
                filled(worker, kilobytes)
            for _ in range(effort.loads):
                for name, worker in workers.items():
                    spent = worker.requests('/write', count)['cpu']
                    result[name][str(kilobytes)].setdefault('cpu', []).append(
                        spent / count * 1e6
                    )
    return result


def filled(worker: Worker, kilobytes: int) -> None:
    """Fill the session: the counter, and so many KB of JSON."""
    worker.requests('/fill', 1, str(kilobytes * KILOBYTE - 60))
    worker.requests('/write', 2)


def items(bench: Bench) -> Any:
    """Milliseconds and CPU of a request, by the items in the table."""
    result: dict[str, Any] = {}
    names = bench.of_these(OURS)
    if not names:
        return result
    count = bench.effort.batch
    with (
        engines.dynoxide() as endpoint,
        bench.workers(names, endpoint=endpoint) as workers,
    ):
        present = 0
        for target in bench.steps(bench.effort.items, 'items in the table'):
            fill_table(
                endpoint,
                f'{bench.options.prefix}-ours',
                range(present, target),
            )
            present = target
            for worker in workers.values():
                worker.requests('/write', 20)
            for _ in range(bench.effort.loads):
                for name, worker in workers.items():
                    cpu = worker.usage()['cpu']
                    times = sorted(worker.times('/write', count))
                    cpu = worker.usage()['cpu'] - cpu
                    result.setdefault(name, {}).setdefault(
                        str(target), []
                    ).append(
                        {
                            'p50': times[len(times) // 2] * 1e3,
                            'cpu': cpu / count * 1e6,
                        }
                    )
    return result


def fill_table(endpoint: str, table: str, numbers: range) -> None:
    """Put items into a table, such as sessions are."""
    client = BarePycurl(endpoint)
    client.headers['BatchWriteItem'] = [
        header.replace('PutItem', 'BatchWriteItem')
        for header in client.headers['PutItem']
    ]
    body = json.dumps({'n': 1, 'cart': cart(200)})
    for start in range(numbers.start, numbers.stop, 25):
        puts = [
            {
                'PutRequest': {
                    'Item': {
                        'SessionId': {'S': f'other-{number:036x}'},
                        'SessionItems': {'S': body},
                        'CreateDate': {'N': '1999999999'},
                        'Expires': {'N': '1999999999'},
                        'Ver': {'N': '1'},
                    }
                }
            }
            for number in range(start, min(start + 25, numbers.stop))
        ]
        client.call('BatchWriteItem', {'RequestItems': {table: puts}})


# -- start and memory ------------------------------------------------------

MODULES = {
    'boto3': 'pyramid_dynamodb_session',
    'direct': 'pyramid_dynamodb_session',
    'luhn': 'pyramid_dynamodb_sessions',
    'flask': 'flask_session.dynamodb',
    'redis': 'pyramid_session_redis',
    'cookie': 'pyramid.session',
}
IMPORT = """
import json, sys, time
import pyramid.config, pyramid.response
start = time.perf_counter()
import {module}
print(json.dumps({{
    'import': 1e3 * (time.perf_counter() - start),
    'boto3': 'boto3' in sys.modules,
    'pycurl': 'pycurl' in sys.modules,
}}))
"""


def start(bench: Bench) -> Any:
    """Milliseconds to import, to make the application, to answer first."""
    names = bench.taking_part('start')
    result: dict[str, Any] = {name: [] for name in names}
    for _ in bench.steps(range(bench.effort.loads), 'start'):
        for name in names:
            with bench.workers([name]) as workers:
                worker = workers[name]
                later = sorted(worker.times('/write', bench.effort.batch))
                result[name].append(
                    {
                        **imported(MODULES.get(name)),
                        'app': worker.start['app'] * 1e3,
                        'first': worker.start['first'] * 1e3,
                        'later': later[len(later) // 2] * 1e3,
                        'megabytes': worker.start['kilobytes'] / 1e3,
                    }
                )
    return result


def imported(module: str | None) -> dict[str, Any]:
    if module is None:
        return {}
    output = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', IMPORT.format(module=module)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=True,
    ).stdout
    loaded: dict[str, Any] = json.loads(output)
    return loaded


def soak(bench: Bench) -> Any:
    """Resident KB of a process after so many requests.

    Of a hundred, the first makes a new session, and then 54 write, 25 only
    read, 10 read under the lock, 10 use no session.
    """
    result: dict[str, Any] = {}
    hundreds = bench.effort.soak // 100
    report = max(1, hundreds // 50)
    mixture = (('/write', 55), ('/read', 25), ('/locked', 10), ('/none', 10))
    with bench.workers(bench.of_these(OURS)) as workers:
        for hundred in bench.steps(range(1, hundreds + 1), 'soak'):
            for name, worker in workers.items():
                worker.forget()
                for path, count in mixture:
                    worker.requests(path, count)
                if hundred % report == 0 or hundred == 1:
                    result.setdefault(name, []).append(
                        [hundred * 100, worker.usage()['kilobytes']]
                    )
    return result


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    'cpu': cpu,
    'tls': tls,
    'calls': calls,
    'throughput': throughput,
    'survival': survival,
    'contention': contention,
    'size': size,
    'threads': threads,
    'items': items,
    'start': start,
    'soak': soak,
    'profile': profile,
}
