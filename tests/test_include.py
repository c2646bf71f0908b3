"""The include: its settings, its place among tweens and session factories."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError, ConfigurationError
from pyramid.interfaces import ISession, ISessionFactory, ITweens
from pyramid.session import SignedCookieSessionFactory
from pyramid.testing import DummyRequest

from pyramid_dynamodb_session import (
    DynamoDBSessionFactory,
    session_factory_from_settings,
)

PACKAGE = 'pyramid_dynamodb_session'
PREFIX = 'dynamodb_session.'
TWEEN = 'pyramid_dynamodb_session.factory.session_tween_factory'
KEY = {'AttributeName': 'SessionId', 'KeyType': 'HASH'}
TYPE = {'AttributeName': 'SessionId', 'AttributeType': 'S'}


class Client:
    """A client whose table is there."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def describe_table(self, **parameters: Any) -> Any:
        self.calls.append('describe_table')
        return {
            'Table': {
                'TableStatus': 'ACTIVE',
                'KeySchema': [KEY],
                'AttributeDefinitions': [TYPE],
            }
        }

    def update_item(self, **parameters: Any) -> Any:
        raise NotImplementedError


def configurator(client: Any = None, **more: Any) -> Configurator:
    settings = {f'{PREFIX}client': client or Client()}
    return Configurator(settings=settings | more.pop('settings', {}), **more)


def tween_factory(handler: Any, registry: Any) -> Any:
    return handler


other_tween_factory = tween_factory


def cookie_sessions(config: Any) -> None:
    """What a package does that brings a session factory along."""
    config.set_session_factory(SignedCookieSessionFactory('secret'))


def test_tween_is_above_those_added_later_without_hints() -> None:
    config = configurator()
    config.add_tween('tests.test_include.tween_factory')
    config.include(PACKAGE)
    config.add_tween('tests.test_include.other_tween_factory')
    config.commit()
    tweens = config.registry.getUtility(ITweens).implicit()
    assert tweens[0][0] == TWEEN
    assert len(tweens) == 4


@pytest.mark.parametrize(
    'includes',
    itertools.permutations([PACKAGE, 'pyramid_tm', 'pyramid_debugtoolbar']),
    ids=lambda includes: '-'.join(name[8:11] for name in includes),
)
def test_order_of_includes_does_not_matter(includes: list[str]) -> None:
    config = configurator()
    for name in includes:
        config.include(name)
    config.commit()
    tweens = config.registry.getUtility(ITweens).implicit()
    assert [name.rpartition('.')[2] for name, _ in tweens] == [
        'session_tween_factory',
        'toolbar_tween_factory',
        'tm_tween_factory',
        'excview_tween_factory',
    ]


def test_explicit_tweens_stay_as_they_are() -> None:
    chain = ['tests.test_include.tween_factory', TWEEN]
    config = configurator(settings={'pyramid.tweens': chain})
    config.include(PACKAGE)
    config.commit()
    tweens = config.registry.getUtility(ITweens)
    assert [name for name, _ in tweens.explicit] == chain


def before(config: Configurator) -> None:
    cookie_sessions(config)
    config.include(PACKAGE)


def after(config: Configurator) -> None:
    config.include(PACKAGE)
    cookie_sessions(config)


def committed_before(config: Configurator) -> None:
    cookie_sessions(config)
    config.commit()
    config.include(PACKAGE)


def ours_besides(config: Configurator) -> None:
    config.include(PACKAGE)
    config.set_session_factory(
        session_factory_from_settings(config.get_settings())
    )


@pytest.mark.parametrize(
    'set_up', [before, after, committed_before, ours_besides]
)
def test_other_session_factory_is_refused(
    set_up: Callable[[Configurator], None],
) -> None:
    client = Client()
    config = configurator(client)
    with pytest.raises(ConfigurationError) as error:
        set_up(config)
        config.make_wsgi_app()
    message = str(error.value)
    assert "that of config.include('pyramid_dynamodb_session')" in message
    assert f'{__file__}: ' in message
    assert 'config.set_session_factory(' in message
    assert client.calls == []


def test_other_factory_of_the_constructor_is_refused() -> None:
    config = configurator(session_factory=SignedCookieSessionFactory('x'))
    config.include(PACKAGE)
    with pytest.raises(ConfigurationError, match='there are two session fact'):
        config.commit()


def test_conflict_with_another_include_names_both() -> None:
    config = configurator()
    config.include(PACKAGE)
    config.include(cookie_sessions)
    with pytest.raises(ConfigurationConflictError) as error:
        config.commit()
    assert f"    config.include('{PACKAGE}')\n" in str(error.value) + '\n'
    assert 'config.set_session_factory(Signed' in str(error.value)


