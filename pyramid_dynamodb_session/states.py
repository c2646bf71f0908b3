"""The view options ``session_state`` and ``load_session``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.exceptions import ConfigurationError

from .factory import enter_state
from .settings import STATES

View = Callable[[Any, Any], Any]

#: Where a request keeps that one of its views is running.
IN_VIEW = '_dynamodb_session_in_view'


def session_state_view(view: View, info: Any) -> View:
    """A view deriver: put the session into the state of the view.

    It runs before the permission check and CSRF, so that both find the
    session as the view wants it. Views that say nothing get the default. A
    view that another view renders leaves the state as it is.
    """
    state = info.options.get('session_state')
    if state not in (None, *STATES):
        raise ConfigurationError(
            f'session_state={state!r} of the view {info.original_view!r} is '
            f'not one of {", ".join(STATES)}'
        )

    def view_in_state(context: Any, request: Any) -> Any:
        attributes = vars(request)
        if IN_VIEW in attributes:
            return view(context, request)
        attributes[IN_VIEW] = True
        try:
            enter_state(request, state)
            return view(context, request)
        finally:
            del attributes[IN_VIEW]

    return view_in_state


session_state_view.options = ('session_state',)  # type: ignore[attr-defined]


def load_session_view(view: View, info: Any) -> View:
    """A view deriver: load the session before the view.

    With ``load_session=True`` an ``exclusive`` session is locked before
    anything that the view locks in a database.
    """
    if not info.options.get('load_session', False):
        return view
    if info.options.get('session_state') == 'disabled':
        raise ConfigurationError(
            f'the view {info.original_view!r} has load_session=True and '
            'session_state="disabled": remove one of them'
        )

    def view_with_session(context: Any, request: Any) -> Any:
        len(request.session)
        return view(context, request)

    return view_with_session


load_session_view.options = ('load_session',)  # type: ignore[attr-defined]
