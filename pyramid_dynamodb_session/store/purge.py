"""Deleting expired sessions."""

from __future__ import annotations

import threading
import time

from ..dynamodb.calls import Calls, ConditionFailed, Item
from ..dynamodb.scan import Progress, TableScan
from ..dynamodb.table import Table
from .expressions import OF_APPLICATION, expired
from .item import belongs_to
from .lease import dead_after


class Purge:
    """One purge of the expired sessions of an `application`; None for all.

    Each session is deleted only if it is still expired by then, and no living
    request holds its lock, so any number of purges may run at once, and be
    stopped at any time.

    :param lease: of a lock, in seconds.
    :param segments, rate: as :class:`~.dynamodb.scan.TableScan` takes them.
    :param dry_run: find and count, delete nothing.

    ``expired`` and ``deleted`` sessions are counted as it goes.
    """

    def __init__(
        self,
        calls: Calls,
        table: Table,
        application: str | None,
        lease: float,
        *,
        segments: int = 1,
        rate: float | None = None,
        dry_run: bool = False,
    ) -> None:
        self.scan = TableScan(calls, segments, rate)
        self._calls = calls
        self._table = table
        self._application = application
        self._dead_after = dead_after(lease)
        self._dry_run = dry_run
        self._mutex = threading.Lock()
        self.expired = 0
        self.deleted = 0

    def run(self) -> Progress:
        """Scan and delete; a generator, as :meth:`TableScan.run`."""
        expression, values = self._expired()
        if self._application is not None:
            expression += f' AND {OF_APPLICATION}'
            values[':application'] = {'S': f'{self._application}-'}
        return self.scan.run(
            self._delete_all,
            FilterExpression=expression,
            ProjectionExpression='#key',
            ExpressionAttributeNames={'#key': self._table.key_name},
            ExpressionAttributeValues=values,
        )

    def _expired(self) -> tuple[str, Item]:
        """The condition that a session may be deleted now, and its values."""
        return expired(time.time(), self._dead_after)

    def _delete_all(self, items: list[Item]) -> None:
        for item in items:
            name = item[self._table.key_name]['S']
            if self.scan.stopped.is_set():
                return
            if belongs_to(self._application, name):
                self._count(expired=1)
                if not self._dry_run and self._delete(name):
                    self._count(deleted=1)

    def _delete(self, name: str) -> bool:
        """Whether it was there, and still expired."""
        expression, values = self._expired()
        try:
            self.scan.call(
                'delete_item',
                1,
                Key=self._calls.key(name),
                ConditionExpression=expression,
                ExpressionAttributeValues=values,
            )
        except ConditionFailed:
            return False
        return True

    def _count(self, expired: int = 0, deleted: int = 0) -> None:
        with self._mutex:
            self.expired += expired
            self.deleted += deleted
