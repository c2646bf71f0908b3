"""What README.rst and the documentation tell people to do works."""

from __future__ import annotations

import ast
import base64
import http.client
import json
import logging.config
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from fnmatch import fnmatchcase
from http.cookies import SimpleCookie
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import pytest
from pyramid.interfaces import ISessionFactory
from pyramid.response import Response
from pyramid.testing import DummyRequest
from webtest import TestApp

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    session_factory_from_settings,
)
from pyramid_dynamodb_session.store import owners
from pyramid_dynamodb_session.store.item import (
    ITEM_LIMIT,
    PAYLOAD_LIMIT,
    hash_key,
    item_size,
)
from tests.support.browser import Browser
from tests.support.chromium import chromium
from tests.support.docs_pages import PAGE, PAGES, ROOT, Page, page, parse_ini
from tests.support.proxy import FaultProxy
from tests.support.servers import Server
from tests.support.together import together, wait_until

APPLICATION = 'dynamodb_session.application'
LEASE = 'dynamodb_session.lock_lease'
RESULTS = 'docs/_static/benchmarks/results.json'
every_page = pytest.mark.parametrize('path', PAGES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def no_shop_is_left_behind() -> Iterator[None]:
    yield
    sys.modules.pop('shop', None)


@every_page
def test_the_python_runs(path: Path) -> None:
    Page(path).run()


@every_page
def test_the_settings_are_right(path: Path) -> None:
    page = Page(path)
    page.run()
    for settings in page.settings():
        session_factory_from_settings(settings)


@every_page
def test_the_json_is_json(path: Path) -> None:
    for text in Page(path).blocks.get('json', []):
        json.loads(text)


def test_the_logging_sections_work() -> None:
    (ini,) = (
        parse_ini(text)
        for text in page('operations').blocks['ini']
        if '[loggers]' in text
    )
    logging.config.fileConfig(ini, disable_existing_loggers=False)


@pytest.mark.parametrize('name', ['README', 'index'])
def test_the_first_example_counts(name: str, settings: dict[str, str]) -> None:
    browser = TestApp(page(name).app(settings))
    browser.get('/cart')
    assert browser.get('/cart').json == {'n': 2}


def test_settings_in_code(settings: dict[str, str]) -> None:
    app = page('settings').app(settings)
    factory = app.registry.getUtility(ISessionFactory)
    assert factory.settings.application == 'shop'
    assert factory.settings.timeout == 3600


# -- the tutorial --------------------------------------------------------


def test_parallel_requests_lose_nothing_from_the_tutorials_cart(
    tmp_path: Path,
) -> None:
    assert raced(tmp_path, 'development.ini') == promised()


def test_the_tutorials_production_ini_works_as_shown(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    # AWS is elsewhere
    assert raced(tmp_path, 'production.ini', settings) == promised()


def promised() -> Any:
    (printed,) = page('tutorial').blocks['json']
    return json.loads(printed)


def raced(
    directory: Path, ini: str, settings: dict[str, str] | None = None
) -> Any:
    """What the tutorial's script prints, with `settings` in the `ini`."""
    with tutorial(directory, ini, settings or {}) as race:
        printed = subprocess.run(
            [sys.executable, race],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    return json.loads(printed.stdout)


@contextmanager
def tutorial(
    directory: Path, ini: str, settings: dict[str, str]
) -> Iterator[Path]:
    """The project as a reader has it, served; yields the script to run."""
    port = free_port()
    for name, text in page('tutorial').files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        for host in ('localhost', '*'):
            text = text.replace(f'{host}:6543', f'127.0.0.1:{port}')
        file.write_text(text)
    replace_settings(directory / ini, settings)
    (directory / 'shop/views/__init__.py').touch()
    installed = directory / 'shop.egg-info'
    installed.mkdir()
    (installed / 'PKG-INFO').write_text('Name: shop\nVersion: 0.0\n')
    (installed / 'entry_points.txt').write_text(
        '[paste.app_factory]\nmain = shop:main\n'
    )
    command = 'import sys; from pyramid.scripts.pserve import main; main()'
    server = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', command, ini],
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(port), 60)
        yield directory / 'race.py'
    finally:
        server.terminate()
        server.wait(30)


def replace_settings(ini: Path, settings: dict[str, str]) -> None:
    lines = [
        line
        for line in ini.read_text().splitlines()
        if line.partition(' = ')[0] not in settings
    ]
    section = lines.index('[app:main]') + 1
    given = [f'{name} = {value}' for name, value in settings.items()]
    ini.write_text('\n'.join([*lines[:section], *given, *lines[section:]]))


def free_port() -> int:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    try:
        return Browser(f'http://127.0.0.1:{port}').get('/cart').status == 200
    except OSError:
        return False


# -- states --------------------------------------------------------------


def test_the_calls_in_the_table_of_states(
    proxied: dict[str, str], proxy: FaultProxy
) -> None:
    browser = TestApp(page('states').app(proxied))
    cells = re.findall(
        r'\* - ``(\w+)``\n      - (.*)', page('states').path.read_text()
    )
    promised = {state: int(calls[0]) for state, calls in cells}
    browser.get('/add')

    def calls(path: str) -> int:
        proxy.clear()
        browser.get(path)
        return len(proxy.calls)

    assert calls('/add') == promised['exclusive'] == 2
    assert calls('/badge') == promised['read_only'] == 1
    assert calls('/seen') == promised['optimistic'] + 1 == 2
    assert calls('/price') == promised['disabled'] == 0


def test_the_documented_attempts_are_enough(
    settings: dict[str, str],
) -> None:
    states = page('states')
    (attempts,) = (
        given['retry.attempts']
        for given in states.settings()
        if 'retry.attempts' in given
    )
    app = states.app(
        settings
        | {'pyramid.includes': 'pyramid_retry', 'retry.attempts': attempts}
    )
    browser = TestApp(app)
    browser.get('/add')

    def count() -> None:
        other = TestApp(app)
        other.set_cookie('session', browser.cookies['session'])
        for _ in range(25):
            other.get('/seen')

    together([count] * 4)
    assert browser.get('/seen').json == {'seen': 101}


# -- streaming -----------------------------------------------------------


@pytest.fixture
def streaming(settings: dict[str, str], a_session: str) -> Iterator[Browser]:
    """A browser that has a session, at a server of the page's views."""
    given = settings | {PAGE: 'streaming'}
    with Server(given, app='tests.support.docs_pages:main') as server:
        yield Browser(server.url, {'session': a_session})


@pytest.fixture
def store(client: Any, table: str, application: str) -> DynamoDBSessionStore:
    return DynamoDBSessionStore(client, table=table, application=application)


@pytest.fixture
def a_session(store: DynamoDBSessionStore) -> str:
    """The id of a session that is stored."""
    session_id = secrets.token_urlsafe(32)
    store.set_and_release_item_exclusive(session_id, {'n': 1}, None, True)
    return session_id


def test_a_request_gets_through_while_another_one_polls(
    streaming: Browser, store: DynamoDBSessionStore, a_session: str
) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(streaming.clone().get, '/wait')
        wait_until(lambda: 'asked' in stored(store, a_session))
        assert not waiting.done()
        assert streaming.get('/ship').json['shipped']
        assert waiting.result().json == {'shipped': True, 'asked': 1}


def test_a_request_gets_through_while_events_stream(
    streaming: Browser, store: DynamoDBSessionStore, a_session: str
) -> None:
    connection = http.client.HTTPConnection(
        urlsplit(streaming.url).netloc, timeout=30
    )
    with closing(connection):
        connection.request(
            'GET', '/events', headers={'Cookie': f'session={a_session}'}
        )
        events = connection.getresponse()
        assert events.getheader('Content-Type').startswith('text/event-stream')
        assert events.readline() == b'data: waiting\n'
        assert stored(store, a_session)['listens']
        assert streaming.get('/ship').json['shipped']
        assert b'data: shipped, asked 0 times' in events.read()


def stored(store: DynamoDBSessionStore, session_id: str) -> dict[str, Any]:
    record = store.get_item(session_id)
    assert record is not None
    return record.items


# -- logging in ----------------------------------------------------------


@pytest.fixture
def login_settings(
    settings: dict[str, str], indexed_table: str, monkeypatch: Any
) -> dict[str, str]:
    """Those on the page, at the engine under test."""
    monkeypatch.setattr(owners, 'SETTLED_AFTER', 0.05)
    monkeypatch.setattr(owners, 'PAUSE', 0.01)
    given: dict[str, str] = {}
    for ini in page('login').settings():
        given |= ini
    return given | settings | {'dynamodb_session.table': indexed_table}


@pytest.fixture
def login_store(
    client: Any, indexed_table: str, application: str
) -> DynamoDBSessionStore:
    return DynamoDBSessionStore(
        client, table=indexed_table, application=application
    )


def log_in(app: Any, **form: str) -> TestApp:
    browser = TestApp(app)
    browser.post('/login', {'name': 'anna', 'password': 'secret', **form})
    return browser


def test_a_login_gets_a_new_id_and_a_logout_ends_the_session(
    login_settings: dict[str, str], login_store: DynamoDBSessionStore
) -> None:
    app = both('login', 'index').app(login_settings)
    browser = TestApp(app)
    browser.get('/cart')
    before = browser.cookies['session']
    answer = browser.post(
        '/login', {'name': 'anna', 'password': 'secret', 'stay': 'on'}
    )
    assert f'Max-Age={30 * 24 * 3600}' in answer.headers['Set-Cookie']
    assert browser.get('/account').json == {'name': 'anna'}
    assert login_store.get_item(before) is None

    after = browser.cookies['session']
    assert stored(login_store, after)['n'] == 1
    browser.post('/logout')
    assert login_store.get_item(after) is None
    assert 'session' not in browser.cookies


def test_devices_of_a_user_are_listed(login_settings: dict[str, str]) -> None:
    app = page('login').app(login_settings)
    here, there = log_in(app), log_in(app, stay='on')
    devices = here.get('/devices').json
    assert [each['is_this_one'] for each in devices].count(True) == 1
    for each in devices:
        assert abs(each['created'] - time.time()) < 60
        if each['is_this_one']:
            assert abs(each['last_seen'] - time.time()) < 60
        else:
            assert each['last_seen'] is None
    there.post('/logout')
    assert len(here.get('/devices').json) == 1


def test_other_devices_are_signed_out(login_settings: dict[str, str]) -> None:
    app = page('login').app(login_settings)
    here, there = log_in(app), log_in(app)
    assert here.post('/sign_out_others').json == {'ended': 1}
    assert here.get('/account').json == {'name': 'anna'}
    assert there.get('/account').json == {'name': None}


def test_change_of_password_signs_out_the_others(
    login_settings: dict[str, str],
) -> None:
    app = page('login').app(login_settings)
    here, there = log_in(app), log_in(app)
    before = here.cookies['session']
    here.post('/password', {'password': 'new'})
    assert here.cookies['session'] != before
    assert here.get('/account').json == {'name': 'anna'}
    assert there.get('/account').json == {'name': None}
    thief = TestApp(app)
    thief.set_cookie('session', before)
    assert thief.get('/account').json == {'name': None}
    (device,) = here.get('/devices').json
    assert device['is_this_one']


def both(name: str, other: str) -> Page:
    """A page with the code of another one as well."""
    merged = page(name)
    merged.blocks['python'] += page(other).blocks['python']
    return merged


def test_a_wrong_password_is_no_login(login_settings: dict[str, str]) -> None:
    browser = TestApp(page('login').app(login_settings))
    browser.post('/login', {'name': 'anna', 'password': '?'}, status=403)
    assert browser.get('/account').json == {'name': None}


# -- migration -----------------------------------------------------------


def old_cookie(n: int) -> str:
    """The cookie of a session that the old factory has signed."""
    factory = sys.modules['shop'].old_session_factory  # type: ignore[attr-defined]
    response = Response()
    session = factory(DummyRequest())
    session['n'] = n
    session.accessed -= 60
    session._set_cookie(response)
    (morsel,) = SimpleCookie(response.headers['Set-Cookie']).values()
    return str(morsel.value)


def test_sessions_in_cookies_are_carried_over(
    settings: dict[str, str],
) -> None:
    (given,) = page('from-cookies').settings()
    name = 'dynamodb_session.cookie_name'
    app = both('from-cookies', 'index').app(settings | {name: given[name]})
    browser = TestApp(app)
    browser.set_cookie('session', old_cookie(5))
    answer = browser.get('/cart')
    assert answer.json == {'n': 6}
    new, removed = sorted(answer.headers.getall('Set-Cookie'), key=len)[::-1]
    assert new.startswith('sid=')
    assert removed.startswith('session=; Max-Age=0;')

    afterwards = TestApp(app)
    afterwards.set_cookie('sid', browser.cookies['sid'])
    assert afterwards.get('/cart').json == {'n': 7}


def test_a_session_that_has_begun_is_not_overwritten_by_an_old_one(
    settings: dict[str, str],
) -> None:
    name = 'dynamodb_session.cookie_name'
    app = both('from-cookies', 'index').app(settings | {name: 'sid'})
    browser = TestApp(app)
    browser.get('/cart')
    browser.set_cookie('session', old_cookie(5))
    assert browser.get('/cart').json == {'n': 2}


# -- failures and other packages -----------------------------------------


def test_the_page_of_a_failure_is_shown(
    proxied: dict[str, str], proxy: FaultProxy, a_session: str
) -> None:
    app = both('failures', 'index').app(
        proxied | {'dynamodb_session.max_attempts': '1'}
    )
    browser = TestApp(app)
    browser.set_cookie('session', a_session)
    proxy.refuse()
    answer = browser.get('/cart', status=503)
    assert answer.json == {'error': 'Please try again in a moment.'}


@pytest.mark.parametrize('saving_early', [True, False])
def test_a_lost_lock_is_noticed_before_the_commit(
    saving_early: bool,
    settings: dict[str, str],
    client: Any,
    table: str,
    a_session: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    addons = page('addons')
    if not saving_early:
        (code,) = addons.blocks['python']
        addons.blocks['python'] = [re.sub('.*save.*', '', code)]
    app = addons.app(
        settings
        | {'pyramid.includes': 'pyramid_tm pyramid_retry', LEASE: '0.5'}
    )
    browser = TestApp(app)
    browser.set_cookie('session', a_session)
    name = hash_key(a_session, settings[APPLICATION])
    shop = vars(sys.modules['shop'])
    place_order, attempts = shop['place_order'], []

    def lose_the_lock_once(*args: Any) -> None:
        attempts.append(args)
        place_order(*args)
        if len(attempts) == 1:
            client.update_item(
                TableName=table,
                Key={'SessionId': {'S': name}},
                UpdateExpression='REMOVE LockId, LockDate',
            )
            # longer than the vote takes the lock for granted
            time.sleep(0.3)

    shop['place_order'] = lose_the_lock_once
    assert browser.get('/order').json == {'order': 1}
    assert len(attempts) == 2
    assert capsys.readouterr().out == 'order 1 is in the database\n'


# -- testing an application ----------------------------------------------


def test_the_tests_of_the_testing_page_pass(tmp_path: Path) -> None:
    for name, text in page('testing').files.items():
        (tmp_path / name).write_text(text)
    tests = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'pytest', tmp_path],
        cwd=tmp_path,
        env={**os.environ, 'PYTEST_ADDOPTS': ''},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert tests.returncode == 0, tests.stdout
    for file in tmp_path.glob('test_*'):
        assert f'{file.name} .' in tests.stdout


# -- the store, and what it stores ---------------------------------------


def test_the_store_by_itself(client: Any, table: str) -> None:
    assert page('from-aspnet').run().example(client, table) == {'n': 2}


@pytest.mark.parametrize('size', [100, 5000])
def test_the_end_of_a_session_is_noticed(
    size: int,
    store: DynamoDBSessionStore,
    raw_item: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.set_and_release_item_exclusive(
        'ended', {'cart': {'tea': 'x' * size}}, None, True
    )
    item = raw_item('ended')
    if 'B' in item['SessionItems']:
        binary = bytes(item['SessionItems']['B'])
        # as a stream's records have it
        item['SessionItems']['B'] = base64.b64encode(binary).decode()
    assert ('B' in item['SessionItems']) == (size > 1024)
    record = {
        'eventName': 'REMOVE',
        'dynamodb': {'OldImage': item},
        'userIdentity': {
            'type': 'Service',
            'principalId': 'dynamodb.amazonaws.com',
        },
    }
    handler = page('session-end').run().handler
    handler({'Records': [record]}, None)
    assert 'x' * size in capsys.readouterr().out
    record['dynamodb']['OldImage'] = {**item, 'Ended': {'N': '1'}}
    handler({'Records': [record]}, None)
    assert not capsys.readouterr().out
    record['dynamodb']['OldImage'] = item
    del record['userIdentity']
    handler({'Records': [record]}, None)
    assert not capsys.readouterr().out


def test_the_attributes_on_the_page_are_those_of_an_item(
    store: DynamoDBSessionStore, raw_item: Any
) -> None:
    text = page('item').path.read_text()
    store.set_and_release_item_exclusive('locked', {'n': 1}, None, True)
    fresh = raw_item('locked')
    (always,) = re.findall(r'^Only (.*?)\nare in every', text, re.M | re.S)
    assert set(fresh) == set(re.findall(r'``(\w+)``', always))

    store.get_item_exclusive('locked')
    locked = raw_item('locked')
    assert all(f'``{name}``' in text for name in locked)
    (overhead,) = re.findall(r'about (\d+) bytes besides', text)
    application = len(store.settings.application or '') + 1
    data = len(locked['SessionItems']['S'])
    assert item_size(locked) - data - application == pytest.approx(
        int(overhead), rel=0.05
    )


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    text = page('item').path.read_text()
    assert f'{ITEM_LIMIT // 1024} KB' in text
    assert f'{PAYLOAD_LIMIT // 1024**2} MB' in text


def test_purging(settings: dict[str, str]) -> None:
    operations = page('operations')
    assert operations.run().purge(operations.app(settings).registry) == 0


# -- cost ----------------------------------------------------------------

CALCULATED = {
    'exclusive': 50,
    'read_only': 150,
    'optimistic': 10,
    'touched': 20,
    'size': 4.5,
    'created': 0,
    'regenerated': 0,
}


def test_the_calculator_has_the_units_of_the_page_on_cost(
    tmp_path: Path,
) -> None:
    static = ROOT / 'docs/_static'
    form = tmp_path / 'calculator.html'
    form.write_text((static / 'calculator.html').read_text())
    (tmp_path / '_static').mkdir()
    script = tmp_path / '_static/calculator.js'
    script.write_text((static / 'calculator.js').read_text())
    with chromium(tmp_path / 'profile') as driver:
        driver.get(form.as_uri())
        for name, value in CALCULATED.items():
            field = driver.find_element('name', name)
            field.clear()
            field.send_keys(str(value))
        shown = {
            name: driver.find_element('name', name).text
            for name in ('writes', 'reads', 'month')
        }
    given = {k: CALCULATED[k] for k in list(CALCULATED)[:4]}
    writes, reads = page('cost').run().units(4.5 * 1024, **given)
    month = 730 * 3600 * (writes * 0.625 + reads * 0.125) / 1e6
    storage = 4.5 * 100_000 / 1e6 * 0.25
    assert shown == {
        'writes': f'{writes:,}',
        'reads': f'{reads:,}',
        'month': f'{month + storage:,.2f}',
    }


# -- figures that must not drift -----------------------------------------

#: The rows of the comparison, and whose figures they give.
COMPARED = {
    'this package, ``exclusive``, over boto3': 'boto3',
    '``SignedCookieSessionFactory``': 'cookie',
    'pyramid_session_redis 1.8': 'redis',
    'pyramid_dynamodb_sessions 0.1.3': 'luhn',
    'Flask-Session 0.8 with DynamoDB': 'flask',
}


@pytest.mark.parametrize('row', COMPARED)
def test_the_comparison_has_the_figures_of_the_benchmarks(row: str) -> None:
    name = COMPARED[row]
    results = json.loads((ROOT / RESULTS).read_text())
    kept = [
        done['survived'] for done in results['survival']['data'][name].values()
    ]
    batches = results['cpu']['data'][name]['read+write']
    cpu = median(median(batch) for batch in batches)
    text = page('why').path.read_text()
    _, *cells = text[text.index(f'* - {row}\n') :].split('\n      - ')[:4]
    numbers = sorted({min(kept), max(kept)})
    assert cells[1:] == [' to '.join(map(str, numbers)), f'{cpu:,.0f}']


# -- words that must not drift -------------------------------------------


def test_the_readme_gives_the_defaults_of_six_settings() -> None:
    text = page('README').path.read_text()
    rows = re.findall(r"^``(\w+)`` +(``\S+``|boto3's|none|by )", text, re.M)
    settings = session_factory_from_settings(
        {'dynamodb_session.region': 'us-west-2'}
    ).settings
    assert len(rows) == 6
    for name, default in rows:
        value = getattr(settings, name)
        if default.startswith('``'):
            assert str(value).lower() == default.strip('`')


def test_the_readme_is_short() -> None:
    assert len(page('README').path.read_text().splitlines()) <= 100


def test_each_message_explained_is_one_of_the_code() -> None:
    said = constants(ROOT / 'pyramid_dynamodb_session')
    text = page('troubleshooting').path.read_text()
    terms = re.findall(r'^(``.*``)\n    ', text, re.M)
    messages = [part for term in terms for part in term[2:-2].split('``, ``')]
    assert len(messages) > 30
    assert [part for part in messages if part not in said] == []


def constants(package: Path) -> str:
    """All texts in the code, each on a line."""
    return '\n'.join(
        node.value
        for path in package.rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_the_operations_of_the_policy_are_those_that_are_called() -> None:
    """Both policies of the runtime allow the same."""
    runtime, deployer, by_application = map(
        json.loads, page('permissions').blocks['json']
    )
    assert actions(runtime) == actions(by_application)
    assert 'dynamodb:CreateTable' in actions(deployer)


def actions(policy: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for statement in policy['Statement']:
        action = statement['Action']
        found |= {action} if isinstance(action, str) else set(action)
    return found


def test_the_key_pattern_of_the_policy_fits_one_application() -> None:
    *_, policy = map(json.loads, page('permissions').blocks['json'])
    condition = policy['Statement'][1]['Condition']['ForAllValues:StringLike']
    (pattern,) = condition['dynamodb:LeadingKeys']
    assert fnmatchcase(hash_key('id', 'shop'), pattern)
    assert not fnmatchcase(hash_key('id', 'shop-eu'), pattern)
