"""The session id on its way to the browser and back; no data, no calls."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from webob.cookies import SignedSerializer, parse_cookie

from .settings import FactorySettings

log = logging.getLogger(__name__)

SESSION_ID = re.compile('[A-Za-z0-9_-]{43}')
#: Headers by which a proxy tells that it was called over https.
PROXY_HEADERS = (
    'HTTP_X_FORWARDED_PROTO',
    'HTTP_X_FORWARDED_SCHEME',
    'HTTP_X_FORWARDED_SSL',
    'HTTP_FORWARDED',
    'HTTP_CLOUDFRONT_FORWARDED_PROTO',
)
PROXY_VALUE = re.compile(r'https\b.*|on|.*\bproto="?https\b.*', re.I)
#: Hosts where browsers trust plain http as if it were https.
LOOPBACK = re.compile(r'((.*\.)?localhost|127(\.\d+){3}|\[::1\])(:\d*)?')
#: Of 32 bytes of signature and an id; the decoder would skip other characters.
SIGNED_ID = re.compile('[A-Za-z0-9_-]{100}')


class IdSerializer:
    """Ids as bytes, for the signer; ValueError for what is not ASCII."""

    def dumps(self, session_id: str) -> bytes:
        return session_id.encode('ascii')

    def loads(self, data: bytes) -> str:
        return data.decode('ascii')


class SessionCookie:
    """Reads and writes the one cookie, as the settings want it."""

    def __init__(self, settings: FactorySettings) -> None:
        self._settings = settings
        self._scheme_fits = True
        #: our cookie, as any browser sends it
        self._usual = re.compile(
            rf'(?:^|; ){re.escape(settings.cookie_name)}=([\w-]+)(?:;|$)',
            re.ASCII,
        )
        self._signers = [
            SignedSerializer(
                secret,
                'pyramid_dynamodb_session',
                hashalg='sha256',
                serializer=IdSerializer(),
            )
            for secret in settings.secret
        ]

    def read(self, request: Any) -> str | None:
        """The id in the cookie; None for whatever can be none."""
        value = self._sent(request)
        return None if value is None else self.id_in(value)

    def id_in(self, value: str) -> str | None:
        """The id in the `value` of a cookie; None for whatever can be none."""
        session_id = self._verified(value) if self._signers else value
        if session_id is None or not SESSION_ID.fullmatch(session_id):
            return None
        return session_id

    def _verified(self, value: str) -> str | None:
        if not SIGNED_ID.fullmatch(value):
            return None
        for signer in self._signers:
            try:
                return str(signer.loads(value.encode()))
            except ValueError:
                continue
        return None

    def is_sent(self, request: Any) -> bool:
        """Whether the browser sent the cookie, whatever is in it."""
        return self._sent(request) is not None

    def _sent(self, request: Any) -> str | None:
        name = self._settings.cookie_name
        header = request.environ.get('HTTP_COOKIE', '')
        if header.count(name) == 1 and '"' not in header:
            # nothing that WebOb would read in another way, and at more cost
            # than all else that is done with a cookie
            usual = self._usual.search(header)
            if usual is not None:
                return usual[1]
        try:
            value: str | None = request.cookies.get(name)
        except UnicodeDecodeError:
            # some cookie is no text, maybe one that is not ours
            pairs = dict(parse_cookie(header))
            found = pairs.get(name.encode())
            value = None if found is None else found.decode('latin-1')
        return value

    def write(
        self,
        request: Any,
        response: Any,
        session_id: str,
        timeout: int | None,
    ) -> None:
        """Send the id.

        A session with a `timeout` of its own has a cookie that lives as long,
        where cookies have a ``cookie_max_age`` at all.
        """
        max_age = self._settings.cookie_max_age
        if max_age is not None and timeout is not None:
            max_age = timeout
        value = session_id
        if self._signers:
            value = self._signers[0].dumps(session_id).decode()
        if self._scheme_fits:
            self._check_scheme(request)
        self._set(request, response, value, max_age)

    def _check_scheme(self, request: Any) -> None:
        """Warn once of a scheme that the cookie does not suit."""
        environ = getattr(request, 'environ', {})
        if environ.get('wsgi.url_scheme') != 'http':
            return
        secure = self._settings.cookie_secure
        encrypted = is_browser_on_https(environ)
        if secure and not encrypted:
            log.warning(
                'cookie_secure is true and a request came over http: a '
                'browser keeps no such cookie, and its session is always '
                'empty. For plain http leave cookie_secure out; behind an '
                'https proxy have the server take over its scheme (waitress: '
                'trusted_proxy and trusted_proxy_headers, gunicorn: '
                'forwarded_allow_ips)'
            )
        elif secure is None and encrypted:
            log.warning(
                'the browser speaks https, and the request has the scheme '
                'http: the session cookie is not secure. Have the server '
                "take over the proxy's scheme (waitress: trusted_proxy and "
                'trusted_proxy_headers, gunicorn: forwarded_allow_ips), or '
                'set cookie_secure = true'
            )
        else:
            return
        self._scheme_fits = False

    def remove(self, request: Any, response: Any) -> None:
        """Have the browser forget the cookie."""
        self._set(request, response, None, 0)

    def _set(
        self,
        request: Any,
        response: Any,
        value: str | None,
        max_age: int | None,
    ) -> None:
        settings = self._settings
        secure = settings.cookie_secure
        if secure is None:
            secure = getattr(request, 'scheme', 'http') == 'https'
        response.set_cookie(
            settings.cookie_name,
            value=value,
            max_age=max_age,
            path=settings.cookie_path,
            domain=settings.cookie_domain,
            secure=secure,
            httponly=settings.cookie_httponly,
            samesite=settings.cookie_samesite,
        )


def is_browser_on_https(environ: Mapping[str, Any]) -> bool:
    """Whether a request that came over http was sent over https to a proxy.

    The proxy's headers may be forged, or be removed by the server; browsers
    themselves tell it by ``Sec-Fetch-Site``, which they send over plain http
    to the machine that they run on alone.
    """
    if any(PROXY_VALUE.fullmatch(environ.get(h, '')) for h in PROXY_HEADERS):
        return True
    return 'HTTP_SEC_FETCH_SITE' in environ and not LOOPBACK.fullmatch(
        environ.get('HTTP_HOST', '')
    )
