"""k-means over query vectors, by scikit-learn while fitting; finding the nearest centre needs numpy alone."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def clusters(vectors: Vectors, count: int, rng: np.random.Generator) -> tuple[Vectors, NDArray[np.intp]]:
    """Centres [K, D] of `count` clusters, and the cluster of each of the N rows."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct queries than clusters: some stay empty
        found = KMeans(n_clusters=count, n_init=2, random_state=int(rng.integers(2**31))).fit(vectors)
    return np.ascontiguousarray(found.cluster_centers_, dtype=np.float32), found.labels_.astype(np.intp)


def offsets(centres: Vectors) -> Vectors:
    """Half the squared length of each centre [K]: x.c less this is largest for the nearest centre."""
    half: Vectors = np.sum(centres * centres, axis=1) / np.float32(2)
    return half


def nearest(vectors: Vectors, centres: Vectors, offset: Vectors) -> NDArray[np.intp]:
    """The nearest centre of each row [N], in the Euclidean sense."""
    found: NDArray[np.intp] = (vectors @ centres.T - offset).argmax(axis=1)
    return found
