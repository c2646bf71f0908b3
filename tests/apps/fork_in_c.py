"""A process that forks in C with all that it holds, as uWSGI does.

``python -m tests.apps.fork_in_c``, with the settings of the sessions as JSON
on the command line. It ends with 0 if parent and child share nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

import pytest

from pyramid_dynamodb_session import (
    DynamoDBSessionFactory,
    SessionLockTimeout,
    session_factory_from_settings,
)
from pyramid_dynamodb_session.unit_of_work import UnitOfWork
from tests.support.sessions import create, items

LEASE = 1


def main(settings: dict[str, str]) -> None:
    factory = session_factory_from_settings(
        {
            **settings,
            'dynamodb_session.lock_lease': str(LEASE),
            'dynamodb_session.lock_wait': '0',
        }
    )
    store = factory.store
    for session_id in ('parent', 'child', 'held'):
        create(store, session_id, whose=session_id)
    work = UnitOfWork(store, 'held')
    work.write()['whose'] = 'changed'

    # with the GIL, which a thread that is no more might keep for ever
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        run_child(factory, work)
    read_often(store, 'parent')
    assert os.waitpid(child, 0)[1] == 0
    # neither saved nor released, and renewed all the time
    assert items(store, 'held') == {'whose': 'held'}
    work.persist()
    assert items(store, 'held') == {'whose': 'changed'}


def run_child(factory: DynamoDBSessionFactory, work: UnitOfWork) -> None:
    status = 1
    # rather than wait for ever
    signal.alarm(30)
    try:
        check_child(factory.store, work)
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def check_child(store: Any, work: UnitOfWork) -> None:
    read_often(store, 'child')
    # the queue is empty, but the session is locked
    with pytest.raises(SessionLockTimeout, match='another request held'):
        store.get_item_exclusive('held')
    assert store._locks.holder(work.record.lock_id) is None
    work.persist()
    work.release()
    with pytest.raises(SessionLockTimeout, match='another request held'):
        store.get_item_exclusive('held')
    own = UnitOfWork(store, 'child')
    own.write()['n'] = 1
    time.sleep(2 * LEASE)
    own.persist()
    assert items(store, 'child') == {'whose': 'child', 'n': 1}


def read_often(store: Any, session_id: str) -> None:
    for _ in range(100):
        assert items(store, session_id) == {'whose': session_id}


if __name__ == '__main__':
    main(json.loads(sys.argv[1]))
