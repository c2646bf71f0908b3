"""The client: how it is made from the settings, and that no fork shares it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from pyramid.exceptions import ConfigurationError

from pyramid_dynamodb_session import (
    DynamoDBSessionFactory,
    session_factory_from_settings,
)
from pyramid_dynamodb_session.dynamodb.client import (
    ProcessClient,
    client_from_settings,
    make_client,
)
from pyramid_dynamodb_session.dynamodb.direct import DirectClient
from pyramid_dynamodb_session.settings import FactorySettings
from pyramid_dynamodb_session.version import VERSION
from tests.support.forks import forked
from tests.support.together import together


def client_of(**settings: Any) -> Any:
    settings = {'region': 'us-west-2', **settings}
    return make_client(FactorySettings.parse(settings))


class Empty:
    """The body of an answer without any items."""

    def stream(self, **options: Any) -> Any:
        yield b'{}'


def headers_of(client: Any) -> dict[str, str]:
    """The headers of a call; nothing is sent."""
    sent = []

    def answer(request: Any, **options: Any) -> AWSResponse:
        sent.append(request.headers)
        return AWSResponse(request.url, 200, {}, Empty())

    client.meta.events.register('before-send.dynamodb.*', answer)
    client.get_item(TableName='table', Key={'SessionId': {'S': 'key'}})
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in sent[0].items()
    }


def access_key(client: Any) -> str:
    """The access key that a call is signed with."""
    authorization = headers_of(client)['Authorization']
    return authorization.partition('Credential=')[2].partition('/')[0]


def test_user_agent_names_the_package() -> None:
    agent = headers_of(client_of())['User-Agent']
    assert agent.startswith(
        f'pyramid_dynamodb_session/{VERSION} Boto3/{boto3.__version__}'
    )


def test_limits_on_the_connection_are_as_configured() -> None:
    config = client_of().meta.config
    assert (config.connect_timeout, config.read_timeout) == (1, 2)
    assert config.retries['total_max_attempts'] == 4
    assert config.retries['mode'] == 'standard'
    client = client_of(connect_timeout=0.5, read_timeout=7, max_attempts=1)
    config = client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (0.5, 7)
    assert config.retries['total_max_attempts'] == 1


def test_region_and_endpoint_are_as_configured() -> None:
    meta = client_of(region='eu-central-1').meta
    assert meta.region_name == 'eu-central-1'
    assert meta.endpoint_url == 'https://dynamodb.eu-central-1.amazonaws.com'
    meta = client_of(endpoint_url='http://127.0.0.1:8000').meta
    assert meta.endpoint_url == 'http://127.0.0.1:8000'


def test_region_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('AWS_DEFAULT_REGION', 'eu-west-1')
    assert client_of(region=None).meta.region_name == 'eu-west-1'


def test_credentials_are_as_configured() -> None:
    client = client_of(
        aws_access_key_id='given',
        aws_secret_access_key='x',
        aws_session_token='token',
    )
    headers = headers_of(client)
    assert 'Credential=given/' in headers['Authorization']
    assert headers['X-Amz-Security-Token'] == 'token'


def test_profile_is_looked_up_where_configured(tmp_path: Path) -> None:
    credentials = tmp_path / 'credentials'
    credentials.write_text(
        '[default]\naws_access_key_id = default\naws_secret_access_key = x\n'
        '[shop]\naws_access_key_id = shop\naws_secret_access_key = x\n'
    )
    client = client_of(profile_name='shop', profiles_location=str(credentials))
    assert access_key(client) == 'shop'
    with pytest.raises(ConfigurationError, match='nobody'):
        client_of(profile_name='nobody', profiles_location=str(credentials))


def test_profiles_location_alone_means_the_default_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.delenv(name)
    credentials = tmp_path / 'credentials'
    credentials.write_text(
        '[default]\naws_access_key_id = default\naws_secret_access_key = x\n'
    )
    client = client_of(profiles_location=str(credentials))
    assert access_key(client) == 'default'


def test_no_region_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='AWS_DEFAULT_REGION'):
        client_of(region=None)


def test_region_that_can_be_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='us west'):
        client_of(region='us west')


def test_direct_has_the_limits_and_the_agent_of_boto3() -> None:
    client = client_of(transport='direct', read_timeout=7)
    assert isinstance(client, DirectClient)
    assert client.meta.config.read_timeout == 7
    assert VERSION in client.meta.config.user_agent


# -- the client setting ---------------------------------------------------


class Client:
    """What the ``client`` setting may give: it knows its process."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def update_item(self, **parameters: Any) -> None:
        pass


def make() -> Client:
    return Client()


def test_client_may_be_a_dotted_name_of_a_callable() -> None:
    factory = session_factory_from_settings(
        {'dynamodb_session.client': f'{__name__}.make'}
    )
    assert factory.store.client.pid == os.getpid()
    assert forked(lambda: factory.store.client.pid == os.getpid())


def test_client_in_code_is_the_client_itself() -> None:
    client = Client()
    assert DynamoDBSessionFactory(client=client).store.client is client


def test_client_in_code_may_be_a_callable() -> None:
    factory = DynamoDBSessionFactory(client=make)
    assert factory.store.client.pid == os.getpid()


def test_gevent_that_patches_too_late_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def recurse(*args: Any, **options: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(boto3.Session, 'client', recurse)
    with pytest.raises(ConfigurationError, match='gevent has patched ssl'):
        client_of()


# -- one client per process -----------------------------------------------


def test_no_client_is_made_before_it_is_used() -> None:
    made: list[Client] = []

    def make() -> Client:
        time.sleep(0.05)
        made.append(Client())
        return made[-1]

    client = ProcessClient(make)
    assert made == []
    together([lambda: client.pid] * 8)
    assert len(made) == 1


def test_settings_that_are_wrong_are_found_at_the_first_use() -> None:
    client = client_from_settings(FactorySettings.parse({}))
    with pytest.raises(ConfigurationError, match='region'):
        client.get_item(TableName='table', Key={})


def test_fork_makes_a_client_of_its_own() -> None:
    client = ProcessClient(Client)
    assert client.pid == os.getpid()
    assert forked(lambda: client.pid == os.getpid())
    assert client.pid == os.getpid()
