"""Credentials, region, client and table of the tests."""

from __future__ import annotations

import inspect
import os
from typing import Any

import boto3
from botocore.config import Config

REGION = 'us-west-2'
ACCESS_KEY = SECRET_KEY = 'testing'
#: Whether boto3 knows of endpoints that name an account.
KNOWS_ACCOUNTS = (
    'aws_account_id' in inspect.signature(boto3.Session.client).parameters
)


def hide_aws_settings() -> None:
    """Hide this machine's AWS settings from this process and its children."""
    for name in [name for name in os.environ if name.startswith('AWS_')]:
        del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID=ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=SECRET_KEY,
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED='true',
        NO_PROXY='127.0.0.1,localhost',
        no_proxy='127.0.0.1,localhost',
    )


def boto3_session() -> boto3.Session:
    return boto3.Session(
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


def make_client(session: boto3.Session, endpoint: str) -> Any:
    """A boto3 client that goes straight to the engine at ``endpoint``."""
    return session.client(
        'dynamodb',
        endpoint_url=endpoint,
        config=Config(
            connect_timeout=1,
            read_timeout=5,
            max_pool_connections=50,
            retries={'mode': 'standard', 'total_max_attempts': 3},
        ),
    )


def create_table(client: Any, name: str, *keys: tuple[str, str, str]) -> None:
    """Create a table; ``keys`` are names, roles and types of its keys."""
    client.create_table(
        TableName=name,
        KeySchema=[
            {'AttributeName': name, 'KeyType': role} for name, role, _ in keys
        ],
        AttributeDefinitions=[
            {'AttributeName': name, 'AttributeType': kind}
            for name, _, kind in keys
        ],
        BillingMode='PAY_PER_REQUEST',
    )
    client.get_waiter('table_exists').wait(
        TableName=name, WaiterConfig={'Delay': 1}
    )
