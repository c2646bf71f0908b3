"""Sessions of Beaker are carried over as its page says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyramid.config import Configurator
from webtest import TestApp

from tests.apps.views import add_views, count
from tests.support.docs_pages import page

OLD_COOKIE = 'beaker.session.id'


class Shop:
    """The application before and after."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._of_beaker = {
            'session.type': 'file',
            'session.data_dir': str(folder),
            'session.secret': 'the old secret',
            'session.timeout': '600',
        }
        self._settings = settings

    def old(self, old: TestApp | None = None) -> TestApp:
        with Configurator(settings=self._of_beaker) as config:
            config.include('pyramid_beaker')
            add_views(config, count)
        return self._browser(config, old)

    def new(self, old: TestApp) -> TestApp:
        module = page('from-beaker').run()
        with Configurator(settings=self._settings | self._of_beaker) as config:
            config.include('pyramid_dynamodb_session')
            config.include(module.includeme)
            add_views(config, count, keys)
        return self._browser(config, old)

    def _browser(self, config: Any, old: TestApp | None) -> TestApp:
        """With the cookie that another browser has from the old one."""
        browser = TestApp(config.make_wsgi_app())
        if old is not None:
            browser.set_cookie(OLD_COOKIE, old.cookies[OLD_COOKIE])
        return browser


def keys(request: Any) -> Any:
    return sorted(request.session)


@pytest.fixture
def shop(tmp_path: Path, settings: dict[str, str]) -> Iterator[Shop]:
    yield Shop(tmp_path, settings)
    del sys.modules['shop']


def test_session_of_beaker_is_carried_over(shop: Shop) -> None:
    old = shop.old()
    old.get('/count')
    here = shop.new(old)
    response = here.get('/count')
    assert response.json == {'n': 2}
    removed = f'{OLD_COOKIE}=; Max-Age=0'
    assert any(
        header.startswith(removed)
        for header in response.headers.getall('Set-Cookie')
    )
    assert here.get('/keys').json == ['n']
    # it is in one place alone
    assert shop.old(old).get('/count').json == {'n': 1}


def test_session_that_has_begun_is_not_replaced(shop: Shop) -> None:
    old, other = shop.old(), shop.old()
    old.get('/count')
    other.get('/count')
    here = shop.new(old)
    here.get('/count')
    here.get('/count')
    here.set_cookie(OLD_COOKIE, other.cookies[OLD_COOKIE])
    assert here.get('/count').json == {'n': 4}
