"""The Pyramid application with a view for each session state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from tests.wsgi_app import hold

STATES = ('exclusive', 'read_only', 'optimistic', 'disabled')


def main(global_config: dict[str, str] | None, **settings: Any) -> Any:
    """Routes such as ``/optimistic/count?hold=0.1``, and some without."""
    with Configurator(settings=settings) as config:
        config.include('pyramid_dynamodb_session')
        for state in STATES:
            for view in (none, read, count):
                add(config, view, f'{state}/{view.__name__}', state)
        for view in (none, invalidate, regenerate, save, stream):
            add(config, view, view.__name__)
    return config.make_wsgi_app()


def add(
    config: Configurator, view: Any, name: str, state: str | None = None
) -> None:
    config.add_route(name, f'/{name}')
    config.add_view(
        view, route_name=name, session_state=state, renderer='json'
    )


def none(request: Request) -> Any:
    return {}


def read(request: Request) -> Any:
    return dict(request.session)


def count(request: Request) -> Any:
    n = request.session.get('n', 0) + 1
    hold(request)
    request.session['n'] = n
    return {'n': n}


def invalidate(request: Request) -> Any:
    request.session.invalidate()
    return {}


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
