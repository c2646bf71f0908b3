"""Random histories: browsers, processes and faults, as a seed has them."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pyramid.exceptions import ConfigurationError

from tests.simulation.application import (
    APPLICATION,
    ENVIRON,
    INCLUDES,
    KINDS,
    SCRIPT,
    TABLE,
    item_name,
    make_application,
    package,
)
from tests.simulation.checker import EXPECTED_ERRORS, Checker
from tests.simulation.client import (
    Call,
    Client,
    FaultRates,
    RandomNetwork,
    Server,
    short,
)
from tests.simulation.database import Database, DatabaseRates
from tests.simulation.kinds import TIMEOUT, Kind
from tests.simulation.loading import in_place
from tests.simulation.misfortunes import Misfortunes
from tests.simulation.observations import Request, Violation
from tests.simulation.ownership import remove_sessions
from tests.simulation.scheduler import EPOCH, Process, World
from tests.simulation.stdlib import patched

#: Seconds after which a duplicate arrives no more.
DRAIN = 65.0


@dataclasses.dataclass
class Profile:
    """What happens in a history, and how often.

    ``kinds`` are weights; the rest are probabilities at each request, but
    for ``clock_error``: seconds that a process's clock may be wrong.
    """

    kinds: dict[str, float] = dataclasses.field(
        default_factory=lambda: {
            'write': 20,
            'write by default': 4,
            'read': 10,
            'optimistic write': 14,
            'optimistic read': 5,
            'read_only': 8,
            'none': 1,
            'login': 4,
            'login, save': 2,
            'login, save, fail': 1,
            'login, fail': 1,
            'optimistic login': 2,
            'logout': 2,
            'logout, write': 1,
            'redirect': 2,
            'refuse': 1,
            'fail at first': 3,
            'optimistic, fail': 2,
            'crash': 2,
            'save midway': 3,
            'save, fail': 2,
            'adjust timeout': 1,
            'end elsewhere': 1,
            'order': 6,
            'order first': 2,
            'optimistic order': 5,
            'login, order': 1,
            'optimistic login, order': 1,
            'order, logout': 1,
            'read_only order': 1,
            'order, crash': 1,
            'order, fail': 2,
            'order, doom': 1,
            'login, owner': 4,
            'optimistic login, owner': 2,
            'set owner': 4,
            'disown': 1,
            'sign out others': 1,
            'sign out elsewhere': 1,
        }
    )
    database: DatabaseRates = dataclasses.field(default_factory=DatabaseRates)
    faults: FaultRates = dataclasses.field(default_factory=FaultRates)
    kills: float = 0.01
    stops: float = 0.01
    outages: float = 0.004
    clock_jumps: float = 0.01
    refused_threads: float = 0.005
    lost_answers: float = 0.005
    long_holds: float = 0.03
    preemption: float = 0.02
    clock_error: float = 600.0
    #: of histories in which sessions have owners
    owned: float = 0.5
    #: of histories in which ``pyramid_tm`` is active in each request
    in_transactions: float = 0.2
    #: of ``set_on_exception = false``, ``lock_lease``s, at each history
    not_on_exception: float = 0.2
    leases: tuple[float, ...] = (3, 3, 4, 10)
    browsers: tuple[int, ...] = (1, 2, 3, 5)
    processes: tuple[int, ...] = (1, 2, 3, 4)


#: Without faults of any kind, on one lock and session each.
CALM = FaultRates(attempt=0.0, stale=0.3)


#: The counters of :class:`Statistics`.
COUNTED = ('answers', 'rows', 'owners', 'kinds', 'faults', 'violations')


@dataclasses.dataclass
class Statistics:
    """What one or more histories were like."""

    histories: int = 0
    requests: int = 0
    calls: int = 0
    seconds: float = 0.0
    answers: Counter[str] = dataclasses.field(default_factory=Counter)
    rows: Counter[str] = dataclasses.field(default_factory=Counter)
    owners: Counter[str] = dataclasses.field(default_factory=Counter)
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    violations: Counter[str] = dataclasses.field(default_factory=Counter)
    #: the first few, each with the seed of its history and its story
    examples: list[tuple[int, Violation, str]] = dataclasses.field(
        default_factory=list
    )
    digest: str = ''

    def add(self, other: Statistics, examples: int = 20) -> None:
        self.histories += other.histories
        self.requests += other.requests
        self.calls += other.calls
        self.seconds += other.seconds
        for name in COUNTED:
            getattr(self, name).update(getattr(other, name))
        self.examples += other.examples
        del self.examples[examples:]
        digest = hashlib.sha256((self.digest + other.digest).encode())
        self.digest = digest.hexdigest()


class Browser:
    """One cookie jar, and the requests that it sends."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.jar: str | None = None
        self.in_flight = 0

    def __str__(self) -> str:
        return f'b{self.number}'


