"""Every interleaving of a few requests, in a world of choices.

A world without chance: nothing takes time, and where more than one thing can
happen next, a *chooser* decides. Replaying the choices of an execution up to
one of them, and then choosing otherwise, visits them all.

What is chosen is which call arrives next, which request begins next, what
befalls a call, and when a late duplicate arrives between two writes. What the
threads do between two calls is one step. Timers go on when no call is on its
way and all requests have begun; earlier, once, as a disturbance.

An execution that arrives at a state from which another has gone on ends
there (:mod:`tests.simulation.fingerprints` says what a state is): so the
executions are as many as there are different steps from different states,
and not as there are orders of steps. The tests compare the outcomes of both.

Pairs of requests have one disturbance, of any kind, in every place; three
requests have none, and are tried twice at the most instead of three times.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ConnectionClosedError

from tests.simulation.application import (
    APPLICATION,
    KINDS,
    TABLE,
    make_application,
    package,
)
from tests.simulation.checker import Checker
from tests.simulation.client import (
    URL,
    WRITES,
    Call,
    Client,
    Server,
    answer,
    short,
)
from tests.simulation.database import Database
from tests.simulation.fingerprints import (
    Histories,
    NoChance,
    RandomOfEachThread,
    RememberingChecker,
    hashed,
    items_of,
    late_state,
    rounded,
    thread_key,
)
from tests.simulation.kinds import TIMEOUT, Kind
from tests.simulation.loading import in_place
from tests.simulation.observations import Request
from tests.simulation.run import Browser, WebServer, quiet, tell
from tests.simulation.scheduler import EPOCH, Fiber, Process, World
from tests.simulation.stdlib import patched
from tests.simulation.table import Refused

#: The kinds that are set against each other.
PAIRED = (
    'write',
    'read',
    'optimistic write',
    'read_only',
    'login',
    'logout',
    'end elsewhere',
)
#: What may happen to a call.
FAULTS = ('request lost', 'reply lost', 'duplicate', 'late')
#: How often something of :data:`FAULTS` happens in an execution, or a timer
#: is over while calls are on their way.
DISTURBANCES = 1
LEASE = 3
#: Seconds between the clocks of one process and the next.
SKEW = 50.0
#: How often a request is tried at the most, where there are so many.
ATTEMPTS = {1: 3, 2: 3, 3: 2}
#: No execution has as many steps.
MOST_STEPS = 400


class Chooser:
    """Follows a prefix of choices, and takes the first of each from there.

    ``taken`` are pairs of what was chosen, and of how many.
    """

    def __init__(self, prefix: list[int]) -> None:
        self._prefix = prefix
        self.taken: list[tuple[int, int]] = []

    def choose(self, options: int) -> int:
        if options == 1:
            return 0
        place = len(self.taken)
        chosen = self._prefix[place] if place < len(self._prefix) else 0
        self.taken.append((chosen, options))
        return chosen

    @property
    def is_beyond_prefix(self) -> bool:
        """Whether it has chosen as nobody has before."""
        return len(self.taken) >= len(self._prefix)

    def next_prefix(self) -> list[int] | None:
        """The choices of the next execution; None after the last."""
        taken = self.taken
        for place in range(len(taken) - 1, -1, -1):
            chosen, options = taken[place]
            if chosen + 1 < options:
                return [*(pair[0] for pair in taken[:place]), chosen + 1]
        return None


@dataclasses.dataclass(eq=False, slots=True)
class Message:
    """A call on its way to the server, and who waits for the reply."""

    call: Call
    fiber: Fiber | None
    ticket: int = 0
    attempt: int = 0


class ChoiceNetwork:
    """Calls stay on their way until one is chosen."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.world = server.world
        self.messages: list[Message] = []
        #: copies that arrive at some time, or never
        self.late: list[Message] = []
        self.is_open = True

    def attempt(self, call: Call, attempt: int) -> dict[str, Any]:
        fiber = self.world.current
        assert fiber is not None
        if self.is_open:
            result = self.server.execute(call)
        else:
            self.messages.append(Message(call, fiber, fiber.ticket, attempt))
            result = self.world.block()
        return answer(self.server, call, attempt, result)

    def deliver(self, message: Message, fault: str = '') -> Any:
        """Let it arrive, or fare as the fault has it; what is replied."""
        result: Any = None
        if fault:
            message.call.faults += 1
            self.world.note('fault', message.call, fault)
        if fault in ('', 'reply lost', 'duplicate'):
            result = self.server.execute(message.call)
        if fault in ('request lost', 'reply lost', 'late'):
            result = ConnectionClosedError(endpoint_url=URL)
        if fault in ('duplicate', 'late'):
            self.late.append(Message(message.call, None))
        if message.fiber is not None:
            self.world.wake(message.fiber, message.ticket, result, 1e-9)
        return result


