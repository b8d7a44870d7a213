"""arch-router: policies in words ("domain: action"), one is picked for the request, and a table of its own maps it to targets.

Source: Arch-Router (its abstract was read, figures are third-party notes). There a 1.5B language model reads the list of
policies and the conversation and emits a name. Here a policy is recognised by its words (cosine and shared n-grams: no training
at all), by the mean of a few examples, or by a classifier. A new policy, or another target for an old one, needs no training:
`with_policy` and `with_targets`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.encoders import load_encoder
from junctor.errors import ArtefactError, UserError
from junctor.estimators import measured, saved
from junctor.estimators.categories import CENTROID_SCALE, Recogniser, crossed, of_labels, recogniser, sample
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.mapped import GroupTable, Mapped, along_weights, as_named, group_table
from junctor.policy import Array, Policy, PolicyConfig, State

OTHER = "other"
BRIEF = 8.0
"""Words of a turn at which its own wording counts as much as the policy of the turn before it."""
STICKY = 0.6
"""Chance that a turn stays with the policy of the one before it, where no training row says."""

Ints = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class RoutePolicy:
    """An "action" or a "domain: action"; what it is in words (the name's by default); targets in order, none: by outcomes."""

    name: str
    description: str = ""
    use: str | tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        """What comes before the colon, else the name itself."""
        return self.name.partition(":")[0].strip()

    @property
    def words(self) -> str:
        """What is embedded."""
        return self.description or " ".join(re.findall(r"[^\W_]+", self.name))

    @property
    def targets(self) -> tuple[str, ...]:
        """The ids in `use`."""
        return (self.use,) if isinstance(self.use, str) and self.use else tuple(self.use)


@dataclass(frozen=True, slots=True)
class Reader:
    """How policies are recognised.

    known       scores of P policies from a vector
    grams       [P, L] n-gram vectors of the descriptions; L = 0 without the lexical channel
    follows     [P + 1, P] log chance of a policy after each policy, and after none (the last row, all 0)
    threshold   score below which no policy fits
    """

    known: Recogniser
    grams: NDArray[np.float32]
    follows: Array
    threshold: float


class PolicyWords(Mapped):
    """Holds the policies, how they are recognised, and outcomes per policy. The last group is "other"."""

    name: ClassVar[str] = "arch-router"
    why: ClassVar[str] = "policy"

    def __init__(self, config: ArchRouterConfig, policies: Sequence[RoutePolicy], reader: Reader, table: GroupTable) -> None:
        self.config, self.policies, self.reader = config, tuple(policies), reader
        self._lexical = load_encoder("lexical") if reader.grams.shape[1] else None
        self._place = {policy.name: i for i, policy in enumerate(self.policies)}
        self._others = np.array([self._place.get(f"{p.domain}: {OTHER}", len(self.policies)) for p in self.policies], np.intp)
        domains = sorted({p.domain for p in self.policies})
        self._domains = np.array([domains.index(p.domain) for p in self.policies], dtype=np.intp)
        scores, settings = along_weights(table, config.cost_weight)
        named = [p.targets for p in self.policies] + [config.other_targets]
        super().__init__(table, as_named(scores, table, named), settings, config.fallbacks)

    @property
    def needs(self) -> frozenset[str]:
        """The vector; and labels, where the policy of the turn before counts."""
        return self.config.needs

    def inside(self, features: Features) -> Array:
        """[N] how well the best policy fits."""
        return np.asarray(self.scores(features).max(axis=1))

    def scores(self, features: Features) -> Array:
        """[N, P] of every policy for N requests, the turn before included."""
        vectors = measured.of_width(features.vectors(self.name), self.reader.known.dim, self.name)
        found = self.reader.known.scores(vectors)
        if self._lexical is not None:
            grams = (self._lexical.encode(features.texts) @ self.reader.grams.T).astype(np.float64)
            found = (1.0 - self.config.lexical) * found + self.config.lexical * CENTROID_SCALE * grams
        if self.config.follow:
            before = [self._place.get(name, len(self.policies)) for name in features.label(self.config.previous)]
            weight = self.config.follow * np.array([brevity(text) for text in features.texts])
            found = found + weight[:, None] * self.reader.follows[before]
        return found

    def groups_of(self, features: Features) -> Ints:
        """The best policy; its domain's "other", or the last group, where even that does not fit."""
        scores = self.scores(features)
        if self.config.hierarchy:
            scores = within_best_domain(scores, self._domains)
        best = scores.argmax(axis=1)
        fits = scores[np.arange(len(scores)), best] >= self.reader.threshold
        return np.where(fits, best, self._others[best] if self.config.hierarchy else len(self.policies))

    def with_targets(self, mapping: Mapping[str, Sequence[str]]) -> PolicyWords:
        """Another map from policies to targets, new targets included; nothing is fitted. This one is unchanged."""
        unknown = [name for name in mapping if name not in self._place]
        if unknown:
            raise UserError("is not a policy", field=unknown[0], fix=f"policies: {', '.join(self._place)}")
        policies = [replace(p, use=tuple(mapping[p.name])) if p.name in mapping else p for p in self.policies]
        return PolicyWords(self.config, policies, self.reader, _wider(self.table, policies, self.config.other_targets))

    def with_policy(self, policy: RoutePolicy, examples: Features | None = None) -> PolicyWords:
        """One more policy, by its words or by the mean of a few examples; nothing else is fitted. This one is unchanged.

        Raises UserError for a name that is taken, without examples where policies are known by them, and for a classifier.
        """
        if policy.name in self._place:
            raise UserError("is already a policy", field=policy.name, fix="give it another name, or use with_targets")
        if self.config.mode == "logistic":
            raise UserError("has to be fitted anew to know another policy", field=policy.name, fix="use mode words or centroid")
        if self.config.mode == "centroid" and examples is None:
            raise UserError("policies are known by examples here", field=policy.name, fix="pass a few of them")
        policies = [*self.policies, policy]
        old, count = self.reader, len(self.policies)
        column, grams = _described(self.config, [policy])
        if self.config.mode == "centroid" and examples is not None:
            column = recogniser("centroid", examples.vectors(self.name), np.zeros(len(examples), np.intp), 1).weights.T
        known = replace(
            old.known,
            weights=np.hstack([old.known.weights, measured.of_width(column, old.known.dim, self.name).T]),
            bias=np.append(old.known.bias, 0.0),
        )
        follows = _prior(count + 1)
        follows[:count, :count] = old.follows[:count]
        reader = Reader(known, np.vstack([old.grams, grams]), follows, old.threshold)
        table = replace(
            self.table,
            groups=(*self.table.groups[:-1], policy.name, OTHER),
            quality=np.vstack([self.table.quality, self.table.quality[-1:]]),
            cost=np.vstack([self.table.cost, self.table.cost[-1:]]),
        )
        return PolicyWords(self.config, policies, reader, _wider(table, policies, self.config.other_targets))

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> PolicyWords:
        """Another target by outcomes: its means per policy over the calibration rows; policies stay as they are."""
        one = rows.only([target])
        if target in self.table.targets:
            raise UserError("is already known", field=target, fix="onboard each target once, or fit anew")
        found = group_table(one, self.table.groups, self.groups_of(features), self.config.shrinkage)
        table = replace(
            self.table,
            targets=(*self.table.targets, target),
            quality=np.hstack([self.table.quality, found.quality]),
            cost=np.hstack([self.table.cost, found.cost]),
        )
        return PolicyWords(self.config, self.policies, self.reader, table)

    def state(self) -> State:
        """Policies, recogniser, n-grams, follow-ups, threshold and outcomes."""
        known, table = self.reader.known.state("known"), self.table.state()
        config = {
            "settings": self.config.settings(),
            "policies": [asdict(policy) for policy in self.policies],
            "threshold": max(self.reader.threshold, float(np.finfo(np.float64).min)),
            **known.config,
            **table.config,
        }
        return State(config, {**known.arrays, **table.arrays, "grams": self.reader.grams, "follows": self.reader.follows})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(ArchRouterConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        policies = [configured(RoutePolicy, p, "policies") for p in saved.entry(state, "policies", list[dict[str, Any]])]
        known, table, count = Recogniser.from_state(state, "known"), GroupTable.from_state(state), len(policies)
        if known.count != count or len(table.groups) != count + 1:
            raise ArtefactError("are not as many as the recogniser knows", field="policies", fix=saved.FIX)
        grams = saved.array(state, "grams", (count, None), np.float32)
        follows = saved.array(state, "follows", (count + 1, count))
        return cls(config, policies, Reader(known, grams, follows, saved.entry(state, "threshold", float)), table)


def brevity(text: str) -> float:
    """How little a turn says for itself, in (0, 1]: 1 without a word, a half at BRIEF words."""
    return BRIEF / (BRIEF + len(text.split()))


def within_best_domain(scores: Array, domains: Ints) -> Array:
    """Domain first, then action: policies outside the domain of the highest summed odds are out (-inf)."""
    top = scores.max(axis=1, keepdims=True)
    odds = np.zeros((len(scores), int(domains.max()) + 1))
    np.add.at(odds.T, domains, np.exp(scores - top).T)
    return np.where(domains == odds.argmax(axis=1)[:, None], scores, -np.inf)


def _prior(count: int) -> Array:
    """[P + 1, P] log chances when nothing is known but that people tend to stay with what they are at."""
    away = (1.0 - STICKY) / max(1, count - 1)
    follows = np.log(np.where(np.eye(count + 1, count) > 0, STICKY, away))
    follows[-1] = 0.0
    return np.asarray(follows)


def _follows(rows: Ints, before: Ints, count: int) -> Array:
    """[P + 1, P] from counted transitions, drawn to the prior as if it had been seen 5 times; the last row is 0."""
    follows = _prior(count)
    known = (rows >= 0) & (before >= 0)
    times = np.zeros((count, count))
    np.add.at(times, (before[known], rows[known]), 1.0)
    share = (times + 5.0 * np.exp(follows[:-1])) / (times.sum(axis=1, keepdims=True) + 5.0)
    follows[:-1] = np.log(share)
    return follows


def _described(config: ArchRouterConfig, policies: Sequence[RoutePolicy]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors [P, D], scaled to scores, and n-gram vectors [P, L] of the descriptions; empty unless known by words."""
    if config.mode != "words":
        return np.zeros((len(policies), 0), np.float32), np.zeros((len(policies), 0), np.float32)
    texts = [policy.words for policy in policies]
    grams = load_encoder("lexical").encode(texts) if config.lexical else np.zeros((len(texts), 0), np.float32)
    return load_encoder(config.encoder).encode(texts) * np.float32(CENTROID_SCALE), grams


def _wider(table: GroupTable, policies: Sequence[RoutePolicy], other: Sequence[str]) -> GroupTable:
    """With columns for targets that policies name and no outcome knows."""
    named = dict.fromkeys(id_ for ids in (*(p.targets for p in policies), other) for id_ in ids)
    new = [id_ for id_ in named if id_ not in table.targets]
    blank = np.full((len(table.groups), len(new)), np.nan)
    quality, cost = (np.hstack([values, blank]) for values in (table.quality, table.cost))
    return replace(table, targets=(*table.targets, *new), quality=quality, cost=cost)


@dataclass(frozen=True, kw_only=True)
class ArchRouterConfig(PolicyConfig):
    """Policies, how they are recognised, and what happens when none fits.

    policies    tables of name, description, use; none: one per value of the table's label, its words the description
    other       targets when no policy fits; none: those that did best over all rows
    mode        logistic, centroid: from labelled training rows; words: from the descriptions, without training
    lexical     weight of the n-gram channel beside the cosine (words only)
    hierarchy   choose the domain first (what comes before the colon), then the action, or the domain's "other"
    loss        share of labelled training rows that may be lost to "other"; sets the threshold
    threshold   the least score of a fitting policy, in place of `loss`
    follow      weight of the policy of the turn before, which the label `previous` names; 0 looks at the turn alone
    label       the label whose values are the policies, by default the table's own
    alpha, encoder, cost_weight, shrinkage, fallbacks   as elsewhere
    """

    policies: Sequence[Any] = ()
    other: str | tuple[str, ...] = ()
    mode: Literal["logistic", "centroid", "words"] = "logistic"
    lexical: float = 0.3
    hierarchy: bool = False
    loss: float = 0.0
    threshold: float | None = None
    follow: float = 0.0
    previous: str = "previous_policy"
    label: str = ""
    alpha: float = 0.3
    encoder: str = "static"
    cost_weight: float = 0.0
    shrinkage: float = 10.0
    fallbacks: int = 2

    name: ClassVar[str] = "arch-router"
    fitted: ClassVar[type[Policy]] = PolicyWords
    about: ClassVar[About | None] = About(
        title="Arch-Router",
        family="label first",
        status="adapted",
        source="Arch-Router: aligning routing with preferences, domain-action policies",
        formula="policy = argmax_p score(x, words or examples of p) + follow * brevity(x) * log P(p | policy before); "
        "target = table[policy]",
        complexity="fit: none by words, one classifier otherwise; decision: O(P D)",
        adapted=(
            "The 1.5B language model is replaced by cosine and n-grams, by means of examples, or by a classifier.",
            "Without policies of yours they are the values of the table's label, mapped to the best target of their rows.",
            "Of the conversation, the policy of the turn before is read, not its text.",
        ),
        unverified=("The paper's prompt and how it truncates conversations.",),
        claims=(
            Claim(figure="93.17% routing accuracy, 51 ms", on="CLINC-150, MANtIS, SGD and LMSYS together", sure="notes"),
            Claim(figure="7.71 points over the mean of proprietary models", on="the same", sure="notes"),
        ),
    )

    def __post_init__(self) -> None:
        policies = tuple(_policy(found, place) for place, found in enumerate(self.policies))
        object.__setattr__(self, "policies", policies)
        object.__setattr__(self, "other", self.other_targets)
        names = [policy.name for policy in policies]
        check(len(set(names)) == len(names), "arch-router.policies", "a name is used twice", "name each policy once")
        check(0.0 <= self.lexical <= 1.0, "arch-router.lexical", "must be in [0, 1]")
        check(0.0 <= self.loss < 1.0, "arch-router.loss", "must be in [0, 1)")
        check(self.alpha > 0, "arch-router.alpha", "must be positive")
        for key in ("follow", "cost_weight", "shrinkage", "fallbacks"):
            check(0 <= getattr(self, key) < float("inf"), f"arch-router.{key}", "must be finite and not negative")

    @property
    def other_targets(self) -> tuple[str, ...]:
        """The ids in `other`."""
        return (self.other,) if isinstance(self.other, str) and self.other else tuple(self.other)

    @property
    def needs(self) -> frozenset[str]:
        """The vector; and labels, where the policy of the turn before counts."""
        return frozenset({"embedding", "labels"} if self.follow else {"embedding"})

    def settings(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(replace(self, policies=())) | {"policies": [asdict(policy) for policy in self.policies]}

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> PolicyWords:
        """Read the policies and average outcomes per policy; raises UserError where there is nothing to know a policy by."""
        measured.same_rows(table, features, self.name)
        policies, rows = self._policies(table)
        if self.mode != "words" and not (rows >= 0).any():
            fix = "use mode words, or record rows whose label names a policy"
            raise UserError("has no labelled row to know a policy by", field="arch-router.mode", fix=fix)
        known, grams = self._known(policies, rows, features, rng)
        place = {policy.name: i for i, policy in enumerate(policies)}
        before = np.array([place.get(name, -1) for name in features.label(self.previous)], dtype=np.intp)
        follows = _follows(rows, before, len(policies))
        grouped = group_table(table, [*place, OTHER], np.where(rows >= 0, rows, len(policies)), self.shrinkage)
        grouped = _wider(grouped, policies, self.other_targets)
        open_ = float(np.finfo(np.float64).min)
        made = PolicyWords(self, policies, Reader(known, grams, follows, open_), grouped)
        threshold = self._threshold(made, rows, features, rng)
        return PolicyWords(self, policies, Reader(known, grams, follows, threshold), grouped)

    def _policies(self, table: OutcomeTable) -> tuple[list[RoutePolicy], Ints]:
        """The policies, and the place of each row's among them, -1 for none."""
        names, rows = of_labels(table, self.label)
        if not self.policies:
            if not names:
                fix = "describe policies in the settings, or record labels"
                raise UserError("has no policies: neither named nor labelled", field="arch-router.policies", fix=fix)
            return [RoutePolicy(name=name) for name in names], rows
        policies: list[RoutePolicy] = list(self.policies)
        place = {policy.name: i for i, policy in enumerate(policies)}
        moved = np.array([*(place.get(name, -1) for name in names), -1], dtype=np.intp)
        return policies, moved[rows]

    def _known(
        self, policies: Sequence[RoutePolicy], rows: Ints, features: Features, rng: np.random.Generator
    ) -> tuple[Recogniser, NDArray[np.float32]]:
        if self.mode == "words":
            vectors, grams = _described(self, policies)
            if features.embedding is not None and features.embedding.shape[1] != vectors.shape[1]:
                message = f"makes vectors of {vectors.shape[1]} numbers, the features have {features.embedding.shape[1]}"
                raise UserError(message, field="arch-router.encoder", fix="name the encoder that made the features")
            weights = np.ascontiguousarray(vectors.T)
            return Recogniser("centroid", weights, np.zeros(len(policies)), np.zeros(0, np.intp)), grams
        shown = np.flatnonzero(rows >= 0)
        shown = shown[sample(len(shown), rng)]
        vectors = features.vectors(self.name)[shown]
        known = recogniser(self.mode, vectors, rows[shown], len(policies), alpha=self.alpha)
        return known, np.zeros((len(policies), 0), np.float32)

    def _threshold(self, made: PolicyWords, rows: Ints, features: Features, rng: np.random.Generator) -> float:
        """The least score of a fitting policy, from rows that the scores have not been fitted on."""
        if self.threshold is not None:
            return self.threshold
        shown = np.flatnonzero(rows >= 0)
        if not self.loss or not len(shown):
            return float(np.finfo(np.float64).min)
        shown = shown[sample(len(shown), rng)]
        if self.mode == "words":
            return float(np.quantile(made.inside(features.take(shown)), self.loss))
        fresh = crossed(
            self.mode, features.vectors(self.name)[shown], rows[shown], len(made.policies), rng, alpha=self.alpha, folds=5
        )
        return float(np.quantile(fresh.max(axis=1), self.loss))


def _policy(found: Any, place: int) -> RoutePolicy:
    path = f"arch-router.policies[{place}]"
    check(isinstance(found, (RoutePolicy, Mapping)), path, "must be a table with `name`, `description` and `use`")
    made = found if isinstance(found, RoutePolicy) else configured(RoutePolicy, found, path)
    check(bool(made.name.strip()) and made.name != OTHER, f"{path}.name", f"must not be empty or {OTHER!r}")
    return made
