"""fusionfactory: score every target by all that is known of a query: its vector, and how *all* targets did on similar queries.

Two readings of a query, per target: what its neighbours came to, and what a linear model of its vector says. A second model
learns from rows that neither reading has seen how to correct a target's own two by those of the others, so that a target that
was tried rarely borrows from those that were tried often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.knn import KNN, KNNConfig
from junctor.estimators.linear import Linear, LinearConfig
from junctor.estimators.regression import ridge
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

FOLDS = 3
FUSION_ROWS = 1500
"""So many rows at most teach the second model: more of them change its few weights little."""
GRID = ((100, 100.0, 1000.0), (40, 30.0, 1000.0), (40, 30.0, 100.0))
"""Neighbours, penalty of the linear reading, penalty of the correction."""


class FusionFactory(Estimator):
    """Holds both readings, and the correction: weights [2 M, M] on the centred readings of all targets, and intercepts [M]."""

    name: ClassVar[str] = "fusionfactory"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(self, config: FusionFactoryConfig, near: KNN, direct: Linear, weights: Array, bias: Array) -> None:
        self.config, self.targets = config, near.targets
        self._near, self._direct, self._weights, self._bias = near, direct, weights, bias

    def predict(self, features: Features) -> Prediction:
        """Both readings of one request, then the correction [M]."""
        return self._fused(self._near.expect(features), self._direct.predict(features))

    def predict_many(self, features: Features) -> Prediction:
        """Qualities [N, M]."""
        return self._fused(self._near.predict_many(features), self._direct.predict_many(features))

    def _fused(self, near: Prediction, direct: Prediction) -> Prediction:
        both = np.concatenate([near.quality, direct.quality], axis=-1)
        own = _own(both)
        quality = np.clip(own + np.nan_to_num(both) @ self._weights + self._bias, 0.0, 1.0)
        pairs = [(getattr(near, name), getattr(direct, name)) for name in measured.PREDICTED[1:]]
        rest = [None if one is None or other is None else (one + other) / 2.0 for one, other in pairs]
        return Prediction(quality, None, *rest)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> FusionFactory:
        """Both readings learn the newcomer; its correction is fitted on its calibration rows, from the others' readings too."""
        near, direct = self._near.onboard(target, rows, features), self._direct.onboard(target, rows, features)
        one = rows.only([target])
        places = np.flatnonzero(one.mask[:, 0])
        seen, quality = features.take(places), one.quality[places]
        others = np.concatenate([self._near.predict_many(seen).quality, self._direct.predict_many(seen).quality], axis=1)
        m = len(self.targets)
        own = self.config.crossed(one.take(places), seen)
        readings = np.column_stack([others[:, :m], own[:, 0], others[:, m:], own[:, 1]])
        weights, bias = _correction(readings, quality, own.mean(axis=1, keepdims=True), self.config.penalty)
        return FusionFactory(self.config, near, direct, _widened(self._weights, weights), np.append(self._bias, bias))

    def state(self) -> State:
        """The correction, and both readings' states under their names."""
        parts = {"knn": self._near.state(), "linear": self._direct.state()}
        config = {"settings": self.config.settings(), **{name: dict(part.config) for name, part in parts.items()}}
        arrays = {f"{name}/{key}": values for name, part in parts.items() for key, values in part.arrays.items()}
        return State(config, {**arrays, "weights": self._weights, "bias": self._bias})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(FusionFactoryConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        near, direct = KNN.from_state(_part(state, "knn")), Linear.from_state(_part(state, "linear"))
        targets = len(near.targets)
        weights = saved.array(state, "weights", (2 * targets, targets))
        return cls(config, near, direct, weights, saved.array(state, "bias", (targets,)))


def _part(state: State, name: str) -> State:
    prefix = f"{name}/"
    arrays = {key.removeprefix(prefix): values for key, values in state.arrays.items() if key.startswith(prefix)}
    return State(saved.entry(state, name, dict[str, Any]), arrays)


def _own(both: Array) -> Array:
    """Each target's own two readings, averaged: [..., M] from [..., 2 M]."""
    targets = both.shape[-1] // 2
    return np.asarray((both[..., :targets] + both[..., targets:]) / 2.0)


def _correction(readings: Array, quality: Array, own: Array, penalty: float) -> tuple[Array, Array]:
    """Weights [R, T] and intercepts [T] of what own readings leave over, from all readings [n, R]; zero where none is left.

    The penalty is in rows' worth of the readings' own variance, because readings hardly vary where targets are much alike.
    """
    known = np.nan_to_num(readings)
    if not len(known):
        return np.zeros((readings.shape[1], own.shape[1])), np.zeros(own.shape[1])
    spread = float(known.var(axis=0).mean())
    weights, bias = ridge(known, quality - own, max(penalty * spread, 1e-9))
    return weights, np.nan_to_num(bias)


def _widened(weights: Array, newcomer: Array) -> Array:
    """The corrections [2 M, M] with one more target: the old ones ignore its readings, its own come from `newcomer`."""
    targets = weights.shape[1]
    blank = np.zeros((1, targets))
    tall = np.vstack([weights[:targets], blank, weights[targets:], blank])
    return np.hstack([tall, newcomer])


@dataclass(frozen=True, kw_only=True)
class FusionFactoryConfig(EstimatorConfig):
    """How the two readings are made and fused.

    k, alpha   neighbours of the one reading, L2 penalty of the other
    penalty    of the correction, in rows' worth
    fuse       learn the correction; False averages a target's own two readings (what the others' behaviour is worth)
    """

    k: int = 40
    alpha: float = 30.0
    penalty: float = 300.0
    fuse: bool = True

    name: ClassVar[str] = "fusionfactory"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = FusionFactory
    about: ClassVar[About | None] = About(
        title="FusionFactory, query level",
        family="configuration as candidate",
        status="adapted",
        source="FusionFactory / FusionBench, query-level fusion (routers over direct and reasoning outputs)",
        formula=(
            "z(x) = [kNN quality of every target, linear quality of every target]\n"
            "q_j(x) = mean of j's own two readings + w_j . z(x) + c_j, w_j by ridge on rows that z has not seen"
        ),
        complexity="fit: four fits of kNN and of the linear model, and O(n M²); decide O(N D + M²)",
        adapted=(
            "Query level only: the thought level (templates) and the model level (distillation) are left out.",
            "The router is a ridge over two readings per target, of all targets, on our encoder.",
            "FusionBench (14 tasks x 20 models) could not be had.",
            "Other targets' behaviour on similar queries takes the place of a text that describes each model.",
        ),
        unverified=("What exactly the authors' query-level router reads was not checked in their code.",),
        claims=(Claim(figure="beats the best single model on all 14 tasks (all levels)", on="FusionBench", sure="abstract"),),
    )

    def __post_init__(self) -> None:
        check(self.k >= 1, "fusionfactory.k", "must be at least 1")
        check(self.alpha > 0, "fusionfactory.alpha", "must be positive")
        check(self.penalty > 0, "fusionfactory.penalty", "must be positive")

    def candidates(self, rows: int) -> Sequence[FusionFactoryConfig]:
        """From smooth readings to sharp ones."""
        grid = [settings for settings in GRID if 2 * settings[0] <= rows] or [GRID[-1]]
        return [replace(self, k=k, alpha=alpha, penalty=penalty) for k, alpha, penalty in grid]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> FusionFactory:
        """Read every row by models that have not seen it, learn the correction, then fit both readings on all rows."""
        measured.same_rows(table, features, self.name)
        features.vectors(self.name)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        near, direct = self._readings(table, features, rng)
        m = len(table.targets)
        if not self.fuse:
            return FusionFactory(self, near, direct, np.zeros((2 * m, m)), np.zeros(m))
        shown, both = self._left_out(table, features, rng)
        weights, bias = _correction(both, table.quality[shown], _own(both), self.penalty)
        return FusionFactory(self, near, direct, weights, bias)

    def _readings(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> tuple[KNN, Linear]:
        near = KNNConfig(k=self.k).fit(table, features, rng)
        return near, LinearConfig(alpha=self.alpha).fit(table, features, rng)

    def _left_out(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """Rows [n] and both readings of them [n, 2 M], made without the rows; queries that are equal stay together."""
        groups = table.groups()
        fold = rng.integers(FOLDS, size=int(groups.max(initial=0)) + 1)[groups]
        rows, parts = [], []
        for number in range(FOLDS):
            inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            if not len(inside) or not len(outside):
                continue
            inside = np.sort(rng.permutation(inside)[: FUSION_ROWS // FOLDS])
            near, direct = self._readings(table.take(outside), features.take(outside), rng)
            seen = features.take(inside)
            rows.append(inside)
            parts.append(np.concatenate([near.predict_many(seen).quality, direct.predict_many(seen).quality], axis=1))
        if not rows:
            return np.empty(0, dtype=np.intp), np.empty((0, 2 * len(table.targets)))
        return np.concatenate(rows), np.concatenate(parts)

    def crossed(self, one: OutcomeTable, seen: Features) -> Array:
        """Both readings [n, 2] of a single target's rows, each made without the row's own fold; its mean where that fails."""
        rows, both = self._left_out(one, seen, np.random.default_rng(0))
        found = np.full((len(one), 2), float(one.quality.mean()))
        found[rows] = np.where(np.isnan(both), found[rows], both)
        return found
