"""Scans of a whole table: parallel segments, at a bounded rate.

Nothing here knows what the items are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from ..errors import SessionStoreUnavailable
from .calls import Calls, ConditionFailed, Item, units
from .errors import codes_of, unavailable

#: Seconds between two reports of progress.
PROGRESS_INTERVAL = 0.2
#: How many items the first page of a scan with a rate has.
FIRST_LIMIT = 10
#: The least that a page may cost, in units: each page is one more call.
LEAST_PAGE = 1.0
THROTTLED = {
    'ProvisionedThroughputExceededException',
    'RequestLimitExceeded',
    'ThrottlingException',
}
#: Seconds to wait, again and again, when the client's retries were in vain.
THROTTLED_PAUSES = (1, 2, 4, 8, 16)

Reply = TypeVar('Reply')
ProcessPage = Callable[[list[Item]], None]
#: Yields now and then while it works; closing it stops the work.
Progress = Generator[None, None, None]


class Rate:
    """Limits the capacity units spent in a second; None for no limit.

    :param stopped: ends all waiting.
    """

    def __init__(
        self, per_second: float | None, stopped: threading.Event
    ) -> None:
        self.per_second = per_second
        self._stopped = stopped
        self._mutex = threading.Lock()
        self._free_at = time.monotonic()

    def spend(self, units: float) -> None:
        """Wait until it is time to spend that much."""
        if self.per_second is None:
            return
        with self._mutex:
            start = max(time.monotonic(), self._free_at)
            self._free_at = start + units / self.per_second
        self._stopped.wait(start - time.monotonic())

    def correct(self, units: float) -> None:
        """Account for what was spent above, or below, what was expected."""
        if self.per_second is not None:
            with self._mutex:
                self._free_at += units / self.per_second


def wait_out_throttling(
    call: Callable[[], Reply], stopped: threading.Event
) -> Reply:
    """What a `call` returns, made again for half a minute while throttled.

    :param stopped: ends all waiting.
    """
    for pause in THROTTLED_PAUSES:
        try:
            return call()
        except SessionStoreUnavailable as error:
            codes = codes_of(error.__cause__)
            if THROTTLED.isdisjoint(codes) or stopped.wait(pause):
                raise
    return call()


class TableScan:
    """One scan of a whole table.

    :param segments: how many threads read, each a segment of its own.
    :param rate: capacity units a second, reads and writes together.

    ``scanned`` items and consumed ``units`` are counted as it goes.
    """

    def __init__(
        self, calls: Calls, segments: int = 1, rate: float | None = None
    ) -> None:
        self._calls = calls
        self._segments = segments
        self.stopped = threading.Event()
        self._rate = Rate(rate, self.stopped)
        self._mutex = threading.Lock()
        self.scanned = 0
        self.units = 0.0

    def run(self, process_page: ProcessPage, **parameters: Any) -> Progress:
        """Scan with these `parameters`; `process_page` gets each page's items.

        A generator that yields while it works; the scan stops when it is
        closed, after the calls that are under way. What a segment raises
        stops all of them.
        """
        with ThreadPoolExecutor(self._segments, 'scan') as pool:
            running = {
                pool.submit(
                    self._scan_segment, process_page, number, parameters
                )
                for number in range(self._segments)
            }
            try:
                while running:
                    done, running = wait(
                        running, PROGRESS_INTERVAL, FIRST_EXCEPTION
                    )
                    for segment in done:
                        segment.result()
                    yield
            finally:
                self.stopped.set()

    def _scan_segment(
        self,
        process_page: ProcessPage,
        number: int,
        parameters: dict[str, Any],
    ) -> None:
        page: dict[str, Any] = {}
        if self._segments > 1:
            page = {'Segment': number, 'TotalSegments': self._segments}
        cost = LEAST_PAGE
        if self._rate.per_second is not None:
            page['Limit'] = FIRST_LIMIT
        items: list[Item] = []
        while not self.stopped.is_set():
            reply = self.call('scan', cost, **page, **parameters)
            if 'ScannedCount' not in reply:
                raise unavailable('a garbled reply')
            # one page behind: not all servers find their place again if the
            # item at the end of a page has been deleted
            process_page(items)
            items = reply['Items']
            with self._mutex:
                self.scanned += reply['ScannedCount']
            if 'LastEvaluatedKey' not in reply:
                process_page(items)
                return
            page['ExclusiveStartKey'] = reply['LastEvaluatedKey']
            if self._rate.per_second is not None:
                each = (units(reply) or cost) / (reply['ScannedCount'] or 1)
                cost = max(LEAST_PAGE, self._rate.per_second / self._segments)
                page['Limit'] = max(1, int(cost / each))

    def call(
        self, operation: str, cost: float, **parameters: Any
    ) -> dict[str, Any]:
        """Make a call that should `cost` so many units, when it is time.

        Throttling is waited out, for half a minute. Raises as
        :meth:`Calls.on_table` does.
        """

        def call() -> dict[str, Any]:
            return self._call(operation, cost, parameters)

        return wait_out_throttling(call, self.stopped)

    def _call(
        self, operation: str, cost: float, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        self._rate.spend(cost)
        try:
            reply = self._calls.on_table(
                operation, ReturnConsumedCapacity='TOTAL', **parameters
            )
        except ConditionFailed:
            # it is billed all the same
            self._count(cost)
            raise
        spent = units(reply)
        self._count(spent or 0)
        self._rate.correct((spent or cost) - cost)
        return reply

    def _count(self, spent: float) -> None:
        with self._mutex:
            self.units += spent
