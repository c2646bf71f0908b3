"""Views for histories, and a store whose protocol can be broken.

Include it besides the application of the tests.
"""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request

from pyramid_dynamodb_session.dynamodb.calls import Calls
from pyramid_dynamodb_session.store import locks
from pyramid_dynamodb_session.store.expressions import LOCK, update
from pyramid_dynamodb_session.store.outcome import Outcome
from tests.apps.views import add_views, hold

ANY = 'attribute_exists(Ver)'


def unlock_any(
    self: Any, calls: Calls, name: str, lock_id: str, record: Any
) -> None:
    """Release whatever lock there is, whoever holds it."""
    calls.on_item('update_item', name, **update({}, ANY, {}, remove=LOCK))


#: What each breakage puts in the place of what.
BREAKAGES: dict[str, tuple[Any, str, Any]] = {
    # a save that is refused counts as saved, whoever took the lock over
    'no fencing count': (
        locks,
        'outcome_under_lock',
        lambda failed, item, lock: Outcome.SAVED,
    ),
    # whoever once held the lock saves
    'no token check': (locks, 'lock_held', lambda lock_id: (ANY, {})),
    # whoever once held the lock unlocks
    'unconditional unlock': (locks.Locks, '_release_by_call', unlock_any),
}
SOUND = {
    (thing, name): getattr(thing, name)
    for thing, name, _ in BREAKAGES.values()
}


def break_protocol(request: Request) -> Any:
    """Break it as ``how`` says; mend it first, and only, if that is empty."""
    for (thing, name), sound in SOUND.items():
        setattr(thing, name, sound)
    how = request.params['how']
    if how:
        setattr(*BREAKAGES[how])
    return {'broken': how}


def peek(request: Request) -> Any:
    """Read the tokens, and hold the lock for a while."""
    tokens = request.session.get('tokens', [])
    hold(request)
    return {'tokens': tokens}


def includeme(config: Configurator) -> None:
    add_views(config, break_protocol, peek)
