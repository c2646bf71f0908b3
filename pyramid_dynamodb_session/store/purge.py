"""Deleting expired sessions, as DynamoDB expressions."""

from __future__ import annotations

import threading
import time
from typing import Any

from ..dynamodb.calls import Calls, ConditionFailed, Item
from ..dynamodb.scan import Progress, TableScan
from ..dynamodb.table import Table
from .item import belongs_to, number

EXPIRED = 'Expires <= :now'


class Purge:
    """One purge of the expired sessions of an `application`; None for all.

    Each session is deleted only if it is still expired by then, so any
    number of purges may run at once, and be stopped at any time.

    :param segments, rate: as :class:`~.sweep.TableScan` takes them.
    :param dry_run: find and count, delete nothing.

    ``expired`` and ``deleted`` sessions are counted as it goes.
    """

    def __init__(
        self,
        calls: Calls,
        table: Table,
        application: str | None,
        *,
        segments: int = 1,
        rate: float | None = None,
        dry_run: bool = False,
    ) -> None:
        self.sweep = TableScan(calls, segments, rate)
        self._calls = calls
        self._table = table
        self._application = application
        self._dry_run = dry_run
        self._mutex = threading.Lock()
        self.expired = 0
        self.deleted = 0

    def run(self) -> Progress:
        """Walk and delete; a generator, as :meth:`~.sweep.TableScan.walk`."""
        condition = EXPIRED
        values = {':now': number(time.time())}
        if self._application is not None:
            condition += ' AND begins_with(#key, :application)'
            values[':application'] = {'S': f'{self._application}-'}
        return self.sweep.walk(
            self._delete_all,
            FilterExpression=condition,
            ProjectionExpression='#key',
            ExpressionAttributeNames={'#key': self._table.key_name},
            ExpressionAttributeValues=values,
        )

    def _delete_all(self, items: list[Item]) -> None:
        for item in items:
            name = item[self._table.key_name]['S']
            if self.sweep.stopped.is_set():
                return
            if belongs_to(self._application, name):
                self._count(expired=1)
                if not self._dry_run and self._delete(name):
                    self._count(deleted=1)

    def _delete(self, name: str) -> bool:
        """Whether it was there, and still expired."""
        condition: dict[str, Any] = {
            'ConditionExpression': EXPIRED,
            'ExpressionAttributeValues': {':now': number(time.time())},
        }
        try:
            self.sweep.call(
                'delete_item', 1, Key=self._calls.key(name), **condition
            )
        except ConditionFailed:
            return False
        return True

    def _count(self, expired: int = 0, deleted: int = 0) -> None:
        with self._mutex:
            self.expired += expired
            self.deleted += deleted
