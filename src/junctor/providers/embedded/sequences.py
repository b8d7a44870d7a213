"""Number sequences: try small programs, simplest first, and take the first that reproduces every given term.

The programs: constant difference, constant ratio, polynomial by finite differences, a·previous + b, p·previous + q·one
before + c, two interleaved sequences. All but the first two need the high budget.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise, product

from junctor.providers.embedded.answer import Budget
from junctor.providers.embedded.numbers import words_to_digits

Terms = Sequence[Fraction]
Rule = Callable[[Terms], Fraction]
_LIST = re.compile(r"(?<![\d.])-?\d++(?:\.\d+)?(?:\s*(?:,|;|→|->|\band\b)\s*(?:\band\b\s*)?-?\d++(?:\.\d++)?){2,}")
_NTH = re.compile(r"\b(\d{1,3})(?:st|nd|rd|th)\b (?:term|number|element|entry|value)")
FARTHEST = 60


def find_terms(text: str) -> list[Fraction]:
    """The longest list of at least three numbers."""
    lists = _LIST.findall(words_to_digits(text.lower()))
    longest = max(lists, key=len, default="")
    return [Fraction(term) for term in re.findall(r"-?\d+(?:\.\d+)?", longest)]


def place_asked(text: str, given: int) -> int:
    """Which term is asked for, counted from 1: the one after the given ones unless the text names another."""
    match = _NTH.search(text.lower())
    return min(int(match[1]), FARTHEST) if match else given + 1


def solve(text: str, budget: Budget, *, deep: bool) -> tuple[Fraction, int] | None:
    """The asked term and how many given terms support the rule; None when no program fits."""
    terms = find_terms(text)
    if len(terms) < 3:
        return None
    rule = find_rule(terms, budget, deep=deep)
    if rule is None:
        return None
    grown = list(terms)
    place = place_asked(text, len(terms))
    while len(grown) < place:
        budget.spend()
        grown.append(rule(grown))
        if grown[-1].numerator.bit_length() > 1024:
            return None
    return grown[place - 1], len(terms)


def find_rule(terms: Terms, budget: Budget, *, deep: bool) -> Rule | None:
    """The first program that fits, simplest first."""
    finders = (_difference, _ratio, _polynomial, _affine, _recurrence, _interleaved) if deep else (_difference, _ratio)
    for finder in finders:
        rule = finder(terms, budget)
        if rule is not None:
            return rule
    return None


def _fits(rule: Rule, terms: Terms, start: int, budget: Budget) -> bool:
    budget.spend()
    return all(rule(terms[:i]) == terms[i] for i in range(start, len(terms)))


def _step(factor: Fraction | int, before: int, offset: Fraction | int) -> Rule:
    """The program factor·previous + before·(one before) + offset."""

    def rule(seen: Terms) -> Fraction:
        return factor * seen[-1] + (before * seen[-2] if before else 0) + offset

    return rule


def _difference(terms: Terms, budget: Budget) -> Rule | None:
    rule = _step(1, 0, terms[1] - terms[0])
    return rule if _fits(rule, terms, 1, budget) else None


def _ratio(terms: Terms, budget: Budget) -> Rule | None:
    if terms[0] == 0:
        return None
    rule = _step(terms[1] / terms[0], 0, 0)
    return rule if _fits(rule, terms, 1, budget) else None


def _by_differences(degree: int) -> Rule:
    def rule(seen: Terms) -> Fraction:
        row, total = list(seen[-(degree + 1) :]), Fraction(0)
        while row:
            total += row[-1]
            row = [b - a for a, b in pairwise(row)]
        return total

    return rule


def _polynomial(terms: Terms, budget: Budget) -> Rule | None:
    for degree in (2, 3):
        if len(terms) >= degree + 2 and _fits(_by_differences(degree), terms, degree + 1, budget):
            return _by_differences(degree)
    return None


def _affine(terms: Terms, budget: Budget) -> Rule | None:
    for factor in range(-6, 7):
        rule = _step(factor, 0, terms[1] - factor * terms[0])
        if len(terms) > 3 and _fits(rule, terms, 1, budget):
            return rule
    return None


@cache
def _recurrences() -> list[tuple[int, int, int]]:
    return sorted(product(range(-4, 5), range(-4, 5), range(-9, 10)), key=lambda pqc: sum(map(abs, pqc)))


def _recurrence(terms: Terms, budget: Budget) -> Rule | None:
    if len(terms) < 5:
        return None
    for p, q, c in _recurrences():
        rule = _step(p, q, c)
        if _fits(rule, terms, 2, budget):
            return rule
    return None


def _interleaved(terms: Terms, budget: Budget) -> Rule | None:
    if len(terms) < 6:
        return None
    first, second = (_difference(part, budget) or _ratio(part, budget) for part in (terms[::2], terms[1::2]))
    if first is None or second is None:
        return None

    def rule(seen: Terms) -> Fraction:
        turn = len(seen) % 2
        return (second if turn else first)(seen[turn::2])

    return rule
