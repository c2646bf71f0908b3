"""Declarations of all settings: name, default, what it means.

What text or value a setting takes is in :mod:`._parsers`. Every
:class:`pyramid.exceptions.ConfigurationError` about a value is raised here;
no call is made.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from pyramid.exceptions import ConfigurationError

from . import _parsers
from .serializer import JSONSerializer

Settings = TypeVar('Settings', bound='StoreSettings')
Documented = TypeVar('Documented', bound=type)

#: What the names of all settings begin with.
PREFIX = 'dynamodb_session.'
STATES = ('exclusive', 'read_only', 'optimistic', 'disabled')


def setting(
    parse: _parsers.Parser, default: Any, doc: str, secret: bool = False
) -> Any:
    """A field that knows its parser and its line in the reference."""
    return dataclasses.field(
        default=default,
        repr=not secret,
        metadata={'parse': parse, 'doc': doc, 'secret': secret},
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """What :class:`~pyramid_dynamodb_session.DynamoDBSessionStore` takes."""

    table: str = setting(
        _parsers.table_name,
        'Pyramid_SessionState',
        'The table that keeps the sessions.',
    )
    application: str | None = setting(
        _parsers.optional(_parsers.application_name),
        None,
        'Partitions one table among applications: each sees only its own '
        'sessions.',
    )
    timeout: int | None = setting(
        _parsers.optional(_parsers.WHOLE_SECONDS),
        1200,
        'Seconds after its last request at which a session expires; ``none`` '
        'for never.',
    )
    absolute_timeout: int | None = setting(
        _parsers.optional(_parsers.WHOLE_SECONDS),
        None,
        'Seconds after its creation at which a session ends however busy it '
        'is.',
    )
    lock_lease: float = setting(
        _parsers.POSITIVE_SECONDS,
        10.0,
        'Seconds after which a lock whose holder has died may be taken over; '
        'a living holder renews it.',
    )
    lock_wait: float = setting(
        _parsers.number(float, 0, 'seconds'),
        15.0,
        'Seconds that a request waits for the lock before '
        '``SessionLockTimeout``. Keep it above ``lock_lease``, so that a '
        'crashed worker alone never costs the user an error.',
    )
    lock_queue_limit: int | Literal['auto'] = setting(
        _parsers.queue_limit,
        'auto',
        'Requests of one session that may queue in one process; the next one '
        'gets ``SessionLockTimeout`` at once. ``auto``: 10, and never so many '
        "that waiting requests take the server's last threads.",
    )
    touch_interval: int = setting(
        _parsers.number(int, 0, 'seconds'),
        60,
        'Seconds between the sliding writes of requests that only read '
        'without a lock. The expiry of a session with an owner slides no more '
        'often than that, whatever the request does.',
    )
    owner_index: str | None = setting(
        _parsers.optional(_parsers.index_name),
        None,
        'The global secondary index by which the sessions of one user are '
        'found; needed to sign out everywhere.',
    )
    serializer: Any = setting(
        _parsers.serializer,
        JSONSerializer(),
        'Dotted name of an object with ``dumps(obj) -> bytes`` and '
        "``loads(bytes) -> obj``, ValueError when malformed: Pyramid's "
        'serializer contract. Unless given, JSON that keeps dates, decimals, '
        'UUIDs, bytes and sets as well.',
    )
    encryption_keys: tuple[bytes, ...] = setting(
        _parsers.encryption_keys,
        (),
        'Keys that encrypt the stored data, AES-256-GCM: 32 bytes each in '
        'base64url, separated by spaces. The first encrypts, all decrypt. '
        'Needs the extra ``[encryption]``.',
        secret=True,
    )
    create_if_not_exist: bool = setting(
        _parsers.boolean,
        True,
        'Create the table when it is missing; otherwise a missing table is a '
        'ConfigurationError.',
    )
    read_capacity_units: int = setting(
        _parsers.number(int, 1, 'units'),
        10,
        'Used only when the table is created.',
    )
    write_capacity_units: int = setting(
        _parsers.number(int, 1, 'units'),
        5,
        'Used only when the table is created.',
    )
    on_demand_capacity: bool = setting(
        _parsers.boolean,
        False,
        'Create the table with ``PAY_PER_REQUEST`` billing instead.',
    )
    ttl_attribute: str = setting(
        _parsers.attribute_name,
        'Expires',
        "The attribute for DynamoDB's Time to Live, which is switched on when "
        'the table is created; empty for none.',
    )
    ttl_grace: int = setting(
        _parsers.number(int, 0, 'seconds'),
        0,
        'Seconds that DynamoDB keeps an expired session before it deletes it. '
        'Needs a ``ttl_attribute`` other than ``Expires``.',
    )

    @classmethod
    def parse(
        cls: type[Settings], given: Mapping[str, Any], prefix: str = ''
    ) -> Settings:
        """Settings from the values `given`, whose keys bear `prefix`.

        Raises :class:`pyramid.exceptions.ConfigurationError` naming the full
        key, the value (but of a secret) and what would be right.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values = {}
        for key, value in given.items():
            name = key[len(prefix) :]
            if name not in fields:
                raise ConfigurationError(
                    f'{key} is no setting: ' + suggestion(name, fields, prefix)
                )
            values[name] = parse_one(key, value, fields[name].metadata)
        settings = cls(**values)
        settings.check(prefix)
        return settings

    def check(self, prefix: str) -> None:
        """Refuse values that are right alone and wrong together."""
        if self.ttl_grace and self.ttl_attribute == 'Expires':
            raise ConfigurationError(
                f'{prefix}ttl_grace = {self.ttl_grace} needs an attribute of '
                f'its own: set {prefix}ttl_attribute to a name other than '
                'Expires, which says when the session ends'
            )

    def warnings(self, prefix: str) -> Iterator[str]:
        """What is allowed, and hardly what anybody wants."""
        if self.lock_wait <= self.lock_lease:
            yield (
                f'{prefix}lock_wait ({self.lock_wait:g} s) is not above '
                f'{prefix}lock_lease ({self.lock_lease:g} s): a worker that '
                'crashes costs the next request of its session an error'
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorySettings(StoreSettings):
    """What :class:`~pyramid_dynamodb_session.DynamoDBSessionFactory` takes."""

    region: str | None = setting(
        _parsers.optional(_parsers.text),
        None,
        "The AWS region; otherwise boto3's own choice.",
    )
    endpoint_url: str | None = setting(
        _parsers.optional(_parsers.url),
        None,
        'Another endpoint: DynamoDB Local, an emulator, a VPC endpoint, '
        'ScyllaDB Alternator.',
    )
    profile_name: str | None = setting(
        _parsers.optional(_parsers.text),
        None,
        "A named profile; otherwise boto3's own chain: environment, profile, "
        'container or instance role.',
    )
    profiles_location: str | None = setting(
        _parsers.optional(_parsers.text),
        None,
        'The path of the credentials file.',
    )
    aws_access_key_id: str | None = setting(
        _parsers.optional(_parsers.text),
        None,
        'The last resort: prefer a role or a profile.',
        True,
    )
    aws_secret_access_key: str | None = setting(
        _parsers.optional(_parsers.text),
        None,
        'The last resort, as above.',
        True,
    )
    aws_session_token: str | None = setting(
        _parsers.optional(_parsers.text),
        None,
        'The last resort, as above.',
        True,
    )
    connect_timeout: float = setting(
        _parsers.POSITIVE_SECONDS, 1.0, 'Seconds to connect to DynamoDB.'
    )
    read_timeout: float = setting(
        _parsers.POSITIVE_SECONDS,
        2.0,
        "Seconds to wait for DynamoDB's answer.",
    )
    max_attempts: int = setting(
        _parsers.number(int, 1, 'attempts'),
        4,
        'Tries of one call, the first included.',
    )
    client: Any = setting(
        _parsers.client,
        None,
        'Dotted name of a callable that returns a boto3 DynamoDB client; in '
        'code the client itself. It replaces the settings of the connection.',
    )
    transport: str = setting(
        _parsers.one_of('boto3', 'direct'),
        'boto3',
        '``boto3``, or ``direct``: the same calls with a tenth of the CPU '
        'time.',
    )
    session_state: str = setting(
        _parsers.one_of(*STATES),
        'exclusive',
        'The state of views that say nothing: ``exclusive``, ``read_only``, '
        '``optimistic`` or ``disabled``.',
    )
    state_hook: Any = setting(
        _parsers.function,
        None,
        'Dotted name of ``hook(request)``, which returns a state or None; '
        'asked before the view is known.',
    )
    set_on_exception: bool = setting(
        _parsers.boolean,
        True,
        "Pyramid's own: save when an exception view made the response.",
    )
    secret: tuple[str, ...] = setting(
        _parsers.signing_secrets,
        (),
        'Signs the cookie: one secret, or several separated by spaces. The '
        'first signs, all verify.',
        secret=True,
    )
    cookie_name: str = setting(
        _parsers.cookie_name, 'session', "The cookie's name."
    )
    cookie_max_age: int | None = setting(
        _parsers.optional(_parsers.WHOLE_SECONDS),
        None,
        'Seconds that the browser keeps the cookie; unset, until it closes.',
    )
    cookie_path: str = setting(_parsers.cookie_path, '/', "The cookie's path.")
    cookie_domain: str | None = setting(
        _parsers.optional(_parsers.cookie_domain), None, "The cookie's domain."
    )
    cookie_secure: bool | None = setting(
        _parsers.optional(_parsers.boolean),
        None,
        "Send the cookie over https only; unset, as the request's scheme is.",
    )
    cookie_httponly: bool = setting(
        _parsers.boolean, True, 'Hide the cookie from JavaScript.'
    )
    cookie_samesite: str | None = setting(
        _parsers.samesite,
        'Lax',
        '``Lax``, ``Strict``, or ``None`` with ``cookie_secure``; empty for '
        'no SameSite attribute.',
    )

    def check(self, prefix: str) -> None:
        super().check(prefix)
        if self.cookie_samesite == 'None' and not self.cookie_secure:
            raise ConfigurationError(
                f'{prefix}cookie_samesite = None is refused by browsers '
                f'unless the cookie is secure: set {prefix}cookie_secure = '
                'true'
            )
        if self.client is not None and self.transport != 'boto3':
            raise ConfigurationError(
                f'{prefix}transport = {self.transport} and {prefix}client '
                'exclude each other: the client is its own transport'
            )
        self._check_cookie_prefix(prefix)
        if bool(self.aws_access_key_id) != bool(self.aws_secret_access_key):
            raise ConfigurationError(
                f'{prefix}aws_access_key_id and {prefix}aws_secret_access_key '
                'go together: set both or none'
            )
        if self.aws_session_token and not self.aws_access_key_id:
            raise ConfigurationError(
                f'{prefix}aws_session_token is of no use without '
                f'{prefix}aws_access_key_id and '
                f'{prefix}aws_secret_access_key'
            )

    def _check_cookie_prefix(self, prefix: str) -> None:
        """What browsers demand of names that promise something."""
        name = self.cookie_name.lower()
        hosts_own = self.cookie_path == '/' and self.cookie_domain is None
        if name.startswith(('__host-', '__secure-')) and not (
            self.cookie_secure
        ):
            raise ConfigurationError(
                f'{prefix}cookie_name = {self.cookie_name} is refused by '
                f'browsers unless the cookie is secure: set '
                f'{prefix}cookie_secure = true'
            )
        if name.startswith('__host-') and not hosts_own:
            raise ConfigurationError(
                f'{prefix}cookie_name = {self.cookie_name} is refused by '
                f'browsers unless {prefix}cookie_path is / and there is no '
                f'{prefix}cookie_domain'
            )


def parse_one(key: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    try:
        return metadata['parse'](value)
    except ValueError as error:
        shown = '(not shown)' if metadata['secret'] else repr(value)
        raise ConfigurationError(
            f'{key} = {shown} is not right: it takes {error}'
        ) from None


def suggestion(name: str, known: Iterable[str], prefix: str) -> str:
    """What to write instead of the `name` of no setting."""
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f'did you mean {prefix}{close[0]}?'
    return 'help(pyramid_dynamodb_session.DynamoDBSessionFactory) lists them'


def refuse_similar_prefixes(settings: Iterable[str], prefix: str) -> None:
    """Raise ConfigurationError for a setting of ours with a misspelt prefix.

    Keys that only look alike are left alone: what follows has to be a
    setting, and a number or word at the end of the prefix makes it another.
    """
    known = [field.name for field in dataclasses.fields(FactorySettings)]
    for key in settings:
        start, _, name = key.rpartition('.')
        if key.startswith(prefix) or not is_similar(start, prefix):
            continue
        if difflib.get_close_matches(name, known, 1):
            raise ConfigurationError(
                f'{key} is no setting: {suggestion(name, known, prefix)}'
            )


def is_similar(start: str, prefix: str) -> bool:
    """Whether a `start` is the `prefix` but for some letters or signs."""
    one, other = (
        re.sub('[^a-z0-9]|^pyramid', '', text.lower())
        for text in (start, prefix)
    )
    ratio = difflib.SequenceMatcher(None, one, other).ratio()
    return ratio > 0.88 and not one[-1].isdigit()


def documents_settings(
    declared: type[StoreSettings],
) -> Callable[[Documented], Documented]:
    """A class decorator: let ``help()`` show the settings it takes.

    ``**settings`` in the signature of ``__init__`` becomes the names, types
    and defaults that are `declared`.
    """
    types = typing.get_type_hints(declared)
    named = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=types[field.name],
        )
        for field in dataclasses.fields(declared)
    ]

    def decorate(documented: Documented) -> Documented:
        init: Any = vars(documented)['__init__']
        signature = inspect.signature(init, eval_str=True)
        first = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        init.__signature__ = signature.replace(parameters=[*first, *named])
        return documented

    return decorate
