"""What `stack` is made of: simple members over one shared view of the query, and the weights that combine them.

The view f(x) is the query's vector beside twelve statistics of its text. Members that can be added up are kept as one linear
map and a few soft tables, so that any mixture of them costs as much as one:

    ridge        linear in f(x), at several strengths
    label        table over predicted labels: softmax(f(x) L) T, for labels that only recorded rows have
    clusters     table over k-means clusters of the vectors, softly: softmax(s e(x) c) T
    knn          mean of the nearest recorded queries; kept apart

The weights are those of stacked regression (Breiman 1996): non-negative least squares on predictions for held-out folds. What
is regressed are gaps between targets of one query, not qualities: how hard a query is for all targets does not matter to a
choice, and it would otherwise be most of what is to be explained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from junctor.estimators import clustering
from junctor.estimators.regression import ridge
from junctor.estimators.text_statistics import many
from junctor.policy import Array

STRENGTHS = (3.0, 30.0, 300.0, 3000.0)
CLUSTERS = (16, 64)
SHARPNESS = 40.0
"""Of soft cluster membership: a cosine that is larger by 0.05 weighs e^2 times as much."""
PRIOR = 4.0
"""A cell of a table is drawn to the target's mean as if that had been seen so often."""
LABEL_STRENGTH = 30.0
MOST_LABELS = 200
STATISTICS_WEIGHT = 0.3
"""Length of the statistics' part of the view, where the vector's is 1."""
MOST_CLUSTERED = 20_000
Ints = NDArray[np.intp]
Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Look:
    """How a request is looked at, fitted without outcomes: f(x) = [e(x), (statistics - centre) * scale], D numbers."""

    centre: Array
    scale: Array

    @classmethod
    def of(cls, statistics: Array) -> Look:
        """From the statistics [N, 12] of the training texts."""
        spread = statistics.std(axis=0)
        scale = STATISTICS_WEIGHT / np.sqrt(statistics.shape[1]) / np.where(spread > 1e-9, spread, 1.0)
        return cls(statistics.mean(axis=0), np.where(spread > 1e-9, scale, 0.0))

    def at(self, vectors: NDArray[np.float32], texts: Sequence[str]) -> Array:
        """[N, D]."""
        return np.hstack([vectors, self.part(many(texts))])

    def part(self, statistics: Array) -> Array:
        """The statistics' own part, clipped: a text longer than all that were seen is not extrapolated to."""
        limit = 3.0 * STATISTICS_WEIGHT / np.sqrt(statistics.shape[-1])
        part: Array = np.clip((statistics - self.centre) * self.scale, -limit, limit)
        return part


@dataclass(frozen=True, slots=True)
class Grouping:
    """Soft membership of a request in G groups: softmax(f(x) weights + bias) [G]."""

    name: str
    weights: Array
    bias: Array

    def of(self, view: Array) -> Array:
        """[N, G]."""
        return softmax(view @ self.weights + self.bias)


def softmax(scores: Array) -> Array:
    """Along the last axis."""
    out: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
    out /= out.sum(axis=-1, keepdims=True)
    return out


def cluster_groupings(vectors: NDArray[np.float32], width: int, rng: np.random.Generator) -> list[Grouping]:
    """One per number in CLUSTERS that the rows allow; the statistics are not looked at."""
    seen = vectors
    if len(vectors) > MOST_CLUSTERED:
        seen = vectors[np.sort(rng.choice(len(vectors), MOST_CLUSTERED, replace=False))]
    distinct = len(np.unique(seen, axis=0)) if len(seen) < 2000 else len(seen)
    found = []
    for count in CLUSTERS:
        if distinct < 10 * count:
            continue
        centres, _ = clustering.clusters(seen, count, rng)
        weights = np.zeros((width, count))
        weights[: vectors.shape[1]] = SHARPNESS * centres.T
        bias = -0.5 * SHARPNESS * (centres.astype(np.float64) ** 2).sum(axis=1)
        found.append(Grouping(f"clusters{count}", weights, bias))
    return found


def label_places(labels: Sequence[str]) -> tuple[list[str], Ints]:
    """The most frequent labels, and each row's place among them; -1 for a row without one of these."""
    names, counts = np.unique([label for label in labels if label] or [""], return_counts=True)
    kept = sorted(str(name) for name in names[np.argsort(-counts, kind="stable")][:MOST_LABELS] if name)
    place = {name: i for i, name in enumerate(kept)}
    return kept, np.array([place.get(label, -1) for label in labels], dtype=np.intp)


