"""The embedded DynamoDB, and that nobody pays for it who does not use it."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from webtest import TestApp

from pyramid_dynamodb_session import local

PREFIX = 'dynamodb_session.'
BOTH = ('pyramid_dynamodb_session', 'pyramid_dynamodb_session.local')
ALONE = ('pyramid_dynamodb_session.local',)


def count(request: Any) -> Any:
    request.session['n'] = request.session.get('n', 0) + 1
    return request.session['n']


def browser(*includes: str, **settings: str) -> TestApp:
    given = {PREFIX + name: value for name, value in settings.items()}
    given['pyramid.includes'] = ' '.join(includes)
    with Configurator(settings=given) as config:
        config.add_route('count', '/')
        config.add_view(count, route_name='count', renderer='json')
    return TestApp(config.make_wsgi_app())


@pytest.mark.parametrize('includes', [BOTH, BOTH[::-1], ALONE])
def test_session_lasts_with_nothing_but_the_package(
    includes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    visitor = browser(*includes)
    assert [visitor.get('/').json for _ in range(3)] == [1, 2, 3]
    warnings = [
        record.message
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]
    assert len(warnings) == 1
    assert 'embedded DynamoDB at http://127.0.0.1:' in warnings[0]
    assert 'for development only' in warnings[0]


def test_settings_of_the_session_count() -> None:
    visitor = browser(
        *BOTH, table='MyTable', region='eu-west-1', cookie_name='mine'
    )
    visitor.get('/')
    assert 'mine' in visitor.cookies


def test_applications_of_a_process_share_one_server() -> None:
    assert local.start() == local.start()


def test_endpoint_besides_it_is_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        browser(*BOTH, endpoint_url='http://127.0.0.1:8000')
    assert f'{PREFIX}endpoint_url' in str(error.value)
    assert 'pyramid.includes' in str(error.value)


def test_missing_moto_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'moto.server', None)
    monkeypatch.setattr(local, 'start', local.start.__wrapped__)
    with pytest.raises(ConfigurationError) as error:
        browser(*BOTH)
    assert '"pyramid_dynamodb_session[local]"' in str(error.value)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        'import sys, pyramid_dynamodb_session as package\n'
        'import pyramid_dynamodb_session.local\n'
        'package.DynamoDBSessionFactory(region="us-west-2")\n'
        'heavy = {"boto3", "botocore", "cryptography", "moto"}\n'
        'print(sorted(heavy & set(sys.modules)))\n'
    )
    answer = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == '[]\n'
