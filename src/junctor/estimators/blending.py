"""How much of each member goes into a stack, read off held-out predictions alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from junctor.curves import area_under_hull
from junctor.estimators import measured
from junctor.estimators.measured import Columns
from junctor.estimators.stacking import gap_weights, level_weights
from junctor.policy import Array

CONTENDERS = 5
"""Gaps are regressed among so many of the best targets: those far behind are easy to tell apart, and nobody asks."""
TRADES = (0.0, *np.geomspace(1e-2, 1e2, 14).tolist(), 1e9)
"""Cost weights at which choices on held-out rows are compared."""
MOST_BELIEF = 1.2
SMALL = 0.005
"""A member of less weight is not named in the summary, nor kept where that would cost a search."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Predictions for n rows by members that had not seen them.

    held     member -> [n, C]
    actual   [n, C] outcomes, NaN where not recorded
    mean     [C] of all training rows; NaN for a column that was never recorded
    """

    held: Mapping[str, Array]
    actual: Array
    mean: Array


@dataclass(frozen=True, slots=True)
class Blend:
    """Weights, and what makes the weighted sum right on average.

    quality      member -> weight in quality
    measures     measure -> member -> weight, for costs, latencies, tokens
    contenders   [K] columns of the targets in contention
    offset       [C] mean held-out residual
    belief       share of what is predicted for all contenders alike that held-out rows bear out
    noise        [M] variance of a quality around its prediction
    summary      in words
    """

    quality: Mapping[str, float]
    measures: Mapping[str, Mapping[str, float]]
    contenders: NDArray[np.intp]
    offset: Array
    belief: float
    noise: Array
    summary: str

    def weights(self, member: str, columns: Columns) -> Array:
        """[C]: this member's weight in each column."""
        m = len(columns.targets)
        by_measure = [self.quality, *(self.measures[name] for name in columns.measures[1:])]
        return np.repeat([weights.get(member, 0.0) for weights in by_measure], m)

    def matters(self, member: str) -> bool:
        """Whether the member has any weight worth its time."""
        return any(weights.get(member, 0.0) > SMALL for weights in (self.quality, *self.measures.values()))


def blend(evidence: Evidence, columns: Columns) -> Blend:
    """Weights per measure; the best target for everything (no weights in quality) where they choose no better than it."""
    m = len(columns.targets)
    mean = np.nan_to_num(evidence.mean)
    contenders = best_columns(evidence.mean[:m])
    moved = {name: values - mean for name, values in evidence.held.items()}
    actual = evidence.actual - mean
    quality = gap_weights({k: v[:, contenders] for k, v in moved.items()}, actual[:, contenders])
    measures = {}
    for place, name in enumerate(columns.measures[1:], start=1):
        cut = slice(place * m, (place + 1) * m)
        measures[name] = level_weights({k: v[:, cut] for k, v in moved.items()}, actual[:, cut], mean[cut])
    bare = Blend(quality, measures, contenders, np.zeros(columns.width), 1.0, np.zeros(m), "")
    sums = _mixed(bare, moved, columns)
    gain, error = _gain(evidence, columns, sums)
    if not gain > 0:
        quality = dict.fromkeys(quality, 0.0)
        sums[:, :m] = 0.0
    belief = _belief(sums[:, contenders], actual[:, contenders])
    sums[:, :m] -= (1.0 - belief) * sums[:, contenders].mean(axis=1, keepdims=True)
    residual = actual - sums
    offset = np.nan_to_num(measured.means(residual))
    noise = measured.variances(residual[:, :m])
    return Blend(quality, measures, contenders, offset, belief, noise, _summary(quality, gain, error))


def best_columns(quality: Array) -> NDArray[np.intp]:
    """The targets of the highest means [K], at most CONTENDERS; unknown ones last."""
    order = np.argsort(-np.where(np.isnan(quality), -np.inf, quality), kind="stable")
    return np.sort(order[: max(1, min(CONTENDERS, int((~np.isnan(quality)).sum())))])


def _mixed(weights: Blend, moved: Mapping[str, Array], columns: Columns) -> Array:
    """[n, C]: weighted sums of deviations."""
    total = np.zeros_like(next(iter(moved.values()))) if moved else np.zeros((0, columns.width))
    for name, values in moved.items():
        total = total + values * weights.weights(name, columns)
    return total


def _belief(predicted: Array, actual: Array) -> float:
    """Slope of the rows' actual on their predicted mean deviation among contenders, in [0, MOST_BELIEF]."""
    common = predicted.mean(axis=1)
    seen = ~np.isnan(actual)
    count = seen.sum(axis=1)
    found = np.where(seen, actual, 0.0).sum(axis=1) / np.maximum(count, 1)
    power = float((common[count > 0] ** 2).sum())
    return float(np.clip((common * found)[count > 0].sum() / power, 0.0, MOST_BELIEF)) if power > 1e-12 else 1.0


def _gain(evidence: Evidence, columns: Columns, sums: Array) -> tuple[float, float]:
    """How much better choices by the sums are than choices by the means alone, on held-out rows, and its standard error."""
    m = len(columns.targets)
    mean = np.nan_to_num(evidence.mean)
    never = np.isnan(evidence.mean[:m])
    quality = np.where(never, -np.inf, mean[:m] + sums[:, :m])
    flat = np.broadcast_to(np.where(never, -np.inf, mean[:m]), quality.shape)
    cost, paid, scale = None, None, 0.0
    if "cost_usd" in columns.measures:
        place = columns.measures.index("cost_usd") * m
        paid = evidence.actual[:, place : place + m]
        scale = float(np.nan_to_num(evidence.mean[place : place + m]).max(initial=0.0))
        cost = (mean + sums)[:, place : place + m]
    actual = evidence.actual[:, :m]
    if paid is None or not scale > 0:
        return _paired(_taken(actual, quality.argmax(axis=1)) - _taken(actual, flat.argmax(axis=1)))
    assert cost is not None
    means = mean[columns.measures.index("cost_usd") * m :][:m]
    window = float(means[~never].min()), float(means[~never].max())
    curves = [_curve(actual, paid, values, cost / scale) for values in (quality, flat)]
    value, bar = (area_under_hull(c, q, *window) for c, q in curves)
    best = _paired(_taken(actual, quality.argmax(axis=1)) - _taken(actual, flat.argmax(axis=1)))
    return value - bar, best[1]


def _curve(actual: Array, paid: Array, quality: Array, cost: Array) -> tuple[Array, Array]:
    """Mean cost and quality of the choices at each trade."""
    choices = [(quality - trade * cost).argmax(axis=1) for trade in TRADES]
    cost_of, quality_of = (np.stack([_taken(values, c) for c in choices], axis=1) for values in (paid, actual))
    return measured.means(cost_of), measured.means(quality_of)


def _taken(values: Array, choices: NDArray[np.intp]) -> Array:
    taken: Array = values[np.arange(len(values)), choices]
    return taken


def _paired(difference: Array) -> tuple[float, float]:
    seen = difference[~np.isnan(difference)]
    if len(seen) < 2:
        return 0.0, float("inf")
    return float(seen.mean()), float(seen.std() / np.sqrt(len(seen)))


def _summary(quality: Mapping[str, float], gain: float, error: float) -> str:
    named = sorted(((w, name) for name, w in quality.items() if w > SMALL), reverse=True)
    if not named:
        return "nothing beat the best single target on held-out rows, so it is taken"
    parts = ", ".join(f"{name} {weight:.2f}" for weight, name in named)
    return f"stack of {parts}; {gain:+.4f} ± {error:.4f} against the best single target on held-out rows"
