"""The arithmetic specialist: finds one expression in the text and evaluates it in double precision.

Limits: reads left to right, so "subtract 3 from 10" is beyond it; no stories; beyond about 12 digits it rounds; the longest run
that looks like an expression wins, even where it is a date or a phone number.
"""

from __future__ import annotations

import re
from fractions import Fraction

from junctor.providers.embedded.answer import Answer, declined
from junctor.providers.embedded.expressions import BadExpression, operators, parse, rounded
from junctor.providers.embedded.numbers import WHOLE, show, words_to_digits

OPERATORS = {
    "plus": "+",
    "added to": "+",
    "minus": "-",
    "take away": "-",
    "times": "*",
    "multiplied by": "*",
    "divided by": "/",
    "over": "/",
    "to the power of": "^",
    "raised to": "^",
    "squared": "^2",
    "cubed": "^3",
    "per cent": "%",
    "percent": "%",
    "the square root of": "sqrt",
    "square root of": "sqrt",
}
_PHRASE = re.compile(r"\b(?:" + "|".join(sorted(OPERATORS, key=len, reverse=True)) + r")\b")
_TIMES_X = re.compile(r"(?<=[\d)])\s*x\s*(?=[\d(])")
_OF = re.compile(r"(\d)\s*%\s*of\b")
_PAIR = re.compile(rf"\b(sum|product|difference|quotient) (?:of|between) ({WHOLE}) and ({WHOLE})")
_SHARE = re.compile(rf"({WHOLE}) (?:is|as)(?: what| a)? (?:%|percentage) of ({WHOLE})")
_WHAT_SHARE = re.compile(rf"what (?:%|percentage) of ({WHOLE}) is ({WHOLE})")
_RUN = re.compile(r"(?:[\d.,+\-*/^()%\s×÷·−]|sqrt)+")
_PAIR_SIGN = {"sum": "+", "product": "*", "difference": "-", "quotient": "/"}


def symbols(text: str) -> str:
    """The text in lower case with number words and operator words written as symbols."""
    text = words_to_digits(text.lower())
    text = _PHRASE.sub(lambda m: OPERATORS[m.group()], text)
    text = _OF.sub(r"\1 % *", _TIMES_X.sub(" * ", text))
    text = _PAIR.sub(lambda m: f"({m[2]} {_PAIR_SIGN[m[1]]} {m[3]})", text)
    text = _WHAT_SHARE.sub(r" \2 / \1 * 100 ", text)
    return _SHARE.sub(r" \1 / \2 * 100 ", text)


def expression_runs(text: str) -> list[str]:
    """The stretches of a text that could be expressions, longest first."""
    runs = [run.strip(" \t\n.,*/+") for run in _RUN.findall(text)]
    return sorted((run for run in runs if any(c.isdigit() for c in run)), key=len, reverse=True)


def solve(text: str) -> Answer:
    """Evaluate the longest expression of the text."""
    reason = "find an expression to work out"
    for run in expression_runs(symbols(text))[:4]:
        try:
            tree = parse(run)
            if operators(tree):
                value = rounded(tree)
                return Answer(show(value), Fraction(value), work=operators(tree))
        except BadExpression as error:
            reason = f"work this out: the expression {error}"
    return declined(reason)
