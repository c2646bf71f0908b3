"""The error tree; nothing here knows how an error comes about."""

from pyramid.httpexceptions import (
    HTTPConflict,
    HTTPInternalServerError,
    HTTPServiceUnavailable,
)

#: What became of the transaction of a request before an error.
NOT_COMMITTED = 'not committed'
COMMITTED = 'committed'
UNKNOWN = 'unknown'

#: What the log, and what the visitor is told of it.
TRANSACTION_MESSAGES = {
    COMMITTED: 'the transaction of the database had been committed before',
    UNKNOWN: (
        'the transaction of the database had failed to commit before; '
        'whether anything was committed all the same is not known'
    ),
}
TRANSACTION_EXPLANATIONS = {
    COMMITTED: (
        'What you asked for was done, but your session could not be updated. '
        'Please look before you send anything again.'
    ),
    UNKNOWN: (
        'What you asked for may have been done, or not, and your session '
        'could not be updated. Please look before you send anything again.'
    ),
}


class SessionError(Exception):
    """The base of every error of this package."""


class SessionResponseError(SessionError):
    """An error that is also the response to the request it ends.

    ``str(error)`` is the ``message``, written for the log; the body of the
    response says only what the visitor needs, the ``explanation``.

    ``transaction`` tells what had become of the transaction of ``pyramid_tm``
    before: ``'not committed'``; ``'committed'``; or ``'unknown'``, when it has
    failed to commit. Unless it is ``'not committed'`` the request is not
    retried by ``pyramid_retry``, and nobody is asked to send it again.

    :param message: what notify and what to do about it.
    :param retry_after: seconds, sent as the ``Retry-After`` header.
    """

    explanation: str
    retry_after: int | None
    transaction = NOT_COMMITTED

    def __init__(
        self, message: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__()
        self.message = message or self.explanation
        self.args = (self.message,)
        if retry_after is not None:
            self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message

    def add_message(self, message: str) -> None:
        """Say more in the log, not to the visitor."""
        self.message = f'{self.message}; {message}'
        self.args = (self.message,)

    def tell_of_transaction(self, outcome: str) -> None:
        """Say what had become of the transaction before."""
        if outcome != self.transaction:
            self.transaction = outcome
            self.add_message(TRANSACTION_MESSAGES[outcome])
            self.explanation = TRANSACTION_EXPLANATIONS[outcome]
            self.retry_after = None


class SessionLockTimeout(SessionResponseError, HTTPServiceUnavailable):
    """The lock stayed held for ``lock_wait``, or the queue is full."""

    explanation = (
        'Another request of yours is still being worked on. '
        'Please try again in a moment.'
    )


class SessionStoreUnavailable(SessionResponseError, HTTPServiceUnavailable):
    """DynamoDB could not be reached, or refused, after all retries.

    The original error is the ``__cause__``. ``outcome`` is ``'not saved'``,
    or ``'unknown'`` when a write may have been carried out: its reply was
    lost, and nothing in the table tells. Then the request is never retried,
    here or by ``pyramid_retry``.
    """

    not_saved = (
        'Your session can not be reached at the moment. '
        'Please try again in a moment.'
    )
    may_be_saved = (
        'Your session can not be reached at the moment. Your last change may '
        'have been saved, or not: please look before you try again.'
    )

    def __init__(
        self,
        message: str | None = None,
        retry_after: int | None = None,
        outcome: str = 'not saved',
    ) -> None:
        self.outcome = outcome
        self._explanation: str | None = None
        super().__init__(message, retry_after)

    @property
    def explanation(self) -> str:
        """What the visitor is told."""
        if self._explanation is not None:
            return self._explanation
        if self.outcome == 'unknown':
            return self.may_be_saved
        return self.not_saved

    @explanation.setter
    def explanation(self, explanation: str) -> None:
        self._explanation = explanation


class SessionLockLost(SessionResponseError, HTTPConflict):
    """The lock was taken over, or the session ended, before the save.

    Nothing of this request was saved, for certain.
    """

    explanation = (
        'Your session was changed by another request in the meantime, and '
        'nothing of this one was saved. Please try again.'
    )


class SessionConflict(SessionResponseError, HTTPConflict):
    """Somebody else saved since an ``optimistic`` request has read.

    Nothing of this request was saved, for certain.
    """

    explanation = SessionLockLost.explanation


class SessionTooLarge(SessionResponseError, HTTPInternalServerError):
    """The item would be over DynamoDB's limit of 400 KB.

    ``size`` is the item's in bytes; ``largest`` are pairs of a key and the
    bytes of its serialized value, the largest first.
    """

    explanation = 'There is no room left in your session.'

    def __init__(
        self,
        message: str | None = None,
        size: int = 0,
        largest: tuple[tuple[str, int], ...] = (),
    ) -> None:
        super().__init__(message)
        self.size = size
        self.largest = largest


class SessionSerializationError(SessionResponseError, HTTPInternalServerError):
    """The serializer can not store the value under ``key``."""

    explanation = 'Your session could not be saved.'

    def __init__(self, message: str | None = None, key: object = None) -> None:
        super().__init__(message)
        self.key = key


class SessionReadOnly(SessionError, RuntimeError):
    """Writing in a ``read_only`` view."""


class SessionDisabled(SessionError, RuntimeError):
    """Any use in a ``disabled`` view."""


class SessionClosed(SessionError, RuntimeError):
    """Use after the request has ended, or writing after the save."""
