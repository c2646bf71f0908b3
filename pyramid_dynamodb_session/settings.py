"""From ``.ini`` text or keyword arguments to typed settings.

Every setting is declared here once: name, default, what it takes and what
it means. Every :class:`pyramid.exceptions.ConfigurationError` about a value
is raised here; no call is made.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pyramid.exceptions import ConfigurationError
from pyramid.path import DottedNameResolver

from .serializer import JSONSerializer

Settings = TypeVar('Settings', bound='StoreSettings')
Parser = Callable[[Any], Any]

#: More than any setting needs, and less than what a clock can't wait for.
MOST = 10**9
#: What the items have already; see :mod:`~pyramid_dynamodb_session.item`.
ATTRIBUTES = {
    'CreateDate',
    'Flags',
    'LockCount',
    'LockDate',
    'LockId',
    'SavedBy',
    'SessionItems',
    'SessionTimeout',
    'TakenOver',
    'Ver',
}
#: WebOb neither reads nor writes cookies of these names.
COOKIE_ATTRIBUTES = {
    'comment',
    'domain',
    'expires',
    'httponly',
    'max-age',
    'path',
    'samesite',
    'secure',
}
STATES = ('exclusive', 'read_only', 'optimistic', 'disabled')
TRUE = {'true', 'yes', 'on', '1', 't', 'y'}
FALSE = {'false', 'no', 'off', '0', 'f', 'n'}


def setting(
    parse: Parser, default: Any, doc: str, secret: bool = False
) -> Any:
    """A field that knows its parser and its line in the reference."""
    return dataclasses.field(
        default=default,
        repr=not secret,
        metadata={'parse': parse, 'doc': doc, 'secret': secret},
    )


def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError('a text that is not empty')
    return value.strip()


def table_name(value: Any) -> str:
    if not re.fullmatch(r'[A-Za-z0-9_.-]{3,255}|arn:\S+', str(value).strip()):
        raise ValueError(
            "a table's name (3 to 255 of A-Z a-z 0-9 _ . -) or its ARN"
        )
    return text(value)


def application_name(value: Any) -> str:
    name = text(value)
    if len(name.encode()) > 1024:
        raise ValueError('at most 1024 bytes')
    return name


def attribute_name(value: Any) -> str:
    name = '' if value in (None, '') else text(value)
    if len(name.encode()) > 255:
        raise ValueError('an attribute name of at most 255 bytes')
    if name in ATTRIBUTES:
        raise ValueError(
            'an attribute name other than ' + ', '.join(sorted(ATTRIBUTES))
        )
    return name


def boolean(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in TRUE | FALSE:
        raise ValueError('true or false')
    return word in TRUE


def number(
    convert: Callable[[Any], float],
    least: float,
    unit: str,
    above: bool = False,
) -> Parser:
    """A parser of finite numbers from `least` on, or only `above` it."""
    kind = 'whole number' if convert is int else 'number'
    bound = 'above' if above else 'from'
    sentence = f'a {kind} of {unit} {bound} {least}, at most {MOST}'

    def parse(value: Any) -> float:
        try:
            result = convert(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(sentence) from None
        # written so that a NaN is refused as well
        if not (least < result or (least == result and not above)):
            raise ValueError(sentence)
        if result > MOST or isinstance(value, bool):
            raise ValueError(sentence)
        if isinstance(value, float) and value != result:
            raise ValueError(sentence)
        return result

    return parse


def optional(parse: Parser) -> Parser:
    """Let `parse` also take nothing: ``None``, empty, or ``none``."""

    def parse_optional(value: Any) -> Any:
        if value is None or str(value).strip().lower() in ('', 'none'):
            return None
        return parse(value)

    return parse_optional


def one_of(*words: str) -> Parser:
    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError('one of ' + ', '.join(words))
        return str(value)

    return parse


def samesite(value: Any) -> str | None:
    """Pyramid's own: ``None`` itself, or nothing, leaves the attribute out."""
    word = '' if value is None else str(value).strip().lower()
    if word not in ('', 'lax', 'strict', 'none'):
        raise ValueError('Lax, Strict, None, or empty for no SameSite at all')
    return word.capitalize() or None


def cookie_name(value: Any) -> str:
    name = text(value)
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        raise ValueError('a cookie name as RFC 6265 has it')
    if name.startswith('$') or name.lower() in COOKIE_ATTRIBUTES:
        raise ValueError('a name that no attribute of a cookie has')
    return name


def url(value: Any) -> str:
    if not re.fullmatch(r'https?://[^\s/?#]+(/\S*)?', text(value)):
        raise ValueError('a URL that begins with http:// or https://')
    return text(value)


def cookie_path(value: Any) -> str:
    path = text(value)
    if not re.fullmatch('/[ -:<-~]*', path):
        raise ValueError('a path of ASCII characters, from / on, without ;')
    return path


