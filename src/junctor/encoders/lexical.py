"""Hashed word and character n-grams: no model, no file, no training. The bar that every learned encoder has to clear.

Source: Weinberger et al. 2009 (signed feature hashing); Salton & Buckley 1988 (sublinear term frequency).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from junctor.encoders.base import Encoder
from junctor.encoders.wordpiece import clip
from junctor.errors import UserError

_WORD = re.compile(r"\w+|[^\w\s]")
_CHARACTER_WEIGHT = 0.3
_PAIR_WEIGHT = 0.7
_WEIGHTS = np.array([1.0, _PAIR_WEIGHT, _CHARACTER_WEIGHT], np.float32)
_LONGEST_KEPT = 32


class LexicalEncoder(Encoder):
    """Words, pairs of neighbouring words and character trigrams, hashed with a sign into `dim` places, unit length.

    A feature that occurs n times counts 1 + ln n times its kind's weight. Long texts are clipped like everywhere else.
    """

    name: ClassVar[str] = "lexical"

    def __init__(self, dim: int = 512) -> None:
        if dim < 1:
            raise UserError(f"must be at least 1, not {dim}", field="dim", fix="512 is the default")
        self.dim = dim

    @property
    def digest(self) -> str:
        """Of the dimension and the settings."""
        settings = f"lexical-1 {self.dim} {_PAIR_WEIGHT} {_CHARACTER_WEIGHT}"
        return hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, dim] for N texts."""
        out = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(out, texts, strict=True):
            self._add(row, text)
        return out

    def _add(self, row: NDArray[np.float32], text: str) -> None:
        words = _WORD.findall(clip(text).lower())
        if not words:
            return
        found = Counter(_words_and_pairs(words))
        for word in words:
            found.update(_trigrams(word) if len(word) <= _LONGEST_KEPT else _trigrams.__wrapped__(word))
        codes = np.fromiter(found.keys(), np.int64, len(found))
        counts = np.fromiter(found.values(), np.float32, len(found))
        values = (1 + np.log(counts)) * _WEIGHTS[codes & 3] * np.where(codes & 4, -1, 1)
        np.add.at(row, (codes >> 3) % self.dim, values.astype(np.float32))
        norm = float(row @ row) ** 0.5
        if norm > 0:
            row /= norm


def _code(feature: str, kind: int) -> int:
    """The feature's hash, times 8, plus a sign bit (4) and its kind (0 word, 1 pair, 2 trigram)."""
    digest = crc32(feature.encode("utf-8", "surrogatepass"), kind)
    return (digest >> 1) << 3 | (digest & 1) << 2 | kind


def _words_and_pairs(words: Sequence[str]) -> Iterator[int]:
    for word in words:
        yield _code(word, 0)
    for left, right in pairwise(words):
        yield _code(f"{left} {right}", 1)


@lru_cache(maxsize=8192)
def _trigrams(word: str) -> tuple[int, ...]:
    framed = f"<{word}>"
    return tuple(_code(framed[i : i + 3], 2) for i in range(len(framed) - 2))
