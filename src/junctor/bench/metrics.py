"""The metrics, one pure function each, on stacks of curves.

Every function works on R rows at once: row 0 is usually the test set as it is and the others are its bootstrap resamples. A
curve is `cost` and `quality` [R, L]: the means over the test queries at L settings of the policy's knob. NaN in a result means
"not defined here" or "not reached"; the board leaves such a figure out, it never prints 0.

Two rules hold throughout. Every call is billed. If all targets fail, the oracle pays for the *cheapest* call (RouterBench's own
code bills nothing there).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from junctor.bench.frontiers import TOLERANCE, area, first_cost_at, hull_paths, raw_paths

Array = NDArray[np.float64]

ARENA_MAX_USD = 200.0
"""RouterArena's dear end, USD per 1,000 queries."""
ARENA_MIN_USD = 0.0044
"""RouterArena's cheap end, USD per 1,000 queries."""
BETA = 0.1
"""How little cost weighs against accuracy in RouterArena's and VL-RouterBench's scores."""
HYPERVOLUME_REFERENCE = (1.0, 0.0)
"""Normalised cost and quality of the point up to which `hypervolume` counts: the dearest single target, always wrong."""


def aiq(cost: Array, quality: Array, low: Array, high: Array) -> Array:
    """Average improvement in quality: mean height of the hull over the window [low, high], as the paper defines it. [R].

    The window, cheapest to dearest single target, is shared by all policies. The hull counts 0 to the left of its first point
    and is flat to the right of its last. NaN for a window without width. Source: RouterBench (Hu et al. 2024), section 3.
    """
    return _mean_height(*hull_paths(cost, quality), low, high)


def aiq_released(cost: Array, quality: Array, high: Array) -> Array:
    """AIQ as RouterBench's released code computes it: area from the hull's own first point to `high`, divided by `high`. [R].

    It depends on where a policy's curve starts, so compare it with published figures only.
    """
    x, y = hull_paths(cost, quality)
    start = np.minimum(x[:, 0], high)
    return np.divide(area(x, y, start, high), high, out=np.full_like(high, np.nan), where=high > 0)


def curve_area(cost: Array, quality: Array, low: Array, high: Array) -> Array:
    """Area under the deferral curve over the window, per unit of cost: AIQ without the hull. [R].

    The points are joined as they are, by rising cost, so a curve that falls is charged for it. The cost axis is scaled by the
    window. Source: UniRoute (Jitkrittum et al. 2025), "Area"; later papers call it AUDC.
    """
    return _mean_height(*raw_paths(cost, quality), low, high)


def peak(quality: Array) -> Array:
    """The best quality along the curve. [R]. Chosen on the test rows, so it flatters: never read it as a result on its own."""
    return np.asarray(quality.max(axis=1))


def hypervolume(
    cost: Array, quality: Array, low: Array, high: Array, reference: tuple[float, float] = HYPERVOLUME_REFERENCE
) -> Array:
    """Area that a policy's settings dominate, in (normalised cost, quality), up to the reference point. [R].

    low, high    [R] the cost window, cheapest to dearest single target; costs become (cost - low) / (high - low), not below 0
    reference    the worst normalised cost and the worst quality that count: (1, 0) unless another one is published with it

    Settings as they are: no mixing, so a staircase and not a hull. NaN for a window without width. Source: RADAR, which does
    not publish its reference point in what we could read.
    """
    width = np.where(high > low, high - low, np.nan)[:, None]
    x = np.clip((cost - low[:, None]) / width, 0.0, reference[0])
    order = np.argsort(x, axis=1, kind="stable")
    x = np.take_along_axis(x, order, axis=1)
    best = np.maximum.accumulate(np.take_along_axis(quality, order, axis=1), axis=1)
    until = np.hstack([x[:, 1:], np.full((len(x), 1), reference[0])])
    return np.asarray(((until - x) * np.maximum(best - reference[1], 0.0)).sum(axis=1))


def qnc(cost: Array, quality: Array, best_quality: Array, best_cost: Array) -> Array:
    """Quality-neutral cost: the least cost at which a setting equals the most accurate single target, over its cost. [R].

    best_quality, best_cost   [R] of the single target that is most accurate on the *test* rows

    Settings as they are: nothing is interpolated or hulled. NaN when none reaches it, which is not the same as 1. Source:
    UniRoute (Jitkrittum et al. 2025), section 6.
    """
    reached = np.where(quality >= best_quality[:, None] - TOLERANCE, cost, np.inf).min(axis=1)
    share = np.divide(reached, best_cost, out=np.full_like(reached, np.nan), where=best_cost > 0)
    return np.where(np.isfinite(share), share, np.nan)


