"""``show``, ``unlock`` and ``delete``: commands about one session."""

from __future__ import annotations

import io
import re
import secrets
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionLockLost,
    session_factory_from_settings,
)
from pyramid_dynamodb_session.command.output import iso, timestamp
from pyramid_dynamodb_session.store.item import hash_key
from tests.support.clients import Interposed
from tests.support.command import (
    ID,
    PREFIX,
    SECRET,
    Put,
    RawItem,
    Run,
    seconds,
)

# -- show ---------------------------------------------------------------------


def cookie(settings: dict[str, str], session_id: str = ID) -> str:
    """What the browser has, as the application writes it."""
    request, response = Request.blank('/'), Response()
    factory = session_factory_from_settings(settings)
    factory.cookie.write(request, response, session_id, None)
    return response.headers['Set-Cookie'].partition(';')[0]


def test_session_is_found_by_cookie_id_or_key(
    command: Run,
    write_ini: Callable[..., str],
    settings: dict[str, str],
    put: Put,
    application: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = put()
    signed = settings | {f'{PREFIX}secret': SECRET}
    plain, sealed = cookie(settings), cookie(signed)
    assert len(sealed) > len(plain)
    monkeypatch.setattr(sys, 'stdin', io.StringIO(sealed + '\n'))
    hashed = name.removeprefix(f'{application}-')
    value = sealed.removeprefix('session=')
    for word in (ID, name, hashed, plain, sealed, value, '-'):
        output = command('show', word, '--json', ini=write_ini(signed))
        assert output.data['key'] == name


def test_session_of_no_application(
    command: Run, client: Any, table: str
) -> None:
    store = DynamoDBSessionStore(client, table=table)
    session_id = secrets.token_urlsafe(32)
    store.set_and_release_item_exclusive(
        session_id, {'n': 1}, None, new_item=True
    )
    for word in (session_id, hash_key(session_id, None)):
        output = command('show', word, f'{PREFIX}application=', '--json')
        assert output.data['key'] == hash_key(session_id, None)
    assert (
        'any application'
        in command('delete', 'x', f'{PREFIX}application=').err
    )
    item = {'SessionId': {'S': hash_key(session_id, None)}}
    client.put_item(TableName=table, Item={**item, 'Expires': seconds(-1)})
    gone = command('purge', '--dry-run', '--json', f'{PREFIX}application=')
    assert gone.data['expired'] >= 1
    gone = command('delete', session_id, f'{PREFIX}application=')
    assert gone.status == 0


def test_purge_leaves_an_application_alone_that_is_named_alike(
    command: Run, put: Put, application: str
) -> None:
    put(Expires=seconds(-1))
    other = f'{PREFIX}application={application.rpartition("-")[0]}'
    assert command('purge', '--json', other).data['expired'] == 0


def test_session_of_another_application_is_out_of_reach(
    command: Run, put: Put, raw_item: RawItem
) -> None:
    name = put()
    for word in ('show', 'unlock', 'delete'):
        output = command(word, name, f'{PREFIX}application=other')
        assert output.status == 1
        assert 'there is no such session' in output.err
    assert raw_item(ID)


def test_show_tells_times_size_and_keys_but_no_values(
    command: Run, put: Put
) -> None:
    name = put(CreateDate=seconds(-7200), LockCount={'N': '1234'})
    output = command('show', ID)
    assert output.status == 0
    assert name in output.out and ID not in output.out
    assert re.search(r'created  .* UTC \(2:00:0\d ago\)', output.out)
    assert re.search(r'expires  .* UTC \(in 0:(19|20):\d\d\)', output.out)
    assert 'locked   no; 1,234 times so far' in output.out
    assert re.search(r'size     \d+ B, stored as text, 0.0% of', output.out)
    assert '2 keys' in output.out and 'cart  14 B' in output.out
    assert '[1, 2]' not in output.out
    told = command('show', ID, '--json').data
    assert told['keys'] == {'cart': 14, 'user': 13}
    assert 'values' not in told
    assert told['lock'] is None and not told['is_expired']


def test_values_are_shown_on_demand(command: Run, put: Put) -> None:
    put()
    assert 'cart  14 B  [1, 2]' in command('show', ID, '--values').out
    values = command('show', ID, '--values', '--json').data['values']
    assert values == {'cart': [1, 2], 'user': 'me'}


def test_what_a_session_holds_can_not_steer_the_terminal(
    command: Run, store: DynamoDBSessionStore
) -> None:
    store.set_and_release_item_exclusive(
        ID, {'\x1b[2J': '\x1b]0;x\x07'}, None, new_item=True
    )
    for words in (['--values'], ['--values', '--json']):
        assert '\x1b' not in command('show', ID, *words).out


def test_encrypted_session_is_shown_with_the_key(
    command: Run, client: Any, table: str, application: str
) -> None:
    key = secrets.token_urlsafe(32)
    store = DynamoDBSessionStore(
        client, table=table, application=application, encryption_keys=key
    )
    store.set_and_release_item_exclusive(ID, {'n': 1}, None, new_item=True)
    keys = f'{PREFIX}encryption_keys={key}'
    assert 'stored as binary' in command('show', ID, keys).out
    assert command('show', ID, keys, '--json').data['keys'] == {'n': 7}
    assert 'corrupt  SessionItems' in command('show', ID).out


def test_odd_sessions_are_told_as_they_are(
    command: Run, put: Put, store: DynamoDBSessionStore
) -> None:
    put(Expires=seconds(-60), SessionTimeout={'N': '3600'})
    output = command('show', ID)
    assert re.search(r'expired  .* \(0:01:0\d ago\)', output.out)
    assert 'timeout  3,600 s, its own' in output.out
    put('corrupt' * 7, Ver={'N': '99'}, CreateDate={'S': 'x'})
    output = command(
        'show', hash_key('corrupt' * 7, store.settings.application)
    )
    assert output.status == 0
    assert 'corrupt  Ver: it counts as no session' in output.out
    assert 'created' not in output.out
    store.create_uninitialized_item('u' * 43)
    output = command('show', 'u' * 43)
    assert 'uninitialized' in output.out
    assert '0 keys, 2 B before compression' in output.out


@pytest.mark.parametrize(
    'words', [[], [''], [f'{PREFIX}lock_wait=1'], ['--values']]
)
def test_session_that_is_not_given_is_a_usage_error(
    command: Run, words: list[str]
) -> None:
    output = command('show', *words)
    assert output.status == 2
    assert 'error: give the value of the cookie, the session id' in output.err


def test_settings_may_come_before_the_session(command: Run, put: Put) -> None:
    name = put()
    output = command('show', f'{PREFIX}lock_wait=1', ID, '--json')
    assert output.data['key'] == name


@pytest.mark.parametrize('stdin', [io.StringIO('\n'), io.StringIO(), None])
def test_empty_standard_input(
    command: Run, monkeypatch: pytest.MonkeyPatch, stdin: Any
) -> None:
    monkeypatch.setattr(sys, 'stdin', stdin)
    output = command('delete', '-')
    assert output.status == 1
    assert 'the standard input is empty: give the value' in output.err


def test_one_of_a_thing_is_no_plural(
    command: Run, store: DynamoDBSessionStore
) -> None:
    store.set_and_release_item_exclusive(ID, {'n': 1}, None, new_item=True)
    store.get_item_exclusive(ID)
    output = command('show', ID)
    assert '1 key, 7 B' in output.out and '; 1 time so far' in output.out


@pytest.mark.parametrize('cookie', ['x', 'session=', '=', 'é', 'x' * 80])
def test_name_of_no_session_is_an_error(command: Run, cookie: str) -> None:
    output = command('show', cookie)
    assert output.status == 1
    assert 'there is no such session' in output.err


def test_times_at_the_end_of_time() -> None:
    assert iso(253402300799) == '9999-12-31T23:59:59Z'
    assert iso(10**30).startswith('9999-12-31T23:59:59')
    assert timestamp(1, 0) == '1970-01-01 00:00:01 UTC (in 0:00:01)'


# -- unlock and delete --------------------------------------------------------


def test_request_whose_lock_an_operator_removed_saves_nothing(
    command: Run, put: Put, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    put()
    record = store.get_item_exclusive(ID)
    assert record and record.lock_id
    shown = command('show', ID)
    assert re.search(r'locked   by \S{8}…, renewed last at', shown.out)
    assert 'abandoned' not in shown.out
    output = command('unlock', ID)
    assert output.status == 0
    assert 'is unlocked' in output.out and 'gets a 409' in output.out
    assert 'LockId' not in (raw_item(ID) or {})
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 2}, record.lock_id)
    after = store.get_item_exclusive(ID)
    assert after and after.items == {'cart': [1, 2], 'user': 'me'}
    assert after.lock_id
    store.set_and_release_item_exclusive(ID, {'n': 3}, after.lock_id)


