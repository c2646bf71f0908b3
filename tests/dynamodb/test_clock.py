"""The time of day by DynamoDB's clock."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from pyramid_dynamodb_session.dynamodb.clock import ServerClock
from tests.support.clocks import set_clock


def reply(**headers: str) -> dict[str, Any]:
    return {'ResponseMetadata': {'HTTPHeaders': headers}}


def date(seconds: float) -> dict[str, Any]:
    return reply(date=formatdate(time.time() + seconds, usegmt=True))


def ahead(clock: ServerClock) -> float:
    return clock.time() - time.time()


def test_time_is_that_of_this_machine_until_another_is_known() -> None:
    clock = ServerClock()
    for nothing in ({}, reply(), {'ResponseMetadata': None}):
        clock.learn_from(nothing)
    assert ahead(clock) == pytest.approx(0, abs=1)


def test_time_is_that_of_the_last_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ServerClock()
    for seconds in (100, 100, -3000):
        clock.learn_from(date(seconds))
        assert ahead(clock) == pytest.approx(seconds, abs=2)
    # no adjustment of this machine's clock moves it
    set_clock(monkeypatch, 500)
    assert ahead(clock) == pytest.approx(-3000, abs=2)


@pytest.mark.parametrize(
    'nonsense',
    [
        'tomorrow',
        '',
        'Sat, 99 Xyz 2026 99:99:99 GMT',
        'Mon, 31 Feb 99999 25:61:61 GMT',
    ],
)
def test_header_that_is_no_date_is_ignored(nonsense: str) -> None:
    clock = ServerClock()
    clock.learn_from(date(100))
    clock.learn_from(reply(date=nonsense))
    assert ahead(clock) == pytest.approx(100, abs=2)
