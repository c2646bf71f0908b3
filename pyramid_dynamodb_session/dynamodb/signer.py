"""Signs requests with AWS Signature Version 4; nothing is sent from here.

The steps and their names are those of
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from botocore.utils import normalize_url_path

ALGORITHM = 'AWS4-HMAC-SHA256'
TIMESTAMP = '%Y%m%dT%H%M%SZ'
#: Seconds by which a clock must be off before a refusal is blamed on it: AWS
#: refuses at five minutes.
TOLERATED_SKEW = 60


def canonical_request(
    method: str, path: str, headers: Mapping[str, str], payload_hash: str
) -> str:
    """What is signed of a request; DynamoDB's have no query.

    :param path: as it is in the URL, percent-encoded.
    :param headers: lower-case names; all of them are signed.
    :param payload_hash: SHA-256 of the body, hexadecimal.
    """
    lines = [
        method,
        quote(normalize_url_path(path), safe='/~'),
        '',
        *(f'{n}:{" ".join(headers[n].split())}' for n in sorted(headers)),
        '',
        signed_headers(headers),
        payload_hash,
    ]
    return '\n'.join(lines)


def signed_headers(headers: Mapping[str, str]) -> str:
    """The names of the `headers`, as ``SignedHeaders`` has them."""
    return ';'.join(sorted(headers))


class Signer:
    """Signs for one region and service; the key of the day is kept.

    Threads may share one.
    """

    def __init__(self, region: str, service: str) -> None:
        self._scope = f'{region}/{service}/aws4_request'
        #: day, secret key, what the two give: replaced as a whole
        self._cached: tuple[str, str, _SigningKey] | None = None

    def authorization(
        self, credentials: Any, timestamp: str, request: str, signed: str
    ) -> str:
        """The ``Authorization`` header of a canonical `request`.

        :param credentials: botocore's, frozen.
        :param timestamp: the request's ``X-Amz-Date``.
        :param signed: of :func:`signed_headers`.
        """
        scope = f'{timestamp[:8]}/{self._scope}'
        digest = sha256(request.encode()).hexdigest()
        to_sign = f'{ALGORITHM}\n{timestamp}\n{scope}\n{digest}'.encode()
        key = self._signing_key(timestamp[:8], credentials.secret_key)
        return (
            f'{ALGORITHM} Credential={credentials.access_key}/{scope}, '
            f'SignedHeaders={signed}, Signature={key.sign(to_sign)}'
        )

    def _signing_key(self, day: str, secret_key: str) -> _SigningKey:
        cached = self._cached
        if cached and cached[0] == day and cached[1] == secret_key:
            return cached[2]
        derived = f'AWS4{secret_key}'.encode()
        for part in (day, *self._scope.split('/')):
            derived = hmac.digest(derived, part.encode(), 'sha256')
        key = _SigningKey(derived)
        self._cached = (day, secret_key, key)
        return key


class _SigningKey:
    """HMAC-SHA256 (RFC 2104) under one key.

    Half of it depends on the key alone: done once, that is half the time of
    ``hmac.digest``.
    """

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b'\0')
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    def sign(self, message: bytes) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()


class Clock:
    """The time that requests are signed with: DynamoDB's, once it told."""

    def __init__(self) -> None:
        #: Seconds that DynamoDB's clock is ahead of this machine's.
        self.offset = 0.0
        #: second, its timestamp: replaced as a whole
        self._cached = (0, '')

    def timestamp(self) -> str:
        """Now, as ``X-Amz-Date`` has it."""
        now = int(time.time() + self.offset)
        second, text = self._cached
        if second != now:
            text = time.strftime(TIMESTAMP, time.gmtime(now))
            self._cached = (now, text)
        return text

    def learn(self, date: str) -> bool:
        """Go by the ``Date`` header of a reply that refused a signature.

        :returns: whether the clock was off, so that it is worth to sign the
            request again.
        """
        try:
            theirs = parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError, OverflowError):
            return False
        offset = theirs - time.time()
        was_off = abs(offset - self.offset) > TOLERATED_SKEW
        if was_off:
            self.offset = offset
        return was_off
