"""Chains of up to three models with thresholds on scores between them: a grid of points, priced, and the best per budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from junctor.curves import pareto
from junctor.policy import Array

POOL = 6
"""Models that chains are made of: those on the front of mean cost and quality first, then the best of the rest."""
LONGEST = 3
STEPS = (0.5, 0.25, 0.125)
"""Local search: moves along the score's quantiles, in steps of the grid."""


@dataclass(frozen=True, slots=True)
class Point:
    """A chain of columns with a threshold after each but the last: score >= threshold stops there."""

    columns: tuple[int, ...]
    levels: tuple[float, ...]
    taus: tuple[float, ...]
    quality: float
    cost: float


@dataclass(frozen=True)
class Scored:
    """The rows that thresholds are set on, gaps filled: quality, cost, and score of each target's answer, all [n, M].

    share   calls of a model that scoring its answer costs besides the answer itself
    grid    quantile points per threshold
    """

    quality: Array
    cost: Array
    score: Array
    share: float = 0.0
    grid: int = 40

    @cached_property
    def _ordered(self) -> Array:
        """[n, M] each target's scores, ascending: quantiles are read off it."""
        return np.sort(self.score, axis=0)

    @cached_property
    def _onward(self) -> dict[int, Array]:
        """Column -> [n, grid] 1 where its score is below the quantile, filled as columns are asked for."""
        return {}

    def _goes_on(self, column: int) -> Array:
        found = self._onward.get(column)
        if found is None:
            levels = np.linspace(0.0, 1.0, self.grid)
            taus = np.interp(levels * (len(self.score) - 1), np.arange(len(self.score)), self._ordered[:, column])
            found = self._onward[column] = (self.score[:, column, None] < taus).astype(np.float64)
        return found

    def pool(self, tried: Sequence[int]) -> list[int]:
        """Up to POOL of the tried columns, cheapest first."""
        cost, quality = self.cost.mean(axis=0), self.quality.mean(axis=0)
        front = [tried[i] for i in pareto(cost[tried], quality[tried]).tolist()]
        front.sort(key=lambda i: -quality[i])
        rest = sorted((i for i in tried if i not in front), key=lambda i: -quality[i])
        return sorted([*front, *rest][:POOL], key=lambda i: (cost[i], i))

    def chains(self, tried: Sequence[int], longest: int) -> list[tuple[int, ...]]:
        """All chains of rising mean cost, the short ones first."""
        pool = self.pool(tried)
        return [chain for size in range(1, longest + 1) for chain in combinations(pool, size)]

    def tau(self, column: int, level: float) -> float:
        """The score's quantile."""
        place = min(max(level, 0.0), 1.0) * (len(self.score) - 1)
        low, part = int(place), place - int(place)
        ordered = self._ordered[:, column]
        return float(ordered[low] + part * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]))

    def points(self, chain: tuple[int, ...]) -> tuple[Array, Array, Array]:
        """Levels [P, L - 1], mean quality [P] and mean cost [P] at every point of the grid."""
        levels = np.linspace(0.0, 1.0, self.grid)
        last = chain[-1]
        rows = len(self.quality)
        if len(chain) == 1:
            return np.zeros((1, 0)), self.quality[:, last].mean(keepdims=True), self.cost[:, last].mean(keepdims=True)
        first, go = chain[0], self._goes_on(chain[0])
        start_cost = (1.0 + self.share) * self.cost[:, first].mean()
        if len(chain) == 2:
            gain, price = self.quality[:, last] - self.quality[:, first], self.cost[:, last]
            return levels[:, None], self.quality[:, first].mean() + gain @ go / rows, start_cost + price @ go / rows
        middle, more = chain[1], self._goes_on(chain[1])
        gain = self.quality[:, middle] - self.quality[:, first]
        further = self.quality[:, last] - self.quality[:, middle]
        quality = self.quality[:, first].mean() + ((gain @ go)[:, None] + go.T @ (further[:, None] * more)) / rows
        price = (1.0 + self.share) * self.cost[:, middle]
        cost = start_cost + ((price @ go)[:, None] + go.T @ (self.cost[:, last, None] * more)) / rows
        both = np.stack(np.meshgrid(levels, levels, indexing="ij"), axis=-1).reshape(-1, 2)
        return both, quality.ravel(), cost.ravel()

    def at(self, chain: tuple[int, ...], levels: Sequence[float]) -> Point:
        """One point, exactly."""
        taus = tuple(self.tau(column, level) for column, level in zip(chain, levels, strict=False))
        here = np.ones(len(self.quality), dtype=bool)
        quality, cost = 0.0, 0.0
        for place, column in enumerate(chain):
            last = place + 1 == len(chain)
            cost += (1.0 if last else 1.0 + self.share) * float(self.cost[here, column].sum())
            stop = here if last else here & (self.score[:, column] >= taus[place])
            quality += float(self.quality[stop, column].sum())
            here = here & ~stop
        rows = max(1, len(self.quality))
        return Point(chain, tuple(levels), taus, quality / rows, cost / rows)

    def polished(self, point: Point, budget: float) -> Point:
        """Local search round a point: the best single move of one threshold, again with smaller steps."""
        for step in STEPS:
            moves = [
                tuple(level + (sign * step / self.grid if i == place else 0.0) for i, level in enumerate(point.levels))
                for place in range(len(point.levels))
                for sign in (-1.0, 1.0)
            ]
            tried = [self.at(point.columns, levels) for levels in moves]
            point = max([point, *(p for p in tried if p.cost <= budget)], key=lambda p: (p.quality, -p.cost))
        return point


def best_per_budget(data: Scored, tried: Sequence[int], budgets: Sequence[float], longest: int = LONGEST) -> list[Point]:
    """For each budget the chain and thresholds of the best mean quality whose mean cost is within it; short chains win ties.

    A budget below every chain gets the cheapest target alone.
    """
    best: list[tuple[float, tuple[int, ...], Array] | None] = [None] * len(budgets)
    for chain in data.chains(tried, longest):
        levels, quality, cost = data.points(chain)
        for place, budget in enumerate(budgets):
            allowed = np.where(cost <= budget, quality, -np.inf)
            top = int(allowed.argmax())
            found = best[place]
            if allowed[top] > (-np.inf if found is None else found[0] + 1e-9):
                best[place] = (float(allowed[top]), chain, levels[top])
    cheapest = min(tried, key=lambda i: (float(data.cost[:, i].mean()), i))
    points = []
    for found, budget in zip(best, budgets, strict=True):
        _, chain, levels = found or (0.0, (cheapest,), np.zeros(0))
        points.append(data.polished(data.at(chain, levels.tolist()), budget))
    return points
