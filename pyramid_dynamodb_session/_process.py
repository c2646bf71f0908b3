"""What belongs to one process alone, however that process was forked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar('Value')


class PerProcess(Generic[Value]):
    """A value that each process makes for itself, at its first use.

    Whose process it is, is decided at each use by :func:`os.getpid`. A server
    that forks in C, as uWSGI does, runs no function that was registered with
    :func:`os.register_at_fork`.

    :param make: returns a new value; called once in each process.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        #: by which process, and what
        self._made: tuple[int, Any] = (0, None)
        self._mutexes: dict[int, threading.Lock] = {}

    def get(self) -> Value:
        """The value of this process."""
        made: tuple[int, Value] = self._made
        if made[0] == os.getpid():
            return made[1]
        return self._make_once()

    def _make_once(self) -> Value:
        pid = os.getpid()
        # one of this process: another thread may have held that of the
        # parent when it was forked
        with self._mutexes.setdefault(pid, threading.Lock()):
            try:
                if self._made[0] != pid:
                    self._made = (pid, self._make())
                made: tuple[int, Value] = self._made
                return made[1]
            finally:
                # gevent may patch before it is needed again: greenlets must
                # not wait for a mutex of threads
                self._mutexes.pop(pid, None)
