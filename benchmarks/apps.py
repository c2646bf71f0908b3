"""The contenders: one small application on each kind of session.

Each is a WSGI application with the same paths, and its session holds the
same things, so that what differs is the session alone.
"""

from __future__ import annotations

import json
import random
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REGION = 'us-west-2'
KEYS = {'aws_access_key_id': 'bench', 'aws_secret_access_key': 'bench'}
END = '1999999999'
#: The commit of the earlier version.
EARLIER = 'd6a4152'
#: Seconds: how the floors wait for a lock, and how the .NET provider does.
JITTER, EVERY_HALF_SECOND = (0.005, 0.1), (0.5, 0.5)


@dataclass(frozen=True)
class Options:
    """Where the stores are, and the prefix of the names of the tables."""

    endpoint: str
    redis_port: int
    prefix: str = 'bench'
    poll: tuple[float, float] = JITTER
    #: The authority to trust, where both speak TLS.
    authority: str = ''
    #: The directory of the earlier version of the package.
    earlier: str = ''


@dataclass(frozen=True)
class Contender:
    label: str
    make: Callable[[Options], Any]
    #: ``'dynamodb'``, ``'redis'`` or ``''``.
    store: str = 'dynamodb'
    color: str = 'gray'
    is_floor: bool = False
    #: Is it the package as it was, from ``Options.earlier``?
    is_earlier: bool = False
    #: Does it find ISA-L, which compresses where it is installed?
    has_isal: bool = False
    #: The sections that it takes part in; empty: all.
    sections: tuple[str, ...] = ()


def cart(size: int) -> list[dict[str, Any]]:
    """Lines of a shopping cart that are `size` bytes of JSON."""
    chance = random.Random(size)
    things = ['lamp', 'desk', 'chair', 'shelf', 'mirror', 'carpet', 'kettle']
    woods = ['oak', 'walnut', 'maple', 'birch', 'cherry', 'ash']
    lines: list[dict[str, Any]] = []
    written = 0
    while written < size:
        line = {
            'sku': f'{chance.randrange(16**8):08x}',
            'name': f'{chance.choice(woods)} {chance.choice(things)}',
            'quantity': chance.randint(1, 9),
            'price': f'{chance.randint(100, 99999) / 100:.2f}',
        }
        lines.append(line)
        written += len(json.dumps(line, separators=(',', ':'))) + 1
    return lines


# -- Pyramid's session factories ------------------------------------------


def pyramid_app(
    set_up: Callable[[Any], Any], views: Any = None, **settings: Any
) -> Any:
    """The application in Pyramid, on the session that `set_up` sets up."""
    from pyramid.config import Configurator

    views = views or SessionViews()
    with Configurator(settings=settings) as config:
        states = set_up(config) or {}
        for name in ('none', 'read', 'locked', 'write', 'hold', 'fill'):
            config.add_route(name, f'/{name}')
            options = {'session_state': states[name]} if name in states else {}
            config.add_view(getattr(views, name), route_name=name, **options)
    return config.make_wsgi_app()


def query(request: Any) -> int:
    """The query string, which is a number and nothing else."""
    return int(request.environ['QUERY_STRING'])


class SessionViews:
    """The views, on Pyramid's own interface of a session."""

    def __init__(self) -> None:
        from pyramid.response import Response

        self.response = Response

    def none(self, request: Any) -> Any:
        return self.response('0')

    def read(self, request: Any) -> Any:
        return self.response(str(request.session.get('n', 0)))

    locked = read

    def write(self, request: Any) -> Any:
        session = request.session
        session['n'] = session.get('n', 0) + 1
        return self.response(str(session['n']))

    def hold(self, request: Any) -> Any:
        n = request.session.get('n', 0)
        time.sleep(query(request) / 1000)
        request.session['n'] = n + 1
        return self.response(str(n + 1))

    def fill(self, request: Any) -> Any:
        request.session['cart'] = cart(query(request))
        return self.response('0')


class OwnerViews(SessionViews):
    """The same, of sessions that have an owner."""

    def fill(self, request: Any) -> Any:
        request.session.owner = 'anna'
        return super().fill(request)


def ours(
    transport: str, table: str = 'ours', views: Any = None, **more: str
) -> Callable[[Options], Any]:
    def make(options: Options) -> Any:
        def set_up(config: Any) -> dict[str, str]:
            config.include('pyramid_dynamodb_session')
            return {'read': 'read_only', 'none': 'disabled'}

        settings = our_settings(options, transport, table) | more
        return pyramid_app(
            set_up,
            views() if views else None,
            **{
                f'dynamodb_session.{name}': value
                for name, value in settings.items()
            },
        )

    return make


