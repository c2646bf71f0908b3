"""The Pyramid application that the tests run, in process or in servers."""

from __future__ import annotations

import time
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.view import exception_view_config, view_config

ROUTES = (
    'append',
    'boom',
    'flash-redirect',
    'handled',
    'increment',
    'invalidate',
    'none',
    'read',
    'slow',
)


def main(global_config: dict[str, str] | None, **settings: Any) -> Any:
    """The WSGI application; ``pyramid.includes`` may add to it."""
    with Configurator(settings=settings) as config:
        config.include('pyramid_dynamodb_session')
        for name in ROUTES:
            config.add_route(name, f'/{name}')
        config.scan(__name__)
    return config.make_wsgi_app()


def hold(request: Request) -> None:
    """Sleep for the ``hold`` seconds of the query string."""
    time.sleep(float(request.params.get('hold', 0)))


@view_config(route_name='none', renderer='json')
def none(request: Request) -> Any:
    return {}


@view_config(route_name='slow', renderer='json')
def slow(request: Request) -> Any:
    """Takes ``seconds``, and uses no session."""
    time.sleep(float(request.params['seconds']))
    return {}


@view_config(route_name='read', renderer='json')
def read(request: Request) -> Any:
    return dict(request.session)


@view_config(route_name='increment', renderer='json')
def increment(request: Request) -> Any:
    key = request.params.get('key', 'n')
    value = request.session.get(key, 0) + 1
    hold(request)
    request.session[key] = value
    return {key: value}


@view_config(route_name='append', renderer='json')
def append(request: Request) -> Any:
    """Changes a nested value, and tells the session nothing of it."""
    tokens = request.session.setdefault('tokens', [])
    hold(request)
    tokens.append(request.params['token'])
    return {'tokens': tokens}


@view_config(route_name='flash-redirect')
def flash_redirect(request: Request) -> Any:
    request.session.flash('flashed')
    raise HTTPFound('/read')


@view_config(route_name='boom')
def boom(request: Request) -> Any:
    request.session['boom'] = True
    raise RuntimeError('boom')


@view_config(route_name='handled')
def handled(request: Request) -> Any:
    request.session['handled'] = True
    raise ValueError('handled')


@exception_view_config(ValueError, renderer='json')
def value_error(error: ValueError, request: Request) -> Any:
    request.response.status_code = 400
    return {'error': str(error)}


@view_config(route_name='invalidate', renderer='json')
def invalidate(request: Request) -> Any:
    request.session.invalidate()
    return {}
