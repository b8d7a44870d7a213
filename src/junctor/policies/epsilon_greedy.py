"""epsilon-greedy: the best of what is known, and now and then any target at all; less and less often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from junctor.about import About, Claim
from junctor.estimators.settings import check
from junctor.policies.banditry import Bandit, LinearBanditConfig, Look
from junctor.policies.drawing import Choices, mostly_top, mostly_top_propensity
from junctor.policy import Array, Policy


class EpsilonGreedy(Bandit):
    """Explores with probability max(floor, ε decayᵗ) after t outcomes."""

    name: ClassVar[str] = "epsilon-greedy"
    why: ClassVar[str] = "best of what is known, or one drawn at random"

    @property
    def epsilon(self) -> float:
        """How often it explores now."""
        config = self.config
        assert isinstance(config, EpsilonGreedyConfig)
        return float(max(config.floor, config.epsilon * config.decay**self.arms.total))

    def draw(self, look: Look, rng: np.random.Generator) -> tuple[Choices, Array]:
        """Mostly the best."""
        return mostly_top(look.value, self.epsilon, rng), look.value

    def propensity(self, look: Look, choice: Choices) -> Array:
        """Exact, and never zero: this log can judge other policies."""
        return mostly_top_propensity(look.value, self.epsilon, choice)


@dataclass(frozen=True, kw_only=True)
class EpsilonGreedyConfig(LinearBanditConfig):
    """epsilon: how often it explores at first; decay: its factor per outcome; floor: below which it never falls."""

    epsilon: float = 0.3
    decay: float = 0.995
    floor: float = 0.01

    name: ClassVar[str] = "epsilon-greedy"
    fitted: ClassVar[type[Policy]] = EpsilonGreedy
    about: ClassVar[About | None] = About(
        title="Contextual ε-greedy with decay",
        family="online",
        status="adapted",
        source="Sutton and Barto 2018, Reinforcement learning, section 2.2, over linear models; on model choice: GreenServ",
        formula="with probability ε_t = max(ε_min, ε_0 dᵗ) any target, else argmax_a θ_aᵀx - w c_a / c_max; "
        "P(a) = ε_t / M + (1 - ε_t) [a is best]",
        complexity="one decision and one outcome M d and d² steps, d ≤ 32; a fit N M d² after one D³ of principal axes",
        adapted=(
            "x is 1 and the first 8 principal axes of the frozen embedding.",
            "Quality and cost are learned apart and traded when deciding.",
            "A fit on a full table is lived through once in random order, only the chosen outcome being revealed.",
        ),
        unverified=("GreenServ's own schedule of ε.",),
        claims=(
            Claim(
                figure="final cumulative regret 421.0, linear (random 607.3)",
                on="GreenServ, 2,500 queries x 16 models",
                sure="read",
            ),
            Claim(
                figure="final cumulative regret 457.7, without context", on="GreenServ, 2,500 queries x 16 models", sure="read"
            ),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("epsilon", "decay", "floor"):
            check(0 <= getattr(self, key) <= 1, f"epsilon-greedy.{key}", "must be in [0, 1]")
        check(self.floor > 0, "epsilon-greedy.floor", "must be over 0, or propensities vanish")
