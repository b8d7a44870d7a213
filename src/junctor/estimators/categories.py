"""Categories of queries: found in a table's labels or by k-means, and recognised from a vector.

A recorded row may carry a label (its dataset, its task); a new request carries none. So whoever wants to use labels must
predict them, and must judge by predicted labels: `crossed` gives every training row the scores of a recogniser that has not
seen it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from junctor.errors import UserError
from junctor.estimators import clustering, measured, saved
from junctor.estimators.regression import logistic, sigmoid
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, State

Kind = Literal["logistic", "knn", "centroid"]
Ints = NDArray[np.intp]
CENTROID_SCALE = 20.0
"""Cosines become log odds by this factor: a lead of 0.1 is worth a factor of e^2."""
MOST_ROWS = 20_000
"""A recogniser learns from at most so many rows, drawn at random."""


def of_labels(table: OutcomeTable, label: str = "") -> tuple[list[str], Ints]:
    """The label's values in order, and the place of each of N rows among them; -1 for a row without a label."""
    column = table.labels.get(label or table.label_name, [""] * len(table))
    names = sorted({value for value in column if value})
    place = {name: i for i, name in enumerate(names)}
    return names, np.array([place.get(value, -1) for value in column], dtype=np.intp)


def of_clusters(vectors: NDArray[np.float32], count: int, rng: np.random.Generator) -> tuple[list[str], Ints]:
    """`count` k-means clusters of the queries, named by number, and the cluster of each row."""
    distinct = len(np.unique(vectors, axis=0)) if len(vectors) <= count else count
    centres, rows = clustering.clusters(vectors, max(1, min(count, distinct)), rng)
    return [f"cluster {i}" for i in range(len(centres))], rows


def of_table(
    table: OutcomeTable, vectors: NDArray[np.float32], label: str, clusters: int, rng: np.random.Generator, who: str
) -> tuple[list[str], Ints]:
    """Labels where the table has them, else clusters; raises UserError without a row, or for a label that is not there."""
    if not len(table):
        raise UserError("there is no row to learn from", field=who, fix="pass at least one recorded query")
    if label and label not in table.labels:
        known = ", ".join(table.labels) or "none"
        raise UserError(f"the table has no label {label!r}", field=who, fix=f"labels there are: {known}")
    names, rows = of_labels(table, label)
    return (names, rows) if names else of_clusters(vectors, clusters, rng)


@dataclass(frozen=True, slots=True)
class Recogniser:
    """Scores of K categories for a vector.

    logistic   one-vs-rest log odds: weights [D, K], bias [K]
    centroid   cosine with the mean direction of each category, times CENTROID_SCALE, in the same two arrays
    knn        log odds of the vote of the k nearest training rows: vectors [N, D] and their categories [N]
    """

    kind: Kind
    weights: NDArray[np.float32]
    bias: Array
    members: Ints
    neighbours: int = 0

    @property
    def count(self) -> int:
        """K."""
        return len(self.bias)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.weights.shape[1 if self.kind == "knn" else 0])

    def scores(self, vectors: NDArray[np.float32], *, skip: Ints | None = None) -> Array:
        """[N, K] log odds; `skip` [N] names one training row per query that has no vote (knn, for leave-one-out)."""
        if self.kind == "knn":
            return self._votes(vectors, skip)
        found: Array = (vectors @ self.weights).astype(np.float64)
        found += self.bias
        return found

    def _votes(self, vectors: NDArray[np.float32], skip: Ints | None) -> Array:
        out = np.empty((len(vectors), self.count))
        near = min(self.neighbours, len(self.weights) - (skip is not None))
        for part in measured.blocks(len(vectors), len(self.weights)):
            close = vectors[part] @ self.weights.T
            if skip is not None:
                close[np.arange(len(close)), skip[part]] = -np.inf
            nearest = np.argpartition(-close, near - 1, axis=1)[:, :near] if near else np.zeros((len(close), 0), np.intp)
            for place, row in enumerate(self.members[nearest]):
                out[part.start + place] = np.bincount(row, minlength=self.count)
        share = (out + 0.5 / self.count) / (near + 0.5)
        return np.log(share / np.maximum(1.0 - share, 1e-9))

    def state(self, prefix: str) -> State:
        """As plain data under a prefix."""
        config: dict[str, Any] = {f"{prefix}_kind": self.kind, f"{prefix}_neighbours": self.neighbours}
        arrays: dict[str, NDArray[Any]] = {
            f"{prefix}_weights": self.weights,
            f"{prefix}_bias": self.bias,
            f"{prefix}_members": self.members,
        }
        return State(config, arrays)

    @classmethod
    def from_state(cls, state: State, prefix: str) -> Recogniser:
        """The inverse of `state`."""
        kind: Kind = saved.entry(state, f"{prefix}_kind", Kind)  # type: ignore[arg-type]
        bias = saved.array(state, f"{prefix}_bias", (None,))
        wide = (None, None) if kind == "knn" else (None, len(bias))
        weights = saved.array(state, f"{prefix}_weights", wide, np.float32)
        members = saved.array(state, f"{prefix}_members", (len(weights) if kind == "knn" else 0,), np.intp)
        return cls(kind, weights, bias, members, saved.entry(state, f"{prefix}_neighbours", int))


