"""port: prices learned on the first requests, what they save, and the traps of its recipe."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.policies import port
from junctor.policies.greedy_feasible import GreedyFeasibleConfig
from junctor.policies.port import PortConfig
from junctor.testing.planted import requests, through_files

from .scarce import earned, world


def test_it_saves_the_scarce_target_for_those_that_need_it_and_no_longer_without_prices(monkeypatch):
    greedy, _ = earned(GreedyFeasibleConfig())
    mine, _ = earned(PortConfig())
    assert mine > greedy + 0.06
    monkeypatch.setattr(port, "dual_prices", lambda quality, *_, **__: np.zeros(quality.shape[1]))
    blind, _ = earned(PortConfig())
    assert blind < greedy + 0.02


def test_what_a_dollar_is_called_does_not_matter():
    assert earned(PortConfig(), unit=1e5, orders=2) == pytest.approx(earned(PortConfig(), orders=2))


def test_baselines_that_insist_lose_requests_and_that_is_most_of_a_published_lead():
    (insisting, few), (skipping, all_) = (earned(GreedyFeasibleConfig(), check=check) for check in (False, True))
    assert few < 0.6 < 0.95 < all_
    plain, _ = earned(PortConfig(), check=False)
    checked, _ = earned(PortConfig())
    assert plain - insisting > 2 * (checked - skipping)


def test_a_stream_begins_with_random_draws_and_some_that_are_dropped():
    quality, cost = np.tile([0.9, 0.1, 0.1], (1000, 1)), np.full((1000, 3), 1e-3)
    policy = PortConfig(explore=0.4).fit(*world()[:2], np.random.default_rng(0))
    chosen = policy.allocate(quality, cost, np.full(3, np.inf), np.random.default_rng(0), check=False)
    share = np.bincount(chosen[:400] + 1, minlength=4) / 400
    assert share == pytest.approx([0.25] * 4, abs=0.07)
    assert (chosen[400:] == 0).all()


def test_it_may_decline_what_is_not_worth_its_price():
    quality, cost = np.tile([[0.9], [0.001]], (200, 1)), np.full((400, 1), 1.0)
    budgets = np.array([150.0])
    served = {}
    for decline in (False, True):
        policy = PortConfig(explore=0.1, decline=decline, alpha=0.5).fit(*world()[:2], np.random.default_rng(0))
        chosen = policy.allocate(quality, cost, budgets, np.random.default_rng(0), check=False)
        served[decline] = (chosen[0::2] == 0).sum()
    assert served[True] > 1.4 * served[False], (
        "without a null option, half of the budget goes to requests that cannot be helped"
    )


def test_while_it_serves_prices_come_once_the_first_requests_are_settled_also_after_a_restart():
    table, features, budgets = world(seed=1)
    limits = dict(zip(table.targets.ids, budgets.tolist(), strict=True))
    policy = PortConfig(budgets=limits, horizon=400, explore=0.1).fit(table, features, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    asked = list(requests(table, features, range(60)))
    for row, request in enumerate(asked[:40]):
        assert policy.exploring()
        made = policy.decide(request, table.targets, rng)
        assert made.propensity == 0.5
        policy.learn(made, table.outcome(row, table.targets.position(made.target)))
        if row == 20:
            policy = type(policy).from_state(through_files(policy.state()))
    assert policy.prices[0] > 0
    made = policy.decide(asked[50], table.targets, rng)
    assert made.propensity == 1.0
    assert "priced at" in made.reasons[0]
    assert "is left for" in made.reasons[1]


def test_without_scipy_it_goes_on_without_prices(monkeypatch):
    table, features, budgets = world(rows=50)
    policy = PortConfig(budgets={"dear": float(budgets[0])}, horizon=20, explore=0.1).fit(
        table, features, np.random.default_rng(0)
    )
    monkeypatch.setitem(__import__("sys").modules, "scipy.optimize", None)
    for row, request in enumerate(requests(table, features, range(4))):
        made = policy.decide(request, table.targets, np.random.default_rng(0))
        policy.learn(made, table.outcome(row, table.targets.position(made.target)))
    assert not policy.exploring()
    assert made.reasons[0].startswith("highest predicted quality")


@pytest.mark.parametrize(
    ("settings", "field"), [({"alpha": 0.0}, "alpha"), ({"explore": 2.0}, "explore"), ({"horizon": 0}, "horizon")]
)
def test_settings_are_checked(settings, field):
    with pytest.raises(ConfigError, match=rf"port\.{field}"):
        PortConfig(**settings)
