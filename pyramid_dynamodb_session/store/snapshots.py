"""What is recorded of a session that was read, or is to be written."""

from __future__ import annotations

import functools
import logging
from typing import Any

from .._recorder import Recorder, SessionSnapshot
from ..events import ItemCorrupt
from .expressions import overhead
from .item import CorruptItem, ItemCodec, attribute_size

log = logging.getLogger(__name__)


class Snapshots:
    """Records sessions; to be called only where the recorder listens."""

    def __init__(self, codec: ItemCodec) -> None:
        self._codec = codec

    def record(
        self,
        recorder: Recorder,
        key_name: str,
        name: str,
        payload: bytes,
        attribute: dict[str, Any],
        is_new: bool,
    ) -> None:
        """Record a session that was read or, if `is_new`, will be written.

        :param attribute: its ``SessionItems``.
        """
        other_bytes = overhead(key_name, len(name.encode()), ('Expires',))
        recorder.record_snapshot(
            SessionSnapshot(
                name=name,
                size=other_bytes + attribute_size(attribute),
                kind=next(iter(attribute)),
                payload=payload,
                parts=functools.partial(self._codec.parts, payload),
                is_new=is_new,
            )
        )


def report_corrupt(recorder: Recorder, error: CorruptItem) -> None:
    log.warning('a stored session is corrupt and counts as none: %s', error)
    recorder.record_event(ItemCorrupt)
