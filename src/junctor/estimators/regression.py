"""Ridge and logistic regression of many columns at once, each over the rows that record it. The intercept is (next to) free."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from junctor.policy import Array

STEPS = 200
TOLERANCE = 1e-4
INTERCEPT_PENALTY = 0.1
"""Draws a logistic intercept to the smoothed log odds, so that a target that never fails still has a finite one."""


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow."""
    half: Array = np.tanh(z * 0.5)
    half += 1.0
    half *= 0.5
    return half


def ridge(x: Array, y: Array, alpha: float) -> tuple[Array, Array]:
    """Weights [D, C] and intercepts [C] that minimise sum (y - x w - b)^2 + alpha |w|^2, column by column.

    x   [N, D]
    y   [N, C], NaN where not recorded; a column without a value gets zero weights and a NaN intercept
    Columns that are recorded on the same rows share one factorisation.
    """
    weights, bias = np.zeros((x.shape[1], y.shape[1])), np.full(y.shape[1], np.nan)
    seen = ~np.isnan(y)
    for rows, columns in _alike(seen):
        if not rows.any():
            continue
        part, target = (x, y[:, columns]) if rows.all() else (x[rows], y[np.ix_(rows, columns)])
        centre, mean = part.mean(axis=0), target.mean(axis=0)
        gram = part.T @ part - len(part) * np.outer(centre, centre)
        gram[np.diag_indices_from(gram)] += alpha
        found = np.linalg.solve(gram, part.T @ (target - mean))
        weights[:, columns], bias[columns] = found, mean - centre @ found
    return weights, bias


def _alike(seen: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """Groups of columns with the same pattern of recorded rows: (rows, columns)."""
    groups: dict[bytes, list[int]] = {}
    for column in range(seen.shape[1]):
        groups.setdefault(np.packbits(seen[:, column]).tobytes(), []).append(column)
    return [(seen[:, columns[0]], np.array(columns)) for columns in groups.values()]


def logistic(x: Array, y: Array, alpha: float) -> tuple[Array, Array]:
    """Weights [D, C] and intercepts [C] that minimise the summed log loss + alpha / 2 |w|^2, for y in {0, 1} or NaN.

    The Hessian is at most X'X / 4 + alpha (Böhning 1992), whichever rows a column records, so that one factorisation serves all
    columns; accelerated steps in that metric (Nesterov, restarted when the slope turns) converge in some tens of rounds.
    """
    columns = y.shape[1]
    if not columns:
        return np.zeros((x.shape[1], 0)), np.zeros(0)
    seen = (~np.isnan(y)).astype(np.float64)
    times, hits = seen.sum(axis=0), np.nansum(y, axis=0)
    start = np.log((hits + 0.5) / (times - hits + 0.5))
    design = np.hstack([x, np.ones((len(x), 1))])
    penalty = np.full((design.shape[1], 1), alpha)
    penalty[-1] = INTERCEPT_PENALTY
    anchor = np.zeros((design.shape[1], columns))
    anchor[-1] = start
    step = np.linalg.inv(design.T @ design / 4.0 + np.diag(penalty[:, 0]))
    found = _descend(design, np.nan_to_num(y), seen, penalty, anchor, step)
    return found[:-1], np.where(times > 0, found[-1], np.nan)


def _descend(design: Array, y: Array, seen: Array, penalty: Array, anchor: Array, step: Array) -> Array:
    here, ahead, pace = anchor.copy(), anchor.copy(), 1.0
    for _ in range(STEPS):
        slope = design.T @ (seen * (sigmoid(design @ ahead) - y)) + penalty * (ahead - anchor)
        there = ahead - step @ slope
        move = there - here
        if np.abs(move).max() < TOLERANCE * max(1.0, float(np.abs(there).max())):
            return there
        if float(np.sum(slope * move)) > 0.0:
            pace = 1.0
        faster = (1.0 + np.sqrt(1.0 + 4.0 * pace * pace)) / 2.0
        ahead, here, pace = there + (pace - 1.0) / faster * move, there, faster
    return here
