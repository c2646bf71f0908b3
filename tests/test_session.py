"""The mapping that views see, on a store of the engine under test."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISession, ISessionFactory
from pyramid.response import Response
from pyramid.testing import DummyRequest
from pyramid_retry import IRetryableError
from zope.interface.verify import verifyObject

from pyramid_dynamodb_session import (
    DynamoDBSession,
    DynamoDBSessionFactory,
    DynamoDBSessionStore,
    SessionClosed,
    SessionConflict,
    SessionDisabled,
    SessionError,
    SessionLockLost,
    SessionLockTimeout,
    SessionReadOnly,
    SessionSerializationError,
    SessionStoreUnavailable,
    SessionTooLarge,
)
from pyramid_dynamodb_session.unit_of_work import UnitOfWork
from tests.support.clients import CountingClient
from tests.support.forks import forked

Open = Callable[..., DynamoDBSession]


@pytest.fixture
def wire(client: Any) -> CountingClient:
    return CountingClient(client)


@pytest.fixture
def store(
    wire: CountingClient, table: str, application: str
) -> DynamoDBSessionStore:
    store = DynamoDBSessionStore(
        wire, table=table, application=application, lock_wait=0.1
    )
    store.initialize()
    wire.calls.clear()
    return store


#: What became of a transaction, by whether it was committed.
OUTCOMES = {False: 'not committed', True: 'committed'}


class OpenedSession(DynamoDBSession):
    """A session with what its life cycle does to it, all in one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


@pytest.fixture
def opened(store: DynamoDBSessionStore) -> Open:
    """A function that opens a session, as the factory does."""

    def opened(session_id: str | None = None, **options: Any) -> Any:
        return OpenedSession(UnitOfWork(store, session_id, **options))

    return opened


@pytest.fixture
def saved(opened: Open) -> Callable[..., str]:
    """A function from items to the id under which they are now stored."""

    def saved(**items: Any) -> str:
        session = opened()
        session.update(items)
        session.changed()
        session.persist()
        return str(session.session_id)

    return saved


def incompressible(length: int) -> str:
    """Text that zlib makes no smaller than DynamoDB's limit."""
    digits = iter(range(10**9))
    return ''.join(
        chr(0x4E00 + hash((next(digits), 7)) % 20000) for _ in range(length)
    )


# -- the mapping ---------------------------------------------------------


def test_session_is_an_isession(opened: Open, saved: Any) -> None:
    assert verifyObject(ISession, opened())
    assert verifyObject(ISession, opened(saved(a=1)))
    assert isinstance(opened(), MutableMapping)


def test_factory_is_an_isession_factory(wire: CountingClient) -> None:
    factory = DynamoDBSessionFactory(client=wire)
    assert verifyObject(ISessionFactory, factory)


def test_mapping_reads(opened: Open, saved: Any) -> None:
    session = opened(saved(a=1, b=[2]))
    assert session['a'] == 1
    assert session.get('b') == [2]
    assert session.get('c') is None
    assert session.get('c', 3) == 3
    assert 'a' in session and 'c' not in session
    assert len(session) == 2
    assert bool(session)
    assert list(session) == ['a', 'b'] == list(session.keys())
    assert list(session.values()) == [1, [2]]
    assert list(session.items()) == [('a', 1), ('b', [2])]
    assert session == {'a': 1, 'b': [2]} == dict(session)
    with pytest.raises(KeyError, match='c'):
        session['c']


def test_mapping_writes(opened: Open) -> None:
    session = opened()
    session['a'] = 1
    session.update(b=2, c=3)
    session.update({'d': 4})
    assert session.setdefault('e', 5) == 5
    assert session.setdefault('a', 6) == 1
    assert session.setdefault('f') is None
    assert session.pop('b') == 2
    assert session.pop('b', None) is None
    with pytest.raises(KeyError):
        session.pop('b')
    del session['c']
    with pytest.raises(KeyError):
        del session['c']
    assert session.popitem() == ('f', None)
    assert session == {'a': 1, 'd': 4, 'e': 5}
    session.clear()
    assert session == {} and not session


