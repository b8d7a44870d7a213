"""Is a new version of a policy worse than the one that serves? Judged on outcomes that the new one has not learned from.

Every outcome says what one target did, which was drawn with a known probability p. The difference that a version makes on it
is estimated doubly robustly (Dudík, Langford, Li 2011), from what was predicted at the time, q̂, corrected where the target
that was really tried is the one that a version would take:

    d = q̂(new) - q̂(old) + ([new = tried] - [old = tried]) / p · (reward - q̂(tried))

Where both choose alike, d is 0: only what changes has to be proved. A reward is quality less what the call cost, in the trade
of the policy itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
from msgspec import Struct

from junctor.errors import NoTarget
from junctor.policy import Policy, State
from junctor.types import Catalogue, Decision, Outcome, Request

ONE_SIDED = 1.645
TWO_SIDED = 1.96
AT_ONCE = 8


def without_rest() -> None:
    """For work that may come in one piece."""


class Tried(Struct, frozen=True):
    """One outcome of which the quality is known: what was asked, of whom, and what came of it."""

    request: Request
    targets: Catalogue
    decision: Decision
    outcome: Outcome
    worth_usd: float

    @property
    def reward(self) -> float:
        """Quality less the worth of what it cost."""
        return (self.outcome.quality or 0.0) - self.worth_usd * (self.outcome.cost_usd or 0.0)

    def predicted(self, otherwise: float) -> dict[str, float]:
        """Target -> reward, as it was predicted when the decision was made."""
        return {
            row.target: otherwise
            if row.predicted.quality is None
            else row.predicted.quality - self.worth_usd * (row.predicted.cost_usd or 0.0)
            for row in self.decision.ranked
        }


class Verdict(Struct, frozen=True, kw_only=True):
    """What a new version gains over the old one: mean, and the lower end of its one-sided 95% interval; on how many outcomes,
    and in what share of them the two choose alike.
    """

    gain: float
    low: float
    rows: int
    agreement: float


def judged(
    new: Policy, old: Policy, tried: Sequence[Tried], seed: int = 0, rest: Callable[[], object] = without_rest
) -> Verdict:
    """Compare two versions on outcomes that neither changes by being asked. Needs at least two.

    `rest` is called now and then: in a thread beside an event loop it lets the loop go on.
    """
    new, old = greedy(new), greedy(old)
    otherwise = float(np.mean([one.reward for one in tried]))
    gains = np.zeros(len(tried))
    alike = 0
    for place, one in enumerate(tried):
        if place % AT_ONCE == 0:
            rest()
        mine, theirs = _choice(new, one, [seed, place]), _choice(old, one, [seed, place])
        alike += mine == theirs
        if mine != theirs:
            predicted = one.predicted(otherwise)
            taken = one.decision.target
            weight = ((mine == taken) - (theirs == taken)) / max(one.decision.propensity, 1e-6)
            error = one.reward - predicted.get(taken, otherwise)
            gains[place] = predicted.get(mine, otherwise) - predicted.get(theirs, otherwise) + weight * error
    mean = float(gains.mean())
    spread = float(gains.std(ddof=1)) / sqrt(len(gains)) if len(gains) > 1 else float("inf")
    return Verdict(gain=mean, low=mean - ONE_SIDED * spread, rows=len(tried), agreement=alike / len(tried))


def _choice(policy: Policy, one: Tried, seed: list[int]) -> str:
    try:
        return policy.decide(one.request, one.targets, np.random.default_rng(seed)).target
    except NoTarget:
        return ""


def greedy(policy: Policy) -> Policy:
    """The policy without its exploration, where it can be had so: what is compared is what was learned."""
    frozen = getattr(policy, "frozen", None)
    made: Policy = policy if frozen is None else frozen()
    return made


def copy_of(policy: Policy) -> Policy:
    """The same policy, sharing nothing."""
    state = policy.state()
    made = type(policy).from_state(State(state.config, {name: values.copy() for name, values in state.arrays.items()}))
    made.version, made.label = policy.version, policy.label
    return made


class Mean:
    """Mean of rewards that come one by one."""

    __slots__ = ("count", "square", "total")

    def __init__(self) -> None:
        self.count, self.total, self.square = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        """One more."""
        self.count += 1
        self.total += value
        self.square += value * value

    @property
    def value(self) -> float:
        """NaN of none."""
        return self.total / self.count if self.count else float("nan")

    @property
    def error(self) -> float:
        """The standard error; infinite of fewer than two."""
        if self.count < 2:
            return float("inf")
        spread = max(0.0, self.square - self.total * self.total / self.count) / (self.count - 1)
        return sqrt(spread / self.count)


def fallen(new: Mean, old: Mean) -> bool:
    """Whether what a version earns is below the interval of what the one before it earned, both being uncertain (95%)."""
    if new.count < 2 or old.count < 2:
        return False
    return new.value < old.value - TWO_SIDED * sqrt(new.error**2 + old.error**2)
