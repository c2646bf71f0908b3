"""Knows every version that the table ever had, and says what is wrong.

Every committed version must be the one before it and, at most, the token of
the request that committed it. What a request was answered must agree with
what it committed, what it read must have been committed, and what ended must
stay ended.
"""

from __future__ import annotations

from collections import Counter

from tests.simulation.application import item_name
from tests.simulation.client import Call, Server, short
from tests.simulation.database_checker import DATABASE_ERRORS, DatabaseChecker
from tests.simulation.kinds import TIMEOUT
from tests.simulation.observations import (
    Data,
    HeldLock,
    Request,
    Violation,
    parse,
)
from tests.simulation.owners_checker import OwnersChecker
from tests.simulation.ownership import SIGNS_OUT
from tests.simulation.scheduler import Process, World
from tests.simulation.table import Item

#: Seconds for which a session that has ended is known to have ended.
OVERTAKEN = 10
#: Seconds by which leases may be longer than they say: whole seconds in
#: ``LockDate`` and in the ``Date`` header, a poll, a few calls.
TOLERANCE = 4
#: Seconds that a call takes at the most, with all its attempts.
LONGEST_CALL = 16
#: Seconds by which wrong clocks and late writes may move ``Expires``.
CLOCKS = 2000
#: Errors that no view answers: of views and of the database.
EXPECTED_ERRORS = ('ViewFailed', 'RetryableException', *DATABASE_ERRORS)


