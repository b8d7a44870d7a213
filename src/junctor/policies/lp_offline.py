"""lp-offline: the linear program over the whole stream, which nobody can run before the stream is over. A bound, not a rival.

On a recorded stream (`allocate`) it sees every request first. As a policy that serves, it decides by the budgets' dual prices
in the same program over its training rows: right when what comes is like what was recorded. Prices are set against predictions,
so the program is given predictions too, of rows that the estimator was not fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.estimators.settings import check as require
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.allocating import Allocator, AllocatorConfig, served
from junctor.policies.pricing import optimum
from junctor.policy import Array, Policy

MOST_ROWS = 5000
"""So many training rows are enough for M prices."""


class LPOffline(Allocator):
    """Prices are those of the training rows."""

    name: ClassVar[str] = "lp-offline"
    config: LPOfflineConfig

    def allocate(
        self, quality: Array, cost: Array, budgets: Array, rng: np.random.Generator, *, check: bool, billed: Array | None = None
    ) -> NDArray[np.intp]:
        """The optimum for these estimates, rounded: a request that it splits goes to the largest part."""
        del rng
        return served(optimum(quality, cost, budgets).scores(quality, cost), cost, budgets, billed, check=check)


@dataclass(frozen=True, kw_only=True)
class LPOfflineConfig(AllocatorConfig):
    """horizon: how many requests the budgets are for."""

    horizon: int = 10_000

    name: ClassVar[str] = "lp-offline"
    fitted: ClassVar[type[Policy]] = LPOffline
    about: ClassVar[About | None] = About(
        title="Offline linear program",
        family="allocation under budget",
        status="adapted",
        source="the approximate and the true optimum of PORT's released code (fzwark/PORT: test.py)",
        formula="max Σ q_ij x_ij, Σ_j x_ij <= 1, Σ_i c_ij x_ij <= B_j, x >= 0 over the whole stream",
        adapted=(
            "It needs the whole stream: as a policy it decides by the prices of the program over predictions of training rows.",
        ),
        complexity="fit: one linear program of N rows x M (at most 5,000 rows); a decision: one prediction, O(M)",
        claims=(
            Claim(
                figure="performance 3211.4 with estimates, 6376.9 with true outcomes",
                on="RouterBench 0-shot, 10,000 requests",
                sure="read",
            ),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.horizon >= 1, "lp-offline.horizon", "must be at least 1")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Policy:
        """Fit the estimator; with budgets, also the prices: of one half of the rows as the other half predicts them."""
        made = super().fit(table, features, rng)
        assert isinstance(made, LPOffline)
        if made.bounded and len(table) > 1:
            order = rng.permutation(len(table))
            shown, priced = np.sort(order[: len(table) // 2]), np.sort(order[len(table) // 2 :][:MOST_ROWS])
            half = self.plug_in.estimator.fit(table.take(shown), features.take(shown), rng)
            found = half.predict_many(features.take(priced))
            if found.cost_usd is not None:
                made.prices = optimum(found.quality, found.cost_usd, made.budgets * (len(priced) / self.horizon)).prices
        return made


LPOffline.config_type = LPOfflineConfig
