"""The DynamoDB servers that the tests run on: which is which."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

SERVERS = {
    'Jetty': 'dynamodb-local',
    'Dynoxide': 'dynoxide',
    'Werkzeug': 'moto',
}


def engine_of(endpoint: str) -> str:
    """The engine that answers at ``endpoint``, by its ``Server`` header."""
    url = urlsplit(endpoint)
    connection = http.client.HTTPConnection(
        url.hostname or '', url.port, timeout=10
    )
    try:
        connection.request('HEAD', '/')
        server = connection.getresponse().getheader('Server', '')
    finally:
        connection.close()
    for name, engine in SERVERS.items():
        if name in server:
            return engine
    raise ValueError(f'unknown DynamoDB server {server!r}')
