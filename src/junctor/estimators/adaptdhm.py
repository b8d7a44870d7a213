"""adaptdhm: queries fall into distributions that are learned by routing, each with its own model on top of a shared one.

Source: AdaptDHM (adaptive distribution hierarchical model; its abstract was read). There, a capsule-like dynamic routing
assigns samples to clusters by their distribution, and a hierarchical network has shared and cluster-specific weights. Here, the
routing runs on the vector next to what a shared ridge predicts for it, so that clusters are shaped by outcomes, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About
from junctor.errors import ArtefactError, UserError
from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.estimators.pieces import Pieces, bounds_of, own_fit, shared_fit
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State

GRID = ((2, 300.0), (2, 30.0), (4, 100.0), (4, 10.0), (8, 30.0))
"""(clusters, alpha), the smoothest first."""
BATCH = 512
RESTARTS = 8
FIRST_ROWS = 4000

Ints = NDArray[np.intp]


def squash(vectors: Array) -> Array:
    """Capsules' s |s| / (1 + |s|^2): the direction stays, the length comes to lie in [0, 1)."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors * length / (1.0 + length**2))


def routed(batch: Array, centres: Array, rounds: int, sharpness: float) -> tuple[Array, Array]:
    """Dynamic routing of n samples to K clusters: coupling [n, K] and the clusters' new directions [K, D].

    Logits start at the similarity to the centres; each round couples samples by a softmax over clusters, sums and squashes
    them, and adds the agreement of sample and capsule to the logits.
    """
    logits = sharpness * batch @ centres.T
    coupling, capsules = _softmax(logits), centres
    for _ in range(rounds):
        capsules = squash(coupling.T @ batch)
        logits = logits + batch @ capsules.T
        coupling = _softmax(logits)
    return coupling, capsules / np.maximum(np.linalg.norm(capsules, axis=1, keepdims=True), 1e-12)


def _softmax(logits: Array) -> Array:
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(share / share.sum(axis=1, keepdims=True))


