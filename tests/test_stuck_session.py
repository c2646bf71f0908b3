"""A session whose requests wait leaves the server's threads to others."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from pyramid_dynamodb_session._threads import server_threads
from tests.support.browser import Answer, Browser
from tests.support.servers import Server
from tests.support.together import together, wait_until

STUCK = 2.0


@pytest.fixture(
    params=[{}, {'workers': 1, 'threads': 4}], ids=['waitress', 'gthread']
)
def server(
    request: pytest.FixtureRequest, settings: dict[str, str]
) -> Iterator[Server]:
    """With four threads, waitress's own default, and default settings."""
    with Server(settings, **request.param) as server:
        yield server


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def visitor(server: Server) -> Browser:
    browser = Browser(server.url)
    assert browser.get('/count').json == {'n': 1}
    return browser


def is_held(browser: Browser, raw_item: Callable[[str], Any]) -> bool:
    return 'LockId' in raw_item(browser.cookies['session'])


def assert_others_are_answered(server: Server, known: Browser) -> None:
    """At once: long before the stuck session goes on."""
    for browser, path in (
        (Browser(server.url), '/none'),
        (Browser(server.url), '/count'),
        (known, '/count'),
    ):
        answer = browser.get(path)
        assert answer.status == 200
        assert answer.seconds < STUCK / 2


def outcome(requests: list[Future[Answer]]) -> Counter[int]:
    answers = [request.result() for request in requests]
    for answer in answers:
        if answer.status == 503:
            assert answer.headers['Retry-After'] == '1'
            assert not answer.headers.get_all('Set-Cookie')
    return Counter(answer.status for answer in answers)


def test_requests_of_a_stuck_session_leave_a_thread_to_others(
    server: Server, threads: ThreadPoolExecutor, raw_item: Any
) -> None:
    stuck, known = visitor(server), visitor(server)
    holder = threads.submit(stuck.clone().get, '/count', hold=STUCK)
    wait_until(lambda: is_held(stuck, raw_item))
    others = [threads.submit(stuck.clone().get, '/count') for _ in range(10)]
    wait_until(lambda: sum(other.done() for other in others) == 8)
    assert_others_are_answered(server, known)
    assert not holder.done()
    # one holds the lock, two wait, one is for everybody else
    assert outcome(others) == {200: 2, 503: 8}
    assert holder.result().status == 200


def test_requests_of_many_stuck_sessions_leave_a_thread_to_others(
    server: Server,
    threads: ThreadPoolExecutor,
    raw_item: Any,
    settings: dict[str, str],
) -> None:
    """Their locks are held elsewhere: each is the first of its queue."""
    stuck, known = [visitor(server) for _ in range(8)], visitor(server)
    with Server(settings, threads=10) as elsewhere:
        holders = [
            threads.submit(browser.at(elsewhere.url).get, '/count', hold=STUCK)
            for browser in stuck
        ]
        wait_until(lambda: all(is_held(each, raw_item) for each in stuck))
        requests = [
            threads.submit(each.clone().get, '/count') for each in stuck
        ]
        wait_until(lambda: sum(each.done() for each in requests) == 6)
        assert_others_are_answered(server, known)
        assert not any(holder.done() for holder in holders)
        assert outcome(requests) == {200: 2, 503: 6}


# -- how many threads there are ------------------------------------------


def test_threads_of_waitress_are_counted_by_one_of_them() -> None:
    before = server_threads()
    release, counted = threading.Event(), []

    def answer(number: int) -> None:
        if number == 0:
            counted.append(server_threads())
            release.set()
        assert release.wait(5)

    workers = [
        threading.Thread(target=answer, args=(n,), name=f'waitress-{n}')
        for n in reversed(range(6))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counted == [6]
    assert before is None


def test_size_of_the_pool_of_gthread_is_asked_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(pool: ThreadPoolExecutor) -> int | None:
        return pool.submit(server_threads).result()

    with ThreadPoolExecutor(7) as pool:
        assert ask(pool) is None
        module = ModuleType('gunicorn.workers.gthread')
        monkeypatch.setitem(sys.modules, module.__name__, module)
        assert ask(pool) == 7
        # other threads of the same worker
        assert server_threads() is None
        for arguments in ((), (pytest.fail,), (weakref.ref(module),)):
            assert asked_in_thread(*arguments) is None


def asked_in_thread(*arguments: Any) -> int | None:
    """The number that a thread with these arguments is told."""
    told: list[int | None] = []
    thread = threading.Thread(
        target=lambda *_: told.append(server_threads()), args=arguments
    )
    thread.start()
    thread.join()
    return told[0]


def test_numbers_of_waiting_requests_do_not_drift(server: Server) -> None:
    """After a crowd has been turned away, as many may wait as before."""
    browser = visitor(server)
    for _ in range(3):
        answers = together(
            [lambda: browser.clone().get('/count', hold=0.05)] * 8
        )
        assert 200 in {answer.status for answer in answers}
    answers = together([lambda: browser.clone().get('/count', hold=0.2)] * 3)
    assert [answer.status for answer in answers] == [200] * 3
