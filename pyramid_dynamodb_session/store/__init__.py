"""The provider's operations on sessions; nothing here knows of a request."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from .._recorder import Recorder
from ..dynamodb.calls import Calls, ConditionFailed
from ..dynamodb.table import Table
from ..errors import (
    SessionSerializationError,
    SessionStoreUnavailable,
    SessionTooLarge,
)
from ..events import LockTaken
from ..settings import StoreSettings, documents_settings
from .expiry import Expiry
from .item import (
    CorruptItem,
    EndedSession,
    ItemCodec,
    SessionRecord,
    hash_key,
)
from .locks import Locks
from .moves import SessionMoves
from .optimistic import NewData, UnlockedSaves
from .outcome import Outcome, error_of, lock_lost
from .owners import OwnedSession, OwnedSessions, required_index
from .purge import Purge
from .reads import Found, SessionReader, only_record
from .snapshots import report_corrupt
from .writes import SessionWriter

Parameters = ParamSpec('Parameters')
Result = TypeVar('Result')


def saves_nothing(
    operation: Callable[Parameters, Result],
) -> Callable[Parameters, Result]:
    """For an operation that reads, or that writes nothing but a lock.

    When such a call fails, no data was saved, for certain.
    """

    @functools.wraps(operation)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return operation(*args, **kwargs)
        except SessionStoreUnavailable as error:
            error.outcome = 'not saved'
            raise

    return call


@documents_settings(StoreSettings)
class DynamoDBSessionStore:
    """The session-state provider: sessions in a DynamoDB table.

    :param client: any boto3 DynamoDB client.
    :param settings: those of the settings reference that concern the store:
        ``table``, ``application``, ``timeout``, the lock's, the
        serializer's, the table's.

    Each operation raises :class:`SessionStoreUnavailable` when DynamoDB does
    not answer, or refuses. The lock is renewed by nobody unless
    :meth:`renew_while_alive` is called: use within ``lock_lease``.
    """

    def __init__(self, client: Any, **settings: Any) -> None:
        self._set_up(client, StoreSettings.parse(settings))

    @classmethod
    def from_settings(
        cls, client: Any, settings: StoreSettings
    ) -> DynamoDBSessionStore:
        """As made with the `settings`, which have been parsed."""
        store = cls.__new__(cls)
        store._set_up(client, settings)
        return store

    def _set_up(self, client: Any, settings: StoreSettings) -> None:
        self.settings = settings
        self.table = Table(client, self.settings)
        self._calls = Calls(self.table)
        self._codec = ItemCodec(
            self.settings.serializer, self.settings.encryption_keys
        )
        self._expiry = Expiry(self.settings)
        self._locks = Locks(
            self.table, self._calls, self._codec, self.settings, self._expiry
        )
        parts = self.table, self._codec, self.settings, self._expiry
        self._reader = SessionReader(*parts)
        self._writer = SessionWriter(*parts)
        self._unlocked = UnlockedSaves(self._locks, self._writer)
        self._moves = SessionMoves(
            self._locks,
            self._reader,
            self._writer,
            self._unlocked,
            self.settings.table,
        )

    @property
    def client(self) -> Any:
        """The boto3 DynamoDB client."""
        return self.table.client

    def initialize(self) -> None:
        """Validate or create the table, and wait until it is ACTIVE.

        Raises :class:`pyramid.exceptions.ConfigurationError`. The provider's
        ``Initialize``.
        """
        self.table.initialize()

    def bind(self, recorder: Recorder) -> DynamoDBSessionStore:
        """The same store, what it does being recorded by a `recorder`."""
        bound = object.__new__(type(self))
        bound.__dict__ = {
            **self.__dict__,
            '_calls': self._calls.bind(recorder),
        }
        return bound

    # -- the provider's operations ---------------------------------------

    def create_new_store_data(self) -> SessionRecord:
        """An empty session; nothing is stored. ``CreateNewStoreData``."""
        return SessionRecord(items={}, created=int(time.time()), expires=0)

    def create_uninitialized_item(self, session_id: str) -> None:
        """Store an empty session whose ``Flags`` are 1 until it is locked.

        The provider's ``CreateUninitializedItem``.
        """
        record = self.create_new_store_data()
        self._create(session_id, {}, self.dumps({}), record, {'N': '1'})

    def get_item(self, session_id: str) -> SessionRecord | None:
        """The session as it was last saved, whoever holds its lock.

        One consistent read; None for no session. The provider's ``GetItem``.
        """
        return only_record(self.find_item(session_id))

    def get_item_exclusive(self, session_id: str) -> SessionRecord | None:
        """Lock the session and read it, in one ``UpdateItem``.

        Waits for a lock that another request holds, and takes it over from
        one that is dead; None for no session, and then nothing is locked.
        Raises :class:`SessionLockTimeout` after ``lock_wait`` seconds, or at
        once when the queue is full. The provider's ``GetItemExclusive``.
        """
        return only_record(self.find_item_exclusive(session_id))

    @saves_nothing
    def release_item_exclusive(self, session_id: str, lock_id: str) -> None:
        """Unlock the session and slide its expiry; a lost lock is no error.

        Where another request of this process waits for the lock, it gets it,
        without a call. The provider's ``ReleaseItemExclusive``.
        """
        self._locks.release(self._calls, self._name(session_id), lock_id)

    def set_and_release_item_exclusive(
        self,
        session_id: str,
        items: dict[str, Any],
        lock_id: str | None,
        new_item: bool = False,
        *,
        payload: bytes | None = None,
        record: SessionRecord | None = None,
    ) -> None:
        """Save the session and unlock it, in one call.

        Where another request of this process waits for the lock, it gets it
        by the same call. Raises :class:`SessionLockLost` when the lock was
        taken over or the session has ended, and
        :class:`SessionSerializationError` or :class:`SessionTooLarge` before
        the call; then what was stored stays, and the lock is released.

        :param new_item: create the session; no lock is needed.
        :param payload: the `items`, where :meth:`dumps` has been called.
        :param record: what was read, with the timeout and the owner that are
            to be stored.

        The provider's ``SetAndReleaseItemExclusive``.
        """
        if new_item:
            record = record or self.create_new_store_data()
            payload = payload or self.dumps(items)
            self._create(session_id, items, payload, record)
            return
        lock_id = str(lock_id)
        holder = self._locks.holder(lock_id)
        name = holder.held.name if holder else self._name(session_id)
        try:
            if record is None and holder is not None:
                record = holder.held.record
            record = (
                record
                or self._reader.find_locked(self._calls, name)
                or self.create_new_store_data()
            )
            payload = payload or self.dumps(items)
            save = self._writer.save_under_lock(
                self._calls.recorder, name, items, payload, record, lock_id
            )
        except (SessionSerializationError, SessionTooLarge):
            self._locks.release(self._calls, name, lock_id)
            raise
        outcome = self._locks.save(self._calls, name, lock_id, save, holder)
        if outcome is not Outcome.SAVED:
            raise error_of(outcome, lock_lost())

    def _create(
        self,
        session_id: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
        flags: dict[str, str] | None = None,
    ) -> None:
        """Create an item; one that is there is our own, its reply lost."""
        name = self._name(session_id)
        recorder = self._calls.recorder
        data = self._writer.data(recorder, name, items, payload, record)
        if flags is not None:
            data['Flags'] = flags
        creation = self._writer.creation(name, data, record)
        with suppress(ConditionFailed):
            self._calls.on_table('put_item', **creation)

    def remove_item(self, session_id: str, lock_id: str | None = None) -> None:
        """End the session; only while `lock_id` is held, if one is given.

        A tombstone stays for a minute, which every operation takes for no
        session: a write that arrives late brings nothing back. Raises
        :class:`SessionLockLost` when somebody else holds the lock. The
        provider's ``RemoveItem``.
        """
        name = self._name(session_id)
        with self._locks.ending(self._calls, lock_id):
            try:
                self._calls.on_item(
                    'update_item',
                    name,
                    **self._writer.tombstone(self._calls.now(), lock_id),
                )
            except ConditionFailed as failed:
                if lock_id is None:
                    return
                # gone already, or the reply of our first attempt was lost
                item = self._calls.stored_item(name, failed)
                if item is not None and 'Ended' not in item:
                    raise lock_lost() from None

    def reset_item_timeout(
        self, session_id: str, *, record: SessionRecord | None = None
    ) -> None:
        """Slide the expiry of a living session, whoever holds its lock.

        One conditional write, which can neither unlock it nor bring back a
        removed or expired one, nor replace the session's own timeout; a
        second one where that is another than in `record`. The provider's
        ``ResetItemTimeout``.
        """
        name = self._name(session_id)
        given = record or self.create_new_store_data()
        if not self._touch(name, given) and record is None:
            found = self.get_item(session_id)
            if found is not None:
                self._touch(name, found)

    def _touch(self, name: str, record: SessionRecord) -> bool:
        """Slide the expiry, if the timeout is that of `record`."""
        try:
            self._calls.on_item(
                'update_item', name, **self._writer.touch(record)
            )
        except ConditionFailed:
            return False
        return True

    def delete_expired_sessions(self) -> int:
        """Delete what has expired; return how many sessions that were.

        Reads the whole table: costly, a job for the night. Only sessions of
        this ``application`` are deleted where one is set, and each only if
        it is still expired by then. The provider's ``DeleteExpiredSessions``.
        """
        purge = Purge(
            self._calls,
            self.table,
            self.settings.application,
            self.settings.lock_lease,
        )
        for _ in purge.run():
            pass
        return purge.deleted

    # -- the sessions of an owner ----------------------------------------

    def sessions_of(self, owner: str) -> Iterator[OwnedSession]:
        """The living sessions of an `owner`, without their data.

        From the index ``owner_index``, which is eventually consistent: a
        session that has just begun may be missing, and one that has just
        ended may be there, for about a second. Raises
        :class:`pyramid.exceptions.ConfigurationError` without that setting.
        """
        return iter(self._owned(owner))

    def remove_sessions_of(self, owner: str, keep: Any = None) -> int:
        """End all sessions of an `owner`; return how many that were.

        Each leaves a tombstone, as :meth:`remove_item` does, so that requests
        on their way store nothing: :class:`SessionLockLost`, or
        :class:`SessionConflict` for an ``optimistic`` one. A hundred sessions
        a second are ended, and throttling is waited out.

        The index is eventually consistent. It is asked until it has shown
        none for a second, so this takes a second at least. A session that
        gets this owner in that second may be ended or not: first change what
        the login checks.

        :param keep: a session that stays, such as ``request.session``, even
            if it gets a new id in this request.
        """
        return max(self.end_sessions_of(owner, keep), default=0)

    def end_sessions_of(self, owner: str, keep: Any = None) -> Iterator[int]:
        """As :meth:`remove_sessions_of`; yields the number as it goes."""
        name = None if keep is None else self.name_of(keep)
        return self._owned(owner).end(name)

    def name_of(self, session: Any) -> str | None:
        """The table's key for a session, as in :meth:`sessions_of`.

        None until it is stored.
        """
        session_id = session.session_id
        return None if session_id is None else self._name(session_id)

    def hashed_owner(self, owner: str) -> str:
        """What ``Owner`` is for an `owner`.

        Raises :class:`pyramid.exceptions.ConfigurationError` without
        ``owner_index``, and :class:`TypeError` for what is no text.
        """
        required_index(self.settings.owner_index)
        if not isinstance(owner, str):
            raise TypeError(
                f'the owner of a session is text, not {type(owner).__name__}:'
                ' str() makes one of the id of a user'
            )
        return self._name(owner)

    def _owned(self, owner: str) -> OwnedSessions:
        hashed = self.hashed_owner(owner)

        def tombstone() -> dict[str, Any]:
            now = self._calls.now()
            return self._writer.tombstone(now, None, owner=hashed)

        index = required_index(self.settings.owner_index)
        return OwnedSessions(
            self._calls,
            self.table,
            index,
            hashed,
            tombstone,
            self.settings.lock_lease,
        )

    # -- what a living request needs besides -----------------------------

    @saves_nothing
    def find_item(self, session_id: str) -> Found:
        """As :meth:`get_item`; a session that has ended says when."""
        return self._reader.find(self._calls, self._name(session_id))

    @saves_nothing
    def find_item_exclusive(self, session_id: str, owner: Any = None) -> Found:
        """As :meth:`get_item_exclusive`; an ended session says when.

        :param owner: as long as it is alive, the lock is renewed.
        """
        start = time.monotonic()
        calls = self._calls
        name = self._name(session_id)
        try:
            found = self._locks.acquire(calls, name, owner=owner)
        except CorruptItem as error:
            report_corrupt(calls.recorder, error)
            return None
        if not isinstance(found, SessionRecord):
            return found
        if self._expiry.is_too_old(found):
            self.release_item_exclusive(session_id, str(found.lock_id))
            return None
        if calls.recorder.listens:
            calls.recorder.record_event(LockTaken, time.monotonic() - start)
            self._reader.record(calls, name, found)
        return found

    @saves_nothing
    def lock_unchanged(
        self, session_id: str, record: SessionRecord, owner: Any = None
    ) -> Found:
        """Lock a session that nobody has saved since it was read.

        Raises :class:`.locks.VersionChanged`.

        :param owner: as long as it is alive, the lock is renewed.
        """
        return self._unlocked.lock_unchanged(
            self._calls, self._name(session_id), record, owner
        )

    def set_item_optimistic(
        self,
        session_id: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
    ) -> None:
        """Save without a lock, unless somebody has saved since.

        Where another request holds the lock, it waits for that, and saves if
        nothing was saved meanwhile. Raises :class:`SessionConflict`,
        :class:`SessionLockTimeout` and :class:`SessionTooLarge`.
        """
        new = NewData(items, payload, record)
        self._unlocked.save(self._calls, self._name(session_id), new)

    def change_session_id(
        self,
        session_id: str,
        new_session_id: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
    ) -> None:
        """Store the session under another id and end the old one, at once.

        Raises :class:`SessionLockLost` when the lock of `record` was taken
        over, or :class:`SessionConflict` when it has none and somebody else
        saved since; nothing was changed then.
        """
        self._moves.move(
            self._calls,
            self._name(session_id),
            self._name(new_session_id),
            NewData(items, payload, record),
        )

    @saves_nothing
    def confirm_lock(self, lock_id: str) -> bool:
        """Whether a lock is held, and for half a lease more.

        No call where DynamoDB has confirmed it lately; else it is renewed.
        """
        return self._locks.confirm(lock_id)

    @saves_nothing
    def renew_lock(self, session_id: str, lock_id: str) -> bool:
        """Give a lock another lease; False if it is held no more."""
        return self._locks.renew(self._name(session_id), lock_id)

    def renew_while_alive(self, owner: Any, lock_id: str) -> None:
        """Renew a lock in the background until it is given back.

        The first time after a third of ``lock_lease``, and only as long as
        `owner` is referenced elsewhere.
        """
        self._locks.renew_while_alive(owner, lock_id)

    def standstill_since(self, moment: float) -> float:
        """Seconds for which nothing else could run; 0 for none worth it.

        That is why a lock was lost, if it ended after a `moment` on the
        monotonic clock.
        """
        return self._locks.standstill_since(moment)

    def ended_lately(self, ended: EndedSession, seconds: float) -> bool:
        """Whether a session ended within so many `seconds`."""
        return self._calls.now() - ended.at <= seconds

    def dumps(self, items: dict[str, Any]) -> bytes:
        """The bytes of `items` as they are stored, before compression.

        Raises :class:`SessionSerializationError` naming the key.
        """
        return self._codec.dumps(items)

    def differs(self, items: dict[str, Any], record: SessionRecord) -> bool:
        """Whether `items` are others than those that were read."""
        return self._codec.differs(items, record.payload)

    def check_size(
        self,
        session_id: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
    ) -> None:
        """Raise :class:`SessionTooLarge` if a save would; no call is made.

        What the save would write is kept in the `record`, so that it is
        compressed and encrypted once.
        """
        self._writer.data(
            self._calls.recorder,
            self._name(session_id),
            items,
            payload,
            record,
            prepares=True,
        )

    def expires_at(self, record: SessionRecord) -> int:
        """When a session used right now ends, in seconds since the epoch."""
        return self._expiry.end(record)

    def _name(self, session_id: str) -> str:
        return hash_key(session_id, self.settings.application)
