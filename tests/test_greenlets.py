"""Requests in greenlets that share what Python takes for one thread."""

from __future__ import annotations

from typing import Any

import greenlet
import pytest
from pyramid.request import Request

from tests.apps.small_app import SmallApp
from tests.apps.views import count, read


@pytest.fixture(params=[True, False], ids=['tween', 'no include'])
def app(
    request: pytest.FixtureRequest, client: Any, settings: dict[str, str]
) -> SmallApp:
    return SmallApp(client, settings, include=request.param)


def interleaved(app: SmallApp, *paths: str) -> list[Any]:
    """What requests without a cookie are answered, at the same time.

    Each view is left at its :func:`pause`, and gone on with in turn. Pyramid's
    thread-local is shared, as it is with gunicorn's gevent workers under
    ``--preload``.
    """
    answers: list[Any] = []

    def get(path: str) -> None:
        browser = app.browser()
        answers.append(browser.get(path).json)

    greenlets = [greenlet.greenlet(get) for _ in paths]
    for running, path in zip(greenlets, paths, strict=True):
        running.switch(path)
    for running in greenlets:
        while not running.dead:
            running.switch()
    return answers


def pause() -> None:
    """Let other requests go on."""
    parent = greenlet.getcurrent().parent
    assert parent is not None
    parent.switch()


def put(request: Any) -> Any:
    session = request.session
    session.setdefault('seen', []).append(request.params['who'])
    pause()
    session['after'] = request.params['who']
    return dict(session)


def test_visitors_without_a_cookie_share_no_session(app: SmallApp) -> None:
    app.add(put)
    app.open()
    answers = interleaved(app, '/put?who=anna', '/put?who=ben')
    assert answers == [
        {'seen': [name], 'after': name} for name in ('anna', 'ben')
    ]


def test_visitor_who_comes_after_the_first_use_shares_no_session(
    app: SmallApp,
) -> None:
    def late(request: Any) -> Any:
        pause()
        return put(request)

    app.add(put, late)
    app.open()
    paths = ('/put?who=anna', '/late?who=ben', '/put?who=cleo')
    answers = interleaved(app, *paths)
    assert [answer['seen'] for answer in answers] == [
        [answer['after']] for answer in answers
    ]


def test_subrequest_in_a_greenlet_shares_the_session(app: SmallApp) -> None:
    def parent(request: Any) -> Any:
        request.session['parent'] = request.params['who']
        pause()
        child = Request.blank('/count', cookies=request.cookies)
        request.invoke_subrequest(child, use_tweens=True)
        pause()
        return dict(request.session)

    app.add(parent, count, read)
    app.open()
    assert interleaved(app, '/parent?who=anna') == [{'parent': 'anna', 'n': 1}]
