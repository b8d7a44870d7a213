"""`by-length`: expects of a prompt what came of recorded prompts of about its length. An estimator is this much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from junctor import Estimator, EstimatorConfig, Features, OutcomeTable, Prediction, State
from junctor.about import About
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns


class ByLength(Estimator):
    """Holds mean outcomes [B, C] and standard errors [B, M] of prompts of 0, 1, 2-3, 4-7, 8-15, … words."""

    name = "by-length"

    def __init__(self, columns: Columns, mean: np.ndarray, error: np.ndarray) -> None:
        measured.frozen(mean, error)
        self.targets = columns.targets
        self._columns, self._mean, self._error = columns, mean, error

    def predict_many(self, features: Features) -> Prediction:
        """The rows of N lengths."""
        bins = _bins(features, len(self._mean))
        return self._columns.prediction(self._mean[bins], self._error[bins])

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> ByLength:
        """The same means of one more target, over the rows that record it."""
        values, seen = measured.calibration(self._columns, target, rows, features)
        count = len(self._mean)
        mean, error = measured.tables(values, 1, _bins(seen, count), count, 10.0)
        wide = self._columns.widen(self._mean, mean)
        return ByLength(self._columns.plus(target), wide, np.hstack([self._error, error]))

    def state(self) -> State:
        """Plain data."""
        return State(saved.described(self._columns), {"mean": self._mean, "error": self._error})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """From plain data."""
        columns = saved.columns(state)
        mean = saved.array(state, "mean", (None, columns.width), finite=False)
        return cls(columns, mean, saved.array(state, "error", (len(mean), len(columns.targets))))


def _bins(features: Features, count: int) -> np.ndarray:
    return np.array([min(len(text.split()).bit_length(), count - 1) for text in features.texts], dtype=np.intp)


@dataclass(frozen=True, kw_only=True)
class ByLengthConfig(EstimatorConfig):
    """bins: how many lengths are told apart, each twice the one before."""

    bins: int = 8

    name: ClassVar[str] = "by-length"
    fitted = ByLength
    about = About(
        title="Mean outcome by prompt length",
        family="neighbours and tables",
        status="ours",
        source="an example",
        formula="q_j(x) = mean outcome of j on recorded prompts of about the length of x",
        complexity="fit: O(N M); decision: O(M)",
    )

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> ByLength:
        """Means per length, drawn to the target's own mean where little was recorded."""
        measured.same_rows(table, features, self.name)
        columns, values = measured.stack(table)
        groups = _bins(features, self.bins)
        return ByLength(columns, *measured.tables(values, len(columns.targets), groups, self.bins, 10.0))
