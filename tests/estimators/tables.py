"""Tiny tables whose answers can be worked out by hand."""

from __future__ import annotations

import numpy as np

from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue

NAN = float("nan")


def table(quality, cost=None, labels=None, targets=None, **columns) -> OutcomeTable:
    array = np.array(quality, dtype=np.float64)
    ids = targets or ["a", "b", "c", "d"][: array.shape[1]]
    return OutcomeTable(
        texts=[f"query {i}" for i in range(len(array))],
        targets=Catalogue.of(ids),
        quality=array,
        cost_usd=None if cost is None else np.array(cost, dtype=np.float64),
        labels={} if labels is None else {"task": labels},
        label_name="" if labels is None else "task",
        **{name: np.array(values, dtype=np.float64) for name, values in columns.items()},
    )


def at(*angles: float) -> np.ndarray:
    """Unit vectors in the plane at these angles in degrees: closer angles are nearer queries."""
    turned = np.radians(angles)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def seen(vectors: np.ndarray, labels=None) -> Features:
    return Features([""] * len(vectors), vectors, {} if labels is None else {"task": labels})
