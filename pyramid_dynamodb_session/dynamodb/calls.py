"""One call to DynamoDB: its errors mapped, its reply checked, recorded.

The one place where a client's errors become ours, and where the differences
between engines are known. No expression is written here.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from .._recorder import Recorder
from ..errors import SessionStoreUnavailable
from ..events import Call
from .errors import (
    cancellation_codes,
    codes_of,
    is_only_attempt,
    unavailable,
    was_never_carried_out,
)
from .table import Table

Item = dict[str, dict[str, Any]]

log = logging.getLogger(__name__)

#: Seconds between tries while a transaction has hold of the item.
TRANSACTION_PAUSES = (0.01, 0.02, 0.04, 0.08)
IN_TRANSACTION = {'TransactionConflict', 'TransactionConflictException'}
REFUSED = {'ConditionalCheckFailed', 'ConditionalCheckFailedException'}
#: Parameters without which nothing can be refused on a condition.
CONDITIONAL = {'ConditionExpression', 'TransactItems'}
READS = {'get_item', 'query', 'scan'}
#: Servers known to return the item with a failed condition. Of any other an
#: absent item is asked for until the first one came: an old DynamoDB Local
#: returns none, and a session must not be taken for missing.
RETURN_ITEMS = ('Server', 'Werkzeug', 'amazon.com', 'Dynoxide')


class ConditionFailed(Exception):
    """DynamoDB refused a conditional write.

    ``item`` is what stood there, where the engine tells; ``codes`` are the
    reasons of a cancelled transaction. Unless ``is_only_attempt``, an earlier
    attempt of the same call may have been carried out.
    """

    def __init__(self, error: Any) -> None:
        super().__init__()
        self.item: Item | None = error.response.get('Item')
        metadata = error.response.get('ResponseMetadata') or {}
        headers = metadata.get('HTTPHeaders') or {}
        self.server = str(headers.get('server', ''))
        self.codes = cancellation_codes(error)
        self.is_only_attempt = is_only_attempt(error)


class Calls:
    """The calls of one store, on one table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._engine = {'returns items': False}
        self._learn_time = table.clock.learn_from
        self.recorder = Recorder()

    def bind(self, recorder: Recorder) -> Calls:
        """The same calls, recorded by a `recorder`."""
        kind = RecordedCalls if recorder.listens else Calls
        bound = kind.__new__(kind)
        vars(bound).update(vars(self), recorder=recorder)
        return bound

    def on_item(
        self, operation: str, name: str, **parameters: Any
    ) -> dict[str, Any]:
        """Call an `operation` on the item of this `name`.

        Raises :class:`ConditionFailed` or :class:`SessionStoreUnavailable`.
        """
        parameters['TableName'] = self._table.name
        parameters['Key'] = self.key(name)
        return self.send(operation, parameters)

    def on_table(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """As :meth:`on_item`, for the whole table."""
        parameters['TableName'] = self._table.name
        return self.send(operation, parameters)

    def now(self) -> float:
        """DynamoDB's time, in seconds since the epoch.

        The lookup of the table's key is the first reply that tells it.
        """
        _ = self._table.key_name
        return self._table.clock.time()

    def key(self, name: str) -> Item:
        return {self._table.key_name: {'S': name}}

    def read(self, name: str, **options: Any) -> Item | None:
        """The item of this `name`; None for none."""
        reply = self.on_item('get_item', name, **options)
        if 'Item' in reply:
            return self.item_in(reply, 'Item', name)
        if not is_empty(reply):
            raise unavailable('a garbled reply')
        return None

    def item_in(self, reply: dict[str, Any], part: str, name: str) -> Item:
        """The item that a reply must have, which is the one of this `name`.

        Replies can be mixed up, as on a connection that two processes share:
        what is under another key is nobody's session.
        """
        item = reply.get(part)
        if not (item and isinstance(item, dict)):
            raise unavailable(f'a reply without {part}')
        self._check_key(item, name)
        return item

    def _check_key(self, item: Item, name: str) -> None:
        if item.get(self._table.key_name) != {'S': name}:
            log.error(
                'DynamoDB failed: a reply has another item than the one asked '
                'for; do processes share a connection?'
            )
            raise unavailable('a garbled reply: another item', 'unknown')

    def stored_item(self, name: str, failed: ConditionFailed) -> Item | None:
        """What stood where a condition has failed; not all engines tell."""
        if failed.item is not None:
            self._engine['returns items'] = True
            self._check_key(failed.item, name)
        if self._engine['returns items'] or failed.server.startswith(
            RETURN_ITEMS
        ):
            return failed.item
        try:
            return self.read(name, ConsistentRead=True)
        except SessionStoreUnavailable as error:
            # an earlier attempt of the write may have been carried out
            error.outcome = 'unknown'
            raise

    def send(
        self, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        """Call the client; again, if a transaction is in the way."""
        may_be_done = False
        pauses = iter(TRANSACTION_PAUSES)
        while True:
            try:
                return self._call(operation, parameters)
            except ConditionFailed as failed:
                failed.is_only_attempt &= not may_be_done
                raise
            except SessionStoreUnavailable as error:
                may_be_done |= error.outcome == 'unknown'
                if may_be_done:
                    error.outcome = 'unknown'
                pause = next(pauses, None)
                codes = codes_of(error.__cause__)
                if pause is None or IN_TRANSACTION.isdisjoint(codes):
                    raise
            time.sleep(pause)

    def _call(
        self, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        try:
            call = getattr(self._table.client, operation)
            reply: dict[str, Any] = call(**parameters)
        except Exception as error:
            self._learn_time(getattr(error, 'response', None) or {})
            refused = not REFUSED.isdisjoint(codes_of(error))
            if refused and not CONDITIONAL.isdisjoint(parameters):
                raise ConditionFailed(error) from error
            # AWS may go on, in further lines, with the headers of the request
            what = str(error).partition('\n')[0]
            log.error('DynamoDB failed: %s: %s', operation, what)
            certain = operation in READS or was_never_carried_out(error)
            raise unavailable(
                f'{operation}: {what}', 'not saved' if certain else 'unknown'
            ) from error
        self._learn_time(reply)
        return reply


class RecordedCalls(Calls):
    """Calls that record how long they took, and what they consumed."""

    def _call(
        self, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        start = time.perf_counter()
        reply: dict[str, Any] = {}
        failure = ''
        try:
            parameters = {**parameters, 'ReturnConsumedCapacity': 'TOTAL'}
            reply = super()._call(operation, parameters)
        except (ConditionFailed, SessionStoreUnavailable) as error:
            failure = type(error.__cause__).__name__
            raise
        finally:
            seconds = time.perf_counter() - start
            self.recorder.record_call(
                Call(operation, seconds, units(reply), failure)
            )
        return reply


def is_empty(reply: dict[str, Any]) -> bool:
    """Whether DynamoDB found nothing; boto3 takes garbage for the same."""
    if 'ConsumedCapacity' in reply:
        return True
    metadata = reply.get('ResponseMetadata') or {}
    headers = metadata.get('HTTPHeaders') or {}
    return str(headers.get('content-length', '2')) == '2'


def units(reply: dict[str, Any]) -> float | None:
    """The capacity that a call consumed, all of a transaction's together."""
    consumed = reply.get('ConsumedCapacity')
    if consumed is None:
        return None
    parts = consumed if isinstance(consumed, list) else [consumed]
    try:
        return float(sum(part.get('CapacityUnits', 0) for part in parts))
    except (AttributeError, TypeError):
        return None
