"""The stores of two web servers, and sessions in them."""

from __future__ import annotations

from typing import Any

import pytest

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
)
from tests.support.sessions import (
    ID,
    MakeStore,
    Plant,
    RawItem,
    create,
    raw,
)


@pytest.fixture
def make_store(client: Any, table: str, application: str) -> MakeStore:
    """A function from settings to a store, as one web server has it."""

    def make_store(client: Any = client, **settings: Any) -> Any:
        given = {'table': table, 'application': application, **settings}
        return DynamoDBSessionStore(client, **given)

    return make_store


@pytest.fixture
def store(make_store: MakeStore) -> DynamoDBSessionStore:
    return make_store()


@pytest.fixture
def other(make_store: MakeStore) -> DynamoDBSessionStore:
    """The store of another web server, which does not wait for locks."""
    return make_store(lock_wait=0)


@pytest.fixture
def plant(
    client: Any, table: str, store: DynamoDBSessionStore, raw_item: RawItem
) -> Plant:
    """Stores a session in which attributes are changed, or (None) absent."""

    def plant(session_id: str = ID, **changes: Any) -> dict[str, Any]:
        create(store, session_id)
        item = {**raw(raw_item, session_id), **changes}
        item = {name: value for name, value in item.items() if value}
        client.put_item(TableName=table, Item=item)
        return item

    return plant
