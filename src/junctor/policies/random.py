"""random: uniform over the targets, with its propensity; the log of such a policy can judge any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About
from junctor.estimators import saved
from junctor.estimators.settings import check
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policy import Array, Policy, PolicyConfig, State
from junctor.types import Catalogue, Decision, Request


class Random(Policy):
    """Knows nothing but how many stand by."""

    name: ClassVar[str] = "random"

    def __init__(self, fallbacks: int) -> None:
        self.fallbacks = fallbacks

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """A uniform draw, others in random order behind it."""
        choosing.some(targets)
        order = rng.permutation(len(targets))[: self.fallbacks + 1].tolist()
        return choosing.decision(
            request,
            [targets.ids[i] for i in order],
            policy=self.title,
            version=self.version,
            reasons=(f"drawn at random from {len(targets)}",),
            propensity=1.0 / len(targets),
        )

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """N uniform draws."""
        choosing.some(targets)
        return rng.integers(len(targets), size=len(features)), np.full(len(features), 1.0 / len(targets))

    def state(self) -> State:
        """The one number."""
        return State({"fallbacks": self.fallbacks})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        return cls(saved.entry(state, "fallbacks", int))


@dataclass(frozen=True, kw_only=True)
class RandomConfig(PolicyConfig):
    """fallbacks: how many others stand by in the plan."""

    fallbacks: int = 2

    name: ClassVar[str] = "random"
    fitted: ClassVar[type[Policy]] = Random
    about: ClassVar[About | None] = About(
        title="Random target",
        family="bars",
        status="ours",
        source="folklore",
        formula="uniform over the catalogue; propensity 1 / M",
        complexity="fit: none; decision: O(M)",
    )

    def __post_init__(self) -> None:
        check(self.fallbacks >= 0, "random.fallbacks", "must not be negative")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Random:
        """Learn nothing."""
        del table, features, rng
        return Random(self.fallbacks)
