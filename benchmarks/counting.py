"""Counts the calls and capacity units that went through a proxy."""

from __future__ import annotations

import json

from tests.support.proxy import Call, FaultProxy


class CountingProxy(FaultProxy):
    """Asks for the capacity of every call on the way, and adds it up."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint, with_capacity)

    def sums(self) -> dict[str, float]:
        """Calls, read and write units, refused writes since cleared."""
        calls = self.calls
        return {
            'calls': len(calls),
            'reads': sum(units(call) for call in calls if is_read(call)),
            'writes': sum(units(call) for call in calls if not is_read(call)),
            'refused': self.failed_conditions,
        }


def with_capacity(body: bytes) -> bytes:
    parameters = json.loads(body)
    if 'Key' in parameters or 'Item' in parameters:
        parameters['ReturnConsumedCapacity'] = 'TOTAL'
    return json.dumps(parameters).encode()


def is_read(call: Call) -> bool:
    return call.operation == 'GetItem'


def units(call: Call) -> float:
    """Read units of a read, write units of a write.

    DynamoDB bills a write whose condition failed all the same, and says
    nothing of it: one unit, for an item of up to 1 KB.
    """
    refused = 'ConditionalCheckFailed' in call.error
    capacity = call.response.get('ConsumedCapacity') or {}
    return float(capacity.get('CapacityUnits', refused))
