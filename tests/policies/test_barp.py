"""barp: one policy for every preference, from chosen outcomes alone; it goes on learning from feedback."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.errors import ConfigError, NoTarget, UserError
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.barp import MOST_WIDTH, BaRP, BaRPConfig, Heads, preferences, softmax
from junctor.testing import check_learner, check_policy, planted
from junctor.testing.planted import requests, through_files
from junctor.types import Catalogue, Constraints, Decision, Outcome, Request

QUICK = BaRPConfig(epochs=15)


def fit(config: BaRPConfig = QUICK, rows: int = 240, seed: int = 0, table: OutcomeTable | None = None) -> BaRP:
    own, features = planted(rows)
    return config.fit(own if table is None else table, features, np.random.default_rng(seed))


def rewards(policy: BaRP, table: OutcomeTable, features: Features, weight: float) -> float:
    """Mean reward on the rows under this preference."""
    sweep = policy.decide_sweep(features, table.targets, np.random.default_rng(0))
    places = sweep.choices[int(np.abs(sweep.settings - weight).argmin())]
    return float(reward_of(table, weight)[np.arange(len(table)), places].mean())


def reward_of(table: OutcomeTable, weight: float) -> np.ndarray:
    assert table.cost_usd is not None
    tau = table.cost_usd.mean(axis=0).max()
    return BaRPConfig().reward(table.quality, table.cost_usd, weight, tau)


@pytest.mark.slow
def test_it_beats_every_single_target_under_every_preference_and_not_when_it_cannot_see_the_preference():
    """Specialists are cheap and good at their topic only; what to pay for the generalist is the preference's business."""
    whole, everything = planted(2400)
    table, features = whole.take(range(1200)), everything.take(range(1200))
    test, asked = whole.take(range(1200, 2400)), everything.take(range(1200, 2400))
    policy, blind = (BaRPConfig(prefers=p).fit(table, features, np.random.default_rng(0)) for p in (True, False))
    gains, losses = [], []
    for weight in (0.0, 0.1, 0.3, 0.5):
        single = reward_of(test, weight).mean(axis=0).max()
        gains.append(rewards(policy, test, asked, weight) - single)
        losses.append(rewards(policy, test, asked, weight) - rewards(blind, test, asked, weight))
    assert min(gains[1:]) > 0.05, f"against the best single target {gains}"
    assert gains[0] > 0.02, f"quality alone: {gains[0]}"
    assert max(losses) > 0.02, f"blind to the preference it loses nothing: {losses}"


def test_training_converges_and_is_kept():
    policy = fit(BaRPConfig())
    assert np.mean(policy.losses[-5:]) < 0.85 * np.mean(policy.losses[:5])
    assert BaRP.from_state(through_files(policy.state())).losses == policy.losses


def test_only_the_drawn_outcome_is_looked_at():
    """What was not recorded cannot be drawn, and a target that was never tried is never chosen."""
    table, features = planted(240)
    quality = table.quality.copy()
    quality[:, 3] = np.nan
    policy = fit(table=replace(table, quality=quality))
    choices, propensities = policy.decide_many(features, table.targets, np.random.default_rng(0))
    assert set(choices.tolist()) <= {0, 1, 2}
    assert (propensities > 0).all()
    with pytest.raises(NoTarget, match="no target here was tried"):
        policy.decide(Request(features=features.take([0])), Catalogue.of(["generalist"]), np.random.default_rng(0))
    with pytest.raises(UserError, match="no outcome to learn from"):
        fit(table=replace(table, quality=np.full_like(quality, np.nan)))


def test_it_conforms_as_a_policy_and_as_a_learner():
    check_policy(replace(QUICK, explore=False))
    state = fit().state()
    check_learner(lambda: BaRP.from_state(state))


def test_feedback_moves_it_towards_what_paid():
    """From next to no training: where a policy is sure, it seldom draws anything else, and unlearns but slowly."""
    table, features = planted(240)
    policy = fit(BaRPConfig(epochs=1, online_rate=0.5))
    rng = np.random.default_rng(0)
    everything = features.take(range(60))
    before = policy.frozen().decide_many(everything, table.targets, rng)[0]
    for turn in range(8):
        for request in requests(table, features, range(60)):
            made = policy.decide(replace_id(request, f"{turn}-{request.id}"), table.targets, rng)
            policy.learn(made, Outcome(quality=1.0 if made.target == "linguist" else 0.0))
    after = policy.frozen().decide_many(everything, table.targets, rng)[0]
    assert (before == 0).mean() < 0.6
    assert (after == 0).mean() > 0.9


def replace_id(request: Request, id_: str) -> Request:
    return Request(id=id_, text=request.text, features=request.features)


def test_a_step_raises_what_paid_more_than_expected():
    heads = Heads(np.zeros((2, 3)), np.array([0.5, 0.0]))
    z = np.array([1.0, 1.0])
    up = heads.learn(z, 1, 1.0, 1 / 3, 0.1, 0.0)
    down = heads.learn(z, 1, 0.0, 1 / 3, 0.1, 0.0)
    assert softmax(z @ up.policy)[1] > 1 / 3 > softmax(z @ down.policy)[1]
    assert float(z @ up.value) == pytest.approx(0.55)
    rare = heads.learn(z, 1, 1.0, 0.01, 0.1, 0.0)
    assert np.abs(rare.policy).max() < 10 * np.abs(up.policy).max(), "a rare draw does not count without bound"


