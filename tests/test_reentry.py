"""What uses the session while it loads, or is told that it did."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pyramid_dynamodb_session import SessionClosed, SessionLockTimeout
from pyramid_dynamodb_session.events import LockTaken, SessionEvent
from tests.apps.small_app import SmallApp, session_id
from tests.apps.views import count, read


@pytest.fixture
def app(client: Any, settings: dict[str, str]) -> SmallApp:
    app = SmallApp(client, settings, lock_wait=1, lock_lease=0.3)
    app.add(count, read)
    return app


def test_subscriber_that_reads_the_session_gets_it(app: SmallApp) -> None:
    """It is told of the lock once the session is loaded."""
    told: list[Any] = []

    def subscriber(event: Any) -> None:
        told.append((type(event), dict(event.request.session)))

    app.config.add_subscriber(subscriber, SessionEvent)
    browser = app.open()
    for _ in range(3):
        browser.get('/count')
    assert (LockTaken, {'n': 2}) in told
    item = app.elsewhere.find_item(session_id(browser))
    assert item is not None and item.taken_over == []
    assert app.calls() == ['put_item', *['update_item'] * 4]


@pytest.fixture
def log_filter() -> Iterator[list[Any]]:
    """A filter that uses the session of the requests in the list."""
    requests: list[Any] = []
    raised: list[Exception] = []

    class Filter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            for request in requests:
                try:
                    dict(request.session)
                except Exception as error:
                    raised.append(error)
            return True

    added = Filter()
    names = ('store.locks', 'store.lock_queue', 'dynamodb.calls')
    loggers = [
        logging.getLogger(f'pyramid_dynamodb_session.{name}') for name in names
    ]
    for logger in loggers:
        logger.addFilter(added)
    yield [requests, raised]
    for logger in loggers:
        logger.removeFilter(added)


def test_log_filter_that_reads_the_session_is_refused_at_once(
    app: SmallApp, log_filter: list[Any]
) -> None:
    requests, raised = log_filter

    def logged(request: Any) -> Any:
        requests.append(request)
        try:
            return dict(request.session)
        finally:
            requests.clear()

    app.add(logged)
    browser = app.open()
    browser.get('/count')
    # a dead holder, of whom it is logged that the lock was taken over
    assert app.elsewhere.get_item_exclusive(session_id(browser))
    assert browser.get('/logged').json == {'n': 1}
    assert raised and {type(error) for error in raised} == {SessionClosed}
    assert 'being loaded' in str(raised[0])
    item = app.elsewhere.find_item(session_id(browser))
    assert item is not None and len(item.taken_over) == 1
    assert not app.is_locked(browser)


def test_nothing_is_logged_under_a_mutex(
    app: SmallApp, log_filter: list[Any]
) -> None:
    """A filter that uses another request's session would wait for ever."""
    requests, raised = log_filter
    app.open()
    browser, other = app.browser(), app.browser()
    for each in (browser, other):
        each.get('/count')
    store, id = app.factory.store, session_id(browser)
    # a holder in this process, which is passed over after a lease
    assert store.get_item_exclusive(id)

    class Looks:
        """Looks at the queue, as a request of that session does."""

        @property
        def session(self) -> Any:
            return [('looked', store.get_item_exclusive('x' * 43))]

    requests.append(Looks())
    assert browser.get('/count').json == {'n': 2}
    assert raised == []


def test_error_reporter_does_not_wait_for_the_lock_again(
    client: Any, settings: dict[str, str]
) -> None:
    app = SmallApp(client, settings, lock_wait=0.5)

    def report(error: Exception, request: Any) -> Any:
        started = time.monotonic()
        with pytest.raises(SessionLockTimeout) as again:
            request.session.get('user')
        assert again.value is error
        request.response.status_code = 503
        return time.monotonic() - started

    app.add(count, read)
    app.config.add_view(report, context=SessionLockTimeout, renderer='json')
    browser = app.open()
    browser.get('/count')
    assert app.elsewhere.get_item_exclusive(session_id(browser))
    assert browser.get('/read', status=503).json < 0.25
