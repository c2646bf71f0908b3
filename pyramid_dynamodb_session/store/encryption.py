"""Encryption of stored sessions, for those who need it.

AES-256-GCM by the cryptography package, which only this module imports.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence

from pyramid.exceptions import ConfigurationError

NONCE_BYTES = 12


class Cipher:
    """Encrypts with the first of several keys, decrypts with any of them.

    Each item has a key of its own, derived from its name, so that no number
    of saves wears out the random nonces, and no item opens under the name of
    another.

    :param keys: of 32 bytes each.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ConfigurationError(
                'encryption_keys needs cryptography: pip install '
                '"pyramid_dynamodb_session[encryption]"'
            ) from error
        self._aes = AESGCM
        self._invalid = InvalidTag
        self._keys = keys

    def encrypt(self, data: bytes, name: str) -> bytes:
        """The nonce and the encrypted `data` of the item of this `name`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        aes = self._aes(derived(self._keys[0], name))
        return nonce + bytes(aes.encrypt(nonce, data, name.encode()))

    def decrypt(self, data: bytes, name: str) -> bytes:
        """What was encrypted; ValueError if it was not, or not for `name`."""
        nonce, sealed = data[:NONCE_BYTES], data[NONCE_BYTES:]
        for key in self._keys:
            aes = self._aes(derived(key, name))
            try:
                return bytes(aes.decrypt(nonce, sealed, name.encode()))
            except (self._invalid, ValueError):
                continue
        raise ValueError('tampered with, or no key of encryption_keys fits')


def derived(key: bytes, name: str) -> bytes:
    return hmac.digest(key, name.encode(), 'sha256')
