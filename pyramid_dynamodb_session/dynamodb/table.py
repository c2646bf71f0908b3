"""The table: find, create, wait for and validate it; nothing about items."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from pyramid.exceptions import ConfigurationError

from ..errors import SessionStoreUnavailable
from ..settings import StoreSettings
from .clock import ServerClock
from .errors import RETRY_AFTER, error_code, remedy
from .index import KEY_DEFINITION, index_definition, require_index

log = logging.getLogger(__name__)

#: Seconds between two looks at a table that is being created, and how many.
WAIT_DELAY = 1
WAIT_ATTEMPTS = 300
#: How often point-in-time recovery of a new table is tried, a delay apart.
RECOVERY_ATTEMPTS = 60


#: Takes the reply of ``DescribeTable``.
Observer = Callable[[dict[str, Any]], None]


def ignore(reply: dict[str, Any]) -> None:
    """Nobody wants to see the reply."""


class Table:
    """The table of a store, and the name of its key once that is known."""

    def __init__(self, client: Any, settings: StoreSettings) -> None:
        self.client = client
        self.name = settings.table
        self._settings = settings
        self._key_name = ''
        self.clock = ServerClock()

    def initialize(self) -> None:
        """Validate or create it; ConfigurationError if it can't be used."""
        self._key_name = ensure_table(
            self.client, self._settings, self.clock.learn_from
        )

    @property
    def key_name(self) -> str:
        """What the hash key is called; looked up at first use."""
        if not self._key_name:
            try:
                self.initialize()
            except ConfigurationError as error:
                raise SessionStoreUnavailable(
                    str(error), retry_after=RETRY_AFTER
                ) from error
        return self._key_name


def ensure_table(
    client: Any, settings: StoreSettings, look_at: Observer = ignore
) -> str:
    """Validate or create the table; return the name of its hash key.

    The provider's ``SetupTable`` and ``ValidateTable``: blocks until the
    table is ACTIVE, five minutes at most. Raises
    :class:`pyramid.exceptions.ConfigurationError` saying what is wrong with
    which table, and what would help.
    """
    try:
        table = find_table(client, settings, look_at)
        key = hash_key_name(settings.table, table)
        if settings.owner_index is not None:
            require_index(client, table, settings.owner_index)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f'the table {settings.table} can not be used: '
            f'{error}{remedy(error)}'
        ) from error
    if key == settings.ttl_attribute:
        raise ConfigurationError(
            f'{key} is the hash key of the table {settings.table}: set '
            'ttl_attribute to another name'
        )
    return key


def find_table(
    client: Any, settings: StoreSettings, look_at: Observer
) -> dict[str, Any]:
    """The description of the ACTIVE table, created if need be."""
    description = describe(client, settings.table, look_at)
    if description is None and not settings.create_if_not_exist:
        raise ConfigurationError(
            f'there is no table {settings.table}: create it, or set '
            'create_if_not_exist = true'
        )
    if description is None:
        create(client, settings)
        description = wait_until_active(client, settings.table)
        # whoever has created it: a reply may have been lost
        if settings.ttl_attribute:
            enable_ttl(client, settings.table, settings.ttl_attribute)
    elif description['TableStatus'] == 'CREATING':
        description = wait_until_active(client, settings.table)
    elif description['TableStatus'] == 'DELETING':
        raise ConfigurationError(
            f'the table {settings.table} is being deleted: start again when '
            'it is gone, or set another table'
        )
    return description


def describe(
    client: Any, table: str, look_at: Observer = ignore
) -> dict[str, Any] | None:
    try:
        described: dict[str, Any] = client.describe_table(TableName=table)
    except Exception as error:
        if error_code(error) == 'ResourceNotFoundException':
            return None
        raise
    look_at(described)
    return described['Table']  # type: ignore[no-any-return]


