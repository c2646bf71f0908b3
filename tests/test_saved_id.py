"""The id of a session that was stored reaches the browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.httpexceptions import HTTPSeeOther
from pyramid_retry import RetryableException

from tests.apps.small_app import SmallApp, session_id
from tests.apps.views import count, none, read

Make = Callable[..., SmallApp]


@pytest.fixture(params=[True, False], ids=['tween', 'no include'])
def make(
    request: pytest.FixtureRequest, client: Any, settings: dict[str, str]
) -> Make:
    def make(**options: Any) -> SmallApp:
        return SmallApp(client, settings, include=request.param, **options)

    return make


def test_second_attempt_goes_on_with_the_id_that_the_first_has_stored(
    make: Make,
) -> None:
    app = make()
    app.config.include('pyramid_retry')
    attempts: list[dict[str, Any]] = []

    def log_in(request: Any) -> Any:
        attempts.append(dict(request.session))
        if len(attempts) == 1:
            request.session.regenerate_id()
            request.session.save()
            raise RetryableException
        request.session['attempts'] = len(attempts)
        return {}

    app.add(count, read, log_in)
    browser = app.open()
    browser.get('/count')
    old = session_id(browser)
    browser.get('/log_in')
    assert attempts == [{'n': 1}] * 2
    assert session_id(browser) != old
    assert browser.get('/read').json == {'n': 1, 'attempts': 2}


@pytest.mark.parametrize('is_new', [True, False])
def test_id_stored_by_an_earlier_attempt_is_sent_though_the_last_uses_none(
    is_new: bool, client: Any, settings: dict[str, str]
) -> None:
    app = SmallApp(client, settings)
    app.config.include('pyramid_retry')
    attempts: list[Any] = []

    def log_in(request: Any) -> Any:
        attempts.append(request)
        if len(attempts) == 1:
            request.session['user'] = 'me'
            request.session.regenerate_id()
            request.session.save()
            raise RetryableException
        return {}

    app.add(count, read, log_in)
    browser = app.open()
    if not is_new:
        browser.get('/count')
    old = browser.cookies.get('session')
    assert len(browser.get('/log_in').headers.getall('Set-Cookie')) == 1
    assert browser.cookies['session'] != old
    assert browser.get('/read').json['user'] == 'me'


@pytest.mark.parametrize('raised', [HTTPSeeOther('/read'), ValueError()])
def test_id_is_sent_with_whatever_comes_after_save(
    raised: Exception, make: Make
) -> None:
    app = make(set_on_exception=False)

    def fail(request: Any) -> Any:
        request.session['n'] = request.session.get('n', 0) + 1
        request.session.regenerate_id()
        request.session.save()
        raise raised

    app.add(read, fail)
    app.config.add_exception_view(none, ValueError, renderer='json')
    browser = app.open()
    ids = []
    for n in (1, 2):
        browser.get('/fail')
        ids.append(session_id(browser))
        assert browser.get('/read').json == {'n': n}
    assert ids[0] != ids[1]
