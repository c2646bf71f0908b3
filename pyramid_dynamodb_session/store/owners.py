"""All sessions of one owner: found by an index, and ended together."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pyramid.exceptions import ConfigurationError

from ..dynamodb.calls import Calls, ConditionFailed, Item
from ..dynamodb.scan import Rate, wait_out_throttling
from ..dynamodb.table import Table
from .expressions import sessions_of
from .item import CorruptItem, whole_number
from .lease import dead_after

log = logging.getLogger(__name__)

#: Sessions that are ended in a second, so that the table is not throttled.
MOST_PER_SECOND = 100
#: Seconds for which the index must show no session before all count as ended:
#: it follows the table, and a session that moves to another id leaves it
#: under the one before it comes back under the other.
SETTLED_AFTER = 1.0
#: Seconds after which an index that still shows sessions which have ended is
#: waited for no more.
LONGEST_LAG = 30.0
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
    :param lease: of a lock, in seconds.
    """

    def __init__(
        self,
        calls: Calls,
        table: Table,
        index: str,
        owner: str,
        tombstone: Callable[[], dict[str, Any]],
        lease: float,
    ) -> None:
        self._calls = calls
        self._table = table
        self._query = sessions_of(index, owner)
        self._tombstone = tombstone
        self._lease = lease
        self._never = threading.Event()

    def __iter__(self) -> Iterator[OwnedSession]:
        """Those that live, as the index has them."""
        now = time.time()
        return (each for each in self._indexed() if each.expires > now)

    def _indexed(self) -> Iterator[OwnedSession]:
        """All that the index has, expired or not."""
        start: dict[str, Any] = {}
        while True:
            reply = self._call('query', **self._query, **start)
            for item in reply.get('Items', []):
                session = self._session(item)
                if session is not None:
                    yield session
            if 'LastEvaluatedKey' not in reply:
                return
            start = {'ExclusiveStartKey': reply['LastEvaluatedKey']}

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return wait_out_throttling(
            lambda: self._calls.on_table(operation, **parameters), self._never
        )

    def _session(self, item: Item) -> OwnedSession | None:
        name = item[self._table.key_name]['S']
        try:
            return OwnedSession(
                name,
                whole_number(item, 'CreateDate'),
                whole_number(item, 'Expires'),
            )
        except CorruptItem:
            # what it belongs to is no session either
            return None

    def end(self, keep: str | None = None) -> Iterator[int]:
        """End them all; yields how many have been ended, as it goes.

        Asks again until the index has shown none for a second.

        :param keep: the name of one that stays.
        """
        rate = Rate(MOST_PER_SECOND, self._never)
        ended: set[str] = set()
        settled_at = time.monotonic() + SETTLED_AFTER
        give_up_at = time.monotonic() + LONGEST_LAG
        while True:
            asked_at = time.monotonic()
            for session in self._indexed():
                if session.name == keep or self._is_dead(session):
                    continue
                if session.name not in ended:
                    rate.spend(1)
                    if self._end(session.name):
                        ended.add(session.name)
                        give_up_at = time.monotonic() + LONGEST_LAG
                        yield len(ended)
                # ended already, it shows that the index is behind
                settled_at = time.monotonic() + SETTLED_AFTER
            if asked_at >= settled_at:
                # asked after that second, however long the process stood still
                return
            if time.monotonic() >= give_up_at:
                log.warning(
                    'the index of owners is %s seconds behind: sessions that '
                    'moved to another id may be left',
                    LONGEST_LAG,
                )
                return
            time.sleep(PAUSE)

    def _is_dead(self, session: OwnedSession) -> bool:
        """Whether it has expired, and no request can save it any more."""
        return session.expires + dead_after(self._lease) <= time.time()

    def _end(self, name: str) -> bool:
        """Whether a session was still this owner's, and lived."""
        try:
            self._call(
                'update_item', Key=self._calls.key(name), **self._tombstone()
            )
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
