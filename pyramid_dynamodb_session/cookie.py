"""The session id on its way to the browser and back; no data, no calls."""

from __future__ import annotations

import re
from typing import Any

from webob.cookies import SignedSerializer, parse_cookie

from .settings import FactorySettings

SESSION_ID = re.compile('[A-Za-z0-9_-]{43}')
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
        self._set(request, response, value, max_age)

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
