"""The IAM policies that the parts of the package need."""

from __future__ import annotations

import re
from typing import Any

#: What an IAM policy must allow: the web servers, whoever runs
#: ``create-table``, and whoever runs the other commands. Calls on items come
#: first, those on the whole table after them.
PERMISSIONS = {
    'runtime': (
        ('GetItem', 'PutItem', 'UpdateItem'),
        ('DescribeTable',),
    ),
    'deployer': (
        (),
        (
            'CreateTable',
            'DescribeTable',
            'DescribeTimeToLive',
            'TagResource',
            'UpdateContinuousBackups',
            'UpdateTable',
            'UpdateTimeToLive',
        ),
    ),
    'operator': (
        ('DeleteItem', 'GetItem', 'PutItem', 'UpdateItem'),
        ('DescribeTable', 'DescribeTimeToLive', 'Scan'),
    ),
}


#: Those who query the index of ``owner_index``, where there is one.
INDEX_ROLES = {'runtime', 'operator'}


def policy(
    role: str,
    arn: str,
    application: str | None,
    owner_index: str | None = None,
) -> dict[str, Any]:
    """The IAM policy of one of :data:`PERMISSIONS`, for the table `arn`.

    With an `application`, calls on items are allowed on its sessions only.
    """
    on_items, on_table = PERMISSIONS[role]
    condition: dict[str, Any] = {}
    if application is not None:
        # as long as a hash: a * would match the keys of shop-eu for shop
        pattern = f'{escaped(application)}-{"?" * 43}'
        keys = {'dynamodb:LeadingKeys': [pattern]}
        condition = {'Condition': {'ForAllValues:StringLike': keys}}
    if condition and on_items:
        statements = [
            statement(arn, *on_table),
            statement(arn, *on_items) | condition,
        ]
    else:
        statements = [statement(arn, *on_items, *on_table)]
    if owner_index is not None and role in INDEX_ROLES:
        index = f'{arn}/index/{owner_index}'
        statements.append(statement(index, 'Query') | condition)
    return {'Version': '2012-10-17', 'Statement': statements}


def statement(arn: str, *operations: str) -> dict[str, Any]:
    return {
        'Effect': 'Allow',
        'Action': sorted(f'dynamodb:{name}' for name in operations),
        'Resource': arn,
    }


def escaped(text: str) -> str:
    """As IAM takes it literally."""
    return re.sub(r'[*?$]', r'${\g<0>}', text)
