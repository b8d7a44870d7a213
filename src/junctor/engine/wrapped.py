"""A policy around another one: everything but what a subclass changes is the inner one's."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.errors import ArtefactError
from junctor.features import Features
from junctor.policy import Array, Learner, Policy, State, Sweep
from junctor.types import Catalogue, Decision, Outcome, Request


class Wrapped(Learner):
    """Passes everything on; what it hears goes to a Learner inside and is lost on any other policy."""

    name: ClassVar[str] = "wrapped"

    def __init__(self, inner: Policy) -> None:
        self.inner = inner

    @property
    def needs(self) -> frozenset[str]:
        """The inner policy's."""
        return self.inner.needs

    @property
    def honours(self) -> frozenset[str]:
        """The inner policy's."""
        return self.inner.honours

    @property
    def label_names(self) -> frozenset[str]:
        """The inner policy's."""
        return self.inner.label_names

    @property
    def title(self) -> str:
        """The inner policy's."""
        return self.inner.title

    @property
    def version(self) -> str:  # type: ignore[override]
        """The inner policy's."""
        return self.inner.version

    def worth_usd(self, targets: Catalogue) -> float:
        """The inner policy's."""
        return self.inner.worth_usd(targets)

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """As the inner policy."""
        return self.inner.decide(request, targets, rng)

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """As the inner policy."""
        return self.inner.decide_many(features, targets, rng)

    def decide_sweep(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> Sweep:
        """As the inner policy."""
        return self.inner.decide_sweep(features, targets, rng)

    def learn(self, decision: Decision, outcome: Outcome) -> None:
        """Told to a Learner."""
        if isinstance(self.inner, Learner):
            self.inner.learn(decision, outcome)

    def state(self) -> State:
        """The inner policy's: what stands around it is made by the configuration."""
        return self.inner.state()

    @classmethod
    def from_state(cls, state: State) -> Self:
        """A wrapper is never saved."""
        del state
        raise ArtefactError("is made by the configuration, not read from a file", field=cls.name, fix="save the inner policy")


def innermost(policy: Policy) -> Policy:
    """The policy that everything else stands around."""
    while isinstance(policy, Wrapped):
        policy = policy.inner
    return policy
