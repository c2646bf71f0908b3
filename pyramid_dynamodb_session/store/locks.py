"""The locks of sessions in DynamoDB: taken, taken over, renewed, let go.

Waiting is decided upon in the room below; here it is done.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import time

from .._recorder import Recorder
from ..dynamodb.calls import Calls, ConditionFailed, Item, required_attribute
from ..dynamodb.errors import error_code
from ..dynamodb.table import Table
from ..errors import SessionStoreUnavailable
from ..events import LockTakenOver
from ..settings import StoreSettings
from .expressions import (
    FREE,
    HELD_AS_OBSERVED,
    LOCK,
    TAKE_OVER,
    lock_condition,
    update,
)
from .item import (
    CorruptItem,
    ItemCodec,
    LockId,
    number,
    optional_number,
    whole_number,
)
from .lease import LeaseRenewer, LockWait, ObservedLock, back_off_randomly
from .lock_queue import LockQueue, Ticket

log = logging.getLogger(__name__)


class Locks:
    """The locks of the sessions of one store, by the names of their items."""

    def __init__(
        self,
        table: Table,
        calls: Calls,
        codec: ItemCodec,
        settings: StoreSettings,
    ) -> None:
        self._table = table
        self._calls = calls
        self._codec = codec
        self._lease = settings.lock_lease
        limit = settings.lock_queue_limit
        self._queue = LockQueue(10 if limit == 'auto' else limit, self._lease)
        self._renewals = LeaseRenewer(self._lease, self.renew)
        self._recorder: Recorder | None = None
        #: :meth:`.lock_queue.LockQueue.ticket`, by names of items
        self.ticket = self._queue.ticket
        #: :meth:`.lease.LeaseRenewer.add`
        self.renew_while_alive = self._renewals.add

    def bind(self, recorder: Recorder, calls: Calls) -> Locks:
        """The same locks, what is done with them noted in a `recorder`."""
        noted = copy.copy(self)
        noted._calls = calls
        noted._recorder = recorder
        return noted

    def renew(self, name: str, lock_id: str) -> bool:
        """Give a lock another lease; False if it is held no more."""
        ticket = self._queue.holder(name, lock_id)
        condition, values = lock_condition(lock_id)
        date = int(time.time())
        if ticket is not None and ticket.held is not None:
            # it always moves, so that whoever waits sees every renewal
            date = max(date, int(ticket.held.date) + 1)
        try:
            self._calls.on_item(
                'update_item',
                name,
                **update({'LockDate': number(date)}, condition, values),
            )
        except ConditionFailed:
            return False
        if ticket is not None:
            ticket.hold(lock_id, ObservedLock(values[':me']['S'], str(date)))
        return True

    def acquire(
        self, name: str, ticket: Ticket, deadline: float
    ) -> Item | None:
        """The item, its lock taken; None if there is no living one."""
        me = os.urandom(11).hex()
        wait = LockWait(self._lease, deadline, ticket.abandoned_lock)
        holder = self._holder_or_none(name) if ticket.contended else None
        while True:
            if holder and holder.token == me:
                # a first try of ours has come through late
                holder = None
            if holder and not wait.lease_expired(holder, time.time()):
                ticket.contended = ticket.waited = True
                wait.back_off()
                holder = self._holder_or_none(name)
                continue
            item = self._try(name, me, holder)
            if item is None:
                return None
            taken_from, holder = holder, holder_of(item)
            if holder is not None and holder.token == me:
                if taken_from is not None:
                    self._took_over(taken_from, wait)
                lock = LockId(me, lock_count(item))
                ticket.hold(str(lock), holder)
                return item
            if taken_from is not None or holder is None:
                # refused though nothing stands in the way, for ever maybe
                wait.back_off()

    def _took_over(self, dead: ObservedLock, wait: LockWait) -> None:
        log.warning(
            'the lock of a session was taken over from a request that had '
            'not renewed it since %s',
            dead.date,
        )
        if self._recorder is not None:
            self._recorder.notify(LockTakenOver, wait.watched)

    def _try(
        self, name: str, me: str, dead: ObservedLock | None
    ) -> Item | None:
        """Take a free lock, or that of a `dead` holder.

        Returns the item as it then stands, in whoever's hands; None if there
        is no living one. Our own token in it means that it is ours, even
        when the condition failed: a first reply was lost.
        """
        date = number(time.time())
        values = {':now': date, ':one': {'N': '1'}}
        more = LOCK
        condition = FREE
        if dead is not None:
            condition = HELD_AS_OBSERVED
            values[':dead'] = {'S': dead.token}
            values[':since'] = {'N': dead.date}
            values[':zero'] = {'N': '0'}
            more = TAKE_OVER
        try:
            reply = self._calls.on_item(
                'update_item',
                name,
                ReturnValues='ALL_NEW',
                **update(
                    {'LockId': {'S': me}, 'LockDate': date},
                    condition,
                    values,
                    more,
                ),
            )
        except ConditionFailed as failed:
            item = self._calls.stored_item(name, failed)
            return item if item and is_living(item) else None
        except SessionStoreUnavailable as error:
            if error_code(error.__cause__) != 'ValidationException':
                raise
            # an attribute of the wrong type: the item says which
            item = self._calls.read(name, ConsistentRead=True)
            self._codec.record(item or {}, name)
            raise
        attributes: Item = required_attribute(reply, 'Attributes')
        return attributes

    def _holder_or_none(self, name: str) -> ObservedLock | None:
        """Who holds the lock; sometimes a free one is looked at twice."""
        started = time.monotonic()
        holder = self._read_holder(name)
        if holder is None and back_off_randomly(time.monotonic() - started):
            holder = self._read_holder(name)
        return holder

    def _read_holder(self, name: str) -> ObservedLock | None:
        """Who holds the lock, by half a read unit per 4 KB.

        The read may be late, so None is no more than a reason to try.
        """
        item = self._calls.read(
            name,
            ConsistentRead=False,
            # with the key, so that a free lock is no empty reply
            ProjectionExpression='#key, LockId, LockDate',
            ExpressionAttributeNames={'#key': self._table.key_name},
        )
        return holder_of(item or {})

    def leave_holder(self, name: str, lock_id: str) -> None:
        """This process holds the lock no more."""
        renewals = self._renewals.discard(lock_id)
        if self._recorder is not None:
            self._recorder.renewals += renewals
        self._queue.leave_holder(name, lock_id)


def is_living(item: Item) -> bool:
    return whole_number(item, 'Expires') > int(time.time())


def holder_of(item: Item) -> ObservedLock | None:
    """Who holds the lock of an item; CorruptItem when that makes no sense."""
    if 'LockId' not in item:
        return None
    try:
        token, date = item['LockId']['S'], item['LockDate']['N']
        float(date)
    except (KeyError, OverflowError, TypeError, ValueError):
        raise CorruptItem('LockId, LockDate') from None
    return ObservedLock(token, date)


def lock_count(item: Item) -> int:
    """How often the lock was taken; 0 when that makes no sense."""
    try:
        return whole_number(item, 'LockCount')
    except CorruptItem:
        return 0


def lock_not_taken_over(lock: LockId, item: Item) -> bool:
    """Whether the lock was once taken, and never taken over."""
    return taken_over_at(item) < lock.count <= lock_count(item)


def taken_over_at(item: Item) -> float:
    """The count of the last holder who lost the lock to another."""
    try:
        taken_over = optional_number(item, 'TakenOver')
    except CorruptItem:
        return math.inf
    return -1 if taken_over is None else taken_over
