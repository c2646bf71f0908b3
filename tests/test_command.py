"""The command line, as an operator types it and reads what it says."""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError
from pyramid.request import Request
from pyramid.response import Response

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionLockLost,
    local,
    session_factory_from_settings,
)
from pyramid_dynamodb_session.command import main, scans, serve
from pyramid_dynamodb_session.command.check import check_billing, check_clock
from pyramid_dynamodb_session.command.output import (
    iso,
    print_error,
    timestamp,
    write,
)
from pyramid_dynamodb_session.dynamodb import client as clients
from pyramid_dynamodb_session.dynamodb import scan as scanning
from pyramid_dynamodb_session.dynamodb import table as tables
from pyramid_dynamodb_session.dynamodb.calls import Calls
from pyramid_dynamodb_session.store.item import hash_key
from pyramid_dynamodb_session.store.purge import Purge
from pyramid_dynamodb_session.version import VERSION
from tests.conftest import REGION, SECRET_KEY
from tests.interposed import Interposed
from tests.proxy import FaultProxy
from tests.together import wait_until

PREFIX = 'dynamodb_session.'
SECRET = 'a secret of the application, 32 characters at least'.replace(' ', '')
ID = '-' + 'i' * 42

RawItem = Callable[[str], 'dict[str, Any] | None']


class Said(NamedTuple):
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def write_ini(tmp_path: Path) -> Callable[..., str]:
    def write_ini(settings: dict[str, str], **more: str) -> str:
        lines = ['[app:main]', 'use = call:tests.wsgi_app:main']
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
) -> Callable[..., Said]:
    """A function that runs a command in this process."""
    use(client)

    def command(*words: str, ini: str = ini) -> Said:
        try:
            status = main([ini, *words])
        except SystemExit as end:
            status = int(str(end.code))
        return Said(status, *capsys.readouterr())

    return command


Run = Callable[..., Said]


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


Put = Callable[..., str]


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


def seconds(value: float) -> dict[str, str]:
    """A number attribute, so many seconds from now."""
    return {'N': str(int(time.time() + value))}


def refused(code: str) -> Callable[..., Any]:
    """An operation that DynamoDB answers with this error."""

    def operation(**parameters: Any) -> Any:
        raise ClientError({'Error': {'Code': code, 'Message': 'no'}}, 'X')

    return operation


# -- the command line itself ----------------------------------------------


@pytest.mark.parametrize(
    'name',
    [
        *('create-table', 'check', 'purge', 'show', 'unlock', 'delete'),
        *('policy', 'stats', 'serve'),
    ],
)
def test_help_of_each_command_has_an_example(command: Run, name: str) -> None:
    assert name in command('--help', ini='--help').out
    said = command(name, '--help')
    assert said.status == 0
    assert re.search(rf'\n  dynamodb-session \w+.ini {name}', said.out)


def test_settings_are_replaced_on_the_command_line(command: Run) -> None:
    said = command('policy', f'{PREFIX}table=Nowhere')
    assert 'table/Nowhere' in said.out
    assert 'there is none yet' in said.err


def test_variables_of_the_file_are_filled_in(
    command: Run, write_ini: Callable[..., str], settings: dict[str, str]
) -> None:
    ini = write_ini(settings, **{f'{PREFIX}table': '%(which)s'})
    assert 'table/Given' in command('policy', 'which=Given', ini=ini).out
    assert 'which' in command('policy', ini=ini).err


def test_section_other_than_main(
    command: Run, ini: str, settings: dict[str, str]
) -> None:
    with open(ini, 'a') as file:
        file.write(f'\n[app:admin]\nuse = main\n{PREFIX}table = Admins\n')
    assert 'table/Admins' in command('policy', ini=f'{ini}#admin').out


@pytest.mark.parametrize(
    'name, words',
    [
        ('x.ini', 'there is no file x.ini'),
        ('x.ini#y', 'there is no file x.ini'),
        ('production', 'there is no file production'),
        ('tests', 'tests is no .ini file'),
        ('setup.cfg', 'setup.cfg is no .ini file'),
        ('egg:nothing', 'the settings of egg:nothing can not be read'),
    ],
)
def test_file_that_is_not_there(command: Run, name: str, words: str) -> None:
    said = command('check', ini=name)
    assert said.status == 1
    assert words in said.err


def test_section_that_is_not_there(command: Run, ini: str) -> None:
    said = command('check', ini=f'{ini}#other')
    assert said.status == 1
    assert "No section 'other'" in said.err


def test_word_that_means_nothing_is_a_usage_error(command: Run) -> None:
    said = command('check', 'please')
    assert said.status == 2
    assert "'please' is no name=value" in said.err


def test_version(command: Run) -> None:
    assert command(ini='--version').out == f'dynamodb-session {VERSION}\n'


