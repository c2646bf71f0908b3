"""What one request does with its session, recorded for who listens to it.

The events that an application subscribes to are in
:mod:`~pyramid_dynamodb_session.events`.
"""

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
    attributes: dict[str, Any]


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


def nobody() -> None:
    """There is no request."""


class Recorder:
    """Records nothing: nobody listens.

    :param request: returns the request, as a weak reference does, or None.
    """

    listens = False

    def __init__(self, request: Callable[[], Any] = nobody) -> None:
        self._request = request

    def request_line(self) -> str:
        """The method and the path of the request, for the log."""
        request = self._request()
        return f'{request.method} {request.path}' if request else ''

    def record_call(self, call: Call) -> None:
        """A call to DynamoDB was made."""

    def record_event(
        self, kind: type[SessionEvent], seconds: float = 0, **attributes: Any
    ) -> None:
        """Something happened; subscribers hear of it from :meth:`notify`."""

    def record_snapshot(self, snapshot: SessionSnapshot) -> None:
        """A session was read, or is to be written."""

    def record_renewals(self, number: int) -> None:
        """The lock was renewed so often until it was given back."""

    def record_error(self, message: str) -> None:
        """The session could not be loaded, or saved."""

    def notify(self) -> None:
        """Notify the subscribers of what has happened since."""

    def close(self) -> None:
        """The request has ended."""


class RequestRecorder(Recorder):
    """Records what one request does, and notifies subscribers of events."""

    listens = True

    def __init__(self, request: Callable[[], Any] = nobody) -> None:
        super().__init__(request)
        self._notified = 0
        self.calls: list[Call] = []
        self.events: list[RecordedEvent] = []
        self.snapshots: list[SessionSnapshot] = []
        #: how often the lock was renewed until it was given back
        self.renewals = 0
        #: why the session could not be loaded, or saved
        self.error = ''

    def record_call(self, call: Call) -> None:
        self.calls.append(call)

    def record_snapshot(self, snapshot: SessionSnapshot) -> None:
        self.snapshots.append(snapshot)

    def record_event(
        self, kind: type[SessionEvent], seconds: float = 0, **attributes: Any
    ) -> None:
        self.events.append(
            RecordedEvent(kind, seconds, len(self.calls), attributes)
        )

    def record_renewals(self, number: int) -> None:
        self.renewals += number

    def record_error(self, message: str) -> None:
        self.error = message

    def notify(self) -> None:
        """What a subscriber raises is logged, and harms no request."""
        while self._notified < len(self.events):
            kind, seconds, calls, attributes = self.events[self._notified]
            self._notified += 1
            request = self._request()
            if request is None:
                continue
            event = kind(
                request, seconds, tuple(self.calls[:calls]), **attributes
            )
            try:
                request.registry.notify(event)
            except Exception:
                log.exception('a subscriber to %s has failed', kind.__name__)

    def close(self) -> None:
        """Let go of the request."""
        self.notify()
        self._request = nobody
