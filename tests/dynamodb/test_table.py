"""Finding, making and refusing tables, when an application starts."""

from __future__ import annotations

import logging
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError

from pyramid_dynamodb_session import (
    DynamoDBSessionFactory,
    DynamoDBSessionStore,
)
from pyramid_dynamodb_session.dynamodb import table as table_module
from tests.support.aws import REGION, create_table
from tests.support.clients import Interposed
from tests.support.forks import forked
from tests.support.together import together

SESSION_KEY = [('SessionId', 'HASH', 'S')]


@pytest.fixture
def missing(client: Any) -> Iterator[str]:
    """The name of a table that is not there; what is made is removed."""
    name = f'Missing-{uuid.uuid4().hex[:8]}'
    yield name
    if name in all_tables(client):
        client.get_waiter('table_exists').wait(
            TableName=name, WaiterConfig={'Delay': 1}
        )
        client.delete_table(TableName=name)


def all_tables(client: Any) -> list[str]:
    pages = client.get_paginator('list_tables').paginate()
    return [name for page in pages for name in page['TableNames']]


@pytest.fixture
def make_table(client: Any, missing: str) -> Callable[..., str]:
    """A function from names, roles and types of keys to a table's name."""

    def make_table(*keys: tuple[str, str, str]) -> str:
        create_table(client, missing, *keys)
        return missing

    return make_table


def start(client: Any, table: str, **settings: Any) -> DynamoDBSessionStore:
    """A store as it is when the application has started."""
    store = DynamoDBSessionStore(client, table=table, **settings)
    store.initialize()
    return store


def refused(client: Any, table: str, **settings: Any) -> str:
    """The one sentence in which a table is refused."""
    with pytest.raises(ConfigurationError) as error:
        start(client, table, **settings)
    message = str(error.value)
    assert '\n' not in message
    return message


def ttl(client: Any, table: str) -> Any:
    described = client.describe_time_to_live(TableName=table)
    description = described['TimeToLiveDescription']
    if description['TimeToLiveStatus'] not in ('ENABLED', 'ENABLING'):
        return None
    return description['AttributeName']


def denied(**parameters: Any) -> Any:
    error = {'Code': 'AccessDeniedException', 'Message': 'not for you'}
    raise ClientError({'Error': error}, 'Any')  # type: ignore[arg-type]


# -- making one -----------------------------------------------------------


