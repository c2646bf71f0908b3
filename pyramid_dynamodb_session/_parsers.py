"""Parsers of settings: text or a Python value to the value that is used.

A parser raises ValueError with what would be right; which setting it is for,
:mod:`~pyramid_dynamodb_session.settings` knows.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from pyramid.path import DottedNameResolver

Parser = Callable[[Any], Any]

#: More than any setting needs, and less than what a clock can't wait for.
MOST = 10**9
#: What the items have already.
ATTRIBUTES = {
    'CreateDate',
    'Ended',
    'Flags',
    'LockCount',
    'LockDate',
    'LockId',
    'Owner',
    'SavedBy',
    'SessionItems',
    'SessionTimeout',
    'TakenOver',
    'Ver',
    'Version',
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
TRUE = {'true', 'yes', 'on', '1', 't', 'y'}
FALSE = {'false', 'no', 'off', '0', 'f', 'n'}


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


def index_name(value: Any) -> str:
    name = text(value)
    if not re.fullmatch('[A-Za-z0-9_.-]{3,255}', name):
        raise ValueError("an index's name (3 to 255 of A-Z a-z 0-9 _ . -)")
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


def queue_limit(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() == 'auto':
        return 'auto'
    try:
        return REQUESTS(value)
    except ValueError as error:
        raise ValueError(f'auto, or {error}') from None


REQUESTS = number(int, 0, 'requests')
POSITIVE_SECONDS = number(float, 0, 'seconds', above=True)
WHOLE_SECONDS = number(int, 1, 'seconds')
