"""Who is let in when not everybody can be: the most value per window, and never a lesser call before a greater one.

Every call has a value (by its priority) and a load on each thing that is short: requests, tokens, money. To admit calls so that
the sum of their values is the most that the capacity of a window allows is an integer program (`exact`); its linear relaxation
bounds what anybody could reach (`bound`). Online nobody knows what comes next, so `Admission` lets the last window speak for
the next one: once a second it works out the dual prices of that program over the calls it has seen, and lets a call in when
its value is more than its load at those prices. While everything fits, all prices are zero and everybody is let in.
benchmarks/admission.py measures both against the bound.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
VALUES = tuple(4.0**-priority for priority in range(10))
"""What a call of each priority is worth: one of priority 0 as much as four of priority 1."""
WINDOW_S = 60.0
EVERY_S = 1.0
SAMPLE = 256
LEAST = 16
SWEEPS = 4
HEADROOM = 0.2
GAIN = 0.5
KEPT = 0.02
CLOSE = 1e-9


class Prices(NamedTuple):
    """Dual prices of each resource (in value per whole capacity), and the share of calls exactly at them that still fits."""

    prices: Floats
    share: float = 1.0


def dual_prices(values: Floats, loads: Floats) -> Prices:
    """Prices that fill the capacity: `loads` (calls × resources) are shares of it. Coordinate descent, exact in each price."""
    count, resources = loads.shape
    prices = np.zeros(resources)
    if count == 0 or bool((loads.sum(axis=0) <= 1.0).all()):
        return Prices(prices)
    for _ in range(SWEEPS):
        for place in np.argsort(-loads.sum(axis=0)):
            others = loads @ prices - loads[:, place] * prices[place]
            prices[place] = _price(values - others, loads[:, place])
    return Prices(prices, _share(values, loads, prices))


def _price(worth: Floats, load: Floats) -> float:
    """The least price at which the calls that are worth more do not need more than there is."""
    uses = (load > 0) & (worth > 0)
    density = worth[uses] / load[uses]
    order = np.argsort(-density)
    over = np.flatnonzero(np.cumsum(load[uses][order]) > 1.0)
    return float(density[order[over[0]]]) if len(over) else 0.0


def _share(values: Floats, loads: Floats, prices: Floats) -> float:
    gain = values - loads @ prices
    edge = np.abs(gain) <= CLOSE * np.maximum(values, CLOSE)
    dear = int(np.argmax(prices))
    sure, open_ = float(loads[gain > 0][:, dear].sum()), float(loads[edge][:, dear].sum())
    sure -= float(loads[edge & (gain > 0)][:, dear].sum())
    return float(np.clip((1.0 - sure) / open_, 0.0, 1.0)) if open_ > 0 else 1.0


def exact(values: Floats, loads: Floats, *, seconds: float = 10.0) -> float:
    """The most value that fits, by integer programming. Needs SciPy (extra `bench`)."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    found: Any = milp(
        -values,
        constraints=LinearConstraint(loads.T, ub=np.ones(loads.shape[1])),
        integrality=np.ones(len(values)),
        bounds=Bounds(0, 1),
        options={"time_limit": seconds, "mip_rel_gap": 1e-4, "presolve": False},  # presolving prints to standard output
    )
    return float(-found.fun)


def bound(values: Floats, loads: Floats) -> float:
    """No way of choosing is worth more: the linear relaxation. Needs SciPy (extra `bench`)."""
    from scipy.optimize import linprog

    found: Any = linprog(-values, A_ub=loads.T, b_ub=np.ones(loads.shape[1]), bounds=(0, 1), method="highs")
    return float(-found.fun)


class Admission:
    """Decides at the door of something that is shared and limited, for example a team's limits.

    capacity   per window, of each resource; None: not short, whatever is asked of it
    window_s   seconds that the capacity is for
    Of two calls with the same load the more important is never refused where the other would be let in.
    """

    __slots__ = (
        "_acc",
        "_capacity",
        "_prices",
        "_random",
        "_seen",
        "_share",
        "_stride",
        "_values",
        "_window_s",
        "due",
        "short",
    )

    def __init__(
        self, capacity: Sequence[float | None], *, window_s: float = WINDOW_S, values: Sequence[float] = VALUES
    ) -> None:
        self._capacity = [float(c) if c is not None else float("inf") for c in capacity]
        self._values = tuple(values)
        self._window_s = window_s
        self._seen: deque[tuple[float, float, tuple[float, ...]]] = deque()
        self._prices: tuple[float, ...] = (0.0,) * len(self._capacity)
        self._share = 1.0
        self._acc = [0.0] * len(self._values)
        self.due = 0.0
        """When prices are worked out anew."""
        self._stride = 1
        self._random = random.Random(0).random  # noqa: S311 - a sample of the calls
        self.short = False
        """Whether the last window asked for more than there is, by callers of several priorities."""

    def admit(self, priority: int, load: tuple[float, ...], now: float, free: float = HEADROOM) -> bool:
        """Whether to let a call in. `load` is in the capacity's units; `free`: the share of the capacity that is unused now.

        Without a better idea of what is free, the default changes nothing.
        """
        value = self._values[priority]
        if self._stride == 1 or self._random() * self._stride < 1.0:
            self._seen.append((now, value, load))
        if now >= self.due:
            self._solve(now, free)
        if not self.short:
            return True
        if free < KEPT * priority:
            return False  # the last of the room is for those who matter more
        cost = 0.0
        for price, part in zip(self._prices, load, strict=True):
            cost += price * part
        if value > cost * (1 + CLOSE):
            return True
        if value < cost * (1 - CLOSE):
            return False
        self._acc[priority] += self._share
        if self._acc[priority] < 1.0:
            return False
        self._acc[priority] -= 1.0
        return True

    def _solve(self, now: float, free: float) -> None:
        seen = self._seen
        self.due = now + EVERY_S * self._window_s / WINDOW_S
        while seen and seen[0][0] <= now - self._window_s:
            seen.popleft()
        if len(seen) > 2 * SAMPLE:
            self._seen = seen = deque(entry for entry in seen if self._random() < 0.5)
            self._stride *= 2
        elif len(seen) < SAMPLE // 2 and self._stride > 1:
            self._stride //= 2
            self._seen = seen = deque(entry for entry in seen for _ in range(2))
        self.short = False
        if len(seen) < LEAST or len({value for _, value, _ in seen}) < 2:
            return  # equals: first come, first served
        # What is unused now may be used; a little is kept free, so that the important find room at once.
        grown = max(0.1, 1.0 + GAIN * (free - HEADROOM))
        scale = np.array([self._stride / (c * grown) for c in self._capacity])
        values = np.array([value for _, value, _ in seen])
        found = dual_prices(values, np.array([load for _, _, load in seen], dtype=float) * scale)
        self._prices = tuple((found.prices * scale).tolist())
        self._share = found.share
        self.short = any(self._prices)
