"""DynamoDB's own clock, as the ``Date`` headers of its replies tell it."""

from __future__ import annotations

import time
from email.utils import mktime_tz, parsedate_tz
from typing import Any


class ServerClock:
    """Tells the time of DynamoDB; until it is known, that of this machine.

    Web servers whose clocks are wrong agree on it. Between two replies it
    follows the monotonic clock, which no adjustment of the time moves.
    """

    def __init__(self) -> None:
        self._header = ''
        #: DynamoDB's time at 0 of the monotonic clock
        self._origin: float | None = None

    def learn_from(self, reply: dict[str, Any]) -> None:
        """Read the ``Date`` header of a reply that has just arrived.

        One that is no date is ignored.
        """
        metadata = reply.get('ResponseMetadata') or {}
        headers = metadata.get('HTTPHeaders') or {}
        header = headers.get('date')
        if header in (None, self._header):
            return
        self._header = header
        parsed = parsedate_tz(header)
        if parsed is not None:
            try:
                self._origin = mktime_tz(parsed) - time.monotonic()
            except (OverflowError, ValueError):
                pass

    def time(self) -> float:
        """Seconds since the epoch."""
        if self._origin is None:
            return time.time()
        return self._origin + time.monotonic()
