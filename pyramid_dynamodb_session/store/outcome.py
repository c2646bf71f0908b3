"""Whether a write that DynamoDB has refused had been carried out before.

A reply can be lost, and the client then sends the same write again. The
second attempt is refused because the first went through, or because somebody
else was faster: the item tells which. The rules for all writes are here.
"""

from __future__ import annotations

import enum

from ..dynamodb.calls import ConditionFailed, Item
from ..dynamodb.errors import unavailable
from ..errors import (
    SessionConflict,
    SessionLockLost,
    SessionStoreUnavailable,
)
from .item import (
    RECEIPTS,
    TAKE_OVERS,
    CorruptItem,
    LockId,
    optional_number,
    receipts_of,
    taken_over_of,
)


class Outcome(enum.Enum):
    """How a write that was refused at last has ended."""

    SAVED = 'saved'
    NOT_SAVED = 'not saved'
    #: nothing in the item tells
    UNKNOWN = 'unknown'
    #: nobody has saved, so an attempt on its way might still be carried out
    PENDING = 'pending'


def outcome_under_lock(
    failed: ConditionFailed, item: Item | None, lock: LockId
) -> Outcome:
    """What became of a write that asks for the lock that it held.

    Unless the lock was taken over, it left its holder by this very write.

    :param item: what stood there when the write was refused.
    """
    if failed.is_only_attempt:
        return Outcome.NOT_SAVED
    if item is None:
        return Outcome.UNKNOWN
    if is_locked_by(item, lock):
        # the session has ended, and nothing of us came before that
        return Outcome.NOT_SAVED
    try:
        taken_over = taken_over_of(item)
    except CorruptItem:
        return Outcome.UNKNOWN
    if lock.count in taken_over:
        return Outcome.NOT_SAVED
    if len(taken_over) < TAKE_OVERS or taken_over[-1] < lock.count:
        return Outcome.SAVED
    return Outcome.UNKNOWN


def outcome_of_optimistic(
    failed: ConditionFailed, item: Item | None, version: int, receipt: str
) -> Outcome:
    """What became of a save of `version` + 1 that takes no lock.

    :param receipt: the one that the save has put into ``SavedBy``.
    """
    if item is None:
        return Outcome.NOT_SAVED if failed.is_only_attempt else Outcome.UNKNOWN
    try:
        saves_since = (optional_number(item, 'Version') or 0) - version
        receipts = receipts_of(item)
    except CorruptItem:
        return Outcome.UNKNOWN
    if saves_since <= 0:
        return Outcome.NOT_SAVED if 'Ended' in item else Outcome.PENDING
    if saves_since <= len(receipts):
        # also of an only attempt: a late duplicate of it may have come through
        is_ours = receipts[saves_since - 1] == receipt
        return Outcome.SAVED if is_ours else Outcome.NOT_SAVED
    if failed.is_only_attempt or len(receipts) < RECEIPTS:
        # the list began with a later save: ours would have begun it
        return Outcome.NOT_SAVED
    return Outcome.UNKNOWN


def is_locked_by(item: Item, lock: LockId) -> bool:
    """Whether the lock of an item is exactly this one."""
    return item.get('LockId') == {'S': lock.token} and (
        item.get('LockCount') == {'N': str(lock.count)}
    )


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
