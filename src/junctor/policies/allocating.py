"""What policies under budgets share: remaining budgets, settlement, prices, and the rule that all of them come to.

An Allocator predicts with an estimator, as the utility policy does, and takes the target of the best

    quality - price * cost        price [M] in quality per USD, one per target; all 0 until somebody has set them

among those whose remaining budget still holds the predicted cost. Subclasses say where prices come from. Nothing is paid when a
decision is taken: `learn` settles it with the billed cost of its Outcome, once per decision id, also after a restart. What was
billed to a fallback counts against the target that was decided for, because an Outcome does not name its payer.

`allocate` is the same policy over a recorded stream of requests: what the bench runs.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from junctor.errors import ArtefactError, ConfigError
from junctor.estimators import saved
from junctor.estimators.knn import KNNConfig
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policies.pricing import dearest_for_unknown, walk
from junctor.policies.trading import View, first_best
from junctor.policies.utility import UNKNOWN_COST, UtilityConfig, UtilityPolicy
from junctor.policy import Array, Learner, Policy, PolicyConfig, Prediction, State, Sweep
from junctor.types import Catalogue, Decision, Outcome, Ranked, Request

PLUG_IN = "plug_in/"
PUBLISHED_K = 5
"""The neighbours that PORT's authors average."""


class Allocator(Learner):
    """A plug-in estimator, budgets [M] (infinite = none), what was paid of them [M], prices [M], and who was settled.

    `window` holds predictions (quality and cost side by side, [w, 2 M]) of settled requests, while a subclass asks for them.
    """

    config: AllocatorConfig

    def __init__(self, config: AllocatorConfig, plug_in: UtilityPolicy) -> None:
        self.config, self.plug_in, self.label = config, plug_in, config.label
        ids = plug_in.estimator.targets
        stray = [id_ for id_ in config.budgets if id_ not in ids]
        if stray:
            raise ConfigError("is no target of the table", field=f"{config.name}.budgets.{stray[0]}", fix=", ".join(ids))
        self.budgets = np.array([config.budgets.get(id_, np.inf) for id_ in ids])
        self.spent, self.prices = np.zeros(len(ids)), np.zeros(len(ids))
        self.settled: set[int] = set()
        self.window: list[tuple[float, ...]] = []

    @property
    def needs(self) -> frozenset[str]:
        """What the estimator reads."""
        return self.plug_in.needs

    @property
    def targets(self) -> tuple[str, ...]:
        """The M targets, in the order of every array."""
        return self.plug_in.estimator.targets

    @property
    def bounded(self) -> bool:
        """Whether any target has a budget: without one, this is the plug-in rule."""
        return bool(self.config.budgets)

    @property
    def remaining(self) -> Array:
        """[M] USD that is left, never below 0; infinite where there is no budget."""
        return np.maximum(self.budgets - self.spent, 0.0)

    @abstractmethod
    def allocate(
        self, quality: Array, cost: Array, budgets: Array, rng: np.random.Generator, *, check: bool, billed: Array | None = None
    ) -> NDArray[np.intp]:
        """Serve a stream of N requests in its order: positions [N], -1 for those that are not served.

        quality, cost   [N, M] predicted; NaN = not known
        budgets         [M] USD for the whole stream
        check           skip targets whose remaining budget is below the predicted cost
        billed          [N, M] what each call would turn out to cost; the predicted cost by default

        A call that turns out dearer than what is left is lost (-1) and not billed. Learned state is neither read nor changed.
        """

    def worth(self, quality: Array, cost: Array) -> Array:
        """[..., M] what the rule compares: quality - price * cost. Subclasses may compare something else."""
        return np.asarray(quality - self.prices * dearest_for_unknown(cost)) if self.prices.any() else quality

    def exploring(self) -> bool:
        """Whether decisions are drawn at random for now, to learn prices."""
        return False

    def collecting(self) -> bool:
        """Whether `learn` should keep predictions of settled requests in the window."""
        return False

    def collected(self) -> None:
        """Called when a settled request entered the window: set prices here."""

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """The best payable target; raises NoTarget when none is, or none can be predicted."""
        features = Features.of(request) if request.features is None else request.features
        found = self.plug_in.estimator.expect(features)
        view, quality, cost, score = self._judged(found, targets)
        order = np.lexsort((cost, -score))
        order = order[score[order] > -np.inf]
        if not len(order):
            choosing.refuse("no target can be paid", self._refusals(view, quality, cost), fix="raise a budget, or fit anew")
        first = int(first_best(score, np.where(np.isnan(cost), UNKNOWN_COST, cost)))
        order = np.concatenate(([first], order[order != first]))
        propensity = 1.0
        if self.exploring():
            order, propensity = rng.permutation(order), 1.0 / len(order)
        return self._decision(request, view, order.tolist(), (score, quality, cost), propensity, found)

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """Each of N requests as if it came next: nothing is settled in between. Raises NoTarget when one cannot be served."""
        view, _, cost, score = self._judged(self.plug_in.estimator.predict_many(features), targets)
        open_ = score > -np.inf
        if not open_.any(axis=1).all():
            count = int((~open_.any(axis=1)).sum())
            refusals = dict.fromkeys(view.ids, "its budget does not hold the predicted cost")
            choosing.refuse(f"no target can be paid for {count} of {len(score)} requests", refusals, fix="raise a budget")
        if self.exploring():
            choices = np.where(open_, rng.random(score.shape), -1.0).argmax(axis=1)
            return view.places[choices], 1.0 / open_.sum(axis=1)
        choices = first_best(score, np.where(np.isnan(cost), UNKNOWN_COST, cost))
        return view.places[choices], np.ones(len(choices))

    def decide_sweep(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> Sweep:
        """Without budgets, the plug-in rule's own knob; with them there is none."""
        return (
            super().decide_sweep(features, targets, rng) if self.bounded else self.plug_in.decide_sweep(features, targets, rng)
        )

    def learn(self, decision: Decision, outcome: Outcome) -> None:
        """Settle a decision with its billed cost, once. An outcome without a cost settles nothing: the bill may still come."""
        key = _key(decision.id)
        if outcome.cost_usd is None or not np.isfinite(outcome.cost_usd) or key in self.settled:
            return
        self.settled.add(key)
        if decision.target in self.targets:
            self.spent[self.targets.index(decision.target)] += max(outcome.cost_usd, 0.0)
        if self.collecting() and len(decision.context) == 2 * len(self.targets):
            self.window.append(decision.context)
            self.collected()

    def seen(self) -> tuple[Array, Array]:
        """The window as predicted quality and cost [w, M], NaN where a number was not known."""
        both = np.array(self.window, dtype=np.float64).reshape(-1, 2 * len(self.targets))
        both = np.where(both < 0, np.nan, both)
        return both[:, : len(self.targets)], both[:, len(self.targets) :]

    def _judged(self, found: Prediction, targets: Catalogue) -> tuple[View, Array, Array, Array]:
        """The view, quality, cost and score [..., K] of a catalogue; -inf for what cannot be predicted or paid."""
        view = self.plug_in.view(targets)
        full = np.full(found.quality.shape, np.nan) if found.cost_usd is None else found.cost_usd
        quality, cost = view.pick(found.quality), view.costs(found.cost_usd, found.quality[..., : len(view.ids)])
        remaining, worth = view.pick(self.remaining), view.pick(self.worth(found.quality, full))
        assert quality is not None
        assert remaining is not None
        assert worth is not None
        payable = remaining > 0.0
        if self.config.check:
            payable = payable & ~(cost > remaining)
        elif self.bounded:  # the published rule: what it wants is lost when its budget is gone, whatever else could be paid
            best = first_best(np.where(np.isnan(worth), -np.inf, worth), np.where(np.isnan(cost), UNKNOWN_COST, cost))
            payable = payable & (np.arange(len(view.ids)) == best[..., None])
        return view, quality, cost, np.where(payable & ~np.isnan(worth), worth, -np.inf)

    def _decision(
        self,
        request: Request,
        view: View,
        order: list[int],
        arrays: tuple[Array, Array, Array],
        propensity: float,
        found: Prediction,
    ) -> Decision:
        score, quality, cost = (values.tolist() for values in arrays)
        ranked = tuple(
            Ranked(
                target=view.ids[i],
                score=score[i],
                predicted=Outcome(quality=quality[i], cost_usd=None if cost[i] != cost[i] else cost[i]),
            )
            for i in order[: choosing.MOST_RANKED]
        )
        made = choosing.decision(
            request,
            [view.ids[i] for i in order[: self.config.fallbacks + 1]],
            policy=self.title,
            version=self.version,
            reasons=self._reasons(ranked[0]),
            ranked=ranked,
            propensity=propensity,
        )
        if not self.collecting():
            return made
        cost_usd = np.full(found.quality.shape, np.nan) if found.cost_usd is None else found.cost_usd
        context = np.nan_to_num(np.concatenate([found.quality, cost_usd]), nan=-1.0)  # JSON has no NaN
        return msgspec.structs.replace(made, context=tuple(context.tolist()))

    def _reasons(self, chosen: Ranked) -> tuple[str, ...]:
        place = self.targets.index(chosen.target)
        if self.exploring():
            why = "drawn at random: prices are learned from the first requests"
        elif self.prices.any():
            why = f"best quality less price: {chosen.target} is priced at {self.prices[place]:.3g} quality per USD"
        else:
            why = "highest predicted quality" + (" that can be paid" if self.bounded else "")
        if not np.isfinite(self.budgets[place]):
            return (why, f"no budget is set for {chosen.target}")
        return (why, f"${self.remaining[place]:.4g} of ${self.budgets[place]:.4g} is left for {chosen.target}")

    def _refusals(self, view: View, quality: Array, cost: Array) -> dict[str, str]:
        refusals = dict(view.refusals)
        left = view.pick(self.remaining)
        assert left is not None
        for id_, q, c, usd in zip(view.ids, quality.tolist(), cost.tolist(), left.tolist(), strict=True):
            if q != q:
                refusals[id_] = "its quality cannot be predicted: no outcome was recorded"
            elif usd <= 0.0 or c > usd:
                refusals[id_] = f"${usd:.3g} of its budget is left, predicted to cost ${c:.3g}"
            else:
                refusals[id_] = "another target is wanted more, and its budget is gone"
        return refusals

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Allocator:
        """A policy that may also choose `target`, without a budget and a price of its own; this one is unchanged."""
        wider = type(self)(self.config, self.plug_in.onboard(target, rows, features))
        wider.spent, wider.prices = np.append(self.spent, 0.0), np.append(self.prices, 0.0)
        wider.settled, wider.version = set(self.settled), f"{self.version}+{target}" if self.version else ""
        return wider

    def state(self) -> State:
        """The plug-in's state under `plug_in/`, what was spent, prices, the window, and the settled ids as 64-bit digests."""
        inner = self.plug_in.state()
        arrays = {f"{PLUG_IN}{key}": values for key, values in inner.arrays.items()}
        arrays |= {"spent": self.spent, "prices": self.prices}
        arrays["settled"] = np.array(sorted(self.settled), dtype=np.uint64)
        arrays["window"] = np.array(self.window, dtype=np.float64).reshape(-1, 2 * len(self.targets))
        return State({"settings": self.config.settings(), "plug_in": dict(inner.config)}, arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(cls.config_type, saved.entry(state, "settings", dict[str, Any]), cls.name)
        arrays = {key.removeprefix(PLUG_IN): values for key, values in state.arrays.items() if key.startswith(PLUG_IN)}
        made = cls(config, UtilityPolicy.from_state(State(saved.entry(state, "plug_in", dict[str, Any]), arrays)))
        count = len(made.targets)
        made.spent, made.prices = saved.array(state, "spent", (count,)), saved.array(state, "prices", (count,))
        made.settled = set(saved.array(state, "settled", (None,), np.uint64).tolist())
        made.window = [tuple(row) for row in saved.array(state, "window", (None, 2 * count)).tolist()]
        if (made.spent < 0).any() or (made.prices < 0).any():
            raise ArtefactError("holds a negative number", field="spent, prices", fix=saved.FIX)
        return made

    config_type: ClassVar[type[AllocatorConfig]]


def _key(id_: str) -> int:
    """64 bits of a decision id: what has to be remembered of a settled one."""
    return int.from_bytes(hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


@dataclass(frozen=True, kw_only=True)
class AllocatorConfig(PolicyConfig):
    """What every policy under budgets is told.

    estimator   a registered name, or an EstimatorConfig; estimator_settings are its hyper-parameters
    budgets     target id -> USD for all of the stream; a target that is not named has no limit
    check       skip what cannot be paid; without it, a request whose first choice has no budget left is refused
    fallbacks   how many of the next best stand by in the plan
    label       what people call it
    """

    estimator: Any = field(default_factory=lambda: KNNConfig(k=PUBLISHED_K))
    estimator_settings: Mapping[str, Any] = field(default_factory=dict)
    budgets: Mapping[str, float] = field(default_factory=dict)
    check: bool = True
    fallbacks: int = 2
    label: str = ""

    def __post_init__(self) -> None:
        plug_in = UtilityConfig(estimator=self.estimator, estimator_settings=self.estimator_settings, fallbacks=self.fallbacks)
        object.__setattr__(self, "estimator", plug_in.estimator)
        object.__setattr__(self, "estimator_settings", {})
        for id_, usd in self.budgets.items():
            check(0 <= usd < float("inf"), f"{self.name}.budgets.{id_}", "must be USD, finite and not negative")

    @property
    def plug_in(self) -> UtilityConfig:
        """The utility policy over the same estimator: quality alone."""
        return UtilityConfig(estimator=self.estimator, fallbacks=self.fallbacks)

    @property
    def needs(self) -> frozenset[str]:
        """What the estimator reads."""
        return self.plug_in.needs

    def settings(self) -> dict[str, Any]:
        """As plain data: the estimator by name, its hyper-parameters beside it."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **plain,
            "estimator": self.plug_in.estimator_name,
            "estimator_settings": self.estimator.settings(),
            "budgets": dict(self.budgets),
        }

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Policy:
        """Fit the estimator; raises ConfigError for a budget of a target that the table does not have."""
        kind: Any = self.fitted
        return kind(self, self.plug_in.fit(table, features, rng))  # type: ignore[no-any-return]


def served(scores: Array, cost: Array, budgets: Array, billed: Array | None, *, check: bool) -> NDArray[np.intp]:
    """`walk` over a whole stream with budgets of its own."""
    return walk(scores, cost, budgets.copy(), cost if billed is None else billed, check=check)