def cookie_domain(value: Any) -> str:
    domain = text(value)
    if not re.fullmatch('[A-Za-z0-9.-]+', domain):
        raise ValueError('a domain of letters, digits, dots and hyphens')
    return domain


def resolved(value: Any) -> Any:
    """The object behind a dotted name; any other object as it is."""
    if value is None or value == '':
        return None
    try:
        return DottedNameResolver().maybe_resolve(value)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f'the dotted name of something importable ({error})'
        ) from None


def function(value: Any) -> Any:
    found = resolved(value)
    if found is not None and not callable(found):
        raise ValueError('the dotted name of a callable')
    return found


def client(value: Any) -> Any:
    """A boto3 client, or the dotted name of a callable that makes one."""
    if value is None or hasattr(value, 'update_item'):
        return value
    return function(value)


def serializer(value: Any) -> Any:
    found = resolved(value)
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise ValueError(
                f'a class that needs no arguments ({error})'
            ) from None
    if not (hasattr(found, 'dumps') and hasattr(found, 'loads')):
        raise ValueError('the dotted name of an object with dumps and loads')
    return found


def words(value: Any) -> tuple[Any, ...]:
    """The words of a text; a sequence of words as it is.

    A text without any is refused: what protects sessions is not switched off
    by a variable that happens to be empty.
    """
    if value is None:
        return ()
    if isinstance(value, str) and not value.strip():
        raise ValueError('something; leave the setting out to go without it')
    found = value.split() if isinstance(value, str) else value
    if not isinstance(found, (list, tuple)) or not all(
        isinstance(word, (str, bytes)) for word in found
    ):
        raise ValueError('words with spaces between them, or a list of them')
    return tuple(found)


def signing_secrets(value: Any) -> tuple[str, ...]:
    secrets = words(value)
    if not all(map(is_long, secrets)):
        raise ValueError(
            'secrets of at least 32 characters, as long as the SHA-256 that '
            'they sign with; a shorter one can be guessed'
        )
    return secrets


def is_long(secret: str | bytes) -> bool:
    try:
        return isinstance(secret, str) and len(secret.encode()) >= 32
    except UnicodeEncodeError:
        return False


def encryption_keys(value: Any) -> tuple[bytes, ...]:
    """Keys in base64url; bytes, as this returns them, are taken as well."""
    given = words(value)
    try:
        keys = tuple(key_bytes(word) for word in given)
    except ValueError:
        keys = (b'',)
    if any(len(key) != 32 for key in keys):
        raise ValueError(
            'keys of 32 bytes in base64url, as '
            'secrets.token_urlsafe(32) makes them'
        )
    return keys


def key_bytes(word: str | bytes) -> bytes:
    if isinstance(word, bytes):
        return word
    return base64.urlsafe_b64decode(word.rstrip('=') + '=')


