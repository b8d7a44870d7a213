"""lp-offline: the bound on a recorded stream, and a policy by the prices of its training rows."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.policies import lp_offline
from junctor.policies.greedy_feasible import GreedyFeasibleConfig
from junctor.policies.lp_offline import LPOfflineConfig
from junctor.policies.pricing import Optimum, optimum
from junctor.testing.planted import requests

from .scarce import ROWS, earned, world


def test_it_beats_the_greedy_rules_and_no_longer_when_nothing_is_solved(monkeypatch):
    greedy = max(earned(GreedyFeasibleConfig(by=by))[0] for by in ("quality", "quality_per_cost"))
    table, _, budgets = world(seed=2)
    bound = optimum(table.quality, table.cost_usd, budgets).value / ROWS
    mine, _ = earned(LPOfflineConfig())
    assert greedy + 0.03 < mine < bound
    empty = lambda quality, cost, budgets: Optimum(0.0, np.zeros(quality.shape), np.zeros(quality.shape[1]))  # noqa: E731
    monkeypatch.setattr(lp_offline, "optimum", empty)
    assert earned(LPOfflineConfig())[0] < greedy


def test_with_true_outcomes_it_is_the_bound():
    table, features, budgets = world(seed=2)
    policy = LPOfflineConfig().fit(table, features, np.random.default_rng(0))
    chosen = policy.allocate(table.quality, table.cost_usd, budgets, np.random.default_rng(0), check=False)
    kept = chosen >= 0
    got = table.quality[np.flatnonzero(kept), chosen[kept]].sum()
    bound = optimum(table.quality, table.cost_usd, budgets).value
    assert bound - 2 <= got <= bound + 1e-6, "rounding costs at most one request per target"


def test_while_it_serves_the_prices_of_the_training_rows_decide():
    table, features, budgets = world(seed=1)
    limits = dict(zip(table.targets.ids, budgets.tolist(), strict=True))
    policy = LPOfflineConfig(budgets=limits, horizon=ROWS).fit(table, features, np.random.default_rng(0))
    assert policy.prices[0] > 0
    hard = np.array([text.startswith("hard") for text in table.texts])
    made = [policy.decide(r, table.targets, np.random.default_rng(0)).target for r in requests(table, features, range(200))]
    dear = np.array(made) == "dear"
    assert dear[hard[:200]].mean() > 0.9
    assert dear[~hard[:200]].mean() < 0.3
    plenty = LPOfflineConfig(budgets=dict.fromkeys(limits, 1e6), horizon=ROWS).fit(table, features, np.random.default_rng(0))
    assert not plenty.prices.any()


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"lp-offline\.horizon"):
        LPOfflineConfig(horizon=0)
