"""``create-table`` and ``policy``: the table, and permissions to use it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..dynamodb.index import (
    add_index,
    find_index,
    require_index,
)
from ..dynamodb.index import wait_until_active as wait_until_index_active
from ..dynamodb.table import (
    create,
    enable_recovery,
    enable_ttl,
    hash_key_name,
    time_to_live,
    wait_until_active,
)
from ..errors import SessionStoreUnavailable
from ..store.policy import PERMISSIONS, policy
from .context import Context
from .output import Command, Result, columns, number_of, print_error

ON_DEMAND = 'on demand'
#: Stands for an account that is not known.
ACCOUNT = '123456789012'

WHO = {
    'runtime': 'the web servers',
    'deployer': 'whoever runs create-table',
    'operator': 'whoever runs the other commands',
}


# -- create-table ---------------------------------------------------------


def create_table(args: argparse.Namespace) -> Result:
    context = Context(args, may_create_table=True)
    result: Result = context.call(lambda: create_or_update(context, args))
    return result


def create_or_update(context: Context, args: argparse.Namespace) -> Result:
    """Create the table, or add to an existing one what it lacks."""
    client, name = context.client, context.settings.table
    found = context.describe()
    if found is None:
        create(client, context.settings, **options(args))
    table = found
    if table is None or table['TableStatus'] != 'ACTIVE':
        table = wait_until_active(client, name)
    key_name = hash_key_name(name, table)
    index = context.settings.owner_index
    is_index_added = ensure_index(client, table, index)
    if found is not None:
        add_options(client, table, args)
    if args.point_in_time_recovery:
        enable_recovery(client, name)
    on, ttl = ensure_ttl(client, name, context.settings.ttl_attribute)
    data = {
        'table': name,
        'arn': table['TableArn'],
        'created': found is None,
        'key': key_name,
        'billing': billing(table),
        'time_to_live': ttl,
        'owner_index': index,
        'owner_index_added': is_index_added,
        'point_in_time_recovery': args.point_in_time_recovery,
        'deletion_protection': args.deletion_protection,
        'tags': dict(args.tag),
    }
    item_rows = [
        (what.replace('_', ' '), option_text(value))
        for what, value in data.items()
        if value and what not in ('table', 'created', 'owner_index_added')
    ]
    verb = 'is created' if found is None else 'was there already'
    added = f'; its index {index} is new' if is_index_added else ''
    lines = [f'The table {name} {verb}{added}.', '', *columns(item_rows, '  ')]
    return Result(data, lines, 0 if on else 1)


def ensure_index(
    client: Any, table: dict[str, Any], index: str | None
) -> bool:
    """Add the index to a described `table`; False if that has it already.

    Raises ConfigurationError for one that can't be used.
    """
    if index is None:
        return False
    if find_index(table, index) is not None:
        require_index(client, table, index)
        return False
    add_index(client, table, index)
    wait_until_index_active(client, table['TableName'], index)
    return True


def option_text(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{key}={tag}' for key, tag in value.items())
    return 'on' if value is True else str(value)


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters of ``CreateTable`` that the arguments ask for."""
    options: dict[str, Any] = {}
    if args.tag:
        options['Tags'] = tag_list(args)
    if args.deletion_protection:
        options['DeletionProtectionEnabled'] = True
    return options


def add_options(
    client: Any, table: dict[str, Any], args: argparse.Namespace
) -> None:
    """Add tags and deletion protection to an existing table."""
    if args.tag:
        client.tag_resource(ResourceArn=table['TableArn'], Tags=tag_list(args))
    if args.deletion_protection and not table.get('DeletionProtectionEnabled'):
        client.update_table(
            TableName=table['TableName'], DeletionProtectionEnabled=True
        )


def tag_list(args: argparse.Namespace) -> list[dict[str, str]]:
    return [{'Key': key, 'Value': value} for key, value in args.tag]


def tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition('=')
    if not (key and equals):
        raise argparse.ArgumentTypeError(f'{text!r} is no KEY=VALUE')
    return key, value


def ensure_ttl(client: Any, table: str, wanted: str) -> tuple[bool, str]:
    """Enable Time to Live if need be; whether it is as `wanted`, and how."""
    if wanted and time_to_live(client, table)[0] == 'DISABLED':
        enable_ttl(client, table, wanted)
    return ttl_as_wanted(*time_to_live(client, table), wanted)


