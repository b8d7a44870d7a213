"""cheapest: the target of lowest mean training cost, else of lowest list price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from junctor.about import About
from junctor.estimators.settings import check
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.standing import Standing
from junctor.policies.trading import expected
from junctor.policy import Policy, PolicyConfig


class Cheapest(Standing):
    """The cheapest target that is in the catalogue; targets of unknown cost come last, in catalogue order."""

    name: ClassVar[str] = "cheapest"
    why: ClassVar[str] = "lowest mean cost on the training rows, or list price where no cost was recorded"


@dataclass(frozen=True, kw_only=True)
class CheapestConfig(PolicyConfig):
    """fallbacks: how many of the next cheapest stand by in the plan."""

    fallbacks: int = 2

    name: ClassVar[str] = "cheapest"
    fitted: ClassVar[type[Policy]] = Cheapest
    about: ClassVar[About | None] = About(
        title="Cheapest target",
        family="bars",
        status="ours",
        source="folklore",
        formula="argmin_j of the mean recorded cost of j, else of its list price",
        complexity="fit: O(N M); decision: O(M)",
    )

    def __post_init__(self) -> None:
        check(self.fallbacks >= 0, "cheapest.fallbacks", "must not be negative")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Cheapest:
        """Average costs over the rows that record them; a list price stands for a typical call."""
        del features, rng
        known = expected(table)
        costs = [known[id_].cost_usd for id_ in table.targets.ids]
        order = np.argsort([np.inf if cost is None else cost for cost in costs], kind="stable").tolist()
        return Cheapest([table.targets.ids[i] for i in order], known, self.fallbacks)
