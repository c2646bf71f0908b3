"""Lock holders that are killed, stopped, slow or terminated."""

from __future__ import annotations

import concurrent.futures
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from webtest import TestApp

from tests.apps import wsgi_app
from tests.support.browser import Answer, Browser
from tests.support.proxy import FaultProxy
from tests.support.servers import Server
from tests.support.together import together, wait_until

RawItem = Callable[[str], 'dict[str, Any] | None']
Hold = Callable[..., 'Future[Answer]']

LEASE = 1


@pytest.fixture(scope='module')
def application() -> str:
    """One for all tests here, which share two servers."""
    return f'test-{uuid.uuid4().hex[:8]}'


@pytest.fixture(scope='module')
def two(
    endpoint: str,
    settings_at: Callable[..., dict[str, str]],
    application: str,
) -> Iterator[tuple[Server, Server]]:
    """Two processes whose locks lapse soon."""
    settings = {
        **settings_at(endpoint, application),
        'dynamodb_session.lock_lease': str(LEASE),
    }
    with Server(settings) as one, Server(settings) as other:
        yield one, other


@pytest.fixture
def is_locked(raw_item: RawItem) -> Callable[[Browser], bool]:
    def is_locked(browser: Browser) -> bool:
        item = raw_item(browser.cookies['session'])
        assert item is not None
        return 'LockId' in item

    return is_locked


@pytest.fixture
def hold(is_locked: Callable[[Browser], bool]) -> Iterator[Hold]:
    """Make a request, and return when it holds the lock."""
    with ThreadPoolExecutor() as threads:

        def hold(browser: Browser, seconds: float, key: str) -> Any:
            answer = threads.submit(
                browser.clone().get, '/count', hold=seconds, key=key
            )
            wait_until(lambda: is_locked(browser))
            return answer

        yield hold


def someone(server: Server) -> Browser:
    browser = Browser(server.url)
    assert browser.get('/count').json == {'n': 1}
    return browser


def test_lock_of_a_killed_process_is_taken_over_without_an_error(
    settings: dict[str, str], hold: Hold
) -> None:
    """At the default settings, for all that wait in another process."""
    with Server(settings) as dies, Server(settings, threads=8) as lives:
        browser = someone(dies)
        holder = hold(browser, 60, 'dead')
        dies.kill()
        assert isinstance(holder.exception(), OSError)
        answers = together([lambda: browser.at(lives.url).get('/count')] * 3)
        assert [answer.status for answer in answers] == [200] * 3
        # from the first look at the lock on
        assert 9 <= min(answer.seconds for answer in answers) < 14
        assert browser.at(lives.url).get('/read').json == {'n': 4}
        assert 'was taken over' in lives.log


def test_living_holder_keeps_its_lock(
    two: tuple[Server, Server], hold: Hold
) -> None:
    browser = someone(two[0])
    holder = hold(browser, LEASE * 2.5, 'slow')
    # one behind it in line, one in another process
    answers = together(
        partial(browser.at(server.url).get, '/count') for server in two
    )
    assert holder.result().status == 200
    assert sorted(answer.json['n'] for answer in answers) == [2, 3]
    assert min(answer.seconds for answer in answers) > LEASE * 1.5
    assert browser.get('/read').json == {'n': 3, 'slow': 1}


def test_request_under_a_third_of_the_lease_makes_no_call_more(
    proxied: dict[str, str], proxy: FaultProxy
) -> None:
    lease = {'dynamodb_session.lock_lease': '3'}
    browser = TestApp(wsgi_app.main({}, **(proxied | lease)))
    browser.get('/count')
    for hold, calls in (0.9, 2), (1.6, 3):
        proxy.clear()
        browser.get('/count', {'hold': hold})
        assert proxy.operations == ['UpdateItem'] * calls


def test_suspended_holder_is_told_that_it_lost_the_lock(
    two: tuple[Server, Server], hold: Hold
) -> None:
    sleeps, other = two
    browser = someone(sleeps)
    holder = hold(browser, LEASE, 'lost')
    # the lock is held, but the reply that says so may be on its way
    time.sleep(LEASE / 4)
    sleeps.stop()
    taken = browser.at(other.url).get('/count', key='kept')
    sleeps.cont()
    assert (taken.status, taken.json) == (200, {'kept': 1})
    assert taken.seconds >= LEASE * 0.8
    lost = holder.result()
    assert lost.status == 409
    assert 'nothing of this one was saved' in lost.text
    assert 'nothing else ran in this process for' in sleeps.log
    assert browser.get('/read').json == {'n': 1, 'kept': 1}


def test_suspended_holder_that_kept_its_lock_saves(
    two: tuple[Server, Server], hold: Hold
) -> None:
    sleeps, _ = two
    browser = someone(sleeps)
    holder = hold(browser, LEASE, 'kept')
    sleeps.stop()
    wait_out(holder, LEASE * 1.2)
    sleeps.cont()
    assert holder.result().json == {'kept': 1}
    assert browser.get('/read').json == {'n': 1, 'kept': 1}


def wait_out(future: Future[Answer], seconds: float) -> None:
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(seconds)


@pytest.mark.parametrize('workers', [0, 1], ids=['waitress', 'gunicorn'])
def test_request_under_way_at_sigterm_leaves_no_lock(
    workers: int,
    settings: dict[str, str],
    hold: Hold,
    is_locked: Callable[[Browser], bool],
) -> None:
    with Server(settings, workers=workers) as server:
        browser = someone(server)
        holder = hold(browser, 0.7, 'last')
        server.terminate()
        answer = holder.result()
        assert (answer.status, answer.json) == (200, {'last': 1})
    assert not is_locked(browser)


def test_preloaded_workers_and_their_threads_share_nothing_but_the_table(
    settings: dict[str, str],
) -> None:
    """The client was made, and used, before the workers were forked."""
    with Server(settings, workers=2, threads=10) as server:
        browser = someone(server)

        def count() -> Counter[int]:
            return Counter(
                browser.clone().get('/count').status for _ in range(5)
            )

        answered = sum(together([count] * 8), Counter())
        assert answered == {200: 40}
        assert browser.get('/read').json == {'n': 41}
