"""The ordinary bench judges plans by their replay: every call billed, one figure per setting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.bench.protocol import run_bench
from junctor.bench.references import replayed
from junctor.fitting import policy_config, validation_score
from junctor.policy import Replay
from junctor.testing.planted import planted

PLANS = ["frugalgpt", "automix", "routerbench-cascade", "acar"]


def board(table, **more):
    found = run_bench(table, policies=PLANS, seeds=1, resamples=20, timing_calls=0, encoder="lexical", **more)
    return {(row.policy, row.metric): row.value for row in found.rows}


def test_plans_are_judged_by_all_their_calls():
    """A curve where there is a knob, one point where there is none; the mean cost is above the first call's."""
    table, _ = planted(240)
    found = board(table)
    for name in PLANS:
        assert 0 <= found[name, "quality"] <= 1
        assert found[name, "cost_usd"] > 0
    assert found["routerbench-cascade", "aiq"] > 0
    assert found.get(("acar", "aiq")) is None
    cheapest = found["cheapest", "cost_usd"]
    assert found["acar", "cost_usd"] > 3 * 0.9 * cheapest


@pytest.mark.parametrize("targets", [2, 4])
@pytest.mark.slow
def test_plans_are_judged_without_costs(targets):
    """Two targets without costs are priced by share; more of them by quality alone."""
    table, _ = planted(240)
    ids = table.targets.ids[-2:] if targets == 2 else table.targets.ids
    found = board(replace(table, cost_usd=None).only(ids))
    assert all(0 <= found[name, "quality"] <= 1 for name in PLANS)


def test_a_replay_without_costs_is_its_first_setting():
    """There is nothing to trade."""
    replay = Replay(np.array([0.0, 1.0]), np.array([[1.0], [0.0]]), None, np.ones((2, 1)))
    assert replayed(replay).quality.tolist() == [[1.0]]
    assert not replayed(replay).knob
    priced = replace(replay, cost_usd=np.array([[1.0], [0.0]]))
    assert replayed(priced, by_share=True).strong is priced.cost_usd
    assert replayed(priced).strong is None


def test_plans_are_tuned_by_all_their_calls():
    """A cascade whose judge is never wrong scores higher on validation rows than one whose judge tosses a coin."""
    table, features = planted(240)

    def score(epsilon):
        policy = policy_config("routerbench-cascade", {"epsilon": epsilon}).fit(table, features, np.random.default_rng(0))
        return validation_score(policy, table, features, np.random.default_rng(0))

    assert score(0.0) > score(0.5) + 0.1
