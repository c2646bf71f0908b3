"""The cookie: what is read from it, and what is written into it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyramid.request import Request
from pyramid.response import Response
from webob.cookies import parse_cookie

from pyramid_dynamodb_session.cookie import SESSION_ID, SessionCookie
from pyramid_dynamodb_session.settings import FactorySettings
from pyramid_dynamodb_session.unit_of_work import new_session_id

SECRET = 'a secret of 32 characters or more'.replace(' ', '-')
OTHER = SECRET + '-another'


def cookie(**options: Any) -> SessionCookie:
    return SessionCookie(FactorySettings.parse(options))


def request(value: str | None = None, url: str = 'http://a.example/') -> Any:
    """A request whose cookie header says ``session=value``."""
    blank = Request.blank(url)
    if value is not None:
        blank.environ['HTTP_COOKIE'] = f'session={value}'
    return blank


def written(
    session_cookie: SessionCookie,
    session_id: str = 'x' * 43,
    timeout: int | None = None,
    url: str = 'http://a.example/',
) -> list[str]:
    """The parts of the one ``Set-Cookie`` header."""
    response = Response()
    session_cookie.write(request(url=url), response, session_id, timeout)
    (header,) = response.headers.getall('Set-Cookie')
    return sorted(header.split('; '))


def sent_back(session_cookie: SessionCookie, session_id: str) -> str:
    """The value that a browser sends back."""
    response = Response()
    session_cookie.write(request(), response, session_id, None)
    header = response.headers['Set-Cookie']
    return str(header.partition('=')[2].partition(';')[0])


# -- plain ----------------------------------------------------------------


PIECES = [
    'session',
    '=',
    'session=',
    '; ',
    ';',
    ' ',
    ',',
    '"',
    '\\',
    '\t',
    '$',
]
PIECES += ['x' * 43, 'y', '-_', 'a=b', 'Path', 'GMT', 'Mon, 1-1-2026', '\xe9']


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(''.join))
@example('a=b; session=x; c=d')
@example('session=x; session=y')
@example('a="; session=x; "; session=y')
@example('a=\\; session=x')
@settings(max_examples=2000)
def test_cookie_is_the_one_that_webob_finds(header: str) -> None:
    asked = request()
    asked.environ['HTTP_COOKIE'] = header
    found = dict(parse_cookie(header)).get(b'session')
    expected = None if found is None else found.decode('latin-1')
    assert cookie()._sent(asked) == expected


def test_id_comes_back_as_it_was_written() -> None:
    session_id = new_session_id()
    value = sent_back(cookie(), session_id)
    assert value == session_id
    assert cookie().read(request(value)) == session_id


def test_no_cookie_is_no_id() -> None:
    assert cookie().read(request()) is None
    assert not cookie().is_sent(request())


@pytest.mark.parametrize(
    'value',
    [
        *('', 'x', 'x' * 42, 'x' * 44, 'x' * 4096, '"', '""', 'null'),
        *('x' * 42 + '=', 'x' * 42 + '+', 'x' * 42 + '.', 'x' * 42 + '\xe9'),
        *('x' * 42 + '\n', '\xff\xfe', '../../etc/passwd', 'x' * 42 + '٣'),
    ],
)
def test_what_can_be_no_id_is_none(value: str) -> None:
    value = value.encode().decode('latin-1')
    assert cookie().read(request(value)) is None
    assert cookie(secret=SECRET).read(request(value)) is None
    assert cookie().is_sent(request(value))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=255)))
@example('session="\\377"')
@example('session=;session')
def test_no_cookie_header_is_an_error(header: str) -> None:
    hostile = request()
    hostile.environ['HTTP_COOKIE'] = header
    for reader in (cookie(), cookie(secret=SECRET)):
        session_id = reader.read(hostile)
        assert session_id is None or SESSION_ID.fullmatch(session_id)


def test_cookie_of_another_name_is_not_ours() -> None:
    session_id = new_session_id()
    ours = cookie(cookie_name='ours')
    assert ours.read(request(session_id)) is None
    assert not ours.is_sent(request(session_id))
    named = Request.blank('/')
    named.environ['HTTP_COOKIE'] = f'session=x; ours={session_id}'
    assert ours.read(named) == session_id


# -- signed ---------------------------------------------------------------


def test_signed_id_comes_back_as_it_was_written() -> None:
    session_id = new_session_id()
    signed = cookie(secret=SECRET)
    value = sent_back(signed, session_id)
    assert session_id not in value
    assert signed.read(request(value)) == session_id


def test_id_that_is_not_signed_is_none() -> None:
    assert cookie(secret=SECRET).read(request(new_session_id())) is None


def test_signature_that_was_tampered_with_is_none() -> None:
    signed = cookie(secret=SECRET)
    value = sent_back(signed, new_session_id())
    for index in range(0, len(value) - 1, 7):
        other = 'A' if value[index] != 'A' else 'B'
        forged = value[:index] + other + value[index + 1 :]
        assert signed.read(request(forged)) is None
        assert signed.read(request(value[:index])) is None


def test_secrets_are_rotated_without_logging_anyone_out() -> None:
    session_id = new_session_id()
    old = sent_back(cookie(secret=OTHER), session_id)
    rotated = cookie(secret=f'{SECRET} {OTHER}')
    assert rotated.read(request(old)) == session_id
    new = sent_back(rotated, session_id)
    assert cookie(secret=SECRET).read(request(new)) == session_id
    assert cookie(secret=OTHER).read(request(new)) is None


def test_what_is_signed_is_still_only_an_id() -> None:
    signed = cookie(secret=SECRET)
    assert signed.read(request(sent_back(signed, 'x' * 44))) is None


# -- attributes -----------------------------------------------------------


def test_cookie_is_safe_by_default() -> None:
    session_id = new_session_id()
    assert written(cookie(), session_id) == sorted(
        [f'session={session_id}', 'Path=/', 'HttpOnly', 'SameSite=Lax']
    )


def test_cookie_is_secure_where_the_request_is() -> None:
    assert 'secure' in written(cookie(), url='https://a.example/')
    assert 'secure' not in written(cookie())
    assert 'secure' in written(cookie(cookie_secure=True))
    assert 'secure' not in written(
        cookie(cookie_secure=False), url='https://a.example/'
    )


def test_cookie_is_as_configured() -> None:
    parts = written(
        cookie(
            cookie_name='__Secure-shop',
            cookie_path='/shop',
            cookie_domain='example.com',
            cookie_httponly=False,
            cookie_secure=True,
            cookie_samesite='None',
        )
    )
    assert parts == sorted(
        [
            f'__Secure-shop={"x" * 43}',
            *('Path=/shop', 'Domain=example.com', 'SameSite=None', 'secure'),
        ]
    )


def test_cookie_without_samesite() -> None:
    assert not any(
        part.startswith('SameSite')
        for part in written(cookie(cookie_samesite=''))
    )


@pytest.mark.parametrize(
    ('max_age', 'timeout', 'sent'),
    [
        (None, None, None),
        (None, 60, None),
        (3600, None, 'Max-Age=3600'),
        (3600, 60, 'Max-Age=60'),
    ],
)
def test_cookie_lives_as_long_as_its_session_where_it_has_an_age(
    max_age: int | None, timeout: int | None, sent: str | None
) -> None:
    parts = written(cookie(cookie_max_age=max_age), timeout=timeout)
    ages = [part for part in parts if part.startswith('Max-Age')]
    assert ages == ([sent] if sent else [])


def test_cookie_is_removed_where_it_was_set() -> None:
    response = Response()
    cookie(cookie_path='/shop', cookie_domain='example.com').remove(
        request(), response
    )
    (header,) = response.headers.getall('Set-Cookie')
    parts = header.split('; ')
    assert parts[0] == 'session='
    assert {'Max-Age=0', 'Path=/shop', 'Domain=example.com'} <= set(parts)


def test_request_without_a_scheme_gets_a_plain_cookie() -> None:
    class Bare:
        cookies: dict[str, str]

    response = Response()
    cookie().write(Bare(), response, 'x' * 43, None)
    assert 'secure' not in response.headers['Set-Cookie']


# -- the scheme of the request --------------------------------------------


def warned(
    caplog: pytest.LogCaptureFixture,
    secure: bool | None,
    environ: dict[str, str],
    url: str = 'http://a.example/',
) -> list[str]:
    """What is said when two cookies are written."""
    caplog.clear()
    session_cookie = cookie(cookie_secure=secure)
    for _ in range(2):
        a_request = request(url=url)
        a_request.environ.update(environ)
        session_cookie.write(a_request, Response(), 'x' * 43, None)
    return [record.getMessage() for record in caplog.records]


BEHIND_A_PROXY = [
    {'HTTP_X_FORWARDED_PROTO': 'https'},
    {'HTTP_X_FORWARDED_PROTO': 'HTTPS, http'},
    {'HTTP_X_FORWARDED_SCHEME': 'https'},
    {'HTTP_X_FORWARDED_SSL': 'on'},
    {'HTTP_FORWARDED': 'for=192.0.2.43;proto="https"'},
    {'HTTP_CLOUDFRONT_FORWARDED_PROTO': 'https'},
    {'HTTP_SEC_FETCH_SITE': 'none'},
]


@pytest.mark.parametrize('environ', BEHIND_A_PROXY)
def test_scheme_that_a_proxy_keeps_to_itself_is_said_once(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (said,) = warned(caplog, None, environ)
    assert 'the session cookie is not secure' in said
    assert 'cookie_secure = true' in said
    for secure in (True, False):
        assert warned(caplog, secure, environ) == []
    https = 'https://a.example/'
    for setting in (None, True, False):
        assert warned(caplog, setting, environ, https) == []


NOT_ENCRYPTED: list[dict[str, str]] = [
    {},
    {'HTTP_X_FORWARDED_PROTO': 'http'},
    {'HTTP_X_FORWARDED_SSL': 'off'},
    {'HTTP_FORWARDED': 'for=https;proto=http'},
    {'HTTP_SEC_FETCH_SITE': 'none', 'HTTP_HOST': 'localhost:6543'},
    {'HTTP_SEC_FETCH_SITE': 'none', 'HTTP_HOST': 'shop.localhost'},
    {'HTTP_SEC_FETCH_SITE': 'none', 'HTTP_HOST': '127.0.0.1'},
    {'HTTP_SEC_FETCH_SITE': 'none', 'HTTP_HOST': '[::1]:80'},
]


@pytest.mark.parametrize('environ', NOT_ENCRYPTED)
def test_secure_cookie_on_plain_http_is_said_once(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (said,) = warned(caplog, True, environ)
    assert said.startswith('cookie_secure is true and a request came over')
    assert 'always empty' in said
    for secure in (None, False):
        assert warned(caplog, secure, environ) == []
