"""Word problems: a beam search over expression trees on the numbers of a story, scored by the words around each number.

A state is a list of quantities; a step joins two of them by an operation. The score of a step adds up what the words near the
later quantity say (`gives away` subtracts, `each` multiplies), whether the units agree, and mild preferences for reading order
and for whole, positive results. The best tree over all numbers answers. It believes what words suggest: a story that says
"more" and means "less" fools it.

Source of the idea: enumerating expression trees over the quantities of a problem and ranking them by local evidence, as in
Roy & Roth, "Solving General Arithmetic Word Problems", EMNLP 2015; the words and weights here are our own.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from fractions import Fraction

from junctor.providers.embedded.answer import Budget
from junctor.providers.embedded.numbers import NUMBER, read_number, words_to_digits
from junctor.providers.embedded.wordlists import listed

MOST_NUMBERS = 6
_CUES = {
    "+": "more another buys bought gets got receives received finds found adds added plus join joined joins arrive arrives "
    "gains gained extra earns earned wins won picks picked board boards collects collected deposits baked brings brought tax "
    "tip raised raise increase increased rises interest grows up",
    "-": "gives gave loses lost sells sold eats ate eaten spends spent uses used breaks broke broken removes donates donated "
    "fewer less leak leaks fly flies pays paid away off leave leaves left took takes lends lent throws drops dropped rotten "
    "fell refund discount reduced sale cheaper cut down",
    "*": "each every per apiece times costs cost rows boxes bags packs crates shelves trays hour hours week weeks day days",
    "/": "shared share shares split splits divided equally among between groups evenly",
}
_CUE = {word: op for op, words in _CUES.items() for word in words.split()}
_TRAILING = frozenset(("each", "apiece"))  # they speak of the number before them
_HOLDERS = frozenset(listed("boxes bags packs crates shelves trays rows hour hours day days week weeks minutes times"))
_ASKS = (
    (re.compile(r"\b(?:left|remain\w*|still (?:has|have|had)|change)\b"), "-", 0.8),
    (re.compile(r"\b(?:altogether|in total|total|in all|combined|overall)\b"), "+", 0.4),
    (re.compile(r"\bhow long\b|\b(?:of|for|does) one\b|\baverage\b|\bcan \w+ (?:fill|make)\b"), "/", 2.5),
    (re.compile(r"\b(?:does each|did each|will each|each (?:\w+ )?(?:get|receive|pay|hold)|per person|apiece)\b"), "/", 1.6),
    (re.compile(r"\bhow (?:many|much) (?:\w+ )?(?:more|longer|older|further|taller|heavier)\b|\bdifference\b"), "-", 2.0),
    (re.compile(r"\bhow (?:many|much) (?:fewer|less)\b"), "-", 2.0),
)
_PER_CENT = re.compile(r"\bper ?cent\b")
_BOARDING = re.compile(r"\b(?:get|gets|got|step|steps|hop|hops) (?:on|in)\b")
_TOKEN = re.compile(rf"[$€£%]|{NUMBER.pattern}|[a-z]+|[.?!,;]")
_SKIP = frozenset(
    listed("the of a an his her their its for in on at to with and more other new red blue green ripe old small big percent")
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of the story, or a tree over several: value, unit, what its words say for each operation, where it stands."""

    value: Fraction
    unit: str
    pull: tuple[float, float, float, float]
    first: int
    last: int
    leaf: bool = True


State = tuple[float, tuple[Quantity, ...]]


def _unit(tokens: list[str], at: int) -> str:
    if at and tokens[at - 1] in "$€£":
        return "$"
    for word in tokens[at + 1 : at + 4]:
        if not word.isalpha():
            return "%" if word == "%" else ""
        if word in _HOLDERS:
            return "(holder)"
        if word not in _SKIP and word not in _CUE:
            return word.rstrip("s")
    return ""


def _pull(tokens: list[str], at: int) -> tuple[float, float, float, float]:
    """Evidence for + - * / from up to six words before and four after, nearer words louder, within the sentence."""
    loud = dict.fromkeys("+-*/", 0.0)
    if at > 1 and tokens[at - 2 : at] == ["at", "$"]:
        loud["*"] = 1.0
    before, after = tokens[max(0, at - 6) : at][::-1], tokens[at + 1 : at + 5]
    for words, weight in ((before, 1.0), (after, 0.9)):
        for distance, word in enumerate(words):
            if word in ".?!" or (word[0].isdigit() and distance):
                break
            if word == "and":
                weight *= 0.5
            op = None if words is before and word in _TRAILING else _CUE.get(word)
            if op:
                loud[op] = max(loud[op], weight * (1.0 if op in "*/" else 1.2) - 0.1 * distance)
    return loud["+"], loud["-"], loud["*"], loud["/"]


