"""The mapping that views see: loaded and locked at its first use.

Nothing here knows of a request, a cookie or a call.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from pyramid.interfaces import ISession
from zope.interface import implementer

from .unit_of_work import UnitOfWork

CSRF_KEY = '_csrft_'
FLASH_KEY = '_f_'


@implementer(ISession)
class DynamoDBSession(MutableMapping[str, Any]):
    """A server-side session: Pyramid's ``ISession`` and more.

    What it was when it was loaded is compared with what it has become, so
    changes inside its values are found without :meth:`changed`.

    Besides :class:`SessionStoreUnavailable` and :class:`SessionLockTimeout`
    at the first use, using it raises :class:`SessionReadOnly`,
    :class:`SessionDisabled` or :class:`SessionClosed` where its state does
    not allow the use.
    """

    def __init__(self, work: UnitOfWork) -> None:
        self._work = work

    def __repr__(self) -> str:
        loaded = 'not loaded' if self._work.items is None else 'loaded'
        return f'<{type(self).__name__} {self._work.state}, {loaded}>'

    # -- what it is ------------------------------------------------------

    @property
    def session_id(self) -> str | None:
        """The id; None until the session is stored."""
        self._work.read()
        return self._work.session_id

    @property
    def created(self) -> int:
        """When it was created, in seconds since the epoch."""
        self._work.read()
        return self._work.record.created

    @property
    def expires(self) -> int:
        """When it expires unless used again, in seconds since the epoch."""
        self._work.read()
        return self._work.expires

    @property
    def timeout(self) -> int | None:
        """Seconds after its last use at which it expires; None for never."""
        self._work.read()
        return self._work.record.timeout or self._work.default_timeout

    @property
    def new(self) -> bool:
        """Whether it was not stored before this request."""
        self._work.read()
        return self._work.is_new

    @property
    def state(self) -> str:
        """``exclusive``, ``read_only``, ``optimistic`` or ``disabled``."""
        return self._work.state

    @property
    def locked(self) -> bool:
        """Whether this request holds the lock."""
        return self._work.is_locked

    # -- the mapping -----------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        return self._work.read()[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._work.read().get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._work.read())

    def __len__(self) -> int:
        return len(self._work.read())

    def __contains__(self, key: object) -> bool:
        return key in self._work.read()

    def __setitem__(self, key: str, value: Any) -> None:
        self._work.write()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._work.write()[key]

    def pop(self, key: str, *default: Any) -> Any:
        return self._work.write().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        return self._work.write().popitem()

    def clear(self) -> None:
        self._work.write().clear()

    def setdefault(self, key: str, default: Any = None) -> Any:
        return self._work.write().setdefault(key, default)

    def copy(self) -> dict[str, Any]:
        """A shallow copy of the data, a plain dict."""
        return self._work.read().copy()

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return self.copy() | dict(other)

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return dict(other) | self.copy()

    def __ior__(self, other: Mapping[str, Any]) -> DynamoDBSession:
        self.update(other)
        return self

    # -- ISession --------------------------------------------------------

    def changed(self) -> None:
        """Save in any case; never needed for a change to be found."""
        self._work.must_save()

    def invalidate(self) -> None:
        """Forget everything; the stored session is ended by the save.

        What is put into the session afterwards is stored under a new id.
        """
        self._work.invalidate()

    def flash(
        self, msg: Any, queue: str = '', allow_duplicate: bool = True
    ) -> None:
        """Put a message at the end of a flash queue."""
        messages = self.setdefault(FLASH_KEY + queue, [])
        if allow_duplicate or msg not in messages:
            messages.append(msg)

    def pop_flash(self, queue: str = '') -> list[Any]:
        """Take all messages out of a flash queue."""
        messages: list[Any] = self.pop(FLASH_KEY + queue, [])
        return messages

    def peek_flash(self, queue: str = '') -> list[Any]:
        """The messages in a flash queue, which stay there."""
        messages: list[Any] = self.get(FLASH_KEY + queue, [])
        return messages

    def new_csrf_token(self) -> str:
        """A new CSRF token, kept in the session."""
        token = secrets.token_hex(20)
        self[CSRF_KEY] = token
        return token

    def get_csrf_token(self) -> str:
        """The CSRF token; a new one where there is none."""
        return self.get(CSRF_KEY) or self.new_csrf_token()

    # -- beyond ISession -------------------------------------------------

    def regenerate_id(self) -> None:
        """Keep the data under a new id and end the old one: for a login.

        Done by the save, in one transaction.
        """
        self._work.must_move()

    def adjust_timeout(self, seconds: int) -> None:
        """Let this session alone expire `seconds` after its last use."""
        if seconds < 1:
            raise ValueError('a timeout takes at least a second')
        self._work.must_save().timeout = int(seconds)

    @property
    def owner(self) -> str | None:
        """Whose session it is; stored hashed, so it can only be set.

        Any text, such as a user's id; None takes it away. By it the sessions
        of one user are found: see
        :meth:`DynamoDBSessionStore.remove_sessions_of`. Raises
        :class:`pyramid.exceptions.ConfigurationError` without
        ``owner_index``.
        """
        raise AttributeError('the owner of a session is stored hashed')

    @owner.setter
    def owner(self, owner: str | None) -> None:
        self._work.set_owner(owner)

    def save(self) -> None:
        """Save and unlock now, in the middle of the request.

        The data can still be read; writing raises :class:`SessionClosed`.
        For a view that takes long or streams its response.
        """
        work = self._work
        work.read()
        if not work.closed:
            work.persist()
            work.close('it was saved, by save(), in the middle of the request')
