"""Random requests under random faults, and the checker of what they saw.

Each write appends a token of its own to a list in the session, each read
returns that list: whatever goes wrong with a lock shows in a token that is
lost, doubled or out of line.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from itertools import chain

from tests.support.browser import Browser
from tests.support.proxy import (
    LOSE_REPLY,
    RESET,
    Fault,
    FaultProxy,
    error,
    slow,
)
from tests.support.servers import Server
from tests.support.together import together

LEASE = 1
#: Seconds that an answer of the store may take; slow calls take longer, so
#: they are applied when the client has long tried again.
READ_TIMEOUT = 0.4
SLOWEST = 2 * READ_TIMEOUT
SETTINGS = {
    'pyramid.includes': 'tests.apps.history_app',
    'dynamodb_session.lock_lease': str(LEASE),
    'dynamodb_session.lock_wait': '5',
    'dynamodb_session.connect_timeout': str(READ_TIMEOUT),
    'dynamodb_session.read_timeout': str(READ_TIMEOUT),
    'dynamodb_session.max_attempts': '3',
}


@dataclass(frozen=True)
class Request:
    """A request as its client saw it."""

    started: float
    ended: float
    #: What it was to append; none if it only read.
    token: str | None
    #: 0 when no answer came.
    status: int
    #: The list as the answer had it.
    tokens: tuple[str, ...] = ()


def send(
    browser: Browser, token: str | None = None, hold: float = 0
) -> Request:
    """Append a token, or read, holding the lock for so many seconds."""
    started = time.monotonic()
    status, tokens = 0, ()
    try:
        answer = (
            browser.clone().get('/peek', hold=hold)
            if token is None
            else browser.clone().get('/append', token=token, hold=hold)
        )
        status = answer.status
        if status == 200:
            tokens = tuple(answer.json['tokens'])
    except (OSError, HTTPException):
        pass
    return Request(started, time.monotonic(), token, status, tokens)


def violations(requests: Iterable[Request], final: list[str]) -> Iterator[str]:
    """What is wrong with the history of a session that ended as ``final``."""
    requests = sorted(requests, key=lambda request: request.started)
    stored = Counter(final)
    for request in requests:
        times = stored.pop(request.token, 0)
        if times > 1:
            yield f'{request.token} is stored {times} times'
        if request.token and request.status == 200 and times == 0:
            yield f'{request.token} was answered with 200 and is not stored'
    for token in stored:
        yield f'{token} is stored and was never sent'
    yield from out_of_line(requests, final)


def out_of_line(requests: list[Request], final: list[str]) -> Iterator[str]:
    """Answers that are no earlier state, or older than one before them."""
    answered = [request for request in requests if request.status == 200]
    by_end = sorted(answered, key=lambda request: request.ended)
    known = ended = 0
    for request in answered:
        while by_end[ended].ended < request.started:
            known = max(known, len(by_end[ended].tokens))
            ended += 1
        seen = list(request.tokens)
        if seen != final[: len(seen)]:
            yield f'{request} saw what the session has never been'
        if request.token and seen[-1:] != [request.token]:
            yield f'{request} did not see its own token last'
        if len(seen) - bool(request.token) < known:
            yield f'{request} went back before the {known} seen earlier'


# -- the random run -------------------------------------------------------

SESSIONS, CLIENTS, PROCESSES = 3, 3, 3


@dataclass
class Run:
    """Some seconds of requests and faults, and what came of them."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f'seed {self.seed}: {self.statuses.total()} requests '
            f'{dict(sorted(self.statuses.items()))}, '
            f'faults {dict(sorted(self.faults.items()))}, '
            f'{len(self.violations)} violations'
        )


