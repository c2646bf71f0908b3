"""Which failures are worth another attempt, and when.

Standard mode, as boto3 has it, with pauses that a web request can sit out.
"""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError
from botocore.retries.quota import RetryQuota

from .signer import Clock

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
#: What DynamoDB says of a signature when the clocks differ.
CLOCK_CODES = {
    'InvalidSignatureException',
    'RequestExpired',
    'RequestTimeTooSkewed',
    'SignatureDoesNotMatch',
}


class RetryPolicy:
    """The retries of one process. Threads may share one.

    :param max_attempts: of one call, the first included.
    :param clock: learns from refusals what time it is.
    """

    def __init__(self, max_attempts: int, clock: Clock) -> None:
        self._max_attempts = max_attempts
        self._clock = clock
        self._quota = RetryQuota()

    def pause(self, error: Exception, retries: int) -> float | None:
        """Seconds until the next attempt; None: there is no point in one."""
        # Asked in any case: DynamoDB may tell the time.
        is_worth_it = self._is_transient(error)
        longest = min(FIRST_PAUSE * 2**retries, LONGEST_PAUSE)
        pause = max(random.uniform(0, longest), _retry_after(error))  # noqa: S311
        if (
            is_worth_it
            and retries + 1 < self._max_attempts
            and pause <= LONGEST_RETRY_AFTER
            and self._quota.acquire(RETRY_COST)
        ):
            return pause
        return None

    def succeeded(self, retries: int) -> None:
        """Count a success after so many `retries`."""
        self._quota.release(RETRY_COST if retries else SUCCESS_GAIN)

    def _is_transient(self, error: Exception) -> bool:
        if not isinstance(error, ClientError):
            return True
        metadata: Any = error.response['ResponseMetadata']
        status = metadata['HTTPStatusCode']
        code = error.response['Error']['Code']
        if code in CLOCK_CODES:
            return self._clock.learn(metadata['HTTPHeaders'].get('date', ''))
        return status >= 500 or status == 429 or code in RETRIED_CODES


def _retry_after(error: Exception) -> float:
    """Seconds for which the server asks us to stay away."""
    if not isinstance(error, ClientError):
        return 0
    metadata: Any = error.response['ResponseMetadata']
    headers: dict[str, str] = metadata['HTTPHeaders']
    milliseconds = headers.get('x-amz-retry-after', '')
    if milliseconds.isascii() and milliseconds.isdecimal():
        return float(milliseconds) / 1000
    text = headers.get('retry-after', '')
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0
