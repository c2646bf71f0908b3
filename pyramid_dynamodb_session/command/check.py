"""``check``: whether sessions can be stored, and what to do if not."""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from pyramid.exceptions import ConfigurationError

from ..dynamodb.client import boto3_session, botocore_session
from ..dynamodb.errors import REMEDIES, error_code
from ..dynamodb.table import hash_key_name, time_to_live
from ..errors import SessionError
from ..store.item import hash_key
from ..store.lease import CLOCK_SKEW
from .context import Context
from .output import Command, Result, columns, size
from .tables import billing, ttl_as_wanted

OK, NOTE, FAIL = 'ok', 'note', 'FAIL'
#: What operators need and web servers don't.
OPERATORS = {'Scan'}
#: Seconds that this machine's clock may be off DynamoDB's: two machines that
#: are off to different sides must not differ by more than locks allow for.
CLOCK_LIMIT = CLOCK_SKEW / 2
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
    yield check_credentials(context)
    start = time.time()
    found = context.call(lambda: describe_table(context))
    now = (start + time.time()) / 2
    if found is None:
        yield Finding(
            'table',
            FAIL,
            f'there is no table {context.settings.table} in {context.region}',
            f'dynamodb-session {context.ini} create-table',
        )
        return
    table = check_table(context, found['Table'])
    yield table
    if table.status == FAIL:
        return
    yield Finding('billing', OK, billing(found['Table']))
    yield check_ttl(context)
    headers = found['ResponseMetadata']['HTTPHeaders']
    yield check_clock(headers.get('date'), now)
    permissions = check_permissions(context)
    yield permissions
    if permissions.status == OK:
        yield check_round_trip(context)


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
    text = f'{status}, key {key_name}, {count:,} items, {size(weight)}'
    figures = {'items': count, 'bytes': weight}
    if status not in ('ACTIVE', 'UPDATING'):
        return Finding('table', FAIL, text, 'wait until it is ACTIVE', figures)
    return Finding('table', OK, text, figures=figures)


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
        f'dynamodb-session {context.ini} create-table switches it on; until '
        'then expired sessions stay',
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
            f'dynamodb-session {context.ini} policy --role runtime',
            allowed,
        )
    return Finding('permissions', OK, text, figures=allowed)


def check_round_trip(context: Context) -> Finding:
    """Create, lock, save, release and remove a session of our own."""
    took: dict[str, float] = {}
    start = time.perf_counter()

    def done(step: str) -> None:
        nonlocal start
        now = time.perf_counter()
        took[step] = round((now - start) * 1000, 1)
        start = time.perf_counter()

    store, session_id = context.store, secrets.token_urlsafe(32)
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
                    'round trip', FAIL, 'a session just stored is not found'
                )
            done('lock')
            if items is not None:
                store.set_and_release_item_exclusive(
                    session_id, items, locked.lock_id, record=locked
                )
            else:
                store.release_item_exclusive(
                    session_id, locked.lock_id, record=locked
                )
            done(step)
    finally:
        store.remove_item(session_id)
    text = ', '.join(f'{step} {ms:g} ms' for step, ms in took.items())
    return Finding('round trip', OK, text, figures=took)


COMMANDS = {
    'check': Command(
        check,
        'say whether sessions can be kept here, or what to do about it',
        """\
Check all that sessions need: the table and its key, billing, Time to Live,
the permissions that are really held, this machine's clock against DynamoDB's,
and one round trip of lock, save and release, with its latency. It works on a
throw-away session that is removed at the end, and changes nothing else.

A `note` is worth knowing; a `FAIL` makes the exit status 1.""",
        """\
examples:
  dynamodb-session production.ini check
  dynamodb-session production.ini check --json | jq .checks[].figures
""",
    )
}
