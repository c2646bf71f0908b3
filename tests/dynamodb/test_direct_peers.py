"""The transport `direct` against hostile and broken servers and proxies."""

from __future__ import annotations

import gc
import ipaddress
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    HTTPClientError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)

from pyramid_dynamodb_session.dynamodb import _connection
from tests.dynamodb.test_direct import (
    CREDENTIALS,
    botocore_signature,
    direct_client,
    get,
)
from tests.support.together import wait_until
from tests.support.wire import Proxy, Wire, answer, trickle

# no engine takes part: once is enough
pytestmark = pytest.mark.engines('moto', reason='no engine takes part')

ONCE = {'total_max_attempts': 1}


# Connections that are closed, or not as they should be


def attempts(reply: dict[str, Any]) -> int:
    count: int = reply['ResponseMetadata']['RetryAttempts']
    return count


@pytest.fixture(params=['http', 'https'])
def peer(request: pytest.FixtureRequest, wire: Wire, secure: Wire) -> Wire:
    return wire if request.param == 'http' else secure


@pytest.fixture(params=['poll', 'select'])
def way_to_look(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all systems have ``poll``."""
    if request.param == 'select':
        monkeypatch.delattr(select, 'poll')


@pytest.mark.usefixtures('way_to_look')
def test_a_connection_closed_while_idle_costs_no_attempt(
    peer: Wire, bundle: Path
) -> None:
    client = direct_client(peer.url, ca_bundle=str(bundle), retries=ONCE)
    peer.hangs_up = True
    for _ in range(3):
        assert attempts(get(client)) == 0
        wait_until(lambda: not peer.open)
    assert [request.connection for request in peer.requests] == [1, 2, 3]


def test_connections_closed_while_idle_cost_no_attempt(wire: Wire) -> None:
    client = direct_client(wire.url, retries=ONCE)
    wire.hook = threading.Barrier(5).wait
    wire.hangs_up = True
    with ThreadPoolExecutor(5) as threads:
        list(threads.map(get, [client] * 5))
    wait_until(lambda: not wire.open)
    wire.hook = lambda: None
    assert attempts(get(client)) == 0
    assert len(wire.requests) == 6


@pytest.mark.parametrize(
    'last',
    [
        answer(b'{}', '200 OK', 'Connection: close'),
        answer(b'{}', '200 OK', 'connection: x, Close'),
        answer().replace(b'HTTP/1.1', b'HTTP/1.0'),
        # an answer to a question that was never asked
        answer() + answer(b'{"Item":{"N":{"S":"not yours"}}}'),
        answer() + b'\n',
        answer().replace(b'\r\n', b'\n') + answer(),
        b'HTTP/1.1 200 OK\r\n\r\n{}',
    ],
)
def test_a_connection_that_is_not_used_again(wire: Wire, last: bytes) -> None:
    wire.answers = [last, answer()]
    wire.hangs_up = b'Length' not in last
    client = direct_client(wire.url, retries=ONCE)
    for _ in range(2):
        reply = get(client)
        assert 'Item' not in reply
        assert attempts(reply) == 0
    assert [request.connection for request in wire.requests] == [1, 2]


@pytest.mark.parametrize(
    'unusual',
    [
        answer().replace(b'\r\n', b'\n'),
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
        b'1\r\n{\r\n1;a=b\r\n}\r\n0\r\nX: y\r\n\r\n',
        b'HTTP/1.1 100 Continue\r\n\r\n' + answer(),
        answer(b'{}', '200 OK', 'X-Folded: a', ' b'),
        answer(b'{}', '200 OK', 'X-Twice: a', 'X-Twice: b'),
        answer(b'{}', '200'),
    ],
)
@pytest.mark.parametrize('size', [1, 7, 1000])
def test_a_connection_whose_answer_is_unusual_is_used_again(
    wire: Wire, unusual: bytes, size: int
) -> None:
    def in_pieces(connection: Any, reply: bytes) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pause = threading.Event()
        for start in range(0, len(reply), size):
            connection.sendall(reply[start : start + size])
            pause.wait(0.0005)

    wire.answers = [unusual]
    wire.send = in_pieces
    client = direct_client(wire.url, retries=ONCE)
    for _ in range(2):
        reply = get(client)
        del reply['ResponseMetadata']
        assert reply == {}
    assert {request.connection for request in wire.requests} == {1}


def test_the_connection_last_used_is_used_first(wire: Wire) -> None:
    client = direct_client(wire.url)
    wire.hook = threading.Barrier(3).wait
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(get, [client] * 3))
    wire.hook = lambda: None
    for _ in range(5):
        get(client)
    last = {request.connection for request in wire.requests[3:]}
    assert len(last) == 1


def test_a_request_cut_short_leaves_no_connection(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    client = direct_client(wire.url)
    with monkeypatch.context() as patched:
        patched.setattr(_connection, 'read_response', interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(client)
    get(client)
    assert [request.connection for request in wire.requests] == [1, 2]


def test_what_another_process_made_is_not_used(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = direct_client(wire.url)
    get(client)
    # uWSGI forks in C: no hook of Python's tells
    monkeypatch.setattr(os, 'getpid', lambda: 1)
    get(client)
    get(client)
    wait_until(lambda: wire.open == {2})
    assert [request.connection for request in wire.requests] == [1, 2, 2]


def test_a_greenlet_copied_by_a_fork_keeps_no_connection(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_response = _connection.read_response

    def forking(*given: Any) -> Any:
        monkeypatch.setattr(os, 'getpid', lambda: 1)
        return read_response(*given)

    client = direct_client(wire.url)
    monkeypatch.setattr(_connection, 'read_response', forking)
    get(client)
    wait_until(lambda: not wire.open)


def test_nothing_is_left_behind(wire: Wire) -> None:
    client = direct_client(wire.url, retries=ONCE)
    good, bad = answer(b'{"Item":{}}'), answer(b'[]')
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
    closing = answer(b'{}', '200 OK', 'Connection: close')

    def work() -> tuple[int, Counter[str]]:
        wire.answers = [good, bad, chunked + b'0\r\n\r\n', closing] * 50
        for _ in range(200):
            with suppress(HTTPClientError):
                get(client)
        wire.requests.clear()
        gc.collect()
        wait_until(lambda: len(wire.open) <= 1)
        kinds = map(type, gc.get_objects())
        modules = Counter(str(kind.__module__) for kind in kinds)
        files = len(os.listdir('/proc/self/fd'))
        return files, Counter(
            {
                name: count
                for name, count in modules.items()
                if name.startswith(('pyramid_dynamodb', 'http', 'botocore'))
            }
        )

    work()
    before = work()
    assert work() == before


# Peers that mean harm


@pytest.mark.parametrize(
    'endless',
    [
        b'H',
        b'HTTP/1.1 200 OK\r\nX: y',
        answer(b'')[:-5] + b'99\r\n\r\n{',
        b'HTTP/1.1 200 OK\r\n\r\n{',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\n{',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y',
    ],
)
def test_a_reply_that_trickles_is_cut_off(wire: Wire, endless: bytes) -> None:
    wire.answers = [endless]
    wire.send = trickle
    client = direct_client(wire.url, read_timeout=0.2, retries=ONCE)
    with pytest.raises(ReadTimeoutError):
        get(client)


def test_the_time_is_up_between_two_pieces(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Time:
        seconds = iter([0.0, 100.0])

        def monotonic(self) -> float:
            return next(self.seconds)

    wire.answers = [answer()[:-1]]
    client = direct_client(wire.url, retries=ONCE)
    monkeypatch.setattr(_connection, 'time', Time())
    with pytest.raises(ReadTimeoutError):
        get(client)


def test_a_piece_may_take_no_longer_than_is_left(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = []

    class Socket(socket.socket):
        def settimeout(self, seconds: float | None) -> None:
            timeouts.append(seconds)

    class Time:
        seconds = iter([0.0, 3.0])

        def monotonic(self) -> float:
            return next(self.seconds)

    monkeypatch.setattr(_connection, 'time', Time())
    with Socket() as opened:
        opened.connect(('127.0.0.1', wire.port))
        connection = _connection.Connection(opened, 5)
        request = b'POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n'
        assert connection.exchange_head(request) == 200
    assert timeouts == [5, 2, 5]


def test_a_peer_that_takes_a_request_byte_by_byte(
    environ: pytest.MonkeyPatch,
) -> None:
    stop = threading.Event()

    def sip(server: socket.socket) -> None:
        connection = server.accept()[0]
        with connection:
            while not stop.wait(0.02):
                connection.recv(5000)

    with socket.create_server(('127.0.0.1', 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        threading.Thread(target=sip, args=(server,), daemon=True).start()
        url = f'http://127.0.0.1:{server.getsockname()[1]}'
        client = direct_client(url, read_timeout=0.3, retries=ONCE)
        with pytest.raises(ReadTimeoutError):
            client.put_item(TableName='t', Item={'S': 'x' * 30_000_000})
        stop.set()


def forever(piece: bytes) -> Callable[[Any, bytes], None]:
    def send(connection: Any, reply: bytes) -> None:
        connection.sendall(reply)
        while True:
            connection.sendall(piece * 1000)

    return send


@pytest.mark.parametrize(
    ('start', 'piece'),
    [
        (b'HTTP/1.1 200 OK\r\n', b'X: y\r\n'),
        (b'HTTP/1.1 200 OK\r\n', b'X'),
        (b'', b'HTTP/1.1 103 Early Hints\r\n\r\n'),
        (b'HTTP/1.1 200 OK\r\n\r\n', b'x' * 1000),
        (
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
            b'fff\r\n%b\r\n' % (b'x' * 0xFFF),
        ),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 16777217\r\n\r\n', b'x'),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 9' + b'9' * 20, b'9'),
        (
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n',
            b'x' * 1000,
        ),
        (b'', b'x'),
    ],
)
def test_a_reply_without_end(
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
    start: bytes,
    piece: bytes,
) -> None:
    wire.answers = [start]
    wire.send = forever(piece)
    client = direct_client(wire.url, retries=ONCE)
    with pytest.raises(HTTPClientError) as caught:
        get(client)
    assert not isinstance(caught.value, ReadTimeoutError)


@pytest.mark.parametrize(
    'head',
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}',
        b'HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}',
        b'HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n{}' % (b'9' * 5000),
        b'HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n{}',
        b'HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 2\r\n\r\n{}',
        b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n'
        b'Content-Length: 4\r\n\r\n{"x"}',
        b'HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}',
        b'HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}',
        b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n'
        b'Transfer-Encoding: chunked\r\n\r\n{}',
        b'HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n'
        b'Content-Length: 2\r\n\r\n\x1f\x8b',
    ],
)
def test_a_garbled_head(wire: Wire, head: bytes) -> None:
    wire.answers = [head]
    wire.hangs_up = True
    client = direct_client(wire.url, retries=ONCE)
    try:
        reply = get(client)
    except HTTPClientError:
        pass
    else:
        del reply['ResponseMetadata']
        assert reply == {}


def test_a_reply_of_two_lengths(wire: Wire) -> None:
    lengths = b'Content-Length: 9\r\nContent-Length: 2\r\n\r\n'
    wire.answers = [b'HTTP/1.1 200 OK\r\n' + lengths + b'{}       ']
    with pytest.raises(HTTPClientError):
        get(direct_client(wire.url, retries=ONCE))


# gevent


CONCURRENT = """
from gevent import monkey, pool
monkey.patch_all()
import sys
from tests.dynamodb.test_direct import direct_client, get
url, ca_bundle = sys.argv[1:]
client = direct_client(url, ca_bundle=ca_bundle, max_pool_connections=20)
for _ in range(3):
    pool.Pool(20).map(get, [client] * 20)
"""


def test_requests_overlap_in_one_gevent_worker(
    peer: Wire, bundle: Path
) -> None:
    # Nobody is answered before all twenty have asked.
    peer.hook = threading.Barrier(20, timeout=20).wait
    arguments = [sys.executable, '-c', CONCURRENT, peer.url, str(bundle)]
    subprocess.run(arguments, check=True, timeout=60)
    assert len(peer.requests) == 60
    assert len({request.connection for request in peer.requests}) == 20


# Certificates


def certificate(directory: Path, days: int = 1) -> Path:
    """A self-signed certificate for 127.0.0.1, and its key.

    It is good from so many days ago on, for one day more.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'test')])
    address = x509.IPAddress(ipaddress.ip_address('127.0.0.1'))
    start = datetime.now(timezone.utc) - timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([address]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = directory / 'bundle.pem'
    path.write_bytes(certificate.public_bytes(pem) + private)
    return path


def server_context(bundle: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle)
    context.set_alpn_protocols(['h2', 'http/1.1'])
    return context


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp('tls'))


