"""Single-line breakages of the protocol, and what finds them."""

from __future__ import annotations

from tests.simulation.client import FaultRates
from tests.simulation.exhaustive import PAIRED, SKEW, explore, pairs
from tests.simulation.loading import Breakage, broken
from tests.simulation.run import Profile, run

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
        "OURS_STILL = f'{OURS} AND (LockCount = :count OR Ver <> :count)'",
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
        "    return f'({OURS_STILL} OR Ver <> :count)', values",
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
        "f'{ALIVE} AND (LockId = :dead OR Ver <> :since)'",
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


#: Duplicates that come late, and little else.
LATE = FaultRates(
    attempt=0.2,
    weights={'late': 1, 'duplicate': 2, 'reply lost': 0.5, 'slow': 0.5},
)


def profiles(breakage: Breakage) -> list[Profile]:
    """What to look for a breakage with, in turn.

    Where only some kinds of requests are sound, clocks have to be right too.
    """
    usual, late = Profile(), Profile(faults=LATE, kills=0, stops=0)
    for profile in (usual, late):
        if breakage.kinds:
            profile.kinds = {
                kind: profile.kinds[kind] for kind in breakage.kinds
            }
            profile.clock_error = 1
            profile.clock_jumps = profile.refused_threads = 0
    return [usual, late]


def find(breakage: Breakage, histories: int = 30, seed: int = 0) -> str | None:
    """What finds it, and when: random histories, or else all schedules."""
    with broken(breakage):
        return find_at_random(breakage, histories, seed) or find_in_schedules(
            breakage
        )


def find_at_random(
    breakage: Breakage, histories: int, seed: int
) -> str | None:
    requests = 0
    for number in range(seed, seed + histories):
        for profile in profiles(breakage):
            statistics = run(number, 300, profile)
            requests += statistics.requests
            if statistics.violations:
                kinds = ', '.join(statistics.violations)
                return f'{kinds}; after {requests:,} requests'
    return None


def find_in_schedules(breakage: Breakage) -> str | None:
    schedules = 0
    skew = 0 if breakage.kinds else SKEW
    paired = tuple(
        kind for kind in PAIRED if not breakage.kinds or kind in breakage.kinds
    )
    for disturbances in (1, 2):
        for placed, faults in pairs(paired=paired):
            report = explore(placed, faults, 3000, disturbances, skew)
            schedules += report.schedules
            if report.violations:
                kinds = ', '.join(report.violations)
                return f'{kinds}; after {schedules:,} schedules'
    return None
