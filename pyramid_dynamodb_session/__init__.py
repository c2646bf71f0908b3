"""Pyramid sessions in DynamoDB, locked for the length of a request."""

from __future__ import annotations

import logging
from typing import Any

from pyramid.config import PHASE1_CONFIG
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISessionFactory
from pyramid.tweens import EXCVIEW, INGRESS
from pyramid.viewderivers import INGRESS as VIEW_INGRESS
from zope.interface import implementer

from .errors import (
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
from .factory import DynamoDBSessionFactory, session_factory_from_settings
from .session import DynamoDBSession
from .settings import PREFIX
from .states import load_session_view, session_state_view
from .store import DynamoDBSessionStore

__all__ = [
    'DynamoDBSession',
    'DynamoDBSessionFactory',
    'DynamoDBSessionStore',
    'SessionClosed',
    'SessionConflict',
    'SessionDisabled',
    'SessionError',
    'SessionLockLost',
    'SessionLockTimeout',
    'SessionReadOnly',
    'SessionSerializationError',
    'SessionStoreUnavailable',
    'SessionTooLarge',
    'includeme',
    'session_factory_from_settings',
]

log = logging.getLogger(__name__)

INCLUDE = "config.include('pyramid_dynamodb_session')"
#: After every other action: no table is made for a wrong configuration.
LAST = 10**6


def includeme(config: Any) -> None:
    """Set the session factory up from the ``dynamodb_session.`` settings.

    Include it with ``config.include('pyramid_dynamodb_session')`` or in
    ``pyramid.includes``. The table is validated, or created, when the WSGI
    application is made, which blocks until the table is ACTIVE. Another
    session factory besides is a
    :class:`pyramid.exceptions.ConfigurationError`.

    It adds a tween that saves the session after the exception views and
    after the commit of ``pyramid_tm``, above all tweens that are added
    without hints, and the view options ``session_state`` and
    ``load_session``.
    """
    # a configurator of our own, whose actions say in errors where they are
    # from: there is no line of code where pyramid.includes has it
    config = config.with_package(config.package)
    config.info = INCLUDE
    pending = PendingSessionFactory()
    if config.registry.queryUtility(ISessionFactory) is None:
        config.registry.registerUtility(pending, ISessionFactory)
    config.add_view_deriver(
        session_state_view,
        'session_state_view',
        under=VIEW_INGRESS,
        over='secured_view',
    )
    config.add_view_deriver(
        load_session_view,
        'load_session_view',
        under='session_state_view',
        over='secured_view',
    )
    # deferred, so that settings that are added later count
    config.action(None, register, args=(config, pending), order=PHASE1_CONFIG)


@implementer(ISessionFactory)
class PendingSessionFactory:
    """Stands for the session factory until the settings have been read.

    For an add-on that sets a factory of its own where it finds none, or wraps
    the one that it finds, while the application is being configured.
    """

    def __init__(self) -> None:
        self.factory: DynamoDBSessionFactory | None = None

    def __call__(self, request: Any) -> DynamoDBSession:
        if self.factory is None:
            raise ConfigurationError(
                'there is no session before the configuration is committed: '
                'call config.commit() first'
            )
        return self.factory(request)


def register(config: Any, pending: PendingSessionFactory) -> None:
    """Set the session factory, unless there is another from before."""
    factory = session_factory_from_settings(config.get_settings())
    for warning in factory.settings.warnings(PREFIX):
        log.warning(warning)
    refuse_other_factory(config.introspector, factory)
    pending.factory = factory
    config.set_session_factory(factory)
    config.action(None, complete, args=(config, factory), order=LAST)


def complete(config: Any, factory: DynamoDBSessionFactory) -> None:
    """Whatever has to come after the actions of the application."""
    refuse_other_factory(config.introspector, factory)
    # an action that is added now would be too late
    config.autocommit = True
    config.add_tween(
        'pyramid_dynamodb_session.factory.session_tween_factory',
        under=INGRESS,
        over=('pyramid_tm.tm_tween_factory', EXCVIEW),
    )
    factory.store.initialize()


def refuse_other_factory(
    introspector: Any, factory: DynamoDBSessionFactory
) -> None:
    """Raise ConfigurationError if another factory was set than `factory`.

    One that wraps it and was registered without ``set_session_factory``, as
    a tool for debugging does, is no other.
    """
    found = introspector.get('session factory', None)
    if found is None or found['factory'] is factory:
        return
    place = ' '.join(str(found.action_info).split())
    raise ConfigurationError(
        f'there are two session factories: that of {INCLUDE}, and '
        f'{found.title} ({place}); remove one of them'
    )