def label_grouping(view: Array, places: Ints, count: int, temperature: float) -> Grouping:
    """Labels from the view by ridge regression of one-hot columns, made into probabilities by a temperature."""
    rows = places >= 0
    hot = np.eye(count)[places[rows]]
    weights, bias = ridge(view[rows], hot, LABEL_STRENGTH)
    return Grouping("label", weights * temperature, bias * temperature)


def fitted_temperature(scores: Array, places: Ints) -> float:
    """Of softmax(t * scores) [n, G] to the true places, by least log loss on a grid; scores of rows that were not fitted on."""
    rows = places >= 0
    if not rows.any():
        return 1.0
    grid = np.geomspace(1.0, 100.0, 25)
    right = (np.arange(int(rows.sum())), places[rows])
    losses = [-np.log(softmax(t * scores[rows])[right] + 1e-12).mean() for t in grid]
    return float(grid[int(np.argmin(losses))])


def soft_table(membership: Array, values: Array, prior: Array) -> Array:
    """[G, C]: mean of each column among a group's members, drawn to `prior` [C]; NaN cells weigh nothing."""
    seen = ~np.isnan(values)
    total = membership.T @ np.where(seen, values, 0.0)
    weight = membership.T @ seen.astype(np.float64)
    return np.asarray((total + PRIOR * prior) / (weight + PRIOR))


def linear_maps(view: Array, values: Array, prior: Array) -> dict[str, tuple[Array, Array]]:
    """Strength by strength: weights [D, C] and intercepts [C] of the deviation from the prior."""
    found = {}
    for strength in STRENGTHS:
        weights, bias = ridge(view, values, strength)
        found[f"ridge{strength:g}"] = (weights, np.where(np.isnan(bias), 0.0, bias - prior))
    return found


def gap_weights(deviations: Mapping[str, Array], actual: Array) -> dict[str, float]:
    """Non-negative weights of the members' deviations, by least squares on gaps between the targets of a query.

    deviations   member -> [n, K] held-out predictions less the targets' means, for the K targets in contention
    actual       [n, K] outcomes less the means; NaN where not recorded. A gap is against the mean of a row's recorded cells.
    """
    seen = ~np.isnan(actual)
    return _non_negative({name: gaps(values, seen) for name, values in deviations.items()}, gaps(actual, seen))


def gaps(values: Array, seen: NDArray[np.bool_]) -> Array:
    """[n, K] less the mean of each row's seen cells; zero where not seen."""
    zeroed = np.where(seen, values, 0.0)
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)
    centred: Array = np.where(seen, zeroed - zeroed.sum(axis=1, keepdims=True) / count, 0.0)
    return centred


def level_weights(deviations: Mapping[str, Array], actual: Array, scale: Array) -> dict[str, float]:
    """The same for what is no quality: plain deviations, each column in units of its `scale` [K]."""
    seen = ~np.isnan(actual) & (scale > 0)
    unit = np.where(scale > 0, scale, 1.0)
    return _non_negative(
        {name: np.where(seen, values / unit, 0.0) for name, values in deviations.items()}, np.where(seen, actual / unit, 0.0)
    )


def _non_negative(members: Mapping[str, Array], wanted: Array) -> dict[str, float]:
    """Minimise |sum w_k X_k - y|^2 over w >= 0, through the normal equations: K is small, n is not."""
    from scipy.optimize import nnls

    if not members:
        return {}
    columns = np.stack([values.ravel() for values in members.values()], axis=1)
    gram, right = columns.T @ columns, columns.T @ wanted.ravel()
    size = float(np.trace(gram))
    if not size > 0:
        return dict.fromkeys(members, 0.0)
    gram[np.diag_indices_from(gram)] += 1e-6 * size / len(gram)
    lower = np.linalg.cholesky(gram)
    found, _ = nnls(lower.T, np.linalg.solve(lower, right))
    return dict(zip(members, found.tolist(), strict=True))


def folds_of(groups: Ints, count: int, rng: np.random.Generator) -> Ints:
    """[N] fold of each row; rows of one group share a fold."""
    distinct, place = np.unique(groups, return_inverse=True)
    drawn = rng.permutation(len(distinct)) % count
    found: Ints = drawn[place]
    return found
