"""Piecewise linear prediction: a linear model for each group of queries, drawn to a shared one where the group has few rows.

    y(x | group k) = shared(x) + n_k / (n_k + s) * own_k(x)

own_k is ridge on what the shared model leaves over in the rows of group k; n_k counts the rows that record the column. So a
target that a group never tried is predicted as everywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.regression import ridge
from junctor.policy import Array, Prediction, State

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Pieces:
    """weights [K, D, C], bias [K, C] (NaN = never tried), bounds [2, C] that no prediction leaves."""

    columns: Columns
    weights: NDArray[np.float32]
    bias: Array
    bounds: Array

    def predict(self, vector: NDArray[np.float32], group: int) -> Prediction:
        """[M] for one vector of a group."""
        return self._answer(vector.dot(self.weights[group]).astype(np.float64) + self.bias[group])

    def predict_many(self, vectors: NDArray[np.float32], groups: Ints) -> Prediction:
        """[N, M]."""
        flat = np.empty((len(vectors), self.columns.width))
        for group in np.unique(groups).tolist():
            rows = groups == group
            flat[rows] = vectors[rows] @ self.weights[group]
        return self._answer(flat + self.bias[groups])

    def _answer(self, flat: Array) -> Prediction:
        return self.columns.prediction(np.minimum(np.maximum(flat, self.bounds[0]), self.bounds[1]))

    def widen(self, target: str, other: Pieces) -> Pieces:
        """With one more target, known by `other` in the same groups."""
        widen = self.columns.widen
        weights = widen(self.weights.astype(np.float64), other.weights.astype(np.float64)).astype(np.float32)
        columns = self.columns.plus(target)
        return Pieces(columns, np.ascontiguousarray(weights), widen(self.bias, other.bias), widen(self.bounds, other.bounds))

    def state(self) -> State:
        """As plain data."""
        arrays: dict[str, NDArray[Any]] = {"weights": self.weights, "bias": self.bias, "bounds": self.bounds}
        return State(saved.described(self.columns), arrays)

    @classmethod
    def from_state(cls, state: State) -> Pieces:
        """The inverse of `state`."""
        columns = saved.columns(state)
        weights = saved.array(state, "weights", (None, None, columns.width), np.float32)
        bias = saved.array(state, "bias", (len(weights), columns.width), finite=False)
        return cls(columns, weights, bias, saved.array(state, "bounds", (2, columns.width), finite=False))


def shared_fit(x: Array, values: Array, alpha: float) -> tuple[Array, Array]:
    """Ridge over all rows: weights [D, C], bias [C]."""
    return ridge(x, values, alpha)


def own_fit(x: Array, values: Array, shared: tuple[Array, Array], alpha: float, shrinkage: float) -> tuple[Array, Array]:
    """The shared model plus what one group's rows add to it: weights [D, C], bias [C]."""
    if not len(x):
        return shared
    left = values - (x @ shared[0] + shared[1])
    weights, bias = ridge(x, left, alpha)
    times = (~np.isnan(left)).sum(axis=0)
    trust = times / np.maximum(times + shrinkage, 1e-12)
    return shared[0] + weights * trust, shared[1] + np.nan_to_num(bias) * trust


def bounds_of(values: Array, targets: int) -> Array:
    """[2, C]: [0, 1] for quality, for the rest the least and most that was recorded; NaN where nothing was."""
    seen = ~np.isnan(values)
    low = np.where(seen, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(seen, values, -np.inf).max(axis=0, initial=-np.inf)
    bounds = np.where(seen.any(axis=0), np.stack([low, high]), np.nan)
    bounds[0, :targets], bounds[1, :targets] = 0.0, 1.0
    return bounds


def flat_fit(values: Array, width: int) -> tuple[Array, Array]:
    """The means alone: weights [D, C] of zero, bias [C]."""
    return np.zeros((width, values.shape[1])), measured.means(values)
