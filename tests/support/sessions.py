"""Storing a session, locking it, and reading what became of it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
)

ID = 'an-id'
MakeStore = Callable[..., DynamoDBSessionStore]
RawItem = Callable[[str], 'dict[str, Any] | None']
Plant = Callable[..., 'dict[str, Any]']

#: 1 MB of text that can't be compressed below 400 KB.
TOO_LARGE = random.Random(1).randbytes(2**19).hex()


def create(
    store: DynamoDBSessionStore, session_id: str = ID, **items: Any
) -> None:
    store.set_and_release_item_exclusive(
        session_id, items or {'n': 1}, None, new_item=True
    )


def locked(store: DynamoDBSessionStore, session_id: str = ID) -> Any:
    """The record of a session, its lock taken."""
    record = store.get_item_exclusive(session_id)
    assert record is not None and record.lock_id
    return record


def items(store: DynamoDBSessionStore, session_id: str = ID) -> Any:
    record = store.get_item(session_id)
    return record and record.items


def raw(raw_item: RawItem, session_id: str = ID) -> dict[str, Any]:
    item = raw_item(session_id)
    assert item is not None
    return item


def seconds(value: float) -> dict[str, str]:
    """A number attribute, so many seconds from now."""
    return {'N': str(int(time.time() + value))}


def is_about(attribute: dict[str, Any], value: float) -> bool:
    """Whether a stored date is so many seconds from now, in whole ones."""
    return abs(int(attribute['N']) - time.time() - value) < 10


def save_optimistically(
    store: DynamoDBSessionStore, record: Any, **changed: Any
) -> None:
    payload = json.dumps(changed).encode()
    store.set_item_optimistic(ID, changed, payload, record)
