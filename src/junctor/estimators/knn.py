"""knn: the mean outcome of the nearest recorded queries.

Source: "Rethinking Predictive Modeling for LLM Routing: When Simple kNN Beats Complex Learned Routers" (2025); the plug-in form
with predicted cost is CARROT's (2025). Similarity is the cosine of unit vectors, computed exactly. Every query that is as near
as the k-th counts, so duplicates are treated alike and the order of rows does not matter. Above EXACT_ROWS rows see knn_lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, neighbours, saved
from junctor.estimators.measured import Columns
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

EXACT_ROWS = 50_000
"""Above so many rows neighbours are looked up in an index, where the extra `ann` is installed."""
NEIGHBOURS = (5, 10, 20, 40, 80, 100, 160, 200, 300)
MANY = 100
"""From here on the grid also tries weights by similarity: among few neighbours all are about as near."""
TIE = np.float32(1e-6)
"""Similarities closer than this are equal: float32 sums differ by about as much between one row and a batch."""
LEAST_WEIGHT = 1e-200
"""Divides in the place of zero, where the quotient is not used."""
LEAST_SIMILARITY = np.float32(1e-6)
"""The weight of a neighbour that points away, under `weights = "similarity"`."""


class KNN(Estimator):
    """Holds the training vectors [n, D] and outcomes [n, C]; the squares of quality ride along as M more columns."""

    name: ClassVar[str] = "knn"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(self, config: KNNConfig, columns: Columns, vectors: NDArray[np.float32], values: Array) -> None:
        self.config = config
        self.targets = columns.targets
        self._columns, self._vectors, self._outcomes = columns, measured.paged(vectors), values
        self._rows, self._k, self._dimensions = len(vectors), min(config.k, len(vectors)), vectors.shape[1]
        self._prior = measured.means(values)
        quality = values[:, : len(self.targets)]
        self._variance = measured.variances(quality)
        both = np.hstack([values, quality**2])
        seen = ~np.isnan(both)
        gaps = ~seen.all(axis=1, keepdims=True)
        self._complete = not gaps.any()
        # One gather and one product per request bring the weighted sums of everything: values, squared qualities, and at the
        # end 1 and "has gaps"; where cells are missing, also how much is behind each sum.
        parts = [both] if self._complete else [np.nan_to_num(both), seen]
        self._values = np.hstack([*parts, np.ones_like(gaps), gaps]).astype(np.float64)
        known = np.nan_to_num(self._prior)
        self._known = np.concatenate([known, known[: len(self.targets)] ** 2])
        self._blank = np.isnan(self._prior) if np.isnan(self._prior).any() else None
        self._half = both.shape[1]
        self._ones = np.ones(self._rows)
        self._uniform = config.weights == "uniform"

    def predict(self, features: Features) -> Prediction:
        """Means over the neighbours of one request [M] and their standard errors."""
        total, count = self._sums(features)
        weight, gaps = total[-2:].tolist()
        return self._masked(total, weight, count) if gaps else self._answer(total / weight, count)

    def expect(self, features: Features) -> Prediction:
        """The means alone."""
        total, _ = self._sums(features)
        weight, gaps = total[-2:].tolist()
        width = self._columns.width
        if not gaps:
            return self._columns.prediction(total[:width] / weight)
        own = _ratio(total[:width], total[self._half : self._half + width], self._known[:width])
        return self._columns.prediction(self._pulled(total, weight, own))

    def _sums(self, features: Features) -> tuple[Array, int]:
        """Weighted sums over the neighbours of one request: one matrix-vector product, one partition, one gather."""
        near = self._vectors.dot(self._one(features))
        if self._k < self._rows:
            kth = self._rows - self._k
            rows = (near >= np.partition(near, kth)[kth] - TIE).nonzero()[0]
        else:
            rows = np.arange(self._rows)
        weights = self._ones[: len(rows)] if self._uniform else np.maximum(near.take(rows), LEAST_SIMILARITY)
        total: Array = weights.dot(self._values.take(rows, 0))
        return total, len(rows)

    def predict_many(self, features: Features) -> Prediction:
        """Means over the neighbours of N requests [N, M], block by block."""
        vectors = self._checked(features.vectors(self.name))
        width, targets = self._columns.width, len(self.targets)
        flat, error = np.empty((len(vectors), width)), np.empty((len(vectors), targets))
        for block in measured.blocks(len(vectors), self._rows):
            flat[block], error[block] = self._means(self._weights(vectors[block]))
        return self._columns.prediction(flat, error)

    def _weights(self, vectors: NDArray[np.float32]) -> Array:
        """[B, n]: the weight of each training row, zero for those that are no neighbours."""
        near = vectors @ self._vectors.T
        if self._k < self._rows:
            kth = self._rows - self._k
            chosen = near >= np.partition(near, kth, axis=1)[:, kth, None] - TIE
        else:
            chosen = np.ones(near.shape, dtype=bool)
        if self._uniform:
            return chosen.astype(np.float64)
        return np.where(chosen, np.maximum(near, LEAST_SIMILARITY), 0.0).astype(np.float64)

    def _means(self, weights: Array) -> tuple[Array, Array]:
        count = np.count_nonzero(weights, axis=1)[:, None].astype(np.float64)
        return self._from(weights @ self._values, count)

    def _from(self, total: Array, count: Array) -> tuple[Array, Array]:
        weight = total[:, -2:-1]
        found = self._answer(total / weight, count) if self._complete else self._masked(total, weight, count)
        parts = [found.quality, found.cost_usd, found.latency_s, found.output_tokens]
        assert found.quality_std is not None
        return np.concatenate([p for p in parts if p is not None], axis=1), found.quality_std

    def _answer(self, mean: Array, count: Any) -> Prediction:
        """From means of values and of squared qualities [..., C + M]."""
        width, targets = self._columns.width, len(self.targets)
        quality = mean[..., :targets]
        variance = np.maximum(mean[..., width : width + targets] - quality * quality, 0.0)
        error = np.sqrt((variance + self._variance / count) / (count + 1.0))
        return self._columns.prediction(mean[..., :width], error)

    def _masked(self, total: Array, weight: Any, count: Any) -> Prediction:
        """Each target over the neighbours that record it; those that do not weigh in `shrinkage` times as its overall mean."""
        width, targets, half = self._columns.width, len(self.targets), self._half
        own = _ratio(total[..., :half], total[..., half : 2 * half], self._known)
        mean = self._pulled(total, weight, own[..., :width])
        spread = own[..., width:] - own[..., :targets] ** 2
        times = total[..., half : half + targets] / weight * count
        return self._columns.prediction(mean, measured.standard_error(spread, times, self._variance))

    def _pulled(self, total: Array, weight: Any, own: Array) -> Array:
        """The neighbours' own means [..., C], pulled to the overall ones where few of them record a target."""
        seen = total[..., self._half : self._half + self._columns.width]
        known = self._known[: self._columns.width]
        trust = seen / np.maximum(seen + self.config.shrinkage * (1.0 - seen / weight), LEAST_WEIGHT)
        mean: Array = known + trust * (own - known)
        return mean if self._blank is None else np.where(self._blank, np.nan, mean)

    def _one(self, features: Features) -> NDArray[np.float32]:
        vectors = features.embedding
        if vectors is None or vectors.shape[1] != self._dimensions:
            vectors = self._checked(features.vectors(self.name))
        row: NDArray[np.float32] = vectors[0]
        return row

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, self._dimensions, self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> KNN:
        """Impute the new target's column: each training row takes the mean of its nearest calibration rows.

        About the square root of their number are averaged (at least 5). Other targets' neighbours stay what they were.
        """
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        nearest = replace(self.config, k=max(5, round(len(values) ** 0.5)), weights="uniform")
        one = KNN(nearest, Columns((target,), self._columns.measures), self._checked(seen.vectors(self.name)), values)
        parts = [one._means(one._weights(self._vectors[b]))[0] for b in measured.blocks(self._rows, len(values))]
        return KNN(self.config, columns, self._vectors, self._columns.widen(self._outcomes, np.concatenate(parts)))

    def state(self) -> State:
        """The training vectors and outcomes: NaN among the outcomes means "not recorded"."""
        config = {**saved.described(self._columns), "settings": self.config.settings()}
        return State(config, {"vectors": self._vectors, "values": self._outcomes})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        if "lists/codes" in state.arrays:
            from junctor.estimators.knn_lists import ListedKNN

            return ListedKNN.from_state(state)  # type: ignore[return-value]
        columns = saved.columns(state)
        config = configured(KNNConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        vectors = saved.array(state, "vectors", (None, None), np.float32)
        return cls(config, columns, vectors, saved.array(state, "values", (len(vectors), columns.width), finite=False))


def _ratio(total: Array, weight: Array, otherwise: Array) -> Array:
    """Total / weight, and `otherwise` where nothing weighs; plain operations are half the time of a masked division."""
    found: Array = np.where(weight > 0, total / np.maximum(weight, LEAST_WEIGHT), otherwise)
    return found


@dataclass(frozen=True, kw_only=True)
class KNNConfig(EstimatorConfig):
    """k: neighbours; weights: all alike or by similarity; shrinkage: pull to the mean where a target was not tried.

    index: how neighbours are found: "exact" compares with every row, "lists" with few of them (extra `ann`); "auto" takes lists
    above 50,000 rows where the extra is installed. With lists nothing is tuned: k is what is set here.
    """

    k: int = 100
    weights: Literal["uniform", "similarity"] = "uniform"
    shrinkage: float = 2.0
    index: Literal["auto", "exact", "lists"] = "auto"

    name: ClassVar[str] = "knn"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = KNN
    about: ClassVar[About | None] = About(
        title="kNN utility prediction",
        family="neighbours and tables",
        status="adapted",
        source="Rethinking Predictive Modeling for LLM Routing: When Simple kNN Beats Complex Learned Routers (2025)",
        formula="q_j(x) and c_j(x) = means over the k nearest training queries, cosine; route to argmax_j q_j - lam * c_j",
        complexity="fit: none; decision: O(N D). Above 50,000 rows: fit O(N^1.5 D) for the lists, decision O(N^0.5 D)",
        adapted=(
            "The frozen encoder of the project replaces BERT and SFR.",
            "Above 50,000 rows inverted lists find about 95 in 100 of the nearest (extra ann), and k stays at 100.",
            "Similarity weights are tried beside plain means where 100 neighbours or more are averaged.",
            "Where a target was not tried on the neighbours, it is drawn to its own mean.",
        ),
        claims=(
            Claim(
                figure="tuned kNN matches or beats learned routers", on="instruction, QA, reasoning, images", sure="abstract"
            ),
            Claim(figure="k = 100 better than k = 10", on="the same"),
            Claim(
                figure="AIQ .860 at k = 200, zero router .8228", on="RouterBench subset, measured here on MiniLM", sure="read"
            ),
            Claim(figure="57.69 / 44.60 at k = 80", on="RouterDC en, measured here on MiniLM", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.k >= 1, "knn.k", "must be at least 1")
        check(self.weights in ("uniform", "similarity"), "knn.weights", "must be uniform or similarity")
        check(self.shrinkage >= 0, "knn.shrinkage", "must not be negative")
        check(self.index in ("auto", "exact", "lists"), "knn.index", "must be auto, exact or lists")

    def candidates(self, rows: int) -> Sequence[KNNConfig]:
        """Most neighbours first, so that ties go to the smoother, up to half of the rows; weighted where many are averaged."""
        if self.listed(rows):
            return [self]
        grid = [k for k in reversed(NEIGHBOURS) if k <= max(rows // 2, NEIGHBOURS[0])]
        plain = {k: replace(self, k=k, weights="uniform") for k in grid}
        weighted = {k: replace(self, k=k, weights="similarity") for k in grid if k >= MANY}
        return [tried[k] for k in grid for tried in (plain, weighted) if k in tried]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> KNN:
        """Remember every row; raises UserError when there is none, MissingExtra when lists are asked for without `ann`."""
        measured.same_rows(table, features, self.name)
        vectors = np.ascontiguousarray(features.vectors(self.name), dtype=np.float32)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        if self.listed(len(table)):
            from junctor.estimators.knn_lists import listed

            return listed(self, table, vectors, rng)
        columns, values = measured.stack(table)
        return KNN(self, columns, vectors, values)

    def listed(self, rows: int) -> bool:
        """Whether so many rows are looked up in lists."""
        return self.index == "lists" or (self.index == "auto" and rows > EXACT_ROWS and neighbours.available())
