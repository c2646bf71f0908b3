"""A simulated database that commits, and how it votes in transactions.

The ``pyramid_tm`` and ``transaction`` packages are the real ones. A view adds
one row by :meth:`Database.add`; whether and when it is committed, and what
happens to the process just before and after, is for chance to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from transaction.interfaces import TransientError

from tests.simulation.scheduler import World

#: What may become of a transaction besides being committed.
FAILURES = {
    #: before anybody has voted
    'database failed before the vote': 1,
    'database refused': 2,
    #: as in a serialization failure: it may be tried again
    'database asked to retry': 3,
    #: committed, but the client does not learn of it
    'reply to a commit lost': 1,
}
#: What may befall the process: what, whether the database has committed by
#: then, and how often relative to each other.
INTERRUPTIONS = {
    ('stop', 'before'): 3,
    ('stop', 'after'): 3,
    ('kill', 'before'): 1,
    ('kill', 'after'): 1,
    ('cut off', 'after'): 2,
}


class DatabaseFailed(Exception):
    """Nothing was committed, or nobody knows."""


class SerializationFailure(TransientError):
    """Nothing was committed; the request may be run again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What one attempt of a request has stored.

    ``change`` is what it has put into its session besides; None for nothing.
    """

    request: Any
    attempt: int
    change: int | None


@dataclasses.dataclass
class DatabaseRates:
    """How likely a transaction fares badly, each with its own probability."""

    failure: float = 0.08
    interruption: float = 0.06
    #: that it takes longer than a lease
    slow: float = 0.03


class Database:
    """One table of rows, which every process shares.

    :param checker: told of votes and commits.
    :param interrupt: called with what befalls a request's process.
    :param rates: None for a database that never fails and takes no time.
    """

    def __init__(
        self,
        world: World,
        checker: Any,
        lease: float = 0,
        interrupt: Callable[[str, Any], None] | None = None,
        rates: DatabaseRates | None = None,
    ) -> None:
        self.world = world
        self.checker = checker
        self.lease = lease
        self.rates = rates
        self._interrupt = interrupt

    def add(self, request: Any, script: Any, change: int | None) -> None:
        """Store a row, if the transaction of the request commits."""
        row = Row(script, script.attempts, change)
        request.tm.get().join(DataManager(self, row))

    def draw_failure(self) -> str:
        """What becomes of a transaction; '' if it is committed."""
        return self._draw('failure', FAILURES) or ''

    def interrupt(self, row: Row, when: str) -> None:
        """Maybe something happens to the process, and it goes on after."""
        drawn = self._draw('interruption', INTERRUPTIONS)
        if drawn is not None and drawn[1] == when:
            assert self._interrupt is not None
            self.world.note('interrupted', row.request, *drawn)
            self._interrupt(drawn[0], row.request.process)
            # a stopped process goes on when it is told to
            self.world.sleep(1e-6, 'view')

    def work(self) -> None:
        """Take the time of a statement."""
        if self.rates is None:
            return
        draw = self.world.random.random
        seconds = 0.02 * draw() ** 2
        if draw() < self.rates.slow:
            seconds = 2 * self.lease * draw()
        self.world.sleep(seconds, 'view')

    def commit(self, row: Row) -> None:
        self.world.note('row', row.request, row.attempt, row.change)
        self.checker.committed(row)

    def _draw(self, rate: str, weights: dict[Any, int]) -> Any:
        if self.rates is None:
            return None
        draw = self.world.random
        if draw.random() >= getattr(self.rates, rate):
            return None
        return draw.choices(list(weights), list(weights.values()))[0]


class DataManager:
    """The vote of the database in one transaction, after the session's.

    One half of them commits in its vote, as ``zope.sqlalchemy`` does it, the
    other half in the second phase.
    """

    transaction_manager = None

    def __init__(self, database: Database, row: Row) -> None:
        self._database = database
        self._row = row
        self._failure = database.draw_failure()
        self._commits_in_vote = bool(row.request.number % 2)

    def sortKey(self) -> str:
        return '~simulated'

    def commit(self, transaction: Any) -> None:
        database = self._database
        database.work()
        if self._failure == 'database failed before the vote':
            raise self._failed()
        database.checker.votes(self._row.request)

    def tpc_vote(self, transaction: Any) -> None:
        database, row = self._database, self._row
        database.interrupt(row, 'before')
        database.work()
        if self._failure == 'database refused':
            raise self._failed()
        if self._failure == 'database asked to retry':
            self._note()
            raise SerializationFailure(self._failure)
        if self._commits_in_vote:
            self._commit()

    def tpc_finish(self, transaction: Any) -> None:
        if not self._commits_in_vote:
            self._commit()

    def _commit(self) -> None:
        database, row = self._database, self._row
        database.commit(row)
        if self._failure == 'reply to a commit lost':
            raise self._failed()
        database.interrupt(row, 'after')

    def _failed(self) -> DatabaseFailed:
        self._note()
        return DatabaseFailed(self._failure)

    def _note(self) -> None:
        self._database.world.note('database', self._row.request, self._failure)

    def do_nothing(self, transaction: Any) -> None:
        """A row is added by the commit alone."""

    tpc_begin = tpc_abort = abort = do_nothing
