"""fixed: always the one target you name, and after it those that you name to stand by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from junctor.about import About
from junctor.errors import ConfigError
from junctor.estimators.settings import check
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.standing import Standing
from junctor.policy import Policy, PolicyConfig


class Fixed(Standing):
    """One target; NoTarget where it is not in the catalogue."""

    name: ClassVar[str] = "fixed"
    why: ClassVar[str] = "the configuration names this target"


@dataclass(frozen=True, kw_only=True)
class FixedConfig(PolicyConfig):
    """target: the id to call, whatever the request; then: the ids to call, in this order, when that fails."""

    target: str = ""
    then: tuple[str, ...] = ()

    name: ClassVar[str] = "fixed"
    fitted: ClassVar[type[Policy]] = Fixed
    about: ClassVar[About | None] = About(
        title="Fixed target",
        family="bars",
        status="ours",
        source="folklore",
        formula="the target that is named, whatever the query",
        complexity="fit: none; decision: O(1)",
    )

    def __post_init__(self) -> None:
        check(bool(self.target), "fixed.target", "names no target", 'for example target = "gpt-4o-mini"')

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Fixed:
        """Learn nothing; raises ConfigError when the table has no such target."""
        del features, rng
        order = list(dict.fromkeys((self.target, *self.then)))
        for id_ in order:
            if table.targets.position(id_) is None:
                known = ", ".join(table.targets.ids)
                field = "fixed.target" if id_ == self.target else "fixed.then"
                raise ConfigError(f"no target is called {id_!r}", field=field, fix=f"targets: {known}")
        return Fixed(order, {}, len(order) - 1)
