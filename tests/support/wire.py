"""A server that sends scripted replies and records what it was sent."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any


def answer(
    body: bytes = b'{}', status: str = '200 OK', *headers: str
) -> bytes:
    lines = [f'HTTP/1.1 {status}', f'Content-Length: {len(body)}', *headers]
    return '\r\n'.join([*lines, '', '']).encode() + body


def send_at_once(connection: Any, reply: bytes) -> None:
    connection.sendall(reply)


def trickle(connection: Any, reply: bytes) -> None:
    """Send a byte at a time, and the last one for ever."""
    pause = threading.Event()
    while True:
        connection.sendall(reply[:1])
        reply = reply[1:] or reply
        pause.wait(0.02)


class Request:
    def __init__(self, head: bytes, body: bytes, connection: int) -> None:
        first, *lines = head.decode().split('\r\n')
        self.target = first.split(' ')[1]
        pairs = (line.split(': ', 1) for line in lines)
        self.headers = {name.lower(): value for name, value in pairs}
        self.body = body
        self.connection = connection


class Wire:
    """A server that records what it is sent and gives prepared answers.

    The last answer is given again and again; an empty one is silence, and
    the end of the connection.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers = [answer()]
        self.requests: list[Request] = []
        self.open: set[int] = set()
        self.tls = tls
        #: Called before each answer.
        self.hook: Callable[[], object] = lambda: None
        #: Sends an answer.
        self.send: Callable[[Any, bytes], object] = send_at_once
        #: Whether connections are closed after an answer, without a word.
        self.hangs_up = False
        self._mutex = threading.Lock()
        self._socket = socket.create_server(('127.0.0.1', 0), backlog=64)
        self.port = self._socket.getsockname()[1]
        scheme = 'https' if tls else 'http'
        self.url = f'{scheme}://127.0.0.1:{self.port}'
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:
                return
            number += 1
            threading.Thread(
                target=self._serve, args=(connection, number), daemon=True
            ).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        self.open.add(number)
        try:
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile('rb') as stream:
                while self._serve_one(connection, stream, number):
                    pass
        except OSError:
            pass  # the client went away, or doesn't trust us
        self.open.discard(number)

    def _serve_one(self, connection: Any, stream: Any, number: int) -> bool:
        lines = []
        while (line := stream.readline().rstrip(b'\r\n')) != b'':
            lines.append(line)
        if not lines:
            return False
        request = Request(b'\r\n'.join(lines), b'', number)
        request.body = stream.read(int(request.headers['content-length']))
        self.hook()
        with self._mutex:
            self.requests.append(request)
            reply = self.answers[0]
            if len(self.answers) > 1:
                del self.answers[0]
        self.send(connection, reply)
        if self.hangs_up:
            return False
        return reply != b'' and b'Connection: close' not in reply


class Proxy:
    """A proxy that makes tunnels, as ``CONNECT`` asks it to."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        #: The heads of the requests.
        self.requests: list[str] = []
        self.answer = b'HTTP/1.1 200 Connection established\r\n\r\n'
        self.send: Callable[[Any, bytes], object] = send_at_once
        self._socket = socket.create_server(('127.0.0.1', 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, user: str = '') -> str:
        scheme = 'https' if self.tls else 'http'
        at = '@' if user else ''
        return f'{scheme}://{user}{at}127.0.0.1:{self.port}'

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:
                return
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                head = b''
                while not head.endswith(b'\r\n\r\n'):
                    head += connection.recv(1)
                self.requests.append(head.decode())
                self.send(connection, self.answer)
                host, port = head.split()[1].decode().rsplit(':', 1)
                with socket.create_connection((host, int(port))) as target:
                    back = threading.Thread(
                        target=pass_on, args=(target, connection), daemon=True
                    )
                    back.start()
                    pass_on(connection, target)
                    back.join()
        except OSError:
            pass  # the client went away


def pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of them went away
