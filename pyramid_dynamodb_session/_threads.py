"""How many threads the web server answers requests with."""

from __future__ import annotations

import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def server_threads() -> int | None:
    """The number, where the server of this very request lets it be known.

    waitress names its threads ``waitress-N``; gunicorn's ``gthread`` workers
    have a :class:`~concurrent.futures.ThreadPoolExecutor`, which is asked.
    """
    current = threading.current_thread()
    if current.name.startswith('waitress-'):
        return sum(
            thread.name.startswith('waitress-')
            for thread in threading.enumerate()
        )
    if 'gunicorn.workers.gthread' in sys.modules:
        return pool_size(current)
    return None


def pool_size(thread: threading.Thread) -> int | None:
    """The size of the pool whose worker a `thread` is; None for no worker."""
    arguments: tuple[Any, ...] = getattr(thread, '_args', ())
    # a worker's first argument; what others were given is not to be called
    if arguments and isinstance(arguments[0], weakref.ref):
        pool = arguments[0]()
        if isinstance(pool, ThreadPoolExecutor):
            return int(pool._max_workers)
    return None
