"""Objects that stand for a DynamoDB client in a test."""

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


class CountingClient:
    """A client that remembers the operations it was asked for."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._client, name)

        def call(*args: Any, **parameters: Any) -> Any:
            self.calls.append(name)
            return operation(*args, **parameters)

        return call
