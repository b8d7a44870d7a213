"""Twelve numbers of a text that a unit vector cannot hold: how long it is, and what it is made of.

An embedding of unit length forgets the length of what it embeds, and length, digits and brackets tell costs and tasks apart.
Only the first MOST characters are looked at, so that the time for one text is bounded; its length is counted in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log1p

import numpy as np
from numpy.typing import NDArray

from junctor.policy import Array

MOST = 4000
NAMES = (
    "length", "words", "lines", "digits", "capitals", "punctuation", "symbols", "beyond Latin-1", "digit count", "symbol count",
    "questions", "mean word",
)  # fmt: skip
"""Logarithms of counts, and shares of the characters; in the order of the columns."""

_KINDS = 7
_SPACE, _LINE, _DIGIT, _CAPITAL, _PUNCTUATION, _SYMBOL = range(1, _KINDS)


def _kinds() -> NDArray[np.uint8]:
    """Byte of Latin-1 -> what kind of character it is; 0 for letters."""
    kinds = np.zeros(256, dtype=np.uint8)
    for code in range(256):
        sign = chr(code)
        if sign == "\n":
            kinds[code] = _LINE
        elif sign.isspace():
            kinds[code] = _SPACE
        elif sign.isdigit():
            kinds[code] = _DIGIT
        elif sign.isupper():
            kinds[code] = _CAPITAL
        elif sign in ".,;:!?'\"":
            kinds[code] = _PUNCTUATION
        elif not sign.isalpha():
            kinds[code] = _SYMBOL
    return kinds


_KIND = _kinds()


def statistics(text: str) -> list[float]:
    """The twelve numbers of one text."""
    head = text[:MOST]
    raw = head.encode("latin-1", "replace")
    asked = head.count("?")
    beyond = raw.count(b"?") - asked  # characters that Latin-1 does not have became question marks
    found = np.bincount(_KIND[np.frombuffer(raw, np.uint8)], minlength=_KINDS).tolist()
    size = max(len(raw), 1)
    words = found[_SPACE] + found[_LINE] + 1
    return [
        log1p(len(text)),
        log1p(words),
        log1p(found[_LINE]),
        found[_DIGIT] / size,
        found[_CAPITAL] / size,
        (found[_PUNCTUATION] - beyond) / size,
        found[_SYMBOL] / size,
        beyond / size,
        log1p(found[_DIGIT]),
        log1p(found[_SYMBOL]),
        float(min(asked, 3)),
        log1p(size / words),
    ]


def many(texts: Sequence[str]) -> Array:
    """[N, 12]."""
    return np.array([statistics(text) for text in texts], dtype=np.float64).reshape(len(texts), len(NAMES))
