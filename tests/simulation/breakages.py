"""Single-line breakages of the protocol, and what finds them.

None of the runs knows what it is to find: they are the random histories and
the schedules of all.
"""

from __future__ import annotations

from tests.simulation.client import FaultRates
from tests.simulation.exhaustive import explore, pairs
from tests.simulation.loading import Breakage, broken
from tests.simulation.run import Profile, run

BREAKAGES = (
    Breakage(
        'no LockCount in the condition of a save',
        'store.expressions',
        "LOCK_HELD = f'{LOCK_ID_HELD} AND LockCount = :count'",
        "LOCK_HELD = f'{LOCK_ID_HELD} AND Ver <> :count'",
    ),
    Breakage(
        'no LockId in the condition of a save',
        'store.expressions',
        "LOCK_ID_HELD = f'LockId = :me AND {NOT_ENDED}'",
        "LOCK_ID_HELD = f'Ver <> :me AND {NOT_ENDED}'",
    ),
    Breakage(
        'no Ended in the condition of a save',
        'store.expressions',
        "LOCK_ID_HELD = f'LockId = :me AND {NOT_ENDED}'",
        "LOCK_ID_HELD = 'LockId = :me'",
    ),
    Breakage(
        'no Ended in the condition of a lock',
        'store.expressions',
        "LIVING = f'{UNEXPIRED} AND {NOT_ENDED}'",
        "LIVING = f'{UNEXPIRED}'",
    ),
    Breakage(
        'a lock is taken whoever holds it',
        'store.expressions',
        "FREE = f'{LIVING} AND {UNLOCKED}'",
        "FREE = f'{LIVING}'",
    ),
    Breakage(
        'a take-over does not ask from whom',
        'store.expressions',
        'LockId = :holder AND LockDate = :since',
        '(LockId = :holder OR Ver <> :since)',
    ),
    Breakage(
        'Version is not compared',
        'store.expressions',
        "return 'Version = :version', {':version': number(version)}",
        "return 'Ver <> :version', {':version': number(version)}",
    ),
    Breakage(
        'a save under the lock does not count',
        'store.locks',
        "if handed_on else ('Version',)",
        "if handed_on else ('Flags',)",
    ),
    Breakage(
        'handing on does not count the holder',
        'store.locks',
        "add=('LockCount', 'Version') if handed_on else ('Version',)",
        "add=('Version',)",
    ),
    Breakage(
        'no list of take-overs',
        'store.locks',
        "attributes['TakenOver'] = remembered(",
        "attributes['Never'] = remembered(",
    ),
    Breakage(
        'no receipts of saves under the lock',
        'store.writes',
        '        if record.receipts:\n            # the list',
        '        if False:\n            # the list',
    ),
    Breakage(
        'no receipt of an optimistic save',
        'store.writes',
        'remembered(receipt, record.receipts, RECEIPTS)\n        condition',
        "remembered('x' * 8, record.receipts, RECEIPTS)\n        condition",
    ),
    Breakage(
        'a removed session leaves no tombstone',
        'store.writes',
        "            'Ended': number(now),\n",
        "            'Flags': number(now),\n",
    ),
    Breakage(
        'an end does not ask for the lock',
        'store.writes',
        'condition, values = lock_held(LockId.parse(lock_id))\n',
        'condition, values = NOT_ENDED, {}\n',
    ),
    Breakage(
        'nothing is renewed',
        'store.lease',
        'held.age() >= self._lease / 3',
        'held.age() >= self._lease * 1e6',
    ),
    Breakage(
        'a renewal does not ask who holds the lock',
        'store.locks',
        '        condition, values = lock_held(held.lock)\n'
        '        # it always moves',
        "        condition, values = 'attribute_exists(Ver)', {}\n"
        '        # it always moves',
    ),
    Breakage(
        'a lock counts as dead after a sixth of a lease',
        'store.lease',
        'self.watched >= self._lease or',
        'self.watched >= self._lease / 6 or',
    ),
    Breakage(
        "a lock's age is told by the web server's clock",
        'store.locks',
        'wait.lease_expired(observed, calls.now())',
        'wait.lease_expired(observed, time.time())',
    ),
    Breakage(
        'the dead are waited for forever',
        'store.lease',
        'self.watched >= self._lease or',
        'self.watched >= 1e6 or',
    ),
    Breakage(
        'a refused write counts as saved after a retry',
        'store.outcome',
        '    if lock.count in taken_over:\n        return Outcome.NOT_SAVED\n',
        '    if lock.count in taken_over:\n        return Outcome.SAVED\n',
    ),
    Breakage(
        'a lost reply counts as a lost lock',
        'store.outcome',
        '    if failed.is_only_attempt:\n'
        '        return Outcome.NOT_SAVED\n'
        '    if item is None:\n',
        '    if True:\n        return Outcome.NOT_SAVED\n'
        '    if item is None:\n',
    ),
    Breakage(
        'an unknown outcome counts as not saved',
        'dynamodb.calls',
        "'not saved' if certain else 'unknown'",
        "'not saved' if certain else 'not saved'",
    ),
    Breakage(
        'a retried optimistic save that was refused is not saved',
        'store.outcome',
        'return Outcome.SAVED if is_ours else Outcome.NOT_SAVED',
        'return Outcome.NOT_SAVED',
    ),
    Breakage(
        'a save does not unlock',
        'store.locks',
        'calls, held.name, held.lock, save, {}, LOCK, held.age()\n',
        'calls, held.name, held.lock, save, {}, (), held.age()\n',
    ),
    Breakage(
        'who gives up drops the lock that was on its way',
        'store.locks',
        '            ticket.process.holders.pop(held.lock_id, None)\n'
        '            self._pass_on',
        '            ticket.process.holders.pop(held.lock_id, None)\n'
        '            id',
    ),
    Breakage(
        'an heir goes on with what was read before',
        'store.locks',
        'inherited.record = save.saved_record()\n',
        'inherited.record = held.record\n',
    ),
    Breakage(
        'a request that was overtaken makes a rival session',
        'unit_of_work',
        '        if self.is_overtaken:\n            # by a logout',
        '        if False:\n            # by a logout',
    ),
    Breakage(
        'a request that was overtaken removes the cookie',
        'factory',
        'if saves and not work.is_overtaken and cookie.is_sent(request):',
        'if saves and cookie.is_sent(request):',
    ),
    Breakage(
        'the second attempt forgets the id that the first has stored',
        'factory',
        'stored_ids[self._factory.settings.cookie_name] = session_id',
        "stored_ids['nobody'] = session_id",
    ),
    Breakage(
        'the session does not vote',
        'transaction',
        '        self._work.prepare()\n',
        '        id(self._work.prepare)\n',
    ),
    Breakage(
        'the vote does not confirm the lock',
        'unit_of_work',
        'if not self._store.confirm_lock(self._lock_id):',
        'if not self._lock_id:',
    ),
    Breakage(
        'the vote takes any confirmation of the lock for a late one',
        'store.locks',
        'return held.age() < self._lease / 2 or self._renew(held)',
        'return held.age() < self._lease * 1e6 or self._renew(held)',
    ),
    Breakage(
        'the vote does not lock an optimistic session',
        'unit_of_work',
        '        elif self._is_stored:\n            self._lock(session_id)\n',
        '        elif False:\n            self._lock(session_id)\n',
    ),
    Breakage(
        'the vote locks an optimistic session of any version',
        'unit_of_work',
        'found = self._store.lock_unchanged(\n'
        '                session_id, self._record, owner=self\n',
        'found = self._store.find_item_exclusive(session_id, owner=self\n',
    ),
    Breakage(
        'the vote does not know of a logout',
        'unit_of_work',
        'if self.is_overtaken and (items or self._must_save):',
        'if False:',
    ),
    Breakage(
        'the vote saves the session',
        'unit_of_work',
        '            self._prepare(self.read())\n',
        '            self.persist()\n',
    ),
    Breakage(
        'the session votes after the database',
        'transaction',
        "return f'~dynamodb_session:{id(self)}'",
        "return f'~the_session:{id(self)}'",
    ),
    Breakage(
        'an error after the commit may be tried again',
        'unit_of_work',
        '    if self.transaction != NOT_COMMITTED:\n            error.tell',
        '    if False:\n            error.tell',
    ),
    Breakage(
        'an error after the commit is marked as retryable',
        'unit_of_work',
        '        elif not self.is_overtaken and isinstance(\n',
        '        if not self.is_overtaken and isinstance(\n',
    ),
    Breakage(
        'an error after the commit asks to try again',
        'errors',
        '            self.retry_after = None\n',
        '            self.retry_after = 1\n',
    ),
    Breakage(
        'a commit is not noticed',
        'transaction',
        "        if transaction.status == 'Committed':\n",
        "        if transaction.status == 'Done':\n",
    ),
    Breakage(
        'whoever owns it by now, a session is signed out',
        'store.expressions',
        "OWNED = f'#Owner = :owner AND {NOT_ENDED}'",
        "OWNED = f'(#Owner = :owner OR Ver <> :owner) AND {NOT_ENDED}'",
    ),
    Breakage(
        'a new id does not carry the owner',
        'store.moves',
        'create = self._writer.creation(new_name, data, new.record)',
        "create = data.pop('Owner', 0) and 0 or "
        'self._writer.creation(new_name, data, new.record)',
    ),
    Breakage(
        'the index of owners is looked at once',
        'store.owners',
        'SETTLED_AFTER = 1.0\n',
        'SETTLED_AFTER = 1e-9\n',
    ),
    Breakage(
        'the session that is to stay is signed out',
        'store.owners',
        'if session.name == keep or self._is_dead(session):',
        'if self._is_dead(session):',
    ),
)

