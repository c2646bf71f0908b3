"""Values of which each process has its own."""

from __future__ import annotations

import os
import threading

from pyramid_dynamodb_session._process import PerProcess
from tests.support.forks import forked
from tests.support.together import together


class Made:
    """Knows who made it."""

    def __init__(self) -> None:
        self.pid = os.getpid()


def test_value_is_made_once_at_its_first_use() -> None:
    barrier = threading.Barrier(8)
    made: list[Made] = []

    def make() -> Made:
        made.append(Made())
        return made[-1]

    value = PerProcess(make)
    assert made == []

    def get() -> Made:
        barrier.wait()
        # as one who has found none yet
        return value._make_once()

    assert set(together([get] * 8)) == {value.get()} == set(made)


def test_forked_process_makes_its_own_whoever_held_the_mutex() -> None:
    value = PerProcess(Made)
    parents = value.get()

    def makes_its_own() -> bool:
        own = value.get()
        return own.pid == os.getpid() != parents.pid and value.get() is own

    assert forked(makes_its_own)
    with value._mutexes.setdefault(os.getpid(), threading.Lock()):
        assert forked(makes_its_own)
    assert value.get() is parents
