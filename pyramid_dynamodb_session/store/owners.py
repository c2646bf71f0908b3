"""All sessions of one owner: found by an index, and ended together."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pyramid.exceptions import ConfigurationError

from ..dynamodb.calls import Calls, ConditionFailed, Item
from ..dynamodb.scan import Rate
from ..dynamodb.table import Table
from .item import CorruptItem, optional_number, whole_number

#: Sessions that are ended in a second, so that the table is not throttled.
MOST_PER_SECOND = 100
#: Seconds for which the index must show no session before all count as ended:
#: it follows the table, and a session that moves to another id leaves it
#: under the one before it comes back under the other.
SETTLED_AFTER = 1.0
#: Seconds between two queries.
PAUSE = 0.25


@dataclasses.dataclass(frozen=True)
class OwnedSession:
    """A session of an owner, without its data.

    ``name`` is the table's key for it; ``created`` and ``expires`` are
    seconds since the epoch.
    """

    name: str
    created: int
    expires: int


class OwnedSessions:
    """The sessions of one owner.

    :param owner: the ``Owner`` attribute.
    :param tombstone: returns the ``UpdateItem`` that ends a session of that
        owner.
    """

    def __init__(
        self,
        calls: Calls,
        table: Table,
        index: str,
        owner: str,
        tombstone: Callable[[], dict[str, Any]],
    ) -> None:
        self._calls = calls
        self._table = table
        self._index = index
        self._owner = owner
        self._tombstone = tombstone

    def __iter__(self) -> Iterator[OwnedSession]:
        """Those that live, as the index has them."""
        start: dict[str, Any] = {}
        while True:
            reply = self._calls.on_table(
                'query',
                IndexName=self._index,
                KeyConditionExpression='#owner = :owner',
                ExpressionAttributeNames={'#owner': 'Owner'},
                ExpressionAttributeValues={':owner': {'S': self._owner}},
                **start,
            )
            for item in reply.get('Items', []):
                session = self._session(item)
                if session is not None and session.expires > time.time():
                    yield session
            if 'LastEvaluatedKey' not in reply:
                return
            start = {'ExclusiveStartKey': reply['LastEvaluatedKey']}

    def _session(self, item: Item) -> OwnedSession | None:
        name = item[self._table.key_name]['S']
        try:
            return OwnedSession(
                name,
                optional_number(item, 'CreateDate') or 0,
                whole_number(item, 'Expires'),
            )
        except CorruptItem:
            return None

    def end(self, keep: str | None = None) -> Iterator[int]:
        """End them all; yields how many have been ended, as it goes.

        Asks again until the index has shown none for a second.

        :param keep: the name of one that stays.
        """
        rate = Rate(MOST_PER_SECOND, threading.Event())
        seen = {keep}
        ended = 0
        settled_at = time.monotonic() + SETTLED_AFTER
        while time.monotonic() < settled_at:
            for session in self:
                if session.name in seen:
                    continue
                seen.add(session.name)
                settled_at = time.monotonic() + SETTLED_AFTER
                rate.spend(1)
                ended += self._end(session.name)
                yield ended
            time.sleep(PAUSE)

    def _end(self, name: str) -> bool:
        """Whether a session was still this owner's, and lived."""
        try:
            self._calls.on_item('update_item', name, **self._tombstone())
        except ConditionFailed:
            return False
        return True


def required_index(index: str | None) -> str:
    """The name of the index; :exc:`ConfigurationError` without one."""
    if index is None:
        raise ConfigurationError(
            'the sessions of an owner are found by an index: set '
            'dynamodb_session.owner_index'
        )
    return index
