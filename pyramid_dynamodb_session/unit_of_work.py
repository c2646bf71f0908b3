"""Loads one session, once, and saves what has become of it.

What views see of it is in :mod:`~pyramid_dynamodb_session.session`. Nothing
here knows of a request or a cookie.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

from ._recorder import Recorder
from .errors import (
    NOT_COMMITTED,
    SessionClosed,
    SessionConflict,
    SessionDisabled,
    SessionError,
    SessionLockLost,
    SessionLockTimeout,
    SessionReadOnly,
    SessionResponseError,
    SessionSerializationError,
    SessionStoreUnavailable,
    SessionTooLarge,
)
from .events import (
    LockLost,
    LockTimedOut,
    SaveConflicted,
    SessionCreated,
    SessionEvent,
    SessionRemoved,
    SessionSaved,
    StoreFailed,
)
from .store import DynamoDBSessionStore
from .store.item import EndedSession, SessionRecord
from .store.lease import back_off_before_retry
from .store.locks import VersionChanged
from .store.outcome import conflict, lock_lost

try:
    from pyramid_retry import mark_error_retryable
except ImportError:

    def mark_error_retryable(error: Exception) -> None:
        """Nobody is there to retry."""


log = logging.getLogger(__name__)

FAILURES: dict[type[SessionError], type[SessionEvent]] = {
    SessionConflict: SaveConflicted,
    SessionLockLost: LockLost,
    SessionLockTimeout: LockTimedOut,
    SessionStoreUnavailable: StoreFailed,
}
#: Logged where they come from, or a matter of course.
LOGGED_OR_USUAL = (SessionStoreUnavailable, SessionConflict)
#: What the application has put into the session, and should not have.
PROGRAMMING_ERRORS = (SessionSerializationError, SessionTooLarge)
#: Seconds after the end of a session within which a request of it that begins
#: counts as overtaken by a logout or a login.
OVERTAKEN_SECONDS = 10


def new_session_id() -> str:
    """256 random bits: 43 characters of base64url."""
    return secrets.token_urlsafe(32)


def nothing() -> None:
    pass


class UnitOfWork:
    """What one request does with the stored session.

    :param session_id: under which it is looked for; None for a new one.
    :param state: ``exclusive``, ``read_only``, ``optimistic``, ``disabled``.
    :param touch_interval: seconds between the touches of requests that only
        read without a lock.
    :param on_load: called before the session is loaded.
    :param started_at: when the first attempt of the request began, on the
        monotonic clock.
    :param attempt: how many attempts of the request there were before.
    """

    #: why it can be changed, or loaded, no more
    closed = ''
    #: whether the data was ever loaded
    used = False
    #: whether the expiry slid in this request
    slid = False
    #: what became of the request's transaction; see the errors'
    transaction = NOT_COMMITTED
    #: it was ended, by another request, while this one was on its way
    is_overtaken = False
    _record: SessionRecord
    _failure: SessionResponseError | None = None
    _is_busy = False
    #: the process that has loaded it
    _pid = 0
    #: the stored session that :meth:`invalidate` has left behind
    _invalidated: tuple[str, str | None] | None = None
    _lock_id: str | None = None

    def __init__(
        self,
        store: DynamoDBSessionStore,
        session_id: str | None = None,
        state: str = 'exclusive',
        touch_interval: int = 60,
        on_load: Callable[[], None] = nothing,
        recorder: Recorder | None = None,
        started_at: float | None = None,
        attempt: int = 0,
    ) -> None:
        self.recorder = recorder or Recorder()
        self._store = store.bind(self.recorder)
        self.state = state
        self._touch_interval = touch_interval
        self._on_load = on_load
        self._started_at = started_at or time.monotonic()
        self._attempt = attempt
        self._start_anew(session_id)

    def _start_anew(self, session_id: str | None) -> None:
        """As if just made, to be looked for under `session_id`."""
        #: the id under which the data is stored, or is to be looked for
        self._id = session_id
        self.items: dict[str, Any] | None = None
        self.is_new = True
        self._is_stored = False
        self._must_save = False
        self._must_move = False

    # -- what it is ------------------------------------------------------

    @property
    def session_id(self) -> str | None:
        """The id of a session that was used; None when it is not stored."""
        return self._id if self.used and self._is_stored else None

    @property
    def is_locked(self) -> bool:
        return self._lock_id is not None

    @property
    def record(self) -> SessionRecord:
        """What was read, or begun; with what is to be stored besides."""
        return self._record

    @property
    def expires(self) -> int:
        """When it expires if it is saved now, in seconds since the epoch."""
        return self._store.expires_at(self._record)

    @property
    def default_timeout(self) -> int | None:
        return self._store.settings.timeout

    # -- use -------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """The data, loaded at the first use."""
        if self.state == 'disabled':
            raise SessionDisabled(
                'this view has session_state="disabled": give it another '
                'state to use the session'
            )
        if self.items is not None:
            return self.items
        if self.closed:
            raise SessionClosed(
                f'the session can not be loaded any more: {self.closed}'
            )
        if self._failure is not None:
            self._mark(self._failure)
            raise self._failure
        return self._load()

    def write(self) -> dict[str, Any]:
        """The data, to be changed."""
        if self.state == 'read_only':
            raise SessionReadOnly(
                'this view has session_state="read_only": give it '
                '"exclusive" or "optimistic" to change the session'
            )
        if self.closed:
            raise SessionClosed(
                f'the session can not be changed any more: {self.closed}'
            )
        return self.read()

    def must_save(self) -> SessionRecord:
        """Save in any case; returns what is to be stored besides the data."""
        self.write()
        if not self._must_save:
            self._must_save = True
            # what was read stays as it was, for who gets the lock next
            self._record = dataclasses.replace(self._record)
        return self._record

    def set_owner(self, owner: str | None) -> None:
        """Store whose session it is, hashed; None for nobody."""
        self.write()
        hashed = None if owner is None else self._store.hashed_owner(owner)
        if hashed != self._record.owner:
            self.must_save().owner = hashed

    def must_move(self) -> None:
        """Store it under a new id, and end the old one."""
        self.write()
        self._must_move = self._is_stored

    def invalidate(self) -> None:
        """Forget everything; the stored session is ended by the save."""
        self.write()
        if self._is_stored:
            self._invalidated = (str(self._id), self._lock_id)
            self._lock_id = None
        self._start_anew(None)
        self._record = self._store.create_new_store_data()
        self.items = self._record.items

    # -- load ------------------------------------------------------------

    def _load(self) -> dict[str, Any]:
        if self._is_busy:
            raise SessionClosed(
                'the session is being loaded: what is called meanwhile (a '
                'log filter, a subscriber, an error reporter) can not use it'
            )
        self._on_load()
        self._is_busy = True
        start = time.monotonic()
        try:
            found = self._find()
        except SessionResponseError as error:
            self._failure = error
            self._mark(error)
            self._report_failure(error, start)
            raise
        finally:
            self._is_busy = False
            if self._failure is not None:
                self.recorder.notify()
        self._pid = os.getpid()
        self.is_overtaken = False
        if isinstance(found, SessionRecord):
            self._record = found
            self._lock_id = found.lock_id
            self.is_new = False
            self._is_stored = True
        else:
            if found is not None:
                self.is_overtaken = self._store.ended_lately(
                    found, OVERTAKEN_SECONDS + self._age()
                )
            self._start_anew(None)
            self._record = self._store.create_new_store_data()
        self.items = self._record.items
        self.used = True
        self.recorder.notify()
        return self.items

    def _age(self) -> float:
        """Seconds for which this request has been on its way."""
        return time.monotonic() - self._started_at

    def _find(self) -> SessionRecord | EndedSession | None:
        if self._id is None:
            return None
        if self.state == 'exclusive':
            return self._store.find_item_exclusive(self._id, owner=self)
        if self.state == 'optimistic' and self._attempt:
            back_off_before_retry(self._attempt)
        return self._store.find_item(self._id)

    # -- save ------------------------------------------------------------

    def persist(self) -> None:
        """Save what has changed, slide the expiry, and unlock.

        One call to DynamoDB; none for a session that was not used, nor for
        a new one without data. What fails is closed.
        """
        if not self._can_save():
            return
        items = self.read()
        start = time.monotonic()
        try:
            self._persist(items, start)
        except SessionResponseError as error:
            self.close('saving it has failed')
            self._mark(error)
            self._explain(error)
            self._report_failure(error, start)
            raise
        finally:
            self.recorder.notify()

    def _can_save(self) -> bool:
        if self.items is None or self.closed or self.state == 'disabled':
            return False
        if self._pid != os.getpid():
            log.warning(
                'a forked process neither saves nor unlocks the session of '
                'the process that has loaded it'
            )
            self.close('it belongs to the process that has loaded it')
            return False
        return True

    def _persist(self, items: dict[str, Any], start: float) -> None:
        if self._invalidated is not None:
            self._remove(self._invalidated, start)
        if not self._is_stored:
            if items or self._must_save:
                self._create(items, start)
        elif self.state == 'read_only':
            self._warn_of_changes(items)
            self._touch()
        else:
            self._save_or_release(items, start)

    def _remove(
        self, invalidated: tuple[str, str | None], start: float
    ) -> None:
        session_id, lock_id = invalidated
        self._invalidated = None
        try:
            self._store.remove_item(session_id, lock_id)
        except SessionLockLost:
            # whoever has the lock by now: what was invalidated must not live
            self._store.remove_item(session_id)
        self._report(SessionRemoved, start)

    def _create(self, items: dict[str, Any], start: float) -> None:
        if self.is_overtaken:
            # by a logout or a login: no rival session comes into being
            raise lock_lost()
        session_id = new_session_id()
        payload = self._store.dumps(items)
        self._store.set_and_release_item_exclusive(
            session_id,
            items,
            None,
            True,
            payload=payload,
            record=self._record,
        )
        self._is_stored_as(session_id, payload)
        self._report(SessionCreated, start)

    def _save_or_release(self, items: dict[str, Any], start: float) -> None:
        session_id = str(self._id)
        try:
            payload = self._store.dumps(items)
        except SessionError:
            self.release()
            raise
        lock_id, self._lock_id = self._lock_id, None
        record = self._record
        changed = self._must_save or payload != record.payload
        moving = self._must_move
        if moving:
            moved = new_session_id()
            record.lock_id = lock_id
            self._store.change_session_id(
                session_id, moved, items, payload, record
            )
            session_id = moved
        elif changed and lock_id is not None:
            self._store.set_and_release_item_exclusive(
                session_id, items, lock_id, payload=payload, record=record
            )
        elif changed:
            self._store.set_item_optimistic(session_id, items, payload, record)
        elif lock_id is not None:
            self._store.release_item_exclusive(session_id, lock_id)
        else:
            self._touch()
            return
        self._is_stored_as(session_id, payload)
        if changed or moving:
            self._report(SessionSaved, start)

    def _is_stored_as(self, session_id: str, payload: bytes) -> None:
        self._id = session_id
        self._record.payload = payload
        self._is_stored = True
        self._must_save = False
        self._must_move = False
        self.slid = True

    def _warn_of_changes(self, items: dict[str, Any]) -> None:
        """A nested value that changed is found out only now."""
        if self._store.differs(items, self._record):
            log.warning(
                '%s: a value in the session was changed by a view with '
                'session_state="read_only": the change is not saved',
                self.recorder.request_line() or 'a request',
            )

    def _touch(self) -> None:
        """Slide the expiry without a lock, once in ``touch_interval``."""
        slides_by = self.expires - self._record.expires
        if self.slid or slides_by < max(1, self._touch_interval):
            return
        try:
            self._store.reset_item_timeout(str(self._id), record=self._record)
        except SessionStoreUnavailable as error:
            log.warning('the expiry of a session that was read did not slide')
            self._report_failure(error, time.monotonic())
        else:
            self.slid = True

    # -- a transaction ---------------------------------------------------

    def prepare(self) -> None:
        """See to it that a save will succeed: a transaction's vote.

        Serializes and measures; confirms that the lock is held; locks an
        ``optimistic`` session that has changed, if nobody has saved it since.
        What fails is closed, and raises as :meth:`persist` does.
        """
        if not self._can_save() or self.state == 'read_only':
            return
        start = time.monotonic()
        try:
            self._prepare(self.read())
        except SessionResponseError as error:
            self.close('the transaction was aborted')
            self._mark(error)
            self._explain(error)
            self._report_failure(error, start)
            raise
        finally:
            self.recorder.notify()

    def _prepare(self, items: dict[str, Any]) -> None:
        payload = self._store.dumps(items)
        record = self._record
        changed = self._must_save or payload != record.payload
        if not (changed or self._must_move):
            return
        if self.is_overtaken and (items or self._must_save):
            raise lock_lost()
        session_id = self._id or ''
        self._store.check_size(session_id, items, payload, record)
        if self._lock_id is not None:
            if not self._store.confirm_lock(self._lock_id):
                raise lock_lost()
        elif self._is_stored:
            self._lock(session_id)

    def _lock(self, session_id: str) -> None:
        """Lock an ``optimistic`` session that nobody has saved since."""
        try:
            found = self._store.lock_unchanged(
                session_id, self._record, owner=self
            )
        except VersionChanged:
            raise conflict() from None
        if not isinstance(found, SessionRecord):
            raise conflict()
        self._lock_id = self._record.lock_id = found.lock_id
        self._record.taken_over = found.taken_over

    # -- end -------------------------------------------------------------

    def release(self) -> None:
        """Give the lock back and save nothing.

        What fails is logged: the lock expires by itself.
        """
        lock_id, self._lock_id = self._lock_id, None
        session_id = self._id
        if self._invalidated is not None:
            session_id, lock_id = self._invalidated
            self._invalidated = None
        if lock_id is None or self._pid != os.getpid():
            return
        start = time.monotonic()
        try:
            self._store.release_item_exclusive(str(session_id), lock_id)
        except SessionError as error:
            log.warning('the lock of a session was not given back: %s', error)
            self._report_failure(error, start)
        finally:
            self.recorder.notify()

    def close(self, reason: str) -> None:
        """Refuse all use from now on but reading what is loaded."""
        self.closed = self.closed or reason
        # it leads back to the request
        self._on_load = nothing

    def enter(self, state: str, saving: bool = True) -> None:
        """Save (or, not `saving`, forget), unlock, go on in another `state`.

        The data stays where only reading can follow; otherwise it is read
        again at its next use, under the lock in an ``exclusive`` state.
        """
        if state == self.state or self.closed:
            return
        if self._is_busy:
            raise SessionClosed('the session is being loaded')
        if saving:
            self.persist()
            session_id = self._id
        else:
            session_id = (
                self._invalidated[0] if self._invalidated else self._id
            )
            self.release()
        if not saving or state in ('exclusive', 'optimistic'):
            self._start_anew(session_id)
        self.state = state

    # -- report ----------------------------------------------------------

    def _mark(self, error: SessionResponseError) -> None:
        """Say that the request may be run again, or what of it stands."""
        if self.transaction != NOT_COMMITTED:
            error.tell_of_transaction(self.transaction)
        elif not self.is_overtaken and isinstance(
            error, (SessionLockLost, SessionConflict)
        ):
            mark_error_retryable(error)

    def _explain(self, error: SessionError) -> None:
        """Say in the log why a lock was not renewed."""
        if isinstance(error, SessionLockLost) and not self.is_overtaken:
            seconds = self._store.standstill_since(self._started_at)
            if seconds:
                error.add_message(
                    f'nothing else ran in this process for {seconds:.1f} '
                    'seconds, so its lock was not renewed: it was suspended, '
                    'or a view computed for so long under gevent'
                )

    def _report_failure(self, error: SessionError, start: float) -> None:
        is_usual = isinstance(error, LOGGED_OR_USUAL)
        if not is_usual or self.transaction != NOT_COMMITTED:
            log.log(
                logging.ERROR
                if isinstance(error, PROGRAMMING_ERRORS)
                else logging.WARNING,
                '%s: %s',
                self.recorder.request_line() or 'a request',
                error,
            )
        self.recorder.record_error(str(error))
        event = FAILURES.get(type(error))
        if event is not None:
            self._report(event, start)

    def _report(self, event: type[SessionEvent], start: float) -> None:
        self.recorder.record_event(event, time.monotonic() - start)
