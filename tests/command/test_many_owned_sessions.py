"""Thousands of sessions of one owner are ended, at a bounded rate."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pyramid_dynamodb_session import DynamoDBSessionStore
from pyramid_dynamodb_session.session import DynamoDBSession
from pyramid_dynamodb_session.store.owners import MOST_PER_SECOND
from pyramid_dynamodb_session.unit_of_work import UnitOfWork
from tests.support.command import PREFIX, Run

SESSIONS = 3000
#: At the rate, and some for its beginning.
SECONDS = SESSIONS / MOST_PER_SECOND - 1


@pytest.mark.soak
def test_thousands_of_sessions_of_one_owner_are_deleted(
    command: Run,
    client: Any,
    indexed_table: str,
    application: str,
) -> None:
    store = DynamoDBSessionStore(
        client,
        table=indexed_table,
        application=application,
        owner_index='Owner-index',
    )

    def begin(number: int) -> None:
        work = UnitOfWork(store)
        session = DynamoDBSession(work)
        session['n'] = number
        session.owner = 'anna' if number < SESSIONS else 'ben'
        work.persist()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(begin, range(SESSIONS + 5)))
    started = time.monotonic()
    output = command(
        *('delete', '--owner', 'anna', '--plain'),
        f'{PREFIX}owner_index=Owner-index',
        f'{PREFIX}table={indexed_table}',
    )
    seconds = time.monotonic() - started
    assert output.status == 0, output.err
    assert output.out == '3,000 sessions of the owner deleted.\n'
    # no faster than it may, however fast the table is
    assert seconds > SECONDS
    counts = re.findall(r'([\d,]+) sessions deleted', output.err)
    progress = [int(count.replace(',', '')) for count in counts]
    assert 2 <= len(progress) <= seconds / 10
    assert progress == sorted(progress)
    assert not list(store.sessions_of('anna'))
    assert len(list(store.sessions_of('ben'))) == 5
