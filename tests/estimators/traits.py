"""Worlds with a known truth for estimators of abilities, comparisons and configurations, and how well a policy does in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from junctor.estimators.regression import sigmoid
from junctor.features import Features
from junctor.fitting import policy_config, validation_score
from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue, Target

from .tables import NAN


@dataclass(frozen=True)
class World:
    """N queries with vectors [N, D], the true chance of success [N, M], one draw of outcomes, and costs."""

    vectors: np.ndarray
    chance: np.ndarray
    quality: np.ndarray
    cost: np.ndarray
    targets: Catalogue

    def table(self, rows: np.ndarray, seen: np.ndarray | None = None, *, truth: bool = False) -> OutcomeTable:
        """The outcomes of these rows, or their true chances; `seen` [N, M] says which cells are recorded."""
        values = (self.chance if truth else self.quality)[rows]
        cost = np.broadcast_to(self.cost, self.chance.shape)[rows]
        if seen is not None:
            values, cost = np.where(seen[rows], values, NAN), np.where(seen[rows], cost, NAN)
        return OutcomeTable([""] * len(rows), self.targets, values, cost_usd=cost)

    def features(self, rows: np.ndarray) -> Features:
        return Features([""] * len(rows), self.vectors[rows])


def world(rng: np.random.Generator, vectors: np.ndarray, chance: np.ndarray, cost: Any, targets: Any = None) -> World:
    ids = Catalogue.of(targets or [f"t{i}" for i in range(chance.shape[1])])
    drawn = (rng.random(chance.shape) < chance).astype(np.float64)
    return World(vectors.astype(np.float32), chance, drawn, np.asarray(cost, dtype=np.float64), ids)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def two_pl(rng: np.random.Generator, rows: int, targets: int, dim: int, *, spread: float = 2.0) -> tuple[World, dict]:
    """Exactly what RADAR assumes: abilities of mean 0 and variance 1, slopes and difficulties linear in the vector."""
    x = rng.standard_normal((rows, dim))
    theta = np.sort(rng.standard_normal(targets))
    theta = (theta - theta.mean()) / theta.std()
    slope = np.logaddexp(0.0, x @ (rng.standard_normal(dim) / dim**0.5) + 1.0)
    difficulty = spread * x @ (rng.standard_normal(dim) / dim**0.5)
    chance = sigmoid(slope[:, None] * (theta - difficulty[:, None]))
    cost = np.geomspace(1.0, 30.0, targets)
    return world(rng, x, chance, cost), {"theta": theta, "slope": slope, "difficulty": difficulty}


def uneven_log(rng: np.random.Generator, rows: int = 4000, *, by_query: bool = True) -> tuple[World, np.ndarray]:
    """Queries are easy or hard, which their vectors do not show; good targets were mostly tried on hard ones, bad on easy ones.

    Which target is best depends on the vector (`by_query`) or on nothing. Returns the world and which cells were recorded: two
    or three a row. Means, neighbours and regressions per target see the good targets fail on hard queries.
    """
    x = unit(rng.standard_normal((rows, 12)))
    hard = rng.random(rows) < 0.5
    skill = np.array([0.10, 0.0, -0.06, -0.12])
    taste = 0.9 * x[:, :4] * by_query
    chance = np.clip(np.where(hard, 0.25, 0.75)[:, None] + skill + taste, 0.01, 0.99)
    likely = np.where(hard[:, None], [0.95, 0.7, 0.3, 0.1], [0.1, 0.3, 0.7, 0.95])
    seen = rng.random((rows, 4)) < likely
    seen[np.arange(rows), rng.integers(4, size=rows)] = True
    return world(rng, x, chance, np.ones(4)), seen


def quality_of(name: str, found: World, train: np.ndarray, test: np.ndarray, seen: Any = None, **settings: Any) -> float:
    """Mean true quality of the targets that a policy chooses on test rows, at no cost weight."""
    policy = fitted(name, found, train, seen, settings)
    choices, _ = policy.decide_many(found.features(test), found.targets, np.random.default_rng(0))
    return float(found.chance[test, choices].mean())


def aiq_of(name: str, found: World, train: np.ndarray, test: np.ndarray, seen: Any = None, **settings: Any) -> float:
    """Mean height of the policy's hull over the costs of single targets, on the true chances of the test rows."""
    policy = fitted(name, found, train, seen, settings)
    truth = found.table(test, truth=True)
    return validation_score(policy, truth, found.features(test), np.random.default_rng(0))


