"""A view that forks while it holds the lock, and others wait for it.

``python -m tests.apps.fork_in_view``, with the settings of the sessions as
JSON and ``python`` or ``c`` on the command line. It ends with 0 if the child
has done no harm, though it goes on as if it were the request.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pyramid.config import Configurator
from pyramid.interfaces import ISessionFactory
from webtest import TestApp

from tests.apps.views import add_views, count, read
from tests.support.together import wait_until

#: The C function is called with the GIL, which a thread that is no more might
#: keep for ever in the child.
FORKS = {'python': os.fork, 'c': ctypes.PyDLL(None).fork}
WAITING = 3
PARENT = os.getpid()


def main(settings: dict[str, str], how: str) -> None:
    given = {
        **settings,
        # longer than a busy machine keeps the parent from renewing its lock
        'dynamodb_session.lock_lease': '30',
        'dynamodb_session.lock_wait': '60',
    }
    with ThreadPoolExecutor(WAITING) as threads:
        others: list[Future[Any]] = []

        def fork(request: Any) -> Any:
            request.session['n'] += 1
            for _ in range(WAITING):
                other = TestApp(app, cookiejar=browser.cookiejar)
                others.append(threads.submit(other.get, '/count'))
            wait_until(lambda: queue_length(app) == 1 + WAITING)
            child = FORKS[how]()
            if child == 0:
                # rather than wait for ever
                signal.alarm(40)
                check_child(app, browser)
            else:
                assert os.waitpid(child, 0)[1] == 0
                # nothing that it has done is seen here
                assert queue_length(app) == 1 + WAITING
            return {}

        app = make(given, fork)
        browser = TestApp(app)
        browser.get('/count')
        browser.get('/fork')
        if os.getpid() != PARENT:
            # through the tween and all callbacks
            os._exit(0)
    counts = sorted(other.result().json['n'] for other in others)
    assert counts == [3, 4, 5]
    assert browser.get('/read').json == {'n': 5}


def make(settings: dict[str, str], *views: Any) -> Any:
    with Configurator(settings=settings) as config:
        config.include('pyramid_dynamodb_session')
        add_views(config, count, read, *views)
    return config.make_wsgi_app()


def queue_length(app: Any) -> int:
    store = app.registry.getUtility(ISessionFactory).store
    queues = store._locks._process.get().queue._queues
    return sum(map(len, queues.values()))


def check_child(app: Any, browser: TestApp) -> None:
    assert queue_length(app) == 0
    # in threads: a request within this one would be a part of it
    threads = ThreadPoolExecutor(2)
    visitor = TestApp(app)
    for expected in (1, 2):
        answer = threads.submit(visitor.get, '/count').result()
        assert answer.json == {'n': expected}
    same = TestApp(app, cookiejar=browser.cookiejar)
    request = threads.submit(same.get, '/count')
    wait_until(lambda: queue_length(app) == 1)
    # the parent holds the lock
    time.sleep(1)
    assert not request.done()


if __name__ == '__main__':
    try:
        main(json.loads(sys.argv[1]), sys.argv[2])
    except BaseException:
        traceback.print_exc()
        # in the child, at once: threads that are no more can't be joined
        os._exit(1)
