"""What policies under budgets share: settlement, what can be paid, the linear program and the walk along a stream."""

from __future__ import annotations

import numpy as np
import pytest

from junctor import registry
from junctor.engine import Alias, Engine
from junctor.errors import ArtefactError, ConfigError, NoTarget
from junctor.policies.pricing import dual_prices, optimum, walk
from junctor.policy import State
from junctor.providers.scripted import ScriptedProvider, Step
from junctor.testing import check_learner, check_policy, planted
from junctor.testing.planted import requests, through_files
from junctor.types import Catalogue, Message, Outcome, Request, Target

KEYS = ("port", "greedy-feasible", "lp-offline", "batch-split")
BUDGETS = {"linguist": 0.01, "calculator": 0.01, "programmer": 0.01, "generalist": 0.2}
SMALL = {"port": {"horizon": 1000}, "batch-split": {"batch": 20, "horizon": 200}, "lp-offline": {"horizon": 200}}
TABLE, FEATURES = planted()


def config(key, **settings):
    return registry.load("policy", key)(**{**SMALL.get(key, {}), **settings})


def fitted(key, **settings):
    return config(key, **settings).fit(TABLE, FEATURES, np.random.default_rng(0))


def played(policy, rows=range(60), rng=None):
    rng = np.random.default_rng(0) if rng is None else rng
    return [policy.decide(request, TABLE.targets, rng) for request in requests(TABLE, FEATURES, rows)]


def settle(policy, made, row):
    policy.learn(made, TABLE.outcome(row, TABLE.targets.position(made.target)))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("settings", [{"budgets": BUDGETS}, {"budgets": {"generalist": 0.05}, "check": False}])
def test_it_conforms_under_budgets(key, settings):
    check_policy(config(key, **settings))


@pytest.mark.parametrize("key", KEYS)
def test_it_learns_late_twice_and_out_of_order(key):
    check_learner(lambda: fitted(key, budgets=BUDGETS))


async def test_served_it_pays_from_its_budget_whether_or_not_anybody_judges_the_answer():
    """And where another target than the intended one answers, that one's budget is charged."""
    policy = fitted("greedy-feasible", budgets={"linguist": 0.0003, "calculator": 1.0}, estimator="label-table")
    script = ScriptedProvider({"linguist": Step(cost_usd=0.0001), "calculator": Step(cost_usd=0.0002), "*": Step(status=503)})
    targets = Catalogue([Target(id=t.id, provider="p", price=t.price) for t in TABLE.targets])
    engine = Engine(targets, {"p": script}, {"auto": Alias(name="auto", policy=policy, targets=targets)})
    asked = Request(text="say it in French", messages=(Message("user", "say it in French"),), labels={"topic": "translation"})
    spent = []
    for _ in range(4):
        answer = await engine.complete(asked, "auto")
        spent.append((answer.decision.target, answer.target.id))
    paid = dict(zip(policy.targets, policy.spent.tolist(), strict=True))
    assert {given for _, given in spent} <= {"linguist", "calculator"}
    for name, cost in (("linguist", 0.0001), ("calculator", 0.0002)):
        assert paid[name] == pytest.approx(cost * sum(given == name for _, given in spent))
    assert paid["generalist"] == 0.0
    assert any(meant != given for meant, given in spent), "the dear target is down: others answered for it"


@pytest.mark.parametrize("key", KEYS)
def test_without_budgets_it_is_the_plug_in_rule(key):
    policy = fitted(key)
    plain = policy.plug_in
    for request in requests(TABLE, FEATURES, range(40)):
        one, other = (p.decide(request, TABLE.targets, np.random.default_rng(0)) for p in (policy, plain))
        assert one.target == other.target
    assert len(policy.decide_sweep(FEATURES, TABLE.targets, np.random.default_rng(0)).settings) > 10


