"""When a session expires, and the attributes that say so."""

from __future__ import annotations

import time

from ..dynamodb.calls import Item
from ..settings import StoreSettings
from .item import SessionRecord, number, whole_number

#: The end of a session that never expires: the last second of the year 9999.
NEVER = 253402300799
#: Seconds for which a tombstone stays: later than any late write arrives.
TOMBSTONE_SECONDS = 60


class Expiry:
    """The expiry of sessions as the settings want it."""

    def __init__(self, settings: StoreSettings) -> None:
        self._timeout = settings.timeout
        self._longest = settings.absolute_timeout
        self._touch_interval = settings.touch_interval
        self._ttl_attribute = settings.ttl_attribute
        self._ttl_grace = settings.ttl_grace

    def end(self, record: SessionRecord) -> int:
        """When a session used right now ends, in seconds since the epoch."""
        timeout = self._timeout
        if record.timeout is not None:
            timeout = record.timeout
        end = NEVER if timeout is None else int(time.time()) + timeout
        if self._longest is not None:
            end = min(end, record.created + self._longest)
        return end

    def is_too_old(self, record: SessionRecord) -> bool:
        """Whether ``absolute_timeout`` has ended a session."""
        return self._longest is not None and (
            record.created + self._longest <= int(time.time())
        )

    def attributes(self, record: SessionRecord) -> Item:
        """What slides the expiry of a session that is used right now."""
        return self.attributes_of(self.end(record))

    def attributes_of_save(self, record: SessionRecord) -> Item:
        """What a save, or a release, sets.

        As :meth:`attributes`. The index of ``owner_index`` has ``Expires``,
        though, and a write unit is billed whenever it moves: that of a
        session with an owner slides once in ``touch_interval`` seconds, or in
        a tenth of its timeout if that is shorter.
        """
        end = self.end(record)
        if record.owner is not None:
            timeout = end - int(time.time())
            interval = min(self._touch_interval, timeout // 10)
            if 0 <= end - record.expires < interval:
                end = record.expires
        return self.attributes_of(end)

    def attributes_of(self, end: int) -> Item:
        """What makes an item expire at its `end`."""
        attributes = {'Expires': number(end)}
        if self._ttl_attribute not in ('', 'Expires'):
            attributes[self._ttl_attribute] = number(end + self._ttl_grace)
        return attributes


def is_unexpired(item: Item) -> bool:
    return whole_number(item, 'Expires') > int(time.time())
