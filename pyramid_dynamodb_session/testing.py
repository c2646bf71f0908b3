"""For the tests of applications: real sessions, and what they promise.

Needs pytest and the extra ``[local]``; nothing else in the package imports
it.
"""

from __future__ import annotations

import os
import threading
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.cookies import SimpleCookie
from types import SimpleNamespace
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.interfaces import ISession, ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from zope.interface.verify import verifyObject

from . import local
from .errors import SessionClosed
from .factory import DynamoDBSessionFactory
from .unit_of_work import new_session_id

#: Where a request carries what is to be done with its session, and what that
#: has returned.
USE, RESULT = 'pyramid_dynamodb_session.use', 'pyramid_dynamodb_session.result'


def embedded_settings() -> dict[str, Any]:
    """The ``.ini`` settings of sessions in an embedded DynamoDB.

    It is started with the first call and ends with the process. Each call
    returns another ``application``: none sees the sessions of another.
    """
    return {
        'dynamodb_session.endpoint_url': local.start(),
        'dynamodb_session.region': 'us-east-1',
        'dynamodb_session.aws_access_key_id': 'testing',
        'dynamodb_session.aws_secret_access_key': 'testing',
        'dynamodb_session.application': f'test-{uuid.uuid4().hex[:8]}',
    }


@pytest.fixture(scope='session')
def session_settings() -> dict[str, Any]:
    """A fixture of all tests of a run: :func:`embedded_settings`.

    ``pytest_plugins = ['pyramid_dynamodb_session.testing']`` in
    ``conftest.py`` brings it in.
    """
    return embedded_settings()


def read_session(browser: Any, app: Any = None) -> dict[str, Any]:
    """What is stored in the session of a WebTest `browser`; empty for none.

    :param app: the WSGI application that Pyramid made, where the browser's
        own is another around it.
    """
    factory = factory_of(browser, app)
    session_id = session_id_of(browser, factory)
    if session_id is None:
        return {}
    record = factory.store.get_item(session_id)
    return {} if record is None else record.items


def update_session(
    browser: Any, items: Mapping[str, Any], app: Any = None
) -> None:
    """Store `items` in the session of a WebTest `browser`.

    One without a session gets one, and the cookie. Other items stay. The
    `app` is that of :func:`read_session`.
    """
    factory = factory_of(browser, app)
    store = factory.store
    session_id = session_id_of(browser, factory)
    if session_id is not None:
        record = store.get_item_exclusive(session_id)
        if record is not None:
            store.set_and_release_item_exclusive(
                session_id, {**record.items, **items}, record.lock_id
            )
            return
    session_id = new_session_id()
    store.set_and_release_item_exclusive(
        session_id, dict(items), None, new_item=True
    )
    send_cookie(browser, factory, session_id)


def factory_of(browser: Any, app: Any) -> DynamoDBSessionFactory:
    registry = (app or browser.app).registry
    factory: DynamoDBSessionFactory = registry.getUtility(ISessionFactory)
    return factory


def session_id_of(browser: Any, factory: DynamoDBSessionFactory) -> str | None:
    value = browser.cookies.get(factory.settings.cookie_name)
    return value and factory.cookie.id_in(value.strip('"'))


def send_cookie(
    browser: Any, factory: DynamoDBSessionFactory, session_id: str
) -> None:
    """Have a browser take the cookie as if a response had brought it."""
    request = Request.blank('/', environ=browser.extra_environ)
    response = Response()
    factory.cookie.write(request, response, session_id, None)
    headers = Message()
    headers['Set-Cookie'] = response.headers['Set-Cookie']
    browser.cookiejar.extract_cookies(
        SimpleNamespace(info=lambda: headers),
        # it opens nothing, and names the host
        urllib.request.Request(request.url),  # noqa: S310
    )


