"""Spoken arithmetic -> written: "subtract 3 from 10" -> "(10 - 3)", "then double it" -> "(…) * 2". For the general solver."""

from __future__ import annotations

import re

from junctor.providers.embedded.arithmetic import symbols
from junctor.providers.embedded.numbers import WHOLE

_A = rf"(\(?{WHOLE}\)?|[a-z]\b|\([^()]{{1,80}}\))"
_MARKS = re.compile(r"\b(?:it|that|this|the result|the answer|the outcome)\b")
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (rf"\b(?:subtract|take(?: away)?|deduct) {_A} (?:away )?from {_A}", r"(\2 - \1)"),
        (rf"\badd {_A} (?:to|and) {_A}", r"(\2 + \1)"),
        (rf"\badd(?:ing)? up {_A} and {_A}", r"(\1 + \2)"),
        (rf"\bmultipl(?:y|ying) {_A} (?:by|with|and) {_A}", r"(\1 * \2)"),
        (rf"\bdivid(?:e|ing) {_A} by {_A}", r"(\1 / \2)"),
        (rf"\bdivid(?:e|ing) {_A} into {_A}", r"(\2 / \1)"),
        (rf"{_A} (?:fewer|less) than {_A}", r"(\2 - \1)"),
        (rf"{_A} (?:more|greater) than {_A}", r"(\2 + \1)"),
        (rf"\b(?:twice|double) {_A}", r"(2 * \1)"),
        (rf"\b(?:triple|thrice) {_A}", r"(3 * \1)"),
        (rf"\b(?:one |1 )?half (?:of )?{_A}", r"(\1 / 2)"),
        (rf"\b(?:a|one|1) third of {_A}", r"(\1 / 3)"),
        (rf"\b(?:a|one|1) quarter of {_A}", r"(\1 / 4)"),
        (rf"\b(?:increase|raise|grow) {_A} by {_A} ?%", r"(\1 * (100 + \2) / 100)"),
        (rf"\b(?:decrease|reduce|lower|cut) {_A} by {_A} ?%", r"(\1 * (100 - \2) / 100)"),
        (rf"{_A} (?:increased|raised|marked up) by {_A} ?%", r"(\1 * (100 + \2) / 100)"),
        (rf"{_A} (?:decreased|reduced|marked down|discounted) by {_A} ?%", r"(\1 * (100 - \2) / 100)"),
        (rf"{_A} ?% (?:off|less than) {_A}", r"(\2 * (100 - \1) / 100)"),
        (rf"{_A} ?% more than {_A}", r"(\2 * (100 + \1) / 100)"),
        (rf"{_A} ?% is {_A} of (?:what|which) number", r"(\2 * 100 / \1)"),
        (rf"{_A} is {_A} ?% \* (?:what|which|some|a) ?(?:number)?", r"(\1 * 100 / \2)"),
        (rf"(?:of )?(?:what|which) number is {_A} {_A} ?%", r"(\1 * 100 / \2)"),
    )
)
_STEP = re.compile(
    r"\b(?:and|then|afterwards?|next|finally|,)?\s*(?:then )?"
    rf"(?:(add|plus|subtract|minus|take away|multiply|times|divide|halve|double|square)(?:s|d)?(?: (?:by|with))?(?: {_A})?)"
)
_SIGN = {"add": "+", "plus": "+", "subtract": "-", "minus": "-", "take away": "-", "multiply": "*", "times": "*", "divide": "/"}
_FIXED = {"halve": "/ 2", "double": "* 2", "square": "^ 2"}


def written(text: str, rounds: int = 3) -> str:
    """The text with spoken arithmetic written out, applied inside out up to `rounds` times."""
    text = re.sub(r"[$€£]", "", symbols(text))
    for _ in range(rounds):
        before = text
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        if text == before:
            break
    return text


def steps(text: str, start: str) -> str | None:
    """A chain of instructions applied to `start`, each to the result of the one before: None when there is none.

    >>> steps("multiply it by 3 and add 4", "x")
    '((x) * 3) + 4'
    """
    made = start
    found = False
    for verb, number in _STEP.findall(_MARKS.sub("", re.sub(r"\s+", " ", text)).replace("  ", " ")):
        if verb in _FIXED:
            made, found = f"({made}) {_FIXED[verb]}", True
        elif number:
            made, found = f"({made}) {_SIGN[verb]} {number}", True
    return made if found else None
