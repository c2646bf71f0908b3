"""What the checker keeps of requests, sessions and locks."""

from __future__ import annotations

import dataclasses
import json
import zlib
from typing import Any

from tests.simulation.application import item_name
from tests.simulation.client import Call
from tests.simulation.kinds import Kind
from tests.simulation.scheduler import Fiber, Process
from tests.simulation.table import Item


@dataclasses.dataclass(eq=False, slots=True)
class Request:
    """A request of a browser: its script, and what has become of it."""

    number: int
    browser: Any
    kind: Kind
    cookie: str | None
    user: str
    owner: str = ''
    hold: float = 0.0
    pause: float = 0.0
    failures: int = 0
    checker: Any = None
    process: Process | None = None
    fiber: Fiber | None = None
    attempts: int = 0
    started: float = 0.0
    ended: float | None = None
    #: 0: no answer, for its process was killed
    status: int = 0
    error: str = ''
    outcome: str = ''
    #: the id in the answer's cookie; '' removes it, None leaves it alone
    set_cookie: str | None = None
    calls: list[Call] = dataclasses.field(default_factory=list)
    #: under which names its token was committed, and those that it made
    committed: list[str] = dataclasses.field(default_factory=list)
    created: list[str] = dataclasses.field(default_factory=list)
    has_ended: list[str] = dataclasses.field(default_factory=list)
    saved_id: str | None = None
    #: when it loaded a session first, and in the last attempt
    loaded: float | None = None
    read_at: float | None = None
    database: Any = None
    #: whether ``pyramid_tm`` is active in it
    uses_database: bool = False
    rows: list[Any] = dataclasses.field(default_factory=list)
    #: when the session voted in the last attempt
    voted: float | None = None
    #: what the answer says of the transaction, and in general
    transaction: str = ''
    message: str = ''
    asks_to_retry: bool = False
    verdict: str = ''
    #: others used the session meanwhile, or its process was stopped
    is_contended: bool = False
    is_disturbed: bool = False

    @property
    def name(self) -> str | None:
        return None if self.cookie is None else item_name(self.cookie)

    def begin_attempt(self) -> None:
        self.attempts += 1
        self.checker.begin_attempt(self)

    def has_read(self, *what: Any) -> None:
        self.checker.read(self, *what)

    def __str__(self) -> str:
        return f'r{self.number}'


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    """What a session holds."""

    log: tuple[int, ...]
    user: str | None
    payload: Any = dataclasses.field(compare=False)


@dataclasses.dataclass(eq=False, slots=True)
class HeldLock:
    token: str
    process: Process
    #: which took it
    call: Call
    renewed: float
    #: since when nobody is there who holds it
    dead_since: float | None = None
    #: taken by a duplicate that came late
    is_stray: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Violation:
    kind: str
    text: str
    time: float
    names: tuple[str, ...]


def parse(item: Item | None) -> Data | None:
    """The session in an item; None for a tombstone."""
    if not item or 'Ended' in item or 'SessionItems' not in item:
        return None
    ((kind, value),) = item['SessionItems'].items()
    found = _parsed.get(value)
    if found is None:
        text = value if kind == 'S' else zlib.decompress(bytes(value))
        stored = json.loads(text)
        found = Data(tuple(stored.get('log', ())), stored.get('user'), value)
        if len(_parsed) > 2000:
            _parsed.clear()
        _parsed[value] = found
    return found


_parsed: dict[Any, Data] = {}
