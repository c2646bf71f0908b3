"""A shop whose process stops when the session has voted."""

from __future__ import annotations

import os
import signal
from typing import Any

from pyramid.config import Configurator

from tests.apps.views import add_views, count, none, read
from tests.support.database import Order, Voter, add_database, engine_at


def main(global_config: dict[str, str] | None, **settings: Any) -> Any:
    """The database is that of the setting ``database``."""
    with Configurator(settings=settings) as config:
        config.include('pyramid_dynamodb_session')
        config.include('pyramid_tm')
        add_database(config, engine_at(settings['database']))
        add_views(config, none, count, read, order)
    return config.make_wsgi_app()


def order(request: Any) -> Any:
    request.session['n'] += 1
    request.db.add(Order(name='mine'))
    Voter(request.tm, stop)
    return {}


def stop() -> None:
    """Stand still until the test goes on."""
    os.kill(os.getpid(), signal.SIGSTOP)
