"""Saves a session without its lock, unless somebody has saved since.

A write that a lock has refused waits for that lock, and is done under it if
nobody has saved meanwhile.
"""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

from ..dynamodb.calls import Calls, ConditionFailed
from ..errors import (
    SessionLockTimeout,
    SessionStoreUnavailable,
)
from .item import CorruptItem, SessionRecord
from .locks import Locks, VersionChanged
from .outcome import (
    Outcome,
    conflict,
    error_of,
    lock_lost,
    outcome_of_optimistic,
)
from .reads import Found
from .snapshots import report_corrupt
from .writes import RECEIPT_LENGTH, SessionWriter


@dataclasses.dataclass
class NewData:
    """What is to be stored of a session that was read as `record`."""

    items: dict[str, Any]
    payload: bytes
    record: SessionRecord

    def under_lock_of(self, locked: SessionRecord) -> NewData:
        """The same, to be stored under the lock of a `locked` session."""
        record = dataclasses.replace(
            locked, timeout=self.record.timeout, owner=self.record.owner
        )
        return NewData(self.items, self.payload, record)


class UnlockedSaves:
    """Saves of the sessions of one store, by requests that hold no lock."""

    def __init__(self, locks: Locks, writer: SessionWriter) -> None:
        self._locks = locks
        self._writer = writer

    def lock_unchanged(
        self,
        calls: Calls,
        name: str,
        record: SessionRecord,
        owner: Any = None,
    ) -> Found:
        """Lock a session that nobody has saved since it was read.

        Raises :class:`.locks.VersionChanged`.
        """
        try:
            return self._locks.acquire(calls, name, record.version, owner)
        except CorruptItem as error:
            report_corrupt(calls.recorder, error)
            return None

    def save(self, calls: Calls, name: str, new: NewData) -> None:
        """Save, unless somebody has saved since the session was read."""
        receipt = secrets.token_urlsafe(RECEIPT_LENGTH)[:RECEIPT_LENGTH]
        data = self._writer.data(
            calls.recorder, name, new.items, new.payload, new.record
        )
        save = self._writer.optimistic_save(data, new.record, receipt)
        try:
            calls.on_item('update_item', name, **save)
        except ConditionFailed as failed:
            item = calls.stored_item(name, failed)
            outcome = outcome_of_optimistic(
                failed, item, new.record.version, receipt
            )
            if outcome is Outcome.PENDING:
                outcome = self._save_when_unlocked(
                    calls, name, new, failed, receipt
                )
            if outcome is not Outcome.SAVED:
                raise error_of(outcome, conflict()) from None

    def _save_when_unlocked(
        self,
        calls: Calls,
        name: str,
        new: NewData,
        failed: ConditionFailed,
        receipt: str,
    ) -> Outcome:
        """Wait for the lock and save under it, if the version stays.

        An attempt of the save that was refused may still be on its way: it is
        refused as well once the lock, or a new version, is in its way.
        """
        try:
            locked = self.lock_after(calls, name, new.record, failed)
        except VersionChanged as changed:
            return outcome_of_optimistic(
                failed, changed.item, new.record.version, receipt
            )
        if not isinstance(locked, SessionRecord):
            is_certain = failed.is_only_attempt or locked is not None
            return Outcome.NOT_SAVED if is_certain else Outcome.UNKNOWN
        outcome = self._save_under_lock(
            calls, name, str(locked.lock_id), new.under_lock_of(locked)
        )
        if outcome is Outcome.NOT_SAVED:
            if failed.is_only_attempt:
                raise lock_lost()
            return Outcome.UNKNOWN
        return outcome

    def _save_under_lock(
        self, calls: Calls, name: str, lock_id: str, new: NewData
    ) -> Outcome:
        # it is no larger than it was when its first attempt was measured
        save = self._writer.save_under_lock(
            calls.recorder, name, new.items, new.payload, new.record, lock_id
        )
        holder = self._locks.holder(lock_id)
        return self._locks.save(calls, name, lock_id, save, holder)

    def lock_after(
        self,
        calls: Calls,
        name: str,
        record: SessionRecord,
        failed: ConditionFailed,
    ) -> Found:
        """Lock a session whose save was refused by somebody else's lock."""
        try:
            return self.lock_unchanged(calls, name, record)
        except SessionStoreUnavailable as error:
            # a duplicate of the refused attempt may have come through since
            error.outcome = 'unknown'
            raise
        except SessionLockTimeout as error:
            if failed.is_only_attempt:
                raise
            raise error_of(Outcome.UNKNOWN, conflict()) from error
