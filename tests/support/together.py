"""Running functions in parallel, and waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar('Result')


def together(calls: Iterable[Callable[[], Result]]) -> list[Result]:
    """The results of all ``calls``, each made in a thread of its own."""
    calls = list(calls)
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = [threads.submit(call) for call in calls]
    return [future.result() for future in futures]


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
