"""greedy-feasible: the best predicted quality, or quality per cost, among the targets that can still be paid.

The simplest rule that respects a budget, and the bar of every cleverer one: most of what PORT's table shows as its lead are
requests that its baselines lose because they insist on a target whose budget is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from junctor.about import About
from junctor.estimators.settings import check as require
from junctor.policies.allocating import Allocator, AllocatorConfig, served
from junctor.policies.pricing import dearest_for_unknown
from junctor.policy import Array, Policy

LEAST_COST = 1e-12
"""USD: a call that costs nothing is not infinitely good."""


class GreedyFeasible(Allocator):
    """Knows no prices; `by` says what is compared."""

    name: ClassVar[str] = "greedy-feasible"
    config: GreedyFeasibleConfig

    def allocate(
        self, quality: Array, cost: Array, budgets: Array, rng: np.random.Generator, *, check: bool, billed: Array | None = None
    ) -> NDArray[np.intp]:
        """Request by request the best that can be paid; without `check`, the best, and lost when it cannot be paid."""
        del rng
        worth = self.worth(quality, cost)
        return served(np.where(np.isnan(worth), -np.inf, worth), cost, budgets, billed, check=check)

    def worth(self, quality: Array, cost: Array) -> Array:
        """[..., M] predicted quality, or that per predicted USD."""
        if self.config.by == "quality":
            return quality
        return np.asarray(quality / np.maximum(dearest_for_unknown(cost), LEAST_COST))


@dataclass(frozen=True, kw_only=True)
class GreedyFeasibleConfig(AllocatorConfig):
    """by: what is greedy about it, "quality" or "quality_per_cost"."""

    by: Literal["quality", "quality_per_cost"] = "quality"

    name: ClassVar[str] = "greedy-feasible"
    fitted: ClassVar[type[Policy]] = GreedyFeasible
    about: ClassVar[About | None] = About(
        title="Greedy among the feasible",
        family="allocation under budget",
        status="ours",
        source="the baselines greedy-perf and greedy-cost of PORT's released code, with the check that they lack",
        formula="argmax_j q^_j (or q^_j / c^_j) over the j whose remaining budget is at least c^_j",
        complexity="fit: that of the estimator; a decision: one prediction, O(M)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.by in ("quality", "quality_per_cost"), "greedy-feasible.by", "must be quality or quality_per_cost")


GreedyFeasible.config_type = GreedyFeasibleConfig
