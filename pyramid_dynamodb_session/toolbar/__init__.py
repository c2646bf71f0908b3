"""The debug toolbar's panel: what a request did with its session.

It shows what was recorded during the request, and makes no call of its own.
"""

from __future__ import annotations

import re
from typing import Any

from pyramid_debugtoolbar.panels import DebugPanel

from .._recorder import RequestRecorder, SessionSnapshot
from ..events import (
    LockLost,
    LockTaken,
    LockTakenOver,
    LockTimedOut,
    LockWaited,
    SessionCreated,
    SessionEvent,
    SessionRemoved,
    SessionSaved,
    SessionUsed,
)
from ..factory import lifecycles_of
from ..serializer import (
    JSONSerializer,
    Path,
    changed_by_storing,
    path_text,
    type_name,
)
from ..session import DynamoDBSession
from ..store.item import ITEM_LIMIT

OUTCOMES = {
    SessionRemoved: 'removed',
    SessionCreated: 'created',
    SessionSaved: 'saved',
}
#: Characters of the hashed id that are not shown.
HIDDEN = 35


class SessionReport:
    """What a request did with one session, as the panel shows it."""

    def __init__(self, session: DynamoDBSession) -> None:
        self._work = session._work
        self._recorder = recorder_of(session)
        #: the seconds that each kind of event took, the last of its kind
        self._seconds = {
            event.kind: event.seconds for event in self._recorder.events
        }
        self.state = session.state
        self.error = self._recorder.error
        self.calls = [
            (call, self._events_after(number))
            for number, call in enumerate(self._recorder.calls, 1)
        ]
        self.seconds = sum(call.seconds for call in self._recorder.calls)
        self.units = sum(call.units or 0 for call in self._recorder.calls)

    def _events_after(self, number: int) -> str:
        """The events between the call of this `number` and the next one."""
        return ', '.join(
            event_words(event.kind)
            for event in self._recorder.events
            if event.calls == number and event.kind != SessionUsed
        )

    @property
    def before(self) -> SessionSnapshot | None:
        """The session as the request found it."""
        for snapshot in self._recorder.snapshots:
            return None if snapshot.is_new else snapshot
        return None

    @property
    def after(self) -> SessionSnapshot | None:
        """The session as the request left it, or meant to."""
        for snapshot in reversed(self._recorder.snapshots):
            if snapshot.is_new or SessionRemoved not in self._seconds:
                return snapshot
        return None

    @property
    def name(self) -> str:
        """The hashed id, shortened."""
        snapshot = self.after or self.before
        return f'{snapshot.name[:-HIDDEN]}…' if snapshot else ''

    @property
    def outcome(self) -> str:
        done = [
            word for event, word in OUTCOMES.items() if event in self._seconds
        ]
        if done:
            return ', '.join(done)
        if LockTaken in self._seconds:
            return 'not saved, only released'
        if self.before:
            return 'only read'
        return 'nothing stored' if self.in_use else 'not used'

    @property
    def lock(self) -> str:
        """What became of the lock."""
        taken = 'after waiting' if LockWaited in self._seconds else 'in'
        phrases = {
            LockTakenOver: 'taken over from a dead request after {}',
            LockTaken: f'taken {taken} {{}}',
            LockTimedOut: 'not to be had in {}',
            LockLost: 'lost to another request',
        }
        lock = [
            phrase.format(duration(self._seconds[event]))
            for event, phrase in phrases.items()
            if event in self._seconds
        ]
        if self._recorder.renewals:
            lock.append(f'renewed {times(self._recorder.renewals)}')
        return ', '.join(lock) or 'not taken'

    @property
    def waited(self) -> float:
        """Seconds that the request waited for the lock."""
        if LockTimedOut in self._seconds:
            return self._seconds[LockTimedOut]
        return self._seconds.get(LockWaited, 0)

    @property
    def in_use(self) -> str:
        """How long the session was in use, without waiting for its lock."""
        if SessionUsed not in self._seconds:
            return ''
        worked = duration(self._seconds[SessionUsed] - self.waited)
        if not self.waited:
            return worked
        return f'{worked}, after waiting {duration(self.waited)} for the lock'

    @property
    def keys(self) -> list[tuple[str, int, str]]:
        """Each key with its bytes and what became of it, largest first."""
        before = self.before.parts() if self.before else {}
        after = self.after.parts() if self.after else {}
        keys = [
            (key, len(part), change(part, before.get(key)))
            for key, part in after.items()
        ]
        keys += [(key, 0, 'removed') for key in before.keys() - after.keys()]
        return sorted(keys, key=lambda row: (-row[1], row[0]))

    @property
    def changed_by_storing(self) -> list[tuple[str, str]]:
        """Values that come back as something else: where, and their type.

        Of the package's own serializer; what others do is not known.
        """
        items = self._work.items
        serializer = self._work._store.settings.serializer
        if items is None or not isinstance(serializer, JSONSerializer):
            return []
        try:
            paths = changed_by_storing(items)
        except (TypeError, ValueError, RecursionError):
            # an error besides, which the panel shows
            return []
        return [
            (f'session{path_text(path)}', type_at(items, path))
            for path in paths
        ]


