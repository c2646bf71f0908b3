"""A machine's clock that is wrong, as the package sees it."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

PACKAGE = 'pyramid_dynamodb_session'


class WrongTime:
    """The module :mod:`time`, of a machine whose clock is ``skew`` ahead."""

    def __init__(self, skew: float) -> None:
        self._skew = skew

    def time(self) -> float:
        return time.time() + self._skew

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def set_clock(monkeypatch: pytest.MonkeyPatch, skew: float) -> None:
    """Let the package's clock be ``skew`` seconds ahead; 0 sets it right.

    Others in this process, an embedded engine for one, keep the right time.
    """
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] == PACKAGE and hasattr(module, 'time'):
            monkeypatch.setattr(module, 'time', WrongTime(skew))
