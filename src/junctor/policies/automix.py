"""automix: a small model answers and verifies itself; a large one is asked when the verdicts say that it would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.curves import area_under_hull
from junctor.errors import ArtefactError
from junctor.estimators import saved
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.plans.signals import HALF, verified
from junctor.plans.tape import Recording, Tape, replay_of
from junctor.policies.choosing import plan_of
from junctor.policies.staged import Staged, costs_of, described, filled, named, outcomes_of
from junctor.policies.trading import expected
from junctor.policy import Array, Policy, PolicyConfig, Replay, State
from junctor.types import Call, Cascade, Outcome, Plan, Request

Flags = NDArray[np.bool_]
Rule = Literal["auto", "threshold", "double", "pomdp"]
RULES = ("threshold", "double", "pomdp")
WEIGHTS = (0.0, *np.geomspace(2e-2, 2.0, 24).tolist(), float("inf"))
"""The knob: quality that a call of the large model must gain to be worth its mean cost."""
STATES = 3
"""Hidden states: the small model is good, the large one is needed, hopeless."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What rows with each number of yes verdicts, 0 to k, came to: sums [k + 1], and [3, k + 1] counts per hidden state."""

    rows: Array
    gain: Array
    cost: Array
    states: Array
    state_gain: Array

    @classmethod
    def of(cls, p_ver: Array, small: Array, large: Array, cost: Array, k: int) -> Counted:
        """p_ver, quality of both and cost of the large one in units of its mean: all [n]."""
        place = np.rint(p_ver * k).astype(np.intp)
        gain = large - small
        state = np.where(gain > 0, 1, np.where(np.maximum(small, large) >= HALF, 0, 2))

        def count(weights: Array | None = None) -> Array:
            return np.bincount(place, weights, k + 1).astype(np.float64)

        states = np.stack([count((state == s).astype(np.float64)) for s in range(STATES)])
        mean = [float(gain[state == s].mean()) if (state == s).any() else 0.0 for s in range(STATES)]
        return cls(count(), count(gain), count(cost), states, np.array(mean))

    def reward(self, escalate: Flags, weight: float) -> float:
        """Sum over the rows of what escalating gains, less its cost, against never escalating."""
        return float((self.gain - weight * self.cost)[escalate].sum()) if np.isfinite(weight) else -float(escalate.sum())


def threshold(seen: Counted, weight: float) -> Flags:
    """Escalate below the best threshold on the number of yes."""
    worth = np.concatenate([[0.0], np.cumsum(seen.gain - weight * seen.cost)])
    return np.arange(len(seen.rows)) < int(worth.argmax())


def double_threshold(seen: Counted, weight: float) -> Flags:
    """Escalate between the two best thresholds: below the lower one the query is hopeless."""
    worth = np.concatenate([[0.0], np.cumsum(seen.gain - weight * seen.cost)])
    span = worth[None, :] - worth[:, None]
    low, high = np.unravel_index(int(np.where(np.triu(np.ones_like(span)) > 0, span, -np.inf).argmax()), span.shape)
    place = np.arange(len(seen.rows))
    return (place >= low) & (place < high)


def pomdp(seen: Counted, weight: float) -> Flags:
    """Belief over the hidden states given each observation (Laplace-smoothed); escalate where the expected gain is worth it."""
    joint = seen.states + 1.0 / seen.states.shape[1]
    belief = joint / joint.sum(axis=0)
    cost = seen.cost.sum() / max(1.0, float(seen.rows.sum()))
    flags: Flags = seen.state_gain @ belief > weight * cost
    return flags


MAKERS = {"threshold": threshold, "double": double_threshold, "pomdp": pomdp}