class OrjsonSerializer:
    """The one of docs/item.rst."""

    def __init__(self) -> None:
        import orjson

        from pyramid_dynamodb_session.serializer import JSONSerializer

        self.usual = JSONSerializer()
        self.orjson = orjson
        self.refused = (
            orjson.OPT_PASSTHROUGH_DATACLASS
            | orjson.OPT_PASSTHROUGH_DATETIME
            | orjson.OPT_PASSTHROUGH_SUBCLASS
        )

    def dumps(self, obj: Any) -> bytes:
        try:
            data = self.orjson.dumps(obj, option=self.refused)
        except TypeError:
            return self.usual.dumps(obj)
        return self.usual.dumps(obj) if b'{"~' in data else data

    def loads(self, data: bytes) -> Any:
        if b'"~' in data:
            return self.usual.loads(data)
        return self.orjson.loads(data)


with_orjson = ours(
    'direct', 'orjson', serializer=f'{__name__}.OrjsonSerializer'
)
with_owner = ours('boto3', 'owner', OwnerViews, owner_index='Owner-index')


def our_settings(
    options: Options, transport: str, table: str
) -> dict[str, str]:
    return {
        **KEYS,
        'region': REGION,
        'endpoint_url': options.endpoint,
        'table': f'{options.prefix}-{table}',
        'on_demand_capacity': 'true',
        'application': 'shop',
        'transport': transport,
        # 32 contend for one session
        'lock_queue_limit': '64',
    }


def signed_cookie(options: Options) -> Any:
    from pyramid.session import SignedCookieSessionFactory

    factory = SignedCookieSessionFactory('a secret of the benchmark')
    return pyramid_app(lambda config: config.set_session_factory(factory))


def redis_sessions(options: Options) -> Any:
    url = f'://127.0.0.1:{options.redis_port}/0'
    if options.authority:
        url = f'rediss{url}?ssl_ca_certs={options.authority}'
    else:
        url = f'redis{url}'
    return pyramid_app(
        lambda config: config.include('pyramid_session_redis'),
        **{
            'redis.sessions.secret': 'a secret of the benchmark',
            'redis.sessions.redis_url': url,
        },
    )


def luhns(options: Options) -> Any:
    from pyramid_dynamodb_sessions import DynamoDBSessionFactory

    name = f'{options.prefix}-luhn'
    resource = boto3_resource(options)
    create_table(resource.meta.client, name, 'sid', 'B')
    factory = DynamoDBSessionFactory(resource.Table(name))
    return pyramid_app(lambda config: config.set_session_factory(factory))


def boto3_resource(options: Options) -> Any:
    import boto3

    return boto3.resource(
        'dynamodb', endpoint_url=options.endpoint, region_name=REGION, **KEYS
    )


def create_table(client: Any, name: str, key: str, kind: str) -> None:
    try:
        client.create_table(
            TableName=name,
            KeySchema=[{'AttributeName': key, 'KeyType': 'HASH'}],
            AttributeDefinitions=[
                {'AttributeName': key, 'AttributeType': kind}
            ],
            BillingMode='PAY_PER_REQUEST',
        )
    except client.exceptions.ResourceInUseException:
        pass
    client.get_waiter('table_exists').wait(
        TableName=name, WaiterConfig={'Delay': 1}
    )


# -- Flask-Session ---------------------------------------------------------


def flask_session(options: Options) -> Any:
    import flask
    import flask_session

    app = flask.Flask(__name__)
    app.config.update(
        SESSION_TYPE='dynamodb',
        SESSION_DYNAMODB=boto3_resource(options),
        SESSION_DYNAMODB_TABLE=f'{options.prefix}-flask',
    )
    flask_session.Session(app)

    @app.route('/none')
    def none() -> str:
        return '0'

    @app.route('/read')
    def read() -> str:
        return str(flask.session.get('n', 0))

    @app.route('/write')
    def write() -> str:
        flask.session['n'] = flask.session.get('n', 0) + 1
        return str(flask.session['n'])

    @app.route('/hold')
    def hold() -> str:
        n = flask.session.get('n', 0)
        time.sleep(query(flask.request) / 1000)
        flask.session['n'] = n + 1
        return str(n + 1)

    @app.route('/fill')
    def fill() -> str:
        flask.session['cart'] = cart(query(flask.request))
        return '0'

    return app.wsgi_app


# -- the floors ------------------------------------------------------------


