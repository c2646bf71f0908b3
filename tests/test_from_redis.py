"""Sessions of pyramid_session_redis are carried over as its page says."""

from __future__ import annotations

import base64
import configparser
import datetime
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyramid_session_redis
import pytest
import redis
from pyramid.config import Configurator
from webtest import TestApp

from tests.apps.views import add_views, count, read
from tests.support.docs_pages import page
from tests.support.engines import free_port, running
from tests.support.servers import ROOT
from tests.support.together import together

WHEN = datetime.datetime(2024, 2, 29, 12, 30)


class Unstorable:
    """A class of the application, which pickle can store."""


@pytest.fixture(scope='module')
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which('redis-server')
    if program is None:
        pytest.skip('redis-server is not installed')
    port = free_port()
    command = [
        *(program, '--port', str(port), '--bind', '127.0.0.1'),
        *('--save', '', '--dir', str(tmp_path_factory.mktemp('redis'))),
    ]
    with running(command, port):
        yield f'redis://127.0.0.1:{port}/0'


@pytest.fixture
def server(redis_url: str) -> Any:
    client = redis.from_url(redis_url)
    client.flushall()
    return client


def fill(request: Any) -> Any:
    request.session.update({'n': 1, 'when': WHEN})
    return {}


def remember(request: Any) -> Any:
    """With a timeout of its own, as by *remember me*."""
    request.session['n'] = 5
    request.session.adjust_session_timeout(9000)
    return {}


def hold_object(request: Any) -> Any:
    request.session['object'] = Unstorable()
    return {}


def when(request: Any) -> Any:
    return {'is_the_same': request.session['when'] == WHEN}


def log_out(request: Any) -> Any:
    request.session.invalidate()
    return {}