def fitted(name: str, found: World, train: np.ndarray, seen: Any, settings: Mapping[str, Any]) -> Any:
    table = found.table(train, seen)
    # never the seed of a world: folds would follow its kinds of query
    return policy_config(name, settings).fit(table, found.features(train), np.random.default_rng(2**20))


def halves(rows: int, train: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(train), np.arange(train, rows)


def budgeted(ids: list[tuple[str, int]]) -> list[Target]:
    return [Target(id=f"{model}@{budget}", settings={"max_output_tokens": budget}) for model, budget in ids]


BUDGETS = (50, 200, 800, 3200)


def saturating(rng: np.random.Generator, rows: int = 1500, dim: int = 12) -> World:
    """Two models under four output budgets: q(b) = q_max(x) (1 - exp(-b / τ(x))); half of the small budgets are overrun.

    Costs are real tokens: what an answer needs, at most twice the budget, at least a little.
    """
    x = unit(rng.standard_normal((rows, dim)))
    tau = 250.0 * np.exp(3.5 * x[:, 0])
    ids, chance, cost = [], [], []
    for model, price, skill in (("small", 1.0, 0.2), ("big", 8.0, 1.5)):
        best = sigmoid(skill + 4.0 * x[:, 1])
        for budget in BUDGETS:
            ids.append((model, budget))
            chance.append(best * (1.0 - np.exp(-budget / tau)))
            cost.append(1e-6 * price * np.minimum(budget * np.where(rng.random(rows) < 0.5, 2.0, 1.0), 3.0 * tau + 20.0))
    return world(rng, x, np.stack(chance, axis=1), np.stack(cost, axis=1), budgeted(ids))


def stopping_log(rng: np.random.Generator, rows: int = 3000, spread: float = 3.0) -> tuple[World, np.ndarray]:
    """Three nested tiers, tried from the cheapest on until one solves the query: dear ones see hard queries only."""
    x = unit(rng.standard_normal((rows, 10)))
    hardness = spread * x[:, 0] + rng.logistic(size=rows)
    limit = np.array([-0.8, 0.4, 1.6])
    chance = sigmoid(limit - spread * x[:, :1])
    solved = (hardness[:, None] < limit).astype(np.float64)
    seen = np.column_stack([np.ones(rows), solved[:, 0] == 0, (solved[:, 1] == 0)]).astype(bool)
    made = world(rng, x, chance, np.array([1.0, 4.0, 12.0]), ["basic", "intermediate", "advanced"])
    return World(made.vectors, made.chance, solved, made.cost, made.targets), seen


def rarely_tried(rng: np.random.Generator, rows: int = 2500, share: float = 0.04) -> tuple[World, np.ndarray]:
    """Six targets and many kinds of query; the best of every kind is one of two that were hardly ever tried.

    Kinds lie in no order (no line tells them apart) and the often tried targets tell them: the rare ones succeed where
    these do, or where these fail.
    """
    kinds = 24
    kind = rng.integers(kinds, size=rows)
    x = unit(rng.standard_normal((kinds, 16))[kind] + 0.25 * rng.standard_normal((rows, 16)))
    often = np.where(rng.random((kinds, 4)) < 0.5, 0.15, 0.6)
    rare = np.hstack([0.1 + 1.6 * (often[:, :1] - 0.15), 0.1 + 1.6 * (0.6 - often[:, :1])])
    chance = np.hstack([often, np.clip(rare, 0.02, 0.98)])[kind]
    seen = np.ones(chance.shape, dtype=bool)
    seen[:, 4:] = rng.random((rows, 2)) < share
    return world(rng, x, chance, np.ones(6)), seen
