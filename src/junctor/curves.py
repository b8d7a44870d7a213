"""Cost-quality curves: Pareto front, concave hull, and the areas under them. Arrays in, numbers out.

Any point on a straight line between two policies can be reached by tossing a coin between them, so what a router is judged by
is the non-decreasing concave hull of its points (RouterBench, Hu et al. 2024, section 3: "non-decreasing convex hull", AIQ).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from junctor.errors import UserError

Array = NDArray[np.float64]


def pareto(cost: Array, quality: Array) -> NDArray[np.intp]:
    """Positions of the points that no other beats, cheapest first; of equal points the first one stays, NaNs never do.

    cost, quality   [P]
    """
    c, q = _pair(cost, quality)
    order = np.lexsort((-q, c))
    order = order[~(np.isnan(c[order]) | np.isnan(q[order]))]
    if not len(order):
        return order
    ahead = np.maximum.accumulate(q[order])
    keep = np.concatenate(([True], q[order][1:] > ahead[:-1]))
    return order[keep]


def hull(cost: Array, quality: Array) -> tuple[Array, Array]:
    """The corner points (cost, quality) of the non-decreasing concave frontier, cheapest first.

    cost, quality   [P] one point per policy or knob setting; empty or all NaN gives two empty arrays
    """
    c, q = _pair(cost, quality)
    corners: list[tuple[float, float]] = []
    front = pareto(c, q)
    for x, y in zip(c[front].tolist(), q[front].tolist(), strict=True):
        while len(corners) > 1 and _below(corners[-2], corners[-1], (x, y)):
            corners.pop()
        corners.append((x, y))
    points = np.array(corners, dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def hull_at(cost: Array, quality: Array, at: Array) -> Array:
    """Height of the hull at the costs `at` [K]: 0 to the left of its first point, flat to the right of its last."""
    x, y = hull(cost, quality)
    where = np.asarray(at, dtype=np.float64)
    if not len(x):
        return np.zeros_like(where)
    return np.interp(where, x, y, left=0.0)


def area_under_hull(cost: Array, quality: Array, low: float, high: float) -> float:
    """Mean height of the hull over the window [low, high]: AIQ as the paper defines it.

    The window is shared by all who are compared: cheapest to dearest single target. The curve is 0 to the left of its first
    point and flat to the right of its last. A window of no width gives the height there; raises UserError when low > high.
    """
    if not low <= high:
        raise UserError(f"the window [{low}, {high}] is empty", field="low", fix="low must not be above high")
    x, y = hull(cost, quality)
    if not len(x) or high < x[0]:
        return 0.0
    if low == high:
        return float(np.interp(high, x, y))
    start = max(low, float(x[0]))
    inside = x[(x > start) & (x < high)]
    grid = np.concatenate(([start], inside, [high]))
    return trapezoid_area(grid, np.interp(grid, x, y)) / (high - low)


def trapezoid_area(x: Array, y: Array) -> float:
    """Area under the polyline through the points, sorted by x; the curve is taken as it is, not hulled."""
    a, b = _pair(x, y)
    order = np.argsort(a, kind="stable")
    a, b = a[order], b[order]
    return float(np.sum(np.diff(a) * (b[1:] + b[:-1]) / 2.0))


def _pair(x: Array, y: Array) -> tuple[Array, Array]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise UserError(f"shapes {a.shape} and {b.shape} do not pair up", field="curve", fix="pass two equally long lists")
    return a, b


def _below(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether the middle point is on or under the line from left to right."""
    (x0, y0), (x1, y1), (x2, y2) = left, middle, right
    return (y1 - y0) * (x2 - x0) <= (y2 - y0) * (x1 - x0)
