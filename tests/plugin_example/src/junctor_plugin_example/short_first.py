"""`short-first`: short prompts go to the cheapest target, long ones to the best. The whole plug-in is this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from junctor import Call, Catalogue, Decision, Features, OutcomeTable, Policy, PolicyConfig, Ranked, Request, State
from junctor.errors import NoTarget


class ShortFirst(Policy):
    """The fitted policy."""

    name = "short-first"

    def __init__(self, words: int, cheap: list[str], good: list[str]) -> None:
        self.words, self.cheap, self.good = words, cheap, good

    def _order(self, text: str, targets: Catalogue) -> list[str]:
        order = self.cheap if len(text.split()) <= self.words else self.good
        known = [id_ for id_ in order if targets.position(id_) is not None]
        if not known:
            raise NoTarget("knows none of the targets", refusals=dict.fromkeys(targets.ids, "not fitted"))
        return known

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """Choose by the number of words."""
        order = self._order(request.text, targets)
        ranked = tuple(Ranked(target=id_, score=float(-place)) for place, id_ in enumerate(order))
        reason = f"{len(request.text.split())} words against a limit of {self.words}"
        return Decision(id=request.id, plan=Call(order[0]), target=order[0], ranked=ranked, policy=self.name, reasons=(reason,))

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The same for N texts."""
        chosen = [targets.position(self._order(text, targets)[0]) for text in features.texts]
        return np.array(chosen, dtype=np.intp), np.ones(len(features))

    def state(self) -> State:
        """Plain data."""
        return State({"words": self.words, "cheap": self.cheap, "good": self.good})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """From plain data."""
        return cls(state.config["words"], list(state.config["cheap"]), list(state.config["good"]))


@dataclass(frozen=True, kw_only=True)
class ShortFirstConfig(PolicyConfig):
    """Prompts of at most `words` words are short; tuned on validation rows over a small grid."""

    name = "short-first"
    fitted = ShortFirst
    words: int = 20

    def candidates(self, rows: int) -> list[Self]:
        """Four lengths to try."""
        return [type(self)(words=words) for words in (5, 10, 20, 40)]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> ShortFirst:
        """Rank the targets by mean cost and by mean quality; without recorded costs, the last target counts as the cheapest."""
        quality = np.nanmean(table.quality, axis=0)
        cost = np.arange(len(quality))[::-1] if table.cost_usd is None else np.nanmean(table.cost_usd, axis=0)
        cheap = [table.targets.ids[i] for i in np.argsort(cost, kind="stable")]
        good = [table.targets.ids[i] for i in np.argsort(-quality, kind="stable")]
        return ShortFirst(self.words, cheap, good)
