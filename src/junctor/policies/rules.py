"""rules: the first matching hand-written rule.

[[policies.mine.settings.rules]]
when = { label = { task = ["code", "sql"] }, max_length = 4000 }     # all conditions must hold
use = ["codestral", "gpt-4o"]                                        # the first one that is in the catalogue, others stand by
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About
from junctor.errors import ConfigError
from junctor.estimators import saved
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policy import Array, Policy, PolicyConfig, State
from junctor.types import Catalogue, Decision, Request


@dataclass(frozen=True, kw_only=True)
class When:
    """Conditions, all of which must hold; none at all always holds.

    label        label name -> the value, or any of the values, that it must have
    contains     the text, or any of the texts, that must occur in the request, in upper or lower case
    regex        a pattern that must be found in the request
    min_length, max_length   of the request, in characters
    needs        the capability, or all of the capabilities, that the request cannot do without
    """

    label: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    contains: str | tuple[str, ...] = ()
    regex: str = ""
    min_length: int | None = None
    max_length: int | None = None
    needs: str | tuple[str, ...] = ()

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return re.compile(self.regex) if self.regex else None

    @cached_property
    def _words(self) -> tuple[str, ...]:
        return tuple(word.casefold() for word in _listed(self.contains))

    @cached_property
    def _values(self) -> dict[str, tuple[str, ...]]:
        return {name: _listed(values) for name, values in self.label.items()}

    @cached_property
    def _capabilities(self) -> frozenset[str]:
        return frozenset(_listed(self.needs))

    @property
    def always(self) -> bool:
        """Whether nothing is asked."""
        return self == When()

    def holds(self, text: str, labels: Mapping[str, str], needs: frozenset[str]) -> bool:
        """Whether all conditions hold."""
        long_enough = self.min_length is None or len(text) >= self.min_length
        short_enough = self.max_length is None or len(text) <= self.max_length
        return (
            long_enough
            and short_enough
            and self._capabilities <= needs
            and all(labels.get(name, "") in values for name, values in self._values.items())
            and (not self._words or any(word in text.casefold() for word in self._words))
            and (self._pattern is None or self._pattern.search(text) is not None)
        )

    def validate(self, path: str) -> None:
        """Raise ConfigError for a condition that can never hold or cannot be read."""
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ConfigError(f"is no regular expression: {error}", field=f"{path}.regex", fix="Python's syntax") from error
        low, high = self.min_length or 0, self.max_length
        check(low >= 0, f"{path}.min_length", "must not be negative")
        check(high is None or high >= low, f"{path}.max_length", "must not be below min_length")

    def __str__(self) -> str:
        said = {name: value for name in WHEN_KEYS if (value := getattr(self, name)) not in (None, "", (), {}, [])}
        return ", ".join(f"{name} {value!r}" for name, value in said.items()) or "always"


WHEN_KEYS = ("label", "contains", "regex", "min_length", "max_length", "needs")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """when: conditions; use: the target, or the targets in order of preference."""

    when: Any = field(default_factory=dict)
    use: str | tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The ids in `use`."""
        return _listed(self.use)


