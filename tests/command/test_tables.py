"""``create-table`` and ``policy``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyramid_dynamodb_session.dynamodb import table as tables
from tests.support.aws import REGION
from tests.support.clients import Interposed
from tests.support.command import (
    PREFIX,
    Run,
    refused,
)

# -- create-table -------------------------------------------------------------


def test_table_is_created_with_ttl_and_kept_if_it_is_there(
    command: Run, client: Any, new_table: str
) -> None:
    words = (
        *('create-table', f'{PREFIX}table={new_table}'),
        f'{PREFIX}on_demand_capacity=true',
    )
    output = command(*words)
    assert output.status == 0, output.err
    assert f'The table {new_table} is created.' in output.out
    ttl = client.describe_time_to_live(TableName=new_table)
    assert ttl['TimeToLiveDescription']['AttributeName'] == 'Expires'
    again = command(*words, '--json')
    assert again.status == 0
    assert again.data['created'] is False
    assert again.data['billing'] == 'on demand'
    assert again.data['time_to_live'] == 'on for the attribute Expires'
    healthy = command('check', f'{PREFIX}table={new_table}')
    assert healthy.status == 0, healthy.out


def test_ttl_is_enabled_on_an_existing_table(
    command: Run, client: Any, new_table: str
) -> None:
    table = f'{PREFIX}table={new_table}'
    output = command('create-table', table, f'{PREFIX}ttl_attribute=')
    assert 'off, as the settings want it' in output.out
    assert 'provisioned, 10 read and 5 write units' in output.out
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
    output = command(*words, '--tag', 'stage=test', protect)
    assert 'stage=test' in output.out
    assert command(*words, protect).status == 0
    found = client.describe_table(TableName=new_table)['Table']
    assert found['DeletionProtectionEnabled']
    tags = client.list_tags_of_resource(ResourceArn=found['TableArn'])
    assert {'Key': 'team', 'Value': 'web'} in tags['Tags']
    assert {'Key': 'stage', 'Value': 'test'} in tags['Tags']


def test_tag_without_a_value_is_a_usage_error(command: Run) -> None:
    output = command('create-table', '--tag', 'web')
    assert output.status == 2
    assert "'web' is no KEY=VALUE" in output.err


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
    output = command(*words, f'{PREFIX}ttl_attribute=')
    assert output.status == 0, output.err
    assert 'point in time recovery  on' in output.out
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
        output = command(name, f'{PREFIX}table={new_table}')
        assert output.status == 1
        assert 'sessions need a string (S)' in output.out + output.err


# -- policy -------------------------------------------------------------------


def test_policy_names_the_real_table(
    command: Run, client: Any, table: str
) -> None:
    arn = client.describe_table(TableName=table)['Table']['TableArn']
    output = command('policy', '--json', f'{PREFIX}application=')
    assert output.err == ''
    assert set(output.data) == {'runtime', 'deployer', 'operator'}
    for policy in output.data.values():
        (statement,) = policy['Statement']
        assert statement['Resource'] == arn
    words = command('policy', f'{PREFIX}application=').out
    assert 'deployer: whoever runs create-table' in words


def test_policy_of_one_role_is_ready_for_iam(
    command: Run, application: str
) -> None:
    output = command('policy', '--role', 'runtime')
    assert output.data == command('policy', '--role', 'runtime', '--json').data
    assert output.data['Version'] == '2012-10-17'
    on_table, on_items = output.data['Statement']
    assert on_table['Action'] == ['dynamodb:DescribeTable']
    (pattern,) = on_items['Condition']['ForAllValues:StringLike'][
        'dynamodb:LeadingKeys'
    ]
    assert pattern.startswith(f'{application}-')


@pytest.mark.parametrize('role', ['runtime', 'operator'])
def test_policy_allows_to_query_the_index_only_where_it_is_set(
    command: Run, client: Any, table: str, application: str, role: str
) -> None:
    arn = client.describe_table(TableName=table)['Table']['TableArn']
    words = ('policy', '--role', role)
    assert 'Query' not in command(*words).out
    index = f'{PREFIX}owner_index=Owner-index'
    *_, query = command(*words, index).data['Statement']
    assert query['Action'] == ['dynamodb:Query']
    assert query['Resource'] == f'{arn}/index/Owner-index'
    keys = query['Condition']['ForAllValues:StringLike']
    (pattern,) = keys['dynamodb:LeadingKeys']
    assert pattern.startswith(f'{application}-')
    anyone = command(*words, index, f'{PREFIX}application=')
    assert 'Condition' not in anyone.data['Statement'][-1]


def test_policy_of_the_deployer_queries_nothing(command: Run) -> None:
    index = f'{PREFIX}owner_index=Owner-index'
    output = command('policy', '--role', 'deployer', index)
    assert 'Query' not in output.out
    assert 'UpdateTable' in output.out


def test_policy_of_a_table_that_can_not_be_reached(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    use(Interposed(client, describe_table=refused('AccessDeniedException')))
    output = command('policy', '--role', 'deployer')
    assert 'check the IAM policy' in output.err
    (statement,) = output.data['Statement']
    start = f'arn:aws:dynamodb:{REGION}:123456789012:table/Sessions-'
    assert statement['Resource'].startswith(start)
    arn = 'arn:aws:dynamodb:eu-west-1:111122223333:table/Ours'
    output = command('policy', '--role', 'deployer', f'{PREFIX}table={arn}')
    assert output.data['Statement'][0]['Resource'] == arn
    assert output.err == ''