class Floor:
    """Views that make the bare calls themselves: no session, no JSON.

    A call that locks and reads, and one that saves and unlocks; reading
    alone takes one. What is stored is the number, and padding.
    """

    def __init__(self, client: Any, options: Options) -> None:
        from pyramid.response import Response

        self.response = Response
        self.client = client
        self.refused = client.exceptions.ConditionalCheckFailedException
        self.table = f'{options.prefix}-floor'
        self.poll = options.poll

    def none(self, request: Any) -> Any:
        return self.response('0')

    def read(self, request: Any) -> Any:
        reply = self.client.get_item(
            TableName=self.table, Key=self.key(request), ConsistentRead=True
        )
        n, _ = parsed(reply['Item'])
        return self.response(str(n))

    def locked(self, request: Any) -> Any:
        return self.change(request, lambda n, padding: (n, padding))

    def write(self, request: Any) -> Any:
        return self.change(request, lambda n, padding: (n + 1, padding))

    def hold(self, request: Any) -> Any:
        def change(n: int, padding: str) -> tuple[int, str]:
            time.sleep(query(request) / 1000)
            return n + 1, padding

        return self.change(request, change)

    def fill(self, request: Any) -> Any:
        padding = json.dumps(cart(query(request)), separators=(',', ':'))
        return self.change(request, lambda n, _: (n, padding))

    def change(
        self, request: Any, change: Callable[[int, str], tuple[int, str]]
    ) -> Any:
        cookie = request.cookies.get('session')
        key = self.key(request) if cookie else self.create()
        token = secrets.token_urlsafe(16)
        n, padding = change(*parsed(self.acquire(key, token)))
        self.save(key, token, f'{n}:{padding}')
        response = self.response(str(n))
        if not cookie:
            response.set_cookie('session', key['SessionId']['S'])
        return response

    def key(self, request: Any) -> dict[str, dict[str, str]]:
        return {'SessionId': {'S': request.cookies['session']}}

    def create(self) -> dict[str, dict[str, str]]:
        key = {'SessionId': {'S': f'shop-{secrets.token_urlsafe(32)}'}}
        self.client.put_item(
            TableName=self.table,
            Item={
                **key,
                'SessionItems': {'S': '0:'},
                'CreateDate': {'N': END},
                'Expires': {'N': END},
                'Ver': {'N': '1'},
            },
        )
        return key

    def acquire(self, key: Any, token: str) -> dict[str, Any]:
        now = str(int(time.time()))
        pause, longest = self.poll
        while True:
            try:
                reply = self.client.update_item(
                    TableName=self.table,
                    Key=key,
                    UpdateExpression='SET LockId = :me, LockDate = :now'
                    ' ADD LockCount :one',
                    ConditionExpression='Expires > :now'
                    ' AND attribute_not_exists(LockId)',
                    ExpressionAttributeValues={
                        ':me': {'S': token},
                        ':now': {'N': now},
                        ':one': {'N': '1'},
                    },
                    ReturnValues='ALL_NEW',
                    ReturnValuesOnConditionCheckFailure='ALL_OLD',
                )
            except self.refused:
                fixed = pause == longest
                time.sleep(pause if fixed else random.uniform(0, pause))
                pause = min(2 * pause, longest)
            else:
                return reply['Attributes']

    def save(self, key: Any, token: str, text: str) -> None:
        self.client.update_item(
            TableName=self.table,
            Key=key,
            UpdateExpression='SET SessionItems = :items, Expires = :end'
            ' REMOVE LockId, LockDate',
            ConditionExpression='LockId = :me',
            ExpressionAttributeValues={
                ':me': {'S': token},
                ':items': {'S': text},
                ':end': {'N': END},
            },
            ReturnValuesOnConditionCheckFailure='ALL_OLD',
        )

    def bare(self, count: int) -> None:
        """The two calls, `count` times, outside of any request."""
        key = self.create()
        for _ in range(count):
            n, _ = parsed(self.acquire(key, 'x' * 22))
            self.save(key, 'x' * 22, f'{n + 1}:')


def parsed(item: dict[str, Any]) -> tuple[int, str]:
    n, _, padding = item['SessionItems']['S'].partition(':')
    return int(n), padding


