"""The Pyramid application that the tests run, in process or in servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.response import Response

from tests.apps.views import (
    add_view,
    add_views,
    count,
    hold,
    invalidate,
    none,
    read,
)

STATES = ('exclusive', 'read_only', 'optimistic', 'disabled')


def main(global_config: dict[str, str] | None, **settings: Any) -> Any:
    """The WSGI application; ``pyramid.includes`` may add to it.

    ``/count?hold=0.1`` has the session state of the settings,
    ``/optimistic/count`` its own.
    """
    with Configurator(settings=settings) as config:
        config.include('pyramid_dynamodb_session')
        add_views(config, none, slow, read, count, invalidate)
        add_views(config, append, boom, handled, flash_redirect)
        add_views(config, regenerate, save, stream)
        config.add_exception_view(value_error, ValueError, renderer='json')
        for state in STATES:
            for view in (none, read, count):
                name = f'{state}/{view.__name__}'
                add_view(config, view, name, session_state=state)
    return config.make_wsgi_app()


def slow(request: Request) -> Any:
    """Takes ``seconds``, and uses no session."""
    time.sleep(float(request.params['seconds']))
    return {}


def append(request: Request) -> Any:
    """Changes a nested value, and tells the session nothing of it."""
    tokens = request.session.setdefault('tokens', [])
    hold(request)
    tokens.append(request.params['token'])
    return {'tokens': tokens}


def flash_redirect(request: Request) -> Any:
    request.session.flash('flashed')
    raise HTTPFound('/read')


def boom(request: Request) -> Any:
    request.session['boom'] = True
    raise RuntimeError('boom')


def handled(request: Request) -> Any:
    request.session['handled'] = True
    raise ValueError('handled')


def value_error(error: ValueError, request: Request) -> Any:
    request.response.status_code = 400
    return {'error': str(error)}


def regenerate(request: Request) -> Any:
    request.session.regenerate_id()
    return {}


def save(request: Request) -> Any:
    """A long poll: what it has to say is saved before it waits."""
    request.session['n'] = request.session.get('n', 0) + 1
    request.session.save()
    hold(request)
    return {'n': request.session['n']}


def stream(request: Request) -> Any:
    """Server-sent events, for ``hold`` seconds."""
    request.session['n'] = request.session.get('n', 0) + 1
    request.session.save()
    n = request.session['n']

    def events() -> Iterator[bytes]:
        yield f'data: {n}\n\n'.encode()
        hold(request)
        yield f'data: {time.monotonic()}\n\n'.encode()

    return Response(app_iter=events(), content_type='text/event-stream')
