"""The provider's operations on sessions; nothing here knows of a request."""

from __future__ import annotations

import dataclasses
import functools
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Any

from .._recorder import Recorder, SessionSnapshot
from ..dynamodb.calls import Calls, ConditionFailed, Item
from ..dynamodb.errors import unavailable
from ..dynamodb.table import Table
from ..errors import (
    SessionConflict,
    SessionLockLost,
    SessionLockTimeout,
    SessionSerializationError,
    SessionStoreUnavailable,
    SessionTooLarge,
)
from ..events import ItemCorrupt, LockTaken
from ..settings import StoreSettings, documents_settings
from .expiry import TOMBSTONE_SECONDS, Expiry, is_unexpired
from .expressions import (
    ABSENT,
    DATA,
    LOCK,
    NOT_ENDED,
    OWNED,
    PRESENT,
    lock_held,
    overhead,
    timeout_unchanged,
    unchanged,
    update,
)
from .item import (
    FORMAT,
    RECEIPTS,
    RESERVE,
    CorruptItem,
    EndedSession,
    ItemCodec,
    LockId,
    SessionRecord,
    attribute_size,
    ended_session,
    hash_key,
    item_size,
    number,
    optional_number,
    remembered,
)
from .locks import Locks, Save, VersionChanged
from .outcome import Outcome, outcome_of_optimistic
from .owners import OwnedSession, OwnedSessions, required_index
from .purge import Purge

log = logging.getLogger(__name__)

#: Characters of a lock's token that make its holder's receipt.
RECEIPT_LENGTH = 6

