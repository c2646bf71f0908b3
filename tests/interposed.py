"""A DynamoDB client of which some operations are replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Interposed:
    """``Interposed(client, scan=…)``: as the client, but for ``scan``."""

    def __init__(self, client: Any, **operations: Callable[..., Any]) -> None:
        self._client = client
        vars(self).update(operations)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
