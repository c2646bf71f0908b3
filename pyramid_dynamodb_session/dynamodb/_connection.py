"""Connections to one endpoint: opened, kept, closed; one request at a time.

What is asked and answered is not known here. `socket`, `ssl` and `select`
are looked up at use, so that gevent's take their place.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPException, IncompleteRead
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util.ssltransport import SSLTransport

from ._http import Receive, Response, read_head, read_response

#: Bytes. More than a TLS record, so that nothing of one is left behind.
RECEIVE_SIZE = 64 * 1024
#: Bytes. A longer request is sent in parts, within one timeout.
SEND_SIZE = 64 * 1024
DEFAULT_PORTS = {'http': 80, 'https': 443}


class Options(NamedTuple):
    """How connections are made. Timeouts are in seconds."""

    connect_timeout: float
    read_timeout: float
    #: How many idle connections are kept.
    pool_size: int
    #: A file of trusted certificates.
    ca_bundle: str
    #: botocore's: a file, or a pair of certificate and key.
    client_cert: Any = None


class Origin(NamedTuple):
    """The scheme, host and port of a URL, and nothing secret."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: SplitResult) -> Origin:
        host = url.hostname or ''
        return cls(url.scheme, host, url.port or DEFAULT_PORTS[url.scheme])

    def __str__(self) -> str:
        return f'{self.scheme}://{self.authority}'

    @property
    def authority(self) -> str:
        """As ``Host`` has it: without the port where it is the usual one."""
        if self.port == DEFAULT_PORTS[self.scheme]:
            return self._bracketed_host
        return f'{self._bracketed_host}:{self.port}'

    @property
    def host_and_port(self) -> str:
        return f'{self._bracketed_host}:{self.port}'

    @property
    def _bracketed_host(self) -> str:
        return f'[{self.host}]' if ':' in self.host else self.host


