"""The index of a table: define, add, validate and wait for it."""

from __future__ import annotations

import logging
import time
from typing import Any

from pyramid.exceptions import ConfigurationError

log = logging.getLogger(__name__)

#: The hash key of the index, and what it has besides the keys.
INDEX_KEY = 'Owner'
INDEX_ATTRIBUTES = ('CreateDate', 'Expires')
KEY_DEFINITION = {'AttributeName': INDEX_KEY, 'AttributeType': 'S'}
#: Seconds between two looks at an index that is being built, and how many.
WAIT_DELAY = 1
WAIT_ATTEMPTS = 300


def index_definition(index: str) -> dict[str, Any]:
    """What ``CreateTable`` and ``UpdateTable`` take; without its capacity.

    A save writes to the index, for a write unit more, if ``Expires`` moves:
    see :meth:`.store.expiry.Expiry.attributes_of_save`.
    """
    return {
        'IndexName': index,
        'KeySchema': [{'AttributeName': INDEX_KEY, 'KeyType': 'HASH'}],
        'Projection': {
            'ProjectionType': 'INCLUDE',
            'NonKeyAttributes': list(INDEX_ATTRIBUTES),
        },
    }


def find_index(table: dict[str, Any], index: str) -> dict[str, Any] | None:
    """The description of an index of a described `table`; None for none."""
    indexes: list[dict[str, Any]] = table.get('GlobalSecondaryIndexes') or []
    for found in indexes:
        if found['IndexName'] == index:
            return found
    return None


def index_status(index: dict[str, Any]) -> str:
    return str(index.get('IndexStatus', 'ACTIVE'))


def add_index(client: Any, table: dict[str, Any], index: str) -> None:
    """Start building an index of a described `table`, which is ACTIVE.

    It gets as many units as the table has.
    """
    definition = index_definition(index)
    billing = table.get('BillingModeSummary', {}).get('BillingMode')
    if billing != 'PAY_PER_REQUEST':
        units = table['ProvisionedThroughput']
        definition['ProvisionedThroughput'] = {
            kind: units[kind]
            for kind in ('ReadCapacityUnits', 'WriteCapacityUnits')
        }
    attributes = list(table['AttributeDefinitions'])
    if KEY_DEFINITION not in attributes:
        attributes.append(KEY_DEFINITION)
    name = table['TableName']
    log.info('adding the index %s to the table %s', index, name)
    client.update_table(
        TableName=name,
        AttributeDefinitions=attributes,
        GlobalSecondaryIndexUpdates=[{'Create': definition}],
    )


def require_index(client: Any, table: dict[str, Any], index: str) -> None:
    """Validate an index of a described `table`, and wait while it is built.

    Raises :class:`pyramid.exceptions.ConfigurationError`.
    """
    name = table['TableName']
    found = find_index(table, index)
    if found is None:
        raise ConfigurationError(
            f'the table {name} has no index {index}: let dynamodb-session INI '
            'create-table add it, or remove the setting owner_index'
        )
    fault = index_fault(table, found)
    if fault:
        raise ConfigurationError(
            f'the index {index} of the table {name} {fault}: set owner_index '
            'to another name, and let dynamodb-session INI create-table add it'
        )
    if index_status(found) == 'CREATING':
        wait_until_active(client, name, index)


def index_fault(table: dict[str, Any], index: dict[str, Any]) -> str:
    """Why a described index of a `table` can't be used; empty if it can."""
    keys = {key['KeyType']: key['AttributeName'] for key in index['KeySchema']}
    if keys != {'HASH': INDEX_KEY}:
        found = ' and '.join(keys.values())
        return f'has the key {found} instead of {INDEX_KEY} alone'
    if KEY_DEFINITION not in table['AttributeDefinitions']:
        return f'has a key {INDEX_KEY} that is no string (S)'
    projection = index['Projection']
    projected = projection.get('NonKeyAttributes') or []
    missing = sorted(set(INDEX_ATTRIBUTES).difference(projected))
    if missing and projection['ProjectionType'] != 'ALL':
        return f'does not project {" and ".join(missing)}'
    if index_status(index) == 'DELETING':
        return 'is being deleted'
    return ''


def wait_until_active(client: Any, table: str, index: str) -> None:
    """Wait while DynamoDB builds an index, five minutes at most.

    Raises :class:`pyramid.exceptions.ConfigurationError` after that.
    """
    log.info(
        'waiting for the index %s of the table %s to become ACTIVE, %s '
        'seconds at most',
        index,
        table,
        WAIT_DELAY * WAIT_ATTEMPTS,
    )
    for _ in range(WAIT_ATTEMPTS):
        described = client.describe_table(TableName=table)['Table']
        found = find_index(described, index)
        if found is not None and index_status(found) != 'CREATING':
            return
        time.sleep(WAIT_DELAY)
    raise ConfigurationError(
        f'the index {index} of the table {table} is still being built, which '
        'takes long for a large table: try again when it is ACTIVE'
    )