def test_abandoned_lock_is_reported(command: Run, put: Put) -> None:
    put(LockId={'S': 'the-holders-token'}, LockDate=seconds(-90))
    assert 'abandoned: the next request takes' in command('show', ID).out
    lock = command('show', ID, '--json').data['lock']
    assert lock['is_abandoned'] and lock['holder'] == 'the-hold'
    assert command('unlock', ID, '--json').data['unlocked']


def test_nothing_is_done_where_nothing_is_locked(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    name = put()
    output = command('unlock', ID)
    assert (output.status, output.out) == (0, f'{name} is not locked.\n')
    put(LockId={'S': 'a'}, LockDate=seconds(0))

    def update_item(**parameters: Any) -> Any:
        put(LockId={'S': 'b'}, LockDate=seconds(0))
        return client.update_item(**parameters)

    use(Interposed(client, update_item=update_item))
    output = command('unlock', ID)
    assert 'was just released or renewed' in output.out
    assert command('show', ID, '--json').data['lock']['holder'] == 'b'


@pytest.mark.parametrize(
    'count, earlier, expected',
    [
        ({'N': '7'}, None, '7'),
        (None, None, '0'),
        ({'N': '9'}, '5 3', '9 5 3'),
        ({'N': '9'}, '8 7 6 5 4 3 2 1', '9 8 7 6 5 4 3 2'),
        ({'S': 'x'}, '5', '0 5'),
    ],
)
def test_unlock_lists_the_count_of_the_holder(
    command: Run,
    put: Put,
    raw_item: RawItem,
    count: dict[str, str] | None,
    earlier: str | None,
    expected: str,
) -> None:
    changes: dict[str, Any] = {'LockId': {'S': 'a'}, 'LockDate': seconds(0)}
    if count is not None:
        changes['LockCount'] = count
    if earlier is not None:
        changes['TakenOver'] = {'S': earlier}
    put(**changes)
    assert command('unlock', ID, '--json').data['unlocked']
    item = raw_item(ID) or {}
    assert item['TakenOver'] == {'S': expected}
    assert not {'LockId', 'LockDate'} & set(item)


def test_lock_that_was_renewed_since_is_left_alone(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    put(LockId={'S': 'a'}, LockDate=seconds(-5))

    def update_item(**parameters: Any) -> Any:
        put(LockId={'S': 'a'}, LockDate=seconds(0))
        return client.update_item(**parameters)

    use(Interposed(client, update_item=update_item))
    output = command('unlock', ID, '--json')
    assert not output.data['unlocked']
    assert command('show', ID, '--json').data['lock']['holder'] == 'a'


def test_lock_without_a_date_can_be_taken_away(
    command: Run, put: Put, raw_item: RawItem
) -> None:
    put(LockId={'S': 'a'})
    assert command('unlock', ID, '--json').data['unlocked']
    assert 'LockId' not in (raw_item(ID) or {})


def test_deleted_session_leaves_a_tombstone_for_a_minute(
    command: Run, put: Put, raw_item: RawItem
) -> None:
    locked = {'LockId': {'S': 'a'}, 'LockDate': seconds(0)}
    kept = {'Version': {'N': '3'}, 'LockCount': {'N': '5'}}
    lists = {'TakenOver': {'S': '4 2'}, 'SavedBy': {'S': 'b a'}}
    name = put(
        SessionTimeout={'N': '60'},
        Owner={'S': 'shop-hash'},
        Flags={'N': '1'},
        **locked,
        **kept,
        **lists,
    )
    output = command('delete', ID)
    assert (output.status, output.out) == (0, f'{name} is deleted.\n')
    item = raw_item(ID) or {}
    assert int(item.pop('Expires')['N']) - int(item.pop('Ended')['N']) == 60
    del item['CreateDate'], item['Ver']
    key = {'SessionId': {'S': name}}
    assert item == key | locked | kept | lists
    for word in ('show', 'unlock', 'delete'):
        output = command(word, ID)
        assert output.status == 1
        assert 'there is no such session' in output.err


def test_tombstone_has_the_time_to_live_of_the_settings(
    command: Run, put: Put, raw_item: RawItem
) -> None:
    put(Gone=seconds(1000))
    ttl = (f'{PREFIX}ttl_attribute=Gone', f'{PREFIX}ttl_grace=600')
    assert command('delete', ID, *ttl).status == 0
    item = raw_item(ID) or {}
    assert int(item['Gone']['N']) - int(item['Expires']['N']) == 600


def test_session_that_somebody_else_has_just_deleted(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    put()

    def update_item(**parameters: Any) -> Any:
        client.update_item(**parameters)
        return client.update_item(**parameters)

    use(Interposed(client, update_item=update_item))
    assert 'by somebody else' in command('delete', ID).out
