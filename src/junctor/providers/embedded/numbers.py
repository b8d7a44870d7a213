"""Numbers in text: words to digits, digits to numbers, numbers to text."""

from __future__ import annotations

import re
from fractions import Fraction

from junctor.providers.embedded.wordlists import listed

_SMALL = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
_VALUE = {word: i for i, word in enumerate(_SMALL)} | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}
_SCALE = {"thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}
_ANY = "|".join((*_VALUE, "hundred", *_SCALE, "dozen"))
_RUN = re.compile(
    rf"\b(?:an? (?=hundred|thousand|million|billion|dozen))?(?:{_ANY})\b(?:(?:[\s-]+|\s+and\s+)(?:{_ANY})\b)*", re.IGNORECASE
)
_WORD = re.compile(r"[a-z]+", re.IGNORECASE)
# Possessive, and WHOLE not inside another number: a run of a thousand digits must cost a thousand steps, not a million.
NUMBER = re.compile(r"(?>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)")
WHOLE = r"(?<![\d.,])\d++(?:,\d{3})*+(?:\.\d++)?"


def words_to_digits(text: str) -> str:
    """Number words become digits: "one hundred and five" -> "105". A lone "one" stays: it is a pronoun more often than not."""
    return _RUN.sub(_run_to_digits, text) if _RUN.search(text) else text


def _run_to_digits(match: re.Match[str]) -> str:
    run = match.group()
    if run.lower() == "one":
        return run
    values = _values([word.lower() for word in _WORD.findall(run)])
    return " and ".join(str(value) for value in values)


def _values(run: list[str]) -> list[int]:
    """The numbers that a run of words names; two numbers that merely stand side by side stay two."""
    done: list[int] = []
    total, part, last = 0, 0, 0
    for word in run:
        if word == "and":
            last = 1 if 0 < last < 100 else last
        elif word in _VALUE:
            value = _VALUE[word]
            if last and not _follows(last, value):
                done.append(total + part)
                total, part = 0, 0
            part += value
            last = value or 1000
        elif word in ("hundred", "dozen"):
            part = max(part, 1) * (100 if word == "hundred" else 12)
            last = 100
        elif word in _SCALE:
            total += max(part, 1) * _SCALE[word]
            part, last = 0, 1000
    done.append(total + part)
    return done


def _follows(last: int, value: int) -> bool:
    """Whether a word of this value can continue a number after a word of the last value: twenty-five, hundred five."""
    return last >= 100 or (20 <= last < 100 and 0 < value < 10)


def read_number(digits: str) -> Fraction:
    """The exact value of digits as `NUMBER` matches them; thousands commas are dropped."""
    return Fraction(digits.replace(",", ""))


def find_numbers(text: str) -> list[Fraction]:
    """All numbers of a text, in order, signs left out."""
    return [read_number(m.group()) for m in NUMBER.finditer(text)]


def show(number: Fraction | float) -> str:
    """A number as people write it: integers whole, the rest to at most eight decimals without trailing zeros."""
    if isinstance(number, float):
        return f"{number:.12g}"
    if number.denominator == 1 or abs(number) >= 10**15:
        return str(round(number))
    return f"{float(number):.8f}".rstrip("0").rstrip(".")
