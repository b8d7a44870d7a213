"""frugalgpt: worth as much as its scorer; thresholds are set on rows that the scorer has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.outcomes import OutcomeTable
from junctor.plans.tape import NotBilled, Recording
from junctor.policies.chains import Scored, best_per_budget
from junctor.policies.frugalgpt import FrugalGPTConfig
from junctor.testing.planted import planted
from junctor.types import Call, Cascade, Request

from .stages import COST, IDS, area, before_the_answer, curve, gain, halves, with_samples, world

RNG = np.random.default_rng(0)


def test_a_good_scorer_beats_every_mix_of_single_models_and_a_coin_does_not():
    """Planted: nothing can be told from the query, so that the key part is the look at the answer."""
    table, features = world(2400)
    assert gain(FrugalGPTConfig(auc=0.95), table, features) > 0.05
    assert gain(FrugalGPTConfig(auc=0.5), table, features) < 0.01


def test_it_beats_a_router_that_decides_before_the_answer_where_the_answer_tells_more():
    """Topics can be told from the query, but among answers of one topic only the answer tells; a coin adds nothing to kNN."""
    (train, seen), (test, there) = halves(*planted(1600, seed=1))
    bar = before_the_answer(train, seen, test, there)

    def scored(auc):
        policy = FrugalGPTConfig(auc=auc).fit(train, seen, np.random.default_rng(0))
        return area(*curve(policy.replay(test, there, np.random.default_rng(1))), test)

    assert scored(0.95) > bar + 0.02
    assert scored(0.5) < bar


def test_recorded_scores_go_before_drawn_ones():
    """A recorded score that is the truth makes the oracle cascade, whatever `auc` says."""
    table, features = world(1200)
    told = with_samples(table, score=table.quality[:, :, None])
    assert gain(FrugalGPTConfig(auc=0.5), told, features) > 0.08


def test_agreement_of_samples_is_billed_threefold():
    """Three draws of every model but the last; the answers of a steady model agree."""
    table, features = world(900)
    rng = np.random.default_rng(3)
    key = np.where(rng.random((900, 3, 3)) < 0.9, 0.0, rng.integers(1, 50, (900, 3, 3)))
    key = np.where(table.quality[:, :, None] == 1, key, rng.integers(1, 50, (900, 3, 3)))
    told = with_samples(table, quality=(key == 0).astype(np.float64), key=key)
    assert FrugalGPTConfig().probes_of(told) == 3
    policy = FrugalGPTConfig().fit(told, features, RNG)
    replay = policy.replay(told, features, RNG)
    chains = [len(setting.chain) for setting in policy.settings]
    assert max(chains) > 1
    assert {int(c) for c in np.unique(replay.calls[int(np.argmax(chains))])} <= {3, 4, 6, 7}
    assert FrugalGPTConfig(scorer="simulated").probes_of(told) == 1
    assert gain(FrugalGPTConfig(), told, features) > gain(FrugalGPTConfig(scorer="simulated", auc=0.5), told, features)


def test_the_grid_is_priced_as_the_cascade_runs():
    """Every point of the grid costs and gives what running it row by row does."""
    rng = np.random.default_rng(0)
    data = Scored(rng.random((60, 3)), rng.random((60, 3)) + COST, rng.random((60, 3)), share=2.0, grid=5)
    for chain in ((0,), (0, 2), (0, 1, 2)):
        levels, quality, cost = data.points(chain)
        for place in range(len(levels)):
            point = data.at(chain, levels[place].tolist())
            assert (point.quality, point.cost) == pytest.approx((quality[place], cost[place]))


def test_budgets_hold_on_the_rows_that_set_the_thresholds_and_quality_falls_with_them():
    """A budget below everything gets the cheapest target."""
    rng = np.random.default_rng(0)
    quality = (rng.random((400, 3)) < [0.5, 0.7, 0.9]).astype(np.float64)
    data = Scored(quality, np.tile(COST, (400, 1)), quality + 0.5 * rng.standard_normal((400, 3)))
    budgets = [np.inf, 0.2, 0.1, 0.03, 0.001]
    points = best_per_budget(data, [0, 1, 2], budgets)
    assert all(p.cost <= b + 1e-12 for p, b in zip(points[:-1], budgets[:-1], strict=True))
    assert points[-1].columns == (0,)
    assert [p.quality for p in points] == sorted((p.quality for p in points), reverse=True)


def test_the_plan_carries_thresholds_and_what_is_predicted_of_the_query():
    """Live, the scorer starts from the query's log odds and looks at the answer's text."""
    table, features = planted(600)
    policy = FrugalGPTConfig().fit(table, features, RNG)
    assert policy.needs == {"embedding"}
    request = Request(id="r", text="?", features=features.take([0]))
    plan = policy.decide(request, table.targets, RNG).plan
    assert isinstance(plan, Cascade)
    assert plan.accept == "scorer"
    assert len(plan.settings["tau"]) == len(plan.settings["offset"]) == len(plan.plans) - 1
    cheap = FrugalGPTConfig(budget_usd=1e-9).fit(table, features, RNG)
    assert cheap.decide(request, table.targets, RNG).plan == Call("linguist")
    with pytest.raises(UserError, match="vectors of 3 numbers, fitted on 32"):
        policy.decide(Request(id="r", features=table.take([0]).features(np.zeros((1, 3), np.float32))), table.targets, RNG)


def test_too_little_to_learn_from_is_said():
    """Two rows, or no outcome at all."""
    table, features = world(2)
    with pytest.raises(UserError, match="too few"):
        FrugalGPTConfig().fit(table, features, RNG)
    blank = OutcomeTable(["q"] * 5, IDS, np.full((5, 3), np.nan))
    with pytest.raises(UserError, match="no outcome"):
        FrugalGPTConfig().fit(blank, world(5)[1], RNG)
    with pytest.raises(ConfigError, match=r"frugalgpt\.auc"):
        FrugalGPTConfig(auc=1.0)


def test_a_target_that_was_never_recorded_is_in_no_chain():
    """It is no model to call, whatever it costs."""
    table, features = world(300)
    quality = table.quality.copy()
    quality[:, 1] = np.nan
    policy = FrugalGPTConfig().fit(OutcomeTable(table.texts, IDS, quality, table.cost_usd), features, RNG)
    assert all("middle" not in setting.chain for setting in policy.settings)


def test_a_tape_refuses_what_was_not_billed():
    """Reading the dear model's outcome before calling it is peeking."""
    table, _ = world(4)
    tape = Recording(table).tape()
    rows = np.arange(4)
    with pytest.raises(NotBilled, match="quality was read before its call was billed"):
        tape.read("quality", rows, 2)
    tape.call(rows[:2], 2)
    assert tape.read("quality", rows[:2], 2).shape == (2,)
    with pytest.raises(NotBilled):
        tape.give(rows, 2)
    with pytest.raises(NotBilled):
        tape.read("quality", rows[:2], 2, draw=1)
    assert tape.cost_usd.tolist() == [0.25, 0.25, 0.0, 0.0]
