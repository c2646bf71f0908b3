"""Requests that store a row in a database besides: the kinds, their views."""

from __future__ import annotations

from typing import Any

from pyramid_retry import RetryableException

from tests.simulation.kinds import (
    Kind,
    ViewFailed,
    append,
    hold,
    load,
    login,
    logout,
    read,
    write,
)


def add_row(request: Any, script: Any, change: int | None) -> None:
    script.database.add(request, script, change)


def order(request: Any, script: Any) -> None:
    write(request, script)
    add_row(request, script, script.number)


def order_first(request: Any, script: Any) -> None:
    """The row is there before the session is loaded."""
    add_row(request, script, script.number)
    write(request, script)


def order_at_login(request: Any, script: Any) -> None:
    login(request, script)
    add_row(request, script, script.number)


def order_and_log_out(request: Any, script: Any) -> None:
    add_row(request, script, None)
    logout(request, script)


def order_without_change(request: Any, script: Any) -> None:
    read(request, script)
    add_row(request, script, None)


def order_and_crash(request: Any, script: Any) -> None:
    order(request, script)
    raise ViewFailed


def order_and_fail(request: Any, script: Any) -> None:
    """Raise a retryable error so many times as the script says."""
    order(request, script)
    if script.attempts <= script.failures:
        raise RetryableException


def doom(request: Any, script: Any) -> None:
    session = load(request, script)
    hold(script)
    append(session, script)
    add_row(request, script, script.number)
    request.tm.doom()


ORDERS = (
    Kind('order', 'exclusive', order, calls=(2, 1), rows=1),
    Kind('order first', 'exclusive', order_first, calls=(2, 1), rows=1),
    Kind('optimistic order', 'optimistic', order, calls=(2, 1), rows=1),
    Kind('login, order', 'exclusive', order_at_login, calls=(2, 1), rows=1),
    Kind(
        'optimistic login, order',
        'optimistic',
        order_at_login,
        calls=(2, 1),
        rows=1,
    ),
    Kind(
        'order, logout',
        'exclusive',
        order_and_log_out,
        False,
        True,
        calls=(2, 0),
        rows=1,
    ),
    Kind(
        'read_only order',
        'read_only',
        order_without_change,
        False,
        calls=(1, 0),
        rows=1,
    ),
    Kind('order, crash', 'exclusive', order_and_crash, calls=(2, 0), rows=0),
    Kind('order, fail', 'exclusive', order_and_fail, rows=1),
    Kind('order, doom', 'exclusive', doom, calls=(2, 1), rows=0),
)
