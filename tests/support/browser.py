"""A tiny browser: it keeps cookies, and follows nothing."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Browser:
    """``Browser(server.url).get('/count', hold=0.05).json``."""

    url: str
    cookies: dict[str, str] = field(default_factory=dict)
    #: Seconds; a server that is silent for longer is a ``TimeoutError``.
    timeout: float = 60

    def at(self, url: str) -> Browser:
        """A browser with the same cookies, at another server."""
        return Browser(url, dict(self.cookies), self.timeout)

    def clone(self) -> Browser:
        """Another one with the same cookies, for a parallel request."""
        return self.at(self.url)

    def get(self, path: str, **query: object) -> Answer:
        """Raises ``OSError`` or ``HTTPException`` without an answer."""
        if query:
            path = f'{path}?{urlencode(query)}'
        cookie = '; '.join(f'{k}={v}' for k, v in self.cookies.items())
        headers = {'Cookie': cookie} if cookie else {}
        connection = http.client.HTTPConnection(
            urlsplit(self.url).netloc, timeout=self.timeout
        )
        started = time.monotonic()
        try:
            connection.request('GET', path, headers=headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        self._keep(response.headers.get_all('Set-Cookie', []))
        seconds = time.monotonic() - started
        return Answer(response.status, response.headers, text, seconds)

    def _keep(self, set_cookies: list[str]) -> None:
        for header in set_cookies:
            for name, morsel in SimpleCookie(header).items():
                if morsel['max-age'] == '0':
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
