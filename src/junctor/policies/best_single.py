"""best-single: the target of highest mean training quality, for every query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from junctor.about import About
from junctor.errors import UserError
from junctor.estimators.settings import check
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policies.standing import Standing
from junctor.policies.trading import expected
from junctor.policy import Policy, PolicyConfig
from junctor.types import Outcome


class BestSingle(Standing):
    """The best target that is in the catalogue; targets that were never tried are unknown to it."""

    name: ClassVar[str] = "best-single"
    why: ClassVar[str] = "highest mean quality on the training rows"


@dataclass(frozen=True, kw_only=True)
class BestSingleConfig(PolicyConfig):
    """fallbacks: how many of the next best stand by in the plan."""

    fallbacks: int = 2

    name: ClassVar[str] = "best-single"
    fitted: ClassVar[type[Policy]] = BestSingle
    about: ClassVar[About | None] = About(
        title="Best single target",
        family="bars",
        status="ours",
        source="folklore",
        formula="argmax_j of the mean recorded quality of j on the training rows; ties to the cheapest",
        complexity="fit: O(N M); decision: O(M)",
    )

    def __post_init__(self) -> None:
        check(self.fallbacks >= 0, "best-single.fallbacks", "must not be negative")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> BestSingle:
        """Average quality over the rows that record it; equal ones go cheapest first. Raises UserError without outcomes."""
        del features, rng
        known = expected(table)
        tried = [id_ for id_ in table.targets.ids if known[id_].quality is not None]
        if not tried:
            raise UserError("there is no outcome to learn from", field=self.name, fix="fit it on an outcome table")
        return BestSingle(sorted(tried, key=lambda id_: _rank(known[id_])), known, self.fallbacks)


def _rank(found: Outcome) -> tuple[float, float]:
    """Best first, then cheapest. Means within a rounding error are equal, so they are compared in units of it."""
    assert found.quality is not None
    cost = float("inf") if found.cost_usd is None else found.cost_usd
    return (-round(found.quality / choosing.TIE) * choosing.TIE, cost)
