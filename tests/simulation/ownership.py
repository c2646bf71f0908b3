"""Requests about the owners of sessions: the kinds, and what views do."""

from __future__ import annotations

import importlib
from typing import Any

from pyramid.interfaces import ISessionFactory

from tests.simulation.kinds import Kind, ViewFailed, login, write
from tests.simulation.stdlib import current_fiber


def log_in_as_owner(request: Any, script: Any) -> None:
    login(request, script)
    request.session.owner = script.owner


def set_owner(request: Any, script: Any) -> None:
    write(request, script)
    request.session.owner = script.owner


def disown(request: Any, script: Any) -> None:
    write(request, script)
    request.session.owner = None


def sign_out_others(request: Any, script: Any) -> None:
    """As after a changed password: the session maybe gets a new id as well."""
    write(request, script)
    session = request.session
    session.owner = script.owner
    if script.number % 2:
        session.regenerate_id()
    store = request.registry.getUtility(ISessionFactory).store
    if not remove_sessions(store, script, session):
        raise ViewFailed


def remove_sessions(store: Any, script: Any, keep: Any = None) -> bool:
    """End the sessions of the request's owner; whether it was done."""
    name = None if keep is None else store.name_of(keep)
    owners = script.checker.owners
    removal = owners.begins_removal(script, name)
    fiber = current_fiber()
    # it asks the index for a second at least
    before, fiber.category = fiber.category, 'view'
    errors = importlib.import_module('pyramid_dynamodb_session')
    try:
        count = store.remove_sessions_of(script.owner, keep)
    except errors.SessionStoreUnavailable:
        owners.fails_removal(removal)
        return False
    finally:
        fiber.category = before
    owners.ends_removal(removal, count)
    return True


#: What a request does to owners: sets or removes that of its session, or ends
#: the sessions of one.
SETS, REMOVES, SIGNS_OUT = 'sets', 'removes', 'signs out'

OWNER_KINDS = (
    Kind(
        'login, owner',
        'exclusive',
        log_in_as_owner,
        calls=(2, 1),
        ownership=SETS,
    ),
    Kind(
        'optimistic login, owner',
        'optimistic',
        log_in_as_owner,
        calls=(2, 1),
        ownership=SETS,
    ),
    Kind('set owner', 'exclusive', set_owner, calls=(2, 1), ownership=SETS),
    Kind('disown', 'exclusive', disown, calls=(2, 1), ownership=REMOVES),
    Kind(
        'sign out others',
        'exclusive',
        sign_out_others,
        ownership=SIGNS_OUT,
    ),
    Kind(
        'sign out elsewhere',
        '',
        lambda request, script: None,
        writes=False,
        ownership=SIGNS_OUT,
    ),
)
