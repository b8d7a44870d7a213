"""What can be read off an answer's text: what it says, whether it says yes, and the features that a scorer weighs."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain

_WORD = re.compile(r"\w+")
_BARE = re.compile(r"[^\w.+-]+")
_YES = frozenset({"yes", "y", "true", "correct", "right"})
_NO = frozenset({"no", "n", "false", "incorrect", "wrong"})
_HEDGES = re.compile(
    r"\b(cannot|can't|can not|unable|not sure|don't know|do not know|no answer|unknown|unclear|as an ai|sorry|not able)\b"
)

FEATURES = ("empty", "cut off", "hedges", "log words", "words of the question", "has a number where one is asked")
"""What `features_of` gives, in this order."""
DEFAULT_WEIGHTS = (-4.0, -2.0, -3.0, 0.0, 0.0, 0.0)
"""Before anything was learned from texts: an empty, cut-off or evasive answer is a bad sign, and nothing else is a sign."""


def answer_key(text: str) -> str:
    """An answer for comparing: NFKC, case folded, without punctuation around words; two answers equal here say the same."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(word for part in _BARE.split(plain) if (word := part.rstrip(".+-").lstrip("+")))


def says_yes(text: str) -> bool | None:
    """The first yes or no in a verifier's answer; None when it says neither."""
    for word in _WORD.findall(text.casefold()):
        if word in _YES:
            return True
        if word in _NO:
            return False
    return None


def features_of(query: str, answer: str, finished: str = "") -> tuple[float, ...]:
    """Six figures of an answer, see FEATURES."""
    said, asked = _WORD.findall(answer.casefold()), set(_WORD.findall(query.casefold()))
    shared = sum(word in asked for word in said) / len(said) if said else 0.0
    wants_number = any(word.isdigit() for word in asked) or "how many" in query.casefold()
    return (
        float(not said),
        float(finished == "length"),
        float(_HEDGES.search(answer.casefold()) is not None),
        math.log1p(len(said)) / 4.0,
        shared,
        float(wants_number and any(any(c.isdigit() for c in word) for word in said)),
    )


def log_odds(weights: Sequence[float], features: Sequence[float], offset: float = 0.0) -> float:
    """Log odds: offset + weights · features; a last weight beyond the features is a constant."""
    return offset + sum(w * f for w, f in zip(weights, chain(features, (1.0,)), strict=False))


def chance(odds: float) -> float:
    """1 / (1 + exp(-odds))."""
    return 0.5 * (1.0 + math.tanh(0.5 * odds))
