"""What an operator does to stored sessions, whoever they belong to.

A session is named by the key under which it is stored, never by its id.
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

from ..dynamodb.calls import Calls, ConditionFailed, Item
from ..dynamodb.errors import error_code
from ..dynamodb.scan import Progress, TableScan
from ..dynamodb.table import Table
from ..errors import SessionStoreUnavailable
from ..settings import StoreSettings
from . import expressions
from .expiry import TOMBSTONE_SECONDS, Expiry
from .item import CorruptItem, belongs_to, item_size, whole_number
from .lease import CLOCK_SKEW

#: About how many items a segment has when the table is sampled.
SAMPLE_SEGMENT = 50
#: DynamoDB's limit on the number of segments.
MOST_SEGMENTS = 1_000_000


class StoredSessions:
    """The sessions in a table, by the names of their items.

    Each method raises :class:`SessionStoreUnavailable` when DynamoDB does
    not answer, or refuses.
    """

    def __init__(
        self, calls: Calls, table: Table, settings: StoreSettings
    ) -> None:
        self._calls = calls
        self._table = table
        self._expiry = Expiry(settings)
        self._ttl_attribute = settings.ttl_attribute
        self._owner_index = settings.owner_index

    def read(self, name: str) -> Item | None:
        """The item of a session; None where there is none, or it has ended."""
        item = self._calls.read(name, ConsistentRead=True)
        return None if item is None or 'Ended' in item else item

    def unlock(self, name: str, item: Item) -> bool:
        """Take the lock from its holder in an `item` that was read.

        Should the holder come back, it finds that it has lost the lock.
        False, and nothing is done, if the lock was released or renewed since.
        """
        return self._update(name, expressions.unlock(item))

    def delete(self, name: str) -> bool:
        """End a session, locked or not; False if there was none.

        It leaves a tombstone for a minute, so that the request that holds
        the session learns that nothing of it was saved.
        """
        now = self._table.clock.time()
        return self._update(
            name,
            expressions.end_session(
                now,
                self._expiry.attributes_of(int(now) + TOMBSTONE_SECONDS),
                self._table.key_name,
                self._ttl_attribute,
            ),
        )

    def _update(self, name: str, parameters: dict[str, Any]) -> bool:
        """Whether the condition of an ``UpdateItem`` held."""
        try:
            self._calls.on_item('update_item', name, **parameters)
        except ConditionFailed:
            return False
        return True

    def permissions(self, name: str) -> dict[str, bool]:
        """Which calls IAM allows; tried on a `name` that nobody has.

        The writes have a condition that never holds, so nothing is written.
        """
        never: dict[str, Any] = {
            'ConditionExpression': expressions.IMPOSSIBLE,
            'ExpressionAttributeNames': {'#key': self._table.key_name},
        }
        key = {'Key': self._calls.key(name)}
        tries: dict[str, tuple[str, dict[str, Any]]] = {
            'GetItem': ('get_item', key),
            'PutItem': ('put_item', {'Item': {**key['Key']}, **never}),
            'UpdateItem': (
                'update_item',
                {
                    **key,
                    'UpdateExpression': expressions.HARMLESS_UPDATE,
                    **never,
                },
            ),
            'DeleteItem': ('delete_item', {**key, **never}),
            'Scan': ('scan', {'Limit': 1}),
        }
        if self._owner_index is not None:
            query = expressions.sessions_of(self._owner_index, name)
            tries['Query'] = ('query', {**query, 'Limit': 1})
        return {
            action: self._is_allowed(*call) for action, call in tries.items()
        }

    def _is_allowed(self, operation: str, parameters: dict[str, Any]) -> bool:
        try:
            self._calls.on_table(operation, **parameters)
        except ConditionFailed:
            return True
        except SessionStoreUnavailable as error:
            if error_code(error.__cause__) != 'AccessDeniedException':
                raise
            return False
        return True


@dataclasses.dataclass
class Counts:
    """What a :class:`SessionCounter` found, and the ``sizes`` in bytes."""

    live: int = 0
    ended: int = 0
    expired: int = 0
    locked: int = 0
    abandoned: int = 0
    corrupt: int = 0
    others: int = 0
    sizes: list[int] = dataclasses.field(default_factory=list)

    @property
    def seen(self) -> int:
        return (
            self.live + self.ended + self.expired + self.corrupt + self.others
        )


class SessionCounter:
    """Counts sessions of an `application`, None for all, by what they are.

    ``live`` sessions include those that are ``locked``. ``ended`` are those
    removed within the last minute. ``abandoned`` locks are those that the
    next request takes over at once;
    ``others`` are items that are none of this application's sessions.

    :param lease: of a lock, in seconds.
    """

    def __init__(
        self,
        calls: Calls,
        table: Table,
        application: str | None,
        lease: float,
    ) -> None:
        self._calls = calls
        self._table = table
        self._application = application
        self._lease = lease
        self._mutex = threading.Lock()
        self.counts = Counts()

    def count_table(self, scan: TableScan) -> Progress:
        """Count the whole table; a generator, as :meth:`TableScan.run`."""
        return scan.run(self._count_all)

    def count_sample(self, sessions: int, items: int) -> None:
        """Count about so many `sessions`, from places chosen at random.

        :param items: how many the table has, roughly.
        """
        segments = min(items // SAMPLE_SEGMENT + 1, MOST_SEGMENTS)
        some = random.sample(range(segments), min(segments, sessions))
        for segment in some:
            for page in self._pages(segment, segments, sessions):
                self._count_all(page)
                if self.counts.seen >= sessions:
                    return

    def _pages(
        self, segment: int, segments: int, limit: int
    ) -> Iterator[list[Item]]:
        start: dict[str, Any] = {}
        while True:
            reply = self._calls.on_table(
                'scan',
                Segment=segment,
                TotalSegments=segments,
                Limit=limit,
                **start,
            )
            yield reply.get('Items', [])
            if 'LastEvaluatedKey' not in reply:
                return
            start = {'ExclusiveStartKey': reply['LastEvaluatedKey']}

    def _count_all(self, items: list[Item]) -> None:
        with self._mutex:
            for item in items:
                self._count(item)

    def _count(self, item: Item) -> None:
        name = item[self._table.key_name]['S']
        if not belongs_to(self._application, name):
            self.counts.others += 1
            return
        if 'Ended' in item:
            self.counts.ended += 1
            return
        now = time.time()
        try:
            unexpired = whole_number(item, 'Expires') > now
            locked = 'LockId' in item
            since = whole_number(item, 'LockDate') if locked else now
            size = item_size(item)
        except (AttributeError, CorruptItem, TypeError):
            self.counts.corrupt += 1
            return
        abandoned = is_abandoned(since, self._lease, now)
        # an expired session whose lock is alive counts as living
        living = unexpired or (locked and not abandoned)
        self.counts.live += living
        self.counts.expired += not living
        self.counts.locked += living and locked
        self.counts.abandoned += living and abandoned
        self.counts.sizes.append(size)


def is_abandoned(since: float, lease: float, now: float) -> bool:
    """Whether a lock is so old that anybody may take it over at once."""
    return now - since >= lease + CLOCK_SKEW
