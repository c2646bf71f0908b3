"""``check``: whether sessions can be stored, and what to do if not."""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from pyramid.exceptions import ConfigurationError

from ..dynamodb.client import (
    boto3_session,
    botocore_session,
    client_from_settings,
)
from ..dynamodb.errors import REMEDIES, error_code
from ..dynamodb.index import find_index, index_fault, index_status
from ..dynamodb.table import hash_key_name, time_to_live
from ..errors import SessionError
from ..settings import PREFIX
from ..store import DynamoDBSessionStore
from ..store.item import hash_key, write_units
from ..store.lease import CLOCK_SKEW
from .context import Context
from .output import Command, Result, columns, number_of, size
from .tables import ON_DEMAND, billing, provisioned_units, ttl_as_wanted

OK, NOTE, FAIL = 'ok', 'note', 'FAIL'
#: What operators need and web servers don't.
OPERATORS = {'DeleteItem', 'Scan'}
#: Those of the setting ``transport``.
TRANSPORTS = {'boto3', 'direct'}
#: Seconds that this machine's clock may be off DynamoDB's: two machines that
#: are off to different sides must not differ by more than locks allow for.
CLOCK_LIMIT = CLOCK_SKEW / 2
#: Threads of the servers that ``[server:main]`` may name, unless it says.
SERVER_THREADS = {'waitress': 4, 'gunicorn': 1}
#: Locked requests a second of which a provisioned table should carry more.
FEW_REQUESTS = 10
#: Seconds until a throw-away session is gone, should it be left behind.
THROW_AWAY = 60


@dataclasses.dataclass
class Finding:
    """What was checked, with which result, and what to do if it is not ok."""

    what: str
    status: str
    text: str
    advice: str = ''
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def check(args: argparse.Namespace) -> Result:
    context = Context(args)
    findings = []
    try:
        for finding in run_checks(context):
            findings.append(finding)
    except SessionError as error:
        findings.append(Finding('DynamoDB', FAIL, str(error)))
    failed = sum(finding.status == FAIL for finding in findings)
    data = {
        'ok': not failed,
        'checks': [dataclasses.asdict(finding) for finding in findings],
    }
    verdict = 'OK: sessions can be kept here.'
    if failed:
        verdict = f'Not OK: {failed} of these failed.'
    lines = [*columns(finding_rows(findings)), '', verdict]
    return Result(data, lines, 1 if failed else 0)


def finding_rows(findings: list[Finding]) -> Iterator[tuple[str, str, str]]:
    for finding in findings:
        yield finding.status, finding.what, finding.text
        if finding.advice:
            yield '', '', f'-> {finding.advice}'


def run_checks(context: Context) -> Iterator[Finding]:
    """The findings; ends after one without which the next make no sense."""
    yield check_settings(context)
    yield from check_threads(context)
    yield check_credentials(context)
    start = time.time()
    found = context.call(lambda: describe_table(context))
    now = (start + time.time()) / 2
    if found is None:
        yield Finding(
            'table',
            FAIL,
            f'there is no table {context.settings.table} in {context.region}',
            context.command_line('create-table'),
        )
        return
    table = check_table(context, found['Table'])
    yield table
    if table.status == FAIL:
        return
    if context.settings.owner_index is not None:
        index = check_index(context, found['Table'])
        yield index
        if index.status == FAIL:
            return
    yield check_billing(found['Table'])
    yield check_ttl(context)
    headers = found['ResponseMetadata']['HTTPHeaders']
    yield check_clock(headers.get('date'), now)
    permissions = check_permissions(context)
    yield permissions
    if permissions.status == OK:
        yield check_round_trip(context.store, context.settings.transport)
        yield from check_other_transport(context)


def check_settings(context: Context) -> Finding:
    settings = context.settings
    text = f'{context.scope}, {context.region}, {context.endpoint}'
    if settings.lock_wait <= settings.lock_lease:
        return Finding(
            'settings',
            NOTE,
            text,
            f'lock_wait ({settings.lock_wait:g} s) above lock_lease '
            f'({settings.lock_lease:g} s), or a worker that crashes costs '
            'the next request an error',
        )
    return Finding('settings', OK, text)


