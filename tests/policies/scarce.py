"""A planted stream: a dear target that is a little better on easy requests and the only one that can do hard ones."""

from __future__ import annotations

import numpy as np

from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue

ROWS, BUDGETS = 600, np.array([1.05, 0.25])
"""USD for `dear` (0.005 a call: enough for the 210 hard requests) and for `plain` (0.0005: for 500)."""


def world(rows=ROWS, seed=0, unit=1.0):
    """Table, features and budgets; `unit` is what a dollar is called."""
    rng = np.random.default_rng(seed)
    hard = rng.random(rows) < 0.35
    chance = np.where(hard[:, None], [0.9, 0.05], [0.95, 0.85])
    quality = (rng.random((rows, 2)) < chance).astype(np.float64)
    cost = np.array([0.005, 0.0005]) * rng.uniform(0.8, 1.2, (rows, 1)) * unit
    centre = np.where(hard[:, None], np.eye(8)[0], np.eye(8)[1])
    vectors = (centre + 0.15 * rng.standard_normal((rows, 8))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [f"{'hard' if h else 'easy'} {i}" for i, h in enumerate(hard.tolist())]
    table = OutcomeTable(texts, Catalogue.of(["dear", "plain"]), quality, cost)
    return table, table.features(vectors), BUDGETS * unit * rows / ROWS


def earned(config, *, check=True, unit=1.0, orders=6):
    """Mean quality per request of a stream of 600, learned from 600 others; and the share that was served."""
    known, seen, _ = world(seed=1, unit=unit)
    table, features, budgets = world(seed=2, unit=unit)
    policy = config.fit(known, seen, np.random.default_rng(0))
    found = policy.plug_in.estimator.predict_many(features)
    total = served = 0.0
    for order in (np.random.default_rng(i).permutation(ROWS) for i in range(orders)):
        rng = np.random.default_rng(int(order[0]))
        quality, cost = found.quality[order], found.cost_usd[order]
        chosen = policy.allocate(quality, cost, budgets, rng, check=check, billed=table.cost_usd[order])
        kept = chosen >= 0
        total += table.quality[order[kept], chosen[kept]].sum() / ROWS
        served += kept.mean()
    return total / orders, served / orders