POSITIVE_SECONDS = number(float, 0, 'seconds', above=True)
WHOLE_SECONDS = number(int, 1, 'seconds')


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """What :class:`~pyramid_dynamodb_session.DynamoDBSessionStore` takes."""

    table: str = setting(
        table_name,
        'Pyramid_SessionState',
        'The table that keeps the sessions.',
    )
    application: str | None = setting(
        optional(application_name),
        None,
        'Partitions one table among applications: each sees only its own '
        'sessions.',
    )
    timeout: int | None = setting(
        optional(WHOLE_SECONDS),
        1200,
        'Seconds after its last request at which a session expires; ``none`` '
        'for never.',
    )
    absolute_timeout: int | None = setting(
        optional(WHOLE_SECONDS),
        None,
        'Seconds after its creation at which a session ends however busy it '
        'is.',
    )
    lock_lease: float = setting(
        POSITIVE_SECONDS,
        10.0,
        'Seconds after which a lock whose holder has died may be taken over; '
        'a living holder renews it.',
    )
    lock_wait: float = setting(
        number(float, 0, 'seconds'),
        15.0,
        'Seconds that a request waits for the lock before '
        '``SessionLockTimeout``. Keep it above ``lock_lease``, so that a '
        'crashed worker alone never costs the user an error.',
    )
    lock_queue_limit: int = setting(
        number(int, 0, 'requests'),
        10,
        'Requests of one session that may queue in one process; the next one '
        'gets ``SessionLockTimeout`` at once. At least two below the number '
        'of threads of the server, it keeps one free for other sessions.',
    )
    serializer: Any = setting(
        serializer,
        JSONSerializer(),
        'Dotted name of an object with ``dumps(obj) -> bytes`` and '
        "``loads(bytes) -> obj``, ValueError when malformed: Pyramid's "
        'serializer contract. JSON unless given.',
    )
    encryption_keys: tuple[bytes, ...] = setting(
        encryption_keys,
        (),
        'Keys that encrypt the stored data, AES-256-GCM: 32 bytes each in '
        'base64url, separated by spaces. The first encrypts, all decrypt. '
        'Needs the extra ``[encryption]``.',
        secret=True,
    )
    create_if_not_exist: bool = setting(
        boolean,
        True,
        'Create the table when it is missing; otherwise a missing table is a '
        'ConfigurationError.',
    )
    read_capacity_units: int = setting(
        number(int, 1, 'units'), 10, 'Used only when the table is created.'
    )
    write_capacity_units: int = setting(
        number(int, 1, 'units'), 5, 'Used only when the table is created.'
    )
    on_demand_capacity: bool = setting(
        boolean,
        False,
        'Create the table with ``PAY_PER_REQUEST`` billing instead.',
    )
    ttl_attribute: str = setting(
        attribute_name,
        'Expires',
        "The attribute for DynamoDB's Time to Live, which is switched on when "
        'the table is created; empty for none.',
    )
    ttl_grace: int = setting(
        number(int, 0, 'seconds'),
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
                    f'{key} is no setting; there are: '
                    + ', '.join(prefix + known for known in fields)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorySettings(StoreSettings):
    """What :class:`~pyramid_dynamodb_session.DynamoDBSessionFactory` takes."""

    region: str | None = setting(
        optional(text), None, "The AWS region; otherwise boto3's own choice."
    )
    endpoint_url: str | None = setting(
        optional(url),
        None,
        'Another endpoint: DynamoDB Local, an emulator, a VPC endpoint, '
        'ScyllaDB Alternator.',
    )
    profile_name: str | None = setting(
        optional(text),
        None,
        "A named profile; otherwise boto3's own chain: environment, profile, "
        'container or instance role.',
    )
    profiles_location: str | None = setting(
        optional(text), None, 'The path of the credentials file.'
    )
    aws_access_key_id: str | None = setting(
        optional(text),
        None,
        'The last resort: prefer a role or a profile.',
        True,
    )
    aws_secret_access_key: str | None = setting(
        optional(text), None, 'The last resort, as above.', True
    )
    aws_session_token: str | None = setting(
        optional(text), None, 'The last resort, as above.', True
    )
    connect_timeout: float = setting(
        POSITIVE_SECONDS, 1.0, 'Seconds to connect to DynamoDB.'
    )
    read_timeout: float = setting(
        POSITIVE_SECONDS, 2.0, "Seconds to wait for DynamoDB's answer."
    )
    max_attempts: int = setting(
        number(int, 1, 'attempts'), 4, 'Tries of one call, the first included.'
    )
    client: Any = setting(
        client,
        None,
        'Dotted name of a callable that returns a boto3 DynamoDB client; in '
        'code the client itself. It replaces the settings of the connection.',
    )
    transport: str = setting(
        one_of('boto3', 'direct'),
        'boto3',
        '``boto3``, or ``direct``: the same calls with a tenth of the CPU '
        'time.',
    )
    session_state: str = setting(
        one_of(*STATES),
        'exclusive',
        'The state of views that say nothing: ``exclusive``, ``read_only``, '
        '``optimistic`` or ``disabled``.',
    )
    state_hook: Any = setting(
        function,
        None,
        'Dotted name of ``hook(request)``, which returns a state or None; '
        'asked before the view is known.',
    )
    touch_interval: int = setting(
        number(int, 0, 'seconds'),
        60,
        'Seconds between the sliding writes of requests that only read '
        'without a lock.',
    )
    set_on_exception: bool = setting(
        boolean,
        True,
        "Pyramid's own: save when an exception view made the response.",
    )
    secret: tuple[str, ...] = setting(
        signing_secrets,
        (),
        'Signs the cookie: one secret, or several separated by spaces. The '
        'first signs, all verify.',
        secret=True,
    )
    cookie_name: str = setting(cookie_name, 'session', "The cookie's name.")
    cookie_max_age: int | None = setting(
        optional(WHOLE_SECONDS),
        None,
        'Seconds that the browser keeps the cookie; unset, until it closes.',
    )
    cookie_path: str = setting(cookie_path, '/', "The cookie's path.")
    cookie_domain: str | None = setting(
        optional(cookie_domain), None, "The cookie's domain."
    )
    cookie_secure: bool | None = setting(
        optional(boolean),
        None,
        "Send the cookie over https only; unset, as the request's scheme is.",
    )
    cookie_httponly: bool = setting(
        boolean, True, 'Hide the cookie from JavaScript.'
    )
    cookie_samesite: str | None = setting(
        samesite,
        'Lax',
        '``Lax``, ``Strict``, or ``None`` with ``cookie_secure``; empty for '
        'no SameSite attribute.',
    )

    def of_the_store(self) -> dict[str, Any]:
        """The settings that concern the store."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(StoreSettings)
        }

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
