"""The engine under test, a table in it, and what tests share around it."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

import hypothesis
import pytest

from pyramid_dynamodb_session import DynamoDBSessionStore, local
from pyramid_dynamodb_session.dynamodb.direct import DirectClient
from pyramid_dynamodb_session.store import owners
from tests.support.aws import (
    ACCESS_KEY,
    KNOWS_ACCOUNTS,
    REGION,
    SECRET_KEY,
    boto3_session,
    create_table,
    hide_aws_settings,
    make_client,
)
from tests.support.chromium import chromium
from tests.support.engines import engine_of
from tests.support.proxy import FaultProxy
from tests.support.servers import ROOT
from tests.support.wire import Wire


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--dynamodb-endpoint',
        metavar='URL',
        help='test on this DynamoDB server instead of moto',
    )
    parser.addoption(
        '--transport',
        choices=('boto3', 'direct'),
        default='boto3',
        help='how the sessions under test reach DynamoDB',
    )
    parser.addoption(
        '--no-skips',
        action='store_true',
        help='a skipped test is a failure',
    )
    parser.addoption(
        '--seed',
        type=int,
        help='of the random faults; each run prints its own',
    )
    parser.addoption(
        '--soak-seconds',
        type=float,
        default=180,
        help='how long pytest -m soak takes (default: 180)',
    )
    parser.addoption(
        '--simulated-requests',
        type=int,
        default=1_000_000,
        help='how many pytest -m soak simulates (default: 1000000)',
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        'markers',
        'engines(*names, reason): only these engines can carry the test;'
        ' it is deselected on the others.',
    )
    config.addinivalue_line(
        'markers',
        'postgresql: deselected where POSTGRESQL_URL is not set.',
    )
    config.addinivalue_line(
        'markers',
        'recent_botocore: deselected where it is older than the endpoints of '
        'accounts.',
    )
    config.addinivalue_line(
        'markers', 'soak: takes minutes; only run by pytest -m soak.'
    )
    config.addinivalue_line(
        'markers',
        'servers: needs pip install -e ".[servers]"; only run by pytest -m '
        'servers.',
    )
    for marker in ('soak', 'servers'):
        given = config.option.markexpr
        if marker not in given:
            rest = f'not {marker}'
            config.option.markexpr = f'({given}) and {rest}' if given else rest
    hide_aws_settings()
    # child processes find the demo and the tests, installed here or not
    os.environ['PYTHONPATH'] = str(ROOT)
    # the same examples each time: the fuzzers look for new ones
    hypothesis.settings.register_profile('repeatable', derandomize=True)
    hypothesis.settings.load_profile('repeatable')


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    endpoint = config.getoption('dynamodb_endpoint')
    try:
        engine = engine_of(endpoint) if endpoint else 'moto'
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f'{endpoint}: {error}') from error

    def fits(item: pytest.Item) -> bool:
        if item.get_closest_marker('postgresql') and (
            'POSTGRESQL_URL' not in os.environ
        ):
            return False
        if item.get_closest_marker('recent_botocore') and not KNOWS_ACCOUNTS:
            return False
        marker = item.get_closest_marker('engines')
        return marker is None or engine in marker.args

    misfits = [item for item in items if not fits(item)]
    if misfits:
        config.hook.pytest_deselected(items=misfits)
        items[:] = [item for item in items if fits(item)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, Any, Any]:
    report = yield
    return refuse_skip(item.config, report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, Any, Any]:
    report = yield
    return refuse_skip(collector.config, report)


def refuse_skip(config: pytest.Config, report: Any) -> Any:
    """Turn a skip into a failure that gives its reason."""
    expected = hasattr(report, 'wasxfail')
    if report.skipped and not expected and config.getoption('no_skips'):
        report.outcome = 'failed'
        report.longrepr = report.longrepr[2]
    return report


@pytest.fixture(scope='session')
def endpoint(request: pytest.FixtureRequest) -> str:
    """The URL of the DynamoDB under test."""
    given: str | None = request.config.getoption('dynamodb_endpoint')
    return given or local.start()


@pytest.fixture(scope='session')
def engine(endpoint: str) -> str:
    """``'moto'``, ``'dynamodb-local'`` or ``'dynoxide'``."""
    return engine_of(endpoint)


@pytest.fixture(scope='session')
def client(endpoint: str, pytestconfig: pytest.Config) -> Any:
    """A client that goes straight to the engine."""
    session = boto3_session()
    client = make_client(session, endpoint)
    if pytestconfig.getoption('transport') == 'direct':
        return DirectClient(client, session.get_credentials())
    return client


@pytest.fixture(scope='session')
def table(client: Any) -> Iterator[str]:
    """The name of the table that all tests share."""
    name = f'Sessions-{uuid.uuid4().hex[:8]}'
    create_table(client, name, ('SessionId', 'HASH', 'S'))
    yield name
    client.delete_table(TableName=name)


@pytest.fixture(scope='session')
def indexed_table(client: Any) -> Iterator[str]:
    """The name of a table with the index of owners, ``Owner-index``."""
    name = f'Owned-{uuid.uuid4().hex[:8]}'
    DynamoDBSessionStore(
        client,
        table=name,
        owner_index='Owner-index',
        on_demand_capacity=True,
        ttl_attribute='',
    ).initialize()
    yield name
    client.delete_table(TableName=name)


@pytest.fixture
def settled_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines' indexes follow at once."""
    monkeypatch.setattr(owners, 'SETTLED_AFTER', 0.05)
    monkeypatch.setattr(owners, 'PAUSE', 0.01)


