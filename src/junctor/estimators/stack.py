"""stack: the cheap bars and the learned ones, combined on held-out folds. The one to take when you do not want to choose.

    q_j(x) = m_j + o_j + sum_k w_k (p_kj(x) - m_j) - (1 - b) r(x)

with m_j the target's mean, p_k the members of `stacking`, w_k >= 0 their weights by stacked regression of *gaps* between the
targets in contention, o_j an offset that makes every target right on average, and r(x) what the members say of all targets in
contention alike, of which only the share b is believed that held-out rows bear out. Where the combination chooses no better on
held-out rows than the targets' means do, the weights are zero: it falls back to the best single target.

Source: ours. Stacked regressions: Breiman 1996; that a label that is known of recorded rows only is worth predicting: CoE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.settings import check, configured
from junctor.estimators.stack_fitting import fitted_parts
from junctor.estimators.stack_parts import Parts
from junctor.estimators.stacking import softmax
from junctor.estimators.text_statistics import statistics
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State


class Stack(Estimator):
    """One linear map [D, C], soft tables, a memory of neighbours if it has a weight, and the mean to fall back to.

    members   member -> its weight in quality; all zero when it fell back
    summary   the same in words, with what it gained on held-out rows
    """

    name: ClassVar[str] = "stack"

    def __init__(self, config: StackConfig, columns: Columns, parts: Parts) -> None:
        self.config, self.targets, self._columns, self._parts = config, columns.targets, columns, parts
        self.members, self.summary = parts.blend.quality, parts.blend.summary
        self._mean = np.nan_to_num(parts.mean) + parts.offset
        self._never = np.isnan(parts.mean) if np.isnan(parts.mean).any() else None
        self._width = columns.width
        cuts = [part.shape[1] for part in (parts.linear, *(g.weights for g in parts.groupings))]
        self._cuts = [slice(a, b) for a, b in zip(np.cumsum([0, *cuts[:-1]]).tolist(), np.cumsum(cuts).tolist(), strict=True)]
        self._maps = np.ascontiguousarray(np.hstack([parts.linear, *(g.weights for g in parts.groupings)]))
        self._bias = np.concatenate([parts.bias, *(g.bias for g in parts.groupings)])
        self._flat = not (self._maps.any() or parts.memory is not None)
        # One request: all groupings' scores lie side by side, so that one exponential and one product serve them all.
        sizes = [len(g.bias) for g in parts.groupings]
        self._starts = np.cumsum([0, *sizes[:-1]]) if sizes else None
        self._owner = np.repeat(np.arange(len(sizes)), sizes)
        self._tables = np.vstack(parts.tables) if sizes else np.zeros((0, columns.width))
        self._remembered = np.nan_to_num(parts.mean)
        self._labels = {name: place for place, name in enumerate(parts.labels)}

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """An embedding, and labels if it was told that requests bring them."""
        return self.config.needs

    def predict(self, features: Features) -> Prediction:
        """Expectations for one request [M], and how well they are known."""
        view = self._view(features)
        return self._prediction(self._one(view, features), self._error(view))

    def expect(self, features: Features) -> Prediction:
        """The expectations alone."""
        return self._prediction(self._one(self._view(features), features), None)

    def predict_many(self, features: Features) -> Prediction:
        """Expectations for N requests [N, M], block by block."""
        vectors = self._checked(features)
        flat, error = np.empty((len(vectors), self._width)), np.empty((len(vectors), len(self.targets)))
        for block in measured.blocks(len(vectors), max(self._maps.shape)):
            part = features.take(np.arange(len(vectors))[block])
            view = self._parts.look.at(vectors[block], part.texts)
            flat[block], error[block] = self._rows(view, part), self._error(view)
        return self._prediction(flat, error)

    def _view(self, features: Features) -> Array:
        """[D]: the same numbers as Look.at gives, without a batch around them."""
        vector = self._checked(features)[0]
        part = self._parts.look.part(np.array(statistics(features.texts[0])))
        return np.concatenate([vector, part])

    def _one(self, view: Array, features: Features) -> Array:
        """[C] for one request."""
        if self._flat:
            return self._mean.copy()
        out = view @ self._maps
        out += self._bias
        memory = self._parts.memory
        found = None if memory is None else _flattened(memory.expect(features))
        if self.config.known_labels:
            return self._joined(out, features, found)
        total: Array = out[: self._width]
        if self._starts is not None:
            scores = out[self._width :]
            membership = np.exp(scores - scores.max())
            membership /= np.add.reduceat(membership, self._starts)[self._owner]
            total += membership @ self._tables
        return self._finished(total, found)

    def _rows(self, view: Array, features: Features) -> Array:
        """[N, C] for N requests."""
        if self._flat:
            return np.broadcast_to(self._mean, (len(view), self._width))
        memory = self._parts.memory
        found = None if memory is None else _flattened(memory.predict_many(features))
        return self._joined(view @ self._maps + self._bias, features, found)

    def _joined(self, scores: Array, features: Features, neighbours: Array | None) -> Array:
        """Linear part + soft tables + neighbours, with the common part corrected; [..., C]."""
        parts = self._parts
        total: Array = scores[..., self._cuts[0]].copy()
        for grouping, table, cut in zip(parts.groupings, parts.tables, self._cuts[1:], strict=True):
            membership = softmax(scores[..., cut])
            if self.config.known_labels and grouping.name == "label":
                membership = self._known(membership, features)
            total += membership @ table
        return self._finished(total, neighbours)

    def _finished(self, total: Array, neighbours: Array | None) -> Array:
        """With the neighbours and the means, and without what is not believed of all contenders alike."""
        parts = self._parts
        if neighbours is not None:
            known = np.nan_to_num(neighbours) if self._never is not None else neighbours
            total += parts.memory_weight * (known - self._remembered)
        m = len(self.targets)
        common = total[..., parts.contenders].sum(axis=-1, keepdims=True)
        total[..., :m] -= (1.0 - parts.belief) / len(parts.contenders) * common
        total += self._mean
        return total

    def _known(self, membership: Array, features: Features) -> Array:
        """Certain of a label that the request brings, where it was seen in training."""
        out = np.atleast_2d(membership).copy()
        for row, label in enumerate(features.label(self._parts.label_name)):
            place = self._labels.get(label)
            if place is not None:
                out[row] = 0.0
                out[row, place] = 1.0
        return out.reshape(membership.shape)

    def _error(self, view: Array) -> Array:
        """Standard error of the expectation: of the mean, and of a linear fit as far from its rows as this one."""
        parts = self._parts
        centred = view[..., :] - parts.view_mean
        reach = np.einsum("...i,...i->...", centred @ parts.spread, centred)
        error: Array = np.sqrt(parts.noise * (1.0 / np.maximum(parts.seen, 1.0) + np.asarray(reach)[..., None]))
        return error

    def _prediction(self, flat: Array, error: Array | None) -> Prediction:
        m = len(self.targets)
        out = np.maximum(flat, self._parts.least)
        quality = flat[..., :m]
        out[..., :m] = quality if quality.min(initial=0.0) >= 0.0 and quality.max(initial=1.0) <= 1.0 else within_unit(quality)
        if self._never is not None:
            out[..., self._never] = np.nan
        return self._columns.prediction(out, error)

    def _checked(self, features: Features) -> NDArray[np.float32]:
        vectors = features.vectors(self.name)
        return measured.of_width(vectors, len(self._parts.view_mean) - len(self._parts.look.centre), self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Stack:
        """Members learn the new target from its few rows, by the weights that the others have; smooth ones alone.

        A row is worth little against 200 groups and D slopes, so tables are drawn to the target's mean and the slopes are those
        of the strongest ridge.
        """
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        view = self._parts.look.at(self._checked(seen), seen.texts)
        memory = None if self._parts.memory is None else self._parts.memory.onboard(target, rows, features)
        return type(self)(self.config, columns, self._parts.widened(self._columns, values, view, memory))

    def state(self) -> State:
        """The parts; the memory's own state lies under `memory/`."""
        return self._parts.state({**saved.described(self._columns), "settings": self.config.settings()})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        kind = LabelledStackConfig if cls is LabelledStack else StackConfig
        config = configured(kind, saved.entry(state, "settings", dict[str, Any]), cls.name)
        columns = saved.columns(state)
        return cls(config, columns, Parts.read(state, columns))


