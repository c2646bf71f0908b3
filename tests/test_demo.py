"""The demo as people run it, and as they see it in a browser."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from html import unescape
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener, urlopen

import pytest

from tests.support.chromium import Page

pytestmark = pytest.mark.engines(
    'moto', reason='the demo brings its own DynamoDB'
)

ROOT = Path(__file__).parents[1]
PSERVE = Path(sys.executable).with_name('pserve')


class Demo:
    """``pserve development.ini``, but on a free port."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(('127.0.0.1', 0)) as unused:
            port = str(unused.getsockname()[1])
        ini = directory / 'development.ini'
        text = (ROOT / 'development.ini').read_text()
        assert text.count('\nlisten = localhost:6543\n') == 1
        ini.write_text(text.replace('localhost:6543', f'localhost:{port}'))
        self.url = f'http://localhost:{port}/'
        self._log = directory / 'log'
        with self._log.open('wb') as log:
            self._process = subprocess.Popen(
                [PSERVE, ini], cwd=ROOT, stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                urlopen(self.url).close()
                return
            except URLError:
                time.sleep(0.1)
        raise RuntimeError(f'the demo did not come up:\n{self.log}')

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp('demo'))
    try:
        demo.wait_until_it_answers()
        yield demo
    finally:
        demo.close()


