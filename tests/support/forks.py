"""Running a check in a forked process."""

from __future__ import annotations

import os
from collections.abc import Callable


def forked(check: Callable[[], bool]) -> bool:
    """Whether ``check`` is true in a forked process."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0