Found = SessionRecord | EndedSession | None


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
        name = self._name(session_id)
        record = self.create_new_store_data()
        data = self._data(name, {}, self.dumps({}), record)
        item = self._new_item(name, data, record)
        self._put({**item, 'Flags': {'N': '1'}})

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
            name = self._name(session_id)
            record = record or self.create_new_store_data()
            payload = payload or self.dumps(items)
            data = self._data(name, items, payload, record)
            self._put(self._new_item(name, data, record))
            return
        lock_id = str(lock_id)
        holder = self._locks.holder(lock_id)
        name = holder.held.name if holder else self._name(session_id)
        try:
            if record is None and holder is not None:
                record = holder.held.record
            record = record or self._locked_record(name)
            payload = payload or self.dumps(items)
            save = self._save_of(name, items, payload, record, lock_id)
        except (SessionSerializationError, SessionTooLarge):
            self._locks.release(self._calls, name, lock_id)
            raise
        outcome = self._locks.save(self._calls, name, lock_id, save, holder)
        if outcome is not Outcome.SAVED:
            raise error_of(outcome, lock_lost())

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
                    'update_item', name, **self._tombstone(lock_id)
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
            return self._tombstone(None, owner=hashed)

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

    def find_item(self, session_id: str) -> Found:
        """As :meth:`get_item`; a session that has ended says when."""
        name = self._name(session_id)
        item = self._calls.read(name, ConsistentRead=True)
        try:
            return self._found(name, item)
        except CorruptItem as error:
            self._report_corrupt(error)
            return None

    def find_item_exclusive(self, session_id: str, owner: Any = None) -> Found:
        """As :meth:`get_item_exclusive`; an ended session says when.

        :param owner: as long as it is alive, the lock is renewed.
        """
        start = time.monotonic()
        name = self._name(session_id)
        try:
            found = self._locks.acquire(self._calls, name, owner=owner)
        except CorruptItem as error:
            self._report_corrupt(error)
            return None
        if not isinstance(found, SessionRecord):
            return found
        if self._expiry.is_too_old(found):
            self._locks.release(self._calls, name, str(found.lock_id))
            return None
        recorder = self._calls.recorder
        if recorder.listens:
            recorder.record_event(LockTaken, time.monotonic() - start)
            self._record_snapshot(name, found)
        return found

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
        name = self._name(session_id)
        receipt = secrets.token_urlsafe(RECEIPT_LENGTH)[:RECEIPT_LENGTH]
        data = self._data(name, items, payload, record)
        data['SavedBy'] = remembered(receipt, record.receipts, RECEIPTS)
        condition, values = unchanged(record, time.time())
        parameters = update(
            data,
            condition,
            values,
            remove=self._owner_removed(record),
            add=('Version',),
            ttl_attribute=self.settings.ttl_attribute,
        )
        try:
            self._calls.on_item('update_item', name, **parameters)
        except ConditionFailed as failed:
            item = self._calls.stored_item(name, failed)
            outcome = outcome_of_optimistic(
                failed, item, record.version, receipt
            )
            if outcome is Outcome.PENDING:
                outcome = self._save_when_unlocked(
                    session_id, items, payload, record, failed, receipt
                )
            if outcome is not Outcome.SAVED:
                raise error_of(outcome, conflict()) from None

    def _save_when_unlocked(
        self,
        session_id: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
        failed: ConditionFailed,
        receipt: str,
    ) -> Outcome:
        """Wait for the lock and save under it, if the version stays.

        An attempt of the save that was refused may still be on its way: it is
        refused as well once the lock, or a new version, is in its way.
        """
        try:
            locked = self._lock_after(failed, session_id, record)
        except VersionChanged as changed:
            return outcome_of_optimistic(
                failed, changed.item, record.version, receipt
            )
        if not isinstance(locked, SessionRecord):
            is_certain = failed.is_only_attempt or locked is not None
            return Outcome.NOT_SAVED if is_certain else Outcome.UNKNOWN
        try:
            self.set_and_release_item_exclusive(
                session_id,
                items,
                locked.lock_id,
                payload=payload,
                record=dataclasses.replace(
                    locked, timeout=record.timeout, owner=record.owner
                ),
            )
        except SessionLockLost:
            if failed.is_only_attempt:
                raise
            return Outcome.UNKNOWN
        return Outcome.SAVED

    def _lock_after(
        self, failed: ConditionFailed, session_id: str, record: SessionRecord
    ) -> Found:
        """Lock a session whose save was refused by somebody else's lock."""
        try:
            return self.lock_unchanged(session_id, record)
        except SessionStoreUnavailable as error:
            # a duplicate of the refused attempt may have come through since
            error.outcome = 'unknown'
            raise
        except SessionLockTimeout as error:
            if failed.is_only_attempt:
                raise
            raise error_of(Outcome.UNKNOWN, conflict()) from error

    def lock_unchanged(
        self, session_id: str, record: SessionRecord, owner: Any = None
    ) -> Found:
        """Lock a session that nobody has saved since it was read.

        Raises :class:`.locks.VersionChanged`.

        :param owner: as long as it is alive, the lock is renewed.
        """
        name = self._name(session_id)
        try:
            return self._locks.acquire(
                self._calls, name, record.version, owner
            )
        except CorruptItem as error:
            self._report_corrupt(error)
            return None

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
        name, new_name = self._name(session_id), self._name(new_session_id)
        try:
            data = self._data(new_name, items, payload, record)
        except SessionTooLarge:
            if record.lock_id is not None:
                self._locks.release(self._calls, name, record.lock_id)
            raise
        table = {'TableName': self.settings.table}
        put = {
            **table,
            'ConditionExpression': ABSENT,
            'ExpressionAttributeNames': {'#key': self.table.key_name},
            'Item': self._new_item(new_name, data, record),
        }
        entomb = {
            **table,
            'Key': self._calls.key(name),
            **self._tombstone(record.lock_id, record),
        }
        with self._locks.ending(self._calls, record.lock_id):
            try:
                self._calls.send(
                    'transact_write_items',
                    TransactItems=[{'Put': put}, {'Update': entomb}],
                )
            except ConditionFailed as failed:
                if failed.codes[:1] == ['ConditionalCheckFailed']:
                    # the new item is ours: the first attempt went through
                    return
                if record.lock_id is not None:
                    raise lock_lost() from None
                self._change_id_when_unlocked(
                    session_id, new_session_id, items, payload, record, failed
                )

    def _change_id_when_unlocked(
        self,
        session_id: str,
        new_session_id: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
        failed: ConditionFailed,
    ) -> None:
        """As :meth:`_save_when_unlocked`, for a session that moves."""
        try:
            locked = self._lock_after(failed, session_id, record)
        except VersionChanged:
            raise conflict() from None
        if not isinstance(locked, SessionRecord):
            # only our own first attempt can have moved it unseen
            if self.get_item(new_session_id) is None:
                raise conflict()
            return
        moving = dataclasses.replace(
            locked, timeout=record.timeout, owner=record.owner
        )
        self.change_session_id(
            session_id, new_session_id, items, payload, moving
        )

    def confirm_lock(self, lock_id: str) -> bool:
        """Whether a lock is held, and for half a lease more.

        No call where DynamoDB has confirmed it lately; else it is renewed.
        """
        return self._locks.confirm(lock_id)

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
        """Raise :class:`SessionTooLarge` if a save would; no call is made."""
        self._data(self._name(session_id), items, payload, record)

    # -- saving ----------------------------------------------------------

    def _locked_record(self, name: str) -> SessionRecord:
        """The session under a lock that another process has taken."""
        item = self._calls.read(name, ConsistentRead=True)
        try:
            found = self._found(name, item)
        except CorruptItem:
            found = None
        return only_record(found) or self.create_new_store_data()

    def _save_of(
        self,
        name: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
        lock_id: str,
    ) -> Save:
        data = self._data(name, items, payload, record)
        if record.receipts:
            # the list that an optimistic save has begun has no holes
            receipt = LockId.parse(lock_id).token[:RECEIPT_LENGTH]
            data['SavedBy'] = remembered(receipt, record.receipts, RECEIPTS)
        return Save(data, self._owner_removed(record), record, payload)

    def _put(self, item: Item) -> None:
        """Create an item; one that is there is our own, its reply lost."""
        try:
            self._calls.on_table(
                'put_item',
                Item=item,
                ConditionExpression=ABSENT,
                ExpressionAttributeNames={'#key': self.table.key_name},
            )
        except ConditionFailed:
            pass

    def _new_item(self, name: str, data: Item, record: SessionRecord) -> Item:
        return {
            **self._calls.key(name),
            'CreateDate': number(record.created),
            'Ver': FORMAT,
            'Version': {'N': '1'},
            **data,
        }

    def _tombstone(
        self,
        lock_id: str | None,
        record: SessionRecord | None = None,
        owner: str | None = None,
    ) -> dict[str, Any]:
        """The update that ends a session.

        :param lock_id: the lock that must be held; where none is given, the
            lock of whoever has it stays, so that its holder learns of the
            end for certain.
        :param record: the session that must be unchanged, if there is no
            `lock_id`.
        :param owner: the ``Owner`` that it must have.
        """
        now = self._calls.now()
        attributes: Item = {
            'Ended': number(now),
            **self._expiry.attributes_of(int(now) + TOMBSTONE_SECONDS),
        }
        values: Item = {}
        names = {}
        removed: tuple[str, ...] = DATA
        if lock_id is not None:
            condition, values = lock_held(LockId.parse(lock_id))
            removed = DATA + LOCK
        elif record is not None:
            condition, values = unchanged(record, time.time())
        elif owner is not None:
            condition, values = OWNED, {':owner': {'S': owner}}
        else:
            condition = f'{PRESENT} AND {NOT_ENDED}'
            names = {'#key': self.table.key_name}
        parameters = update(
            attributes,
            condition,
            values,
            remove=removed,
            ttl_attribute=self.settings.ttl_attribute,
        )
        names |= parameters['ExpressionAttributeNames']
        return {**parameters, 'ExpressionAttributeNames': names}

    def _touch(self, name: str, record: SessionRecord) -> bool:
        """Slide the expiry, if the timeout is that of `record`."""
        condition, values = timeout_unchanged(record, time.time())
        parameters = update(
            self._expiry.attributes(record),
            condition,
            values,
            ttl_attribute=self.settings.ttl_attribute,
        )
        try:
            self._calls.on_item('update_item', name, **parameters)
        except ConditionFailed:
            return False
        return True

    def _data(
        self,
        name: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
    ) -> Item:
        """The attributes that a save writes."""
        data = self._expiry.attributes_of_save(record)
        if record.timeout is not None:
            data['SessionTimeout'] = number(record.timeout)
        size = overhead(self.table.key_name, len(name.encode()), tuple(data))
        if record.owner is not None:
            data['Owner'] = {'S': record.owner}
            size += item_size({'Owner': data['Owner']})
        lists = size_of_lists(record)
        data['SessionItems'] = self._codec.attribute(
            payload, items, name, size + lists, RESERVE - lists
        )
        if self._calls.recorder.listens:
            attribute = data['SessionItems']
            self._record_attribute(name, payload, attribute, is_new=True)
        return data

    def expires_at(self, record: SessionRecord) -> int:
        """When a session used right now ends, in seconds since the epoch."""
        return self._expiry.end(record)

    def _owner_removed(self, record: SessionRecord) -> tuple[str, ...]:
        has_no_owner = record.owner is None and self.settings.owner_index
        return ('Owner',) if has_no_owner else ()

    # -- reading ---------------------------------------------------------

    def _found(self, name: str, item: Item | None) -> Found:
        """The session in a stored item; None if its time is over."""
        if item is None:
            return None
        if 'Ended' in item:
            return ended_session(item)
        record = self._codec.record(item, name)
        if self._expiry.is_too_old(record):
            return None
        if not is_unexpired(item) and not self._is_held(item):
            return None
        if self._calls.recorder.listens:
            self._record_snapshot(name, record)
        return record

    def _is_held(self, item: Item) -> bool:
        """Whether a living request holds the lock of an item."""
        if 'LockId' not in item:
            return False
        since = optional_number(item, 'LockDate') or 0
        return self._calls.now() - since < self.settings.lock_lease

    def _name(self, session_id: str) -> str:
        return hash_key(session_id, self.settings.application)

    # -- recording -------------------------------------------------------

    def _report_corrupt(self, error: CorruptItem) -> None:
        log.warning(
            'a stored session is corrupt and counts as none: %s', error
        )
        self._calls.recorder.record_event(ItemCorrupt)

    def _record_snapshot(self, name: str, record: SessionRecord) -> None:
        self._record_attribute(
            name, record.payload, record.attribute, is_new=False
        )

    def _record_attribute(
        self,
        name: str,
        payload: bytes,
        attribute: dict[str, Any],
        is_new: bool,
    ) -> None:
        key = self.table.key_name, len(name.encode())
        self._calls.recorder.record_snapshot(
            SessionSnapshot(
                name=name,
                size=overhead(*key, ('Expires',)) + attribute_size(attribute),
                kind=next(iter(attribute)),
                payload=payload,
                parts=functools.partial(self._codec.parts, payload),
                is_new=is_new,
            )
        )


