"""References that only a bench can show: they look at the test outcomes, or are not one policy but a mixture.

`Curve` is what everything is judged by: the outcomes of the N test queries at each of L settings of a knob.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from junctor.outcomes import OutcomeTable
from junctor.policy import Replay, Sweep

Array = NDArray[np.float64]

BARS = ("random", "cheapest", "best-single", "label-table", "zero-router", "knn", "linear", "kmeans-table")
"""The cheap bars: a policy that does not clear these has no claim."""

_ORACLE_STEPS = 64


@dataclass(frozen=True, slots=True)
class Curve:
    """Outcomes per setting and query.

    quality     [L, N]; NaN where the chosen cell was not recorded
    cost_usd    [L, N], or None when the table has no costs
    strong      [L, N] share of calls that go to the strong one of two targets, or None
    operating   which setting stands for the policy where one point is wanted
    knob        whether the L settings trade quality for cost
    mixed       whether the curve is its own hull by definition
    """

    quality: Array
    cost_usd: Array | None = None
    strong: Array | None = None
    operating: int = 0
    knob: bool = False
    mixed: bool = False


def gathered(table: OutcomeTable, sweep: Sweep, operating: int = 0, strong: int | None = None) -> Curve:
    """What the choices of a sweep came to on the table; `strong` is the position of the stronger of two targets."""
    rows = np.arange(len(table))[None, :]
    cost = None if table.cost_usd is None else table.cost_usd[rows, sweep.choices]
    share = None if strong is None else (sweep.choices == strong).astype(np.float64)
    return Curve(table.quality[rows, sweep.choices], cost, share, operating, knob=len(sweep.settings) > 1)


def replayed(replay: Replay, *, by_share: bool = False) -> Curve:
    """What plans that look at answers came to, every call billed; without costs, the first setting alone.

    With `by_share` costs count calls of the strong one of two targets: they are the share of strong calls.
    """
    if replay.cost_usd is None:
        return Curve(replay.quality[:1])
    strong = replay.cost_usd if by_share else None
    return Curve(replay.quality, replay.cost_usd, strong, knob=len(replay.settings) > 1)


def both_ways(curve: Curve, other: Curve) -> Curve:
    """A sweep towards the weak target joined with one towards the strong target: all shares of strong calls from 0 to 1."""
    assert curve.strong is not None
    assert other.strong is not None
    quality, strong = np.vstack([curve.quality, other.quality]), np.vstack([curve.strong, other.strong])
    return Curve(quality, None, strong, curve.operating, curve.knob, curve.mixed)


def mirrored(table: OutcomeTable) -> OutcomeTable:
    """The table with a call of the weak target counting 1 and of the strong one 0, in place of the other way round."""
    assert table.cost_usd is not None
    return replace(table, cost_usd=1.0 - table.cost_usd)


def oracle_choices(table: OutcomeTable, price: float = 0.0) -> NDArray[np.intp]:
    """Per query the target of the best quality - price * cost, ties to the cheapest; where all fail, the cheapest. [N].

    price   quality points that one USD is worth; 0 is the quality oracle, infinite the cheapest call
    """
    quality = np.where(table.mask, table.quality, -np.inf)
    if table.cost_usd is None:
        return np.asarray(quality.argmax(axis=1))
    cost = np.where(np.isnan(table.cost_usd), np.inf, table.cost_usd)
    if np.isinf(price):
        return np.asarray(np.where(table.mask, cost, np.inf).argmin(axis=1))
    utility = quality if price == 0.0 else quality - price * cost
    best = utility >= utility.max(axis=1, keepdims=True) - 1e-12
    return np.asarray(np.where(best, cost, np.inf).argmin(axis=1))


def oracle(table: OutcomeTable, strong: int | None = None) -> Curve:
    """The per-query oracle along λ: the best that any choice among these targets can do, at each price of quality."""
    prices = [0.0, *_prices(table)]
    choices = np.stack([oracle_choices(table, price) for price in prices])
    return gathered(table, Sweep(np.array(prices), choices, np.ones(choices.shape)), 0, strong)


def zero_router(table: OutcomeTable, operating: int, strong: int | None = None) -> Curve:
    """The mixture of single targets on their hull: what needs no look at the query at all.

    Its points are the single targets *as evaluated on the rows of `table`*, as in RouterBench (Hu et al. 2024, section 3), so
    it is a little flattered: which to mix is known in advance. `operating` is the single target that stands for it.
    """
    targets = len(table.targets)
    choices = np.broadcast_to(np.arange(targets, dtype=np.intp)[:, None], (targets, len(table)))
    curve = gathered(table, Sweep(np.arange(targets, dtype=np.float64), choices, np.ones(choices.shape)), operating, strong)
    return Curve(curve.quality, curve.cost_usd, curve.strong, operating, knob=True, mixed=True)


def random_choice(table: OutcomeTable) -> Curve:
    """Uniform choice in expectation: the mean over the recorded targets of each query, without the noise of one draw.

    Between two targets it is also a curve: a coin of any bias lies on the straight line between them.
    """
    cost = None if table.cost_usd is None else _row_means(table.cost_usd)[None, :]
    strong = np.full((1, len(table)), 0.5) if len(table.targets) == 2 else None
    return Curve(_row_means(table.quality)[None, :], cost, strong, mixed=strong is not None)


def _prices(table: OutcomeTable) -> list[float]:
    """Prices of quality from "any gain is worth it" to "no gain is", spaced by ratio, from the spread of recorded costs."""
    if table.cost_usd is None:
        return []
    recorded = table.cost_usd[~np.isnan(table.cost_usd).all(axis=1)]
    spread = np.nanmax(recorded, axis=1) - np.nanmin(recorded, axis=1)
    known = spread[spread > 0]
    if not len(known):
        return []
    low, high = 0.02 / float(known.max()), 50.0 / float(np.median(known))
    return [*(float(price) for price in np.geomspace(low, high, _ORACLE_STEPS)), np.inf]


def _row_means(values: Array) -> Array:
    """[N] means of the recorded cells; NaN for a row without any."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
