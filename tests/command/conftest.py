"""Applications, commands and sessions for the tests of the commands."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
)
from pyramid_dynamodb_session.command import main
from pyramid_dynamodb_session.dynamodb import client as clients
from pyramid_dynamodb_session.store.item import hash_key
from tests.support.command import (
    ID,
    Output,
    RawItem,
)


@pytest.fixture
def write_ini(tmp_path: Path) -> Callable[..., str]:
    def write_ini(settings: dict[str, str], **more: str) -> str:
        lines = ['[app:main]', 'use = call:tests.apps.wsgi_app:main']
        settings = {'pyramid.includes': '', **settings, **more}
        lines += [f'{key} = {value}' for key, value in settings.items()]
        path = tmp_path / 'production.ini'
        path.write_text('\n'.join(lines))
        return str(path)

    return write_ini


@pytest.fixture
def ini(write_ini: Callable[..., str], settings: dict[str, str]) -> str:
    return write_ini(settings)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """A function that gives a client to the commands."""

    def use(client: Any) -> None:
        monkeypatch.setattr(clients, 'make_client', lambda settings: client)

    return use


@pytest.fixture
def command(
    use: Callable[[Any], None],
    client: Any,
    ini: str,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Output]:
    """A function that runs a command in this process."""
    use(client)

    def command(*words: str, ini: str = ini) -> Output:
        try:
            status = main([ini, *words])
        except SystemExit as end:
            status = int(str(end.code))
        return Output(status, *capsys.readouterr())

    return command


@pytest.fixture
def store(client: Any, table: str, application: str) -> DynamoDBSessionStore:
    return DynamoDBSessionStore(
        client, table=table, application=application, lock_wait=0
    )


@pytest.fixture
def put(
    client: Any, table: str, store: DynamoDBSessionStore, raw_item: RawItem
) -> Iterator[Callable[..., str]]:
    """Stores a session, some attributes changed; returns its name.

    What was changed is removed in the end: moto's scans break on dates that
    are no numbers.
    """
    changed = []

    def put(session_id: str = ID, /, **changes: Any) -> str:
        name = hash_key(session_id, store.settings.application)
        key = {'SessionId': {'S': name}}
        client.delete_item(TableName=table, Key=key)
        store.set_and_release_item_exclusive(
            session_id, {'cart': [1, 2], 'user': 'me'}, None, new_item=True
        )
        item = {**(raw_item(session_id) or {}), **changes}
        client.put_item(TableName=table, Item=item)
        if changes:
            changed.append(key)
        return name

    yield put
    for key in changed:
        client.delete_item(TableName=table, Key=key)


@pytest.fixture
def new_table(client: Any) -> Iterator[str]:
    """The name of a table that is not there yet, and gone afterwards."""
    name = f'Command-{uuid.uuid4().hex[:8]}'
    yield name
    try:
        client.delete_table(TableName=name)
    except ClientError:
        pass


@pytest.fixture
def unprotected(client: Any, new_table: str) -> Iterator[None]:
    yield
    client.update_table(TableName=new_table, DeletionProtectionEnabled=False)
