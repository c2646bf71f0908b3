"""The sessions of one owner: stored, found by the index, ended together."""

from __future__ import annotations

import base64
import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pyramid.exceptions import ConfigurationError

from pyramid_dynamodb_session import (
    DynamoDBSession,
    DynamoDBSessionStore,
    SessionConflict,
    SessionLockLost,
    SessionStoreUnavailable,
)
from pyramid_dynamodb_session.dynamodb import scan
from pyramid_dynamodb_session.store import owners
from pyramid_dynamodb_session.store.item import hash_key
from pyramid_dynamodb_session.store.owners import OwnedSession
from pyramid_dynamodb_session.unit_of_work import UnitOfWork
from tests.support.clients import CountingClient, Interposed
from tests.support.docs_pages import ROOT
from tests.support.sessions import seconds
from tests.support.together import together

INDEX = 'Owner-index'
Item = dict[str, Any]


class OpenedSession(DynamoDBSession):
    """A session with what ends its request."""

    def persist(self) -> None:
        self._work.persist()


@pytest.fixture(autouse=True)
def soon(settled_soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the index, or for the rate of removals."""
    monkeypatch.setattr(owners, 'MOST_PER_SECOND', 10**6)


@pytest.fixture
def make_store(
    client: Any, indexed_table: str, application: str
) -> Callable[..., DynamoDBSessionStore]:
    """A function from a client and settings to a store."""

    def make_store(client: Any = client, **settings: Any) -> Any:
        given = {
            'table': indexed_table,
            'application': application,
            'owner_index': INDEX,
            'lock_wait': 0.1,
        }
        return DynamoDBSessionStore(client, **{**given, **settings})

    return make_store


@pytest.fixture
def store(
    make_store: Callable[..., DynamoDBSessionStore],
) -> DynamoDBSessionStore:
    return make_store()


def opened(
    store: DynamoDBSessionStore, session_id: str | None = None, **options: Any
) -> Any:
    """A session as a request has it."""
    return OpenedSession(UnitOfWork(store, session_id, **options))


def begin(
    store: DynamoDBSessionStore, owner: str | None = 'anna', **items: Any
) -> str:
    """The id of a new session of an `owner`."""
    session = opened(store)
    session.update(items or {'n': 1})
    session.owner = owner
    session.persist()
    return str(session.session_id)


def name_of(store: DynamoDBSessionStore, session_id: str) -> str:
    return hash_key(session_id, store.settings.application)


def item_of(store: DynamoDBSessionStore, session_id: str) -> Item:
    """The item of a session as DynamoDB holds it."""
    item: Item = store.client.get_item(
        TableName=store.settings.table,
        Key={'SessionId': {'S': name_of(store, session_id)}},
        ConsistentRead=True,
    )['Item']
    return item


def plant(
    store: DynamoDBSessionStore, session_id: str, **changed: Any
) -> None:
    """Change attributes of a stored session, or (None) remove them."""
    item = {**item_of(store, session_id), **changed}
    store.client.put_item(
        TableName=store.settings.table,
        Item={name: value for name, value in item.items() if value},
    )


def names_of(store: DynamoDBSessionStore, owner: str = 'anna') -> set[str]:
    return {session.name for session in store.sessions_of(owner)}


# -- what is stored ------------------------------------------------------


def test_owner_is_stored_hashed_and_by_application(
    store: DynamoDBSessionStore, application: str
) -> None:
    item = item_of(store, begin(store))
    assert item['Owner'] == {'S': hash_key('anna', application)}
    assert 'anna' not in str(item)


def test_owner_can_only_be_set(store: DynamoDBSessionStore) -> None:
    session = opened(store, begin(store))
    with pytest.raises(AttributeError, match='stored hashed'):
        _ = session.owner


def test_owner_is_text(store: DynamoDBSessionStore) -> None:
    session = opened(store)
    with pytest.raises(TypeError, match=r'text, not int: str\(\) makes'):
        session.owner = 42
    with pytest.raises(TypeError, match='text, not int'):
        store.sessions_of(42)  # type: ignore[arg-type]


def test_owner_alone_makes_a_session(store: DynamoDBSessionStore) -> None:
    session = opened(store)
    session.owner = 'anna'
    session.persist()
    assert names_of(store) == {name_of(store, session.session_id)}


def change_data(session: Any) -> None:
    session['n'] = 2


def only_read(session: Any) -> None:
    session.get('n')


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
@pytest.mark.parametrize(
    'use',
    [
        change_data,
        only_read,
        OpenedSession.changed,
        OpenedSession.regenerate_id,
        OpenedSession.save,
        lambda session: session.adjust_timeout(3000),
    ],
    ids=['data', 'read', 'changed', 'new id', 'save', 'timeout'],
)
def test_owner_stays(
    use: Callable[[Any], None], state: str, store: DynamoDBSessionStore
) -> None:
    session_id = begin(store)
    owner = item_of(store, session_id)['Owner']
    session = opened(store, session_id, state=state)
    use(session)
    session.persist()
    assert item_of(store, session.session_id)['Owner'] == owner


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
@pytest.mark.parametrize('moves', [False, True])
def test_none_takes_the_owner_away(
    moves: bool, state: str, store: DynamoDBSessionStore
) -> None:
    session = opened(store, begin(store), state=state)
    session.owner = None
    if moves:
        session.regenerate_id()
    session.persist()
    assert 'Owner' not in item_of(store, session.session_id)
    assert names_of(store) == set()
    assert store.get_item(session.session_id)


def test_owner_can_change(store: DynamoDBSessionStore) -> None:
    session_id = begin(store)
    session = opened(store, session_id)
    session.owner = 'ben'
    session.persist()
    assert names_of(store) == set()
    assert names_of(store, 'ben') == {name_of(store, session_id)}


def test_same_owner_is_not_saved_again(
    make_store: Callable[..., DynamoDBSessionStore], client: Any
) -> None:
    store = make_store()
    session_id = begin(store)
    session = opened(store, session_id, state='optimistic')
    session.owner = 'anna'
    session.persist()
    assert item_of(store, session_id)['Version'] == {'N': '1'}


def test_owner_is_handed_on_with_the_lock(
    make_store: Callable[..., DynamoDBSessionStore],
) -> None:
    store = make_store(lock_wait=10)
    session_id = begin(store, owner=None)
    first = opened(store, session_id)
    first.owner = 'anna'

    def second() -> None:
        session = opened(store, session_id)
        session['n'] = 2
        session.persist()

    def give_back() -> None:
        first['held'] = True
        first.persist()

    together([second, give_back])
    assert item_of(store, session_id)['Owner']['S'].endswith(
        hash_key('anna', None)
    )


def test_no_owner_without_an_index(
    make_store: Callable[..., DynamoDBSessionStore], client: Any
) -> None:
    wire = CountingClient(client)
    store = make_store(wire, owner_index=None)
    session = opened(store, begin(make_store(), owner=None))
    session['n'] = 1
    with pytest.raises(ConfigurationError, match='set dynamodb_session'):
        session.owner = 'anna'
    session.owner = None
    session.persist()
    for function in (store.sessions_of, store.remove_sessions_of):
        with pytest.raises(ConfigurationError, match='owner_index'):
            function('anna')
    assert wire.calls == ['describe_table', 'update_item', 'update_item']
    assert 'Owner' not in item_of(store, session.session_id)


def test_owner_outlives_a_setting_that_was_removed(
    make_store: Callable[..., DynamoDBSessionStore], store: Any
) -> None:
    session_id = begin(store)
    session = opened(make_store(owner_index=None), session_id)
    session['n'] = 2
    session.persist()
    assert names_of(store) == {name_of(store, session_id)}


# -- the expiry, which the index has -------------------------------------


@pytest.mark.parametrize('use', [change_data, only_read])
@pytest.mark.parametrize(
    ('owner', 'timeout', 'behind', 'slides'),
    [
        ('anna', None, 30, False),
        ('anna', None, 90, True),
        ('anna', 300, 15, False),
        ('anna', 300, 45, True),
        (None, None, 30, True),
    ],
)
def test_expiry_of_an_owned_session_slides_now_and_then(
    owner: str | None,
    timeout: int | None,
    behind: int,
    slides: bool,
    use: Callable[[Any], None],
    store: DynamoDBSessionStore,
) -> None:
    session_id = begin(store, owner)
    end = timeout or 1200
    before = seconds(end - behind)
    own = {'N': str(timeout)} if timeout else None
    plant(store, session_id, Expires=before, SessionTimeout=own)
    session = opened(store, session_id)
    use(session)
    session.persist()
    after = item_of(store, session_id)['Expires']
    assert (int(after['N']) - time.time() > end - 5) == slides
    assert (after == before) == (not slides)


def test_shorter_timeout_counts_at_once(store: DynamoDBSessionStore) -> None:
    session_id = begin(store)
    session = opened(store, session_id)
    session.adjust_timeout(100)
    session.persist()
    left = int(item_of(store, session_id)['Expires']['N']) - time.time()
    assert 90 < left <= 100


# -- found ---------------------------------------------------------------


def test_sessions_are_found_with_their_dates(
    store: DynamoDBSessionStore, make_store: Any
) -> None:
    session_ids = [begin(store), begin(store)]
    begin(store, owner='ben')
    begin(store, owner=None)
    begin(make_store(application='another'))
    found = sorted(store.sessions_of('anna'), key=lambda each: each.name)
    items = [item_of(store, each) for each in session_ids]
    assert found == sorted(
        (
            OwnedSession(
                item['SessionId']['S'],
                int(item['CreateDate']['N']),
                int(item['Expires']['N']),
            )
            for item in items
        ),
        key=lambda each: each.name,
    )
    assert 'anna' not in repr(found)


def test_expired_and_corrupt_sessions_are_not_found(
    store: DynamoDBSessionStore,
) -> None:
    plant(store, begin(store), Expires=seconds(-1))
    plant(store, begin(store), CreateDate=None)
    living = begin(store)
    assert names_of(store) == {name_of(store, living)}


class SmallPages:
    """``query``, a few sessions at a time."""

    def __init__(self, client: Any) -> None:
        self._query = client.query
        self.pages = 0

    def __call__(self, **parameters: Any) -> Any:
        self.pages += 1
        return self._query(Limit=3, **parameters)


def test_sessions_are_found_on_all_pages(make_store: Any, client: Any) -> None:
    pages = SmallPages(client)
    store = make_store(Interposed(client, query=pages))
    names = {name_of(store, begin(store)) for _ in range(8)}
    assert names_of(store) == names
    assert pages.pages == 3


# -- ended ---------------------------------------------------------------


def test_sessions_of_an_owner_are_ended(
    store: DynamoDBSessionStore, make_store: Any
) -> None:
    ended = [begin(store) for _ in range(3)]
    stay = [begin(store, 'ben'), begin(store, None)]
    elsewhere = make_store(application='another')
    foreign = begin(elsewhere)
    assert store.remove_sessions_of('anna') == 3
    for session_id in ended:
        item = item_of(store, session_id)
        assert int(item['Expires']['N']) == int(item['Ended']['N']) + 60
        assert not item.keys() & {'Owner', 'SessionItems', 'LockId'}
        assert store.get_item(session_id) is None
    assert all(store.get_item(session_id) for session_id in stay)
    assert elsewhere.get_item(foreign)
    assert names_of(store) == set()
    assert store.remove_sessions_of('anna') == 0


@pytest.mark.parametrize('page', [None, 3])
def test_many_sessions_are_ended(
    page: int | None, make_store: Any, client: Any
) -> None:
    """Whatever leaves the index while its pages are turned."""
    if page is not None:
        client = Interposed(client, query=SmallPages(client))
    store = make_store(client)
    session_ids = [begin(store) for _ in range(20)]
    assert list(store.end_sessions_of('anna')) == list(range(1, 21))
    assert not any(store.get_item(session_id) for session_id in session_ids)


def test_rate_is_bounded(
    store: DynamoDBSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[tuple[float, float]] = []

    class RecordedRate:
        def __init__(self, per_second: float, stopped: Any) -> None:
            self.per_second = per_second

        def spend(self, units: float) -> None:
            spent.append((self.per_second, units))

    monkeypatch.setattr(owners, 'MOST_PER_SECOND', 100)
    monkeypatch.setattr(owners, 'Rate', RecordedRate)
    for _ in range(3):
        begin(store)
    store.remove_sessions_of('anna')
    assert spent == [(100, 1)] * 3


def test_one_session_is_kept(store: DynamoDBSessionStore) -> None:
    kept, other = begin(store), begin(store)
    session = opened(store, kept)
    assert store.remove_sessions_of('anna', keep=session) == 1
    session['n'] = 2
    session.persist()
    assert store.get_item(kept).items == {'n': 2}  # type: ignore[union-attr]
    assert store.get_item(other) is None


@pytest.mark.parametrize('moves', ['before', 'after', 'at the end'])
def test_session_that_moves_in_the_same_request_is_kept(
    moves: str, store: DynamoDBSessionStore
) -> None:
    before, other = begin(store), begin(store)
    session = opened(store, before)
    session.regenerate_id()
    if moves == 'before':
        session.save()
    assert store.remove_sessions_of('anna', keep=session) == 1
    if moves == 'after':
        session.save()
    session.persist()
    assert session.session_id != before
    assert store.get_item(session.session_id)
    assert store.get_item(before) is None
    assert store.get_item(other) is None


def test_new_session_is_kept(store: DynamoDBSessionStore) -> None:
    session = opened(store)
    session.owner = 'anna'
    other = begin(store)
    assert store.remove_sessions_of('anna', keep=session) == 1
    session.persist()
    assert store.get_item(session.session_id)
    assert store.get_item(other) is None


# -- requests on their way -----------------------------------------------


@pytest.mark.parametrize(
    ('state', 'error'),
    [('exclusive', SessionLockLost), ('optimistic', SessionConflict)],
)
@pytest.mark.parametrize('moves', [False, True])
def test_request_on_its_way_stores_nothing(
    state: str,
    error: type[Exception],
    moves: bool,
    store: DynamoDBSessionStore,
) -> None:
    session_id = begin(store)
    session = opened(store, session_id, state=state)
    session['n'] = 2
    if moves:
        session.regenerate_id()
    assert store.remove_sessions_of('anna') == 1
    before = item_of(store, session_id)
    with pytest.raises(error):
        session.persist()
    assert item_of(store, session_id) == before
    assert names_of(store) == set()


@pytest.mark.parametrize('state', ['exclusive', 'read_only', 'optimistic'])
def test_request_that_only_reads_brings_nothing_back(
    state: str, store: DynamoDBSessionStore
) -> None:
    session_id = begin(store)
    plant(store, session_id, Expires=seconds(100))
    session = opened(store, session_id, state=state)
    assert session['n'] == 1
    store.remove_sessions_of('anna')
    before = item_of(store, session_id)
    session.persist()
    assert item_of(store, session_id) == before


def test_request_that_waits_for_the_lock_finds_no_session(
    make_store: Any,
) -> None:
    store = make_store(lock_wait=10)
    session_id = begin(store)
    holder = opened(store, session_id)
    holder['n'] = 2

    def wait() -> bool:
        session = opened(store, session_id)
        return 'n' in session

    def end() -> bool:
        store.remove_sessions_of('anna')
        with pytest.raises(SessionLockLost):
            holder.persist()
        return False

    assert together([wait, end]) == [False, False]


class Once:
    """An operation before which something happens, the first time."""

    def __init__(self, operation: Any, happens: Callable[[], Any]) -> None:
        self._operation = operation
        self._happens: list[Callable[[], Any]] = [happens]

    def __call__(self, **parameters: Any) -> Any:
        while self._happens:
            self._happens.pop()()
        return self._operation(**parameters)


def test_session_that_moves_at_that_moment_does_not_escape(
    store: DynamoDBSessionStore, make_store: Any, client: Any
) -> None:
    session = opened(store, begin(store))
    session.regenerate_id()
    # found by the query, and moved before it is ended
    wire = Interposed(client, update_item=None)
    ending = make_store(wire)
    ending.initialize()
    wire.update_item = Once(client.update_item, session.persist)
    assert ending.remove_sessions_of('anna') == 1
    assert store.get_item(session.session_id) is None
    assert names_of(store) == set()


class LateIndex:
    """``query``, whose first replies are those of before, so many times."""

    def __init__(self, client: Any, times: int) -> None:
        self._query = client.query
        self._left = times
        self._reply: Any = None

    def __call__(self, **parameters: Any) -> Any:
        if self._reply is None or not self._left:
            self._reply = self._query(**parameters)
        else:
            self._left -= 1
        time.sleep(owners.SETTLED_AFTER / 4)
        return self._reply


def test_session_that_moves_does_not_escape_by_a_late_index(
    store: DynamoDBSessionStore, make_store: Any, client: Any
) -> None:
    session = opened(store, begin(store))
    session.regenerate_id()
    wire = Interposed(client, query=LateIndex(client, 20), update_item=None)
    ending = make_store(wire)
    ending.initialize()
    wire.update_item = Once(client.update_item, session.persist)
    assert ending.remove_sessions_of('anna') == 1
    assert store.get_item(session.session_id) is None


def test_index_is_asked_again_after_a_standstill(
    store: DynamoDBSessionStore, make_store: Any, client: Any
) -> None:
    def query_before_a_standstill(**parameters: Any) -> Any:
        wire.query = client.query
        time.sleep(2 * owners.SETTLED_AFTER)
        return {'Items': []}

    session_id = begin(store)
    wire = Interposed(client, query=query_before_a_standstill)
    assert make_store(wire).remove_sessions_of('anna') == 1
    assert store.get_item(session_id) is None


def test_index_that_stays_behind_is_not_waited_for_for_ever(
    store: DynamoDBSessionStore,
    make_store: Any,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(owners, 'LONGEST_LAG', 0.2)
    begin(store)
    wire = Interposed(client, query=LateIndex(client, 10**6))
    assert make_store(wire).remove_sessions_of('anna') == 1
    assert 'the index of owners is 0.2 seconds behind' in caplog.text
    assert 'anna' not in caplog.text


def test_session_of_another_owner_by_now_stays(
    store: DynamoDBSessionStore, make_store: Any, client: Any
) -> None:
    session_id = begin(store)

    def change_owner() -> None:
        session = opened(store, session_id)
        session.owner = 'ben'
        session.persist()

    wire = Interposed(client, update_item=None)
    ending = make_store(wire)
    ending.initialize()
    wire.update_item = Once(client.update_item, change_owner)
    assert ending.remove_sessions_of('anna') == 0
    assert names_of(store, 'ben') == {name_of(store, session_id)}


def test_expired_session_that_a_request_holds_is_ended(
    store: DynamoDBSessionStore,
) -> None:
    session_id = begin(store)
    session = opened(store, session_id)
    session['n'] = 2
    plant(store, session_id, Expires=seconds(-2))
    dead = begin(store)
    plant(store, dead, Expires=seconds(-100))
    assert store.remove_sessions_of('anna') == 1
    with pytest.raises(SessionLockLost):
        session.persist()
    assert 'Ended' not in item_of(store, dead)


# -- throttling ----------------------------------------------------------


class Throttled:
    """An operation that is throttled so many times."""

    def __init__(self, operation: Any, times: int) -> None:
        self._operation = operation
        self._left = times

    def __call__(self, **parameters: Any) -> Any:
        if self._left:
            self._left -= 1
            code = 'ProvisionedThroughputExceededException'
            raise ClientError({'Error': {'Code': code}}, 'any')
        return self._operation(**parameters)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, 'THROTTLED_PAUSES', (0, 0))


@pytest.mark.usefixtures('impatient')
@pytest.mark.parametrize('operation', ['query', 'update_item'])
def test_throttling_is_waited_out(
    operation: str, store: DynamoDBSessionStore, make_store: Any, client: Any
) -> None:
    session_id = begin(store)
    throttled = Throttled(getattr(client, operation), 2)
    wire = Interposed(client, **{operation: throttled})
    assert make_store(wire).remove_sessions_of('anna') == 1
    assert store.get_item(session_id) is None


@pytest.mark.usefixtures('impatient')
def test_throttling_without_end_is_an_error(
    store: DynamoDBSessionStore, make_store: Any, client: Any
) -> None:
    begin(store)
    wire = Interposed(client, update_item=Throttled(client.update_item, 9))
    with pytest.raises(SessionStoreUnavailable):
        make_store(wire).remove_sessions_of('anna')


# -- what it costs -------------------------------------------------------


class Billed:
    """A client that adds up the write units of the item and of the index."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.units = (0, 0)

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._client, name)
        if name not in ('put_item', 'update_item', 'transact_write_items'):
            return operation

        def call(**parameters: Any) -> Any:
            reply = operation(**parameters, ReturnConsumedCapacity='INDEXES')
            consumed = reply['ConsumedCapacity']
            parts = consumed if isinstance(consumed, list) else [consumed]
            indexes = [
                part.get('GlobalSecondaryIndexes', {}) for part in parts
            ]
            self.units = (
                sum(int(part['Table']['CapacityUnits']) for part in parts),
                sum(
                    int(index['CapacityUnits'])
                    for each in indexes
                    for index in each.values()
                ),
            )
            return reply

        return call