def test_mapping_merges_as_a_dict_does(opened: Open, saved: Any) -> None:
    session = opened(saved(a=1, b=[2]))
    copy = session.copy()
    assert type(copy) is dict and copy == {'a': 1, 'b': [2]}
    copy['a'] = 'of the copy'
    assert session | {'b': 3} == {'a': 1, 'b': 3}
    assert {'b': 3, 'c': 4} | session == {'a': 1, 'b': [2], 'c': 4}
    same = session
    session |= {'c': 4}
    assert session is same
    assert session == {'a': 1, 'b': [2], 'c': 4}
    assert abs(session.expires - time.time() - 1200) < 10


@pytest.mark.parametrize(
    'write',
    [
        lambda session: session.update(a=2),
        lambda session: session.pop('a'),
        lambda session: session.popitem(),
        lambda session: session.clear(),
        lambda session: session.__delitem__('a'),
        lambda session: session.setdefault('c', 3),
        lambda session: session.setdefault('b', []).append(2),
        lambda session: session['b'].append(2),
        lambda session: session['d']['e'].update(f=4),
    ],
)
def test_every_change_is_stored_without_changed(
    write: Any, opened: Open, saved: Any
) -> None:
    session_id = saved(a=1, b=[1], d={'e': {'f': 3}})
    session = opened(session_id)
    write(session)
    session.persist()
    assert dict(opened(session_id)) == dict(session)
    assert dict(session) != {'a': 1, 'b': [1], 'd': {'e': {'f': 3}}}


def test_unchanged_session_is_not_written(
    opened: Open, saved: Any, store: DynamoDBSessionStore, wire: Any
) -> None:
    session_id = saved(a=[1])
    before = store.get_item(session_id)
    session = opened(session_id)
    session['a'] = [1]
    session['b'] = 2
    del session['b']
    session.persist()
    after = store.get_item(session_id)
    assert (after.items, after.version) == (before.items, before.version)


