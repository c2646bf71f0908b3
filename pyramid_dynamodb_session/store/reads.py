"""Reads sessions without a lock: which stored items count as sessions."""

from __future__ import annotations

from ..dynamodb.calls import Calls, Item
from ..dynamodb.table import Table
from ..settings import StoreSettings
from .expiry import Expiry, is_unexpired
from .item import (
    CorruptItem,
    EndedSession,
    ItemCodec,
    SessionRecord,
    ended_session,
    optional_number,
)
from .lease import is_lock_dead
from .snapshots import Snapshots, report_corrupt

Found = SessionRecord | EndedSession | None


class SessionReader:
    """Finds the sessions of one store."""

    def __init__(
        self,
        table: Table,
        codec: ItemCodec,
        settings: StoreSettings,
        expiry: Expiry,
    ) -> None:
        self._table = table
        self._codec = codec
        self._lease = settings.lock_lease
        self._expiry = expiry
        self._snapshots = Snapshots(codec)

    def find(self, calls: Calls, name: str) -> Found:
        """The session of this `name`, by one consistent read."""
        item = calls.read(name, ConsistentRead=True)
        try:
            found = self._found(calls, name, item)
        except CorruptItem as error:
            report_corrupt(calls.recorder, error)
            return None
        if isinstance(found, SessionRecord):
            self.record(calls, name, found)
        return found

    def find_locked(self, calls: Calls, name: str) -> SessionRecord | None:
        """The session under a lock that another process has taken."""
        item = calls.read(name, ConsistentRead=True)
        try:
            return only_record(self._found(calls, name, item))
        except CorruptItem:
            return None

    def _found(self, calls: Calls, name: str, item: Item | None) -> Found:
        """The session in a stored item; None if its time is over."""
        if item is None:
            return None
        if 'Ended' in item:
            return ended_session(item)
        record = self._codec.record(item, name)
        if self._expiry.is_too_old(record):
            return None
        if not is_unexpired(item) and not self._is_held(calls, item):
            return None
        return record

    def _is_held(self, calls: Calls, item: Item) -> bool:
        """Whether a living request holds the lock of an item."""
        if 'LockId' not in item:
            return False
        date = optional_number(item, 'LockDate') or 0
        return not is_lock_dead(date, calls.now(), self._lease)

    def record(self, calls: Calls, name: str, record: SessionRecord) -> None:
        """Record what was read, if anybody listens."""
        if calls.recorder.listens:
            self._snapshots.record(
                calls.recorder,
                self._table.key_name,
                name,
                record.payload,
                record.attribute,
                is_new=False,
            )


def only_record(found: Found) -> SessionRecord | None:
    return found if isinstance(found, SessionRecord) else None
