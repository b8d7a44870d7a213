"""A seeded workload of tasks whose right answers are known by construction: ten kinds, many phrasings, no telling prefix.

The right answer is worked out while the question is written, from the numbers that were drawn, and never by a solver. A share
of each kind is meant to be hard for the specialist of that kind: long numbers, spoken order, compound units, day-first dates,
facts in other words or unknown to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from junctor.errors import UserError
from junctor.providers.embedded import questions_in_numbers as numbers
from junctor.providers.embedded import questions_in_words as words
from junctor.providers.embedded import stories_told
from junctor.providers.embedded.checks import Check

Drawn = tuple[str, Check]
Maker = Callable[[np.random.Generator], Drawn]

MAKERS: Mapping[str, Maker] = {
    "arithmetic": numbers.arithmetic,
    "percentage": numbers.percentage,
    "word_problem": stories_told.word_problem,
    "units": words.units,
    "dates": words.dates,
    "text": words.text,
    "facts": words.facts,
    "sequence": numbers.sequence,
    "equation": numbers.equation,
    "mixed": stories_told.mixed,
}
CATEGORIES = tuple(MAKERS)
_TRIES = 200
_LEADS = (
    "", "", "", "", "", "Quick question: ", "Hi! ", "Could you help me out? ", "Please answer this. ", "Hello there, ",
    "For a quiz tonight: ", "I keep getting this wrong. ", "My daughter asked me this. ", "Sorry to bother you. ", "Hmm. ",
    "We are settling a bet. ", "I need this for a report. ", "Checking my notes: ", "Hey, ",
)  # fmt: skip
_TAILS = (
    "", "", "", "", "", " Thanks!", " Just the answer, please.", " No explanation needed.", " Keep it short.", " Please.",
    " I am in a hurry.", " Answer only.", " Many thanks in advance.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """A question, its kind, and `check(answer text)` -> quality in [0, 1]."""

    id: str
    prompt: str
    category: str
    check: Check


def make_tasks(n: int, rng: np.random.Generator) -> list[Task]:
    """N tasks with distinct prompts, the categories in equal shares and random order. The same seed gives the same tasks."""
    if n < 1:
        raise UserError("is not a number of tasks", field="n", fix="ask for at least one")
    order = [CATEGORIES[i % len(CATEGORIES)] for i in range(n)]
    rng.shuffle(order)
    seen: set[str] = set()
    return [_task(i, category, seen, rng) for i, category in enumerate(order)]


def _task(i: int, category: str, seen: set[str], rng: np.random.Generator) -> Task:
    for _ in range(_TRIES):
        question, check = MAKERS[category](rng)
        prompt = _dressed(question, rng)
        key = re.sub(r"\s+", " ", prompt).strip().casefold()
        if key not in seen:
            seen.add(key)
            return Task(f"task-{i:05d}", prompt, category, check)
    raise UserError(f"no further question of the kind {category!r} could be made", field="n", fix="ask for fewer tasks")


def _dressed(question: str, rng: np.random.Generator) -> str:
    """The question as people send it: with a greeting, with thanks, in careless lower case, or bare."""
    lead = str(rng.choice(_LEADS))
    tail = str(rng.choice(_TAILS))
    if lead.endswith(", "):
        question = question[0].lower() + question[1:] if question[1:2].islower() else question
    return f"{lead}{question}{tail}"