class Rules(Policy):
    """Tries the rules in order, then the default."""

    name: ClassVar[str] = "rules"

    def __init__(self, config: RulesConfig) -> None:
        self.config = config
        self._default = _listed(config.default)

    @property
    def needs(self) -> frozenset[str]:
        """Labels, when a rule reads them."""
        return self.config.needs

    @property
    def label_names(self) -> frozenset[str]:
        """What some rule looks at."""
        return frozenset(name for rule in self.config.rules for name in rule.when.label)

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """The targets of the first rule that matches and has one here; raises NoTarget when no rule gives any."""
        del rng
        labels = request.labels or {name: values[0] for name, values in Features.of(request).labels.items()}
        ids, reason = self._first(request.text, labels, request.needs, targets)
        return choosing.decision(request, ids, policy=self.title, version=self.version, reasons=(reason,))

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """The same for N rows; rows of a table ask for no capability."""
        del rng
        choices = np.empty(len(features), dtype=np.intp)
        for row, text in enumerate(features.texts):
            labels = {name: values[row] for name, values in features.labels.items()}
            ids, _ = self._first(text, labels, frozenset(), targets)
            choices[row] = targets.ids.index(ids[0])
        return choices, np.ones(len(features))

    def _first(self, text: str, labels: Mapping[str, str], needs: frozenset[str], targets: Catalogue) -> tuple[list[str], str]:
        choosing.some(targets)
        passed = ""
        for place, rule in enumerate(self.config.rules, start=1):
            if rule.when.holds(text, labels, needs):
                ids = [id_ for id_ in rule.targets if targets.position(id_) is not None]
                if ids:
                    return ids, f"rule {place} matches: {rule.when}{passed}"
                passed += f"; rule {place} matches too, but its targets are not available"
        ids = [id_ for id_ in self._default if targets.position(id_) is not None]
        if not ids:
            refusals = dict.fromkeys(targets.ids, "no rule that matches names it")
            choosing.refuse("no rule gives a target", refusals, fix="add a default, or a rule without conditions at the end")
        return ids, f"no rule decides: the default{passed}"

    def state(self) -> State:
        """The rules themselves."""
        return State({"settings": self.config.settings()})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        return cls(configured(RulesConfig, saved.entry(state, "settings", dict[str, Any]), cls.name))


@dataclass(frozen=True, kw_only=True)
class RulesConfig(PolicyConfig):
    """rules: Rule objects or plain tables, tried in order; default: the target, or targets, when none decides."""

    rules: Sequence[Any] = ()
    default: str | tuple[str, ...] = ()

    name: ClassVar[str] = "rules"
    fitted: ClassVar[type[Policy]] = Rules
    about: ClassVar[About | None] = About(
        title="Hand-written rules",
        family="bars",
        status="ours",
        source="folklore",
        formula="the first rule whose conditions all hold; of its targets the first that is in the catalogue",
        complexity="fit: none; decision: O(rules)",
    )

    def __post_init__(self) -> None:
        rules = tuple(_rule(found, f"rules.rules[{i}]") for i, found in enumerate(self.rules))
        object.__setattr__(self, "rules", rules)
        check(bool(rules or _listed(self.default)), "rules.rules", "there is no rule", "add a rule or a default")
        catch_all = next((i for i, rule in enumerate(rules) if rule.when.always), len(rules) - 1)
        path = f"rules.rules[{catch_all + 1}]"
        check(
            catch_all >= len(rules) - 1, path, f"is never reached: rule {catch_all + 1} before it always matches", "move it up"
        )

    @property
    def needs(self) -> frozenset[str]:
        """Labels, when a rule reads them."""
        return frozenset({"labels"}) if any(rule.when.label for rule in self.rules) else frozenset()

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Rules:
        """Learn nothing; raises ConfigError for a rule that names a target which the table does not have."""
        del features, rng
        named = [(f"rules.rules[{i}].use", rule.targets) for i, rule in enumerate(self.rules)]
        for path, ids in (*named, ("rules.default", _listed(self.default))):
            for id_ in ids:
                known = ", ".join(table.targets.ids)
                check(table.targets.position(id_) is not None, path, f"no target is called {id_!r}", f"targets: {known}")
        return Rules(self)


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """One or many, as a tuple; an empty string is none."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(value)


def _rule(found: Any, path: str) -> Rule:
    """From a Rule or a plain table; raises ConfigError that names the wrong key."""
    check(isinstance(found, (Rule, Mapping)), path, "must be a table with `when` and `use`")
    rule = found if isinstance(found, Rule) else configured(Rule, found, path)
    when = rule.when
    check(isinstance(when, (When, Mapping)), f"{path}.when", "must be a table of conditions", f"known: {', '.join(WHEN_KEYS)}")
    when = when if isinstance(when, When) else configured(When, when, f"{path}.when")
    when.validate(f"{path}.when")
    check(bool(rule.targets), f"{path}.use", "names no target", 'for example use = "gpt-4o-mini"')
    return Rule(when=when, use=rule.use)
