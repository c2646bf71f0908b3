"""JSON that is encoded and decoded without what is done over each time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_dynamodb_session._json import decode, encode_function

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS | st.complex_numbers(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.none() | st.booleans() | st.integers() | st.text(), inner
        )
    ),
    max_leaves=10,
)
ENCODERS = [
    json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        separators=(',', ':'),
        default=repr,
        check_circular=False,
    )
    for ensure_ascii in (True, False)
]


@given(value=VALUES)
@pytest.mark.parametrize('encoder', ENCODERS, ids=['ascii', 'UTF-8'])
def test_values_are_encoded_as_the_encoder_does(
    encoder: json.JSONEncoder, value: Any
) -> None:
    assert encode_function(encoder)(value) == encoder.encode(value)


@pytest.mark.parametrize('make', [None, lambda: None], ids=['none', 'other'])
def test_python_without_that_c_encoder_encodes_as_well(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(json.encoder, 'c_make_encoder', make)
        encode = encode_function(ENCODERS[0])
    assert encode({'a': [1, 1j]}) == '{"a":[1,"1j"]}'


def test_the_c_encoder_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    make = json.encoder.c_make_encoder
    made = []

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(json.encoder, 'c_make_encoder', counted)
    encode = encode_function(ENCODERS[0])
    assert [encode(number) for number in range(3)] == ['0', '1', '2']
    assert len(made) == 1


def test_value_within_itself_is_no_endless_text() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        encode_function(ENCODERS[0])(endless)


@pytest.mark.parametrize('text', ['', '{', '{} {}', 'nonsense'])
def test_what_is_no_single_value_is_malformed(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text, json.JSONDecoder())


def test_spaces_around_a_value_are_none_of_it() -> None:
    assert decode(' {"a": 1}\n', json.JSONDecoder()) == {'a': 1}
