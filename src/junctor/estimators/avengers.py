"""avengers: k-means clusters, a table of each target's accuracy per cluster, the nearest clusters mixed by similarity.

Source: The Avengers and Avengers-Pro, as LLMRouterBench has them. With a_kj the accuracy of target j in cluster k,

    w_k  = softmax over the P nearest clusters of beta * cos(e(x), centre_k)
    r_j  = sum_k w_k * (a_kj - min_j a_k) / (max_j a_k - min_j a_k)

and the highest r_j is chosen. Minimum and maximum are mixed by the same weights and put r_j back on the scale of quality, which
moves all targets of a query alike: the order is the published one, and the utility's cost weight trades real quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import clustering, measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

CLUSTERS = (8, 16, 32, 64)
ROWS_PER_CLUSTER = 10
"""The grid stops where clusters would hold fewer rows than this on average."""
FLAT = 1e-12
"""Accuracies of a cluster that differ by less are equal: there is no range to scale by."""


class Avengers(Estimator):
    """Holds centres [K, D], means [K, C] and standard errors [K, M] of the clusters."""

    name: ClassVar[str] = "avengers"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self, config: AvengersConfig, columns: Columns, centres: clustering.Vectors, mean: Array, error: Array
    ) -> None:
        self.config = config
        self.targets = columns.targets
        self._columns, self._centres, self._mean, self._error = columns, centres, mean, error
        length = np.linalg.norm(centres, axis=1, keepdims=True)
        self._directions = (centres / np.maximum(length, 1e-12)).astype(np.float64).T
        self._offset = clustering.offsets(centres)
        self._mixed = np.hstack([*_scaled(mean[:, : len(self.targets)], config.scaling), mean, error])

    def predict_many(self, features: Features) -> Prediction:
        """The nearest clusters' rows, mixed [N, M]."""
        vectors = self._checked(features.vectors(self.name))
        near = vectors.astype(np.float64) @ self._directions
        return self._answer(self._weights(near) @ self._mixed)

    def predict(self, features: Features) -> Prediction:
        """The same for one request [M]."""
        vector = self._checked(features.vectors(self.name))[0]
        return self._answer(self._weights(vector.astype(np.float64).dot(self._directions)).dot(self._mixed))

    def _weights(self, near: Array) -> Array:
        """[..., K]: softmax over the nearest clusters, zero elsewhere."""
        clusters = near.shape[-1]
        count = min(self.config.nearest, clusters)
        kth = np.partition(near, clusters - count, axis=-1)[..., clusters - count, None]
        weight = np.where(near >= kth, np.exp(self.config.beta * (near - near.max(axis=-1, keepdims=True))), 0.0)
        shares: Array = weight / weight.sum(axis=-1, keepdims=True)
        return shares

    def _answer(self, mixed: Array) -> Prediction:
        """From relative accuracy [M], its least and greatest [1 + 1], means [C] and errors [M]."""
        targets, width = len(self.targets), self._columns.width
        relative, low, high = mixed[..., :targets], mixed[..., targets, None], mixed[..., targets + 1, None]
        flat = mixed[..., targets + 2 : targets + 2 + width].copy()
        flat[..., :targets] = np.clip(low + relative * (high - low), 0.0, 1.0)
        return self._columns.prediction(flat, mixed[..., targets + 2 + width :])

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, self._centres.shape[1], self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Avengers:
        """Means per cluster over the calibration rows, drawn to the target's own mean; the clusters stay."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        groups = clustering.nearest(self._checked(seen.vectors(self.name)), self._centres, self._offset)
        mean, error = measured.tables(values, 1, groups, len(self._centres), self.config.shrinkage)
        wide = self._columns.widen(self._mean, mean)
        return Avengers(self.config, columns, self._centres, wide, np.hstack([self._error, error]))

    def state(self) -> State:
        """Centres and the table."""
        config = {**saved.described(self._columns), "settings": self.config.settings()}
        return State(config, {"centres": self._centres, "mean": self._mean, "error": self._error})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; a NaN mean means "never tried"."""
        columns = saved.columns(state)
        config = configured(AvengersConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        centres = saved.array(state, "centres", (None, None), np.float32)
        mean = saved.array(state, "mean", (len(centres), columns.width), finite=False)
        return cls(config, columns, centres, mean, saved.array(state, "error", (len(centres), len(columns.targets))))


def _scaled(accuracy: Array, scaling: str) -> tuple[Array, Array, Array]:
    """Relative accuracy [K, M] per cluster, and the least and greatest it was scaled by [K, 1]; a flat cluster says 1."""
    if scaling == "none":
        return accuracy, np.zeros((len(accuracy), 1)), np.ones((len(accuracy), 1))
    low = np.where(np.isnan(accuracy), np.inf, accuracy).min(axis=1, keepdims=True)
    high = np.where(np.isnan(accuracy), -np.inf, accuracy).max(axis=1, keepdims=True)
    known = np.isfinite(low)
    low, high = np.where(known, low, 0.0), np.where(known, high, 1.0)
    spread = high - low
    flat = spread < FLAT
    relative = np.where(flat, np.where(np.isnan(accuracy), np.nan, 1.0), (accuracy - low) / np.where(flat, 1.0, spread))
    return relative, low, high


@dataclass(frozen=True, kw_only=True)
class AvengersConfig(EstimatorConfig):
    """clusters: how many; nearest: how many of them are mixed; beta: how sharply; scaling: of accuracy, within a cluster;
    shrinkage: pseudo-observations of the target's mean in every cluster.
    """

    clusters: int = 32
    nearest: int = 3
    beta: float = 9.0
    scaling: Literal["min-max", "none"] = "min-max"
    shrinkage: float = 2.0

    name: ClassVar[str] = "avengers"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = Avengers
    about: ClassVar[About | None] = About(
        title="Avengers, Avengers-Pro",
        family="neighbours and tables",
        status="adapted",
        source="The Avengers; Avengers-Pro; as released with LLMRouterBench",
        formula=(
            "w_k = softmax over the 3 nearest clusters of beta * cos(e(x), centre_k), beta = 9\n"
            "score_j = sum_k w_k * (alpha * acc_kj + (1 - alpha) * (1 - cost_kj)), acc and cost min-max scaled per cluster"
        ),
        complexity="fit: k-means, O(N K D) per round; decision: O(K (D + M))",
        adapted=(
            "Cost is traded in USD by the utility's cost weight, in place of a min-max scaled cost per cluster.",
            "The mixed relative accuracy is put back on the scale of quality, by mixing each cluster's least and greatest too.",
            "Means are drawn to the target's own mean by 2 pseudo-observations, for clusters with few recorded cells.",
            "The number of clusters is tuned over 8 to 64 on validation rows; the release takes 25 to 64.",
            "Without the self-consistency vote that the first version takes after routing.",
        ),
        claims=(
            Claim(figure="average accuracy 71.94, best of all", on="LLMRouterBench", sure="read"),
            Claim(figure="+4.0 % performance, or 31.7 % saved", on="LLMRouterBench, cost setting", sure="read"),
            Claim(figure="+7 % over GPT-5-medium, or -27 % cost", on="Avengers-Pro", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        for key in ("clusters", "nearest"):
            check(getattr(self, key) >= 1, f"avengers.{key}", "must be at least 1")
        check(0 <= self.beta < float("inf"), "avengers.beta", "must be finite and not negative")
        check(self.shrinkage >= 0, "avengers.shrinkage", "must not be negative")
        check(self.scaling in ("min-max", "none"), "avengers.scaling", "must be min-max or none")

    def candidates(self, rows: int) -> Sequence[AvengersConfig]:
        """From few clusters to many."""
        grid = [k for k in CLUSTERS if k * ROWS_PER_CLUSTER <= rows] or [min(self.clusters, CLUSTERS[0])]
        return [replace(self, clusters=k) for k in grid]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Avengers:
        """Cluster the queries, then average each target per cluster; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        vectors = np.ascontiguousarray(features.vectors(self.name), dtype=np.float32)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        centres, rows = clustering.clusters(vectors, min(self.clusters, len(vectors)), rng)
        mean, error = measured.tables(values, len(columns.targets), rows, len(centres), self.shrinkage)
        return Avengers(self, columns, centres, mean, error)
