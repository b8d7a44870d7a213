"""Prices of budgets: linear programs over a stream of requests, and PORT's dual of one. numpy in, numpy out; scipy inside.

A price [M] is what one USD of a target's budget is worth in quality. With prices, a request goes to the target of the best
quality - price * cost: budgets are kept on average, without looking at what comes later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from junctor.policy import Array

FILLED = 1e-9
"""A share of a request below this is none."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """A solved program: its value, the shares [N, M] of each request, and the budgets' prices [M] in quality per USD."""

    value: float
    shares: Array
    prices: Array

    def scores(self, quality: Array, cost: Array) -> Array:
        """[N, M] what to try first: the program's own choice, then what is worth its price; -inf where it serves nobody."""
        reduced = quality - self.prices * cost
        chosen = self.shares > FILLED
        other = chosen.any(axis=1, keepdims=True) & (reduced >= 0.0)
        return np.where(chosen, 1e6 * self.shares + reduced, np.where(other, reduced, -np.inf))


def optimum(quality: Array, cost: Array, budgets: Array) -> Optimum:
    """Most quality that the budgets can buy: max Σ q x, Σ_j x_ij <= 1, Σ_i c_ij x_ij <= B_j, x >= 0, solved by HiGHS.

    quality, cost   [N, M]; a NaN in either closes the cell
    budgets         [M] USD; infinite where there is none

    Shares may be fractions: there are at most M such requests. It is an upper bound of every order and every policy.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    rows, targets = quality.shape
    open_ = ~np.isnan(quality) & ~np.isnan(cost)
    i, j = np.nonzero(open_)
    if not len(i):
        return Optimum(0.0, np.zeros(quality.shape), np.zeros(targets))
    unit = float(cost[open_].max()) or 1.0  # HiGHS has absolute tolerances: dollars of 1e-5 would drown in them
    bounded = np.isfinite(budgets)
    paid = bounded[j]
    place = np.cumsum(bounded) - 1
    cells = np.arange(len(i))
    where = np.r_[i, rows + place[j[paid]]], np.r_[cells, cells[paid]]
    weights = np.r_[np.ones(len(i)), cost[i, j][paid] / unit]
    bounds = np.r_[np.ones(rows), budgets[bounded] / unit]
    matrix = csr_array((weights, where), shape=(len(bounds), len(i)))
    found = linprog(-quality[i, j], A_ub=matrix, b_ub=bounds, bounds=(0.0, None), method="highs")
    shares, prices = np.zeros(quality.shape), np.zeros(targets)
    shares[i, j] = found.x
    prices[bounded] = np.maximum(-found.ineqlin.marginals[rows:], 0.0) / unit
    return Optimum(float(-found.fun), shares, prices)


def dual_prices(quality: Array, cost: Array, budgets: Array, share: float, alpha: float, *, decline: bool = False) -> Array:
    """PORT's one optimisation: the weights γ in [0, 1]^M that minimise F on the first requests P of a stream. [M].

    F(γ) = share Σ_j γ_j B_j + Σ_{i in P} max_j (alpha q_ij - γ_j c_ij), by L-BFGS-B from γ = 1/M, as its authors' code does.
    `share` is the part of the stream that P is. F has kinks, so the result is good, not exact. With `decline` the maximum may
    also be 0: the request is left unanswered. A target without a budget is never charged for.
    """
    from scipy.optimize import minimize

    targets = quality.shape[1]
    bounded = np.isfinite(budgets)
    limits = np.where(bounded, budgets, 0.0)
    gain = alpha * np.where(np.isnan(quality), -np.inf, quality)
    price = np.where(bounded, dearest_for_unknown(cost), 0.0)

    rows = np.arange(len(quality))

    def dual(gamma: Array) -> tuple[float, Array]:
        """F and a subgradient: what each target may spend, less what the requests that it wins would cost."""
        scores = gain - price * gamma
        won = scores.argmax(axis=1)
        best = scores[rows, won]
        kept = best > 0.0 if decline else np.isfinite(best)
        spent = np.bincount(won[kept], price[rows[kept], won[kept]], minlength=targets)
        return float(share * (gamma @ limits) + best[kept].sum()), share * limits - spent

    start = np.full(targets, 1.0 / targets)
    found = minimize(dual, start, method="L-BFGS-B", jac=True, bounds=[(0.0, 1.0)] * targets)
    return np.where(bounded, found.x, 0.0)


def dearest_for_unknown(cost: Array) -> Array:
    """Costs [..., M] with the row's dearest in the place of an unknown one; 0 where nothing is known."""
    unknown = np.isnan(cost)
    if not unknown.any():
        return cost
    dearest = np.where(unknown, -np.inf, cost).max(axis=-1, keepdims=True)
    return np.where(unknown, np.where(np.isfinite(dearest), dearest, 0.0), cost)


def walk(scores: Array, cost: Array, budgets: Array, billed: Array, *, check: bool) -> NDArray[np.intp]:
    """Serve a stream in its order: positions [N], -1 for a request that is not served. `budgets` [M] is paid from in place.

    scores   [N, M] what to try first; -inf = never
    cost     [N, M] predicted USD; `billed` [N, M] what the call turns out to cost

    Each request goes to its best score; with `check`, to the best of those whose predicted cost is still there (an unknown one
    counts as affordable while anything is left). A call that turns out to cost more than is left is lost: not served, not
    billed. So is a request that nothing was open for. This is the rule of PORT's released evaluation.
    """
    rows = len(scores)
    order = np.argsort(-scores, axis=1, kind="stable") if check else scores.argmax(axis=1)[:, None]
    left: list[float] = budgets.tolist()
    expected, bills, tries = np.nan_to_num(cost, nan=0.0).tolist(), billed.tolist(), order.tolist()
    open_ = (scores > -np.inf).tolist()
    chosen = [-1] * rows
    for row in range(rows):
        for place in tries[row]:
            if not open_[row][place]:
                break
            if check and (expected[row][place] > left[place] or left[place] <= 0.0):
                continue
            bill = bills[row][place]
            if bill <= left[place]:
                left[place] -= bill
                chosen[row] = place
            break
    budgets[:] = left
    return np.array(chosen, dtype=np.intp)
