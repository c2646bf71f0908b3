"""What each setting takes, and what is said about what it does not take."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import math
import pickle
import pydoc
import secrets
from typing import Any

import pytest
from pyramid.exceptions import ConfigurationError

from pyramid_dynamodb_session import (
    DynamoDBSessionFactory,
    DynamoDBSessionStore,
    session_factory_from_settings,
)
from pyramid_dynamodb_session import settings as settings_module
from pyramid_dynamodb_session.serializer import JSONSerializer
from pyramid_dynamodb_session.settings import FactorySettings, StoreSettings

PREFIX = 'dynamodb_session.'
KEY = secrets.token_bytes(32)
KEY_TEXT = base64.urlsafe_b64encode(KEY).decode()
LONG = 'x' * 32


class Serializer:
    def dumps(self, obj: Any) -> bytes:
        return pickle.dumps(obj)

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data)


class DemandingSerializer(Serializer):
    def __init__(self, something: object) -> None:
        pass


class Client:
    def update_item(self) -> None:
        pass


serializer = Serializer()
client = Client()


def hook(request: Any) -> None:
    pass


def make_client() -> Client:
    return client


def parsed(**settings: Any) -> FactorySettings:
    return FactorySettings.parse(settings)


def refused(name: str, value: Any) -> str:
    """What is said about a value in an ``.ini`` file."""
    with pytest.raises(ConfigurationError) as error:
        FactorySettings.parse({PREFIX + name: value}, PREFIX)
    return str(error.value)


def test_defaults() -> None:
    settings = parsed()
    assert isinstance(settings.serializer, JSONSerializer)
    defaults = dataclasses.asdict(settings) | {'serializer': 'JSON'}
    assert defaults == {
        'table': 'Pyramid_SessionState',
        'application': None,
        'timeout': 1200,
        'absolute_timeout': None,
        'lock_lease': 10,
        'lock_wait': 15,
        'lock_queue_limit': 'auto',
        'owner_index': None,
        'serializer': 'JSON',
        'encryption_keys': (),
        'create_if_not_exist': True,
        'read_capacity_units': 10,
        'write_capacity_units': 5,
        'on_demand_capacity': False,
        'ttl_attribute': 'Expires',
        'ttl_grace': 0,
        'region': None,
        'endpoint_url': None,
        'profile_name': None,
        'profiles_location': None,
        'aws_access_key_id': None,
        'aws_secret_access_key': None,
        'aws_session_token': None,
        'connect_timeout': 1,
        'read_timeout': 2,
        'max_attempts': 4,
        'client': None,
        'transport': 'boto3',
        'session_state': 'exclusive',
        'state_hook': None,
        'touch_interval': 60,
        'set_on_exception': True,
        'secret': (),
        'cookie_name': 'session',
        'cookie_max_age': None,
        'cookie_path': '/',
        'cookie_domain': None,
        'cookie_secure': None,
        'cookie_httponly': True,
        'cookie_samesite': 'Lax',
    }


ACCEPTED = [
    ('table', ' Sessions_1.a-b ', 'Sessions_1.a-b'),
    ('table', 'arn:aws:dynamodb:x:1:table/T', 'arn:aws:dynamodb:x:1:table/T'),
    ('application', 'shöp', 'shöp'),
    ('application', '', None),
    ('timeout', '60', 60),
    ('timeout', 60, 60),
    ('timeout', 60.0, 60),
    ('timeout', 'none', None),
    ('timeout', None, None),
    ('timeout', '', None),
    ('absolute_timeout', '1', 1),
    ('lock_lease', '0.5', 0.5),
    ('lock_lease', 3, 3),
    ('lock_wait', '0', 0),
    ('lock_queue_limit', '0', 0),
    ('lock_queue_limit', '12', 12),
    ('lock_queue_limit', ' Auto ', 'auto'),
    ('owner_index', 'Owner-index', 'Owner-index'),
    ('owner_index', '', None),
    ('serializer', 'pickle', pickle),
    ('serializer', 'tests.test_settings.serializer', serializer),
    ('serializer', 'tests.test_settings:serializer', serializer),
    ('serializer', serializer, serializer),
    ('encryption_keys', KEY_TEXT, (KEY,)),
    ('encryption_keys', KEY_TEXT.rstrip('='), (KEY,)),
    ('encryption_keys', f'{KEY_TEXT}\n  {KEY_TEXT}', (KEY, KEY)),
    ('encryption_keys', [KEY_TEXT], (KEY,)),
    ('encryption_keys', None, ()),
    ('create_if_not_exist', 'false', False),
    ('create_if_not_exist', False, False),
    ('create_if_not_exist', ' Yes ', True),
    ('on_demand_capacity', '1', True),
    ('on_demand_capacity', 'off', False),
    ('read_capacity_units', '100', 100),
    ('ttl_attribute', '', ''),
    ('ttl_attribute', None, ''),
    ('ttl_attribute', 'Ttl', 'Ttl'),
    ('region', 'us-west-2', 'us-west-2'),
    ('region', '', None),
    ('endpoint_url', 'http://127.0.0.1:8000', 'http://127.0.0.1:8000'),
    ('endpoint_url', 'https://x.example/a/', 'https://x.example/a/'),
    ('profile_name', 'shop', 'shop'),
    ('profiles_location', '/x/credentials', '/x/credentials'),
    ('connect_timeout', '0.1', 0.1),
    ('max_attempts', '1', 1),
    ('client', 'tests.test_settings.make_client', make_client),
    ('client', make_client, make_client),
    ('client', client, client),
    ('client', '', None),
    ('transport', 'direct', 'direct'),
    ('session_state', 'optimistic', 'optimistic'),
    ('state_hook', 'tests.test_settings.hook', hook),
    ('state_hook', hook, hook),
    ('state_hook', '', None),
    ('touch_interval', '0', 0),
    ('set_on_exception', 'n', False),
    ('secret', LONG, (LONG,)),
    ('secret', f'{LONG} {LONG}y', (LONG, LONG + 'y')),
    ('secret', (LONG,), (LONG,)),
    ('cookie_name', 'my-session', 'my-session'),
    ('cookie_name', 'version', 'version'),
    ('cookie_max_age', '3600', 3600),
    ('cookie_path', '/shop', '/shop'),
    ('cookie_domain', '.example.com', '.example.com'),
    ('cookie_secure', 'true', True),
    ('cookie_secure', '', None),
    ('cookie_httponly', 'false', False),
    ('cookie_samesite', 'strict', 'Strict'),
    ('cookie_samesite', None, None),
    ('cookie_samesite', '', None),
]


@pytest.mark.parametrize(('name', 'given', 'value'), ACCEPTED)
def test_value_is_taken(name: str, given: Any, value: Any) -> None:
    for settings in (
        parsed(**{name: given}),
        FactorySettings.parse({PREFIX + name: given}, PREFIX),
    ):
        assert getattr(settings, name) == value
        assert type(getattr(settings, name)) is type(value) or value in (0, 3)


def test_serializer_may_be_a_class() -> None:
    settings = parsed(serializer='tests.test_settings.Serializer')
    assert isinstance(settings.serializer, Serializer)


REFUSED = [
    ('table', 'a b', 'a-z'),
    ('table', 'ab', '3 to 255'),
    ('table', None, 'text'),
    ('application', 'x' * 1025, '1024 bytes'),
    ('application', 5, 'text'),
    ('timeout', 'soon', 'whole number of seconds from 1'),
    ('timeout', '0', 'whole number of seconds from 1'),
    ('timeout', '-1', 'whole number'),
    ('timeout', '1.5', 'whole number'),
    ('timeout', 1.5, 'whole number'),
    ('timeout', True, 'whole number'),
    ('timeout', [], 'whole number'),
    ('timeout', 10**9 + 1, 'at most 1000000000'),
    ('timeout', math.inf, 'whole number'),
    ('absolute_timeout', 'x', 'whole number'),
    ('lock_lease', '0', 'number of seconds above 0'),
    ('lock_lease', 'nan', 'number of seconds above 0'),
    ('lock_lease', 'inf', 'at most'),
    ('lock_lease', None, 'number of seconds above 0'),
    ('application', '\ud800', 'utf-8'),
    ('lock_wait', '-0.1', 'number of seconds from 0'),
    ('lock_wait', math.nan, 'number of seconds from 0'),
    ('lock_queue_limit', '-1', 'auto, or a whole number of requests from 0'),
    ('lock_queue_limit', 'all', 'auto, or a whole number of requests from 0'),
    ('owner_index', 'a b', '3 to 255'),
    ('owner_index', 5, 'text'),
    ('serializer', 'no.such.module', 'importable'),
    ('serializer', 'pickle:nothing', 'importable'),
    ('serializer', '.relative', 'importable'),
    ('serializer', 'math', 'dumps and loads'),
    ('serializer', '', 'dumps and loads'),
    ('serializer', None, 'dumps and loads'),
    ('serializer', 5, 'dumps and loads'),
    ('serializer', DemandingSerializer, 'no arguments'),
    ('create_if_not_exist', 'maybe', 'true or false'),
    ('create_if_not_exist', None, 'true or false'),
    ('on_demand_capacity', '2', 'true or false'),
    ('read_capacity_units', '0', 'whole number of units from 1'),
    ('write_capacity_units', 'many', 'whole number of units from 1'),
    ('ttl_attribute', 'x' * 256, '255 bytes'),
    ('ttl_attribute', 5, 'text'),
    ('ttl_attribute', 'LockId', 'an attribute name other than'),
    ('ttl_attribute', 'Version', 'an attribute name other than'),
    ('ttl_attribute', 'Ended', 'an attribute name other than'),
    ('ttl_attribute', 'Owner', 'an attribute name other than'),
    ('ttl_grace', '-1', 'whole number of seconds from 0'),
    ('region', 5, 'text'),
    ('endpoint_url', 'localhost:8000', 'http://'),
    ('endpoint_url', 'http://', 'http://'),
    ('profile_name', 5, 'text'),
    ('profiles_location', 5, 'text'),
    ('connect_timeout', '0', 'number of seconds above 0'),
    ('read_timeout', 'x', 'number of seconds above 0'),
    ('max_attempts', '0', 'whole number of attempts from 1'),
    ('client', 'no.such.function', 'importable'),
    ('client', 'tests.test_settings.KEY', 'callable'),
    ('client', 5, 'callable'),
    ('transport', 'pigeon', 'one of boto3, direct'),
    ('session_state', 'ReadOnly', 'one of exclusive, read_only'),
    ('session_state', [], 'one of exclusive, read_only'),
    ('state_hook', 'no.such.hook', 'importable'),
    ('state_hook', 'tests.test_settings.KEY', 'callable'),
    ('touch_interval', '-1', 'whole number of seconds from 0'),
    ('set_on_exception', 'x', 'true or false'),
    ('cookie_name', 'a b', 'RFC 6265'),
    ('cookie_name', '$version', 'attribute'),
    ('cookie_name', 'Path', 'attribute'),
    ('cookie_name', '', 'text'),
    ('cookie_name', None, 'text'),
    ('cookie_max_age', '0', 'whole number of seconds from 1'),
    ('cookie_path', '', 'text'),
    ('cookie_path', 'shop', 'a path'),
    ('cookie_path', '/;', 'a path'),
    ('cookie_domain', 5, 'text'),
    ('cookie_domain', 'a b', 'a domain'),
    ('cookie_secure', 'x', 'true or false'),
    ('cookie_httponly', '', 'true or false'),
    ('cookie_samesite', 'sometimes', 'lax, strict'),
]


@pytest.mark.parametrize(('name', 'value', 'right'), REFUSED)
def test_bad_value_is_named_with_what_would_be_right(
    name: str, value: Any, right: str
) -> None:
    message = refused(name, value)
    assert message.startswith(f'{PREFIX}{name} = {value!r} is not right: it ')
    assert right in message.lower() or right in message
    assert '\n' not in message


HIDDEN = 'hunter2'
BAD_SECRETS = [
    ('aws_access_key_id', [HIDDEN]),
    ('aws_secret_access_key', [HIDDEN]),
    ('aws_session_token', [HIDDEN]),
    ('secret', ''),
    ('secret', ' \n'),
    ('secret', HIDDEN),
    ('secret', [LONG, HIDDEN]),
    ('secret', [HIDDEN.encode() * 10]),
    ('secret', {HIDDEN: 1}),
    ('secret', HIDDEN + '\ud800' * 40),
    ('secret', 5),
    ('secret', [5]),
    ('encryption_keys', ''),
    ('encryption_keys', HIDDEN),
    ('encryption_keys', 'ü' + HIDDEN),
    ('encryption_keys', f'{KEY_TEXT} {HIDDEN}'),
    ('encryption_keys', [HIDDEN.encode()]),
    ('encryption_keys', 5),
    ('encryption_keys', [5]),
]


@pytest.mark.parametrize(('name', 'value'), BAD_SECRETS)
def test_bad_secret_is_named_and_not_shown(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as error:
        FactorySettings.parse({PREFIX + name: value}, PREFIX)
    message = str(error.value)
    assert message.startswith(f'{PREFIX}{name} = (not shown) is not right')
    assert HIDDEN not in message
    assert error.value.__cause__ is None


def test_secrets_are_shown_by_no_repr() -> None:
    settings = parsed(
        aws_access_key_id=HIDDEN,
        aws_secret_access_key=HIDDEN,
        aws_session_token=HIDDEN,
        secret=HIDDEN * 5,
        encryption_keys=KEY_TEXT,
    )
    assert HIDDEN not in repr(settings)
    assert KEY_TEXT not in repr(settings)
    assert repr(KEY) not in repr(settings)


def test_unknown_setting_is_named_and_its_value_is_not_shown() -> None:
    message = refused('aws_secret_acces_key', HIDDEN)
    assert message == (
        f'{PREFIX}aws_secret_acces_key is no setting: '
        f'did you mean {PREFIX}aws_secret_access_key?'
    )


def test_unknown_setting_like_no_other_is_told_where_they_are_listed() -> None:
    message = refused('xyzzy', HIDDEN)
    assert message.startswith(f'{PREFIX}xyzzy is no setting: help(')
    assert HIDDEN not in message


def test_settings_of_others_are_left_alone() -> None:
    factory = session_factory_from_settings(
        {'dynamodb_session.timeout': '5', 'pyramid.reload_all': 'maybe'}
    )
    assert factory.settings.timeout == 5
    factory = session_factory_from_settings({'s.timeout': '7'}, prefix='s.')
    assert factory.settings.timeout == 7
    with pytest.raises(ConfigurationError, match=r's\.timout is no setting'):
        session_factory_from_settings({'s.timout': '7'}, prefix='s.')


def test_arguments_in_code_are_checked_under_their_own_names() -> None:
    with pytest.raises(ConfigurationError, match=r'^timeout = 0 '):
        DynamoDBSessionFactory(timeout=0)
    with pytest.raises(ConfigurationError, match=r'^region is no setting'):
        DynamoDBSessionStore(client, region='us-west-2')


def test_settings_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed_keys: list[str] = []
    parse_one = settings_module.parse_one

    def noting(key: str, *rest: Any) -> Any:
        parsed_keys.append(key)
        return parse_one(key, *rest)

    monkeypatch.setattr(settings_module, 'parse_one', noting)
    factory = DynamoDBSessionFactory(timeout='5', region='us-west-2')
    assert sorted(parsed_keys) == ['region', 'timeout']
    assert factory.store.settings is factory.settings


@pytest.mark.parametrize(
    ('documented', 'declared', 'first'),
    [
        (DynamoDBSessionFactory, FactorySettings, []),
        (DynamoDBSessionStore, StoreSettings, ['client']),
    ],
)
def test_help_shows_names_and_defaults(
    documented: type, declared: type[StoreSettings], first: list[str]
) -> None:
    parameters = inspect.signature(documented).parameters
    assert list(parameters) == first + [
        field.name for field in dataclasses.fields(declared)
    ]
    for field in dataclasses.fields(declared):
        assert parameters[field.name].default == field.default
    shown = pydoc.render_doc(documented, renderer=pydoc.plaintext)
    assert "table: str = 'Pyramid_SessionState'" in shown
    assert 'absolute_timeout: int | None = None' in shown
    assert 'serializer: Any = JSONSerializer()' in shown


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'ttl_grace': '60'}, 'ttl_attribute'),
        ({'cookie_samesite': 'None'}, 'cookie_secure'),
        (
            {'cookie_samesite': 'None', 'cookie_secure': 'false'},
            'cookie_secure',
        ),
        ({'aws_access_key_id': 'x'}, 'aws_secret_access_key'),
        ({'aws_secret_access_key': 'x'}, 'aws_access_key_id'),
        ({'aws_session_token': 'x'}, 'aws_access_key_id'),
        ({'client': make_client, 'transport': 'direct'}, 'transport'),
        ({'cookie_name': '__Secure-s'}, 'cookie_secure'),
        ({'cookie_name': '__host-s'}, 'cookie_secure'),
        (
            {
                'cookie_name': '__Host-s',
                'cookie_secure': 'true',
                'cookie_path': '/shop',
            },
            'cookie_path',
        ),
        (
            {
                'cookie_name': '__Host-s',
                'cookie_secure': 'true',
                'cookie_domain': 'example.com',
            },
            'cookie_domain',
        ),
    ],
)
def test_values_that_are_wrong_together(
    settings: dict[str, Any], words: str
) -> None:
    given = {PREFIX + name: value for name, value in settings.items()}
    with pytest.raises(ConfigurationError) as error:
        FactorySettings.parse(given, PREFIX)
    assert PREFIX + words in str(error.value)
    assert any(name in str(error.value) for name in given)


@pytest.mark.parametrize(
    'settings',
    [
        {'ttl_attribute': 'Ttl', 'ttl_grace': '60'},
        {'cookie_samesite': 'None', 'cookie_secure': 'true'},
        {'aws_access_key_id': 'x', 'aws_secret_access_key': 'x'},
        {'cookie_name': '__Secure-s', 'cookie_secure': 'true'},
        {'cookie_name': '__Host-s', 'cookie_secure': 'true'},
    ],
)
def test_values_that_are_right_together(settings: dict[str, Any]) -> None:
    assert parsed(**settings)