class Pool:
    """The idle connections to one endpoint, the last used on top.

    Threads may share one; processes may not.

    :param origin: the endpoint's.
    :param proxy_url: with user and password, if need be; empty: none.
    """

    def __init__(
        self, origin: Origin, proxy_url: str, options: Options
    ) -> None:
        self._origin = origin
        self._options = options
        self._proxy: Origin | None = None
        self._proxy_authorization = ''
        if proxy_url:
            proxy = urlsplit(proxy_url)
            self._proxy = Origin.of(proxy)
            self._proxy_authorization = _basic_authorization(proxy)
        self._pid = os.getpid()
        self._idle: list[Connection] = []
        self._tls_context: ssl.SSLContext | None = None

    def exchange(self, request: bytes) -> Response:
        """Send a `request`, and read the response to it.

        :raises botocore.exceptions.HTTPClientError: or a subclass, or
            ``ConnectionError``: what boto3 raises of the same.
        """
        connection = self._take()
        is_reusable = False
        try:
            response = connection.exchange(request)
            is_reusable = response.is_reusable
        except ssl.SSLError as error:
            raise self._failure(SSLError, error) from None
        except TimeoutError as error:
            raise self._failure(ReadTimeoutError, error) from None
        except (OSError, IncompleteRead) as error:
            raise self._failure(ConnectionClosedError, error) from None
        except HTTPException as error:
            raise self._failure(HTTPClientError, error) from None
        finally:
            if is_reusable:
                self._give_back(connection)
            else:
                connection.close()
        return response

    def headers(self) -> dict[str, str]:
        """Those that a proxy wants of each request."""
        if self._proxy and self._proxy_authorization and not self._is_tunnel:
            return {'Proxy-Authorization': self._proxy_authorization}
        return {}

    def target(self, path: str) -> str:
        """What stands in the first line of a request for a `path`."""
        if self._proxy and not self._is_tunnel:
            return f'{self._origin}{path}'
        return path

    def close(self) -> None:
        """Close the idle connections."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    @property
    def _is_tunnel(self) -> bool:
        return self._proxy is not None and self._origin.scheme == 'https'

    def _take(self) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._open()
            if connection.is_open():
                return connection
            connection.close()

    def _give_back(self, connection: Connection) -> None:
        # A greenlet may come here in a child of the process that took it.
        if self._pid != os.getpid():
            connection.close()
            return
        self._idle.append(connection)
        if len(self._idle) > self._options.pool_size:
            with suppress(IndexError):
                self._idle.pop(0).close()

    def _open(self) -> Connection:
        away = ProxyConnectionError if self._proxy else EndpointConnectionError
        try:
            opened = self._connect()
        except ssl.SSLError as error:
            raise self._failure(SSLError, error) from None
        except TimeoutError as error:
            raise self._failure(ConnectTimeoutError, error) from None
        except (OSError, HTTPException, UnicodeError) as error:
            raise self._failure(away, error) from None
        return Connection(opened, self._options.read_timeout)

    def _connect(self) -> Any:
        """A socket to the endpoint, through the proxy, encrypted."""
        peer = self._proxy or self._origin
        timeout = self._options.connect_timeout
        opened: Any = socket.create_connection((peer.host, peer.port), timeout)
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if peer.scheme == 'https':
                opened = self._encrypted(opened, peer.host)
            if self._is_tunnel:
                self._ask_for_tunnel(Connection(opened, timeout))
                opened = self._encrypted(opened, self._origin.host)
        except BaseException:
            opened.close()
            raise
        return opened

    def _encrypted(self, opened: Any, host: str) -> Any:
        if self._tls_context is None:
            self._tls_context = _tls_context(self._options)
        if isinstance(opened, ssl.SSLSocket):
            return SSLTransport(opened, self._tls_context, host)
        return self._tls_context.wrap_socket(opened, server_hostname=host)

    def _ask_for_tunnel(self, connection: Connection) -> None:
        peer = self._origin.host_and_port
        lines = [f'CONNECT {peer} HTTP/1.1', f'Host: {peer}']
        if self._proxy_authorization:
            lines.append(f'Proxy-Authorization: {self._proxy_authorization}')
        request = '\r\n'.join([*lines, '', '']).encode()
        status = connection.exchange_head(request)
        if status != 200:
            raise ConnectionRefusedError(f'the proxy answers {status}')

    def _failure(self, kind: Any, error: Exception) -> Exception:
        failure: Exception = kind(
            endpoint_url=str(self._origin),
            proxy_url=str(self._proxy),
            error=str(error) or type(error).__name__,
        )
        return failure


class Connection:
    """One open connection, for one thread at a time.

    :param opened: a socket, or what behaves like one.
    :param timeout: seconds; it holds for a whole exchange.
    """

    def __init__(self, opened: Any, timeout: float) -> None:
        self._socket = opened
        self._timeout = timeout
        self._poll: Any = None
        opened.settimeout(timeout)
        if hasattr(select, 'poll'):
            self._poll = select.poll()
            self._poll.register(opened.fileno(), select.POLLIN)

    def exchange(self, request: bytes) -> Response:
        """Send a `request`, and read the response to it.

        :raises OSError: :exc:`TimeoutError`, or a subclass of
            :exc:`ConnectionError` or :exc:`ssl.SSLError`;
        :raises http.client.HTTPException: what came is no response.
        """
        receive = self._send(request)
        return read_response(self._socket.recv(RECEIVE_SIZE), receive)

    def exchange_head(self, request: bytes) -> int:
        """As :meth:`exchange`; the response has no body: its status."""
        return read_head(b'', self._send(request)).status

    def is_open(self) -> bool:
        """Whether the server has left an idle connection alone.

        Nobody has asked it anything: whatever there is to read is the end,
        or no answer to the next request.
        """
        if self._poll is not None:
            return not self._poll.poll(0)
        return not select.select([self._socket], [], [], 0)[0]

    def close(self) -> None:
        with suppress(OSError):
            self._socket.close()

    def _send(self, request: bytes) -> Receive:
        """Send a `request`; the function with which to read the response."""
        deadline = time.monotonic() + self._timeout
        if len(request) <= SEND_SIZE:
            self._socket.sendall(request)
        else:
            view = memoryview(request)
            for start in range(0, len(request), SEND_SIZE):
                part = view[start : start + SEND_SIZE]
                self._do_until(deadline, self._socket.sendall, part)
        receive = self._socket.recv
        return partial(self._do_until, deadline, receive, RECEIVE_SIZE)

    def _do_until(
        self, deadline: float, operation: Callable[[Any], Any], argument: Any
    ) -> Any:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError('timed out')
        self._socket.settimeout(remaining)
        try:
            return operation(argument)
        finally:
            self._socket.settimeout(self._timeout)


def _tls_context(options: Options) -> ssl.SSLContext:
    # What boto3 trusts: create_default_context() is stricter from 3.13 on.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(['http/1.1'])
    try:
        context.load_verify_locations(options.ca_bundle)
        if isinstance(options.client_cert, tuple):
            context.load_cert_chain(*options.client_cert)
        elif options.client_cert:
            context.load_cert_chain(options.client_cert)
    except OSError as error:
        raise ssl.SSLError(f'{options.ca_bundle}: {error}') from None
    return context


def _basic_authorization(proxy: SplitResult) -> str:
    if proxy.username is None:
        return ''
    user, password = unquote(proxy.username), unquote(proxy.password or '')
    return f'Basic {b64encode(f"{user}:{password}".encode()).decode()}'