@pytest.mark.parametrize("key", KEYS)
def test_bills_are_paid_once_and_budgets_are_kept(key):
    policy = fitted(key, budgets=BUDGETS)
    rng = np.random.default_rng(0)
    bills = dict.fromkeys(BUDGETS, 0.0)
    for row, request in enumerate(requests(TABLE, FEATURES, range(200))):
        try:
            made = policy.decide(request, TABLE.targets, rng)
        except NoTarget:
            continue
        settle(policy, made, row)
        settle(policy, made, row)
        bills[made.target] += TABLE.outcome(row, TABLE.targets.position(made.target)).cost_usd
        if row % 50 == 0:
            policy = type(policy).from_state(through_files(policy.state()))
    assert policy.spent == pytest.approx([bills[id_] for id_ in policy.targets])
    for id_, bill in bills.items():
        assert bill <= BUDGETS[id_] + 0.02, "one call may turn out dearer than predicted, no more"


def test_an_outcome_without_a_cost_settles_nothing_and_the_bill_may_come_later():
    policy = fitted("greedy-feasible", budgets=BUDGETS)
    made = played(policy, range(1))[0]
    policy.learn(made, Outcome(quality=1.0))
    assert not policy.spent.any()
    policy.learn(made, Outcome(cost_usd=0.004))
    policy.learn(made, Outcome(cost_usd=0.004))
    assert policy.spent.sum() == 0.004


def test_what_cannot_be_paid_is_skipped_and_without_the_check_refused():
    wants = {"linguist": 0.0, "calculator": 0.0, "programmer": 0.0, "generalist": 1.0}
    for made in played(fitted("greedy-feasible", budgets=wants), range(10)):
        assert made.target == "generalist"
    poor = {"generalist": 0.001}
    assert all(made.target != "generalist" for made in played(fitted("greedy-feasible", budgets=poor), range(20)))
    plain = played(fitted("greedy-feasible"), range(20))
    row = next(i for i, made in enumerate(plain) if made.target == "generalist")
    with pytest.raises(NoTarget) as refused:
        played(fitted("greedy-feasible", budgets={"generalist": 0.0}, check=False), range(row, row + 1))
    assert "budget is left" in refused.value.refusals["generalist"]
    assert "its budget is gone" in refused.value.refusals["linguist"]
    nothing = dict.fromkeys(BUDGETS, 0.0)
    with pytest.raises(NoTarget, match="no target can be paid"):
        played(fitted("greedy-feasible", budgets=nothing), range(1))
    with pytest.raises(NoTarget, match="for 240 of 240 requests"):
        fitted("greedy-feasible", budgets=nothing).decide_many(FEATURES, TABLE.targets, np.random.default_rng(0))


def test_budgets_are_checked():
    with pytest.raises(ConfigError, match=r"port\.budgets\.linguist"):
        config("port", budgets={"linguist": -1.0})
    with pytest.raises(ConfigError, match=r"greedy-feasible\.budgets\.nobody"):
        fitted("greedy-feasible", budgets={"nobody": 1.0})


def test_damaged_state_is_refused():
    state = fitted("port", budgets=BUDGETS).state()
    for name in ("spent", "prices", "settled", "window"):
        arrays = {key: values for key, values in state.arrays.items() if key != name}
        with pytest.raises(ArtefactError, match=name):
            type(fitted("port")).from_state(State(state.config, arrays))
    with pytest.raises(ArtefactError, match="negative"):
        type(fitted("port")).from_state(State(state.config, {**state.arrays, "spent": state.arrays["spent"] - 1.0}))


def test_a_newcomer_has_no_budget_and_no_price():
    known = TABLE.only(TABLE.targets.ids[:3])
    policy = config("port", budgets={"linguist": 0.1}).fit(known, FEATURES, np.random.default_rng(0))
    wider = policy.onboard("generalist", TABLE, FEATURES)
    assert wider.targets == TABLE.targets.ids
    assert wider.remaining.tolist() == [0.1, np.inf, np.inf, np.inf]


