"""What a process must not inherit from the one that it was forked from."""

from __future__ import annotations

import os
import weakref
from typing import Any


def reset_after_fork(thing: Any) -> None:
    """Call ``thing.reset()`` in each process forked while it lives."""
    reference = weakref.ref(thing)

    def reset() -> None:
        forked = reference()
        if forked is not None:
            forked.reset()

    os.register_at_fork(after_in_child=reset)