class LabelledStack(Stack):
    """The same where requests bring their label."""

    name: ClassVar[str] = "stack-labels"


def within_unit(quality: Array) -> Array:
    """Moved into [0, 1] row by row, so that differences between targets stay where there is room for them."""
    high = np.maximum(quality.max(axis=-1, keepdims=True) - 1.0, 0.0)
    low = np.maximum(-quality.min(axis=-1, keepdims=True), 0.0)
    moved = quality - np.where(high > 0, high, 0.0) + np.where((low > 0) & (high <= 0), low, 0.0)
    return np.asarray(np.clip(moved, 0.0, 1.0))


def _flattened(found: Prediction) -> Array:
    parts = (found.quality, found.cost_usd, found.latency_s, found.output_tokens)
    return np.concatenate([part for part in parts if part is not None], axis=-1)


@dataclass(frozen=True, kw_only=True)
class StackConfig(EstimatorConfig):
    """How much of the data is looked at while fitting.

    folds          held-out folds; rows of one prompt share a fold
    held_out       at most so many rows are predicted by members that have not seen them
    rows           at most so many rows are behind linear maps and tables; neighbours are looked for among all of them
    known_labels   requests bring their label (dataset, task), and it is believed instead of predicted
    """

    folds: int = 5
    held_out: int = 8000
    rows: int = 50_000
    known_labels: bool = False

    name: ClassVar[str] = "stack"
    fitted: ClassVar[type[Estimator]] = Stack
    about: ClassVar[About | None] = About(
        title="stack",
        family="combination",
        status="ours",
        source="ours; stacked regressions after Breiman 1996, predicted labels as in Composition of Experts",
        formula=(
            "q_j(x) = m_j + o_j + sum_k w_k (p_kj(x) - m_j) - (1 - b) r(x), w >= 0 by least squares on gaps between the best"
            " targets over held-out folds; route to argmax_j q_j - lam * c_j"
        ),
        complexity="fit: O(N D^2 + n^2 D) for n held-out rows; decision: O(D (M + G)) and one search of neighbours",
    )

    def __post_init__(self) -> None:
        check(self.folds >= 2, f"{self.name}.folds", "must be at least 2")
        check(self.held_out >= 1, f"{self.name}.held_out", "must be at least 1")
        check(self.rows >= 1, f"{self.name}.rows", "must be at least 1")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """An embedding, and labels if requests bring them."""
        return frozenset({"embedding", "labels"}) if self.known_labels else frozenset({"embedding"})

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Stack:
        """Weigh the members on held-out folds, then fit them on everything; raises UserError when there is no row."""
        measured.same_rows(table, features, self.name)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, parts = fitted_parts(self, table, features.vectors(self.name), rng)
        return type(self).fitted(self, columns, parts)  # type: ignore[call-arg, return-value]


@dataclass(frozen=True, kw_only=True)
class LabelledStackConfig(StackConfig):
    """`stack` for requests that bring their label (dataset, task): it is believed, not predicted."""

    known_labels: bool = True

    name: ClassVar[str] = "stack-labels"
    fitted: ClassVar[type[Estimator]] = LabelledStack
