"""A reverse proxy that records every DynamoDB call and injects faults."""

from __future__ import annotations

import json
import select
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

HOP_BY_HOP = {
    'connection',
    'content-length',
    'keep-alive',
    'transfer-encoding',
}
LINGER_ZERO = struct.pack('ii', 1, 0)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one call; see the constants and functions below."""

    name: str
    #: Does the engine see the call, and apply it?
    forwards: bool = True
    #: Does the client get an answer? If not, its connection is closed.
    answers: bool = True
    #: Is the connection closed with a TCP reset?
    resets: bool = False
    #: How long the call is held up first.
    seconds: float = 0
    #: The answer given instead of the engine's.
    reply: Reply | None = None


#: The engine applies the call, and the client never hears of it.
LOSE_REPLY = Fault('lose-reply', answers=False)
#: The connection is reset before the engine sees the call.
RESET = Fault('reset', forwards=False, answers=False, resets=True)


def hang(seconds: float) -> Fault:
    """Silence for so long, then a closed connection; nothing is applied."""
    return Fault('hang', forwards=False, answers=False, seconds=seconds)


def slow(seconds: float) -> Fault:
    """The call goes through, but so much later."""
    return Fault('slow', seconds=seconds)


def error(status: int, code: str, message: str = 'injected') -> Fault:
    """An AWS error such as ``error(400, 'ThrottlingException')``."""
    body = {
        '__type': f'com.amazonaws.dynamodb.v20120810#{code}',
        'message': message,
    }
    return _answer('error', status, json.dumps(body).encode())


def malformed(body: bytes) -> Fault:
    """200, and a body that is no answer to anything."""
    return _answer('malformed', 200, body)


def mixed_up(body: bytes) -> Fault:
    """The call is applied, and answered with the reply to another one."""
    return _answer('mixed-up', 200, body, forwards=True)


def _answer(
    name: str, status: int, body: bytes, forwards: bool = False
) -> Fault:
    headers = (('Content-Type', 'application/x-amz-json-1.0'),)
    return Fault(name, forwards, reply=Reply(status, headers, body))


#: Decides the fault of a call from its number (from 1), operation, request.
Decide = Callable[[int, str, dict[str, Any]], 'Fault | None']


@dataclass(frozen=True)
class Call:
    """One DynamoDB call, as it went over the wire."""

    operation: str
    request: dict[str, Any]
    #: The engine's status and answer, whether or not the client saw them;
    #: 0 and empty when there was none.
    status: int
    response: dict[str, Any]
    #: When it arrived, in seconds of :func:`time.monotonic`.
    at: float
    fault: Fault | None
    #: The client's port: calls of one connection have the same.
    port: int

    @property
    def error(self) -> str:
        """The error code, without its namespace; empty when there is none."""
        kind = self.response.get('__type', '')
        return str(kind).rpartition('#')[2]


class FaultProxy:
    """An HTTP/1.1 proxy on a free local port in front of ``endpoint``.

    Requests are passed on as they came, signature and all, unless
    ``rewrite`` makes another body of theirs.
    """

    def __init__(
        self,
        endpoint: str,
        rewrite: Callable[[bytes], bytes] = lambda body: body,
    ) -> None:
        self.upstream = urlsplit(endpoint)
        self.rewrite = rewrite
        #: Seconds added to every call: the latency of the store.
        self.delay: float = 0
        self.fault: Decide | None = None
        self.closing = threading.Event()
        self._mutex = threading.Lock()
        self._calls: list[Call] = []
        self._arrived = 0
        self._server = _Server(self, port=0)
        self._port = self._server.server_address[1]
        self.accept()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self._port}'

    @property
    def calls(self) -> list[Call]:
        """The calls so far, in the order in which they ended."""
        with self._mutex:
            return list(self._calls)

    @property
    def operations(self) -> list[str]:
        return [call.operation for call in self.calls]

    @property
    def failed_conditions(self) -> int:
        """How many writes failed on their condition (and were billed)."""
        return sum(
            call.error == 'ConditionalCheckFailedException'
            for call in self.calls
        )

    def clear(self) -> None:
        """Forget the calls and number the next one 1; faults stay."""
        with self._mutex:
            self._calls.clear()
            self._arrived = 0

    def inject(
        self,
        fault: Fault,
        operation: str | None = None,
        *,
        after: int = 0,
        times: float = 1,
    ) -> None:
        """Fail ``times`` calls of ``operation``, once ``after`` went well.

        Replaces any earlier fault. ``times=math.inf`` lasts until
        :meth:`heal`.
        """
        mutex = threading.Lock()
        seen = 0

        def decide(
            number: int, called: str, request: dict[str, Any]
        ) -> Fault | None:
            nonlocal seen
            if operation not in (None, called):
                return None
            with mutex:
                seen += 1
                return fault if after < seen <= after + times else None

        self.fault = decide

    def heal(self) -> None:
        """No more faults, no delay, and connections are accepted again."""
        self.fault = None
        self.delay = 0
        self.accept()

    def refuse(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._server.accepting:
            self._server.stop()
            # Bound but not listening: nobody else can take the port.
            self._server = _Server(self, self._port)

    def accept(self) -> None:
        """Accept connections, on the same port as ever."""
        if not self._server.accepting:
            self._server.start()

    def close(self) -> None:
        self.closing.set()
        self._server.stop()

    def decide(self, operation: str, request: dict[str, Any]) -> Fault | None:
        with self._mutex:
            self._arrived += 1
            number = self._arrived
        return self.fault(number, operation, request) if self.fault else None

    def record(self, call: Call) -> None:
        with self._mutex:
            self._calls.append(call)


class _Server(socketserver.ThreadingTCPServer):
    """The listening side; a stopped one is thrown away."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, port: int) -> None:
        super().__init__(
            ('127.0.0.1', port), _Handler, bind_and_activate=False
        )
        self.proxy = proxy
        self.accepting = False
        self.connections: set[socket.socket] = set()
        self.server_bind()

    def start(self) -> None:
        self.server_activate()
        self.accepting = True
        threading.Thread(
            target=self.serve_forever, args=(0.02,), daemon=True
        ).start()

    def stop(self) -> None:
        if self.accepting:
            self.shutdown()
        self.accepting = False
        self.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has just ended by itself

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        # No polite FIN first, as the base class has it: a reset is a reset.
        self.connections.discard(request)
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client went away


