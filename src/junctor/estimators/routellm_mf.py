"""routellm-mf: which of two targets wins on a query, by a matrix factorisation of targets and queries.

A rating per target and query, s_i(x); the difference of two is the log odds of winning. The projection W is shared by all
targets, so that a newcomer is a vector in its space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, pairwise, saved, typical
from junctor.estimators.measured import Columns
from junctor.estimators.regression import sigmoid
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

ALPHAS = (4.0, 1.5)
FIRST_SPREAD = 0.05
BIAS_PENALTY = 0.1
NEWCOMER_PENALTY = 1.0
NEWTON_STEPS = 20
MOST_PAIRS = 200
"""With more pairs of targets than this, so many are drawn for the fit."""


class RouteLLMFactors(Estimator):
    """Holds the projection W [D, d], a vector per target [M, d], biases [M], level and slope of quality, and mean costs."""

    name: ClassVar[str] = "routellm-mf"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self,
        config: RouteLLMFactorsConfig,
        columns: Columns,
        arrays: dict[str, Array],
        pool: int,
        scale: tuple[float, float],
        losses: Sequence[float] = (),
    ) -> None:
        self.config, self.targets, self.losses = config, columns.targets, tuple(losses)
        self._columns, self._arrays, self._pool, self._scale = columns, arrays, pool, scale
        self._project, self._vectors, self._bias = arrays["project"], arrays["vectors"], arrays["bias"]
        self._weights = np.ascontiguousarray(self._project @ self._vectors.T)

    def predict(self, features: Features) -> Prediction:
        """One vector-matrix product, then each target against the pool [M]."""
        return self._answer(self._checked(features.vectors(self.name))[0].astype(np.float64) @ self._weights)

    def predict_many(self, features: Features) -> Prediction:
        """Qualities [N, M], block by block."""
        x = self._checked(features.vectors(self.name)).astype(np.float64)
        ratings = x @ self._weights
        many = len(self.targets)
        found = [self._quality(ratings[block]) for block in measured.blocks(len(x), many * self._pool)]
        quality = np.concatenate(found) if found else np.empty((0, many))
        return typical.prediction(self._columns, quality, self._arrays["costs"])

    def chance(self, features: Features, target: str, other: str) -> Array:
        """P(target beats other) for N queries [N]: what the paper thresholds."""
        x = self._checked(features.vectors(self.name)).astype(np.float64)
        ratings = x @ self._weights + self._bias
        one, two = self.targets.index(target), self.targets.index(other)
        return sigmoid(ratings[:, one] - ratings[:, two])

    def _answer(self, ratings: Array) -> Prediction:
        return typical.prediction(self._columns, self._quality(ratings), self._arrays["costs"])

    def _quality(self, ratings: Array) -> Array:
        level, slope = self._scale
        return pairwise.qualities(pairwise.margins(ratings + self._bias, self._pool), level, slope)

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return measured.of_width(vectors, len(self._project), self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> RouteLLMFactors:
        """Fit the newcomer's vector and bias alone, against what is expected of the others on its calibration rows."""
        columns = self._columns.plus(target)
        values, seen = measured.calibration(self._columns, target, rows, features)
        x = self._checked(seen.vectors(self.name)).astype(np.float64)
        ratings = (x @ self._weights + self._bias)[:, : self._pool]
        known = ~np.isnan(self._bias[: self._pool])
        expected = self._quality(x @ self._weights)[:, : self._pool][:, known]
        wins = pairwise.opponents(values[:, 0], expected)
        vector, bias = _newcomer(x @ self._project, ratings[:, known], wins)
        arrays = {
            "project": self._project,
            "vectors": np.vstack([self._vectors, vector]),
            "bias": np.append(self._bias, bias),
            "costs": typical.widened(self._columns, self._arrays["costs"], values),
        }
        return RouteLLMFactors(self.config, columns, arrays, self._pool, self._scale, self.losses)

    def state(self) -> State:
        """Projection, vectors, biases, mean costs, level and slope."""
        config = {
            **saved.described(self._columns),
            "settings": self.config.settings(),
            "pool": self._pool,
            "scale": list(self._scale),
            "losses": list(self.losses),
        }
        return State(config, self._arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; a NaN bias means "never tried"."""
        columns = saved.columns(state)
        targets = len(columns.targets)
        config = configured(RouteLLMFactorsConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        project = saved.array(state, "project", (None, None))
        arrays = {
            "project": project,
            "vectors": saved.array(state, "vectors", (targets, project.shape[1])),
            "bias": saved.array(state, "bias", (targets,), finite=False),
            "costs": saved.array(state, "costs", (columns.width - targets,), finite=False),
        }
        scale = saved.entry(state, "scale", tuple[float, float])
        return cls(config, columns, arrays, saved.entry(state, "pool", int), scale, saved.entry(state, "losses", list[float]))


def _newcomer(hidden: Array, others: Array, wins: Array) -> tuple[Array, float]:
    """A vector [d] and a bias from projected rows [n, d], the others' ratings [n, K] and the shares won [n, K]: Newton."""
    design = np.hstack([hidden, np.ones((len(hidden), 1))])
    penalty = np.append(np.full(hidden.shape[1], NEWCOMER_PENALTY), BIAS_PENALTY)
    here = np.zeros(len(penalty))
    share = 1.0 / max(1, others.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = sigmoid((design @ here)[:, None] - others)
        slope = design.T @ (share * (wins - chance).sum(axis=1)) - penalty * here
        weight = share * (chance * (1.0 - chance)).sum(axis=1)
        step = np.linalg.solve((design * weight[:, None]).T @ design + np.diag(penalty), slope)
        here = here + step * min(1.0, 3.0 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < 1e-7:
            break
    return here[:-1], float(here[-1])


class _Problem:
    """The loss and its slope over one flat vector: W [D, d], target vectors [M, d], output weights [d], biases [M]."""

    def __init__(self, x: Array, quality: Array, dim: int, alpha: float, rng: np.random.Generator) -> None:
        self.x, self.dim, self.alpha, self.targets = x, dim, alpha, quality.shape[1]
        self.narrow = x.astype(np.float32)
        self.first, self.second = _pairs(self.targets, rng)
        gap = quality[:, self.first] - quality[:, self.second]
        self.seen = (~np.isnan(gap)).astype(np.float32) * np.float32(self.targets / max(1.0, 2.0 * len(self.first)))
        self.y = np.where(np.isnan(gap), 0.0, (1.0 + gap) / 2.0).astype(np.float32)
        turn = np.zeros((len(self.first), self.targets), dtype=np.float32)
        turn[np.arange(len(self.first)), self.first] += 1.0
        turn[np.arange(len(self.first)), self.second] -= 1.0
        self.turn = turn

    def start(self, rng: np.random.Generator) -> Array:
        """Small random projections, random directions for the targets, output weights of one, no bias."""
        project = FIRST_SPREAD * rng.standard_normal(self.x.shape[1] * self.dim)
        return np.concatenate(
            [project, rng.standard_normal(self.targets * self.dim), np.ones(self.dim), np.zeros(self.targets)]
        )

    def parts(self, flat: Array) -> tuple[Array, Array, Array, Array]:
        """W, target vectors, output weights, biases."""
        rows, dim, targets = self.x.shape[1], self.dim, self.targets
        ends = np.cumsum([rows * dim, targets * dim, dim])
        project, vectors, out, bias = np.split(flat, ends)
        return project.reshape(rows, dim), vectors.reshape(targets, dim), out, bias

    def loss(self, flat: Array) -> tuple[float, Array]:
        """Log loss of the pairs, as if each target met one other per row, + alpha / 2 (|W|² + |w|²)."""
        project, vectors, out, bias = self.parts(flat)
        length = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        unit = vectors / length
        turned = unit * out
        ratings = self.narrow @ (project @ turned.T).astype(np.float32) + bias.astype(np.float32)
        odds = ratings[:, self.first] - ratings[:, self.second]
        small = np.exp(-np.abs(odds))
        value = float(np.sum(self.seen * (np.maximum(odds, 0.0) + np.log1p(small) - self.y * odds), dtype=np.float64))
        value += 0.5 * self.alpha * float(np.sum(project**2) + np.sum(out**2)) + 0.5 * BIAS_PENALTY * float(np.sum(bias**2))
        chance = np.where(odds >= 0.0, np.float32(1.0), small) / (1.0 + small)
        to_ratings = (self.seen * (chance - self.y)) @ self.turn
        to_weights = (self.narrow.T @ to_ratings).astype(np.float64)
        to_turned = to_weights.T @ project
        to_unit = to_turned * out
        to_vectors = (to_unit - unit * np.sum(to_unit * unit, axis=1, keepdims=True)) / length
        slope = np.concatenate(
            [
                (to_weights @ turned + self.alpha * project).ravel(),
                to_vectors.ravel(),
                np.sum(to_turned * unit, axis=0) + self.alpha * out,
                to_ratings.sum(axis=0, dtype=np.float64) + BIAS_PENALTY * bias,
            ]
        )
        return value, slope


def _pairs(targets: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs; of very many, as many rings through all targets as there is room for, so that each has equally many."""
    if targets * (targets - 1) // 2 <= MOST_PAIRS:
        first, second = np.triu_indices(targets, 1)
        return first.astype(np.intp), second.astype(np.intp)
    rings = [rng.permutation(targets) for _ in range(max(2, MOST_PAIRS // targets))]
    return np.concatenate(rings).astype(np.intp), np.concatenate([np.roll(ring, 1) for ring in rings]).astype(np.intp)


@dataclass(frozen=True, kw_only=True)
class RouteLLMFactorsConfig(EstimatorConfig):
    """dim: of the shared space, at most one per target; alpha: L2 penalty on W and w; steps: of L-BFGS at most."""

    dim: int = 128
    alpha: float = 3.0
    steps: int = 30

    name: ClassVar[str] = "routellm-mf"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = RouteLLMFactors
    about: ClassVar[About | None] = About(
        title="RouteLLM, matrix factorisation",
        family="latent traits",
        status="adapted",
        source="RouteLLM (Ong et al. 2024), matrix factorisation; released code",
        formula=(
            "s(m, x) = w . (v_m / |v_m| * W e(x)); P(strong beats weak | x) = sigmoid(s_strong - s_weak)\n"
            "many targets: the same loss over all pairs, y = (1 + q_i - q_k) / 2\n"
            "quality = level + slope mean_k (2 P(i beats k) - 1)"
        ),
        complexity="fit O(steps N (D M + P)) for P pairs of targets; decide O(D M + M²)",
        adapted=(
            "Trained on pairs of recorded outcomes of one query, ties half, not on arena votes, which are not available.",
            "All pairs of M targets instead of one strong and one weak, and an intercept per target.",
            "No more dimensions than targets (the paper has 128): more of them give no other ratings.",
            "L-BFGS with an L2 penalty on our encoder's vectors, instead of Adam (lr 3e-4, wd 1e-5, 100 epochs, noise .1).",
            "Qualities are put around the mean level, so that the utility can trade them against cost; the paper thresholds P.",
        ),
        claims=(
            Claim(
                figure="APGR .597, CPT50 35.46, CPT80 71.40 with gold rows; .524 on arena votes alone", on="MMLU", sure="read"
            ),
            Claim(figure="APGR .565", on="GSM8K", sure="read"),
            Claim(figure="CPT50 13.4%", on="MT-Bench", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.dim >= 1, "routellm-mf.dim", "must be at least 1")
        check(self.alpha > 0, "routellm-mf.alpha", "must be positive")
        check(self.steps >= 1, "routellm-mf.steps", "must be at least 1")

    def candidates(self, rows: int) -> Sequence[RouteLLMFactorsConfig]:
        """From the strongest penalty to the weakest."""
        del rows
        return [replace(self, alpha=alpha) for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> RouteLLMFactors:
        """Fit projection and targets on all pairs that a row records; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        x = features.vectors(self.name).astype(np.float64)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        targets = len(columns.targets)
        quality = values[:, :targets]
        tried = ~np.isnan(quality).all(axis=0)
        dim = min(self.dim, int(tried.sum()))
        project, found, offsets, losses = _fitted(self, x, quality[:, tried], dim, rng)
        vectors, bias = np.zeros((targets, project.shape[1])), np.full(targets, np.nan)
        vectors[tried], bias[tried] = found, offsets
        margin = pairwise.margins(x @ (project @ vectors.T) + bias, targets)
        arrays = {"project": project, "vectors": vectors, "bias": bias, "costs": typical.of(values, targets)}
        return RouteLLMFactors(self, columns, arrays, targets, (pairwise.level(quality, margin), 1.0), losses)


def _fitted(
    config: RouteLLMFactorsConfig, x: Array, quality: Array, dim: int, rng: np.random.Generator
) -> tuple[Array, Array, Array, list[float]]:
    """W [D, d], turned target vectors w * v / |v| [M, d], biases [M], and the loss after each step."""
    from scipy.optimize import minimize

    problem = _Problem(x, quality, max(1, dim), config.alpha, rng)
    losses: list[float] = []
    found = minimize(
        problem.loss,
        problem.start(rng),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": config.steps},
        callback=lambda intermediate_result: losses.append(float(intermediate_result.fun)),
    )
    project, vectors, out, bias = problem.parts(found.x)
    length = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return project.copy(), vectors / length * out, bias.copy(), losses