def recogniser(
    kind: Kind, vectors: NDArray[np.float32], rows: Ints, count: int, *, alpha: float = 3.0, neighbours: int = 20
) -> Recogniser:
    """Learn K = `count` categories from N vectors and their categories [N]; rows at -1 belong to none.

    alpha is the L2 penalty of logistic; categories without a row score very low. Rows of no category are negatives of logistic
    and are left out by the others.
    """
    inside = rows >= 0
    if kind == "logistic":
        seen = np.bincount(rows[inside], minlength=count)
        weights, bias = logistic(vectors.astype(np.float64), one_hot(rows, count), alpha)
        bias = np.where(seen > 0, bias, -CENTROID_SCALE)
        return Recogniser(kind, weights.astype(np.float32), bias, np.zeros(0, np.intp))
    if kind == "centroid":
        return _centroids(vectors[inside], rows[inside], count)
    return Recogniser(kind, np.ascontiguousarray(vectors[inside]), np.zeros(count), rows[inside], neighbours)


def _centroids(vectors: NDArray[np.float32], rows: Ints, count: int) -> Recogniser:
    total = np.zeros((count, vectors.shape[1]))
    np.add.at(total, rows, vectors.astype(np.float64))
    length = np.linalg.norm(total, axis=1, keepdims=True)
    unit = np.divide(total, length, out=np.zeros_like(total), where=length > 0)
    bias = np.where(np.bincount(rows, minlength=count) > 0, 0.0, -CENTROID_SCALE)
    weights = np.ascontiguousarray((CENTROID_SCALE * unit).T, dtype=np.float32)
    return Recogniser("centroid", weights, bias, np.zeros(0, np.intp))


def one_hot(rows: Ints, count: int) -> Array:
    """[N, count] of 0 and 1; a row at -1 is all zero."""
    out = np.zeros((len(rows), count))
    inside = np.flatnonzero(rows >= 0)
    out[inside, rows[inside]] = 1.0
    return out


def crossed(
    kind: Kind,
    vectors: NDArray[np.float32],
    rows: Ints,
    count: int,
    rng: np.random.Generator,
    *,
    alpha: float = 3.0,
    neighbours: int = 20,
    folds: int = 2,
) -> Array:
    """[N, K] scores of each row by a recogniser that was not shown it: leave-one-out for knn, else `folds` folds."""
    if kind == "knn" and (rows >= 0).all():
        own = recogniser(kind, vectors, rows, count, neighbours=neighbours)
        return own.scores(vectors, skip=np.arange(len(vectors)))
    part = rng.permutation(len(vectors)) % min(folds, max(1, len(vectors)))
    out = np.zeros((len(vectors), count))
    for fold in range(int(part.max(initial=0)) + 1):
        held = part == fold
        shown = ~held if (~held).any() else held
        made = recogniser(kind, vectors[shown], rows[shown], count, alpha=alpha, neighbours=neighbours)
        out[held] = made.scores(vectors[held])
    return out


def probabilities(scores: Array) -> Array:
    """[N, K] from log odds, each row to sum 1."""
    chance = sigmoid(scores)
    share: Array = chance / np.maximum(chance.sum(axis=1, keepdims=True), 1e-300)
    return share


def doubt(scores: Array) -> Array:
    """[N] entropy of the categories' probabilities, as a share of its largest value log K; 0 for a single category."""
    share = probabilities(scores)
    entropy = -np.sum(share * np.log(np.maximum(share, 1e-300)), axis=1)
    return np.asarray(entropy / np.log(max(2, scores.shape[1])))


def sample(rows: int, rng: np.random.Generator, most: int = MOST_ROWS) -> Ints:
    """All row numbers, or `most` of them at random, ascending."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(rng.choice(rows, most, replace=False)).astype(np.intp)


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first names, for messages."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
