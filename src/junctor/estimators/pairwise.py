"""Pairwise comparisons of targets: what recorded rows say of them, Bradley-Terry ratings, and the way back to expected quality.

On a row that records both, target i takes y = (1 + q_i - q_k) / 2 of the comparison with k: a win is 1, a loss 0, a tie half,
and graded outcomes lie between, so that the *gap* is what is learned and not one side's failure. A rating s gives
P(i beats k) = σ(s_i - s_k). Comparisons hold no level: `qualities` puts expected gaps around one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from junctor.estimators.regression import sigmoid
from junctor.policy import Array

NEWTON_STEPS = 40
LONGEST_STEP = 1.0
LEAST_CURVATURE = 0.02
"""Of one comparison: where ratings lie far apart, the true curvature would make for steps without end."""
TOLERANCE = 1e-9


def won(quality: Array) -> Array:
    """[N, M]: each target's share of its comparisons on a row, summed over the other targets that the row records."""
    seen = ~np.isnan(quality)
    known = np.where(seen, quality, 0.0)
    others = seen.sum(axis=1, keepdims=True) - 1.0
    gaps = (others + 1.0) * known - known.sum(axis=1, keepdims=True)
    return np.where(seen, (others + gaps) / 2.0, 0.0)


def met(quality: Array, weights: Array | None = None) -> Array:
    """How much weight lies on rows that record both targets: [M, M] with a zero diagonal, or [B, M, M] for weights [B, N]."""
    seen = (~np.isnan(quality)).astype(np.float64)
    targets = seen.shape[1]
    if weights is None:
        counts = seen.T @ seen
    else:
        first, second = np.triu_indices(targets, 1)
        counts = np.zeros((len(weights), targets, targets))
        counts[:, first, second] = weights @ (seen[:, first] * seen[:, second])
        counts += counts.swapaxes(1, 2)
    counts[..., np.arange(targets), np.arange(targets)] = 0.0
    return counts


def bradley_terry(wins: Array, counts: Array, ties: float) -> Array:
    """Ratings of mean 0 [..., M] that maximise the likelihood of the comparisons, by damped Newton steps.

    wins    [..., M] weight of the comparisons that each target won
    counts  [..., M, M] weight of the comparisons of each pair, symmetric
    ties    a prior: so many ties between any two, which keeps the ratings of the undefeated finite
    """
    targets = wins.shape[-1]
    counts = counts + ties * (1.0 - np.eye(targets))
    wins = wins + ties * (targets - 1) / 2.0
    ratings = np.zeros(wins.shape)
    whole = counts.sum(axis=(-1, -2))[..., None, None] / max(targets, 1) + 1e-300
    for _ in range(NEWTON_STEPS):
        chance = sigmoid(ratings[..., :, None] - ratings[..., None, :])
        weight = counts * np.maximum(chance * (1.0 - chance), LEAST_CURVATURE)
        hessian = np.eye(targets) * weight.sum(axis=-1)[..., None] - weight
        slope = wins - (counts * chance).sum(axis=-1)
        # ratings are known up to a shift: a constant added to every entry fixes their mean and changes nothing else
        step = np.linalg.solve(hessian + 1e-3 * whole / max(targets, 1), slope[..., None])[..., 0]
        step -= step.mean(axis=-1, keepdims=True)
        step = np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        ratings = ratings + step
        if not step.size or float(np.abs(step).max()) < TOLERANCE:
            break
    return ratings


def margins(ratings: Array, pool: int) -> Array:
    """Expected gap to the average of the first `pool` targets [..., M]: mean over k of 2 σ(s_i - s_k) - 1; NaN stays NaN."""
    against = ratings[..., :pool]
    known = ~np.isnan(against)
    gaps = np.tanh((ratings[..., :, None] - np.where(known, against, 0.0)[..., None, :]) / 2.0)
    share = known / np.maximum(known.sum(axis=-1, keepdims=True), 1)
    found: Array = (gaps * share[..., None, :]).sum(axis=-1)
    return found


def qualities(margin: Array, level: Array | float, slope: Array | float = 1.0) -> Array:
    """Level + slope * margin [..., M], moved as a whole where it would leave [0, 1], so that gaps between targets stay.

    Only gaps wider than 1 are cut.
    """
    raw: Array = level + slope * margin
    if not raw.shape[-1]:
        return raw
    known = np.where(np.isnan(raw), level, raw)
    over = np.maximum(known.max(axis=-1, keepdims=True) - 1.0, 0.0)
    under = np.maximum(-known.min(axis=-1, keepdims=True), 0.0)
    moved: Array = np.minimum(np.maximum(raw - over + under, 0.0), 1.0)
    return moved


def level(quality: Array, margin: Array) -> float:
    """The mean of quality - margin over recorded cells: what the average target scores on the average recorded row."""
    rest = quality - margin
    seen = ~np.isnan(rest)
    return float(rest[seen].mean()) if seen.any() else 0.5


def opponents(quality: NDArray[np.float64], expected: Array) -> Array:
    """[n, M]: a newcomer's share of its comparisons with each known target, from its quality [n] and theirs as expected."""
    return np.asarray((1.0 + quality[:, None] - expected) / 2.0)