def check_threads(context: Context) -> Iterator[Finding]:
    """Whether the requests that wait for one session leave threads to others.

    Where the number of threads is known from ``[server:main]``, and
    ``lock_queue_limit`` was set to a number.
    """
    server = context.server_settings()
    threads = server_threads(server)
    limit = context.settings.lock_queue_limit
    if threads is None or f'{PREFIX}lock_queue_limit' not in context.given:
        return
    figures = {'threads': threads, 'lock_queue_limit': limit}
    text = f'{threads} in [server:main], lock_queue_limit = {limit}'
    # besides those that wait, one holds the lock, and one is to stay free
    most = max(0, threads - 2)
    if isinstance(limit, int) and limit > most:
        yield Finding(
            'threads',
            NOTE,
            text,
            'requests that wait for one session can take all threads: set '
            f'lock_queue_limit to auto, or to {most} at most',
            figures,
        )
    else:
        yield Finding('threads', OK, text, figures=figures)


def server_threads(server: Mapping[str, str]) -> int | None:
    """How many threads serve requests; None where that is not known.

    :param server: the settings of ``[server:main]``.
    """
    name = server.get('use', '').removeprefix('egg:').partition('#')[0]
    if name not in SERVER_THREADS:
        return None
    try:
        return int(server.get('threads', SERVER_THREADS[name]))
    except ValueError:
        return None


def check_credentials(context: Context) -> Finding:
    """Where the credentials come from; never what they are."""
    if context.settings.client is not None:
        return Finding('credentials', OK, 'those of a client of your own')
    core = botocore_session(context.settings)
    credentials = boto3_session(core, context.settings).get_credentials()
    if credentials is None:
        return Finding(
            'credentials',
            FAIL,
            'boto3 finds none',
            REMEDIES['NoCredentialsError'],
        )
    source = credentials.method.replace('explicit', 'these settings')
    return Finding('credentials', OK, f'from: {source}')


def describe_table(context: Context) -> Any:
    """DynamoDB's reply that describes the table; None for no table."""
    try:
        return context.client.describe_table(TableName=context.settings.table)
    except Exception as error:
        if error_code(error) == 'ResourceNotFoundException':
            return None
        raise


def check_table(context: Context, table: dict[str, Any]) -> Finding:
    status = table['TableStatus']
    try:
        key_name = hash_key_name(context.settings.table, table)
    except ConfigurationError as error:
        return Finding('table', FAIL, str(error))
    count, weight = table['ItemCount'], table['TableSizeBytes']
    text = (
        f'{status}, key {key_name}, {number_of(count, "item")}, {size(weight)}'
    )
    figures = {'items': count, 'bytes': weight}
    if status not in ('ACTIVE', 'UPDATING'):
        return Finding('table', FAIL, text, 'wait until it is ACTIVE', figures)
    return Finding('table', OK, text, figures=figures)


def check_index(context: Context, table: dict[str, Any]) -> Finding:
    """The index ``owner_index``, by which users are signed out everywhere."""
    name = str(context.settings.owner_index)
    what = 'owner index'
    found = find_index(table, name)
    if found is None:
        advice = context.command_line('create-table')
        return Finding(what, FAIL, f'there is no index {name}', advice)
    fault = index_fault(table, found)
    if fault:
        advice = 'set owner_index to another name, and run create-table'
        return Finding(what, FAIL, f'{name} {fault}', advice)
    status = index_status(found)
    if status == 'CREATING':
        advice = 'wait until it is ACTIVE'
        return Finding(what, FAIL, f'{name}, {status}', advice)
    return Finding(what, OK, f'{name}, {status}')


def check_billing(table: dict[str, Any]) -> Finding:
    """How the table is paid for, and how many requests that carries.

    A locked request writes twice, and each write costs a unit per KB.
    """
    text = billing(table)
    reads, writes = provisioned_units(table)
    if text == ON_DEMAND:
        return Finding('billing', OK, text)
    each = table['TableSizeBytes'] / (table['ItemCount'] or 1)
    units = 2 * max(1, write_units(each))
    requests = writes / units
    text += (
        f': {requests:,.3g} locked requests a second, of sessions of '
        f'{units // 2:,} KB at most'
    )
    figures = {
        'read_units': reads,
        'write_units': writes,
        'locked_requests_per_second': requests,
    }
    if requests >= FEW_REQUESTS:
        return Finding('billing', OK, text, figures=figures)
    return Finding(
        'billing',
        NOTE,
        text,
        'billing on demand, or more write units, unless auto scaling adds '
        'them',
        figures,
    )