def test_missing_table_is_created_and_used(
    client: Any, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = start(client, missing)
    description = client.describe_table(TableName=missing)['Table']
    assert description['TableStatus'] == 'ACTIVE'
    assert description['KeySchema'] == [
        {'AttributeName': 'SessionId', 'KeyType': 'HASH'}
    ]
    throughput = description['ProvisionedThroughput']
    assert throughput['ReadCapacityUnits'] == 10
    assert throughput['WriteCapacityUnits'] == 5
    assert ttl(client, missing) == 'Expires'
    assert f'creating the table {missing}' in caplog.text
    assert f'waiting for the table {missing}' in caplog.text
    assert '300 seconds at most' in caplog.text
    store.create_uninitialized_item('an-id')
    assert store.get_item('an-id')


def test_capacity_is_as_configured(client: Any, missing: str) -> None:
    start(client, missing, read_capacity_units=3, write_capacity_units=2)
    description = client.describe_table(TableName=missing)['Table']
    throughput = description['ProvisionedThroughput']
    assert throughput['ReadCapacityUnits'] == 3
    assert throughput['WriteCapacityUnits'] == 2


def test_capacity_on_demand(client: Any, missing: str) -> None:
    calls = []

    def create_table(**parameters: Any) -> Any:
        calls.append(parameters)
        return client.create_table(**parameters)

    start(
        Interposed(client, create_table=create_table),
        missing,
        on_demand_capacity=True,
    )
    assert calls[0]['BillingMode'] == 'PAY_PER_REQUEST'
    assert 'ProvisionedThroughput' not in calls[0]
    description = client.describe_table(TableName=missing)['Table']
    throughput = description['ProvisionedThroughput']
    assert throughput['ReadCapacityUnits'] == 0


@pytest.mark.parametrize(('name', 'enabled'), [('Ttl', 'Ttl'), ('', None)])
def test_ttl_attribute_is_as_configured(
    name: str, enabled: str | None, client: Any, missing: str
) -> None:
    start(client, missing, ttl_attribute=name)
    assert ttl(client, missing) == enabled


def test_ttl_that_is_not_permitted_is_only_a_warning(
    client: Any, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    start(Interposed(client, update_time_to_live=denied), missing)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert missing in record.message and 'Expires' in record.message
    assert start(client, missing).get_item('an-id') is None


def test_table_that_is_not_created_is_refused(
    client: Any, missing: str
) -> None:
    message = refused(client, missing, create_if_not_exist=False)
    assert missing in message
    assert 'create_if_not_exist = true' in message
    assert missing not in all_tables(client)


def test_creation_that_is_not_permitted_is_refused(
    client: Any, missing: str
) -> None:
    message = refused(Interposed(client, create_table=denied), missing)
    assert missing in message and 'IAM policy' in message


def test_ten_processes_start_at_once(
    endpoint: str, client: Any, missing: str
) -> None:
    settings = {
        'table': missing,
        'endpoint_url': endpoint,
        'region': REGION,
        # ten at once are slow on a small machine
        'read_timeout': 30,
        'connect_timeout': 30,
    }

    def comes_up() -> bool:
        signal.alarm(100)
        store = DynamoDBSessionFactory(**settings).store
        store.initialize()
        return store.get_item('an-id') is None

    assert together([lambda: forked(comes_up)] * 10) == [True] * 10
    assert ttl(client, missing) == 'Expires'


# -- finding one ----------------------------------------------------------


def test_table_that_is_there_is_left_as_it_is(
    client: Any,
    make_table: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = make_table(('Id', 'HASH', 'S'))
    store = start(
        Interposed(client, create_table=denied, update_time_to_live=denied),
        table,
    )
    assert store.table.key_name == 'Id'
    assert ttl(client, table) is None
    assert caplog.text == ''


def test_table_that_is_being_created_is_waited_for(
    client: Any,
    make_table: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    table = make_table(*SESSION_KEY)
    answers = []

    def describe_table(**parameters: Any) -> Any:
        answer = client.describe_table(**parameters)
        if not answers:
            answer['Table']['TableStatus'] = 'CREATING'
        answers.append(answer)
        return answer

    start(Interposed(client, describe_table=describe_table), table)
    assert f'waiting for the table {table}' in caplog.text
    assert len(answers) == 2


def test_table_that_another_process_has_just_created_is_used(
    client: Any,
    make_table: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = make_table(*SESSION_KEY)
    answers = []

    def describe_table(**parameters: Any) -> Any:
        answers.append(parameters)
        if len(answers) == 1:
            parameters['TableName'] = 'no-such-table'
        return client.describe_table(**parameters)

    start(Interposed(client, describe_table=describe_table), table)
    assert ttl(client, table) == 'Expires'
    assert not caplog.records


def test_wait_is_bounded(
    client: Any, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, 'WAIT_ATTEMPTS', 2)
    monkeypatch.setattr(table_module, 'WAIT_DELAY', 0.01)

    def create_table(**parameters: Any) -> Any:
        pass

    message = refused(Interposed(client, create_table=create_table), missing)
    assert missing in message and 'Max attempts exceeded' in message


def test_range_key_is_refused(
    client: Any, make_table: Callable[..., str]
) -> None:
    table = make_table(('Id', 'HASH', 'S'), ('At', 'RANGE', 'N'))
    message = refused(client, table)
    assert table in message
    assert 'a range key, At' in message
    assert 'one string hash key and no range key' in message


@pytest.mark.parametrize('kind', ['N', 'B'])
def test_key_that_is_no_string_is_refused(
    kind: str, client: Any, make_table: Callable[..., str]
) -> None:
    table = make_table(('Id', 'HASH', kind))
    message = refused(client, table)
    assert table in message
    assert f'Id of the table {table} is of type {kind}' in message


def test_key_that_is_the_ttl_attribute_is_refused(
    client: Any, make_table: Callable[..., str]
) -> None:
    table = make_table(('Id', 'HASH', 'S'))
    assert 'set ttl_attribute' in refused(client, table, ttl_attribute='Id')


# -- an application that can't start --------------------------------------


def refused_start(
    settings: dict[str, Any], **changes: str | None
) -> ConfigurationError:
    """What keeps an application with these ``.ini`` settings from starting."""
    for name, value in changes.items():
        settings[f'dynamodb_session.{name}'] = value
    given = {key: value for key, value in settings.items() if value}
    config = Configurator(settings=given)
    config.include('pyramid_dynamodb_session')
    with pytest.raises(ConfigurationError) as raised:
        config.make_wsgi_app()
    # Pyramid wraps what an action raises
    error = getattr(raised.value, 'evalue', raised.value)
    assert isinstance(error, ConfigurationError)
    assert '\n' not in str(error)
    return error


def test_application_starts_only_with_a_table_it_can_use(
    settings: dict[str, Any], missing: str
) -> None:
    error = refused_start(settings, table=missing, create_if_not_exist='no')
    assert f'there is no table {missing}' in str(error)


def test_unreachable_endpoint_is_refused(settings: dict[str, Any]) -> None:
    error = refused_start(
        settings,
        endpoint_url='http://127.0.0.1:9',
        max_attempts='1',
    )
    message = str(error)
    assert 'http://127.0.0.1:9' in message
    assert 'check region, endpoint_url and the network' in message


def test_no_region_is_refused(settings: dict[str, Any]) -> None:
    message = str(refused_start(settings, region=None))
    assert 'set dynamodb_session.region' in message


def test_no_credentials_are_refused(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.delenv(name)
    error = refused_start(
        settings, aws_access_key_id=None, aws_secret_access_key=None
    )
    message = str(error)
    assert 'credentials' in message
    assert 'give the process a role, or set AWS_PROFILE' in message


def test_profile_that_is_not_there_is_refused(
    settings: dict[str, Any],
) -> None:
    message = str(refused_start(settings, profile_name='nobody'))
    assert 'nobody' in message


@pytest.mark.parametrize(
    ('code', 'remedy'),
    [
        ('AccessDeniedException', 'check the IAM policy'),
        ('UnrecognizedClientException', 'check the credentials'),
        ('ExpiredTokenException', 'renew the credentials'),
        ('SomethingElse', 'SomethingElse'),
    ],
)
def test_refusal_comes_with_its_remedy(
    code: str, remedy: str, client: Any
) -> None:
    def describe_table(**parameters: Any) -> Any:
        error = {'Code': code, 'Message': 'no'}
        raise ClientError({'Error': error}, 'Any')  # type: ignore[arg-type]

    interposed = Interposed(client, describe_table=describe_table)
    message = refused(interposed, 'a-table')
    assert 'a-table' in message
    assert remedy in message


def test_ttl_is_switched_on_though_the_reply_of_the_creation_was_lost(
    client: Any, missing: str
) -> None:
    def create_table(**parameters: Any) -> Any:
        client.create_table(**parameters)
        # as the client's own second try sees it
        return client.create_table(**parameters)

    start(Interposed(client, create_table=create_table), missing)
    assert ttl(client, missing) == 'Expires'


def test_ttl_that_another_process_has_switched_on_is_no_warning(
    client: Any, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    def update_time_to_live(**parameters: Any) -> Any:
        error = {
            'Code': 'ValidationException',
            'Message': 'TimeToLive is already enabled',
        }
        raise ClientError({'Error': error}, 'Any')  # type: ignore[arg-type]

    start(Interposed(client, update_time_to_live=update_time_to_live), missing)
    assert 'Time to Live' not in caplog.text


def test_table_that_is_being_deleted_is_refused(
    client: Any, missing: str
) -> None:
    deleting = {'Table': {'TableStatus': 'DELETING'}}
    interposed = Interposed(client, describe_table=lambda **_: deleting)
    assert 'is being deleted' in refused(interposed, missing)
