"""Questions inside questions: "the number of letters in 'cat' plus the minutes in 2 hours".

Every span of words between connectives goes to the specialists; a span with a sure numeric answer becomes that number, shortest
spans first, and what is left is worked out as arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from junctor.providers.embedded import dates, facts, text, units
from junctor.providers.embedded.answer import Answer, Budget
from junctor.providers.embedded.numbers import NUMBER, show

ASK_COST = 12
MOST_CUTS = 9
SPECIALISTS: tuple[Callable[[str], Answer], ...] = (units.solve, text.solve, dates.solve, facts.solve)
_CUT = re.compile(
    r"(?i)\s*(?:[,;.](?!\d)"
    r"|\b(?:plus|minus|times|multiplied by|divided by|and|then|from|by|with|to|add|subtract|multiply|divide|take)\b"
    r"|[-+*/×÷](?=\s))\s*"
)
_COMMA = re.compile(r",(?!\d)")
_COMPOUND = re.compile(rf"(?:{NUMBER.pattern})[\s-]*[a-z]+(?:,? (?:and )?(?:{NUMBER.pattern})[\s-]*[a-z]+)+", re.IGNORECASE)


def ask(question: str, budget: Budget) -> Answer | None:
    """The first sure number that a specialist gives."""
    for specialist in SPECIALISTS:
        budget.spend(ASK_COST)
        answer = specialist(question)
        if answer.sure and answer.number is not None:
            return answer
    return None


def spans(question: str) -> list[tuple[int, int]]:
    """(start, end) of every stretch between two connectives, shortest first."""
    cuts = [(m.start(), m.end()) for m in _CUT.finditer(question)][:MOST_CUTS]
    starts = [0, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), len(question)]
    found = [(s, e) for i, s in enumerate(starts) for e in ends[i:] if e - s > 5]
    return sorted(found, key=lambda span: span[1] - span[0])


def reduce(question: str, budget: Budget) -> str | None:
    """The question with its sub-questions replaced by numbers; None when there is none."""
    taken: list[tuple[int, int, Fraction]] = []
    for start, end in spans(question):
        if (start, end) == (0, len(question)) or any(start < e and s < end for s, e, _ in taken):
            continue
        answer = ask(question[start:end], budget)
        if answer is not None and answer.number is not None:
            taken.append((start, end, answer.number))
    if not taken:
        return None
    out = question
    for start, end, number in sorted(taken, reverse=True):
        out = f"{out[:start]} {show(number)} {out[end:]}"
    return _COMMA.sub(" ", out)


def compound(question: str, budget: Budget) -> Fraction | None:
    """A conversion of several quantities at once, piece by piece: "5 feet 11 inches in cm"."""
    low = question.lower()
    held = units.quantities(low)
    if len(held) < 2 or _COMPOUND.search(low) is None:
        return None
    for wanted in units.wanted_units(low):
        budget.spend(len(held))
        made = [units.convert(value, name, wanted) for value, name, _ in held]
        known: Sequence[Fraction] = [value for value in made if value is not None]
        if len(known) == len(made):
            return sum(known, Fraction(0))
    return None
