"""routellm-sw: a Bradley-Terry model of its own for every query, in which recorded rows count by their similarity.

A recorded row weighs γ^(1 + sim / max sim). Where every row records every target, the ratings' expected gap to the average
target is, at the maximum of the likelihood, the weighted mean of the recorded gaps: that closed form is used. Otherwise the
ratings of each query are found by Newton's method, so that a target that was tried on easy rows only gains nothing by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, pairwise, saved, typical
from junctor.estimators.knn import KNN, KNNConfig
from junctor.estimators.measured import Columns
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

GAMMAS = (10.0, 100.0, 1e3, 1e4, 1e5)
CALIBRATION_ROWS = 500
LARGEST_SLOPE = 20.0
TIES = 1e-3
"""Of all weight: a prior of ties between any two targets, for the undefeated."""


class RouteLLMSimilarity(Estimator):
    """Holds the training vectors [n, D] and qualities [n, M], the slope of quality on the expected gap, and mean costs."""

    name: ClassVar[str] = "routellm-sw"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self,
        config: RouteLLMSimilarityConfig,
        columns: Columns,
        vectors: NDArray[np.float32],
        quality: Array,
        slope: float,
        costs: Array,
    ) -> None:
        self.config, self.targets = config, columns.targets
        self._columns, self._vectors, self._recorded, self._costs = columns, measured.paged(vectors), quality, costs
        self._tried = ~np.isnan(quality).all(axis=0)
        self._shown = np.ascontiguousarray(quality[:, self._tried])
        self._complete = not np.isnan(self._shown).any()
        self._won = pairwise.won(self._shown)
        self._log_gamma = np.float32(np.log(config.gamma))
        overall = self._margins(np.ones((1, len(quality))))[0]
        blank = np.full(len(self.targets), np.nan)
        blank[self._tried] = overall
        self._overall, self._slope = overall, slope
        self._level = pairwise.level(quality, blank)

    def predict(self, features: Features) -> Prediction:
        """One pass over the training vectors [M]."""
        return self._answer(self._margins(self._weights(self._checked(features.vectors(self.name))[:1])), 0)

    def predict_many(self, features: Features) -> Prediction:
        """Qualities [N, M], block by block."""
        vectors = self._checked(features.vectors(self.name))
        width = max(len(self._vectors), len(self.targets) ** 2)
        parts = [self._margins(self._weights(vectors[block])) for block in measured.blocks(len(vectors), width)]
        return self._answer(np.concatenate(parts) if parts else np.empty((0, len(self._overall))))

    def _answer(self, margin: Array, row: int | None = None) -> Prediction:
        """The overall margins, and `slope` times what the query's own say more."""
        quality = np.full((len(margin), len(self.targets)), np.nan)
        quality[:, self._tried] = pairwise.qualities(self._overall + self._slope * (margin - self._overall), self._level)
        return typical.prediction(self._columns, quality if row is None else quality[row], self._costs)

    def _weights(self, vectors: NDArray[np.float32]) -> Array:
        """[B, n] weights of the training rows, each row of sum 1: γ^(sim / max sim); γ itself cancels."""
        near = vectors @ self._vectors.T
        near /= np.maximum(near.max(axis=1, keepdims=True), np.float32(1e-6))
        return _shares(near, self._log_gamma)

    def _margins(self, weights: Array) -> Array:
        """Expected gaps to the average of the tried targets [B, T]."""
        share = weights / weights.sum(axis=1, keepdims=True)
        wins, count = share @ self._won, self._won.shape[1]
        if self._complete:
            closed: Array = (2.0 * wins - (count - 1)) / max(count, 1)
            return closed
        ratings = pairwise.bradley_terry(wins, pairwise.met(self._shown, share), TIES)
        return pairwise.margins(ratings, count)

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, self._vectors.shape[1], self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> RouteLLMSimilarity:
        """Impute the newcomer's column: each training row takes the mean of its nearest calibration rows (√n, at least 5)."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        nearest = KNNConfig(k=max(5, round(len(values) ** 0.5)))
        one = KNN(nearest, Columns((target,), self._columns.measures), self._checked(seen.vectors(self.name)), values)
        found = one.predict_many(Features([""] * len(self._vectors), self._vectors)).quality
        costs = typical.widened(self._columns, self._costs, values)
        quality = np.hstack([self._recorded, found])
        return RouteLLMSimilarity(self.config, columns, self._vectors, quality, self._slope, costs)

    def state(self) -> State:
        """The training vectors and qualities (NaN = not recorded), slope and mean costs."""
        config = {**saved.described(self._columns), "settings": self.config.settings(), "slope": self._slope}
        return State(config, {"vectors": self._vectors, "quality": self._recorded, "costs": self._costs})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        columns = saved.columns(state)
        targets = len(columns.targets)
        config = configured(RouteLLMSimilarityConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        vectors = saved.array(state, "vectors", (None, None), np.float32)
        quality = saved.array(state, "quality", (len(vectors), targets), finite=False)
        costs = saved.array(state, "costs", (columns.width - targets,), finite=False)
        return cls(config, columns, vectors, quality, saved.entry(state, "slope", float), costs)


def _shares(near: NDArray[np.float32], log_gamma: np.float32) -> Array:
    np.multiply(near, log_gamma, out=near)
    shares: Array = np.exp(near - near.max(axis=1, keepdims=True)).astype(np.float64)
    return shares


def _slope(fitted: RouteLLMSimilarity, rng: np.random.Generator) -> float:
    """How much farther real gaps lie from the overall ones than smoothed ones do: least squares over left-out rows.

    Weights of 1 to γ smooth so heavily that the estimates keep the order of targets, but hardly leave the mean.
    """
    rows = np.sort(rng.permutation(len(fitted._vectors))[:CALIBRATION_ROWS])
    weights = fitted._weights(fitted._vectors[rows])
    weights[np.arange(len(rows)), rows] = 0.0
    weights += 1e-300  # a row alone is its own only neighbour
    told = fitted._margins(weights) - fitted._overall
    quality = fitted._shown[rows]
    seen = ~np.isnan(quality)
    centred = (
        np.where(seen, quality, 0.0) - (np.where(seen, quality, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1))[:, None]
    )
    real = np.where(seen & (seen.sum(axis=1, keepdims=True) > 1), centred - fitted._overall, 0.0)
    square = float(np.sum(np.where(seen, told, 0.0) ** 2))
    return float(np.clip(np.sum(told * real) / square, 0.0, LARGEST_SLOPE)) if square > 1e-12 else 1.0


@dataclass(frozen=True, kw_only=True)
class RouteLLMSimilarityConfig(EstimatorConfig):
    """gamma: weight of the most similar row over that of one at a right angle."""

    gamma: float = 10.0

    name: ClassVar[str] = "routellm-sw"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = RouteLLMSimilarity
    about: ClassVar[About | None] = About(
        title="RouteLLM, similarity-weighted ranking",
        family="latent traits",
        status="adapted",
        source="RouteLLM (Ong et al. 2024), similarity-weighted ranking; released code",
        formula=(
            "per query a Bradley-Terry model fitted to all recorded comparisons, row i weighing gamma^(1 + sim_i / max sim)\n"
            "P(strong beats weak | x) = sigmoid(s_strong - s_weak); many targets: all pairs, y = (1 + q_i - q_k) / 2"
        ),
        complexity="fit O(N D) and a few hundred decisions; decide O(N D + N M), with gaps O(N M² + M³)",
        adapted=(
            "Trained on pairs of recorded outcomes of one query, ties half, not on arena votes, which are not available.",
            "All pairs of M targets instead of one strong and one weak.",
            "Gaps are stretched by one slope, fitted on left-out rows, and put around the mean level to be traded with cost.",
            "For two targets this keeps the order of queries, which is what the paper thresholds.",
            "gamma is tuned on validation rows (10 to 100,000); the released code has 10.",
        ),
        claims=(
            Claim(
                figure="APGR .603, CPT50 35.40, CPT80 71.55 with gold rows; .473 on arena votes alone", on="MMLU", sure="read"
            ),
            Claim(figure="APGR .568", on="GSM8K", sure="read"),
            Claim(figure="APGR .772 (Claude pair), .767 (Llama-3.1 pair)", on="MT-Bench, transfer", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.gamma > 1, "routellm-sw.gamma", "must be more than 1")

    def candidates(self, rows: int) -> Sequence[RouteLLMSimilarityConfig]:
        """From the flattest weights to the steepest."""
        del rows
        return [replace(self, gamma=gamma) for gamma in GAMMAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> RouteLLMSimilarity:
        """Remember every row and fit the slope; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        vectors = np.ascontiguousarray(features.vectors(self.name), dtype=np.float32)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        targets = len(columns.targets)
        costs = typical.of(values, targets)
        flat = RouteLLMSimilarity(self, columns, vectors, values[:, :targets].copy(), 1.0, costs)
        return RouteLLMSimilarity(self, columns, vectors, flat._recorded, _slope(flat, rng), costs)
