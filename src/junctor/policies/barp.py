"""barp: one policy for every preference, learned by policy gradient from the outcome of the chosen target alone.

Source: BaRP (bandit feedback with a preference vector), known to us from notes. The state is the query and the preference
w = (w_q, w_c) on the simplex, the reward r = w_q quality - w_c min(cost / tau, 1). `fit` replays the rows of a table as a
simulator: it draws a target, and sees that one's outcome and no other. PyTorch trains the layers there; afterwards the last
layer goes on learning from feedback with numpy, late, twice or out of order: what it needs travels in `Decision.context`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import descent, measured, saved, trained
from junctor.estimators.descent import Recipe
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policies.banditry import Seen, fit_of
from junctor.policies.trading import Scales, View
from junctor.policy import Array, Learner, Policy, PolicyConfig, State, Sweep
from junctor.types import Catalogue, Decision, Outcome, Ranked, Request

MOST_WIDTH = 30
"""The query's layer travels in every decision, beside the preference: no more numbers than these."""
TURNS = 3
"""Units of the layer that reads the preference."""
DECADES = 3.0
"""Preferences between 1 : 1000 and 1000 : 1 are told apart."""
SETTINGS = (0.0, *(ratio / (1.0 + ratio) for ratio in np.geomspace(1e-2, 1e2, 41).tolist()), 1.0)
"""The sweep over w_c: quality alone first, cost alone last."""
MOST_WEIGHT = 2.0
"""Feedback counts at most so many times what it would if it came at once: the policy may have moved on since the decision."""
VALUE_WEIGHT = 0.5
KEPT = 100_000
BATCH = 256
ROWS_PER_EPOCH = 2048
LEAST_SPREAD = 1e-3

Parts = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Heads:
    """The last layer, which goes on learning.

    policy   [Z, M] to logits, Z = (1 + H) * (1 + TURNS)
    value    [Z] to the reward that is expected: the baseline
    """

    policy: Array
    value: Array

    def learn(self, z: Array, arm: int, reward: float, propensity: float, rate: float, entropy: float) -> Heads:
        """One REINFORCE step on one outcome, weighed by how much likelier its target is now than at the decision."""
        chance = softmax(z @ self.policy)
        advantage = reward - float(z @ self.value)
        weight = min(MOST_WEIGHT, float(chance[arm]) / propensity)
        slope = -chance * weight * advantage
        slope[arm] += weight * advantage
        logs = np.log(np.maximum(chance, 1e-300))
        slope -= entropy * chance * (logs - float(chance @ logs))
        size = float(z @ z)
        return Heads(self.policy + rate / size * np.outer(z, slope), self.value + rate * advantage / size * z)


