"""Label first: say which group a request belongs to, then look up which target serves that group best.

The policies of this family differ in how a group is recognised (a classifier, a description in words, Boolean rules, a guard)
and in how groups are mapped to targets. What they share is here: a table of outcomes per group, an order of targets per group
along the cost knob, smaller catalogues, budgets and decisions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from junctor.estimators import measured, saved
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policies.utility import WEIGHTS
from junctor.policy import Array, Policy, State, Sweep
from junctor.types import Catalogue, Decision, Outcome, Ranked, Request

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class GroupTable:
    """What M targets came to in G groups: quality and cost [G, M]. NaN = never tried, or no cost recorded."""

    targets: tuple[str, ...]
    groups: tuple[str, ...]
    quality: Array
    cost: Array

    @property
    def scale(self) -> float:
        """Mean cost of the dearest target, over groups; NaN when no cost is known."""
        known = self.cost[:, ~np.isnan(self.cost).all(axis=0)]
        return float(np.nanmean(known, axis=0).max()) if known.size else float("nan")

    def state(self) -> State:
        """As plain data."""
        return State(
            {"targets": list(self.targets), "groups": list(self.groups)},
            {"group_quality": self.quality, "group_cost": self.cost},
        )

    @classmethod
    def from_state(cls, state: State) -> GroupTable:
        """The inverse of `state`."""
        targets, groups = (tuple(saved.entry(state, key, list[str])) for key in ("targets", "groups"))
        shape = (len(groups), len(targets))
        quality, cost = (saved.array(state, key, shape, finite=False) for key in ("group_quality", "group_cost"))
        return cls(targets, groups, quality, cost)


def group_table(table: OutcomeTable, groups: Sequence[str], rows: Ints, shrinkage: float) -> GroupTable:
    """Means per group over what was recorded, drawn to each target's overall mean by `shrinkage` pseudo-observations.

    rows   [N] group of each row; a group without rows gets the overall means
    """
    count = len(groups)
    quality, _ = measured.tables(table.quality, len(table.targets), rows, count, max(shrinkage, 1e-9))
    cost = np.full(quality.shape, np.nan)
    if table.cost_usd is not None:
        total, times = measured.sums(table.cost_usd, rows, count)
        cost = measured.shrunk(total, times, measured.means(table.cost_usd), max(shrinkage, 1e-9))
    return GroupTable(table.targets.ids, tuple(groups), quality, cost)


def along_weights(table: GroupTable, weight: float) -> tuple[Array, Array]:
    """Scores [1 + L, G, M], first at the operating weight, then along the knob; and the knob's L settings.

    score = quality - weight * cost / scale, as in the utility policy. Without costs there is no knob: one setting, NaN.
    """
    scale = table.scale
    if not scale > 0:
        return np.stack([table.quality, table.quality]), np.array([np.nan])
    units = np.where(np.isnan(table.cost), 1.0, table.cost / scale)
    knob = [table.quality - w * units for w in (weight, *WEIGHTS)]
    last = np.where(np.isnan(table.quality), np.nan, -units)
    return np.stack([*knob, last]), np.array([*WEIGHTS, np.inf])


def as_named(scores: Array, table: GroupTable, named: Sequence[tuple[str, ...]]) -> Array:
    """Scores [1 + L, G, M]: a group that names targets has these alone, in its order; the others keep their outcomes."""
    out = scores.copy()
    for group, ids in enumerate(named):
        if ids:
            out[:, group] = np.nan
            for place, id_ in enumerate(ids):
                out[:, group, table.targets.index(id_)] = -float(place)
    return out


class View:
    """A catalogue as the policy sees it: per setting and group the position of the best target here, -1 where none is."""

    def __init__(self, targets: Catalogue, table: GroupTable, ranking: Ints, open_: NDArray[np.bool_]) -> None:
        where = np.array([-1 if (p := targets.position(id_)) is None else p for id_ in table.targets], dtype=np.intp)
        usable = (where[ranking] >= 0) & open_
        first = usable.argmax(axis=-1)[..., None]
        best = where[np.take_along_axis(ranking, first, axis=-1)[..., 0]]
        self.best: Ints = np.where(usable.any(axis=-1), best, -1)
        self.orders = [ranking[0, g][usable[0, g]].tolist() for g in range(len(table.groups))]
        self.known = any(order for order in self.orders)


class Mapped(Policy):
    """Recognises a group and takes the best target of it. Subclasses say what a group is."""

    why: ClassVar[str] = "group"

    def __init__(self, table: GroupTable, scores: Array, settings: Array, fallbacks: int) -> None:
        measured.frozen(table.quality, table.cost)
        self.table, self.settings, self.fallbacks = table, settings, fallbacks
        blocked = np.where(np.isnan(scores), -np.inf, scores)
        cost = np.broadcast_to(np.where(np.isnan(table.cost), np.inf, table.cost), blocked.shape)
        self._ranking: Ints = np.lexsort((cost, -np.round(blocked, 12)), axis=-1)
        self._open = np.isfinite(np.take_along_axis(blocked, self._ranking, axis=-1))
        self._scores = blocked[0]
        self._views: WeakKeyDictionary[Catalogue, View] = WeakKeyDictionary()

    @abstractmethod
    def groups_of(self, features: Features) -> Ints:
        """[N] the group of each request: a row of the table."""

    def _recognised(self, request: Request, view: View) -> tuple[int, str]:
        """The group of one request, and the reason in words."""
        del view
        group = int(self.groups_of(Features.of(request))[0])
        return group, f"{self.why} {self.table.groups[group]!r}"

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """The first of the group's order that is here and can be paid; raises NoTarget when none is."""
        del rng
        view = self._view(targets)
        group, reason = self._recognised(request, view)
        budget = request.constraints.budget_usd
        order = view.orders[group]
        if budget is not None:
            order = [m for m in order if self.table.cost[group, m] <= budget]
        if not order:
            self._refuse(targets, group, budget)
        quality, cost = self.table.quality[group], self.table.cost[group]
        ranked = tuple(
            Ranked(
                target=self.table.targets[m],
                score=float(self._scores[group, m]),
                predicted=Outcome(quality=_known(quality[m]), cost_usd=_known(cost[m])),
            )
            for m in order[: choosing.MOST_RANKED]
        )
        ids = [row.target for row in ranked[: self.fallbacks + 1]]
        return choosing.decision(
            request, ids, policy=self.title, version=self.version, reasons=(reason, self._said(ranked[0])), ranked=ranked
        )

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """The same for N rows."""
        del rng
        view = self._view(targets)
        choices = view.best[0][self._groups_here(features, view)]
        self._all_found(choices, targets)
        return choices, np.ones(len(choices))

    def decide_sweep(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> Sweep:
        """Along the knob, from one recognition of the groups."""
        del rng
        view = self._view(targets)
        choices = view.best[1:][:, self._groups_here(features, view)]
        self._all_found(choices, targets)
        return Sweep(self.settings, choices, np.ones(choices.shape))

    def _groups_here(self, features: Features, view: View) -> Ints:
        """[N] groups; a subclass may depend on what the catalogue has."""
        del view
        return self.groups_of(features)

    def _said(self, chosen: Ranked) -> str:
        quality, cost = chosen.predicted.quality, chosen.predicted.cost_usd
        price = "" if cost is None else f" at ${cost:.3g}"
        return (
            f"{chosen.target} came to {quality:.3f}{price} there" if quality is not None else f"{chosen.target} is named for it"
        )

    def _view(self, targets: Catalogue) -> View:
        found = self._views.get(targets)
        if found is None:
            choosing.some(targets)
            found = View(targets, self.table, self._ranking, self._open)
            if not found.known:
                refusals = dict.fromkeys(targets.ids, "no outcome of it was recorded when the policy was fitted")
                choosing.refuse("no target here was fitted", refusals, fix="fit the policy on these targets, or onboard them")
            self._views[targets] = found
        return found

    def _refuse(self, targets: Catalogue, group: int, budget: float | None) -> None:
        known = self.table.targets
        refusals: Mapping[str, str] = {
            id_: f"costs more than the budget ${budget:g}" if budget is not None and id_ in known else "is not mapped there"
            for id_ in targets.ids
        }
        choosing.refuse(f"no target for {self.why} {self.table.groups[group]!r}", refusals, fix="raise the budget, or fit anew")

    def _all_found(self, choices: Ints, targets: Catalogue) -> None:
        if (choices < 0).any():
            refusals = dict.fromkeys(targets.ids, "is not mapped to a group that occurs")
            choosing.refuse(f"no target for {int((choices < 0).sum())} choices", refusals, fix="add a default")


def _known(value: float) -> float | None:
    return float(value) if value == value else None
