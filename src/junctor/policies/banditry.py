"""What all bandits share: arms, the trade of quality against cost, feedback that counts once, and a warm start from a table.

A reward is u = w_q quality - w_c bill, as in `trading`, but the two are learned apart: quality from what came back, the bill in
units of the target's list price at the time of the decision. So a new price is believed at once and forgets nothing of quality.

Deciding never learns and keeps nothing back. What learning needs (the context and the unit of the bill) travels in
`Decision.context`, so that feedback may come late, twice, out of order, after a restart, or to another process.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from junctor import registry
from junctor.errors import UserError
from junctor.estimators import measured, saved
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policies.arms import LinearArms, Prior, Rows
from junctor.policies.contexts import Context, Reduced
from junctor.policies.drawing import Choices, top
from junctor.policies.trading import Scales, first_best, largest
from junctor.policies.utility import WEIGHTS
from junctor.policy import Array, Learner, PolicyConfig, State, Sweep
from junctor.types import Catalogue, Decision, Outcome, Ranked, Request

NAN = float("nan")
HONOURED = frozenset({"cost_weight", "switch"})


class Seen:
    """Which decisions were learned from: the newest `most` of them, as 64-bit digests of their ids."""

    def __init__(self, most: int, digests: Sequence[int] = ()) -> None:
        self._most = most
        self._digests = dict.fromkeys(digests)

    def add(self, id_: str) -> bool:
        """Whether it is new; it is not any more."""
        digest = int.from_bytes(hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        if digest in self._digests:
            return False
        self._digests[digest] = None
        if len(self._digests) > self._most:
            del self._digests[next(iter(self._digests))]
        return True

    def state(self) -> State:
        """The digests, oldest first."""
        return State({}, {"seen": np.fromiter(self._digests, np.uint64, len(self._digests))})


@dataclass(frozen=True, slots=True)
class ArmView:
    """A catalogue as a bandit sees it: K arms in an order of its own, so that the catalogue's order decides no tie.

    ids      [K] the fitted targets as they were fitted, then those that are new, by name
    places   [K] their positions in the catalogue
    rows     their rows among the arms; new ones all take the row that nobody has tried
    unit     [K] what a bill of 1 is: USD of a typical call at list price, else the scale
    factor   [K] a bill of 1 in units of the scale; 0 where there is nothing to compare
    """

    ids: tuple[str, ...]
    places: Choices
    rows: Rows
    unit: Array
    factor: Array


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of K arms for N requests, each [N, K]; `value` is what the trade makes of quality and bill."""

    quality: Array
    bill: Array
    spread: Array
    value: Array

    def only(self, columns: Choices) -> Look:
        """Some of the arms."""
        return Look(*(values[:, columns] for values in (self.quality, self.bill, self.spread, self.value)))


