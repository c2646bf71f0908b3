"""The standard library's JSON, less what it does over for each short text."""

from __future__ import annotations

import json.encoder
from collections.abc import Callable
from typing import Any


def encode_function(encoder: json.JSONEncoder) -> Callable[[Any], str]:
    """As ``encoder.encode``, for an encoder without ``check_circular``.

    That makes a C encoder for each text, a third of what a short one takes.
    Here it is made once; where Python has none, or another, it is the method.
    """
    make: Any = getattr(json.encoder, 'c_make_encoder', None)
    quote = (
        json.encoder.encode_basestring_ascii
        if encoder.ensure_ascii
        else json.encoder.encode_basestring
    )
    try:
        parts = make(
            None,
            encoder.default,
            quote,
            None,
            encoder.key_separator,
            encoder.item_separator,
            encoder.sort_keys,
            encoder.skipkeys,
            encoder.allow_nan,
        )
    except TypeError:
        return encoder.encode
    return lambda value: ''.join(parts(value, 0))


def decode(text: str, decoder: json.JSONDecoder) -> Any:
    """As ``decoder.decode``, which takes longer over what is short."""
    text = text.strip()
    found, end = decoder.raw_decode(text)
    if end != len(text):
        raise ValueError(f'more than JSON: {len(text) - end} characters')
    return found
