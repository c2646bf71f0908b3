"""Browsers: connections that ask, wait for the answer, and ask again.

One thread over all of them, no HTTP library, so that they take little from
the machine that they measure.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Load:
    """What became of the requests."""

    elapsed: float = 0
    #: The seconds that each answered request took.
    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    #: The last body.
    text: str = ''

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.elapsed

    @property
    def failed(self) -> int:
        return sum(
            count for status, count in self.statuses.items() if status >= 400
        )

    def quantile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Jar:
    """The cookie of one browser, which several connections may share."""

    def __init__(self) -> None:
        self.cookie = b''


class Connection:
    def __init__(self, port: int, jar: Jar) -> None:
        self.port = port
        self.jar = jar
        self.sent = 0.0
        self.open()

    def open(self) -> None:
        self.socket = socket.create_connection(('127.0.0.1', self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        #: The server closes the connection after an error.
        self.closes = False
        self._received = b''

    def ask(self, path: str) -> None:
        cookie = self.jar.cookie
        self.sent = time.perf_counter()
        self.socket.sendall(
            b'GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n'
            % (path.encode(), cookie and b'Cookie: %b\r\n' % cookie)
        )

    def answer(self) -> tuple[int, bytes] | None:
        """The status and the body; None until all of it is there."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionError('the server hung up')
        self._received += chunk
        head, end, body = self._received.partition(b'\r\n\r\n')
        if not end:
            return None
        lines = head.split(b'\r\n')
        length = 0
        for line in lines[1:]:
            name, _, value = line.partition(b': ')
            if name.lower() == b'content-length':
                length = int(value)
            elif name.lower() == b'set-cookie':
                self.jar.cookie = value.partition(b';')[0]
            elif line.lower() == b'connection: close':
                self.closes = True
        if len(body) < length:
            return None
        self._received = b''
        return int(lines[0].split()[1]), body


def load(
    ports: Sequence[int],
    clients: int,
    path: str,
    *,
    seconds: float = float('inf'),
    count: int = 1 << 60,
    jar: Jar | None = None,
    warm_up: bool = True,
) -> Load:
    """Have `clients` ask for `path`, for `seconds` or `count` times in all.

    Each has a session of its own, or all share that of `jar`. The ports are
    taken in turn.
    """
    connections = [
        Connection(ports[index % len(ports)], jar or Jar())
        for index in range(clients)
    ]
    if warm_up:
        run(connections, '/write', float('inf'), 5 * clients)
    result = run(connections, path, seconds, count)
    for connection in connections:
        connection.socket.close()
    return result


def run(
    connections: list[Connection], path: str, seconds: float, count: int
) -> Load:
    result = Load()
    selector = selectors.DefaultSelector()
    start = time.perf_counter()
    asked = min(count, len(connections))
    for connection in connections[:asked]:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.ask(path)
    waiting = asked
    while waiting:
        for key, _ in selector.select():
            answer = key.data.answer()
            if answer is None:
                continue
            now = time.perf_counter()
            status, body = answer
            result.seconds.append(now - key.data.sent)
            result.statuses[status] = result.statuses.get(status, 0) + 1
            result.text = body.decode(errors='replace')
            if asked < count and now - start < seconds:
                asked += 1
                if key.data.closes:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                    key.data.open()
                    selector.register(
                        key.data.socket, selectors.EVENT_READ, key.data
                    )
                key.data.ask(path)
            else:
                waiting -= 1
                selector.unregister(key.fileobj)
    result.elapsed = time.perf_counter() - start
    selector.close()
    return result
