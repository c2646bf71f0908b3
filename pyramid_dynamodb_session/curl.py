"""How bytes reach DynamoDB over libcurl; no word of sessions in here."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import time
import uuid
import zlib
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakSet

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectionError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)
from botocore.httpsession import ProxyConfiguration, get_cert_path
from botocore.parsers import create_parser
from botocore.retries.quota import RetryQuota
from botocore.utils import get_environ_proxies
from pyramid.exceptions import ConfigurationError

from .serializer import DECODER, decode

log = logging.getLogger(__name__)

#: Earlier ones sign a suppressed ``Expect:``, leave the token unsigned, or
#: read a reply of unknown length without end.
OLDEST_LIBCURL = 0x080400
#: Bytes. DynamoDB answers no call with more than 16 MB.
LONGEST_REPLY = 16 * 1024 * 1024

#: Seconds: the first pause is up to the one, none is longer than the other.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
#: Seconds of ``Retry-After`` that a web request can sit out.
LONGEST_RETRY_AFTER = 5.0
#: What a retry takes from the quota, and a success gives back.
RETRY_COST, SUCCESS_GAIN = 5, 1
RETRIED_CODES = {
    'ProvisionedThroughputExceededException',
    'ReplicatedWriteConflictException',
    'RequestLimitExceeded',
    'RequestTimeout',
    'RequestTimeoutException',
    'Throttling',
    'ThrottlingError',
    'ThrottlingException',
    'TransactionInProgressException',
}

CHECKSUM = re.compile(rb'\nx-amz-crc32:[ \t]*(\S+)', re.IGNORECASE)
REQUEST_ID = re.compile(rb'\nx-amzn-requestid:[ \t]*(\S+)', re.IGNORECASE)

#: What reading an answer raises that DynamoDB would never give.
NOT_DYNAMODB = (
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

HEADERS = {
    operation: [
        'Content-Type: application/x-amz-json-1.0',
        f'X-Amz-Target: DynamoDB_20120810.{operation}',
        # A long request would wait for a "100 Continue" otherwise.
        'Expect:',
    ]
    for operation in (
        'GetItem',
        'PutItem',
        'UpdateItem',
        'DeleteItem',
        'TransactWriteItems',
    )
}

TRANSPORT_ERRORS = {
    'E_COULDNT_CONNECT': EndpointConnectionError,
    'E_COULDNT_RESOLVE_HOST': EndpointConnectionError,
    'E_COULDNT_RESOLVE_PROXY': ProxyConnectionError,
    'E_GOT_NOTHING': ConnectionClosedError,
    'E_PARTIAL_FILE': ConnectionClosedError,
    'E_RECV_ERROR': ConnectionClosedError,
    'E_SEND_ERROR': ConnectionClosedError,
    'E_PEER_FAILED_VERIFICATION': SSLError,
    'E_SSL_CACERT_BADFILE': SSLError,
    'E_SSL_CERTPROBLEM': SSLError,
    'E_SSL_CIPHER': SSLError,
    'E_SSL_CONNECT_ERROR': SSLError,
    'E_SSL_ISSUER_ERROR': SSLError,
}


class CurlClient:
    """A DynamoDB client whose data operations go over libcurl.

    ``get_item``, ``put_item``, ``update_item``, ``delete_item`` and
    ``transact_write_items`` take the keyword arguments, give the replies and
    raise the errors of the boto3 client, at a fraction of its CPU time; the
    ``HTTPHeaders`` of a reply are a mapping, but no dict. Everything else is
    that client's own.

    Endpoint, region, timeouts, attempts, the size of the pool, proxies and
    the user agent are those of ``client``. Threads may share a CurlClient;
    a forked process makes connections of its own.

    :param client: the boto3 DynamoDB client.
    :param credentials: botocore's, such as
        ``boto3.Session().get_credentials()``; asked on every call, so that
        they can refresh themselves. None: calls raise
        :exc:`botocore.exceptions.NoCredentialsError`.
    :param ca_bundle: the file of trusted certificates, which boto3 knows as
        ``ca_bundle``. None: ``AWS_CA_BUNDLE``, ``REQUESTS_CA_BUNDLE`` or
        boto3's own.
    :raises pyramid.exceptions.ConfigurationError: without a pycurl that can
        sign, and speak TLS where the endpoint wants it.
    """

    def __init__(
        self, client: Any, credentials: Any, ca_bundle: str | None = None
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._endpoint: str = client.meta.endpoint_url
        config = client.meta.config
        retries = config.retries or {}
        self._max_attempts: int = retries.get('total_max_attempts', 4)
        self._pool_size: int = config.max_pool_connections
        proxies = config.proxies
        if proxies is None:
            proxies = get_environ_proxies(self._endpoint)
        self._proxy: str = (
            ProxyConfiguration(proxies).proxy_url_for(self._endpoint) or ''
        )

        self._pycurl = _import_pycurl(urlsplit(self._endpoint).scheme)
        self._errors = {
            getattr(self._pycurl, name): error
            for name, error in TRANSPORT_ERRORS.items()
        }
        self._options = self._connection_options(ca_bundle)
        self._parser = create_parser('json')
        self._quota = RetryQuota()
        self._idle: defaultdict[int, list[_Connection]] = defaultdict(list)
        _clients.add(self)

    def __repr__(self) -> str:
        region = self._client.meta.region_name
        return f'<CurlClient {self._endpoint} {region}>'

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_item(self, **kwargs: Any) -> dict[str, Any]:
        return self._call('GetItem', kwargs)

    def put_item(self, **kwargs: Any) -> dict[str, Any]:
        return self._call('PutItem', kwargs)

    def update_item(self, **kwargs: Any) -> dict[str, Any]:
        return self._call('UpdateItem', kwargs)

    def delete_item(self, **kwargs: Any) -> dict[str, Any]:
        return self._call('DeleteItem', kwargs)

    def transact_write_items(self, **kwargs: Any) -> dict[str, Any]:
        # boto3 adds the token too: it makes a repeated transaction one.
        kwargs.setdefault('ClientRequestToken', str(uuid.uuid4()))
        return self._call('TransactWriteItems', kwargs)

    def close(self) -> None:
        """Close the idle connections, and those of the boto3 client."""
        self._close_idle()
        self._client.close()

    def _call(
        self, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        # Any of these may be repeated when a reply is lost: it is a read, or
        # a write that its condition or token tells from its own repetition.
        body = _encode(parameters).encode()
        retries = 0
        while True:
            try:
                reply = self._attempt(operation, body, retries)
            except (ClientError, ConnectionError, HTTPClientError) as error:
                pause = self._pause(error, retries)
                if pause is None:
                    raise
                log.debug('%s: %s', operation, type(error).__name__)
                retries += 1
                time.sleep(pause)
            else:
                self._quota.release(RETRY_COST if retries else SUCCESS_GAIN)
                return reply

    def _pause(self, error: Exception, retries: int) -> float | None:
        """Seconds until the next attempt; None: there is no point in one."""
        longest = min(FIRST_PAUSE * 2**retries, LONGEST_PAUSE)
        pause = max(random.uniform(0, longest), _retry_after(error))  # noqa: S311
        if (
            retries + 1 < self._max_attempts
            and _is_transient(error)
            and pause <= LONGEST_RETRY_AFTER
            and self._quota.acquire(RETRY_COST)
        ):
            return pause
        return None

    def _attempt(
        self, operation: str, body: bytes, retries: int
    ) -> dict[str, Any]:
        answer = self._send(operation, body)
        try:
            _check_sum(answer)
            if answer.status == 200:
                return _reply(answer, retries)
            error = self._service_error(operation, answer, retries)
        except NOT_DYNAMODB:
            # Never an empty reply: that would be read as "no such item".
            raise ResponseStreamingError(
                error=f'status {answer.status}, no DynamoDB reply'
            ) from None
        raise error

    def _send(self, operation: str, body: bytes) -> _Answer:
        if self._credentials is None:
            raise NoCredentialsError()
        credentials = self._credentials.get_frozen_credentials()
        headers = HEADERS[operation]
        if credentials.token:
            headers = [*headers, f'X-Amz-Security-Token: {credentials.token}']
        idle = self._idle[os.getpid()]
        try:
            connection = idle.pop()
        except IndexError:
            connection = _Connection(self._pycurl, self._options)
        try:
            return connection.post(credentials, headers, body)
        except self._pycurl.error as error:
            raise self._transport_error(error, connection) from None
        finally:
            if len(idle) < self._pool_size:
                idle.append(connection)
            else:
                connection.close()

    def _service_error(
        self, operation: str, answer: _Answer, retries: int
    ) -> Exception:
        """The error that boto3 makes of the same answer."""
        model = self._client.meta.service_model
        response = {
            'status_code': answer.status,
            'headers': dict(answer.headers),
            'body': answer.body,
        }
        parse = self._parser.parse
        parsed = parse(response, model.operation_model(operation).output_shape)
        code = parsed['Error']['Code']
        shape = model.shape_for_error_code(code)
        if shape is not None:
            parsed.update(parse(response, shape))
        metadata = parsed['ResponseMetadata']
        metadata['RetryAttempts'] = retries
        metadata['RetryAfter'] = answer.retry_after
        if retries + 1 == self._max_attempts:
            metadata['MaxAttemptsReached'] = True
        kind: type[Exception] = self._client.exceptions.from_code(code)
        return kind(parsed, operation)

    def _transport_error(
        self, error: Exception, connection: _Connection
    ) -> Exception:
        code, message = error.args
        kind: type[BotoCoreError] = self._errors.get(code, HTTPClientError)
        if code == self._pycurl.E_OPERATION_TIMEDOUT:
            kind = connection.timeout_error()
        elif kind is EndpointConnectionError and self._proxy:
            kind = ProxyConnectionError
        raised: Exception = kind(
            endpoint_url=self._endpoint,
            proxy_url=_without_password(self._proxy),
            error=message,
        )
        return raised

    def _connection_options(self, ca_bundle: str | None) -> dict[int, Any]:
        c = self._pycurl
        meta = self._client.meta
        connect_timeout = round(1000 * meta.config.connect_timeout)
        read_timeout = round(1000 * meta.config.read_timeout)
        trusted = (
            ca_bundle
            or os.environ.get('AWS_CA_BUNDLE')
            or os.environ.get('REQUESTS_CA_BUNDLE')
            or get_cert_path(True)
        )
        return {
            c.URL: self._endpoint,
            c.AWS_SIGV4: f'aws:amz:{meta.region_name}:dynamodb',
            # As a header of ours it would be signed.
            c.USERAGENT: meta.config.user_agent,
            c.HTTP_VERSION: c.CURL_HTTP_VERSION_1_1,
            c.NOSIGNAL: 1,
            c.MAXFILESIZE: LONGEST_REPLY,
            c.TCP_NODELAY: 1,
            c.TCP_KEEPALIVE: 1,
            c.CONNECTTIMEOUT_MS: connect_timeout,
            c.TIMEOUT_MS: connect_timeout + read_timeout,
            c.SSL_VERIFYPEER: 1,
            c.SSL_VERIFYHOST: 2,
            c.SSLVERSION: c.SSLVERSION_TLSv1_2,
            c.CAINFO: trusted,
            c.PROXY_CAINFO: trusted,
            # Empty: libcurl shall not look at the environment again.
            c.PROXY: self._proxy,
            c.NOPROXY: '',
        }

    def _close_idle(self) -> None:
        idle = self._idle[os.getpid()]
        with suppress(IndexError):
            while True:
                idle.pop().close()


class _Headers(Mapping[str, str]):
    """Those of an answer, taken apart when somebody looks: few do."""

    def __init__(self, lines: bytes) -> None:
        self._lines = lines
        self._parsed: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._parsed is None:
            lines = self._lines.decode('latin-1').split('\n')
            pairs = (line.partition(':') for line in lines)
            self._parsed = {
                name.lower(): text.strip()
                for name, colon, text in pairs
                if colon
            }
        return self._parsed

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def last(self, pattern: re.Pattern[bytes]) -> str | None:
        """What a `pattern` finds last: an answer may begin with another."""
        found = pattern.findall(self._lines)
        return found[-1].decode('latin-1') if found else None


class _Answer(NamedTuple):
    status: int
    headers: _Headers
    body: bytes
    #: Seconds; 0 where the server doesn't ask for a pause.
    retry_after: float


class _Connection:
    """One easy handle of libcurl's, for one thread at a time."""

    def __init__(self, pycurl: Any, options: dict[int, Any]) -> None:
        self._pycurl = pycurl
        self._body = bytearray()
        self._header_lines = bytearray()
        self._credentials: Any = None
        self._headers: list[str] = []
        self._curl = pycurl.Curl()
        for option, value in options.items():
            self._curl.setopt(option, value)
        # By default libcurl trusts the system's directory besides.
        self._curl.unsetopt(pycurl.CAPATH)
        self._curl.unsetopt(pycurl.PROXY_CAPATH)
        self._curl.setopt(pycurl.HEADERFUNCTION, self._header_lines.extend)
        self._curl.setopt(pycurl.WRITEFUNCTION, self._body.extend)

    def post(
        self, credentials: Any, headers: list[str], body: bytes
    ) -> _Answer:
        pycurl, curl = self._pycurl, self._curl
        self._body.clear()
        self._header_lines.clear()
        if credentials != self._credentials:
            self._credentials = credentials
            curl.setopt(pycurl.USERNAME, credentials.access_key)
            curl.setopt(pycurl.PASSWORD, credentials.secret_key)
        if headers != self._headers:
            self._headers = headers
            curl.setopt(pycurl.HTTPHEADER, headers)
        curl.setopt(pycurl.POSTFIELDS, body)
        curl.perform()
        return _Answer(
            curl.getinfo(pycurl.RESPONSE_CODE),
            _Headers(bytes(self._header_lines)),
            bytes(self._body),
            curl.getinfo(pycurl.RETRY_AFTER),
        )

    def timeout_error(self) -> type[BotoCoreError]:
        """What ran out in the last call: the wait for a connection, or not."""
        sent = self._curl.getinfo(self._pycurl.REQUEST_SIZE)
        kind: type[BotoCoreError]
        kind = ReadTimeoutError if sent else ConnectTimeoutError
        return kind

    def close(self) -> None:
        self._curl.close()


