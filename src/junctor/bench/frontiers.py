"""Many cost-quality curves at once: one per bootstrap resample. The scalar forms in `junctor.curves` agree with these.

A *path* is a polyline per row: two arrays [R, K] of costs and qualities, costs ascending along K. Shorter paths repeat their
last point.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TOLERANCE = 1e-6
"""Two mean qualities closer than this are equal: resampled means are sums in single precision."""


def hull_paths(cost: Array, quality: Array) -> tuple[Array, Array]:
    """The corners of each row's non-decreasing concave frontier, by gift wrapping: cost and quality [R, L] -> two [R, K].

    Starts at the cheapest point (the best of equally cheap ones) and takes the steepest upward step until none is left. Source
    of the definition: RouterBench (Hu et al. 2024), section 3.
    """
    rows = np.arange(len(cost))
    start = np.where(cost == cost.min(axis=1, keepdims=True), quality, -np.inf).argmax(axis=1)
    x, y = cost[rows, start], quality[rows, start]
    corners = [(x, y)]
    for _ in range(cost.shape[1] - 1):
        run, rise = cost - x[:, None], quality - y[:, None]
        upward = (run > 0) & (rise > 0)
        slope = np.where(upward, rise / np.where(upward, run, 1.0), -np.inf)
        step = slope.argmax(axis=1)
        moves = upward[rows, step]
        if not moves.any():
            break
        x, y = np.where(moves, cost[rows, step], x), np.where(moves, quality[rows, step], y)
        corners.append((x, y))
    xs, ys = zip(*corners, strict=True)
    return np.stack(xs, axis=1), np.stack(ys, axis=1)


def raw_paths(cost: Array, quality: Array) -> tuple[Array, Array]:
    """The points as they are, sorted by cost; of equally cheap ones the worse comes first. [R, L] -> two [R, L]."""
    order = np.lexsort((quality, cost), axis=1)
    return np.take_along_axis(cost, order, axis=1), np.take_along_axis(quality, order, axis=1)


def area(x: Array, y: Array, low: Array, high: Array) -> Array:
    """Integral of each path over its window: 0 to the left of the first point, flat to the right of the last. [R].

    x, y        [R, K] a path per row
    low, high   [R] the windows
    """
    lo, hi = low[:, None], high[:, None]
    left, right = x[:, :-1], x[:, 1:]
    width = right - left
    slope = np.divide(y[:, 1:] - y[:, :-1], width, out=np.zeros_like(width), where=width > 0)
    a, b = np.clip(left, lo, hi), np.clip(right, lo, hi)
    height = y[:, :-1] + slope * ((a + b) / 2 - left)
    tail = np.maximum(0.0, high - np.maximum(x[:, -1], low)) * y[:, -1]
    return np.asarray(((b - a) * height).sum(axis=1) + tail)


def first_cost_at(x: Array, y: Array, wanted: Array) -> Array:
    """The least cost at which each path reaches its wanted quality, along straight lines; NaN where it never does. [R]."""
    above = y >= wanted[:, None] - TOLERANCE
    place = above.argmax(axis=1)
    rows = np.arange(len(x))
    before = np.maximum(place - 1, 0)
    x0, y0, x1, y1 = x[rows, before], y[rows, before], x[rows, place], y[rows, place]
    rise = y1 - y0
    share = np.clip(np.divide(wanted - y0, rise, out=np.ones_like(rise), where=rise > 0), 0.0, 1.0)
    return np.where(above.any(axis=1), np.where(place > 0, x0 + share * (x1 - x0), x1), np.nan)
