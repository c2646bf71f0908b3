"""JSON, compact: how a session's items become bytes unless told otherwise.

The replies that come over libcurl are read with :func:`decode` as well.
"""

from __future__ import annotations

import json
from typing import Any

DECODER = json.JSONDecoder()


class JSONSerializer:
    """Pyramid's serializer contract over the standard library's JSON.

    Text is kept as UTF-8, so that it is small, and readable in the AWS
    console; only what UTF-8 can't say (lone surrogates) is escaped.
    """

    _utf8 = json.JSONEncoder(ensure_ascii=False, separators=(',', ':'))
    _ascii = json.JSONEncoder(separators=(',', ':'))

    def __repr__(self) -> str:
        return 'JSONSerializer()'

    def dumps(self, obj: Any) -> bytes:
        """Serialize; TypeError or ValueError for what JSON can't say."""
        try:
            return self._utf8.encode(obj).encode()
        except UnicodeEncodeError:
            return self._ascii.encode(obj).encode()

    def loads(self, data: bytes) -> Any:
        """Deserialize; ValueError when malformed."""
        return decode(data.decode())


def decode(text: str, decoder: json.JSONDecoder = DECODER) -> Any:
    """As ``decoder.decode``, which takes longer over what is short."""
    text = text.strip()
    found, end = decoder.raw_decode(text)
    if end != len(text):
        raise ValueError(f'more than JSON: {len(text) - end} characters')
    return found
