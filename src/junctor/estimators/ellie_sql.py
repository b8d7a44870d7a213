"""ellie-sql: targets in tiers from cheap to dear; which is the cheapest that solves the query?

One logistic head per tier t learns P(some tier up to t solves x), an ordinal classifier of "the cheapest tier that works". It
is learned from logs that stop at the first success, where the mean of a dear tier is the mean of what cheaper ones failed. From
the chance of each class follows the expected quality of every tier, and the utility weighs a query that is routed too low (its
answer is lost) against one that is routed too high (its tokens are).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, saved, typical
from junctor.estimators.measured import Columns
from junctor.estimators.regression import logistic, sigmoid
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

ALPHAS = (30.0, 10.0, 3.0, 1.0)


class EllieSQL(Estimator):
    """Holds T heads [D, T], the order of the T tried targets by cost, and what each scores in each of T + 1 classes.

    keeps   [T + 1, M]: expected quality of a target on queries whose cheapest solving tier is the row; the last row is for
            queries that no tier solves
    """

    name: ClassVar[str] = "ellie-sql"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(self, config: EllieSQLConfig, columns: Columns, arrays: dict[str, Array]) -> None:
        self.config, self.targets = config, columns.targets
        self._columns, self._arrays = columns, arrays
        self._weights, self._bias, self._keeps = arrays["weights"], arrays["bias"], arrays["keeps"]

    def predict(self, features: Features) -> Prediction:
        """T logistic heads, then a mixture [M]."""
        return self._answer(self._checked(features.vectors(self.name))[0].astype(np.float64))

    def predict_many(self, features: Features) -> Prediction:
        """Mixtures [N, M]."""
        return self._answer(self._checked(features.vectors(self.name)).astype(np.float64))

    def _answer(self, x: Array) -> Prediction:
        quality = np.clip(self._classes(x) @ self._keeps, 0.0, 1.0)
        return typical.prediction(self._columns, quality, self._arrays["costs"])

    def classes(self, features: Features) -> Array:
        """[N, T + 1] chance of each tier (cheapest first) to be the cheapest that solves the query; the last: none does."""
        return self._classes(self._checked(features.vectors(self.name)).astype(np.float64))

    def _classes(self, x: Array) -> Array:
        reached = np.maximum.accumulate(sigmoid(x @ self._weights + self._bias), axis=-1)
        ends = (*reached.shape[:-1], 1)
        found: Array = np.diff(np.concatenate([np.zeros(ends), reached, np.ones(ends)], axis=-1), axis=-1)
        return found

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, len(self._weights), self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> EllieSQL:
        """What the newcomer scores in each class, from its calibration rows; the classes stay those of the first fit."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        chances = self.classes(seen)
        mean = float(measured.means(values[:, :1])[0])
        weight = chances.T @ chances + self.config.prior * np.eye(chances.shape[1])
        keeps = np.linalg.solve(weight, chances.T @ (values[:, 0] - mean)) + mean
        arrays = {
            **self._arrays,
            "keeps": np.column_stack([self._keeps, np.clip(keeps, 0.0, 1.0)]),
            "costs": typical.widened(self._columns, self._arrays["costs"], values),
        }
        return EllieSQL(self.config, columns, arrays)

    def state(self) -> State:
        """Heads, what classes come to, and mean costs."""
        return State({**saved.described(self._columns), "settings": self.config.settings()}, self._arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; NaN in `keeps` means "never tried"."""
        columns = saved.columns(state)
        targets = len(columns.targets)
        config = configured(EllieSQLConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        weights = saved.array(state, "weights", (None, None))
        arrays = {
            "weights": weights,
            "bias": saved.array(state, "bias", (weights.shape[1],)),
            "keeps": saved.array(state, "keeps", (weights.shape[1] + 1, targets), finite=False),
            "costs": saved.array(state, "costs", (columns.width - targets,), finite=False),
        }
        return cls(config, columns, arrays)


def reached(solved: Array, ordinal: bool) -> Array:
    """[N, T] does some tier up to t solve the row: 1, 0, or NaN where the record does not say.

    solved   [N, T] 1, 0 or NaN for tiers in order of cost

    Yes where a recorded tier up to t did. No where every recorded one failed and t itself or a dearer one was among them: a
    dearer tier is taken to solve what a cheaper one does. Without `ordinal` every tier speaks for itself alone.
    """
    if not ordinal:
        return solved
    success = np.maximum.accumulate(np.where(np.isnan(solved), 0.0, solved), axis=1)
    failed = np.where(np.isnan(solved), 0.0, 1.0 - solved)
    above = np.maximum.accumulate(failed[:, ::-1], axis=1)[:, ::-1]
    return np.where(success > 0.0, 1.0, np.where(above > 0.0, 0.0, np.nan))


def classes_of(solved: Array) -> NDArray[np.intp]:
    """[N] the cheapest recorded tier that solves a row; T where none does."""
    hits = np.where(np.isnan(solved), 0.0, solved) > 0.0
    first: NDArray[np.intp] = np.where(hits.any(axis=1), hits.argmax(axis=1), solved.shape[1]).astype(np.intp)
    return first


def kept(quality: Array, classes: NDArray[np.intp], prior: float) -> Array:
    """[T + 1, T] mean quality of tier t where the cheapest solving tier is s, drawn to the assumption by `prior` rows.

    The assumption is 1 for t >= s and 0 below, so that logs that stop at the first success leave it as it is; where dearer
    tiers were tried they say how often they fail where a cheaper one works.
    """
    tiers = quality.shape[1]
    assumed = (np.arange(tiers)[None, :] >= np.arange(tiers + 1)[:, None]).astype(np.float64)
    total, times = measured.sums(quality, classes, tiers + 1)
    found: Array = (total + prior * assumed) / (times + prior)
    return found


@dataclass(frozen=True, kw_only=True)
class EllieSQLConfig(EstimatorConfig):
    """What solves, and how it is learned.

    solved    quality from which a target counts as having solved a query
    alpha     L2 penalty of the heads
    prior     rows' worth of the assumption that a dearer tier solves what a cheaper one does
    ordinal   learn "some tier up to t solves"; False learns every tier by itself (what the ordinal labels are worth)
    """

    solved: float = 0.5
    alpha: float = 10.0
    prior: float = 5.0
    ordinal: bool = True

    name: ClassVar[str] = "ellie-sql"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = EllieSQL
    about: ClassVar[About | None] = About(
        title="EllieSQL",
        family="configuration as candidate",
        status="adapted",
        source="EllieSQL: complexity-aware routing for text-to-SQL; released configuration (HKUSTDial/EllieSQL)",
        formula=(
            "pipelines Basic < Intermediate < Advanced by cost; label = the cheapest that solves the query, else unsolved\n"
            "P(label <= t | x) by one logistic head per tier; quality of tier t = sum_s P(label = s | x) keep[s, t]\n"
            "TEP = [(EX - EX_base) / EX_base] / [(T - T_base) / T_base], base = Basic, T = tokens"
        ),
        complexity="fit O(steps N D T); decide O(D T + T M)",
        adapted=(
            "Logistic heads on our encoder instead of a fine-tuned RoBERTa or Qwen2.5-0.5B.",
            "Tiers are the table's targets by mean cost; token counts stand for cost only where costs were recorded so.",
            "Unsolved queries are a class of their own; the authors' code trains them as Advanced, which pays for nothing.",
            "Whether a dearer tier solves what a cheaper one does is measured where it was tried; the labels assume it.",
        ),
        claims=(
            Claim(
                figure="40% fewer tokens at equal EX than always Advanced; TEP more than doubled",
                on="BIRD dev",
                sure="abstract",
            ),
        ),
    )

    def __post_init__(self) -> None:
        check(0 < self.solved <= 1, "ellie-sql.solved", "must be in (0, 1]")
        check(self.alpha > 0, "ellie-sql.alpha", "must be positive")
        check(self.prior > 0, "ellie-sql.prior", "must be positive")

    def candidates(self, rows: int) -> Sequence[EllieSQLConfig]:
        """From the strongest penalty to the weakest."""
        del rows
        return [replace(self, alpha=alpha) for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> EllieSQL:
        """Order the tried targets by cost and fit one head per tier; raises UserError without a row."""
        del rng
        measured.same_rows(table, features, self.name)
        x = features.vectors(self.name).astype(np.float64)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        targets = len(columns.targets)
        order = tiers(table)
        quality = values[:, order]
        solved = np.where(np.isnan(quality), np.nan, quality >= self.solved - 1e-9)
        weights, bias = logistic(x, reached(solved, self.ordinal), self.alpha)
        keeps = np.full((len(order) + 1, targets), np.nan)
        keeps[:, order] = kept(quality, classes_of(solved), self.prior)
        return EllieSQL(self, columns, {"weights": weights, "bias": bias, "keeps": keeps, "costs": typical.of(values, targets)})


def tiers(table: OutcomeTable) -> NDArray[np.intp]:
    """Columns of the targets that were tried, cheapest first: by mean cost, else mean tokens, else list price.

    A target whose cost is not known stands with the dearest.
    """
    tried = np.flatnonzero(table.mask.any(axis=0))
    for values in (table.cost_usd, table.output_tokens):
        if values is not None and not np.isnan(values).all():
            return tried[np.argsort(measured.means(values)[tried], kind="stable")]
    prices = [np.inf if t.price is None else t.price.cost_usd(1000.0, 300.0) for t in table.targets]
    return tried[np.argsort(np.array(prices)[tried], kind="stable")]
