"""The locks of sessions: acquire, take over, renew, release, hand on."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from .._process import PerProcess
from ..dynamodb.calls import Calls, ConditionFailed, Item
from ..dynamodb.errors import error_code
from ..dynamodb.table import Table
from ..errors import SessionLockTimeout, SessionStoreUnavailable
from ..events import LockTakenOver, LockWaited
from ..settings import StoreSettings
from .expiry import Expiry, is_unexpired
from .expressions import (
    FREE,
    HELD_AS_OBSERVED,
    HOLDER,
    LOCK,
    UNEXPIRED,
    lock_held,
    update,
    version_unchanged,
)
from .item import (
    TAKE_OVERS,
    CorruptItem,
    EndedSession,
    ItemCodec,
    LockId,
    SessionRecord,
    ended_session,
    number,
    optional_number,
    receipts_of,
    remembered,
    taken_over_of,
    whole_number,
)
from .lease import (
    HeldLock,
    LeaseRenewer,
    LockWait,
    ObservedLock,
    back_off_randomly,
    yield_to_other_processes,
)
from .lock_queue import HandOn, LockQueue, Ticket
from .outcome import Outcome, is_locked_by, outcome_under_lock

log = logging.getLogger(__name__)


class VersionChanged(Exception):
    """Somebody has saved the session; ``item`` is how it stands."""

    def __init__(self, item: Item) -> None:
        super().__init__()
        self.item = item


@dataclasses.dataclass
class Save:
    """What a holder wants stored when it gives the lock back.

    ``attributes`` are set and ``removed`` ones removed.
    """

    attributes: Item
    removed: tuple[str, ...]
    record: SessionRecord
    payload: bytes

    def saved_record(self) -> SessionRecord:
        """The session as it is stored then."""
        return dataclasses.replace(
            self.record,
            items={},
            lock_id=None,
            expires=int(self.attributes['Expires']['N']),
            version=self.record.version + 1,
            receipts=receipts_of(self.attributes),
            payload=self.payload,
            attribute=self.attributes['SessionItems'],
            prepared=None,
        )


class Holder(NamedTuple):
    """A lock of this process, with the place of its request in the queue."""

    ticket: Ticket
    held: HeldLock


class ProcessLocks:
    """What one process knows of the locks that it holds or waits for."""

    def __init__(
        self, settings: StoreSettings, renew: Callable[[HeldLock], bool]
    ) -> None:
        limit = settings.lock_queue_limit
        self.queue = LockQueue(
            None if limit == 'auto' else limit, settings.lock_lease
        )
        self.renewer = LeaseRenewer(settings.lock_lease, renew)
        #: who holds which lock, by its lock_id
        self.holders: dict[str, Holder] = {}


class Locks:
    """The locks of the sessions of one store, by the names of their items."""

    def __init__(
        self,
        table: Table,
        calls: Calls,
        codec: ItemCodec,
        settings: StoreSettings,
        expiry: Expiry,
    ) -> None:
        self._table = table
        self._calls = calls
        self._codec = codec
        self._settings = settings
        self._lease = settings.lock_lease
        self._expiry = expiry
        renew = weakref.WeakMethod(self._renew)
        self._process = PerProcess(
            lambda: ProcessLocks(settings, renew())  # type: ignore[arg-type]
        )

    # -- acquire ---------------------------------------------------------

    def acquire(
        self,
        calls: Calls,
        name: str,
        version: int | None = None,
        owner: Any = None,
    ) -> SessionRecord | EndedSession | None:
        """Lock the session of this `name`; None where there is none.

        Waits for its turn, then for the lock. Raises
        :class:`SessionLockTimeout`, and :class:`.item.CorruptItem` for what
        is no session; then nothing is locked.

        :param version: the one that the session must still have; otherwise
            :class:`VersionChanged`.
        :param owner: as long as it is alive, the lock is renewed.
        """
        start = time.monotonic()
        deadline = start + self._settings.lock_wait
        process = self._process.get()
        queue = process.queue
        ticket = queue.enter(name, calls.recorder.request_line)
        ticket.process = process
        try:
            queue.wait(ticket, deadline)
            if ticket.held is None:
                found = self._acquire(calls, ticket, deadline, version)
            else:
                found = self._inherit(ticket, ticket.held, version)
        except BaseException as error:
            self._leave(calls, ticket)
            if isinstance(error, SessionLockTimeout):
                self._report_wait(calls, ticket, time.monotonic() - start)
            raise
        if ticket.has_waited:
            self._report_wait(calls, ticket, time.monotonic() - start)
        if ticket.held is None:
            queue.leave(ticket)
        elif owner is not None:
            self._renew_for(owner, ticket, ticket.held)
        return found

    def _report_wait(
        self, calls: Calls, ticket: Ticket, seconds: float
    ) -> None:
        calls.recorder.record_event(
            LockWaited, seconds, queue_length=ticket.position
        )
        if seconds > self._settings.lock_wait / 3:
            log.warning(
                '%s has waited %.1f seconds for the lock of its session, '
                'which %s held',
                ticket.request_line() or 'a request',
                seconds,
                ticket.waits_for or 'a request of another process',
            )

    def _leave(self, calls: Calls, ticket: Ticket) -> None:
        """Give up waiting; a lock on its way here goes to the next one."""
        held = ticket.process.queue.give_up(ticket)
        if held is not None:
            ticket.process.holders.pop(held.lock_id, None)
            self._pass_on(calls, Holder(ticket, held))

    def _inherit(
        self, ticket: Ticket, held: HeldLock, version: int | None
    ) -> SessionRecord:
        """The session under a lock that was handed on to this ticket."""
        record = held.record
        if version not in (None, record.version):
            raise VersionChanged(version_item(record))
        ticket.process.holders[held.lock_id] = Holder(ticket, held)
        return dataclasses.replace(
            record,
            items=self._codec.loads(record.payload),
            lock_id=held.lock_id,
        )

    def _acquire(
        self,
        calls: Calls,
        ticket: Ticket,
        deadline: float,
        version: int | None,
    ) -> SessionRecord | EndedSession | None:
        queue = ticket.process.queue
        wait = LockWait(self._lease, deadline, ticket.abandoned_lock)
        observed = None
        if ticket.must_yield:
            yield_to_other_processes()
            observed = self._observe(calls, ticket.name)
        elif ticket.is_contended:
            observed = self._observe(calls, ticket.name)
        while True:
            if observed is None:
                pass
            elif observed.token == ticket.token:
                # a first attempt of ours, or of who handed it on, came late
                observed = None
            elif not wait.lease_expired(observed, calls.now()):
                queue.poll(ticket)
                ticket.is_contended = ticket.has_waited = True
                wait.back_off()
                observed = self._observe(calls, ticket.name)
                continue
            started = time.monotonic()
            item = self._try_to_lock(calls, ticket, observed, version)
            if item is None:
                return None
            is_ours = 'Ended' not in item and (
                item.get('LockId') == {'S': ticket.token}
            )
            if is_ours:
                if observed is not None:
                    self._report_take_over(calls, observed, wait)
                record = self._hold(ticket, item, started)
            if version is not None and version_differs(item, version):
                # what is ours by now was handed on by a save whose reply was
                # lost: it goes back
                raise VersionChanged(item)
            if is_ours:
                return record
            if 'Ended' in item:
                return ended_session(item)
            taken_from, observed = observed, self._holder(item)
            if observed is None or taken_from == observed:
                if not is_unexpired(item):
                    return None
                # refused though nothing stands in the way, for ever maybe
                wait.back_off()

    def _hold(
        self, ticket: Ticket, item: Item, started: float
    ) -> SessionRecord:
        """The session, which is locked by now; CorruptItem if it is none."""
        lock = LockId(ticket.token, lock_count(item))
        try:
            record = self._codec.record(item, ticket.name)
            date = whole_number(item, 'LockDate')
        except CorruptItem:
            self._release_by_call(self._calls, ticket.name, lock, None)
            raise
        held = HeldLock(ticket.name, lock, record, date, started)
        record.lock_id = held.lock_id
        ticket.process.queue.hold(ticket, held)
        ticket.process.holders[held.lock_id] = Holder(ticket, held)
        return record

    def _report_take_over(
        self, calls: Calls, dead: ObservedLock, wait: LockWait
    ) -> None:
        log.warning(
            'the lock of a session was taken over from a request that had '
            'not renewed it since %s',
            dead.date,
        )
        calls.recorder.record_event(LockTakenOver, wait.watched)

    def _try_to_lock(
        self,
        calls: Calls,
        ticket: Ticket,
        dead: ObservedLock | None,
        version: int | None,
    ) -> Item | None:
        """Lock a free session, or take over the lock of a `dead` holder.

        Returns the item as it then stands, in whoever's hands; None if there
        is none. Our own token in it means that we hold the lock, even when
        the condition failed: the first attempt went through, and its reply
        was lost.
        """
        attributes: Item = {
            'LockId': {'S': ticket.token},
            'LockDate': number(calls.now()),
        }
        values: Item = {':now': number(time.time())}
        condition = FREE
        if dead is not None:
            condition = HELD_AS_OBSERVED
            values[':holder'] = {'S': dead.token}
            values[':since'] = {'N': dead.date}
            attributes['TakenOver'] = remembered(
                dead.count, dead.taken_over, TAKE_OVERS
            )
        if version is not None:
            same_version, version_value = version_unchanged(version)
            condition = f'{condition} AND {same_version}'
            values |= version_value
        parameters = update(
            attributes,
            condition,
            values,
            remove=('Flags',),
            add=('LockCount',),
        )
        try:
            reply = calls.on_item(
                'update_item',
                ticket.name,
                ReturnValues='ALL_NEW',
                **parameters,
            )
        except ConditionFailed as failed:
            return calls.stored_item(ticket.name, failed)
        except SessionStoreUnavailable as error:
            if error_code(error.__cause__) != 'ValidationException':
                raise
            # an attribute of the wrong type: the item says which
            item = calls.read(ticket.name, ConsistentRead=True)
            self._codec.record(item or {}, ticket.name)
            raise
        return calls.item_in(reply, 'Attributes', ticket.name)

    def _observe(self, calls: Calls, name: str) -> ObservedLock | None:
        """Who holds the lock; sometimes a free one is looked at twice."""
        started = time.monotonic()
        observed = self._read_holder(calls, name)
        if observed is None and back_off_randomly(time.monotonic() - started):
            observed = self._read_holder(calls, name)
        return observed

    def _read_holder(self, calls: Calls, name: str) -> ObservedLock | None:
        """Who holds the lock, by half a read unit per 4 KB.

        The read may be late, so None is no more than a reason to try.
        """
        item = calls.read(
            name,
            ConsistentRead=False,
            # with the key, so that a free lock is no empty reply
            ProjectionExpression=HOLDER,
            ExpressionAttributeNames={'#key': self._table.key_name},
        )
        if item is None or 'Ended' in item:
            return None
        return self._holder(item)

    def _holder(self, item: Item | None) -> ObservedLock | None:
        """Who holds the lock of an item; CorruptItem if that is nonsense."""
        if item is None or 'LockId' not in item:
            return None
        try:
            token, date = item['LockId']['S'], item['LockDate']['N']
            float(date)
        except (KeyError, OverflowError, TypeError, ValueError):
            raise CorruptItem('LockId, LockDate') from None
        return ObservedLock(token, date, lock_count(item), taken_over_of(item))

    # -- keep ------------------------------------------------------------

    def holder(self, lock_id: str) -> Holder | None:
        """Who holds the lock of this id, if this process does."""
        return self._process.get().holders.get(lock_id)

    def renew(self, name: str, lock_id: str) -> bool:
        """Give a lock another lease; False if it is held no more."""
        holder = self.holder(lock_id)
        if holder is None:
            lock = LockId.parse(lock_id)
            record = SessionRecord({}, created=0, expires=0)
            held = HeldLock(name, lock, record, 0, 0)
            return self._renew(held, slides=False)
        return self._renew(holder.held)

    def confirm(self, lock_id: str) -> bool:
        """Whether a lock is held for half a lease more; renew it if not."""
        holder = self.holder(lock_id)
        if holder is None:
            return False
        held = holder.held
        return held.age() < self._lease / 2 or self._renew(held)

    def _renew(self, held: HeldLock, slides: bool = True) -> bool:
        condition, values = lock_held(held.lock)
        # it always moves, so that whoever waits sees every renewal
        date = max(int(self._calls.now()), held.date + 1)
        attributes: Item = {'LockDate': number(date)}
        if held.date:
            # one that comes late must not make the lock look older
            held.date = date
            condition = f'{condition} AND LockDate <= :LockDate'
        expires = held.record.expires
        if slides and expires - time.time() < 2 * self._lease:
            # so that it does not expire under the request that holds it
            attributes |= self._expiry.attributes(held.record)
        started = time.monotonic()
        try:
            self._calls.on_item(
                'update_item',
                held.name,
                **update(
                    attributes,
                    condition,
                    values,
                    ttl_attribute=self._settings.ttl_attribute,
                ),
            )
        except ConditionFailed as failed:
            item = self._calls.stored_item(held.name, failed) or {}
            if 'Ended' in item or not is_locked_by(item, held.lock):
                # so that whoever asks whether it is held asks DynamoDB
                held.confirmed_at = -math.inf
                return False
            # the next renewal has come before this one
        held.confirmed_at = started
        if 'Expires' in attributes:
            held.record.expires = int(attributes['Expires']['N'])
        return True

    def renew_while_alive(self, owner: Any, lock_id: str) -> None:
        """Renew a held lock in the background, as long as `owner` lives."""
        holder = self.holder(lock_id)
        if holder is not None:
            self._renew_for(owner, *holder)

    def _renew_for(self, owner: Any, ticket: Ticket, held: HeldLock) -> None:
        held.owner = weakref.ref(owner)
        ticket.process.renewer.add(held)

    def standstill_since(self, moment: float) -> float:
        """Seconds for which no lock of this process could be renewed."""
        return self._process.get().renewer.standstill_since(moment)

    # -- give back -------------------------------------------------------

    def _begin_release(self, holder: Holder) -> bool:
        """Whether nobody else has begun to give this lock back."""
        ticket, held = holder
        held.is_being_released = True
        return ticket.process.holders.pop(held.lock_id, None) is not None

    def _end_release(self, calls: Calls, holder: Holder) -> None:
        """Renew a lock no more, which was renewed until now."""
        ticket, held = holder
        ticket.process.renewer.discard(held)
        calls.recorder.record_renewals(held.renewals)

    @contextmanager
    def ending(self, calls: Calls, lock_id: str | None) -> Iterator[None]:
        """Make a call that ends the session, or moves it, under a lock."""
        holder = None if lock_id is None else self.holder(lock_id)
        if holder is None or not self._begin_release(holder):
            yield
            return
        ticket = holder.ticket
        try:
            yield
        finally:
            ticket.process.queue.leave(ticket)
            self._end_release(calls, holder)

    def release(self, calls: Calls, name: str, lock_id: str) -> None:
        """Give the lock back, or on, with nothing to save.

        A lost lock is no error.
        """
        holder = self.holder(lock_id)
        if holder is None or not self._begin_release(holder):
            lock = LockId.parse(lock_id)
            self._release_by_call(calls, name, lock, None)
            return
        try:
            self._pass_on(calls, holder)
        finally:
            self._end_release(calls, holder)

    def _pass_on(self, calls: Calls, holder: Holder) -> None:
        """Hand a lock on as it is, without a call; or release it."""
        ticket, held = holder
        queue = ticket.process.queue
        is_fresh = held.age() < self._lease / 2
        if is_fresh and not held.is_turn_over() and queue.next_ticket(ticket):
            handed_on = queue.hand_on(ticket, held.inherited())
            if handed_on is not HandOn.NOBODY_WAITS:
                return
        try:
            self._release_by_call(calls, held.name, held.lock, held.record)
        finally:
            queue.leave(ticket, must_yield=held.is_turn_over())

    def _release_by_call(
        self,
        calls: Calls,
        name: str,
        lock: LockId,
        record: SessionRecord | None,
    ) -> None:
        condition, values = lock_held(lock)
        parameters = update(
            # of unknown age and timeout, it slides by nothing
            self._expiry.attributes_of_save(record) if record else {},
            condition,
            values,
            remove=LOCK,
            ttl_attribute=self._settings.ttl_attribute,
        )
        try:
            calls.on_item('update_item', name, **parameters)
        except ConditionFailed:
            pass

    def save(
        self,
        calls: Calls,
        name: str,
        lock_id: str,
        save: Save,
        holder: Holder | None,
    ) -> Outcome:
        """Save the session and give the lock back, or on, in one call.

        :param holder: as :meth:`holder` has found it.
        """
        if holder is None or not self._begin_release(holder):
            lock = LockId.parse(lock_id)
            return self._save_by_call(calls, name, lock, save, {}, LOCK)
        ticket, held = holder
        heir: Ticket | None = None
        if not held.is_turn_over():
            heir = ticket.process.queue.next_ticket(ticket)
        try:
            if heir is None:
                return self._save_and_release(calls, ticket, held, save)
            return self._save_and_hand_on(calls, ticket, held, heir, save)
        finally:
            self._end_release(calls, holder)

    def _save_and_release(
        self, calls: Calls, ticket: Ticket, held: HeldLock, save: Save
    ) -> Outcome:
        try:
            return self._save_by_call(
                calls, held.name, held.lock, save, {}, LOCK, held.age()
            )
        finally:
            ticket.process.queue.leave(ticket, must_yield=held.is_turn_over())

    def _save_and_hand_on(
        self,
        calls: Calls,
        ticket: Ticket,
        held: HeldLock,
        heir: Ticket,
        save: Save,
    ) -> Outcome:
        """The item stays locked, for the next request of this process."""
        lock = LockId(heir.token, held.lock.count + 1)
        date = max(int(calls.now()), held.date + 1)
        started = time.monotonic()
        is_handed_on = False
        try:
            outcome = self._save_by_call(
                calls,
                held.name,
                held.lock,
                save,
                {'LockId': {'S': heir.token}, 'LockDate': number(date)},
                (),
                held.age(),
                lock,
            )
            is_handed_on = outcome is Outcome.SAVED
        except HandOnFailed:
            # saved, and the heir has lost the lock already
            outcome = Outcome.SAVED
        finally:
            if not is_handed_on:
                ticket.process.queue.leave(ticket)
        if is_handed_on:
            inherited = held.inherited()
            inherited.lock = lock
            inherited.lock_id = str(lock)
            inherited.record = save.saved_record()
            inherited.date = date
            inherited.confirmed_at = started
            self._hand_on(calls, ticket, inherited)
        return outcome

    def _hand_on(self, calls: Calls, ticket: Ticket, held: HeldLock) -> None:
        """Give a lock to the next in line; release it if nobody is."""
        handed_on = ticket.process.queue.hand_on(ticket, held)
        if handed_on is HandOn.NOBODY_WAITS:
            self._release_by_call(calls, held.name, held.lock, held.record)

    def _save_by_call(
        self,
        calls: Calls,
        name: str,
        lock: LockId,
        save: Save,
        lock_attributes: Item,
        removed: tuple[str, ...],
        age: float = 0,
        handed_on: LockId | None = None,
    ) -> Outcome:
        condition, values = lock_held(lock)
        if age > self._lease:
            # others may have seen it expire meanwhile
            condition = f'{condition} AND {UNEXPIRED}'
            values[':now'] = number(time.time())
        parameters = update(
            {**save.attributes, **lock_attributes},
            condition,
            values,
            remove=(*removed, *save.removed),
            add=('LockCount', 'Version') if handed_on else ('Version',),
            ttl_attribute=self._settings.ttl_attribute,
        )
        try:
            calls.on_item('update_item', name, **parameters)
        except ConditionFailed as failed:
            item = calls.stored_item(name, failed)
            outcome = outcome_under_lock(failed, item, lock)
            if outcome is not Outcome.SAVED or handed_on is None:
                return outcome
            if not is_locked_by(item or {}, handed_on):
                raise HandOnFailed from None
        return Outcome.SAVED


class HandOnFailed(Exception):
    """A save was carried out, but the lock is not with the next in line."""


def version_item(record: SessionRecord) -> Item:
    """What an item of this `record` tells of who has saved it."""
    return {
        'Version': number(record.version),
        'SavedBy': {'S': ' '.join(record.receipts)},
    }


def version_differs(item: Item, version: int) -> bool:
    return (optional_number(item, 'Version') or 0) != version


def lock_count(item: Item) -> int:
    """How often the lock was taken; 0 when that makes no sense."""
    try:
        return whole_number(item, 'LockCount')
    except CorruptItem:
        return 0