def cost_at_equal_quality(cost: Array, quality: Array, wanted: Array) -> Array:
    """The least USD per query at which the hull is as good as `wanted` [R]; NaN when it never is. [R].

    `wanted` is the quality of the target that training rows would have you call for everything. Source: CARROT (Somerstep et
    al. 2025) quotes its results so; LLMRouterBench's "CostSave" is 1 minus this over that target's cost.
    """
    return first_cost_at(*hull_paths(cost, quality), wanted)


def gap_closed(quality: Array, best_single: Array, oracle: Array) -> Array:
    """(quality - best single) / (oracle - best single); all [R]. NaN when the oracle is no better than the best single.

    Negative below the best single. Source: LLMRouterBench's Gap@Oracle, turned round.
    """
    gap = oracle - best_single
    return np.divide(quality - best_single, gap, out=np.full_like(gap, np.nan), where=gap > 1e-12)


def pgr_curve(share: Array, quality: Array, weak: Array, strong: Array) -> tuple[Array, Array]:
    """Performance gap recovered along the share of strong calls: two [R, L + 2], by rising share.

    share          [R, L] of calls that go to the strong target
    quality        [R, L]
    weak, strong   [R] quality of each target alone; they are the curve's ends at 0 and 1

    PGR = (quality - weak) / (strong - weak); it may exceed 1. NaN where strong is not better than weak. Source: RouteLLM (Ong
    et al. 2024), section 3.
    """
    ends = np.zeros((len(share), 1))
    x, y = np.hstack([ends, share, ends + 1.0]), np.hstack([weak[:, None], quality, strong[:, None]])
    gap = np.where(strong > weak, strong - weak, np.nan)[:, None]
    return raw_paths(x, (y - weak[:, None]) / gap)


def apgr(share: Array, quality: Array, weak: Array, strong: Array) -> Array:
    """Average PGR over the share of strong calls in [0, 1], by trapezoids: random is 0.5, and above 1 is possible. [R].

    Source: RouteLLM (Ong et al. 2024), section 3, which takes ten thresholds where we take the policy's whole knob.
    """
    x, y = pgr_curve(share, quality, weak, strong)
    return np.asarray((np.diff(x, axis=1) * (y[:, 1:] + y[:, :-1]) / 2).sum(axis=1))


def cpt(share: Array, quality: Array, weak: Array, strong: Array, wanted: float) -> Array:
    """Call-performance threshold: the least share of strong calls with PGR >= `wanted` (0.5 for CPT50), interpolated. [R].

    Source: RouteLLM (Ong et al. 2024), section 3. In [0, 1]; the paper prints per cent.
    """
    x, y = pgr_curve(share, quality, weak, strong)
    return first_cost_at(x, y, np.full(len(x), wanted))


def log_cheapness(cost: Array, low: Array | float, high: Array | float) -> Array:
    """1 at `low` USD, 0 at `high`, linear in the logarithm, clipped: how RouterArena and VL-RouterBench see cost."""
    bottom, top = np.log2(low), np.log2(high)
    with np.errstate(divide="ignore"):
        return np.asarray(np.clip((top - np.log2(cost)) / (top - bottom), 0.0, 1.0))


def rank_score(quality: Array, cheapness: Array) -> Array:
    """(1 + β) q c / (β q + c) with β = 0.1: a mean of quality and cheapness in which quality weighs ten times as much.

    Source: RouterArena (Lu et al. 2025). It is not the usual F-score: β, not its square. 0 where both are 0.
    """
    below = BETA * quality + cheapness
    return np.divide((1 + BETA) * quality * cheapness, below, out=np.zeros_like(below), where=below > 0)


def routerarena(quality: Array, cost: Array) -> Array:
    """RouterArena's score in [0, 1] from quality [R] and USD per query [R]; its leaderboard prints it times 100."""
    return rank_score(quality, log_cheapness(cost * 1000.0, ARENA_MIN_USD, ARENA_MAX_USD))


def vl_rank(quality: Array, cost: Array, low: Array, high: Array) -> Array:
    """VL-RouterBench's rank score: `rank_score` per dataset with that dataset's own cost bounds, then their plain mean. [R].

    quality, cost   [R, G] of the policy on each of G datasets
    low, high       [R, G] mean cost of the cheapest and of the dearest single target there; where they are equal the dataset
                    is left out

    Source: VL-RouterBench (2025). The plain mean over datasets is our reading of it.
    """
    usable = (high > low) & (low > 0) & ~np.isnan(quality)
    safe_low, safe_high = np.where(usable, low, 1.0), np.where(usable, high, 2.0)
    score = rank_score(quality, log_cheapness(cost, safe_low, safe_high))
    count = usable.sum(axis=1)
    total: Array = np.where(usable, score, 0.0).sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))


def _mean_height(x: Array, y: Array, low: Array, high: Array) -> Array:
    width = high - low
    return np.divide(area(x, y, low, high), width, out=np.full_like(width, np.nan), where=width > 0)