class _Handler(BaseHTTPRequestHandler):
    """One client connection, with a connection of its own to the engine."""

    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        upstream = self.server.proxy.upstream
        self.engine = HTTPConnection(
            upstream.hostname or '', upstream.port, timeout=60
        )

    def finish(self) -> None:
        self.engine.close()
        super().finish()

    def do_POST(self) -> None:
        at = time.monotonic()
        proxy = self.server.proxy
        length = int(self.headers.get('Content-Length', 0))
        body = self.rfile.read(length)
        if len(body) < length:
            # the client was killed while it sent
            return self.hang_up(False)
        target = self.headers.get('X-Amz-Target', '')
        operation = target.rpartition('.')[2]
        request = _parsed(body)
        fault = proxy.decide(operation, request)
        effect = fault or Fault('none')

        if wait := proxy.delay + effect.seconds:
            proxy.closing.wait(wait)
        reply = None
        if effect.forwards:
            reply = self.forward(proxy.rewrite(body))
        reply = effect.reply or reply
        proxy.record(
            Call(
                operation,
                request,
                reply.status if reply else 0,
                _parsed(reply.body) if reply else {},
                at,
                fault,
                self.client_address[1],
            )
        )
        if reply and effect.answers:
            self.answer(reply)
        else:
            self.hang_up(effect.resets)

    def forward(self, body: bytes) -> Reply | None:
        self.drop_stale_connection()
        try:
            self.engine.putrequest(
                self.command,
                self.path,
                skip_host=True,
                skip_accept_encoding=True,
            )
            for name, value in self.headers.items():
                if name.lower() == 'content-length':
                    value = str(len(body))
                self.engine.putheader(name, value)
            self.engine.endheaders(body)
            response = self.engine.getresponse()
            return Reply(
                response.status,
                tuple(response.getheaders()),
                response.read(),
            )
        except (OSError, HTTPException):
            self.engine.close()
            return None

    def drop_stale_connection(self) -> None:
        """An idle connection with something to read has been closed."""
        idle = self.engine.sock
        if idle and select.select([idle], [], [], 0)[0]:
            self.engine.close()

    def answer(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        for name, value in reply.headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header('Content-Length', str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def hang_up(self, reset: bool) -> None:
        if reset:
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO
            )
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
