"""The mapping that views see: loaded and locked at its first use.

Nothing here knows of a request or a cookie.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from pyramid.interfaces import ISession
from zope.interface import implementer

from ._recorder import Recorder
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
from .store.item import SessionRecord

log = logging.getLogger(__name__)

FAILURES: dict[type[SessionError], type[SessionEvent]] = {
    SessionConflict: SaveConflicted,
    SessionLockLost: LockLost,
    SessionLockTimeout: LockTimedOut,
    SessionStoreUnavailable: StoreFailed,
}

#: Logged where they come from, or a matter of course.
WARNED_OF_OR_USUAL = (SessionStoreUnavailable, SessionConflict)

CSRF_KEY = '_csrft_'
FLASH_KEY = '_f_'


def new_session_id() -> str:
    """256 random bits: 43 characters of base64url."""
    return secrets.token_urlsafe(32)


def nothing() -> None:
    pass


@implementer(ISession)
class DynamoDBSession(MutableMapping[str, Any]):
    """A server-side session: Pyramid's ``ISession`` and more.

    What it was when it was loaded is compared with what it has become, so
    changes inside its values are found without :meth:`changed`.

    Besides :class:`SessionStoreUnavailable` and :class:`SessionLockTimeout`
    at the first use, using it raises :class:`SessionReadOnly`,
    :class:`SessionDisabled` or :class:`SessionClosed` where its state does
    not allow the use.
    """

    #: what was read, or begun; absent until the first use
    _record: SessionRecord
    _items: dict[str, Any] | None = None
    _new_timeout: int | None = None
    _lock_id: str | None = None
    _failure: SessionError | None = None
    _closed = ''
    _new = True
    _is_stored = False
    _must_save = False
    _must_move = False
    _invalidated: str | None = None
    #: when what is being done was begun, on the monotonic clock
    _begun = 0.0
    #: whether the data was ever loaded
    used = False
    #: whether the expiry slid in this request
    slid = False

    def __init__(
        self,
        store: DynamoDBSessionStore,
        session_id: str | None = None,
        state: str = 'exclusive',
        touch_interval: int = 60,
        on_load: Callable[[], None] = nothing,
        recorder: Recorder | None = None,
    ) -> None:
        self._store = store if recorder is None else store.bind(recorder)
        self.recorder = recorder
        self._state = state
        self._touch_interval = touch_interval
        self._on_load = on_load
        #: the id under which the data is stored, or is to be looked for
        self._id = session_id

    def __repr__(self) -> str:
        loaded = 'not loaded' if self._items is None else 'loaded'
        return f'<{type(self).__name__} {self._state}, {loaded}>'

    # -- what it is ------------------------------------------------------

    @property
    def session_id(self) -> str | None:
        """The id; None until the session is stored."""
        self._read()
        return self._id

    @property
    def created(self) -> int:
        """When it was created, in seconds since the epoch."""
        self._read()
        return self._record.created

    @property
    def new(self) -> bool:
        """Whether it was not stored before this request."""
        self._read()
        return self._new

    @property
    def state(self) -> str:
        """``exclusive``, ``read_only``, ``optimistic`` or ``disabled``."""
        return self._state

    @property
    def locked(self) -> bool:
        """Whether this request holds the lock."""
        return self._lock_id is not None

    # -- the mapping -----------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._read().get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __contains__(self, key: object) -> bool:
        return key in self._read()

    def __setitem__(self, key: str, value: Any) -> None:
        self._write()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._write()[key]

    def pop(self, key: str, *default: Any) -> Any:
        return self._write().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        return self._write().popitem()

    def clear(self) -> None:
        self._write().clear()

    def setdefault(self, key: str, default: Any = None) -> Any:
        return self._write().setdefault(key, default)

    # -- ISession --------------------------------------------------------

    def changed(self) -> None:
        """Save in any case; never needed for a change to be found."""
        self._write()
        self._must_save = True

    def invalidate(self) -> None:
        """Forget everything; the stored session is removed by the save.

        What is put into the session afterwards is stored under a new id.
        """
        self._write()
        if self._is_stored:
            self._invalidated = self._id
        self._start_anew(None)
        self._items = self._record.items

    def flash(
        self, msg: Any, queue: str = '', allow_duplicate: bool = True
    ) -> None:
        """Put a message at the end of a flash queue."""
        messages = self.setdefault(FLASH_KEY + queue, [])
        if allow_duplicate or msg not in messages:
            messages.append(msg)

    def pop_flash(self, queue: str = '') -> list[Any]:
        """Take all messages out of a flash queue."""
        messages: list[Any] = self.pop(FLASH_KEY + queue, [])
        return messages

    def peek_flash(self, queue: str = '') -> list[Any]:
        """The messages in a flash queue, which stay there."""
        messages: list[Any] = self.get(FLASH_KEY + queue, [])
        return messages

    def new_csrf_token(self) -> str:
        """A new CSRF token, kept in the session."""
        token = secrets.token_hex(20)
        self[CSRF_KEY] = token
        return token

    def get_csrf_token(self) -> str:
        """The CSRF token; a new one where there is none."""
        return self.get(CSRF_KEY) or self.new_csrf_token()

    # -- beyond ISession -------------------------------------------------

    def regenerate_id(self) -> None:
        """Keep the data under a new id and kill the old one: for a login.

        Done by the save, in one transaction.
        """
        self._write()
        self._must_move = self._is_stored

    def adjust_timeout(self, seconds: int) -> None:
        """Let this session alone expire `seconds` after its last use."""
        if seconds < 1:
            raise ValueError('a timeout takes at least a second')
        self._write()
        self._new_timeout = int(seconds)
        self._must_save = True

    def save(self) -> None:
        """Save and unlock now, in the middle of the request.

        The data can still be read; writing raises :class:`SessionClosed`.
        For a view that takes long or streams its response.
        """
        self._read()
        if not self._closed:
            self.persist()
            self.close('it was saved, by save(), in the middle of the request')

    # -- what the factory does with it -----------------------------------

    @property
    def closed(self) -> bool:
        """Whether it can be changed, or loaded, no more."""
        return bool(self._closed)

    @property
    def stored_id(self) -> str | None:
        """The id of a session that was used; None when it is not stored."""
        return self._id if self.used else None

    @property
    def timeout(self) -> int | None:
        """Its own timeout in seconds, where :meth:`adjust_timeout` set one."""
        stored = self._record.timeout if self.used else None
        return self._new_timeout or stored

    def persist(self) -> None:
        """Save what has changed, slide the expiry, and unlock.

        One call to DynamoDB; none for a session that was not used, nor for
        a new one without data. What fails is closed.
        """
        if self._items is None or self._closed or self._state == 'disabled':
            return
        self._begun = time.monotonic()
        try:
            self._persist(self._items)
        except SessionError as error:
            self.close('saving it has failed')
            self._failed(error)
            raise

    def release(self) -> None:
        """Give the lock back and save nothing."""
        lock_id, self._lock_id = self._lock_id, None
        if lock_id is None:
            return
        self._begun = time.monotonic()
        try:
            self._store.release_item_exclusive(
                str(self._invalidated or self._id),
                lock_id,
                record=self._record,
            )
        except SessionError as error:
            self._failed(error)
            raise

    def close(self, reason: str) -> None:
        """Refuse all use from now on but reading what is loaded."""
        self._closed = self._closed or reason
        # it leads back to the request, which would live until it is collected
        self._on_load = nothing

    def enter(self, state: str, saving: bool = True) -> None:
        """Save (or, not `saving`, forget), unlock, go on in another `state`.

        The data stays where only reading can follow; otherwise it is read
        again at its next use, under the lock in an ``exclusive`` state.
        """
        if state == self._state or self._closed:
            return
        if saving:
            self.persist()
        else:
            self.release()
        if not saving or state in ('exclusive', 'optimistic'):
            self._start_anew(self._invalidated or self._id)
            self._invalidated = None
        self._state = state

    # -- loading ---------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        if self._state == 'disabled':
            raise SessionDisabled(
                'this view has session_state="disabled": give it another '
                'state to use the session'
            )
        if self._items is not None:
            return self._items
        if self._closed:
            raise SessionClosed(
                f'the session can not be loaded any more: {self._closed}'
            )
        if self._failure is not None:
            raise self._failure
        return self._load()

    def _write(self) -> dict[str, Any]:
        if self._state == 'read_only':
            raise SessionReadOnly(
                'this view has session_state="read_only": give it '
                '"exclusive" or "optimistic" to change the session'
            )
        if self._closed:
            raise SessionClosed(
                f'the session can not be changed any more: {self._closed}'
            )
        return self._read()

    def _load(self) -> dict[str, Any]:
        self._on_load()
        self._begun = time.monotonic()
        try:
            record = self._find()
        except SessionError as error:
            self._failure = error
            self._failed(error)
            raise
        if record is None:
            self._start_anew(None)
        else:
            self._record = record
            self._lock_id = record.lock_id
            self._new = False
            self._is_stored = True
        self._items = self._record.items
        self.used = True
        return self._items

    def _find(self) -> SessionRecord | None:
        if self._id is None:
            return None
        if self._state != 'exclusive':
            return self._store.get_item(self._id)
        record = self._store.get_item_exclusive(self._id)
        if record is not None:
            self._store.renew_while_alive(self, self._id, str(record.lock_id))
        return record

    def _start_anew(self, session_id: str | None) -> None:
        """As if just made, to be looked for under `session_id`."""
        self._id = session_id
        self._record = self._store.create_new_store_data()
        self._items = None
        self._new_timeout = None
        self._new = True
        self._is_stored = False
        self._must_save = False
        self._must_move = False

    # -- saving ----------------------------------------------------------

    def _persist(self, items: dict[str, Any]) -> None:
        if self._invalidated is not None:
            self._remove(self._invalidated)
        if not self._is_stored:
            if items or self._must_save:
                self._create(items)
        elif self._state == 'read_only':
            self._warn_of_changes(items)
            self._touch()
        else:
            self._save_or_release(items)

    def _remove(self, session_id: str) -> None:
        lock_id, self._lock_id = self._lock_id, None
        self._invalidated = None
        try:
            self._store.remove_item(session_id, lock_id)
        except SessionLockLost:
            # whoever has the lock by now: what was invalidated must not live
            self._store.remove_item(session_id)
        self._notify(SessionRemoved)

    def _failed(self, error: SessionError) -> None:
        if not isinstance(error, WARNED_OF_OR_USUAL):
            log.warning('%s', error)
        if self.recorder is not None:
            self.recorder.error = str(error)
        event = FAILURES.get(type(error))
        if event is not None:
            self._notify(event)

    def _notify(self, event: type[SessionEvent]) -> None:
        if self.recorder is not None:
            begun, self._begun = self._begun, time.monotonic()
            self.recorder.notify(event, self._begun - begun)

    def _create(self, items: dict[str, Any]) -> None:
        session_id = new_session_id()
        payload = self._store.dumps(items)
        self._record.timeout = self.timeout
        self._store.set_and_release_item_exclusive(
            session_id,
            items,
            None,
            True,
            payload=payload,
            record=self._record,
        )
        self._is_stored_as(session_id, payload)
        self._notify(SessionCreated)

    def _save_or_release(self, items: dict[str, Any]) -> None:
        session_id = str(self._id)
        lock_id, self._lock_id = self._lock_id, None
        payload = self._dumps(session_id, items, lock_id)
        record = self._record
        record.timeout = self.timeout
        changed = self._must_save or payload != record.payload
        moving = self._must_move
        if moving:
            moved = new_session_id()
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
            self._store.release_item_exclusive(
                session_id, lock_id, record=record
            )
        else:
            self._touch()
            return
        self._is_stored_as(session_id, payload)
        if changed or moving:
            self._notify(SessionSaved)

    def _dumps(
        self, session_id: str, items: dict[str, Any], lock_id: str | None
    ) -> bytes:
        try:
            return self._store.dumps(items)
        except SessionSerializationError:
            if lock_id is not None:
                self._store.release_item_exclusive(
                    session_id, lock_id, record=self._record
                )
            raise

    def _warn_of_changes(self, items: dict[str, Any]) -> None:
        """A nested value that changed is found out only now."""
        if self._store.differs(items, self._record):
            log.warning(
                'a value in the session was changed by a view with '
                'session_state="read_only": the change is not saved'
            )

    def _touch(self) -> None:
        """Slide the expiry without a lock, once in ``touch_interval``."""
        expires = self._store.expires_at(self._record)
        slides_by = expires - self._record.expires
        if self.slid or slides_by < max(1, self._touch_interval):
            return
        try:
            self._store.reset_item_timeout(str(self._id), record=self._record)
        except SessionStoreUnavailable as error:
            log.warning('the expiry of a session that was read did not slide')
            self._failed(error)
        else:
            self.slid = True

    def _is_stored_as(self, session_id: str, payload: bytes) -> None:
        self._id = session_id
        self._record.payload = payload
        self._is_stored = True
        self._must_save = False
        self._must_move = False
        self.slid = True
