"""Worlds in which a look at the answer is worth money, and the bars that it is measured against.

Three models: small, middle and large at 1, 5 and 25 cents per call. Nothing can be told from the query unless `topics`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from junctor.curves import area_under_hull
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue, Request

COST = np.array([0.01, 0.05, 0.25])
RIGHT = np.array([0.6, 0.72, 0.85])
IDS = Catalogue.of(["small", "middle", "large"])
ASKED = Request(id="r", text="why?")


def world(rows=1500, seed=0, samples=None, right=RIGHT):
    """A table and its features, of which nothing can be learned."""
    rng = np.random.default_rng(seed)
    quality = (rng.random((rows, len(right))) < right).astype(np.float64)
    table = OutcomeTable(
        texts=[f"question {i}" for i in range(rows)],
        targets=IDS.only(IDS.ids[: len(right)]),
        quality=quality,
        cost_usd=np.broadcast_to(COST[: len(right)], quality.shape).copy(),
        samples=samples or {},
    )
    vectors = rng.standard_normal((rows, 16)).astype(np.float32)
    return table, table.features(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def halves(table, features):
    """Rows to learn from and rows to judge on."""
    cut = len(table) // 2
    one, other = np.arange(cut), np.arange(cut, len(table))
    return (table.take(one), features.take(one)), (table.take(other), features.take(other))


def curve(replay):
    """Mean cost and mean quality along the knob."""
    return np.nanmean(replay.cost_usd, axis=1), np.nanmean(replay.quality, axis=1)


def area(cost, quality, table):
    """AIQ between the cheapest and the dearest single target."""
    single = table.cost_usd.mean(axis=0)
    return area_under_hull(cost, quality, float(single.min()), float(single.max()))


def gain(config, table, features, seed=0):
    """AIQ of the policy's replay on held-out rows, less that of the single targets' own hull there."""
    (train, seen), (test, there) = halves(table, features)
    policy = config.fit(train, seen, np.random.default_rng(seed))
    cost, quality = curve(policy.replay(test, there, np.random.default_rng(seed + 1)))
    singles = area(test.cost_usd.mean(axis=0), test.quality.mean(axis=0), test)
    return area(cost, quality, test) - singles


def before_the_answer(train, seen, test, there):
    """AIQ of kNN, tuned by nobody: a router that decides before there is an answer."""
    sweep = policy_config("knn").fit(train, seen, np.random.default_rng(0)).decide_sweep(there, test.targets, None)
    rows = np.arange(len(test))[None, :]
    cost, quality = test.cost_usd[rows, sweep.choices], test.quality[rows, sweep.choices]
    return area(cost.mean(axis=1), quality.mean(axis=1), test)


def with_samples(table, **samples):
    """The table with these measures' draws."""
    return replace(table, samples={**table.samples, **samples})