class WebServer:
    """A process with the application in it."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.simulation = simulation
        world = simulation.world
        error = simulation.profile.clock_error
        self.process = Process(
            world, name, world.random.uniform(-error, error)
        )
        self.client = Client(self.process, simulation.network)
        self.application: Any = None
        self.store: Any = None
        world.spawn(self.process, self._begin, 'main')

    def _begin(self) -> None:
        try:
            self._make()
        except ConfigurationError as error:
            # no table to be had: the process exits, and is started again
            world = self.simulation.world
            world.note('exit', self.process, error)
            world.after(0.1, world.kill, self.process)
            world.after(1, self.simulation.restart, self)

    def _make(self) -> None:
        self.application = make_application(
            self.client, self.simulation.settings, self.simulation.includes
        )
        store = package().DynamoDBSessionStore(
            self.client,
            application=APPLICATION,
            table=TABLE,
            timeout=TIMEOUT,
            **self.simulation.store_settings,
        )
        store.initialize()
        self.store = store

    @property
    def is_ready(self) -> bool:
        return self.store is not None and not self.process.is_dead

    def serve(self, request: Request) -> None:
        """Answer a request, in a thread of its own."""
        world = self.simulation.world
        checker = self.simulation.checker
        checker.start(request, self.process)
        fiber = world.spawn(
            self.process,
            lambda: self._answer(request),
            f'request-{request.number}',
        )
        fiber.request = request
        request.fiber = fiber

    def _answer(self, request: Request) -> None:
        try:
            if request.kind.name == 'end elsewhere':
                self._end_elsewhere(request)
            elif request.kind.name == 'sign out elsewhere':
                self._sign_out_elsewhere(request)
            else:
                self._respond(request)
        except Exception as error:
            request.status = 500
            request.error = type(error).__name__
            if request.error not in EXPECTED_ERRORS:
                request.outcome = repr(error)
                raise_again(self.simulation, error)
        self.simulation.answered(request)

    def _respond(self, request: Request) -> None:
        state = request.kind.state
        environ = {
            **ENVIRON,
            'PATH_INFO': f'/{state}',
            SCRIPT: request,
        }
        if request.cookie is not None:
            environ['HTTP_COOKIE'] = f'session={request.cookie}'
        headers: list[tuple[str, str]] = []

        def start_response(
            status: str, fields: list[tuple[str, str]], exc_info: Any = None
        ) -> None:
            request.status = int(status[:3])
            headers[:] = fields

        for _ in self.application(environ, start_response):
            pass
        for field, value in headers:
            if field == 'Set-Cookie':
                request.set_cookie = value.partition(';')[0].partition('=')[2]
            elif field == 'X-Error':
                request.error = value
            elif field == 'X-Outcome':
                request.outcome = value
            elif field == 'X-Transaction':
                request.transaction = value
            elif field == 'X-Message':
                request.message = value
            elif field == 'Retry-After':
                request.asks_to_retry = True

    def _end_elsewhere(self, request: Request) -> None:
        errors = package()
        try:
            self.store.remove_item(request.cookie)
            request.status = 200
        except errors.SessionStoreUnavailable as error:
            request.status = 503
            request.error = 'SessionStoreUnavailable'
            request.outcome = getattr(error, 'outcome', 'unknown')

    def _sign_out_elsewhere(self, request: Request) -> None:
        if remove_sessions(self.store, request):
            request.status = 200
        else:
            request.status = 503
            request.error = 'SessionStoreUnavailable'


def raise_again(simulation: Simulation, error: Exception) -> None:
    """Keep the traceback of an error that nobody expected."""
    import traceback

    simulation.world.note('error', ''.join(traceback.format_exception(error)))


class Simulation:
    """One small world, from its first request to its last."""

    def __init__(
        self, seed: int, requests: int, profile: Profile | None = None
    ) -> None:
        self.seed = seed
        self.profile = profile = profile or Profile()
        self.world = world = World(seed, profile.preemption)
        self.server = Server(world)
        self.faults: Counter[str] = Counter()
        self.network = RandomNetwork(
            self.server, profile.faults, self._fault_happened
        )
        draw = world.random
        self.lease = draw.choice(profile.leases)
        self.set_on_exception = draw.random() >= profile.not_on_exception
        wait = 1.5 * self.lease
        self.settings = {
            'dynamodb_session.lock_lease': self.lease,
            'dynamodb_session.lock_wait': wait,
            'dynamodb_session.lock_queue_limit': 10,
            'dynamodb_session.timeout': TIMEOUT,
            'dynamodb_session.touch_interval': 2,
            'dynamodb_session.set_on_exception': self.set_on_exception,
        }
        self.store_settings: dict[str, str] = {}
        if draw.random() < profile.owned:
            index = self.server.table.index
            assert index is not None
            self.store_settings = {'owner_index': index.name}
            self.settings['dynamodb_session.owner_index'] = index.name
        self.checker = Checker(
            self.server, self.lease, wait, self.set_on_exception
        )
        world.thread_died = self._thread_died
        self._misfortunes = Misfortunes(self)
        self.database = Database(
            world,
            self.checker.database,
            self.lease,
            self._misfortunes.interrupt,
            profile.database,
        )
        self._everything_in_transactions = (
            draw.random() < profile.in_transactions
        )
        self.includes = draw.choice((INCLUDES, INCLUDES[::-1]))
        self.servers: list[WebServer] = []
        self.browsers = [
            Browser(number) for number in range(draw.choice(profile.browsers))
        ]
        self.left = requests
        self.number = 0
        self.ids: dict[str, str] = {}
        self.kinds: Counter[str] = Counter()
        self._kind_names = list(profile.kinds)
        self._kind_weights = list(profile.kinds.values())

    # -- running ---------------------------------------------------------

    def run(self) -> Statistics:
        """Run the history; what it was like."""
        world, checker = self.world, self.checker
        with in_place(), patched(world), quiet():
            count = world.random.choice(self.profile.processes)
            for number in range(count):
                self.servers.append(WebServer(self, f'p{number}'))
            self._wait_for(
                lambda: all(server.is_ready for server in self.servers), 60
            )
            for browser in self.browsers:
                world.after(world.random.random(), self._browse, browser)
            self._wait_for(lambda: not self.left, 100_000)
            self._wait_for(lambda: not checker.in_flight, 900)
            for request in tuple(checker.in_flight.values()):
                text = f'{request} ({request.kind}) never ends'
                checker.violation('hangs', text, request.name)
            world.run(world.now + DRAIN, lambda: False)
            self._visit_all()
            for server in self.servers:
                world.kill(server.process)
        gc.collect(0)
        return self._statistics()

    def _wait_for(self, is_over: Any, seconds: float) -> None:
        self.world.run(self.world.now + seconds, is_over)

    def _visit_all(self) -> None:
        """When all is over, each living session can be had in a lease."""
        self.network.is_faultless = True
        world, checker = self.world, self.checker
        server = WebServer(self, 'last')
        self.servers.append(server)
        self._wait_for(lambda: server.is_ready, 60)
        ids = [
            session_id
            for name, session_id in self.ids.items()
            if checker.data(name) is not None
        ]
        requests = []
        for session_id in ids:
            request = self._request(Browser(99), KINDS['write'], session_id)
            request.pause = 0
            requests.append(request)
            server.serve(request)
        started = world.now
        self._wait_for(lambda: not checker.in_flight, 100)
        for request in requests:
            seconds = (request.ended or world.now) - started
            if request.status != 200 or seconds > self.lease + 3:
                text = (
                    f'{short(request.name or "")} could not be locked in '
                    f'{seconds:.1f} s when all was over: {request.status}'
                )
                checker.violation('dead lock stands', text, request.name)

    def _statistics(self) -> Statistics:
        violations = self.checker.violations
        return Statistics(
            histories=1,
            requests=self.number,
            calls=sum(1 for event in self.world.trace if event[1] == 'done'),
            seconds=self.world.now - EPOCH,
            answers=Counter(self.checker.counts),
            rows=Counter(self.checker.database.counts),
            owners=Counter(self.checker.owners.counts),
            kinds=self.kinds,
            faults=self.faults,
            violations=Counter(found.kind for found in violations),
            examples=[
                (self.seed, found, self.story(found))
                for found in violations[:3]
            ],
        )

    # -- browsers --------------------------------------------------------

    def _browse(self, browser: Browser) -> None:
        """Send some requests at once, and come again later."""
        if not self.left:
            return
        draw = self.world.random
        burst = 1 + int(draw.random() < 0.5) * draw.randrange(4)
        for _ in range(min(burst, self.left)):
            if browser.in_flight < 8:
                self._send(browser)
        chance = draw.random()
        if chance < 0.7:
            pause = 0.05 * draw.random()
        elif chance < 0.97:
            pause = draw.random()
        else:
            pause = 15 * draw.random()
        self.world.after(pause, self._browse, browser)

    def _request(
        self, browser: Browser, kind: Kind, cookie: str | None
    ) -> Request:
        self.number += 1
        request = Request(
            self.number, browser, kind, cookie, f'user{browser.number}'
        )
        request.database = self.database
        request.uses_database = (
            kind.rows is not None or self._everything_in_transactions
        )
        return request

    def _send(self, browser: Browser) -> None:
        draw, world = self.world.random, self.world
        name = draw.choices(self._kind_names, self._kind_weights)[0]
        if name == 'end elsewhere' and browser.jar is None:
            name = 'write'
        if KINDS[name].ownership and not self.store_settings:
            name = 'write'
        request = self._request(browser, KINDS[name], browser.jar)
        self.left -= 1
        self.kinds[name] += 1
        browser.in_flight += 1
        if draw.random() < 0.5:
            request.hold = 0.05 * draw.random() ** 2
        if draw.random() < self.profile.long_holds:
            request.hold = draw.choice((0.5, 1.2, 2.5)) * self.lease
        request.pause = 0.1 * draw.random()
        if draw.random() < 0.05:
            request.pause = 2 * self.lease
        request.failures = draw.choice((1, 1, 2, 3))
        number = browser.number + (draw.random() < 0.4)
        request.owner = f'owner{number % 3}'
        world.after(0.002 * draw.random(), self._reach_server, request)
        self._misfortunes.draw()

    def _reach_server(self, request: Request) -> None:
        ready = [server for server in self.servers if server.is_ready]
        awake = [each for each in ready if not each.process.is_stopped]
        if awake and self.world.random.random() < 0.8:
            ready = awake
        if not ready:
            # no process to listen
            request.browser.in_flight -= 1
            return
        self.world.random.choice(ready).serve(request)

    def answered(self, request: Request) -> None:
        """A web server has made the answer; it is on its way."""
        self.checker.answered(request)
        draw = self.world.random
        if request.set_cookie:
            self.ids[item_name(request.set_cookie)] = request.set_cookie
        delay = 0.03 * draw.random() ** 2
        if draw.random() < 0.02:
            delay = 3 * draw.random()
        if draw.random() < self.profile.lost_answers:
            self.faults['answer lost'] += 1
            request.set_cookie = None
        self.world.after(delay, self._arrive, request)

    def _arrive(self, request: Request) -> None:
        browser = request.browser
        browser.in_flight -= 1
        if request.status == 409 and self.world.random.random() < 0.5:
            self._maybe_forget(browser)
        self.checker.arrived(request, browser.jar)
        if request.set_cookie is not None:
            browser.jar = request.set_cookie or None
            self.world.note(
                'jar',
                browser,
                request,
                short(item_name(browser.jar)) if browser.jar else 'empty',
            )

    def _maybe_forget(self, browser: Browser) -> None:
        """Whoever is told of a session that has ended may begin anew."""
        if browser.jar and self.checker.data(item_name(browser.jar)) is None:
            browser.jar = None
            self.world.note('jar', browser, 'emptied')

    # -- what goes wrong -------------------------------------------------

    def _fault_happened(self, kind: str, call: Call) -> None:
        self.faults[kind] += 1
        self.checker.disturbed(call.process, call)

    def _thread_died(self, name: str, error: Exception) -> None:
        text = f'{name}: {error!r}'
        self.checker.violation('a thread died of an error', text)

    def restart(self, server: WebServer) -> None:
        place = self.servers.index(server)
        again = WebServer(self, server.process.name)
        self.world.note('restart', again.process)
        self.servers[place] = again

    # -- telling ---------------------------------------------------------

    def story(self, violation: Violation, lines: int = 40) -> str:
        """What led to a violation: of its sessions and processes alone."""
        shown = [short(name) for name in violation.names]
        told = []
        for event in self.world.trace:
            time, what, *_ = event
            if time > violation.time:
                break
            text = tell(event)
            is_general = what in ('kill', 'stop', 'go on', 'outage', 'error')
            if not shown or is_general or any(name in text for name in shown):
                told.append(text[:400])
        return '\n'.join(told[-lines:])

    def digest(self) -> str:
        """A hash of all that happened."""
        told = hashlib.sha256()
        for event in self.world.trace:
            told.update(' '.join(str(part) for part in event).encode())
        return told.hexdigest()


def tell(event: tuple[Any, ...]) -> str:
    """A line of the trace."""
    time, *what = event
    return f'{time - EPOCH:10.4f} ' + ' '.join(str(part) for part in what)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No logging, no garbage collection: neither is deterministic."""
    level = logging.root.manager.disable
    was_enabled = gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)
        if was_enabled:
            gc.enable()


def run(
    seed: int,
    requests: int = 300,
    profile: Profile | None = None,
    with_digest: bool = False,
) -> Statistics:
    """One history."""
    simulation = Simulation(seed, requests, profile)
    statistics = simulation.run()
    if with_digest:
        statistics.digest = simulation.digest()
    return statistics


def run_task(task: tuple[int, int, Profile, bool]) -> Statistics:
    """:func:`run`, for :meth:`multiprocessing.pool.Pool.imap`."""
    return run(*task)
