"""What all bandits share: arms by rank-one updates, feedback late and once, new targets, prices, budgets, restarts."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from junctor.errors import ArtefactError, ConfigError, NoTarget, UserError
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.arms import LinearArms, Prior
from junctor.policies.banditry import Seen
from junctor.policies.contexts import Reduced
from junctor.policies.epsilon_greedy import EpsilonGreedyConfig
from junctor.policies.exp3 import Exp3Config
from junctor.policies.greenserv import GreenServConfig
from junctor.policies.linucb import LinUCBConfig
from junctor.policies.thompson import ThompsonConfig
from junctor.testing import check_learner, check_policy, planted
from junctor.testing.planted import requests, same_state, through_files
from junctor.types import Catalogue, Constraints, Decision, Outcome, Price, Target

CONFIGS = [LinUCBConfig, ThompsonConfig, EpsilonGreedyConfig, Exp3Config, GreenServConfig]
TABLE, FEATURES = planted(120)
each = pytest.mark.parametrize("config", CONFIGS, ids=[config.name for config in CONFIGS])


def fresh(config, warm=0.0, table=TABLE, **settings):
    return config(warm=warm, **settings).fit(table, FEATURES, np.random.default_rng(0))


def played(learner, rows=60, targets=TABLE.targets):
    rng = np.random.default_rng(3)
    made = [learner.decide(request, targets, rng) for request in requests(TABLE, FEATURES, range(rows))]
    return [(one, TABLE.outcome(row, TABLE.targets.position(one.target) or 0)) for row, one in enumerate(made)]


def taught(learner, pairs):
    for pair in pairs:
        learner.learn(*pair)
    return learner


@each
@pytest.mark.parametrize("warm", [0.0, 1.0])
def test_each_is_a_learner(config, warm):
    check_learner(lambda: fresh(config, warm))


@pytest.mark.slow
@each
def test_a_cold_one_is_a_policy(config):
    check_policy(config(warm=0.0))


def test_arms_hold_the_ridge_regression():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 4)), rng.random((50, 2))
    x[:, 0] = 1.0
    arms = LinearArms(["a", "b"], 4, Prior(ridge=0.7, quality=0.9, bill=0.4))
    for row, answer in zip(x, y, strict=True):
        arms.take(1, row, *answer)
    prior = np.zeros((4, 2))
    prior[0] = 0.9, 0.4
    precision = 0.7 * np.eye(4) + x.T @ x
    np.testing.assert_allclose(arms.inverse[1], np.linalg.inv(precision), atol=1e-10)
    np.testing.assert_allclose(arms.weights[1].T, np.linalg.solve(precision, 0.7 * prior + x.T @ y), atol=1e-10)
    quality, bill, spread = arms.stand(x[:3], slice(0, 2))
    np.testing.assert_allclose(quality[:, 0], 0.9)
    np.testing.assert_allclose(spread[:, 1], np.sqrt(np.einsum("nd,de,ne->n", x[:3], np.linalg.inv(precision), x[:3])))
    alone = arms.stand(x[:1], slice(0, 2))
    for one, many in zip(alone, (quality, bill, spread), strict=True):
        np.testing.assert_allclose(one[0], many[0])


def test_a_discount_draws_back_to_the_prior():
    x = np.array([1.0, 0.5])
    steady, fading = (LinearArms(["a"], 2, Prior(discount=d)) for d in (1.0, 0.9))
    for answer in [0.0] * 100 + [1.0] * 20:
        for arms in (steady, fading):
            arms.take(0, x, answer, 1.0)
    (old, _, sure), (new, _, doubt) = (arms.stand(x[None], slice(0, 1)) for arms in (steady, fading))
    assert old[0, 0] < 0.25
    assert new[0, 0] > 0.8
    assert doubt[0, 0] > sure[0, 0]


def test_a_bill_that_is_not_known_teaches_nothing():
    arms = LinearArms(["a"], 2, Prior(bill=0.3))
    for _ in range(10):
        arms.take(0, np.array([1.0, 1.0]), 0.5, float("nan"))
    assert arms.stand(np.array([[1.0, 0.0]]), slice(0, 1))[1][0, 0] == pytest.approx(0.3)


def test_ids_are_remembered_up_to_a_number_and_after_a_restart():
    seen = Seen(3)
    assert [seen.add(id_) for id_ in ("a", "b", "a", "c", "d")] == [True, True, False, True, True]
    assert seen.add("a"), "the oldest was to be forgotten"
    digests = seen.state().arrays["seen"]
    assert len(digests) == 3
    again = Seen(3, digests.tolist())
    assert not again.add("d")
    assert again.add("\ud800")


def test_axes_are_orthogonal_and_scaled_alike():
    context = Reduced.of(FEATURES.vectors("x"), 8)
    found = context.matrix(FEATURES)
    assert found.shape == (120, 9)
    np.testing.assert_allclose((found[:, 1:] ** 2).sum(axis=1).mean(), 1.0, atol=1e-3)
    between = found[:, 1:].T @ found[:, 1:] / len(found)
    np.testing.assert_allclose(between - np.diag(np.diag(between)), 0.0, atol=1e-4)
    flat = Reduced.of(np.ones((5, 3), dtype=np.float32), 2)
    assert flat.dims == 1


@each
def test_late_feedback_in_another_order_leads_to_the_same_belief(config):
    pairs = played(fresh(config))
    forth, back = taught(fresh(config), pairs), taught(fresh(config), pairs[::-1])
    np.testing.assert_allclose(forth.arms.weights, back.arms.weights, atol=1e-9)
    np.testing.assert_array_equal(forth.arms.times, back.arms.times)


@each
def test_a_decision_is_learned_from_by_another_process_after_the_journal(config):
    here, there = fresh(config), fresh(config)
    pairs = played(here)
    journal = [(msgspec.json.decode(msgspec.json.encode(made), type=Decision), outcome) for made, outcome in pairs]
    assert same_state(taught(here, pairs).state(), taught(there, journal).state())


@each
def test_after_a_restart_learning_goes_on_as_if_nothing_had_been(config):
    pairs = played(fresh(config, warm=0.5))
    steady = taught(fresh(config, warm=0.5), pairs[:30])
    restarted = type(steady).from_state(through_files(steady.state()))
    assert same_state(taught(steady, pairs[30:]).state(), taught(restarted, pairs[30:]).state())


@each
def test_decisions_of_another_fit_are_not_learned_from(config):
    learner = fresh(config)
    learner.version = "new"
    before = through_files(learner.state())
    for made, outcome in played(learner)[:5]:
        learner.learn(msgspec.structs.replace(made, version="old"), outcome)
        learner.learn(msgspec.structs.replace(made, context=()), outcome)
        learner.learn(msgspec.structs.replace(made, context=(*made.context[:-1], 0.0)), outcome)
    assert same_state(before, learner.state())
    made, outcome = played(learner)[0]
    learner.learn(msgspec.structs.replace(made, version="new+late"), outcome)
    assert learner.arms.total == 1.0, "onboarding changes no context"


@each
def test_a_target_that_turns_up_is_tried_and_learned_of(config):
    without = fresh(config, warm=1.0, table=TABLE.only(["linguist", "calculator"]))
    wider = Catalogue([*without_prices(TABLE), Target(id="newcomer")])
    rng, tries = np.random.default_rng(0), 0
    for number, request in enumerate(requests(TABLE, FEATURES, [*range(100)] * 2)):
        made = without.decide(msgspec.structs.replace(request, id=str(number)), wider, rng)
        tries += made.target == "newcomer"
        without.learn(made, Outcome(quality=1.0 if made.target == "newcomer" else 0.2))
    assert tries > 0, "an optimistic beginning was to get it tried"
    assert without.arms.times[without.arms.place("newcomer")] == tries
    places = how_often(without, wider)
    assert places["newcomer"] == max(places.values()), "it was always right"


def without_prices(table):
    return [Target(id=target.id) for target in table.targets]


def how_often(learner, targets):
    chosen, _ = learner.frozen().decide_many(FEATURES, targets, np.random.default_rng(0))
    return {id_: int((chosen == place).sum()) for place, id_ in enumerate(targets.ids)}


def test_without_optimism_a_newcomer_is_not_tried():
    config = EpsilonGreedyConfig(epsilon=0.0, decay=1.0, floor=1e-9, optimism=0.0)
    learner = config.fit(TABLE.only(["generalist"]), FEATURES, np.random.default_rng(0))
    made = {one.target for one, _ in played(learner)}
    assert made == {"generalist"}
    keen = replace(config, optimism=1.0).fit(TABLE.only(["generalist"]), FEATURES, np.random.default_rng(0))
    assert "generalist" not in {one.target for one, _ in played(keen)}


@each
def test_frozen_it_takes_no_target_that_was_never_tried(config):
    learner = fresh(config, warm=1.0, table=TABLE.only(["calculator", "generalist"]))
    found = how_often(learner, TABLE.targets)
    assert found["linguist"] == found["programmer"] == 0
    sweep = learner.decide_sweep(FEATURES, TABLE.targets, np.random.default_rng(0))
    assert set(np.unique(sweep.choices).tolist()) <= {1, 3}
    same, sure = learner.frozen().decide_many(FEATURES, TABLE.targets, np.random.default_rng(1))
    np.testing.assert_array_equal(sure, 1.0)
    assert same.shape == (120,)


@pytest.mark.parametrize("config", [LinUCBConfig, ThompsonConfig, EpsilonGreedyConfig])
def test_a_new_price_counts_at_once_and_forgets_nothing(config):
    learner = fresh(config, warm=1.0, cost_weight=0.5).frozen()
    before = how_often(learner, TABLE.targets)
    turned = Catalogue([dearer(target, 300.0) if target.id != "generalist" else target for target in TABLE.targets])
    after = how_often(learner, turned)
    assert before["generalist"] < 60
    assert after["generalist"] > 110
    assert how_often(learner, TABLE.targets) == before, "deciding at another price taught it something"


def dearer(target, factor):
    price = Price(
        input_usd_per_mtok=target.price.input_usd_per_mtok * factor,
        output_usd_per_mtok=target.price.output_usd_per_mtok * factor,
    )
    return msgspec.structs.replace(target, price=price)


def test_bills_are_learned_in_units_of_the_price_of_the_day():
    learner = fresh(EpsilonGreedyConfig, cost_weight=0.1)
    dear = Catalogue([dearer(target, 10.0) for target in TABLE.targets])
    rng = np.random.default_rng(0)
    for number, request in enumerate(requests(TABLE, FEATURES, [*range(100)] * 3)):
        day = dear if number % 2 else TABLE.targets
        made = learner.decide(msgspec.structs.replace(request, id=str(number)), day, rng)
        listed = learner.scales.list_cost(day.get(made.target))
        learner.learn(made, Outcome(quality=0.5, cost_usd=2.0 * listed))
    looked = learner._look(learner.context.matrix(FEATURES), learner._view(TABLE.targets))
    tried = learner.arms.times > 20
    np.testing.assert_allclose(looked.bill.mean(axis=0)[tried[:-1]], 2.0, atol=0.15)


def test_a_budget_is_kept_and_refuses_with_reasons():
    learner = fresh(LinUCBConfig, warm=1.0)
    request = next(iter(requests(TABLE, FEATURES, [0])))
    tight = msgspec.structs.replace(request, constraints=Constraints(budget_usd=0.001))
    made = learner.decide(tight, TABLE.targets, np.random.default_rng(0))
    assert made.target != "generalist"
    assert "generalist" not in {row.target for row in made.ranked}
    with pytest.raises(NoTarget) as refused:
        learner.decide(
            msgspec.structs.replace(request, constraints=Constraints(budget_usd=1e-9)), TABLE.targets, np.random.default_rng(0)
        )
    assert refused.value.refusals.keys() == set(TABLE.targets.ids)


@each
def test_onboarding_learns_of_a_target_and_leaves_the_old_one_alone(config):
    learner = fresh(config, warm=1.0, table=TABLE.only(["linguist", "calculator"]))
    learner.version = "v"
    before = through_files(learner.state())
    wider = learner.onboard("generalist", TABLE, FEATURES)
    assert same_state(before, learner.state())
    assert wider.version == "v+generalist"
    assert wider.arms.times[wider.arms.place("generalist")] == 120
    with pytest.raises(UserError, match="already known"):
        wider.onboard("generalist", TABLE, FEATURES)
    blank = replace(TABLE, quality=np.full(TABLE.quality.shape, np.nan))
    with pytest.raises(UserError, match="no quality is recorded"):
        learner.onboard("programmer", blank, FEATURES)


@each
def test_odd_tables_give_a_policy(config):
    quality = TABLE.quality.copy()
    quality[:, 0] = np.nan
    odd = [
        replace(TABLE, cost_usd=None, input_tokens=None, output_tokens=None),
        replace(TABLE, quality=np.ones(TABLE.quality.shape)),
        replace(TABLE, quality=quality),
        replace(TABLE, quality=np.full(quality.shape, np.nan)),
        TABLE.only(["linguist"]),
        TABLE.only(["linguist", "generalist"]),
        replace(TABLE, labels={}, label_name=""),
    ]
    for table in odd:
        learner = config().fit(table, FEATURES, np.random.default_rng(0))
        pairs = played(learner, 10, table.targets)
        assert len(taught(learner, pairs).arms) >= 1
        sweep = learner.decide_sweep(FEATURES, table.targets, np.random.default_rng(0))
        assert sweep.choices.shape[1] == 120
    one = config().fit(TABLE.take([0]), FEATURES.take([0]), np.random.default_rng(0))
    assert played(one, 3)
    with pytest.raises(UserError, match="no row to learn from"):
        config().fit(TABLE.take(np.arange(0)), FEATURES.take(np.arange(0)), np.random.default_rng(0))


def test_a_warm_start_reveals_one_outcome_per_row():
    learner = fresh(LinUCBConfig, warm=0.5)
    assert learner.arms.total == 60
    sparse = np.full(TABLE.quality.shape, np.nan)
    sparse[np.arange(120), np.arange(120) % 4] = 1.0
    logged = fresh(LinUCBConfig, warm=1.0, table=replace(TABLE, quality=sparse))
    assert logged.arms.times[:-1].tolist() == [30, 30, 30, 30], "a log is learned from as it is"


@each
def test_saved_state_is_read_strictly(config):
    state = fresh(config).state()
    for name in ("inverse", "seen", "scales"):
        broken = {key: values for key, values in state.arrays.items() if key != name}
        with pytest.raises(ArtefactError, match=name):
            fresh(config).from_state(replace(state, arrays=broken))


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (LinUCBConfig, {"warm": 1.5}),
        (LinUCBConfig, {"dims": 40}),
        (LinUCBConfig, {"alpha": -1.0}),
        (LinUCBConfig, {"ridge": 0.0}),
        (LinUCBConfig, {"discount": 0.0}),
        (ThompsonConfig, {"sigma": 0.0}),
        (EpsilonGreedyConfig, {"floor": 0.0}),
        (Exp3Config, {"gamma": 0.0}),
        (Exp3Config, {"cost_weight": -1.0}),
        (GreenServConfig, {"energy_weight": 1.0}),
        (GreenServConfig, {"edges": (3.0, 2.0)}),
    ],
)
def test_bad_settings_are_named(config, settings):
    with pytest.raises(ConfigError, match=f"{config.name}.{next(iter(settings))}"):
        config(**settings)


def test_a_table_without_costs_has_no_bills():
    bare = OutcomeTable(texts=TABLE.texts, targets=Catalogue.of(["a", "b", "c", "d"]), quality=TABLE.quality)
    learner = LinUCBConfig(cost_weight=1.0).fit(bare, Features(FEATURES.texts, FEATURES.embedding), np.random.default_rng(0))
    free = LinUCBConfig().fit(bare, Features(FEATURES.texts, FEATURES.embedding), np.random.default_rng(0))
    assert how_often(learner, bare.targets) == how_often(free, bare.targets)
    made = played(learner, 1, bare.targets)[0][0]
    assert made.ranked[0].predicted.cost_usd is None
