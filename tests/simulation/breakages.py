"""Single-line breakages of the protocol, and how one is put into effect.

A breakage is a text in one file of the package, and what stands there
instead. The package is then loaded anew, from source, with that line changed;
files, byte code and the package as it was loaded before stay as they are.
Which runs find it is for :func:`find` to say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

from tests.simulation.run import Profile, run

PACKAGE = 'pyramid_dynamodb_session'


@dataclasses.dataclass(frozen=True)
class Breakage:
    """``new`` instead of ``old``, which ``module`` has exactly once.

    ``module`` is a dotted name below the package; ``kinds`` are those of the
    requests with which the protocol would be sound without it, none for all.
    """

    name: str
    module: str
    old: str
    new: str
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


class BrokenLoader(importlib.machinery.SourceFileLoader):
    """Compiles a module with one line changed, and caches nothing."""

    breakage: Breakage

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        source = self.get_data(path).decode()
        count = source.count(self.breakage.old)
        if count != 1:
            raise LookupError(
                f'{self.breakage.name}: {count} times in {path}: '
                f'{self.breakage.old!r}'
            )
        source = source.replace(self.breakage.old, self.breakage.new)
        return compile(source, path, 'exec', dont_inherit=True)


class BreakingFinder(importlib.abc.MetaPathFinder):
    """Finds the module that is to be broken."""

    def __init__(self, breakage: Breakage) -> None:
        self._breakage = breakage
        self._name = f'{PACKAGE}.{breakage.module}'

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        loader = BrokenLoader(fullname, spec.origin)
        loader.breakage = self._breakage
        return importlib.util.spec_from_file_location(
            fullname,
            spec.origin,
            loader=loader,
            submodule_search_locations=spec.submodule_search_locations,
        )


@contextlib.contextmanager
def broken(breakage: Breakage) -> Iterator[None]:
    """Have the package be loaded with this breakage, until the end."""

    def is_ours(name: str) -> bool:
        return name == PACKAGE or name.startswith(f'{PACKAGE}.')

    finder = BreakingFinder(breakage)
    before = {name: sys.modules.pop(name) for name in ours(is_ours)}
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module(PACKAGE)
        importlib.import_module(f'{PACKAGE}.{breakage.module}')
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in ours(is_ours):
            del sys.modules[name]
        sys.modules.update(before)


def ours(is_ours: Any) -> list[str]:
    return [name for name in sys.modules if is_ours(name)]


#: Requests with which the protocol of locks alone is sound.
LOCKING = (
    'write',
    'write by default',
    'read',
    'read_only',
    'crash',
    'redirect',
    'save midway',
)

BREAKAGES = (
    Breakage(
        'no LockCount in the condition of a save',
        'expressions',
        "OURS_STILL = f'{OURS} AND LockCount = :count'",
        "OURS_STILL = f'{OURS} AND (:count = :count)'",
        LOCKING,
    ),
    Breakage(
        'a lost lock is taken for a lost reply',
        'locking',
        'return taken_over_at(item) < lock.count <= lock_count(item)',
        'return True',
        LOCKING,
    ),
    Breakage(
        'a lost reply is taken for a lost lock',
        'locking',
        'return taken_over_at(item) < lock.count <= lock_count(item)',
        'return False',
        LOCKING,
    ),
    Breakage(
        'no condition on a save and an unlock',
        'expressions',
        '    return OURS_STILL, values',
        "    return '(:me = :me OR :count = :count)', values",
        LOCKING,
    ),
    Breakage(
        'a lock is taken whoever holds it',
        'expressions',
        "FREE = f'{ALIVE} AND attribute_not_exists(LockId)'",
        "FREE = f'{ALIVE}'",
        LOCKING,
    ),
    Breakage(
        'a take-over does not ask from whom',
        'expressions',
        "f'{ALIVE} AND LockId = :dead AND LockDate = :since'",
        "f'{ALIVE} AND (:dead = :dead OR :since = :since)'",
        LOCKING,
    ),
    Breakage(
        'a take-over leaves no trace',
        'expressions',
        'TakenOver = if_not_exists(LockCount, :zero)',
        'TakenOver = :zero',
        LOCKING,
    ),
    Breakage(
        'a lock counts as dead after half a lease',
        'lock',
        'self.watched >= self._lease\n',
        'self.watched >= self._lease / 6\n',
        LOCKING,
    ),
    Breakage(
        'nothing is renewed',
        'lock',
        'elif held.since <= due:',
        'elif held.since <= due - 1e6:',
        LOCKING,
    ),
    Breakage(
        'a save does not unlock',
        'expressions',
        "UNLOCK = ' REMOVE LockId, LockDate'",
        "UNLOCK = ' REMOVE Flags'",
        LOCKING,
    ),
    Breakage(
        'a finished request keeps its lock',
        'session',
        '        lock_id, self._lock_id = self._lock_id, None\n'
        '        if lock_id is None:\n',
        '        lock_id = None\n        if lock_id is None:\n',
        (*LOCKING, 'fail at first'),
    ),
    Breakage(
        'the dead are waited for forever',
        'lock',
        'self.watched >= self._lease\n',
        'self.watched >= 1e6\n',
        LOCKING,
    ),
    Breakage(
        'a lost lock is a successful save',
        'store',
        'if not (item and lock and was_given(lock, item)):',
        'if not item:',
        LOCKING,
    ),
    Breakage(
        'the cookie of a new session is not sent',
        'factory',
        'elif session_id != self._sent_id or (',
        'elif session_id == self._sent_id or (',
        LOCKING,
    ),
    Breakage(
        'unchanged sessions are not unlocked',
        'session',
        '            self._store.release_item_exclusive(\n'
        '                session_id, lock_id, record=record\n',
        '            (lambda *args, **more: None)(\n'
        '                session_id, lock_id, record=record\n',
        LOCKING,
    ),
)


def profile(breakage: Breakage) -> Profile:
    """What to look for a breakage with."""
    found = Profile()
    if breakage.kinds:
        found.kinds = {kind: found.kinds[kind] for kind in breakage.kinds}
    return found


def find(breakage: Breakage, histories: int = 60, seed: int = 0) -> str | None:
    """What finds it, and after how many requests; None if nothing does."""
    requests = 0
    with broken(breakage):
        for number in range(seed, seed + histories):
            statistics = run(number, 300, profile(breakage))
            requests += statistics.requests
            if statistics.violations:
                kinds = ', '.join(statistics.violations)
                return f'{kinds}, after {requests} requests'
    return None
