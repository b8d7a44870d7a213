"""routerbench-cascade: worth as much as its judge, and never over its cap."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.sets import PUBLISHED
from junctor.engine.choosers import _from_settings
from junctor.errors import ConfigError, NoTarget
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policies.routerbench_cascade import RouterBenchCascadeConfig, caps_of
from junctor.testing.planted import planted
from junctor.types import Call, Cascade, Catalogue, Constraints, Price, Request, Target, looks_at_answers

from .stages import ASKED, COST, IDS, area, before_the_answer, curve, gain, halves, world

RNG = np.random.default_rng(0)


def test_it_is_worth_as_much_as_its_judge():
    """Planted: with a good judge it beats any mix of single models at equal cost; with a coin for a judge it loses to it."""
    table, features = world()
    found = [gain(RouterBenchCascadeConfig(epsilon=eps), table, features) for eps in (0.0, 0.05, 0.1, 0.2, 0.5)]
    assert found[0] > 0.08
    assert found[2] > 0.02
    assert found[-1] < -0.02
    assert sorted(found, reverse=True) == found


def test_it_beats_a_router_that_decides_before_the_answer_while_its_judge_is_good():
    """Topics can be told from the query here, so that kNN is a real bar; a coin for a judge is below it."""
    (train, seen), (test, there) = halves(*planted(1600, seed=1))
    bar = before_the_answer(train, seen, test, there)

    def judged(epsilon):
        policy = RouterBenchCascadeConfig(epsilon=epsilon).fit(train, seen, RNG)
        return area(*curve(policy.replay(test, there, np.random.default_rng(1))), test)

    assert judged(0.0) > bar + 0.03
    assert judged(0.5) < bar - 0.03


@pytest.mark.data
def test_the_published_pattern_on_three_of_the_published_tasks(data):
    """Hu et al. 2024: far above the zero router with a good judge, above it up to errors of .1, below it beyond .2."""
    table = load_published("routerbench", data)
    features = table.features()
    (train, seen), (test, there) = (
        (table.take(rows), features.take(rows)) for rows in (np.arange(0, len(table), 2), np.arange(1, len(table), 2))
    )
    zero = area(test.cost_usd.mean(axis=0), test.quality.mean(axis=0), test)
    found = []
    for epsilon in (0.0, 0.01, 0.05, 0.1, 0.2, 0.4):
        policy = RouterBenchCascadeConfig(epsilon=epsilon).fit(train, seen, RNG)
        found.append(area(*curve(policy.replay(test, there, np.random.default_rng(1))), test) - zero)
    assert sorted(found, reverse=True) == found
    assert found[0] > 0.12
    assert found[3] > 0.04
    assert abs(found[4]) < 0.04
    assert found[5] < -0.08


def load_published(name, data):
    """One of the published sets."""
    return next(one for one in PUBLISHED if one.name == name).load(data)


def test_every_call_is_billed_and_the_first_is_always_made():
    """Small is wrong and judged so, middle is right: both are paid for. A cap below the first call still makes it."""
    table = OutcomeTable(["q"], IDS, np.array([[0.0, 1.0, 1.0]]), COST[None, :].copy())
    policy = RouterBenchCascadeConfig(epsilon=0.0).fit(table, table.features(), RNG)
    replay = policy.replay(table, table.features(), RNG)
    assert (replay.calls[0, 0], replay.quality[0, 0]) == (2.0, 1.0)
    assert replay.cost_usd[0, 0] == pytest.approx(0.06)
    assert (replay.calls[-1, 0], replay.cost_usd[-1, 0], replay.quality[-1, 0]) == (1.0, 0.01, 0.0)


def test_the_cap_bounds_the_bill_of_every_query():
    """The cap holds per query, not on average; the judge may be billed too."""
    table, features = world(300)
    replay = RouterBenchCascadeConfig().fit(table, features, RNG).replay(table, features, RNG)
    assert (replay.cost_usd.max(axis=1) <= np.maximum(replay.settings, COST[0]) + 1e-12).all()
    cost, _ = curve(replay)
    assert (np.diff(cost) <= 1e-12).all()
    judged = (
        RouterBenchCascadeConfig(judge_share=0.1).fit(table, features, RNG).replay(table, features, np.random.default_rng(0))
    )
    assert curve(judged)[0][0] > cost[0]


def test_a_call_that_was_not_recorded_loses_the_row():
    """Quality and cost are NaN where a plan ran into a gap, and nowhere else."""
    table = OutcomeTable(["q", "r"], IDS, np.array([[0.0, np.nan, 1.0], [1.0, np.nan, 1.0]]), np.tile(COST, (2, 1)))
    policy = RouterBenchCascadeConfig(epsilon=0.0).fit(*world(50), RNG)
    replay = policy.replay(table, table.features(), RNG)
    assert np.isnan(replay.quality[0]).tolist() == [True, False]
    assert np.isnan(replay.cost_usd[0]).tolist() == [True, False]


def test_the_plan_goes_by_price_under_the_callers_budget():
    """Live, the dearest of the chain judges unless another is named."""
    policy = RouterBenchCascadeConfig().fit(*world(50), RNG)
    plan = policy.decide(Request(id="r", text="?", constraints=Constraints(budget_usd=0.1)), IDS, RNG).plan
    assert isinstance(plan, Cascade)
    assert plan.plans == (Call("small"), Call("middle"), Call("large"))
    assert plan.settings == {"by": ["large"], "expected_usd": pytest.approx([0.01, 0.05, 0.25]), "cap_usd": 0.1}
    assert looks_at_answers(plan)
    assert policy.decide(ASKED, IDS.only(["middle"]), RNG).plan == Call("middle")
    with pytest.raises(NoTarget, match="routerbench-cascade knows only"):
        policy.decide(ASKED, Catalogue.of(["x"]), RNG)


def test_it_needs_no_outcomes_only_prices():
    """Named in a configuration it goes by list price."""
    priced = Catalogue([Target(id=id_, price=Price(usd_per_call=cost)) for id_, cost in (("dear", 2.0), ("cheap", 1.0))])
    policy = _from_settings("policies.x", "routerbench-cascade", {"models": 2}, priced).policy
    assert policy.decide(ASKED, priced, RNG).target == "cheap"


def test_settings_are_checked():
    """Each names its field."""
    for settings in ({"epsilon": 2.0}, {"cap_usd": 0.0}, {"judge_share": -1.0}, {"models": -1}):
        with pytest.raises(ConfigError, match=rf"routerbench-cascade\.{next(iter(settings))}"):
            policy_config("routerbench-cascade", settings)
    with pytest.raises(Exception, match="'x' is not among the targets"):
        RouterBenchCascadeConfig(judge="x").fit(*world(50), RNG)
    assert caps_of([0.0, 0.0]) == [float("inf")]


def test_fewer_models_are_spread_over_the_prices():
    """The cheapest and the dearest stay."""
    policy = RouterBenchCascadeConfig(models=2).fit(*world(50), RNG)
    assert policy.chain == ("small", "large")
