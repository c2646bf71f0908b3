"""Calls of the store that DynamoDB refuses or answers wrongly."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionStoreUnavailable,
)
from tests.support.clients import Interposed
from tests.support.sessions import (
    ID,
    MakeStore,
    create,
    items,
)


def refusal(code: str, **response: Any) -> ClientError:
    error = {'Code': code, 'Message': 'injected'}
    return ClientError({'Error': error, **response}, 'Any')  # type: ignore


@pytest.mark.parametrize('failures', [1, 4, 5])
def test_transaction_in_the_way_is_waited_for_but_not_for_ever(
    failures: int, make_store: MakeStore, client: Any
) -> None:
    errors = [refusal('TransactionConflictException')] * failures

    def put_item(**parameters: Any) -> Any:
        if errors:
            raise errors.pop()
        return client.put_item(**parameters)

    store = make_store(Interposed(client, put_item=put_item))
    if failures > 4:
        with pytest.raises(SessionStoreUnavailable):
            create(store)
        assert items(store) is None
    else:
        create(store)
        assert items(store) == {'n': 1}


@pytest.mark.parametrize(
    ('operation', 'reply'),
    [('get_item', {'Item': {}}), ('update_item', {})],
    ids=['read', 'lock'],
)
def test_reply_that_is_none_is_no_empty_session(
    operation: str, reply: Any, make_store: MakeStore, client: Any
) -> None:
    store = make_store(
        Interposed(client, **{operation: lambda **parameters: reply})
    )
    create(store)
    with pytest.raises(SessionStoreUnavailable):
        if operation == 'get_item':
            store.get_item(ID)
        else:
            store.get_item_exclusive(ID)


def test_refused_call_says_why_and_when_to_try_again(
    make_store: MakeStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**parameters: Any) -> Any:
        raise refusal('ValidationException')

    store = make_store(Interposed(client, update_item=refuse))
    create(store)
    with pytest.raises(SessionStoreUnavailable, match='Validation') as error:
        store.get_item_exclusive(ID)
    assert int(error.value.headers['Retry-After']) >= 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize(
    'operation',
    [
        lambda store, lock_id: store.get_item_exclusive(ID),
        lambda store, lock_id: store.release_item_exclusive(ID, lock_id),
        lambda store, lock_id: store.renew_lock(ID, lock_id),
    ],
    ids=['lock', 'release', 'renew'],
)
def test_call_for_a_lock_alone_has_saved_nothing_for_certain(
    operation: Callable[[DynamoDBSessionStore, str], Any],
    make_store: MakeStore,
    client: Any,
) -> None:
    def update_item(**parameters: Any) -> Any:
        raise ReadTimeoutError(endpoint_url='here')

    store = make_store(Interposed(client, update_item=update_item))
    create(store)
    with pytest.raises(SessionStoreUnavailable) as error:
        operation(store, '1.token')
    assert error.value.outcome == 'not saved'
