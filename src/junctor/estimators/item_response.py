"""Item response models whose item parameters are linear in the query's vector: fitting, abilities, and how much a query tells.

Log odds of target i on query x are A(x)·θ_i - B(x).

    2PL (one dimension)   A = a = softplus(w_a·x + c_a) > 0,  B = a b  with  b = w_b·x + c_b,  so that p = σ(a (θ - b))
    MIRT (several)        A = W_a x + c_a,  B = w_b·x + c_b

Shift and scale of θ are not identified: every dimension is held at mean 0 and variance 1 over the fitted targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from junctor.estimators.regression import sigmoid
from junctor.policy import Array

UNIT_SLOPE = float(np.log(np.e - 1.0))
"""softplus of this is 1: where the fit of a 2PL begins."""
INTERCEPT_PENALTY = 0.1
"""Draws intercepts to where the fit begins, so that targets that never fail still have finite ones."""
PRIOR_PRECISION = 0.25
"""Of an ability that is found from a few rows: a prior of twice the spread of the fitted targets."""
NEWTON_STEPS = 30
NEWTON_TOLERANCE = 1e-8
LONGEST_STEP = 1.0


@dataclass(frozen=True, slots=True)
class Items:
    """How queries become items: weights [D, K + 1] and intercepts [K + 1], the last column for the offset.

    positive   2PL: slopes through a softplus, and the offset is slope times difficulty
    """

    weights: Array
    bias: Array
    positive: bool

    def of(self, x: Array) -> tuple[Array, Array]:
        """Slopes A [..., K] and offsets B [...] of queries [..., D]."""
        raw = x @ self.weights + self.bias
        return _items(raw, self.positive)


def _items(raw: Array, positive: bool) -> tuple[Array, Array]:
    slopes, last = raw[..., :-1], raw[..., -1]
    if not positive:
        return slopes, last
    slopes = np.logaddexp(0.0, slopes)
    return slopes, slopes[..., 0] * last


def log_odds(slopes: Array, offsets: Array, abilities: Array) -> Array:
    """A·θ - B [..., M] for abilities [M, K]."""
    found: Array = slopes @ abilities.T - offsets[..., None]
    return found


def fit(
    x: Array, quality: Array, dimensions: int, alpha: float, steps: int, rng: np.random.Generator
) -> tuple[Items, Array, list[float]]:
    """Items, abilities [M, K] and the loss after each step, by L-BFGS on the masked log loss per target + alpha / 2 |W|².

    x         [N, D]
    quality   [N, M] in [0, 1], graded or 0/1; NaN = not recorded; every column records something
    """
    from scipy.optimize import minimize

    problem = _Problem(x, quality, dimensions, alpha)
    losses: list[float] = []
    found = minimize(
        problem.loss,
        problem.start(rng),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps},
        callback=lambda intermediate_result: losses.append(float(intermediate_result.fun)),
    )
    weights, bias, raw = problem.parts(found.x)
    return Items(weights.copy(), bias.copy(), problem.positive), standardised(raw)[0], losses


class _Problem:
    """The loss and its slope, over one flat vector of weights [D, K + 1], intercepts [K + 1] and raw abilities [M, K]."""

    def __init__(self, x: Array, quality: Array, dimensions: int, alpha: float) -> None:
        self.x, self.alpha, self.positive = x, alpha, dimensions == 1
        self.seen = (~np.isnan(quality)).astype(np.float64)
        self.y = np.nan_to_num(quality)
        self.targets = quality.shape[1]
        self.width = dimensions + 1
        level = float((self.y.sum() + 0.5) / (self.seen.sum() + 1.0))
        self.anchor = np.zeros(self.width)
        self.anchor[-1] = -np.log(level / (1.0 - level))
        if self.positive:
            self.anchor[0] = UNIT_SLOPE

    def start(self, rng: np.random.Generator) -> Array:
        """Flat items, abilities by mean quality, further dimensions at random."""
        times = self.seen.sum(axis=0)
        mean = (self.y.sum(axis=0) + 0.5) / (times + 1.0)
        raw = rng.standard_normal((self.targets, self.width - 1))
        raw[:, 0] = np.log(mean / (1.0 - mean))
        if np.ptp(raw[:, 0]) < 1e-9:
            raw[:, 0] = np.arange(self.targets)
        weights = 0.01 * rng.standard_normal((self.x.shape[1], self.width)) * (self.width > 2)
        return np.concatenate([weights.ravel(), self.anchor, raw.ravel()])

    def parts(self, flat: Array) -> tuple[Array, Array, Array]:
        """Weights, intercepts, raw abilities."""
        cut = self.x.shape[1] * self.width
        return (
            flat[:cut].reshape(-1, self.width),
            flat[cut : cut + self.width],
            flat[cut + self.width :].reshape(self.targets, -1),
        )

    def loss(self, flat: Array) -> tuple[float, Array]:
        """The penalised loss and its slope."""
        weights, bias, raw_abilities = self.parts(flat)
        raw = self.x @ weights + bias
        slopes, offsets = _items(raw, self.positive)
        abilities, spread = standardised(raw_abilities)
        odds = log_odds(slopes, offsets, abilities)
        share = 1.0 / self.targets
        value = share * float(np.sum(self.seen * (np.logaddexp(0.0, odds) - self.y * odds)))
        error = share * self.seen * (sigmoid(odds) - self.y)
        to_raw = self._to_items(raw, slopes, error @ abilities, -error.sum(axis=1))
        to_abilities = _through_standard(error.T @ slopes, abilities, spread)
        away = bias - self.anchor
        value += 0.5 * self.alpha * float(np.sum(weights**2)) + 0.5 * INTERCEPT_PENALTY * float(np.sum(away**2))
        slope = np.concatenate(
            [
                (self.x.T @ to_raw + self.alpha * weights).ravel(),
                to_raw.sum(axis=0) + INTERCEPT_PENALTY * away,
                to_abilities.ravel(),
            ]
        )
        return value, slope

    def _to_items(self, raw: Array, slopes: Array, to_slopes: Array, to_offsets: Array) -> Array:
        """The slope with respect to x W + c [N, K + 1]."""
        if not self.positive:
            return np.column_stack([to_slopes, to_offsets])
        to_slopes = to_slopes + (to_offsets * raw[:, -1])[:, None]
        return np.column_stack([to_slopes * sigmoid(raw[:, :-1]), to_offsets * slopes[:, 0]])


def standardised(raw: Array) -> tuple[Array, Array]:
    """Abilities at mean 0 and variance 1 in every dimension, and the spread [K] that was divided by; one target stands at 0."""
    centred = raw - raw.mean(axis=0)
    spread = np.maximum(np.sqrt(np.mean(centred**2, axis=0)), 1e-9)
    return centred / spread, spread


def _through_standard(slope: Array, abilities: Array, spread: Array) -> Array:
    """Back through `standardised`."""
    along = np.mean(slope * abilities, axis=0)
    return np.asarray((slope - slope.mean(axis=0) - abilities * along) / spread)


def ability(slopes: Array, offsets: Array, quality: Array) -> tuple[Array, Array]:
    """One target's ability [K] from answers to n items, and its posterior covariance [K, K].

    slopes [n, K], offsets [n], quality [n] without NaN. Newton's method on the log loss with a normal prior around 0.
    """
    dimensions = slopes.shape[1]
    here = np.zeros(dimensions)
    precision = PRIOR_PRECISION * np.eye(dimensions)
    for _ in range(NEWTON_STEPS):
        chance = sigmoid(slopes @ here - offsets)
        precision = PRIOR_PRECISION * np.eye(dimensions) + (slopes * (chance * (1.0 - chance))[:, None]).T @ slopes
        step = np.linalg.solve(precision, slopes.T @ (quality - chance) - PRIOR_PRECISION * here)
        step *= min(1.0, LONGEST_STEP / max(float(np.abs(step).max()), 1e-300))
        here = here + step
        if np.abs(step).max() < NEWTON_TOLERANCE:
            break
    return here, np.asarray(np.linalg.inv(precision), dtype=np.float64)


def information(slopes: Array, offsets: Array, at: Array, covariance: Array) -> Array:
    """How much each of n queries would tell of an ability [n]: p (1 - p) A·C A.

    In one dimension this orders queries as the Fisher information a² p (1 - p) does; in several it is the gain in the
    determinant of the posterior precision (D-optimality), C being the posterior covariance so far.
    """
    chance = sigmoid(slopes @ at - offsets)
    weight: NDArray[np.float64] = chance * (1.0 - chance) * np.sum((slopes @ covariance) * slopes, axis=1)
    return weight
