"""Unsafe content by its words: seven categories, phrases with weights, and phrases that take a weight back.

    unsafe.scores("…")     # {"hate": 0.0, "violence": 0.6, …}
    unsafe.score("…")      # the largest of them

Written by hand and not fitted: it works without data, and it is a blunt instrument. It hears words, not meaning: irony,
quotes, other languages and careful wording pass, and an innocent text may use the words. docs/gateway/guards.md has the
figures; a scorer fitted on your own labels (`junctor guards fit`) does better.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from junctor.guards.patterns import Sign, read_signs

CATEGORIES = ("hate", "harassment", "sexual", "minors", "self-harm", "violence", "crime")
MOST_CHARS = 20_000
REPEATS = 3


def scores(text: str) -> dict[str, float]:
    """Category -> 0 to 1, of at most 20,000 characters. A phrase that comes again counts up to three times, each time half."""
    low = text[:MOST_CHARS].lower().replace("’", "'")
    if " " in low:
        low = _read().harmless.sub(" ", low)
    left = dict.fromkeys(CATEGORIES, 1.0)
    for sign in _read().signs:
        weight = sign.weight
        for _ in zip(range(REPEATS), sign.pattern.finditer(low), strict=False):
            left[sign.family] *= 1 - weight
            weight /= 2
    return {category: 1 - share for category, share in left.items()}


class _Lists(NamedTuple):
    """The patterns, and what is said of machines, plants, food and play: there the words of violence are harmless."""

    signs: tuple[Sign, ...]
    harmless: re.Pattern[str]


@cache
def _read() -> _Lists:
    *signs, harmless = read_signs("unsafe.txt")
    return _Lists(tuple(signs), harmless.pattern)


def score(text: str) -> float:
    """The largest score of any category."""
    return max(scores(text).values())
