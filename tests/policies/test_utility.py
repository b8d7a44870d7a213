"""utility: the trade, hard limits, ties, catalogues, the sweep, and targets that are one model at two efforts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from junctor.curves import area_under_hull
from junctor.errors import ArtefactError, ConfigError, NoTarget, UserError
from junctor.estimators.knn import KNNConfig
from junctor.features import Features
from junctor.fitting import policy_config
from junctor.outcomes import OutcomeTable
from junctor.policies.utility import UtilityConfig, UtilityPolicy
from junctor.policy import Estimator, EstimatorConfig, Prediction, State
from junctor.testing import planted
from junctor.types import Catalogue, Constraints, Price, Request, Target, plan_targets

NAN = float("nan")
RNG = np.random.default_rng(0)
ONE = Features([""])


class Said(Estimator):
    """Predicts what it is told to."""

    name: ClassVar[str] = "said"

    def __init__(self, targets, **values):
        self.targets = targets
        self.values = {name: np.array(found, dtype=np.float64) for name, found in values.items()}

    def predict_many(self, features):
        return Prediction(**{name: np.tile(found, (len(features), 1)) for name, found in self.values.items()})

    def onboard(self, target, rows, features):
        raise UserError("cannot")

    def state(self):
        return State()

    @classmethod
    def from_state(cls, state):
        return cls(("a",), quality=[0.5])


@dataclass(frozen=True, kw_only=True)
class SaidConfig(EstimatorConfig):
    values: dict
    name: ClassVar[str] = "said"
    fitted: ClassVar[type[Estimator]] = Said

    def fit(self, table, features, rng):
        return Said(table.targets.ids, **self.values)


def utility(quality, cost=None, *, targets=None, recorded=True, latency_s=None, **settings) -> tuple[UtilityPolicy, Catalogue]:
    """A policy over these predictions; one training row records the same costs, so the dearest is the unit."""
    catalogue = Catalogue.of(targets or ["a", "b", "c", "d"][: len(quality)])
    given = {"quality": quality, "cost_usd": cost, "latency_s": latency_s}
    values = {name: found for name, found in given.items() if found is not None}
    costs = np.array([cost], dtype=np.float64) if cost is not None and recorded else None
    slow = None if latency_s is None else np.array([latency_s], dtype=np.float64)
    table = OutcomeTable(["four"], catalogue, np.nan_to_num([quality]), costs, slow)
    return UtilityConfig(estimator=SaidConfig(values=values), **settings).fit(table, table.features(), RNG), catalogue


def decide(made, catalogue=None, **constraints):
    policy, own = made
    asked = Request(id="r", features=ONE, constraints=Constraints(**constraints))
    return policy.decide(asked, own if catalogue is None else catalogue, RNG)


def tried(made, catalogue=None, **constraints):
    return plan_targets(decide(made, catalogue, **constraints).plan)


def test_without_a_cost_weight_quality_decides():
    assert tried(utility([0.5, 0.9, 0.7], [1, 3, 2])) == ("b", "c", "a")


def test_a_cost_weight_is_quality_per_mean_cost_of_the_dearest():
    # scores 0.5 - 0.6/3, 0.9 - 0.6, 0.7 - 0.4
    made = decide(utility([0.5, 0.9, 0.7], [1, 3, 2], cost_weight=0.6))
    assert made.target == "a"
    assert [row.score for row in made.ranked] == pytest.approx([0.3, 0.3, 0.3])
    assert tried(utility([0.5, 0.9, 0.7], [1, 3, 2], cost_weight=0.5))[0] == "b"
    assert tried(utility([0.5, 0.9, 0.7], [1e-6, 3e-6, 2e-6], cost_weight=0.7))[0] == "a", "the unit of money does not matter"


def test_a_latency_weight_is_quality_per_mean_latency_of_the_slowest():
    assert tried(utility([0.8, 0.7], latency_s=[4.0, 1.0], latency_weight=0.2))[0] == "b"
    assert tried(utility([0.8, 0.7], latency_s=[4.0, NAN], latency_weight=0.2))[0] == "a", "unknown counts as the slowest"


def test_equal_scores_go_to_the_cheaper_then_to_the_first_in_the_catalogue():
    assert tried(utility([0.8, 0.8 + 1e-13, 0.1], [1, 2, 1])) == ("a", "b", "c")
    assert tried(utility([0.8, 0.8, 0.8], [2, 1, 1])) == ("b", "c", "a")
    policy, catalogue = utility([0.8, 0.8 + 1e-13, 0.1], [1, 2, 1])
    assert policy.decide_many(Features(["", ""]), catalogue, RNG)[0].tolist() == [0, 0]


def test_a_budget_is_hard():
    made = utility([0.5, 0.9, 0.7], [1, 3, 2], budget_usd=2.0)
    assert tried(made) == ("c", "a")
    assert tried(made, budget_usd=5.0)[0] == "b", "the request's own budget goes first"
    with pytest.raises(NoTarget) as refused:
        decide(made, budget_usd=0.5)
    assert refused.value.refusals["c"] == "predicted to cost $2, the budget is $0.5"
    assert set(refused.value.refusals) == {"a", "b", "c"}
    policy, catalogue = utility([0.5, 0.9, 0.7], [1, 3, 2], budget_usd=0.5)
    with pytest.raises(NoTarget, match="for 2 of 2 requests"):
        policy.decide_many(Features(["", ""]), catalogue, RNG)


def test_a_hard_budget_refuses_what_may_cost_anything():
    made = utility([0.5, 0.9], [1, NAN], budget_usd=2.0)
    assert tried(made) == ("a",)
    with pytest.raises(NoTarget, match="b: its cost is not known"):
        decide(made, budget_usd=0.1)


def test_a_quality_floor_takes_the_cheapest_that_reaches_it():
    made = utility([0.5, 0.9, 0.7, 0.8], [1, 4, 2, 3], quality_floor=0.65)
    assert tried(made) == ("c", "d", "b")
    assert "cheapest that is predicted to reach the quality floor 0.65" in decide(made).reasons
    assert tried(made, quality_floor=0.85)[0] == "b"
    unreached = decide(made, quality_floor=0.95)
    assert unreached.target == "b"
    assert "none is predicted to reach the quality floor 0.95" in unreached.reasons[0]


def test_a_quality_floor_obeys_the_budget_and_bears_unknown_costs():
    assert tried(utility([0.5, 0.9, 0.7], [1, 4, 2], quality_floor=0.8, budget_usd=3.0)) == ("c", "a")
    assert tried(utility([0.5, 0.9, 0.7], [1, 4, NAN], quality_floor=0.6))[0] == "b"
    assert tried(utility([0.5, 0.9, 0.7], quality_floor=0.6))[0] == "b", "all costs unknown: the best that reaches it"
    policy, catalogue = utility([0.5, 0.9, 0.7], [NAN, 4, NAN], quality_floor=0.6, budget_usd=9.0)
    assert policy.decide_many(Features(["", ""]), catalogue, RNG)[0].tolist() == [1, 1]


def test_an_unknown_cost_counts_as_the_dearest_not_as_free():
    assert tried(utility([0.8, 0.85], [1, NAN], cost_weight=0.5)) == ("b", "a"), "both count as the dearest"
    assert tried(utility([0.8, 0.85, 0.7], [1, NAN, 10], cost_weight=0.5))[0] == "a"


def test_a_list_price_stands_in_for_a_cost_that_was_never_recorded():
    priced = [Target(id="a", price=Price(usd_per_call=0.01)), Target(id="b", price=Price(usd_per_call=0.001))]
    made = decide(utility([0.8, 0.7], targets=priced, cost_weight=0.5))
    assert made.target == "b"
    assert made.ranked[0].predicted.cost_usd == pytest.approx(0.001)
    assert tried(utility([0.8, 0.7], targets=priced, budget_usd=0.005)) == ("b",)
    tokens = [Target(id="a", price=Price(input_usd_per_mtok=4e6, output_usd_per_mtok=0.0))]
    assert decide(utility([0.8], targets=tokens)).ranked[0].predicted.cost_usd == pytest.approx(4.0), "four characters, a token"


def test_a_target_without_prediction_is_out():
    assert tried(utility([0.5, NAN], [1, 1])) == ("a",)
    with pytest.raises(NoTarget, match="a: its quality cannot be predicted"):
        decide(utility([NAN], [1]))


def test_a_smaller_reordered_or_partly_unknown_catalogue():
    made = utility([0.5, 0.9, 0.7], [1, 3, 2])
    assert tried(made, Catalogue.of(["c", "x", "a"])) == ("c", "a")
    policy, _ = made
    strange = Catalogue.of(["x", "c", "a"])
    assert policy.decide_many(Features(["", ""]), strange, RNG)[0].tolist() == [1, 1]
    with pytest.raises(NoTarget, match="x: not fitted"):
        decide(made, Catalogue.of(["x"]))
    with pytest.raises(NoTarget, match="no target to choose from"):
        decide(made, Catalogue([]))


def test_a_decision_explains_itself():
    made = decide(utility([0.5, 0.9, 0.7], [0.001, 0.003, 0.002], cost_weight=0.1, label="mine"))
    assert made.reasons == (
        "best trade at cost weight 0.1",
        "predicted quality 0.900 against 0.700 of c",
        "costs $0.003 against $0.002",
    )
    assert made.policy == "mine"
    assert decide(utility([0.5])).reasons[-1] == "predicted quality 0.500; no other target could be chosen"
    assert decide(utility([0.5, 0.4])).reasons == (
        "highest predicted quality",
        "predicted quality 0.500 against 0.400 of b",
        "costs are not known",
    )
    assert "counts as the dearest" in decide(utility([0.5, 0.4], [1, NAN], cost_weight=0.1)).reasons[2]


def test_a_decision_ranks_twenty_of_many_targets():
    ids = [f"t{i}" for i in range(500)]
    quality = np.linspace(0, 1, 500).tolist()
    made = decide(utility(quality, quality, targets=ids, fallbacks=3))
    assert plan_targets(made.plan) == ("t499", "t498", "t497", "t496")
    assert [row.target for row in made.ranked] == [f"t{i}" for i in range(499, 479, -1)]


def test_the_sweep_goes_from_quality_to_cost():
    policy, catalogue = utility([0.5, 0.9, 0.7], [1, 3, 2])
    sweep = policy.decide_sweep(Features(["", ""]), catalogue, RNG)
    assert sweep.settings[0] == 0
    assert np.isinf(sweep.settings[-1])
    assert sweep.choices[0].tolist() == [1, 1]
    assert sweep.choices[-1].tolist() == [0, 0]
    costs = np.array([1, 3, 2])[sweep.choices[:, 0]]
    assert (np.diff(costs) <= 0).all()


def test_at_the_end_of_the_sweep_quality_breaks_ties_of_cost():
    policy, catalogue = utility([0.5, 0.9, 0.7], [1, 1, 2])
    assert policy.decide_sweep(Features([""]), catalogue, RNG).choices[-1].tolist() == [1]


def test_the_sweep_keeps_the_budget_and_a_floor_leaves_one_row():
    policy, catalogue = utility([0.5, 0.9, 0.7], [1, 3, 2], budget_usd=2.5)
    assert 1 not in policy.decide_sweep(Features([""]), catalogue, RNG).choices
    policy, catalogue = utility([0.5, 0.9, 0.7], [1, 3, 2], quality_floor=0.6)
    sweep = policy.decide_sweep(Features([""]), catalogue, RNG)
    assert sweep.choices.tolist() == [[2]]
    assert np.isnan(sweep.settings).all()


@pytest.mark.parametrize("cost", [None, [0.0, 0.0, 0.0]])
def test_without_costs_the_weight_does_nothing(cost):
    assert tried(utility([0.5, 0.9, 0.7], cost, cost_weight=5.0))[0] == "b"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cost_weight": -1.0}, r"utility\.cost_weight"),
        ({"latency_weight": float("inf")}, r"utility\.latency_weight"),
        ({"fallbacks": -1}, r"utility\.fallbacks"),
        ({"budget_usd": 0.0}, r"utility\.budget_usd"),
        ({"quality_floor": 1.5}, r"utility\.quality_floor"),
        ({"estimator": 7}, r"utility\.estimator: must be a name"),
        ({"estimator": KNNConfig(), "estimator_settings": {"k": 3}}, r"utility\.estimator_settings: go with a name"),
        ({"estimator": "knn", "estimator_settings": {"kk": 3}}, r"utility\.estimator_settings\.kk: unknown setting"),
    ],
)
def test_settings_are_validated(settings, said):
    with pytest.raises(ConfigError, match=said):
        UtilityConfig(**settings)


def test_the_state_of_another_estimator_is_refused():
    table, features = planted(50)
    state = policy_config("mean").fit(table, features, RNG).state()
    other = {**state.config, "estimator": {**state.config["estimator"], "name": "knn"}}
    with pytest.raises(ArtefactError, match="is 'knn', the settings say 'mean'"):
        UtilityPolicy.from_state(State(other, state.arrays))


def test_onboarding_a_target_gives_a_policy_that_may_choose_it():
    table, features = planted(200)
    old = policy_config("knn", {"k": 20}).fit(table.only(table.targets.ids[:3]), features, RNG)
    old.version = "v1"
    wider = old.onboard("generalist", table, features)
    assert wider.version == "v1+generalist"
    asked = Request(id="r", features=features.take([0]))
    assert {row.target for row in wider.decide(asked, table.targets, RNG).ranked} == set(table.targets.ids)
    assert "generalist" not in {row.target for row in old.decide(asked, table.targets, RNG).ranked}


def efforts(rows=600):
    """One model at two reasoning budgets, and another: hard queries need the high budget, which costs eight times as much."""
    rng = np.random.default_rng(5)
    hard = rng.random(rows) < 0.4
    other = rng.random(rows) < 0.3
    vectors = np.stack([hard, other, ~hard], axis=1) + 0.25 * rng.standard_normal((rows, 3))
    chance = np.stack([np.where(hard, 0.15, 0.9), np.full(rows, 0.9), np.where(other, 0.97, 0.3)], axis=1)
    chance[other, :2] = 0.2
    quality = (rng.random((rows, 3)) < chance).astype(float)
    catalogue = Catalogue(
        [
            Target(id="m@low", settings={"reasoning": "low"}),
            Target(id="m@high", settings={"reasoning": "high"}),
            Target(id="other"),
        ]
    )
    cost = np.array([0.001, 0.008, 0.002]) * rng.uniform(0.8, 1.2, (rows, 1))
    table = OutcomeTable([f"q{i}" for i in range(rows)], catalogue, quality, cost)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return table, table.features(unit)


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_model_and_reasoning_budget_are_chosen_together(name):
    table, features = efforts()
    train, test = np.arange(400), np.arange(400, 600)
    policy = policy_config(name, {"cost_weight": 0.3}).fit(table.take(train), features.take(train), RNG)
    assert {t.upstream_model for t in table.targets} == {"m", "other"}
    choices, _ = policy.decide_many(features.take(test), table.targets, RNG)
    judged = table.take(test)
    rows = np.arange(len(test))
    worth = judged.quality - 0.3 * judged.cost_usd / judged.cost_usd.mean(axis=0).max()
    assert worth[rows, choices].mean() > worth.mean(axis=0).max() + 0.03, "better than any one target at this trade"
    assert set(choices.tolist()) == {0, 1, 2}
    sweep = policy.decide_sweep(features.take(test), table.targets, RNG)
    costs = np.array([judged.cost_usd[rows, row].mean() for row in sweep.choices])
    quality = np.array([judged.quality[rows, row].mean() for row in sweep.choices])
    single = judged.cost_usd.mean(axis=0)
    window = float(single.min()), float(single.max())
    zero = area_under_hull(single, judged.quality.mean(axis=0), *window)
    assert area_under_hull(costs, quality, *window) > zero + 0.03
