"""kmeans-table: each target's mean per cluster of queries. The label table for data without labels.

Source: UniRoute's cluster map (Jitkrittum et al. 2025), where a target is described by its error per cluster, so that a new one
needs only a few calibration rows. Clusters are scikit-learn's k-means; predicting needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

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

CLUSTERS = (5, 10, 20, 40, 80)
ROWS_PER_CLUSTER = 10
"""The grid stops where clusters would hold fewer rows than this on average."""


class KMeansTable(Estimator):
    """Holds centres [K, D], means [K, C] and standard errors [K, M]."""

    name: ClassVar[str] = "kmeans-table"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self, config: KMeansTableConfig, columns: Columns, centres: NDArray[np.float32], mean: Array, error: Array
    ) -> None:
        measured.frozen(mean, error)
        self.config = config
        self.targets = columns.targets
        self._columns, self._centres, self._mean, self._error = columns, centres, mean, error
        self._offset = clustering.offsets(centres)
        self._answers = [columns.prediction(m, e) for m, e in zip(mean, error, strict=True)]

    def predict(self, features: Features) -> Prediction:
        """The row of the nearest centre [M]."""
        vector = self._checked(features.vectors(self.name))[0]
        return self._answers[int((self._centres.dot(vector) - self._offset).argmax())]

    def predict_many(self, features: Features) -> Prediction:
        """The rows of N nearest centres."""
        rows = self._nearest(features)
        return self._columns.prediction(self._mean[rows], self._error[rows])

    def _nearest(self, features: Features) -> NDArray[np.intp]:
        return clustering.nearest(self._checked(features.vectors(self.name)), self._centres, self._offset)

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, self._centres.shape[1], self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> KMeansTable:
        """Means per cluster over the calibration rows, drawn to the target's own mean; the clusters stay."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        mean, error = measured.tables(values, 1, self._nearest(seen), len(self._centres), self.config.shrinkage)
        wide = self._columns.widen(self._mean, mean)
        return KMeansTable(self.config, columns, self._centres, wide, np.hstack([self._error, error]))

    def state(self) -> State:
        """Centres and the table."""
        config = {**saved.described(self._columns), "settings": self.config.settings()}
        return State(config, {"centres": self._centres, "mean": self._mean, "error": self._error})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; a NaN mean means "never tried"."""
        columns = saved.columns(state)
        config = configured(KMeansTableConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        centres = saved.array(state, "centres", (None, None), np.float32)
        mean = saved.array(state, "mean", (len(centres), columns.width), finite=False)
        return cls(config, columns, centres, mean, saved.array(state, "error", (len(centres), len(columns.targets))))


@dataclass(frozen=True, kw_only=True)
class KMeansTableConfig(EstimatorConfig):
    """clusters: how many, at most one per row; shrinkage: pseudo-observations of the target's mean in every cluster."""

    clusters: int = 20
    shrinkage: float = 10.0

    name: ClassVar[str] = "kmeans-table"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = KMeansTable
    about: ClassVar[About | None] = About(
        title="Cluster table",
        family="bars",
        status="ours",
        source="folklore; the table that UniRoute (Jitkrittum et al. 2025) and Avengers are built on",
        formula="q_j(x) = mean outcome of j in the k-means cluster of x, drawn to the mean of j; cost likewise, per cluster",
        complexity="fit: k-means, O(N K D) per round; decision: O(K D)",
        claims=(
            Claim(figure="AIQ .853 with K = 10", on="RouterBench subset, measured here on MiniLM vectors", sure="read"),
            Claim(figure="56.17 with K = 20", on="RouterDC en, in distribution, measured here on MiniLM vectors", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.clusters >= 1, "kmeans-table.clusters", "must be at least 1")
        check(self.shrinkage >= 0, "kmeans-table.shrinkage", "must not be negative")

    def candidates(self, rows: int) -> Sequence[KMeansTableConfig]:
        """From few clusters to many."""
        grid = [k for k in CLUSTERS if k * ROWS_PER_CLUSTER <= rows] or [min(self.clusters, CLUSTERS[0])]
        return [replace(self, clusters=k) for k in grid]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> KMeansTable:
        """Cluster the queries, then average each target per cluster; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        vectors = np.ascontiguousarray(features.vectors(self.name), dtype=np.float32)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        centres, rows = clustering.clusters(vectors, min(self.clusters, len(vectors)), rng)
        mean, error = measured.tables(values, len(columns.targets), rows, len(centres), self.shrinkage)
        return KMeansTable(self, columns, centres, mean, error)
