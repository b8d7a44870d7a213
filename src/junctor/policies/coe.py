"""coe: name the query's category, then take the expert that an integer program gave that category under a budget.

Source: Composition of Experts (its abstract was read). Two steps: a classifier of queries into categories, with a "general"
category for queries that it is in doubt about; and a map category -> expert that maximises quality on recorded queries while
the mean cost of a call stays within the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import ArtefactError
from junctor.estimators import measured, saved
from junctor.estimators.categories import Recogniser, crossed, doubt, of_table, recogniser, sample
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.knapsack import SLACK, best_choices
from junctor.policies.mapped import GroupTable, Mapped, group_table
from junctor.policy import Array, Policy, PolicyConfig, State
from junctor.types import Request

GENERAL = "general"
SAVINGS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The knob: which share of the way from the dearest sensible map to the cheapest one the budget has gone."""
DOUBTS = (0.4, 0.7, 1.0)
RARE = 1e-9
"""The share of a category that was never predicted in training."""

Ints = NDArray[np.intp]


class CompositionOfExperts(Mapped):
    """Holds the recogniser, the group table, how often each category occurs [G], and one map [1 + L, G] per budget."""

    name: ClassVar[str] = "coe"
    why: ClassVar[str] = "category"

    def __init__(self, config: CoEConfig, known: Recogniser, table: GroupTable, weights: Array, maps: Ints) -> None:
        self.config, self._known, self._weights, self.maps = config, known, weights, maps
        settings = np.array([np.nan]) if len(maps) == 2 else np.array(SAVINGS)
        super().__init__(table, _scores(table, maps), settings, config.fallbacks)

    @property
    def needs(self) -> frozenset[str]:
        """The vector, to recognise the category."""
        return frozenset({"embedding"})

    def groups_of(self, features: Features) -> Ints:
        """The likeliest category, or the general one when the entropy is above the threshold."""
        vectors = measured.of_width(features.vectors(self.name), self._known.dim, self.name)
        return _settled(self._known.scores(vectors), self.config.doubt)

    def _recognised(self, request: Request, view: Any) -> tuple[int, str]:
        group, reason = super()._recognised(request, view)
        met = self.config.budget_usd is None or self.expected_cost <= self.config.budget_usd * (1 + SLACK)
        return group, reason if met else f"{reason}; no map meets the budget, this is the cheapest"

    @property
    def expected_cost(self) -> float:
        """Mean USD of a call under the configured budget, if categories come as often as they were predicted in training."""
        chosen = np.take_along_axis(self.table.cost, self.maps[0][:, None], axis=1)[:, 0]
        return float(self._weights @ np.where(self._weights > 0, chosen, 0.0))

    def state(self) -> State:
        """Recogniser, group table, category shares and maps."""
        known, table = self._known.state("known"), self.table.state()
        config = {"settings": self.config.settings(), **known.config, **table.config}
        return State(config, {**known.arrays, **table.arrays, "shares": self._weights, "maps": self.maps})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(CoEConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        table = GroupTable.from_state(state)
        maps = saved.array(state, "maps", (None, len(table.groups)), np.intp)
        if len(maps) not in (2, 1 + len(SAVINGS)) or not ((maps >= 0) & (maps < len(table.targets))).all():
            raise ArtefactError("names an expert that is not there", field="maps", fix=saved.FIX)
        shares = saved.array(state, "shares", (len(table.groups),))
        return cls(config, Recogniser.from_state(state, "known"), table, shares, maps)


def _settled(scores: Array, threshold: float) -> Ints:
    """[N] categories; K stands for general."""
    best: Ints = scores.argmax(axis=1)
    return np.where(doubt(scores) > threshold, scores.shape[1], best)


def _scores(table: GroupTable, maps: Ints) -> Array:
    """[1 + L, G, M]: the mapped expert first, then those that cost no more by quality, then the dearer ones by cost.

    So a stand-in for an expert that is not there keeps to the budget where one can.
    """
    cost = np.where(np.isnan(table.cost), 0.0, table.cost)
    limit = cost[np.arange(len(cost)), maps][..., None]
    dearest = max(float(cost.max(initial=0.0)), 1e-300)
    scores = np.where(cost <= limit * (1 + SLACK), table.quality, -cost / dearest)
    np.put_along_axis(scores, maps[..., None], 2.0, axis=-1)
    return np.where(np.isnan(table.quality), np.nan, scores)


def solve(shares: Array, quality: Array, cost: Array, budget: float) -> Ints:
    """The map [G] of highest mean quality whose mean cost is within the budget; the cheapest map when none is.

    max sum_g s_g q[g, z(g)]  subject to  sum_g s_g c[g, z(g)] <= budget. shares [G]; quality, cost [G, M], NaN = not open.
    A category that never came up has no share: it weighs next to nothing, so that it gets its best expert.
    """
    weight = np.maximum(shares, RARE)[:, None]
    closed = np.isnan(quality)
    pay = np.where(closed, np.inf, np.where(np.isnan(cost), 0.0, cost) * weight)
    if closed.all():
        return np.zeros(len(shares), dtype=np.intp)
    return best_choices(np.where(closed, -np.inf, quality * weight), pay, budget)


def _total(shares: Array, price: Array, chosen: Ints) -> float:
    paid = price[np.arange(len(chosen)), chosen]
    return float(shares[shares > 0] @ paid[shares > 0])


def _maps(config: CoEConfig, shares: Array, table: GroupTable) -> Ints:
    """[1 + L, G]: under the configured budget, then along the knob; [2, G] without costs."""
    quality, cost = table.quality, table.cost
    if np.isnan(table.scale):
        best = solve(shares, quality, np.zeros(cost.shape), np.inf)
        return np.stack([best, best])
    price = np.where(np.isnan(quality), np.inf, np.where(np.isnan(cost), table.scale, cost))
    high = _total(shares, price, solve(shares, quality, price, np.inf))
    low = _total(shares, price, solve(shares, quality, price, 0.0))
    budgets = [high - saving * (high - low) for saving in SAVINGS]
    own = np.inf if config.budget_usd is None else config.budget_usd
    return np.stack([solve(shares, quality, price, budget) for budget in (own, *budgets)])


@dataclass(frozen=True, kw_only=True)
class CoEConfig(PolicyConfig):
    """How categories are found and recognised, and what a call may cost.

    budget_usd   mean USD of a call, in expectation over the training mix; None: no limit
    label        the label that names categories, by default the table's own; k-means clusters where there is none
    classifier   logistic (one-vs-rest) or knn
    alpha        L2 penalty of the logistic classifier: a strong one loses small categories
    doubt        entropy, as a share of its maximum, above which a query counts as general; 1 never, 0 always
    clusters     how many, for a table without labels
    shrinkage    pseudo-observations of a target's overall mean in every category
    crossed      estimate outcomes per category from predicted categories; without it, from the true ones
    """

    budget_usd: float | None = None
    label: str = ""
    classifier: Literal["logistic", "knn"] = "logistic"
    alpha: float = 0.3
    doubt: float = 0.6
    clusters: int = 20
    shrinkage: float = 10.0
    crossed: bool = True
    fallbacks: int = 2

    name: ClassVar[str] = "coe"
    fitted: ClassVar[type[Policy]] = CompositionOfExperts
    about: ClassVar[About | None] = About(
        title="Composition of Experts",
        family="label first",
        status="adapted",
        source="Composition of Experts (CoE), sections on two-step routing and on the budgeted map",
        formula="category k(x), or general when H(p(.|x)) is high; max sum_ce n_c q_ce z_ce s.t. sum_e z_ce = 1, "
        "sum_ce n_c cost_ce z_ce <= B, z binary; route x to the e with z_k(x),e = 1",
        complexity="fit: 3 classifiers on N rows, one exact multiple-choice knapsack per budget; decision: O(K D)",
        adapted=(
            "Categories are the table's labels, or k-means clusters where it has none, in place of the paper's own taxonomy.",
            "The budget is in USD per call where the paper counts active parameters.",
            "The integer program is solved exactly by dynamic programming with bounds.",
            "q_ce is the mean over training rows by cross-fitted predicted category, shrunk to the target's mean.",
        ),
        unverified=("Which classifier and which measure of doubt the paper uses.", "How its q_ce is estimated."),
        claims=(
            Claim(figure="59.4 at 31B mean active parameters", on="Arena-Hard", sure="abstract"),
            Claim(figure="9.06 at 54B mean active parameters", on="MT-Bench", sure="abstract"),
        ),
    )

    def __post_init__(self) -> None:
        check(self.budget_usd is None or self.budget_usd > 0, "coe.budget_usd", "must be positive")
        check(0 < self.alpha < float("inf"), "coe.alpha", "must be positive")
        check(0.0 <= self.doubt <= 1.0, "coe.doubt", "must be in [0, 1]")
        check(self.clusters >= 1, "coe.clusters", "must be at least 1")
        check(self.shrinkage >= 0, "coe.shrinkage", "must not be negative")
        check(self.fallbacks >= 0, "coe.fallbacks", "must not be negative")

    @property
    def needs(self) -> frozenset[str]:
        """The vector."""
        return frozenset({"embedding"})

    def settings(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def candidates(self, rows: int) -> Sequence[CoEConfig]:
        """From "in doubt of most" to "never in doubt"."""
        del rows
        return [replace(self, doubt=doubt) for doubt in DOUBTS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> CompositionOfExperts:
        """Learn categories and maps; raises UserError without a row or for a label that is not there."""
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name)
        names, rows = of_table(table, vectors, self.label, self.clusters, rng, self.name)
        labelled = np.flatnonzero(rows >= 0)
        shown = labelled[sample(len(labelled), rng)]
        seen, categories = vectors[shown], rows[shown]
        known = recogniser(self.classifier, seen, categories, len(names), alpha=self.alpha)
        predicted = categories
        if self.crossed and names[0] == "cluster 0":  # a cluster is a function of the vector: nothing to be fooled by
            predicted = _settled(known.scores(seen), self.doubt)
        elif self.crossed:
            fresh = crossed(self.classifier, seen, categories, len(names), rng, alpha=self.alpha)
            predicted = _settled(fresh, self.doubt)
        groups = [*names, GENERAL]
        grouped = group_table(table.take(shown), groups, predicted, self.shrinkage)
        shares = np.bincount(predicted, minlength=len(groups)) / max(1, len(predicted))
        return CompositionOfExperts(self, known, grouped, shares, _maps(self, shares, grouped))
