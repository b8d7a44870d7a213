"""How predicted outcomes are traded: Utility holds the weights and the hard limits, a View what a catalogue offers.

score = quality - cost_weight * cost / cost_scale - latency_weight * latency / latency_scale

The scales are the mean cost of the dearest and the mean latency of the slowest single target on the training rows, so that a
weight of 1 trades all of quality against them and raw dollars never make the knob useless (CARROT's pitfall).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from junctor.estimators.measured import means
from junctor.outcomes import OutcomeTable
from junctor.policies.choosing import TIE
from junctor.policy import Array, State
from junctor.types import Catalogue, Constraints, Outcome, Target

TOKENS_PER_CHARACTER = 0.25
ASSUMED_OUTPUT_TOKENS = 256.0
"""For list prices where the table records no tokens: a nominal answer. It sets the level of such costs, not their order."""


@dataclass(frozen=True, slots=True)
class Utility:
    """Weights, a hard budget in USD for one request, and the least predicted quality that will do."""

    cost_weight: float = 0.0
    latency_weight: float = 0.0
    budget_usd: float | None = None
    quality_floor: float | None = None

    def under(self, demands: Constraints) -> Utility:
        """With what the caller demands in place of the configured limits."""
        if demands.budget_usd is None and demands.quality_floor is None and demands.cost_weight is None:
            return self
        budget = self.budget_usd if demands.budget_usd is None else demands.budget_usd
        weight = self.cost_weight if demands.cost_weight is None else demands.cost_weight
        floor = demands.quality_floor
        if floor is None and demands.cost_weight is None:
            floor = self.quality_floor  # who asks for a trade does not want the configured floor, which leaves nothing to trade
        return Utility(weight, self.latency_weight, budget, floor)


@dataclass(frozen=True, slots=True)
class Scales:
    """What was typical on the training rows: NaN where nothing is known.

    cost_usd     mean cost of the dearest single target
    latency_s    mean latency of the slowest single target
    tokens_in, tokens_out   of one call, for list prices
    """

    cost_usd: float
    latency_s: float
    tokens_in: float
    tokens_out: float

    @classmethod
    def of(cls, table: OutcomeTable) -> Scales:
        """Read off a table; costs come from list prices where none is recorded."""
        characters = [len(text) for text in table.texts]
        assumed = TOKENS_PER_CHARACTER * (sum(characters) / len(characters) if characters else 1000.0)
        tokens_in, tokens_out = _mean(table.input_tokens, assumed), _mean(table.output_tokens, ASSUMED_OUTPUT_TOKENS)
        bare = cls(float("nan"), float("nan"), tokens_in, tokens_out)
        cost = _dearest(table.cost_usd)
        if np.isnan(cost):
            cost = largest(np.array([bare.list_cost(target) for target in table.targets]))
        return cls(cost, _dearest(table.latency_s), tokens_in, tokens_out)

    def list_cost(self, target: Target) -> float:
        """USD for one typical call at list price; NaN without a price."""
        return float("nan") if target.price is None else target.price.cost_usd(self.tokens_in, self.tokens_out)

    def state(self) -> State:
        """As one small array."""
        return State({}, {"scales": np.array([self.cost_usd, self.latency_s, self.tokens_in, self.tokens_out])})


def expected(table: OutcomeTable) -> dict[str, Outcome]:
    """Each target's mean quality and mean cost over what was recorded; list price for a cost that never was."""
    scales = Scales.of(table)
    quality = means(table.quality)
    cost = np.full(len(table.targets), np.nan) if table.cost_usd is None else means(table.cost_usd)
    listed = np.array([scales.list_cost(target) for target in table.targets])
    cost = np.where(np.isnan(cost), listed, cost)
    pairs = zip(table.targets.ids, quality.tolist(), cost.tolist(), strict=True)
    return {id_: Outcome(quality=None if q != q else q, cost_usd=None if c != c else c) for id_, q, c in pairs}


