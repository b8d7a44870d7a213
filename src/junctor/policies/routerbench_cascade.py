"""routerbench-cascade: models by price, a judge that errs with a known rate, and a cap on the cost of all calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from junctor.about import About, Claim
from junctor.estimators import saved
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.plans.tape import Recording, Tape, replay_of
from junctor.policies.choosing import plan_of
from junctor.policies.staged import Staged, costs_of, described, named
from junctor.policies.trading import expected
from junctor.policy import Array, Policy, PolicyConfig, Replay, State
from junctor.types import Call, Cascade, Outcome, Plan, Request

CAPS = 16
"""Caps along the knob, by ratio from the sum of all calls down to the cheapest."""


class RouterBenchCascade(Staged):
    """Models in order of price with their expected costs; `good` is the quality from which the judge should say yes."""

    name: ClassVar[str] = "routerbench-cascade"

    def __init__(
        self,
        config: RouterBenchCascadeConfig,
        chain: Sequence[str],
        known: dict[str, Outcome],
        costs: Sequence[float],
        good: float,
    ) -> None:
        super().__init__(chain, known)
        self.config, self.good = config, good
        self.costs = dict(zip(chain, costs, strict=True))

    def plan_of(self, chain: Sequence[str], request: Request) -> tuple[Plan, tuple[str, ...]]:
        """A cascade under the cap, or the caller's own budget; the judge is the configured one, or the dearest of the chain."""
        if len(chain) == 1:
            return plan_of(chain), ("the only model of the cascade that is here",)
        budget = request.constraints.budget_usd
        cap = self.config.cap_usd if budget is None else budget
        judge = self.config.judge or chain[-1]
        settings: dict[str, Any] = {"by": [judge], "expected_usd": [self.costs[id_] for id_ in chain]}
        if cap is not None:
            settings["cap_usd"] = cap
        under = f"under a cap of {cap:g} USD" if cap is not None else "without a cap"
        reasons = (f"{len(chain)} models by price, {under}", f"{judge} judges each answer")
        return Cascade(tuple(Call(id_) for id_ in chain), "judge", settings), reasons

    def replay(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Replay:
        """Along the cap, from none to the cheapest call alone; the judge's verdicts are drawn once for all caps."""
        del features
        right = (table.quality >= self.good).astype(np.float64)
        flips = rng.random(table.quality.shape) < self.config.epsilon
        verdict = np.where(table.mask, np.where(flips, 1.0 - right, right), np.nan)
        recording = Recording(table, {"verdict": verdict[:, :, None]})
        columns = self.columns(table)
        costs = [self.costs.get(table.targets.ids[column], 0.0) for column in columns]
        caps = caps_of(costs)
        tapes = [self._run(recording, columns, costs, cap) for cap in caps]
        return replay_of(caps, tapes, billed=table.cost_usd is not None)

    def _run(self, recording: Recording, columns: Sequence[int], costs: Sequence[float], cap: float) -> Tape:
        tape = recording.tape()
        rows = np.arange(recording.shape[0])
        for place, column in enumerate(columns):
            tape.call(rows, column)
            tape.give(rows, column)
            if place + 1 == len(columns):
                break
            rows = rows[tape.cost_usd[rows] + costs[place + 1] <= cap]
            if self.config.judge_share:
                tape.pay(rows, columns[-1], self.config.judge_share, 1)
            rows = rows[tape.read("verdict", rows, column) < 1.0]
        return tape

    def state(self) -> State:
        """Chain, costs and settings."""
        costs = [self.costs[id_] for id_ in self.chain]
        return State({**self.described(), "costs": costs, "good": self.good, "settings": self.config.settings()})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(RouterBenchCascadeConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        chain, known = described(state)
        return cls(config, chain, known, saved.entry(state, "costs", list[float]), saved.entry(state, "good", float))


def caps_of(costs: Sequence[float]) -> list[float]:
    """The knob: no cap, then caps by ratio from the sum of all calls down to the cheapest."""
    low, high = min(costs), sum(costs)
    if not 0 < low < high:
        return [float("inf")]
    return [float("inf"), *np.geomspace(high, low, CAPS).tolist()]


@dataclass(frozen=True, kw_only=True)
class RouterBenchCascadeConfig(PolicyConfig):
    """What the judge is like and what may be spent.

    epsilon      chance that the judge's verdict is wrong, either way; only replays use it, a live judge errs by itself
    cap_usd      for all calls of a request; None: no cap. A request's own budget goes before it
    judge        the target that judges live; "": the dearest of the cascade
    judge_share  cost of a verdict in calls of the dearest model, on replays; 0 as in the paper
    models       at most this many, spread over the prices; 0: all
    """

    epsilon: float = 0.1
    cap_usd: float | None = None
    judge: str = ""
    judge_share: float = 0.0
    models: int = 0

    name: ClassVar[str] = "routerbench-cascade"
    fitted: ClassVar[type[Policy]] = RouterBenchCascade
    about: ClassVar[About | None] = About(
        title="RouterBench cascading router",
        family="after the answer",
        status="simulated",
        source="Hu et al. 2024, RouterBench: A Benchmark for Multi-LLM Routing Systems, cascading routers",
        formula=(
            "call models from cheap to dear; stop when the judge says good or the next call would exceed the cap\n"
            "judge(x, answer) = 1[quality >= 0.95-quantile], flipped with probability epsilon"
        ),
        complexity="fit O(N M); a decision O(M)",
        adapted=(
            "The judge is drawn from recorded outcomes, as in the paper: figures say what a judge that errs so often is worth.",
            "The next call's cost is its mean on the training rows, because its recorded cost is not known before it is made.",
            "Live, a model judges each answer in place of the simulated judge; epsilon is then whatever that model's error is.",
        ),
        unverified=("Whether the paper's judge is billed: here it is free unless judge_share says otherwise.",),
        claims=(
            Claim(figure="AIQ .901 with epsilon 0, zero router .763", on="RouterBench, MMLU", sure="notes"),
            Claim(figure="good below epsilon .1, bad above .2", on="RouterBench", sure="notes"),
        ),
    )

    def __post_init__(self) -> None:
        check(0 <= self.epsilon <= 1, "routerbench-cascade.epsilon", "must be in [0, 1]")
        check(self.cap_usd is None or self.cap_usd > 0, "routerbench-cascade.cap_usd", "must be positive")
        check(0 <= self.judge_share < float("inf"), "routerbench-cascade.judge_share", "must be finite and not negative")
        check(self.models >= 0, "routerbench-cascade.models", "must not be negative")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> RouterBenchCascade:
        """Order the models by mean cost, else by list price, else as the table has them."""
        del features, rng
        if self.judge:
            named([self.judge], table, "routerbench-cascade.judge")
        known = expected(table)
        costs = costs_of(table).mean(axis=0) if len(table) else _listed(known)
        tried = set(np.flatnonzero(table.mask.any(axis=0)).tolist()) or set(range(len(costs)))
        order: list[int] = [i for i in np.argsort(costs, kind="stable").tolist() if i in tried]
        if 0 < self.models < len(order):
            order = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, self.models).round().astype(int)).tolist()]
        recorded = table.quality[table.mask]
        good = float(np.quantile(recorded, 0.95)) if len(recorded) else 1.0
        ids = [table.targets.ids[i] for i in order]
        return RouterBenchCascade(self, ids, known, costs[order].tolist(), good)


def _listed(known: dict[str, Outcome]) -> Array:
    return np.array([1.0 if found.cost_usd is None else found.cost_usd for found in known.values()])
