"""The general solver: slow, dear, and sure only of numbers.

It writes spoken arithmetic out and evaluates it exactly, solves equations and riddles, continues sequences, takes questions
apart for the specialists, and searches word problems. The reasoning effort sets how deep it searches: low is a greedy search,
the two simplest sequence programs, and the first answer that it believes in; high tries every strategy and takes the answer
that it believes in most. It never returns words, weekdays or dates: that is the specialists' work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from junctor.providers.embedded import decompose, equations, phrases, sequences, stories
from junctor.providers.embedded.answer import Answer, Budget, OutOfWork, declined
from junctor.providers.embedded.arithmetic import expression_runs
from junctor.providers.embedded.expressions import BadExpression, exact, operators, parse
from junctor.providers.embedded.numbers import show


@dataclass(frozen=True, slots=True)
class Effort:
    """A reasoning budget: search steps in all, states kept by the story search, whether the deep strategies run."""

    units: int
    beam: int
    deep: bool


EFFORTS = {"low": Effort(400, 1, deep=False), "high": Effort(8_000, 100, deep=True)}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that one strategy proposes, with its belief in [0, 1]."""

    text: str
    number: Fraction
    belief: float


def _number(value: Fraction, belief: float) -> Candidate:
    return Candidate(show(value), value, belief)


def _sum(text: str, budget: Budget) -> Iterator[Candidate]:
    """Written and spoken arithmetic, exactly. A chain of instructions goes on from the first result."""
    plain = phrases.written(text)
    for run in expression_runs(plain)[:3]:
        budget.spend()
        try:
            tree = parse(run)
            value = exact(tree)
        except BadExpression:
            continue
        at = plain.find(run)
        chain = phrases.steps(plain[at + len(run) :], f"({run})") if at >= 0 else None
        if chain is not None:
            try:
                yield _number(exact(parse(chain)), 0.9)
            except BadExpression:
                continue
        elif operators(tree):
            yield _number(value, 0.6 + 0.35 * min(1.0, 3 * len(run) / max(len(text), 1)))


def _equation(text: str, budget: Budget) -> Iterator[Candidate]:
    found = equations.equations(text)
    if len(found) >= 2:
        pair = equations.solve_pair(found[0], found[1], budget)
        if pair is not None:
            asked = [name for name in pair if f"{name}?" in text or f"find {name}" in text.lower()] or sorted(pair)[:1]
            yield Candidate(show(pair[asked[0]]), pair[asked[0]], 0.97)
    for sides in found[:1] or [s for s in (equations.riddle(text),) if s]:
        roots = equations.solve_one(sides, budget)
        if roots:
            best = next((root for root in roots if root > 0), roots[0])
            yield _number(best, 0.96)


def _sequence(text: str, budget: Budget, effort: Effort) -> Iterator[Candidate]:
    found = sequences.solve(text, budget, deep=effort.deep)
    if found is not None:
        yield _number(found[0], 0.93 if found[1] > 3 else 0.7)


def _parts(text: str, budget: Budget) -> Iterator[Candidate]:
    """Sub-questions first, then the sum of them; and the whole question, put to each specialist."""
    whole = decompose.compound(text, budget)
    if whole is not None:
        yield _number(whole, 0.95)
    smaller = decompose.reduce(text, budget)
    if smaller is not None:
        yield from (Candidate(c.text, c.number, 0.95) for c in _sum(smaller, budget))
    answer = decompose.ask(text, budget)
    if answer is not None and answer.number is not None:
        yield _number(answer.number, 0.8)


def _story(text: str, budget: Budget, effort: Effort) -> Iterator[Candidate]:
    found = stories.solve(text, budget, beam=effort.beam, drop=effort.deep)
    if found is not None:
        yield _number(found[0], 0.5 + 0.04 * min(max(found[1], 0.0), 2.0))


def candidates(text: str, effort: Effort, budget: Budget) -> Iterator[Candidate]:
    """Everything that the strategies propose, cheap strategies first."""
    yield from _sum(text, budget)
    yield from _equation(text, budget)
    yield from _sequence(text, budget, effort)
    if effort.deep:
        yield from _parts(text, budget)
    yield from _story(text, budget, effort)


def solve(text: str, effort: Effort, budget: Budget) -> Answer:
    """The candidate of highest belief. Low effort takes the first that it believes in. Raises OutOfTime."""
    best: Candidate | None = None
    try:
        for candidate in candidates(text, effort, budget):
            if best is None or candidate.belief > best.belief:
                best = candidate
            if not effort.deep and candidate.belief >= 0.6:
                break
    except OutOfWork:
        pass
    if best is None:
        refusal = declined("find a number to answer with")
        return Answer(refusal.text, sure=False, work=budget.spent)
    return Answer(best.text, best.number, sure=best.belief >= 0.6, work=budget.spent)