def only_record(found: Found) -> SessionRecord | None:
    return found if isinstance(found, SessionRecord) else None


def size_of_lists(record: SessionRecord) -> int:
    """Bytes of what an item remembers of saves and take-overs."""
    if not (record.receipts or record.taken_over):
        return 0
    lists: Item = {}
    if record.receipts:
        lists['SavedBy'] = {'S': ' '.join(record.receipts)}
    if record.taken_over:
        lists['TakenOver'] = {'S': ' '.join(map(str, record.taken_over))}
    return item_size(lists)


def error_of(
    outcome: Outcome, not_saved: SessionLockLost | SessionConflict
) -> SessionLockLost | SessionConflict | SessionStoreUnavailable:
    """What a request is told of a save that was refused."""
    if outcome is Outcome.NOT_SAVED:
        return not_saved
    return unavailable(
        'the reply to a save was lost, and the item does not tell whether '
        'it was carried out',
        'unknown',
    )


def lock_lost() -> SessionLockLost:
    return SessionLockLost(
        'the lock of the session was taken over, or the session has ended, '
        'before this request saved; nothing of it was saved'
    )


def conflict() -> SessionConflict:
    return SessionConflict(
        'somebody else saved the session, or ended it, after this optimistic '
        'request had read it; nothing of it was saved'
    )