def check_ttl(context: Context) -> Finding:
    wanted = context.settings.ttl_attribute
    try:
        found = time_to_live(context.client, context.settings.table)
    except Exception as error:
        return Finding('time to live', NOTE, f'not known: {error}')
    good, text = ttl_as_wanted(*found, wanted)
    if good:
        return Finding('time to live', OK, text)
    return Finding(
        'time to live',
        FAIL,
        text,
        'until it is on, expired sessions stay; to switch it on: '
        + context.command_line('create-table'),
    )


def check_clock(date: str | None, now: float) -> Finding:
    """Our clock, which said `now` when DynamoDB sent its ``Date``."""
    if date is None:
        return Finding('clock', NOTE, 'not known: this server sends no Date')
    # the header has whole seconds
    ahead = now - parsedate_to_datetime(date).timestamp() - 0.5
    figures = {'seconds_ahead': round(ahead, 1)}
    if abs(ahead) < 2:
        return Finding('clock', OK, "within 2 s of DynamoDB's", '', figures)
    side = 'ahead of' if ahead > 0 else 'behind'
    text = f"{abs(ahead):,.0f} s {side} DynamoDB's"
    status = NOTE if abs(ahead) < CLOCK_LIMIT else FAIL
    return Finding(
        'clock', status, text, 'synchronise it with NTP or chrony', figures
    )


def check_permissions(context: Context) -> Finding:
    name = hash_key(secrets.token_urlsafe(32), context.settings.application)
    allowed = context.sessions.permissions(name)
    missing = {action for action, is_held in allowed.items() if not is_held}
    held = [action for action in allowed if action not in missing]
    text = 'held: ' + ', '.join(['DescribeTable', *held])
    if missing:
        text += '; not held: ' + ', '.join(sorted(missing))
    if missing - OPERATORS:
        return Finding(
            'permissions',
            FAIL,
            text,
            context.command_line('policy', '--role', 'runtime'),
            allowed,
        )
    return Finding('permissions', OK, text, figures=allowed)


def check_round_trip(store: DynamoDBSessionStore, transport: str) -> Finding:
    """Create, lock, save, release and remove a session of our own."""
    what = f'round trip, {transport}'
    took: dict[str, float] = {}
    session_id = secrets.token_urlsafe(32)
    # connects, so that no step is charged for it
    store.get_item(session_id)
    start = time.perf_counter()

    def done(step: str) -> None:
        nonlocal start
        now = time.perf_counter()
        took[step] = round((now - start) * 1000, 1)
        start = time.perf_counter()

    record = store.create_new_store_data()
    record.timeout = THROW_AWAY
    try:
        store.set_and_release_item_exclusive(
            session_id, {'n': 1}, None, new_item=True, record=record
        )
        done('create')
        for step, items in (('save', {'n': 2}), ('release', None)):
            locked = store.get_item_exclusive(session_id)
            if locked is None or locked.lock_id is None:
                return Finding(
                    what, FAIL, 'a session just stored is not found'
                )
            done('lock')
            if items is not None:
                store.set_and_release_item_exclusive(
                    session_id, items, locked.lock_id, record=locked
                )
            else:
                store.release_item_exclusive(session_id, locked.lock_id)
            done(step)
    finally:
        store.remove_item(session_id)
    text = ', '.join(f'{step} {ms:g} ms' for step, ms in took.items())
    return Finding(what, OK, text, figures=took)


def check_other_transport(context: Context) -> Iterator[Finding]:
    """The same round trip on the transport that is not set, to compare.

    None for a client of the application's own, which is its own transport.
    """
    settings = context.settings
    if settings.client is not None:
        return
    (other,) = TRANSPORTS - {settings.transport}
    client = client_from_settings(
        dataclasses.replace(settings, transport=other)
    )
    store = DynamoDBSessionStore.from_settings(client, settings)
    try:
        finding = check_round_trip(store, other)
    except SessionError as error:
        yield Finding(f'round trip, {other}', NOTE, f'not in use; {error}')
    else:
        finding.text = f'not in use; {finding.text}'
        yield finding


COMMANDS = {
    'check': Command(
        check,
        'say whether sessions can be kept here, or what to do about it',
        """\
Check all that sessions need: the table and its key, billing, Time to Live,
the permissions that are really held, this machine's clock against DynamoDB's,
whether lock_queue_limit leaves threads of [server:main] free, and one round
trip of lock, save and release on each transport, with its latency. It works on
throw-away sessions that are removed at the end, and changes nothing else.

A `note` is worth knowing; a `FAIL` makes the exit status 1.""",
        """\
examples:
  dynamodb-session production.ini check
  dynamodb-session production.ini check --json | jq .checks[].figures
""",
    )
}
