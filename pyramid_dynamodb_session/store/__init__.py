"""The provider's operations. Nothing here knows of a request."""

from __future__ import annotations

import copy
import functools
import logging
import secrets
import time
from typing import Any

from .._recorder import Recorder, SessionSnapshot
from ..dynamodb.calls import Calls, ConditionFailed, Item
from ..dynamodb.table import Table
from ..errors import (
    SessionConflict,
    SessionLockLost,
    SessionSerializationError,
    SessionTooLarge,
)
from ..events import (
    ItemCorrupt,
    LockTaken,
    LockWaited,
)
from ..settings import StoreSettings
from .expressions import (
    ABSENT,
    ALIVE,
    SAVE_OPTIMISTIC,
    UNLOCK,
    lock_condition,
    overhead,
    unchanged,
    update,
)
from .item import (
    VERSION,
    CorruptItem,
    ItemCodec,
    LockId,
    SessionRecord,
    attribute_size,
    hash_key,
    number,
    saved_by,
)
from .locks import Locks, lock_not_taken_over
from .purge import Purge

log = logging.getLogger(__name__)

#: How many optimistic saves an item remembers.
SAVERS = 8
#: The end of a session that never expires: the last second of the year 9999.
NEVER = 253402300799


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
        self.settings = StoreSettings.parse(settings)
        self.table = Table(client, self.settings)
        self._calls = Calls(self.table)
        self._recorder: Recorder | None = None
        self._codec = ItemCodec(
            self.settings.serializer, self.settings.encryption_keys
        )
        self._locks = Locks(
            self.table, self._calls, self._codec, self.settings
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
        """The same store, what it does being noted in a `recorder`."""
        noted = copy.copy(self)
        noted._calls = self._calls.bind(recorder)
        noted._locks = self._locks.bind(recorder, noted._calls)
        noted._recorder = recorder
        return noted

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
        name = self._name(session_id)
        item = self._calls.read(name, ConsistentRead=True)
        try:
            return self._living_record(name, item) if item else None
        except CorruptItem as error:
            self._found_corrupt(error)
            return None

    def get_item_exclusive(self, session_id: str) -> SessionRecord | None:
        """Lock the session and read it, in one ``UpdateItem``.

        Waits for a lock that another request holds, and takes it over from
        one that is dead; None for no session, and then nothing is locked.
        Raises :class:`SessionLockTimeout` after ``lock_wait`` seconds, or at
        once when the queue is full. The provider's ``GetItemExclusive``.
        """
        name = self._name(session_id)
        start = time.monotonic()
        deadline = start + self.settings.lock_wait
        with self._locks.ticket(name, deadline) as ticket:
            try:
                item = self._locks.acquire(name, ticket, deadline)
                record = self._living_record(name, item) if item else None
            except CorruptItem as error:
                self._found_corrupt(error)
                record = None
            if self._recorder is not None:
                seconds = time.monotonic() - start
                if ticket.waited:
                    self._recorder.notify(LockWaited, seconds)
                if record is not None:
                    self._recorder.notify(LockTaken, seconds)
            if record is not None:
                record.lock_id = ticket.lock_id
            elif ticket.lock_id is not None:
                self.release_item_exclusive(session_id, ticket.lock_id)
            return record

    def release_item_exclusive(
        self,
        session_id: str,
        lock_id: str,
        *,
        record: SessionRecord | None = None,
    ) -> None:
        """Unlock the session and slide its expiry; a lost lock is no error.

        :param record: what was read, whose age and own timeout then count.

        The provider's ``ReleaseItemExclusive``.
        """
        try:
            self._unlock(self._name(session_id), lock_id, self._expiry(record))
        except ConditionFailed:
            pass

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

        Raises :class:`SessionLockLost` when the lock was taken over, and
        :class:`SessionSerializationError` or :class:`SessionTooLarge` before
        the call; then what was stored stays, and the lock is released.

        :param new_item: create the session; no lock is needed.
        :param payload: the `items`, where :meth:`dumps` has been called.
        :param record: what was read, whose age and own timeout then count.

        The provider's ``SetAndReleaseItemExclusive``.
        """
        name = self._name(session_id)
        record = record or self.create_new_store_data()
        try:
            payload = payload or self.dumps(items)
            data = self._data(name, items, payload, record)
        except (SessionSerializationError, SessionTooLarge):
            if not new_item:
                self.release_item_exclusive(
                    session_id, str(lock_id), record=record
                )
            raise
        if new_item:
            self._put(self._new_item(name, data, record))
        else:
            self._save(name, str(lock_id), data)

    def remove_item(self, session_id: str, lock_id: str | None = None) -> None:
        """Delete the session; only while `lock_id` is held, if one is given.

        Raises :class:`SessionLockLost` when somebody else holds the lock. The
        provider's ``RemoveItem``.
        """
        name = self._name(session_id)
        if lock_id is None:
            self._calls.on_item('delete_item', name)
            return
        condition, values = lock_condition(lock_id)
        try:
            self._calls.on_item(
                'delete_item',
                name,
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
                ReturnValuesOnConditionCheckFailure='ALL_OLD',
            )
        except ConditionFailed as failed:
            # gone already: the reply of our own first try was lost
            if self._calls.stored_item(name, failed) is not None:
                raise lock_lost() from None
        finally:
            self._locks.leave_holder(name, lock_id)

    def reset_item_timeout(
        self, session_id: str, *, record: SessionRecord | None = None
    ) -> None:
        """Slide the expiry of a living session, whoever holds its lock.

        One conditional write, which can neither unlock it nor bring back a
        removed or expired one. The provider's ``ResetItemTimeout``.
        """
        try:
            self._update(
                self._name(session_id),
                self._expiry(record),
                ALIVE,
                {':now': number(time.time())},
            )
        except ConditionFailed:
            pass

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

    # -- what a living request needs besides -----------------------------

    def set_item_optimistic(
        self,
        session_id: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
    ) -> None:
        """Save without a lock, unless somebody saved or locked since.

        Raises :class:`SessionConflict`, and :class:`SessionTooLarge`.
        """
        name = self._name(session_id)
        me = secrets.token_urlsafe(6)
        data = self._data(name, items, payload, record)
        # earlier tokens are kept for those whose reply is being lost
        data['SavedBy'] = {'S': ' '.join([me, *record.saved_by][:SAVERS])}
        try:
            self._update(
                name,
                data,
                unchanged(record),
                {':count': number(record.lock_count), ':one': {'N': '1'}},
                more=SAVE_OPTIMISTIC,
            )
        except ConditionFailed as failed:
            item = self._calls.stored_item(name, failed)
            if item is None or me not in saved_by(item):
                raise conflict() from None

    def change_session_id(
        self,
        session_id: str,
        new_session_id: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
    ) -> None:
        """Store the session under another id and delete the old, at once.

        Raises :class:`SessionLockLost` when the lock of `record` was taken
        over, or :class:`SessionConflict` when it has none and somebody else
        saved since; nothing was changed then.
        """
        name, new_name = self._name(session_id), self._name(new_session_id)
        key_absent = {
            'ConditionExpression': ABSENT,
            'ExpressionAttributeNames': {'#key': self.table.key_name},
        }
        try:
            data = self._data(new_name, items, payload, record)
        except SessionTooLarge:
            if record.lock_id is not None:
                self.release_item_exclusive(
                    session_id, record.lock_id, record=record
                )
            raise
        table = {'TableName': self.settings.table}
        put = {
            **table,
            **key_absent,
            'Item': self._new_item(new_name, data, record),
        }
        delete = {
            **table,
            'Key': self._calls.key(name),
            **self._still_ours(record),
        }
        try:
            self._transact([{'Put': put}, {'Delete': delete}])
        except ConditionFailed:
            raise (lock_lost() if record.lock_id else conflict()) from None
        finally:
            if record.lock_id is not None:
                self._locks.leave_holder(name, record.lock_id)

    def renew_lock(self, session_id: str, lock_id: str) -> bool:
        """Give a lock another lease; False if it is held no more."""
        return self._locks.renew(self._name(session_id), lock_id)

    def renew_while_alive(
        self, owner: Any, session_id: str, lock_id: str
    ) -> None:
        """Renew a lock in the background until it is given back.

        The first time after a third of ``lock_lease``, and only as long as
        `owner` is referenced elsewhere.
        """
        name = self._name(session_id)
        self._locks.renew_while_alive(owner, name, lock_id)

    def dumps(self, items: dict[str, Any]) -> bytes:
        """The bytes of `items` as they are stored, before compression.

        Raises :class:`SessionSerializationError` naming the key.
        """
        return self._codec.dumps(items)

    def differs(self, items: dict[str, Any], record: SessionRecord) -> bool:
        """Whether `items` are others than those that were read."""
        return self._codec.differs(items, record.payload)

    def _found_corrupt(self, error: CorruptItem) -> None:
        log.warning(
            'a stored session is corrupt and counts as none: %s', error
        )
        if self._recorder is not None:
            self._recorder.notify(ItemCorrupt)

    def _note(
        self,
        recorder: Recorder,
        name: str,
        payload: bytes,
        item: Item,
        is_new: bool,
    ) -> None:
        """Note a session as it is read, or to be written."""
        attribute = item['SessionItems']
        key = self.table.key_name, len(name.encode())
        recorder.snapshots.append(
            SessionSnapshot(
                name=name,
                size=overhead(*key, ('Expires',)) + attribute_size(attribute),
                kind=next(iter(attribute)),
                payload=payload,
                parts=functools.partial(self._codec.parts, payload),
                is_new=is_new,
            )
        )

    # -- saving ----------------------------------------------------------

    def _save(self, name: str, lock_id: str, data: Item) -> None:
        try:
            self._unlock(name, lock_id, data)
        except ConditionFailed as failed:
            item = self._calls.stored_item(name, failed)
            lock = LockId.parse(lock_id)
            # Unless it was taken over, the lock left our hands by this very
            # save, whose reply was lost; others may have saved since.
            if not (item and lock and lock_not_taken_over(lock, item)):
                raise lock_lost() from None

    def _unlock(self, name: str, lock_id: str, attributes: Item) -> None:
        try:
            self._update(
                name, attributes, *lock_condition(lock_id), more=UNLOCK
            )
        finally:
            self._locks.leave_holder(name, lock_id)

    def _still_ours(self, record: SessionRecord) -> dict[str, Any]:
        """The condition that nobody has got hold of what was read."""
        if record.lock_id is None:
            condition = unchanged(record)
            values = {':count': number(record.lock_count)}
        else:
            condition, values = lock_condition(record.lock_id)
        return {
            'ConditionExpression': condition,
            'ExpressionAttributeValues': values,
        }

    def _transact(self, writes: list[dict[str, Any]]) -> None:
        """Put a new item and delete the old one, or neither.

        A new item that is there is our own, its reply lost.
        """
        try:
            self._calls.send('transact_write_items', TransactItems=writes)
        except ConditionFailed as failed:
            if failed.codes[:1] != ['ConditionalCheckFailed']:
                raise

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
            'Ver': VERSION,
            **data,
        }

    def _data(
        self,
        name: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
    ) -> Item:
        """The attributes that a save writes."""
        data = self._expiry(record)
        if record.timeout is not None:
            data['SessionTimeout'] = number(record.timeout)
        data['SessionItems'] = self._codec.attribute(
            payload,
            items,
            name,
            overhead(self.table.key_name, len(name.encode()), tuple(data)),
        )
        if self._recorder is not None:
            self._note(self._recorder, name, payload, data, is_new=True)
        return data

    def expires_at(self, record: SessionRecord | None = None) -> int:
        """When a session used right now ends, in seconds since the epoch."""
        timeout = self.settings.timeout
        if record is not None and record.timeout is not None:
            timeout = record.timeout
        end = NEVER if timeout is None else int(time.time()) + timeout
        longest = self.settings.absolute_timeout
        if record is not None and longest is not None:
            end = min(end, record.created + longest)
        return end

    def _expiry(self, record: SessionRecord | None) -> Item:
        end = self.expires_at(record)
        attributes = {'Expires': number(end)}
        if self.settings.ttl_attribute not in ('', 'Expires'):
            attributes[self.settings.ttl_attribute] = number(
                end + self.settings.ttl_grace
            )
        return attributes

    # -- reading ---------------------------------------------------------

    def _living_record(self, name: str, item: Item) -> SessionRecord | None:
        """The session in a stored item; None if its time is over."""
        record = self._codec.record(item, name)
        longest = self.settings.absolute_timeout
        end = record.expires
        if longest is not None:
            end = min(end, record.created + longest)
        if end <= int(time.time()):
            return None
        if self._recorder is not None:
            payload = record.payload
            self._note(self._recorder, name, payload, item, is_new=False)
        return record

    def _name(self, session_id: str) -> str:
        return hash_key(session_id, self.settings.application)

    def _update(
        self,
        name: str,
        attributes: Item,
        condition: str,
        values: Item,
        more: str = '',
    ) -> None:
        """Set `attributes`, and do `more`, under a `condition`."""
        ttl = self.settings.ttl_attribute
        parameters = update(attributes, condition, values, more, ttl)
        self._calls.on_item('update_item', name, **parameters)


def lock_lost() -> SessionLockLost:
    return SessionLockLost(
        'the lock of the session was taken over, or the session removed, '
        'before this request saved; nothing of it was saved'
    )


def conflict() -> SessionConflict:
    return SessionConflict(
        'somebody else saved or locked the session after this optimistic '
        'request had read it; nothing of it was saved'
    )
