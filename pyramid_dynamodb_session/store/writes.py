"""What writes to sessions set and remove; no call is made here."""

from __future__ import annotations

import time
from typing import Any

from .._recorder import Recorder
from ..dynamodb.calls import Item
from ..dynamodb.table import Table
from ..settings import StoreSettings
from .expiry import TOMBSTONE_SECONDS, Expiry
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
    ItemCodec,
    LockId,
    SessionRecord,
    item_size,
    number,
    remembered,
)
from .locks import Save
from .snapshots import Snapshots

#: Characters of a lock's token that make its holder's receipt.
RECEIPT_LENGTH = 6


class SessionWriter:
    """The parameters of the calls that write the sessions of one store."""

    def __init__(
        self,
        table: Table,
        codec: ItemCodec,
        settings: StoreSettings,
        expiry: Expiry,
    ) -> None:
        self._table = table
        self._codec = codec
        self._expiry = expiry
        self._ttl_attribute = settings.ttl_attribute
        self._encrypts = bool(settings.encryption_keys)
        self._has_owners = settings.owner_index is not None
        self._snapshots = Snapshots(codec)

    def data(
        self,
        recorder: Recorder,
        name: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
        prepares: bool = False,
    ) -> Item:
        """The attributes that a save writes.

        Raises :class:`SessionTooLarge`.

        :param prepares: keep the data as it is stored, for a save of the
            same.
        """
        data = self._expiry.attributes_of_save(record)
        if record.timeout is not None:
            data['SessionTimeout'] = number(record.timeout)
        key_name = self._table.key_name
        size = overhead(key_name, len(name.encode()), tuple(data))
        if record.owner is not None:
            data['Owner'] = {'S': record.owner}
            size += item_size({'Owner': data['Owner']})
        lists = size_of_lists(record)
        size += lists
        prepared = record.prepared
        if prepared is not None and (
            prepared[0] == self._made_of(payload, size, name)
        ):
            attribute = prepared[1]
        else:
            attribute = self._codec.attribute(
                payload, items, name, size, RESERVE - lists
            )
            if prepares:
                made_of = self._made_of(payload, size, name)
                record.prepared = made_of, attribute
        data['SessionItems'] = attribute
        if recorder.listens:
            self._snapshots.record(
                recorder, key_name, name, payload, attribute, is_new=True
            )
        return data

    def _made_of(self, payload: bytes, size: int, name: str) -> Any:
        """What ``SessionItems`` depends on: if encrypted, also on the item."""
        return payload, size, name if self._encrypts else ''

    def creation(
        self, name: str, data: Item, record: SessionRecord
    ) -> dict[str, Any]:
        """The ``PutItem`` of a new session, if there is none."""
        return {
            'Item': {
                self._table.key_name: {'S': name},
                'CreateDate': number(record.created),
                'Ver': FORMAT,
                'Version': {'N': '1'},
                **data,
            },
            'ConditionExpression': ABSENT,
            'ExpressionAttributeNames': {'#key': self._table.key_name},
        }

    def save_under_lock(
        self,
        recorder: Recorder,
        name: str,
        items: dict[str, Any],
        payload: bytes,
        record: SessionRecord,
        lock_id: str,
    ) -> Save:
        """What the holder of a lock wants stored."""
        data = self.data(recorder, name, items, payload, record)
        if record.receipts:
            # the list that an optimistic save has begun has no holes
            receipt = LockId.parse(lock_id).token[:RECEIPT_LENGTH]
            data['SavedBy'] = remembered(receipt, record.receipts, RECEIPTS)
        return Save(data, self._owner_removed(record), record, payload)

    def optimistic_save(
        self, data: Item, record: SessionRecord, receipt: str
    ) -> dict[str, Any]:
        """The ``UpdateItem`` that saves if nobody has saved or locked since.

        :param data: what :meth:`data` has returned.
        """
        data['SavedBy'] = remembered(receipt, record.receipts, RECEIPTS)
        condition, values = unchanged(record, time.time())
        return update(
            data,
            condition,
            values,
            remove=self._owner_removed(record),
            add=('Version',),
            ttl_attribute=self._ttl_attribute,
        )

    def tombstone(
        self,
        now: float,
        lock_id: str | None,
        record: SessionRecord | None = None,
        owner: str | None = None,
    ) -> dict[str, Any]:
        """The ``UpdateItem`` that ends a session.

        :param now: by DynamoDB's clock.
        :param lock_id: the lock that must be held; where none is given, the
            lock of whoever has it stays, so that its holder learns of the
            end for certain.
        :param record: the session that must be unchanged, if there is no
            `lock_id`.
        :param owner: the ``Owner`` that it must have.
        """
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
            names = {'#key': self._table.key_name}
        parameters = update(
            attributes,
            condition,
            values,
            remove=removed,
            ttl_attribute=self._ttl_attribute,
        )
        names |= parameters['ExpressionAttributeNames']
        return {**parameters, 'ExpressionAttributeNames': names}

    def touch(self, record: SessionRecord) -> dict[str, Any]:
        """The ``UpdateItem`` that slides the expiry without a lock.

        Only if the timeout is that of the `record`.
        """
        condition, values = timeout_unchanged(record, time.time())
        return update(
            self._expiry.attributes(record),
            condition,
            values,
            ttl_attribute=self._ttl_attribute,
        )

    def _owner_removed(self, record: SessionRecord) -> tuple[str, ...]:
        if record.owner is None and self._has_owners:
            return ('Owner',)
        return ()


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
