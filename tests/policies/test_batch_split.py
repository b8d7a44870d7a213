"""batch-split: a program per batch, what is left goes to the later ones, prices of the last batch while serving."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.policies import batch_split
from junctor.policies.batch_split import BatchSplitConfig
from junctor.policies.greedy_feasible import GreedyFeasibleConfig
from junctor.policies.pricing import Optimum
from junctor.testing.planted import requests

from .scarce import ROWS, earned, world


def test_it_beats_the_greedy_rules_and_no_longer_when_nothing_is_solved(monkeypatch):
    greedy = max(earned(GreedyFeasibleConfig(by=by))[0] for by in ("quality", "quality_per_cost"))
    assert earned(BatchSplitConfig(batch=100))[0] > greedy + 0.03
    empty = lambda quality, cost, budgets: Optimum(0.0, np.zeros(quality.shape), np.zeros(quality.shape[1]))  # noqa: E731
    monkeypatch.setattr(batch_split, "optimum", empty)
    assert earned(BatchSplitConfig(batch=100))[0] < greedy


def test_each_batch_gets_its_part_and_what_one_saves_goes_to_the_next():
    quality, cost = np.full((4, 1), 0.9), np.array([[1.0], [1.0], [1.0], [1.0]])
    policy = BatchSplitConfig(batch=2).fit(*world()[:2], np.random.default_rng(0))
    billed = np.array([[0.0], [1.0], [1.0], [1.0]])
    chosen = policy.allocate(quality, cost, np.array([2.0]), np.random.default_rng(0), check=True, billed=billed)
    assert (chosen[:2] == 0).sum() == 1
    assert (chosen == 0).sum() >= 2
    assert policy.allocate(quality[:0], cost[:0], np.array([2.0]), np.random.default_rng(0), check=True).tolist() == []


def test_while_it_serves_a_full_batch_sets_the_prices_of_the_next():
    table, features, budgets = world(seed=1)
    limits = dict(zip(table.targets.ids, (budgets / 3).tolist(), strict=True))
    policy = BatchSplitConfig(budgets=limits, batch=30, horizon=ROWS).fit(table, features, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for row, request in enumerate(requests(table, features, range(31))):
        assert bool(policy.prices.any()) == (row >= 30)
        made = policy.decide(request, table.targets, rng)
        policy.learn(made, table.outcome(row, table.targets.position(made.target)))
    assert len(policy.window) == 1


@pytest.mark.parametrize("field", ["batch", "horizon"])
def test_settings_are_checked(field):
    with pytest.raises(ConfigError, match=rf"batch-split\.{field}"):
        BatchSplitConfig(**{field: 0})
