"""The database and the session of a request end together."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from sqlalchemy import Engine, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from transaction.interfaces import TransientError
from webtest import TestApp

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionStoreUnavailable,
)
from pyramid_dynamodb_session.dynamodb.direct import DirectClient
from pyramid_dynamodb_session.errors import TRANSACTION_EXPLANATIONS
from tests.apps import wsgi_app
from tests.apps.small_app import SmallApp, session_id
from tests.apps.views import count
from tests.support.aws import boto3_session, make_client
from tests.support.browser import Browser
from tests.support.database import (
    DATABASES,
    POSTGRESQL_URL,
    CommitRelay,
    Customer,
    Order,
    Voter,
    add_database,
    database,
    engine_url,
    orders,
    postgresql_engine,
)
from tests.support.docs_pages import page
from tests.support.proxy import LOSE_REPLY, FaultProxy, error
from tests.support.servers import Server
from tests.support.sessions import TOO_LARGE
from tests.support.together import together, wait_until

RETRY = 'pyramid_retry'
VETO = {'tm.commit_veto': 'pyramid_tm.default_commit_veto'}
EXPLICIT = {'tm.manager_hook': 'pyramid_tm.explicit_manager'}
REFUSED = error(400, 'AccessDeniedException')
COMMITTED, UNKNOWN = TRANSACTION_EXPLANATIONS.values()


def only_on_postgresql(test: Any) -> Any:
    test = pytest.mark.parametrize('engine', ['postgresql'], indirect=True)(
        test
    )
    return pytest.mark.postgresql(test)


class Shop:
    """An application with a database, whose orders are placed by views.

    :param more: settings of the application; ``includes`` are packages
        besides ours and pyramid_tm.
    """

    def __init__(
        self,
        engine: Engine,
        proxy: FaultProxy,
        client: Any,
        settings: dict[str, str],
    ) -> None:
        self.engine = engine
        self.proxy = proxy
        self.client = client
        self._settings = settings
        self.after = False
        self.explicit = False
        self.path = '/order'

    def make(
        self,
        includes: tuple[str, ...] = (),
        more: dict[str, Any] | None = None,
        **session_settings: Any,
    ) -> SmallApp:
        before, after = ('pyramid_tm', ''), ('', 'pyramid_tm')
        first, last = before if not self.after else after
        given = {
            **(EXPLICIT if self.explicit else {}),
            **(more or {}),
            'pyramid.includes': ' '.join([first, *includes]),
        }
        proxied = make_client(boto3_session(), self.proxy.url)
        if isinstance(self.client, DirectClient):
            credentials = boto3_session().get_credentials()
            proxied = DirectClient(proxied, credentials)
        app = SmallApp(proxied, self._settings, given, **session_settings)
        app.elsewhere = DynamoDBSessionStore(
            self.client,
            table=self._settings['dynamodb_session.table'],
            application=self._settings['dynamodb_session.application'],
        )
        if last:
            app.config.include(last)
        add_database(app.config, self.engine)
        app.config.add_exception_view(answer, Answered, renderer='json')
        app.add(count)
        self.app = app
        return app

    def open(self) -> TestApp:
        """A browser that has a session, ``{'n': 1}``."""
        self.browser = self.app.open()
        self.browser.get('/count')
        self.proxy.clear()
        return self.browser

    @property
    def session_id(self) -> str:
        return session_id(self.browser)

    def lose_lock(self) -> None:
        """Another process takes the lock over, and saves."""
        self.app.take_over(self.session_id)

    def save_elsewhere(self) -> None:
        record = self.app.elsewhere.get_item_exclusive(self.session_id)
        assert record and record.lock_id
        self.app.elsewhere.set_and_release_item_exclusive(
            self.session_id, {**record.items, 'other': True}, record.lock_id
        )

    def fail(self) -> None:
        """From now on DynamoDB refuses all writes."""
        self.proxy.inject(REFUSED, 'UpdateItem', times=math.inf)

    def orders(self) -> list[str]:
        return orders(self.engine)

    def stored(self) -> dict[str, Any]:
        """What is stored, except for what others have stored."""
        stored = dict(self.app.stored(self.browser))
        stored.pop('other', None)
        return stored


class Answered(Exception):
    """Has an exception view."""


class Counted(Exception):
    """Has an exception view that counts."""


class Unanswered(Exception):
    """Has none."""


class Transient(TransientError):
    """May be retried."""


def answer(error: Exception, request: Any) -> Any:
    request.response.status_code = 400
    return {'n': request.session.get('n')}


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with database(request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
def shop(
    engine: Engine,
    proxy: FaultProxy,
    client: Any,
    settings: dict[str, str],
) -> Iterator[Shop]:
    shop = Shop(engine, proxy, client, settings)
    yield shop
    proxy.heal()
    if hasattr(shop, 'browser'):
        assert_unlocked(shop)


def assert_unlocked(shop: Shop) -> None:
    """Whatever has happened, nobody keeps the lock that could give it back."""
    process = shop.app.factory.store._locks._process.get()
    assert not process.holders


def place_order(request: Any, name: str = 'mine') -> Any:
    """Count in the session, and put a row into the database."""
    n = request.session.get('n', 0) + 1
    request.session['n'] = n
    request.db.add(Order(name=name))
    return {'n': n}


# -- the table in the documentation --------------------------------------


@dataclass
class Case:
    """What a view does once it has placed its order."""

    then: Callable[[Shop, Any], object] = lambda shop, request: None
    includes: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    set_up: Callable[[Shop], object] = lambda shop: None


def raising(error: Exception) -> Callable[[Shop, Any], object]:
    def then(shop: Shop, request: Any) -> None:
        raise error

    return then


def once(do: Callable[[Shop, Any], object]) -> Callable[[Shop, Any], object]:
    """Only in the first attempt of a request."""

    def then(shop: Shop, request: Any) -> None:
        if request.environ.get('retry.attempt', 0) == 0:
            do(shop, request)

    return then


def refuse_response(shop: Shop, request: Any) -> None:
    request.response.status_code = 400


def roll_back_to_savepoint(shop: Shop, request: Any) -> None:
    savepoint = request.tm.savepoint()
    request.db.add(Order(name='not this one'))
    request.db.flush()
    savepoint.rollback()


def commit_by_hand(shop: Shop, request: Any) -> None:
    request.tm.commit()
    request.tm.begin()


def commit_and_raise(shop: Shop, request: Any) -> None:
    commit_by_hand(shop, request)
    raise Unanswered


def lose_lock_before_the_vote(shop: Shop, request: Any) -> None:
    shop.lose_lock()
    # until it can't be taken for granted any more
    time.sleep(0.2)


def vote(do: Callable[[Shop], object]) -> Callable[[Shop, Any], object]:
    """Another data manager does something when the session has voted."""

    def then(shop: Shop, request: Any) -> None:
        Voter(request.tm, partial(do, shop))

    return then


def raise_at_vote(error: Exception) -> Callable[[Shop, Any], object]:
    def do(shop: Shop) -> None:
        raise error

    return vote(do)


def fail_commit(shop: Shop, request: Any) -> None:
    request.db.add(Order(name='not this one', customer=99))


def save_and_fail_commit(shop: Shop, request: Any) -> None:
    request.session.save()
    fail_commit(shop, request)


def count_in_exception_view(shop: Shop) -> None:
    def view(error: Exception, request: Any) -> Any:
        request.session['n'] += 1
        return answer(error, request)

    shop.app.config.add_exception_view(view, Counted, renderer='json')


def leave_counting_to_exception_view(shop: Shop, request: Any) -> None:
    request.session['n'] -= 1
    raise Counted


def place_order_in_subrequest(shop: Shop) -> None:
    def parent(request: Any) -> Any:
        child = Request.blank('/child', cookies=request.cookies)
        return request.invoke_subrequest(child, use_tweens=True).json

    def child(request: Any) -> Any:
        return place_order(request)

    shop.app.add(parent, child)
    shop.path = '/parent'


def set_too_large(shop: Shop, request: Any) -> None:
    request.session['n'] = TOO_LARGE


def set_object(shop: Shop, request: Any) -> None:
    request.session['n'] = object()


def fail_at_vote(shop: Shop, request: Any) -> None:
    shop.fail()


OPTIMISTIC = {'session_state': 'optimistic'}
SHORT = {'lock_lease': 0.3}
lost_race = once(lambda shop, request: shop.save_elsewhere())

CASES = {
    'the view returns': Case(),
    'the view raises HTTPFound': Case(raising(HTTPFound('/'))),
    'the view raises HTTPFound, with '
    'tm.commit_veto = pyramid_tm.default_commit_veto': Case(
        raising(HTTPFound('/')), more=VETO
    ),
    'the view raises, an exception view answers': Case(raising(Answered())),
    'the view raises, an exception view answers, with '
    'set_on_exception = false': Case(
        raising(Answered()), settings={'set_on_exception': False}
    ),
    'the view raises, nothing answers': Case(raising(Unanswered())),
    'the exception view writes to the session': Case(
        leave_counting_to_exception_view, set_up=count_in_exception_view
    ),
    'tm.commit_veto refuses the response': Case(refuse_response, more=VETO),
    'the view calls request.tm.doom()': Case(
        lambda shop, request: request.tm.doom()
    ),
    'the view rolls back to a savepoint': Case(roll_back_to_savepoint),
    'the view commits by request.tm, and begins another transaction': Case(
        commit_by_hand
    ),
    'the view commits by request.tm, then raises': Case(commit_and_raise),
    'a subrequest places the order': Case(set_up=place_order_in_subrequest),
    'the session is too large': Case(set_too_large),
    "a value in the session can't be stored": Case(set_object),
    'the lock is lost before the vote': Case(
        lose_lock_before_the_vote, settings=SHORT
    ),
    'the lock is lost before the vote, with pyramid_retry': Case(
        once(lose_lock_before_the_vote), (RETRY,), settings=SHORT
    ),
    'an optimistic request has lost the race': Case(
        lost_race, options=OPTIMISTIC
    ),
    'an optimistic request has lost the race, with pyramid_retry': Case(
        lost_race, (RETRY,), options=OPTIMISTIC
    ),
    'DynamoDB fails at the vote of an optimistic request': Case(
        fail_at_vote, options=OPTIMISTIC
    ),
    'another data manager votes no, nothing answers': Case(
        raise_at_vote(Unanswered())
    ),
    'another data manager votes no, an exception view answers': Case(
        raise_at_vote(Answered())
    ),
    'another data manager votes no, with pyramid_retry': Case(
        once(raise_at_vote(Transient())), (RETRY,)
    ),
    'COMMIT fails, nothing answers': Case(fail_commit),
    'session.save(), then COMMIT fails': Case(save_and_fail_commit),
    'the lock is lost after the vote': Case(vote(Shop.lose_lock)),
    'DynamoDB fails after the commit': Case(vote(Shop.fail)),
    'DynamoDB fails after the commit, with pyramid_retry': Case(
        vote(Shop.fail), (RETRY,)
    ),
}


def table_rows() -> list[tuple[str, ...]]:
    text = page('addons').path.read_text()
    table = text.partition('.. _transaction-table:')[2]
    table = table.partition('\nAfter a commit\n')[0]
    rows = re.findall(r'^    \* - (.*?)(?=^    \*|^\S)', table, re.M | re.S)
    cells = [re.split(r'^      - ', row, flags=re.M) for row in rows[1:]]
    return [
        tuple(' '.join(cell.replace('``', '').split()) for cell in row)
        for row in cells
    ]


ROWS = table_rows()


def test_each_row_of_the_table_is_tested() -> None:
    assert [name for name, *_ in ROWS] == list(CASES)


@pytest.mark.parametrize(
    'variant', ['pyramid_tm first', 'pyramid_tm last, explicit']
)
@pytest.mark.parametrize(
    ('name', 'status', 'rows', 'session'), ROWS, ids=[row[0] for row in ROWS]
)
def test_row(
    name: str,
    status: str,
    rows: str,
    session: str,
    variant: str,
    shop: Shop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = CASES[name]
    shop.after = shop.explicit = variant != 'pyramid_tm first'
    shop.make(case.includes, case.more, **case.settings)

    def order(request: Any) -> Any:
        answer = place_order(request)
        case.then(shop, request)
        return answer

    shop.app.add(order, **case.options)
    case.set_up(shop)
    browser = shop.open()
    answered, text, headers = get(browser, shop.path)
    shop.proxy.heal()
    assert answered == status
    if 'DynamoDB fails' not in name:
        assert not shop.app.is_locked(browser)
    assert shop.orders() == {'committed': ['mine'], 'rolled back': []}[rows]
    assert shop.stored() == {'n': {'saved': 2, 'as before': 1}[session]}
    if (rows, session) == ('committed', 'as before') and status != 'error':
        assert COMMITTED in text
        assert 'Retry-After' not in headers
        assert 'had been committed before' in caplog.text
    else:
        assert COMMITTED not in text
        assert 'committed before' not in caplog.text


def get(browser: TestApp, path: str) -> tuple[str, str, Any]:
    """The status, which is ``error`` for an exception, text and headers."""
    try:
        response = browser.get(path, status='*')
    except Exception as error:
        return 'error', str(error), {}
    return str(response.status_int), response.text, response.headers


def placing(
    shop: Shop, then: Callable[[Shop, Any], object], **options: Any
) -> TestApp:
    """The browser of an application whose ``/order`` does this as well."""

    def order(request: Any) -> Any:
        answer = place_order(request)
        then(shop, request)
        return answer

    shop.app.add(order, **options)
    return shop.open()


def told_not_to_try_again(response: Any, explanation: str) -> bool:
    """Whether an error says what stands instead."""
    return (
        explanation in response.text
        and 'try again' not in response.text
        and 'Retry-After' not in response.headers
    )


# -- the session votes in every transaction ------------------------------


def tween_factory(handler: Any, registry: Any) -> Any:
    """A tween above pyramid_tm and below the session's."""

    def tween(request: Any) -> Any:
        registry.before(request)
        response = handler(request)
        registry.after(request)
        return response

    return tween