def recorder_of(session: DynamoDBSession) -> RequestRecorder:
    """What was recorded of a session; nothing, if nobody listened."""
    recorder = session._work.recorder
    if isinstance(recorder, RequestRecorder):
        return recorder
    return RequestRecorder()


def change(after: bytes, before: bytes | None) -> str:
    if before is None:
        return 'added'
    return '' if after == before else 'changed'


def type_at(items: Any, path: Path) -> str:
    """The type of a value, or of its key if that is no text."""
    for key in path[:-1]:
        items = items[key]
    last = path[-1]
    if isinstance(items, dict) and type(last) is not str:
        return f'a key of type {type_name(type(last))}'
    return type_name(type(items[last]))


def event_words(event: type[SessionEvent]) -> str:
    """``LockTaken`` as ``lock taken``."""
    return re.sub('(?<!^)(?=[A-Z])', ' ', event.__name__).lower()


def duration(seconds: float) -> str:
    return f'{seconds * 1000:,.1f} ms'


def times(number: int) -> str:
    return 'once' if number == 1 else f'{number} times'


def sessions_of(request: Any) -> list[DynamoDBSession]:
    """The sessions that a request asked for; none is loaded."""
    sessions = [
        lifecycle.session for lifecycle in lifecycles_of(request).values()
    ]
    # a subrequest has that of its parent
    shared = vars(request).get('session')
    if not sessions and isinstance(shared, DynamoDBSession):
        sessions.append(shared)
    return sessions


class DynamoDBSessionPanel(DebugPanel):
    """What the request did with its session."""

    name = 'dynamodb_session'
    template = 'pyramid_dynamodb_session.toolbar:panel.dbtmako'
    title = nav_title = 'DynamoDB Session'
    has_content = True

    def __init__(self, request: Any) -> None:
        self._request = request

    @property
    def nav_subtitle(self) -> str:
        """The number of calls and the wait, in the panel's tab."""
        reports = self._reports()
        number = sum(len(report.calls) for report in reports)
        calls = f'{number} call{"" if number == 1 else "s"}'
        waited = sum(report.waited for report in reports)
        return f'{calls}, waited {waited * 1000:,.0f} ms' if waited else calls

    def process_response(self, response: Any) -> None:
        """The session may still be saved: see what becomes of that."""
        self._request.add_response_callback(
            StatusCorrection(self._request.debug_toolbar, response.status_int)
        )

    def render_vars(self, request: Any) -> dict[str, Any]:
        # not earlier: the last call may come after the toolbar
        return {'sessions': self._reports(), 'limit': ITEM_LIMIT}

    def _reports(self) -> list[SessionReport]:
        return [
            SessionReport(session) for session in sessions_of(self._request)
        ]


class StatusCorrection:
    """A response callback: the history shows the status that is sent.

    The toolbar's tween is below the one that saves the session, and has seen
    another status when saving fails.
    """

    def __init__(self, toolbar: Any, seen: int) -> None:
        self._toolbar = toolbar
        self._seen = seen

    def __call__(self, request: Any, response: Any) -> None:
        # but for what the toolbar shows in place of a redirection
        if response.status_int != self._seen:
            self._toolbar.status_int = response.status_int


def listen(config: Any) -> None:
    """Subscribe in the application, so that its requests are recorded."""
    config.add_subscriber(ignore, SessionEvent)


def ignore(event: SessionEvent) -> None:
    """The panel reads the recorder, not the event."""


def includeme(config: Any) -> None:
    """Add the panel: ``debugtoolbar.includes`` names this module."""
    config.add_debugtoolbar_panel(DynamoDBSessionPanel)
    config.inject_parent_action(listen)
