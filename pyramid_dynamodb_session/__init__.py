"""Pyramid sessions in DynamoDB, locked for the length of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyramid.config import PHASE1_CONFIG
from pyramid.tweens import EXCVIEW, INGRESS
from pyramid.viewderivers import INGRESS as VIEW_INGRESS

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
from .factory import DynamoDBSessionFactory
from .session import DynamoDBSession
from .states import session_state_view
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

PREFIX = 'dynamodb_session.'
#: After every other action: no table is made for a wrong configuration.
LAST = 10**6


def session_factory_from_settings(
    settings: Mapping[str, Any], prefix: str = PREFIX
) -> DynamoDBSessionFactory:
    """A session factory from the settings that bear the `prefix`.

    Raises :class:`pyramid.exceptions.ConfigurationError` for an unknown key
    or a value that can't be parsed. No call is made.
    """
    return DynamoDBSessionFactory.from_settings(
        {
            key: value
            for key, value in settings.items()
            if key.startswith(prefix)
        },
        prefix,
    )


def includeme(config: Any) -> None:
    """Set the session factory up from the ``dynamodb_session.`` settings.

    Include it with ``config.include('pyramid_dynamodb_session')`` or in
    ``pyramid.includes``. The table is validated, or created, when the WSGI
    application is made, which blocks until the table is ACTIVE.

    It adds a tween that saves the session after the exception views and
    after the commit of ``pyramid_tm``, and the view option
    ``session_state``.
    """
    config.add_tween(
        'pyramid_dynamodb_session.factory.session_tween_factory',
        under=INGRESS,
        over=('pyramid_tm.tm_tween_factory', EXCVIEW),
    )
    config.add_view_deriver(
        session_state_view,
        'session_state_view',
        under=VIEW_INGRESS,
        over='secured_view',
    )

    def register() -> None:
        factory = session_factory_from_settings(config.get_settings())
        config.set_session_factory(factory)
        config.action(None, factory.store.initialize, order=LAST)

    # deferred, so that settings that are added later count
    config.action(None, register, order=PHASE1_CONFIG)
