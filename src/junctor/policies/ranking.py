"""Policies that rank targets by something that is not an expected quality: votes, similarities, chances, losses under flags.

A Ranking learns preferences for every setting of its own knob; what it has in common with its kin is here: views of
catalogues, the sweep along the knob, ties, a caller's budget, and the decision with its reasons. A caller's quality floor and
deadline have no say: nothing here predicts a quality or a latency. Costs are each target's mean over the training rows, or
its list price: one number per target.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from junctor.estimators import measured, saved
from junctor.estimators.measured import Columns
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policies.trading import Scales, View, first_best
from junctor.policy import Array, Policy, State, Sweep
from junctor.types import Catalogue, Decision, Outcome, Ranked, Request

R = TypeVar("R", bound=Policy)
UNKNOWN_COST = 1e300
"""Stands for a cost that is not known where costs are compared: dearer than any, but not excluded."""


@dataclass(frozen=True)
class Typical:
    """What M targets did on the training rows: means over what was recorded, NaN where nothing was, and the scales of costs."""

    targets: tuple[str, ...]
    quality: Array
    cost_usd: Array
    scales: Scales

    @classmethod
    def of(cls, table: OutcomeTable) -> Typical:
        """Read off a table."""
        cost = np.full(len(table.targets), np.nan) if table.cost_usd is None else measured.means(table.cost_usd)
        return cls(table.targets.ids, measured.means(table.quality), cost, Scales.of(table))

    def plus(self, target: str, rows: OutcomeTable) -> Typical:
        """With one more target, the last, from calibration rows; raises UserError when it is known already."""
        columns = Columns(self.targets, ("quality", "cost_usd")).plus(target)
        values, _ = measured.calibration(columns, target, rows, rows.features())
        quality, cost = measured.means(values).tolist()
        return Typical(columns.targets, np.append(self.quality, quality), np.append(self.cost_usd, cost), self.scales)

    def state(self) -> State:
        """As plain data."""
        arrays = {"typical_quality": self.quality, "typical_cost": self.cost_usd, **self.scales.state().arrays}
        return State({"targets": list(self.targets)}, arrays)

    @classmethod
    def from_state(cls, state: State) -> Typical:
        """The inverse of `state`."""
        targets = tuple(saved.entry(state, "targets", list[str]))
        quality = saved.array(state, "typical_quality", (len(targets),), finite=False)
        cost = saved.array(state, "typical_cost", (len(targets),), finite=False)
        return cls(targets, quality, cost, Scales(*saved.array(state, "scales", (4,), finite=False).tolist()))


class Ranking(Policy):
    """Subclasses say what they prefer. `knob` is the configured setting, `knobs` the sweep, dearest preference first."""

    why: ClassVar[str]
    """What the preference is, for reasons: "most votes of the nearest queries"."""

    def __init__(
        self, typical: Typical, *, knob: float, knobs: Sequence[float] | Array, fallbacks: int, label: str = ""
    ) -> None:
        self.typical, self.knob, self.fallbacks, self.label = typical, float(knob), fallbacks, label
        self.knobs = np.asarray(knobs, dtype=np.float64)
        self._fitted = {id_: i for i, id_ in enumerate(typical.targets)}
        self._views: WeakKeyDictionary[Catalogue, View] = WeakKeyDictionary()

    @abstractmethod
    def preferences(self, features: Features, view: View, knobs: Array) -> Array:
        """[L, N, K]: how much each target of the view is preferred, at each of L knobs; -inf for one that is out."""

    @property
    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({"embedding"})

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """The most preferred target; raises NoTarget when none is fitted and affordable."""
        del rng
        view = self._view(targets)
        score = self.preferences(Features.of(request), view, np.array([self.knob]))[0, 0]
        cost, refusals = self.costs(view), dict(view.refusals)
        if (budget := request.constraints.budget_usd) is not None:
            affordable = cost <= budget
            score = np.where(affordable, score, -np.inf)
            refusals.update(
                {id_: f"over the budget of ${budget:g}" for id_, ok in zip(view.ids, affordable, strict=True) if not ok}
            )
        order = self._order(score, cost)
        if not order:
            out = {id_: "the policy leaves it out" for id_ in view.ids if id_ not in refusals}
            choosing.refuse("no target can be chosen", {**refusals, **out}, fix="raise the budget, or let more targets in")
        return self._decision(request, view, score, order)

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """The most preferred targets of N requests."""
        del rng
        choices = self._choices(features, targets, np.array([self.knob]))[0]
        return choices, np.ones(len(choices))

    def decide_sweep(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> Sweep:
        """Along the policy's own knob."""
        del rng
        choices = self._choices(features, targets, self.knobs)
        return Sweep(self.knobs, choices, np.ones(choices.shape))

    def costs(self, view: View) -> Array:
        """USD [K]: mean over the training rows, else list price, else NaN."""
        return view.costs(self.typical.cost_usd, view.list_cost)

    def reasons(self, request: Request, ranked: Sequence[Ranked]) -> tuple[str, ...]:
        """Why the first is first."""
        del request
        if len(ranked) == 1:
            return (self.why, f"{ranked[0].score:.3f}; no other target could be chosen")
        return (self.why, f"{ranked[0].score:.3f} against {ranked[1].score:.3f} of {ranked[1].target}")

    def grown(self, wider: R, target: str) -> R:
        """The onboarded policy under a version of its own."""
        wider.version = f"{self.version}+{target}" if self.version else ""
        return wider

    def _view(self, targets: Catalogue) -> View:
        found = self._views.get(targets)
        if found is None:
            choosing.some(targets)
            found = View(targets, self._fitted, self.typical.scales)
            if not found.ids:
                choosing.refuse("no target here was fitted", found.refusals, fix="fit the policy on these targets")
            self._views[targets] = found
        return found

    def _choices(self, features: Features, targets: Catalogue, knobs: Array) -> NDArray[np.intp]:
        """[L, N] positions in the catalogue; raises NoTarget for a request without any."""
        view = self._view(targets)
        score = self.preferences(features, view, knobs)
        if np.isneginf(score).all(axis=-1).any():
            out = dict.fromkeys(view.ids, "the policy leaves it out for some requests")
            choosing.refuse("no target can be chosen for some requests", {**view.refusals, **out}, fix="let more targets in")
        cost = np.where(np.isnan(known := self.costs(view)), UNKNOWN_COST, known)
        return view.places[np.stack([first_best(one, np.broadcast_to(cost, one.shape)) for one in score])]

    def _order(self, score: Array, cost: Array) -> list[int]:
        """Positions in the view, best first; of equal ones the cheapest. Those that are out are left out."""
        known = np.where(np.isnan(cost), UNKNOWN_COST, cost)
        order = [i for i in np.lexsort((known, -score)).tolist() if score[i] > -np.inf]
        if len(order) > 1 and score[order[0]] - score[order[1]] <= choosing.TIE:
            first = int(first_best(score[None], known[None])[0])
            order = [first, *(i for i in order if i != first)]
        return order

    def _decision(self, request: Request, view: View, score: Array, order: list[int]) -> Decision:
        ranked = tuple(
            Ranked(target=view.ids[i], score=float(score[i]), predicted=self._expected(view.ids[i]))
            for i in order[: choosing.MOST_RANKED]
        )
        return choosing.decision(
            request,
            [view.ids[i] for i in order[: self.fallbacks + 1]],
            policy=self.title,
            version=self.version,
            reasons=self.reasons(request, ranked),
            ranked=ranked,
        )

    def _expected(self, target: str) -> Outcome:
        """What the target did on average: a ranking predicts no more."""
        place = self._fitted[target]
        quality, cost = float(self.typical.quality[place]), float(self.typical.cost_usd[place])
        return Outcome(quality=None if quality != quality else quality, cost_usd=None if cost != cost else cost)


def described(policy: Ranking, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], **config: Any) -> State:
    """The state of a Ranking: its settings and what is typical, beside its own arrays."""
    typical = policy.typical.state()
    return State({**typical.config, "settings": dict(settings), **config}, {**typical.arrays, **arrays})