def add_tween(
    shop: Shop,
    before: Callable[[Any], object] = id,
    after: Callable[[Any], object] = id,
) -> None:
    shop.app.config.registry.before = before
    shop.app.config.registry.after = after
    shop.app.config.add_tween(
        'tests.test_transaction.tween_factory',
        over='pyramid_tm.tm_tween_factory',
        under='pyramid_dynamodb_session.factory.session_tween_factory',
    )


def loses_race(shop: Shop, request: Any) -> None:
    shop.save_elsewhere()


def test_session_that_was_loaded_before_the_transaction(shop: Shop) -> None:
    shop.make(session_state='optimistic')
    add_tween(shop, before=lambda request: len(request.session))
    browser = placing(shop, loses_race)
    browser.get('/order', status=409)
    assert shop.orders() == []


def test_session_that_was_first_used_after_a_savepoint(shop: Shop) -> None:
    def order(request: Any) -> Any:
        savepoint = request.tm.savepoint()
        place_order(request, 'not this one')
        savepoint.rollback()
        shop.save_elsewhere()
        return place_order(request)

    shop.make()
    shop.app.add(order, session_state='optimistic')
    browser = shop.open()
    browser.get('/order', status=409)
    assert shop.orders() == []


def test_session_votes_in_the_transaction_that_a_view_begins(
    shop: Shop,
) -> None:
    def order(request: Any) -> Any:
        place_order(request, 'first')
        commit_by_hand(shop, request)
        request.db.add(Order(name='second'))
        request.session['n'] = TOO_LARGE
        return {}

    shop.make()
    shop.app.add(order)
    browser = shop.open()
    response = browser.get('/order', status=500)
    assert told_not_to_try_again(response, COMMITTED)
    assert shop.orders() == ['first']
    assert shop.stored() == {'n': 1}