class Wrapper:
    """What stands before the session factory, as tools for debugging do."""

    def __init__(self, factory: Any) -> None:
        self.factory = factory

    def __call__(self, request: Any) -> Any:
        return self.factory(request)


def test_session_factory_may_be_wrapped() -> None:
    config = configurator()
    config.include(PACKAGE)

    def wrap() -> None:
        factory = config.registry.getUtility(ISessionFactory)
        config.registry.registerUtility(Wrapper(factory), ISessionFactory)

    config.action('wrap', wrap, order=1)
    config.make_wsgi_app()
    wrapper = config.registry.getUtility(ISessionFactory)
    assert isinstance(wrapper, Wrapper)
    assert isinstance(wrapper.factory, DynamoDBSessionFactory)
    assert ISession.providedBy(wrapper(DummyRequest()))


def test_configurators_without_introspection_or_deferred_actions() -> None:
    for options in ({'introspection': False}, {'autocommit': True}):
        client = Client()
        config = configurator(client, **options)
        config.include(PACKAGE)
        config.make_wsgi_app()
        factory = config.registry.getUtility(ISessionFactory)
        assert isinstance(factory, DynamoDBSessionFactory)
        assert client.calls == ['describe_table']


# -- settings -------------------------------------------------------------


def refused(name: str, value: str = '5') -> str:
    config = configurator(settings={name: value})
    config.include(PACKAGE)
    with pytest.raises(ConfigurationError) as error:
        config.commit()
    return str(error.value)


def test_error_says_that_the_include_has_found_it() -> None:
    message = refused('dynamodb_session.timout')
    assert message.splitlines() == [
        "<class 'pyramid.exceptions.ConfigurationError'>: "
        'dynamodb_session.timout is no setting: '
        'did you mean dynamodb_session.timeout?',
        '  in:',
        "  config.include('pyramid_dynamodb_session')",
    ]


@pytest.mark.parametrize(
    'prefix',
    [
        'dynamodb_sessions',
        'dynamodb-session',
        'dynamodb.session',
        'dynamodb_sesion',
        'dynamo_session',
        'dynamo_sessions',
        'DynamoDB_Session',
        'pyramid_dynamodb_session',
    ],
)
@pytest.mark.parametrize('name', ['timeout', 'timout'])
def test_misspelt_prefix_is_refused(prefix: str, name: str) -> None:
    assert (
        f'{prefix}.{name} is no setting: did you mean dynamodb_session.timeout'
    ) in refused(f'{prefix}.{name}')


@pytest.mark.parametrize(
    'key',
    [
        'session.timeout',
        'redis.sessions.timeout',
        'dynamodb.table',
        'dynamodb_session2.timeout',
        'dynamodb_session_admin.timeout',
        'dynamodb_sessions.of_another_package',
        'timeout',
        '.timeout',
    ],
)
def test_settings_of_others_are_left_alone(key: str) -> None:
    config = configurator(settings={key: '5'})
    config.include(PACKAGE)
    config.commit()
    assert config.registry.getUtility(ISessionFactory).settings.timeout == 1200


def test_prefix_of_your_own_is_compared_with_none() -> None:
    settings = {'dynamodb_sessions.timeout': '5'}
    for prefix in ('shop.', 'dynamodb_sessions.'):
        session_factory_from_settings(settings, prefix)


@pytest.mark.parametrize(('wait', 'said'), [('10', 1), ('2', 1), ('10.1', 0)])
def test_wait_that_is_not_above_the_lease_is_said_once(
    wait: str, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = configurator(settings={f'{PREFIX}lock_wait': wait})
    config.include(PACKAGE)
    config.make_wsgi_app()
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]
    assert len(warnings) == said
    for warning in warnings:
        assert warning.startswith(
            f'dynamodb_session.lock_wait ({wait} s) is not above '
            'dynamodb_session.lock_lease (10 s): '
        )


# -- add-ons that look for the session factory -----------------------------


def test_add_on_finds_the_factory_while_the_application_is_configured() -> (
    None
):
    found = []

    def add_on(config: Any) -> None:
        found.append(config.registry.queryUtility(ISessionFactory))

    config = configurator()
    config.include(PACKAGE)
    config.include(add_on)
    # deferred: they still count
    config.add_settings({f'{PREFIX}cookie_name': 'later'})
    with pytest.raises(ConfigurationError, match='is committed'):
        found[0](DummyRequest())
    config.commit()
    factory = config.registry.getUtility(ISessionFactory)
    assert isinstance(factory, DynamoDBSessionFactory)
    assert factory.settings.cookie_name == 'later'
    request = DummyRequest(registry=config.registry, environ={})
    assert found[0](request) is factory(request)
