"""carrot: a plug-in of two regressions, quality and cost, each by nearest neighbours.

Source: CARROT, Cost AwaRe Rate Optimal rouTer (Somerstep et al. 2025): estimate E[q_j | x] and E[c_j | x] and route to

    argmax_j (1 - lam) * Q_j(x) - lam * C_j(x)

which is minimax rate-optimal for any rate-optimal regressors. Cost is predicted OUTPUT TOKENS times price, plus the prompt,
whose length is known, where tokens and prices are recorded and agree with the recorded costs; else the recorded cost, by
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from junctor.about import About, Claim
from junctor.estimators import billing, saved
from junctor.estimators.knn import KNN, KNNConfig
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

NEIGHBOURS = (512, 256, 128, 64, 32, 16, 8, 4)


class Carrot(Estimator):
    """Holds one memory of vectors and outcomes for both regressions, and what is needed for bills [M, 5]."""

    name: ClassVar[str] = "carrot"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(self, config: CarrotConfig, memory: KNN, bill: Array) -> None:
        self.config, self.targets = config, memory.targets
        self._memory, self._bill = memory, bill
        self._billed = ~np.isnan(bill).any(axis=1)
        self._bills = bool(self._billed.any())

    def predict(self, features: Features) -> Prediction:
        """Neighbours' means of one request [M]; costs from tokens where they can be."""
        return self._priced(self._memory.predict(features), features)

    def expect(self, features: Features) -> Prediction:
        """The means alone."""
        return self._priced(self._memory.expect(features), features)

    def predict_many(self, features: Features) -> Prediction:
        """Neighbours' means of N requests [N, M]; costs from tokens where they can be."""
        return self._priced(self._memory.predict_many(features), features)

    def _priced(self, found: Prediction, features: Features) -> Prediction:
        if not self._bills or found.output_tokens is None:
            return found
        cost = billing.costs(self._bill, billing.lengths(features.texts), found.output_tokens)
        if found.output_tokens.ndim == 1:
            cost = cost[0]
        if found.cost_usd is not None:
            cost = np.where(self._billed, cost, found.cost_usd)
        return replace(found, cost_usd=cost)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Carrot:
        """The memory takes the new target's column; its bill is read off the calibration rows."""
        memory = self._memory.onboard(target, rows, features)
        bill = billing.bills(rows.only([target])) if self.config.cost == "tokens" else np.full((1, billing.WIDTH), np.nan)
        return Carrot(self.config, memory, np.vstack([self._bill, bill]))

    def state(self) -> State:
        """The memory's state and the bills."""
        memory = self._memory.state()
        config = {key: value for key, value in memory.config.items() if key != "settings"}
        return State({**config, "settings": self.config.settings()}, {**memory.arrays, "bill": self._bill})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; a NaN bill means that costs come from neighbours."""
        config = configured(CarrotConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        memory = KNN.from_state(State({**state.config, "settings": config.memory.settings()}, state.arrays))
        return cls(config, memory, saved.array(state, "bill", (len(memory.targets), billing.WIDTH), finite=False))


@dataclass(frozen=True, kw_only=True)
class CarrotConfig(EstimatorConfig):
    """k: neighbours of both regressions; cost: from tokens and prices where they are known, or always as recorded; shrinkage:
    pull to the mean where a target was not tried.
    """

    k: int = 64
    cost: Literal["tokens", "recorded"] = "tokens"
    shrinkage: float = 2.0

    name: ClassVar[str] = "carrot"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = Carrot
    about: ClassVar[About | None] = About(
        title="CARROT",
        family="regression",
        status="adapted",
        source="Somerstep et al. 2025, CARROT: a Cost AwaRe Rate Optimal rouTer; kNN version, code somerstep/CARROT",
        formula=(
            "route to argmax_j (1 - lam) * Q_j(x) - lam * C_j(x), Q and C by kNN regression, cosine\n"
            "C_j(x) = input tokens * price_in + predicted output tokens * price_out (SPROUT)"
        ),
        complexity="fit: none; decision: O(N D) for the neighbours, O(M) for the rest",
        adapted=(
            "The frozen encoder of the project replaces text-embedding-3-small.",
            "k is tuned once for both regressions, by the area under the cost-quality curve; the release takes 5-fold R2.",
            "lam is the utility's cost weight, in units of the dearest target: in raw USD nearly all of 0..1 is useless.",
            "Input tokens are a line in the characters of the prompt, as no tokenizer per target is at hand.",
        ),
        claims=(
            Claim(figure="GPT-4o's accuracy at about 30 % of its cost", on="SPROUT"),
            Claim(figure="only a marginal gain", on="RouterBench"),
            Claim(figure="63.87, third at the time", on="RouterArena, by its authors", sure="read"),
            Claim(figure="AUDC .72 with MiniLM", on="R2-Bench, by its authors", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.k >= 1, "carrot.k", "must be at least 1")
        check(self.cost in ("tokens", "recorded"), "carrot.cost", "must be tokens or recorded")
        check(self.shrinkage >= 0, "carrot.shrinkage", "must not be negative")

    @property
    def memory(self) -> KNNConfig:
        """The neighbours that both regressions average over."""
        return KNNConfig(k=self.k, shrinkage=self.shrinkage)

    def candidates(self, rows: int) -> Sequence[CarrotConfig]:
        """Most neighbours first, up to half of the rows."""
        return [replace(self, k=k) for k in NEIGHBOURS if k <= max(rows // 2, NEIGHBOURS[-1])]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Carrot:
        """Remember every row and read off the bills; raises UserError when there is no row."""
        memory = self.memory.fit(table, features, rng)
        bill = billing.bills(table) if self.cost == "tokens" else np.full((len(table.targets), billing.WIDTH), np.nan)
        return Carrot(self, memory, bill)
