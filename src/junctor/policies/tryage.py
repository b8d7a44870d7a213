"""tryage: predicted loss per target, plus what the user asks for in flags: small, recent, cheap, fast, brief, secure.

Source: Tryage: choose

    argmin_j loss_j(x) + sum_i lam_i * C_i(j)

where C_i is a property of target j in [0, 1] (0 is what the flag asks for) and lam_i is configured, or set by a flag in the
prompt: "[Flag: smallest model]", "[Flag: fast 0.3]". Several flags add up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, ClassVar, Self

import numpy as np

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.linear import Linear, LinearConfig
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.ranking import Ranking, Typical, described
from junctor.policies.trading import Scales, View
from junctor.policy import Array, Policy, PolicyConfig, State
from junctor.types import Ranked, Request, Target

ALPHAS = (300.0, 100.0, 30.0, 10.0, 3.0)
WEIGHTS = (0.0, *np.geomspace(1e-3, 1e2, 51).tolist())
"""The sweep over the weight of the constraint named in `sweep`: loss alone, then ten settings a decade."""
WORDS: dict[str, tuple[str, ...]] = {
    "size": ("smallest", "smaller", "small", "size", "tiny"),
    "recency": ("newest", "latest", "recent", "recency", "new"),
    "cost": ("cheapest", "cheap", "cost", "inexpensive"),
    "latency": ("fastest", "fast", "latency", "quick"),
    "verbosity": ("brief", "concise", "shortest", "short", "verbosity", "terse"),
    "security": ("secure", "security", "private", "local"),
}
"""What a flag may say for each constraint; the first word that is found counts."""
SAFE = frozenset({"secure", "private", "local", "on-premise"})
"""Capabilities that satisfy the security flag."""
FLAG = re.compile(r"\[\s*flag\s*:\s*([^\]]*)\]", re.IGNORECASE)
WEIGHT = re.compile(r"\d+(?:\.\d+)?")
BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a prompt: the constraint it names ("" when no word of it is known), its weight, and its words."""

    constraint: str
    weight: float
    said: str


def flags(text: str, weight: float) -> list[Flag]:
    """The flags of a prompt, in order; one without a number has the given weight."""
    found = []
    for words in FLAG.findall(text):
        known = re.findall(r"[a-z-]+", words.casefold())
        names = [name for name, terms in WORDS.items() if any(term in known for term in terms)]
        number = WEIGHT.search(words)
        found.append(Flag(names[0] if names else "", float(number[0]) if number else weight, words.strip()))
    return found


def properties_of(table: OutcomeTable) -> Array:
    """What the constraints are read from [6, M], in the order of WORDS, less is better; NaN where it is not known.

    size       settings["parameters_b"], else "7b" in the id or model name, else the list price of a typical call
    recency    settings["released"], an ISO date
    cost, latency, verbosity   the target's mean recorded cost, latency and output tokens; list price for an unrecorded cost
    security   0 for a target with one of the capabilities SAFE
    """
    scales = Scales.of(table)
    listed = np.array([scales.list_cost(target) for target in table.targets])
    size = np.array([_billions(target) for target in table.targets])
    cost = _means(table.cost_usd, len(listed))
    rows = (
        listed if np.isnan(size).all() else size,
        np.array([-_released(target) for target in table.targets]),
        np.where(np.isnan(cost), listed, cost),
        _means(table.latency_s, len(listed)),
        _means(table.output_tokens, len(listed)),
        np.array([0.0 if SAFE & target.capabilities else 1.0 for target in table.targets]),
    )
    return np.stack(rows)


