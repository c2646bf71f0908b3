"""The index by which the sessions of one user are found."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyramid.exceptions import ConfigurationError

from pyramid_dynamodb_session import DynamoDBSessionStore
from pyramid_dynamodb_session.command import main
from pyramid_dynamodb_session.dynamodb import index as indexes
from tests.support.clients import Interposed

INDEX = 'Owner-index'
KEY = {'AttributeName': 'SessionId', 'KeyType': 'HASH'}
PREFIX = 'dynamodb_session.'

Make = Callable[..., str]


@pytest.fixture
def new_table(client: Any) -> Iterator[str]:
    """The name of a table that is not there yet, and gone afterwards."""
    name = f'Indexed-{uuid.uuid4().hex[:8]}'
    yield name
    if name in client.list_tables()['TableNames']:
        client.get_waiter('table_exists').wait(
            TableName=name, WaiterConfig={'Delay': 1}
        )
        client.delete_table(TableName=name)


@pytest.fixture
def make(client: Any, new_table: str) -> Make:
    """Makes a table, with an index of this key and projection if given."""

    def make(
        *keys: tuple[str, str], projection: dict[str, Any] | None = None
    ) -> str:
        definitions = {('SessionId', 'S'), *keys}
        options: dict[str, Any] = {}
        if keys:
            roles = zip(keys, ('HASH', 'RANGE'), strict=False)
            index = {
                'IndexName': INDEX,
                'KeySchema': [
                    {'AttributeName': name, 'KeyType': role}
                    for (name, _), role in roles
                ],
                'Projection': projection or {'ProjectionType': 'ALL'},
            }
            options['GlobalSecondaryIndexes'] = [index]
        client.create_table(
            TableName=new_table,
            KeySchema=[KEY],
            AttributeDefinitions=[
                {'AttributeName': name, 'AttributeType': kind}
                for name, kind in sorted(definitions)
            ],
            BillingMode='PAY_PER_REQUEST',
            **options,
        )
        client.get_waiter('table_exists').wait(
            TableName=new_table, WaiterConfig={'Delay': 1}
        )
        return new_table

    return make


def start(client: Any, table: str, **settings: Any) -> None:
    """As the application starts."""
    settings = {'owner_index': INDEX, **settings}
    DynamoDBSessionStore(client, table=table, **settings).initialize()


def refused(client: Any, table: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        start(client, table)
    return str(error.value)


def described(client: Any, table: str) -> dict[str, Any]:
    """The table; its index, ACTIVE, is under ``index``."""
    found = client.describe_table(TableName=table)['Table']
    found['index'] = indexes.find_index(found, INDEX)
    return dict(found)


def assert_usable(client: Any, table: str) -> None:
    """The index finds the sessions of one user, with their times."""
    for name, owner in (('a', 'anna'), ('b', 'anna'), ('c', 'ben')):
        item = {
            'SessionId': {'S': name},
            'Owner': {'S': owner},
            'CreateDate': {'N': '1'},
            'Expires': {'N': '2'},
            'SessionItems': {'S': 'private'},
        }
        client.put_item(TableName=table, Item=item)
    found = client.query(
        TableName=table,
        IndexName=INDEX,
        KeyConditionExpression='#owner = :owner',
        ExpressionAttributeNames={'#owner': 'Owner'},
        ExpressionAttributeValues={':owner': {'S': 'anna'}},
    )['Items']
    assert sorted(item['SessionId']['S'] for item in found) == ['a', 'b']
    for item in found:
        assert set(item) == {'SessionId', 'Owner', 'CreateDate', 'Expires'}


@pytest.mark.parametrize('on_demand', [True, False])
def test_index_is_created_with_the_table(
    client: Any, new_table: str, on_demand: bool
) -> None:
    capacity = {'read_capacity_units': 3, 'write_capacity_units': 2}
    start(client, new_table, on_demand_capacity=on_demand, **capacity)
    assert_usable(client, new_table)
    index = described(client, new_table)['index']
    units = index.get('ProvisionedThroughput', {}).get('WriteCapacityUnits')
    assert (units == 2) == (not on_demand)
    start(client, new_table)


def test_table_has_no_index_without_the_setting(
    client: Any, new_table: str
) -> None:
    start(client, new_table, owner_index=None)
    table = described(client, new_table)
    assert table['index'] is None
    assert [
        each['AttributeName'] for each in table['AttributeDefinitions']
    ] == ['SessionId']


def test_missing_index_is_refused(client: Any, make: Make) -> None:
    table = make()
    message = refused(client, table)
    assert f'the table {table} has no index {INDEX}' in message
    assert 'create-table add it' in message


def test_index_of_another_name_is_not_the_one(client: Any, make: Make) -> None:
    table = make(('Owner', 'S'))
    with pytest.raises(ConfigurationError, match='has no index Other'):
        start(client, table, owner_index='Other')


@pytest.mark.parametrize(
    'keys, projection, words',
    [
        ([('User', 'S')], None, 'has the key User instead of Owner alone'),
        (
            [('Owner', 'S'), ('At', 'N')],
            None,
            'has the key Owner and At instead of Owner alone',
        ),
        ([('Owner', 'N')], None, 'has a key Owner that is no string (S)'),
        (
            [('Owner', 'S')],
            {'ProjectionType': 'KEYS_ONLY'},
            'does not project CreateDate and Expires',
        ),
        (
            [('Owner', 'S')],
            {'ProjectionType': 'INCLUDE', 'NonKeyAttributes': ['Expires']},
            'does not project CreateDate',
        ),
    ],
)
def test_index_that_can_not_be_used_is_refused(
    client: Any,
    make: Make,
    keys: list[tuple[str, str]],
    projection: dict[str, Any] | None,
    words: str,
) -> None:
    table = make(*keys, projection=projection)
    message = refused(client, table)
    assert f'the index {INDEX} of the table {table} {words}: set' in message


def test_index_that_projects_everything_is_fine(
    client: Any, make: Make
) -> None:
    start(client, make(('Owner', 'S')))


def with_status(client: Any, *statuses: str) -> Interposed:
    """A client that describes the index with these, one after the other."""
    left = list(statuses)

    def describe_table(**parameters: Any) -> Any:
        reply = client.describe_table(**parameters)
        for index in reply['Table'].get('GlobalSecondaryIndexes', []):
            index['IndexStatus'] = left.pop(0) if left else 'ACTIVE'
        return reply

    return Interposed(client, describe_table=describe_table)


def test_index_that_is_being_built_is_waited_for(
    client: Any,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(indexes, 'WAIT_DELAY', 0)
    caplog.set_level(logging.INFO)
    table = make(('Owner', 'S'))
    start(with_status(client, 'CREATING', 'CREATING'), table)
    assert f'waiting for the index {INDEX} of the table {table}' in caplog.text
    monkeypatch.setattr(indexes, 'WAIT_ATTEMPTS', 2)
    message = refused(with_status(client, *['CREATING'] * 3), table)
    assert 'is still being built' in message


def test_index_that_is_being_deleted_is_refused(
    client: Any, make: Make
) -> None:
    table = make(('Owner', 'S'))
    message = refused(with_status(client, 'DELETING'), table)
    assert f'the index {INDEX} of the table {table} is being deleted' in (
        message
    )


# -- create-table and check ------------------------------------------------


@pytest.fixture
def run(
    client: Any,
    tmp_path: Any,
    settings: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str]]:
    """Runs a command on the table; returns its status and its output."""
    ini = tmp_path / 'production.ini'
    lines = ['[app:main]', 'use = call:tests.apps.wsgi_app:main']
    ini.write_text(
        '\n'.join(
            lines + [f'{key} = {value}' for key, value in settings.items()]
        )
    )

    def run(name: str, table: str, *words: str) -> tuple[int, str]:
        given = {'table': table, 'owner_index': INDEX, 'ttl_attribute': ''}
        overrides = [f'{PREFIX}{key}={value}' for key, value in given.items()]
        status = main([str(ini), name, *words, *overrides])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


Run = Callable[..., 'tuple[int, str]']


def test_create_table_adds_the_index_to_a_table_that_has_none(
    client: Any, make: Make, run: Run
) -> None:
    table = make()
    status, output = run('check', table)
    assert status == 1
    assert f'there is no index {INDEX}' in output
    assert f'create-table {PREFIX}table={table}' in output
    status, output = run('create-table', table)
    assert status == 0, output
    assert f'was there already; its index {INDEX} is new.' in output
    assert re.search(f'owner index +{INDEX}', output)
    assert_usable(client, table)
    status, output = run('check', table)
    assert status == 0, output
    assert re.search(f'^ok +owner index +{INDEX}, ACTIVE', output, re.M)
    assert 'Query' in output.partition('held:')[2]
    # once more, and nothing is left to do
    status, output = run('create-table', table)
    assert status == 0
    assert 'was there already.' in output


@pytest.mark.engines(
    'dynamodb-local', 'moto', reason='tells no units of an index added later'
)
def test_index_gets_the_units_of_the_table(
    client: Any, new_table: str, run: Run
) -> None:
    units = {'write_capacity_units': 7}
    start(client, new_table, owner_index=None, ttl_attribute='', **units)
    assert run('create-table', new_table)[0] == 0
    index = described(client, new_table)['index']
    assert index['ProvisionedThroughput']['WriteCapacityUnits'] == 7


def test_create_table_makes_table_and_index(
    client: Any, new_table: str, run: Run
) -> None:
    assert run('create-table', new_table)[0] == 0
    assert_usable(client, new_table)


def test_create_table_refuses_an_index_that_can_not_be_used(
    make: Make, run: Run
) -> None:
    table = make(('Owner', 'N'))
    for name in ('create-table', 'check'):
        status, output = run(name, table)
        assert status == 1
        assert f'{INDEX} ' in output and 'is no string (S)' in output


def test_index_is_added_where_another_one_has_the_same_key(
    client: Any, make: Make
) -> None:
    table = make(('Owner', 'S'))
    indexes.add_index(client, described(client, table), 'Second')
    indexes.wait_until_active(client, table, 'Second')
    start(client, table, owner_index='Second')


def test_check_says_that_the_index_is_being_built(
    client: Any, make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    building = with_status(client, 'CREATING')
    monkeypatch.setattr(
        'pyramid_dynamodb_session.dynamodb.client.make_client',
        lambda settings: building,
    )
    status, output = run('check', make(('Owner', 'S')))
    assert status == 1
    assert f'{INDEX}, CREATING' in output
    assert 'wait until it is ACTIVE' in output
