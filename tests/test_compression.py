"""Compression: by ISA-L where that is installed, in zlib's own format."""

from __future__ import annotations

import importlib
import json
import random
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from pyramid_dynamodb_session.serializer import JSONSerializer
from pyramid_dynamodb_session.store import item
from pyramid_dynamodb_session.store.item import (
    PAYLOAD_LIMIT,
    ItemCodec,
    expand,
    smallest,
    write_units,
)

COMPRESSORS = [isal_zlib.compress, zlib.compress]
NAME = 'n' * 43
OVERHEAD = 250


def cart(lines: int) -> bytes:
    chance = random.Random(lines)
    return json.dumps(
        {
            'cart': [
                {
                    'sku': f'{chance.randrange(16**8):08x}',
                    'name': chance.choice(['oak desk', 'ash chair', 'lamp']),
                    'quantity': chance.randint(1, 9),
                    'price': f'{chance.randint(100, 99999) / 100:.2f}',
                }
                for _ in range(lines)
            ]
        }
    ).encode()


def test_isal_compresses_where_it_is_installed() -> None:
    assert item.compress is isal_zlib.compress


def test_zlib_compresses_where_isal_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(sys.modules):
        if name.partition('.')[0] == 'pyramid_dynamodb_session':
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'isal.isal_zlib', None)
    alone = importlib.import_module('pyramid_dynamodb_session.store.item')
    payload = cart(30)
    assert alone.compress is zlib.compress
    assert expand(alone.smallest(payload, OVERHEAD)['B']) == payload


@settings(deadline=None)
@given(st.binary(max_size=3000), st.integers(1, 200))
@pytest.mark.parametrize('compress', COMPRESSORS, ids=['isal', 'zlib'])
def test_what_either_compresses_zlib_expands(
    compress: Callable[..., bytes], unit: bytes, times: int
) -> None:
    payload = unit * times
    packed = compress(payload, item.FASTEST)
    assert zlib.decompress(packed) == payload
    assert expand(packed) == payload


@pytest.mark.parametrize('keys', [(), (b'k' * 32,)], ids=['plain', 'secret'])
@pytest.mark.parametrize('compress', COMPRESSORS, ids=['isal', 'zlib'])
def test_session_that_either_stored_is_read(
    compress: Callable[..., bytes],
    keys: tuple[bytes, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec = ItemCodec(JSONSerializer(), keys)
    items: dict[str, Any] = {'lines': ['a line of a cart'] * 5000}
    with monkeypatch.context() as patched:
        patched.setattr(item, 'compress', compress)
        attribute = codec.attribute(codec.dumps(items), items, NAME, OVERHEAD)
    stored = {
        'SessionItems': attribute,
        'CreateDate': {'N': '1'},
        'Expires': {'N': '2'},
        'Ver': {'N': '1'},
    }
    assert set(attribute) == {'B'}
    assert codec.record(stored, NAME).items == items


@pytest.mark.parametrize('lines', range(10, 260, 10))
def test_carts_that_isal_compresses_cost_no_more_write_units(
    lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = []
    for compress in COMPRESSORS:
        monkeypatch.setattr(item, 'compress', compress)
        ((_, value),) = smallest(cart(lines), OVERHEAD).items()
        units.append(write_units(OVERHEAD + len(value)))
    assert units[0] <= units[1]


def test_the_longest_payload_comes_back() -> None:
    payload = b'x' * PAYLOAD_LIMIT
    assert expand(item.compress(payload, item.FASTEST)) == payload