def test_a_target_without_any_cost_can_be_chosen_while_its_budget_lasts():
    from dataclasses import replace

    bare = replace(TABLE, cost_usd=None, targets=Catalogue.of(list(TABLE.targets.ids)))
    policy = config("greedy-feasible", budgets={"generalist": 0.01}).fit(bare, FEATURES, np.random.default_rng(0))
    made = next(m for m in _all(policy, bare) if m.target == "generalist")
    policy.learn(made, Outcome(cost_usd=0.02))
    assert all(m.target != "generalist" for m in _all(policy, bare))


def _all(policy, table):
    return [policy.decide(r, table.targets, np.random.default_rng(0)) for r in requests(table, FEATURES, range(60))]


def test_the_linear_program_is_exact_on_a_small_one():
    quality, cost = np.array([[1.0, 0.9], [1.0, 0.1], [0.5, 0.4]]), np.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]) * 1e-6
    found = optimum(quality, cost, np.array([2.0, 1.0]) * 1e-6)
    assert found.value == pytest.approx(1.9), "the dear target where the cheap one fails, the cheap one where it does as well"
    assert found.shares.round(6).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert (found.prices > 0).all()
    assert (found.scores(quality, cost) > -np.inf).any(axis=1).tolist()[:2] == [True, True]
    free = optimum(quality, cost, np.array([np.inf, np.inf]))
    assert free.value == pytest.approx(2.5)
    assert free.prices.tolist() == [0, 0]


def test_the_linear_program_leaves_unrecorded_cells_closed():
    quality, cost = np.array([[np.nan, 0.2], [0.9, 0.1]]), np.array([[0.0, 1.0], [np.nan, 1.0]])
    found = optimum(quality, cost, np.array([5.0, 5.0]))
    assert found.value == pytest.approx(0.3)
    assert optimum(np.full((2, 2), np.nan), cost, np.ones(2)).value == 0.0


def test_no_policy_beats_the_program_that_knows_the_truth():
    budgets = np.array([0.004, 0.006, 0.01, 0.3])
    bound = optimum(TABLE.quality, TABLE.cost_usd, budgets).value
    for key in KEYS:
        for check in (False, True):
            chosen = fitted(key).allocate(
                TABLE.quality, TABLE.cost_usd, budgets, np.random.default_rng(1), check=check, billed=TABLE.cost_usd
            )
            kept = chosen >= 0
            got = TABLE.quality[np.flatnonzero(kept), chosen[kept]].sum()
            paid = np.bincount(chosen[kept], TABLE.cost_usd[np.flatnonzero(kept), chosen[kept]], minlength=4)
            assert got <= bound + 1e-6
            assert (paid <= budgets + 1e-12).all()


def test_the_walk_loses_what_turns_out_dearer_than_what_is_left():
    scores, cost = np.array([[2.0, 1.0]] * 3), np.array([[1.0, 1.0]] * 3)
    billed = np.array([[1.0, 1.0], [3.0, 1.0], [1.0, 1.0]])
    budgets = np.array([2.0, 1.0])
    assert walk(scores, cost, budgets.copy(), billed, check=False).tolist() == [0, -1, 0]
    tight = np.array([1.0, 1.0])
    assert walk(scores, cost, tight.copy(), billed, check=False).tolist() == [0, -1, -1]
    assert walk(scores, cost, tight, billed, check=True).tolist() == [0, 1, -1]
    assert tight.tolist() == [0.0, 0.0]
    closed = np.where(np.arange(2) == 0, scores, -np.inf)
    assert walk(closed, cost, np.array([0.0, 9.0]), billed, check=True).tolist() == [-1, -1, -1]


def test_dual_prices_charge_the_scarce_target_and_never_one_without_a_budget():
    quality, cost = np.tile([0.9, 0.5], (50, 1)), np.tile([1.0, 1.0], (50, 1))
    scarce = dual_prices(quality, cost, np.array([10.0, 40.0]), 1.0, 1.0)
    assert scarce[0] > scarce[1]
    assert dual_prices(quality, cost, np.array([10.0, np.inf]), 1.0, 1.0)[1] == 0.0