def _import_pycurl(scheme: str) -> Any:
    try:
        import pycurl
    except ImportError as error:
        raise ConfigurationError(
            'transport = curl needs pycurl:'
            ' pip install "pyramid_dynamodb_session[curl]"'
        ) from error
    _, version, number, *_, protocols = pycurl.version_info()[:9]
    try:
        curl = pycurl.Curl()
        curl.setopt(pycurl.AWS_SIGV4, 'aws:amz')
        curl.getinfo(pycurl.RETRY_AFTER)
    except (AttributeError, pycurl.error):
        number = 0
    if number < OLDEST_LIBCURL:
        raise ConfigurationError(
            'transport = curl needs pycurl 7.48 with libcurl 8.4, or later,'
            f' that signs for AWS; this one has libcurl {version}:'
            ' pip install "pyramid_dynamodb_session[curl]"'
        )
    if scheme not in protocols:
        raise ConfigurationError(
            f'transport = curl: this pycurl was built without {scheme}:'
            ' pip install "pyramid_dynamodb_session[curl]"'
        )
    return pycurl


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()


def _check_sum(answer: _Answer) -> None:
    expected = answer.headers.last(CHECKSUM)
    if expected and int(expected) != zlib.crc32(answer.body):
        raise ValueError('damaged on the way')


