"""``sessions`` and ``delete --owner``: all sessions of one user."""

from __future__ import annotations

import io
import sys
from typing import Any, NamedTuple

import pytest

from pyramid_dynamodb_session import DynamoDBSessionStore
from tests.support.command import ID, PREFIX, Run

INDEX = f'{PREFIX}owner_index=Owner-index'


class Found(NamedTuple):
    """A record without data, as the store finds it by its owner."""

    name: str
    created: int
    expires: int


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Found]]:
    """The sessions that the store finds, by owner."""
    sessions = {'anna': [Found('shop-b', 2000, 4000), Found('shop-a', 1, 2)]}

    def sessions_of(store: Any, owner: str) -> list[Found]:
        return sessions.get(owner, [])

    def remove_sessions_of(store: Any, owner: str) -> int:
        return len(sessions.pop(owner, []))

    for function in (sessions_of, remove_sessions_of):
        monkeypatch.setattr(
            DynamoDBSessionStore, function.__name__, function, raising=False
        )
    return sessions


Owned = dict[str, list[Found]]


def test_sessions_of_an_owner_are_listed_by_age(
    command: Run, owned: Owned
) -> None:
    output = command('sessions', '--owner', 'anna', INDEX)
    assert output.status == 0, output.err
    lines = output.out.splitlines()
    assert lines[0] == 'The owner has 2 sessions.'
    start = '  shop-a  created 1970-01-01 00:00:01 UTC ('
    assert lines[1].startswith(start)
    assert 'anna' not in output.out
    output = command('sessions', '--owner', 'anna', INDEX, '--json')
    assert output.data['sessions'][1] == {
        'key': 'shop-b',
        'created': '1970-01-01T00:33:20Z',
        'expires': '1970-01-01T01:06:40Z',
    }


def test_owner_without_sessions(command: Run, owned: Owned) -> None:
    output = command('sessions', '--owner', 'ben', INDEX)
    assert (output.status, output.out) == (0, 'The owner has 0 sessions.\n')


@pytest.mark.parametrize('words', [(), (INDEX,)])
def test_all_sessions_of_an_owner_are_deleted(
    command: Run,
    owned: Owned,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr(sys, 'stdin', io.StringIO('anna\n'))
    given = (*words, '--owner', '-') if words else ('--owner', '-', INDEX)
    output = command('delete', *given)
    assert output.status == 0, output.err
    assert output.out == '2 sessions of the owner deleted.\n'
    assert 'anna' not in owned


@pytest.mark.parametrize('name', ['sessions', 'delete'])
def test_owners_need_an_index(command: Run, name: str) -> None:
    output = command(name, '--owner', 'anna')
    assert output.status == 1
    assert 'set dynamodb_session.owner_index' in output.err


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
    command: Run, owned: Owned
) -> None:
    output = command('delete', ID, '--owner', 'anna', INDEX)
    assert output.status == 2
    assert 'anna' in owned
