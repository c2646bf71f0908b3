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


def policy(role: str, arn: str, application: str | None) -> dict[str, Any]:
    """The IAM policy of one of :data:`PERMISSIONS`, for the table `arn`.

    With an `application`, calls on items are allowed on its sessions only.
    """
    on_items, on_table = PERMISSIONS[role]
    if application is None or not on_items:
        statements = [statement(arn, *on_items, *on_table)]
    else:
        # as long as a hash: a * would match the keys of shop-eu for shop
        pattern = f'{escaped(application)}-{"?" * 43}'
        keys = {'dynamodb:LeadingKeys': [pattern]}
        statements = [
            statement(arn, *on_table),
            statement(arn, *on_items)
            | {'Condition': {'ForAllValues:StringLike': keys}},
        ]
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
