"""A TCP relay that holds up what it passes on: the latency of a store.

One thread, no HTTP, no parsing: about 20 µs of CPU a call, so that it is not
the relay that is measured. What clients send waits for the given seconds,
what comes back does not.

``python -m benchmarks.relay PORT SECONDS`` prints the port it listens on.
"""

from __future__ import annotations

import collections
import select
import socket
import sys
import time


def relay(target: int, seconds: float) -> None:
    listener = socket.create_server(('127.0.0.1', 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    others: dict[int, socket.socket] = {}
    sockets: dict[int, socket.socket] = {}
    clients: set[int] = set()
    held: collections.deque[tuple[float, int, bytes]] = collections.deque()

    def connect() -> None:
        client, _ = listener.accept()
        try:
            server = socket.create_connection(('127.0.0.1', target))
        except OSError:
            client.close()
            return
        clients.add(client.fileno())
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[one.fileno()] = one
            others[one.fileno()] = other
            poll.register(one, select.EPOLLIN)

    def disconnect(number: int) -> None:
        for end in (sockets[number], others[number]):
            clients.discard(end.fileno())
            sockets.pop(end.fileno())
            others.pop(end.fileno())
            end.close()

    def send(number: int, data: bytes) -> None:
        try:
            others[number].sendall(data)
        except (KeyError, OSError):
            pass  # one of the two is gone; the other will be told

    while True:
        # epoll rounds up to milliseconds, select doesn't
        if held:
            left = max(0, held[0][0] - time.monotonic())
            select.select([poll], [], [], left)
        for number, _ in poll.poll(0 if held else None):
            if number == listener.fileno():
                connect()
            elif number in sockets:
                try:
                    data = sockets[number].recv(65536)
                except OSError:
                    data = b''
                if not data:
                    disconnect(number)
                elif number in clients:
                    due = time.monotonic() + seconds
                    held.append((due, number, data))
                else:
                    send(number, data)
        now = time.monotonic()
        while held and held[0][0] <= now:
            _, number, data = held.popleft()
            send(number, data)


if __name__ == '__main__':
    relay(int(sys.argv[1]), float(sys.argv[2]))
