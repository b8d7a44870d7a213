"""Hashed n-grams: stable, unit length, nearer for shared words than for none."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from junctor.encoders.lexical import LexicalEncoder
from junctor.errors import UserError

TEXTS = ["hello world", "Hello,   WORLD", "", "a", "naïve café \ud800", "x" * 9_000]


def test_rows_are_unit_length_or_zero_and_a_batch_is_its_rows() -> None:
    encoder = LexicalEncoder()
    batch = encoder.encode(TEXTS)
    assert batch.shape == (len(TEXTS), 512)
    assert batch.dtype == np.float32
    assert np.linalg.norm(batch, axis=1) == pytest.approx([1, 1, 0, 1, 1, 1], abs=1e-6)
    for row, text in zip(batch, TEXTS, strict=True):
        assert np.array_equal(row, encoder.encode_one(text))


def test_shared_words_and_shared_parts_of_words_are_near() -> None:
    one, same, part, other = LexicalEncoder().encode(
        ["list storage accounts", "storage accounts list", "storing an account", "weather tomorrow in rome"]
    )
    assert one @ same > one @ part > one @ other
    assert one @ same < 0.999  # the order of words counts a little


def test_a_repeated_word_counts_less_than_twice() -> None:
    encoder = LexicalEncoder(4096)
    once, often = encoder.encode(["red blue", "red red red red blue"])
    assert 0.5 < once @ often < 0.99


def test_vectors_do_not_depend_on_the_process() -> None:
    """Python's own hash differs from process to process; this one must not."""
    code = "from junctor.encoders.lexical import LexicalEncoder as L; print(L().encode_one('hello world').tobytes().hex())"
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60, env={"PYTHONHASHSEED": "77"}
    )
    assert found.stdout.strip() == LexicalEncoder().encode_one("hello world").tobytes().hex()


def test_the_digest_tells_dimensions_apart() -> None:
    assert LexicalEncoder().digest == LexicalEncoder(512).digest != LexicalEncoder(256).digest


def test_a_dimension_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="dim: must be at least 1"):
        LexicalEncoder(0)
