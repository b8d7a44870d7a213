"""Equations: linear ones in closed form, pairs of linear ones by elimination, the rest by trying candidate roots."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from math import gcd

from junctor.providers.embedded.answer import Budget
from junctor.providers.embedded.expressions import BadExpression, Node, exact, parse, variables
from junctor.providers.embedded.numbers import NUMBER
from junctor.providers.embedded.phrases import steps, written

_SIDE = r"(?>[\d.+\-*/^()\s×÷·−]|\b[a-z]\b|(?<=[\d)])[a-z]\b|\b[a-z](?=[(+\-*/^=])){1,100}+"
_EQUATION = re.compile(rf"({_SIDE})=({_SIDE})")
_PRONOUN = re.compile(r"\b(?:[ai])\b(?=\s+[a-z]{2,})")
_RIDDLE = re.compile(r"\b(?:a|some|my|an unknown|the) (?:secret |certain |mystery |hidden )?number\b")
_UNKNOWN = re.compile(r"\bx\b")
_RESULT = re.compile(
    r"(?:the result is|the outcome is|i get|you get|i end up with|we get|gives|makes|equals|is equal to|to get|=)"
    rf"\s*(-?(?:{NUMBER.pattern}))"
)
_PASSIVE = re.compile(r"\bis\s*(?=[-+*/])")
_SPOKEN = re.compile(rf"(.*)\b(?:is|equals|gives|makes|is equal to)\s+(-?{NUMBER.pattern})")

Sides = tuple[Node, Node]


def equations(text: str) -> list[Sides]:
    """All equations of a text as pairs of trees."""
    found: list[Sides] = []
    if "=" not in text:
        return found
    for left, right in _EQUATION.findall(_PRONOUN.sub(" ; ", text.lower())):
        try:
            sides = parse(_trim(left)), parse(_trim(right))
        except BadExpression:
            continue
        if variables(sides[0]) | variables(sides[1]):
            found.append(sides)
    return found


def _trim(side: str) -> str:
    return side.strip(" \t\n.")


def riddle(text: str) -> Sides | None:
    """The equation behind "I think of a number, …, the result is 25", or None."""
    text = _PASSIVE.sub("", written(_RIDDLE.sub("x", text.lower())))
    place = _UNKNOWN.search(text)
    if place is None:
        return None
    result = _RESULT.search(text, place.end())
    if result:
        chain = steps(text[place.end() : result.start()], "x")
        if chain:
            return _sides(chain, result[1])
    spoken = _SPOKEN.match(text)
    if spoken is None:
        return None
    left = re.findall(r"(?:[\d.+\-*/^()\s]|\bx\b)+", spoken[1])
    held = [run for run in left if "x" in run]
    return _sides(held[0], spoken[2]) if held else None


def _sides(left: str, right: str) -> Sides | None:
    try:
        sides = parse(left.strip(" .,")), parse(right)
    except BadExpression:
        return None
    return sides if variables(sides[0]) else None


def _gap(sides: Sides, env: dict[str, Fraction], budget: Budget) -> Fraction:
    budget.spend()
    return exact(sides[0], env) - exact(sides[1], env)


def solve_one(sides: Sides, budget: Budget) -> list[Fraction]:
    """The roots found in one unknown, smallest first; empty when none was found within the budget."""
    names = sorted(variables(sides[0]) | variables(sides[1]))
    if len(names) != 1:
        return []
    name = names[0]
    try:
        at = [_gap(sides, {name: Fraction(x)}, budget) for x in (1, 2, 3, 7)]
    except BadExpression:
        return _try_roots(sides, name, budget)
    slope = at[1] - at[0]
    if at[2] - at[1] == slope and at[3] - at[2] == 4 * slope:
        return [1 - at[0] / slope] if slope else []
    return _try_roots(sides, name, budget)


def _candidates() -> Iterator[Fraction]:
    yield Fraction(0)
    for x in range(1, 300):
        yield Fraction(x)
        yield Fraction(-x)
    for bottom in (2, 3, 4, 5):
        for top in range(-60, 61):
            if gcd(top, bottom) == 1:
                yield Fraction(top, bottom)


def _try_roots(sides: Sides, name: str, budget: Budget) -> list[Fraction]:
    found: list[Fraction] = []
    for x in _candidates():
        try:
            if _gap(sides, {name: x}, budget) == 0:
                found.append(x)
        except BadExpression:
            continue
        if len(found) == 2:
            break
    return sorted(found)


def solve_pair(first: Sides, second: Sides, budget: Budget) -> dict[str, Fraction] | None:
    """Two linear equations in two unknowns: their one solution, or None."""
    names = sorted(set().union(*(variables(side) for side in (*first, *second))))
    if len(names) != 2:
        return None
    try:
        (a, b, c), (d, e, f) = (_plane(sides, names, budget) for sides in (first, second))
    except BadExpression:
        return None
    det = a * e - b * d
    if det == 0:
        return None
    solution = {names[0]: (b * f - c * e) / det, names[1]: (c * d - a * f) / det}
    return solution if _holds(first, solution, budget) and _holds(second, solution, budget) else None


def _plane(sides: Sides, names: list[str], budget: Budget) -> tuple[Fraction, Fraction, Fraction]:
    """Coefficients a, b, c of a·x + b·y + c = 0, read off three points."""
    x, y = names
    zero, one = Fraction(0), Fraction(1)
    c = _gap(sides, {x: zero, y: zero}, budget)
    return _gap(sides, {x: one, y: zero}, budget) - c, _gap(sides, {x: zero, y: one}, budget) - c, c


def _holds(sides: Sides, solution: dict[str, Fraction], budget: Budget) -> bool:
    try:
        return _gap(sides, solution, budget) == 0
    except BadExpression:
        return False
