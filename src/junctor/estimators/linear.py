"""linear: one linear model per target and measure, ridge for graded outcomes and logistic for right-or-wrong ones.

Costs, latencies and tokens are ridge on the raw scale: what a utility trades is the expected cost, and the mean of a logarithm
is not that. No prediction leaves the range that was recorded, so that a cost is never negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.regression import logistic, ridge, sigmoid
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Figures, Prediction, State

ALPHAS = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0)


class Linear(Estimator):
    """Holds weights [D, C] and a bias [C]; `odds` marks the M targets whose quality goes through a sigmoid."""

    name: ClassVar[str] = "linear"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self, config: LinearConfig, columns: Columns, weights: Array, bias: Array, bounds: Array, odds: NDArray[np.bool_]
    ) -> None:
        self.config = config
        self.targets = columns.targets
        self._columns, self._weights, self._bias, self._bounds, self._odds = columns, weights, bias, bounds, odds
        self._low, self._high = bounds
        self._quality = slice(0, len(self.targets))
        self._all_odds, self._any_odds = bool(odds.all()), bool(odds.any())
        # For `figures`: bounds in arrays where numpy is the quicker, in plain numbers for what a sigmoid has to come before.
        count = len(self.targets)
        self._rest_low, self._rest_high = self._low.copy(), self._high.copy()
        self._rest_low[:count], self._rest_high[:count] = -np.inf, np.inf
        self._ends = list(zip(odds.tolist(), self._low[:count].tolist(), self._high[:count].tolist(), strict=True))

    def predict(self, features: Features) -> Prediction:
        """One vector-matrix product [M]."""
        vectors = self._checked(features.vectors(self.name))
        return self._answer(vectors[0].astype(np.float64).dot(self._weights))

    def figures(self, features: Features) -> Figures:
        """The same as `predict`, with as few calls of numpy as will do."""
        vectors = self._checked(features.vectors(self.name))
        flat = vectors[0].astype(np.float64).dot(self._weights)
        flat += self._bias
        np.maximum(flat, self._rest_low, out=flat)
        np.minimum(flat, self._rest_high, out=flat)
        values: list[float] = flat.tolist()
        for place, (odd, low, high) in enumerate(self._ends):
            value = values[place]
            if odd:
                value = (math.tanh(value * 0.5) + 1.0) * 0.5
            values[place] = low if value < low else high if value > high else value  # noqa: FURB136 - a call costs more
        return self._columns.figures(values)

    def predict_many(self, features: Features) -> Prediction:
        """One matrix product [N, M]."""
        vectors = self._checked(features.vectors(self.name))
        return self._answer(vectors.astype(np.float64) @ self._weights)

    def _answer(self, flat: Array) -> Prediction:
        flat += self._bias
        if self._any_odds:
            quality = flat[..., self._quality]
            chance = sigmoid(quality)
            flat[..., self._quality] = chance if self._all_odds else np.where(self._odds, chance, quality)
        np.maximum(flat, self._low, out=flat)
        np.minimum(flat, self._high, out=flat)
        return self._columns.prediction(flat)

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, len(self._weights), self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Linear:
        """Fit the new target's models on the calibration rows alone; the others keep theirs."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        one = _fitted(self.config, Columns((target,), self._columns.measures), self._checked(seen.vectors(self.name)), values)
        widen = self._columns.widen
        return Linear(
            self.config,
            columns,
            np.ascontiguousarray(widen(self._weights, one._weights)),
            widen(self._bias, one._bias),
            widen(self._bounds, one._bounds),
            np.append(self._odds, one._odds),
        )

    def state(self) -> State:
        """Weights, bias, bounds and which targets are right-or-wrong."""
        config = {**saved.described(self._columns), "settings": self.config.settings()}
        odds = self._odds.astype(np.uint8)
        return State(config, {"weights": self._weights, "bias": self._bias, "bounds": self._bounds, "odds": odds})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; a NaN bias means "never tried"."""
        columns = saved.columns(state)
        config = configured(LinearConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        return cls(
            config,
            columns,
            saved.array(state, "weights", (None, columns.width)),
            saved.array(state, "bias", (columns.width,), finite=False),
            saved.array(state, "bounds", (2, columns.width), finite=False),
            saved.array(state, "odds", (len(columns.targets),), np.uint8).astype(bool),
        )


def _fitted(config: LinearConfig, columns: Columns, vectors: NDArray[np.float32], values: Array) -> Linear:
    x = vectors.astype(np.float64)
    quality = values[:, : len(columns.targets)]
    odds = np.zeros(len(columns.targets), dtype=bool)
    if config.loss != "squared":
        odds = (np.isnan(quality) | (quality == 0.0) | (quality == 1.0)).all(axis=0)
    if config.loss == "logistic" and not odds.all():
        wrong = columns.targets[int(np.argmin(odds))]
        raise UserError(f"{wrong} has outcomes other than 0 and 1", field="linear.loss", fix="use auto or squared")
    graded = np.concatenate([~odds, np.ones(columns.width - len(odds), dtype=bool)])
    weights, bias = np.zeros((x.shape[1], columns.width)), np.zeros(columns.width)
    weights[:, graded], bias[graded] = ridge(x, values[:, graded], config.alpha)
    weights[:, ~graded], bias[~graded] = logistic(x, quality[:, odds], config.alpha)
    return Linear(config, columns, weights, bias, _bounds(values, len(columns.targets)), odds)


def _bounds(values: Array, targets: int) -> Array:
    """[2, C]: [0, 1] for quality, for the rest the least and most that was recorded; NaN where nothing was."""
    seen = ~np.isnan(values)
    low = np.where(seen, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(seen, values, -np.inf).max(axis=0, initial=-np.inf)
    bounds = np.where(seen.any(axis=0), np.stack([low, high]), np.nan)
    bounds[0, :targets], bounds[1, :targets] = 0.0, 1.0
    return bounds


@dataclass(frozen=True, kw_only=True)
class LinearConfig(EstimatorConfig):
    """alpha: L2 penalty on the weights; loss: auto takes logistic for targets whose recorded quality is only ever 0 or 1."""

    alpha: float = 30.0
    loss: Literal["auto", "squared", "logistic"] = "auto"

    name: ClassVar[str] = "linear"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = Linear
    about: ClassVar[About | None] = About(
        title="Linear models",
        family="bars",
        status="ours",
        source="folklore: ridge or logistic regression per target on a frozen embedding",
        formula="q_j(x) = w_j . e(x) + b_j, or its sigmoid where outcomes are 0 and 1; L2 penalty alpha",
        complexity="fit: O(N D^2 + D^3), then O(N D M) per round where logistic; decision: O(D M)",
        claims=(
            Claim(figure="AIQ .854 at alpha 30, .860 at 100", on="RouterBench subset, measured here on MiniLM", sure="read"),
            Claim(figure="57.25 / 46.69 at alpha 30", on="RouterDC en, measured here on MiniLM", sure="read"),
            Claim(figure="APGR .631 on the gap", on="RouteLLM MMLU, measured here on MiniLM", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.alpha > 0, "linear.alpha", "must be positive")
        check(self.loss in ("auto", "squared", "logistic"), "linear.loss", "must be auto, squared or logistic")

    def candidates(self, rows: int) -> Sequence[LinearConfig]:
        """From the strongest penalty to the weakest."""
        del rows
        return [replace(self, alpha=alpha) for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Linear:
        """Fit every target and measure on the rows that record it; raises UserError without a row."""
        del rng
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        return self.over(columns, vectors, values)

    def over(self, columns: Columns, vectors: NDArray[np.float32], values: Array) -> Linear:
        """Fit from vectors [N, D] and outcomes [N, C]."""
        return _fitted(self, columns, vectors, values)
