"""How bandits draw: pure functions from what an arm is worth, and how little that is known, to a choice and its propensity.

value, spread   [N, K] over N requests and K arms
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from junctor.policy import Array

Choices = NDArray[np.intp]
EVEN = 1e-9
"""Values closer than this are equal: the first arm goes first."""
LEAST = 1e-6
"""No propensity is stated below this."""
NODES = np.linspace(-6.0, 6.0, 97)
"""Where the density of a normal score is looked at."""
WEIGHTS = np.exp(-(NODES**2) / 2)
WEIGHTS /= WEIGHTS.sum()
_STEP = float(NODES[1] - NODES[0])
_CELLS = 1_000_000


def top(value: Array) -> Choices:
    """Per row the first of the best [N]."""
    found: Choices = (value >= value.max(axis=1, keepdims=True) - EVEN).argmax(axis=1)
    return found


def normal_cdf(z: Array) -> Array:
    """Φ, to 1e-7: Abramowitz and Stegun (1964), formula 26.2.17."""
    size = np.abs(z)
    t = 1.0 / (1.0 + 0.2316419 * size)
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail = np.exp(-0.5 * size * size) * 0.3989422804014327 * series
    return np.where(z > 0, 1.0 - tail, tail)


def largest_of_normals(value: Array, spread: Array, choice: Choices) -> Array:
    """P(the chosen one of K independent normal scores is the largest) [N].

    Two arms: Φ((a - b) / √(s_a² + s_b²)). More: ∫ φ(z) Π_k Φ((a + s_a z - b_k) / s_k) dz by the trapezoid rule, in which an arm
    that is much surer than the chosen one is blurred to half a step; wrong by less than 0.005.
    """
    rows = np.arange(len(value))
    width = np.maximum(spread, 1e-12)
    if value.shape[1] == 1:
        return np.ones(len(value))
    if value.shape[1] == 2:
        lead = value[rows, choice] - value[rows, 1 - choice]
        return np.clip(normal_cdf(lead / np.sqrt((width**2).sum(axis=1))), LEAST, 1.0 - LEAST)
    found = np.empty(len(value))
    step = max(1, _CELLS // (value.shape[1] * len(NODES)))
    for start in range(0, len(value), step):
        part = slice(start, start + step)
        found[part] = _integral(value[part], width[part], choice[part])
    return np.clip(found, LEAST, 1.0 - LEAST)


def _integral(value: Array, width: Array, choice: Choices) -> Array:
    rows = np.arange(len(value))
    own, scale = value[rows, choice], width[rows, choice]
    others = np.arange(value.shape[1])[None, :] != choice[:, None]
    rivals = value[others].reshape(len(value), -1)
    blurred = np.maximum(width[others].reshape(len(value), -1), scale[:, None] * _STEP / 2)
    score = own[:, None] + scale[:, None] * NODES
    chance: Array = normal_cdf((score[:, :, None] - rivals[:, None, :]) / blurred[:, None, :]).prod(axis=2)
    found: Array = chance @ WEIGHTS
    return found


def mostly_top(value: Array, epsilon: float, rng: np.random.Generator) -> Choices:
    """The best, but with probability ε any one, the best among them [N]."""
    count, arms = value.shape
    explore = rng.random(count) < epsilon
    return np.where(explore, rng.integers(arms, size=count), top(value))


def mostly_top_propensity(value: Array, epsilon: float, choice: Choices) -> Array:
    """Of `mostly_top`: ε / K, and 1 - ε more for the best [N]."""
    found: Array = epsilon / value.shape[1] + (1.0 - epsilon) * (choice == top(value))
    return found


def by_chance(chances: Array, rng: np.random.Generator) -> Choices:
    """One draw per row of probabilities that add up to 1 [N]."""
    marks = chances.cumsum(axis=1)
    found: Choices = (marks < rng.random(len(chances))[:, None] * marks[:, -1:]).sum(axis=1)
    return found


def exponential(score: Array, floor: float) -> Array:
    """(1 - γ) softmax(score) + γ / K [N, K]."""
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    found: Array = (1.0 - floor) * weight / weight.sum(axis=1, keepdims=True) + floor / score.shape[1]
    return found
