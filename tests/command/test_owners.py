"""``sessions`` and ``delete --owner``: all sessions of one user."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pyramid_dynamodb_session import DynamoDBSessionStore
from pyramid_dynamodb_session.command import scans
from pyramid_dynamodb_session.session import DynamoDBSession
from pyramid_dynamodb_session.store.item import hash_key
from pyramid_dynamodb_session.unit_of_work import UnitOfWork
from tests.support.clients import Interposed
from tests.support.command import ID, PREFIX, Output, Run, refused

INDEX = f'{PREFIX}owner_index=Owner-index'

#: From an owner to the name of a new session of theirs.
Begin = Callable[[str], str]

pytestmark = pytest.mark.usefixtures('settled_soon')


@pytest.fixture
def begin(client: Any, indexed_table: str, application: str) -> Begin:
    store = DynamoDBSessionStore(
        client,
        table=indexed_table,
        application=application,
        owner_index='Owner-index',
    )

    def begin(owner: str) -> str:
        work = UnitOfWork(store)
        session = DynamoDBSession(work)
        session.owner = owner
        work.persist()
        return hash_key(str(session.session_id), application)

    return begin


@pytest.fixture
def run(command: Run, indexed_table: str) -> Run:
    """As ``command``, on the table with the index."""

    def run(*words: str) -> Output:
        table = f'{PREFIX}table={indexed_table}'
        output: Output = command(*words, INDEX, table)
        return output

    return run


def test_sessions_of_an_owner_are_listed_by_age(
    run: Run, begin: Begin
) -> None:
    names = {begin('anna'), begin('anna')}
    begin('ben')
    output = run('sessions', '--owner', 'anna')
    assert output.status == 0, output.err
    lines = output.out.splitlines()
    assert lines[0] == 'The owner has 2 sessions.'
    assert {line.split()[0] for line in lines[1:]} == names
    assert '  created 20' in lines[1] and '  expires 20' in lines[1]
    assert 'anna' not in output.out + output.err
    data = run('sessions', '--owner', 'anna', '--json').data['sessions']
    assert {each['key'] for each in data} == names
    assert data[0]['created'] <= data[1]['created'] < data[0]['expires']


def test_owner_without_sessions(run: Run) -> None:
    output = run('sessions', '--owner', 'ben')
    assert (output.status, output.out) == (0, 'The owner has 0 sessions.\n')


def test_all_sessions_of_an_owner_are_deleted(
    run: Run, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin('anna')
    begin('anna')
    kept = begin('ben')
    monkeypatch.setattr(sys, 'stdin', io.StringIO('anna\n'))
    output = run('delete', '--owner', '-')
    assert output.status == 0, output.err
    assert output.out == '2 sessions of the owner deleted.\n'
    assert output.err == ''
    assert run('sessions', '--owner', 'anna', '--json').data['sessions'] == []
    (left,) = run('sessions', '--owner', 'ben', '--json').data['sessions']
    assert left['key'] == kept
    output = run('delete', '--owner', 'ben', '--json')
    assert output.data == {'deleted': 1, 'complete': True, 'error': None}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(
    run: Run, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    begin('anna')
    begin('anna')
    assert run('delete', '--owner', 'anna').status == 0
    assert '2 sessions [' in terminal.getvalue()
    shown = terminal.getvalue()
    begin('anna')
    assert run('delete', '--owner', 'anna', '--plain').status == 0
    assert terminal.getvalue() == shown


def test_progress_is_printed_in_lines(
    run: Run, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, 'LINES_EVERY', 0)
    begin('anna')
    begin('anna')
    output = run('delete', '--owner', 'anna')
    assert output.err == '1 session deleted\n2 sessions deleted\n'


def interrupt(**parameters: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ('operation', 'status', 'words'),
    [
        (interrupt, 130, 'Interrupted; run it again to go on.'),
        (refused('AccessDeniedException'), 1, 'Stopped: '),
    ],
    ids=['interrupted', 'refused'],
)
def test_what_was_deleted_is_told_when_it_stops(
    operation: Any,
    status: int,
    words: str,
    run: Run,
    begin: Begin,
    use: Callable[[Any], None],
    client: Any,
) -> None:
    begin('anna')
    begin('anna')
    done: list[Any] = []

    def update_item(**parameters: Any) -> Any:
        if done:
            operation()
        done.append(client.update_item(**parameters))
        return done[0]

    use(Interposed(client, update_item=update_item))
    output = run('delete', '--owner', 'anna')
    assert output.status == status
    first, last = output.out.splitlines()
    assert first.startswith(words)
    assert last == '1 session of the owner deleted.'


@pytest.mark.parametrize('name', ['sessions', 'delete'])
def test_owners_need_an_index(command: Run, name: str) -> None:
    output = command(name, '--owner', 'anna')
    assert output.status == 1
    assert 'set dynamodb_session.owner_index' in output.err
    output = command(name, '--owner', 'anna', INDEX)
    assert output.status == 1
    assert 'has no index Owner-index: let dynamodb-session' in output.err


@pytest.mark.parametrize('stdin', [io.StringIO(), None])
def test_owner_is_not_given(
    command: Run, monkeypatch: pytest.MonkeyPatch, stdin: Any
) -> None:
    monkeypatch.setattr(sys, 'stdin', stdin)
    for name in ('sessions', 'delete'):
        output = command(name, '--owner', '-', INDEX)
        assert output.status == 1
        assert 'no owner is given' in output.err
    assert command('sessions').status == 2


def test_session_besides_an_owner_is_a_usage_error(
    run: Run, begin: Begin
) -> None:
    begin('anna')
    assert run('delete', ID, '--owner', 'anna').status == 2
    data = run('sessions', '--owner', 'anna', '--json').data
    assert len(data['sessions']) == 1
