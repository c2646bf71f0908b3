"""What a process made before a fork is not used after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyramid_dynamodb_session._process import PerProcess
from tests.support.forks import forked
from tests.support.servers import ROOT


def test_fork_in_c_shares_nothing(settings: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'tests.apps.fork_in_c', json.dumps(settings)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert 'DynamoDB failed' not in done.stdout


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_fork_waits_for_no_thread_of_its_parent() -> None:
    started, go_on = threading.Event(), threading.Event()

    def make() -> int:
        started.set()
        go_on.wait(10)
        return os.getpid()

    def makes_its_own() -> bool:
        # rather than wait for ever
        signal.alarm(20)
        go_on.set()
        return process.get() == os.getpid()

    process = PerProcess(make)
    with ThreadPoolExecutor() as threads:
        made = threads.submit(process.get)
        started.wait()
        assert forked(makes_its_own)
        assert not made.done()
        go_on.set()
    assert made.result() == os.getpid()