class AdaptDHM(Estimator):
    """Holds centres [K, E], the map that turns a vector into routed space [D, E], its middle [E], and K linear pieces."""

    name: ClassVar[str] = "adaptdhm"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    def __init__(
        self,
        config: AdaptDHMConfig,
        pieces: Pieces,
        centres: NDArray[np.float32],
        mapping: NDArray[np.float32],
        middle: NDArray[np.float32],
    ) -> None:
        self.config, self.targets = config, pieces.columns.targets
        self._pieces, self._centres, self._map, self._middle = pieces, centres, mapping, middle
        # The nearest direction of (x A - m) is the largest of x (A C') - m C': two small arrays serve a decision.
        self._direct = np.ascontiguousarray(mapping @ centres.T)
        self._offset = middle @ centres.T

    def predict(self, features: Features) -> Prediction:
        """One small product for the cluster, one for the outcomes [M]."""
        vector = self._checked(features)[0]
        return self._pieces.predict(vector, int((vector.dot(self._direct) - self._offset).argmax()))

    def predict_many(self, features: Features) -> Prediction:
        """[N, M]."""
        return self._pieces.predict_many(self._checked(features), self.clusters_of(features))

    def clusters_of(self, features: Features) -> Ints:
        """[N] the distribution of each request."""
        found: Ints = (self._checked(features) @ self._direct - self._offset).argmax(axis=1)
        return found

    def _checked(self, features: Features) -> NDArray[np.float32]:
        return measured.of_width(features.vectors(self.name), len(self._map), self.name)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> AdaptDHM:
        """Fit the new target's pieces on the calibration rows; the clusters stay."""
        self._pieces.columns.plus(target)
        values, seen = measured.calibration(self._pieces.columns, target, rows, features)
        one = Columns((target,), self._pieces.columns.measures)
        made = _pieces(self.config, one, self._checked(seen), values, self.clusters_of(seen), len(self._centres))
        return AdaptDHM(self.config, self._pieces.widen(target, made), self._centres, self._map, self._middle)

    def state(self) -> State:
        """Pieces, centres and the map into routed space."""
        inner = self._pieces.state()
        arrays = {**inner.arrays, "centres": self._centres, "map": self._map, "middle": self._middle}
        return State({**inner.config, "settings": self.config.settings()}, arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(AdaptDHMConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        pieces = Pieces.from_state(state)
        centres = saved.array(state, "centres", (len(pieces.bias), None), np.float32)
        mapping = saved.array(state, "map", (pieces.weights.shape[1], centres.shape[1]), np.float32)
        if not len(centres):
            raise ArtefactError("holds no cluster", field="centres", fix=saved.FIX)
        return cls(config, pieces, centres, mapping, saved.array(state, "middle", (centres.shape[1],), np.float32))


def _pieces(
    config: AdaptDHMConfig, columns: Columns, vectors: NDArray[np.float32], values: Array, groups: Ints, count: int
) -> Pieces:
    x = vectors.astype(np.float64)
    shared = shared_fit(x, values, config.alpha)
    fits = [own_fit(x[groups == k], values[groups == k], shared, config.alpha, config.shrinkage) for k in range(count)]
    weights = np.stack([w for w, _ in fits]).astype(np.float32)
    return Pieces(columns, weights, np.stack([b for _, b in fits]), bounds_of(values, len(columns.targets)))


def centres_of(space: Array, count: int, config: AdaptDHMConfig, rng: np.random.Generator) -> Array:
    """Learn K directions: a start from far-apart samples, then dynamic routing batch by batch with a moving average.

    Of several starts the one stays whose samples lie nearest to their own cluster.
    """
    best, height = space[:1], -np.inf
    few = space[np.sort(rng.permutation(len(space))[:FIRST_ROWS])]
    for _ in range(RESTARTS if count > 1 else 1):
        centres = _far_apart(few, count, rng)
        for _ in range(config.passes):
            order = rng.permutation(len(few))
            for start in range(0, len(few), BATCH):
                _, found = routed(few[order[start : start + BATCH]], centres, config.rounds, config.sharpness)
                centres = config.momentum * centres + (1.0 - config.momentum) * found
                centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        close = float((few @ centres.T).max(axis=1).mean())
        if close > height:
            best, height = centres, close
    return best


def _far_apart(space: Array, count: int, rng: np.random.Generator) -> Array:
    """k-means++ on directions: each next sample drawn in proportion to its squared distance from the nearest one so far."""
    chosen = [int(rng.integers(len(space)))]
    for _ in range(1, count):
        apart = np.maximum(1.0 - (space @ space[chosen].T).max(axis=1), 0.0) ** 2
        total = apart.sum()
        chosen.append(int(rng.choice(len(space), p=apart / total)) if total > 0 else int(rng.integers(len(space))))
    return space[chosen].copy()


@dataclass(frozen=True, kw_only=True)
class AdaptDHMConfig(EstimatorConfig):
    """How distributions are learned and what each adds.

    clusters    how many distributions; one makes it plain ridge
    alpha       L2 penalty of the shared and of the own models
    outcomes    weight of the predicted outcome profile beside the vector when queries are routed; 0 routes by vector alone
    rounds, sharpness, momentum, passes   of the dynamic routing and its moving average
    shrinkage   pseudo-rows by which a cluster's own model is drawn to the shared one
    """

    clusters: int = 4
    alpha: float = 30.0
    outcomes: float = 0.5
    rounds: int = 3
    sharpness: float = 10.0
    momentum: float = 0.5
    passes: int = 4
    shrinkage: float = 20.0

    name: ClassVar[str] = "adaptdhm"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = AdaptDHM
    about: ClassVar[About | None] = About(
        title="AdaptDHM",
        family="label first",
        status="adapted",
        source="AdaptDHM: adaptive distribution hierarchical model, distribution adaptation by dynamic routing",
        formula="b = sim(x, mu); three rounds of c = softmax(b), v = squash(c' x), b += x v'; mu <- m mu + (1 - m) v; "
        "y = W_shared x + W_k x with k = argmax sim(x, mu)",
        complexity="fit: O(N K E) per pass and one ridge per cluster; decision: O(D K + D M)",
        adapted=(
            "Clicks are replaced by recorded outcomes, the deep network by a shared ridge plus one ridge per distribution.",
            "Samples are routed by their vector beside a shared ridge's prediction for it, in place of a trained embedding.",
        ),
        unverified=("How the paper combines shared and specific weights, and its number of clusters.",),
    )

    def __post_init__(self) -> None:
        for key in ("clusters", "rounds", "passes"):
            check(getattr(self, key) >= 1, f"adaptdhm.{key}", "must be at least 1")
        check(0 < self.alpha < float("inf"), "adaptdhm.alpha", "must be positive")
        check(0 <= self.momentum < 1, "adaptdhm.momentum", "must be in [0, 1)")
        for key in ("outcomes", "sharpness", "shrinkage"):
            check(0 <= getattr(self, key) < float("inf"), f"adaptdhm.{key}", "must be finite and not negative")

    def candidates(self, rows: int) -> Sequence[AdaptDHMConfig]:
        """From few distributions with much smoothing to many with little."""
        del rows
        return [replace(self, clusters=clusters, alpha=alpha) for clusters, alpha in GRID]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> AdaptDHM:
        """Learn the distributions, then the models; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        columns, values = measured.stack(table)
        mapping, middle = self._space(vectors.astype(np.float64), values[:, : len(columns.targets)])
        space = vectors @ mapping - middle
        unit = space / np.maximum(np.linalg.norm(space, axis=1, keepdims=True), 1e-12)
        count = max(1, min(self.clusters, len(table)))
        centres = centres_of(unit.astype(np.float64), count, self, rng).astype(np.float32)
        groups = (space @ centres.T).argmax(axis=1)
        return AdaptDHM(self, _pieces(self, columns, vectors, values, groups, count), centres, mapping, middle)

    def _space(self, x: Array, quality: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[D, E] and [E]: the vector and, weighted, its predicted quality profile; both centred and of like scatter."""
        weights, _ = shared_fit(x, quality, self.alpha)
        profile = weights / max(float(np.sqrt(np.mean(np.var(x @ weights, axis=0).sum()))), 1e-12)
        scatter = float(np.sqrt(np.var(x, axis=0).sum()))
        mapping = np.hstack([np.eye(x.shape[1]), self.outcomes * scatter * profile])
        return mapping.astype(np.float32), (x.mean(axis=0) @ mapping).astype(np.float32)