class Visitor:
    """Someone with cookies, who presses the buttons of the page."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.cookies = CookieJar()
        self._opener = build_opener(HTTPCookieProcessor(self.cookies))

    def get(self, path: str = '') -> str:
        with self._opener.open(self._url + path) as response:
            return response.read().decode()

    def press(self, path: str, **form: str) -> str:
        """The page after the redirect."""
        token = re.search(r'name="csrf_token" value="(\w+)"', self.get())
        assert token
        return self.post(path, csrf_token=token[1], **form)

    def post(self, path: str, **form: str) -> str:
        data = urlencode(form).encode()
        with self._opener.open(self._url + path, data) as response:
            return response.read().decode()


@pytest.fixture
def visitor(demo: Demo) -> Visitor:
    return Visitor(demo.url)


def test_says_that_its_dynamodb_is_embedded(demo: Demo) -> None:
    assert 'pyramid_dynamodb_session.local: ' in demo.log
    assert 'creating the table Pyramid_SessionState' in demo.log
    assert 'Traceback' not in demo.log


def cart(page: str) -> dict[str, int]:
    lines = re.findall(r'class="name">(\d+) . (.+?)<', page)
    return {name: int(n) for n, name in lines}


def test_keeps_the_cart(visitor: Visitor) -> None:
    assert cart(visitor.get()) == {}
    visitor.press('cart/add', sku='tea')
    visitor.press('cart/add', sku='bread')
    page = visitor.press('cart/add', sku='tea')
    two = {'Darjeeling tea, 100 g': 2, 'Rye bread': 1}
    assert cart(page) == two
    assert '22.00 €' in page
    assert 'Darjeeling tea, 100 g is in your cart.' in page
    page = visitor.get()
    assert cart(page) == two
    assert 'is in your cart.' not in page
    page = visitor.press('cart/remove', sku='tea')
    assert cart(page) == {'Rye bread': 1}
    page = visitor.press('cart/clear')
    assert cart(page) == {}
    assert 'Nothing in it yet.' in page


def test_keeps_each_cart_apart(demo: Demo, visitor: Visitor) -> None:
    visitor.press('cart/add', sku='tea')
    assert cart(Visitor(demo.url).get()) == {}


@pytest.mark.parametrize(
    ('press', 'form'),
    [(Visitor.post, {'sku': 'tea'}), (Visitor.press, {'sku': 'gold'})],
    ids=['without a token', 'not for sale'],
)
def test_refuses(visitor: Visitor, press: Any, form: dict[str, str]) -> None:
    with pytest.raises(HTTPError) as refusal:
        press(visitor, 'cart/add', **form)
    refusal.value.close()
    assert refusal.value.code == 400
    assert cart(visitor.get()) == {}


def test_shows_the_item_as_it_is_stored(visitor: Visitor) -> None:
    assert 'an empty session is not stored' in visitor.get('stored')
    visitor.press('cart/add', sku='honey')
    stored = visitor.get('stored')
    (cookie,) = visitor.cookies
    assert cookie.value and cookie.value not in stored
    assert re.search(r'<code>shop-[\w-]{43}</code>', stored)
    assert '&#34;honey&#34;:1' in stored
    assert 'LockId' not in stored


def test_owner_is_stored_hashed(visitor: Visitor) -> None:
    visitor.press('sign-in', name='Anna Lee')
    assert re.search(r'<code>Owner</code>', visitor.get('stored'))
    assert re.search(r'"name":"Anna Lee"', unescape(visitor.get('stored')))
    assert visitor.get('stored').count('Anna Lee') == 1


@pytest.mark.parametrize(
    ('path', 'form'),
    [('sign-in', {'name': ' '}), ('sign-out-others', {})],
)
def test_refuses_to_sign_in_or_out_nobody(
    visitor: Visitor, path: str, form: dict[str, str]
) -> None:
    with pytest.raises(HTTPError) as refusal:
        visitor.press(path, **form)
    refusal.value.close()
    assert refusal.value.code == 400


def test_stored_item_is_a_page_of_its_own(visitor: Visitor) -> None:
    page = visitor.get('stored')
    assert '<title>Stored item' in page
    assert 'rel="stylesheet"' in page and 'rel="icon"' in page


def test_pages_of_the_documentation_are_linked(visitor: Visitor) -> None:
    pages = re.findall(r'href="/(docs/[a-z-]+)"', visitor.get())
    assert len(pages) == 4
    for page in pages:
        source = (ROOT / f'{page}.rst').read_text()
        assert visitor.get(page) == source
    with pytest.raises(HTTPError) as refusal:
        visitor.get('docs/nothing')
    refusal.value.close()
    assert refusal.value.code == 404


class DemoPage(Page):
    """The demo in Chromium."""

    def add(self, name: str) -> None:
        self.one(f'[aria-label="Add: {name}"]').click()
        self.wait_for('.flash', name)

    def race(self, id: str) -> dict[str, dict[str, str]]:
        """What each card says afterwards, by contender and class."""
        self.one(f'#{id} .start').click()
        self.wait_for(f'#{id} .status', 'Done.')
        names = ['kept', 'verdict', 'took', 'waits', 'calls', 'bars']
        return {
            card.get_attribute('data-contender'): {
                name: card.find_element('class name', name).text
                for name in names
            }
            for card in self.driver.find_elements(
                'css selector', f'#{id} .card'
            )
        }


@pytest.fixture
def page(demo: Demo, driver: Any) -> DemoPage:
    driver.get(demo.url)
    driver.delete_all_cookies()
    driver.get(demo.url)
    return DemoPage(driver)


def test_browser_loses_no_update(page: DemoPage) -> None:
    page.add('Rye bread')
    cards = page.race('contrast')
    ours, theirs = cards['exclusive'], cards['cookie']
    assert ours['kept'] == '20 of 20 kept'
    assert ours['verdict'] == 'none lost'
    # one to lock, one to save for each, and a turn for other processes
    assert 21 <= int(ours['calls']) < 30
    assert int(ours['waits'].removesuffix(' ms')) > 0
    assert theirs['waits'] == '0 ms'
    assert re.fullmatch(r'(\d+ ms\n){19}\d+ ms', ours['bars'])
    kept = re.fullmatch(r'(\d+) of 20 kept', theirs['kept'])
    assert kept and int(kept[1]) < 20
    assert theirs['verdict'].endswith('lost, and nobody was told')
    assert theirs['calls'] == '0'
    assert '"updates":20' in page.text('#stored')
    assert '"cart":{"bread":1}' in page.text('#stored')


def test_browser_sees_each_state(page: DemoPage) -> None:
    cards = page.race('by-state')
    assert list(cards) == ['exclusive', 'read_only', 'optimistic', 'disabled']
    assert cards['exclusive']['kept'] == '10 of 10 kept'
    assert 11 <= int(cards['exclusive']['calls']) < 20
    assert cards['read_only']['kept'] == '10 answered'
    assert cards['read_only']['calls'] == '10'
    kept = re.fullmatch(r'(\d+) of 10 kept', cards['optimistic']['kept'])
    assert kept
    assert cards['optimistic']['verdict'] == (
        f'{10 - int(kept[1])} refused, and told so'
    )
    assert cards['disabled']['kept'] == '10 answered'
    assert cards['disabled']['calls'] == '0'
    for name in ('read_only', 'optimistic', 'disabled'):
        assert cards[name]['waits'] == '0 ms'
    assert 'refused' in cards['optimistic']['bars']
    assert page.driver.get_log('browser') == []


def test_browser_signs_out_the_other_one(
    page: DemoPage, demo: Demo, visitor: Visitor
) -> None:
    page.add('Rye bread')
    page.one('.sign-in button').click()
    page.wait_for('.flash', 'signed in as Anna')
    assert 'This browser' in page.text('.devices')
    assert 'Another browser' not in page.text('.devices')
    there = visitor.press('sign-in', name='Anna')
    assert there.count('Another browser') == 1
    stranger = Visitor(demo.url)
    stranger.press('sign-in', name='Ben')
    page.driver.refresh()
    page.wait_for('.devices', 'Another browser')
    page.one('[action="/sign-out-others"] button').click()
    page.wait_for('.flash', 'Other browsers that were signed out: 1.')
    assert 'Another browser' not in page.text('.devices')
    assert 'Rye bread' in page.text('main')
    with pytest.raises(HTTPError) as refusal:
        visitor.get()
    with refusal.value as answer:
        assert answer.code == 409
        assert '<h1>Signed out</h1>' in answer.read().decode()
    assert 'This browser' in stranger.get()


def test_page_fits_on_a_phone(page: DemoPage) -> None:
    page.driver.execute_cdp_cmd(
        'Emulation.setDeviceMetricsOverride',
        {'width': 360, 'height': 740, 'deviceScaleFactor': 1, 'mobile': True},
    )
    page.add('Mountain cheese, 200 g')
    page.race('contrast')
    width = 'return document.documentElement.scrollWidth'
    assert page.driver.execute_script(width) == 360
    page.driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
