"""chebyshev: regrets by hand, what a weighted sum never chooses, the ends of the knob."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError
from junctor.features import Features
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue

RNG = np.random.default_rng(0)
QUALITY, COST = np.array([0.3, 0.55, 1.0]), np.array([0.0, 0.5, 1.0])


def fit(**settings):
    """Three targets whose means are known: cheap, middling and dear. The middling one lies inside the hull."""
    table = OutcomeTable(
        [""] * 20, Catalogue.of(["cheap", "middling", "dear"]), np.tile(QUALITY, (20, 1)), cost_usd=np.tile(COST, (20, 1))
    )
    policy = policy_config("chebyshev", {"estimator": "mean", **settings}).fit(table, table.features(), RNG)
    return policy, table


def chosen(weight):
    policy, table = fit(quality_weight=weight)
    place = policy.decide_many(Features([""]), table.targets, RNG)[0][0]
    return table.targets.ids[int(place)]


def test_the_larger_regret_is_made_small():
    # at w = .5: cheap max(.35, 0), middling max(.225, .25), dear max(0, .5)
    assert chosen(0.5) == "middling"
    assert chosen(1.0) == "dear"
    assert chosen(0.0) == "cheap"


def test_a_weighted_sum_never_chooses_inside_the_hull():
    policy, table = fit()
    swept = policy.decide_sweep(Features([""]), table.targets, RNG).choices
    linear = policy_config("mean").fit(table, table.features(), RNG).decide_sweep(Features([""]), table.targets, RNG).choices
    assert set(swept.ravel().tolist()) == {0, 1, 2}
    assert set(linear.ravel().tolist()) == {0, 2}


def test_what_cannot_be_predicted_is_left_out():
    table = OutcomeTable([""] * 2, Catalogue.of(["a", "b"]), np.array([[np.nan, 0.2]] * 2))
    policy = policy_config("chebyshev", {"estimator": "mean"}).fit(table, table.features(), RNG)
    assert policy.decide_many(Features([""]), table.targets, RNG)[0].tolist() == [1]


def test_a_newcomer_may_be_chosen():
    policy, table = fit(quality_weight=0.9)
    shown = OutcomeTable([""] * 4, Catalogue.of(["new"]), np.ones((4, 1)), cost_usd=np.full((4, 1), 0.01))
    wider = policy.onboard("new", shown, shown.features())
    targets = Catalogue.of([*table.targets.ids, "new"])
    assert targets.ids[int(wider.decide_many(Features([""]), targets, RNG)[0][0])] == "new"


def test_bad_settings_are_refused():
    for settings in ({"quality_weight": 1.5}, {"fallbacks": -1}):
        with pytest.raises(ConfigError, match=r"chebyshev\."):
            policy_config("chebyshev", settings)
