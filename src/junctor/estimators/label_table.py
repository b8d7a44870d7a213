"""label-table: each target's mean per dataset or task label. Where labels are known this is the bar that few routers clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.settings import check
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

SHRINKAGES = (100.0, 30.0, 10.0, 3.0, 0.0)


class LabelTable(Estimator):
    """Holds [L + 1, C] means: one row per label seen in training, the last for any other label and for none."""

    name: ClassVar[str] = "label-table"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def __init__(
        self, columns: Columns, label: str, values: Sequence[str], mean: Array, error: Array, shrinkage: float
    ) -> None:
        measured.frozen(mean, error)
        self.targets = columns.targets
        self.label = label
        self._columns, self._mean, self._error, self._shrinkage = columns, mean, error, shrinkage
        self._row = {value: i for i, value in enumerate(values)}
        self._answers = [columns.prediction(m, e) for m, e in zip(mean, error, strict=True)]

    def predict(self, features: Features) -> Prediction:
        """The row of the request's label [M]."""
        value = features.labels.get(self.label)
        return self._answers[-1 if value is None else self._row.get(value[0], -1)]

    def predict_many(self, features: Features) -> Prediction:
        """The rows of N labels."""
        rows = self._rows(features)
        return self._columns.prediction(self._mean[rows], self._error[rows])

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> LabelTable:
        """Means per label over the calibration rows, drawn to the target's own mean; labels are those of the first fit."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        mean, error = _tables(values, 1, self._rows(seen), len(self._row), self._shrinkage)
        wide = self._columns.widen(self._mean, mean)
        return LabelTable(columns, self.label, list(self._row), wide, np.hstack([self._error, error]), self._shrinkage)

    def _rows(self, features: Features) -> NDArray[np.intp]:
        other = len(self._row)
        return np.array([self._row.get(value, other) for value in features.label(self.label)], dtype=np.intp)

    def state(self) -> State:
        """The table and its labels."""
        config = {
            **saved.described(self._columns),
            "label": self.label,
            "values": list(self._row),
            "shrinkage": self._shrinkage,
        }
        return State(config, {"mean": self._mean, "error": self._error})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; NaN means "never tried"."""
        columns = saved.columns(state)
        values = saved.entry(state, "values", list[str])
        mean = saved.array(state, "mean", (len(values) + 1, columns.width), finite=False)
        error = saved.array(state, "error", (len(values) + 1, len(columns.targets)))
        return cls(columns, saved.entry(state, "label", str), values, mean, error, saved.entry(state, "shrinkage", float))


def _tables(values: Array, targets: int, rows: NDArray[np.intp], count: int, shrinkage: float) -> tuple[Array, Array]:
    """Means [count + 1, C] and standard errors [count + 1, M]; the last row is everybody's, whatever `rows` put there."""
    mean, error = measured.tables(values, targets, rows, count + 1, shrinkage)
    everyone = np.zeros(len(values), dtype=np.intp)
    overall, spread = measured.tables(values, targets, everyone, 1, 0.0)
    mean[count], error[count] = overall[0], spread[0]
    return mean, error


@dataclass(frozen=True, kw_only=True)
class LabelTableConfig(EstimatorConfig):
    """label: the label to read, by default the one the table groups by; shrinkage: pseudo-observations of the target's mean."""

    label: str = ""
    shrinkage: float = 10.0

    name: ClassVar[str] = "label-table"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    fitted: ClassVar[type[Estimator]] = LabelTable
    about: ClassVar[About | None] = About(
        title="Label table",
        family="bars",
        status="ours",
        source="folklore: the best model per dataset or task, where the label is known when the query arrives",
        formula="q_j(x) = mean outcome of j on training rows with the label of x, drawn to the mean of j",
        complexity="fit: O(N M); decision: O(M)",
        claims=(
            Claim(figure="58.70 in distribution, 48.23 out of it", on="RouterDC en, measured here", sure="read"),
            Claim(figure="AIQ .8556, zero router .8228", on="RouterBench subset, measured here", sure="read"),
            Claim(figure="APGR .645", on="RouteLLM MMLU, per subject, measured here", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.shrinkage >= 0, "label-table.shrinkage", "must not be negative")

    def candidates(self, rows: int) -> Sequence[LabelTableConfig]:
        """From heavy shrinkage to none."""
        del rows
        return [LabelTableConfig(label=self.label, shrinkage=s) for s in SHRINKAGES]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> LabelTable:
        """Average each target per label; raises UserError when the table has no such label."""
        del rng
        measured.same_rows(table, features, self.name)
        label = self.label or table.label_name
        if label not in features.labels:
            known = ", ".join(features.labels) or "none"
            raise UserError(f"the table has no label {label!r}", field=self.name, fix=f"labels there are: {known}")
        columns, values = measured.stack(table)
        found = sorted({value for value in features.label(label) if value})
        place = {value: i for i, value in enumerate(found)}
        rows = np.array([place.get(value, len(found)) for value in features.label(label)], dtype=np.intp)
        mean, error = _tables(values, len(columns.targets), rows, len(found), self.shrinkage)
        return LabelTable(columns, label, found, mean, error, self.shrinkage)
