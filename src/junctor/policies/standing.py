"""A standing order of targets, whatever the query: the first one that is in the catalogue is chosen, the next ones stand by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.errors import ArtefactError
from junctor.estimators import saved
from junctor.features import Features
from junctor.policies import choosing
from junctor.policy import Array, Policy, State
from junctor.types import Catalogue, Decision, Outcome, Ranked, Request


class Standing(Policy):
    """Holds target ids, best first, and what was recorded of each. Subclasses say what the order means."""

    why: ClassVar[str]

    def __init__(self, order: Sequence[str], known: Mapping[str, Outcome], fallbacks: int) -> None:
        self.order, self.known, self.fallbacks = tuple(order), dict(known), fallbacks

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """The first of the order that is in the catalogue; raises NoTarget when none is."""
        del rng
        ids = self._present(targets)
        ranked = tuple(
            Ranked(target=id_, score=float(-place), predicted=self.known.get(id_, Outcome()))
            for place, id_ in enumerate(ids[: choosing.MOST_RANKED])
        )
        return choosing.decision(
            request,
            ids[: self.fallbacks + 1],
            policy=self.title,
            version=self.version,
            reasons=(self.why,),
            ranked=ranked,
        )

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """The same for every row."""
        del rng
        place = targets.position(self._present(targets)[0])
        assert place is not None
        return choosing.always(place, len(features))

    def _present(self, targets: Catalogue) -> list[str]:
        choosing.some(targets)
        ids = [id_ for id_ in self.order if targets.position(id_) is not None]
        if not ids:
            refusals = dict.fromkeys(targets.ids, f"{self.title} knows only: {', '.join(self.order)}")
            choosing.refuse("no target here is known to the policy", refusals, fix="fit the policy on these targets")
        return ids

    def state(self) -> State:
        """The order and what was recorded, as plain data."""
        known = {
            id_: {"quality": found.quality, "cost_usd": found.cost_usd}
            for id_, found in self.known.items()
            if id_ in self.order
        }
        return State({"order": list(self.order), "known": known, "fallbacks": self.fallbacks})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        order = saved.entry(state, "order", list[str])
        if not order or len(set(order)) != len(order):
            raise ArtefactError("names no target, or one twice", field="order", fix=saved.FIX)
        known: dict[str, Any] = saved.entry(state, "known", dict[str, Outcome])
        return cls(order, known, saved.entry(state, "fallbacks", int))
