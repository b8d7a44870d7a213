"""knn above EXACT_ROWS rows: the same means over neighbours from inverted lists, so that a decision hardly grows with rows.

What differs from the exact form: vectors are kept in 8 bits a dimension and outcomes as float32 (a million rows of 20 targets
take well under a gigabyte); about one neighbour in twenty is missed for one that is nearly as near; and exactly k are averaged,
however many are as near as the k-th. tests/estimators/test_neighbours.py bounds what that does to predictions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from junctor.estimators import measured, saved
from junctor.estimators.knn import KNN, LEAST_SIMILARITY, KNNConfig
from junctor.estimators.measured import Columns
from junctor.estimators.neighbours import Lists
from junctor.estimators.settings import configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Prediction, State

PART = "lists/"
Outcomes = NDArray[np.float32]


class ListedKNN(KNN):
    """Holds the lists and the outcomes [n, C] in their order; NaN where nothing was recorded."""

    def __init__(self, config: KNNConfig, columns: Columns, lists: Lists, values: Outcomes) -> None:
        self.config, self.targets = config, columns.targets
        self._columns, self._lists, self._recorded = columns, lists, values
        self._rows, self._k, self._dimensions = len(values), min(config.k, len(values)), lists.width
        self._prior, self._variance = _moments(values, len(columns.targets))
        self._complete = not any(np.isnan(values[block]).any() for block in measured.blocks(len(values), columns.width))
        known = np.nan_to_num(self._prior)
        self._known = np.concatenate([known, known[: len(self.targets)] ** 2])
        self._blank = np.isnan(self._prior) if np.isnan(self._prior).any() else None
        self._half = columns.width + len(self.targets)
        self._ones = np.ones(self._k)
        self._uniform = config.weights == "uniform"

    def expect(self, features: Features) -> Prediction:
        """The means alone; without gaps, one search and one product."""
        if not self._complete:
            return super().expect(features)
        weights, found = self._near(features)
        return self._columns.prediction(weights.dot(found) / weights.sum())

    def _sums(self, features: Features) -> tuple[Array, int]:
        weights, found = self._near(features)
        return self._total(weights[None], found[None])[0], len(found)

    def _near(self, features: Features) -> tuple[Array, Array]:
        """Weights [k] and outcomes [k, C] of the neighbours of one request."""
        near, places = self._lists.nearest(self._one(features), self._k)
        weights = self._ones[: len(places)] if self._uniform else np.maximum(near, LEAST_SIMILARITY).astype(np.float64)
        return weights, self._recorded.take(places, 0).astype(np.float64)

    def _total(self, weights: Array, found: Array) -> Array:
        """Weighted sums [B, W] in the layout of the exact form, from weights [B, k] and outcomes [B, k, C]."""
        both = np.concatenate([found, found[..., : len(self.targets)] ** 2], axis=-1)
        ends = np.ones((*found.shape[:2], 2))
        if self._complete:
            ends[..., 1] = 0.0
            return np.asarray((weights[:, None] @ np.concatenate([both, ends], axis=-1))[:, 0])
        seen = ~np.isnan(both)
        ends[..., 1] = ~seen.all(axis=-1)
        return np.asarray((weights[:, None] @ np.concatenate([np.nan_to_num(both), seen, ends], axis=-1))[:, 0])

    def predict_many(self, features: Features) -> Prediction:
        """Means over the neighbours of N requests [N, M], block by block."""
        vectors = self._checked(features.vectors(self.name))
        flat, error = np.empty((len(vectors), self._columns.width)), np.empty((len(vectors), len(self.targets)))
        for block in measured.blocks(len(vectors), self._k * self._columns.width * 4):
            near, places = self._lists.nearest_many(vectors[block], self._k)
            found = places >= 0
            weights = np.ones(near.shape) if self._uniform else np.maximum(near, LEAST_SIMILARITY).astype(np.float64)
            weights = np.where(found, weights, 0.0)
            total = self._total(weights, self._recorded[np.maximum(places, 0)].astype(np.float64))
            flat[block], error[block] = self._from(total, found.sum(axis=1, keepdims=True).astype(np.float64))
        return self._columns.prediction(flat, error)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> KNN:
        """As in the exact form: each training row takes the mean of its nearest calibration rows."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        nearest = replace(self.config, k=max(5, round(len(values) ** 0.5)), weights="uniform")
        one = KNN(nearest, Columns((target,), self._columns.measures), self._checked(seen.vectors(self.name)), values)
        wide = np.empty((self._rows, columns.width), dtype=np.float32)
        for block in measured.blocks(self._rows, max(len(values), columns.width)):
            added = one._means(one._weights(self._lists.vectors(block)))[0]
            wide[block] = self._columns.widen(self._recorded[block].astype(np.float64), added)
        return ListedKNN(self.config, columns, self._lists, wide)

    def state(self) -> State:
        """The lists under `lists/` and the outcomes."""
        config = {**saved.described(self._columns), "settings": self.config.settings()}
        arrays = {PART + name: values for name, values in self._lists.arrays().items()}
        return State(config, {**arrays, "values": self._recorded})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; raises MissingExtra where faiss is not installed."""
        columns = saved.columns(state)
        config = configured(KNNConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        parts = {key.removeprefix(PART): values for key, values in state.arrays.items() if key.startswith(PART)}
        lists = Lists.from_arrays(parts, f"{cls.name}.index")
        values = saved.array(state, "values", (len(lists), columns.width), np.float32, finite=False)
        return cls(config, columns, lists, values)


def listed(config: KNNConfig, table: OutcomeTable, vectors: NDArray[np.float32], rng: np.random.Generator) -> ListedKNN:
    """Fit: build the lists, and put the outcomes into their order. Raises MissingExtra without faiss."""
    lists, order = Lists.build(vectors, rng, f"{config.name}.index")
    columns, values = measured.stack(table)
    ordered = np.empty(values.shape, dtype=np.float32)
    for block in measured.blocks(len(values), columns.width):
        ordered[block] = values[order[block]]
    return ListedKNN(config, columns, lists, ordered)


def _moments(values: Outcomes, targets: int) -> tuple[Array, Array]:
    """Means [C] of what was recorded and variances [M] of quality, as `measured` has them, without a copy of everything."""
    blocks = measured.blocks(len(values), values.shape[1])
    total, square, times = (np.zeros(values.shape[1]) for _ in range(3))
    for block in blocks:
        part = values[block].astype(np.float64)
        total += np.nansum(part, axis=0)
        times += (~np.isnan(part)).sum(axis=0)
    mean = np.divide(total, times, out=np.full(len(total), np.nan), where=times > 0)
    for block in blocks:
        square += np.nansum((values[block].astype(np.float64) - mean) ** 2, axis=0)
    variance = np.where(times > 1, square / np.maximum(times, 1.0), measured.UNKNOWN_VARIANCE)
    return mean, variance[:targets]
