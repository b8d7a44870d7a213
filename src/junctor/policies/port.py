"""port: prices learned once, on the first requests of a stream; afterwards the best of quality less price, at no further cost.

Source: PORT, "training-free online routing under token budgets", and its authors' released code (algo.py, test.py). Estimates
are the means of the 5 nearest recorded queries. Costs are in units of the budget per request here, so that alpha needs no
knowledge of what a call costs: `alpha` = 2 is about the authors' 1e-4 on RouterBench.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.estimators.settings import check as require
from junctor.policies.allocating import Allocator, AllocatorConfig, served
from junctor.policies.pricing import dearest_for_unknown, dual_prices
from junctor.policy import Array, Policy


class Port(Allocator):
    """Draws at random until the window is full, then solves for prices once."""

    name: ClassVar[str] = "port"
    config: PortConfig

    def allocate(
        self, quality: Array, cost: Array, budgets: Array, rng: np.random.Generator, *, check: bool, billed: Array | None = None
    ) -> NDArray[np.intp]:
        """The published procedure: a random share of the stream (over the targets and one "drop" arm), prices, exploitation."""
        rows, targets = quality.shape
        first = min(math.ceil(self.config.explore * rows), rows)
        drawn = rng.integers(targets + 1, size=first)
        scores = np.empty(quality.shape)
        scores[:first] = rng.random((first, targets))
        scores[np.arange(first)[drawn < targets], drawn[drawn < targets]] = 2.0
        scores[:first][drawn == targets] = -np.inf
        if first < rows:
            prices = self.solve(quality[:first], cost[:first], budgets, first / rows, rows)
            scores[first:] = quality[first:] - prices * dearest_for_unknown(cost[first:])
        scores[np.isnan(quality)] = -np.inf
        if self.config.decline:
            scores[first:][scores[first:] < 0.0] = -np.inf
        return served(scores, cost, budgets, billed, check=check)

    def solve(self, quality: Array, cost: Array, budgets: Array, share: float, rows: float) -> Array:
        """Prices [M] in quality per USD from the first requests of a stream of `rows`."""
        total = budgets[np.isfinite(budgets)].sum()
        unit = total / rows if total > 0 else 1.0
        gamma = dual_prices(quality, cost / unit, budgets / unit, share, self.config.alpha, decline=self.config.decline)
        return gamma / (self.config.alpha * unit)

    def exploring(self) -> bool:
        """Until the window holds the configured share of the horizon."""
        return self.bounded and self.config.explore > 0 and len(self.window) < self._first

    def collecting(self) -> bool:
        """As long as it explores."""
        return self.exploring()

    def collected(self) -> None:
        """The window is full: solve once. Without scipy prices stay 0, and reasons say that quality alone decides."""
        if len(self.window) == self._first:
            quality, cost = self.seen()
            try:
                self.prices = self.solve(quality, cost, self.budgets, self.config.explore, self.config.horizon)
            except ModuleNotFoundError:
                self.prices = np.zeros(len(self.targets))

    @property
    def _first(self) -> int:
        return math.ceil(self.config.explore * self.config.horizon)


@dataclass(frozen=True, kw_only=True)
class PortConfig(AllocatorConfig):
    """alpha: worth of quality against the budget per request; explore: share drawn at random; horizon: requests that budgets
    are for; decline: leave a request unanswered that is not worth its price.
    """

    alpha: float = 2.0
    explore: float = 0.025
    horizon: int = 10_000
    decline: bool = False

    name: ClassVar[str] = "port"
    fitted: ClassVar[type[Policy]] = Port
    about: ClassVar[About | None] = About(
        title="PORT",
        family="allocation under budget",
        status="adapted",
        source='PORT, "Training-free online routing under token budgets", and its released code (fzwark/PORT: algo.py)',
        formula=(
            "first eps N requests: uniform over M targets and a drop arm\n"
            "once: minimise F(γ) = eps Σ_i γ_i B_i + Σ_{j in P} max_i (α d^_ij - g^_ij γ_i) over γ in [0, 1]^M by L-BFGS-B\n"
            "afterwards: argmax_i α d^_ij - γ_i g^_ij; lost when that target's budget is gone"
        ),
        adapted=(
            "Exact neighbours (an index above 50,000 rows) take the place of HNSW.",
            "L-BFGS-B is given the subgradient; the authors' code leaves it to finite differences.",
            "Costs are measured in units of the budget per request, so that alpha does not depend on the currency.",
            "While serving, exploration has no drop arm, and `check` skips what cannot be paid unless it is switched off.",
            "Without budgets it is the plug-in rule over the same estimates.",
        ),
        complexity="fit: that of the estimator; prices: one L-BFGS-B over eps N x M numbers; a decision: one prediction, O(M)",
        claims=(
            Claim(
                figure="performance 2718.6 at $0.447, 5195 served, 84.66% of the estimates' optimum",
                on="RouterBench 0-shot, 10,000 requests",
                sure="read",
            ),
            Claim(figure="performance 4513.1, 75.99% of the estimates' optimum", on="SPROUT", sure="read"),
            Claim(figure="performance 1465", on="Open LLM leaderboard v2", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.alpha < float("inf"), "port.alpha", "must be positive and finite")
        require(0 <= self.explore <= 1, "port.explore", "must be a share, in [0, 1]")
        require(self.horizon >= 1, "port.horizon", "must be at least 1")


Port.config_type = PortConfig
