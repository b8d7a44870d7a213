"""exp3: exponential weights over the targets, whatever the query; it holds even if outcomes are chosen by an enemy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from junctor.about import About
from junctor.estimators import saved
from junctor.estimators.settings import check
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.banditry import ArmView, Bandit, Look, PricedBanditConfig
from junctor.policies.contexts import Context, Flat
from junctor.policies.drawing import LEAST, Choices, by_chance, exponential
from junctor.policy import Array, Policy, State


class Exp3(Bandit):
    """Besides the arms, which know the bills, it holds gains [M]: Σ quality / propensity of what was chosen."""

    name: ClassVar[str] = "exp3"
    reads: ClassVar[type[Context]] = Flat
    why: ClassVar[str] = "drawn by exponential weights"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.gains = np.zeros(len(self.arms))

    def frozen(self) -> Self:
        """The same policy without exploration."""
        made = super().frozen()
        made.gains = self.gains
        return made

    def chances(self, look: Look) -> Array:
        """The distribution that is drawn from [N, K]."""
        assert isinstance(self.config, Exp3Config)
        gamma, arms = self.config.gamma, look.value.shape[1]
        worth = look.value * self.arms.total / (1.0 + self.config.cost_weight)
        return exponential(worth * gamma / arms, gamma)

    def draw(self, look: Look, rng: np.random.Generator) -> tuple[Choices, Array]:
        """A draw by the weights."""
        found = self.chances(look)
        return by_chance(found, rng), found

    def propensity(self, look: Look, choice: Choices) -> Array:
        """Exact: the weight itself."""
        found: Array = self.chances(look)[np.arange(len(choice)), choice]
        return found

    def take(self, row: int, x: Array, quality: float, bill: float, propensity: float) -> None:
        """A gain of quality / propensity: unbiased whatever was chosen. A new target begins level with the best."""
        if row >= len(self.gains):
            self.gains = np.append(self.gains, np.full(row + 1 - len(self.gains), self.gains.max(initial=0.0)))
        self.gains[row] += quality / max(propensity, LEAST)
        super().take(row, x, quality, bill, propensity)

    def _look(self, x: Array, view: ArmView) -> Look:
        """Quality is the mean gain per outcome so far, the same for every request."""
        _, bill, spread = self.arms.stand(x[:1], view.rows)
        known = np.append(self.gains, self.gains.max(initial=0.0)) / max(1.0, self.arms.total)
        quality, bill = known[None, view.rows], np.maximum(bill, 0.0)
        value = self._worth(quality, bill, view)
        return Look(*(np.repeat(found, len(x), axis=0) for found in (quality, bill, spread, value)))

    def _chance(self, look: Look, choice: Choices) -> float:
        return float(self.propensity(look, choice)[0])

    def state(self) -> State:
        """With the gains."""
        found = super().state()
        return State(found.config, {**found.arrays, "gains": self.gains.copy()})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        made = super().from_state(state)
        made.gains = saved.array(state, "gains", (len(made.arms),)).copy()
        return made


@dataclass(frozen=True, kw_only=True)
class Exp3Config(PricedBanditConfig):
    """gamma: share of uniform exploration, and the step of the weights."""

    gamma: float = 0.1

    name: ClassVar[str] = "exp3"
    fitted: ClassVar[type[Policy]] = Exp3
    about: ClassVar[About | None] = About(
        title="Exp3, exponential weights for exploration and exploitation",
        family="online",
        status="adapted",
        source="Auer, Cesa-Bianchi, Freund, Schapire 2002, The nonstochastic multiarmed bandit problem, section 3",
        formula="P(a) = (1 - γ) softmax(γ Ĝ / M)_a + γ / M; on outcome r of the chosen a: Ĝ_a += r / P(a)",
        complexity="one decision M, one outcome 1; a fit N M",
        adapted=(
            "Ĝ counts quality alone; the cost so far is taken off at today's bill, t w c_a / c_max, so a new price counts.",
            "A target that turns up later begins with the highest Ĝ of all.",
            "A fit on a full table is lived through once in random order, only the chosen outcome being revealed.",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.gamma <= 1, "exp3.gamma", "must be in (0, 1]")

    def context(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Flat:
        """Nothing."""
        del table, features, rng
        return Flat()
