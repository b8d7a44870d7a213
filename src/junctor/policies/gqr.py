"""gqr: guarded query routing. A request goes to the expert of its domain, or to nobody when it belongs to none.

Source: Guarded Query Routing (GQR-Bench; its code and abstract were read). The abstention is a target like any other: the
one whose id is `none` ("none" by default). Where the catalogue has it, a rejected request goes there; where it has not, to the
target that is best over all domains, and the reason says so. Rows of the table on which `none` is the one right answer are out
of domain: heads never see them, and the threshold is set on held-out rows *of* the domains alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import ArtefactError, UserError
from junctor.estimators import clustering, measured, saved
from junctor.estimators.categories import of_clusters, of_labels, sample
from junctor.estimators.heads import KINDS, READS_VECTORS, Head, HeadKind, fit_head
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.mapped import GroupTable, Mapped, View, along_weights, group_table
from junctor.policy import Array, Policy, PolicyConfig, State
from junctor.types import Request

OUTSIDE = "outside"
ROWS_PER_PART = 20
HELD_OUT = 0.15
"""Share of the in-domain rows that set the threshold and nothing else."""
MOST_ROWS = 20_000
GAP = 0.03
"""Logarithm of scatter below one cloud's from which rows count as several clouds."""

Ints = NDArray[np.intp]


