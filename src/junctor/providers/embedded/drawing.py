"""Small helpers for writing questions: picking phrasings, drawing numbers, saying them in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from junctor.providers.embedded.wordlists import listed

Item = TypeVar("Item")
_ONES = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NAMES = listed("Anna Ben Carla David Elif Farid Grace Hugo Ines Jonas Kofi Lena Marta Nils Olga Priya Quentin Rosa Sam Tariq")


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of the items, each as likely."""
    return items[int(rng.integers(len(items)))]


def draw(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer from low to high, both included."""
    return int(rng.integers(low, high + 1))


def two(rng: np.random.Generator, items: Sequence[Item]) -> tuple[Item, Item]:
    """Two different items."""
    i, j = rng.choice(len(items), 2, replace=False)
    return items[int(i)], items[int(j)]


def say(number: int) -> str:
    """An integer from 0 to 9,999 in words."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    big, word = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = number % big
    joint = " and " if 0 < rest < 100 else " "
    return f"{say(number // big)} {word}" + (f"{joint}{say(rest)}" if rest else "")


def maybe_say(rng: np.random.Generator, number: int, share: float = 0.2) -> str:
    """The number in digits, or with the given probability in words."""
    return say(number) if 1 < number < 10_000 and rng.random() < share else str(number)