def read_story(text: str) -> tuple[list[Quantity], dict[str, float]]:
    """The quantities of a story, and what its question says for each operation."""
    text = _PER_CENT.sub("%", _BOARDING.sub("board", words_to_digits(text.lower())))
    tokens = _TOKEN.findall(text)
    places = [i for i, token in enumerate(tokens) if token[0].isdigit()][:MOST_NUMBERS]
    found = [Quantity(read_number(tokens[at]), _unit(tokens, at), _pull(tokens, at), i, i) for i, at in enumerate(places)]
    asked = dict.fromkeys("+-*/", 0.0)
    end = text.rfind("?") if "?" in text else len(text)
    question = text[max(text.rfind(". ", 0, end), text.rfind("; ", 0, end), 0) : end]
    for pattern, op, weight in _ASKS:
        if pattern.search(question):
            asked[op] += weight
    return found, asked


def _joins(a: Quantity, b: Quantity, asked: dict[str, float]) -> list[tuple[float, Fraction, str]]:
    """All (score, value, unit) of joining two quantities; `a` stands first in the story."""
    if "%" in (a.unit, b.unit):
        return _shares(a, b)
    plus, minus, times, over = b.pull
    same = not a.unit or not b.unit or a.unit == b.unit
    fit = 0.3 if same else -0.7
    rate = times if b.leaf else max(times, 0.2)
    product = a.unit if b.unit == "(holder)" or a.unit == "$" else b.unit or a.unit
    made = [
        (plus + asked["+"] + fit + 0.1, a.value + b.value, a.unit or b.unit),
        (minus + asked["-"] + fit, a.value - b.value, a.unit or b.unit),
        (max(rate, 0.8 * a.pull[2]) + asked["*"] - 0.2 - 2.0 * (a.unit == b.unit == "$"), a.value * b.value, product),
        (max(minus - 0.4, a.pull[1] if a.leaf else 0.0) + asked["-"] + fit - 0.5, b.value - a.value, b.unit or a.unit),
    ]
    if b.value:
        made.append((over + asked["/"] - 0.4, a.value / b.value, a.unit))
    if a.value:
        made.append((max(over, a.pull[3]) + asked["/"] - 1.1, b.value / a.value, b.unit))
    return made


def _shares(a: Quantity, b: Quantity) -> list[tuple[float, Fraction, str]]:
    """Joining with a percentage: that share of the other, or the other less or more that share."""
    share, whole = (b, a) if b.unit == "%" else (a, b)
    plus, minus, _, _ = share.pull
    part = share.value / 100
    return [
        (0.9, whole.value * part, whole.unit),
        (minus + 0.3, whole.value * (1 - part), whole.unit),
        (plus + 0.3, whole.value * (1 + part), whole.unit),
    ]


_NOTHING_ASKED = dict.fromkeys("+-*/", 0.0)


def _plausible(value: Fraction) -> float:
    return (0.0 if value.denominator == 1 else -0.8 if value.denominator in (2, 4, 5, 10, 20) else -1.6) - 2.0 * (value < 0)


def _without_idle(found: list[Quantity]) -> list[Quantity]:
    """The quantities less those that only set the scene: a calendar year, somebody's age among other things."""
    units = {quantity.unit for quantity in found}
    idle = [q for q in found if (q.unit == "year" and len(units) > 1) or (1900 <= q.value <= 2100 and q.first == 0)]
    return [q for q in found if q not in idle] if len(found) - len(idle) >= 2 else found


def _expand(state: State, asked: dict[str, float], budget: Budget) -> list[State]:
    score, parts = state
    asked = asked if len(parts) == 2 else _NOTHING_ASKED
    out: list[State] = []
    for i in range(len(parts)):
        for j in range(i + 1, len(parts)):
            a, b = parts[i], parts[j]
            rest = parts[:i] + parts[i + 1 : j] + parts[j + 1 :]
            order = -0.25 * abs(b.first - a.last - 1) - (0.0 if b.leaf else 0.3)
            for gain, value, unit in _joins(a, b, asked):
                budget.spend()
                whole = Quantity(value, unit, a.pull, a.first, b.last, leaf=False)
                joined = (*rest[:i], whole, *rest[i:])
                out.append((score + gain + order + _plausible(value), joined))
    return out


def solve(text: str, budget: Budget, *, beam: int, drop: bool) -> tuple[Fraction, float] | None:
    """(value, score) of the best tree over all numbers; None for fewer than two numbers.

    `beam` states are kept per step; `drop` leaves numbers out that only set the scene.
    """
    found, asked = read_story(text)
    found = _without_idle(found) if drop else found
    if len(found) < 2:
        return None
    states: list[State] = [(0.0, tuple(found))]
    while len(states[0][1]) > 1:
        grown = [new for state in states for new in _expand(state, asked, budget)]
        states = heapq.nlargest(beam, grown, key=lambda state: state[0])
    score, (whole,) = states[0]
    return whole.value, score / (len(found) - 1)
