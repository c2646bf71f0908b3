"""On every web server for Pyramid: no change lost, no sessions mixed up.

``pytest -m servers``, with ``pip install -e ".[servers]"``.
"""

from __future__ import annotations

import re
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.browser import Browser
from tests.support.proxy import FaultProxy
from tests.support.servers import FACTORY, Command, Server, gunicorn, own
from tests.support.together import wait_until

pytestmark = pytest.mark.servers

INCREMENTS = 200
AT_ONCE = 8
VISITORS = 20
#: One more than may wait for a session, and one for everybody else.
THREADS = AT_ONCE + 2
COMPLAINTS = re.compile(
    r'(WARNING|ERROR|CRITICAL) pyramid_dynamodb_session|Traceback'
)
#: gunicorn patches too late if it has loaded the application before.
PATCHING = Path(__file__).parent / 'apps' / 'gunicorn_gevent.py'


def uwsgi(*options: str) -> Command:
    """uWSGI, which forks in C once it has loaded the application."""
    return lambda listener: [
        *(f'{Path(sys.executable).parent}/uwsgi', '--master', '--need-app'),
        *('--die-on-term', '--processes=2', f'--virtualenv={sys.prefix}'),
        *(f'--http-socket=fd://{listener.fileno()}', *options),
        *('--disable-logging', f'--module={FACTORY}()'),
    ]


def granian(listener: socket.socket) -> list[str]:
    port = listener.getsockname()[1]
    listener.close()
    return [
        *(sys.executable, '-m', 'granian', '--interface=wsgi', '--workers=2'),
        *('--host=127.0.0.1', f'--port={port}', '--factory'),
        *(f'--blocking-threads={THREADS}', FACTORY),
    ]


GTHREAD = ('--workers=2', f'--threads={THREADS}')
GEVENT = ('--workers=2', '--worker-class=gevent')
COMMANDS: dict[str, Command] = {
    'waitress': own('waitress', THREADS),
    'gunicorn sync': gunicorn('--workers=2'),
    'gunicorn gthread': gunicorn(*GTHREAD),
    'gunicorn gthread preload': gunicorn(*GTHREAD, '--preload'),
    'gunicorn gevent': gunicorn(*GEVENT),
    'gunicorn gevent preload': gunicorn(
        *GEVENT, '--preload', f'--config={PATCHING}'
    ),
    'uwsgi': uwsgi(),
    'uwsgi threads': uwsgi(f'--threads={THREADS}'),
    'uwsgi lazy-apps': uwsgi('--lazy-apps'),
    'uwsgi gevent': uwsgi('--gevent=50', '--gevent-early-monkey-patch'),
    # patched when the application has made its client
    'uwsgi gevent lazy-apps': uwsgi(
        '--gevent=50', '--gevent-monkey-patch', '--lazy-apps'
    ),
    'cheroot': own('cheroot', THREADS),
    'granian': granian,
}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> Command:
    return COMMANDS[request.param]


@pytest.fixture(params=['boto3', 'direct'])
def server(
    request: pytest.FixtureRequest, settings: dict[str, str], command: Command
) -> Iterator[Server]:
    transport = {'dynamodb_session.transport': request.param}
    with Server(settings | transport, command=command) as server:
        yield server


@pytest.mark.parametrize('name', ['uwsgi', 'gunicorn gthread preload'])
def test_workers_do_not_use_the_connection_of_their_parent(
    name: str, proxied: dict[str, str], proxy: FaultProxy
) -> None:
    """boto3 has one from the lookup of the table."""
    with Server(proxied, command=COMMANDS[name]) as server:
        assert set(proxy.operations) == {'DescribeTable'}
        of_parent = {call.port for call in proxy.calls}
        proxy.clear()
        with ThreadPoolExecutor(VISITORS) as threads:
            urls = [server.url] * VISITORS
            list(threads.map(visit, urls, range(VISITORS)))
        assert of_parent.isdisjoint(call.port for call in proxy.calls)


@pytest.mark.parametrize(
    'command',
    [
        gunicorn(*GEVENT, '--preload'),
        uwsgi('--gevent=50', '--gevent-monkey-patch'),
    ],
    ids=['gunicorn', 'uwsgi'],
)
def test_gevent_that_patches_too_late_hangs_nobody(
    settings: dict[str, str], command: Command
) -> None:
    """boto3 can not go on then; the log tells what would help."""
    with Server(settings, command=command) as server:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = threads.map(
                lambda _: Browser(server.url).get('/count'), range(AT_ONCE)
            )
        assert {answer.status for answer in answers} == {503}
        assert Browser(server.url).get('/none').status == 200
        assert 'gevent has patched ssl after boto3' in server.log


@pytest.mark.parametrize(
    'command',
    [own('waitress', 4), gunicorn('--worker-class=gthread', '--threads=4')],
    ids=['waitress', 'gunicorn gthread'],
)
def test_stuck_session_leaves_a_thread_to_the_others(
    proxied: dict[str, str],
    proxy: FaultProxy,
    command: Command,
    tmp_path: Path,
) -> None:
    until = tmp_path / 'until'
    with (
        Server(proxied, command=command) as server,
        ThreadPoolExecutor(11) as threads,
    ):
        stuck, other = Browser(server.url), Browser(server.url)
        for browser in (stuck, other):
            browser.get('/count')
        proxy.clear()
        holder = threads.submit(stuck.clone().get, '/count', until=until)
        wait_until(lambda: bool(proxy.calls))
        waiting = [
            threads.submit(stuck.clone().get, '/count', hold=0.1)
            for _ in range(10)
        ]
        wait_until(lambda: sum(future.done() for future in waiting) == 8)
        assert Browser(server.url).get('/none').status == 200
        assert Browser(server.url).get('/count').json == {'n': 1}
        assert other.get('/count').json == {'n': 2}
        assert not holder.done()
        until.touch()
        answers = [future.result() for future in (holder, *waiting)]
    assert Counter(a.status for a in answers) == {200: 3, 503: 8}


def test_nothing_is_lost_and_nobody_sees_the_session_of_another(
    server: Server,
) -> None:
    """Twenty visitors at once, then one with eight requests at once."""
    with ThreadPoolExecutor(VISITORS) as threads:
        seen = list(
            threads.map(visit, [server.url] * VISITORS, range(VISITORS))
        )
    assert seen == [{f'visitor-{number}': 5} for number in range(VISITORS)], (
        server.log
    )

    browser = Browser(server.url)
    assert browser.get('/count').json == {'n': 1}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(
            threads.map(
                lambda _: browser.clone().get('/count'),
                range(INCREMENTS - 1),
            )
        )
    assert {answer.status for answer in answers} == {200}, server.log
    counts = sorted(answer.json['n'] for answer in answers)
    assert counts == list(range(2, INCREMENTS + 1))
    assert browser.get('/read').json == {'n': INCREMENTS}
    assert not COMPLAINTS.search(server.log), server.log


def visit(url: str, number: int) -> object:
    """What a visitor has in the session after five increments."""
    browser, key = Browser(url), f'visitor-{number}'
    for expected in range(1, 6):
        answer = browser.get('/count', key=key)
        if answer.status != 200 or answer.json != {key: expected}:
            return answer
    return browser.get('/read').json
