"""Where requests go, and what they look like there: botocore decides."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from botocore.httpsession import ProxyConfiguration, get_cert_path
from botocore.utils import get_environ_proxies

from ._connection import Options, Origin, Pool
from .signer import Signer, canonical_request, signed_headers

CONTENT_TYPE = 'application/x-amz-json-1.0'
API_VERSION = 'DynamoDB_20120810'
SAFE_IN_PATH = "/%:@!$&'()*+,;=~"
#: Stands for what differs from one request to the next.
GAP = '\0'


class Resolved(NamedTuple):
    """An endpoint and the scope of its signatures."""

    url: str
    region: str
    service: str


def resolve(client: Any, table: str) -> Resolved:
    """What the boto3 `client` would send a call on a `table` to.

    A presigned URL is the public way to learn it: it names endpoint, region
    and service as botocore has found them, with all its rules.
    """
    url = urlsplit(
        client.generate_presigned_url(
            'get_item', {'TableName': table, 'Key': {'-': {'S': '-'}}}
        )
    )
    (credential,) = parse_qs(url.query)['X-Amz-Credential']
    region, service = credential.rsplit('/', 3)[1:3]
    return Resolved(
        url._replace(query='', fragment='').geturl(), region, service
    )


def options_of(client: Any, ca_bundle: str | None) -> Options:
    """How the boto3 `client` makes its connections."""
    config = client.meta.config
    return Options(
        connect_timeout=config.connect_timeout,
        read_timeout=config.read_timeout,
        pool_size=config.max_pool_connections,
        ca_bundle=ca_bundle
        or os.environ.get('AWS_CA_BUNDLE')
        or os.environ.get('REQUESTS_CA_BUNDLE')
        or get_cert_path(True),
        client_cert=config.client_cert,
    )


def proxy_for(url: str, proxies: dict[str, str] | None) -> str:
    """The URL of the proxy on the way to a `url`; empty: none.

    :param proxies: botocore's, by scheme; None: as the environment has it.
    """
    if proxies is None:
        proxies = get_environ_proxies(url)
    return ProxyConfiguration(proxies).proxy_url_for(url) or ''


class Endpoint:
    """One endpoint: its connections, and requests signed for it.

    Threads may share one; processes may not.
    """

    def __init__(
        self, resolved: Resolved, config: Any, options: Options
    ) -> None:
        url = urlsplit(resolved.url)
        self._origin = Origin.of(url)
        self._path = url.path or '/'
        self._user_agent = config.user_agent
        self._signer = Signer(resolved.region, resolved.service)
        self._templates: dict[str, _Template] = {}
        proxy = proxy_for(resolved.url, config.proxies)
        self.pool = Pool(self._origin, proxy, options)

    def request(
        self, operation: str, body: bytes, credentials: Any, timestamp: str
    ) -> bytes:
        """A signed request, as it is sent."""
        template = self._templates.get(operation)
        if template is None or template.token != credentials.token:
            template = self._template(operation, credentials.token)
            self._templates[operation] = template
        _, before_date, before_hash, signed, head = template
        authorization = self._signer.authorization(
            credentials,
            timestamp,
            f'{before_date}{timestamp}{before_hash}{sha256(body).hexdigest()}',
            signed,
        )
        return (
            f'{head}{timestamp}\r\nAuthorization: {authorization}\r\n'
            f'Content-Length: {len(body)}\r\n\r\n'
        ).encode() + body

    def _template(self, operation: str, token: str | None) -> _Template:
        headers = {
            'content-type': CONTENT_TYPE,
            'host': self._origin.authority,
            'x-amz-date': GAP,
            'x-amz-target': f'{API_VERSION}.{operation}',
        }
        if token:
            headers['x-amz-security-token'] = token
        canonical = canonical_request('POST', self._path, headers, '')
        before_date, before_hash = canonical.split(GAP)
        sent = {
            **{n: v for n, v in headers.items() if v is not GAP},
            'accept-encoding': 'identity',
            'user-agent': self._user_agent,
            **self.pool.headers(),
            # the last one: its value follows
            'x-amz-date': '',
        }
        path = quote(self._path, safe=SAFE_IN_PATH)
        lines = [
            f'POST {self.pool.target(path)} HTTP/1.1',
            *(f'{name.title()}: {value}' for name, value in sent.items()),
        ]
        return _Template(
            token,
            before_date,
            before_hash,
            signed_headers(headers),
            '\r\n'.join(lines),
        )


class _Template(NamedTuple):
    """The requests of one operation, as far as they are all the same."""

    #: Of the credentials, which refresh themselves.
    token: str | None
    #: The canonical request up to the date; from there to the body's hash.
    before_date: str
    before_hash: str
    signed_headers: str
    #: What is sent, up to the date.
    head: str