def test_race_that_is_lost_after_a_commit_by_hand_is_not_run_again(
    shop: Shop,
) -> None:
    """Also where the session was first used after that commit."""

    def order(request: Any) -> Any:
        request.db.add(Order(name='mine'))
        commit_by_hand(shop, request)
        request.session['n'] = 2
        shop.save_elsewhere()
        return {}

    shop.make((RETRY,))
    shop.app.add(order, session_state='optimistic')
    browser = shop.open()
    response = browser.get('/order', status=409)
    assert told_not_to_try_again(response, COMMITTED)
    assert shop.orders() == ['mine']
    assert shop.stored() == {'n': 1}


def test_session_without_a_transaction_to_join(shop: Shop) -> None:
    def order(request: Any) -> Any:
        request.tm.commit()
        request.session['n'] = 2
        request.tm.begin()
        return {}

    shop.explicit = True
    shop.make()
    shop.app.add(order)
    shop.open().get('/order')
    assert shop.stored() == {'n': 2}


def test_session_is_loaded_where_a_transaction_has_failed(shop: Shop) -> None:
    def order(request: Any) -> Any:
        raise_at_vote(Answered())(shop, request)
        request.tm.commit()

    shop.make()
    shop.app.add(order)
    browser = shop.open()
    assert browser.get('/order', status=400).json == {'n': 1}