class BarePycurl:
    """As little Python around libcurl as a call to DynamoDB can do with."""

    class Refused(Exception):
        pass

    class exceptions:
        pass

    exceptions.ConditionalCheckFailedException = Refused

    def __init__(self, endpoint: str, authority: str = '') -> None:
        import pycurl

        self.pycurl = pycurl
        self.endpoint = endpoint
        self.authority = authority
        self.local = threading.local()
        self.headers = {
            operation: [
                'Content-Type: application/x-amz-json-1.0',
                f'X-Amz-Target: DynamoDB_20120810.{operation}',
                'Expect:',
            ]
            for operation in ('GetItem', 'PutItem', 'UpdateItem')
        }

    def get_item(self, **parameters: Any) -> Any:
        return self.call('GetItem', parameters)

    def put_item(self, **parameters: Any) -> Any:
        return self.call('PutItem', parameters)

    def update_item(self, **parameters: Any) -> Any:
        return self.call('UpdateItem', parameters)

    def call(self, operation: str, parameters: Any) -> Any:
        try:
            curl, body = self.local.connection
        except AttributeError:
            curl, body = self.local.connection = self.connection()
        body.clear()
        curl.setopt(self.pycurl.HTTPHEADER, self.headers[operation])
        curl.setopt(self.pycurl.POSTFIELDS, json.dumps(parameters).encode())
        curl.perform()
        reply = json.loads(body)
        status = curl.getinfo(self.pycurl.RESPONSE_CODE)
        if status != 200:
            if 'ConditionalCheckFailed' in reply['__type']:
                raise self.Refused
            raise RuntimeError(f'{status}: {reply}')
        return reply

    def connection(self) -> tuple[Any, bytearray]:
        c, curl, body = self.pycurl, self.pycurl.Curl(), bytearray()
        for option, value in {
            c.URL: self.endpoint,
            c.AWS_SIGV4: f'aws:amz:{REGION}:dynamodb',
            c.USERNAME: KEYS['aws_access_key_id'],
            c.PASSWORD: KEYS['aws_secret_access_key'],
            c.WRITEFUNCTION: body.extend,
            c.NOSIGNAL: 1,
        }.items():
            curl.setopt(option, value)
        if self.authority:
            curl.setopt(c.CAINFO, self.authority)
        return curl, body


def floor_app(client: Any, options: Options) -> Any:
    floor = Floor(client, options)
    app = pyramid_app(lambda config: None, floor)
    app.bare = floor.bare
    return app


def tuned_client(options: Options, transport: str) -> Any:
    """The very client that the package makes."""
    from pyramid_dynamodb_session.dynamodb.client import make_client
    from pyramid_dynamodb_session.settings import FactorySettings

    settings = our_settings(options, transport, 'ours')
    client = make_client(FactorySettings.parse(settings))
    create_table(client, f'{options.prefix}-floor', 'SessionId', 'S')
    return client


def floor_boto3(options: Options) -> Any:
    return floor_app(tuned_client(options, 'boto3'), options)


def floor_direct(options: Options) -> Any:
    return floor_app(tuned_client(options, 'direct'), options)


def floor_pycurl(options: Options) -> Any:
    tuned_client(options, 'boto3')
    client = BarePycurl(options.endpoint, options.authority)
    return floor_app(client, options)


CONTENDERS = {
    'floor-boto3': Contender(
        'floor: bare calls, tuned boto3',
        floor_boto3,
        color='#999999',
        is_floor=True,
    ),
    'boto3': Contender('ours, boto3', ours('boto3'), color='#1f77b4'),
    'floor-pycurl': Contender(
        'floor: bare calls, pycurl',
        floor_pycurl,
        color='#cccccc',
        is_floor=True,
    ),
    'floor-direct': Contender(
        'floor: bare calls, direct',
        floor_direct,
        color='#bcbd22',
        is_floor=True,
        sections=('cpu', 'tls', 'size'),
    ),
    'direct': Contender('ours, direct', ours('direct'), color='#d62728'),
    'direct-isal': Contender(
        'ours, direct, with ISA-L',
        ours('direct'),
        color='#e377c2',
        sections=('size',),
        has_isal=True,
    ),
    'direct-orjson': Contender(
        'ours, direct, with ISA-L and orjson',
        with_orjson,
        color='#f7b6d2',
        sections=('size',),
        has_isal=True,
    ),
    'owner': Contender(
        'ours, boto3, with an owner',
        with_owner,
        color='#17becf',
        sections=('size',),
    ),
    'earlier-boto3': Contender(
        'earlier version, boto3',
        ours('boto3', 'earlier'),
        color='#aec7e8',
        is_earlier=True,
        sections=('cpu', 'size', 'contention'),
    ),
    'earlier-curl': Contender(
        'earlier version, libcurl',
        ours('curl', 'earlier'),
        color='#ff9896',
        is_earlier=True,
        sections=('cpu', 'size', 'contention'),
    ),
    'luhn': Contender('pyramid_dynamodb_sessions', luhns, color='#2ca02c'),
    'flask': Contender(
        'Flask-Session, DynamoDB', flask_session, color='#9467bd'
    ),
    'redis': Contender(
        'pyramid_session_redis', redis_sessions, 'redis', '#ff7f0e'
    ),
    'cookie': Contender(
        'SignedCookieSessionFactory', signed_cookie, '', '#8c564b'
    ),
}
