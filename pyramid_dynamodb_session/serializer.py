"""JSON, compact: how a session's items become bytes unless told otherwise."""

from __future__ import annotations

import json
from typing import Any


class JSONSerializer:
    """Pyramid's serializer contract over the standard library's JSON.

    Text is kept as UTF-8, so that it is small, and readable in the AWS
    console; only what UTF-8 can't say (lone surrogates) is escaped.
    """

    # What contains itself is too deep, and need not be looked for.
    _utf8 = json.JSONEncoder(
        ensure_ascii=False, separators=(',', ':'), check_circular=False
    )
    _ascii = json.JSONEncoder(separators=(',', ':'), check_circular=False)
    _decoder = json.JSONDecoder()

    def dumps(self, obj: Any) -> bytes:
        """Serialize what JSON can say.

        Raises TypeError, ValueError or RecursionError for what it can't.
        """
        try:
            return self._utf8.encode(obj).encode()
        except UnicodeEncodeError:
            return self._ascii.encode(obj).encode()

    def loads(self, data: bytes) -> Any:
        """Deserialize; ValueError when malformed."""
        return self._decoder.decode(data.decode())
