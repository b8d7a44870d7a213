"""elo: one rating per target from pairwise comparisons of recorded outcomes, whatever the query.

Where the log is uneven (dear targets tried on hard queries only), a target's mean says as much of its queries as of itself; a
comparison of two targets on one query does not. Ratings are the Bradley-Terry maximum, so that no order of rows matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from junctor.about import About
from junctor.errors import UserError
from junctor.estimators import measured, pairwise, saved, typical
from junctor.estimators.measured import Columns
from junctor.estimators.regression import sigmoid
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

POINTS = 400.0 / float(np.log(10.0))
"""Elo points per unit of log odds: 400 more points win ten times of eleven."""
START = 1000.0
"""The mean Elo rating."""


class Elo(Estimator):
    """Holds M ratings in log odds (NaN = never tried), the level of the average target, and mean costs."""

    name: ClassVar[str] = "elo"

    def __init__(self, config: EloConfig, columns: Columns, ratings: Array, pool: int, level: float, costs: Array) -> None:
        self.config, self.targets = config, columns.targets
        self._columns, self._ratings, self._pool, self._level, self._costs = columns, ratings, pool, level, costs
        self._quality = pairwise.qualities(pairwise.margins(ratings, pool), level)
        measured.frozen(self._quality, costs)
        self._answer = typical.prediction(columns, self._quality, costs)

    @property
    def ratings(self) -> dict[str, float]:
        """Elo points of each target that was tried; their mean over the targets of the fit is 1000."""
        points = (START + POINTS * self._ratings).tolist()
        return {id_: value for id_, value in zip(self.targets, points, strict=True) if value == value}

    def predict(self, features: Features) -> Prediction:
        """The same for every query [M]."""
        del features
        return self._answer

    def predict_many(self, features: Features) -> Prediction:
        """The same, N times."""
        quality = np.broadcast_to(self._quality, (len(features), len(self._quality)))
        return typical.prediction(self._columns, quality, self._costs)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Elo:
        """Rate the newcomer by comparing its calibration rows with what is expected of the others; they keep their ratings."""
        columns = self._columns.plus(target)
        values, _ = measured.calibration(self._columns, target, rows, features)
        known = self._ratings[: self._pool][~np.isnan(self._ratings[: self._pool])]
        wins = pairwise.opponents(values[:, 0], self._quality[: self._pool][~np.isnan(self._ratings[: self._pool])])
        rating = _newcomer(known, wins.sum() + self.config.ties * len(known) / 2.0, len(wins) + self.config.ties)
        costs = typical.widened(self._columns, self._costs, values)
        return Elo(self.config, columns, np.append(self._ratings, rating), self._pool, self._level, costs)

    def state(self) -> State:
        """Ratings, how many of them are the pool that margins are taken against, level and costs."""
        config = {
            **saved.described(self._columns),
            "settings": self.config.settings(),
            "pool": self._pool,
            "level": self._level,
        }
        return State(config, {"ratings": self._ratings, "costs": self._costs})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        columns = saved.columns(state)
        config = configured(EloConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        ratings = saved.array(state, "ratings", (len(columns.targets),), finite=False)
        costs = saved.array(state, "costs", (columns.width - len(columns.targets),), finite=False)
        return cls(config, columns, ratings, saved.entry(state, "pool", int), saved.entry(state, "level", float), costs)


def _newcomer(known: Array, wins: float, times: float) -> float:
    """The rating s with times * sum_k σ(s - s_k) = wins, by bisection: the sum rises in s."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if times * float(sigmoid(middle - known).sum()) < wins:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


@dataclass(frozen=True, kw_only=True)
class EloConfig(EstimatorConfig):
    """ties: a prior, so many ties between any two targets."""

    ties: float = 1.0

    name: ClassVar[str] = "elo"
    fitted: ClassVar[type[Estimator]] = Elo
    about: ClassVar[About | None] = About(
        title="Elo / Bradley-Terry ratings",
        family="latent traits",
        status="adapted",
        source="Bradley-Terry model of paired comparisons, in Elo's points; as used on arena votes (RouteLLM's data)",
        formula=(
            "P(i beats k) = sigmoid(s_i - s_k), one rating s per target, maximum likelihood; Elo = 1000 + 400 s / ln 10\n"
            "expected quality = level + mean_k (2 P(i beats k) - 1)"
        ),
        complexity="fit O(N M² + M³); decide O(1)",
        adapted=(
            "Comparisons are made from recorded outcomes of one query, ties half, graded gaps in between; no human votes.",
            "Ratings are the maximum of the likelihood over all rows, not a running update, so that no order of rows matters.",
        ),
    )

    def __post_init__(self) -> None:
        check(self.ties > 0, "elo.ties", "must be positive")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Elo:
        """Rate every target that was tried; raises UserError without a row."""
        del rng
        measured.same_rows(table, features, self.name)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        targets = len(columns.targets)
        quality = values[:, :targets]
        tried = ~np.isnan(quality).all(axis=0)
        ratings = np.full(targets, np.nan)
        shown = quality[:, tried]
        ratings[tried] = pairwise.bradley_terry(pairwise.won(shown).sum(axis=0), pairwise.met(shown), self.ties)
        level = pairwise.level(quality, pairwise.margins(ratings, targets))
        return Elo(self, columns, ratings, targets, level, typical.of(values, targets))
