"""Reads one HTTP/1.1 response; where its bytes come from is not known here."""

from __future__ import annotations

import io
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any, NamedTuple

#: Bytes. DynamoDB answers no call with more than 16 MB.
LONGEST_REPLY = 16 * 1024 * 1024
#: Bytes that may come on top of that: headers, and the sizes of chunks.
LONGEST_FRAMING = 1024 * 1024
#: Responses such as ``100 Continue`` that may come before the final one.
MOST_INTERIM = 8

#: How the usual response begins. `http.client` reads all others.
USUAL = {f'HTTP/1.1 {status} ': status for status in (200, 400, 413, 500, 503)}
#: Digits of a length.
LONGEST_LENGTH = 18

#: Gives the next bytes, any number of them, and none at the end.
Receive = Callable[[], bytes]


class Response(NamedTuple):
    status: int
    #: The names in lower case.
    headers: dict[str, str]
    body: bytes
    #: Whether another request may follow on the same connection.
    is_reusable: bool


def read_response(first: bytes, receive: Receive) -> Response:
    """Read the response that begins with the bytes `first`.

    :raises http.client.HTTPException: what came is no response, is too long,
        or ends in the middle; and whatever `receive` raises.
    """
    head, end, start = first.partition(b'\r\n\r\n')
    status_line, *lines = head.decode('latin-1').split('\r\n')
    headers = {
        name.lower(): value.strip()
        for name, _, value in [line.partition(': ') for line in lines]
    }
    status = USUAL.get(status_line[:13])
    length = headers.get('content-length', '')
    if (
        status is None
        or not end
        # a bare line feed, a header that comes twice
        or head.count(b'\n') != len(headers)
        # no colon; or the line goes on with the one before
        or '' in headers.values()
        or 'transfer-encoding' in headers
        or not length.isdecimal()
        or len(length) > LONGEST_LENGTH
    ):
        return _read_unusual(first, receive)
    body, is_exact = _read_body(start, int(length), receive)
    is_last = 'close' in headers.get('connection', '').lower()
    return Response(status, headers, body, is_exact and not is_last)


def read_head(first: bytes, receive: Receive) -> HTTPResponse:
    """Read the first lines of a response, whose body may follow.

    :raises http.client.HTTPException: as :func:`read_response`.
    """
    stream = _Stream(_Bytes(first, receive))
    for _ in range(MOST_INTERIM + 1):
        response = HTTPResponse(_StreamSocket(stream))  # type: ignore[arg-type]
        response.begin()
        if not 100 <= response.status < 200:
            return response
    raise HTTPException('too many interim responses')


def _read_body(
    start: bytes, length: int, receive: Receive
) -> tuple[bytes, bool]:
    """The body, and whether nothing has come after it."""
    if length > LONGEST_REPLY:
        raise HTTPException(f'a reply of {length} bytes')
    missing = length - len(start)
    if missing > 0:
        parts = [start]
        while missing > 0:
            part = receive()
            if not part:
                raise IncompleteRead(b'', missing)
            parts.append(part)
            missing -= len(part)
        start = b''.join(parts)
    return start[:length], missing == 0


def _read_unusual(first: bytes, receive: Receive) -> Response:
    response = read_head(first, receive)
    if len(set(response.msg.get_all('content-length', ()))) > 1:
        raise HTTPException('a reply of two lengths')
    stream: Any = response.fp
    try:
        body = response.read(LONGEST_REPLY + 1)
    except (OverflowError, ValueError) as error:
        # the size of a chunk
        raise HTTPException(f'a garbled reply: {error}') from None
    if len(body) > LONGEST_REPLY:
        raise HTTPException(f'a reply of more than {LONGEST_REPLY} bytes')
    if response.length:
        raise IncompleteRead(b'', response.length)
    headers = {n.lower(): value for n, value in response.getheaders()}
    return Response(
        response.status,
        headers,
        body,
        not response.will_close and stream.is_exhausted(),
    )


class _Bytes(io.RawIOBase):
    """What has been received, and then what `receive` gives."""

    def __init__(self, first: bytes, receive: Receive) -> None:
        self._rest = first
        self._receive = receive
        self._allowed = LONGEST_REPLY + LONGEST_FRAMING

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._rest or self._receive()
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        self._rest = data[size:]
        self._allowed -= size
        if self._allowed < 0:
            raise HTTPException('a reply without end')
        return size

    def stop_receiving(self) -> None:
        self._receive = bytes


class _Stream(io.BufferedReader):
    """Stays open when an `HTTPResponse` has read its part of it."""

    raw: _Bytes

    def close(self) -> None:
        pass

    def flush(self) -> None:
        # An `HTTPResponse` does so when it is collected, maybe after this.
        pass

    def is_exhausted(self) -> bool:
        """Whether all that has been received so far has been read."""
        self.raw.stop_receiving()
        return self.peek(1) == b''


class _StreamSocket:
    """As much of a socket as an `HTTPResponse` asks for."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def makefile(self, mode: str) -> _Stream:
        return self._stream
