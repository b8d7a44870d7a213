"""r2-router: a model under an output-length budget is a candidate of its own; quality between budgets is interpolated.

A target belongs to a model and a budget when its settings hold `max_output_tokens`, or its id ends in `@` and a number. Heads
are linear in the query's vector, so that interpolating predictions between two budgets is interpolating weights. All other
targets get a plain ridge head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.regression import ridge
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State
from junctor.types import Target

SETTING = "max_output_tokens"
ALPHAS = (300.0, 100.0, 30.0, 10.0)
UNBOUNDED = float(np.finfo(np.float64).max)
CORRECTION_ROWS = 10.0
"""An interpolated head is worth so many calibration rows when a newcomer's intercept is corrected by its own."""


def budget_of(target: Target) -> tuple[str, float] | None:
    """The model and the output-token budget that a target stands for, or None."""
    model, _, suffix = target.id.rpartition("@")
    given = target.settings.get(SETTING)
    if isinstance(given, int | float) and given > 0:
        return target.model or model or target.id, float(given)
    if model and suffix.isdecimal() and int(suffix) > 0:
        return target.model or model, float(suffix)
    return None


class BudgetedRidge(Estimator):
    """Holds weights [D, C], intercepts and bounds [C], and the model and budget that targets stand for."""

    name: ClassVar[str] = "r2-router"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self,
        config: R2RouterConfig,
        columns: Columns,
        heads: tuple[Array, Array, Array],
        budgets: Mapping[str, tuple[str, float]],
    ) -> None:
        self.config, self.targets = config, columns.targets
        self._columns, self.budgets = columns, dict(budgets)
        self._weights, self._bias, self._bounds = heads

    def predict(self, features: Features) -> Prediction:
        """One vector-matrix product [M]."""
        return self._answer(self._checked(features.vectors(self.name))[0].astype(np.float64) @ self._weights)

    def predict_many(self, features: Features) -> Prediction:
        """One matrix product [N, M]."""
        return self._answer(self._checked(features.vectors(self.name)).astype(np.float64) @ self._weights)

    def _answer(self, flat: Array) -> Prediction:
        low, high = self._bounds
        return self._columns.prediction(np.minimum(np.maximum(flat + self._bias, low), high))

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, len(self._weights), self.name)

    def curve(self, features: Features, model: str, budgets: Sequence[float]) -> Array:
        """Expected quality [N, B] of a model at any budgets, interpolated; flat beyond the recorded ones.

        Raises UserError for a model that was not fitted under a budget.
        """
        flat = self._checked(features.vectors(self.name)).astype(np.float64)
        found = [self._between(model, budget, self._heads()) for budget in budgets]
        if not found or found[0] is None:
            models = ", ".join(sorted({name for name, _ in self.budgets.values()})) or "none"
            raise UserError("was not fitted under a budget", field=model, fix=f"models with budgets: {models}")
        raw = np.stack([flat @ head[:-1, 0] + head[-1, 0] for head in found if head is not None], axis=1)
        return np.asarray(np.clip(raw, 0.0, 1.0), dtype=np.float64)

    def _heads(self) -> dict[str, Array]:
        """Per target that stands for a budget and was tried: weights and intercepts [D + 1, K] of its K measures."""
        stacked = np.vstack([self._weights, self._bias]).reshape(len(self._weights) + 1, len(self._columns.measures), -1)
        places = {id_: i for i, id_ in enumerate(self.targets)}
        heads = {id_: stacked[:, :, places[id_]] for id_ in self.budgets if id_ in places}
        return {id_: head for id_, head in heads.items() if not np.isnan(head[-1, 0])}

    def _between(self, model: str, budget: float, heads: Mapping[str, Array]) -> Array | None:
        """The head [D + 1, K] of a model at a budget, from the two recorded budgets around it; None without any."""
        known = sorted((b, id_) for id_, (name, b) in self.budgets.items() if name == model and id_ in heads)
        if not known:
            return None
        below = max((k for k in known if k[0] <= budget), default=known[0])
        above = min((k for k in known if k[0] >= budget), default=known[-1])
        share = 0.0 if above[0] == below[0] else (budget - below[0]) / (above[0] - below[0])
        return np.asarray((1.0 - share) * heads[below[1]] + share * heads[above[1]])

    def interpolated(self, columns: Sequence[int]) -> BudgetedRidge:
        """With the heads of these targets taken from the budgets around theirs, where there are any."""
        weights, bias, bounds = self._weights.copy(), self._bias.copy(), self._bounds.copy()
        heads = self._heads()
        for place in columns:
            model, budget = self.budgets[self.targets[place]]
            found = self._between(model, budget, heads)
            if found is not None:
                at = place + len(self.targets) * np.arange(len(self._columns.measures))
                weights[:, at], bias[at] = found[:-1], found[-1]
                bounds[:, at] = np.stack([np.zeros(len(at)), np.where(at < len(self.targets), 1.0, UNBOUNDED)])
        return type(self)(self.config, self._columns, (weights, bias, bounds), self.budgets)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> BudgetedRidge:
        """A new budget of a known model: the interpolated head, its intercept corrected by the rows; else a head of its own."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        x = self._checked(seen.vectors(self.name)).astype(np.float64)
        position = rows.targets.position(target)
        stands = None if position is None else budget_of(rows.targets[position])
        head = None if stands is None or not self.config.interpolate else self._between(*stands, self._heads())
        weights, bias = ridge(x, values, self.config.alpha)
        if head is not None:
            weights, bias = _corrected(head, x, values)
        heads = (
            np.ascontiguousarray(self._columns.widen(self._weights, weights)),
            self._columns.widen(self._bias, bias),
            self._columns.widen(self._bounds, _bounds(values, 1)),
        )
        budgets = self.budgets if stands is None else {**self.budgets, target: stands}
        return BudgetedRidge(self.config, columns, heads, budgets)

    def state(self) -> State:
        """Heads, bounds and budgets."""
        config = {
            **saved.described(self._columns),
            "settings": self.config.settings(),
            "budgets": {id_: [model, budget] for id_, (model, budget) in self.budgets.items()},
        }
        return State(config, {"weights": self._weights, "bias": self._bias, "bounds": self._bounds})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; a NaN intercept means "never tried"."""
        columns = saved.columns(state)
        config = configured(R2RouterConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        heads = (
            saved.array(state, "weights", (None, columns.width)),
            saved.array(state, "bias", (columns.width,), finite=False),
            saved.array(state, "bounds", (2, columns.width), finite=False),
        )
        return cls(config, columns, heads, saved.entry(state, "budgets", dict[str, tuple[str, float]]))


def _corrected(head: Array, x: Array, values: Array) -> tuple[Array, Array]:
    """The head's weights [D, K], and its intercepts [K] moved by the shrunk mean error on n calibration rows."""
    error = values - (x @ head[:-1] + head[-1])
    times = (~np.isnan(error)).sum(axis=0)
    total = np.where(np.isnan(error), 0.0, error).sum(axis=0)
    # what is known of costs is the rows' own: a budget's tokens are billed as they come, overruns with them
    weight = np.where(np.arange(values.shape[1]) == 0, CORRECTION_ROWS, 0.0)
    moved = np.divide(total, times + weight, out=np.full(len(total), np.nan), where=times > 0)
    return head[:-1], head[-1] + np.where(np.isnan(moved), 0.0, moved)


def _bounds(values: Array, targets: int) -> Array:
    """[2, C]: [0, 1] for quality, for the rest the least and most that was recorded; NaN where nothing was."""
    seen = ~np.isnan(values)
    low = np.where(seen, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(seen, values, -np.inf).max(axis=0, initial=-np.inf)
    bounds = np.where(seen.any(axis=0), np.stack([low, high]), np.nan)
    bounds[0, :targets], bounds[1, :targets] = 0.0, 1.0
    return bounds


@dataclass(frozen=True, kw_only=True)
class R2RouterConfig(EstimatorConfig):
    """alpha: ridge penalty; interpolate: fill budgets that were never tried from the recorded ones around them.

    cost   recorded: expected from what was billed, overruns with it; budgeted: list price of the budget's tokens, whatever
           was billed (needs prices, falls back to what was recorded)
    """

    alpha: float = 10.0
    interpolate: bool = True
    cost: Literal["recorded", "budgeted"] = "recorded"

    name: ClassVar[str] = "r2-router"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = BudgetedRidge
    about: ClassVar[About | None] = About(
        title="R2-Router",
        family="configuration as candidate",
        status="simulated",
        source="R2-Router (model x output-length budget); paper and released code (UCF-ML-Research/R2-Router)",
        formula=(
            "candidate = (LLM j, output-token budget b), b in 16 values from 10 to 4000 and the default\n"
            "one head per (j, b): ridge, alpha = 10 (release); Q(x, j, b) linear in b between the recorded budgets\n"
            "route argmax (1 - lam) Q(x, j, b) - lam C(j, b)"
        ),
        complexity="fit O(N D² + D³) per pattern of recorded rows; decide O(D M)",
        adapted=(
            "R2-Bench (30,968 queries x 15 LLMs x 16 budgets) could not be had.",
            "Tests run on a simulator of saturating curves q(b) = q_max(x) (1 - exp(-b / tau(x))).",
            "On tables without budgets it is a plain ridge.",
            "The release's ridge heads, with alpha tuned on validation rows, not the paper's MLP (256-128-64, Adam 1e-4).",
            "Costs are regressed on what was billed, so that overruns are paid for; the paper has one constant C(j, b).",
        ),
        claims=(
            Claim(
                figure="AUDC / QNC / peak .76 / .32 / .79; CARROT-linear .72 / .48 / .79, MIRT .71 / .51 / .79",
                on="R2-Bench with MiniLM-L6-v2 (table 2)",
                sure="read",
            ),
            Claim(
                figure=".80 / .29 / .81; CARROT .77 / .66 / .80, LightGBM .74 / .78 / .81; out of distribution .71 against .67",
                on="R2-Bench (table 3)",
                sure="read",
            ),
            Claim(figure=".623, UniRoute .590", on="R2-Bench, unseen models", sure="read"),
            Claim(figure="state of the art at 4 to 5 times lower cost", on="its abstract", sure="abstract"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.alpha > 0, "r2-router.alpha", "must be positive")
        check(self.cost in ("recorded", "budgeted"), "r2-router.cost", "must be recorded or budgeted")

    def candidates(self, rows: int) -> Sequence[R2RouterConfig]:
        """From the strongest penalty to the release's."""
        del rows
        return [replace(self, alpha=alpha) for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> BudgetedRidge:
        """One head per target and measure on the rows that record it; raises UserError without a row."""
        del rng
        measured.same_rows(table, features, self.name)
        x = features.vectors(self.name).astype(np.float64)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        targets = len(columns.targets)
        weights, bias = ridge(x, values, self.alpha)
        budgets = {target.id: found for target in table.targets if (found := budget_of(target)) is not None}
        bounds = _bounds(values, targets)
        if self.cost == "budgeted":
            _as_budgeted(table, columns, budgets, (weights, bias, bounds))
        fitted = BudgetedRidge(self, columns, (weights, bias, bounds), budgets)
        gone = [i for i, id_ in enumerate(columns.targets) if id_ in budgets and np.isnan(bias[i])]
        return fitted.interpolated(gone) if self.interpolate and gone else fitted


def _as_budgeted(
    table: OutcomeTable, columns: Columns, budgets: Mapping[str, tuple[str, float]], heads: tuple[Array, Array, Array]
) -> None:
    """Put the list price of the budget's tokens into the cost heads, in place, for targets that have a price."""
    if "cost_usd" not in columns.measures:
        return
    tokens_in = 0.0 if table.input_tokens is None else np.nan_to_num(measured.means(table.input_tokens))
    first = columns.measures.index("cost_usd") * len(columns.targets)
    weights, bias, bounds = heads
    for place, target in enumerate(table.targets):
        if target.id in budgets and target.price is not None:
            cost = target.price.cost_usd(float(np.broadcast_to(tokens_in, len(table.targets))[place]), budgets[target.id][1])
            weights[:, first + place], bias[first + place] = 0.0, cost
            bounds[:, first + place] = cost
