"""``check``: what it finds right and wrong."""

from __future__ import annotations

import datetime
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from pyramid_dynamodb_session.command.check import check_billing, check_clock
from tests.support.aws import SECRET_KEY
from tests.support.clients import Interposed
from tests.support.command import (
    PREFIX,
    SECRET,
    Run,
    refused,
    seconds,
)


def test_check_passes_on_a_correct_table(
    command: Run, use: Callable[[Any], None], client: Any, application: str
) -> None:
    """Judged by a table whose Time to Live is as the settings want it."""
    output = command('check', f'{PREFIX}ttl_attribute=')
    assert output.status == 0, output.out
    assert output.out.endswith('OK: sessions can be kept here.\n')
    assert f'application {application}' in output.out
    assert SECRET_KEY not in output.out.replace('these settings', '')


def test_check_leaves_nothing_behind_and_tells_latencies(
    command: Run, client: Any, table: str, application: str
) -> None:
    output = command('check', '--json', f'{PREFIX}ttl_attribute=')
    assert output.data['ok']
    found = {check['what']: check for check in output.data['checks']}
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
    output = command('check', ini=write_ini(settings, **secret))
    for value in secret.values():
        assert value not in output.out + output.err


@pytest.mark.parametrize(
    'operation, action',
    [
        ('put_item', 'PutItem'),
        ('update_item', 'UpdateItem'),
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
    output = command('check', f'{PREFIX}ttl_attribute=')
    assert output.status == 1
    assert f'not held: {action}\n' in output.out
    assert 'policy --role runtime' in output.out
    assert 'round trip' not in output.out


def test_permissions_that_only_operators_need_may_be_missing(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    denied = refused('AccessDeniedException')
    use(
        Interposed(
            client,
            delete_item=denied,
            describe_time_to_live=denied,
            scan=denied,
        )
    )
    output = command('check')
    assert output.status == 0, output.out
    assert 'not held: DeleteItem, Scan' in output.out
    assert re.search('note  time to live +not known', output.out)


def test_error_in_the_middle_is_told_with_what_was_found_so_far(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    use(Interposed(client, get_item=refused('InternalServerError')))
    output = command('check', f'{PREFIX}ttl_attribute=')
    assert output.status == 1
    assert 'ok    billing' in output.out
    assert 'InternalServerError' in output.out
    use(Interposed(client, describe_table=refused('AccessDeniedException')))
    output = command('check')
    assert 'check the IAM policy' in output.out


def test_session_that_is_not_found_again_fails_the_check(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
) -> None:
    def late(**parameters: Any) -> Any:
        parameters['Item']['Expires'] = seconds(-9)
        return client.put_item(**parameters)

    use(Interposed(client, put_item=late))
    output = command('check', f'{PREFIX}ttl_attribute=')
    assert output.status == 1
    assert 'a session just stored is not found' in output.out


def test_table_that_is_being_deleted_fails_the_check(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    def deleting(**parameters: Any) -> Any:
        found = client.describe_table(**parameters)
        found['Table']['TableStatus'] = 'DELETING'
        return found

    use(Interposed(client, describe_table=deleting))
    output = command('check')
    assert output.status == 1
    assert 'wait until it is ACTIVE' in output.out


def test_check_without_credentials(
    command: Run,
    write_ini: Callable[..., str],
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ('aws_access_key_id', 'aws_secret_access_key'):
        del settings[PREFIX + name]
        monkeypatch.delenv(name.upper())
    output = command('check', ini=write_ini(settings))
    assert 'boto3 finds none' in output.out
    assert output.status == 1


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
    output = command('check', f'{PREFIX}ttl_attribute=', ini=ini)
    assert 'a client of your own' in output.out
    assert output.status == 0, output.out


def test_wait_below_the_lease_is_worth_a_note(command: Run) -> None:
    output = command(
        'check', f'{PREFIX}lock_wait=3', f'{PREFIX}ttl_attribute='
    )
    assert output.status == 0
    assert 'lock_wait (3 s) above lock_lease (10 s)' in output.out


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
    output = command('check', limit, f'{PREFIX}ttl_attribute=')
    assert output.status == 0, output.out
    assert re.search(rf'^{status} +threads  ', output.out, re.M)
    assert words in output.out


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
    output = command('check', '--json', *words)
    assert 'threads' not in [check['what'] for check in output.data['checks']]


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
    output = command('check', f'{PREFIX}ttl_attribute=')
    assert output.status == 0, output.out
    assert re.search(
        '^note +round trip, .* not in use; .*Intern', output.out, re.M
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
