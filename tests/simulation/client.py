"""A simulated boto3 client and the server behind it.

How a call's attempts fare on the way is for a *network* to say: one of
chance (:class:`RandomNetwork`) here, one of choice in
:mod:`tests.simulation.exhaustive`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from tests.simulation.lagging_index import LaggingIndex
from tests.simulation.scheduler import Process, World
from tests.simulation.table import Index, Item, Refused, SimulatedTable

URL = 'https://dynamodb.simulated'
READ_TIMEOUT = 2.0
CONNECT_TIMEOUT = 1.0
MAX_ATTEMPTS = 4
RETRIED_CODES = {
    'ProvisionedThroughputExceededException',
    'ThrottlingException',
    'InternalServerError',
    'TransactionInProgressException',
}
RETRIED_ERRORS = (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
WRITES = {'put_item', 'update_item', 'delete_item', 'transact_write_items'}


@dataclasses.dataclass(eq=False, slots=True)
class Call:
    """One call of a client, its own retries included."""

    number: int
    process: Process
    #: the request that it was made for; None in a background thread
    request: Any
    operation: str
    parameters: dict[str, Any]
    #: when the client was through with it
    ended: float | None = None
    faults: int = 0
    #: how often the server has carried it out
    carried_out: int = 0

    @property
    def name(self) -> str:
        """The key of the item that it is about."""
        parameters = self.parameters
        if 'TransactItems' in parameters:
            ((_, parameters),) = parameters['TransactItems'][0].items()
        key = parameters.get('Key') or parameters.get('Item') or {}
        return str(next(iter(key.values()), {}).get('S', ''))

    def __str__(self) -> str:
        parameters = self.parameters
        parts = []
        for write in parameters.get('TransactItems', [parameters]):
            if 'TransactItems' in parameters:
                ((kind, write),) = write.items()
                parts.append(kind)
            name = Call(0, self.process, None, '', write).name
            parts.append(short(name))
            for key in ('UpdateExpression', 'ConditionExpression'):
                if key in write:
                    parts.append(f'[{write[key]}]')
            if write.get('ConsistentRead') is False:
                parts.append('(eventual)')
            values = write.get('ExpressionAttributeValues', {})
            parts.extend(
                f'{name}={next(iter(value.values()))!s:.60}'
                for name, value in values.items()
            )
        who = f'r{self.request.number}' if self.request else 'background'
        text = ' '.join(parts)
        return f'c{self.number} {who} {self.operation} {text}'


def short(name: str) -> str:
    return name[:10]


@dataclasses.dataclass(eq=False, slots=True)
class Version:
    """What stood in the table from a moment on."""

    time: float
    item: Item | None


class Server:
    """DynamoDB: the table, the true time, every version that ever stood."""

    def __init__(self, world: World, has_lag: bool = True) -> None:
        self.world = world
        self.table = SimulatedTable(index=Index(), clock=lambda: world.now)
        self.table.written = self._written
        self.index = LaggingIndex(world, is_instant=not has_lag)
        self.versions: dict[str, list[Version]] = {}
        #: called after each write that changed something
        self.committed: Callable[
            [Call, list[tuple[str, Item | None, Item | None]]], None
        ] = lambda call, writes: None
        self._writes: list[tuple[str, Item | None, Item | None]] = []
        #: how many calls have changed something
        self.writes_done = 0
        self._date = (0, '')

    def _written(self, name: str, old: Item | None, new: Item | None) -> None:
        if old == new:
            return
        versions = self.versions.setdefault(name, [])
        versions.append(Version(self.world.now, new))
        self._writes.append((name, old, new))
        self.index.written(name, old, new)

    def date(self) -> str:
        """The ``Date`` header."""
        second = int(self.world.now)
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]

    def execute(self, call: Call, stale_by: float = 0.0) -> Any:
        """Carry a call out: the reply, or what was raised."""
        call.carried_out += 1
        try:
            if stale_by and call.operation == 'get_item':
                return self.table.get_item_reply(
                    self.item_at(call.name, self.world.now - stale_by),
                    call.parameters,
                )
            if call.operation == 'query':
                reply = self.index.query(call.parameters)
            else:
                reply = self.table.call(call.operation, call.parameters)
        except Refused as refused:
            self.world.note('refused', call, refused.code)
            return refused
        self.world.note('done', call)
        if self._writes:
            writes, self._writes = self._writes, []
            self.writes_done += 1
            self.committed(call, writes)
        return reply

    def item_at(self, name: str, when: float) -> Item | None:
        """What stood there then."""
        for version in reversed(self.versions.get(name, ())):
            if version.time <= when:
                return version.item
        return None

    def reply_metadata(self, attempt: int, status: int) -> dict[str, Any]:
        return {
            'RequestId': 'simulated',
            'HTTPStatusCode': status,
            'HTTPHeaders': {
                'date': self.date(),
                'server': 'Server',
                'content-type': 'application/x-amz-json-1.0',
            },
            'RetryAttempts': attempt,
        }


class Client:
    """A boto3 client of one process, in ``standard`` retry mode."""

    def __init__(self, process: Process, network: Any) -> None:
        self._process = process
        self._network = network

    def __getattr__(self, operation: str) -> Any:
        if operation not in WRITES and not operation.startswith(
            ('get_', 'describe_', 'query', 'scan')
        ):
            raise AttributeError(operation)

        def call(**parameters: Any) -> dict[str, Any]:
            return self._call(operation, parameters)

        setattr(self, operation, call)
        return call

    def _call(
        self, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        process, world = self._process, self._process.world
        process.check()
        fiber = world.current
        assert fiber is not None
        assert fiber.process is process, 'a client of another process'
        if (
            operation == 'transact_write_items'
            and 'ClientRequestToken' not in parameters
        ):
            token = f'{world.package_random.getrandbits(128):032x}'
            parameters = {**parameters, 'ClientRequestToken': token}
        call = Call(
            world.new_number(), process, fiber.request, operation, parameters
        )
        if fiber.request is not None:
            fiber.request.calls.append(call)
        before, fiber.category = fiber.category, 'call'
        try:
            return self._attempts(call)
        finally:
            fiber.category = before
            call.ended = world.now

    def _attempts(self, call: Call) -> dict[str, Any]:
        world = call.process.world
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                world.sleep(
                    min(world.package_random.random() * 2 ** (attempt - 1), 20)
                )
            try:
                reply: dict[str, Any] = self._network.attempt(call, attempt)
                return reply
            except RETRIED_ERRORS as error:
                if attempt == MAX_ATTEMPTS - 1:
                    raise
                world.note('retried', call, type(error).__name__)
            except ClientError as error:
                code = error.response['Error']['Code']
                if attempt == MAX_ATTEMPTS - 1 or code not in RETRIED_CODES:
                    raise
                world.note('retried', call, code)
        raise AssertionError


def client_error(
    server: Server,
    call: Call,
    attempt: int,
    code: str,
    message: str = 'simulated',
    status: int = 400,
    **more: Any,
) -> ClientError:
    """As botocore raises it."""
    operation = ''.join(part.title() for part in call.operation.split('_'))
    metadata = server.reply_metadata(attempt, status)
    if attempt == MAX_ATTEMPTS - 1:
        metadata['MaxAttemptsReached'] = True
    return ClientError(
        {
            'Error': {'Code': code, 'Message': message},
            'ResponseMetadata': metadata,
            'message': message,
            **more,
        },
        operation,
    )


def answer(
    server: Server, call: Call, attempt: int, result: Any
) -> dict[str, Any]:
    """The reply to a client, or the error that it raises."""
    if isinstance(result, Refused):
        more: dict[str, Any] = {}
        if result.item is not None:
            more['Item'] = result.item
        if result.reasons is not None:
            more['CancellationReasons'] = result.reasons
        raise client_error(
            server, call, attempt, result.code, result.message, **more
        )
    if isinstance(result, Exception):
        raise result
    return {**result, 'ResponseMetadata': server.reply_metadata(attempt, 200)}


@dataclasses.dataclass
class FaultRates:
    """How likely one attempt fares badly, and in which way."""

    attempt: float = 0.05
    #: relative to each other
    weights: dict[str, float] = dataclasses.field(
        default_factory=lambda: {
            'connection refused': 1,
            'connection timed out': 0.5,
            'request lost': 2,
            'reply lost': 3,
            'connection reset': 2,
            'late': 2,
            'duplicate': 3,
            'slow': 3,
            'throttled': 2,
            'internal error': 1,
            'transaction conflict': 1,
            'paused before': 2,
        }
    )
    #: how likely an eventually consistent read is stale
    stale: float = 0.3


class RandomNetwork:
    """Attempts fare as chance has it."""

    def __init__(
        self,
        server: Server,
        rates: FaultRates,
        happened: Callable[[str, Call], None],
    ) -> None:
        self.server = server
        self.world = server.world
        self.rates = rates
        self.happened = happened
        self._kinds = list(rates.weights)
        self._cumulated: list[float] = []
        total = 0.0
        for weight in rates.weights.values():
            total += weight
            self._cumulated.append(total)
        #: processes without a network, and until when
        self.outages: dict[int, float] = {}
        self.is_faultless = False

    def attempt(self, call: Call, attempt: int) -> dict[str, Any]:
        """The reply to one attempt, or what the client sees instead."""
        draw = self.world.random.random
        if self.is_faultless:
            kind = ''
        elif self.outages.get(call.process.pid, 0) > self.world.now:
            kind = self.world.random.choice(
                ('connection refused', 'request lost', 'reply lost', 'late')
            )
        elif draw() < self.rates.attempt:
            kind = self.world.random.choices(
                self._kinds, cum_weights=self._cumulated
            )[0]
        else:
            kind = ''
        if kind in ('duplicate', 'late') and call.operation not in WRITES:
            kind = 'reply lost'
        if kind == 'transaction conflict' and call.operation not in WRITES:
            kind = 'throttled'
        if kind:
            call.faults += 1
            self.happened(kind, call)
            self.world.note('fault', call, kind)
        else:
            return self._round_trip(call, attempt, self._latency())
        method = getattr(self, '_' + kind.replace(' ', '_'))
        reply: dict[str, Any] = method(call, attempt)
        return reply

    def _latency(self) -> float:
        value = self.world.random.random()
        return 0.0004 + 0.006 * value * value * value

    def _round_trip(
        self,
        call: Call,
        attempt: int,
        there: float,
        back: float | None = None,
    ) -> dict[str, Any]:
        world = self.world
        fiber = world.current
        assert fiber is not None
        world.after(there, self._arrive, call, fiber, fiber.ticket, back)
        if there + (back or 0) < 1:
            result = world.block()
        else:
            result = world.block(READ_TIMEOUT)
        if result is None:
            raise ReadTimeoutError(endpoint_url=URL)
        return answer(self.server, call, attempt, result)

    def _arrive(
        self, call: Call, fiber: Any, ticket: int, back: float | None
    ) -> None:
        stale_by = 0.0
        if (
            call.operation == 'get_item'
            and not call.parameters.get('ConsistentRead')
            and not self.is_faultless
            and self.world.random.random() < self.rates.stale
        ):
            stale_by = self.world.random.random()
        result = self.server.execute(call, stale_by)
        if fiber is not None:
            delay = self._latency() if back is None else back
            self.world.wake(fiber, ticket, result, delay)

    def _deliver_late(self, call: Call) -> None:
        """Deliver it some time, up to a minute later; nobody gets a reply."""
        delay = 0.01 * 6000 ** self.world.random.random()
        self.world.after(delay, self._late_arrival, call)

    def _late_arrival(self, call: Call) -> None:
        self.world.note('late arrival', call)
        self.server.execute(call)

    # -- what may happen -------------------------------------------------

    def _connection_refused(self, call: Call, attempt: int) -> Any:
        self.world.sleep(self._latency())
        raise EndpointConnectionError(endpoint_url=URL)

    def _connection_timed_out(self, call: Call, attempt: int) -> Any:
        self.world.sleep(CONNECT_TIMEOUT)
        raise ConnectTimeoutError(endpoint_url=URL)

    def _request_lost(self, call: Call, attempt: int) -> Any:
        self.world.sleep(READ_TIMEOUT)
        raise ReadTimeoutError(endpoint_url=URL)

    def _reply_lost(self, call: Call, attempt: int) -> Any:
        self.world.after(self._latency(), self._arrive, call, None, 0, None)
        self.world.sleep(READ_TIMEOUT)
        raise ReadTimeoutError(endpoint_url=URL)

    def _connection_reset(self, call: Call, attempt: int) -> Any:
        """The reply is lost, or the request, and the client knows at once."""
        if self.world.random.random() < 0.6:
            self.world.after(
                self._latency(), self._arrive, call, None, 0, None
            )
        self.world.sleep(2 * self._latency())
        raise ConnectionClosedError(endpoint_url=URL)

    def _late(self, call: Call, attempt: int) -> Any:
        """The request is on its way for longer than the client waits."""
        self._deliver_late(call)
        self.world.sleep(READ_TIMEOUT)
        raise ReadTimeoutError(endpoint_url=URL)

    def _duplicate(self, call: Call, attempt: int) -> Any:
        """As usual, and then once more, later."""
        there = self._latency()
        delay = there + 0.0001 + 0.005 * 12000 ** self.world.random.random()
        self.world.after(delay, self._late_arrival, call)
        return self._round_trip(call, attempt, there)

    def _slow(self, call: Call, attempt: int) -> Any:
        draw = self.world.random.random
        there = 3 * draw() ** 2
        return self._round_trip(call, attempt, there, 3 * draw() ** 2)

    def _throttled(self, call: Call, attempt: int) -> Any:
        self.world.sleep(2 * self._latency())
        code = self.world.random.choice(
            ('ProvisionedThroughputExceededException', 'ThrottlingException')
        )
        raise client_error(self.server, call, attempt, code)

    def _internal_error(self, call: Call, attempt: int) -> Any:
        """A write may have been carried out, or not, as AWS says."""
        self.world.sleep(self._latency())
        if self.world.random.random() < 0.5:
            self.server.execute(call)
        raise client_error(
            self.server, call, attempt, 'InternalServerError', status=500
        )

    def _transaction_conflict(self, call: Call, attempt: int) -> Any:
        self.world.sleep(2 * self._latency())
        if call.operation == 'transact_write_items':
            writes = call.parameters['TransactItems']
            reasons: list[dict[str, Any]] = [{'Code': 'None'} for _ in writes]
            place = self.world.random.randrange(len(reasons))
            reasons[place] = {'Code': 'TransactionConflict'}
            raise client_error(
                self.server,
                call,
                attempt,
                'TransactionCanceledException',
                CancellationReasons=reasons,
            )
        raise client_error(
            self.server, call, attempt, 'TransactionConflictException'
        )

    def _paused_before(self, call: Call, attempt: int) -> Any:
        """The thread waits for a processor before it sends."""
        self.world.sleep(0.5 * self.world.random.random() ** 3)
        return self._round_trip(call, attempt, self._latency())
