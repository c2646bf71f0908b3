"""What the package gives to the tests of applications."""

from __future__ import annotations

import pickle
import secrets
import subprocess
import sys
from typing import Any

import pytest
from pyramid.interfaces import ISessionFactory
from webtest import TestApp

from pyramid_dynamodb_session.testing import (
    SessionContract,
    Visitor,
    read_session,
    update_session,
)
from tests.apps import wsgi_app
from tests.support.clients import Interposed

embedded = pytest.mark.engines('moto', reason='it brings its own DynamoDB')


# -- the session of a test's browser --------------------------------------


@pytest.fixture(
    params=[
        {},
        {'secret': 's' * 32, 'cookie_name': 'mine', 'cookie_path': '/'},
        {'encryption_keys': 'k' * 43, 'cookie_domain': 'shop.example'},
    ],
    ids=['plain', 'signed', 'encrypted'],
)
def browser(
    request: pytest.FixtureRequest, settings: dict[str, str]
) -> TestApp:
    more = {f'dynamodb_session.{k}': v for k, v in request.param.items()}
    at_domain = 'cookie_domain' in request.param
    return TestApp(
        wsgi_app.main(None, **settings, **more),
        extra_environ={'HTTP_HOST': 'shop.example:80'} if at_domain else {},
    )


def test_session_is_there_before_the_first_request(browser: TestApp) -> None:
    update_session(browser, {'n': 5, 'auth.userid': 'anna'})
    assert browser.get('/count').json == {'n': 6}
    assert read_session(browser) == {'n': 6, 'auth.userid': 'anna'}


def test_session_that_is_there_is_changed(browser: TestApp) -> None:
    assert read_session(browser) == {}
    browser.get('/count')
    cookies = browser.cookies
    update_session(browser, {'m': 2})
    assert browser.cookies == cookies
    assert read_session(browser) == {'n': 1, 'm': 2}
    assert browser.get('/count').json == {'n': 2}


def test_cookie_of_ours_is_replaced_by_the_application_s(
    browser: TestApp,
) -> None:
    update_session(browser, {'n': 1})
    before = browser.cookies
    browser.get('/regenerate')
    assert browser.get('/read').json == {'n': 1}
    assert browser.cookies != before
    assert len(list(browser.cookiejar)) == 1


def test_session_that_has_ended_is_replaced(browser: TestApp) -> None:
    update_session(browser, {'n': 1, 'm': 1})
    before = browser.cookies
    factory = browser.app.registry.getUtility(ISessionFactory)
    (value,) = before.values()
    factory.store.remove_item(factory.cookie.id_in(value.strip('"')))
    assert read_session(browser) == {}
    update_session(browser, {'n': 5})
    assert browser.cookies != before
    assert browser.get('/count').json == {'n': 6}
    assert read_session(browser) == {'n': 6}


def test_application_may_be_wrapped(settings: dict[str, str]) -> None:
    app = wsgi_app.main(None, **settings)

    def wrapper(environ: Any, start_response: Any) -> Any:
        return app(environ, start_response)

    browser = TestApp(wrapper)
    update_session(browser, {'n': 1}, app)
    assert browser.get('/count').json == {'n': 2}
    assert read_session(browser, app) == {'n': 2}


# -- the contract ---------------------------------------------------------


@embedded
@embedded
class TestEmbedded(SessionContract):
    """As it is, on the embedded DynamoDB."""


class TestWithAClient(SessionContract):
    """With a client of the user's, on the engine under test."""

    @pytest.fixture
    def session_settings(
        self, settings: dict[str, str], client: Any
    ) -> dict[str, Any]:
        ours = Interposed(client)
        return {
            **settings,
            'dynamodb_session.transport': 'boto3',
            'dynamodb_session.client': ours,
        }

    def test_client_is_ours(self, visitor: Visitor) -> None:
        factory = visitor._app.registry.getUtility(ISessionFactory)
        assert isinstance(factory.store.client, Interposed)


class Pickles:
    """A serializer as users have them."""

    def dumps(self, items: Any) -> bytes:
        return pickle.dumps(items)

    def loads(self, data: bytes) -> Any:
        try:
            return pickle.loads(data)
        except Exception as error:
            raise ValueError from error


class TestWithAllThatIsOptional(SessionContract):
    @pytest.fixture
    def session_settings(self, settings: dict[str, str]) -> dict[str, Any]:
        return {
            **settings,
            'dynamodb_session.encryption_keys': secrets.token_urlsafe(32),
            'dynamodb_session.secret': secrets.token_urlsafe(32),
            'dynamodb_session.serializer': 'tests.test_testing.Pickles',
            'dynamodb_session.transport': 'direct',
        }

    @pytest.fixture
    def values(self) -> list[Any]:
        return [(1, 2), {3}, b'bytes', None]


class Forgetful(Pickles):
    """A serializer that breaks the contract."""

    def loads(self, data: bytes) -> Any:
        return dict.fromkeys(super().loads(data))


def test_contract_finds_a_serializer_that_breaks_it(
    settings: dict[str, str],
) -> None:
    visitor = Visitor(
        {
            **settings,
            'dynamodb_session.serializer': 'tests.test_testing.Forgetful',
        }
    )
    with pytest.raises(AssertionError):
        SessionContract().test_values_come_back(visitor, [1])


def test_package_does_without_what_is_for_development() -> None:
    code = (
        'import sys, pyramid_dynamodb_session\n'
        'optional = {"moto", "pyramid_debugtoolbar", "pytest"}\n'
        'assert optional.isdisjoint(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
