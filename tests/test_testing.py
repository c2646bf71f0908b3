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
    session_settings,  # noqa: F401
)
from tests.apps import wsgi_app
from tests.support.clients import Interposed

embedded = pytest.mark.engines('moto', reason='it brings its own DynamoDB')


@embedded
def test_application_with_the_fixture(
    session_settings: dict[str, Any],  # noqa: F811
) -> None:
    browser = TestApp(wsgi_app.main(None, **session_settings))
    assert [browser.get('/count').json['n'] for _ in 'ab'] == [1, 2]


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