def test_a_decision_carries_few_numbers_and_the_preference_of_the_request():
    table, features = planted(240)
    policy = fit()
    rng = np.random.default_rng(0)
    request = Request(id="r", features=features.take([0]), constraints=Constraints(quality_floor=0.3))
    made = policy.decide(request, table.targets, rng)
    assert made.context[-1] == pytest.approx(0.7)
    assert len(made.context) <= MOST_WIDTH + 1
    cheap = Request(id="r", features=features.take([0]), constraints=Constraints(budget_usd=0.001))
    assert {policy.decide(cheap, table.targets, rng).target for _ in range(50)} <= {"linguist", "calculator", "programmer"}
    broke = Request(id="r", features=features.take([0]), constraints=Constraints(budget_usd=1e-9))
    with pytest.raises(NoTarget, match="no target can be chosen") as refused:
        policy.decide(broke, table.targets, rng)
    assert set(refused.value.refusals) == set(table.targets.ids)


def test_feedback_of_another_policy_is_left_alone():
    table, features = planted(240)
    policy = fit()
    before = policy.state().arrays["policy"].copy()
    request = next(requests(table, features, [0]))
    made = policy.decide(request, table.targets, np.random.default_rng(0))
    policy.learn(Decision(id="x", plan=made.plan, target=made.target, policy="other", context=(1.0, 2.0)), Outcome(quality=1.0))
    policy.learn(Decision(id="y", plan=made.plan, target="nobody", policy="barp", context=made.context), Outcome(quality=1.0))
    assert np.array_equal(policy.state().arrays["policy"], before)


def test_a_cold_start_knows_no_outcome_and_learns_from_feedback_alone():
    """The table's outcomes change nothing; all targets are drawn alike at first, and later what pays."""
    table, features = planted(1200)
    cold = BaRPConfig(warm=0.0).priced(0.1)
    assert cold.cost_preference == pytest.approx(0.1 / 1.1)
    rng = np.random.default_rng(0)
    policy, other = (
        cold.fit(replace(table, quality=quality), features, np.random.default_rng(0))
        for quality in (table.quality, 1.0 - table.quality)
    )
    assert all(np.array_equal(values, other.state().arrays[name]) for name, values in policy.state().arrays.items())
    shares = np.bincount(policy.decide_many(features, table.targets, rng)[0], minlength=4) / len(table)
    assert np.abs(shares - 0.25).max() < 0.05
    for request, row in zip(requests(table, features, range(1000)), range(1000), strict=True):
        made = policy.decide(request, table.targets, rng)
        policy.learn(made, table.outcome(row, table.targets.ids.index(made.target)))
    places = policy.frozen().decide_many(features.take(range(1000, 1200)), table.targets, rng)[0]
    worth = reward_of(table.take(range(1000, 1200)), 0.1 / 1.1)
    assert worth[np.arange(200), places].mean() > worth.mean() + 0.1, "no better than drawing at random"
    check_policy(replace(cold, explore=False))
    state = cold.fit(*planted(240), np.random.default_rng(0)).state()
    check_learner(lambda: BaRP.from_state(state))


def test_a_share_of_the_rows_is_replayed():
    table, features = planted(240)
    assert fit(replace(QUICK, warm=0.25)).losses != fit().losses
    assert fit(replace(QUICK, warm=0.25), rows=240).decide_many(features, table.targets, np.random.default_rng(0))[0].shape == (
        240,
    )


def test_without_costs_there_is_no_knob():
    table, features = planted(240)
    policy = fit(table=replace(table, cost_usd=None))
    sweep = policy.decide_sweep(features, table.targets, np.random.default_rng(0))
    assert np.isnan(sweep.settings).tolist() == [True]


def test_rewards_by_hand():
    config = BaRPConfig()
    assert config.reward(np.array(1.0), np.array(0.01), 0.25, 0.02) == pytest.approx(0.75 - 0.25 * 0.5)
    assert config.reward(np.array(1.0), np.array(9.0), 0.25, 0.02) == pytest.approx(0.5), "a cost counts as 1 at most"
    assert config.reward(np.array(1.0), np.array(np.nan), 0.25, 0.02) == pytest.approx(0.75), "unknown: quality alone"
    drawn = preferences(4000, np.random.default_rng(0))
    assert drawn.min() >= 0.0
    assert drawn.max() <= 1.0
    assert 0.1 < (drawn < 0.02).mean() < 0.4


def test_settings_are_validated():
    for settings, said in (
        ({"width": 31}, "barp.width"),
        ({"cost_preference": 2.0}, "cost_preference"),
        ({"rate": 0.0}, "barp.rate"),
    ):
        with pytest.raises(ConfigError, match=said):
            BaRPConfig(**settings)