@pytest.mark.parametrize(
    'words, message',
    [
        (['check'], 'the .ini file is missing: dynamodb-session INI check'),
        (['stats', '--all'], 'the .ini file is missing: dynamodb-session'),
        (
            ['check', 'x/production.ini'],
            'the .ini file comes first: dynamodb-session x/production.ini '
            'check',
        ),
        (['show', 'a.ini#b'], 'comes first: dynamodb-session a.ini#b show'),
        ([], 'the following arguments are required: INI'),
    ],
)
def test_ini_file_missing_or_second(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_file_may_be_named_like_a_command(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('check').touch()
    said = command('check', ini='check')
    assert said.err == 'dynamodb-session: check is no .ini file: give the ' + (
        'one that pserve is started with\n'
    )


@pytest.mark.parametrize(
    'word, message',
    [
        ('table=Nope', f'did you mean {PREFIX}table=Nope ?'),
        ('dynamodb_sessions.table=Nope', f'mean {PREFIX}table=Nope ?'),
        ('secret=Nope', f'did you mean {PREFIX}secret=… ?'),
        ('colour=blue', f'settings begin with {PREFIX}'),
    ],
)
def test_name_that_is_neither_setting_nor_variable_is_refused(
    command: Run, word: str, message: str, put: Put, raw_item: RawItem
) -> None:
    put(Expires=seconds(-1))
    said = command('purge', word)
    assert said.status == 2
    name = word.partition('=')[0]
    assert f'{name} is no setting, and no variable of ' in said.err
    assert message in said.err
    assert raw_item(ID)


def test_variables_are_found_in_all_files_that_are_used(
    command: Run,
    write_ini: Callable[..., str],
    ini: str,
    settings: dict[str, str],
) -> None:
    del settings[f'{PREFIX}table']
    text = Path(write_ini(settings)).read_text()
    Path(ini).with_name('other.ini').write_text(
        f'[DEFAULT]\nstage = test\n; colour: none\n{text}\n'
        f'{PREFIX}table = Table-%(which)s\n'
        '[app:again]\nuse = config:other.ini#main\n'
    )
    Path(ini).write_text(
        '[app:main]\nuse = config:other.ini\n'
        '[app:gone]\nuse = config:gone.ini\n'
    )
    said = command('policy', 'which=One', 'stage=live')
    assert said.status == 0, said.err
    assert 'table/Table-One' in said.out
    said = command('policy', 'which=One', 'colour=blue')
    assert 'colour is no setting' in said.err


def test_variables_of_a_uri_are_not_known(command: Run) -> None:
    said = command('check', 'table=Nope', ini='egg:nothing')
    assert 'can not be read' in said.err


def test_advice_repeats_the_overrides_but_no_secret(
    command: Run, new_table: str
) -> None:
    words = [f'{PREFIX}table={new_table}', f'{PREFIX}secret={SECRET}']
    for name in ('check', 'stats'):
        said = command(name, *words)
        text = said.out + said.err
        assert f'create-table {PREFIX}table={new_table} ' in text
        assert f"'{PREFIX}secret=(not shown)'" in text
        assert SECRET not in text


def test_wrong_setting_is_named(command: Run) -> None:
    said = command('check', f'{PREFIX}timeout=soon')
    assert said.status == 1
    assert f"{PREFIX}timeout = 'soon' is not right" in said.err


def test_no_command_but_one_creates_a_table(
    command: Run, client: Any, new_table: str, ini: str
) -> None:
    for words in (['check'], ['purge'], ['show', ID]):
        said = command(*words, f'{PREFIX}table={new_table}')
        assert said.status == 1
        assert f'there is no table {new_table}' in said.out + said.err
    assert new_table not in client.list_tables()['TableNames']


def test_embedded_sessions_are_out_of_reach_without_their_address(
    command: Run,
    write_ini: Callable[..., str],
    settings: dict[str, str],
    put: Put,
    endpoint: str,
) -> None:
    includes = 'pyramid_dynamodb_session.local pyramid_dynamodb_session'
    del settings[f'{PREFIX}endpoint_url']
    ini = write_ini(settings, **{'pyramid.includes': includes})
    name = put()
    said = command('show', ID, ini=ini)
    assert said.status == 1
    assert 'inside the running' in said.err
    address = f'{PREFIX}endpoint_url={endpoint}'
    assert f'{PREFIX}endpoint_url=http' in said.err
    assert name in command('show', ID, address, ini=ini).out


def test_policy_needs_no_embedded_dynamodb(
    command: Run, write_ini: Callable[..., str], settings: dict[str, str]
) -> None:
    includes = 'pyramid_dynamodb_session.local pyramid_dynamodb_session'
    del settings[f'{PREFIX}endpoint_url']
    ini = write_ini(settings, **{'pyramid.includes': includes})
    said = command('policy', ini=ini)
    assert said.status == 0
    assert '123456789012 stands for' in said.err


def script(*words: str, **options: Any) -> subprocess.Popen[str]:
    """The console script, in a process of its own."""
    path = Path(sys.executable).with_name('dynamodb-session')
    return subprocess.Popen(
        [str(path), *words],
        stderr=subprocess.PIPE,
        text=True,
        **{'stdout': subprocess.PIPE, **options},
    )


def test_script_says_what_is_wrong_once_and_without_traceback(
    write_ini: Callable[..., str], settings: dict[str, str]
) -> None:
    ini = write_ini(
        settings,
        **{
            f'{PREFIX}endpoint_url': 'http://127.0.0.1:9',
            f'{PREFIX}max_attempts': '1',
        },
    )
    process = script(ini, 'stats')
    _, err = process.communicate()
    assert process.returncode == 1
    assert 'Traceback' not in err
    assert err.count('Could not connect') == 1
    assert 'check region, endpoint_url' in err


def test_reader_of_the_output_may_leave_early(ini: str) -> None:
    process = script(ini, 'policy')
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.wait() == 1
    assert 'Traceback' not in process.stderr.read()


@pytest.mark.parametrize('words', [['policy'], ['policy', '--help']])
def test_full_disk_is_said_without_a_traceback(
    ini: str, words: list[str]
) -> None:
    env = {**os.environ, 'PYTHONUNBUFFERED': ''}
    with open('/dev/full', 'w') as full:
        process = script(ini, *words, stdout=full, env=env)
        _, err = process.communicate()
    assert 'No space left on device' in err
    assert 'Traceback' not in err and 'Exception' not in err
    assert process.returncode == 1


def test_large_output_on_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open('/dev/full', 'w', buffering=1) as full:
        monkeypatch.setattr(sys, 'stdout', full)
        assert not write('x')
        assert write('what comes later goes nowhere')


def test_closed_output_is_said_without_a_traceback(ini: str) -> None:
    process = script(ini, 'policy', preexec_fn=lambda: os.close(1))
    _, err = process.communicate()
    assert 'the standard output is closed' in err
    assert 'Traceback' not in err
    assert process.returncode == 1


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, 'No space left on device')


@pytest.mark.parametrize('stderr', [FullDisk(), None])
def test_errors_that_can_not_be_printed_are_no_errors(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stderr: Any,
) -> None:
    monkeypatch.setattr(sys, 'stderr', stderr)
    print_error('x')
    assert capsys.readouterr().out == ''


def test_console_script_prints_no_warning_of_setuptools(ini: str) -> None:
    code = 'from pyramid_dynamodb_session_command import main; main()'
    words = [sys.executable, '-c', code]
    done = subprocess.run(
        [*words, ini, 'policy', f'{PREFIX}table=arn:aws:dynamodb:x'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, '')


def test_interrupt_anywhere_has_the_status_of_interrupts(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    def interrupted(**parameters: Any) -> Any:
        raise KeyboardInterrupt

    use(Interposed(client, describe_table=interrupted))
    assert command('stats').status == 130


# -- create-table ---------------------------------------------------------


def test_table_is_created_with_ttl_and_kept_if_it_is_there(
    command: Run, client: Any, new_table: str
) -> None:
    words = (
        *('create-table', f'{PREFIX}table={new_table}'),
        f'{PREFIX}on_demand_capacity=true',
    )
    said = command(*words)
    assert said.status == 0, said.err
    assert f'The table {new_table} is created.' in said.out
    ttl = client.describe_time_to_live(TableName=new_table)
    assert ttl['TimeToLiveDescription']['AttributeName'] == 'Expires'
    again = command(*words, '--json')
    assert again.status == 0
    assert again.data['created'] is False
    assert again.data['billing'] == 'on demand'
    assert again.data['time_to_live'] == 'on for the attribute Expires'
    healthy = command('check', f'{PREFIX}table={new_table}')
    assert healthy.status == 0, healthy.out


def test_table_without_ttl_is_brought_up_to_date(
    command: Run, client: Any, new_table: str
) -> None:
    table = f'{PREFIX}table={new_table}'
    said = command('create-table', table, f'{PREFIX}ttl_attribute=')
    assert 'off, as the settings want it' in said.out
    assert 'provisioned, 10 read and 5 write units' in said.out
    assert (
        'off, as the' in command('check', table, f'{PREFIX}ttl_attribute=').out
    )
    unhealthy = command('check', table)
    assert unhealthy.status == 1
    assert 'expired sessions stay; to switch it on' in unhealthy.out
    assert command('create-table', table).status == 0
    assert command('check', table).status == 0
    other = command('create-table', table, f'{PREFIX}ttl_attribute=Gone')
    assert other.status == 1
    assert 'on for the attribute Expires, but ttl_attr' in other.out
    purging = command('purge', table)
    assert '--rate leaves some of them' in purging.err


@pytest.mark.engines(
    'moto', 'dynoxide', reason='knows no tags and no deletion protection'
)
def test_tags_and_deletion_protection_on_a_table_new_or_old(
    command: Run, client: Any, new_table: str, unprotected: None
) -> None:
    words = ('create-table', f'{PREFIX}table={new_table}')
    command(*words, '--tag', 'team=web', '--deletion-protection')
    found = client.describe_table(TableName=new_table)['Table']
    assert found['DeletionProtectionEnabled']
    client.update_table(TableName=new_table, DeletionProtectionEnabled=False)
    protect = '--deletion-protection'
    said = command(*words, '--tag', 'stage=test', protect)
    assert 'stage=test' in said.out
    assert command(*words, protect).status == 0
    found = client.describe_table(TableName=new_table)['Table']
    assert found['DeletionProtectionEnabled']
    tags = client.list_tags_of_resource(ResourceArn=found['TableArn'])
    assert {'Key': 'team', 'Value': 'web'} in tags['Tags']
    assert {'Key': 'stage', 'Value': 'test'} in tags['Tags']


def test_tag_without_a_value_is_a_usage_error(command: Run) -> None:
    said = command('create-table', '--tag', 'web')
    assert said.status == 2
    assert "'web' is no KEY=VALUE" in said.err


def test_point_in_time_recovery_is_waited_for(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, 'WAIT_DELAY', 0)
    monkeypatch.setattr(tables, 'RECOVERY_ATTEMPTS', 3)
    tries = []

    def not_yet(**parameters: Any) -> Any:
        tries.append(parameters)
        if len(tries) < ready_at:
            refused('ContinuousBackupsUnavailableException')()

    use(Interposed(client, update_continuous_backups=not_yet))
    words = ('create-table', '--point-in-time-recovery')
    ready_at = 3
    said = command(*words, f'{PREFIX}ttl_attribute=')
    assert said.status == 0, said.err
    assert 'point in time recovery  on' in said.out
    tries.clear()
    ready_at = 4
    assert command(*words).status == 1
    assert len(tries) == 3
    denied = refused('AccessDeniedException')
    use(Interposed(client, update_continuous_backups=denied))
    assert 'check the IAM policy' in command(*words).err


def test_table_that_sessions_can_not_use_is_refused(
    command: Run, client: Any, new_table: str
) -> None:
    client.create_table(
        TableName=new_table,
        KeySchema=[{'AttributeName': 'Id', 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': 'Id', 'AttributeType': 'N'}],
        BillingMode='PAY_PER_REQUEST',
    )
    client.get_waiter('table_exists').wait(
        TableName=new_table, WaiterConfig={'Delay': 1}
    )
    for name in ('create-table', 'check'):
        said = command(name, f'{PREFIX}table={new_table}')
        assert said.status == 1
        assert 'sessions need a string (S)' in said.out + said.err


# -- check ----------------------------------------------------------------


def test_healthy_table_is_said_to_be_ok(
    command: Run, use: Callable[[Any], None], client: Any, application: str
) -> None:
    """Judged by a table whose Time to Live is as the settings want it."""
    said = command('check', f'{PREFIX}ttl_attribute=')
    assert said.status == 0, said.out
    assert said.out.endswith('OK: sessions can be kept here.\n')
    assert f'application {application}' in said.out
    assert SECRET_KEY not in said.out.replace('these settings', '')


def test_check_leaves_nothing_behind_and_tells_latencies(
    command: Run, client: Any, table: str, application: str
) -> None:
    said = command('check', '--json', f'{PREFIX}ttl_attribute=')
    assert said.data['ok']
    found = {check['what']: check for check in said.data['checks']}
    for transport in ('boto3', 'direct'):
        figures = found[f'round trip, {transport}']['figures']
        assert set(figures) == {'create', 'lock', 'save', 'release'}
        assert all(milliseconds > 0 for milliseconds in figures.values())
    assert all(found['permissions']['figures'].values())
    left = client.scan(
        TableName=table,
        FilterExpression='begins_with(SessionId, :application)',
        ExpressionAttributeValues={':application': {'S': application}},
    )
    assert all('Ended' in item for item in left['Items'])


def test_check_prints_no_secret(
    command: Run, write_ini: Callable[..., str], settings: dict[str, str]
) -> None:
    secret = {
        f'{PREFIX}aws_secret_access_key': 'never-show-this',
        f'{PREFIX}secret': SECRET,
    }
    said = command('check', ini=write_ini(settings, **secret))
    for value in secret.values():
        assert value not in said.out + said.err


@pytest.mark.parametrize(
    'operation, action',
    [
        ('put_item', 'PutItem'),
        ('update_item', 'UpdateItem'),
        ('delete_item', 'DeleteItem'),
        ('get_item', 'GetItem'),
    ],
)
def test_missing_permission_is_named(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    operation: str,
    action: str,
) -> None:
    denied = refused('AccessDeniedException')
    use(Interposed(client, **{operation: denied}))
    said = command('check', f'{PREFIX}ttl_attribute=')
    assert said.status == 1
    assert f'not held: {action}\n' in said.out
    assert 'policy --role runtime' in said.out
    assert 'round trip' not in said.out


def test_permissions_that_only_operators_need_may_be_missing(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    denied = refused('AccessDeniedException')
    use(Interposed(client, scan=denied, describe_time_to_live=denied))
    said = command('check')
    assert said.status == 0, said.out
    assert 'not held: Scan' in said.out
    assert re.search('note  time to live +not known', said.out)


def test_error_in_the_middle_is_told_with_what_was_found_so_far(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    use(Interposed(client, get_item=refused('InternalServerError')))
    said = command('check', f'{PREFIX}ttl_attribute=')
    assert said.status == 1
    assert 'ok    billing' in said.out
    assert 'InternalServerError' in said.out
    use(Interposed(client, describe_table=refused('AccessDeniedException')))
    said = command('check')
    assert 'check the IAM policy' in said.out


def test_session_that_is_not_found_again_fails_the_check(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
) -> None:
    def late(**parameters: Any) -> Any:
        parameters['Item']['Expires'] = seconds(-9)
        return client.put_item(**parameters)

    use(Interposed(client, put_item=late))
    said = command('check', f'{PREFIX}ttl_attribute=')
    assert said.status == 1
    assert 'a session just stored is not found' in said.out


def test_table_that_is_being_deleted_fails_the_check(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    def deleting(**parameters: Any) -> Any:
        found = client.describe_table(**parameters)
        found['Table']['TableStatus'] = 'DELETING'
        return found

    use(Interposed(client, describe_table=deleting))
    said = command('check')
    assert said.status == 1
    assert 'wait until it is ACTIVE' in said.out


def test_check_without_credentials(
    command: Run,
    write_ini: Callable[..., str],
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ('aws_access_key_id', 'aws_secret_access_key'):
        del settings[PREFIX + name]
        monkeypatch.delenv(name.upper())
    said = command('check', ini=write_ini(settings))
    assert 'boto3 finds none' in said.out
    assert said.status == 1


def make_client() -> Any:
    """The client of a user's own; see below."""
    return the_client


the_client: Any = None


def test_check_with_a_client_of_ones_own(
    command: Run,
    write_ini: Callable[..., str],
    settings: dict[str, str],
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules[__name__], 'the_client', client)
    own = {
        f'{PREFIX}client': f'{__name__}.make_client',
        f'{PREFIX}transport': 'boto3',
    }
    ini = write_ini(settings, **own)
    said = command('check', f'{PREFIX}ttl_attribute=', ini=ini)
    assert 'a client of your own' in said.out
    assert said.status == 0, said.out


def test_wait_below_the_lease_is_worth_a_note(command: Run) -> None:
    said = command('check', f'{PREFIX}lock_wait=3', f'{PREFIX}ttl_attribute=')
    assert said.status == 0
    assert 'lock_wait (3 s) above lock_lease (10 s)' in said.out


@pytest.mark.parametrize(
    'server, limit, status, words',
    [
        ('egg:waitress#main', '10', 'note', 'to auto, or to 2 at most'),
        ('egg:waitress', '2', 'ok', '4 in [server:main], lock_queue_limit'),
        ('egg:waitress\nthreads = 12', '10', 'ok', '12 in [server:main]'),
        ('egg:gunicorn\nthreads = 8', '9', 'note', 'or to 6 at most'),
        ('egg:gunicorn#main', '1', 'note', 'or to 0 at most'),
    ],
)
def test_queue_limit_is_compared_with_the_threads_of_the_server(
    command: Run, ini: str, server: str, limit: str, status: str, words: str
) -> None:
    with open(ini, 'a') as file:
        file.write(f'\n[server:main]\nuse = {server}\n')
    limit = f'{PREFIX}lock_queue_limit={limit}'
    said = command('check', limit, f'{PREFIX}ttl_attribute=')
    assert said.status == 0, said.out
    assert re.search(rf'^{status} +threads  ', said.out, re.M)
    assert words in said.out


@pytest.mark.parametrize(
    'server, words',
    [
        ('[server:main]\nuse = egg:waitress', []),
        ('[server:main]\nuse = egg:other', [f'{PREFIX}lock_queue_limit=9']),
        ('[server:main]\nthreads = 3', [f'{PREFIX}lock_queue_limit=9']),
        ('', [f'{PREFIX}lock_queue_limit=9']),
        (
            '[server:main]\nuse = egg:waitress\nthreads = some',
            [f'{PREFIX}lock_queue_limit=9'],
        ),
        (
            '[server:main]\nuse = egg:waitress\nthreads = %(threads)s',
            [f'{PREFIX}lock_queue_limit=9'],
        ),
    ],
)
def test_threads_are_not_checked_where_nothing_is_known_or_set(
    command: Run, ini: str, server: str, words: list[str]
) -> None:
    with open(ini, 'a') as file:
        file.write(f'\n{server}\n')
    said = command('check', '--json', *words)
    assert 'threads' not in [check['what'] for check in said.data['checks']]


@pytest.mark.parametrize(
    'table, status, text',
    [
        (
            (0, 0, 10, 5),
            'note',
            '2.5 locked requests a second, of sessions of 1 KB at most',
        ),
        (
            (10, 10241, 10, 40),
            'ok',
            '10 locked requests a second, of sessions of 2 KB at most',
        ),
        ((1, 100, 10, 1), 'note', '10 read and 1 write unit: 0.5 locked'),
    ],
)
def test_check_says_what_the_units_of_a_table_carry(
    table: tuple[int, int, int, int], status: str, text: str
) -> None:
    count, weight, reads, writes = table
    capacity = {'ReadCapacityUnits': reads, 'WriteCapacityUnits': writes}
    finding = check_billing(
        {
            'ItemCount': count,
            'TableSizeBytes': weight,
            'ProvisionedThroughput': capacity,
        }
    )
    assert finding.status == status
    assert text in finding.text
    assert ('on demand' in finding.advice) == (status == 'note')
    assert finding.figures['write_units'] == writes


def test_other_transport_may_fail(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    def put_item(**parameters: Any) -> Any:
        # the first tries the permission
        puts.append(parameters)
        if len(puts) > 2:
            refused('InternalServerError')()
        return client.put_item(**parameters)

    puts: list[Any] = []
    use(Interposed(client, put_item=put_item))
    said = command('check', f'{PREFIX}ttl_attribute=')
    assert said.status == 0, said.out
    assert re.search(
        '^note +round trip, .* not in use; .*Intern', said.out, re.M
    )


@pytest.mark.parametrize(
    'ahead, status, words',
    [
        (0, 'ok', "within 2 s of DynamoDB's"),
        (-5, 'note', "5 s behind DynamoDB's"),
        (60, 'FAIL', "60 s ahead of DynamoDB's"),
    ],
)
def test_clock_is_compared_with_the_date_header(
    ahead: float, status: str, words: str
) -> None:
    date = 'Fri, 20 Nov 2026 22:39:04 GMT'
    then = datetime.datetime(
        2026, 11, 20, 22, 39, 4, tzinfo=datetime.timezone.utc
    )
    finding = check_clock(date, then.timestamp() + 0.5 + ahead)
    assert (finding.status, finding.text) == (status, words)
    assert finding.figures == {'seconds_ahead': ahead}


def test_server_without_a_date_header() -> None:
    assert check_clock(None, time.time()).status == 'note'


# -- purge ----------------------------------------------------------------


def test_purge_deletes_what_has_expired_and_nothing_else(
    command: Run, put: Put, raw_item: RawItem
) -> None:
    for session_id in 'abc':
        put(session_id, Expires=seconds(-1))
    put('living')
    dry = command('purge', '--dry-run')
    assert dry.status == 0
    assert '3 expired sessions found, 0 deleted (a dry run)' in dry.out
    said = command('purge', '--json')
    assert said.data['deleted'] == said.data['expired'] == 3
    assert said.data['complete']
    assert said.data['units'] > 0
    assert [raw_item(session_id) for session_id in 'abc'] == [None] * 3
    assert raw_item('living')


def test_purge_leaves_expired_sessions_alone_whose_lock_is_alive(
    command: Run, put: Put, raw_item: RawItem
) -> None:
    lock = {'LockId': {'S': 'a'}}
    put('alive', Expires=seconds(-1), LockDate=seconds(-30), **lock)
    put('dead', Expires=seconds(-1), LockDate=seconds(-42), **lock)
    put('undated', Expires=seconds(-1), **lock)
    assert command('purge', '--json').data['deleted'] == 2
    assert raw_item('alive') and not raw_item('dead')
    assert not raw_item('undated')


def test_session_that_is_locked_during_a_purge_is_left_alone(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    put: Put,
    raw_item: RawItem,
) -> None:
    put(Expires=seconds(-1))

    def delete_item(**parameters: Any) -> Any:
        lock = {'LockId': {'S': 'a'}, 'LockDate': seconds(0)}
        put(Expires=seconds(-1), **lock)
        return client.delete_item(**parameters)

    use(Interposed(client, delete_item=delete_item))
    data = command('purge', '--json').data
    assert (data['expired'], data['deleted']) == (1, 0)
    assert raw_item(ID)


def test_two_purges_at_once_share_the_work(
    ini: str, use: Callable[[Any], None], client: Any, put: Put, capsys: Any
) -> None:
    for number in range(12):
        put(f'x{number}', Expires=seconds(-1))
    both = threading.Barrier(2)
    seen = threading.local()

    def scan(**parameters: Any) -> Any:
        page = client.scan(**parameters)
        if not vars(seen):
            seen.waited = True
            both.wait(30)
        return page

    use(Interposed(client, scan=scan))
    words = [ini, 'purge', '--segments', '1', '--json']
    other = threading.Thread(target=main, args=(words,))
    other.start()
    assert main(words) == 0
    other.join()
    out = capsys.readouterr().out
    assert sum(map(int, re.findall(r'"deleted": (\d+)', out))) == 12
    assert out.count('"expired": 12') == 2


def test_purge_finds_its_place_again_on_every_engine(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    """Though it deletes the very items that its pages end with."""
    for number in range(10):
        put(f'x{number}', Expires=seconds(-1))

    def scan(**parameters: Any) -> Any:
        return client.scan(**{**parameters, 'Limit': 2})

    use(Interposed(client, scan=scan))
    said = command('purge', '--segments', '2', '--json')
    assert said.data['deleted'] == 10


def test_rate_bounds_the_units_of_a_second(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    for number in range(15):
        put(f'x{number}', Expires=seconds(-1))
    limits = []

    def scan(**parameters: Any) -> Any:
        limits.append(parameters['Limit'])
        return client.scan(**parameters)

    use(Interposed(client, scan=scan))
    start = time.monotonic()
    said = command('purge', '--rate', '20', '--segments', '1', '--json')
    took = time.monotonic() - start
    assert said.data['deleted'] == 15
    assert limits[0] == 10 and limits[1] > 10
    # the last call need not be waited for
    assert took >= (said.data['units'] - 2) / 20


@pytest.mark.parametrize('rate', ['0', '-1', 'nan'])
def test_senseless_rate_is_a_usage_error(command: Run, rate: str) -> None:
    assert command('purge', f'--rate={rate}').status == 2


def test_interrupted_purge_says_what_it_has_done(
    write_ini: Callable[..., str],
    proxied: dict[str, str],
    proxy: FaultProxy,
    put: Put,
) -> None:
    for number in range(30):
        put(f'x{number}', Expires=seconds(-1))
    # a shell's background jobs ignore it, and so would our child
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = script(write_ini(proxied), 'purge', '--rate', '4')
    signal.signal(signal.SIGINT, handler)
    wait_until(lambda: proxy.operations.count('DeleteItem') > 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert 'Interrupted; run it again to go on.' in out
    assert 0 < int(re.findall(r'(\d+) deleted', out)[0]) < 30


def test_purge_that_is_stopped_deletes_no_more(
    store: DynamoDBSessionStore, client: Any, application: str
) -> None:
    """A page has two sessions, and there is always another page."""
    names = [hash_key(session_id, application) for session_id in 'ab']
    items = [{'SessionId': {'S': name}} for name in names]
    page = {'ScannedCount': 2, 'LastEvaluatedKey': items[1], 'Items': items}
    deleted = []

    def delete_item(**parameters: Any) -> Any:
        deleted.append(parameters)
        purge.scan.stopped.set()
        return {}

    store.initialize()
    store.table.client = Interposed(
        client, scan=lambda **parameters: page, delete_item=delete_item
    )
    purge = Purge(Calls(store.table), store.table, application, lease=10)
    for _ in purge.run():
        pass
    assert len(deleted) == purge.deleted == 1


def test_purge_that_fails_halfway_says_what_it_has_done(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    for session_id in 'ab':
        put(session_id, Expires=seconds(-1))
    deleted = []

    def delete_item(**parameters: Any) -> Any:
        if deleted:
            refused('AccessDeniedException')()
        deleted.append(parameters)
        return client.delete_item(**parameters)

    use(Interposed(client, delete_item=delete_item))
    said = command('purge', '--segments', '1')
    assert said.status == 1
    assert 'Stopped: DynamoDB failed: delete_item' in said.out
    assert '2 expired sessions found, 1 deleted' in said.out


def test_throttling_is_waited_out(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scanning, 'THROTTLED_PAUSES', (0, 0))
    put(Expires=seconds(-1))
    throttled = refused('ProvisionedThroughputExceededException')
    tries = []

    def delete_item(**parameters: Any) -> Any:
        tries.append(parameters)
        return (client.delete_item if len(tries) > 2 else throttled)(
            **parameters
        )

    use(Interposed(client, delete_item=delete_item))
    said = command('purge', '--json')
    assert said.data['deleted'] == 1
    put(Expires=seconds(-1))
    use(Interposed(client, delete_item=throttled))
    said = command('purge', '--json')
    assert said.status == 1
    assert 'Throughput' in said.data['error']


def test_garbled_page_is_no_end_of_the_table(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    use(Interposed(client, scan=lambda **parameters: {}))
    said = command('purge')
    assert said.status == 1
    assert 'a garbled reply' in said.out


def slowly(client: Any) -> Interposed:
    """A client whose tables take their time to be read."""

    def scan(**parameters: Any) -> Any:
        time.sleep(0.05)
        return client.scan(**parameters)

    return Interposed(client, scan=scan)


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(Expires=seconds(-1))
    use(slowly(client))
    assert command('purge').err == ''
    monkeypatch.setattr(scanning, 'PROGRESS_INTERVAL', 0.01)
    monkeypatch.setattr(scans, 'LINES_EVERY', 0.01)
    put(Expires=seconds(-1))
    said = command('purge', '--segments', '1')
    lines = r'\d+ items read, \d deleted, \d+ deleted/s, \d+ units'
    assert all(re.fullmatch(lines, line) for line in said.err.splitlines())
    assert len(said.err.splitlines()) > 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(
    command: Run, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(Expires=seconds(-1))
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    said = command('purge')
    assert said.status == 0
    bar = terminal.getvalue()
    assert ' items/s' in bar
    assert 'deleted=1' in bar
    put(Expires=seconds(-1))
    assert command('purge', '--plain').status == 0
    assert terminal.getvalue() == bar


def test_progress_is_told_in_lines_without_tqdm(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(Expires=seconds(-1))
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    monkeypatch.setattr(scans, 'tqdm', None)
    monkeypatch.setattr(scans, 'LINES_EVERY', 0)
    monkeypatch.setattr(scanning, 'PROGRESS_INTERVAL', 0.01)
    use(slowly(client))
    assert command('purge').status == 0
    assert ' items read, ' in terminal.getvalue()


def test_command_runs_without_tqdm(ini: str) -> None:
    code = (
        'import sys; sys.modules["tqdm"] = None; '
        'from pyramid_dynamodb_session.command import main; sys.exit(main())'
    )
    words = [sys.executable, '-W', 'ignore', '-c', code, ini, 'policy']
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, 'Traceback' in done.stderr) == (0, False)


# -- show -----------------------------------------------------------------


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
        said = command('show', word, '--json', ini=write_ini(signed))
        assert said.data['key'] == name


def test_session_of_no_application(
    command: Run, client: Any, table: str
) -> None:
    store = DynamoDBSessionStore(client, table=table)
    session_id = secrets.token_urlsafe(32)
    store.set_and_release_item_exclusive(
        session_id, {'n': 1}, None, new_item=True
    )
    for word in (session_id, hash_key(session_id, None)):
        said = command('show', word, f'{PREFIX}application=', '--json')
        assert said.data['key'] == hash_key(session_id, None)
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
        said = command(word, name, f'{PREFIX}application=other')
        assert said.status == 1
        assert 'there is no such session' in said.err
    assert raw_item(ID)


def test_show_tells_times_size_and_keys_but_no_values(
    command: Run, put: Put
) -> None:
    name = put(CreateDate=seconds(-7200), LockCount={'N': '1234'})
    said = command('show', ID)
    assert said.status == 0
    assert name in said.out and ID not in said.out
    assert re.search(r'created  .* UTC \(2:00:0\d ago\)', said.out)
    assert re.search(r'expires  .* UTC \(in 0:(19|20):\d\d\)', said.out)
    assert 'locked   no; 1,234 times so far' in said.out
    assert re.search(r'size     \d+ B, stored as text, 0.0% of', said.out)
    assert '2 keys' in said.out and 'cart  14 B' in said.out
    assert '[1, 2]' not in said.out
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


def test_encrypted_session_is_shown_to_whoever_has_the_key(
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
    said = command('show', ID)
    assert re.search(r'expired  .* \(0:01:0\d ago\)', said.out)
    assert 'timeout  3,600 s, its own' in said.out
    put('corrupt' * 7, Ver={'N': '99'}, CreateDate={'S': 'x'})
    said = command('show', hash_key('corrupt' * 7, store.settings.application))
    assert said.status == 0
    assert 'corrupt  Ver: it counts as no session' in said.out
    assert 'created' not in said.out
    store.create_uninitialized_item('u' * 43)
    said = command('show', 'u' * 43)
    assert 'uninitialized' in said.out
    assert '0 keys, 2 B before compression' in said.out


@pytest.mark.parametrize(
    'words', [[], [''], [f'{PREFIX}lock_wait=1'], ['--values']]
)
def test_session_that_is_not_given_is_a_usage_error(
    command: Run, words: list[str]
) -> None:
    said = command('show', *words)
    assert said.status == 2
    assert 'error: give the value of the cookie, the session id' in said.err


def test_settings_may_come_before_the_session(command: Run, put: Put) -> None:
    name = put()
    said = command('show', f'{PREFIX}lock_wait=1', ID, '--json')
    assert said.data['key'] == name


@pytest.mark.parametrize('stdin', [io.StringIO('\n'), io.StringIO(), None])
def test_empty_standard_input(
    command: Run, monkeypatch: pytest.MonkeyPatch, stdin: Any
) -> None:
    monkeypatch.setattr(sys, 'stdin', stdin)
    said = command('delete', '-')
    assert said.status == 1
    assert 'the standard input is empty: give the value' in said.err


def test_one_of_a_thing_is_no_plural(
    command: Run, store: DynamoDBSessionStore
) -> None:
    store.set_and_release_item_exclusive(ID, {'n': 1}, None, new_item=True)
    store.get_item_exclusive(ID)
    said = command('show', ID)
    assert '1 key, 7 B' in said.out and '; 1 time so far' in said.out


@pytest.mark.parametrize('cookie', ['x', 'session=', '=', 'é', 'x' * 80])
def test_what_names_no_session_is_said_to_do_so(
    command: Run, cookie: str
) -> None:
    said = command('show', cookie)
    assert said.status == 1
    assert 'there is no such session' in said.err


def test_times_at_the_end_of_time() -> None:
    assert iso(253402300799) == '9999-12-31T23:59:59Z'
    assert iso(10**30).startswith('9999-12-31T23:59:59')
    assert timestamp(1, 0) == '1970-01-01 00:00:01 UTC (in 0:00:01)'


# -- unlock and delete ----------------------------------------------------


def test_whoever_loses_the_lock_to_an_operator_saves_nothing(
    command: Run, put: Put, store: DynamoDBSessionStore, raw_item: RawItem
) -> None:
    put()
    record = store.get_item_exclusive(ID)
    assert record and record.lock_id
    shown = command('show', ID)
    assert re.search(r'locked   by \S{8}…, renewed last at', shown.out)
    assert 'abandoned' not in shown.out
    said = command('unlock', ID)
    assert said.status == 0
    assert 'is unlocked' in said.out and 'gets a 409' in said.out
    assert 'LockId' not in (raw_item(ID) or {})
    with pytest.raises(SessionLockLost):
        store.set_and_release_item_exclusive(ID, {'n': 2}, record.lock_id)
    after = store.get_item_exclusive(ID)
    assert after and after.items == {'cart': [1, 2], 'user': 'me'}
    assert after.lock_id
    store.set_and_release_item_exclusive(ID, {'n': 3}, after.lock_id)


def test_abandoned_lock_is_said_to_be_one(command: Run, put: Put) -> None:
    put(LockId={'S': 'the-holders-token'}, LockDate=seconds(-90))
    assert 'abandoned: the next request takes' in command('show', ID).out
    lock = command('show', ID, '--json').data['lock']
    assert lock['is_abandoned'] and lock['holder'] == 'the-hold'
    assert command('unlock', ID, '--json').data['unlocked']


def test_nothing_is_done_where_nothing_is_locked(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    name = put()
    said = command('unlock', ID)
    assert (said.status, said.out) == (0, f'{name} is not locked.\n')
    put(LockId={'S': 'a'}, LockDate=seconds(0))

    def update_item(**parameters: Any) -> Any:
        put(LockId={'S': 'b'}, LockDate=seconds(0))
        return client.update_item(**parameters)

    use(Interposed(client, update_item=update_item))
    said = command('unlock', ID)
    assert 'was just released or renewed' in said.out
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
    said = command('unlock', ID, '--json')
    assert not said.data['unlocked']
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
    said = command('delete', ID)
    assert (said.status, said.out) == (0, f'{name} is deleted.\n')
    item = raw_item(ID) or {}
    assert int(item.pop('Expires')['N']) - int(item.pop('Ended')['N']) == 60
    del item['CreateDate'], item['Ver']
    key = {'SessionId': {'S': name}}
    assert item == key | locked | kept | lists
    for word in ('show', 'unlock', 'delete'):
        said = command(word, ID)
        assert said.status == 1
        assert 'there is no such session' in said.err


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


# -- policy ---------------------------------------------------------------


def test_policy_names_the_real_table(
    command: Run, client: Any, table: str
) -> None:
    arn = client.describe_table(TableName=table)['Table']['TableArn']
    said = command('policy', '--json', f'{PREFIX}application=')
    assert said.err == ''
    assert set(said.data) == {'runtime', 'deployer', 'operator'}
    for policy in said.data.values():
        (statement,) = policy['Statement']
        assert statement['Resource'] == arn
    words = command('policy', f'{PREFIX}application=').out
    assert 'deployer: whoever runs create-table' in words


def test_policy_of_one_role_is_ready_for_iam(
    command: Run, application: str
) -> None:
    said = command('policy', '--role', 'runtime')
    assert said.data == command('policy', '--role', 'runtime', '--json').data
    assert said.data['Version'] == '2012-10-17'
    on_table, on_items = said.data['Statement']
    assert on_table['Action'] == ['dynamodb:DescribeTable']
    (pattern,) = on_items['Condition']['ForAllValues:StringLike'][
        'dynamodb:LeadingKeys'
    ]
    assert pattern.startswith(f'{application}-')


def test_policy_of_a_table_that_can_not_be_reached(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    use(Interposed(client, describe_table=refused('AccessDeniedException')))
    said = command('policy', '--role', 'deployer')
    assert 'check the IAM policy' in said.err
    (statement,) = said.data['Statement']
    start = f'arn:aws:dynamodb:{REGION}:123456789012:table/Sessions-'
    assert statement['Resource'].startswith(start)
    arn = 'arn:aws:dynamodb:eu-west-1:111122223333:table/Ours'
    said = command('policy', '--role', 'deployer', f'{PREFIX}table={arn}')
    assert said.data['Statement'][0]['Resource'] == arn
    assert said.err == ''


# -- stats ----------------------------------------------------------------


@pytest.fixture
def crowd(put: Put, raw_item: RawItem) -> list[dict[str, Any] | None]:
    """Ten live sessions, three of them locked, and seven others."""
    ids = [f'{kind}{n}' for kind in ('live', 'expired') for n in range(7)]
    for session_id in ids[:7]:
        put(session_id)
    for session_id in ids[7:]:
        put(session_id, Expires=seconds(-1), Big={'S': 'x' * 2000})
    for age in (0, 1, 100):
        locked = {'LockId': {'S': 'a'}, 'LockDate': seconds(-age)}
        put(f'locked{age}', **locked)
    return [raw_item(session_id) for session_id in ids]


def test_stats_count_what_there_is(
    command: Run, put: Put, crowd: object
) -> None:
    put('no date', Expires={'S': 'soon'})
    put('list', Odd={'NULL': True})
    put('tombstone', Ended=seconds(-1), LockId={'S': 'a'})
    alive = {'LockId': {'S': 'a'}, 'LockDate': seconds(0)}
    put('expired and locked', Expires=seconds(-1), **alive)
    said = command('stats', '--all', '--json')
    told = said.data
    assert told['sampled'] is None
    assert (told['live'], told['expired'], told['ended']) == (11, 7, 1)
    assert (told['locked'], told['abandoned_locks']) == (4, 1)
    assert told['corrupt'] == 2
    assert told['histogram']['512'] == 11
    assert told['histogram']['4096'] == 7
    assert told['bytes']['median'] < 512 < 2000 < told['bytes']['largest']
    said = command('stats', '--all', '--rate', '1000')
    assert re.search(r'live +11 ', said.out)
    assert re.search(r'ended +1 ', said.out)
    assert re.search(r'<= 4.0 KB +7 +####', said.out)


def test_stats_of_few_sessions_are_exact(
    command: Run, use: Callable[[Any], None], client: Any, crowd: object
) -> None:
    def scan(**parameters: Any) -> Any:
        return client.scan(**{**parameters, 'Limit': 5})

    use(Interposed(client, scan=scan))
    told = command('stats', '--sample', '100000', '--json').data
    assert (told['live'], told['expired'], told['sampled']) == (10, 7, None)


def test_stats_are_reckoned_up_from_a_sample(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    crowd: list[dict[str, Any]],
) -> None:
    def describe_table(**parameters: Any) -> Any:
        found = client.describe_table(**parameters)
        found['Table']['ItemCount'] = 1000
        return found

    def scan(**parameters: Any) -> Any:
        """Pages of five, as from somewhere in a large table."""
        segments.append(parameters['Segment'])
        assert parameters['TotalSegments'] == 21
        return {'Items': random.sample(crowd, 5)}

    segments: list[int] = []
    use(Interposed(client, describe_table=describe_table, scan=scan))
    said = command('stats', '--sample', '15')
    assert 'a sample of 15 of about 1,000 items' in said.out
    assert re.search(r'live +\d+ +± \d+ +\d+\.\d%', said.out)
    assert len(set(segments)) == 3


def test_stats_of_a_table_that_was_emptied_since_it_was_counted(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    def describe_table(**parameters: Any) -> Any:
        found = client.describe_table(**parameters)
        found['Table']['ItemCount'] = 5
        return found

    def scan(**parameters: Any) -> Any:
        return {'Items': []}

    use(Interposed(client, describe_table=describe_table, scan=scan))
    said = command('stats')
    assert said.status == 0
    assert 'all 0 items' in said.out


def test_stats_of_nothing(command: Run) -> None:
    said = command('stats', '--all')
    assert said.status == 0
    assert 'There are no sessions.' in said.out


# -- serve ----------------------------------------------------------------


@pytest.fixture
def serve_ini(write_ini: Callable[..., str]) -> str:
    return write_ini({f'{PREFIX}region': REGION})


def test_served_sessions_outlive_the_application(
    serve_ini: str, settings: dict[str, str]
) -> None:
    """Two stores, as before and after a reload, see the same session."""
    # a shell's background jobs ignore it, and so would our child
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = script(serve_ini, 'serve', '--port', '0')
    signal.signal(signal.SIGINT, handler)
    assert process.stdout
    try:
        lines = [process.stdout.readline() for _ in range(8)]
        needed = dict(line.strip().split(' = ') for line in lines[5:])
        assert needed[f'{PREFIX}endpoint_url'] in lines[0]
        for found in (None, {'n': 1}):
            given = {**needed, f'{PREFIX}region': REGION}
            store = session_factory_from_settings(given).store
            store.initialize()
            record = store.get_item(ID)
            assert (record and record.items) == found
            if record is None:
                store.set_and_release_item_exclusive(
                    ID, {'n': 1}, None, new_item=True
                )
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert 'Traceback' not in err


@pytest.mark.parametrize(
    'url, port',
    [
        ('', 8044),
        ('http://127.0.0.1:8123', 8123),
        ('http://localhost:8123/', 8123),
        ('http://localhost', 8044),
        ('https://dynamodb.example:8123', 8044),
    ],
)
def test_port_is_that_of_the_settings(url: str, port: int) -> None:
    assert serve.port_of({f'{PREFIX}endpoint_url': url}) == port
    assert serve.port_of({}) == 8044


def test_settings_that_are_there_already_are_not_asked_for(
    write_ini: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server:
        server_port = 8123

        def serve_forever(self) -> None:
            pass

    monkeypatch.setattr(serve, 'make_server', lambda port: Server())
    url = f'http://127.0.0.1:{Server.server_port}'
    ini = write_ini(local.settings_for(url, {}))
    args = argparse.Namespace(ini=ini, port=None, variables=[])
    result = serve.serve(args)
    assert len(result.lines) == 2
    assert result.data['url'] == url
    result.then()


def test_port_in_use(command: Run, serve_ini: str, endpoint: str) -> None:
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        listening.listen()
        port = listening.getsockname()[1]
        said = command('serve', '--port', str(port), ini=serve_ini)
    assert said.status == 1
    assert f'port {port} can not be listened on' in said.err


@pytest.mark.parametrize('port', ['x', '-1', '65536'])
def test_port_that_is_none_is_a_usage_error(command: Run, port: str) -> None:
    assert command('serve', f'--port={port}').status == 2


def test_serve_without_moto_names_the_extra(
    command: Run, serve_ini: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'moto.server', None)
    said = command('serve', ini=serve_ini)
    assert said.status == 1
    assert 'pyramid_dynamodb_session[local]' in said.err
