"""A database of orders beside the sessions, and what makes it fail."""

from __future__ import annotations

import itertools
import os
import select
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import zope.sqlalchemy
from pyramid.request import Request
from sqlalchemy import Engine, ForeignKey, create_engine, event, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

#: The databases at hand; PostgreSQL where its URL is in the environment.
POSTGRESQL_URL = os.environ.get('POSTGRESQL_URL')
DATABASES = ['sqlite', *(['postgresql'] if POSTGRESQL_URL else [])]


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = 'customers'

    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[int] = mapped_column(default=0)


class Order(Base):
    __tablename__ = 'orders'

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    #: of a customer who must exist at COMMIT
    customer: Mapped[int | None] = mapped_column(
        ForeignKey(Customer.id, deferrable=True, initially='DEFERRED')
    )


@contextmanager
def database(kind: str, folder: Path) -> Iterator[Engine]:
    """An empty database, SERIALIZABLE as SQLite is."""
    with sqlite(folder) if kind == 'sqlite' else schema() as engine:
        Base.metadata.create_all(engine)
        yield engine
        engine.dispose()


@contextmanager
def sqlite(folder: Path) -> Iterator[Engine]:
    # by this name zope.sqlalchemy has savepoints
    yield sqlite_engine(f'sqlite+pysqlite:///{folder / "orders"}')


def sqlite_engine(url: str) -> Engine:
    """Transactions are SQLite's own, not what its driver makes of them."""
    # a connection whose COMMIT has failed is no good for another transaction
    engine = create_engine(
        url,
        poolclass=NullPool,
        # seconds, for a lock: its own five pass on a busy machine
        connect_args={'timeout': 60},
    )

    def on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute('PRAGMA foreign_keys = ON')

    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql('BEGIN')

    event.listen(engine, 'connect', on_connect)
    event.listen(engine, 'begin', on_begin)
    return engine


@contextmanager
def schema() -> Iterator[Engine]:
    """A schema of PostgreSQL of its own."""
    name = f'test_{uuid.uuid4().hex[:8]}'
    server = create_engine(psycopg_url(str(POSTGRESQL_URL)))
    with server.begin() as connection:
        connection.execute(text(f'CREATE SCHEMA {name}'))
    try:
        yield postgresql_engine(str(POSTGRESQL_URL), name)
    finally:
        with server.begin() as connection:
            connection.execute(text(f'DROP SCHEMA {name} CASCADE'))
        server.dispose()


def postgresql_engine(url: str, name: str) -> Engine:
    return create_engine(
        psycopg_url(url),
        isolation_level='SERIALIZABLE',
        connect_args={'options': f'-csearch_path={name}'},
    )


class CommitRelay:
    """Passes on what a client and PostgreSQL say, but for one reply.

    The client never hears whether its COMMIT was carried out; it was.
    """

    def __init__(self, url: str) -> None:
        self._server = make_url(url)
        self._socket = socket.create_server(('127.0.0.1', 0))
        port = self._socket.getsockname()[1]
        self.url = self._server.set(
            host='127.0.0.1', port=port, query={'sslmode': 'disable'}
        ).render_as_string(hide_password=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._socket.accept()[0]
                threading.Thread(
                    target=self._serve, args=(client,), daemon=True
                ).start()

    def _serve(self, client: socket.socket) -> None:
        address = self._server.host, self._server.port or 5432
        with client, socket.create_connection(address) as server:
            while True:
                ready = select.select([client, server], [], [])[0][0]
                said = ready.recv(65536)
                if not said:
                    return
                (server if ready is client else client).sendall(said)
                if b'COMMIT' in said and ready is client:
                    server.recv(65536)
                    return


def psycopg_url(url: str) -> Any:
    return make_url(url).set(drivername='postgresql+psycopg')


def engine_url(engine: Engine) -> str:
    """What :func:`engine_at` makes the same engine of, in any process."""
    with engine.connect() as connection:
        if engine.dialect.name == 'sqlite':
            return str(engine.url)
        name = connection.exec_driver_sql('SHOW search_path').scalar()
    return f'{POSTGRESQL_URL}#{name}'


def engine_at(url: str) -> Engine:
    if url.startswith('sqlite'):
        return sqlite_engine(url)
    url, _, name = url.partition('#')
    return postgresql_engine(url, name)


def orders(engine: Engine) -> list[str]:
    """The names of all orders that are committed."""
    with engine.connect() as connection:
        rows = connection.execute(text('SELECT name FROM orders ORDER BY id'))
        return [name for (name,) in rows]


def add_database(config: Any, engine: Engine) -> None:
    """Give requests a ``db``, which their transaction commits."""

    def db(request: Request) -> Session:
        session = Session(engine)
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    config.add_request_method(db, reify=True)


def do_nothing() -> None:
    pass


class Voter:
    """A data manager that does in its vote what a test tells it to.

    It votes after the session, and before the database.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        manager: Any,
        vote: Callable[[], object] = do_nothing,
        finish: Callable[[], object] = do_nothing,
        key: str = '~e',
    ) -> None:
        self.transaction_manager = manager
        self._vote = vote
        self._finish = finish
        self._key = f'{key}:{next(self._numbers)}'
        manager.get().join(self)

    def sortKey(self) -> str:
        return self._key

    def tpc_vote(self, transaction: Any) -> None:
        self._vote()

    def tpc_finish(self, transaction: Any) -> None:
        self._finish()

    def pass_over(self, transaction: Any) -> None:
        pass

    tpc_begin = commit = tpc_abort = abort = pass_over
