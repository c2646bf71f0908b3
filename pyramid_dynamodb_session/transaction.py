"""Joins the session to the transaction of ``pyramid_tm``.

The package ``transaction`` is not imported: what it asks of a data manager
is all that is here.
"""

from __future__ import annotations

from typing import Any

from .unit_of_work import UnitOfWork


def join(request: Any, work: UnitOfWork) -> None:
    """Let the session vote in the transaction that is active, if one is."""
    environ = request.environ
    if 'tm.active' in environ:
        environ['tm.manager'].get().join(SessionDataManager(work))


class SessionDataManager:
    """The vote of one session in one transaction.

    A database that commits in its own vote, as ``zope.sqlalchemy`` has it do,
    votes after it. The session itself is saved after the commit.
    """

    transaction_manager = None

    def __init__(self, work: UnitOfWork) -> None:
        self._work = work

    def sortKey(self) -> str:
        """Just before ``~sqlalchemy:…``, and after most others."""
        return f'~dynamodb_session:{id(self)}'

    def tpc_begin(self, transaction: Any) -> None:
        """Nothing is written by a vote."""

    def commit(self, transaction: Any) -> None:
        """The session is saved after the commit."""

    def tpc_vote(self, transaction: Any) -> None:
        """Raise what a save would, before anything is committed."""
        self._work.prepare()

    def tpc_finish(self, transaction: Any) -> None:
        """From now on nothing may run again."""
        self._work.is_committed = True

    def tpc_abort(self, transaction: Any) -> None:
        """Whether the session is saved, the response decides."""

    def abort(self, transaction: Any) -> None:
        """Whether the session is saved, the response decides."""

    def savepoint(self) -> SessionSavepoint:
        """A session goes back to no savepoint."""
        return SessionSavepoint()


class SessionSavepoint:
    """What was put into a session stays in it."""

    def rollback(self) -> None:
        """Leave the session as it is."""
