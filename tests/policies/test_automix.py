"""automix: beats the line between its two models when its verdicts tell right from wrong, and leaves hopeless queries alone."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.engine.choosers import _from_settings
from junctor.errors import ArtefactError, ConfigError, UserError
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.plans.accepting import Verifier, goes_on
from junctor.policies.automix import (
    WEIGHTS,
    AutoMix,
    AutoMixConfig,
    Counted,
    Meta,
    double_threshold,
    ibc,
    ibc_lift,
    pomdp,
    threshold,
)
from junctor.policy import State
from junctor.types import Call, Cascade

from .stages import ASKED, IDS, curve, halves, with_samples, world

RNG = np.random.default_rng(0)
PAIR = {"small": "small", "large": "large"}
SHARP, BLUNT = {"yes_right": 0.9, "yes_wrong": 0.2}, {"yes_right": 0.6, "yes_wrong": 0.6}


def lift(**settings):
    """Delta IBC in per cent at the setting of the most quality among those that escalate at most 60 % of the queries."""
    (train, seen), (test, there) = halves(*world(3000))
    policy = AutoMixConfig(**PAIR, **settings).fit(train, seen, np.random.default_rng(0))
    cost, quality = curve(policy.replay(test, there, np.random.default_rng(1)))
    small, large = ((test.quality[:, i].mean(), test.cost_usd[:, i].mean()) for i in (0, 2))
    some = cost < small[1] + 0.6 * (large[1] - small[1])
    best = int(np.where(some, quality, -1.0).argmax())
    return ibc_lift((quality[best], cost[best]), small, large)


def test_verdicts_that_tell_beat_the_line_between_the_models_and_blunt_ones_do_not():
    """Planted: the key part is the verifier."""
    assert lift(**SHARP) > 40
    assert lift(**BLUNT) < 5


def test_verification_is_billed_on_every_query():
    """Even where nothing is escalated: one call and k checks, which cost as much as the call."""
    table, features = world(200)
    replay = AutoMixConfig(**PAIR).fit(table, features, RNG).replay(table, features, RNG)
    assert replay.settings[-1] == np.inf
    assert (replay.calls[-1] == 9).all()
    assert replay.cost_usd[-1] == pytest.approx(0.02)
    assert (replay.cost_usd[0] >= 0.02 - 1e-12).all()


def hopeless_world(rows=2000, seed=0):
    """Three kinds: small is right (8 yes), large is needed (4 yes), nobody is right (no yes)."""
    kind = np.random.default_rng(seed).integers(3, size=rows)
    quality = np.stack([kind == 0, kind == 0, kind <= 1], axis=1).astype(np.float64)
    table, features = world(rows)
    yes = np.array([8, 4, 0])[kind]
    verdicts = (np.arange(8)[None, :] < yes[:, None]).astype(np.float64)
    same = np.repeat(verdicts[:, None, :], 3, axis=1)
    return OutcomeTable(table.texts, IDS, quality, table.cost_usd, samples={"verified": same}), features, kind


@pytest.mark.parametrize("rule", ["double", "pomdp", "auto"])
def test_hopeless_queries_are_not_escalated(rule):
    """A dearer model would not help: only a rule with two thresholds, or a belief over three states, can say so."""
    table, features, kind = hopeless_world()
    replay = AutoMixConfig(**PAIR, rule=rule).fit(table, features, RNG).replay(table, features, RNG)
    asked = replay.calls > 9
    some = asked.any(axis=1)
    assert some.any()
    assert asked[some][:, kind == 1].all()
    assert not asked[WEIGHTS.index(next(w for w in WEIGHTS if w > 0.05))][kind == 2].any()
    simple = AutoMixConfig(**PAIR, rule="threshold").fit(table, features, RNG).replay(table, features, RNG)
    here = (simple.calls > 9)[:, kind == 1].any(axis=1)
    assert (simple.calls > 9)[here][:, kind == 2].all()


def test_each_rule_on_counts_worked_by_hand():
    """Yes counts 0 … 2; gains -1, 3, -2 in all; costs 1 each: escalate at 1 only, or from 0 on where one threshold must do."""
    seen = Counted(np.full(3, 4.0), np.array([-1.0, 3.0, -2.0]), np.ones(3), np.eye(3)[[1, 0, 2]] * 4.0, np.zeros(3))
    assert threshold(seen, 0.0).tolist() == [True, True, False]
    assert threshold(seen, 10.0).tolist() == [False, False, False]
    assert double_threshold(seen, 0.0).tolist() == [False, True, False]
    certain = Counted(seen.rows, seen.gain, seen.cost, np.array([[0, 0, 9], [0, 9, 0], [9, 0, 0]]), np.array([-0.5, 1.0, 0.0]))
    assert pomdp(certain, 1.0).tolist() == [False, True, False]
    assert seen.reward(np.array([False, True, False]), 1.0) == 2.0


@pytest.mark.parametrize(
    ("escalate", "rule"),
    [
        ((False,) * 9, "threshold"),
        ((True,) * 3 + (False,) * 6, "threshold"),
        ((False,) * 2 + (True,) * 3 + (False,) * 4, "double"),
        ((True, False) * 4 + (True,), "pomdp"),
    ],
)
def test_the_plan_says_what_was_learned(escalate, rule):
    """The live verifier escalates at exactly the yes counts of the meta-verifier."""
    settings = Meta("auto", escalate).settings(8)
    assert settings["rule"] == rule
    live = Verifier(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})
    assert tuple(goes_on(live, yes / 8) for yes in range(9)) == escalate


def test_the_small_model_is_chosen_where_the_cascade_is_best():
    """Middle is no better than a coin here and costs five times as much."""
    table, features = world(1500, right=np.array([0.7, 0.3, 0.95]))
    policy = AutoMixConfig(**SHARP).fit(table, features, RNG)
    assert policy.chain == ("small", "large")
    plan = policy.decide(ASKED, IDS, RNG).plan
    assert isinstance(plan, Cascade)
    assert plan.plans == (Call("small"), Call("large"))
    assert policy.decide(ASKED, IDS.only(["middle"]), RNG).plan == Call("middle")


def test_recorded_verdicts_go_before_drawn_ones():
    """With verdicts that are always right, no right answer of the small model is escalated."""
    table, features = world(400)
    told = with_samples(table, verified=np.repeat(table.quality[:, :, None], 8, axis=2))
    policy = AutoMixConfig(**PAIR).fit(told, features, RNG)
    replay = policy.replay(told, features, RNG)
    weight = int(np.argmin(np.abs(np.array(WEIGHTS[:-1]) - 0.3)))
    assert np.array_equal(replay.calls[weight] > 9, table.quality[:, 0] == 0)


def test_it_can_be_named_without_outcomes():
    """Both models and a threshold: nothing is left to learn."""
    policy = _from_settings("policies.x", "automix", {**PAIR, "threshold": 0.6}, IDS).policy
    assert policy.decide(ASKED, IDS, RNG).plan.settings == {"k": 8, "rule": "threshold", "threshold": pytest.approx(4.5 / 8)}
    with pytest.raises(ConfigError, match="no outcome to learn from"):
        _from_settings("policies.x", "automix", {}, IDS)


def test_bad_settings_and_states_name_their_field():
    """A large model that is the small one, a rule that does not exist, a state of another k."""
    with pytest.raises(ConfigError, match=r"automix\.large"):
        AutoMixConfig(small="a", large="a")
    with pytest.raises(ConfigError, match=r"automix\.rule"):
        policy_config("automix", {"rule": "guess"})
    with pytest.raises(UserError, match="'x' is not among the targets"):
        AutoMixConfig(small="x").fit(*world(50), RNG)
    state = AutoMixConfig().fit(*world(50), RNG).state()
    with pytest.raises(ArtefactError, match="metas"):
        AutoMix.from_state(State({**state.config, "metas": []}))


def test_one_target_is_called_without_verification():
    """There is nobody to escalate to."""
    table, features = world(50, right=np.array([0.5]))
    policy = AutoMixConfig().fit(table, features, RNG)
    assert policy.decide(ASKED, table.targets, RNG).plan == Call("small")
    assert (policy.replay(table, features, RNG).calls == 1).all()


def test_ibc_is_the_slope_over_the_small_model():
    """0.1 of quality for 4 is .025 per unit; twice the line's slope is a lift of 100 %."""
    assert ibc(0.7, 5.0, 0.6, 1.0) == pytest.approx(0.025)
    assert np.isnan(ibc(0.7, 1.0, 0.6, 1.0))
    assert ibc_lift((0.7, 5.0), (0.6, 1.0), (0.7, 9.0)) == pytest.approx(100.0)
    assert np.isnan(ibc_lift((0.7, 5.0), (0.6, 1.0), (0.6, 9.0)))
