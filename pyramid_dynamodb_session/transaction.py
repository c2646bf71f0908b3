"""Has the sessions of a request vote in the transactions of ``pyramid_tm``.

The package ``transaction`` is not imported: what it asks of a synchronizer
and of a data manager is all that is here.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from .errors import COMMITTED, NOT_COMMITTED, UNKNOWN
from .unit_of_work import UnitOfWork

#: Where the outermost request keeps its transactions.
TRANSACTIONS = '_dynamodb_session_transactions'


def is_active(request: Any) -> bool:
    """Whether ``pyramid_tm`` manages a transaction for a request."""
    return 'tm.active' in request.environ


def may_concern(request: Any) -> bool:
    """Whether a request has transactions, unless another one has them."""
    return is_active(request) or TRANSACTIONS in vars(request)


def join(request: Any, outermost: Any, works: Iterable[UnitOfWork]) -> None:
    """Let sessions vote in the transactions of a request, if it has any.

    :param outermost: the request that `request` is a part of, or itself.
    """
    transactions = vars(outermost).get(TRANSACTIONS)
    if is_active(request):
        if transactions is None:
            transactions = RequestTransactions()
            vars(outermost)[TRANSACTIONS] = transactions
            outermost.add_finished_callback(transactions.leave)
        transactions.watch(request.environ['tm.manager'])
    if transactions is not None:
        transactions.add(works)


class RequestTransactions:
    """The transactions that end within a request, and what became of them.

    A synchronizer of the transaction managers. The sessions join a
    transaction only when it is about to end: so they vote in each one, also
    where a view has begun it by hand, or has gone back to a savepoint.
    """

    def __init__(self) -> None:
        self._managers: list[Any] = []
        self._works: list[UnitOfWork] = []
        self._outcome = NOT_COMMITTED

    def watch(self, manager: Any) -> None:
        """Be told of all transactions of a manager that end from now on."""
        if manager not in self._managers:
            self._managers.append(manager)
            manager.registerSynch(self)

    def add(self, works: Iterable[UnitOfWork]) -> None:
        """Have the sessions vote, and know what became of transactions."""
        for work in works:
            if work not in self._works:
                self._works.append(work)
                work.transaction = self._outcome

    def leave(self, request: Any) -> None:
        """The request has ended: a manager outlives it, of a thread maybe."""
        for manager in self._managers:
            with suppress(KeyError):
                # KeyError: somebody has cleared all synchronizers
                manager.unregisterSynch(self)

    def newTransaction(self, transaction: Any) -> None:
        """Nothing to do before it ends."""

    def beforeCompletion(self, transaction: Any) -> None:
        """It is committed or aborted next; a failed one can't be joined."""
        if transaction.status == 'Active':
            for work in self._works:
                transaction.join(SessionDataManager(work))

    def afterCompletion(self, transaction: Any) -> None:
        """Nothing may run twice once a commit was tried.

        A commit that has failed may have been carried out all the same: its
        reply was lost, or one database had committed before another failed.
        An empty transaction counts as well: hooks may have acted upon it.
        """
        if transaction.status == 'Committed':
            self._outcome = COMMITTED
        elif (transaction.status, self._outcome) == (
            'Committing',
            NOT_COMMITTED,
        ):
            self._outcome = UNKNOWN
        for work in self._works:
            work.transaction = self._outcome


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

    def tpc_vote(self, transaction: Any) -> None:
        """Raise what a save would, before anything is committed."""
        self._work.prepare()

    def do_nothing(self, transaction: Any) -> None:
        """Whether and when the session is saved, the response decides."""

    tpc_begin = commit = tpc_finish = tpc_abort = abort = do_nothing