def scaled(raw: Array) -> Array:
    """C_i(j): rows from 0, the least, to 1, the most. Unknown ones are 1; rows without a value or a difference are 0."""
    low = np.where(np.isnan(raw), np.inf, raw).min(axis=-1, keepdims=True)
    high = np.where(np.isnan(raw), -np.inf, raw).max(axis=-1, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    known = np.where(np.isfinite(low), (raw - np.where(np.isfinite(low), low, 0.0)) / spread, 0.0)
    return np.where(np.isnan(raw) & np.isfinite(low), 1.0, np.nan_to_num(known))


def _means(values: Array | None, targets: int) -> Array:
    return np.full(targets, np.nan) if values is None else measured.means(values)


def _billions(target: Target) -> float:
    """Parameters in 10^9: as said in the settings, else as written in the name; NaN where neither."""
    said = target.settings.get("parameters_b")
    if isinstance(said, int | float):
        return float(said)
    found = BILLIONS.search(f"{target.id} {target.model}")
    return float(found[1]) if found else float("nan")


def _released(target: Target) -> float:
    """Day of release as a number; NaN where the settings do not say."""
    try:
        return float(date.fromisoformat(str(target.settings.get("released", ""))).toordinal())
    except ValueError:
        return float("nan")


class Tryage(Ranking):
    """Holds the loss heads and the raw properties of the targets [6, M]."""

    name: ClassVar[str] = "tryage"
    why: ClassVar[str] = "least predicted loss, with what the flags ask for"

    def __init__(self, config: TryageConfig, typical: Typical, heads: Linear, properties: Array) -> None:
        super().__init__(
            typical,
            knob=config.weights.get(config.sweep, 0.0),
            knobs=WEIGHTS,
            fallbacks=config.fallbacks,
            label=config.label,
        )
        self.config, self._heads, self._properties = config, heads, properties
        names = list(WORDS)
        self._swept = names.index(config.sweep)
        self._standing = np.array([0.0 if name == config.sweep else config.weights.get(name, 0.0) for name in names])

    def preferences(self, features: Features, view: View, knobs: Array) -> Array:
        """Minus loss, minus weighted constraints [L, N, K]; targets never tried are out."""
        quality = view.pick(self._heads.predict_many(features).quality)
        properties = view.pick(self._properties)
        assert quality is not None
        assert properties is not None
        terms = scaled(properties)
        score = quality - 1.0 - self._asked(features) @ terms - knobs[:, None, None] * terms[self._swept]
        return np.where(np.isnan(score), -np.inf, score)

    def _asked(self, features: Features) -> Array:
        """Weights of the constraints [N, 6]: the configured ones, plus those of each prompt's flags."""
        weights = np.tile(self._standing, (len(features), 1))
        names = list(WORDS)
        for row, text in enumerate(features.texts):
            for flag in flags(text, self.config.flag_weight) if "[" in text else ():
                if flag.constraint:
                    weights[row, names.index(flag.constraint)] += flag.weight
        return weights

    def reasons(self, request: Request, ranked: Sequence[Ranked]) -> tuple[str, ...]:
        """The flags that were read, and those that were not understood."""
        said = [
            f"flag {flag.said!r}: {flag.constraint} counts {flag.weight:g}"
            if flag.constraint
            else f"flag {flag.said!r} is not understood: flags are {', '.join(WORDS)}"
            for flag in flags(request.text, self.config.flag_weight)
        ]
        return (*super().reasons(request, ranked), *said)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Tryage:
        """One more head, and the new target's properties."""
        typical = self.typical.plus(target, rows)
        properties = np.hstack([self._properties, properties_of(rows.only([target]))])
        return self.grown(Tryage(self.config, typical, self._heads.onboard(target, rows, features), properties), target)

    def state(self) -> State:
        """The heads' state under `head_`, and the properties."""
        heads = self._heads.state()
        arrays = {f"head_{key}": values for key, values in heads.arrays.items()}
        measures = list(saved.entry(heads, "measures", list[str]))
        return described(self, self.config.settings(), {**arrays, "properties": self._properties}, measures=measures)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(TryageConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        typical = Typical.from_state(state)
        arrays = {key.removeprefix("head_"): values for key, values in state.arrays.items() if key.startswith("head_")}
        inner = {**saved.described(saved.columns(state)), "settings": config.regression.settings()}
        properties = saved.array(state, "properties", (len(WORDS), len(typical.targets)), finite=False)
        return cls(config, typical, Linear.from_state(State(inner, arrays)), properties)


@dataclass(frozen=True, kw_only=True)
class TryageConfig(PolicyConfig):
    """alpha: L2 penalty of the loss heads; weights: constraint -> lam, for every prompt; flag_weight: of a flag without a
    number; sweep: the constraint whose weight is the knob; fallbacks: how many stand by; label.
    """

    alpha: float = 30.0
    weights: Mapping[str, float] = field(default_factory=dict)
    flag_weight: float = 1.0
    sweep: str = "cost"
    fallbacks: int = 2
    label: str = ""

    name: ClassVar[str] = "tryage"
    fitted: ClassVar[type[Policy]] = Tryage
    about: ClassVar[About | None] = About(
        title="Tryage",
        family="regression",
        status="adapted",
        source="Tryage: real-time, intelligent routing of user prompts to large language models",
        formula="route to argmin_j loss_j(x) + sum_i lam_i * C_i(j), lam_i from flags such as [Flag: smallest model]",
        complexity="fit: ridge, O(N D^2); decision: O(M D) and one pass over the text",
        adapted=(
            "Loss is 1 - recorded quality, in place of each expert's masked-language-model loss.",
            "Ridge heads on the project's frozen encoder replace a tuned BERT.",
            "Constraints come from prices, settings, capabilities and recorded means, scaled to [0, 1] in the catalogue.",
        ),
        unverified=("The words of the flags and the loss of the predictor (MSE or Huber) are from memory.",),
        claims=(
            Claim(
                figure="picks the best model in 50.9 % of cases, GPT-3.5 23.6 %, Gorilla 10.8 %",
                on="its prompts",
                sure="abstract",
            ),
        ),
    )

    def __post_init__(self) -> None:
        check(0 < self.alpha < float("inf"), "tryage.alpha", "must be positive")
        check(0 <= self.flag_weight < float("inf"), "tryage.flag_weight", "must be finite and not negative")
        check(self.fallbacks >= 0, "tryage.fallbacks", "must not be negative")
        known = f"known: {', '.join(WORDS)}"
        check(self.sweep in WORDS, "tryage.sweep", f"no constraint is called {self.sweep!r}", known)
        for name, weight in self.weights.items():
            check(name in WORDS, f"tryage.weights.{name}", f"no constraint is called {name!r}", known)
            check(0 <= weight < float("inf"), f"tryage.weights.{name}", "must be finite and not negative")

    @property
    def needs(self) -> frozenset[str]:
        """The embedding."""
        return frozenset({"embedding"})

    @property
    def regression(self) -> LinearConfig:
        """The loss heads."""
        return LinearConfig(alpha=self.alpha, loss="squared")

    def candidates(self, rows: int) -> Sequence[TryageConfig]:
        """From the strongest penalty to the weakest."""
        del rows
        return [replace(self, alpha=alpha) for alpha in ALPHAS]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Tryage:
        """Fit the loss heads and read the targets' properties; raises UserError when no outcome is recorded."""
        if not table.mask.any():
            raise UserError("there is no outcome to learn from", field=self.name, fix="pass at least one recorded query")
        return Tryage(self, Typical.of(table), self.regression.fit(table, features, rng), properties_of(table))