class Checker:
    """Watches one world.

    :param lease: and `wait`: ``lock_lease`` and ``lock_wait``, in seconds.
    """

    def __init__(
        self,
        server: Server,
        lease: float,
        wait: float,
        set_on_exception: bool = True,
    ) -> None:
        self.world: World = server.world
        self.server = server
        server.committed = self.committed
        self.lease, self.wait = lease, wait
        self.set_on_exception = set_on_exception
        self.violations: list[Violation] = []
        #: what stood under each name, and since when; None for no session
        self.history: dict[str, list[tuple[float, Data | None]]] = {}
        self.ended: dict[str, float] = {}
        #: names of sessions that became others, by ``regenerate_id``
        self.successors: dict[str, str] = {}
        self.locks: dict[str, HeldLock] = {}
        self.in_flight: dict[int, Request] = {}
        self.users: dict[str, dict[int, Request]] = {}
        #: when a process last met a fault, by its id
        self.trouble: dict[int, float] = {}
        #: when it met one that its renewals suffer from
        self.background_trouble: dict[int, float] = {}
        #: when a lock was last taken over, and from which process
        self.taken_over: dict[str, tuple[float, Process]] = {}
        self.counts: Counter[str] = Counter()
        self.database = DatabaseChecker(self)
        self.owners = OwnersChecker(self)

    # -- saying so -------------------------------------------------------

    def violation(self, kind: str, text: str, *names: str | None) -> None:
        found = Violation(
            kind, text, self.world.now, tuple(name for name in names if name)
        )
        self.violations.append(found)
        self.world.note('VIOLATION', kind, text)

    # -- requests --------------------------------------------------------

    def start(self, request: Request, process: Process) -> None:
        request.checker = self
        request.process = process
        request.started = self.world.now
        self.in_flight[request.number] = request
        name = request.name
        self.world.note(
            'start',
            request,
            request.browser,
            request.kind.name,
            process,
            'no cookie' if name is None else short(name),
        )
        if name is None:
            return
        users = self.users.setdefault(name, {})
        for other in users.values():
            other.is_contended = request.is_contended = True
        users[request.number] = request
        if name in self.locks or self.data(name) is None:
            request.is_contended = True

    def begin_attempt(self, request: Request) -> None:
        """Its view runs, maybe once more."""
        self.database.begins(request)

    def data(self, name: str) -> Data | None:
        """What stands there now."""
        versions = self.history.get(name)
        return versions[-1][1] if versions else None

    def end(self, request: Request) -> None:
        """It was answered, or its process is no more."""
        request.ended = self.world.now
        del self.in_flight[request.number]
        process = request.process
        assert process is not None
        for name in {request.name, *request.created} - {None}:
            assert name is not None
            users = self.users.get(name, {})
            users.pop(request.number, None)
            lock = self.locks.get(name)
            if lock is not None and lock.process is process:
                self.mark_dead(name, lock)

    def is_used_in(self, name: str, process: Process) -> bool:
        if process.is_dead:
            return False
        users = self.users.get(name, {})
        return any(user.process is process for user in users.values())

    def mark_dead(self, name: str, lock: HeldLock) -> None:
        if lock.dead_since is None and not self.is_used_in(name, lock.process):
            lock.dead_since = self.world.now

    def killed(self, process: Process) -> None:
        requests = [
            request
            for request in self.in_flight.values()
            if request.process is process
        ]
        for request in requests:
            self.counts['killed'] += 1
            self.end(request)
        for name, lock in self.locks.items():
            if lock.process is process:
                self.mark_dead(name, lock)

    def disturbed(self, process: Process, call: Call | None = None) -> None:
        """A process was stopped, or cut off, or met a fault in a call."""
        self.trouble[process.pid] = self.world.now
        if call is None or call.request is None:
            self.background_trouble[process.pid] = self.world.now

    def stopped(self, process: Process) -> None:
        self.disturbed(process)
        for request in self.in_flight.values():
            if request.process is process:
                request.is_disturbed = True

    # -- what was read ---------------------------------------------------

    def read(
        self,
        request: Request,
        since: float,
        session_id: str | None,
        log: tuple[int, ...],
        user: str | None,
    ) -> None:
        now = request.read_at = self.world.now
        if request.loaded is None:
            request.loaded = now
        name = None if session_id is None else item_name(session_id)
        self.world.note(
            'read', request, name and short(name), log[-3:], len(log), user
        )
        if name is None:
            self._read_nothing(request, since, log)
            return
        if not any((call.ended or now) > since for call in request.calls):
            # it got the lock and the data from a request of its process,
            # and knows no more than DynamoDB has last confirmed of the lock
            since -= self.lease / 2
        for data in self._versions_between(name, since, now):
            found = ((), None) if data is None else (data.log, data.user)
            if found == (log, user):
                return
        text = f'{request} ({request.kind}) read {log[-5:]} of {short(name)}'
        for _, data in self.history.get(name, ()):
            if data is not None and data.log == log:
                self.violation('stale read', text, name)
                return
        self.violation('read what was never committed', text, name)

    def _read_nothing(
        self, request: Request, since: float, log: tuple[int, ...]
    ) -> None:
        name = request.name
        if log:
            text = f'{request} read {log[-5:]} of no session'
            self.violation('read what was never committed', text, name)
        elif name is not None:
            versions = self._versions_between(name, since, self.world.now)
            if None not in versions:
                text = (
                    f'{request} ({request.kind}) found no session, but '
                    f'{short(name)} was there all the time'
                )
                self.violation('living session not found', text, name)

    def _versions_between(
        self, name: str, since: float, until: float
    ) -> list[Data | None]:
        """What stood there at some time between."""
        found: list[Data | None] = []
        for time, data in reversed(self.history.get(name, [])):
            if time <= until:
                found.append(data)
            if time <= since:
                return found
        return [*found, None]

    # -- what was committed ----------------------------------------------

    def committed(
        self, call: Call, writes: list[tuple[str, Item | None, Item | None]]
    ) -> None:
        ended = [
            name
            for name, old, new in writes
            if self.data(name) is not None and parse(new) is None
        ]
        for name, old, new in writes:
            for user in self.users.get(name, {}).values():
                is_own = call.process is user.process and not call.request
                if user is not call.request and not is_own:
                    user.is_contended = True
            self._check_data(call, name, parse(new), ended, new)
            self._check_lock(call, name, old or {}, new or {})
        self.owners.committed(call, writes)

    def _check_data(
        self,
        call: Call,
        name: str,
        new: Data | None,
        ended: list[str],
        item: Item | None,
    ) -> None:
        old = self.data(name)
        if new is None:
            if old is not None:
                self._ended(call, name, item or {})
            return
        if item is not None and (old is None or new.payload != old.payload):
            self._check_expiry(name, item)
        if old is not None and new.payload == old.payload:
            return
        self.history.setdefault(name, []).append((self.world.now, new))
        request: Request | None = call.request
        who = f'{request} ({request.kind if request else "background"})'
        if old is None:
            if name in self.ended:
                text = f'{who} brought {short(name)} back'
                self.violation('an ended session came back', text, name)
            if request is not None:
                request.created.append(name)
                users = self.users.setdefault(name, {})
                if request.ended is None:
                    users[request.number] = request
            before = self.data(ended[0]) if ended else None
            log = before.log if before else ()
            names = (name, *ended)
            if ended:
                self.successors[ended[0]] = name
        else:
            log = old.log
            names = (name,)
        self._check_log(request, who, log, new.log, names)

    def _check_log(
        self,
        request: Request | None,
        who: str,
        old: tuple[int, ...],
        new: tuple[int, ...],
        names: tuple[str, ...],
    ) -> None:
        lost = [token for token in old if token not in new]
        if lost:
            text = f'{who} saved {short(names[0])} without {lost}'
            self.violation('lost', text, *names)
        before = Counter(old)
        doubled = [
            token
            for token, times in Counter(new).items()
            if times > max(1, before[token])
        ]
        if doubled:
            text = f'{who} saved {short(names[0])} with {doubled} twice'
            self.violation('doubled', text, *names)
        added = [token for token in new if token not in before]
        if request is None or added not in ([], [request.number]):
            text = f'{who} added {added} to {short(names[0])}'
            self.violation('saved what is not its own', text, *names)
            return
        if not added:
            return
        if request.committed:
            text = f'{who} is in {short(request.committed[0])} already'
            self.violation('doubled', text, *names, *request.committed)
        request.committed.append(names[0])
        self.database.saved(request)
        if request.verdict == 'not saved':
            text = f'{who} was saved after the answer {request.status}'
            self.violation('saved, it was said not', text, *names)

    def _check_expiry(self, name: str, item: Item) -> None:
        own = item.get('SessionTimeout')
        timeout = int(own['N']) if own else TIMEOUT
        expires = int(item['Expires']['N'])
        if expires < self.world.now + timeout - CLOCKS:
            text = f'{short(name)} expires too early, in {expires}'
            self.violation('timeout shrunk', text, name)

    def _ended(self, call: Call, name: str, item: Item) -> None:
        self.history[name].append((self.world.now, None))
        self.ended[name] = self.world.now
        if call.faults and 'Ended' in item:
            # a late end says when it was sent
            sent = float(item['Ended']['N'])
            self.ended[name] = min(sent, self.world.now)
        request: Request | None = call.request
        if request is None:
            self.violation('ended by nobody', short(name), name)
            return
        if self.owners.is_removing(call):
            return
        request.has_ended.append(name)
        kind = request.kind
        may_move = 'login' in kind.name or kind.ownership == SIGNS_OUT
        if not kind.ends and not may_move:
            text = f'{request} ({request.kind}) ended {short(name)}'
            self.violation('ended by nobody', text, name)
        if request.verdict == 'not saved':
            text = f'{request} ended {short(name)} after its answer'
            self.violation('saved, it was said not', text, name)

    # -- locks -----------------------------------------------------------

    def _check_lock(self, call: Call, name: str, old: Item, new: Item) -> None:
        before = old.get('LockId')
        after = new.get('LockId')
        lock = self.locks.get(name)
        is_ended = parse(new) is None
        if after is None or is_ended:
            # the lock of a session that has ended is of no importance
            if lock is not None:
                del self.locks[name]
                if call.process is not lock.process and not is_ended:
                    text = f'{call.request} unlocked {short(name)}'
                    self.violation('unlocked by another', text, name)
            return
        if after != before:
            if lock is not None and lock.process is not call.process:
                self._taken_over(call, name, lock)
            request = call.request
            lock = HeldLock(after['S'], call.process, call, self.world.now)
            lock.is_stray = request is None or request.ended is not None
            if call.faults:
                # it may have been on its way for so long that it looks old
                date = float(new.get('LockDate', {'N': 0})['N'])
                lock.renewed = min(date, self.world.now)
            self.locks[name] = lock
            self.mark_dead(name, lock)
        elif old.get('LockDate') != new.get('LockDate') and lock is not None:
            self._renewed(call, name, lock)

    def _taken_over(self, call: Call, name: str, lock: HeldLock) -> None:
        self.counts['taken over'] += 1
        now = self.world.now
        self.taken_over[name] = now, lock.process
        if lock.dead_since is not None or lock.process.is_stopped:
            return
        age = now - lock.renewed
        text = (
            f'{call.request} took the lock of {short(name)} from '
            f'{lock.process}, which renewed it {age:.1f} s ago'
        )
        trouble = now - self.background_trouble.get(lock.process.pid, 0)
        if age < self.lease - 2:
            self.violation('living holder robbed', text, name)
        elif trouble > age + TOLERANCE and not lock.call.faults:
            self.violation('lock not renewed', text, name)

    def _renewed(self, call: Call, name: str, lock: HeldLock) -> None:
        now = self.world.now
        lock.renewed = now
        if call.process is not lock.process:
            text = f'{call.process} renewed {short(name)} of {lock.process}'
            self.violation('renewed by another', text, name)
        if lock.dead_since is None:
            return
        if call.ended is not None:
            # a late duplicate keeps it for one more lease
            lock.dead_since = now
        elif now - lock.dead_since > LONGEST_CALL:
            text = (
                f'{short(name)} was renewed {now - lock.dead_since:.1f} s '
                'after its holder had ended'
            )
            self.violation('renewed after the end', text, name)

    # -- answers ---------------------------------------------------------

    def answered(self, request: Request) -> None:
        """Its process has made an answer."""
        self.world.note(
            'answer',
            request,
            request.status,
            request.error,
            request.outcome,
            'cookie '
            + (
                short(item_name(request.set_cookie))
                if request.set_cookie
                else repr(request.set_cookie)
            ),
        )
        request.verdict = self._verdict(request)
        if self._saved_before_it_failed(request):
            # its first attempt may have been saved
            request.verdict = 'unknown'
        self.counts[self._answer(request)] += 1
        self._check_outcome(request)
        self.database.answered(request)
        self._check_new_id(request)
        self._check_wait(request)
        self._check_calls(request)
        self.end(request)
        self._check_released(request)

    def _answer(self, request: Request) -> str:
        if request.error == 'SessionStoreUnavailable':
            return f'503 {request.error}, {request.outcome}'
        return f'{request.status} {request.error}'.strip()

    def _saved_before_it_failed(self, request: Request) -> bool:
        return 'save, fail' in request.kind.name and request.status != 200

    def _verdict(self, request: Request) -> str:
        """``saved``, ``not saved`` or ``unknown``, as its client takes it."""
        kind, status, error = request.kind, request.status, request.error
        if status in kind.statuses:
            if self.set_on_exception or status == 200:
                return 'saved'
            return 'not saved'
        is_write = kind.writes or kind.ends
        if status == 409 and is_write:
            self._check_conflict(request)
            return 'not saved'
        if error == 'SessionLockTimeout':
            self._check_timeout(request)
            return 'not saved'
        if error == 'SessionStoreUnavailable':
            certain = request.outcome == 'not saved'
            return 'not saved' if certain else 'unknown'
        if status == 500 and error in EXPECTED_ERRORS:
            return 'not saved'
        text = f'{request} ({kind}) was answered {status} {error}'
        self.violation('unexpected answer', text, request.name)
        return 'unknown'

    def _check_outcome(self, request: Request) -> None:
        kind, verdict = request.kind, request.verdict
        names = (request.name, *request.committed)
        who = f'{request} ({kind})'
        said = f'{request.status} {request.error}'
        if kind.writes and verdict == 'saved' and not request.committed:
            self.violation('not saved, it was said so', f'{who}: {said}')
        if kind.writes and verdict == 'not saved' and request.committed:
            text = f'{who}: {said}'
            self.violation('saved, it was said not', text, *names)
        name = request.name
        if kind.ends and verdict == 'saved' and name and self.data(name):
            self.violation('not ended, it was said so', f'{who}', name)
        if verdict == 'not saved' and request.has_ended:
            text = f'{who}: {said}'
            self.violation('ended, it was said not', text, name)

    def _check_conflict(self, request: Request) -> None:
        name = request.name
        lock = self.locks.get(name) if name else None
        if request.error != 'SessionConflict' or lock is None:
            return
        if lock.dead_since is not None and not self._has_faults(request):
            since = self.world.now - lock.dead_since
            if since > self.lease + self.wait + TOLERANCE:
                text = f'{request}: the lock is dead for {since:.1f} s'
                self.violation('dead lock blocks', text, name)

    def _check_timeout(self, request: Request) -> None:
        """Nobody must have waited for the dead alone."""
        name = request.name
        lock = self.locks.get(name) if name else None
        if lock is None or lock.dead_since is None:
            return
        waited = self.world.now - max(request.started, lock.dead_since)
        trouble = self.world.now - self.trouble.get(
            getattr(request.process, 'pid', 0), 0
        )
        if waited > self.lease + TOLERANCE and trouble > waited:
            text = f'{request}: the lock is dead for {waited:.1f} s'
            self.violation('dead lock blocks', text, name)

    def _has_faults(self, request: Request) -> bool:
        return request.is_disturbed or any(
            call.faults for call in request.calls
        )

    def _check_new_id(self, request: Request) -> None:
        """A session that was made must reach the browser."""
        if request.status == 500 and request.error in EXPECTED_ERRORS:
            return
        ids = []
        if request.created and request.verdict == 'saved':
            ids.append(request.created[-1])
        if request.saved_id is not None:
            ids.append(item_name(request.saved_id))
        sent = request.set_cookie
        sent_name = item_name(sent) if sent else None
        for name in ids[-1:]:
            # one that ended at once need not be known
            if self.data(name) is None or name == request.name:
                continue
            if sent_name != name:
                text = (
                    f'{request} ({request.kind}) made {short(name)}, and '
                    f'its answer {request.status} does not tell'
                )
                self.violation('new id not sent', text, name)

    def _check_wait(self, request: Request) -> None:
        if request.is_disturbed or request.fiber is None:
            return
        waited = request.fiber.blocked_for['wait']
        most = (self.wait + 1) * max(1, request.attempts) + 2
        if waited > most:
            text = f'{request} ({request.kind}) waited for {waited:.1f} s'
            self.violation('waited too long', text, request.name)

    def _check_released(self, request: Request) -> None:
        """Who has ended well must not have left a lock behind."""
        name, process = request.name, request.process
        lock = self.locks.get(name) if name else None
        if lock is None or lock.process is not process or process is None:
            return
        is_calm = self.trouble.get(process.pid, 0) < request.started
        is_left = lock.dead_since == self.world.now and not lock.is_stray
        if is_left and is_calm:
            text = f'{request} ({request.kind}) left {short(name or "")}'
            self.violation('lock left behind', text, name)

    def _check_calls(self, request: Request) -> None:
        """The contract's calls, where nobody is in the way."""
        expected = self._expected_calls(request)
        if (
            expected is None
            or request.is_contended
            or request.attempts > 1
            or request.status not in (200, 303, 400)
            or not self.set_on_exception
            or self._has_faults(request)
            or self._has_stale_lock(request)
        ):
            return
        calls = [call.operation for call in request.calls]
        count = len(calls)
        is_touched = (
            expected == 1
            and not request.kind.writes
            and calls == ['get_item', 'update_item']
        )
        if count != expected and not is_touched:
            text = f'{request} ({request.kind}) made {calls}'
            self.violation('calls', text, request.name)

    def _expected_calls(self, request: Request) -> int | None:
        kind = request.kind
        expected = kind.calls[request.name is None]
        if (
            expected is not None
            and request.uses_database
            and request.name is not None
            and (kind.state, kind.writes) == ('optimistic', True)
        ):
            # the vote locks
            return expected + 1
        return expected

    def _has_stale_lock(self, request: Request) -> bool:
        """Whether the vote may have to confirm a lock once more.

        It may be confirmed half a lease ago, when its renewal is just due.
        """
        pid = getattr(request.process, 'pid', 0)
        trouble = self.background_trouble.get(pid, 0)
        held = self.world.now - request.started
        return request.uses_database and (
            trouble > request.started or held > self.lease / 2
        )

    def lost_since(self, request: Request) -> float | None:
        """When a session that a request was to save was lost to it."""
        name = request.name or ''
        losses = [
            time
            for time, data in self.history.get(name, ())
            if data is None and name not in request.has_ended
        ]
        if name in self.taken_over and request.read_at is not None:
            time, process = self.taken_over[name]
            if process is request.process and time > request.read_at:
                losses.append(time)
        return min(losses, default=None)

    # -- browsers --------------------------------------------------------

    def arrived(self, request: Request, jar: str | None) -> None:
        """An answer reached its browser, which has the cookie `jar`."""
        new = request.set_cookie
        if new is None or jar is None or new == jar:
            return
        name = item_name(jar)
        data = self.data(name)
        if data is None or self._may_replace(request):
            return
        what = 'login lost' if data.user else 'session lost'
        text = f'{request} ({request.kind}), {request.status}, ' + (
            f'replaces the cookie of {short(name)} with that of '
            f'{short(item_name(new))}'
            if new
            else f'removes the cookie of {short(name)}'
        )
        self.violation(what, text, name, request.name)

    def _may_replace(self, request: Request) -> bool:
        """Whether an answer may overwrite whatever cookie there is.

        That of a request without a cookie can't know better, nor that of
        one that came long after its session had ended; who logs out means
        it, and who has moved the living session that it was sent for can't
        know that the browser has another by now.
        """
        name = request.name
        if name is None or request.kind.ends or name in request.has_ended:
            return True
        if name not in self.ended:
            return False
        loaded = request.started if request.loaded is None else request.loaded
        return loaded - self.ended[name] > OVERTAKEN - 2