def test_session_that_is_loaded_twice_votes_once(shop: Shop) -> None:
    votes = []

    def order(request: Any) -> Any:
        def note() -> None:
            votes.extend(map(type, request.tm.get()._resources))

        Voter(request.tm, note)
        return place_order(request)

    shop.make(session_state='optimistic')
    shop.app.config.set_root_factory(lambda request: len(request.session))
    shop.app.add(order, session_state='exclusive')
    shop.open().get('/order')
    assert len(votes) == len(set(votes)) == 3


def test_nothing_is_left_with_the_transaction_manager(shop: Shop) -> None:
    import transaction

    shop.make()
    browser = placing(shop, lambda shop, request: None)
    browser.get('/order')
    assert not transaction.manager.registeredSynchs()

    def clear(shop: Shop, request: Any) -> None:
        request.tm.clearSynchs()

    shop.make()
    browser = placing(shop, clear)
    browser.get('/order')
    assert shop.orders() == ['mine', 'mine']


def test_subrequest_that_commits_is_not_run_again(shop: Shop) -> None:
    def parent(request: Any) -> Any:
        request.session['n'] = 2
        child = Request.blank('/child')
        request.invoke_subrequest(child, use_tweens=True)
        # the vote of the subrequest's transaction has locked the session
        assert request.session.locked
        request.session['n'] = TOO_LARGE
        return {}

    def child(request: Any) -> Any:
        request.db.add(Order(name='mine'))
        return {}

    shop.explicit = True
    shop.make((RETRY,), session_state='optimistic')
    shop.app.add(parent, child)
    browser = shop.open()
    response = browser.get('/parent', status=500)
    assert told_not_to_try_again(response, COMMITTED)
    assert shop.orders() == ['mine']
    assert shop.stored() == {'n': 1}
    assert not shop.app.is_locked(browser)