#: Duplicates that come late, and little else.
LATE = FaultRates(
    attempt=0.2,
    weights={'late': 1, 'duplicate': 2, 'reply lost': 0.5, 'slow': 0.5},
)
#: Holders that are robbed, and timeouts that are adjusted.
KINDS = {
    **Profile().kinds,
    'login': 12,
    'adjust timeout': 6,
    'read_only': 16,
    'order': 24,
}
#: Sessions that change their owners while those are signed out.
OWNED = {
    'write': 5,
    'login, owner': 10,
    'optimistic login, owner': 10,
    'set owner': 20,
    'disown': 2,
    'sign out others': 3,
    'sign out elsewhere': 5,
}
PROFILES = (
    Profile(),
    Profile(faults=LATE, kills=0, stops=0),
    Profile(kinds=KINDS, stops=0.1, long_holds=0.1),
    Profile(kinds=OWNED, owned=1, browsers=(5,)),
)


def find(
    breakage: Breakage, histories: int = 30, seed: int = 1000
) -> str | None:
    """What finds it, and when: random histories, or else all schedules."""
    with broken(breakage):
        return find_at_random(histories, seed) or find_in_schedules()


def find_at_random(histories: int, seed: int) -> str | None:
    requests = 0
    for number in range(seed, seed + histories):
        for profile in PROFILES:
            statistics = run(number, 300, profile)
            requests += statistics.requests
            if statistics.violations:
                kinds = ', '.join(statistics.violations)
                return f'{kinds}; after {requests:,} requests'
    return None


def find_in_schedules() -> str | None:
    schedules = 0
    for disturbances in (1, 2):
        for placed, faults in pairs():
            report = explore(placed, faults, 1000, disturbances)
            schedules += report.schedules
            if report.violations:
                kinds = ', '.join(report.violations)
                return f'{kinds}; after {schedules:,} schedules'
    return None
