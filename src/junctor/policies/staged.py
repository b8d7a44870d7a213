"""Policies whose plan has stages: what they share. A subclass says which targets are the stages, and what plan they make."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.errors import UserError
from junctor.estimators import saved
from junctor.estimators.measured import means
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policies.trading import Scales, expected
from junctor.policy import Array, Replayable, State
from junctor.types import Catalogue, Decision, Outcome, Plan, Ranked, Request


class Staged(Replayable):
    """`chain` is the targets of the stages in turn; `known` is what was recorded of every fitted target."""

    def __init__(self, chain: Sequence[str], known: Mapping[str, Outcome]) -> None:
        self.chain, self.known = tuple(chain), dict(known)
        self.order = sorted(self.known, key=lambda id_: -(self.known[id_].quality or 0.0))

    @abstractmethod
    def plan_of(self, chain: Sequence[str], request: Request) -> tuple[Plan, tuple[str, ...]]:
        """The plan over these targets, and the reasons for it."""

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """The plan over the stages that are in the catalogue; raises NoTarget when no fitted target is."""
        del rng
        chain = self.present(targets)
        plan, reasons = self.plan_of(chain, request)
        rest = [id_ for id_ in self.order if id_ not in chain and targets.position(id_) is not None]
        ids = [*dict.fromkeys(chain), *rest][: choosing.MOST_RANKED]
        ranked = tuple(
            Ranked(target=id_, score=float(-place), predicted=self.known.get(id_, Outcome())) for place, id_ in enumerate(ids)
        )
        return Decision(
            id=request.id,
            plan=plan,
            target=chain[0],
            ranked=ranked,
            policy=self.title,
            version=self.version,
            reasons=reasons,
        )

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """The first call of each plan."""
        del rng
        place = targets.position(self.present(targets)[0])
        assert place is not None
        return choosing.always(place, len(features))

    def present(self, targets: Catalogue, chain: Sequence[str] | None = None) -> tuple[str, ...]:
        """The stages that are in the catalogue; the best known target where none is."""
        choosing.some(targets)
        found = tuple(id_ for id_ in (self.chain if chain is None else chain) if targets.position(id_) is not None)
        if found:
            return found
        known = [id_ for id_ in self.order if targets.position(id_) is not None]
        if not known:
            refusals = dict.fromkeys(targets.ids, f"{self.title} knows only: {', '.join(self.order)}")
            choosing.refuse("no target here is known to the policy", refusals, fix="fit the policy on these targets")
        return (known[0],)

    def columns(self, table: OutcomeTable, chain: Sequence[str] | None = None) -> list[int]:
        """The table's columns of the stages."""
        places = [table.targets.position(id_) for id_ in self.present(table.targets, chain)]
        return [place for place in places if place is not None]

    def described(self) -> dict[str, Any]:
        """Chain and known outcomes, for a state's config."""
        known = {id_: {"quality": o.quality, "cost_usd": o.cost_usd} for id_, o in self.known.items()}
        return {"chain": list(self.chain), "known": known}


def described(state: State) -> tuple[list[str], dict[str, Outcome]]:
    """The inverse of `Staged.described`."""
    return saved.entry(state, "chain", list[str]), saved.entry(state, "known", dict[str, Outcome])


def outcomes_of(table: OutcomeTable, who: str) -> dict[str, Outcome]:
    """What was recorded of each target; raises UserError without a single outcome."""
    known = expected(table)
    if all(found.quality is None for found in known.values()):
        raise UserError("there is no outcome to learn from", field=who, fix="fit it on an outcome table, or name the targets")
    return known


def named(ids: Sequence[str], table: OutcomeTable, who: str) -> tuple[str, ...]:
    """These targets, when the table has them all; raises UserError for one that it lacks."""
    for id_ in ids:
        if table.targets.position(id_) is None:
            raise UserError(f"{id_!r} is not among the targets", field=who, fix=f"there are: {', '.join(table.targets.ids)}")
    return tuple(ids)


def costs_of(table: OutcomeTable) -> Array:
    """[N, M] USD of each call, gaps filled: by the target's mean, by list price, and where nothing is known by 1 per call."""
    scales = Scales.of(table)
    listed = np.array([scales.list_cost(target) for target in table.targets])
    prior = np.where(np.isnan(listed), 1.0, listed) if np.isnan(listed).all() else listed
    if table.cost_usd is None:
        return np.broadcast_to(np.where(np.isnan(prior), np.nanmax(prior), prior), table.quality.shape).copy()
    mean = means(table.cost_usd)
    mean = np.where(np.isnan(mean), listed, mean)
    mean = np.where(np.isnan(mean), np.nanmax(np.append(mean, 0.0)), mean)
    return np.where(np.isnan(table.cost_usd), mean, table.cost_usd)


def filled(values: Array) -> Array:
    """[N, M] with gaps filled by the column's mean; a column without a value is 0."""
    return np.where(np.isnan(values), np.nan_to_num(means(values)), values)
