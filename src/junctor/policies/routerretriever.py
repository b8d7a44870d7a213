"""routerretriever: pilot embeddings. The target whose winners' centroid is most similar to the query.

Source: RouterRetriever (an expert retriever per domain): for each training query find the expert that does best; per (dataset,
best expert) keep the centroid of the query vectors, the pilot; choose the expert of highest similarity to its pilots. Here the
experts are any targets, and a query on which several win is shared between them: one on which all tie says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import TableError, UserError
from junctor.estimators import measured, saved
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.ranking import Ranking, Typical, described
from junctor.policies.trading import View
from junctor.policy import Array, Policy, PolicyConfig, State

WEIGHTS = (0.0, *np.geomspace(1e-3, 10.0, 41).tolist())
"""The sweep: similarity alone, then ten settings a decade; similarities differ by 2 at most."""
EQUAL = 1e-9
"""Qualities closer than this are equal: both win."""
NOWHERE = -1.0
"""The similarity of a target that never won: as if it were opposite to the query."""


class RouterRetriever(Ranking):
    """Holds P pilots: directions [P, D] and the column of each one's target [P]."""

    name: ClassVar[str] = "routerretriever"
    why: ClassVar[str] = "most similar to the queries that it was best on"

    def __init__(
        self, config: RouterRetrieverConfig, typical: Typical, pilots: NDArray[np.float32], owner: NDArray[np.intp]
    ) -> None:
        super().__init__(typical, knob=config.cost_weight, knobs=WEIGHTS, fallbacks=config.fallbacks, label=config.label)
        self.config, self._pilots, self._owner = config, pilots, owner
        self._wide = pilots.astype(np.float64).T
        self._own = [np.flatnonzero(owner == column) for column in range(len(typical.targets))]

    def preferences(self, features: Features, view: View, knobs: Array) -> Array:
        """Similarity to the target's pilots, less what it costs [L, N, K]."""
        vectors = measured.of_width(features.vectors(self.name), len(self._wide), self.name)
        near = vectors.astype(np.float64) @ self._wide
        score = np.full((len(vectors), len(self._own)), NOWHERE)
        for column, own in enumerate(self._own):
            if len(own):
                score[:, column] = near[:, own].max(axis=1) if self.config.pool == "max" else near[:, own].mean(axis=1)
        picked = view.pick(score)
        assert picked is not None
        return picked[None] - knobs[:, None, None] * view.cost_terms(self.costs(view))

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> RouterRetriever:
        """Pilots of the new target where it is better than every other target that the calibration rows record.

        Raises TableError when the rows record no other target: there is nothing to win against.
        """
        typical = self.typical.plus(target, rows)
        others = [id_ for id_ in rows.targets.ids if id_ in self.typical.targets]
        if not others:
            fix = "calibrate on rows that also record a known target"
            raise TableError("there is no other target to compare with", field=target, fix=fix)
        among = rows.only([*others, target])
        vectors = measured.of_width(features.vectors(self.name), len(self._wide), self.name)
        groups = _groups(rows, self.config.groups)
        pilots, owner = centroids(vectors, among.quality, groups, self.config.ties)
        won = pilots[owner == len(others)]
        added = np.full(len(won), len(self._own), dtype=np.intp)
        pilots, owner = np.vstack([self._pilots, won]), np.concatenate([self._owner, added])
        return self.grown(RouterRetriever(self.config, typical, pilots, owner), target)

    def state(self) -> State:
        """The pilots."""
        return described(self, self.config.settings(), {"pilots": self._pilots, "owner": self._owner.astype(np.int64)})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        typical = Typical.from_state(state)
        config = configured(RouterRetrieverConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        pilots = saved.array(state, "pilots", (None, None), np.float32)
        return cls(config, typical, pilots, saved.array(state, "owner", (len(pilots),), np.int64).astype(np.intp))


def centroids(
    vectors: NDArray[np.float32], quality: Array, groups: Sequence[str], ties: str
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Pilots [P, D] of unit length and their targets' columns [P], per (group, winner), in that order.

    ties = "share" gives each of n winners 1 / n of the query, and nothing where all recorded targets tie; "first" gives the
    query to the first winner, as published.
    """
    won = wins(quality, ties)
    names = sorted(set(groups))
    place = {name: i for i, name in enumerate(names)}
    index = np.array([place[name] for name in groups], dtype=np.intp)
    found, owner = [], []
    for group in range(len(names)):
        rows = np.flatnonzero(index == group)
        total = won[rows].T @ vectors[rows].astype(np.float64)
        length = np.linalg.norm(total, axis=1)
        for column in np.flatnonzero(length > EQUAL).tolist():
            found.append((total[column] / length[column]).astype(np.float32))
            owner.append(column)
    if not found:
        return np.zeros((0, vectors.shape[1]), np.float32), np.zeros(0, np.intp)
    return np.stack(found), np.array(owner, dtype=np.intp)


def wins(quality: Array, ties: str) -> Array:
    """[N, M]: how much of each query a target wins."""
    known = np.where(np.isnan(quality), -np.inf, quality)
    best = known.max(axis=1, keepdims=True)
    won = (known >= best - EQUAL) & np.isfinite(known)
    if ties == "first":
        first = won & (np.cumsum(won, axis=1) == 1)
        return np.asarray(first, dtype=np.float64)
    told = won.sum(axis=1, keepdims=True) < np.isfinite(known).sum(axis=1, keepdims=True)
    shared: Array = np.where(told, won / np.maximum(won.sum(axis=1, keepdims=True), 1), 0.0)
    return shared


def _groups(table: OutcomeTable, by: str) -> Sequence[str]:
    return table.label if by == "label" else [""] * len(table)


@dataclass(frozen=True, kw_only=True)
class RouterRetrieverConfig(PolicyConfig):
    """pool: the best of a target's pilots counts, or their mean; groups: pilots per label of the table, or one per target;
    ties: see `centroids`; cost_weight: in units of the dearest single target's mean cost; fallbacks: how many stand by; label.
    """

    pool: Literal["max", "mean"] = "max"
    groups: Literal["label", "none"] = "label"
    ties: Literal["share", "first"] = "share"
    cost_weight: float = 0.0
    fallbacks: int = 2
    label: str = ""

    name: ClassVar[str] = "routerretriever"
    fitted: ClassVar[type[Policy]] = RouterRetriever
    about: ClassVar[About | None] = About(
        title="RouterRetriever",
        family="neighbours and tables",
        status="adapted",
        source="RouterRetriever: routing over a mixture of expert embedding models; authors' repository",
        formula=(
            "pilot of (dataset, expert) = centroid of the vectors of that dataset's queries on which the expert is best\n"
            "route to the expert of highest (max or mean) similarity to its pilots"
        ),
        complexity="fit: O(N D); decision: O(P D) for P <= labels * M pilots",
        adapted=(
            "Experts are any targets in place of retrievers with LoRA weights; the frozen encoder replaces Contriever.",
            "A query on which several targets tie is shared, one on which all tie left out; published: to one winner.",
            "A cost weight is subtracted from the similarity; the paper has no cost.",
        ),
        claims=(
            Claim(figure="nDCG@10 +2.1 over one model trained on MS MARCO, +3.2 over multi-task", on="BEIR", sure="abstract"),
            Claim(figure="nDCG@10 +1.8 over other routing", on="BEIR", sure="abstract"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.pool in ("max", "mean"), "routerretriever.pool", "must be max or mean")
        check(self.groups in ("label", "none"), "routerretriever.groups", "must be label or none")
        check(self.ties in ("share", "first"), "routerretriever.ties", "must be share or first")
        check(0 <= self.cost_weight < float("inf"), "routerretriever.cost_weight", "must be finite and not negative")
        check(self.fallbacks >= 0, "routerretriever.fallbacks", "must not be negative")

    @property
    def needs(self) -> frozenset[str]:
        """The embedding; labels of training rows come with the table."""
        return frozenset({"embedding"})

    def candidates(self, rows: int) -> Sequence[RouterRetrieverConfig]:
        """The mean of pilots, then the best of them; ties shared, then as published."""
        del rows
        return [replace(self, pool="mean"), replace(self, pool="max"), replace(self, pool="max", ties="first")]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> RouterRetriever:
        """Average the winners' queries; raises UserError when no outcome is recorded."""
        del rng
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        if not table.mask.any():
            raise UserError("there is no outcome to learn from", field=self.name, fix="pass at least one recorded query")
        pilots, owner = centroids(vectors, table.quality, _groups(table, self.groups), self.ties)
        return RouterRetriever(self, Typical.of(table), pilots, owner)
