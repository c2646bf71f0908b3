"""Events and log messages of a session, and what they cost."""

from __future__ import annotations

import logging
import logging.config
import pkgutil
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pyramid.events import NewRequest
from webtest import TestApp

import pyramid_dynamodb_session
from pyramid_dynamodb_session.events import (
    CookieRejected,
    ItemCorrupt,
    LockLost,
    LockTaken,
    LockTakenOver,
    LockTimedOut,
    LockWaited,
    SaveConflicted,
    SessionCreated,
    SessionEvent,
    SessionRemoved,
    SessionSaved,
    SessionUsed,
    StoreFailed,
)
from tests.apps import wsgi_app
from tests.apps.small_app import ReleasedAtFirstSight, SmallApp, session_id
from tests.apps.views import count, none, read
from tests.support.clients import Interposed
from tests.support.docs_pages import page, parse_ini
from tests.support.proxy import FaultProxy

Make = Callable[..., 'RecordingApp']

SECRET = 'what nobody may hear of'


class RecordingApp(SmallApp):
    """An application that remembers the events of its sessions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.events: list[Any] = []
        self.config.add_subscriber(self.events.append, SessionEvent)

    def event_kinds(self) -> list[type[SessionEvent]]:
        """The kinds of the events since it was last asked."""
        kinds = [type(event) for event in self.events]
        self.events.clear()
        return kinds

    def one(self, kind: type[SessionEvent]) -> Any:
        """The one event of its kind since :meth:`event_kinds`."""
        (event,) = (e for e in self.events if type(e) is kind)
        return event

    def add_conflict(self) -> None:
        """A view ``/conflict`` that somebody else is faster than."""

        def conflict(request: Any) -> Any:
            request.session['n'] += 1
            id = request.cookies['session']
            record = self.elsewhere.get_item_exclusive(id)
            assert record
            self.elsewhere.set_and_release_item_exclusive(
                id, {'n': 9}, record.lock_id
            )

        self.add(conflict, session_state='optimistic')

    def known(self) -> TestApp:
        """A browser that has a session, whose events so far are forgotten."""
        browser = self.open()
        browser.get('/count')
        self.events.clear()
        self.calls()
        return browser


@pytest.fixture
def make(client: Any, settings: dict[str, str]) -> Make:
    """A function that makes an application with views, listened to."""

    def make(client: Any = client, **options: Any) -> RecordingApp:
        app = RecordingApp(client, settings, **options)
        app.add(count, none, read, remove, spoil, secret, too_much)
        app.add(read_only, session_state='read_only')
        app.add(optimistic, session_state='optimistic')
        return app

    return make


@pytest.fixture
def app(make: Make) -> RecordingApp:
    return make()


def remove(request: Any) -> Any:
    request.session.invalidate()


def spoil(request: Any) -> Any:
    request.session['unserializable'] = object()


def secret(request: Any) -> Any:
    request.session['secret'] = SECRET


def too_much(request: Any) -> Any:
    request.session['much'] = SECRET * 200_000


def read_only(request: Any) -> Any:
    return dict(request.session)


def optimistic(request: Any) -> Any:
    request.session['n'] += 1


# -- the events of a request ---------------------------------------------


@pytest.mark.parametrize(
    ('path', 'kinds', 'calls'),
    [
        ('/none', [], []),
        ('/count', [LockTaken, SessionSaved], ['update_item'] * 2),
        ('/read', [LockTaken], ['update_item'] * 2),
        (
            '/remove',
            [LockTaken, SessionRemoved],
            ['update_item', 'update_item'],
        ),
        ('/read_only', [], ['get_item']),
        ('/optimistic', [SessionSaved], ['get_item', 'update_item']),
    ],
)
def test_events_of_a_request(
    path: str, kinds: list[Any], calls: list[str], app: RecordingApp
) -> None:
    browser = app.known()
    browser.get(path)
    if calls:
        end = app.one(SessionUsed)
        assert [call.operation for call in end.calls] == calls
        assert all(call.seconds > 0 for call in end.calls)
        assert end.seconds > sum(call.seconds for call in end.calls)
        assert all(call.units for call in end.calls)
        assert end.units == sum(call.units for call in end.calls)
        kinds = [*kinds, SessionUsed]
    assert all(event.seconds > 0 for event in app.events)
    assert app.calls() == calls
    assert app.event_kinds() == kinds


def test_new_session(app: RecordingApp) -> None:
    browser = app.open()
    browser.get('/read')
    assert app.event_kinds() == [SessionUsed]
    browser.get('/count')
    created = app.one(SessionCreated)
    (put,) = created.calls
    assert put.operation == 'put_item'
    assert 0 < put.seconds < created.seconds
    assert created.units == put.units >= 1
    assert created.request.path == '/count'


def test_use_of_a_session_begins_before_its_view(app: RecordingApp) -> None:
    def use_early(event: Any) -> None:
        event.request.session.get('n')
        time.sleep(0.1)

    app.config.add_subscriber(use_early, NewRequest)
    app.known().get('/optimistic')
    used = app.one(SessionUsed)
    assert used.seconds > 0.1
    assert [call.operation for call in used.calls] == [
        'update_item',
        'update_item',
        'get_item',
        'update_item',
    ]


def test_wait_for_the_lock(make: Make, client: Any) -> None:
    look = ReleasedAtFirstSight(client)
    app = make(Interposed(client, get_item=look))
    browser = app.known()
    look.lock(app, session_id(browser))
    browser.get('/count')
    waited = app.one(LockWaited)
    assert waited.seconds > sum(call.seconds for call in waited.calls)
    operations = [call.operation for call in waited.calls]
    assert operations[0] == operations[-1] == 'update_item'
    assert 'get_item' in operations
    assert waited.calls[0].error == 'ConditionalCheckFailedException'
    assert waited.queue_length == 0
    assert app.one(LockTaken).seconds >= waited.seconds
    assert app.event_kinds()[-2:] == [SessionSaved, SessionUsed]


def test_lock_is_taken_over(make: Make) -> None:
    app = make(lock_lease=0.1)
    browser = app.known()
    app.elsewhere.get_item_exclusive(session_id(browser))
    browser.get('/count')
    assert app.one(LockTakenOver).seconds >= 0.1
    assert app.event_kinds() == [
        LockTakenOver,
        LockWaited,
        LockTaken,
        SessionSaved,
        SessionUsed,
    ]


def test_lock_timeout(make: Make) -> None:
    app = make(lock_wait=0.1)
    browser = app.known()
    app.elsewhere.get_item_exclusive(session_id(browser))
    browser.get('/count', status=503)
    timeout = app.one(LockTimedOut)
    assert timeout.seconds >= 0.1
    assert timeout.calls and timeout.units > 0
    assert app.one(LockWaited).seconds >= 0.1
    assert app.event_kinds() == [LockWaited, LockTimedOut, SessionUsed]


def test_lock_is_lost(app: RecordingApp) -> None:
    def lose(request: Any) -> Any:
        request.session['n'] += 1
        app.take_over(request.cookies['session'])

    app.add(lose)
    browser = app.known()
    browser.get('/lose', status=409)
    assert app.one(LockLost).seconds > 0
    assert app.event_kinds() == [LockTaken, LockLost, SessionUsed]


def test_save_conflicts(app: RecordingApp) -> None:
    app.add_conflict()
    app.known().get('/conflict', status=409)
    assert app.one(SaveConflicted).seconds > 0
    assert app.event_kinds() == [SaveConflicted, SessionUsed]


class Failing:
    """An operation that DynamoDB refuses, from its `first` call on."""

    def __init__(self, operation: Any, first: int) -> None:
        self._operation = operation
        self._left = first

    def __call__(self, **parameters: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            error = {'Code': 'ThrottlingException', 'Message': 'slow down'}
            raise ClientError({'Error': error}, 'UpdateItem')
        return self._operation(**parameters)


@pytest.mark.parametrize(
    ('well', 'kinds'),
    [(0, [StoreFailed]), (1, [LockTaken, StoreFailed])],
    ids=['loading', 'saving'],
)
def test_dynamodb_fails(
    well: int, kinds: list[Any], make: Make, client: Any
) -> None:
    failing = Failing(client.update_item, first=well)
    app = make(Interposed(client, update_item=failing))
    app.known().get('/count', status=503)
    failed = app.one(StoreFailed)
    assert failed.seconds > 0
    assert failed.calls[-1].error == 'ClientError'
    assert app.event_kinds() == [*kinds, SessionUsed]


def test_dynamodb_fails_when_the_expiry_slides(
    make: Make, client: Any
) -> None:
    failing = Failing(client.update_item, first=0)
    app = make(Interposed(client, update_item=failing), timeout=2400)
    app.open()
    id = 'A' * 43
    app.elsewhere.set_and_release_item_exclusive(id, {'n': 1}, None, True)
    assert app.browser(id).get('/read_only').json == {'n': 1}
    assert app.event_kinds() == [StoreFailed, SessionUsed]


def test_dynamodb_fails_when_the_lock_is_released(
    make: Make, client: Any
) -> None:
    def boom(request: Any) -> Any:
        request.session['n'] += 1
        raise RuntimeError('boom')

    failing = Failing(client.update_item, first=1)
    app = make(Interposed(client, update_item=failing))
    app.add(boom)
    browser = app.known()
    with pytest.raises(RuntimeError, match='boom'):
        browser.get('/boom')
    assert app.event_kinds() == [LockTaken, StoreFailed, SessionUsed]


@pytest.mark.parametrize('cookie', ['', 'x', 'x' * 44])
def test_cookie_is_rejected(cookie: str, app: RecordingApp) -> None:
    browser = app.open()
    browser.set_cookie('session', cookie)
    browser.get('/read')
    assert app.event_kinds() == [CookieRejected, SessionUsed]
    assert app.calls() == []


def test_item_is_corrupt(app: RecordingApp, client: Any, table: str) -> None:
    browser = app.known()
    name = app.name(browser)
    client.update_item(
        TableName=table,
        Key={'SessionId': {'S': name}},
        UpdateExpression='SET SessionItems = :junk',
        ExpressionAttributeValues={':junk': {'S': '{'}},
    )
    assert browser.get('/read').json == {}
    assert app.event_kinds() == [ItemCorrupt, SessionUsed]


def test_every_kind_of_event_is_tested_above() -> None:
    for kind in SessionEvent.__subclasses__():
        assert globals()[kind.__name__] is kind


# -- who is notified -----------------------------------------------------


def test_one_kind_can_be_subscribed_to(
    client: Any, settings: dict[str, str]
) -> None:
    app = SmallApp(client, settings)
    events: list[Any] = []
    app.config.add_subscriber(events.append, SessionSaved)
    app.add(count, read)
    browser = app.open()
    for path in ('/count', '/count', '/read'):
        browser.get(path)
    assert [type(event) for event in events] == [SessionSaved]
    assert [call.operation for call in events[0].calls] == ['update_item'] * 2


def test_no_event_is_sent_after_the_request(app: RecordingApp) -> None:
    sessions = []

    def keep(request: Any) -> Any:
        request.session['n'] = 1
        sessions.append(request.session)

    app.add(keep)
    app.open().get('/keep')
    app.events.clear()
    (session,) = sessions
    session._work.recorder.record_event(SessionSaved)
    session._work.recorder.notify()
    assert app.event_kinds() == []


def test_failing_subscriber_harms_no_request(
    app: RecordingApp, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Any) -> None:
        raise RuntimeError('no metrics today')

    app.config.add_subscriber(fail, SessionEvent)
    browser = app.open()
    for n in (1, 2, 3):
        assert browser.get('/count').json == {'n': n}
    assert not app.is_locked(browser)
    assert 'a subscriber to LockTaken has failed' in caplog.text
    assert 'no metrics today' in caplog.text


def hear(config: Any) -> None:
    """For ``pyramid.includes``."""
    config.add_subscriber('tests.test_events.ignore', SessionSaved)


def hear_of_something_else(config: Any) -> None:
    """For ``pyramid.includes``."""
    config.add_subscriber('tests.test_events.ignore', NewRequest)


def ignore(event: Any) -> None:
    """A subscriber."""


@pytest.mark.parametrize('transport', ['boto3', 'direct'])
@pytest.mark.parametrize(
    ('listener', 'asked'),
    [('hear', True), ('hear_of_something_else', False), (None, False)],
)
def test_units_are_requested_only_with_a_subscriber(
    listener: str | None,
    asked: bool,
    transport: str,
    proxied: dict[str, str],
    proxy: FaultProxy,
) -> None:
    included = f'tests.test_events.{listener}' if listener else ''
    app = wsgi_app.main(
        None,
        **{
            **proxied,
            'pyramid.includes': included,
            'dynamodb_session.transport': transport,
        },
    )
    browser = TestApp(app)
    proxy.clear()
    for path in ('/count', '/count', '/read', '/invalidate'):
        browser.get(path)
    assert len(proxy.calls) == 7
    assert {
        'ReturnConsumedCapacity' in call.request for call in proxy.calls
    } == {asked}


def test_nothing_is_recorded_without_a_subscriber(
    client: Any, settings: dict[str, str]
) -> None:
    def recorder(request: Any) -> Any:
        request.session['n'] = 1
        return vars(request.session._work.recorder).keys() - {'_request'}

    app = SmallApp(client, settings)
    app.add(recorder, renderer='string')
    browser = app.open()
    for _ in range(2):
        assert browser.get('/recorder').text == 'set()'


# -- what is not told ----------------------------------------------------


def test_neither_id_nor_data_is_told(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, 'pyramid_dynamodb_session')
    app = make(lock_wait=0.1)
    browser = app.known()
    id = session_id(browser)
    browser.get('/secret')
    browser.get('/too_much', status=500)
    app.elsewhere.get_item_exclusive(id)
    browser.get('/secret', status=503)
    told = ' '.join([*map(repr, app.events), *map(str, app.events)])
    assert 'LockTimedOut' in told
    assert '<Request' not in told
    for hidden in (id, app.name(browser), SECRET):
        assert hidden not in told
        assert hidden not in caplog.text


def test_notes_for_the_toolbar_show_no_data(app: RecordingApp) -> None:
    journals = []

    def noted(request: Any) -> Any:
        request.session['secret'] = SECRET
        journals.append(request.session._work.recorder)

    app.add(noted)
    app.open().get('/noted')
    (snapshot,) = journals[0].snapshots
    assert SECRET in snapshot.payload.decode()
    assert SECRET not in repr(snapshot)


# -- in the documentation ------------------------------------------------


class Remembers:
    """A metrics client, or any part of one, that remembers its calls."""

    def __init__(self, name: str, calls: list[Any]) -> None:
        self._name = name
        self._calls = calls

    def __call__(self, *args: Any, **options: Any) -> Remembers:
        self._calls.append((self._name, *args))
        return self

    def __getattr__(self, name: str) -> Remembers:
        if name.startswith('_'):
            raise AttributeError(name)
        return Remembers(name, self._calls)


@pytest.mark.parametrize(
    ('file', 'library'),
    [
        ('shop/statsd.py', 'statsd'),
        ('shop/telemetry.py', 'opentelemetry'),
    ],
)
def test_documented_subscriber(
    file: str,
    library: str,
    app: RecordingApp,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    monkeypatch.setitem(sys.modules, library, Remembers(library, calls))
    module = ModuleType('metrics')
    monkeypatch.setitem(sys.modules, 'metrics', module)
    exec(page('monitoring').files[file], vars(module))
    app.config.scan(module)
    browser = app.known()
    calls.clear()
    browser.get('/count')
    told = ' '.join(str(part) for call in calls for part in call)
    for kind in (LockTaken, SessionSaved, SessionUsed):
        assert told.count(kind.__name__) == 1
    assert told.count('update_item') == 2
    numbers = [part for call in calls for part in call]
    assert app.one(SessionUsed).units in numbers


def test_documented_logging_works() -> None:
    (ini,) = (
        text
        for text in page('monitoring').blocks['ini']
        if '[loggers]' in text
    )
    calls = logging.getLogger('pyramid_dynamodb_session.dynamodb.calls')
    before = logging.root.handlers[:], logging.root.level
    try:
        logging.config.fileConfig(
            parse_ini(ini), disable_existing_loggers=False
        )
        assert calls.level == logging.CRITICAL
        assert calls.propagate
    finally:
        logging.root.handlers[:], logging.root.level = before
        calls.setLevel(logging.NOTSET)
        logging.getLogger('pyramid_dynamodb_session').setLevel(logging.NOTSET)


# -- the log -------------------------------------------------------------


def test_each_module_has_its_own_logger() -> None:
    prefix = f'{pyramid_dynamodb_session.__name__}.'
    modules = {
        module.name
        for module in pkgutil.walk_packages(
            pyramid_dynamodb_session.__path__, prefix
        )
    }
    loggers = {
        name
        for name in logging.root.manager.loggerDict
        if name.startswith(prefix)
    }
    assert {
        prefix + name
        for name in ('dynamodb.calls', '_recorder', 'unit_of_work')
    } <= loggers
    assert loggers <= modules


def test_log_is_quiet_in_normal_running(
    app: RecordingApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, 'pyramid_dynamodb_session')
    app.add_conflict()
    browser = app.known()
    for path in ('/read', '/count', '/read_only', '/optimistic'):
        browser.get(path)
    browser.get('/conflict', status=409)
    browser.get('/remove')
    browser.get('/count')
    browser.set_cookie('session', 'nonsense')
    browser.get('/read')
    assert caplog.messages == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What an operator is told, and by which module."""
    return [
        (record.name.rpartition('.')[2], record.getMessage())
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]


