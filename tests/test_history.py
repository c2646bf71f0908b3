"""Histories of real processes under random faults, kills and stops."""

from __future__ import annotations

import itertools
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pyramid_dynamodb_session.store.item import hash_key
from tests.apps.history_app import BREAKAGES
from tests.support.browser import Browser
from tests.support.history import RandomRun, Request, Run, send, violations
from tests.support.proxy import FaultProxy
from tests.support.servers import Server
from tests.support.together import wait_until

TakenOver = Callable[[str, 'str | None'], 'tuple[list[Request], list[str]]']
#: Of the processes that several tests share.
APPLICATION = f'test-{uuid.uuid4().hex[:8]}'

# -- the checker ----------------------------------------------------------


def wrote(token: str, *before: str, at: float = 0) -> Request:
    return Request(at, at + 1, token, 200, (*before, token))


def failed(token: str, status: int = 503) -> Request:
    return Request(0, 1, token, status)


def read(*tokens: str, at: float = 0) -> Request:
    return Request(at, at + 1, None, 200, tokens)


@pytest.mark.parametrize(
    ('history', 'final'),
    [
        ([], ''),
        ([wrote('a'), wrote('b', 'a')], 'ab'),
        ([wrote('a', 'b'), failed('b', 0)], 'ba'),
        ([wrote('a'), failed('b', 409)], 'a'),
        ([wrote('a'), read('a', at=2), wrote('b', 'a', at=4)], 'ab'),
        ([wrote('a'), read(), read('a')], 'a'),
    ],
)
def test_checker_accepts_what_may_happen(
    history: list[Request], final: str
) -> None:
    assert list(violations(history, list(final))) == []


@pytest.mark.parametrize(
    ('history', 'final', 'complaint'),
    [
        ([wrote('a'), wrote('b')], 'b', 'a was answered .* not stored'),
        ([wrote('a')], 'aa', 'a is stored 2 times'),
        ([failed('a')], 'aa', 'a is stored 2 times'),
        ([wrote('a')], 'ab', 'b is stored and was never sent'),
        ([wrote('a'), read('x')], 'a', 'has never been'),
        ([wrote('a'), read('a', 'b')], 'a', 'has never been'),
        ([wrote('a'), read(at=2)], 'a', 'went back'),
        ([wrote('a'), wrote('b', at=2)], 'ba', 'went back'),
        ([read('a', at=2), read(at=4), failed('a')], 'a', 'went back'),
        ([Request(0, 1, 'a', 200, ())], 'a', 'its own token last'),
    ],
)
def test_checker_finds(
    history: list[Request], final: str, complaint: str
) -> None:
    found = '\n'.join(violations(history, list(final)))
    assert re.search(complaint, found)


# -- a protocol broken on purpose -----------------------------------------


@pytest.fixture(scope='module')
def two(
    endpoint: str, settings_at: Callable[..., dict[str, str]]
) -> Iterator[list[Server]]:
    """Two processes whose protocol can be broken."""
    settings = {
        **settings_at(endpoint, APPLICATION),
        'pyramid.includes': 'tests.apps.history_app',
        'dynamodb_session.lock_lease': '0.6',
    }
    with Server(settings) as one, Server(settings) as other:
        yield [one, other]


@pytest.fixture
def taken_over_while_asleep(
    two: list[Server], client: Any, table: str
) -> TakenOver:
    def taken_over_while_asleep(
        how: str, first: str | None
    ) -> tuple[list[Request], list[str]]:
        """The history of a holder that wakes while another has its lock.

        It writes the token ``first``, or reads; a third request follows.
        """
        sleeps, other = (Browser(server.url) for server in two)
        for browser in (sleeps, other):
            assert browser.get('/break_protocol', how=how).status == 200
        assert sleeps.get('/append', token='start').status == 200
        other = sleeps.at(other.url)

        def lock_id() -> Any:
            name = hash_key(sleeps.cookies['session'], APPLICATION)
            answer = client.get_item(
                TableName=table,
                Key={'SessionId': {'S': name}},
                ConsistentRead=True,
            )
            return answer['Item'].get('LockId')

        with ThreadPoolExecutor() as threads:
            holder = threads.submit(send, sleeps, first, hold=1)
            wait_until(lambda: lock_id() is not None)
            two[0].stop()
            slept = lock_id()
            assert slept is not None
            second = threads.submit(send, other, 'second', hold=1.5)
            wait_until(lambda: lock_id() != slept)
            two[0].cont()
            history = [holder.result()]
            assert not second.done()
            history += [send(sleeps, 'third'), second.result()]
        start = Request(0, 0, 'start', 200, ('start',))
        return [start, *history], sleeps.get('/read').json['tokens']

    return taken_over_while_asleep


@pytest.mark.parametrize('how', BREAKAGES)
def test_broken_protocol_is_found(
    how: str, taken_over_while_asleep: TakenOver
) -> None:
    found = list(violations(*taken_over_while_asleep(how, 'first')))
    assert any('200 and is not stored' in violation for violation in found)


@pytest.mark.parametrize('first', ['first', None])
def test_sound_protocol_withstands_the_same(
    first: str | None, taken_over_while_asleep: TakenOver
) -> None:
    history, final = taken_over_while_asleep('', first)
    assert list(violations(history, final)) == []
    assert final == ['start', 'second', 'third']
    statuses = {request.token: request.status for request in history[1:]}
    assert statuses == {
        first: 409 if first else 200,
        'second': 200,
        'third': 200,
    }


# -- random faults --------------------------------------------------------

RunFor = Callable[[float], Run]


@pytest.fixture
def run_for(
    request: pytest.FixtureRequest,
    proxy: FaultProxy,
    settings: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> RunFor:
    """Run for so many seconds, with ``--seed`` or another one."""
    seed = request.config.getoption('seed')
    seeds = itertools.count(random.randrange(10**9) if seed is None else seed)

    def run_for(seconds: float) -> Run:
        run = RandomRun(next(seeds), proxy, settings).execute(seconds)
        with capsys.disabled():
            print(f'\n{run}')
        return run

    return run_for


def test_random_faults(run_for: RunFor) -> None:
    run = run_for(6)
    assert run.violations == []
    assert run.statuses[200] > 30
    assert {'lose-reply', 'kill', 'stop', 'refuse'} <= set(run.faults)


@pytest.mark.soak
def test_soak(request: pytest.FixtureRequest, run_for: RunFor) -> None:
    """``pytest -m soak``, for ``--soak-seconds``, in rounds."""
    seconds = request.config.getoption('soak_seconds')
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert run_for(30).violations == []