def _reply(answer: _Answer, retries: int) -> dict[str, Any]:
    # Text right under B or BS is binary data, and nothing else can be.
    decoder = BINARY_DECODER if b'"B' in answer.body else DECODER
    reply: dict[str, Any] = decode(answer.body.decode(), decoder)
    reply['ResponseMetadata'] = {
        'RequestId': answer.headers.last(REQUEST_ID),
        'HTTPStatusCode': answer.status,
        'HTTPHeaders': answer.headers,
        'RetryAttempts': retries,
    }
    return reply


def _encode_bytes(value: Any) -> str:
    return b64encode(value).decode()


def _decode_bytes(value: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value.get('B'), str):
        value['B'] = b64decode(value['B'])
    elif isinstance(value.get('BS'), list):
        value['BS'] = [b64decode(each) for each in value['BS']]
    return value


_encode = json.JSONEncoder(
    separators=(',', ':'), default=_encode_bytes, check_circular=False
).encode
BINARY_DECODER = json.JSONDecoder(object_hook=_decode_bytes)


def _is_transient(error: Exception) -> bool:
    if not isinstance(error, ClientError):
        return True
    status = error.response['ResponseMetadata']['HTTPStatusCode']
    code = error.response['Error']['Code']
    return status >= 500 or status == 429 or code in RETRIED_CODES


def _retry_after(error: Exception) -> float:
    """Seconds for which the server asks us to stay away."""
    if not isinstance(error, ClientError):
        return 0
    metadata: Any = error.response['ResponseMetadata']
    seconds: float = metadata['RetryAfter']
    return seconds


_clients: WeakSet[CurlClient] = WeakSet()


def _close_idle_connections() -> None:
    """Leave a forked process nothing that it could end or mix up for us."""
    for client in list(_clients):
        client._close_idle()


with suppress(AttributeError):  # Windows doesn't fork
    os.register_at_fork(before=_close_idle_connections)
