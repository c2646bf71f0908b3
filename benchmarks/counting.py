"""A proxy in front of DynamoDB that counts calls and capacity units."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Call:
    operation: str
    #: Read units of a read, write units of a write.
    units: float
    #: Its condition failed. DynamoDB bills the item all the same, and says
    #: nothing of it: one unit, for an item of up to 1 KB.
    refused: bool

    @property
    def is_read(self) -> bool:
        return self.operation == 'GetItem'


class CountingProxy:
    """Asks for the capacity of every call on the way, and adds it up."""

    def __init__(self, endpoint: str) -> None:
        self.calls: list[Call] = []
        upstream = urlsplit(endpoint)
        calls = self.calls

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'
            disable_nagle_algorithm = True
            wbufsize = -1

            def setup(self) -> None:
                super().setup()
                self.engine = HTTPConnection(
                    upstream.hostname or '', upstream.port
                )

            def do_POST(self) -> None:
                length = int(self.headers.get('Content-Length', 0))
                body = with_capacity(self.rfile.read(length))
                headers = dict(self.headers)
                headers['Content-Length'] = str(len(body))
                self.engine.request('POST', self.path, body, headers)
                response = self.engine.getresponse()
                reply = response.read()
                target = self.headers.get('X-Amz-Target', '')
                calls.append(
                    counted(target.rpartition('.')[2], json.loads(reply))
                )
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() in ('content-type', 'x-amz-crc32'):
                        self.send_header(name, value)
                self.send_header('Content-Length', str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                pass  # the client went away

        self._server = Server(('127.0.0.1', 0), Handler)
        threading.Thread(
            target=self._server.serve_forever, daemon=True
        ).start()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self._server.server_address[1]}'

    def __enter__(self) -> CountingProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        self.calls.clear()

    def sums(self) -> dict[str, float]:
        """Calls, read and write units, refused writes since cleared."""
        calls = list(self.calls)
        return {
            'calls': len(calls),
            'reads': sum(call.units for call in calls if call.is_read),
            'writes': sum(call.units for call in calls if not call.is_read),
            'refused': sum(call.refused for call in calls),
        }


def with_capacity(body: bytes) -> bytes:
    parameters = json.loads(body)
    if 'Key' in parameters or 'Item' in parameters:
        parameters['ReturnConsumedCapacity'] = 'TOTAL'
    return json.dumps(parameters).encode()


def counted(operation: str, reply: dict[str, Any]) -> Call:
    refused = 'ConditionalCheckFailed' in reply.get('__type', '')
    capacity = reply.get('ConsumedCapacity') or {}
    return Call(operation, capacity.get('CapacityUnits', refused), refused)
