"""vlm-continual: tasks are added one after another, each with its own expert and its own picture of its queries.

Source: Dynamic Routing Between Experts (vision-language models; its abstract was read). There, one adapter per task and a
router are added in sequence, without the data of earlier tasks. Here, a task's expert is a ridge on its own rows, and it is
recognised by a normal distribution of its own queries. Nothing that belongs to an older task is ever touched again: what was
decided for its queries is decided in the same way, to the bit, after the next task has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import ArtefactError, UserError
from junctor.estimators import measured, saved
from junctor.estimators.categories import of_table
from junctor.estimators.measured import Columns
from junctor.estimators.pieces import Pieces, bounds_of, flat_fit, own_fit
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

ALPHAS = (300.0, 30.0, 3.0)
PRIOR_ROWS = 20.0
"""A task's variances are drawn to their own mean over dimensions as if it had so many more rows."""

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Picture:
    """Where a task's queries lie: mean [D], precision [D] of each dimension, and the distance beyond which they are no more."""

    mean: NDArray[np.float32]
    precision: NDArray[np.float32]
    reach: float

    @property
    def volume(self) -> float:
        """Minus the log determinant of the precision: what a wide picture pays for being near to everything."""
        return -float(np.sum(np.log(self.precision)))


def picture_of(vectors: NDArray[np.float32], beyond: float) -> Picture:
    """From a task's own vectors [n, D]; a share `beyond` of them lies out of reach."""
    x = vectors.astype(np.float64)
    spread = x.var(axis=0)
    even = max(float(spread.mean()), 1e-6)
    drawn = (spread * len(x) + even * PRIOR_ROWS) / (len(x) + PRIOR_ROWS)
    mean, precision = x.mean(axis=0), 1.0 / drawn
    far = ((x - mean) ** 2) @ precision
    reach = float(np.quantile(far, 1.0 - beyond)) if beyond else np.inf
    return Picture(mean.astype(np.float32), precision.astype(np.float32), min(reach * 1.25, float(np.finfo(np.float32).max)))