@pytest.fixture
def secure(bundle: Path, environ: pytest.MonkeyPatch) -> Iterator[Wire]:
    wire = Wire(server_context(bundle))
    yield wire
    wire.close()


def test_an_unknown_certificate_is_refused(secure: Wire) -> None:
    with pytest.raises(SSLError, match=secure.url):
        get(direct_client(secure.url))
    assert secure.requests == []


def test_a_bundle_is_trusted(secure: Wire, bundle: Path) -> None:
    client = direct_client(secure.url, ca_bundle=str(bundle))
    get(client)
    get(client)
    assert {request.connection for request in secure.requests} == {1}


@pytest.mark.parametrize('name', ['AWS_CA_BUNDLE', 'REQUESTS_CA_BUNDLE'])
def test_a_bundle_from_the_environment(
    secure: Wire, bundle: Path, environ: pytest.MonkeyPatch, name: str
) -> None:
    environ.setenv(name, str(bundle))
    get(direct_client(secure.url))
    assert secure.requests


def test_a_certificate_for_another_host(secure: Wire, bundle: Path) -> None:
    url = secure.url.replace('127.0.0.1', 'localhost')
    with pytest.raises(SSLError, match='localhost'):
        get(direct_client(url, ca_bundle=str(bundle)))
    assert secure.requests == []


