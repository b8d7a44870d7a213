"""chebyshev: the target whose worse regret is least, of quality missed and of cost: RADAR's second rule.

    argmin_i max{ w |1 - p_i(x)|, (1 - w) c_i }

p is any estimator's quality and c the mean cost in units of the dearest single target. A weighted sum can only choose from the
convex hull of what targets offer; this rule also reaches what lies inside it, so that a target that is neither best nor
cheapest is chosen when both of its regrets are moderate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np

from junctor import registry
from junctor.about import About
from junctor.errors import ArtefactError
from junctor.estimators import saved
from junctor.estimators.settings import check, configured, estimator_config
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.ranking import Ranking, Typical, described
from junctor.policies.trading import View
from junctor.policy import Array, Estimator, EstimatorConfig, Policy, PolicyConfig, State

SHARES = tuple(np.round(np.linspace(0.0, 1.0, 61), 6).tolist())
"""The sweep over 1 - w: quality alone first, cost alone last."""
PREFIX = "estimator/"


class Chebyshev(Ranking):
    """Holds a fitted estimator."""

    name: ClassVar[str] = "chebyshev"
    why: ClassVar[str] = "least of the larger regret, quality missed or cost"

    def __init__(self, config: ChebyshevConfig, estimator: Estimator, typical: Typical) -> None:
        super().__init__(
            typical, knob=1.0 - config.quality_weight, knobs=SHARES, fallbacks=config.fallbacks, label=config.label
        )
        self.config, self.estimator = config, estimator

    @property
    def needs(self) -> frozenset[str]:
        """What the estimator reads."""
        return self.estimator.needs

    def preferences(self, features: Features, view: View, knobs: Array) -> Array:
        """Minus the larger regret [L, N, K]; -inf for a target whose quality cannot be predicted."""
        quality = view.pick(self.estimator.predict_many(features).quality)
        assert quality is not None
        missed = np.abs(1.0 - quality)
        share = knobs[:, None, None]
        worse = np.maximum((1.0 - share) * missed, share * view.cost_terms(self.costs(view)))
        return np.where(np.isnan(missed), -np.inf, -worse)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Chebyshev:
        """The same rule over the estimator that knows one more target."""
        wider = Chebyshev(self.config, self.estimator.onboard(target, rows, features), self.typical.plus(target, rows))
        wider.version = f"{self.version}+{target}" if self.version else ""
        return wider

    def state(self) -> State:
        """The estimator's state under `estimator/`, settings and typical costs."""
        inner = self.estimator.state()
        arrays = {f"{PREFIX}{key}": values for key, values in inner.arrays.items()}
        part = {"name": self.estimator.name, "config": dict(inner.config)}
        return described(self, self.config.settings(), arrays, estimator=part)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(ChebyshevConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        part = State(saved.entry(state, "estimator", dict[str, Any]))
        name = saved.entry(part, "name", str)
        if name != config.estimator.name:
            raise ArtefactError(f"is {name!r}, the settings say {config.estimator.name!r}", field="estimator", fix=saved.FIX)
        kind: type[EstimatorConfig] = registry.load("estimator", name)
        arrays = {key.removeprefix(PREFIX): values for key, values in state.arrays.items() if key.startswith(PREFIX)}
        estimator = kind.fitted.from_state(State(saved.entry(part, "config", dict[str, Any]), arrays))
        return cls(config, estimator, Typical.from_state(state))


@dataclass(frozen=True, kw_only=True)
class ChebyshevConfig(PolicyConfig):
    """What to predict with and how to weigh the regrets.

    estimator        a registered name, or an EstimatorConfig; estimator_settings are its hyper-parameters
    quality_weight   w in [0, 1]: 1 looks at quality alone, 0 at cost alone
    fallbacks        how many of the next best stand by in the plan
    label            what people call it; "chebyshev" by default
    """

    estimator: Any = "radar"
    estimator_settings: Mapping[str, Any] = field(default_factory=dict)
    quality_weight: float = 1.0
    fallbacks: int = 2
    label: str = ""

    name: ClassVar[str] = "chebyshev"
    fitted: ClassVar[type[Policy]] = Chebyshev
    about: ClassVar[About | None] = About(
        title="RADAR, Chebyshev scalarisation",
        family="latent traits",
        status="adapted",
        source="RADAR: routing over models and reasoning budgets by item response theory",
        formula="argmin_i max{w |1 - p_i(x)|, (1 - w) c_i}",
        complexity="the estimator's, and O(M) a decision",
        adapted=(
            "Any estimator may give p; the paper's is the 2PL model (`radar`).",
            "c is the recorded mean cost in units of the dearest single target's.",
        ),
    )

    def __post_init__(self) -> None:
        check(isinstance(self.estimator, (str, EstimatorConfig)), "chebyshev.estimator", "must be a name or an EstimatorConfig")
        settled = not isinstance(self.estimator, str)
        check(not (settled and self.estimator_settings), "chebyshev.estimator_settings", "go with a name, not with a config")
        check(0.0 <= self.quality_weight <= 1.0, "chebyshev.quality_weight", "must be in [0, 1]")
        check(self.fallbacks >= 0, "chebyshev.fallbacks", "must not be negative")
        if isinstance(self.estimator, str):
            made = estimator_config(self.estimator, self.estimator_settings, who="chebyshev.estimator_settings")
            object.__setattr__(self, "estimator", made)
            object.__setattr__(self, "estimator_settings", {})

    @property
    def needs(self) -> frozenset[str]:
        """What the estimator reads."""
        needs: frozenset[str] = self.estimator.needs
        return needs

    def settings(self) -> dict[str, Any]:
        """As plain data: the estimator by name, its hyper-parameters beside it."""
        plain = {"estimator": self.estimator.name, "estimator_settings": self.estimator.settings()}
        return {**plain, **{key: getattr(self, key) for key in ("quality_weight", "fallbacks", "label")}}

    def candidates(self, rows: int) -> Sequence[ChebyshevConfig]:
        """The estimator's grid; the weight is the user's choice and is not tuned."""
        return [replace(self, estimator=made) for made in self.estimator.candidates(rows)]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Chebyshev:
        """Fit the estimator and read typical costs off the table."""
        return Chebyshev(self, self.estimator.fit(table, features, rng), Typical.of(table))