def test_changed_saves_in_any_case(
    opened: Open, saved: Any, store: DynamoDBSessionStore
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    assert session.changed() is None
    session.persist()
    assert store.get_item(session_id).version == 2


def test_changed_alone_makes_a_session(opened: Open) -> None:
    session = opened()
    session.changed()
    session.changed()
    session.persist()
    assert session.session_id
    assert not opened(session.session_id).new


def test_text_of_all_kinds_comes_back(opened: Open, saved: Any) -> None:
    items = {
        'ü': 'naïve ☃ 𝄞',
        'empty': '',
        'surrogate': '\ud800',
        'null': '\0',
        '': 'the empty key',
        'numbers': [0, -1, 1.5, 2**70, True, None],
    }
    assert dict(opened(saved(**items))) == items


# -- lazy, and private ---------------------------------------------------


def test_making_a_session_and_looking_at_it_makes_no_call(
    opened: Open, wire: CountingClient
) -> None:
    session = opened('x' * 43)
    assert (session.state, session.locked) == ('exclusive', False)
    assert repr(DynamoDBSession(session._work)) == (
        '<DynamoDBSession exclusive, not loaded>'
    )
    session.persist()
    session.release()
    assert wire.calls == []


def test_repr_shows_neither_id_nor_data(opened: Open, saved: Any) -> None:
    session_id = saved(password='hunter2')
    session = opened(session_id)
    assert session.locked is False
    assert session['password'] == 'hunter2'
    assert session.locked is True
    assert repr(DynamoDBSession(session._work)) == (
        '<DynamoDBSession exclusive, loaded>'
    )
    session.release()


def test_use_without_an_id_makes_no_call(
    opened: Open, wire: CountingClient
) -> None:
    session = opened()
    assert dict(session) == {}
    session.persist()
    assert wire.calls == []
    assert session.session_id is None


def test_loading_happens_once(
    opened: Open, saved: Any, wire: CountingClient
) -> None:
    session = opened(saved(a=1))
    wire.calls.clear()
    for _ in range(3):
        assert session['a'] == 1
    assert wire.calls == ['update_item']


# -- created, new, session_id --------------------------------------------


def test_new_session(opened: Open) -> None:
    before = int(time.time())
    session = opened()
    assert session.new is True
    assert before <= session.created <= time.time()
    assert isinstance(session.created, int)
    assert session.session_id is None
    session['a'] = 1
    assert session.session_id is None
    session.persist()
    assert re.fullmatch('[A-Za-z0-9_-]{43}', session.session_id or '')
    assert session.new is True


def test_stored_session_is_not_new_and_keeps_its_date(
    opened: Open, saved: Any, store: DynamoDBSessionStore
) -> None:
    session = opened()
    session['a'] = 1
    session._record.created -= 1000
    created = session.created
    session.persist()
    again = opened(session.session_id)
    assert again.new is False
    assert again.created == created
    assert again.session_id == session.session_id
    again['a'] = 2
    again.persist()
    assert opened(session.session_id).created == created


def test_unknown_id_is_never_taken_over(opened: Open) -> None:
    unknown = 'u' * 43
    session = opened(unknown)
    assert session.new and dict(session) == {}
    session['a'] = 1
    session.persist()
    assert session.session_id not in (None, unknown)
    assert opened(unknown).new


def test_expired_session_is_a_new_one(
    opened: Open, saved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = saved(a=1)
    later = time.time() + 1201
    monkeypatch.setattr(time, 'time', lambda: later)
    session = opened(session_id)
    assert session.new and dict(session) == {}


# -- invalidate ----------------------------------------------------------


def test_invalidate_forgets_and_removes(
    opened: Open, saved: Any, wire: CountingClient, raw_item: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    assert session.invalidate() is None
    assert 'a' not in session
    assert session.new and session.session_id is None
    assert 'Ended' not in raw_item(session_id), 'not before the save'
    wire.calls.clear()
    session.persist()
    assert wire.calls == ['update_item']
    assert 'Ended' in raw_item(session_id)


def test_data_after_invalidate_gets_an_id_of_its_own(
    opened: Open, saved: Any, raw_item: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    session.invalidate()
    session['b'] = 2
    session.invalidate()
    session['c'] = 3
    session.persist()
    assert session.session_id not in (None, session_id)
    assert dict(opened(session.session_id)) == {'c': 3}
    assert 'Ended' in raw_item(session_id)


def test_invalidate_of_a_new_session_makes_no_call(
    opened: Open, wire: CountingClient
) -> None:
    session = opened()
    session['a'] = 1
    session.invalidate()
    session.persist()
    assert wire.calls == []


def test_invalidated_session_is_released_when_nothing_is_saved(
    opened: Open, saved: Any, raw_item: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    session.invalidate()
    session.release()
    assert 'LockId' not in raw_item(session_id)
    assert dict(opened(session_id)) == {'a': 1}


def test_invalidated_session_is_removed_even_if_the_lock_was_taken_over(
    opened: Open, saved: Any, store: DynamoDBSessionStore, raw_item: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    session.invalidate()
    taken_over(store, session_id)
    session.persist()
    assert 'Ended' in raw_item(session_id)


def taken_over(store: DynamoDBSessionStore, session_id: str) -> None:
    """Take the lock over, as another server does from a dead one."""
    other = DynamoDBSessionStore(
        store.client,
        table=store.settings.table,
        application=store.settings.application,
        lock_lease=0.05,
    )
    assert other.get_item_exclusive(session_id)


# -- flash and CSRF, as Pyramid's own sessions do them -------------------


def test_flash_queues(opened: Open) -> None:
    session = opened()
    session.flash('msg1')
    session.flash('msg2')
    session.flash('warn1', 'warn')
    session.flash('err1', queue='error')
    assert session['_f_'] == ['msg1', 'msg2']
    assert session['_f_warn'] == ['warn1']
    assert session['_f_error'] == ['err1']


def test_flash_duplicates(opened: Open) -> None:
    session = opened()
    session.flash('a')
    session.flash('a', allow_duplicate=False)
    session.flash('b', allow_duplicate=False)
    session.flash('b', allow_duplicate=True)
    assert session.peek_flash() == ['a', 'b', 'b']


@pytest.mark.parametrize('queue', ['', 'error'])
def test_peek_and_pop_flash(queue: str, opened: Open) -> None:
    session = opened()
    assert session.peek_flash(queue) == [] == session.pop_flash(queue)
    session.flash('one', queue)
    session.flash('two', queue)
    assert session.peek_flash(queue) == ['one', 'two']
    assert session.pop_flash(queue) == ['one', 'two']
    assert session.pop_flash(queue) == []
    assert '_f_' + queue not in session


def test_flash_waits_for_the_next_request(opened: Open, saved: Any) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    session.flash('hello')
    session.persist()
    session = opened(session_id)
    assert session.pop_flash() == ['hello']
    session.persist()
    assert opened(session_id).peek_flash() == []


def test_csrf_token(opened: Open) -> None:
    session = opened()
    token = session.get_csrf_token()
    assert len(token) >= 32
    assert session['_csrft_'] == token == session.get_csrf_token()
    assert session.new_csrf_token() != token
    assert session.get_csrf_token() == session['_csrft_'] != token
    session['_csrft_'] = 'token'
    assert session.get_csrf_token() == 'token'


def test_csrf_token_lasts(opened: Open, saved: Any) -> None:
    session = opened()
    token = session.get_csrf_token()
    session.persist()
    assert opened(session.session_id).get_csrf_token() == token


# -- timeouts ------------------------------------------------------------


def made(store: DynamoDBSessionStore, **settings: Any) -> Any:
    """A factory on the table of `store`."""
    return DynamoDBSessionFactory(
        client=store.client,
        table=store.settings.table,
        application=store.settings.application,
        **settings,
    )


def expiry_of(raw_item: Any, session_id: Any) -> float:
    return int(raw_item(session_id)['Expires']['N']) - time.time()


@pytest.mark.parametrize('timeout', [1, '1'])
def test_timeout_ends_a_session(
    timeout: Any, store: DynamoDBSessionStore, monkeypatch: Any
) -> None:
    factory = made(store, timeout=timeout)
    request = DummyRequest()
    session = factory(request)
    session['state'] = 1
    session._work.persist()
    later = DummyRequest(cookies={'session': session.session_id})
    now = time.time()
    monkeypatch.setattr(time, 'time', lambda: now + 5)
    assert dict(factory(later)) == {}


@pytest.mark.parametrize('timeout', [None, 'none', ''])
def test_timeout_none_is_never(
    timeout: Any, store: DynamoDBSessionStore, monkeypatch: Any
) -> None:
    factory = made(store, timeout=timeout)
    session = factory(DummyRequest())
    session['state'] = 1
    session._work.persist()
    now = time.time()
    monkeypatch.setattr(time, 'time', lambda: now + 10 * 31536000)
    later = DummyRequest(cookies={'session': session.session_id})
    assert dict(factory(later)) == {'state': 1}


def test_timeout_that_is_none_is_refused(store: DynamoDBSessionStore) -> None:
    with pytest.raises(ConfigurationError, match="timeout = 'Invalid value'"):
        made(store, timeout='Invalid value')


def test_adjusted_timeout_is_kept(
    opened: Open, saved: Any, raw_item: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    session.adjust_timeout(86400)
    session.persist()
    assert expiry_of(raw_item, session_id) == pytest.approx(86400, abs=30)
    again = opened(session_id)
    assert again['a'] == 1
    again.persist()
    assert again.timeout == 86400
    assert expiry_of(raw_item, session_id) == pytest.approx(86400, abs=30)
    assert expiry_of(raw_item, saved(b=1)) == pytest.approx(1200, abs=30)


def test_adjust_timeout_is_a_change(opened: Open, raw_item: Any) -> None:
    session = opened()
    session.adjust_timeout(3600)
    session.persist()
    assert expiry_of(raw_item, session.session_id) > 3000


def test_adjust_timeout_refuses_nonsense(opened: Open) -> None:
    session = opened()
    for nonsense in (0, -1):
        with pytest.raises(ValueError, match='at least a second'):
            session.adjust_timeout(nonsense)
    assert session.timeout == 1200


# -- regenerate_id -------------------------------------------------------


def test_regenerated_session_moves_at_once(
    opened: Open, saved: Any, raw_item: Any, wire: CountingClient
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    created = session.created
    session.regenerate_id()
    session['b'] = 2
    assert session.session_id == session_id, 'until it is saved'
    wire.calls.clear()
    session.persist()
    assert wire.calls == ['transact_write_items']
    assert session.session_id not in (None, session_id)
    assert 'Ended' in raw_item(session_id)
    assert opened(session_id).new
    moved = opened(session.session_id)
    assert dict(moved) == {'a': 1, 'b': 2}
    assert moved.created == created


def test_regenerate_id_of_a_new_session_is_just_its_first_id(
    opened: Open, wire: CountingClient
) -> None:
    session = opened()
    session.regenerate_id()
    session['a'] = 1
    session.persist()
    assert wire.calls == ['put_item']


def test_regenerate_id_after_the_lock_was_lost_changes_nothing(
    opened: Open, saved: Any, store: DynamoDBSessionStore, raw_item: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    session.regenerate_id()
    taken_over(store, session_id)
    before = raw_item(session_id)
    with pytest.raises(SessionLockLost):
        session.persist()
    assert raw_item(session_id) == before


# -- save() --------------------------------------------------------------


def test_save_unlocks_and_leaves_the_data_readable(
    opened: Open, saved: Any, raw_item: Any, wire: CountingClient
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    session['b'] = 2
    session.save()
    assert not session.locked
    assert 'LockId' not in raw_item(session_id)
    assert dict(session) == {'a': 1, 'b': 2} == dict(opened(session_id))
    with pytest.raises(SessionClosed, match=r'changed any more: .*save\(\)'):
        session['c'] = 3
    wire.calls.clear()
    session.save()
    session.persist()
    session.release()
    assert wire.calls == []


def test_save_of_an_untouched_session_keeps_it_readable(
    opened: Open, saved: Any
) -> None:
    session = opened(saved(a=1))
    session.save()
    assert session['a'] == 1


# -- errors --------------------------------------------------------------


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
def test_what_can_not_be_serialized_is_named(
    state: str, opened: Open, saved: Any, raw_item: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id, state=state)
    session['good'] = 2
    session['bad'] = object()
    with pytest.raises(
        SessionSerializationError,
        match=r"session\['bad'\] holds an object: JSON",
    ) as caught:
        session.persist()
    assert caught.value.key == 'bad'
    assert caught.value.status_int == 500
    assert 'LockId' not in raw_item(session_id)
    assert dict(opened(session_id)) == {'a': 1}
    with pytest.raises(SessionClosed, match='saving it has failed'):
        session['c'] = 3


def test_what_can_not_be_serialized_makes_no_new_session(
    opened: Open, wire: CountingClient
) -> None:
    session = opened()
    session['bad'] = object()
    with pytest.raises(SessionSerializationError, match='bad'):
        session.persist()
    assert wire.calls == []


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
@pytest.mark.parametrize('move', [False, True])
def test_too_much_leaves_the_stored_session_and_unlocks_it(
    state: str, move: bool, opened: Open, saved: Any, raw_item: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id, state=state)
    session['small'] = 'x'
    session['large'] = incompressible(250_000)
    if move:
        session.regenerate_id()
    with pytest.raises(SessionTooLarge, match='large') as caught:
        session.persist()
    assert caught.value.size > 400 * 1024
    assert caught.value.largest[0][0] == 'large'
    assert 'LockId' not in raw_item(session_id)
    assert dict(opened(session_id)) == {'a': 1}


def test_too_much_makes_no_new_session(
    opened: Open, wire: CountingClient
) -> None:
    session = opened()
    session['large'] = incompressible(250_000)
    with pytest.raises(SessionTooLarge):
        session.persist()
    assert wire.calls == []


def test_failed_load_is_remembered(
    opened: Open, saved: Any, store: DynamoDBSessionStore, wire: Any
) -> None:
    session_id = saved(a=1)
    assert store.get_item_exclusive(session_id)
    session = opened(session_id)
    started = time.monotonic()
    with pytest.raises(SessionLockTimeout) as first:
        session['a']
    wire.calls.clear()
    for use in (len, dict, DynamoDBSession.changed):
        with pytest.raises(SessionLockTimeout) as again:
            use(session)
        assert again.value is first.value
    assert wire.calls == []
    assert time.monotonic() - started < 5
    session.persist()
    session.release()
    assert wire.calls == []


def test_store_that_fails_is_never_an_empty_session(
    opened: Open, store: DynamoDBSessionStore
) -> None:
    def unreachable(**_: Any) -> Any:
        raise OSError('no route to host')

    store.client.update_item = unreachable
    session = opened('x' * 43)
    with pytest.raises(SessionStoreUnavailable, match='no route') as caught:
        dict(session)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.status_int == 503
    assert int(caught.value.headers['Retry-After']) > 0
    assert caught.value.outcome == 'not saved'
    assert not session.used


def test_programming_errors_are_runtime_errors() -> None:
    for error in (SessionReadOnly, SessionDisabled, SessionClosed):
        assert issubclass(error, RuntimeError)
        assert issubclass(error, SessionError)
        assert not issubclass(error, Response)


def test_closed_session_reads_what_it_has(opened: Open, saved: Any) -> None:
    session = opened(saved(a=1))
    assert session['a'] == 1
    session.persist()
    session.close('the party is over')
    session.close('a later reason')
    assert session['a'] == 1
    with pytest.raises(SessionClosed, match='the party is over'):
        session['a'] = 2
    unloaded = opened(session.session_id)
    unloaded.close('the party is over')
    with pytest.raises(SessionClosed, match=r'loaded any more: the party'):
        unloaded['a']
    assert unloaded.closed


def test_slide_that_fails_is_only_logged(
    opened: Open,
    saved: Any,
    store: DynamoDBSessionStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = opened(saved(a=1), state='read_only')
    assert session['a'] == 1

    def unreachable(**_: Any) -> Any:
        raise OSError('no route to host')

    now = time.time()
    monkeypatch.setattr(time, 'time', lambda: now + 100)
    store.client.update_item = unreachable
    with caplog.at_level(logging.WARNING):
        session.persist()
    assert 'did not slide' in caplog.text
    assert not session.slid


def test_timeout_that_was_not_saved_does_not_count_on_release(
    opened: Open, raw_item: Any
) -> None:
    session = opened()
    session.adjust_timeout(9000)
    session.persist()
    session_id = session.session_id
    session = opened(session_id)
    session.adjust_timeout(30)
    session.release()
    item = raw_item(session_id)
    assert item['SessionTimeout'] == {'N': '9000'}
    assert int(item['Expires']['N']) > time.time() + 8000


# -- a session that has just ended ---------------------------------------


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
def test_request_of_a_session_just_ended_stores_nothing(
    state: str,
    opened: Open,
    saved: Any,
    store: DynamoDBSessionStore,
    wire: CountingClient,
) -> None:
    session_id = saved(a=1)
    store.remove_item(session_id)
    session = opened(session_id, state=state)
    assert session.new and dict(session) == {}
    assert session.session_id is None
    assert session.is_overtaken
    session['b'] = 2
    wire.calls.clear()
    with pytest.raises(SessionLockLost, match='has ended'):
        session.persist()
    assert wire.calls == []


def test_request_of_a_session_long_ended_begins_a_new_one(
    opened: Open,
    saved: Any,
    store: DynamoDBSessionStore,
    client: Any,
    raw_item: Any,
) -> None:
    session_id = saved(a=1)
    store.remove_item(session_id)
    ended = raw_item(session_id)
    at = int(ended['Ended']['N']) - 12
    client.put_item(
        TableName=store.settings.table,
        Item=ended | {'Ended': {'N': str(at)}},
    )
    session = opened(session_id)
    session['b'] = 2
    assert not session.is_overtaken
    session.persist()
    assert session.session_id not in (None, session_id)


# -- within another use --------------------------------------------------


@pytest.mark.parametrize('state', ['exclusive', 'read_only'])
def test_session_can_not_be_used_while_it_is_loading(
    state: str, opened: Open, saved: Any, client: Any, wire: CountingClient
) -> None:
    session = opened(saved(a=1), state=state)
    refused: list[Exception] = []

    def use(**parameters: Any) -> Any:
        """As a log filter does, or an error reporter."""
        for use in (len, lambda session: session.enter('disabled')):
            try:
                use(session)
            except SessionClosed as error:
                refused.append(error)
        operation = 'get_item' if state == 'read_only' else 'update_item'
        return getattr(client, operation)(**parameters)

    wire.get_item = wire.update_item = use  # type: ignore[attr-defined]
    assert dict(session) == {'a': 1}
    assert ['being loaded' in str(error) for error in refused] == [True, True]
    assert session.state == state


# -- a forked process ----------------------------------------------------


def test_forked_process_neither_saves_nor_unlocks(
    opened: Open, saved: Any, raw_item: Any, caplog: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id)
    session['b'] = 2
    before = raw_item(session_id)

    def unwinds() -> bool:
        session['c'] = 3
        session.prepare()
        session.persist()
        session.release()
        return 'a forked process neither saves nor unlocks' in caplog.text

    assert forked(unwinds)
    assert raw_item(session_id) == before
    session.persist()
    assert dict(opened(session_id)) == {'a': 1, 'b': 2}


def test_session_of_another_process_makes_no_call(
    opened: Open, saved: Any, wire: CountingClient
) -> None:
    """As the parent's is to a forked child."""
    session = opened(saved(a=1))
    session['b'] = 2
    session._work._pid = -1
    wire.calls.clear()
    session.prepare()
    with pytest.raises(SessionClosed, match='belongs to the process'):
        session['c'] = 3
    session.persist()
    session.release()
    assert wire.calls == []


def test_forked_process_releases_no_lock_of_its_parent(
    opened: Open, saved: Any, raw_item: Any
) -> None:
    session = opened(saved(a=1))
    assert session['a'] == 1
    before = raw_item(session.session_id)

    def unwinds() -> bool:
        session.release()
        return True

    assert forked(unwinds)
    assert raw_item(session.session_id) == before
    session.release()


# -- a transaction's vote ------------------------------------------------


def test_vote_of_a_session_that_did_not_change_makes_no_call(
    opened: Open, saved: Any, wire: CountingClient
) -> None:
    session_id = saved(a=1)
    for state in ('exclusive', 'optimistic', 'read_only'):
        session = opened(session_id, state=state)
        assert session['a'] == 1
        wire.calls.clear()
        session.prepare()
        assert wire.calls == []
        session.release()
    opened(session_id).prepare()
    new = opened()
    assert new.get('a') is None
    new.prepare()
    assert wire.calls == []


@pytest.mark.parametrize(
    ('state', 'settings', 'times'),
    [
        ('exclusive', {}, 1),
        ('optimistic', {}, 1),
        ('exclusive', {'encryption_keys': 'k' * 43}, 1),
        ('new', {}, 1),
        # what is encrypted is bound to the id, which there is only then
        ('new', {'encryption_keys': 'k' * 43}, 2),
    ],
)
def test_save_stores_what_the_vote_has_made_of_the_data(
    state: str,
    settings: dict[str, str],
    times: int,
    table: str,
    application: str,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = DynamoDBSessionStore(
        client, table=table, application=application, **settings
    )

    def opened(session_id: str | None, state: str = 'exclusive') -> Any:
        return OpenedSession(UnitOfWork(store, session_id, state))

    session = opened(None)
    session['text'] = 'first'
    if state != 'new':
        session.persist()
        session = opened(session.session_id, state)
    make = store._codec.attribute
    made: list[bytes] = []

    def counted(payload: bytes, *arguments: Any) -> Any:
        made.append(payload)
        return make(payload, *arguments)

    monkeypatch.setattr(store._codec, 'attribute', counted)
    session['text'] = 'voted ' * 500
    session.prepare()
    session.persist()
    assert len(made) == times
    session = opened(session.session_id)
    assert session['text'] == 'voted ' * 500
    session['text'] = 'voted'
    session.prepare()
    session['text'] = 'changed since'
    session.persist()
    assert opened(session.session_id)['text'] == 'changed since'


def test_vote_confirms_an_old_lock_by_a_renewal(
    table: str,
    application: str,
    wire: CountingClient,
    opened: Open,
    saved: Any,
) -> None:
    store = DynamoDBSessionStore(
        wire, table=table, application=application, lock_lease=0.4
    )
    session = OpenedSession(UnitOfWork(store, saved(a=1)))
    session['b'] = 2
    wire.calls.clear()
    session.prepare()
    assert wire.calls == []
    # as a process that stood still
    held = store._locks.holder(session._lock_id).held
    assert held is not None
    held.owner = None
    time.sleep(0.3)
    wire.calls.clear()
    session.prepare()
    assert wire.calls == ['update_item']
    session.persist()
    assert dict(opened(session.session_id)) == {'a': 1, 'b': 2}


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
@pytest.mark.parametrize('end', ['save', 'remove'])
def test_vote_of_a_session_that_others_have_changed_fails(
    end: str,
    state: str,
    opened: Open,
    saved: Any,
    store: DynamoDBSessionStore,
) -> None:
    session_id = saved(a=1)
    session = opened(session_id, state=state)
    session['b'] = 2
    if state == 'exclusive':
        held = store._locks.holder(session._lock_id).held
        assert held is not None
        held.confirmed_at -= 60
    if end == 'remove':
        store.remove_item(session_id)
    else:
        change_elsewhere(store, session_id)
    lost = SessionLockLost if state == 'exclusive' else SessionConflict
    with pytest.raises(lost) as error:
        session.prepare()
    assert IRetryableError.providedBy(error.value)
    with pytest.raises(SessionClosed, match='transaction was aborted'):
        session['c'] = 3
    session.persist()
    record = store.get_item(session_id)
    assert (record and record.items) == (
        None if end == 'remove' else {'a': 1, 'other': True}
    )


def change_elsewhere(store: DynamoDBSessionStore, session_id: str) -> None:
    other = DynamoDBSessionStore(
        store.client,
        table=store.settings.table,
        application=store.settings.application,
        lock_lease=0.05,
    )
    record = other.get_item_exclusive(session_id)
    assert record is not None and record.lock_id
    other.set_and_release_item_exclusive(
        session_id, {**record.items, 'other': True}, record.lock_id
    )


def test_vote_locks_an_optimistic_session_that_has_changed(
    opened: Open, saved: Any, wire: CountingClient, store: Any
) -> None:
    session_id = saved(a=1)
    session = opened(session_id, state='optimistic')
    session['b'] = 2
    wire.calls.clear()
    session.prepare()
    assert session.locked
    with pytest.raises(SessionLockTimeout):
        store.get_item_exclusive(session_id)
    session['c'] = 3
    session.persist()
    assert wire.calls[0] == wire.calls[-1] == 'update_item'
    assert dict(opened(session_id)) == {'a': 1, 'b': 2, 'c': 3}


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
@pytest.mark.parametrize('new', [True, False])
def test_vote_of_what_can_not_be_saved_fails_and_unlocks(
    new: bool, state: str, opened: Open, saved: Any, raw_item: Any
) -> None:
    session_id = None if new else saved(a=1)
    values = [object(), incompressible(250_000)]
    errors = [SessionSerializationError, SessionTooLarge]
    for value, raised in zip(values, errors, strict=True):
        session = opened(session_id, state=state)
        session['bad'] = value
        with pytest.raises(raised):
            session.prepare()
        # by the end of the request
        session.release()
        if session_id:
            assert 'LockId' not in raw_item(session_id)
            assert dict(opened(session_id, state='read_only')) == {'a': 1}


def test_vote_of_a_session_just_ended_fails(
    opened: Open, saved: Any, store: DynamoDBSessionStore
) -> None:
    session_id = saved(a=1)
    store.remove_item(session_id)
    session = opened(session_id)
    session['b'] = 2
    with pytest.raises(SessionLockLost):
        session.prepare()


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
def test_error_after_a_commit_says_so_and_invites_to_no_retry(
    state: str, opened: Open, saved: Any, store: DynamoDBSessionStore
) -> None:
    session_id = saved(a=1)
    for is_committed in (False, True):
        session = opened(session_id, state=state)
        session['b'] = 2
        session._work.transaction = OUTCOMES[is_committed]
        change_elsewhere(store, session_id)
        with pytest.raises((SessionLockLost, SessionConflict)) as error:
            session.persist()
        said = 'database had been committed' in str(error.value)
        assert said == is_committed
        assert said == ('database had been committed' in error.value.args[0])
        assert IRetryableError.providedBy(error.value) != is_committed
        invites = 'try again' in error.value.explanation
        assert invites != is_committed
    for error_class in (SessionLockLost, SessionConflict):
        assert not IRetryableError.implementedBy(error_class)
