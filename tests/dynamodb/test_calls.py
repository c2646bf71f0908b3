"""One call to DynamoDB: whose item it brings, and what its errors mean."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
)

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionStoreUnavailable,
)
from pyramid_dynamodb_session.dynamodb.calls import is_empty, units
from pyramid_dynamodb_session.dynamodb.errors import (
    cancellation_codes,
    was_never_carried_out,
)
from tests.support.clients import Interposed

OTHER = 'another-id'


def refusal(
    status: int = 400, attempts: int | None = 0, **response: Any
) -> ClientError:
    metadata: dict[str, Any] = {'HTTPStatusCode': status}
    if attempts is not None:
        metadata['RetryAttempts'] = attempts
    error = {'Code': 'ConditionalCheckFailedException', 'Message': 'injected'}
    return ClientError(
        {'Error': error, 'ResponseMetadata': metadata, **response},  # type: ignore
        'UpdateItem',
    )


# -- whose item it is ----------------------------------------------------


@pytest.fixture
def mixed_up(client: Any, table: str, application: str) -> Any:
    """A store that is given the item of one session for each other."""
    store = DynamoDBSessionStore(client, table=table, application=application)
    for session_id in ('an-id', OTHER):
        store.set_and_release_item_exclusive(
            session_id, {'whose': session_id}, None, True
        )

    def key_of_the_other() -> Any:
        return store._calls.key(store._name(OTHER))

    def get_item(**parameters: Any) -> Any:
        return client.get_item(**parameters | {'Key': key_of_the_other()})

    def update_item(**parameters: Any) -> Any:
        return client.update_item(**parameters | {'Key': key_of_the_other()})

    wrong = Interposed(client, get_item=get_item, update_item=update_item)
    return DynamoDBSessionStore(
        wrong, table=table, application=application, lock_wait=0
    )


@pytest.mark.parametrize('operation', ['get_item', 'get_item_exclusive'])
def test_item_of_another_session_is_none(
    operation: str, mixed_up: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SessionStoreUnavailable, match='another item'):
        getattr(mixed_up, operation)('an-id')
    assert 'do processes share a connection?' in caplog.text
    assert OTHER not in caplog.text
    assert mixed_up.get_item(OTHER).items == {'whose': OTHER}


def test_refusal_with_the_item_of_another_session_tells_nothing(
    client: Any, table: str, application: str
) -> None:
    store = DynamoDBSessionStore(client, table=table, application=application)
    store.set_and_release_item_exclusive('an-id', {}, None, True)
    record = store.get_item_exclusive('an-id')
    assert record and record.lock_id
    item = {'SessionId': {'S': 'another'}, 'LockId': {'S': 'x'}}

    def update_item(**parameters: Any) -> Any:
        raise refusal(attempts=1, Item=item)

    wrong = DynamoDBSessionStore(
        Interposed(client, update_item=update_item),
        table=table,
        application=application,
    )
    with pytest.raises(SessionStoreUnavailable) as error:
        wrong.set_and_release_item_exclusive('an-id', {}, record.lock_id)
    assert error.value.outcome == 'unknown'


def test_empty_reply_of_some_length_is_garbled() -> None:
    assert is_empty({})
    assert is_empty({'ConsumedCapacity': {}})
    for length, expected in (('2', True), ('36', False)):
        headers = {'content-length': length}
        reply = {'ResponseMetadata': {'HTTPHeaders': headers}}
        assert is_empty(reply) is expected


def test_read_whose_reply_is_garbled_is_no_missing_session(
    client: Any, table: str, application: str
) -> None:
    def get_item(**parameters: Any) -> Any:
        headers = {'content-length': '36'}
        return {'ResponseMetadata': {'HTTPHeaders': headers}}

    store = DynamoDBSessionStore(
        Interposed(client, get_item=get_item),
        table=table,
        application=application,
    )
    with pytest.raises(SessionStoreUnavailable, match='garbled') as error:
        store.get_item('an-id')
    assert error.value.outcome == 'not saved'


def test_engine_that_returns_no_item_is_asked_for_it(
    client: Any,
    table: str,
    application: str,
) -> None:
    """As DynamoDB Local before 2.0; it is not taken for missing."""
    reads: list[Any] = []
    state = {'tells': False}

    def update_item(**parameters: Any) -> Any:
        try:
            return client.update_item(**parameters)
        except ClientError as error:
            response: Any = error.response
            if not state['tells']:
                response.pop('Item', None)
            headers = response['ResponseMetadata'].setdefault(
                'HTTPHeaders', {}
            )
            headers['server'] = 'Jetty(8.1.12.v20130726)'
            raise

    def get_item(**parameters: Any) -> Any:
        reads.append(parameters)
        return client.get_item(**parameters)

    store = DynamoDBSessionStore(
        Interposed(client, update_item=update_item, get_item=get_item),
        table=table,
        application=application,
        lock_wait=0,
    )
    assert store.get_item_exclusive('unknown') is None
    assert [each['ConsistentRead'] for each in reads] == [True]


# -- what an error means -------------------------------------------------


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (NoCredentialsError(), True),
        (refusal(400), True),
        (refusal(499), True),
        # an earlier attempt may have been carried out
        (refusal(400, attempts=1), False),
        (refusal(400, attempts=None), False),
        (refusal(500), False),
        (refusal(200), False),
        (EndpointConnectionError(endpoint_url='http://nowhere'), False),
        (OSError('reset'), False),
    ],
)
def test_write_that_was_refused_or_never_sent_is_not_saved(
    error: Exception,
    expected: bool,
    client: Any,
    table: str,
    application: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert was_never_carried_out(error) is expected

    def put_item(**parameters: Any) -> Any:
        raise error

    caplog.set_level(logging.CRITICAL)
    if not isinstance(error, ClientError):
        store = DynamoDBSessionStore(
            Interposed(client, put_item=put_item),
            table=table,
            application=application,
        )
        with pytest.raises(SessionStoreUnavailable) as raised:
            store.set_and_release_item_exclusive('an-id', {}, None, True)
        outcome = 'not saved' if expected else 'unknown'
        assert raised.value.outcome == outcome
        assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    ('reasons', 'codes'),
    [
        (None, []),
        ('nonsense', []),
        ([None, {}, {'Code': 'None'}], ['', 'None', 'None']),
    ],
)
def test_reasons_of_a_cancelled_transaction(
    reasons: Any, codes: list[str]
) -> None:
    assert cancellation_codes(refusal(CancellationReasons=reasons)) == codes


@pytest.mark.parametrize(
    ('consumed', 'expected'),
    [
        ({'CapacityUnits': 1.5}, 1.5),
        ([{'CapacityUnits': 2.0}, {'CapacityUnits': 2.0}, {}], 4.0),
        ({'CapacityUnits': 'many'}, None),
        (['nonsense'], None),
        (None, None),
    ],
)
def test_units_of_a_call(consumed: Any, expected: float | None) -> None:
    assert units({'ConsumedCapacity': consumed}) == expected


def test_transaction_in_the_way_after_a_lost_reply_leaves_it_unknown(
    client: Any, table: str, application: str
) -> None:
    """The write may have been carried out before it was refused."""
    store = DynamoDBSessionStore(client, table=table, application=application)
    store.set_and_release_item_exclusive('an-id', {}, None, True)
    record = store.get_item_exclusive('an-id')
    assert record and record.lock_id

    def conflict(attempts: int) -> ClientError:
        error = refusal(attempts=attempts)
        error.response['Error']['Code'] = 'TransactionConflictException'
        return error

    errors: list[ClientError] = [conflict(1), refusal(attempts=0)]

    def update_item(**parameters: Any) -> Any:
        if not parameters['UpdateExpression'].startswith('SET Expires'):
            return client.update_item(**parameters)
        if len(errors) == 2:
            client.update_item(**parameters)
        raise errors.pop(0)

    wrong = DynamoDBSessionStore(
        Interposed(client, update_item=update_item),
        table=table,
        application=application,
    )
    # the first attempt was carried out: saved, though the last was refused
    wrong.set_and_release_item_exclusive('an-id', {'n': 1}, record.lock_id)
    assert errors == []
    found = store.get_item('an-id')
    assert found and found.items == {'n': 1}