class SmallWorld:
    """A few requests of one browser that has a session.

    :param placed: kinds, each with the number of the process that serves it.
    :param faults: those of :data:`FAULTS` that may happen.
    :param disturbances: how many of them, or of early timers, there may be.
    :param skew: seconds between the clocks of one process and the next.
    :param known: states that need not be visited again; None to visit all.
    """

    def __init__(
        self,
        placed: tuple[tuple[str, int], ...],
        faults: tuple[str, ...],
        chooser: Chooser,
        disturbances: int = DISTURBANCES,
        skew: float = SKEW,
        known: set[bytes] | None = None,
    ) -> None:
        self.skew = skew
        self.known = known
        #: whether it ended in a state that is known
        self.is_known = False
        self.placed = placed
        self.faults = faults
        self.chooser = chooser
        self.world = World(0)
        self.world.random = NoChance()  # type: ignore[assignment]
        self.world.package_random = RandomOfEachThread(  # type: ignore[assignment]
            self.world
        )
        self.histories = Histories(self.world)
        self.server = Server(self.world, has_lag=False)
        self.network = ChoiceNetwork(self.server)
        self.settings = {
            'dynamodb_session.lock_lease': LEASE,
            'dynamodb_session.lock_wait': 1.5 * LEASE,
            'dynamodb_session.lock_queue_limit': 10,
            'dynamodb_session.timeout': TIMEOUT,
            'dynamodb_session.touch_interval': 60,
            'retry.attempts': ATTEMPTS[len(placed)],
        }
        self.checker = RememberingChecker(self.server, LEASE, 1.5 * LEASE)
        self.database = Database(self.world, self.checker.database)
        self.browser = Browser(0)
        self.disturbances = disturbances
        self._offered_after = -1

    # -- the interface of WebServer's simulation -------------------------

    def answered(self, request: Request) -> None:
        self.checker.answered(request)
        if request.set_cookie is not None and self.network.is_open:
            self.browser.jar = request.set_cookie

    # -- running ---------------------------------------------------------

    def run(self) -> Checker:
        """One execution, as the chooser has it."""
        with in_place(), patched(self.world), quiet():
            servers = [
                SmallServer(self, number)
                for number in sorted({place for _, place in self.placed})
            ]
            self._run_all()
            servers[0].serve(self._request(KINDS['write'], 0))
            self._run_all()
            self.network.is_open = False
            by_number = {server.number: server for server in servers}
            waiting = [
                (self._request(KINDS[kind], number), by_number[place])
                for number, (kind, place) in enumerate(self.placed, 1)
            ]
            self._interleave(waiting)
            if not self.is_known:
                self._finish()
            for server in servers:
                self.world.kill(server.process)
        return self.checker

    def _request(self, kind: Kind, number: int) -> Request:
        request = Request(number, self.browser, kind, self.browser.jar, 'anna')
        request.database = self.database
        request.uses_database = kind.rows is not None
        return request

    def _run_all(self) -> None:
        self.world.run(self.world.now + 1, lambda: False)

    def _settle(self) -> None:
        """Run all that is runnable just now."""
        self.world.run(self.world.now + 1e-3, lambda: False)

    def _interleave(self, waiting: list[tuple[Request, Any]]) -> None:
        network, checker = self.network, self.checker
        for _ in range(MOST_STEPS):
            self._settle()
            if not (waiting or network.messages or checker.in_flight):
                break
            if self._was_here(waiting):
                self.is_known = True
                break
            if not self._step(waiting):
                checker.violation('hangs', 'nobody can go on')
                break
        else:
            checker.violation('hangs', 'too many steps')

    def _step(self, waiting: list[tuple[Request, Any]]) -> bool:
        """Do one of all that can be done next; False for nothing."""
        network, world = self.network, self.world
        options: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        for message in network.messages:
            options.append((self._deliver, (message, '')))
            options.extend(
                (self._deliver, (message, fault))
                for fault in self._faults_of(message)
            )
        options.extend((self._start, (waiting, each)) for each in waiting)
        if self._written != self._offered_after:
            # between two writes it does not matter when it arrives
            options.extend(
                (self._arrive_late, (each,)) for each in network.late
            )
            self._offered_after = self._written
        if world.next_thread() is not None:
            if not network.messages and not waiting:
                options.append((self._wake, ()))
            elif self.disturbances and network.messages:
                options.append((self._time_out, ()))
        if options:
            do, args = options[self.chooser.choose(len(options))]
            do(*args)
        return bool(options)

    @property
    def _written(self) -> int:
        return self.server.writes_done

    def _faults_of(self, message: Message) -> tuple[str, ...]:
        """What may happen to a call; a poll that is lost is tried again."""
        call = message.call
        if not self.disturbances or (
            call.parameters.get('ConsistentRead') is False
        ):
            return ()
        if call.operation in WRITES:
            return self.faults
        return tuple(
            fault
            for fault in self.faults
            if fault in ('request lost', 'reply lost')
        )

    def _deliver(self, message: Message, fault: str) -> None:
        self.network.messages.remove(message)
        if fault:
            self.disturbances -= 1
            self.checker.disturbed(message.call.process, message.call)
        key = self.histories.call_key(message.call, message.fiber)
        result = self.network.deliver(message, fault)
        shown = vars(result) if isinstance(result, Refused) else result
        self.histories.tell(message.call.process, key, fault, shown)

    def _start(self, waiting: list[Any], pair: tuple[Request, Any]) -> None:
        waiting.remove(pair)
        request, server = pair
        self.histories.tell(server.process, 'start', request.number)
        server.serve(request)

    def _arrive_late(self, message: Message) -> None:
        self.network.late.remove(message)
        self._offered_after = -1
        self.world.note('late arrival', message.call)
        self.server.execute(message.call)

    def _time_out(self) -> None:
        self.disturbances -= 1
        self._wake()

    def _wake(self) -> None:
        fiber = self.world.next_thread()
        assert fiber is not None
        self.histories.tell(fiber.process, 'timer', thread_key(fiber))
        self.world.step()

    def _was_here(self, waiting: list[tuple[Request, Any]]) -> bool:
        """Whether another execution has gone on from this state."""
        if self.known is None or not self.chooser.is_beyond_prefix:
            return False
        state = self._state(waiting)
        if state in self.known:
            return True
        self.known.add(state)
        return False

    def _state(self, waiting: list[tuple[Request, Any]]) -> bytes:
        network, checker = self.network, self.checker
        active = {
            *(server.process for _, server in waiting),
            *(message.call.process for message in network.messages),
            *(request.process for request in checker.in_flight.values()),
            *(lock.process for lock in checker.locks.values()),
        }
        return hashed(
            (
                self.histories.state(active),
                items_of(self.server.table.items),
                sorted(self._message_state(each) for each in network.messages),
                sorted(late_state(each.call) for each in network.late),
                [request.number for request, _ in waiting],
                self.disturbances,
                self._written != self._offered_after,
                rounded(self.world.now),
                checker.remembered(active),
            )
        )

    def _message_state(self, message: Message) -> tuple[Any, ...]:
        call = message.call
        return (
            self.histories.call_key(call, message.fiber),
            message.attempt,
            call.faults,
            call.carried_out,
        )

    def _finish(self) -> None:
        """What came late has come; nobody is left who holds a lock."""
        checker = self.checker
        while self.network.late:
            self._arrive_late(self.network.late[0])
        for name, lock in checker.locks.items():
            # a late duplicate may have taken it for nobody
            if not any(
                event[1] == 'late arrival' for event in self.world.trace
            ):
                text = f'{short(name)} is still locked, by {lock.token}'
                checker.violation('lock left behind', text, name)

    def outcome(self) -> tuple[Any, ...]:
        """What became of the requests, and of the sessions."""
        checker = self.checker
        return (
            *(
                (each.number, each.status, each.error, each.outcome)
                for each in checker.requests
            ),
            tuple(
                tuple(data and data.log for _, data in versions)
                for _, versions in sorted(checker.history.items())
            ),
        )

    def story(self) -> str:
        return '\n'.join(
            tell(event)[:400]
            for event in self.world.trace
            if event[0] >= EPOCH
        )


