"""Moves a session to another id, with or without its lock."""

from __future__ import annotations

from ..dynamodb.calls import Calls, ConditionFailed
from ..errors import SessionTooLarge
from .item import SessionRecord
from .locks import Locks, VersionChanged
from .optimistic import NewData, UnlockedSaves
from .outcome import conflict, lock_lost
from .reads import SessionReader
from .writes import SessionWriter


class SessionMoves:
    """Stores sessions under another id and ends the old ones, at once."""

    def __init__(
        self,
        locks: Locks,
        reader: SessionReader,
        writer: SessionWriter,
        unlocked: UnlockedSaves,
        table_name: str,
    ) -> None:
        self._locks = locks
        self._reader = reader
        self._writer = writer
        self._unlocked = unlocked
        self._table = {'TableName': table_name}

    def move(
        self, calls: Calls, name: str, new_name: str, new: NewData
    ) -> None:
        """Move a session, under the lock of its record if that has one."""
        lock_id = new.record.lock_id
        try:
            data = self._writer.data(
                calls.recorder, new_name, new.items, new.payload, new.record
            )
        except SessionTooLarge:
            if lock_id is not None:
                self._locks.release(calls, name, lock_id)
            raise
        create = self._writer.creation(new_name, data, new.record)
        end = self._writer.tombstone(calls.now(), lock_id, new.record)
        key = calls.key(name)
        writes = [
            {'Put': {**self._table, **create}},
            {'Update': {**self._table, 'Key': key, **end}},
        ]
        with self._locks.ending(calls, lock_id):
            try:
                calls.send('transact_write_items', {'TransactItems': writes})
            except ConditionFailed as failed:
                if failed.codes[:1] == ['ConditionalCheckFailed']:
                    # the new item is ours: the first attempt went through
                    return
                if lock_id is not None:
                    raise lock_lost() from None
                self._move_when_unlocked(calls, name, new_name, new, failed)

    def _move_when_unlocked(
        self,
        calls: Calls,
        name: str,
        new_name: str,
        new: NewData,
        failed: ConditionFailed,
    ) -> None:
        """Wait for the lock and move under it, if the version stays."""
        try:
            locked = self._unlocked.lock_after(calls, name, new.record, failed)
        except VersionChanged:
            raise conflict() from None
        if isinstance(locked, SessionRecord):
            self.move(calls, name, new_name, new.under_lock_of(locked))
        elif not isinstance(self._reader.find(calls, new_name), SessionRecord):
            # only our own first attempt can have moved it unseen
            raise conflict()