def create(client: Any, settings: StoreSettings, **options: Any) -> bool:
    """Create the table; False when somebody else was faster.

    :param options: of ``CreateTable``, besides.
    """
    capacity = capacity_of(settings)
    attributes = [{'AttributeName': 'SessionId', 'AttributeType': 'S'}]
    if settings.owner_index is not None:
        attributes.append(KEY_DEFINITION)
        index = index_definition(settings.owner_index)
        if not settings.on_demand_capacity:
            index |= capacity
        options['GlobalSecondaryIndexes'] = [index]
    log.info('creating the table %s', settings.table)
    try:
        client.create_table(
            TableName=settings.table,
            AttributeDefinitions=attributes,
            KeySchema=[{'AttributeName': 'SessionId', 'KeyType': 'HASH'}],
            **capacity,
            **options,
        )
    except Exception as error:
        if error_code(error) == 'ResourceInUseException':
            return False
        raise
    return True


def capacity_of(settings: StoreSettings) -> dict[str, Any]:
    """The parameters of ``CreateTable`` that say how it is paid for."""
    if settings.on_demand_capacity:
        return {'BillingMode': 'PAY_PER_REQUEST'}
    return {
        'ProvisionedThroughput': {
            'ReadCapacityUnits': settings.read_capacity_units,
            'WriteCapacityUnits': settings.write_capacity_units,
        }
    }


def wait_until_active(client: Any, table: str) -> dict[str, Any]:
    log.info(
        'waiting for the table %s to become ACTIVE, %s seconds at most',
        table,
        WAIT_DELAY * WAIT_ATTEMPTS,
    )
    client.get_waiter('table_exists').wait(
        TableName=table,
        WaiterConfig={'Delay': WAIT_DELAY, 'MaxAttempts': WAIT_ATTEMPTS},
    )
    described: dict[str, Any] = client.describe_table(TableName=table)
    return described['Table']  # type: ignore[no-any-return]


def enable_ttl(client: Any, table: str, attribute: str) -> None:
    """Let DynamoDB delete what has expired; only a warning when refused.

    Not even that where another process has done it already.
    """
    try:
        client.update_time_to_live(
            TableName=table,
            TimeToLiveSpecification={
                'Enabled': True,
                'AttributeName': attribute,
            },
        )
    except Exception as error:
        if 'already enabled' in str(error):
            return
        log.warning(
            'Time to Live could not be switched on for the table %s: %s. '
            'Expired sessions stay in the table until it is switched on for '
            'the attribute %s, or until they are purged',
            table,
            error,
            attribute,
        )


def time_to_live(client: Any, table: str) -> tuple[str, str]:
    """Its status, in DynamoDB's words, and the attribute that it follows."""
    described = client.describe_time_to_live(TableName=table)
    ttl = described['TimeToLiveDescription']
    return ttl['TimeToLiveStatus'], ttl.get('AttributeName', '')


def enable_recovery(client: Any, table: str) -> None:
    """Keep backups for point-in-time recovery.

    DynamoDB may not be ready for it just after the table was created.
    """
    for _ in range(RECOVERY_ATTEMPTS - 1):
        try:
            return recover(client, table)
        except Exception as error:
            if error_code(error) != 'ContinuousBackupsUnavailableException':
                raise
        time.sleep(WAIT_DELAY)
    recover(client, table)


def recover(client: Any, table: str) -> None:
    client.update_continuous_backups(
        TableName=table,
        PointInTimeRecoverySpecification={'PointInTimeRecoveryEnabled': True},
    )


def hash_key_name(table: str, description: dict[str, Any]) -> str:
    """The name of the key: one string, whatever it is called."""
    keys = {key['KeyType']: key for key in description['KeySchema']}
    if 'RANGE' in keys:
        raise ConfigurationError(
            f'the table {table} has a range key, '
            f'{keys["RANGE"]["AttributeName"]}: sessions need a table with '
            'one string hash key and no range key'
        )
    name: str = keys['HASH']['AttributeName']
    types = {
        attribute['AttributeName']: attribute['AttributeType']
        for attribute in description['AttributeDefinitions']
    }
    if types[name] != 'S':
        raise ConfigurationError(
            f'the hash key {name} of the table {table} is of type '
            f'{types[name]}: sessions need a string (S)'
        )
    return name
