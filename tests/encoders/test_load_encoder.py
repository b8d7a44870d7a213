"""Encoders by name: one object per process, typed errors."""

from __future__ import annotations

import pytest

from junctor.encoders import load_encoder
from junctor.encoders.base import Encoder
from junctor.encoders.static import StaticEncoder
from junctor.errors import UnknownName


def test_the_same_object_each_time() -> None:
    assert isinstance(load_encoder("static"), StaticEncoder)
    assert load_encoder("static") is load_encoder("static")


@pytest.mark.parametrize("name", ["static", "lexical"])
def test_names_and_dimensions_hold(name: str) -> None:
    encoder: Encoder = load_encoder(name)
    assert encoder.name == name
    assert encoder.encode(["hello", ""]).shape == (2, encoder.dim)
    assert int(encoder.digest, 16) > 0


def test_an_unknown_name_is_a_typed_error() -> None:
    with pytest.raises(UnknownName, match="did you mean 'static'"):
        load_encoder("statik")
