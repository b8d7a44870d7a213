"""mean: each target's training mean, whatever the query. With a utility on top it is the best single target at every price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from junctor.about import About
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State


class Mean(Estimator):
    """Holds C means and M standard errors; `predict` hands out the same read-only arrays every time."""

    name: ClassVar[str] = "mean"

    def __init__(self, columns: Columns, mean: Array, error: Array) -> None:
        measured.frozen(mean, error)
        self.targets = columns.targets
        self._columns, self._mean, self._error = columns, mean, error
        self._answer = columns.prediction(mean, error)

    def predict(self, features: Features) -> Prediction:
        """The means [M]."""
        del features
        return self._answer

    def predict_many(self, features: Features) -> Prediction:
        """The means, N times."""
        rows = len(features)
        return self._columns.prediction(
            np.broadcast_to(self._mean, (rows, len(self._mean))), np.broadcast_to(self._error, (rows, len(self._error)))
        )

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Mean:
        """The new target's mean over the calibration rows that record it."""
        columns = self._columns.plus(target)
        values, _ = measured.calibration(self._columns, target, rows, features)
        error = _errors(values[:, :1])
        return Mean(columns, self._columns.widen(self._mean, measured.means(values)), np.append(self._error, error))

    def state(self) -> State:
        """The means and their errors."""
        return State(saved.described(self._columns), {"mean": self._mean, "error": self._error})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; NaN means "never tried"."""
        columns = saved.columns(state)
        mean = saved.array(state, "mean", (columns.width,), finite=False)
        return cls(columns, mean, saved.array(state, "error", (len(columns.targets),)))


def _errors(quality: Array) -> Array:
    times = (~np.isnan(quality)).sum(axis=0).astype(np.float64)
    variance = measured.variances(quality)
    return measured.standard_error(variance, times, variance)


@dataclass(frozen=True, kw_only=True)
class MeanConfig(EstimatorConfig):
    """No hyper-parameters."""

    name: ClassVar[str] = "mean"
    fitted: ClassVar[type[Estimator]] = Mean
    about: ClassVar[About | None] = About(
        title="Mean of each target",
        family="bars",
        status="ours",
        source="folklore; with costs traded, the zero router of RouterBench (Hu et al. 2024) without its mixing",
        formula="q_j(x) = mean recorded outcome of j; cost likewise",
        complexity="fit: O(N M); decision: O(M)",
    )

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Mean:
        """Average each target over the rows that record it; NaN for one that was never tried."""
        del rng
        measured.same_rows(table, features, self.name)
        columns, values = measured.stack(table)
        return Mean(columns, measured.means(values), _errors(table.quality))
