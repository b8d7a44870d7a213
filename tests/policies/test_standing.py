"""fixed, random, cheapest, best-single: what they choose, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ArtefactError, ConfigError, NoTarget, UserError
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.best_single import BestSingle, BestSingleConfig
from junctor.policies.cheapest import CheapestConfig
from junctor.policies.fixed import FixedConfig
from junctor.policies.random import RandomConfig
from junctor.policy import State
from junctor.types import Call, Catalogue, Fallback, Price, Request, Target, plan_targets

NAN = float("nan")
ABC = Catalogue.of(["a", "b", "c"])
RNG = np.random.default_rng(0)
ASKED = Request(id="r", text="hello")


def fit(config, quality=((0.5, 0.9, 0.9), (0.5, 0.7, 0.7)), cost=None, targets=ABC):
    array = np.array(quality, dtype=np.float64)
    costs = None if cost is None else np.array(cost, dtype=np.float64)
    table = OutcomeTable([""] * len(array), targets, array, costs)
    return config.fit(table, table.features(), RNG)


def tried(policy, targets=ABC):
    return plan_targets(policy.decide(ASKED, targets, RNG).plan)


def test_fixed_calls_its_target_and_nothing_else():
    policy = fit(FixedConfig(target="b"))
    assert policy.decide(ASKED, ABC, RNG).plan == Call("b")
    with pytest.raises(NoTarget, match="fixed knows only: b"):
        policy.decide(ASKED, ABC.only(["a"]), RNG)


def test_fixed_must_name_a_target_that_exists():
    with pytest.raises(ConfigError, match=r"fixed\.target: names no target"):
        FixedConfig()
    with pytest.raises(ConfigError, match=r"no target is called 'z'.*targets: a, b, c"):
        fit(FixedConfig(target="z"))


def test_best_single_takes_the_highest_mean_and_of_equals_the_cheaper():
    assert tried(fit(BestSingleConfig())) == ("b", "c", "a")
    assert tried(fit(BestSingleConfig(fallbacks=1), cost=[[1, 3, 2]] * 2)) == ("c", "b")
    made = fit(BestSingleConfig(), cost=[[1, 3, 2]] * 2).decide(ASKED, ABC, RNG)
    assert made.ranked[0].predicted.quality == pytest.approx(0.8)
    assert made.ranked[0].predicted.cost_usd == 2


def test_best_single_of_equal_means_up_to_rounding_takes_the_cheaper():
    quality = [[0.1, 0.3], [0.2, 0.0], [0.3, 0.3]]  # both sum to 0.6, but not in floating point
    assert tried(fit(BestSingleConfig(), quality, [[2, 1]] * 3, Catalogue.of(["a", "b"])))[0] == "b"


def test_best_single_ignores_what_was_not_recorded():
    policy = fit(BestSingleConfig(), [[1, NAN, NAN], [0, 0.9, NAN]])
    assert tried(policy) == ("b", "a")
    with pytest.raises(UserError, match="no outcome to learn from"):
        fit(BestSingleConfig(), np.empty((0, 3)))


def test_best_single_moves_on_when_the_best_is_not_there():
    assert tried(fit(BestSingleConfig()), ABC.only(["a", "c"])) == ("c", "a")
    choices, propensities = fit(BestSingleConfig()).decide_many(Features(["", ""]), ABC.only(["a", "c"]), RNG)
    assert choices.tolist() == [1, 1]
    assert propensities.tolist() == [1, 1]


def test_cheapest_goes_by_mean_cost_then_list_price_then_comes_the_unknown():
    priced = Catalogue([Target(id="a"), Target(id="b", price=Price(usd_per_call=0.001)), Target(id="c")])
    assert tried(fit(CheapestConfig(), cost=[[NAN, NAN, 0.003], [NAN, NAN, 0.001]], targets=priced)) == ("b", "c", "a")
    assert tried(fit(CheapestConfig(fallbacks=0), cost=[[3, 2, 1]] * 2)) == ("c",)
    assert tried(fit(CheapestConfig())) == ("a", "b", "c")


def test_cheapest_works_from_prices_alone():
    priced = Catalogue(
        [Target(id="a", price=Price(output_usd_per_mtok=9.0)), Target(id="b", price=Price(input_usd_per_mtok=1.0))]
    )
    assert tried(fit(CheapestConfig(), np.empty((0, 2)), targets=priced), priced) == ("b", "a")


def test_random_draws_every_target_and_keeps_others_in_reserve():
    policy = fit(RandomConfig())
    rng = np.random.default_rng(3)
    made = [policy.decide(ASKED, ABC, rng) for _ in range(200)]
    assert {decision.target for decision in made} == {"a", "b", "c"}
    assert made[0].propensity == pytest.approx(1 / 3)
    assert isinstance(made[0].plan, Fallback)
    assert len(set(plan_targets(made[0].plan))) == 3
    assert isinstance(fit(RandomConfig(fallbacks=0)).decide(ASKED, ABC, rng).plan, Call)


@pytest.mark.parametrize("config", [RandomConfig, CheapestConfig, BestSingleConfig])
def test_fallbacks_must_not_be_negative(config):
    with pytest.raises(ConfigError, match=rf"{config.name}\.fallbacks: must not be negative"):
        config(fallbacks=-1)


def test_a_damaged_order_is_refused():
    with pytest.raises(ArtefactError, match="names no target, or one twice"):
        BestSingle.from_state(State({"order": ["a", "a"], "known": {}, "fallbacks": 1}, {}))