def incompressible(size: str) -> str:
    """What makes an item of nearly so many KB."""
    length = int(float(size.removesuffix(' KB')) * 1000) - 400
    return base64.b64encode(random.Random(size).randbytes(length)).decode()


def bills(
    store: DynamoDBSessionStore, size: str, owner: str | None
) -> list[tuple[str, tuple[int, int]]]:
    """What each call of a session is billed, as the page on cost calls it."""
    billed = store.client
    bills = []

    def bill(title: str) -> None:
        bills.append((title, billed.units))

    session = opened(store)
    session['data'] = incompressible(size)
    if owner:
        session.owner = owner
    session.persist()
    session_id = session.session_id
    bill('created, with an owner')
    saved = 'saved, or released'
    slid = 'the same, and the expiry slides: once in ``touch_interval``'
    for title, behind in ((saved, 10), (slid, 90)):
        for use in (change_data, only_read):
            plant(store, session_id, Expires=seconds(1200 - behind))
            session = opened(store, session_id)
            session.get('n')
            bill('locked')
            use(session)
            session.persist()
            bill(title)
    session = opened(store, session_id)
    session.regenerate_id()
    session.persist()
    bill('``regenerate_id()``: the transaction')
    session = opened(store, session.session_id)
    session.invalidate()
    session.persist()
    bill('ended')
    return bills


@pytest.mark.engines('dynoxide', reason='its capacity figures are exact')
@pytest.mark.parametrize('owner', [None, 'anna'])
@pytest.mark.parametrize('column', range(4))
def test_units_are_those_of_the_page_on_cost(
    column: int,
    owner: str | None,
    make_store: Callable[..., DynamoDBSessionStore],
    client: Any,
    table: str,
) -> None:
    page = (ROOT / 'docs/cost.rst').read_text().partition('* - Size of the')
    rows = re.findall(r'    \* - (.+)\n((?:      - \d+ \+ \d+\n)+)', page[2])
    documented = {
        title: re.findall(r'- (\d+) \+ (\d+)', cells)[column]
        for title, cells in rows
    }
    on_table = {} if owner else {'table': table, 'owner_index': None}
    store = make_store(Billed(client), **on_table)
    found = bills(
        store, page[2].split(' - ')[column + 1].split('\n')[0], owner
    )
    assert {title for title, _ in found} == documented.keys()
    for title, units in found:
        of_item, of_index = map(int, documented[title])
        assert (title, units) == (title, (of_item, of_index if owner else 0))