@dataclass(frozen=True, slots=True)
class Meta:
    """The meta-verifier at one cost weight: which rule won, and whether it escalates at 0 … k yes."""

    rule: str
    escalate: tuple[bool, ...]

    def settings(self, k: int) -> dict[str, Any]:
        """For the plan's verifier. A run of yes from 0 is a threshold, a run elsewhere a double one."""
        flags = np.array(self.escalate)
        where = np.flatnonzero(flags)
        if not len(where):
            return {"k": k, "rule": "threshold", "threshold": 0.0}
        low, high = (where[0] - HALF) / k, (where[-1] + HALF) / k
        if not flags[where[0] : where[-1] + 1].all():
            return {"k": k, "rule": "pomdp", "escalate": [bool(flag) for flag in self.escalate]}
        if where[0] == 0:
            return {"k": k, "rule": "threshold", "threshold": float(high)}
        return {"k": k, "rule": "double", "threshold": float(high), "hopeless": float(low)}


class AutoMix(Staged):
    """The chain is the small and the large model; `metas` has one meta-verifier per weight of WEIGHTS."""

    name: ClassVar[str] = "automix"

    def __init__(self, config: AutoMixConfig, chain: Sequence[str], known: dict[str, Outcome], metas: Sequence[Meta]) -> None:
        super().__init__(chain, known)
        self.config, self.metas = config, tuple(metas)

    @property
    def meta(self) -> Meta:
        """The one of the configured cost weight."""
        return self.metas[int(np.argmin(np.abs(np.array(WEIGHTS[:-1]) - self.config.cost_weight)))]

    def plan_of(self, chain: Sequence[str], request: Request) -> tuple[Plan, tuple[str, ...]]:
        """Small, verifier, large; without a second model there is nothing to verify for."""
        del request
        if len(chain) < 2:
            return plan_of(chain), ("the only one of its two models that is here",)
        meta, k = self.meta, self.config.k
        where = [str(i) for i, flag in enumerate(meta.escalate) if flag]
        asks = f"{chain[1]} is asked at {', '.join(where)} of {k} yes" if where else f"{chain[1]} is never worth its cost"
        reasons = (f"{chain[0]} answers and verifies itself {k} times", f"{asks}, by {meta.rule}")
        return Cascade(tuple(Call(id_) for id_ in chain), "verifier", meta.settings(k)), reasons

    def replay(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Replay:
        """Along the cost weight; every query pays for its verification, whatever comes of it."""
        del features
        recording = Recording(table, {"p_ver": self.config.verdicts(table, rng)})
        columns = self.columns(table)
        tapes = [self._run(recording, columns, np.array(meta.escalate)) for meta in self.metas]
        return replay_of(WEIGHTS, tapes, billed=table.cost_usd is not None)

    def _run(self, recording: Recording, columns: Sequence[int], escalate: Flags) -> Tape:
        tape, rows, small = recording.tape(), np.arange(recording.shape[0]), columns[0]
        tape.call(rows, small)
        tape.give(rows, small)
        if len(columns) > 1:
            tape.pay(rows, small, self.config.verification_cost, self.config.k)
            p_ver = tape.read("p_ver", rows, small)
            observed = np.rint(np.nan_to_num(p_ver) * self.config.k).astype(np.intp)
            onward = rows[escalate[observed] & ~np.isnan(p_ver)]
            tape.call(onward, columns[1])
            tape.give(onward, columns[1])
        return tape

    def state(self) -> State:
        """Chain, meta-verifiers and settings."""
        metas = [{"rule": meta.rule, "escalate": list(meta.escalate)} for meta in self.metas]
        return State({**self.described(), "metas": metas, "settings": self.config.settings()})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(AutoMixConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        metas = saved.entry(state, "metas", list[Meta])
        if len(metas) != len(WEIGHTS) or any(len(meta.escalate) != config.k + 1 for meta in metas):
            raise ArtefactError("do not fit the settings", field="metas", fix=saved.FIX)
        return cls(config, *described(state), metas)


@dataclass(frozen=True, kw_only=True)
class AutoMixConfig(PolicyConfig):
    """Two models, a verifier, a rule.

    small, large       target ids; "": the large one is the best on the training rows, the small one the cheaper target of which
                       the cascade is best on held-out training rows
    k                  verifications per answer
    rule               auto: the one of the best reward on held-out training rows, per cost weight
    cost_weight        quality that a call of the large model must gain to be worth its mean cost
    threshold          on p_ver, used when there is no outcome to learn a rule from
    verification_cost  all k verifications, in calls of the small model, on replays
    yes_right          mean share of yes for right answers, yes_wrong for wrong ones, where verdicts are not recorded
    concentration      how alike the verdicts of one answer are: its share of yes is Beta with this concentration
    """

    small: str = ""
    large: str = ""
    k: int = 8
    rule: Rule = "auto"
    cost_weight: float = 0.0
    threshold: float = 0.5
    verification_cost: float = 1.0
    yes_right: float = 0.75
    yes_wrong: float = 0.45
    concentration: float = 3.0

    name: ClassVar[str] = "automix"
    fitted: ClassVar[type[Policy]] = AutoMix
    about: ClassVar[About | None] = About(
        title="AutoMix",
        family="after the answer",
        status="simulated",
        source="Madaan et al. 2023, AutoMix: Automatically Mixing Language Models; authors' code",
        formula=(
            "p_ver = share of yes among k = 8 self-verifications of the small model's answer\n"
            "escalate by a threshold, a double threshold, or a POMDP over {small is good, large is needed, hopeless}\n"
            "observing p_ver; the rule with the best validation reward, quality - weight * cost, wins"
        ),
        complexity="fit O(N M k^2); a decision O(k)",
        adapted=(
            "Verdicts are replayed where a table records them (samples of 'verified').",
            "Else they are drawn: yes with mean probability .75 where right and .45 where wrong, Beta with concentration 3.",
            "The POMDP ends after one action, so that its policy is the belief's expected gain against the cost.",
            "The two models are chosen on the training rows unless they are named.",
        ),
        unverified=("That the paper draws 8 verifications.",),
        claims=(Claim(figure="over 50% lower cost at equal quality", on="five reading and reasoning sets", sure="notes"),),
    )

    def __post_init__(self) -> None:
        check(1 <= self.k <= 64, "automix.k", "must be 1 to 64")
        check(not self.small or self.small != self.large, "automix.large", "is also the small one")
        check(self.concentration > 0, "automix.concentration", "must be positive")
        for name in ("cost_weight", "verification_cost"):
            check(0 <= getattr(self, name) < float("inf"), f"automix.{name}", "must be finite and not negative")
        for name in ("yes_right", "yes_wrong", "threshold"):
            check(0 <= getattr(self, name) <= 1, f"automix.{name}", "must be in [0, 1]")

    def verdicts(self, table: OutcomeTable, rng: np.random.Generator) -> Array:
        """[N, M, 1] p_ver of every cell, recorded or drawn."""
        return verified(table, self.k, (self.yes_right, self.yes_wrong), self.concentration, rng)

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> AutoMix:
        """Half of the rows make the rules, the other half choose among them. Raises UserError without outcomes to choose by."""
        del features
        given = named([id_ for id_ in (self.small, self.large) if id_], table, "automix")
        if len(given) == 2 and not len(table):
            return AutoMix(self, given, expected(table), [self._unlearned()] * len(WEIGHTS))
        known = outcomes_of(table, self.name)
        data = _Data.of(self, table, rng)
        large = data.best if not self.large else table.targets.ids.index(self.large)
        smalls = [table.targets.ids.index(self.small)] if self.small else data.cheaper(large)
        if not smalls:
            return AutoMix(self, [table.targets.ids[large]], known, [self._unlearned()] * len(WEIGHTS))
        found = [data.mix(small, large) for small in smalls]
        place = int(np.argmax([area for area, _ in found]))
        return AutoMix(self, [table.targets.ids[smalls[place]], table.targets.ids[large]], known, found[place][1])

    def _unlearned(self) -> Meta:
        flags = [i / self.k < self.threshold for i in range(self.k + 1)]
        return Meta("threshold", tuple(flags))

    @property
    def rules(self) -> tuple[str, ...]:
        """Those that are tried."""
        return RULES if self.rule == "auto" else (self.rule,)


@dataclass(frozen=True, slots=True)
class _Data:
    """The training rows: quality, cost and p_ver [N, M]; `made` marks the rows that make the rules, the others choose."""

    config: AutoMixConfig
    quality: Array
    cost: Array
    p_ver: Array
    mask: Flags
    made: Flags

    @classmethod
    def of(cls, config: AutoMixConfig, table: OutcomeTable, rng: np.random.Generator) -> _Data:
        p_ver = config.verdicts(table, rng)[:, :, 0]
        made = np.zeros(len(table), dtype=bool)
        made[rng.permutation(len(table))[: (len(table) + 1) // 2]] = True
        return cls(config, table.quality, costs_of(table), p_ver, table.mask & ~np.isnan(p_ver), made)

    @property
    def best(self) -> int:
        """The target of the best mean quality; ties to the cheapest."""
        tried = self.mask.any(axis=0)
        quality = np.where(tried, filled(self.quality).mean(axis=0), -np.inf)
        return int(np.lexsort((self.cost.mean(axis=0), -np.round(quality, 12)))[0])

    def cheaper(self, large: int) -> list[int]:
        """The tried targets that cost less than this one; all others when none does."""
        tried = [i for i in np.flatnonzero(self.mask.any(axis=0)).tolist() if i != large]
        cost = self.cost.mean(axis=0)
        return [i for i in tried if cost[i] < cost[large]] or tried

    def mix(self, small: int, large: int) -> tuple[float, list[Meta]]:
        """The meta-verifiers of this pair, and the area under their hull on the rows that chose them."""
        both = self.mask[:, small] & self.mask[:, large]
        unit = max(float(self.cost[:, large].mean()), 1e-300)
        parts = []
        for rows in (both & self.made, both & ~self.made):
            p_ver, cost = self.p_ver[rows, small], self.cost[rows, large] / unit
            parts.append(Counted.of(p_ver, self.quality[rows, small], self.quality[rows, large], cost, self.config.k))
        makes, chooses = parts
        metas = [self._chosen(makes, chooses, weight) for weight in WEIGHTS]
        return self._area(chooses, metas, both & ~self.made, small, unit), metas

    def _chosen(self, makes: Counted, chooses: Counted, weight: float) -> Meta:
        if np.isinf(weight):
            return Meta(self.config.rules[0], (False,) * (self.config.k + 1))
        made = [(rule, MAKERS[rule](makes, weight)) for rule in self.config.rules]
        rule, flags = max(made, key=lambda one: chooses.reward(one[1], weight))
        return Meta(rule, tuple(flags.tolist()))

    def _area(self, seen: Counted, metas: Sequence[Meta], rows: Flags, small: int, unit: float) -> float:
        count = max(1, int(rows.sum()))
        base_quality = float(np.nansum(self.quality[rows, small])) / count
        base_cost = (1.0 + self.config.verification_cost) * float(self.cost[rows, small].sum()) / count
        flags = np.array([meta.escalate for meta in metas], dtype=np.float64)
        quality, cost = base_quality + flags @ seen.gain / count, base_cost + unit * (flags @ seen.cost) / count
        singles = self.cost.mean(axis=0)
        return area_under_hull(cost, quality, float(singles.min()), float(singles.max()))


def ibc(quality: float, cost: float, small_quality: float, small_cost: float) -> float:
    """Incremental benefit per cost over the small model: (P - P_small) / (C - C_small); NaN where the costs are the same.

    Unstable when C is close to C_small. Source: AutoMix (Madaan et al. 2023).
    """
    spent = cost - small_cost
    return (quality - small_quality) / spent if spent != 0 else float("nan")


def ibc_lift(method: tuple[float, float], small: tuple[float, float], large: tuple[float, float]) -> float:
    """Delta IBC in per cent against the line from the small to the large model; each is (quality, cost).

    Source: AutoMix (Madaan et al. 2023): (IBC_method - IBC_base) / IBC_base x 100.
    """
    base = ibc(*large, *small)
    return (ibc(*method, *small) - base) / base * 100.0 if base != 0 else float("nan")
