"""vllm-sr: signals -> Boolean decision rules -> a choice among the matching decision's targets.

Source: vLLM Semantic Router (its paper's source was read). Signals are read lazily and only when a decision needs them;
decisions are tried by priority, or the most confident one wins; then a selector chooses among its targets: their fixed order,
or an estimator of outcomes. A decision without targets takes those that did best on the training rows that it matches. Without
any decision of yours there is one per category that the table's labels name, recognised by a classifier.

[[policies.mine.settings.decisions]]
name = "german code"
when = "code and german and not long"
use = ["codestral", "gpt-4o"]
priority = 10
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor import registry
from junctor.about import About
from junctor.encoders import load_encoder
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.categories import Recogniser, of_table, recogniser, sample
from junctor.estimators.settings import check, configured, estimator_config
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.boolean import Expression, parse
from junctor.policies.mapped import GroupTable, Mapped, View, along_weights, as_named, group_table
from junctor.policies.rule_findings import Finding, Ruled, findings
from junctor.policies.signals import Seen, Signal, Signals, signal_of
from junctor.policies.utility import UtilityConfig, UtilityPolicy
from junctor.policy import Array, Policy, PolicyConfig, State
from junctor.types import Catalogue, Decision, Request

DEFAULT = "default"
Ints = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """name; when: an expression over signals, "" always matches; use: targets in order, none: by outcomes; priority: of the
    matching ones the highest goes first.
    """

    name: str = ""
    when: str = ""
    use: str | tuple[str, ...] = ()
    priority: int = 0

    @property
    def targets(self) -> tuple[str, ...]:
        """The ids in `use`."""
        return (self.use,) if isinstance(self.use, str) and self.use else tuple(self.use)


class SemanticRules(Mapped):
    """Holds signals ready to be read, decisions in the order in which they are tried, outcomes per decision, and a selector."""

    name: ClassVar[str] = "vllm-sr"
    why: ClassVar[str] = "decision"

    def __init__(
        self,
        config: VllmSRConfig,
        decisions: Sequence[DecisionRule],
        signals: Signals,
        table: GroupTable,
        selector: UtilityPolicy | None,
    ) -> None:
        self.config, self.signals, self.selector = config, signals, selector
        self.decisions = tuple(decisions)
        self._when = [parse(rule.when, f"vllm-sr.decisions.{rule.name}") for rule in self.decisions]
        self._order = sorted(range(len(self.decisions)), key=lambda i: -self.decisions[i].priority)
        self._read = tuple(dict.fromkeys(name for when in self._when for name in when.names))
        scores, settings = along_weights(table, config.cost_weight)
        named = [rule.targets for rule in self.decisions] + [config.default_targets]
        super().__init__(table, as_named(scores, table, named), settings, config.fallbacks)

    @property
    def needs(self) -> frozenset[str]:
        """What the signals that some decision reads, and the selector, look at."""
        inner = frozenset[str]() if self.selector is None else self.selector.needs
        return _needs([self.signals.specs[name] for name in self._read]) | inner

    @property
    def honours(self) -> frozenset[str]:
        """The selector's: rules alone trade nothing."""
        return frozenset() if self.selector is None else self.selector.honours

    @property
    def label_names(self) -> frozenset[str]:
        """What the signals that some decision reads look at."""
        return frozenset().union(*(self.signals.specs[name].label_names for name in self._read))

    @property
    def findings(self) -> list[Finding]:
        """Dead, shadowed and conflicting decisions."""
        return _findings(self.decisions, self._when, self.signals.specs, self.config.strategy)

    def groups_of(self, features: Features) -> Ints:
        """[N] the decision of each request, whatever the catalogue has; the last group is the default."""
        return self._first(features, np.ones(len(self.table.groups), dtype=bool))

    def _groups_here(self, features: Features, view: View) -> Ints:
        return self._first(features, view.best[0] >= 0)

    def _first(self, features: Features, open_: NDArray[np.bool_]) -> Ints:
        columns = self.signals.read_many(self._read, features)
        found = np.full(len(features), len(self.decisions), dtype=np.intp)
        best = np.zeros(len(features))
        for place in self._order:
            if open_[place]:
                sure = self._when[place].values(columns, len(features))
                take = (sure > best) if self.config.strategy == "confidence" else (sure > 0) & (best == 0)
                found, best = np.where(take, place, found), np.where(take, sure, best)
        return found

    def _recognised(self, request: Request, view: View) -> tuple[int, str]:
        """The decision of one request; a signal that nothing asks for is never read."""
        features = Features.of(request)
        labels = request.labels or {name: values[0] for name, values in features.labels.items()}
        vector = None if features.embedding is None else features.embedding[0]
        seen = Seen(request.text or features.texts[0], labels, request.needs, vector)
        known: dict[str, float] = {}

        def read(name: str) -> float:
            if name not in known:
                known[name] = self.signals.read(name, seen)
            return known[name]

        found, best = len(self.decisions), 0.0
        for place in self._order:
            if view.orders[place]:
                sure = self._when[place].value(read)
                if sure > best:
                    found, best = place, sure
                    if self.config.strategy == "priority":
                        break
        if found == len(self.decisions):
            return found, "no decision matches: the default"
        return found, f"decision {self.table.groups[found]!r}: {self._when[found]} (confidence {best:.2f})"

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """As every mapped policy; with a selector, among the decision's targets by predicted outcomes."""
        made = super().decide(request, targets, rng)
        if self.selector is None:
            return made
        view = self._view(targets)
        group, _ = self._recognised(request, view)
        picked = self.selector.decide(request, self._offered(view, group, targets), rng)
        return Decision(
            id=picked.id,
            plan=picked.plan,
            target=picked.target,
            ranked=picked.ranked,
            policy=self.title,
            version=self.version,
            reasons=(made.reasons[0], *picked.reasons),
        )

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """The same for N rows."""
        if self.selector is None:
            return super().decide_many(features, targets, rng)
        view = self._view(targets)
        groups = self._groups_here(features, view)
        choices = np.full(len(features), -1, dtype=np.intp)
        for group in np.unique(groups).tolist():
            rows = np.flatnonzero(groups == group)
            offered = self._offered(view, group, targets)
            places = np.array([targets.position(id_) for id_ in offered.ids], dtype=np.intp)
            choices[rows] = places[self.selector.decide_many(features.take(rows), offered, rng)[0]]
        return choices, np.ones(len(choices))

    def _offered(self, view: View, group: int, targets: Catalogue) -> Catalogue:
        if not view.orders[group]:
            self._refuse(targets, group, None)
        return targets.only([self.table.targets[m] for m in view.orders[group]])

    def state(self) -> State:
        """Settings, decisions, examples, classifier, outcomes and the selector's own state."""
        table = self.table.state()
        config: dict[str, Any] = {
            "settings": self.config.settings(),
            "decisions": [asdict(rule) for rule in self.decisions],
            "signals": {name: _plain(spec) for name, spec in self.signals.specs.items()},
            "categories": list(self.signals.categories),
            **table.config,
        }
        arrays = {**table.arrays, **{f"examples/{n}": values for n, values in self.signals.examples.items()}}
        for part in (self.signals.recogniser and self.signals.recogniser.state("known"), _prefixed(self.selector)):
            if part:
                config |= part.config
                arrays |= part.arrays
        return State(config, arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(VllmSRConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        table = GroupTable.from_state(state)
        rules = [
            configured(DecisionRule, found, "decisions") for found in saved.entry(state, "decisions", list[dict[str, Any]])
        ]
        specs = {name: signal_of(s, name) for name, s in saved.entry(state, "signals", dict[str, dict[str, Any]]).items()}
        examples = {
            name: saved.array(state, f"examples/{name}", (len(spec.values), None), np.float32)
            for name, spec in specs.items()
            if spec.kind == "examples"
        }
        categories = saved.entry(state, "categories", list[str])
        known = Recogniser.from_state(state, "known") if "known_kind" in state.config else None
        selector = UtilityPolicy.from_state(_unprefixed(state)) if config.selector else None
        return cls(config, rules, Signals(specs, examples, categories, known), table, selector)


def _needs(specs: Sequence[Signal]) -> frozenset[str]:
    found = {"embedding" for spec in specs if spec.kind in ("examples", "category")}
    return frozenset(found | {"labels" for spec in specs if spec.label_names})


def _findings(
    decisions: Sequence[DecisionRule], when: Sequence[Expression], specs: Mapping[str, Signal], strategy: str
) -> list[Finding]:
    ruled = [
        Ruled(name=rule.name, when=expression, priority=rule.priority, targets=rule.targets)
        for rule, expression in zip(decisions, when, strict=True)
    ]
    return findings(ruled, specs, by_confidence=strategy == "confidence")


def _plain(spec: Signal) -> dict[str, Any]:
    blank = asdict(Signal())
    return {key: value for key, value in asdict(spec).items() if value != blank[key]}


def _prefixed(selector: UtilityPolicy | None) -> State | None:
    if selector is None:
        return None
    inner = selector.state()
    return State({"selector": dict(inner.config)}, {f"selector/{key}": values for key, values in inner.arrays.items()})


def _unprefixed(state: State) -> State:
    arrays = {k.removeprefix("selector/"): v for k, v in state.arrays.items() if k.startswith("selector/")}
    return State(saved.entry(state, "selector", dict[str, Any]), arrays)


@dataclass(frozen=True, kw_only=True)
class VllmSRConfig(PolicyConfig):
    """Signals, decisions and how one is chosen.

    signals     name -> one signal (see junctor.policies.signals)
    decisions   tables of name, when, use, priority; none: one per category of the table
    default     the target, or targets, when no decision matches; none: by outcomes over all rows
    strategy    priority: the first that matches; confidence: the surest
    selector    a registered estimator that chooses among a decision's targets; "" keeps their order
    label, clusters, alpha   of the category signal's classifier: what it predicts, or how many clusters; its L2 penalty
    encoder     made the features, and reads the examples
    cost_weight, shrinkage, fallbacks   how targets are ordered by outcomes, as elsewhere
    """

    signals: Mapping[str, Any] = field(default_factory=dict)
    decisions: Sequence[Any] = ()
    default: str | tuple[str, ...] = ()
    strategy: Literal["priority", "confidence"] = "priority"
    selector: str = ""
    selector_settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    clusters: int = 20
    alpha: float = 0.3
    encoder: str = "static"
    cost_weight: float = 0.0
    shrinkage: float = 10.0
    fallbacks: int = 2

    name: ClassVar[str] = "vllm-sr"
    fitted: ClassVar[type[Policy]] = SemanticRules
    about: ClassVar[About | None] = About(
        title="vLLM Semantic Router",
        family="label first",
        status="adapted",
        source="vLLM Semantic Router, signals and decisions",
        formula="decision = first by priority (or surest) whose Boolean tree over signals matches; conf(AND) = min, "
        "conf(OR) = max, conf(NOT) = 1 - [matches]; then its first target, or the one of best predicted utility",
        complexity="decision: the signals that are asked for; microseconds for words, O(K D) for categories and examples",
        adapted=(
            "Signals of the kinds that need no further model; rules of ours see personal data and jailbreaks.",
            "Categories are learned from the table's labels in place of fourteen fixed ones.",
            "A decision that names no target takes those that did best on the training rows it matches.",
        ),
        unverified=("How confidences of nested conditions are combined upstream.",),
    )

    def __post_init__(self) -> None:
        signals = {name: signal_of(found, f"vllm-sr.signals.{name}") for name, found in self.signals.items()}
        rules = tuple(_rule(found, place) for place, found in enumerate(self.decisions))
        object.__setattr__(self, "signals", signals)
        object.__setattr__(self, "decisions", rules)
        object.__setattr__(self, "default", self.default_targets)
        names = [rule.name for rule in rules]
        check(len(set(names)) == len(names), "vllm-sr.decisions", "a name is used twice", "name each decision once")
        for rule in rules:
            for name in parse(rule.when, f"vllm-sr.decisions.{rule.name}.when").names:
                fix = f"signals: {', '.join(signals) or 'none'}"
                check(name in signals, f"vllm-sr.decisions.{rule.name}.when", f"no signal is called {name!r}", fix)
        check(not self.selector_settings or bool(self.selector), "vllm-sr.selector_settings", "there is no selector")
        if self.selector:
            estimator_config(self.selector, self.selector_settings, who="vllm-sr.selector_settings")
        check(self.clusters >= 1, "vllm-sr.clusters", "must be at least 1")
        check(self.alpha > 0, "vllm-sr.alpha", "must be positive")
        for key in ("cost_weight", "shrinkage", "fallbacks"):
            check(0 <= getattr(self, key) < float("inf"), f"vllm-sr.{key}", "must be finite and not negative")

    @property
    def default_targets(self) -> tuple[str, ...]:
        """The ids in `default`."""
        return (self.default,) if isinstance(self.default, str) and self.default else tuple(self.default)

    @property
    def needs(self) -> frozenset[str]:
        """What the signals in use and the selector look at; without decisions, the vector."""
        if not self.decisions:
            return frozenset({"embedding"})
        read = {name for rule in self.decisions for name in parse(rule.when, rule.name).names}
        inner: frozenset[str] = registry.load("estimator", self.selector).needs if self.selector else frozenset()
        return _needs([self.signals[name] for name in read]) | inner

    def settings(self) -> dict[str, Any]:
        """As plain data."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("signals", "decisions")}
        signals = {name: _plain(spec) for name, spec in self.signals.items()}
        return {**plain, "signals": signals, "decisions": [asdict(rule) for rule in self.decisions]}

    def findings(self) -> list[Finding]:
        """Dead, shadowed and conflicting decisions and unused signals, before any fit."""
        when = [parse(rule.when, rule.name) for rule in self.decisions]
        return _findings(self.decisions, when, self.signals, self.strategy)

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> SemanticRules:
        """Embed the examples, learn categories, and average outcomes per decision.

        Raises ConfigError for a target that the table does not have, UserError where categories are asked for and there is no
        row, or the encoder did not make the features.
        """
        measured.same_rows(table, features, self.name)
        self._check_targets(table)
        specs, rules = dict(self.signals), list(self.decisions)
        categories, known = self._categories(table, features, rng)
        if not rules:
            specs = {f"category-{i}": Signal(category=(name,)) for i, name in enumerate(categories)}
            rules = [DecisionRule(name=name, when=f"category-{i}") for i, name in enumerate(categories)]
        signals = Signals(specs, self._embedded(features), categories, known)
        blank = GroupTable(table.targets.ids, (*(rule.name for rule in rules), DEFAULT), *_no_outcomes(len(rules) + 1, table))
        bare = SemanticRules(self, rules, signals, blank, None)
        places = bare.groups_of(features) if len(table) else np.zeros(0, dtype=np.intp)
        grouped = group_table(table, blank.groups, places, self.shrinkage)
        return SemanticRules(self, rules, signals, grouped, self._selected(table, features, rng))

    def _check_targets(self, table: OutcomeTable) -> None:
        named = [(f"vllm-sr.decisions.{rule.name}.use", rule.targets) for rule in self.decisions]
        for path, ids in (*named, ("vllm-sr.default", self.default_targets)):
            for id_ in ids:
                known = f"targets: {', '.join(table.targets.ids)}"
                check(table.targets.position(id_) is not None, path, f"no target is called {id_!r}", known)

    def _categories(
        self, table: OutcomeTable, features: Features, rng: np.random.Generator
    ) -> tuple[list[str], Recogniser | None]:
        if self.decisions and not any(spec.kind == "category" for spec in self.signals.values()):
            return [], None
        vectors = features.vectors(self.name)
        names, rows = of_table(table, vectors, self.label, self.clusters, rng, self.name)
        shown = np.flatnonzero(rows >= 0)
        shown = shown[sample(len(shown), rng)]
        return names, recogniser("logistic", vectors[shown], rows[shown], len(names), alpha=self.alpha)

    def _embedded(self, features: Features) -> dict[str, NDArray[np.float32]]:
        wanted = {name: spec for name, spec in self.signals.items() if spec.kind == "examples"}
        if not wanted:
            return {}
        encoder = load_encoder(self.encoder)
        if features.embedding is not None and features.embedding.shape[1] != encoder.dim:
            message = f"makes vectors of {encoder.dim} numbers, the features have {features.embedding.shape[1]}"
            raise UserError(message, field="vllm-sr.encoder", fix="name the encoder that made the features")
        return {name: encoder.encode(list(spec.values)) for name, spec in wanted.items()}

    def _selected(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> UtilityPolicy | None:
        if not self.selector:
            return None
        config = UtilityConfig(
            estimator=self.selector,
            estimator_settings=self.selector_settings,
            cost_weight=self.cost_weight,
            fallbacks=self.fallbacks,
        )
        return config.fit(table, features, rng)


def _no_outcomes(groups: int, table: OutcomeTable) -> tuple[Array, Array]:
    """Placeholders [G, M] of a policy that only has to say which decision matches."""
    return np.zeros((groups, len(table.targets))), np.full((groups, len(table.targets)), np.nan)


def _rule(found: Any, place: int) -> DecisionRule:
    path = f"vllm-sr.decisions[{place}]"
    check(isinstance(found, (DecisionRule, Mapping)), path, "must be a table with `when` and `use`")
    rule = found if isinstance(found, DecisionRule) else configured(DecisionRule, found, path)
    check(rule.name != DEFAULT, f"{path}.name", f"{DEFAULT!r} is the name of what happens when none matches")
    return replace(rule, name=rule.name or f"decision {place + 1}")
