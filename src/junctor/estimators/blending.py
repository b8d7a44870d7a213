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
WINS = 0.02
"""A target that a smooth member would choose for this share of the rows is in contention too, however bad it is elsewhere."""
RIDGE = "ridge"
USUAL_STRENGTH = 30.0
"""Of a ridge prior where nothing was held out to learn it from."""
SMOOTH = ("label", "clusters16", "ridge300")
SMALL_TRADES = (0.0, 0.05, 0.2)
RESAMPLES = 50
BEYOND_NOISE = 2.0
"""Standard errors by which another candidate must lead the default."""
EVEN = 1e-9
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
    strength     of the ridge prior behind `quality_std`: that of the member which explains held-out rows best
    summary      in words
    """

    quality: Mapping[str, float]
    measures: Mapping[str, Mapping[str, float]]
    contenders: NDArray[np.intp]
    offset: Array
    belief: float
    noise: Array
    summary: str
    strength: float = USUAL_STRENGTH

    def weights(self, member: str, columns: Columns) -> Array:
        """[C]: this member's weight in each column."""
        m = len(columns.targets)
        by_measure = [self.quality, *(self.measures[name] for name in columns.measures[1:])]
        return np.repeat([weights.get(member, 0.0) for weights in by_measure], m)

    def matters(self, member: str) -> bool:
        """Whether the member has any weight worth its time."""
        return any(weights.get(member, 0.0) > SMALL for weights in (self.quality, *self.measures.values()))


def blend(evidence: Evidence, columns: Columns) -> Blend:
    """Weights per measure. In quality, of four candidates the one that chooses best on held-out rows:

    the members' stacked regression, drawn half way to plain averaging (equal weights are hard to beat: Clemen 1989, Smith and
    Wallis 2009); plain averaging, or the table over labels alone, if that is better beyond noise; and no member at all, which
    is the best single target, if nothing is better than that.
    """
    m = len(columns.targets)
    mean = np.nan_to_num(evidence.mean)
    moved = {name: values - mean for name, values in evidence.held.items()}
    actual = evidence.actual - mean
    measures = {}
    for place, name in enumerate(columns.measures[1:], start=1):
        cut = slice(place * m, (place + 1) * m)
        measures[name] = level_weights({k: v[:, cut] for k, v in moved.items()}, actual[:, cut], mean[cut])
    contenders = winners(evidence, columns)
    regressed = gap_weights({k: v[:, contenders] for k, v in moved.items()}, actual[:, contenders])
    even = 1.0 / (len(moved) + 1)
    candidates = [{name: (weight + even) / 2.0 for name, weight in regressed.items()}]
    candidates.append(dict.fromkeys(moved, even))
    if "label" in moved:
        candidates.append({name: float(name == "label") for name in moved})
    candidates.append(dict.fromkeys(moved, 0.0))
    bare = [Blend(each, measures, contenders, np.zeros(columns.width), 1.0, np.zeros(m), "") for each in candidates]
    sums = [_mixed(each, moved, columns) for each in bare]
    chosen, gain, error = _chosen(evidence, columns, sums)
    total = sums[chosen]
    belief = _belief(total[:, contenders], actual[:, contenders])
    total[:, :m] -= (1.0 - belief) * total[:, contenders].mean(axis=1, keepdims=True)
    residual = actual - total
    return Blend(
        candidates[chosen],
        measures,
        contenders,
        np.nan_to_num(measured.means(residual)),
        belief,
        measured.variances(residual[:, :m]),
        _summary(candidates[chosen], gain, error),
        _strength(evidence, contenders),
    )


def _strength(evidence: Evidence, contenders: NDArray[np.intp]) -> float:
    """The strength at which a ridge errs least on held-out rows: noise over the variance of slopes, so its doubt's too."""
    ridges = {name: values for name, values in evidence.held.items() if name.startswith(RIDGE)}
    losses = {
        float(name.removeprefix(RIDGE)): float(np.nansum((evidence.actual - values)[:, contenders] ** 2))
        for name, values in ridges.items()
    }
    return min(losses, key=losses.__getitem__) if losses else USUAL_STRENGTH


def best_columns(quality: Array) -> NDArray[np.intp]:
    """The targets of the highest means [K], at most CONTENDERS; unknown ones last."""
    order = np.argsort(-np.where(np.isnan(quality), -np.inf, quality), kind="stable")
    return np.sort(order[: max(1, min(CONTENDERS, int((~np.isnan(quality)).sum())))])


