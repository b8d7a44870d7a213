"""radar: item response theory over models and reasoning budgets, and an adaptive test that places a new one.

A candidate is a model under a budget, a target like any other (`model@budget`). Each has an ability θ, each query a slope
("discrimination") and a difficulty that are linear in its vector. A new candidate answers the few queries that tell most of it,
one after another, and only its θ is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import item_response, measured, saved, typical
from junctor.estimators.item_response import Items
from junctor.estimators.measured import Columns
from junctor.estimators.regression import sigmoid
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

ALPHAS = (30.0, 10.0, 3.0)


class Radar(Estimator):
    """Holds the items' weights [D, K + 1] and intercepts, abilities [M, K], and mean costs; NaN ability = never tried."""

    name: ClassVar[str] = "radar"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self,
        config: RadarConfig,
        columns: Columns,
        items: Items,
        abilities: Array,
        costs: Array,
        losses: Sequence[float] = (),
    ) -> None:
        self.config, self.targets, self.losses = config, columns.targets, tuple(losses)
        self._columns, self._items, self._costs = columns, items, costs
        self.abilities = abilities

    def predict(self, features: Features) -> Prediction:
        """Two vector products [M]."""
        return self._answer(self._checked(features.vectors(self.name))[0].astype(np.float64))

    def predict_many(self, features: Features) -> Prediction:
        """Chances [N, M]; costs are each target's mean, as the paper has it."""
        return self._answer(self._checked(features.vectors(self.name)).astype(np.float64))

    def _answer(self, x: Array) -> Prediction:
        quality = sigmoid(item_response.log_odds(*self._items.of(x), self.abilities))
        return typical.prediction(self._columns, quality, self._costs)

    def items(self, features: Features) -> tuple[Array, Array]:
        """Slopes [N, K] and offsets [N] of queries: for one dimension a, and a times the difficulty."""
        return self._items.of(self._checked(features.vectors(self.name)).astype(np.float64))

    def next_row(self, features: Features, asked: Sequence[int], answers: Sequence[float]) -> int:
        """Which of N queries to ask a new candidate next, given its answers (quality in [0, 1]) to the rows asked so far.

        The one of most Fisher information at the ability that the answers point to. Raises UserError when all were asked.
        """
        return self._next(*self.items(features), asked, answers)

    def adaptive_test(self, features: Features, ask: Callable[[int], float], rows: int) -> tuple[list[int], Array]:
        """Ask `rows` of N queries one after another: the rows in their order, and the ability [K] that they point to.

        `ask(row)` calls the new candidate and gives the quality of its answer; each call is billed to whoever asks. Onboard
        with the same rows to have the candidate in the estimator.
        """
        slopes, offsets = self.items(features)
        asked: list[int] = []
        answers: list[float] = []
        while len(asked) < min(rows, len(slopes)):
            asked.append(self._next(slopes, offsets, asked, answers))
            answers.append(float(ask(asked[-1])))
        return asked, item_response.ability(slopes[asked], offsets[asked], np.array(answers))[0]

    def _next(self, slopes: Array, offsets: Array, asked: Sequence[int], answers: Sequence[float]) -> int:
        if len(asked) >= len(slopes):
            raise UserError("every query was asked", field=f"{self.name}.asked", fix="give it more queries to choose from")
        done = list(asked)
        at, covariance = item_response.ability(slopes[done], offsets[done], np.asarray(answers, dtype=np.float64))
        told = item_response.information(slopes, offsets, at, covariance)
        told[done] = -np.inf
        return int(told.argmax())

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, len(self._items.weights), self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Radar:
        """Fit the new candidate's ability alone; items and the other abilities stay."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        found, _ = item_response.ability(*self.items(seen), values[:, 0])
        costs = typical.widened(self._columns, self._costs, values)
        return Radar(self.config, columns, self._items, np.vstack([self.abilities, found]), costs, self.losses)

    def state(self) -> State:
        """Items, abilities and mean costs."""
        config = {
            **saved.described(self._columns),
            "settings": self.config.settings(),
            "positive": self._items.positive,
            "losses": list(self.losses),
        }
        items = {"weights": self._items.weights, "bias": self._items.bias}
        return State(config, {**items, "abilities": self.abilities, "costs": self._costs})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        columns = saved.columns(state)
        config = configured(RadarConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        weights = saved.array(state, "weights", (None, None))
        bias = saved.array(state, "bias", (weights.shape[1],))
        abilities = saved.array(state, "abilities", (len(columns.targets), weights.shape[1] - 1), finite=False)
        costs = saved.array(state, "costs", (columns.width - len(columns.targets),), finite=False)
        items = Items(weights, bias, saved.entry(state, "positive", bool))
        return cls(config, columns, items, abilities, costs, saved.entry(state, "losses", list[float]))


@dataclass(frozen=True, kw_only=True)
class RadarConfig(EstimatorConfig):
    """dimensions: 1 for RADAR's 2PL, more for the IRT-Router's MIRT; alpha: L2 penalty; steps: of L-BFGS at most."""

    dimensions: int = 1
    alpha: float = 10.0
    steps: int = 60

    name: ClassVar[str] = "radar"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = Radar
    about: ClassVar[About | None] = About(
        title="RADAR",
        family="latent traits",
        status="adapted",
        source="RADAR: routing over models and reasoning budgets by item response theory; MIRT after the IRT-Router",
        formula=(
            "p_ij = sigmoid(a_j (theta_i - b_j)), i = candidate, j = query; b_j = w_b.e(x_j), a_j = softplus(w_a.e(x_j))\n"
            "theta_i: mean 0, variance 1 over the candidates; binary cross-entropy\n"
            "route: argmax w p - (1 - w) c, or (policy chebyshev) argmin max{w |1 - p|, (1 - w) c}\n"
            "new candidate: queries by Fisher information a^2 p (1 - p), fit theta alone\n"
            "dimensions > 1: p = sigmoid(a(x).theta_j - b(x)) (IRT-Router's MIRT)"
        ),
        complexity="fit O(steps N (D K + M K)); decide O(D K + M K); the adaptive test O(n N K) for n calls",
        adapted=(
            "The query encoder is ours and frozen; the item weights are fitted by L-BFGS with an L2 penalty, not by Adam.",
            "Candidates are whatever targets the table has: a reasoning budget is a target like any other.",
            "The ability of a new candidate has a normal prior, so that a candidate that never fails has a finite one.",
            "MIRT has free abilities; the IRT-Router derives them from a text profile, and warms queries up with neighbours.",
        ),
        unverified=("That slopes are kept positive (softplus) is our reading: no code was released.",),
        claims=(
            Claim(figure="hypervolume .7513, IRT-Router .6942, RouterBench .6866, random pair .5545", on="GPQA-Diamond"),
            Claim(figure="hypervolume .8720, next best .8604", on="MMLU"),
            Claim(figure="hypervolume .9230, next best .9117", on="MMLU-Redux"),
            Claim(figure="hypervolume .9188, next best .9163", on="LSAT"),
            Claim(figure="hypervolume .8762, next best .8501", on="FRAMES"),
            Claim(figure="90% of o4-mini-high's accuracy at 1.31% of its cost", on="MATH-500"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.dimensions >= 1, "radar.dimensions", "must be at least 1")
        check(self.alpha > 0, "radar.alpha", "must be positive")
        check(self.steps >= 1, "radar.steps", "must be at least 1")

    def candidates(self, rows: int) -> Sequence[RadarConfig]:
        """From the strongest penalty to the weakest."""
        del rows
        return [replace(self, alpha=alpha) for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Radar:
        """Fit items and abilities on the recorded cells; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        quality = values[:, : len(columns.targets)]
        tried = ~np.isnan(quality).all(axis=0)
        dimensions = min(self.dimensions, max(1, int(tried.sum()) - 1))
        abilities = np.full((len(columns.targets), dimensions), np.nan)
        items, abilities[tried], losses = item_response.fit(
            vectors.astype(np.float64), quality[:, tried], dimensions, self.alpha, self.steps, rng
        )
        return Radar(self, columns, items, abilities, typical.of(values, len(columns.targets)), losses)
