"""The ``session_state`` view option: what a view does with the session."""

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