def winners(evidence: Evidence, columns: Columns) -> NDArray[np.intp]:
    """The targets in contention: the best on average, and those that a member would choose for a share of the held-out rows."""
    m = len(columns.targets)
    found = set(best_columns(evidence.mean[:m]).tolist())
    never = np.isnan(evidence.mean[:m])
    place = columns.measures.index("cost_usd") * m if "cost_usd" in columns.measures else 0
    scale = float(np.nan_to_num(evidence.mean[place : place + m]).max(initial=0.0)) if place else 0.0
    for name, values in evidence.held.items():
        if not name.startswith(SMOOTH):
            continue
        quality = np.where(never, -np.inf, values[:, :m])
        for trade in SMALL_TRADES if scale > 0 else SMALL_TRADES[:1]:
            score = quality - trade * values[:, place : place + m] / scale if trade else quality
            shares = np.bincount(score.argmax(axis=1), minlength=m) / max(len(score), 1)
            found |= set(np.flatnonzero(shares >= WINS).tolist())
    return np.array(sorted(found), dtype=np.intp)


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


def _chosen(evidence: Evidence, columns: Columns, sums: list[Array]) -> tuple[int, float, float]:
    """Which candidate, what it gains over the last ("no member"), and that gain's standard error."""
    heights = [_heights(evidence, columns, each) for each in sums]
    chosen, none = 0, heights[-1]
    for place, each in enumerate(heights[1:-1], start=1):
        lead = each - heights[chosen]
        if lead[0] > BEYOND_NOISE * lead[1:].std():
            chosen = place
    gain = heights[chosen] - none
    error = float(gain[1:].std())
    if not gain[0] > EVEN:
        return len(sums) - 1, 0.0, 0.0
    return chosen, float(gain[0]), error


def _heights(evidence: Evidence, columns: Columns, sums: Array) -> Array:
    """[1 + RESAMPLES]: how high the cost-quality hull of the choices is on held-out rows, and on resamples of them.

    Without costs, the mean quality of the best choices. The resamples are the same for every candidate.
    """
    m = len(columns.targets)
    mean = np.nan_to_num(evidence.mean)
    never = np.isnan(evidence.mean[:m])
    quality = np.where(never, -np.inf, mean[:m] + sums[:, :m])
    actual = evidence.actual[:, :m]
    counts = _counts(len(actual))
    place = columns.measures.index("cost_usd") * m if "cost_usd" in columns.measures else 0
    means = mean[place : place + m]
    scale = float(means.max(initial=0.0)) if place else 0.0
    if not scale > 0 or float(means[~never].min(initial=scale)) >= scale:
        return _weighted(_taken(actual, quality.argmax(axis=1))[:, None], counts)[:, 0]
    cost = (mean + sums)[:, place : place + m] / scale
    choices = [(quality - trade * cost).argmax(axis=1) for trade in TRADES]
    paid = evidence.actual[:, place : place + m]
    reached = _weighted(np.stack([_taken(actual, c) for c in choices], axis=1), counts)
    spent = _weighted(np.stack([_taken(paid, c) for c in choices], axis=1), counts)
    low, high = float(means[~never].min()), float(means[~never].max())
    return np.array([area_under_hull(c, q, low, high) for c, q in zip(spent, reached, strict=True)])


def _counts(rows: int) -> Array:
    """[1 + RESAMPLES, n]: once each, then how often each row is drawn."""
    drawn = np.random.default_rng(0).multinomial(rows, np.full(rows, 1.0 / max(rows, 1)), size=RESAMPLES)
    return np.vstack([np.ones((1, rows)), drawn])


def _weighted(values: Array, counts: Array) -> Array:
    """[1 + RESAMPLES, L]: means over the recorded cells of values [n, L]."""
    seen = ~np.isnan(values)
    total: Array = counts @ np.where(seen, values, 0.0)
    return total / np.maximum(counts @ seen.astype(np.float64), 1e-12)


def _taken(values: Array, choices: NDArray[np.intp]) -> Array:
    taken: Array = values[np.arange(len(values)), choices]
    return taken


def _summary(quality: Mapping[str, float], gain: float, error: float) -> str:
    named = sorted(((w, name) for name, w in quality.items() if w > SMALL), reverse=True)
    if not named:
        return "nothing beat the best single target on held-out rows, so it is taken"
    parts = ", ".join(f"{name} {weight:.2f}" for weight, name in named)
    return f"stack of {parts}; {gain:+.4f} ± {error:.4f} against the best single target on held-out rows"