def test_an_expired_certificate(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expired = certificate(tmp_path, days=9)
    wire = Wire(server_context(expired))
    with pytest.raises(SSLError, match='expired'):
        get(direct_client(wire.url, ca_bundle=str(expired)))
    assert wire.requests == []
    wire.close()


@pytest.mark.parametrize('is_pair', [False, True])
def test_a_certificate_of_the_clients(
    secure: Wire, bundle: Path, tmp_path: Path, is_pair: bool
) -> None:
    assert secure.tls
    secure.tls.load_verify_locations(bundle)
    secure.tls.verify_mode = ssl.CERT_REQUIRED
    ours: Any = (str(bundle), str(bundle)) if is_pair else str(bundle)
    get(direct_client(secure.url, ca_bundle=str(bundle), client_cert=ours))
    assert len(secure.requests) == 1
    with pytest.raises((SSLError, ConnectionClosedError)):
        get(direct_client(secure.url, ca_bundle=str(bundle)))
    assert len(secure.requests) == 1


def test_a_handshake_that_never_ends(environ: pytest.MonkeyPatch) -> None:
    with socket.create_server(('127.0.0.1', 0)) as silent:
        url = f'https://127.0.0.1:{silent.getsockname()[1]}'
        client = direct_client(url, connect_timeout=0.05, retries=ONCE)
        with pytest.raises(ConnectTimeoutError, match=url):
            get(client)


def test_a_missing_bundle(secure: Wire, tmp_path: Path) -> None:
    with pytest.raises(SSLError):
        get(direct_client(secure.url, ca_bundle=str(tmp_path / 'none')))
    assert secure.requests == []


# Proxies


def test_a_proxy_from_the_environment(
    wire: Wire, environ: pytest.MonkeyPatch
) -> None:
    environ.setenv('http_proxy', f'http://user:key@127.0.0.1:{wire.port}')
    get(direct_client('http://dynamodb.invalid'))
    (request,) = wire.requests
    assert request.target == 'http://dynamodb.invalid/'
    assert 'proxy-authorization' in request.headers
    assert request.headers['authorization'].endswith(
        botocore_signature(request, request.target, CREDENTIALS)
    )


def test_a_proxy_behind_tls(
    secure: Wire, bundle: Path, environ: pytest.MonkeyPatch
) -> None:
    environ.setenv('http_proxy', secure.url)
    get(direct_client('http://dynamodb.invalid', ca_bundle=str(bundle)))
    assert secure.requests[0].target == 'http://dynamodb.invalid/'
    with pytest.raises(BotoCoreError):
        get(direct_client('http://dynamodb.invalid'))
    assert len(secure.requests) == 1


def test_a_configured_proxy_goes_before_the_environment(
    wire: Wire, environ: pytest.MonkeyPatch
) -> None:
    environ.setenv('no_proxy', 'dynamodb.invalid')
    get(direct_client('http://dynamodb.invalid', proxies={'http': wire.url}))
    assert wire.requests[0].target == 'http://dynamodb.invalid/'


@pytest.mark.parametrize('by_environment', [True, False])
def test_hosts_that_need_no_proxy(
    wire: Wire, environ: pytest.MonkeyPatch, by_environment: bool
) -> None:
    environ.setenv('http_proxy', 'http://127.0.0.1:1')
    if by_environment:
        environ.setenv('no_proxy', '127.0.0.1')
    get(direct_client(wire.url, proxies=None if by_environment else {}))
    assert wire.requests[0].target == '/'


@pytest.mark.parametrize('host', ['127.0.0.1:1', 'proxy.invalid:1'])
@pytest.mark.parametrize('scheme', ['http', 'https'])
def test_a_proxy_that_is_away(
    environ: pytest.MonkeyPatch, host: str, scheme: str
) -> None:
    environ.setenv(f'{scheme}_proxy', f'http://htt:p@{host}')
    with pytest.raises(ProxyConnectionError) as caught:
        get(direct_client(f'{scheme}://dynamodb.invalid'))
    assert f'"http://{host}"' in str(caught.value)
    assert 'htt:p@' not in str(caught.value) + repr(caught.value.kwargs)


@pytest.fixture
def tunnel() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


@pytest.mark.parametrize(
    ('user', 'authorization'),
    [
        ('', None),
        ('user:key', 'Basic dXNlcjprZXk='),
        ('user', 'Basic dXNlcjo='),
        ('%C3%A9:%40', 'Basic w6k6QA=='),
    ],
)
def test_a_tunnel(
    secure: Wire,
    bundle: Path,
    tunnel: Proxy,
    user: str,
    authorization: str | None,
) -> None:
    proxies = {'https': tunnel.url(user)}
    client = direct_client(secure.url, ca_bundle=str(bundle), proxies=proxies)
    get(client)
    get(client)
    first, second = secure.requests
    assert first.connection == second.connection
    assert first.target == '/'
    assert 'proxy-authorization' not in first.headers
    (head,) = tunnel.requests
    lines = head.split('\r\n')
    peer = secure.url.removeprefix('https://')
    assert lines[:2] == [f'CONNECT {peer} HTTP/1.1', f'Host: {peer}']
    given = [line for line in lines if line.startswith('Proxy-Auth')]
    assert given == (
        [f'Proxy-Authorization: {authorization}'] if authorization else []
    )


def test_a_tunnel_within_tls(secure: Wire, bundle: Path) -> None:
    tunnel = Proxy(server_context(bundle))
    proxies = {'https': tunnel.url()}
    client = direct_client(secure.url, ca_bundle=str(bundle), proxies=proxies)
    get(client)
    get(client)
    assert {request.connection for request in secure.requests} == {1}
    assert len(tunnel.requests) == 1
    client.close()
    tunnel.close()


@pytest.mark.parametrize(
    'refusal',
    [
        b'HTTP/1.1 407 Proxy Authentication Required\r\n\r\n',
        b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 Bad\r\n\r\n',
        b'SSH-2.0-x\r\n\r\n',
        b'HTTP/1.1 200 OK\r\n' + b'X: y\r\n' * 200 + b'\r\n',
    ],
)
def test_a_proxy_that_makes_no_tunnel(
    secure: Wire, tunnel: Proxy, refusal: bytes
) -> None:
    tunnel.answer = refusal
    proxies = {'https': tunnel.url('user:htt.p')}
    client = direct_client(secure.url, proxies=proxies, retries=ONCE)
    with pytest.raises(ProxyConnectionError) as caught:
        get(client)
    assert f'"{tunnel.url()}"' in str(caught.value)
    assert 'htt.p' not in str(caught.value) + repr(vars(caught.value))


def test_a_proxy_that_trickles(secure: Wire, tunnel: Proxy) -> None:
    tunnel.send = trickle
    client = direct_client(
        secure.url,
        proxies={'https': tunnel.url()},
        connect_timeout=0.2,
        retries=ONCE,
    )
    with pytest.raises(ConnectTimeoutError):
        get(client)


def test_a_password_is_nowhere_to_be_read(
    wire: Wire,
    secure: Wire,
    bundle: Path,
    tunnel: Proxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level('DEBUG')
    wire.answers = [answer(b'', '500 Oops'), b'']
    shown = []
    for url, proxy in (
        ('http://dynamodb.invalid', f'http://me:hidden@127.0.0.1:{wire.port}'),
        (secure.url, tunnel.url('me:hidden')),
        (secure.url, 'http://me:hidden@proxy.invalid'),
    ):
        client = direct_client(
            url, proxies={'http': proxy, 'https': proxy}, retries=ONCE
        )
        with pytest.raises((BotoCoreError, ClientError)) as caught:
            get(client)
        shown += [repr(client), str(caught.value), repr(vars(caught.value))]
    assert 'hidden' not in '\n'.join([*shown, caplog.text])
    url = f'http://me:hidden@127.0.0.1:{wire.port}'
    with pytest.raises(ConnectionClosedError) as caught:
        get(direct_client(url, retries=ONCE))
    shown = [repr(direct_client(url)), str(caught.value)]
    assert 'hidden' not in '\n'.join(shown)
