"""knn-vote: the nearest recorded queries vote for the target that was best on them. The second problem form of kNN routing.

Source: "Rethinking Predictive Modeling for LLM Routing" (2025): instead of regressing quality and cost and trading them
afterwards (`knn`), fix the trade first and learn to classify

    argmax_j q_j - lam * c_j / c_max

Every one of the k nearest queries has one vote, shared between targets that tie on it. Changing lam means voting anew, so the
knob of the sweep is lam itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.ranking import Ranking, Typical, described
from junctor.policies.trading import View
from junctor.policy import Array, Policy, PolicyConfig, State

NEIGHBOURS = (300, 200, 100, 50, 20, 10)
WEIGHTS = (0.0, *np.geomspace(1e-3, 10.0, 13).tolist())
"""The sweep: quality alone, then three to four settings a decade; at 10 the cheapest target has every vote."""
TIE = np.float32(1e-6)
"""Similarities closer than this are equal: float32 sums differ by about as much between one row and a batch."""
EQUAL = 1e-9
"""Utilities closer than this are equal."""


class KNNVote(Ranking):
    """Holds the training vectors [n, D], qualities and costs [n, M]."""

    name: ClassVar[str] = "knn-vote"
    why: ClassVar[str] = "best on most of the nearest recorded queries"

    def __init__(
        self, config: KNNVoteConfig, typical: Typical, vectors: NDArray[np.float32], quality: Array, cost: Array
    ) -> None:
        super().__init__(typical, knob=config.cost_weight, knobs=WEIGHTS, fallbacks=config.fallbacks, label=config.label)
        self.config = config
        self._vectors, self._quality, self._cost = measured.paged(vectors), quality, cost
        self._k = min(config.k, len(vectors))
        scale = typical.scales.cost_usd
        self._units = np.nan_to_num(cost / scale, nan=1.0) if scale > 0 else np.zeros_like(quality)
        self._ballots: dict[float, Array] = {}

    def preferences(self, features: Features, view: View, knobs: Array) -> Array:
        """Share of the neighbours' votes [L, N, K]."""
        vectors = measured.of_width(features.vectors(self.name), self._vectors.shape[1], self.name)
        every = [self._votes(float(knob)) for knob in knobs]
        ballots = every[0] if len(every) == 1 else np.hstack(every)
        found = np.empty((len(knobs), len(vectors), len(self.typical.targets)))
        for block in measured.blocks(len(vectors), len(self._vectors)):
            votes = self._counted(vectors[block], ballots)
            found[:, block] = votes.reshape(len(votes), len(knobs), -1).transpose(1, 0, 2)
        picked = view.pick(found)
        assert picked is not None
        return picked

    def _counted(self, vectors: NDArray[np.float32], ballots: Array) -> Array:
        """The neighbours' mean ballot, [B, L * M] from [n, L * M]; only they are gathered for a single request."""
        near = vectors @ self._vectors.T
        rows = near.shape[1]
        kth = np.partition(near, rows - self._k, axis=1)[:, rows - self._k, None]
        chosen = near >= kth - TIE
        if len(vectors) == 1:
            mean: Array = ballots.take(chosen[0].nonzero()[0], 0).mean(axis=0, keepdims=True)
            return mean
        votes: Array = chosen.astype(np.float64) @ ballots / chosen.sum(axis=1, keepdims=True)
        return votes

    def _votes(self, knob: float) -> Array:
        """Each training row's ballot at this cost weight [n, M]: one vote, shared by those that tie; kept for the next call."""
        found = self._ballots.get(knob)
        if found is None:
            utility = np.where(np.isnan(self._quality), -np.inf, self._quality - knob * self._units)
            best = utility.max(axis=1, keepdims=True)
            won = (utility >= best - EQUAL) & np.isfinite(utility)
            found = self._ballots[knob] = won / np.maximum(won.sum(axis=1, keepdims=True), 1)
        return found

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> KNNVote:
        """The new target's column on each training row: the outcome of the nearest calibration row; then all vote anew."""
        typical = self.typical.plus(target, rows)
        one = rows.only([target])
        known = np.flatnonzero(one.mask[:, 0])
        vectors = measured.of_width(features.take(known).vectors(self.name), self._vectors.shape[1], self.name)
        nearest = np.concatenate([(self._vectors[b] @ vectors.T).argmax(axis=1) for b in self._blocks(len(known))])
        quality = one.quality[known, 0][nearest]
        cost = np.full(len(nearest), np.nan) if one.cost_usd is None else one.cost_usd[known, 0][nearest]
        wider = np.hstack([self._quality, quality[:, None]]), np.hstack([self._cost, cost[:, None]])
        return self.grown(KNNVote(self.config, typical, self._vectors, *wider), target)

    def _blocks(self, width: int) -> Sequence[slice]:
        return measured.blocks(len(self._vectors), width)

    def state(self) -> State:
        """Vectors and outcomes: NaN means "not recorded"."""
        arrays: dict[str, NDArray[Any]] = {"vectors": self._vectors, "quality": self._quality, "cost": self._cost}
        return described(self, self.config.settings(), arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        typical = Typical.from_state(state)
        config = configured(KNNVoteConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        vectors = saved.array(state, "vectors", (None, None), np.float32)
        shape = (len(vectors), len(typical.targets))
        cost = saved.array(state, "cost", shape, finite=False)
        return cls(config, typical, vectors, saved.array(state, "quality", shape, finite=False), cost)


@dataclass(frozen=True, kw_only=True)
class KNNVoteConfig(PolicyConfig):
    """k: voters; cost_weight: lam, in units of the dearest single target's mean cost; fallbacks: how many stand by; label."""

    k: int = 100
    cost_weight: float = 0.1
    fallbacks: int = 2
    label: str = ""

    name: ClassVar[str] = "knn-vote"
    fitted: ClassVar[type[Policy]] = KNNVote
    about: ClassVar[About | None] = About(
        title="kNN model selection",
        family="neighbours and tables",
        status="adapted",
        source="Rethinking Predictive Modeling for LLM Routing: When Simple kNN Beats Complex Learned Routers (2025)",
        formula="route to the target that most of the k nearest queries vote for: argmax_j q_j - lam * c_j on each of them",
        complexity="fit: none; decision: O(N D + k M)",
        adapted=(
            "The frozen encoder of the project replaces BERT and SFR.",
            "Targets that tie on a query share its vote.",
            "The area is swept over lam from 0 to 10 / c_max; the paper fixes it at 0.1, 0.5 and 1 / c_max.",
        ),
        claims=(
            Claim(
                figure="tuned kNN matches or beats learned routers", on="instruction, QA, reasoning, images", sure="abstract"
            ),
            Claim(figure="k = 100 better than k = 10", on="the same"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.k >= 1, "knn-vote.k", "must be at least 1")
        check(0 <= self.cost_weight < float("inf"), "knn-vote.cost_weight", "must be finite and not negative")
        check(self.fallbacks >= 0, "knn-vote.fallbacks", "must not be negative")

    @property
    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({"embedding"})

    def candidates(self, rows: int) -> Sequence[KNNVoteConfig]:
        """Most voters first, up to half of the rows."""
        return [replace(self, k=k) for k in NEIGHBOURS if k <= max(rows // 2, NEIGHBOURS[-1])]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> KNNVote:
        """Remember the rows that record an outcome; raises UserError when there is none."""
        del rng
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        rows = np.flatnonzero(table.mask.any(axis=1))
        if not len(rows):
            raise UserError("there is no outcome to learn from", field=self.name, fix="pass at least one recorded query")
        cost = np.full(table.quality.shape, np.nan) if table.cost_usd is None else table.cost_usd
        kept = np.ascontiguousarray(vectors[rows], dtype=np.float32)
        return KNNVote(self, Typical.of(table), kept, table.quality[rows], cost[rows])