class Guarded(Mapped):
    """Holds the head, the domain of each of its classes, the threshold of the guard, and outcomes per domain."""

    name: ClassVar[str] = "gqr"
    why: ClassVar[str] = "domain"

    def __init__(self, config: GQRConfig, head: Head, domain: Ints, threshold: float, table: GroupTable) -> None:
        self.config, self._head, self._domain, self.threshold = config, head, domain, threshold
        scores, settings = along_weights(table, config.cost_weight)
        super().__init__(table, _with_none(scores, table, config.none), settings, config.fallbacks)

    @property
    def needs(self) -> frozenset[str]:
        """The vector, for heads that read it."""
        return self.config.needs

    def inside(self, features: Features) -> Array:
        """[N] how much a request looks like one of the domains: the highest score of any class."""
        return np.asarray(self._scores_of(features).max(axis=1))

    def _scores_of(self, features: Features) -> Array:
        return by_domain(self._head.scores(features, self.name), self._domain, len(self.table.groups) - 1)

    def groups_of(self, features: Features) -> Ints:
        """The domain of the highest score, or the last group when that is below the threshold."""
        scores = self._scores_of(features)
        best = scores.argmax(axis=1)
        rejected = scores[np.arange(len(scores)), best] < self.threshold
        return np.where(rejected, len(self.table.groups) - 1, best)

    def _recognised(self, request: Request, view: View) -> tuple[int, str]:
        group, reason = super()._recognised(request, view)
        if group < len(self.table.groups) - 1:
            return group, reason
        first = self.table.targets[view.orders[group][0]] if view.orders[group] else ""
        said = "rejected: it looks like none of the domains"
        return group, said if first == self.config.none else f"{said}, and there is no target {self.config.none!r} here"

    def state(self) -> State:
        """The head, its classes' domains, the threshold and the group table."""
        head, table = self._head.state(), self.table.state()
        config = {"settings": self.config.settings(), "threshold": self.threshold, **head.config, **table.config}
        return State(config, {**head.arrays, **table.arrays, "domain": self._domain})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(GQRConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        head, table = Head.from_state(state), GroupTable.from_state(state)
        domain = saved.array(state, "domain", (head.count,), np.intp)
        if not ((domain >= 0) & (domain < len(table.groups) - 1)).all():
            raise ArtefactError("names a domain that is not there", field="domain", fix=saved.FIX)
        return cls(config, head, domain, saved.entry(state, "threshold", float), table)


def _with_none(scores: Array, table: GroupTable, none: str) -> Array:
    """Scores [1 + L, G, M] with the abstention first outside, and last inside."""
    if none not in table.targets:
        return scores
    column = table.targets.index(none)
    out = scores.copy()
    lowest = float(np.nanmin(scores, initial=0.0))
    out[:, :-1, column] = lowest - 1.0
    out[:, -1, column] = 2.0
    return out


def outside_rows(table: OutcomeTable, none: str) -> NDArray[np.bool_]:
    """[N] whether `none` is the one right answer: recorded, above 0, and better than everything else that is recorded."""
    column = table.targets.position(none)
    if column is None:
        return np.zeros(len(table), dtype=bool)
    quality = np.nan_to_num(table.quality)
    others = np.delete(quality, column, axis=1).max(axis=1, initial=0.0)
    return np.asarray(quality[:, column] > others)


def harmonic(one: float, other: float) -> float:
    """The GQR score: harmonic mean of in-domain accuracy and mean rejection."""
    return 2.0 * one * other / (one + other) if one + other > 0 else 0.0


def by_domain(scores: Array, domain: Ints, count: int) -> Array:
    """[N, K] from the scores of their classes [N, P]: the logarithm of the summed odds, for a domain is any of its classes.

    A request between two classes of one domain is half of each, and all of the domain.
    """
    if len(domain) == count:
        return scores
    top = scores.max(axis=1, keepdims=True)
    odds = np.zeros((len(scores), count))
    np.add.at(odds.T, domain, np.exp(scores - top).T)
    return np.asarray(np.log(np.maximum(odds, 1e-300)) + top)


def cut_into(vectors: NDArray[np.float32], parts: int, rng: np.random.Generator) -> Ints:
    """[N] the k-means part of each row; all 0 where the rows are one cloud, which cutting would only blur.

    The rows count as several clouds when k-means leaves less scatter in them than in as many draws from one normal
    distribution of the same covariance: the gap statistic (Tibshirani, Walther & Hastie 2001) with that reference.
    """
    if parts < 2:
        return np.zeros(len(vectors), dtype=np.intp)
    centred = vectors - vectors.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    draws = (rng.standard_normal((len(vectors), len(spread))) * (spread / np.sqrt(len(vectors)))) @ axes
    centres, rows = clustering.clusters(centred, parts, rng)
    reference, places = clustering.clusters(draws.astype(np.float32), parts, rng)
    scatter = max(float(np.sum((centred - centres[rows]) ** 2)), 1e-12)
    gap = np.log(max(float(np.sum((draws - reference[places]) ** 2)), 1e-12) / scatter)
    return rows if gap > GAP else np.zeros(len(vectors), dtype=np.intp)


def threshold_at(scores: Array, loss: float) -> float:
    """The threshold below which a share `loss` of held-out in-domain scores lies."""
    return float(np.quantile(scores, loss)) if len(scores) else -np.inf


def best_threshold(inside: Array, right: NDArray[np.bool_], outside: Array) -> float:
    """The threshold of the highest GQR score on held-out in-domain rows (were they `right`?) and known outsiders."""
    grid = np.unique(np.quantile(np.concatenate([inside, outside]), np.linspace(0, 1, 201)))
    found = [harmonic(float(np.mean(right & (inside >= t))), float(np.mean(outside < t))) for t in grid]
    return float(grid[int(np.argmax(found))])


@dataclass(frozen=True, kw_only=True)
class GQRConfig(PolicyConfig):
    """What recognises a domain, and when none is recognised.

    head         logistic, svm (both on the vector), fasttext or wide-mlp (both on words)
    loss         share of in-domain requests that the guard may lose; the threshold is that quantile of held-out scores
    parts        classes that a domain of many topics is cut into by k-means (logistic only)
    outsiders    set the threshold with the table's own out-of-domain rows instead: the highest GQR score
    none         id of the target that takes rejected requests
    label        the label that names domains, by default the table's own; k-means clusters where there is none
    alpha        L2 penalty of the linear heads
    cost_weight, shrinkage, clusters, fallbacks   how a domain's targets are ordered, as elsewhere
    """

    head: HeadKind = "logistic"
    loss: float = 0.05
    parts: int = 8
    outsiders: bool = False
    none: str = "none"
    label: str = ""
    alpha: float = 0.3
    cost_weight: float = 0.0
    shrinkage: float = 10.0
    clusters: int = 20
    fallbacks: int = 2

    name: ClassVar[str] = "gqr"
    fitted: ClassVar[type[Policy]] = Guarded
    about: ClassVar[About | None] = About(
        title="Guarded Query Routing",
        family="label first",
        status="adapted",
        source="Guarded Query Routing (GQR-Bench), baselines with an out-of-distribution threshold",
        formula="route to the domain of argmax_k f_k(x) if max_k f_k(x) >= t, else reject; t = 5 % quantile of held-out "
        "in-domain scores; GQR score = harmonic mean(in-domain accuracy, mean over OOD sets of rejection accuracy)",
        complexity="fit: one linear problem per class; decision: O(K D), or O(words K)",
        adapted=(
            "Domains are the table's labels; law, finance and healthcare are not here.",
            "Each domain maps to its best target on training rows, along a cost weight.",
            "A domain of many topics is cut into up to 8 classes by k-means; one per domain, as published, is `parts = 1`.",
            "fastText and WideMLP read hashed words and word pairs; WideMLP has 128 hidden units where theirs is wide.",
        ),
        unverified=("The paper's widths, epochs and features of each head.",),
        claims=(
            Claim(figure="WideMLP 88% in under 4 ms", on="GQR-Bench, GQR score", sure="abstract"),
            Claim(figure="fastText 80% in under 1 ms", on="GQR-Bench, GQR score", sure="abstract"),
            Claim(figure="Llama-3.1-8B 91% in 62 ms", on="GQR-Bench, GQR score", sure="abstract"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.head in KINDS, "gqr.head", f"must be one of {', '.join(KINDS)}")
        check(0.0 <= self.loss < 1.0, "gqr.loss", "must be in [0, 1)")
        check(self.alpha > 0, "gqr.alpha", "must be positive")
        for key in ("parts", "clusters"):
            check(getattr(self, key) >= 1, f"gqr.{key}", "must be at least 1")
        for key in ("cost_weight", "shrinkage", "fallbacks"):
            check(0 <= getattr(self, key) < float("inf"), f"gqr.{key}", "must be finite and not negative")
        check(bool(self.none), "gqr.none", "must name a target")

    @property
    def needs(self) -> frozenset[str]:
        """The vector, for heads that read it."""
        return frozenset({"embedding"}) if self.head in READS_VECTORS else frozenset()

    def settings(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def candidates(self, rows: int) -> Sequence[GQRConfig]:
        """Itself: rejection cannot be tuned on rows that hold nothing to reject."""
        del rows
        return [replace(self)]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Guarded:
        """Learn the domains from in-domain rows and set the guard; raises UserError where there is none."""
        measured.same_rows(table, features, self.name)
        outside = outside_rows(table, self.none)
        names, rows = self._domains(table, features, outside, rng)
        known = np.flatnonzero((rows >= 0) & ~outside)
        known = known[sample(len(known), rng, MOST_ROWS)]
        held = rng.permutation(len(known)) < HELD_OUT * len(known)
        held &= len(known) >= 1 / HELD_OUT  # too few rows to spare any: the threshold is set on those that were fitted
        shown, judged = known[~held], known[held] if held.any() else known
        classes, domain = self._classes(features, rows, shown, len(names), rng)
        head = fit_head(self.head, features.take(shown), classes, len(domain), self.alpha, rng, self.name)
        threshold = self._threshold(head, domain, features, rows, judged, np.flatnonzero(outside))
        places = np.where((rows >= 0) & ~outside, rows, len(names))
        return Guarded(self, head, domain, threshold, group_table(table, [*names, OUTSIDE], places, self.shrinkage))

    def _domains(
        self, table: OutcomeTable, features: Features, outside: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[list[str], Ints]:
        """Names of the domains and [N] the domain of each row, -1 for none."""
        inner = np.flatnonzero(~outside)
        if not len(inner):
            raise UserError("there is no in-domain row to learn from", field=self.name, fix="record rows that a target can do")
        if self.label and self.label not in table.labels:
            known = ", ".join(table.labels) or "none"
            raise UserError(f"the table has no label {self.label!r}", field="gqr.label", fix=f"labels there are: {known}")
        names, found = of_labels(table.take(inner), self.label)
        if not names:
            names, found = of_clusters(features.take(inner).vectors(self.name), self.clusters, rng)
        rows = np.full(len(table), -1, dtype=np.intp)
        rows[inner] = found
        return names, rows

    def _classes(self, features: Features, rows: Ints, shown: Ints, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """[n] the class of each shown row, and the domain of each class."""
        if self.parts == 1 or self.head != "logistic":  # margins and words have no odds that parts could add up
            return rows[shown], np.arange(count)
        vectors = features.vectors(self.name)
        classes, domain = np.zeros(len(shown), dtype=np.intp), list[int]()
        for k in range(count):
            mine = np.flatnonzero(rows[shown] == k)
            cut = cut_into(np.ascontiguousarray(vectors[shown[mine]]), min(self.parts, len(mine) // ROWS_PER_PART), rng)
            classes[mine] = cut + len(domain)
            domain += [k] * (int(cut.max(initial=0)) + 1)
        return classes, np.array(domain, dtype=np.intp)

    def _threshold(self, head: Head, domain: Ints, features: Features, rows: Ints, judged: Ints, outside: Ints) -> float:
        count = int(domain.max()) + 1
        scores = by_domain(head.scores(features.take(judged), self.name), domain, count)
        inside = scores.max(axis=1)
        if not self.outsiders or not len(outside):
            return threshold_at(inside, self.loss)
        right = scores.argmax(axis=1) == rows[judged]
        strangers = by_domain(head.scores(features.take(outside), self.name), domain, count)
        return best_threshold(inside, right, strangers.max(axis=1))
