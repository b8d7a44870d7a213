"""Hashed bags of words and neighbouring word pairs, sparse: what fastText-style and WideMLP heads read instead of a vector.

Source: Weinberger et al. 2009 (feature hashing); Joulin et al. 2016 (fastText: bags of n-grams under a linear classifier).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from junctor.policy import Array

PLACES = 1 << 13
_WORD = re.compile(r"\w+|[^\w\s]")
LONGEST = 512
"""Words of a text that are read."""

Ints = NDArray[np.intp]


def bag(text: str, pairs: bool = True) -> tuple[Ints, NDArray[np.float32]]:
    """Places of a text's features, and values 1 + ln count scaled to unit length; empty for a text without words."""
    words = _WORD.findall(text.lower())[:LONGEST]
    found = Counter(_place(word) for word in words)
    if pairs:
        found.update(_place(f"{left} {right}") for left, right in pairwise(words))
    places = np.fromiter(found.keys(), np.intp, len(found))
    values = 1.0 + np.log(np.fromiter(found.values(), np.float32, len(found)))
    return places, (values / max(float(np.sqrt(values @ values)), 1e-12)).astype(np.float32)


def matrix(texts: Sequence[str], pairs: bool = True) -> Any:
    """[N, PLACES] as a scipy sparse array, for fitting."""
    from scipy.sparse import csr_matrix

    bags = [bag(text, pairs) for text in texts]
    ends = np.concatenate([[0], np.cumsum([len(places) for places, _ in bags])])
    places = np.concatenate([p for p, _ in bags] or [np.zeros(0, np.intp)])
    values = np.concatenate([v for _, v in bags] or [np.zeros(0, np.float32)])
    return csr_matrix((values, places, ends), shape=(len(texts), PLACES))


def product(texts: Sequence[str], weights: NDArray[np.float32], pairs: bool = True) -> Array:
    """[N, K] of the bags times weights [PLACES, K], in numpy alone."""
    out = np.zeros((len(texts), weights.shape[1]))
    for row, text in zip(out, texts, strict=True):
        places, values = bag(text, pairs)
        row += values @ weights[places]
    return out


def _place(feature: str) -> int:
    return crc32(feature.encode("utf-8", "surrogatepass")) % PLACES
