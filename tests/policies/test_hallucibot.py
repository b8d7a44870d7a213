"""hallucibot: the label, the two ends of the ladder, refusals, the base rate, and a pool that tells more than one target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.estimators.regions import Split, split, unit
from tests.estimators.tables import NAN, at, seen, table

from junctor.errors import ConfigError, NoTarget, UserError
from junctor.estimators.regression import sigmoid
from junctor.policies import hallucibot
from junctor.policies.hallucibot import HalluciBotConfig, f1_score, failing
from junctor.types import Catalogue, Price, Request, Target

RNG = np.random.default_rng(0)


def test_the_label_is_the_share_of_the_pool_that_fails():
    rows = table([[1, 0, 0, 0], [1, NAN, NAN, 0.5], [NAN] * 4])
    assert failing(rows)[:2].tolist() == [0.75, 0.25]
    assert np.isnan(failing(rows)[2])
    drawn = replace(rows, samples={"quality": np.where(np.arange(3)[:, None, None] == 0, np.zeros((3, 4, 5)), NAN)})
    assert failing(drawn)[:2].tolist() == [1.0, 0.25]


def easy_and_hard(**settings):
    """Queries at 0 degrees are easy, those at 180 hard; target c is the strongest and dearest, a the cheapest."""
    rows = table([[1, 1, 1], [0, 0, 1]] * 10, cost=[[1, 2, 9]] * 20)
    return rows, HalluciBotConfig(alpha=0.1, **settings).fit(rows, seen(np.tile(at(0, 180), (10, 1))), RNG)


def test_hard_queries_go_to_the_strongest_target_and_the_others_to_the_cheapest():
    rows, policy = easy_and_hard()
    assert policy.decide_many(seen(at(0, 180)), rows.targets, RNG)[0].tolist() == [0, 2]
    made = policy.decide(Request(id="r", features=seen(at(180))), rows.targets, RNG)
    assert made.target == "c"
    assert made.reasons[1].endswith("0.50 of the training queries were hard")
    sweep = policy.decide_sweep(seen(at(0, 180)), rows.targets, RNG)
    assert sweep.choices[0].tolist() == [2, 2]
    assert sweep.choices[-1].tolist() == [0, 0]


def test_in_a_smaller_catalogue_its_own_ends_count():
    _, policy = easy_and_hard()
    assert policy.decide_many(seen(at(0, 180)), Catalogue.of(["b", "c"]), RNG)[0].tolist() == [0, 1]
    assert policy.decide_many(seen(at(0, 180)), Catalogue.of(["a"]), RNG)[0].tolist() == [0, 0]


def test_it_may_refuse():
    rows, policy = easy_and_hard(refuse_above=0.6)
    assert policy.decide(Request(id="r", features=seen(at(0))), rows.targets, RNG).target == "a"
    with pytest.raises(NoTarget) as refused:
        policy.decide(Request(id="r", features=seen(at(180))), rows.targets, RNG)
    assert set(refused.value.refusals) == {"a", "b", "c"}
    with pytest.raises(NoTarget, match="for some requests"):
        policy.decide_many(seen(at(0, 180)), rows.targets, RNG)


def test_without_known_costs_the_strongest_takes_all():
    rows = table([[1, 1], [0, 1]] * 5)
    policy = HalluciBotConfig().fit(rows, seen(np.tile(at(0, 180), (5, 1))), RNG)
    assert policy.decide_many(seen(at(0, 180)), rows.targets, RNG)[0].tolist() == [1, 1]
    priced = Catalogue([Target(id="a", price=Price(usd_per_call=1.0)), Target(id="b", price=Price(usd_per_call=2.0))])
    easy = HalluciBotConfig(escalate_above=0.9).fit(rows, seen(np.tile(at(0, 180), (5, 1))), RNG)
    assert easy.decide_many(seen(at(0, 180)), priced, RNG)[0].tolist() == [0, 0]


def pool(seed: int, rows: int = 150, dim: int = 48) -> Split:
    """Ten targets find the same queries hard; the first is cheap, the last is strong; each is right or wrong by much luck."""
    rng = np.random.default_rng(seed)
    x = unit(rng.standard_normal((rows + 800, dim))) * dim**0.5
    ability = np.linspace(-0.5, 0.5, 10)
    ability[-1] = 3.0
    cost = np.tile([0.001, *np.linspace(0.008, 0.009, 8), 0.01], (len(x), 1))
    return split(sigmoid(ability - 2.5 * x[:, :1]), x, rows, cost=cost, seed=seed)


def test_it_beats_the_cheap_bars_because_a_pool_tells_more_than_one_target_and_not_with_other_queries_labels(monkeypatch):
    worlds = [pool(seed) for seed in range(3)]

    def height(name: str, **settings) -> float:
        return float(np.mean([world.height(name, **settings) for world in worlds]))

    ours = height("hallucibot", alpha=3.0)
    bars = (("mean", {}), ("linear", {"alpha": 3.0}), ("knn", {"k": 10}), ("knn", {"k": 20}))
    assert ours > max(height(name, **settings) for name, settings in bars) + 0.01
    monkeypatch.setattr(hallucibot, "failing", lambda rows: np.random.default_rng(0).permutation(failing(rows)))
    assert height("hallucibot", alpha=3.0) < ours - 0.03


def test_the_head_is_judged_on_other_rows_beside_the_base_rate():
    world = pool(0, rows=600)
    policy = world.fit("hallucibot", alpha=3.0)
    luck = np.random.default_rng(9).random(world.fresh.quality.shape)
    drawn = replace(world.fresh, quality=(luck < world.fresh.quality) * 1.0)
    report = policy.report(drawn, world.seen)
    assert report.base_rate == pytest.approx((failing(drawn) > 0.5).mean())
    assert report.f1 > report.f1_of_always + 0.05
    assert policy.base_rate == pytest.approx((failing(world.table) > 0.5).mean())
    assert f1_score(np.array([True, True, False]), np.array([True, False, False])) == pytest.approx(2 / 3)
    assert f1_score(np.array([False]), np.array([False])) == 0.0


def test_a_newcomer_may_become_an_end_of_the_ladder():
    rows = table([[1, 1, 1], [0, 0, 1]] * 10, cost=[[1, 2, 9]] * 20)
    vectors = np.tile(at(0, 180), (10, 1))
    old = HalluciBotConfig(alpha=0.1).fit(rows.only(["a", "b"]), seen(vectors), RNG)
    wider = old.onboard("c", rows, seen(vectors))
    assert wider.decide_many(seen(at(0, 180)), rows.targets, RNG)[0].tolist() == [0, 2]


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no outcome to learn from"):
        HalluciBotConfig().fit(table([[NAN]]), seen(at(0)), RNG)
    for settings in ({"alpha": 0.0}, {"escalate_above": -1.0}, {"refuse_above": 2.0}, {"fallbacks": -1}):
        with pytest.raises(ConfigError, match=r"hallucibot\."):
            HalluciBotConfig(**settings)