class Visitor:
    """A browser of somebody, at an application that is all session.

    :param settings: ``.ini`` settings of the sessions.

    ``cookies`` are what it keeps, ``status`` the last response's.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        with Configurator(settings=settings) as config:
            config.include('pyramid_dynamodb_session')
            config.add_view(use_session)
        self._app = config.make_wsgi_app()
        self.cookies: dict[str, str] = {}
        self.status = 0

    def clone(self, **cookies: str) -> Visitor:
        """Another browser there, which has these `cookies` alone."""
        clone = object.__new__(Visitor)
        clone._app = self._app
        clone.cookies = cookies
        return clone

    def use(self, use: Callable[[Any], Any]) -> Any:
        """Make a request in which `use` is called with the session.

        Returns what `use` does, also when the session is not saved.
        """
        cookie = '; '.join(f'{k}={v}' for k, v in self.cookies.items())
        request = Request.blank(
            '/', environ={USE: use}, headers={'Cookie': cookie}
        )
        response = request.get_response(self._app)
        self.status = response.status_int
        for header in response.headers.getall('Set-Cookie'):
            for name, morsel in SimpleCookie(header).items():
                self.cookies[name] = morsel.value
        return request.environ[RESULT]


def use_session(request: Any) -> Any:
    """The one view of the application."""
    request.environ[RESULT] = request.environ[USE](request.session)
    return Response()


def put(**items: Any) -> Callable[[Any], None]:
    """What puts these `items` into a session."""
    return lambda session: session.update(items)


class SessionContract:
    """What a session promises, as tests.

    For a serializer or a client of your own: inherit it in a class whose
    name begins with ``Test``, and override the fixtures ``session_settings``
    and ``values``.
    """

    @pytest.fixture
    def session_settings(self) -> dict[str, Any]:
        """The ``.ini`` settings, serializer and all."""
        return embedded_settings()

    @pytest.fixture
    def values(self) -> list[Any]:
        """What must come back as it was stored."""
        return [
            None,
            True,
            -1,
            0.5,
            '',
            'Grüße \U0001f36a',
            [1, [2, []]],
            {'a': {'b': [None, {}]}},
        ]

    @pytest.fixture
    def visitor(self, session_settings: dict[str, Any]) -> Visitor:
        """Somebody without a session."""
        return Visitor(session_settings)

    def test_it_is_a_session(self, visitor: Visitor) -> None:
        assert visitor.use(lambda session: verifyObject(ISession, session))

    def test_nothing_is_stored_until_something_is_written(
        self, visitor: Visitor
    ) -> None:
        assert visitor.use(dict) == {}
        assert visitor.use(lambda session: session.session_id) is None
        assert visitor.cookies == {}

    def test_values_come_back(
        self, visitor: Visitor, values: list[Any]
    ) -> None:
        items = {f'key {n}': value for n, value in enumerate(values)}
        visitor.use(put(**items))
        assert visitor.use(dict) == items
        visitor.use(put(more=1))
        assert visitor.use(dict) == {**items, 'more': 1}

    def test_change_inside_a_value_is_found(self, visitor: Visitor) -> None:
        visitor.use(put(cart=[]))
        visitor.use(lambda session: session['cart'].append('tea'))
        assert visitor.use(dict) == {'cart': ['tea']}

    def test_what_is_deleted_stays_deleted(self, visitor: Visitor) -> None:
        visitor.use(put(a=1, b=2, c=3))
        visitor.use(lambda session: session.pop('a'))
        assert visitor.use(dict) == {'b': 2, 'c': 3}
        visitor.use(lambda session: session.clear())
        assert visitor.use(dict) == {}

    def test_it_is_new_once(self, visitor: Visitor) -> None:
        def is_new(session: Any) -> bool:
            session['seen'] = True
            return bool(session.new)

        assert [visitor.use(is_new) for _ in range(3)] == [True, False, False]

    def test_nobody_sees_another_ones(self, visitor: Visitor) -> None:
        visitor.use(put(n=1))
        assert visitor.clone().use(dict) == {}
        assert visitor.clone(**visitor.cookies).use(dict) == {'n': 1}

    def test_id_is_never_taken_from_the_client(self, visitor: Visitor) -> None:
        visitor.use(put(n=1))
        forged = dict.fromkeys(visitor.cookies, 'x' * 43)
        other = visitor.clone(**forged)
        other.use(put(n=2))
        assert other.use(dict) == {'n': 2}
        assert other.cookies.items().isdisjoint(forged.items())
        assert visitor.clone(**forged).use(dict) == {}

    def test_invalidated_session_is_dead(self, visitor: Visitor) -> None:
        def log_out(session: Any) -> None:
            session.invalidate()
            session['bye'] = True

        visitor.use(put(n=1))
        before = visitor.clone(**visitor.cookies)
        visitor.use(log_out)
        assert visitor.use(dict) == {'bye': True}
        assert before.use(dict) == {}

    def test_regenerated_id_has_the_same_data(self, visitor: Visitor) -> None:
        visitor.use(put(n=1))
        before = visitor.clone(**visitor.cookies)
        visitor.use(lambda session: session.regenerate_id())
        assert visitor.use(dict) == {'n': 1}
        assert before.use(dict) == {}

    def test_flash_is_shown_once(self, visitor: Visitor) -> None:
        visitor.use(lambda session: session.flash('saved'))
        assert visitor.use(lambda session: session.peek_flash()) == ['saved']
        assert visitor.use(lambda session: session.pop_flash()) == ['saved']
        assert visitor.use(lambda session: session.pop_flash()) == []

    def test_csrf_token_lasts(self, visitor: Visitor) -> None:
        token = visitor.use(lambda session: session.get_csrf_token())
        assert visitor.use(lambda session: session.get_csrf_token()) == token
        new = visitor.use(lambda session: session.new_csrf_token())
        assert visitor.use(lambda session: session.get_csrf_token()) == new
        assert new != token

    def test_parallel_requests_lose_nothing(self, visitor: Visitor) -> None:
        def count(session: Any) -> None:
            session['n'] += 1

        def count_often() -> None:
            clone = visitor.clone(**visitor.cookies)
            for _ in range(4):
                clone.use(count)

        visitor.use(put(n=0))
        with ThreadPoolExecutor(3) as threads:
            for future in [threads.submit(count_often) for _ in range(3)]:
                future.result()
        assert visitor.use(dict) == {'n': 12}

    @pytest.mark.parametrize(
        'make',
        [threading.Lock, lambda: os.urandom(450_000).hex()],
        ids=['can not be serialized', 'is too large'],
    )
    def test_what_can_not_be_stored_leaves_what_was(
        self, make: Callable[[], Any], visitor: Visitor
    ) -> None:
        visitor.use(put(n=1))
        visitor.use(put(n=2, bad=make()))
        assert visitor.status == 500
        assert visitor.use(dict) == {'n': 1}
        visitor.use(put(n=3))
        assert visitor.use(dict) == {'n': 3}

    def test_saved_early_it_is_only_read(self, visitor: Visitor) -> None:
        def save(session: Any) -> int:
            session['n'] = 1
            session.save()
            with pytest.raises(SessionClosed):
                session['n'] = 2
            return int(session['n'])

        assert visitor.use(save) == 1
        assert visitor.use(dict) == {'n': 1}

    def test_repr_shows_neither_id_nor_data(self, visitor: Visitor) -> None:
        visitor.use(put(n='secret'))
        shown, id = visitor.use(
            lambda session: (repr(session), session.session_id)
        )
        assert id and id not in shown
        assert 'secret' not in shown
