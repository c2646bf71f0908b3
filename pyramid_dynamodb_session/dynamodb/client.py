"""The boto3 client: how it is made and tuned, and that no fork shares it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.exceptions import ConfigurationError

from .._process import PerProcess
from ..settings import FactorySettings
from ..version import VERSION

#: More than any server has threads; fewer make TLS connections churn.
POOL_CONNECTIONS = 100


class ProcessClient:
    """A client made at first use, once in each process.

    One without credentials is not kept: the next call asks again.

    :param make: returns a new boto3 client.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._client = PerProcess(make)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client.get(), name)


def client_from_settings(settings: FactorySettings) -> Any:
    """The client that these settings ask for; no call is made yet."""
    if settings.client is None:
        return ProcessClient(lambda: make_client(settings))
    if hasattr(settings.client, 'update_item'):
        return settings.client
    return ProcessClient(settings.client)


def make_client(settings: FactorySettings) -> Any:
    """A client that goes the way that ``transport`` says.

    Raises :class:`pyramid.exceptions.ConfigurationError` when boto3 finds no
    region or no such profile, or when gevent has patched too late.
    """
    # not before it is needed: importing boto3 takes 0.2 seconds
    from botocore.exceptions import (
        BotoCoreError,
        NoCredentialsError,
        NoRegionError,
    )

    try:
        core = botocore_session(settings)
        session = boto3_session(core, settings)
        if session.get_credentials() is None:
            # not kept: the next call asks again
            raise NoCredentialsError
        client = boto3_client(session, settings)
        if settings.transport == 'boto3':
            return client
        from .direct import DirectClient

        return DirectClient(
            client,
            session.get_credentials(),
            core.get_config_variable('ca_bundle'),
        )
    except NoCredentialsError:
        raise
    except NoRegionError as error:
        raise ConfigurationError(
            'boto3 knows no AWS region: set dynamodb_session.region, '
            'AWS_DEFAULT_REGION, or region in the profile'
        ) from error
    except RecursionError as error:
        raise ConfigurationError(
            'boto3 can not make a client: gevent has patched ssl after boto3 '
            'was imported; let it patch before the application is loaded'
        ) from error
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f'boto3 can not make a client of these settings: {error}'
        ) from error


def botocore_session(settings: FactorySettings) -> Any:
    """Where profiles are looked up."""
    import botocore.session

    core = botocore.session.Session()
    if settings.profiles_location:
        core.set_config_variable(
            'credentials_file', settings.profiles_location
        )
    return core


def boto3_session(core: Any, settings: FactorySettings) -> Any:
    """Where credentials and the region are looked up."""
    import boto3

    return boto3.Session(
        botocore_session=core,
        profile_name=settings.profile_name,
        region_name=settings.region,
        aws_access_key_id=settings.aws_access_key_id,
        aws_secret_access_key=settings.aws_secret_access_key,
        aws_session_token=settings.aws_session_token,
    )


def boto3_client(session: Any, settings: FactorySettings) -> Any:
    """A boto3 client, tuned by public settings alone."""
    import boto3
    from botocore.config import Config

    return session.client(
        'dynamodb',
        endpoint_url=settings.endpoint_url,
        config=Config(
            # a fixed string: botocore's own is made anew for each call
            user_agent=f'pyramid_dynamodb_session/{VERSION} '
            f'Boto3/{boto3.__version__}',
            parameter_validation=False,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            max_pool_connections=POOL_CONNECTIONS,
            retries={
                'mode': 'standard',
                'total_max_attempts': settings.max_attempts,
            },
            tcp_keepalive=True,
        ),
    )