def test_session_that_ends_before_its_vote(shop: Shop) -> None:
    def end(shop: Shop, request: Any) -> None:
        shop.app.elsewhere.remove_item(shop.session_id)

    shop.make((RETRY,))
    browser = placing(shop, once(end), session_state='optimistic')
    response = browser.get('/order', status=409)
    assert COMMITTED not in response.text
    assert shop.orders() == []


def test_session_that_ended_meanwhile_stores_nothing_but_a_timeout(
    shop: Shop,
) -> None:
    def order(request: Any) -> Any:
        request.db.add(Order(name='mine'))
        request.session.adjust_timeout(60)
        return {}

    shop.make((RETRY,))
    shop.app.add(order)
    browser = shop.open()
    shop.app.elsewhere.remove_item(shop.session_id)
    response = browser.get('/order', status=409)
    assert COMMITTED not in response.text
    assert shop.orders() == []


# -- faults --------------------------------------------------------------


@pytest.mark.parametrize('times', [1, math.inf], ids=['once', 'always'])
def test_reply_to_the_vote_is_lost(
    times: float, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(shop: Shop, request: Any) -> None:
        shop.proxy.inject(LOSE_REPLY, 'UpdateItem', times=times)

    shop.make((RETRY,))
    browser = placing(shop, lose, session_state='optimistic')
    response = browser.get('/order', status='*')
    saved = response.status_int == 200
    assert saved == (times == 1)
    assert shop.orders() == ['mine'] * saved
    assert shop.stored() == {'n': 1 + saved}
    if not saved:
        assert response.status_int == 503
        # it is certain, and so are the words
        assert 'Please try again in a moment.' in response.text
        assert 'Retry-After' in response.headers


@pytest.mark.parametrize('state', ['exclusive', 'optimistic'])
@pytest.mark.parametrize('times', [1, math.inf], ids=['once', 'always'])
def test_reply_to_the_save_is_lost(
    times: float,
    state: str,
    shop: Shop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lose(shop: Shop) -> None:
        shop.proxy.inject(LOSE_REPLY, 'UpdateItem', times=times)

    shop.make((RETRY,))
    browser = placing(shop, vote(lose), session_state=state)
    response = browser.get('/order', status='*')
    assert shop.orders() == ['mine']
    assert shop.stored() == {'n': 2}
    if times == 1:
        assert response.status_int == 200
    else:
        assert response.status_int == 503
        assert told_not_to_try_again(response, COMMITTED)
        assert 'had been committed before' in caplog.text


def test_store_that_is_gone_when_a_lock_is_to_be_confirmed(shop: Shop) -> None:
    def lose(shop: Shop, request: Any) -> None:
        shop.fail()
        time.sleep(0.3)

    shop.make((RETRY,), lock_lease=0.4, lock_wait=60)
    browser = placing(shop, lose)
    response = browser.get('/order', status=503)
    assert COMMITTED not in response.text
    assert shop.orders() == []
    shop.proxy.heal()
    assert browser.get('/count').json == {'n': 2}


def test_failure_is_remembered_until_after_the_commit(shop: Shop) -> None:
    """The words are those of the time when it is raised."""

    def order(request: Any) -> Any:
        request.db.add(Order(name='mine'))
        shop.fail()
        with pytest.raises(SessionStoreUnavailable) as failure:
            len(request.session)
        assert failure.value.transaction == 'not committed'
        return {}

    def use_twice(request: Any) -> None:
        if request.path != '/order':
            return
        for _ in range(2):
            with pytest.raises(SessionStoreUnavailable) as failure:
                len(request.session)
            assert str(failure.value).count('had been committed') == 1
        len(request.session)

    shop.make()
    add_tween(shop, after=use_twice)
    shop.app.add(order)
    response = shop.open().get('/order', status=503)
    assert told_not_to_try_again(response, COMMITTED)
    assert shop.orders() == ['mine']


def test_session_that_can_not_be_loaded_after_the_commit(shop: Shop) -> None:
    def order(request: Any) -> Any:
        request.db.add(Order(name='mine'))
        shop.fail()
        return {}

    shop.make((RETRY,))
    add_tween(shop, after=lambda request: len(request.session))
    shop.app.add(order)
    response = shop.open().get('/order', status=503)
    assert told_not_to_try_again(response, COMMITTED)
    assert shop.orders() == ['mine']


def test_commit_of_which_nobody_knows(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """A database commits in its vote, another data manager fails after it.

    The session, which is to be saved with the error's page, is lost as well.
    """

    def fail(shop: Shop, request: Any) -> None:
        def vote() -> None:
            shop.lose_lock()
            raise Answered

        Voter(request.tm, vote, key='~z')

    shop.make((RETRY,))
    browser = placing(shop, fail)
    response = browser.get('/order', status=409)
    assert told_not_to_try_again(response, UNKNOWN)
    assert 'is not known' in caplog.text
    assert shop.orders() == ['mine']
    assert shop.stored() == {'n': 1}


@only_on_postgresql
def test_serialization_failure_at_commit_is_run_again(shop: Shop) -> None:
    """Each of two transactions has read what the other one writes."""

    def skew(shop: Shop, request: Any) -> None:
        request.db.flush()
        if request.environ['retry.attempt']:
            return
        request.db.query(Order).count()
        with Session(shop.engine) as other:
            other.query(Order).count()
            other.add(Order(name='other'))
            other.commit()

    shop.make((RETRY,))
    browser = placing(shop, skew)
    assert browser.get('/order').json == {'n': 2}
    assert shop.orders() == ['other', 'mine']
    assert shop.stored() == {'n': 2}


@only_on_postgresql
def test_reply_to_commit_is_lost(shop: Shop) -> None:
    """The order stands, and nothing runs again for the session's sake."""

    def lose(shop: Shop, request: Any) -> None:
        vote(Shop.lose_lock)(shop, request)

    with closing(CommitRelay(str(POSTGRESQL_URL))) as relay:
        direct = shop.engine
        with direct.connect() as connection:
            schema = connection.exec_driver_sql('SHOW search_path').scalar()
        shop.engine = postgresql_engine(relay.url, str(schema))
        shop.make((RETRY,))
        shop.engine = direct
        shop.app.config.add_exception_view(
            answer, OperationalError, renderer='json'
        )
        browser = placing(shop, lose)
        response = browser.get('/order', status=409)
    assert told_not_to_try_again(response, UNKNOWN)
    assert shop.orders() == ['mine']
    assert shop.stored() == {'n': 1}


def test_process_that_is_stopped_between_vote_and_commit(
    shop: Shop, settings: dict[str, str]
) -> None:
    given = settings | {
        'dynamodb_session.lock_lease': '0.5',
        'database': engine_url(shop.engine),
        'pyramid.includes': RETRY,
    }
    with Server(given, app='tests.apps.order_app:main') as server:
        browser = Browser(server.url)
        assert browser.get('/count').json == {'n': 1}
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(browser.get, '/order')
            wait_until(lambda: is_stopped(server.pid))
            store = DynamoDBSessionStore(
                shop.client,
                table=settings['dynamodb_session.table'],
                application=settings['dynamodb_session.application'],
                lock_lease=0.5,
            )
            session_id = browser.cookies['session']
            record = store.get_item_exclusive(session_id)
            assert record and record.lock_id and record.items == {'n': 1}
            store.release_item_exclusive(session_id, record.lock_id)
            server.cont()
        assert answer.result().status == 409
        assert COMMITTED in answer.result().text
        assert 'had been committed before' in server.log
        assert browser.get('/read').json == {'n': 1}
    assert shop.orders() == ['mine']


def is_stopped(pid: int) -> bool:
    state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    return state == 'T'


# -- calls ---------------------------------------------------------------


@pytest.mark.parametrize(
    ('state', 'path', 'inside', 'outside'),
    [
        ('exclusive', '/count', 2, 2),
        ('exclusive', '/read', 2, 2),
        ('read_only', '/read', 1, 1),
        ('optimistic', '/count', 3, 2),
        ('optimistic', '/read', 1, 1),
        ('disabled', '/none', 0, 0),
    ],
)
def test_calls(
    state: str,
    path: str,
    inside: int,
    outside: int,
    proxied: dict[str, str],
    proxy: FaultProxy,
) -> None:
    for includes, calls in (('pyramid_tm', inside), ('', outside)):
        app = wsgi_app.main({}, **proxied, **{'pyramid.includes': includes})
        browser = TestApp(app)
        browser.get('/count')
        proxy.clear()
        browser.get(f'/{state}{path}')
        assert len(proxy.calls) == calls


ALONE = """
import json, sys
from webtest import TestApp
from tests.apps import wsgi_app

browser = TestApp(wsgi_app.main({}, **json.loads(sys.argv[1])))
assert [browser.get('/count').json['n'] for _ in range(2)] == [1, 2]
print([name for name in ('transaction', 'pyramid_tm') if name in sys.modules])
"""


def test_without_pyramid_tm_nothing_of_it_is_imported(
    settings: dict[str, str],
) -> None:
    def imported(settings: dict[str, str]) -> str:
        return subprocess.run(
            [
                sys.executable,
                '-W',
                'ignore',
                '-c',
                ALONE,
                json.dumps(settings),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()

    assert imported(settings) == '[]'
    more = settings | {'pyramid.includes': 'pyramid_tm'}
    assert imported(more) == "['transaction', 'pyramid_tm']"


# -- the order of locks --------------------------------------------------


@pytest.mark.parametrize('loads', [False, True])
def test_order_of_locks(loads: bool, shop: Shop) -> None:
    """A view locks a row, then the session; another one does the reverse.

    Each has what the other waits for, unless the session is loaded first.
    """
    has_row, has_session = threading.Event(), threading.Event()
    # seconds in which the other one does not come, if it has to wait; or
    # until it comes, however busy the machine is
    pause = 0.3 if loads else 60

    def lock_row(request: Any) -> None:
        request.db.execute(update(Customer).values(orders=Customer.orders + 1))

    def row_first(request: Any) -> Any:
        lock_row(request)
        has_row.set()
        has_session.wait(pause)
        return place_order(request)

    def session_first(request: Any) -> Any:
        answer = place_order(request)
        has_session.set()
        has_row.wait(pause)
        lock_row(request)
        return answer

    with Session(shop.engine) as session:
        session.add(Customer(id=1))
        session.commit()
    shop.make(lock_wait=60 if loads else 1)
    shop.app.add(row_first, session_first, load_session=loads)
    shop.open()

    def status(path: str) -> int:
        other = shop.app.browser(shop.session_id)
        return int(other.get(path, status='*').status_int)

    paths = ['/row_first', '/session_first']
    statuses = together(partial(status, path) for path in paths)
    assert statuses == ([200, 200] if loads else [503, 200])
    assert shop.orders() == ['mine'] * statuses.count(200)
    assert shop.stored() == {'n': 1 + statuses.count(200)}
