"""The multiple-choice knapsack: one choice per group, most gain within a budget. Exact, in numpy alone.

    max sum_g gain[g, z(g)]   subject to   sum_g pay[g, z(g)] <= budget

Dynamic programming over undominated partial sums. A partial sum is dropped as soon as the linear relaxation of what is left
could not lift it above a map that is known already: the bounds are so tight that few states live at a time, and no optimum is
lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from junctor.policy import Array

Ints = NDArray[np.intp]
SLACK = 1e-9
"""Budgets are met to within this share: they are sums of floats."""


def best_choices(gain: Array, pay: Array, budget: float) -> Ints:
    """[G] choices; those of least pay when nothing fits the budget.

    gain, pay   [G, M], pay infinite for what is not open
    """
    kept = [_undominated(g, p) for g, p in zip(gain, pay, strict=True)]
    gains, pays = ([v[k] for v, k in zip(values, kept, strict=True)] for values in (gain, pay))
    limit = budget * (1 + SLACK)
    if sum(float(p[-1]) for p in pays) <= limit:
        found = [len(k) - 1 for k in kept]
    elif sum(float(p[0]) for p in pays) >= budget * (1 - SLACK):
        found = [0] * len(kept)
    else:
        found = _exact(gains, pays, limit)
    return np.array([int(k[i]) for k, i in zip(kept, found, strict=True)], dtype=np.intp)


def _undominated(gain: Array, pay: Array) -> Ints:
    """Choices of one group by rising pay, each with more gain than all that pay less."""
    order = np.lexsort((-gain, pay))
    order = order[np.isfinite(pay[order])]
    rising = np.concatenate(([-np.inf], np.maximum.accumulate(gain[order])[:-1]))
    return np.asarray(order[gain[order] > rising], dtype=np.intp)


def _steps(gain: Array, pay: Array) -> list[tuple[float, float, int]]:
    """The concave hull of one group as steps (extra pay, extra gain, choice reached), falling in gain per pay."""
    hull = [0]
    for i in range(1, len(gain)):
        while len(hull) > 1 and _slope(gain, pay, hull[-2], hull[-1]) <= _slope(gain, pay, hull[-2], i):
            hull.pop()
        hull.append(i)
    return [(float(pay[b] - pay[a]), float(gain[b] - gain[a]), b) for a, b in pairwise(hull) if pay[b] > pay[a]]


def _slope(gain: Array, pay: Array, a: int, b: int) -> float:
    return float(gain[b] - gain[a]) / max(float(pay[b] - pay[a]), 1e-300)


def _exact(gains: Sequence[Array], pays: Sequence[Array], limit: float) -> list[int]:
    steps = [_steps(g, p) for g, p in zip(gains, pays, strict=True)]
    bounds = _relaxations(gains, pays, steps)
    enough = _greedy(gains, pays, steps, limit) - 1e-12
    paid, gained = np.zeros(1), np.zeros(1)
    trail: list[tuple[Ints, Ints]] = []
    for place, (gain, pay) in enumerate(zip(gains, pays, strict=True)):
        cost, value = (paid[:, None] + pay).ravel(), (gained[:, None] + gain).ravel()
        hope = value + _bound(bounds[place + 1], limit - cost)
        open_ = np.flatnonzero(hope >= enough)
        order = open_[np.lexsort((-value[open_], cost[open_]))]
        rising = np.concatenate(([-np.inf], np.maximum.accumulate(value[order])[:-1]))
        keep = order[value[order] > rising]
        trail.append((keep // len(gain), keep % len(gain)))
        paid, gained = cost[keep], value[keep]
    at, found = int(gained.argmax()), []
    for parents, choices in reversed(trail):
        found.append(int(choices[at]))
        at = int(parents[at])
    return found[::-1]


def _relaxations(
    gains: Sequence[Array], pays: Sequence[Array], steps: Sequence[list[tuple[float, float, int]]]
) -> list[tuple[Array, Array]]:
    """Per group g, what groups g and later can gain at most for a budget: corners (pay, gain) of a concave curve."""
    out = [(np.zeros(1), np.zeros(1))]
    least_pay, least_gain = 0.0, 0.0
    open_: list[tuple[float, float]] = []
    for gain, pay, walk in zip(gains[::-1], pays[::-1], steps[::-1], strict=True):
        least_pay, least_gain = least_pay + float(pay[0]), least_gain + float(gain[0])
        open_ = sorted([*open_, *((p, g) for p, g, _ in walk)], key=lambda s: -s[1] / s[0])
        extra = np.array([(0.0, 0.0), *open_]).cumsum(axis=0)
        out.append((least_pay + extra[:, 0], least_gain + extra[:, 1]))
    return out[::-1]


def _bound(curve: tuple[Array, Array], budget: Array) -> Array:
    pay, gain = curve
    return np.where(budget < pay[0] - 1e-12 * max(1.0, abs(float(pay[0]))), -np.inf, np.interp(budget, pay, gain))


def _greedy(
    gains: Sequence[Array], pays: Sequence[Array], steps: Sequence[list[tuple[float, float, int]]], limit: float
) -> float:
    """The gain of a map that fits: steps by falling gain per pay, each group up to the first that does not fit."""
    left = limit - sum(float(p[0]) for p in pays)
    total = sum(float(g[0]) for g in gains)
    stopped = set()
    walk = sorted(((g / p, place, p, g) for place, s in enumerate(steps) for p, g, _ in s), key=lambda w: -w[0])
    for _, place, pay, gain in walk:
        if place in stopped:
            continue
        if pay > left:
            stopped.add(place)
            continue
        left, total = left - pay, total + gain
    return total