def largest(values: Array) -> float:
    """The largest value that is not NaN, or NaN."""
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else float("nan")


def _mean(values: Array | None, otherwise: float) -> float:
    return otherwise if values is None or np.isnan(values).all() else float(np.nanmean(values))


def _dearest(values: Array | None) -> float:
    """The largest column mean."""
    if values is None:
        return float("nan")
    return largest(means(values))


class View:
    """A catalogue as an estimator sees it: which columns it may choose from, and what is known of their cost beforehand.

    places     [K] positions in the catalogue of the targets that the estimator knows
    columns    [K] their columns in a Prediction, or None when these are all of them in the same order
    list_cost  [K] USD for a typical call at list price, NaN without a price
    refusals   why each other target is out
    """

    __slots__ = (
        "_listed_columns",
        "columns",
        "cost_scale",
        "ids",
        "latency_scale",
        "list_cost",
        "listed",
        "places",
        "refusals",
    )

    def __init__(self, targets: Catalogue, fitted: dict[str, int], scales: Scales) -> None:
        known = [i for i, id_ in enumerate(targets.ids) if id_ in fitted]
        columns = [fitted[targets.ids[i]] for i in known]
        self.places = np.array(known, dtype=np.intp)
        self.columns = None if columns == list(range(len(fitted))) else np.array(columns, dtype=np.intp)
        self._listed_columns = None if self.columns is None else columns
        self.ids = [targets.ids[i] for i in known]
        self.list_cost = np.array([scales.list_cost(targets[i]) for i in known], dtype=np.float64)
        self.listed: list[float] = self.list_cost.tolist()
        self.refusals = {id_: "not fitted: it was not among the training targets" for id_ in targets.ids if id_ not in fitted}
        scale = largest(self.list_cost) if np.isnan(scales.cost_usd) else scales.cost_usd
        self.cost_scale = scale if scale > 0 else float("nan")
        self.latency_scale = scales.latency_s if scales.latency_s > 0 else float("nan")

    def pick(self, values: Array | None) -> Array | None:
        """The K columns of [..., M] values."""
        return values if values is None or self.columns is None else values[..., self.columns]

    def chosen(self, values: list[float] | None) -> list[float] | None:
        """The K columns of [M] plain numbers."""
        columns = self._listed_columns
        return values if values is None or columns is None else [values[i] for i in columns]

    def costs(self, predicted: Array | None, like: Array) -> Array:
        """USD [..., K]: predicted, else the list price of a typical call, else NaN."""
        found = self.pick(predicted)
        if found is None:
            return np.broadcast_to(self.list_cost, like.shape)
        return np.where(np.isnan(found), self.list_cost, found) if has_gaps(found) else found

    def cost_terms(self, costs: Array) -> Array:
        """Costs in units of the scale; an unknown one counts as the dearest, so that a missing price never looks cheap."""
        return _in_units(costs, self.cost_scale)

    def latency_terms(self, latencies: Array) -> Array:
        """Latencies in units of the scale; an unknown one counts as the slowest."""
        return _in_units(latencies, self.latency_scale)


def has_gaps(values: Array) -> bool:
    """Whether any value is NaN: one sum is half the time of testing each, and a decision asks three times."""
    total = values.sum()
    return bool(total != total)


def _in_units(values: Array, scale: float) -> Array:
    if np.isnan(scale):
        return np.zeros(values.shape)
    units = values / scale
    return np.where(np.isnan(units), 1.0, units) if has_gaps(units) else units


def first_best(score: Array, cost: Array) -> NDArray[np.intp]:
    """Per row the best score [N]; of equal ones the cheapest, then the first. Rows of -inf give any position."""
    tied = score >= score.max(axis=-1, keepdims=True) - TIE
    found: NDArray[np.intp] = np.where(tied, cost, np.inf).argmin(axis=-1)
    return found
