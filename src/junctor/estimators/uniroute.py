"""uniroute: a target is described by its error in each cluster of prompts, so that an unseen one needs a few answers only.

Source: UniRoute (Jitkrittum et al. 2025). With Psi_k(h) the mean accuracy of target h over the labelled prompts of cluster k,

    gamma(x, h) = sum_k Phi_k(x) * Psi_k(h)

Phi is one-hot of the nearest k-means centre, or, with map = "learned", softmax_k(theta_k . e(x) + b_k), theta fitted by the
log loss of the training targets' correctness while Psi is held. Cost, latency and tokens are one number per target: c(h)
must not depend on the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import clustering, measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

CLUSTERS = (5, 10, 20, 40, 80)
ROWS_PER_CLUSTER = 10
"""The grid stops where clusters would hold fewer rows than this on average."""
SHARPNESS = 20.0
"""The learned map starts as a softmax of this times the closeness to the centres."""
STEPS, RATE = 30, 0.05
"""Rounds and step size of Adam over all rows at once: few, because K * D numbers soon learn the luck of the training rows."""
MOST_ROWS = 4000
"""So many rows fit the learned map; theta has K * D numbers and gains little from more."""
SURE = 1e-3
"""Predicted chances are kept this far from 0 and 1 in the log loss."""


class UniRoute(Estimator):
    """Holds centres [K, D], accuracies Psi and their errors [K, M], constants [C - M] and theta [K, D + 1] (or [0, D + 1])."""

    name: ClassVar[str] = "uniroute"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self,
        config: UniRouteConfig,
        columns: Columns,
        centres: clustering.Vectors,
        psi: Array,
        error: Array,
        constants: Array,
        theta: Array,
        losses: Sequence[float] = (),
    ) -> None:
        self.config, self.targets, self.losses = config, columns.targets, tuple(losses)
        self._columns, self._centres, self._psi, self._error = columns, centres, psi, error
        self._constants, self._theta = constants, theta
        self._offset = clustering.offsets(centres)
        flat = np.hstack([psi, np.broadcast_to(constants, (len(psi), len(constants)))])
        measured.frozen(flat, error)
        self._answers = [columns.prediction(m, e) for m, e in zip(flat, error, strict=True)]

    def predict(self, features: Features) -> Prediction:
        """Psi of the nearest cluster, or of the learned mixture [M]."""
        if len(self._theta):
            return super().predict(features)
        vector = self._checked(features.vectors(self.name))[0]
        return self._answers[int((self._centres.dot(vector) - self._offset).argmax())]

    def predict_many(self, features: Features) -> Prediction:
        """Phi Psi [N, M]; what is not quality is the same for every query."""
        vectors = self._checked(features.vectors(self.name))
        if len(self._theta):
            phi = softmax(vectors.astype(np.float64) @ self._theta[:, :-1].T + self._theta[:, -1])
            quality, error = np.clip(phi @ self._psi, 0.0, 1.0), phi @ self._error
        else:
            rows = clustering.nearest(vectors, self._centres, self._offset)
            quality, error = self._psi[rows], self._error[rows]
        constant = np.broadcast_to(self._constants, (len(vectors), len(self._constants)))
        return self._columns.prediction(np.hstack([quality, constant]), error)

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, self._centres.shape[1], self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> UniRoute:
        """Psi of the new target over the calibration rows; a cluster without any takes the target's mean. Phi stays."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        groups = clustering.nearest(self._checked(seen.vectors(self.name)), self._centres, self._offset)
        psi, error = measured.tables(values[:, :1], 1, groups, len(self._centres), self.config.shrinkage)
        constants = measured.means(values[:, 1:])
        old = Columns(self.targets, self._columns.measures[1:])
        wide = old.widen(self._constants, constants) if len(constants) else self._constants
        psi, error = np.hstack([self._psi, psi]), np.hstack([self._error, error])
        return UniRoute(self.config, columns, self._centres, psi, error, wide, self._theta, self.losses)

    def state(self) -> State:
        """Centres, the table, the constants and the learned map."""
        config = {**saved.described(self._columns), "settings": self.config.settings()}
        arrays: dict[str, NDArray[Any]] = {
            "centres": self._centres,
            "psi": self._psi,
            "error": self._error,
            "constants": self._constants,
        }
        return State(config, {**arrays, "theta": self._theta, "losses": np.array(self.losses, dtype=np.float64)})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; a NaN accuracy means "never tried"."""
        columns = saved.columns(state)
        targets = len(columns.targets)
        config = configured(UniRouteConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        centres = saved.array(state, "centres", (None, None), np.float32)
        count = len(centres) if config.map == "learned" else 0
        return cls(
            config,
            columns,
            centres,
            saved.array(state, "psi", (len(centres), targets), finite=False),
            saved.array(state, "error", (len(centres), targets)),
            saved.array(state, "constants", (columns.width - targets,), finite=False),
            saved.array(state, "theta", (count, centres.shape[1] + 1)),
            saved.array(state, "losses", (None,)).tolist(),
        )


def softmax(logits: Array) -> Array:
    """Rows that sum to one."""
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = weight / weight.sum(axis=1, keepdims=True)
    return shares


def learned_map(vectors: clustering.Vectors, quality: Array, psi: Array, start: Array) -> tuple[Array, list[float]]:
    """The map [K, D + 1], its last column the bias, and the log loss of each round; Psi [K, M] is held.

    vectors [N, D]; quality [N, M] in [0, 1] or NaN. Adam over all rows at once, from `start`.
    """
    x = np.hstack([vectors, np.ones((len(vectors), 1), np.float32)]).astype(np.float32)
    seen = (~np.isnan(quality) & ~np.isnan(psi).any(axis=0)).astype(np.float32)
    y, table = np.nan_to_num(quality).astype(np.float32), np.nan_to_num(psi).astype(np.float32)
    theta, first, second = start.astype(np.float32), np.zeros_like(start, np.float32), np.zeros_like(start, np.float32)
    losses, cells = [], max(float(seen.sum()), 1.0)
    for step in range(1, STEPS + 1):
        phi = softmax((x @ theta.T).astype(np.float64)).astype(np.float32)
        chance = np.clip(phi @ table, SURE, 1.0 - SURE)
        losses.append(-float((seen * (y * np.log(chance) + (1 - y) * np.log(1 - chance))).sum()) / cells)
        pull = (seen * (chance - y) / (chance * (1 - chance))) @ table.T / np.float32(cells)
        slope = (phi * (pull - (phi * pull).sum(axis=1, keepdims=True))).T @ x
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        theta -= RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + np.float32(1e-8))
    return theta.astype(np.float64), losses


@dataclass(frozen=True, kw_only=True)
class UniRouteConfig(EstimatorConfig):
    """clusters: K, at most one per row; map: nearest centre, or learned from the training targets' outcomes; shrinkage:
    pseudo-observations of the target's mean in every cluster.
    """

    clusters: int = 20
    map: Literal["kmeans", "learned"] = "kmeans"
    shrinkage: float = 2.0

    name: ClassVar[str] = "uniroute"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = UniRoute
    about: ClassVar[About | None] = About(
        title="UniRoute",
        family="neighbours and tables",
        status="adapted",
        source="Jitkrittum et al. 2025, UniRoute: universal model routing; K-Means and LearnedMap versions",
        formula=(
            "gamma(x, h) = sum_k Phi_k(x) * Psi_k(h), Psi_k(h) = mean 0/1 error of h over labelled prompts of cluster k\n"
            "route to argmin_h gamma(x, h) + lam * c(h), c(h) one price per model\n"
            "Phi = one-hot of the nearest k-means centre, or softmax_k(theta_k . e(x)) fitted by log loss with Psi held"
        ),
        complexity="fit: k-means, O(N K D) per round (learned: 30 passes more); decision: O(K D); a new target: its rows only",
        adapted=(
            "The frozen encoder of the project replaces Gecko.",
            "Centres come from the training prompts without their outcomes, errors from the same prompts: one table is given.",
            "The learned map is fitted on one half of them with errors from the other.",
            "Accuracies are drawn to the target's mean by 2 pseudo-observations, which says what an empty cluster is.",
            "c(h) is the target's mean recorded cost, not its list price or parameter count.",
        ),
        unverified=("No code of the authors was found: the recipe is from several agreeing notes.",),
        claims=(
            Claim(figure="EmbedLLM area .649 (K-Means), .652 (learned), kNN .636", on="unseen models, 400 trials"),
            Claim(figure="SPROUT area .850, .846, kNN .844; QNC 19.6 %, 23.4 %, kNN 29.6 %", on="unseen models"),
            Claim(figure="RouterBench area .712, .711, kNN .707, zero router .689", on="unseen models"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.clusters >= 1, "uniroute.clusters", "must be at least 1")
        check(self.map in ("kmeans", "learned"), "uniroute.map", "must be kmeans or learned")
        check(self.shrinkage >= 0, "uniroute.shrinkage", "must not be negative")

    def candidates(self, rows: int) -> Sequence[UniRouteConfig]:
        """From few clusters to many."""
        grid = [k for k in CLUSTERS if k * ROWS_PER_CLUSTER <= rows] or [min(self.clusters, CLUSTERS[0])]
        return [replace(self, clusters=k) for k in grid]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> UniRoute:
        """Cluster the prompts, then average each target per cluster; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        vectors = np.ascontiguousarray(features.vectors(self.name), dtype=np.float32)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        centres, rows = clustering.clusters(vectors, min(self.clusters, len(vectors)), rng)
        psi, error = measured.tables(table.quality, len(columns.targets), rows, len(centres), self.shrinkage)
        losses: list[float] = []
        theta = np.zeros((0, vectors.shape[1] + 1))
        if self.map == "learned":
            theta, losses = self._learned(vectors, table.quality, rows, centres, rng)
        constants = measured.means(values[:, len(columns.targets) :])
        return UniRoute(self, columns, centres, psi, error, constants, theta, losses)

    def _learned(
        self,
        vectors: clustering.Vectors,
        quality: Array,
        rows: NDArray[np.intp],
        centres: clustering.Vectors,
        rng: np.random.Generator,
    ) -> tuple[Array, list[float]]:
        """The map from one half of the rows while Psi holds the accuracies of the other half."""
        order = rng.permutation(len(vectors))
        held, fitted = order[: len(order) // 2], order[len(order) // 2 :][:MOST_ROWS]
        psi, _ = measured.tables(quality[held], quality.shape[1], rows[held], len(centres), self.shrinkage)
        start = SHARPNESS * np.hstack([centres, -clustering.offsets(centres)[:, None]]).astype(np.float64)
        return learned_map(vectors[fitted], quality[fitted], psi, start)
