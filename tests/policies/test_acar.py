"""acar: the spread of three probes says who needs help, and a random mix of the same size does not."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.engine.choosers import _from_settings
from junctor.errors import ConfigError, UserError
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.plans.signals import sigma, votes
from junctor.policies import acar
from junctor.policies.acar import AcarConfig, chosen_models, levels_of
from junctor.types import Call, Cascade, Panel

from .stages import ASKED, COST, IDS, with_samples, world

RNG = np.random.default_rng(0)
ALL = {"models": ("small", "middle", "large")}
TOLD = {"steady_right": 0.95, "steady_wrong": 0.3}


def compared(config, rows=4000):
    """(quality, a random mix of single and full with the same mean calls), of one fit on one world."""
    table, features = world(rows)
    policy = config.fit(table, features, RNG)

    def ran(further=None):
        with pytest.MonkeyPatch.context() as patch:
            if further is not None:
                patch.setattr(acar, "sigma", lambda keys: np.full(len(keys), further))
            found = policy.replay(table, features, np.random.default_rng(7))
        return found.quality.mean(), found.calls.mean()

    (quality, calls), (single, few), (full, many) = ran(), ran(0.0), ran(1.0)
    mixed = single + (full - single) * (calls - few) / (many - few)
    return quality, mixed


def test_spread_beats_a_random_mix_of_the_same_size(monkeypatch):
    """Planted: right answers repeat, wrong ones scatter. With spreads dealt out at random the gain is gone."""
    quality, mixed = compared(AcarConfig(**ALL, **TOLD))
    assert quality > mixed + 0.04

    def dealt(keys):
        return np.random.default_rng(0).permutation(sigma(keys))

    monkeypatch.setattr(acar, "sigma", dealt)
    quality, mixed = compared(AcarConfig(**ALL, **TOLD))
    assert quality < mixed + 0.015


def recorded(keys, others=((0.0, 0.0),)):
    """One query per row of probes' keys; right is 0. The further models say `others`."""
    rows = len(keys)
    key = np.zeros((rows, 3, 3))
    key[:, 0] = keys
    key[:, 1:, 0] = others
    quality = (key == 0).astype(np.float64)
    table = OutcomeTable([f"q{i}" for i in range(rows)], IDS, quality.mean(axis=2), np.tile(COST, (rows, 1)))
    return with_samples(table, quality=quality, key=key)


def test_recorded_answers_are_replayed_exactly():
    """All equal: one model, even when all are wrong. Two equal: two models. All different: three. Probes are billed."""
    table = recorded([[1, 1, 1], [0, 0, 1], [1, 1, 2], [1, 2, 3]])
    replay = AcarConfig(**ALL).fit(table, table.features(), RNG).replay(table, table.features(), RNG)
    assert replay.calls[0].tolist() == [3, 4, 4, 5]
    assert replay.cost_usd[0] == pytest.approx([0.03, 0.08, 0.08, 0.33])
    # 1, 1, 2 against one 0: the majority of all answers is wrong; 1, 2, 3 against 0, 0: right.
    assert replay.quality[0].tolist() == [0.0, 1.0, 0.0, 1.0]


def test_ties_go_to_the_dearest_model():
    """1, 2, 3 and 4 and 0: five different answers, the large model's is given."""
    table = recorded([[1, 2, 3]], others=[(4.0, 0.0)])
    replay = AcarConfig(**ALL).fit(table, table.features(), RNG).replay(table, table.features(), RNG)
    assert replay.quality[0].tolist() == [1.0]
    keys = np.array([[1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 2.0, 1.0], [np.nan, 5.0, 5.0, np.nan]])
    assert votes(keys, last=True).tolist() == [2, 0, 1]
    assert votes(keys, last=False).tolist() == [0, 0, 1]


def test_sigma_counts_different_answers():
    """0, 0.5, 1 for three probes."""
    assert sigma(np.array([[3.0, 3, 3], [3, 1, 3], [1, 2, 3]])).tolist() == [0.0, 0.5, 1.0]
    assert levels_of(3) == [0.0, 0.5]
    assert levels_of(2) == [0.0]


def test_the_plan_is_a_cascade_of_panels():
    """Probes of one model, then one or two more models; a smaller catalogue gives a shorter plan."""
    policy = AcarConfig(**ALL).fit(*world(20), RNG)
    plan = policy.decide(ASKED, IDS, RNG).plan
    assert isinstance(plan, Cascade)
    assert [type(part) for part in plan.plans] == [Panel, Panel, Panel]
    assert [len(part.plans) for part in plan.plans] == [3, 1, 2]
    assert plan.settings == {"levels": [0.0, 0.5]}
    two = policy.decide(ASKED, IDS.only(["small", "large"]), RNG).plan
    assert [len(part.plans) for part in two.plans] == [3, 1]
    one = policy.decide(ASKED, IDS.only(["middle"]), RNG).plan
    assert one == Panel((Call("middle"),) * 3, "majority")


def test_the_models_are_chosen_by_quality_and_cost():
    """The best is asked last, the second best of the others before it, and a cheap one is probed."""
    table, _ = world(2000)
    assert chosen_models(table, 3) == ["small", "middle", "large"]
    blank = OutcomeTable(["q"], IDS, np.full((1, 3), np.nan))
    with pytest.raises(UserError, match="no outcome"):
        AcarConfig().fit(blank, blank.features(), RNG)


def test_it_can_be_named_without_outcomes():
    """Three ids are all it needs."""
    policy = _from_settings("policies.x", "acar", {"models": ["small", "large"]}, IDS).policy
    assert policy.decide(ASKED, IDS, RNG).target == "small"
    with pytest.raises(ConfigError, match="no outcome"):
        _from_settings("policies.x", "acar", {}, IDS)
    with pytest.raises(ConfigError, match=r"acar\.models"):
        policy_config("acar", {"models": ["a", "b", "c", "d"]})
    with pytest.raises(ConfigError, match="twice"):
        policy_config("acar", {"models": ["a", "a"]})


def test_a_table_without_costs_is_replayed_without_them():
    """Calls are counted, dollars are not."""
    table, features = world(50)
    free = OutcomeTable(table.texts, IDS, table.quality)
    replay = AcarConfig(**ALL).fit(free, features, RNG).replay(free, features, RNG)
    assert replay.cost_usd is None
    assert (replay.calls >= 3).all()
