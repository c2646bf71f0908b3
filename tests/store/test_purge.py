"""Deleting expired sessions."""

from __future__ import annotations

from typing import Any

from tests.support.clients import Interposed
from tests.support.sessions import (
    ID,
    MakeStore,
    Plant,
    RawItem,
    items,
    seconds,
)


def test_expired_sessions_are_deleted_and_counted(
    make_store: MakeStore, client: Any, plant: Plant, raw_item: RawItem
) -> None:
    for session_id in 'abc':
        plant(session_id, Expires=seconds(-1))
    plant('living')
    plant('never', Expires=None)
    pages = []

    def scan(**parameters: Any) -> Any:
        pages.append(client.scan(**parameters, Limit=2))
        return pages[-1]

    store = make_store(Interposed(client, scan=scan))
    assert store.delete_expired_sessions() == 3
    assert len(pages) > 1
    assert [raw_item(session_id) for session_id in 'abc'] == [None] * 3
    assert raw_item('living') and raw_item('never')
    assert store.delete_expired_sessions() == 0


def test_session_that_slides_in_between_is_not_deleted(
    make_store: MakeStore, client: Any, table: str, plant: Plant
) -> None:
    item = plant(Expires=seconds(-1))

    def scan(**parameters: Any) -> Any:
        page = client.scan(**parameters)
        client.put_item(TableName=table, Item=item | {'Expires': seconds(60)})
        return page

    store = make_store(Interposed(client, scan=scan))
    assert store.delete_expired_sessions() == 0
    assert items(store) == {'n': 1}


def test_only_sessions_of_the_own_application_are_deleted(
    make_store: MakeStore,
    client: Any,
    table: str,
    application: str,
    plant: Plant,
    raw_item: RawItem,
) -> None:
    """Even where the name of one is the beginning of another's."""
    item = plant(Expires=seconds(-1))
    for name in (f'{application}-x', f'{application}x'):
        key = item['SessionId']['S'].replace(application, name)
        client.put_item(TableName=table, Item=item | {'SessionId': {'S': key}})
    begin = application[:-1]
    assert make_store(application=begin).delete_expired_sessions() == 0
    assert make_store().delete_expired_sessions() == 1
    assert raw_item(ID) is None
    for name in (f'{application}-x', f'{application}x'):
        assert make_store(application=name).delete_expired_sessions() == 1
