"""utility: predict what each target would do, trade quality against cost and latency, keep hard limits.

The plug-in rule of CARROT (Somerstep et al. 2025): estimate E[quality | x] and E[cost | x] per target, take the best trade.
With a quality floor it takes the cheapest target that is predicted to reach it. A request's own constraints go before the
configured ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from junctor import registry
from junctor.about import About
from junctor.errors import ArtefactError
from junctor.estimators import saved
from junctor.estimators.settings import check, configured, estimator_config
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies import choosing
from junctor.policies.trading import Scales, Utility, View, first_best, has_gaps
from junctor.policy import Array, Estimator, EstimatorConfig, Figures, Policy, PolicyConfig, State, Sweep
from junctor.types import Catalogue, Decision, Outcome, Ranked, Request, Switch

WEIGHTS = (0.0, *np.geomspace(1e-3, 1e3, 60).tolist())
"""The sweep: quality alone, then ten weights a decade; cost alone comes last."""

HONOURED = frozenset({"cost_weight", "quality_floor", "switch"})
FEW = 32
"""Up to so many targets plain numbers are faster than arrays."""
UNKNOWN_COST = 1e300
"""Stands for a cost that is not known where costs are compared: dearer than any, but not excluded."""


class UtilityPolicy(Policy):
    """A fitted estimator and the Utility that trades its predictions. Stateless but for one lookup per catalogue."""

    name: ClassVar[str] = "utility"

    def __init__(self, config: UtilityConfig, estimator: Estimator, scales: Scales) -> None:
        self.config, self.estimator, self.scales = config, estimator, scales
        self.utility = config.utility
        self.label = config.label
        self._fitted = {id_: i for i, id_ in enumerate(estimator.targets)}
        self._views: WeakKeyDictionary[Catalogue, View] = WeakKeyDictionary()

    @property
    def needs(self) -> frozenset[str]:
        """What the estimator reads."""
        return self.estimator.needs

    @property
    def honours(self) -> frozenset[str]:
        """Everything that a request may wish for."""
        return HONOURED

    def worth_usd(self, targets: Catalogue) -> float:
        """The configured cost weight per dollar."""
        scale = self.view(targets).cost_scale
        return self.utility.cost_weight / scale if scale > 0 else 0.0

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """The best trade among the targets; raises NoTarget when none is fitted, predictable and affordable."""
        del rng
        view = self._views.get(targets) or self._view(targets)
        utility = self.utility.under(request.constraints)
        features = Features.of(request) if request.features is None else request.features
        if len(view.ids) <= FEW and utility.quality_floor is None:
            plain = self.estimator.figures(features)
            quick = _traded_few(view, utility, plain, request.switch)
            if quick is not None:
                return self._decision(request, view, utility, plain, *quick)
        found = self.estimator.expect(features)
        quality = found.quality if view.columns is None else found.quality[view.columns]
        cost = view.costs(found.cost_usd, quality)
        if request.switch is not None:
            stay, extra = request.switch.target, request.switch.cost_usd
            cost = cost + np.array([0.0 if id_ == stay else extra for id_ in view.ids])
        score = self._scores(view, utility, quality, cost, found.latency_s)
        order = _order(view, utility, score, quality, cost)
        if not len(order):
            choosing.refuse(
                "no target can be chosen", _refusals(view, utility, quality, cost), fix="raise the budget, or fit anew"
            )
        plain = Figures.of(found)
        return self._decision(request, view, utility, plain, order.tolist(), (score.tolist(), quality.tolist(), cost.tolist()))

    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """The best trades for N requests; raises NoTarget when a request has none."""
        del rng
        view = self._views.get(targets) or self._view(targets)
        found = self.estimator.predict_many(features)
        quality = view.pick(found.quality)
        assert quality is not None
        cost = view.costs(found.cost_usd, quality)
        choices = _choices(view, self.utility, self._scores(view, self.utility, quality, cost, found.latency_s), quality, cost)
        return view.places[choices], np.ones(len(choices))

    def decide_sweep(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> Sweep:
        """Along the cost weight, from quality alone to cost alone, from one prediction; a quality floor leaves no knob."""
        if self.utility.quality_floor is not None:
            return super().decide_sweep(features, targets, rng)
        view = self._views.get(targets) or self._view(targets)
        found = self.estimator.predict_many(features)
        quality = view.pick(found.quality)
        assert quality is not None
        cost = view.costs(found.cost_usd, quality)
        units = view.cost_terms(cost)
        base = self._scores(view, replace(self.utility, cost_weight=0.0), quality, cost, found.latency_s)
        rows = [_choices(view, self.utility, base - weight * units, quality, cost) for weight in WEIGHTS]
        rows.append(first_best(np.where(np.isneginf(base), base, -units), -quality))
        choices = view.places[np.stack(rows)]
        return Sweep(np.array([*WEIGHTS, np.inf]), choices, np.ones(choices.shape))

    def view(self, targets: Catalogue) -> View:
        """The catalogue as the estimator sees it; raises NoTarget when it knows none of them."""
        return self._views.get(targets) or self._view(targets)

    def _view(self, targets: Catalogue) -> View:
        choosing.some(targets)
        view = View(targets, self._fitted, self.scales)
        if not view.ids:
            choosing.refuse("no target here was fitted", view.refusals, fix="fit the policy on these targets, or onboard them")
        self._views[targets] = view
        return view

    def _scores(self, view: View, utility: Utility, quality: Array, cost: Array, latency: Array | None) -> Array:
        """[..., K]; -inf for what cannot be predicted or paid."""
        score = quality
        if utility.cost_weight:
            score = score - utility.cost_weight * view.cost_terms(cost)
        if utility.latency_weight and (slow := view.pick(latency)) is not None:
            score = score - utility.latency_weight * view.latency_terms(slow)
        if utility.budget_usd is not None:
            score = np.where(cost <= utility.budget_usd, score, -np.inf)
        return np.where(np.isnan(score), -np.inf, score) if has_gaps(score) else score

    def _decision(
        self,
        request: Request,
        view: View,
        utility: Utility,
        found: Figures,
        order: list[int],
        figures: tuple[list[float], list[float], list[float]],
    ) -> Decision:
        score, quality, cost = figures
        latency, tokens = view.chosen(found.latency_s), view.chosen(found.output_tokens)
        ids = view.ids
        rows = [
            Ranked(
                target=ids[i],
                score=score[i],
                predicted=Outcome(
                    quality=quality[i],
                    cost_usd=cost[i] if cost[i] == cost[i] else None,
                    latency_s=None if latency is None or latency[i] != latency[i] else latency[i],
                    output_tokens=None if tokens is None or tokens[i] != tokens[i] else tokens[i],
                ),
            )
            for i in order[: choosing.MOST_RANKED]
        ]
        ranked = tuple(rows)
        return choosing.decision(
            request,
            [ids[i] for i in order[: self.config.fallbacks + 1]],
            policy=self.title,
            version=self.version,
            reasons=_reasons(utility, ranked),
            ranked=ranked,
        )

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> UtilityPolicy:
        """A policy that may also choose `target`, learned from a few billed rows; this one is unchanged."""
        wider = UtilityPolicy(self.config, self.estimator.onboard(target, rows, features), self.scales)
        wider.version = f"{self.version}+{target}" if self.version else ""
        return wider

    def state(self) -> State:
        """The estimator's state under `estimator/`, the settings and the scales."""
        inner = self.estimator.state()
        config = {"settings": self.config.settings(), "estimator": {"name": self.estimator.name, "config": dict(inner.config)}}
        return State(
            config, {**self.scales.state().arrays, **{f"estimator/{key}": values for key, values in inner.arrays.items()}}
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(UtilityConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        part = saved.entry(state, "estimator", dict[str, Any])
        name = saved.entry(State(part), "name", str)
        if name != config.estimator_name:
            raise ArtefactError(f"is {name!r}, the settings say {config.estimator_name!r}", field="estimator", fix=saved.FIX)
        kind: type[EstimatorConfig] = registry.load("estimator", name)
        prefix = "estimator/"
        arrays = {key.removeprefix(prefix): values for key, values in state.arrays.items() if key.startswith(prefix)}
        estimator = kind.fitted.from_state(State(saved.entry(State(part), "config", dict[str, Any]), arrays))
        scales = saved.array(state, "scales", (4,), finite=False).tolist()
        return cls(config, estimator, Scales(*scales))


def _traded_few(
    view: View, utility: Utility, found: Figures, switch: Switch | None = None
) -> tuple[list[int], tuple[list[float], list[float], list[float]]] | None:
    """The order, and (score, quality, cost), of a handful of targets: the same sums as `_scores`, in a third of the time.

    None where something is not known, or is too dear, or is a tie: that is for numpy's way.
    """
    quality = view.chosen(found.quality) or []
    cost = view.chosen(found.cost_usd) or view.listed
    if switch is not None:
        stay, extra = switch.target, switch.cost_usd
        cost = [c if id_ == stay else c + extra for id_, c in zip(view.ids, cost, strict=True)]
    slow = view.chosen(found.latency_s) if utility.latency_weight else None
    if sum(quality) != sum(quality) or sum(cost) != sum(cost) or (slow is not None and sum(slow) != sum(slow)):
        return None
    score = quality
    weight, scale = utility.cost_weight, view.cost_scale
    if weight and scale == scale:
        score = [q - weight * (c / scale) for q, c in zip(score, cost, strict=True)]
    weight, scale = utility.latency_weight, view.latency_scale
    if slow is not None and scale == scale:
        score = [s - weight * (t / scale) for s, t in zip(score, slow, strict=True)]
    if utility.budget_usd is not None and max(cost) > utility.budget_usd:
        return None
    order = sorted(range(len(score)), key=score.__getitem__, reverse=True)
    if len(order) > 1 and (len(set(score)) < len(score) or not score[order[0]] > score[order[1]] + choosing.TIE):
        return None
    return order, (score, quality, cost)


def _choices(view: View, utility: Utility, score: Array, quality: Array, cost: Array) -> NDArray[np.intp]:
    """Per row the position of the best [N]; raises NoTarget for a row without any."""
    lost = np.isneginf(score).all(axis=1)
    if lost.any():
        row = int(np.argmax(lost))
        refusals = _refusals(view, utility, quality[row], cost[row])
        choosing.refuse(
            f"no target can be chosen for {int(lost.sum())} of {len(score)} requests", refusals, fix="raise the budget"
        )
    known = np.where(np.isnan(cost), UNKNOWN_COST, cost)
    if utility.quality_floor is None:
        return first_best(score, known)
    open_ = ~np.isneginf(score)
    good = open_ & (quality >= utility.quality_floor)
    cheapest = first_best(np.where(good, -known, -np.inf), -quality)
    best = first_best(np.where(open_, quality, -np.inf), known)
    return np.where(good.any(axis=1), cheapest, best)


def _order(view: View, utility: Utility, score: Array, quality: Array, cost: Array) -> NDArray[np.intp]:
    """Positions best first, without those that are out; the first one is what `_choices` takes."""
    order: NDArray[np.intp]
    if utility.quality_floor is None:
        key = -score
        order = np.lexsort((cost, key))
    else:
        good = quality >= utility.quality_floor
        key = np.where(good, cost, -quality)
        order = np.lexsort((-quality, key, ~good))
    if score.min() == -np.inf:
        order = order[score[order] > -np.inf]
    if order.size > 1 and not key[order[1]] > key[order[0]] + choosing.TIE:  # a tie, or a cost that is not known
        first = int(_choices(view, utility, score[None], quality[None], cost[None])[0])
        order = np.concatenate(([first], order[order != first]))
    return order


def _refusals(view: View, utility: Utility, quality: Array, cost: Array) -> dict[str, str]:
    refusals = dict(view.refusals)
    for id_, q, c in zip(view.ids, quality.tolist(), cost.tolist(), strict=True):
        if q != q:
            refusals[id_] = "its quality cannot be predicted: no outcome was recorded"
        elif utility.budget_usd is not None and c != c:
            refusals[id_] = f"its cost is not known, the budget is ${utility.budget_usd:g}"
        elif utility.budget_usd is not None:
            refusals[id_] = f"predicted to cost ${c:.3g}, the budget is ${utility.budget_usd:g}"
    return refusals


def _reasons(utility: Utility, ranked: Sequence[Ranked]) -> tuple[str, ...]:
    chosen = ranked[0].predicted
    floor = utility.quality_floor
    if floor is None:
        why = f"best trade at cost weight {utility.cost_weight:g}" if utility.cost_weight else "highest predicted quality"
    elif chosen.quality is not None and chosen.quality >= floor:
        why = f"cheapest that is predicted to reach the quality floor {floor:g}"
    else:
        why = f"none is predicted to reach the quality floor {floor:g}: the best there is"
    if len(ranked) == 1:
        return (why, f"predicted quality {chosen.quality:.3f}; no other target could be chosen")
    other, rival = ranked[1].target, ranked[1].predicted
    quality = f"predicted quality {chosen.quality:.3f} against {rival.quality:.3f} of {other}"
    if chosen.cost_usd is None or rival.cost_usd is None:
        return (why, quality, "a cost is not known and counts as the dearest" if utility.cost_weight else "costs are not known")
    return (why, quality, f"costs ${chosen.cost_usd:.3g} against ${rival.cost_usd:.3g}")


@dataclass(frozen=True, kw_only=True)
class UtilityConfig(PolicyConfig):
    """What to predict with and how to trade.

    estimator       a registered name, or an EstimatorConfig; estimator_settings are its hyper-parameters
    cost_weight     quality given up for the mean cost of the dearest single target; latency_weight likewise for the slowest
    budget_usd      hard: a target predicted dearer, or of unknown cost, is refused
    quality_floor   in [0, 1]: the cheapest target predicted to reach it; the best one when none does
    fallbacks       how many of the next best stand by in the plan
    label           what people call it; "utility" by default
    """

    estimator: Any = "knn"
    estimator_settings: Mapping[str, Any] = field(default_factory=dict)
    cost_weight: float = 0.0
    latency_weight: float = 0.0
    budget_usd: float | None = None
    quality_floor: float | None = None
    fallbacks: int = 2
    label: str = ""

    name: ClassVar[str] = "utility"
    fitted: ClassVar[type[Policy]] = UtilityPolicy
    about: ClassVar[About | None] = About(
        title="Utility over an estimator",
        family="bars",
        status="ours",
        source="the plug-in rule of CARROT (Somerstep et al. 2025), with a latency weight, a hard budget and a quality floor",
        formula="argmax_j Q_j(x) - w_c * C_j(x) / C_max - w_t * T_j(x) / T_max, within the budget",
        complexity="fit: the estimator's; decision: the estimator's, and O(M log M)",
    )

    def __post_init__(self) -> None:
        check(isinstance(self.estimator, (str, EstimatorConfig)), "utility.estimator", "must be a name or an EstimatorConfig")
        settled = not isinstance(self.estimator, str)
        check(not (settled and self.estimator_settings), "utility.estimator_settings", "go with a name, not with a config")
        for key in ("cost_weight", "latency_weight", "fallbacks"):
            check(0 <= getattr(self, key) < float("inf"), f"utility.{key}", "must be finite and not negative")
        check(self.budget_usd is None or self.budget_usd > 0, "utility.budget_usd", "must be positive")
        check(self.quality_floor is None or 0 <= self.quality_floor <= 1, "utility.quality_floor", "must be in [0, 1]")
        if isinstance(self.estimator, str):
            made = estimator_config(self.estimator, self.estimator_settings, who="utility.estimator_settings")
            object.__setattr__(self, "estimator", made)
            object.__setattr__(self, "estimator_settings", {})

    @property
    def estimator_name(self) -> str:
        """The registered name of the estimator."""
        return str(self.estimator.name)

    @property
    def utility(self) -> Utility:
        """The weights and limits alone."""
        return Utility(self.cost_weight, self.latency_weight, self.budget_usd, self.quality_floor)

    @property
    def needs(self) -> frozenset[str]:
        """What the estimator reads."""
        needs: frozenset[str] = self.estimator.needs
        return needs

    def settings(self) -> dict[str, Any]:
        """As plain data: the estimator by name, its hyper-parameters beside it."""
        plain = {"estimator": self.estimator_name, "estimator_settings": self.estimator.settings()}
        keys = ("cost_weight", "latency_weight", "budget_usd", "quality_floor", "fallbacks", "label")
        return {**plain, **{key: getattr(self, key) for key in keys}}

    def candidates(self, rows: int) -> Sequence[UtilityConfig]:
        """The estimator's grid; the trade itself is the user's choice and is not tuned."""
        return [replace(self, estimator=made) for made in self.estimator.candidates(rows)]

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> UtilityPolicy:
        """Fit the estimator and read the scales off the table."""
        return UtilityPolicy(self, self.estimator.fit(table, features, rng), Scales.of(table))