#: By the package, the number of the process, and how often it tries.
APPLICATIONS: dict[tuple[Any, int, int], Any] = {}


class SmallServer(WebServer):
    """A process whose application is made once, and used in all worlds.

    Only its session factory is made anew, from the same settings.
    """

    def __init__(self, simulation: Any, number: int) -> None:
        self.number = number
        self.simulation = simulation
        self.process = Process(
            simulation.world, f'p{number}', number * simulation.skew
        )
        self.client = Client(self.process, simulation.network)
        self.application: Any = None
        self.store: Any = None
        simulation.world.spawn(self.process, self._begin, 'main', 1e-9)

    def _begin(self) -> None:
        attempts = self.simulation.settings['retry.attempts']
        key = package(), self.number, attempts
        settings = {
            'dynamodb_session.client': self.client,
            'dynamodb_session.application': APPLICATION,
            'dynamodb_session.table': TABLE,
            **{
                name: value
                for name, value in self.simulation.settings.items()
                if name.startswith('dynamodb_session.')
            },
        }
        if key not in APPLICATIONS:
            APPLICATIONS[key] = make_application(
                self.client, self.simulation.settings
            )
        self.application = APPLICATIONS[key]
        factory = package().session_factory_from_settings(settings)
        factory.store.initialize()
        replace_session_factory(self.application.registry, factory)
        self.store = factory.store


