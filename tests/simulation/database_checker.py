"""Says whether the rows of the database agree with sessions and answers.

A request has one row at the most, over all of its attempts; what it has put
into its session is stored with its row or not at all; an answer that tells
of an error tells whether the row is there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.simulation.client import short
from tests.simulation.database import Row

#: What an error's message says of a transaction that was committed.
COMMITTED_BEFORE = 'the transaction of the database had been committed before'
DATABASE_ERRORS = ('DatabaseFailed', 'SerializationFailure')


class DatabaseChecker:
    """The part of the checker that knows of the database."""

    def __init__(self, checker: Any) -> None:
        self._checker = checker
        self._world = checker.world
        self.counts: Counter[str] = Counter()

    def _violation(self, kind: str, request: Any, text: str) -> None:
        self._checker.violation(
            kind,
            f'{request} ({request.kind}): {text}',
            request.name,
            *request.created,
            *request.committed,
        )

    # -- while it is answered --------------------------------------------

    def begins(self, request: Any) -> None:
        """The view of a request runs, maybe once more."""
        request.voted = None
        if request.rows:
            text = f'attempt {request.attempts} after its commit'
            self._violation('run again after the commit', request, text)

    def votes(self, request: Any) -> None:
        """The session votes next."""
        request.voted = self._world.now

    def committed(self, row: Row) -> None:
        request = row.request
        request.rows.append(row)
        self.counts['rows'] += 1
        if len(request.rows) > 1:
            text = f'row {len(request.rows)}, of attempt {row.attempt}'
            self._violation('two rows', request, text)

    def saved(self, request: Any) -> None:
        """What it has put into its session was stored."""
        if request.kind.rows and not request.rows:
            text = 'its session is saved, and it has no row'
            self._violation('saved before the commit', request, text)

    # -- when it is answered ---------------------------------------------

    def answered(self, request: Any) -> None:
        kind = request.kind
        if not request.uses_database:
            if request.transaction == 'committed':
                text = 'it says that a database had committed'
                self._violation('wrong about the commit', request, text)
            return
        if kind.rows is None:
            return
        self._check_rows(request)
        if request.error not in ('', *DATABASE_ERRORS):
            self._check_message(request)
        if request.status == 409 and request.rows:
            self._check_vote(request)

    def _check_rows(self, request: Any) -> None:
        """The answer, or its ``transaction``, agrees with the rows."""
        rows, status, error = len(request.rows), request.status, request.error
        self._count(request)
        said = f'{status} {error} {request.transaction}'.strip()
        if status == 200:
            expected = request.kind.rows
        elif request.transaction == 'committed':
            expected = 1
        elif error == 'DatabaseFailed' or request.transaction == 'unknown':
            return
        else:
            expected = 0
        if rows != expected:
            text = f'{rows} rows after the answer {said}'
            self._violation('rows and answer differ', request, text)

    def _count(self, request: Any) -> None:
        if request.status != 200 and request.rows:
            error = request.error
            self.counts[f'row committed, {request.status} {error}'] += 1

    def _check_message(self, request: Any) -> None:
        """Who can't know better is not asked to send it again."""
        is_said = COMMITTED_BEFORE in request.message
        if is_said != (request.transaction == 'committed'):
            self._violation('wrong message', request, repr(request.message))
        if request.rows and request.asks_to_retry:
            self._violation('asked to retry', request, 'it has been committed')

    def _check_vote(self, request: Any) -> None:
        """What could be known at the vote was told by the vote."""
        if request.error == 'SessionConflict':
            text = 'committed without the lock'
            self._violation('the vote did not lock', request, text)
            return
        lost = self._checker.lost_since(request)
        latest = request.voted - self._checker.lease / 2
        if lost is not None and lost < latest:
            text = (
                f'committed, but {short(request.name)} was lost '
                f'{request.voted - lost:.1f} s before the vote'
            )
            self._violation('the vote did not confirm', request, text)