def ttl_as_wanted(
    status: str, attribute: str, wanted: str
) -> tuple[bool, str]:
    on = status in ('ENABLED', 'ENABLING')
    if on and attribute != wanted:
        return False, (
            f'on for the attribute {attribute}, but ttl_attribute says '
            f'{wanted or "none"}'
        )
    if on:
        return True, f'on for the attribute {attribute}'
    if wanted:
        return False, f'{status.lower()}, but ttl_attribute says {wanted}'
    return True, 'off, as the settings want it: purge now and then'


def billing(table: dict[str, Any]) -> str:
    """How a described table is paid for."""
    mode = table.get('BillingModeSummary', {}).get('BillingMode')
    if mode == 'PAY_PER_REQUEST':
        return ON_DEMAND
    reads, writes = provisioned_units(table)
    return f'provisioned, {reads:,} read and {number_of(writes, "write unit")}'


def provisioned_units(table: dict[str, Any]) -> tuple[int, int]:
    """Read and write units a second; 0 for those of a table on demand."""
    capacity = table.get('ProvisionedThroughput', {})
    reads = capacity.get('ReadCapacityUnits', 0)
    return reads, capacity.get('WriteCapacityUnits', 0)


def add_create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--point-in-time-recovery',
        action='store_true',
        help='keep continuous backups',
    )
    parser.add_argument(
        '--deletion-protection',
        action='store_true',
        help='let nobody delete the table by mistake',
    )
    parser.add_argument(
        '--tag',
        action='append',
        type=tag,
        default=[],
        metavar='KEY=VALUE',
        help='tag the table; may be given several times',
    )


# -- policy ---------------------------------------------------------------


def print_policy(args: argparse.Namespace) -> Result:
    context = Context(args)
    arn = arn_of(context)
    application = context.settings.application
    index = context.settings.owner_index
    policies = {
        role: policy(role, arn, application, index) for role in PERMISSIONS
    }
    if args.role:
        document = policies[args.role]
        return Result(document, [json.dumps(document, indent=4)])
    lines = []
    for role, document in policies.items():
        lines += ['', f'{role}: {WHO[role]}', '']
        lines += json.dumps(document, indent=4).splitlines()
    return Result(policies, lines[1:])


def arn_of(context: Context) -> str:
    """The table's ARN; with a placeholder, and a hint, if it is unknown."""
    table = context.settings.table
    if table.startswith('arn:'):
        return table
    if context.is_local:
        reason = 'it is kept inside the application'
    else:
        try:
            found = context.describe()
        except SessionStoreUnavailable as error:
            reason = str(error)
        else:
            if found is not None:
                return str(found['TableArn'])
            reason = 'there is none yet'
    print_error(
        f'The table {table} can not be described: {reason}\n'
        f'{ACCOUNT} stands for the number of your account.\n'
    )
    meta = context.client.meta
    return (
        f'arn:{meta.partition}:dynamodb:{meta.region_name}:{ACCOUNT}'
        f':table/{table}'
    )


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--role',
        choices=list(PERMISSIONS),
        help='only the policy of this one, ready for IAM',
    )


COMMANDS = {
    'create-table': Command(
        create_table,
        'create the table, or bring up to date the one that is there',
        """\
Create the table that the settings name, wait until it is ACTIVE and switch
Time to Live on. A table that is there is kept, with its billing: it only gets
what it lacks of Time to Live, of the index dynamodb_session.owner_index and of
the options below.

Billing is a setting: on demand with dynamodb_session.on_demand_capacity,
otherwise the read_capacity_units and write_capacity_units.""",
        """\
examples:
  dynamodb-session production.ini create-table
  dynamodb-session production.ini create-table --tag team=web \\
      --deletion-protection dynamodb_session.on_demand_capacity=true
""",
        add_create_arguments,
    ),
    'policy': Command(
        print_policy,
        'print the IAM policies that these settings need',
        """\
Print IAM policies for the table of these settings: the runtime's, for the web
servers; the deployer's, for whoever creates the table; the operator's, for
whoever runs the other commands. With dynamodb_session.application set, items
of other applications are out of reach, but for an operator's Scan, which IAM
can't narrow down.

Web servers that are to create the table themselves need both the runtime's
and the deployer's.""",
        """\
examples:
  dynamodb-session production.ini policy
  dynamodb-session production.ini policy --role runtime > runtime.json
  aws iam put-role-policy --role-name web --policy-name sessions \\
      --policy-document file://runtime.json
""",
        add_policy_arguments,
    ),
}