class VLMContinual(Estimator):
    """Holds T tasks: their names, pictures and pieces. The last piece is the base's: it serves what no task knows."""

    name: ClassVar[str] = "vlm-continual"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(self, config: VLMContinualConfig, tasks: Sequence[str], pictures: Sequence[Picture], pieces: Pieces) -> None:
        self.config, self.targets = config, pieces.columns.targets
        self.tasks, self.pictures, self.pieces = tuple(tasks), tuple(pictures), pieces
        width = pieces.weights.shape[1]
        self._means = _stacked([p.mean for p in pictures], width)
        self._precisions = _stacked([p.precision for p in pictures], width)
        self._pulls = np.ascontiguousarray((self._means * self._precisions).T) * np.float32(2.0)
        self._rests = np.sum(self._means**2 * self._precisions, axis=1)
        self._volumes = np.array([p.volume for p in pictures])
        self._reaches = np.array([p.reach for p in pictures])
        self._scales = np.ascontiguousarray(self._precisions.T)

    def predict(self, features: Features) -> Prediction:
        """One row of tasks_of, then the task's piece [M]."""
        return self.pieces.predict(self._checked(features)[0], int(self.tasks_of(features)[0]))

    def predict_many(self, features: Features) -> Prediction:
        """[N, M]."""
        return self.pieces.predict_many(self._checked(features), self.tasks_of(features))

    def tasks_of(self, features: Features) -> Ints:
        """[N] the likeliest task of each request, T (the base) where it is out of the reach of all of them."""
        vectors = self._checked(features)
        if not self.tasks:
            return np.zeros(len(vectors), dtype=np.intp)
        far = (vectors * vectors) @ self._scales - vectors @ self._pulls + self._rests
        known = far <= self._reaches
        best: Ints = np.where(known, far + self._volumes, np.inf).argmin(axis=1)
        return np.where(known.any(axis=1), best, len(self.tasks))

    def _checked(self, features: Features) -> NDArray[np.float32]:
        return measured.of_width(features.vectors(self.name), self.pieces.weights.shape[1], self.name)

    def add_task(self, task: str, rows: OutcomeTable, features: Features) -> VLMContinual:
        """A new estimator that also knows `task`, from its rows alone; the arrays of older tasks are the same to the bit.

        Raises UserError for a task that is known already, has no row, or records none of the targets.
        """
        if task in self.tasks:
            raise UserError("is already a task", field=task, fix="give it another name; an old task is never fitted again")
        known = [id_ for id_ in self.targets if rows.targets.position(id_) is not None]
        if not len(rows) or not known:
            raise UserError("brings no row, or none of the known targets", field=task, fix="record what the targets do on it")
        vectors = self._checked(features)
        values = _aligned(rows, self.pieces.columns)
        base = self.pieces.weights[-1].astype(np.float64), self.pieces.bias[-1]
        weights, bias = own_fit(vectors.astype(np.float64), values, base, self.config.alpha, self.config.shrinkage)
        old = self.pieces
        grown = Pieces(
            old.columns,
            np.concatenate([old.weights[:-1], weights[None].astype(np.float32), old.weights[-1:]]),
            np.concatenate([old.bias[:-1], bias[None], old.bias[-1:]]),
            old.bounds,
        )
        return VLMContinual(self.config, (*self.tasks, task), (*self.pictures, picture_of(vectors, self.config.beyond)), grown)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> VLMContinual:
        """Fit the new target's piece of every task on the calibration rows that look like it; the pictures stay."""
        self.pieces.columns.plus(target)
        values, seen = measured.calibration(self.pieces.columns, target, rows, features)
        vectors, tasks = self._checked(seen), self.tasks_of(seen)
        one = Columns((target,), self.pieces.columns.measures)
        base = flat_fit(values, vectors.shape[1])
        x = vectors.astype(np.float64)
        fits = [
            own_fit(x[tasks == t], values[tasks == t], base, self.config.alpha, self.config.shrinkage)
            for t in range(len(self.tasks))
        ]
        weights, bias = (np.stack([part[i] for part in (*fits, base)]) for i in (0, 1))
        made = Pieces(one, weights.astype(np.float32), bias, bounds_of(values, 1))
        return VLMContinual(self.config, self.tasks, self.pictures, self.pieces.widen(target, made))

    def state(self) -> State:
        """Pieces and pictures, task by task."""
        inner = self.pieces.state()
        config = {**inner.config, "settings": self.config.settings(), "tasks": list(self.tasks)}
        arrays = {**inner.arrays, "means": self._means, "precisions": self._precisions, "reaches": self._reaches}
        return State(config, arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(VLMContinualConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        pieces, tasks = Pieces.from_state(state), saved.entry(state, "tasks", list[str])
        if len(pieces.bias) != len(tasks) + 1 or len(set(tasks)) != len(tasks):
            raise ArtefactError("does not name one piece each", field="tasks", fix=saved.FIX)
        shape = (len(tasks), pieces.weights.shape[1])
        means, precisions = (saved.array(state, key, shape, np.float32) for key in ("means", "precisions"))
        reaches = saved.array(state, "reaches", (len(tasks),)).tolist()
        return cls(config, tasks, [Picture(*parts) for parts in zip(means, precisions, reaches, strict=True)], pieces)


def _stacked(rows: Sequence[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)


def _aligned(rows: OutcomeTable, columns: Columns) -> Array:
    """[N, C] of the rows' outcomes in the order of `columns`; NaN for a target or a measure that they lack."""
    out = np.full((len(rows), columns.width), np.nan)
    for m, id_ in enumerate(columns.targets):
        place = rows.targets.position(id_)
        for k, name in enumerate(columns.measures):
            values = getattr(rows, name)
            if place is not None and values is not None:
                out[:, k * len(columns.targets) + m] = values[:, place]
    return out


@dataclass(frozen=True, kw_only=True)
class VLMContinualConfig(EstimatorConfig):
    """What a task's expert is, and how far its queries reach.

    alpha       L2 penalty of a task's ridge
    shrinkage   pseudo-rows by which it is drawn to the base, which is each target's mean
    label       the label that names tasks, by default the table's own; k-means clusters where there is none
    clusters    how many, then
    beyond      share of a task's own rows that count as out of its reach; 0 lets every query belong to some task
    """

    alpha: float = 30.0
    shrinkage: float = 10.0
    label: str = ""
    clusters: int = 8
    beyond: float = 0.01

    name: ClassVar[str] = "vlm-continual"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = VLMContinual
    about: ClassVar[About | None] = About(
        title="Dynamic Routing Between Experts",
        family="label first",
        status="adapted",
        source="Dynamic Routing Between Experts (continual learning of vision-language models)",
        formula="task t = argmin (x - m_t)' P_t (x - m_t) - log|P_t| among tasks within reach, else the base; "
        "y = base + n_t / (n_t + s) ridge_t(x); task t is fitted on its own rows and never again",
        complexity="fit: one ridge per task on its own rows; decision: O(T D + D M)",
        adapted=(
            "A low-rank adapter per task is replaced by a ridge on the vector that predicts the task's outcomes.",
            "The trained router is replaced by a normal distribution per task with a variance per dimension.",
            "Base skills are each target's mean over the rows of the first fit.",
        ),
        claims=(Claim(figure="keeps base skills", on="InternVL-2", sure="abstract"),),
        unverified=("How the paper's router is trained, and how it is kept from changing old decisions.",),
    )

    def __post_init__(self) -> None:
        check(0 < self.alpha < float("inf"), "vlm-continual.alpha", "must be positive")
        check(0 <= self.shrinkage < float("inf"), "vlm-continual.shrinkage", "must be finite and not negative")
        check(self.clusters >= 1, "vlm-continual.clusters", "must be at least 1")
        check(0 <= self.beyond < 1, "vlm-continual.beyond", "must be in [0, 1)")

    def candidates(self, rows: int) -> Sequence[VLMContinualConfig]:
        """From the strongest penalty to the weakest."""
        del rows
        return [replace(self, alpha=alpha) for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> VLMContinual:
        """The base over all rows, then task by task; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        names, rows = of_table(table, vectors, self.label, self.clusters, rng, self.name)
        columns, values = measured.stack(table)
        weights, bias = flat_fit(values, vectors.shape[1])
        base = Pieces(columns, weights[None].astype(np.float32), bias[None], bounds_of(values, len(columns.targets)))
        fitted = VLMContinual(self, (), (), base)
        for place, name in enumerate(names):
            mine = np.flatnonzero(rows == place)
            fitted = fitted.add_task(name, table.take(mine), features.take(mine))
        return fitted
