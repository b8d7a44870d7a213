"""A planted stream for learners: three specialists that shine on one topic each, a dear generalist that is middling on all."""

from __future__ import annotations

import numpy as np

from junctor.bench.worlds import World, live, world_of
from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue

TOPICS = ("ships", "gardens", "clocks")
SKILL = np.array([[0.9, 0.2, 0.2, 0.6], [0.2, 0.9, 0.2, 0.6], [0.2, 0.2, 0.9, 0.6]])
COST = np.array([0.001, 0.001, 0.001, 0.004])
BEST_FIXED = 0.6


def stream(rows=1500, seed=0, weight=0.0, dim=24, skill=SKILL, **columns) -> World:
    rng = np.random.default_rng(seed)
    topic = rng.integers(len(TOPICS), size=rows)
    centres = np.random.default_rng(99).standard_normal((len(TOPICS), dim))
    vectors = (centres[topic] + 0.5 * rng.standard_normal((rows, dim))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [TOPICS[i] for i in topic.tolist()]
    table = OutcomeTable(
        texts=[f"A question about {name}, number {i}." for i, name in enumerate(names)],
        targets=Catalogue.of(["sailor", "gardener", "watchmaker", "generalist"]),
        quality=(rng.random((rows, 4)) < skill[topic]).astype(np.float64),
        cost_usd=np.tile(COST, (rows, 1)),
        labels={"topic": names},
        label_name="topic",
        **columns,
    )
    return world_of(table, table.features(vectors), weight, rng)


def earned(config, world: World, seed=0) -> float:
    """Mean utility while learning from a cold start."""
    learner = config.fit(world.table, world.features, np.random.default_rng(seed))
    chosen = live(learner, world, np.random.default_rng(seed))
    return float(world.utility[np.arange(len(world)), chosen].mean())


def fixed(world: World) -> float:
    """Mean utility of the best single target in hindsight."""
    return float(world.utility.mean(axis=0).max())


def blind(monkeypatch, kind) -> None:
    """Take the context away: all requests look alike."""
    seen = kind.matrix

    def matrix(self, features):
        found = seen(self, features)
        found[:, 1:] = 0.0
        return found

    monkeypatch.setattr(kind, "matrix", matrix)