def test_log_warns_of_a_lock_timeout(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(lock_wait=0)
    browser = app.known()
    caplog.clear()
    app.elsewhere.get_item_exclusive(session_id(browser))
    browser.get('/count', status=503)
    (_, waited), (module, message) = warnings(caplog)
    assert waited.startswith('GET /count has waited ')
    assert waited.endswith(' a request of another process held')
    assert module == 'unit_of_work'
    assert message.startswith('GET /count: another request held the lock of')
    assert message.endswith(' the session for all of lock_wait')


@pytest.mark.parametrize('elsewhere', [True, False])
def test_log_warns_of_a_long_wait_and_of_whom_it_was_for(
    elsewhere: bool, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(lock_wait=1)
    entered = threading.Event()

    def slow(request: Any) -> Any:
        request.session['slow'] = True
        entered.set()
        time.sleep(0.5)
        return {}

    app.add(slow)
    browser = app.known()
    caplog.clear()
    other = app.browser(session_id(browser))
    if elsewhere:
        record = app.elsewhere.get_item_exclusive(session_id(browser))
        assert record and record.lock_id
        give_back = threading.Timer(
            0.5,
            app.elsewhere.release_item_exclusive,
            (session_id(browser), record.lock_id),
        )
        give_back.start()
        browser.get('/count?a-secret=1')
    else:
        slow_one = threading.Thread(target=other.get, args=('/slow?secret=1',))
        slow_one.start()
        assert entered.wait(5)
        browser.get('/count?a-secret=1')
        slow_one.join()
    ((module, message),) = warnings(caplog)
    assert module == 'locks'
    whom = 'a request of another process' if elsewhere else 'GET /slow'
    assert message.startswith('GET /count has waited ')
    assert message.endswith(f' the lock of its session, which {whom} held')
    assert app.one(LockWaited).queue_length == (0 if elsewhere else 1)


def test_log_warns_of_a_lost_lock(
    app: RecordingApp, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(request: Any) -> Any:
        request.session['n'] += 1
        app.take_over(request.cookies['session'])

    app.add(lose)
    app.known().get('/lose', status=409)
    # the first is of the one who took the lock over
    _, (module, message) = warnings(caplog)
    assert module == 'unit_of_work'
    assert 'nothing of it was saved' in message


@pytest.mark.parametrize(
    ('path', 'told'),
    [
        (
            '/spoil',
            "session['unserializable'] holds an object: JSON can not store it",
        ),
        ('/too_much', 'its largest keys: much (4600011 bytes)'),
    ],
)
def test_log_warns_of_what_can_not_be_stored(
    path: str, told: str, app: RecordingApp, caplog: pytest.LogCaptureFixture
) -> None:
    app.known().get(path, status=500)
    ((module, message),) = warnings(caplog)
    assert module == 'unit_of_work'
    assert told in message


def test_log_tells_once_that_dynamodb_failed(
    make: Make, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(client.update_item, first=0)
    app = make(Interposed(client, update_item=failing))
    app.known().get('/count', status=503)
    ((module, message),) = warnings(caplog)
    assert module == 'calls'
    assert 'ThrottlingException' in message
