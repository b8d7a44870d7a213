"""Costs of parts that model quality alone: each target's mean over the training rows, whatever the query."""

from __future__ import annotations

import numpy as np

from junctor.estimators.measured import Columns, means
from junctor.policy import Array, Prediction


def of(values: Array, targets: int) -> Array:
    """Means of every column but the first `targets` ones, which are quality: [C - M]."""
    return means(values)[targets:]


def prediction(columns: Columns, quality: Array, typical: Array) -> Prediction:
    """Quality [M] or [N, M] beside the typical values [C - M] of the other measures."""
    beside = np.broadcast_to(typical, (*quality.shape[:-1], len(typical)))
    return columns.prediction(np.concatenate([quality, beside], axis=-1))


def widened(columns: Columns, typical: Array, values: Array) -> Array:
    """With the means of a new last target, whose calibration rows are `values` [n, K]."""
    flat = columns.widen(np.concatenate([np.zeros(len(columns.targets)), typical]), means(values))
    return flat[len(columns.targets) + 1 :]
