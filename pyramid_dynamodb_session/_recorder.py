"""What one request did with its session, for the subscribers to events."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from .events import Call, SessionEvent

log = logging.getLogger(__name__)


class RecordedEvent(NamedTuple):
    """A ``kind`` of event, and how many calls had been made by then."""

    kind: type[SessionEvent]
    seconds: float
    calls: int


@dataclasses.dataclass(frozen=True)
class SessionSnapshot:
    """A session as it was read or, if ``is_new``, as it was to be written.

    ``name`` is the table's key for it, ``size`` the bytes of its item,
    ``kind`` the type of ``SessionItems``; ``payload`` is the serializer's
    output, and ``parts()`` what that would be for each key alone.
    """

    name: str
    size: int
    kind: str
    payload: bytes = dataclasses.field(repr=False)
    parts: Callable[[], dict[str, bytes]] = dataclasses.field(repr=False)
    is_new: bool


class Recorder:
    """Notes what one request does with its session, and tells the others.

    There is one only where somebody subscribed.

    :param request: whose registry the events go to.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self.calls: list[Call] = []
        self.events: list[RecordedEvent] = []
        self.snapshots: list[SessionSnapshot] = []
        #: how often the lock was renewed until it was given back
        self.renewals = 0
        #: why the session could not be loaded, or saved
        self.error = ''

    def notify(self, event: type[SessionEvent], seconds: float = 0) -> None:
        """Notify the subscribers of `event`.

        They watch and do not interfere: what one of them raises is logged,
        or it would keep locks from being given back.
        """
        if self._request is None:
            return
        self.events.append(RecordedEvent(event, seconds, len(self.calls)))
        try:
            self._request.registry.notify(
                event(self._request, seconds, tuple(self.calls))
            )
        except Exception:
            log.exception('a subscriber to %s has failed', event.__name__)

    def close(self) -> None:
        """The request has ended: let go of it."""
        self._request = None