class RandomRun:
    """Everything that happens at random, from one seed."""

    def __init__(self, seed: int, proxy: FaultProxy, settings: dict[str, str]):
        self.run = Run(seed)
        self._random = random.Random(seed)
        self._proxy = proxy
        self._settings = settings | SETTINGS
        self._settings['dynamodb_session.endpoint_url'] = proxy.url
        self._mutex = threading.Lock()
        self._over = threading.Event()
        self._servers: list[Server] = []

    def execute(self, seconds: float) -> Run:
        """Run for about so long; then check the history of each session."""
        with ExitStack() as stack:
            stack.callback(lambda: [s.close() for s in self._servers])
            for _ in range(PROCESSES):
                self._servers.append(Server(self._settings))
            browsers = [self._new_browser() for _ in range(SESSIONS)]
            with self._faults(seconds):
                histories = together(
                    partial(self._client, browser, f'{number}.{client}')
                    for number, browser in enumerate(browsers)
                    for client in range(CLIENTS)
                )
            for number, browser in enumerate(browsers):
                of_session = histories[number * CLIENTS :][:CLIENTS]
                self._check([*chain(*of_session)], browser)
        return self.run

    def _new_browser(self) -> Browser:
        browser = Browser(self._servers[0].url, timeout=20)
        assert browser.get('/append', token='first').status == 200
        return browser

    def _client(self, browser: Browser, name: str) -> list[Request]:
        """What one of the clients of a session does, one by one."""
        chance = random.Random(f'{self.run.seed} {name}')
        history = []
        while not self._over.is_set():
            server = chance.choice(self._servers)
            token = f'{name}.{len(history)}'
            request = send(
                browser.at(server.url),
                token if chance.random() < 0.75 else None,
                hold=chance.choice([0] * 16 + [0.02] * 3 + [0.5 * LEASE]),
            )
            history.append(request)
            with self._mutex:
                self.run.statuses[request.status] += 1
            if request.status != 200:
                time.sleep(0.05)
        return history

    @contextmanager
    def _faults(self, seconds: float) -> Iterator[None]:
        """Faults and accidents, for so long."""
        self._proxy.fault = self._fault
        with ThreadPoolExecutor(1) as threads:
            accidents = threads.submit(self._accidents, seconds)
            yield
        self._proxy.heal()
        accidents.result()

    def _fault(
        self, number: int, operation: str, request: object
    ) -> Fault | None:
        with self._mutex:
            fault = self._random.choices(
                [
                    None,
                    LOSE_REPLY,
                    RESET,
                    slow(self._random.uniform(0, SLOWEST)),
                    error(500, 'InternalServerError'),
                    error(400, 'ProvisionedThroughputExceededException'),
                ],
                [90, 3, 2, 3, 1, 1],
            )[0]
            if fault:
                self.run.faults[fault.name] += 1
        return fault

    def _accidents(self, seconds: float) -> None:
        """Each kind at least once; then the run is over."""
        end = time.monotonic() + seconds
        kinds = [self._kill, self._stop, self._refuse]
        try:
            while kinds or time.monotonic() < end:
                time.sleep(self._random.uniform(0.3, 1))
                accident = kinds.pop() if kinds else self._any_accident()
                accident()
                name = accident.__name__.strip('_')
                with self._mutex:
                    self.run.faults[name] += 1
        finally:
            self._over.set()

    def _any_accident(self) -> Callable[[], None]:
        return self._random.choice(
            [self._kill, self._stop, self._stop, self._refuse]
        )

    def _kill(self) -> None:
        victim = self._random.randrange(PROCESSES)
        killed = self._servers[victim]
        killed.kill()
        self._proxy.fault = None  # or the new one might not come up
        self._servers[victim] = Server(self._settings)
        self._proxy.fault = self._fault

    def _stop(self) -> None:
        server = self._random.choice(self._servers)
        server.stop()
        time.sleep(self._random.uniform(0.2, 2) * LEASE)
        server.cont()

    def _refuse(self) -> None:
        self._proxy.refuse()
        time.sleep(self._random.uniform(0.1, 0.5))
        self._proxy.accept()

    def _check(self, history: list[Request], browser: Browser) -> None:
        time.sleep(SLOWEST)  # whatever is still on its way
        first = Request(0, 0, 'first', 200, ('first',))
        answer = browser.at(self._servers[0].url).get('/read')
        assert answer.status == 200
        final = answer.json['tokens']
        self.run.violations += violations([first, *history], final)