class Bandit(Learner):
    """Holds a context, arms and the ids of what it has learned from. Subclasses say how to draw."""

    reads: ClassVar[type[Context]] = Reduced
    why: ClassVar[str]

    def __init__(
        self, config: BanditConfig, context: Context, arms: LinearArms, scales: Scales, seen: Seen | None = None
    ) -> None:
        self.config, self.context, self.arms, self.scales = config, context, arms, scales
        self.exploring = True
        self._seen = Seen(config.remember) if seen is None else seen
        self._views: WeakKeyDictionary[Catalogue, ArmView] = WeakKeyDictionary()

    @property
    def kind(self) -> Literal["exact", "estimated"]:
        """How the propensities of more than two targets are known."""
        return "exact"

    @property
    def needs(self) -> frozenset[str]:
        """What the context reads."""
        return self.context.needs

    @property
    def honours(self) -> frozenset[str]:
        """A weight and the cost of a switch, where it trades quality for cost; the draw and its propensity are under them."""
        return HONOURED if isinstance(self.config, PricedBanditConfig) else frozenset()

    def worth_usd(self, targets: Catalogue) -> float:
        """The weight of a bill per dollar, against that of quality."""
        view = self._views.get(targets) or self._view(targets)
        of_quality, of_bill = self.config.trade
        return float(of_bill / of_quality * view.factor[0] / view.unit[0]) if of_quality > 0 else 0.0

    @abstractmethod
    def draw(self, look: Look, rng: np.random.Generator) -> tuple[Choices, Array]:
        """A choice per request [N] and the scores that it was made by [N, K]."""

    @abstractmethod
    def propensity(self, look: Look, choice: Choices) -> Array:
        """With which probability `draw` makes these choices [N]."""

    def frozen(self) -> Self:
        """The same policy without exploration: always the best of what is known now. It shares what is learned."""
        made = type(self)(self.config, self.context, self.arms, self.scales, self._seen)
        made.version, made.label, made.exploring = self.version, self.label, False
        return made

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """One draw among the targets, those that are new among them; raises NoTarget when none can be paid."""
        view = self._views.get(targets) or self._view(targets)
        x = self.context.matrix(Features.of(request))
        look = self._look(x, view)
        if request.constraints.cost_weight is not None or request.switch is not None:
            look = self._wished(request, look, view)
        open_ = self._affordable(request, look, view)
        if open_ is not None:
            look = look.only(open_)
        choice, score, propensity = self._choose(look, rng)
        kind = "exact" if score.shape[1] <= 2 or not self.exploring else self.kind
        columns = range(len(view.ids)) if open_ is None else open_.tolist()
        return self._decision(request, view, look, (int(choice[0]), float(propensity[0]), kind), (score, columns, x))

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[Choices, Array]:
        """One draw for each of N requests, all from what is known now."""
        view = self._views.get(targets) or self._view(targets)
        choice, _, propensity = self._choose(self._look(self.context.matrix(features), view), rng)
        return view.places[choice], propensity

    def decide_sweep(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> Sweep:
        """Along the cost weight, without exploration: how a bandit is judged once it has learned."""
        del rng
        view = self._views.get(targets) or self._view(targets)
        look = self._look(self.context.matrix(features), view)
        quality = np.where(self._tried(view), look.quality, -np.inf)
        cost = look.bill * view.factor
        rows = [first_best(quality - weight * cost, cost) for weight in WEIGHTS]
        rows.append(first_best(np.where(np.isneginf(quality), quality, -cost), -quality))
        choices = view.places[np.stack(rows)]
        return Sweep(np.array([*WEIGHTS, np.inf]), choices, np.ones(choices.shape))

    def learn(self, decision: Decision, outcome: Outcome) -> None:
        """Take one result, once. Without a quality, or from a decision of another fit, there is nothing to learn."""
        x = self._recalled(decision)
        quality = outcome.quality
        if x is None or quality is None or quality != quality or not self._seen.add(decision.id):
            return
        known = len(self.arms)
        row = self.arms.add(decision.target)
        if row == known:
            self._views.clear()
        self.take(row, x, quality, self._bill(outcome, decision.context[-1]), decision.propensity)

    def take(self, row: int, x: Array, quality: float, bill: float, propensity: float) -> None:
        """One outcome of one arm that was drawn with this propensity."""
        del propensity
        self.arms.take(row, x, quality, bill)

    def warm(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> None:
        """Live through the rows of a table in random order: draw among what is recorded, see only the outcome of the choice."""
        x = self.context.matrix(features)
        view = self._view(table.targets)
        bills = self._bills(table, view)
        places = view.places
        known = table.mask[:, places]
        whole = np.asarray(known.all(axis=1))
        arms = np.array([self.arms.place(id_) for id_ in view.ids])
        for row in rng.permutation(len(table))[: round(self.config.warm * len(table))].tolist():
            look = self._look(x[row : row + 1], view)
            open_ = None if whole[row] else np.flatnonzero(known[row])
            if open_ is not None:
                if not len(open_):
                    continue
                look = look.only(open_)
            choice, _ = self.draw(look, rng)
            arm = int(choice[0]) if open_ is None else int(open_[choice[0]])
            chance = self._chance(look, choice)
            self.take(int(arms[arm]), x[row], float(table.quality[row, places[arm]]), float(bills[row, arm]), chance)

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Self:
        """A policy that has learned of `target` from a few billed rows; this one is unchanged.

        A target that is in the catalogue needs no onboarding: it is tried because little is known of it.
        """
        one = rows.only([target])
        if not one.mask.any():
            raise UserError("no quality is recorded", field=target, fix="onboard with rows on which the target was tried")
        if self.arms.place(target) < len(self.arms):
            raise UserError("is already known", field=target, fix="onboard each target once, or fit anew")
        state = self.state()
        made = type(self).from_state(State(state.config, {name: values.copy() for name, values in state.arrays.items()}))
        made.version, made.label = (f"{self.version}+{target}" if self.version else ""), self.label
        row = made.arms.add(target)
        bills = made._bills(one, made._view(one.targets))
        x = made.context.matrix(features)
        for place in np.flatnonzero(one.mask[:, 0]).tolist():
            made.take(row, x[place], float(one.quality[place, 0]), float(bills[place, 0]), 1.0)
        return made

    def state(self) -> State:
        """Settings, scales, context, arms, and what was learned from."""
        context, arms = self.context.state(), self.arms.state()
        config = {"settings": self.config.settings(), "context": dict(context.config), **arms.config}
        arrays = {**self.scales.state().arrays, **arms.arrays, **self._seen.state().arrays}
        return State(config, {**arrays, **{f"context/{name}": values for name, values in context.arrays.items()}})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(registry.load("policy", cls.name), saved.entry(state, "settings", dict[str, Any]), cls.name)
        prefix = "context/"
        inner = {name.removeprefix(prefix): values for name, values in state.arrays.items() if name.startswith(prefix)}
        context = cls.reads.from_state(State(saved.entry(state, "context", dict[str, Any]), inner))
        arms = LinearArms.from_state(state, context.dims, config.prior)
        scales = Scales(*saved.array(state, "scales", (4,), finite=False).tolist())
        digests = saved.array(state, "seen", (None,), np.uint64).tolist()
        return cls(config, context, arms, scales, Seen(config.remember, digests))

    def _look(self, x: Array, view: ArmView) -> Look:
        quality, bill, spread = self.arms.stand(x, view.rows)
        bill = np.maximum(bill, 0.0)
        return Look(quality, bill, spread, self._worth(quality, bill, view))

    def _worth(self, quality: Array, bill: Array, view: ArmView) -> Array:
        """The trade of quality and bill [N, K]; without exploration, a target that was never tried is out while others are."""
        of_quality, of_bill = self.config.trade
        worth: Array = of_quality * quality - of_bill * bill * view.factor
        return worth if self.exploring else np.where(self._tried(view), worth, -np.inf)

    def _wished(self, request: Request, look: Look, view: ArmView) -> Look:
        """The same under what one request wishes for: another weight, or a switch that costs."""
        if not self.honours:
            return look
        weight = self.config.trade[1] if request.constraints.cost_weight is None else request.constraints.cost_weight
        cost = look.bill * view.factor
        if request.switch is not None:
            stay, extra = request.switch.target, request.switch.cost_usd
            cost = cost + np.array([0.0 if id_ == stay else extra for id_ in view.ids]) * view.factor / view.unit
        value = np.where(np.isneginf(look.value), look.value, self.config.trade[0] * look.quality - weight * cost)
        return Look(look.quality, look.bill, look.spread, value)

    def _choose(self, look: Look, rng: np.random.Generator) -> tuple[Choices, Array, Array]:
        if self.exploring:
            choice, score = self.draw(look, rng)
            return choice, score, self.propensity(look, choice)
        return top(look.value), look.value, np.ones(len(look.value))

    def _chance(self, look: Look, choice: Choices) -> float:
        """The propensity, where `take` reads it."""
        del look, choice
        return 1.0

    def _tried(self, view: ArmView) -> NDArray[np.bool_]:
        """[K]: which arms were tried; all of them when none was."""
        tried: NDArray[np.bool_] = self.arms.times[view.rows] > 0
        return tried if tried.any() else np.ones_like(tried)

    def _view(self, targets: Catalogue) -> ArmView:
        choosing.some(targets)
        count = len(self.arms)
        ids = sorted(targets.ids, key=lambda id_: (self.arms.place(id_), id_))
        rows = [self.arms.place(id_) for id_ in ids]
        places = np.array([targets.position(id_) for id_ in ids], dtype=np.intp)
        unit, factor = self._units([targets[i] for i in places.tolist()])
        view = ArmView(tuple(ids), places, slice(0, count) if rows == list(range(count)) else np.array(rows), unit, factor)
        self._views[targets] = view
        return view

    def _units(self, targets: Sequence[Any]) -> tuple[Array, Array]:
        listed = np.array([self.scales.list_cost(target) for target in targets], dtype=np.float64)
        scale = largest(listed) if np.isnan(self.scales.cost_usd) else self.scales.cost_usd
        if not scale > 0:
            return np.ones(len(listed)), np.zeros(len(listed))
        unit = np.where(listed > 0, listed, scale)
        return unit, unit / scale

    def _bill(self, outcome: Outcome, unit: float) -> float:
        """What a call came to in its unit; NaN when it is not known."""
        return NAN if outcome.cost_usd is None else outcome.cost_usd / unit

    def _bills(self, table: OutcomeTable, view: ArmView) -> Array:
        """[N, K] of recorded calls."""
        if table.cost_usd is None:
            return np.full(table.quality.shape, NAN)[:, view.places]
        found: Array = table.cost_usd[:, view.places] / view.unit
        return found

    def _recalled(self, decision: Decision) -> Array | None:
        """The context that a decision was made in; None when it was not made by this fit."""
        if len(decision.context) != self.context.dims + 1 or fit_of(decision.version) != fit_of(self.version):
            return None
        found = np.array(decision.context)
        return found[:-1] if np.isfinite(found).all() and found[-1] > 0 else None

    def _affordable(self, request: Request, look: Look, view: ArmView) -> Choices | None:
        """The columns that the request's own budget allows; None when it sets none."""
        budget = request.constraints.budget_usd
        if budget is None:
            return None
        cost = (look.bill * view.unit)[0]
        found = np.flatnonzero(cost <= budget)
        if not len(found):
            said = [f"predicted to cost ${c:.3g}, the budget is ${budget:g}" for c in cost.tolist()]
            choosing.refuse("no target can be chosen", dict(zip(view.ids, said, strict=True)), fix="raise the budget")
        return found

    def _predicted(self, quality: float, bill: float, unit: float, factor: float) -> Outcome:
        return Outcome(quality=min(1.0, max(0.0, quality)), cost_usd=bill * unit if factor else None)

    def _decision(
        self,
        request: Request,
        view: ArmView,
        look: Look,
        drawn: tuple[int, float, Literal["exact", "estimated"]],
        told: tuple[Array, Sequence[int], Array],
    ) -> Decision:
        score, columns, x = told
        first, propensity, kind = drawn
        scores = score[0]
        order = [first, *(i for i in np.argsort(-scores, kind="stable").tolist() if i != first)][: choosing.MOST_RANKED]
        quality, bill = look.quality[0].tolist(), look.bill[0].tolist()
        unit, factor = view.unit.tolist(), view.factor.tolist()
        ranked = tuple(
            Ranked(
                target=view.ids[columns[i]],
                score=float(scores[i]),
                predicted=self._predicted(quality[i], bill[i], unit[columns[i]], factor[columns[i]]),
            )
            for i in order
        )
        ids = [row.target for row in ranked[: self.config.fallbacks + 1]]
        spread = float(look.spread[0, first])
        return Decision(
            id=request.id,
            plan=choosing.plan_of(ids),
            target=ids[0],
            ranked=ranked,
            propensity=propensity,
            propensity_kind=kind,
            policy=self.title,
            version=self.version,
            reasons=(
                self.why if self.exploring else "best of what is known",
                f"worth {look.value[0, first]:.3f}, in doubt {spread:.3f}",
            ),
            context=(*x[0].tolist(), unit[columns[first]]),
        )


def fit_of(version: str) -> str:
    """The version of the fit that a policy goes back to: onboarding adds to the name and changes no context."""
    return version.partition("+")[0]


@dataclass(frozen=True, kw_only=True)
class BanditConfig(PolicyConfig):
    """Hyper-parameters that all bandits share.

    warm          share of the training rows that are lived through in `fit`, only the chosen outcome revealed; 0 = a cold start
    optimism      quality expected of a target that was never tried
    ridge         observations that this expectation is worth
    discount      what an outcome still counts after one more of the same target; 1 forgets nothing
    fallbacks     how many of the next best stand by in the plan
    remember      how many decision ids are kept, so that feedback counts once
    """

    warm: float = 1.0
    optimism: float = 1.0
    ridge: float = 3.0
    discount: float = 1.0
    fallbacks: int = 2
    remember: int = 100_000

    def __post_init__(self) -> None:
        name = self.name
        check(self.fallbacks >= 0, f"{name}.fallbacks", "must not be negative")
        check(0 <= self.warm <= 1, f"{name}.warm", "must be a share, in [0, 1]")
        check(0 <= self.optimism <= 1, f"{name}.optimism", "must be in [0, 1]")
        check(0 < self.ridge < float("inf"), f"{name}.ridge", "must be positive and finite")
        check(0 < self.discount <= 1, f"{name}.discount", "must be in (0, 1]")
        check(self.remember >= 1, f"{name}.remember", "must be at least 1")

    @property
    def prior(self) -> Prior:
        """What an arm is before it is tried."""
        return Prior(self.ridge, self.optimism, 1.0, self.discount)

    @property
    @abstractmethod
    def trade(self) -> tuple[float, float]:
        """What a point of quality and a bill of one scale are worth: (w_q, w_c)."""

    @abstractmethod
    def priced(self, cost_weight: float) -> Self:
        """The same, trading quality for cost at this weight."""

    @abstractmethod
    def context(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Context:
        """What is seen of requests, learned from the training prompts."""

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Any:
        """Learn the context, then live through the rows; raises UserError without a row."""
        measured.same_rows(table, features, self.name)
        if not len(table):
            raise UserError("there is no row to learn from", field=self.name, fix="pass at least one recorded query")
        context = self.context(table, features, rng)
        policy = self.fitted(self, context, LinearArms(table.targets.ids, context.dims, self.prior), Scales.of(table))  # type: ignore[call-arg]
        assert isinstance(policy, Bandit)
        policy.warm(table, features, rng)
        return policy


@dataclass(frozen=True, kw_only=True)
class PricedBanditConfig(BanditConfig):
    """Of bandits that trade quality for cost. cost_weight: quality given up for the mean cost of the dearest single target."""

    cost_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.cost_weight < float("inf"), f"{self.name}.cost_weight", "must be finite and not negative")

    @property
    def trade(self) -> tuple[float, float]:
        """1 and the cost weight."""
        return 1.0, self.cost_weight

    def priced(self, cost_weight: float) -> Self:
        """With this cost weight."""
        return replace(self, cost_weight=cost_weight)


@dataclass(frozen=True, kw_only=True)
class LinearBanditConfig(PricedBanditConfig):
    """Of bandits that see the embedding. dims: principal axes that are kept of it, at most 31.

    The defaults of these (dims, ridge, alpha, sigma, epsilon) were chosen by regret on streams of training rows of four public
    tables, never by what came of test rows: few axes and a firm prior lose least in the first thousands of requests.
    """

    dims: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check(1 <= self.dims < 32, f"{self.name}.dims", "must be in 1 … 31")

    @property
    def needs(self) -> frozenset[str]:
        """The embedding."""
        return Reduced.needs

    def context(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Reduced:
        """The principal axes of the training prompts."""
        del table, rng
        return Reduced.of(features.vectors(self.name), self.dims)