class BaRP(Learner):
    """Holds the query layer, the preference layer, the heads, each target's mean cost [M] (NaN: unknown), what it learned from.

    `exploring` draws from the policy; `frozen()` takes its most likely target.
    """

    name: ClassVar[str] = "barp"

    def __init__(
        self, config: BaRPConfig, targets: tuple[str, ...], parts: Parts, scales: Scales, seen: Seen, losses: tuple[float, ...]
    ) -> None:
        self.config, self.targets, self.scales, self.losses = config, targets, scales, losses
        self.exploring = config.explore
        self._parts = {name: np.ascontiguousarray(values) for name, values in parts.items()}
        self._heads, self._seen = Heads(self._parts["policy"], self._parts["value"]), seen
        self._fitted = {id_: i for i, id_ in enumerate(targets) if parts["tried"][i]}
        self._views: WeakKeyDictionary[Catalogue, tuple[View, NDArray[np.intp]]] = WeakKeyDictionary()

    @property
    def needs(self) -> frozenset[str]:
        """The query layer reads the embedding."""
        return frozenset({"embedding"})

    @property
    def honours(self) -> frozenset[str]:
        """A quality floor, as the preference that the query layer reads."""
        return frozenset({"quality_floor"})

    def frozen(self) -> BaRP:
        """The same policy without draws: always its most likely target. It shares nothing that is learned later."""
        seen = Seen(KEPT, self._seen.state().arrays["seen"].tolist())
        made = BaRP(self.config, self.targets, self._whole(), self.scales, seen, self.losses)
        made.version, made.label, made.exploring = self.version, self.label, False
        return made

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """One target under the request's own preference, else the configured one; raises NoTarget when none can be paid."""
        view, columns = self._view(targets)
        hidden = self._hidden(Features.of(request))
        weight = self._preference(request)
        open_ = self._affordable(request, view, columns)
        chance = self._chances(hidden, weight, columns[open_])
        place = int(self._draw(chance, rng)[0])
        order = [place, *(i for i in np.argsort(-chance[0], kind="stable").tolist() if i != place)]
        ids = [view.ids[int(open_[i])] for i in order]
        ranked = tuple(Ranked(target=id_, score=float(chance[0, i])) for id_, i in zip(ids, order, strict=True))
        made = self._propensity(chance, np.array([place]))
        return Decision(
            id=request.id,
            plan=choosing.plan_of(ids[: self.config.fallbacks + 1]),
            target=ids[0],
            ranked=ranked[: choosing.MOST_RANKED],
            propensity=float(made[0]),
            policy=self.title,
            version=self.version,
            reasons=(
                "drawn from the policy" if self.exploring else "most likely under the policy",
                f"chance {chance[0, place]:.3f} of {len(ids)} targets at cost preference {weight:.3g}",
            ),
            context=(*hidden[0].tolist(), weight),
        )

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """One target for each of N requests, under the configured preference."""
        view, columns = self._view(targets)
        chance = self._chances(self._hidden(features), self.config.cost_preference, columns)
        choices = self._draw(chance, rng)
        return view.places[choices], self._propensity(chance, choices)

    def decide_sweep(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> Sweep:
        """The most likely targets along the preference, from quality to cost alone; one row where no cost was recorded."""
        del rng
        view, columns = self._view(targets)
        hidden = self._hidden(features)
        settings = np.array(SETTINGS if np.isfinite(self._parts["cost"]).any() else [np.nan])
        rows = [self._logits(hidden, 0.0 if np.isnan(w) else w, columns).argmax(axis=1) for w in settings.tolist()]
        choices = view.places[np.stack(rows)]
        return Sweep(settings, choices, np.ones(choices.shape))

    def learn(self, decision: Decision, outcome: Outcome) -> None:
        """One step of the last layer, once per decision. Without a quality, or of another fit, there is nothing to learn."""
        quality, context = outcome.quality, np.array(decision.context)
        arm = self._fitted.get(decision.target)
        strange = (
            arm is None
            or fit_of(decision.version) != fit_of(self.version)
            or len(context) != len(self._parts["shift"]) + 1
            or not np.isfinite(context).all()
        )
        if strange or quality is None or quality != quality or not self._seen.add(decision.id):
            return
        assert arm is not None
        weight = float(context[-1])
        cost = float(self._parts["cost"][arm]) if outcome.cost_usd is None else outcome.cost_usd
        reward = float(self.config.reward(np.array(quality), np.array(cost), weight, self._tau))
        z = stretched(context[None, :-1], weight, self._parts["preference"])[0]
        self._heads = self._heads.learn(z, arm, reward, decision.propensity, self.config.online_rate, self.config.entropy)

    @property
    def _tau(self) -> float:
        return self.config.tau or self.scales.cost_usd

    def _hidden(self, features: Features) -> Array:
        vectors = measured.of_width(features.vectors(self.name), len(self._parts["project"]), self.name)
        hidden: Array = np.tanh(vectors.astype(np.float64) @ self._parts["project"] + self._parts["shift"])
        return hidden

    def _logits(self, hidden: Array, weight: float, columns: NDArray[np.intp]) -> Array:
        logits: Array = stretched(hidden, weight, self._parts["preference"]) @ self._heads.policy[:, columns]
        return logits

    def _chances(self, hidden: Array, weight: float, columns: NDArray[np.intp]) -> Array:
        """[N, K]: with which probability each target is drawn, a little of it spread over all alike."""
        chance = softmax(self._logits(hidden, weight, columns))
        return (1.0 - self.config.floor) * chance + self.config.floor / len(columns)

    def _draw(self, chance: Array, rng: np.random.Generator) -> NDArray[np.intp]:
        if not self.exploring:
            best: NDArray[np.intp] = chance.argmax(axis=1)
            return best
        below = np.cumsum(chance, axis=1) <= rng.random((len(chance), 1))
        place: NDArray[np.intp] = np.minimum(below.sum(axis=1), chance.shape[1] - 1)
        return place

    def _propensity(self, chance: Array, choices: NDArray[np.intp]) -> Array:
        if not self.exploring:
            return np.ones(len(choices))
        return chance[np.arange(len(choices)), choices]

    def _preference(self, request: Request) -> float:
        """w_c: one less the quality floor that the request demands, else the configured one."""
        floor = request.constraints.quality_floor
        return self.config.cost_preference if floor is None else min(1.0, max(0.0, 1.0 - floor))

    def _affordable(self, request: Request, view: View, columns: NDArray[np.intp]) -> NDArray[np.intp]:
        """Positions in the view of the targets whose mean cost, else list price, the request's budget allows."""
        budget = request.constraints.budget_usd
        if budget is None:
            return np.arange(len(columns))
        recorded = self._parts["cost"][columns]
        cost = np.where(np.isnan(recorded), view.list_cost, recorded)
        open_ = np.flatnonzero(cost <= budget)
        if not len(open_):
            said = [f"costs ${c:.3g} on average, the budget is ${budget:g}" for c in cost.tolist()]
            choosing.refuse(
                "no target can be chosen", {**view.refusals, **dict(zip(view.ids, said, strict=True))}, fix="raise it"
            )
        return open_

    def _view(self, targets: Catalogue) -> tuple[View, NDArray[np.intp]]:
        """The catalogue in fitted order, so that its own order decides nothing, and the columns of its targets."""
        found = self._views.get(targets)
        if found is None:
            choosing.some(targets)
            view = View(targets, self._fitted, self.scales)
            if not view.ids:
                choosing.refuse("no target here was tried in the training rows", view.refusals, fix="fit on these targets")
            columns = np.array([self._fitted[id_] for id_ in view.ids], dtype=np.intp)
            order = np.argsort(columns)
            view.places, view.ids, view.list_cost = view.places[order], [view.ids[i] for i in order], view.list_cost[order]
            found = self._views[targets] = (view, columns[order])
        return found

    def _whole(self) -> dict[str, Array]:
        return {**self._parts, "policy": self._heads.policy, "value": self._heads.value}

    def state(self) -> State:
        """All layers, the costs, the scales, and what was learned from."""
        config = {"settings": self.config.settings(), "targets": list(self.targets), "losses": list(self.losses)}
        return State(config, {**self._whole(), **self.scales.state().arrays, **self._seen.state().arrays})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(BaRPConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        targets, losses = saved.entry(state, "targets", list[str]), saved.entry(state, "losses", list[float])
        project = saved.array(state, "project", (None, None))
        depth, count = (1 + project.shape[1]) * (1 + TURNS), len(targets)
        parts = {
            "project": project,
            "shift": saved.array(state, "shift", (project.shape[1],)),
            "preference": saved.array(state, "preference", (2, TURNS)),
            "policy": saved.array(state, "policy", (depth, count)),
            "value": saved.array(state, "value", (depth,)),
            "cost": saved.array(state, "cost", (count,), finite=False),
            "tried": saved.array(state, "tried", (count,), np.uint8),
        }
        scales = Scales(*saved.array(state, "scales", (4,), finite=False).tolist())
        seen = Seen(KEPT, saved.array(state, "seen", (None,), np.uint64).tolist())
        return cls(config, tuple(targets), parts, scales, seen, tuple(losses))


def softmax(logits: Array) -> Array:
    """Probabilities along the last axis."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    chance: Array = raised / raised.sum(axis=-1, keepdims=True)
    return chance


def log_ratio(weight: Any, logarithm: Any) -> Any:
    """The preference on a scale of decades: -1 for quality alone, 0 for halves, 1 for cost alone."""
    least = 10.0**-DECADES
    return logarithm((weight + least) / (1.0 - weight + least)) / DECADES


def stretched(hidden: Array, weight: float, preference: Array) -> Array:
    """[N, (1 + H)(1 + TURNS)]: every number of the query, and 1, times every number of the preference, and 1."""
    turns = np.tanh(preference[0] * log_ratio(weight, np.log10) + preference[1])
    one = np.concatenate([np.ones((len(hidden), 1)), hidden], axis=1)
    product = one[:, :, None] * np.concatenate([[1.0], turns])
    flat: Array = product.reshape(len(hidden), -1)
    return flat


@dataclass(frozen=True, kw_only=True)
class BaRPConfig(PolicyConfig):
    """Hyper-parameters.

    cost_preference   w_c in [0, 1] where a request demands no quality floor; w_q = 1 - w_c
    tau               cost in USD that counts as 1; 0 takes the mean cost of the dearest single target on the training rows
    prefers           False blinds the policy to the preference while training: it learns one trade for all
    warm              share of the training rows that are replayed in `fit`; 0 = a cold start: prompts, and no outcome
    width             of the query's layer
    entropy           bonus for staying undecided
    explore, floor    draw from the policy, with at least `floor` spread over all targets, or take its most likely target
    online_rate       step of the last layer per feedback
    """

    cost_preference: float = 0.0
    tau: float = 0.0
    prefers: bool = True
    warm: float = 1.0
    width: int = 24
    entropy: float = 0.01
    explore: bool = True
    floor: float = 0.02
    online_rate: float = 0.05
    rate: float = 0.005
    epochs: int = 100
    fallbacks: int = 2

    name: ClassVar[str] = "barp"
    fitted: ClassVar[type[Policy]] = BaRP
    about: ClassVar[About | None] = About(
        title="BaRP: routing from bandit feedback with preferences",
        family="online",
        status="adapted",
        source="BaRP; known from notes that agree",
        formula=(
            "r = w_q q - w_c min(c / tau, 1); pi(a | x, w) = softmax_a(theta_a . ([1, tanh(W e(x) + b)] outer [1, pref(w)]))\n"
            "L = -(r - V(x, w)) log pi(a | x, w) - beta H(pi) + (r - V)^2 / 2, a drawn from pi, w anew in every step"
        ),
        adapted=(
            "Rows of the table are replayed; a target whose outcome was not recorded on a row cannot be drawn there.",
            "The baseline is a learned value of query and preference.",
            "Preferences are drawn half evenly, half evenly by their ratio, so that small cost weights are learned too.",
            "A request's quality floor f is read as the preference (f, 1 - f), its budget as a limit on a target's mean cost.",
            "Online, the last layer alone goes on learning, weighed by the change of the policy since the decision.",
        ),
        unverified=(
            "Which tau its tables were made with: it decides what a preference means.",
            "The abstract has 12.46% for the 12.44% below.",
        ),
        complexity="fit O(epochs N (D H + H M)); decision O(D H + H M); one feedback O(H M)",
        claims=(
            Claim(
                figure="73.57% mean; relative +15.53% over RouterDC, +12.44% over GraphRouter", on="RouterBench logs replayed"
            ),
            Claim(figure="relative +2.45% over the largest model", on="RouterBench logs replayed"),
        ),
    )

    def __post_init__(self) -> None:
        for key in ("cost_preference", "floor", "warm"):
            check(0 <= getattr(self, key) <= 1, f"barp.{key}", "must be in [0, 1]")
        check(1 <= self.width <= MOST_WIDTH, "barp.width", f"must be 1 to {MOST_WIDTH}")
        check(self.epochs >= 1, "barp.epochs", "must be at least 1")
        for key in ("tau", "entropy", "online_rate", "fallbacks"):
            check(getattr(self, key) >= 0, f"barp.{key}", "must not be negative")
        check(self.rate > 0, "barp.rate", "must be positive")

    @property
    def needs(self) -> frozenset[str]:
        """The query's vector."""
        return frozenset({"embedding"})

    def reward(self, quality: Array, cost: Array, weight: Any, tau: float) -> Array:
        """w_q q - w_c min(c / tau, 1); without a scale or a cost, quality alone counts."""
        units = np.minimum(cost / tau, 1.0) if tau > 0 else np.zeros_like(quality)
        found: Array = (1.0 - weight) * quality - weight * np.where(np.isnan(units), 0.0, units)
        return found

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> BaRP:
        """Replay the rows; raises UserError without a row or without any recorded quality."""
        measured.same_rows(table, features, self.name)
        vectors = features.vectors(self.name).astype(np.float64)
        if not table.mask.any():
            raise UserError("there is no outcome to learn from", field=self.name, fix="pass at least one recorded query")
        scales = Scales.of(table)
        if not self.warm:
            return self._cold(table, vectors, scales, rng)
        if self.warm < 1:
            known = np.flatnonzero(table.mask.any(axis=1))
            lived = np.sort(rng.permutation(known)[: max(1, round(self.warm * len(known)))])
            table, vectors = table.take(lived), vectors[lived]
        blank = np.full(table.quality.shape, np.nan)
        costs = blank if table.cost_usd is None else table.cost_usd
        mean = measured.means(costs)
        weights, losses = self._trained(table.quality, np.where(np.isnan(costs), mean, costs), vectors, scales, rng)
        parts: dict[str, Any] = {**weights, "cost": mean, "tried": table.mask.any(axis=0).astype(np.uint8)}
        return BaRP(self, table.targets.ids, parts, scales, Seen(KEPT), losses)

    def _cold(self, table: OutcomeTable, vectors: Array, scales: Scales, rng: np.random.Generator) -> BaRP:
        """All targets alike behind a query layer that is drawn; list prices are known, and all else comes from feedback."""
        count = len(table.targets)
        start = self._start(vectors.shape[1], count, rng)
        project, shift = trained.folded(start["project"], start["shift"], *trained.standard(vectors))
        listed = np.array([scales.list_cost(target) for target in table.targets])
        known: dict[str, Any] = {"cost": listed, "tried": np.ones(count, np.uint8)}
        return BaRP(self, table.targets.ids, {**start, "project": project, "shift": shift, **known}, scales, Seen(KEPT), ())

    def priced(self, cost_weight: float) -> BaRPConfig:
        """The same, trading quality for cost at this weight: q - w c is, up to a factor, the reward at w_c = w / (1 + w)."""
        return replace(self, cost_preference=cost_weight / (1.0 + cost_weight))

    def _trained(
        self, quality: Array, costs: Array, vectors: Array, scales: Scales, rng: np.random.Generator
    ) -> tuple[dict[str, Array], tuple[float, ...]]:
        """Layers, and per epoch how far the mean reward stayed below 1."""
        torch = descent.torch_for(self.name)
        centre, scale = trained.standard(vectors)
        x = trained.float_rows(torch, (vectors - centre) / scale)
        closed = torch.from_numpy(np.isnan(quality))
        tau, priced = self.tau or scales.cost_usd, bool(np.isfinite(costs).any())
        earned: list[float] = []

        def loss(w: Mapping[str, Any], batch: NDArray[np.intp], draw: np.random.Generator) -> Any:
            weight = preferences(len(batch), draw) if priced else np.zeros(len(batch))
            told = weight if self.prefers else np.full(len(batch), 0.5)
            ratio = trained.float_rows(torch, log_ratio(told, np.log10))[:, None]
            turns = torch.cat([torch.ones_like(ratio), torch.tanh(w["preference"][0] * ratio + w["preference"][1])], dim=1)
            hidden = torch.tanh(x[batch] @ w["project"] + w["shift"])
            one = torch.cat([torch.ones_like(ratio), hidden], dim=1)
            z = (one[:, :, None] * turns[:, None, :]).flatten(1)
            logs = (z @ w["policy"]).masked_fill(closed[batch], -1e9).log_softmax(dim=1)
            chance = logs.exp()
            noise = -np.log(-np.log(draw.random(logs.shape)))
            arm = (logs.detach().numpy() + noise).argmax(axis=1)
            reward = self.reward(quality[batch, arm], costs[batch, arm], weight, tau)
            earned.append(float(reward.mean()))
            value = z @ w["value"]
            advantage = trained.float_rows(torch, reward) - value
            chosen = logs[torch.arange(len(batch)), torch.from_numpy(arm)]
            gain = advantage.detach() * chosen / advantage.detach().std(correction=0).clamp(min=LEAST_SPREAD)
            entropy = -(chance * logs.clamp(min=-50.0)).sum(dim=1)
            return (VALUE_WEIGHT * advantage**2 - gain - self.entropy * entropy).mean()

        rows = np.flatnonzero(~np.isnan(quality).all(axis=1))
        recipe = Recipe(rate=self.rate, epochs=self.epochs, batch=BATCH, rows=ROWS_PER_EPOCH, held_out=0.0)
        found = descent.descend(self.name, self._start(vectors.shape[1], quality.shape[1], rng), loss, rows, recipe, rng)
        project, shift = trained.folded(found.weights["project"], found.weights["shift"], centre, scale)
        per_epoch = np.array_split(1.0 - np.array(earned), len(found.losses))
        return {**found.weights, "project": project, "shift": shift}, tuple(float(part.mean()) for part in per_epoch)

    def _start(self, dim: int, targets: int, rng: np.random.Generator) -> dict[str, Array]:
        depth = (1 + self.width) * (1 + TURNS)
        return {
            "project": trained.drawn(rng, dim, self.width),
            "shift": np.zeros(self.width),
            "preference": np.stack([np.full(TURNS, 2.0), np.linspace(-1.0, 1.0, TURNS)]),
            "policy": np.zeros((depth, targets)),
            "value": np.zeros(depth),
        }


def preferences(count: int, rng: np.random.Generator) -> Array:
    """Cost weights in [0, 1]: half of them even, half even in the logarithm of their ratio to the quality weight."""
    ratio = 10.0 ** rng.uniform(-DECADES, 2.0, count)
    return np.where(rng.random(count) < 0.5, rng.random(count), ratio / (1.0 + ratio))
