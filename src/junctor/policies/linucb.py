"""linucb: the target with the highest upper bound on what it is worth, given the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from junctor.about import About, Claim
from junctor.estimators.settings import check
from junctor.policies.banditry import Bandit, LinearBanditConfig, Look
from junctor.policies.drawing import Choices, top
from junctor.policy import Array, Policy


class LinUCB(Bandit):
    """Certain of its choice: what it learns is what it chose to look at, so its own log cannot judge other policies."""

    name: ClassVar[str] = "linucb"
    why: ClassVar[str] = "highest upper confidence bound"

    def draw(self, look: Look, rng: np.random.Generator) -> tuple[Choices, Array]:
        """The highest bound."""
        del rng
        assert isinstance(self.config, LinUCBConfig)
        score = look.value + self.config.alpha * look.spread
        return top(score), score

    def propensity(self, look: Look, choice: Choices) -> Array:
        """1."""
        del look
        return np.ones(len(choice))


@dataclass(frozen=True, kw_only=True)
class LinUCBConfig(LinearBanditConfig):
    """alpha: how many standard widths a target's doubt counts in its favour."""

    alpha: float = 0.2

    name: ClassVar[str] = "linucb"
    fitted: ClassVar[type[Policy]] = LinUCB
    about: ClassVar[About | None] = About(
        title="LinUCB with disjoint linear models",
        family="online",
        status="adapted",
        source="Li, Chu, Langford, Schapire 2010, A contextual-bandit approach to personalized news article recommendation, "
        "Algorithm 1; on model choice: GreenServ",
        formula="A_a = λI + Σ x xᵀ, b_a = λθ_0 + Σ r x, θ_a = A_a⁻¹ b_a; take argmax_a θ_aᵀx - w c_a / c_max + α √(xᵀ A_a⁻¹ x)",
        complexity="one decision and one outcome M d² and d² steps, d ≤ 32; a fit N M d² after one D³ of principal axes",
        adapted=(
            "x is 1 and the first 8 principal axes of the frozen embedding, where the paper has hand-made article features.",
            "Quality and cost are learned apart and traded when deciding, where the paper has one reward.",
            "A target that was never tried is expected to be right (θ_0), so that a new one is tried; the paper's θ_0 is zero.",
            "A fit on a full table is lived through once in random order, only the chosen outcome being revealed.",
        ),
        claims=(
            Claim(
                figure="final cumulative regret 417.3 ± 16.5 (random 607.3)",
                on="GreenServ, 2,500 queries x 16 models",
                sure="read",
            ),
            Claim(figure="accuracy .624 (random .511)", on="GreenServ, 2,500 queries x 16 models", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.alpha < float("inf"), "linucb.alpha", "must be finite and not negative")
