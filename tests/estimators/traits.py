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
    return policy_config(name, settings).fit(table, found.features(train), np.random.default_rng(0))


def halves(rows: int, train: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(train), np.arange(train, rows)


def budgeted(ids: list[tuple[str, int]]) -> list[Target]:
    return [Target(id=f"{model}@{budget}", settings={"max_output_tokens": budget}) for model, budget in ids]