@pytest.fixture
def application() -> str:
    """A name of its own for each test: none sees another's sessions."""
    return fresh_name()


def fresh_name() -> str:
    return f'test-{uuid.uuid4().hex[:8]}'


@pytest.fixture(scope='session')
def settings_at(
    table: str, pytestconfig: pytest.Config
) -> Callable[..., dict[str, str]]:
    """A function from a DynamoDB's URL to an application's settings."""

    def settings_at(url: str, application: str = '') -> dict[str, str]:
        return {
            'dynamodb_session.endpoint_url': url,
            'dynamodb_session.region': REGION,
            'dynamodb_session.aws_access_key_id': ACCESS_KEY,
            'dynamodb_session.aws_secret_access_key': SECRET_KEY,
            'dynamodb_session.table': table,
            'dynamodb_session.application': application or fresh_name(),
            'dynamodb_session.transport': pytestconfig.getoption('transport'),
        }

    return settings_at


@pytest.fixture
def settings(
    endpoint: str, settings_at: Callable[..., dict[str, str]], application: str
) -> dict[str, str]:
    """The ``.ini`` settings of an application on the engine under test."""
    return settings_at(endpoint, application)


@pytest.fixture
def proxy(endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxied(settings: dict[str, str], proxy: FaultProxy) -> dict[str, str]:
    """The same settings, through ``proxy``."""
    return settings | {'dynamodb_session.endpoint_url': proxy.url}


@pytest.fixture
def raw_item(
    client: Any, table: str, application: str
) -> Callable[[str], dict[str, Any] | None]:
    """A function from a session id to its item as DynamoDB holds it."""

    def raw_item(session_id: str) -> dict[str, Any] | None:
        digest = hashlib.sha256(session_id.encode()).digest()
        hashed = base64.urlsafe_b64encode(digest).decode().rstrip('=')
        answer = client.get_item(
            TableName=table,
            Key={'SessionId': {'S': f'{application}-{hashed}'}},
            ConsistentRead=True,
        )
        item: dict[str, Any] | None = answer.get('Item')
        return item

    return raw_item


@pytest.fixture(scope='session')
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium, one for all tests."""
    with chromium(tmp_path_factory.mktemp('chromium')) as driver:
        yield driver


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing of proxies and certificates."""
    for name in ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ('AWS_CA_BUNDLE', 'REQUESTS_CA_BUNDLE'):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch
