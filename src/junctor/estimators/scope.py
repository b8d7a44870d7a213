"""scope: every target is fingerprinted on a few anchor queries; what it did on similar anchors says what it will do.

Source: "Models Under SCOPE" (Sullivan07043/SCOPE-Router). Stage I retrieves the 6 anchors nearest to the query and takes the
mean of what each target did on them, weighted by similarity squared. Stage II, an LLM trained by reinforcement learning to
read the retrieved outcomes, is replaced by ridge (or logistic) regression on the anchors' outcomes. Both are mixed:

    Q_j(x) = (1 - mix) * stage I + mix * stage II

Outcomes of other training rows are not used, so a new target costs one call per anchor.
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
from junctor.estimators.linear import Linear, LinearConfig
from junctor.estimators.measured import Columns
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

MIXES = (0.75, 0.5, 0.25)
ALPHAS = (30.0, 3.0)
LEAST_SIMILARITY = 1e-3
"""The weight of an anchor that points away is the square of this, so that weights never sum to zero."""
TIE = 1e-9
PRIOR = 0.5
"""How often a target's mean over all anchors counts beside the 6 retrieved ones, in units of one anchor's weight, where
retrieved anchors lack its outcome."""
MEASURES = ("quality", "cost_usd", "latency_s", "output_tokens")


class Scope(Estimator):
    """Holds A anchors' vectors [A, D] and outcomes [A, C], and the regression on them."""

    name: ClassVar[str] = "scope"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self,
        config: ScopeConfig,
        columns: Columns,
        anchors: NDArray[np.float32],
        values: Array,
        second: Linear,
        ids: Sequence[str],
    ) -> None:
        self.config, self.targets, self.anchor_ids = config, columns.targets, tuple(ids)
        self._columns, self._anchors, self._outcomes, self._second = columns, anchors, values, second
        self._wide = anchors.astype(np.float64).T
        seen = ~np.isnan(values)
        self._filled, self._seen = np.nan_to_num(values), seen.astype(np.float64)
        self._mean = measured.means(values)
        self._variance = measured.variances(values[:, : len(columns.targets)])

    def predict_many(self, features: Features) -> Prediction:
        """Both stages, mixed [N, M]."""
        vectors = measured.of_width(features.vectors(self.name), len(self._wide), self.name)
        first, error = self._retrieved(vectors.astype(np.float64) @ self._wide)
        share = self.config.mix
        mixed = (1.0 - share) * first + share * _flat(self._second.predict_many(features))
        return self._columns.prediction(mixed, error)

    def _retrieved(self, near: Array) -> tuple[Array, Array]:
        """Stage I [N, C] and the standard error of its qualities [N, M], from similarities to the anchors [N, A]."""
        count = near.shape[1]
        kth = count - min(self.config.neighbours, count)
        chosen = near >= np.partition(near, kth, axis=1)[:, kth, None] - TIE
        weight = np.where(chosen, np.maximum(near, LEAST_SIMILARITY) ** 2, 0.0)
        behind = weight @ self._seen
        missing = weight.sum(axis=1, keepdims=True) - behind
        prior = PRIOR * missing + np.where(behind > 0, 0.0, 1.0)
        mean = (weight @ self._filled + prior * np.nan_to_num(self._mean)) / (behind + prior)
        mean = np.where(np.isnan(self._mean), np.nan, mean)
        targets = len(self.targets)
        times = chosen @ self._seen[:, :targets]
        quality = mean[:, :targets]
        return mean, measured.standard_error(quality * (1.0 - quality), times, self._variance)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Scope:
        """The new target's outcomes on the anchors. An anchor that was not called takes the mean of the nearest rows that were.

        `anchor_ids` names the rows that are worth their calls.
        """
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        vectors = measured.of_width(seen.vectors(self.name), len(self._wide), self.name)
        near = self._wide.T @ vectors.T.astype(np.float64)
        count = min(self.config.neighbours, len(values))
        kth = np.partition(near, len(values) - count, axis=1)[:, len(values) - count, None]
        called = near.max(axis=1, keepdims=True) > 1.0 - 1e-5
        chosen = np.where(called, near > 1.0 - 1e-5, near >= kth - TIE)
        told, times = chosen @ np.nan_to_num(values), chosen @ (~np.isnan(values)).astype(np.float64)
        anchors = np.divide(told, times, out=np.broadcast_to(measured.means(values), told.shape).copy(), where=times > 0)
        return self.config.over(columns, self._anchors, self._columns.widen(self._outcomes, anchors), self.anchor_ids)

    def state(self) -> State:
        """Anchors and the regression."""
        second = self._second.state()
        config = {**saved.described(self._columns), "settings": self.config.settings(), "anchor_ids": list(self.anchor_ids)}
        arrays: dict[str, NDArray[Any]] = {"anchors": self._anchors, "values": self._outcomes}
        return State(config, {**arrays, **{f"second_{key}": found for key, found in second.arrays.items()}})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; NaN means "not recorded"."""
        columns = saved.columns(state)
        config = configured(ScopeConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        ids = saved.entry(state, "anchor_ids", list[str])
        anchors = saved.array(state, "anchors", (len(ids), None), np.float32)
        values = saved.array(state, "values", (len(anchors), columns.width), finite=False)
        arrays = {key.removeprefix("second_"): found for key, found in state.arrays.items() if key.startswith("second_")}
        inner = {**saved.described(columns), "settings": config.regression.settings()}
        return cls(config, columns, anchors, values, Linear.from_state(State(inner, arrays)), ids)


def _flat(found: Prediction) -> Array:
    """[N, C] of a Prediction."""
    parts = [values for name in MEASURES if (values := getattr(found, name)) is not None]
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True, kw_only=True)
class ScopeConfig(EstimatorConfig):
    """anchors: queries that make the fingerprint; neighbours: retrieved ones; mix: share of stage II; alpha: its penalty."""

    anchors: int = 250
    neighbours: int = 6
    mix: float = 0.5
    alpha: float = 3.0

    name: ClassVar[str] = "scope"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = Scope
    about: ClassVar[About | None] = About(
        title="SCOPE",
        family="regression",
        status="adapted",
        source="Models Under SCOPE; code Sullivan07043/SCOPE-Router",
        formula=(
            "stage I: retrieve the 6 nearest of 250 anchors, weights sim^2; Q and C are weighted means of their outcomes\n"
            "score = a * Q + (1 - a) * (1 - C)^s, C the log cost min-max scaled per query, s = 2 * (1 + 2 * (1 - a))"
        ),
        complexity="fit: ridge on A anchors, O(A D^2); decision: O(A D); a new target: A calls",
        adapted=(
            "Stage II, an LLM trained by reinforcement learning, is replaced by ridge or logistic regression on the anchors.",
            "The share of stage II is tuned, where the paper lets it grow with the preference for quality.",
            "Cost is traded in USD by the utility's cost weight: scaled per query it cannot be compared across queries.",
            "The frozen encoder of the project replaces Qwen3-Embedding-0.6B; anchors are drawn in proportion to the labels.",
        ),
        claims=(
            Claim(
                figure="up to +25.7 % accuracy, or -95.1 % cost (opposite ends of one curve)", on="its pool", sure="abstract"
            ),
            Claim(figure="pool accuracies 53.17 % to 73.60 %", on="its pool", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        for key in ("anchors", "neighbours"):
            check(getattr(self, key) >= 1, f"scope.{key}", "must be at least 1")
        check(0 <= self.mix <= 1, "scope.mix", "must be in [0, 1]")
        check(self.alpha > 0, "scope.alpha", "must be positive")

    @property
    def regression(self) -> LinearConfig:
        """Stage II."""
        return LinearConfig(alpha=self.alpha)

    def candidates(self, rows: int) -> Sequence[ScopeConfig]:
        """From much regression, strongly penalised, to little of it."""
        del rows
        return [replace(self, mix=mix, alpha=alpha) for mix in MIXES for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Scope:
        """Draw the anchors and keep their outcomes; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        vectors = np.ascontiguousarray(features.vectors(self.name), dtype=np.float32)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        rows = drawn(table, min(self.anchors, len(table)), rng)
        return self.over(columns, vectors[rows], values[rows], [table.ids[i] for i in rows.tolist()])

    def over(self, columns: Columns, anchors: NDArray[np.float32], values: Array, ids: Sequence[str]) -> Scope:
        """From anchors and their outcomes."""
        return Scope(self, columns, anchors, values, self.regression.over(columns, anchors, values), ids)


def drawn(table: OutcomeTable, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """The rows of the anchors, ascending: each label gives its share, and rows that record more targets go first."""
    order = rng.permutation(len(table))
    order = order[np.argsort(-table.mask[order].sum(axis=1), kind="stable")]
    names = sorted(set(table.label))
    place = {name: i for i, name in enumerate(names)}
    label = np.array([place[name] for name in table.label], dtype=np.intp)[order]
    sizes = np.bincount(label, minlength=len(names))
    rank = np.empty(len(order))
    for group in range(len(names)):
        rank[label == group] = (np.arange(sizes[group]) + 0.5) / sizes[group]
    return np.sort(order[np.argsort(rank, kind="stable")[:count]])
