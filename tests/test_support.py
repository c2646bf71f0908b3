"""The proxy, servers and browser of the tests work as the tests assume."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from tests.support.browser import Browser
from tests.support.proxy import (
    LOSE_REPLY,
    RESET,
    Fault,
    FaultProxy,
    error,
    hang,
    malformed,
    slow,
)
from tests.support.servers import Server

Add = Callable[[], str]
RawItem = Callable[[str], 'dict[str, Any] | None']


@pytest.fixture
def through(proxy: FaultProxy) -> Any:
    """A client behind the proxy that never tries twice."""
    return boto3.client(
        'dynamodb',
        endpoint_url=proxy.url,
        region_name='us-west-2',
        config=Config(
            connect_timeout=1,
            read_timeout=1,
            retries={'mode': 'standard', 'total_max_attempts': 1},
        ),
    )


@pytest.fixture
def add(through: Any, table: str, application: str) -> Add:
    """Adds one to a counter through the proxy; returns the new count."""

    def add() -> str:
        answer = through.update_item(
            TableName=table,
            Key={'SessionId': {'S': application}},
            UpdateExpression='ADD N :one',
            ExpressionAttributeValues={':one': {'N': '1'}},
            ReturnValues='ALL_NEW',
        )
        count: str = answer['Attributes']['N']['N']
        return count

    return add


@pytest.fixture
def stored(client: Any, table: str, application: str) -> Callable[[], int]:
    """The count as the engine holds it."""

    def stored() -> int:
        item = client.get_item(
            TableName=table,
            Key={'SessionId': {'S': application}},
            ConsistentRead=True,
        ).get('Item')
        return int(item['N']['N']) if item else 0

    return stored


def test_engine_is_known(engine: str) -> None:
    assert engine in ('moto', 'dynamodb-local', 'dynoxide')


def test_calls_are_recorded(
    proxy: FaultProxy, add: Add, application: str
) -> None:
    before = time.monotonic()
    assert [add(), add()] == ['1', '2']
    assert proxy.operations == ['UpdateItem', 'UpdateItem']
    call = proxy.calls[1]
    assert call.request['Key'] == {'SessionId': {'S': application}}
    assert call.response['Attributes']['N'] == {'N': '2'}
    assert (call.status, call.error, call.fault) == (200, '', None)
    assert before <= call.at <= time.monotonic()
    proxy.clear()
    assert proxy.calls == []


def test_failed_conditions_are_counted(
    proxy: FaultProxy, through: Any, table: str, application: str
) -> None:
    for _ in range(3):
        with pytest.raises(ClientError, match='ConditionalCheckFailed'):
            through.delete_item(
                TableName=table,
                Key={'SessionId': {'S': application}},
                ConditionExpression='attribute_exists(N)',
            )
    assert proxy.failed_conditions == 3


def test_proxy_adds_little_latency(proxy: FaultProxy, add: Add) -> None:
    add()
    assert quickest(add) < 0.03


def test_delay_is_the_latency_of_the_store(
    proxy: FaultProxy, add: Add
) -> None:
    proxy.delay = 0.05
    assert quickest(add) >= 0.05


def quickest(act: Callable[[], object]) -> float:
    """The seconds that the fastest of ten tries took."""

    def once() -> float:
        started = time.monotonic()
        act()
        return time.monotonic() - started

    return min(once() for _ in range(10))


@pytest.mark.parametrize(
    ('fault', 'raised', 'applied'),
    [
        (LOSE_REPLY, ConnectionClosedError, 1),
        (RESET, ConnectionClosedError, 0),
        (hang(0.1), ConnectionClosedError, 0),
        (hang(10), ReadTimeoutError, 0),
        (slow(1.2), ReadTimeoutError, 1),
        (error(400, 'ThrottlingException'), ClientError, 0),
        (error(500, 'InternalServerError'), ClientError, 0),
        (malformed(b'{"Attributes": '), KeyError, 0),
    ],
    ids=lambda value: getattr(value, 'name', None),
)
def test_fault(
    fault: Fault,
    raised: type[Exception],
    applied: int,
    proxy: FaultProxy,
    add: Add,
    stored: Callable[[], int],
) -> None:
    proxy.inject(fault)
    with pytest.raises(raised):
        add()
    wait_until(lambda: stored() == applied)
    assert add() == str(applied + 1)
    if fault.answers or fault.seconds < 1:
        wait_until(lambda: fault in [call.fault for call in proxy.calls])


def test_injected_fault_hits_the_calls_it_is_meant_for(
    proxy: FaultProxy, add: Add, stored: Callable[[], int]
) -> None:
    proxy.inject(error(500, 'InternalServerError'), 'UpdateItem', after=1)
    assert add() == '1'
    with pytest.raises(ClientError):
        add()
    assert add() == '2'
    proxy.inject(RESET, 'GetItem', times=math.inf)
    assert add() == '3'


def test_fault_is_decided_by_number_and_request(
    proxy: FaultProxy, add: Add, application: str
) -> None:
    def every_second(
        number: int, operation: str, request: dict[str, Any]
    ) -> Fault | None:
        ours = request['Key'] == {'SessionId': {'S': application}}
        return RESET if ours and number % 2 == 0 else None

    proxy.fault = every_second
    add()
    with pytest.raises(ConnectionClosedError):
        add()
    add()
    proxy.heal()
    assert add() == '3'


def test_refused_connections_are_accepted_again_on_the_same_port(
    proxy: FaultProxy, add: Add
) -> None:
    add()
    url = proxy.url
    for _ in range(3):
        proxy.refuse()
        with pytest.raises(EndpointConnectionError):
            add()
        proxy.accept()
        add()
    assert proxy.url == url
    assert proxy.operations == ['UpdateItem'] * 4


def test_half_a_call_is_not_passed_on(
    proxy: FaultProxy, stored: Callable[[], int]
) -> None:
    """A client that is killed while it sends must not keep the engine."""
    address = urlsplit(proxy.url)
    with socket.create_connection((address.hostname, address.port)) as half:
        half.sendall(
            b'POST / HTTP/1.1\r\nContent-Length: 100\r\n'
            b'X-Amz-Target: DynamoDB_20120810.UpdateItem\r\n\r\n{"Table'
        )
        half.shutdown(socket.SHUT_WR)
        half.settimeout(5)
        assert half.recv(1) == b''
    assert proxy.calls == []
    assert stored() == 0


def test_calls_go_through_side_by_side(
    proxy: FaultProxy, add: Add, stored: Callable[[], int]
) -> None:
    add()
    proxy.delay = 0.2
    threads = [threading.Thread(target=add) for _ in range(8)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 0.2 * 4
    assert stored() == 9


def test_server_answers_and_browser_keeps_its_cookie(
    settings: dict[str, str], raw_item: RawItem
) -> None:
    with Server(settings) as one, Server(settings, workers=2) as other:
        browser = Browser(one.url)
        assert browser.get('/none').json == {}
        assert not browser.cookies
        assert browser.get('/count', key='k').json == {'k': 1}
        elsewhere = browser.at(other.url)
        assert elsewhere.get('/count', key='k').json == {'k': 2}
        assert browser.get('/read').json == {'k': 2}
    item = raw_item(browser.cookies['session'])
    assert item and 'LockId' not in item


def test_server_is_stopped_continued_and_killed(
    settings: dict[str, str],
) -> None:
    with Server(settings) as server:
        browser = Browser(server.url, timeout=0.5)
        assert browser.get('/slow', seconds=0.1).seconds >= 0.1
        server.stop()
        with pytest.raises(TimeoutError):
            browser.get('/none')
        server.cont()
        assert browser.get('/none').status == 200
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            browser.get('/none')


def test_server_that_does_not_start_says_why(
    settings: dict[str, str],
) -> None:
    with pytest.raises(RuntimeError, match='No module named'):
        Server(settings, app='tests.nothing:main')


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