def replace_session_factory(registry: Any, factory: Any) -> None:
    from pyramid.interfaces import ISessionFactory

    registry.registerUtility(factory, ISessionFactory)


@dataclasses.dataclass
class Report:
    """How many executions there were of which requests, and what failed."""

    schedules: int = 0
    #: executions that ended in a state from which another had gone on
    pruned: int = 0
    by_case: Counter[str] = dataclasses.field(default_factory=Counter)
    violations: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: list[str] = dataclasses.field(default_factory=list)
    outcomes: set[tuple[Any, ...]] = dataclasses.field(default_factory=set)

    def add(self, other: Report) -> None:
        self.schedules += other.schedules
        self.pruned += other.pruned
        self.by_case.update(other.by_case)
        self.violations.update(other.violations)
        self.examples += other.examples
        self.outcomes |= other.outcomes


def explore(
    placed: tuple[tuple[str, int], ...],
    faults: tuple[str, ...] = (),
    limit: int | None = None,
    disturbances: int = DISTURBANCES,
    skew: float = SKEW,
    is_reduced: bool = True,
) -> Report:
    """Every execution of these requests; `limit` of them at the most.

    :param is_reduced: whether one execution goes on from each state.
    """
    report = Report()
    prefix: list[int] | None = []
    seen: set[str] = set()
    known: set[bytes] | None = set() if is_reduced else None
    while prefix is not None and report.schedules != limit:
        chooser = Chooser(prefix)
        small = SmallWorld(placed, faults, chooser, disturbances, skew, known)
        checker = small.run()
        report.schedules += 1
        report.pruned += small.is_known
        if not small.is_known:
            report.outcomes.add(small.outcome())
        for found in checker.violations:
            report.violations[found.kind] += 1
            if found.kind not in seen:
                seen.add(found.kind)
                report.examples.append(
                    f'{case_name(placed)}, choices {prefix}: {found.kind}: '
                    f'{found.text}\n{small.story()}'
                )
        prefix = chooser.next_prefix()
    report.by_case[case_name(placed)] = report.schedules
    return report


def explore_task(task: tuple[Any, ...]) -> Report:
    """:func:`explore`, for :meth:`multiprocessing.pool.Pool.imap`."""
    return explore(*task)


def case_name(placed: tuple[tuple[str, int], ...]) -> str:
    return ' | '.join(f'{kind}@{place}' for kind, place in placed)


Case = tuple[tuple[tuple[str, int], ...], tuple[str, ...]]


def pairs(
    faults: tuple[str, ...] = FAULTS, paired: tuple[str, ...] = PAIRED
) -> Iterator[Case]:
    """Each pair of kinds, in two processes and in one."""
    for kinds in itertools.combinations_with_replacement(paired, 2):
        for places in ((0, 1), (0, 0)):
            yield tuple(zip(kinds, places, strict=True)), faults


def triples() -> Iterator[Case]:
    """Three requests, without faults."""
    for kinds in itertools.combinations_with_replacement(PAIRED, 3):
        for places in ((0, 1, 2), (0, 0, 1)):
            yield tuple(zip(kinds, places, strict=True)), ()
