"""The ``session_state`` view option: what a view does with the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.exceptions import ConfigurationError

from .factory import enter_state
from .settings import STATES

View = Callable[[Any, Any], Any]


def session_state_view(view: View, info: Any) -> View:
    """A view deriver: put the session into the state of the view.

    It runs before the permission check and CSRF, so that both find the
    session as the view wants it. Views that say nothing get the default.
    """
    state = info.options.get('session_state')
    if state not in (None, *STATES):
        raise ConfigurationError(
            f'session_state={state!r} of the view {info.original_view!r} is '
            f'not one of {", ".join(STATES)}'
        )

    def view_in_state(context: Any, request: Any) -> Any:
        enter_state(request, state)
        return view(context, request)

    return view_in_state


session_state_view.options = ('session_state',)  # type: ignore[attr-defined]
