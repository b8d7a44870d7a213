"""The aggregators that ship: first, majority, best-scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from junctor.plans.answers import DEFAULT_WEIGHTS, answer_key, chance, features_of, log_odds
from junctor.plans.contracts import Aggregate, Choice, Trace


@dataclass(frozen=True, kw_only=True)
class First(Aggregate):
    """The first of the plan's order that answered: the others were insurance."""

    name: ClassVar[str] = "first"

    def choose(self, trace: Trace) -> Choice:
        """The first."""
        return Choice(given=trace.answers[0], why=f"first of {len(trace.answers)} answers")


@dataclass(frozen=True, kw_only=True)
class Majority(Aggregate):
    """The answer that most of them gave, compared by `answer_key`.

    carry   the answers of earlier stages vote too
    ties    first: the earliest answer of a tied group is given; last: the latest group's, where plans go from cheap to dear
    """

    carry: bool = False
    ties: Literal["first", "last"] = "first"

    name: ClassVar[str] = "majority"

    def choose(self, trace: Trace) -> Choice:
        """Count, break ties, give the first answer of the winning group."""
        voters = (*trace.before, *trace.answers) if self.carry else trace.answers
        keys = [answer_key(given.text) for given in voters]
        place = winner(keys, last=self.ties == "last")
        votes = Counter(keys)[keys[place]]
        return Choice(given=voters[place], why=f"{votes} of {len(voters)} answers agree")


def winner(keys: list[str], *, last: bool) -> int:
    """The position of the first answer in the largest group; of tied groups the one that began first, or that ended last."""
    votes = Counter(keys)
    most = max(votes.values())
    tied = [key for key in votes if votes[key] == most]
    ends = {key: place for place, key in enumerate(keys)}
    return keys.index(max(tied, key=lambda key: ends[key]) if last else tied[0])


@dataclass(frozen=True, kw_only=True)
class BestScored(Aggregate):
    """The answer with the highest score; the earliest of equal ones.

    score = sigmoid(offset of its target + weights · features of (query, answer)), or the figure called `signal` that came with
    the answer (0 when missing).
    """

    offset: Mapping[str, float] = field(default_factory=dict)
    weights: tuple[float, ...] = DEFAULT_WEIGHTS
    signal: str = ""

    name: ClassVar[str] = "best-scored"

    def choose(self, trace: Trace) -> Choice:
        """Score all."""
        scores = []
        for given in trace.answers:
            if self.signal:
                scores.append(given.signals.get(self.signal, 0.0))
            else:
                features = features_of(trace.query, given.text, given.finished)
                scores.append(chance(log_odds(self.weights, features, self.offset.get(given.target, 0.0))))
        place = scores.index(max(scores))
        return Choice(given=trace.answers[place], why=f"best score {scores[place]:.3f} of {len(scores)} answers")