class Shop:
    """The application before and after, and the script in between."""

    def __init__(
        self, folder: Path, settings: dict[str, str], redis_url: str
    ) -> None:
        documented = page('from-redis')
        self._folder = folder
        (given,) = documented.settings()
        self.settings = {
            **{k: v for k, v in given.items() if '.region' not in k},
            **settings,
            'redis.sessions.redis_url': redis_url,
        }
        for name, text in documented.files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        ini = configparser.ConfigParser(interpolation=None)
        factory = 'tests.apps.wsgi_app:main'
        ini['app:main'] = {'paste.app_factory': factory, **self.settings}
        with (folder / 'production.ini').open('w') as file:
            ini.write(file)

    def old(self) -> TestApp:
        of_redis = {
            key: value
            for key, value in self.settings.items()
            if key.startswith('redis.')
        }
        with Configurator(settings=of_redis) as config:
            config.include('pyramid_session_redis')
            add_views(config, fill, remember, hold_object, read)
        return TestApp(config.make_wsgi_app())

    def copy(self) -> list[str]:
        """What the script prints."""
        done = subprocess.run(
            [
                *(sys.executable, '-W', 'ignore'),
                *('-m', 'shop.copy_sessions', 'production.ini'),
            ],
            cwd=self._folder,
            env={'PYTHONPATH': f'{self._folder}:{ROOT}'},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def new(self, old: TestApp | None = None) -> TestApp:
        """With the cookie that another browser has from the old one."""
        with Configurator(settings=self.settings) as config:
            add_views(config, count, read, when, log_out)
            self._config = config
        browser = TestApp(config.make_wsgi_app())
        for name, value in (old.cookies if old else {}).items():
            browser.set_cookie(name, value.strip('"'))
        return browser


@pytest.fixture
def shop(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    settings: dict[str, str],
    redis_url: str,
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shop]:
    secret = getattr(request, 'param', '')
    if secret:
        settings |= {'dynamodb_session.secret': secret}
    monkeypatch.syspath_prepend(tmp_path)
    yield Shop(tmp_path, settings, redis_url)
    for name in [name for name in sys.modules if name.startswith('shop')]:
        del sys.modules[name]


with_and_without_secret = pytest.mark.parametrize(
    'shop', ['', 'a-secret-of-thirty-two-characters'], indirect=True
)


def test_it_is_the_version_whose_layout_is_on_the_page() -> None:
    assert pyramid_session_redis.__VERSION__.startswith('1.8.')


@with_and_without_secret
def test_living_sessions_are_carried_over(
    shop: Shop, raw_item: Any, server: Any
) -> None:
    filled, remembered = shop.old(), shop.old()
    filled.get('/fill')
    remembered.get('/remember')
    begin_earlier(server, 500)
    assert shop.copy() == ['copied 2, skipped 0']

    here = shop.new(filled)
    response = here.get('/count')
    assert response.json == {'n': 2}
    assert sorted(set_cookies(response)) == ['session=; Max-Age=0', 'sid']
    # the old cookie is needed no more
    assert shop.new(here).get('/when').json == {'is_the_same': True}
    there = shop.new(remembered)
    assert there.get('/count').json == {'n': 6}
    items = [raw_item(id_of(each)) for each in (here, there)]
    assert [item.get('SessionTimeout') for item in items] == [
        None,
        {'N': '9000'},
    ]
    for item, timeout in zip(items, (1200, 9000), strict=True):
        assert abs(int(item['CreateDate']['N']) - time.time() + 500) < 60
        assert abs(int(item['Expires']['N']) - time.time() - timeout) < 60


def begin_earlier(server: Any, seconds: int) -> None:
    """Have all old sessions be so much older."""
    for key in server.scan_iter():
        old = pickle.loads(server.get(key))
        old['c'] -= seconds
        server.set(key, pickle.dumps(old), keepttl=True)


def set_cookies(response: Any) -> list[str]:
    """The name of each cookie that is sent, or that it is removed."""
    sent = response.headers.getall('Set-Cookie')
    return [
        '; '.join(header.split('; ')[:2])
        if 'Max-Age=0' in header
        else header.partition('=')[0]
        for header in sent
    ]


def id_of(browser: TestApp) -> str:
    """The last 43 characters of the cookie, where it is signed."""
    value = browser.cookies['sid'].strip('"')
    if len(value) == 43:
        return value
    return base64.urlsafe_b64decode(value)[-43:].decode()


def test_what_can_not_be_carried_over_is_reported(
    shop: Shop, server: Any
) -> None:
    good, bad = shop.old(), shop.old()
    good.get('/fill')
    bad.get('/hold_object')
    old = {'m': {}, 'c': 1, 'v': 1, 'x': time.time() + 600}
    expired = {**old, 'x': time.time() - 1}
    server.set('expired-and-its-secret', pickle.dumps(expired))
    server.set('version2-and-its-secret', pickle.dumps({**old, 'v': 2}))
    server.set('garbage-and-its-secret', b'\xff')
    server.set('numbers-and-its-secret', pickle.dumps(7))
    server.rpush('a-list', 'no string')
    *skipped, total = shop.copy()
    assert total == 'copied 1, skipped 5'
    assert sorted(line[:16] for line in skipped if 'Serial' not in line) == [
        'skipped expired-',
        'skipped garbage-',
        'skipped numbers-',
        'skipped version2',
    ]
    (unstorable,) = [line for line in skipped if 'Serial' in line]
    assert "'object'" in unstorable
    assert 'secret' not in ''.join(skipped)
    assert shop.new(good).get('/count').json == {'n': 2}
    assert shop.new(bad).get('/count').json == {'n': 1}


def test_script_may_run_again(shop: Shop) -> None:
    first, second = shop.old(), shop.old()
    first.get('/fill')
    assert shop.copy() == ['copied 1, skipped 0']
    here = shop.new(first)
    here.get('/count')
    second.get('/fill')
    assert shop.copy() == ['copied 2, skipped 0']
    assert here.get('/count').json == {'n': 3}
    assert shop.new(second).get('/count').json == {'n': 2}


@with_and_without_secret
def test_session_that_was_ended_stays_so(shop: Shop) -> None:
    old = shop.old()
    old.get('/fill')
    shop.copy()
    here = shop.new(old)
    removed = set_cookies(here.get('/log_out'))
    assert sorted(removed) == ['session=; Max-Age=0', 'sid=; Max-Age=0']
    shop.copy()
    # whoever has kept the old cookie
    assert shop.new(old).get('/read').json == {}


def test_parallel_requests_with_the_old_cookie_share_the_session(
    shop: Shop,
) -> None:
    old = shop.old()
    old.get('/fill')
    shop.copy()
    browsers = [shop.new(old) for _ in range(4)]
    answers = together([lambda b=b: b.get('/count').json for b in browsers])
    assert sorted(answer['n'] for answer in answers) == [2, 3, 4, 5]
    assert len({id_of(browser) for browser in browsers}) == 1


def test_session_that_has_begun_is_not_replaced(shop: Shop) -> None:
    old = shop.old()
    old.get('/fill')
    shop.copy()
    browser = shop.new()
    browser.get('/count')
    begun = id_of(browser)
    browser.set_cookie('session', old.cookies['session'].strip('"'))
    response = browser.get('/count')
    assert response.json == {'n': 2}
    assert set_cookies(response) == ['session=; Max-Age=0']
    assert id_of(browser) == begun


def test_forged_cookie_is_no_session(shop: Shop) -> None:
    old = shop.old()
    old.get('/fill')
    shop.copy()
    value = old.cookies['session'].strip('"')
    browser = shop.new()
    # of the signature; the last one may carry no bit
    forged = 'AB'[value.startswith('A')] + value[1:]
    browser.set_cookie('session', forged)
    response = browser.get('/read')
    assert response.json == {}
    assert set_cookies(response) == ['session=; Max-Age=0']
