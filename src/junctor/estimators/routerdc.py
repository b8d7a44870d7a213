"""routerdc: queries and targets in one space, drawn together where the target is right and apart where it is wrong.

Source: RouterDC (dual contrastive learning, NeurIPS 2024), its released training script. Two losses: *sample-LLM* draws a query
to the targets that answer it best and away from those that answer it worst; *sample-sample* draws it to a query of its own
cluster and away from queries of others. Queries that nobody solves, or everybody, say nothing in the first and are skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.estimators import descent, trained
from junctor.estimators.descent import Recipe
from junctor.estimators.regression import logistic
from junctor.estimators.settings import check
from junctor.estimators.trained import Trained
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig
from junctor.types import Target

GOOD = 0.5
"""A worst target that scores more than this is no negative (the released script's mask)."""
SLOPE_PENALTY = 1.0
FEWEST_LENGTH = 1e-12


class RouterDC(Trained):
    """Holds the projection [D, H], one vector per target [M, H], and the line from cosine to log odds per target."""

    name: ClassVar[str] = "routerdc"
    shapes: ClassVar[Mapping[str, str]] = {"project": "DH", "shift": "H", "vectors": "MH", "slope": "M", "intercept": "M"}

    def cosines(self, vectors: Array) -> Array:
        """What the paper chooses by [N, M]: the cosine of the projected query and each target's vector."""
        placed = vectors @ self._parts["project"] + self._parts["shift"]
        return _unit(placed) @ self._unit_vectors.T

    def prepare(self, parts: Mapping[str, Array]) -> None:
        """Target vectors of unit length, and intercepts that are NaN where a target was never tried."""
        self._unit_vectors = _unit(parts["vectors"])
        self._level = parts["intercept"] + 0.0 * parts["prior"]

    def odds(self, vectors: Array, features: Features) -> Array:
        """The cosine, calibrated per target."""
        del features
        odds: Array = self.cosines(vectors) * self._parts["slope"] + self._level
        return odds

    def introduced(self, target: Target, quality: Array, vectors: Array, features: Features) -> dict[str, Array]:
        """Its vector points from the queries that it failed to those that it solved; its line is fitted on the same rows."""
        del target, features
        placed = _unit(vectors @ self._parts["project"] + self._parts["shift"])
        weight = quality - quality.mean()
        own = (weight if np.any(weight) else np.ones(len(weight))) @ placed
        slope, intercept = _line(placed @ _unit(own[None])[0], quality)
        parts = {"vectors": own, "slope": slope, "intercept": intercept}
        return {name: np.concatenate([self._parts[name], np.asarray(found)[None]]) for name, found in parts.items()}


@dataclass(frozen=True, kw_only=True)
class RouterDCConfig(EstimatorConfig):
    """Hyper-parameters.

    width            dimensions of the common space
    top, last        how many of a query's best targets are positives, how many of its worst negatives
    temperature      divides the cosines
    sample_weight    of the sample-sample loss; 0 leaves it out
    clusters         k-means clusters of the training queries, for the sample-sample loss
    negatives        queries of other clusters beside the one of the own cluster
    rows_per_label   at most so many training rows per dataset label, so that large datasets do not drown small ones
    """

    width: int = 64
    top: int = 3
    last: int = 3
    temperature: float = 1.0
    sample_weight: float = 1.0
    clusters: int = 20
    negatives: int = 3
    rows_per_label: int = 1000
    rate: float = 0.01
    epochs: int = 40

    name: ClassVar[str] = "routerdc"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    fitted: ClassVar[type[Estimator]] = RouterDC
    about: ClassVar[About | None] = About(
        title="RouterDC: query-based router by dual contrastive learning",
        family="contrastive and graph",
        status="adapted",
        source="RouterDC (NeurIPS 2024); released code shuhao02/RouterDC, train_router_mdeberta.py",
        formula=(
            "s_j = cos(P e(x), v_j) / t; L = L_sample-LLM + lambda L_sample-sample\n"
            "L_sample-LLM = mean over the top_k best with score > 0 of -log softmax(s+ | last_k worst, those above .5 masked)\n"
            "L_sample-sample = -log softmax(cos(P e(x), P e(x')) / t), x' one query of x's cluster against H of others"
        ),
        adapted=(
            "A frozen sentence encoder with a trained linear projection replaces mDeBERTa-v3-base tuned end to end.",
            "Clusters are k-means of the embeddings themselves, not of their t-SNE.",
            (
                "A logistic line per target, fitted on training rows, turns the cosine into a quality, so that the cost knob"
                " works; the paper chooses by the cosine alone."
            ),
            "Sample-sample similarities are tempered like the others; the released code leaves them untempered.",
            "A new target gets the direction from its failed to its solved queries; the paper trains anew.",
        ),
        unverified=("The paper's in-distribution mean of 58.54 was not read in the paper itself.",),
        complexity="fit O(epochs N (D H + M H)); decision O(D H + M H)",
        claims=(
            Claim(
                figure="+2.76 points in distribution, +1.90 out of it over the best baseline",
                on="its 7 models",
                sure="abstract",
            ),
            Claim(figure="58.54 in distribution, next best 55.78", on="its 5 datasets, 7 models", sure="unverified"),
            Claim(figure="61.33 where the best single model has about 67.5", on="LLMRouterBench", sure="read"),
            Claim(figure="33.75, last of those listed", on="RouterArena", sure="read"),
        ),
    )

    def __post_init__(self) -> None:
        for key in ("width", "top", "last", "clusters", "negatives", "rows_per_label", "epochs"):
            check(getattr(self, key) >= 1, f"routerdc.{key}", "must be at least 1")
        check(self.temperature > 0, "routerdc.temperature", "must be positive")
        check(self.rate > 0, "routerdc.rate", "must be positive")
        check(self.sample_weight >= 0, "routerdc.sample_weight", "must not be negative")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> RouterDC:
        """Train on a balanced draw of the rows, then calibrate on all of them; raises UserError without a row."""
        columns, values, vectors = trained.learnable(table, features, self.name)
        quality = values[:, : len(columns.targets)]
        parts = trained.common(columns, values, vectors)
        found = self._trained(quality, vectors, _balanced(table, self.rows_per_label, rng), rng)
        parts.update(found.weights)
        placed = _unit(vectors @ parts["project"] + parts["shift"]) @ _unit(parts["vectors"]).T
        lines = [_line(placed[:, j], quality[:, j]) for j in range(len(columns.targets))]
        parts["slope"], parts["intercept"] = np.array(lines).T.copy()
        return RouterDC(self, columns, parts, found.losses)

    def _trained(self, quality: Array, vectors: Array, rows: NDArray[np.intp], rng: np.random.Generator) -> descent.Descent:
        torch = descent.torch_for(self.name)
        centre, scale = trained.standard(vectors)
        x = trained.float_rows(torch, (vectors - centre) / scale)
        ends = [torch.from_numpy(part) for part in extremes(quality, self.top, self.last, rng)]
        pairs = Pairs.of(trained.nearest(vectors, trained.clusters(vectors, self.clusters, rng)), self.negatives)

        def placed(w: Mapping[str, Any], batch: NDArray[np.intp]) -> Any:
            return _torch_unit(torch, x[batch] @ w["project"] + w["shift"])

        def targets(w: Mapping[str, Any], batch: NDArray[np.intp], draw: np.random.Generator) -> Any:
            del draw
            scores = placed(w, batch) @ _torch_unit(torch, w["vectors"]).T / self.temperature
            return sample_llm_loss(torch, scores, ends[0][batch], ends[1][batch])

        def loss(w: Mapping[str, Any], batch: NDArray[np.intp], draw: np.random.Generator) -> Any:
            total = targets(w, batch, draw)
            if not self.sample_weight:
                return total
            near = (placed(w, pairs.draw(batch, draw)) @ placed(w, batch)[:, :, None])[:, :, 0] / self.temperature
            return total + self.sample_weight * (near.logsumexp(dim=1) - near[:, 0]).mean()

        start = {
            "project": trained.drawn(rng, vectors.shape[1], self.width),
            "shift": np.zeros(self.width),
            "vectors": trained.drawn(rng, quality.shape[1], self.width),
        }
        found = descent.descend(self.name, start, loss, rows, Recipe(rate=self.rate, epochs=self.epochs), rng, judge=targets)
        found.weights["project"], found.weights["shift"] = trained.folded(
            found.weights["project"], found.weights["shift"], centre, scale
        )
        return found


def sample_llm_loss(torch: Any, scores: Any, best: Any, worst: Any) -> Any:
    """The first loss: each of a query's best targets against all of its worst, within the query."""
    return descent.contrast_loss(torch, scores, best, worst)


def extremes(quality: Array, top: int, last: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Which recorded targets are a query's `top` best with a score above 0, and its `last` worst that score at most GOOD.

    Both [N, M] of 0 and 1; ties are broken by lot. A target never stands on both sides: one that is among the best and the
    worst (few targets, graded scores) is a positive.
    """
    noise = rng.random(quality.shape) * 1e-6
    seen = ~np.isnan(quality)
    best = _first(np.where(seen, -(quality + noise), np.inf), top) & seen & (np.nan_to_num(quality) > 0.0)
    worst = _first(np.where(seen, quality + noise, np.inf), last) & seen & (np.nan_to_num(quality) <= GOOD) & ~best
    return best.astype(np.float32), worst.astype(np.float32)


def _first(keys: Array, count: int) -> NDArray[np.bool_]:
    """[N, M]: whether a key is among the `count` smallest of its row."""
    ranks = keys.argsort(axis=1).argsort(axis=1)
    first: NDArray[np.bool_] = ranks < count
    return first


@dataclass(frozen=True, slots=True)
class Pairs:
    """Draws, for the sample-sample loss, one query of the own cluster and some of others.

    members   rows sorted by cluster; start, size say where each cluster lies in them
    """

    cluster: NDArray[np.intp]
    members: NDArray[np.intp]
    start: NDArray[np.intp]
    size: NDArray[np.intp]
    negatives: int

    @classmethod
    def of(cls, cluster: NDArray[np.intp], negatives: int) -> Pairs:
        """From the cluster of each row."""
        size = np.bincount(cluster)
        return cls(cluster, np.argsort(cluster, kind="stable"), np.cumsum(size) - size, size, negatives)

    def draw(self, rows: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
        """[B, 1 + H]: the positive first. With one cluster alone, "others" are of the same one."""
        own = self.cluster[rows]
        inside = self.start[own] + (rng.random(len(rows)) * self.size[own]).astype(np.intp)
        room = len(self.members) - self.size[own]
        step = (rng.random((len(rows), self.negatives)) * np.maximum(room, 1)[:, None]).astype(np.intp)
        outside = (self.start[own] + self.size[own])[:, None] + step
        chosen: NDArray[np.intp] = self.members[np.concatenate([inside[:, None], outside % len(self.members)], axis=1)]
        return chosen


def _balanced(table: OutcomeTable, most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """At most `most` rows of each label, drawn by lot; every row of a table without labels."""
    labels = np.asarray(table.label, dtype=object)
    names = sorted(set(table.label))
    if len(names) < 2:
        return np.arange(len(table))
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == name))[:most] for name in names]))


def _line(cosine: Array, quality: Array) -> tuple[float, float]:
    """Slope and intercept of the log odds over the cosine: level where a target gets worse with it, 0 if it was never tried."""
    if np.isnan(quality).all():
        return 0.0, 0.0
    slope, intercept = logistic(cosine[:, None], quality[:, None], SLOPE_PENALTY)
    if slope[0, 0] < 0.0:
        return 0.0, float(trained.smoothed_odds(quality[:, None])[0])
    return float(slope[0, 0]), float(intercept[0])


def _unit(values: Array) -> Array:
    unit: Array = values / np.maximum(np.sqrt(np.sum(values * values, axis=-1, keepdims=True)), FEWEST_LENGTH)
    return unit


def _torch_unit(torch: Any, values: Any) -> Any:
    return torch.nn.functional.normalize(values, dim=-1)


RouterDC.settings = RouterDCConfig
