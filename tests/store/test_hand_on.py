"""Locks that are handed on within a process, counted at the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionLockLost,
    SessionLockTimeout,
    SessionTooLarge,
)
from pyramid_dynamodb_session.store.lease import MOST_HAND_ONS
from tests.support.aws import boto3_session, make_client
from tests.support.clients import CountingClient, Interposed
from tests.support.proxy import LOSE_REPLY, RESET, FaultProxy
from tests.support.sessions import (
    ID,
    TOO_LARGE,
    MakeStore,
    RawItem,
    create,
    is_about,
    items,
    locked,
    raw,
)
from tests.support.together import wait_until

N = 8


@pytest.fixture
def wire(client: Any) -> CountingClient:
    return CountingClient(client)


@pytest.fixture
def counted(wire: CountingClient, make_store: MakeStore) -> Any:
    """A store whose calls are counted, with a session in it."""
    store = make_store(wire)
    create(store, n=0)
    wire.calls.clear()
    return store


def queue_length(store: DynamoDBSessionStore) -> int:
    queues = store._locks._process.get().queue._queues
    return sum(map(len, queues.values()))


class Line:
    """Requests of one session in one process, one after the other.

    The first holds the lock until :meth:`go`; each does ``act`` under it.
    """

    def __init__(
        self, store: DynamoDBSessionStore, act: Callable[[Any], None]
    ) -> None:
        self._store = store
        self._act = act
        self._threads = ThreadPoolExecutor(32)
        self._first = locked(store)
        self.requests: list[Future[None]] = []

    def enter(self, number: int = 1) -> None:
        for _ in range(number):
            before = queue_length(self._store)
            self.requests.append(self._threads.submit(self._request))
            wait_until(lambda b=before: queue_length(self._store) > b)

    def _request(self) -> None:
        self._act(locked(self._store))

    def go(self) -> None:
        """Let the first go, and the others behind it."""
        try:
            self._act(self._first)
        finally:
            self._threads.shutdown()
            for request in self.requests:
                request.result()


def write(store: DynamoDBSessionStore) -> Callable[[Any], None]:
    def write(record: Any) -> None:
        store.set_and_release_item_exclusive(
            ID, {'n': record.items['n'] + 1}, record.lock_id, record=record
        )

    return write


def read(store: DynamoDBSessionStore) -> Callable[[Any], None]:
    def read(record: Any) -> None:
        store.release_item_exclusive(ID, record.lock_id)

    return read


def test_writing_requests_make_one_call_each_and_one_to_lock(
    counted: DynamoDBSessionStore, wire: CountingClient, raw_item: RawItem
) -> None:
    line = Line(counted, write(counted))
    line.enter(N - 1)
    line.go()
    assert wire.calls == ['update_item'] * (N + 1)
    item = raw(raw_item)
    assert item['SessionItems'] == {'S': f'{{"n":{N}}}'}
    # each holder has a number of its own
    assert item['LockCount'] == {'N': str(N)}
    assert item['Version'] == {'N': str(N + 1)}
    assert 'LockId' not in item and 'TakenOver' not in item
    assert queue_length(counted) == 0


def test_reading_requests_make_two_calls_together(
    counted: DynamoDBSessionStore, wire: CountingClient, raw_item: RawItem
) -> None:
    seen: list[Any] = []

    def look(record: Any) -> None:
        seen.append(record.items)
        # it is one's own, to change as one likes
        record.items['n'] = 'changed'
        read(counted)(record)

    line = Line(counted, look)
    line.enter(N - 1)
    line.go()
    assert wire.calls == ['update_item'] * 2
    assert seen == [{'n': 'changed'}] * N
    item = raw(raw_item)
    assert item['LockCount'] == {'N': '1'}
    assert item['SessionItems'] == {'S': '{"n":0}'}
    assert is_about(item['Expires'], 1200)
    assert 'LockId' not in item


def test_heir_gets_what_was_just_saved(counted: DynamoDBSessionStore) -> None:
    records: list[Any] = []

    def save(record: Any) -> None:
        records.append(record)
        record.timeout = 600
        write(counted)(record)

    line = Line(counted, save)
    line.enter(2)
    line.go()
    assert [record.items for record in records] == [
        {'n': 0},
        {'n': 1},
        {'n': 2},
    ]
    assert records[2].timeout == 600
    assert [record.version for record in records] == [1, 2, 3]
    assert records[2].payload == b'{"n":2}'
    assert len({record.lock_id for record in records}) == 3


def test_what_can_not_be_saved_hands_the_lock_on(
    counted: DynamoDBSessionStore, wire: CountingClient
) -> None:
    first = locked(counted)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(locked, counted)
        wait_until(lambda: queue_length(counted) == 2)
        with pytest.raises(SessionTooLarge):
            counted.set_and_release_item_exclusive(
                ID, {'n': TOO_LARGE}, first.lock_id
            )
        assert second.result().items == {'n': 0}
    assert wire.calls == ['update_item']
    counted.release_item_exclusive(ID, second.result().lock_id)


# -- for how long --------------------------------------------------------


def test_lock_is_released_for_good_after_sixteen_times(
    make_store: MakeStore, wire: CountingClient, raw_item: RawItem
) -> None:
    number = MOST_HAND_ONS + 3
    store = make_store(wire, lock_queue_limit=number)
    create(store)
    wire.calls.clear()
    line = Line(store, read(store))
    line.enter(number - 1)
    line.go()
    # released, looked at by who gives way, and locked again
    assert wire.calls.count('update_item') == 4
    assert raw(raw_item)['LockCount'] == {'N': '2'}


def test_endless_queue_lets_another_process_in(
    counted: DynamoDBSessionStore, make_store: MakeStore
) -> None:
    elsewhere = make_store(lock_wait=5)
    ended = threading.Event()

    def again_and_again() -> int:
        requests = 0
        while not ended.is_set():
            record = locked(counted)
            time.sleep(0.05)
            write(counted)(record)
            requests += 1
        return requests

    with ThreadPoolExecutor(5) as threads:
        rivals = [threads.submit(again_and_again) for _ in range(4)]
        wait_until(lambda: queue_length(counted) == 4)
        started = time.monotonic()
        record = locked(elsewhere)
        waited = time.monotonic() - started
        write(elsewhere)(record)
        ended.set()
    requests = sum(rival.result() for rival in rivals)
    # a second of the others, and their last request
    assert waited < 1.5
    assert items(elsewhere) == {'n': requests + 1}


def test_lock_confirmed_too_long_ago_is_not_handed_on(
    make_store: MakeStore, wire: CountingClient, raw_item: RawItem
) -> None:
    store = make_store(wire, lock_lease=0.4)
    create(store, n=0)
    first = locked(store)
    wire.calls.clear()
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(locked, store)
        wait_until(lambda: queue_length(store) == 2)
        time.sleep(0.25)
        store.release_item_exclusive(ID, first.lock_id)
        record = second.result()
    assert wire.calls == ['update_item'] * 2
    assert raw(raw_item)['LockCount'] == {'N': '2'}
    store.release_item_exclusive(ID, record.lock_id)


# -- who gives up --------------------------------------------------------


def test_lock_handed_on_to_who_has_given_up_goes_to_the_next(
    make_store: MakeStore, client: Any, raw_item: RawItem
) -> None:
    """The save that names the heir is on its way when the heir gives up."""
    given_up = threading.Event()

    def update_item(**parameters: Any) -> Any:
        if ':SessionItems' in parameters['ExpressionAttributeValues']:
            assert given_up.wait(5)
        return client.update_item(**parameters)

    store = make_store(Interposed(client, update_item=update_item))
    create(store, n=0)
    first = locked(store)
    heir: list[Exception] = []

    def give_up() -> None:
        settings = store._locks._settings
        object.__setattr__(settings, 'lock_wait', 0.2)
        try:
            locked(store)
        except SessionLockTimeout as error:
            heir.append(error)
        given_up.set()

    with ThreadPoolExecutor(3) as threads:
        waiting = threads.submit(give_up)
        wait_until(lambda: queue_length(store) == 2)
        object.__setattr__(store._locks._settings, 'lock_wait', 15)
        third = threads.submit(locked, store)
        wait_until(lambda: queue_length(store) == 3)
        write(store)(first)
        waiting.result()
        record = third.result()
    assert len(heir) == 1
    assert record.items == {'n': 1}
    write(store)(record)
    item = raw(raw_item)
    assert item['SessionItems'] == {'S': '{"n":2}'}
    assert 'LockId' not in item


def test_lock_handed_on_to_nobody_any_more_is_released(
    make_store: MakeStore, client: Any, raw_item: RawItem
) -> None:
    given_up = threading.Event()

    def update_item(**parameters: Any) -> Any:
        if ':SessionItems' in parameters['ExpressionAttributeValues']:
            assert given_up.wait(5)
        return client.update_item(**parameters)

    store = make_store(
        Interposed(client, update_item=update_item), lock_wait=0.2
    )
    create(store, n=0)
    first = locked(store)

    def give_up() -> None:
        with pytest.raises(SessionLockTimeout):
            locked(store)
        given_up.set()

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(give_up)
        wait_until(lambda: queue_length(store) == 2)
        write(store)(first)
        waiting.result()
    item = raw(raw_item)
    assert item['SessionItems'] == {'S': '{"n":1}'}
    assert 'LockId' not in item
    assert queue_length(store) == 0


def test_release_to_nobody_any_more_unlocks(
    counted: DynamoDBSessionStore,
    raw_item: RawItem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = counted._locks._process.get().queue
    next_ticket = queue.next_ticket
    first = locked(counted)
    second = queue.enter(first_name(counted), str)

    def seen_waiting(ticket: Any) -> Any:
        waiting = next_ticket(ticket)
        queue.leave(second)
        return waiting

    monkeypatch.setattr(queue, 'next_ticket', seen_waiting)
    counted.release_item_exclusive(ID, first.lock_id)
    assert 'LockId' not in raw(raw_item)
    assert queue_length(counted) == 0


def first_name(store: DynamoDBSessionStore) -> str:
    (name,) = store._locks._process.get().queue._queues
    return name


# -- replies that are lost -----------------------------------------------


@pytest.fixture
def proxied_store(
    proxy: FaultProxy, make_store: MakeStore
) -> DynamoDBSessionStore:
    return make_store(make_client(boto3_session(), proxy.url))


@pytest.mark.parametrize('fault', [LOSE_REPLY, RESET])
def test_hand_on_whose_first_attempt_is_lost_counts(
    fault: Any,
    proxied_store: DynamoDBSessionStore,
    proxy: FaultProxy,
    raw_item: RawItem,
) -> None:
    create(proxied_store, n=0)
    line = Line(proxied_store, write(proxied_store))
    line.enter(2)
    proxy.clear()
    proxy.inject(fault, 'UpdateItem')
    line.go()
    # an engine may make us ask what stands where the condition failed
    writes = [each for each in proxy.operations if each != 'GetItem']
    assert writes == ['UpdateItem'] * 4
    assert proxy.failed_conditions == (1 if fault is LOSE_REPLY else 0)
    item = raw(raw_item)
    assert item['SessionItems'] == {'S': '{"n":3}'}
    assert 'LockId' not in item


@pytest.mark.parametrize('fault', [LOSE_REPLY, RESET])
def test_hand_on_of_which_nothing_is_heard_is_not_relied_upon(
    fault: Any,
    proxied_store: DynamoDBSessionStore,
    make_store: MakeStore,
    proxy: FaultProxy,
    raw_item: RawItem,
) -> None:
    """The next one asks DynamoDB, and knows its own token there."""
    store = proxied_store
    create(store, n=0)
    first = locked(store)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(locked, store)
        wait_until(lambda: queue_length(store) == 2)
        proxy.inject(fault, 'UpdateItem', times=3)
        with pytest.raises(Exception, match='failed') as error:
            write(store)(first)
        assert getattr(error.value, 'outcome', '') == 'unknown'
        if fault is RESET:
            # it lapses only with its lease
            make_store().release_item_exclusive(ID, first.lock_id)
        record = second.result()
    assert record.items == {'n': 1 if fault is LOSE_REPLY else 0}
    write(store)(record)
    assert 'LockId' not in raw(raw_item)


def test_lock_that_is_lost_is_not_handed_on(
    counted: DynamoDBSessionStore, make_store: MakeStore, raw_item: RawItem
) -> None:
    first = locked(counted)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(locked, counted)
        wait_until(lambda: queue_length(counted) == 2)
        other = make_store(lock_lease=0.05)
        record = locked(other)
        other.set_and_release_item_exclusive(
            ID, {'n': 'other'}, record.lock_id
        )
        with pytest.raises(SessionLockLost):
            write(counted)(first)
        assert second.result().items == {'n': 'other'}
    counted.release_item_exclusive(ID, second.result().lock_id)


def test_hand_on_that_the_heir_has_lost_already_is_a_save_all_the_same(
    proxied_store: DynamoDBSessionStore,
    make_store: MakeStore,
    proxy: FaultProxy,
    raw_item: RawItem,
) -> None:
    """Saved; the lock was taken over before the second attempt."""
    store = proxied_store
    create(store, n=0)
    first = locked(store)
    other = make_store(lock_lease=0.05)
    attempts = iter([LOSE_REPLY, None])

    def decide(number: int, operation: str, request: Any) -> Any:
        if ':SessionItems' not in request.get('ExpressionAttributeValues', ()):
            return None
        fault = next(attempts, None)
        if fault is None:
            record = locked(other)
            write(other)(record)
            proxy.fault = None
        return fault

    proxy.fault = decide
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(locked, store)
        wait_until(lambda: queue_length(store) == 2)
        write(store)(first)
        record = second.result()
    assert record.items == {'n': 2}
    write(store)(record)
    item = raw(raw_item)
    assert item['SessionItems'] == {'S': '{"n":3}'}
    assert item['TakenOver'] == {'S': '2'}


# -- optimistic requests in the same line --------------------------------


@pytest.mark.parametrize('first_writes', [True, False])
def test_optimistic_save_inherits_the_lock_if_nothing_was_saved(
    first_writes: bool, counted: DynamoDBSessionStore, wire: CountingClient
) -> None:
    record: Any = counted.get_item(ID)
    first = locked(counted)
    act = write(counted) if first_writes else read(counted)

    def save() -> Any:
        return counted.set_item_optimistic(ID, {'n': 9}, b'{"n":9}', record)

    with ThreadPoolExecutor(1) as threads:
        wire.calls.clear()
        saved = threads.submit(save)
        wait_until(lambda: queue_length(counted) == 2)
        act(first)
    if first_writes:
        assert type(saved.exception()).__name__ == 'SessionConflict'
    else:
        saved.result()
    # what is handed on to who does not want it is released; an engine may
    # make us ask what stands where the condition failed
    writes = [call for call in wire.calls if call != 'get_item']
    assert writes == ['update_item'] * (3 if first_writes else 2)
    assert items(counted) == {'n': 1 if first_writes else 9}
    record = locked(counted)
    counted.release_item_exclusive(ID, record.lock_id)
