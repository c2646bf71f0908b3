"""Views that several applications of the tests have, and how they are added.

Each answers at ``/its_name`` with JSON, unless it is said otherwise.
"""

from __future__ import annotations

import os
import time
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request


def add_views(config: Configurator, *views: Any, **options: Any) -> None:
    """Add each view, with the same options, at ``/its_name``."""
    for view in views:
        add_view(config, view, view.__name__, **options)


def add_view(
    config: Configurator, view: Any, name: str, **options: Any
) -> None:
    config.add_route(name, f'/{name}')
    config.add_view(view, route_name=name, **{'renderer': 'json', **options})


def hold(request: Request) -> None:
    """Sleep for the ``hold`` seconds of the query string.

    Then until there is a file of the name ``until``, if one is given.
    """
    time.sleep(float(request.GET.get('hold', 0)))
    while not os.path.exists(request.GET.get('until', '.')):
        time.sleep(0.01)


def none(request: Request) -> Any:
    """Uses no session."""
    return {}


def read(request: Request) -> Any:
    return dict(request.session)


def count(request: Request) -> Any:
    """Add one to ``n``, or to the ``key`` of the query string."""
    key = request.GET.get('key', 'n')
    value = request.session.get(key, 0) + 1
    hold(request)
    request.session[key] = value
    return {key: value}


def invalidate(request: Request) -> Any:
    request.session.invalidate()
    return {}
