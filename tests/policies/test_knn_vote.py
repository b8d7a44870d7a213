"""knn-vote: ballots by hand, ties, the knob that votes anew, and a world where neighbours must be asked."""

from __future__ import annotations

import numpy as np
import pytest
from tests.estimators.regions import regions
from tests.estimators.tables import NAN, at, seen, table

from junctor.errors import ConfigError, UserError
from junctor.policies.knn_vote import KNNVoteConfig
from junctor.types import Catalogue, Constraints, Request

RNG = np.random.default_rng(0)


def asked(vectors, **constraints) -> Request:
    return Request(id="r", text="", features=seen(vectors), constraints=Constraints(**constraints))


def test_neighbours_vote_by_hand():
    # at cost weight 0.5 and costs of 1 and 2 (scale 2) the rows vote a, a (as good and cheaper), b, and a (neither is right)
    rows = table([[1, 0], [1, 1], [0, 1], [0, 0]], cost=[[1, 2]] * 4)
    policy = KNNVoteConfig(k=4, cost_weight=0.5).fit(rows, seen(at(0, 10, 20, 30)), RNG)
    made = policy.decide(asked(at(5)), rows.targets, RNG)
    assert [(row.target, row.score) for row in made.ranked] == [("a", 0.75), ("b", 0.25)]
    assert (
        KNNVoteConfig(k=1, cost_weight=0.5)
        .fit(rows, seen(at(0, 10, 20, 30)), RNG)
        .decide(asked(at(21)), rows.targets, RNG)
        .target
        == "b"
    )


def test_targets_that_tie_share_the_vote_and_the_cheaper_goes_first():
    rows = table([[1, 1, 0]], cost=[[2, 1, 1]])
    made = KNNVoteConfig(k=1, cost_weight=0.0).fit(rows, seen(at(0)), RNG).decide(asked(at(0)), rows.targets, RNG)
    assert made.target == "b"
    assert [row.score for row in made.ranked] == [0.5, 0.5, 0.0]


def test_the_sweep_votes_anew_at_every_cost_weight():
    rows = table([[0.5, 1.0]] * 4, cost=[[1.0, 2.0]] * 4)
    policy = KNNVoteConfig(k=2).fit(rows, seen(at(0, 10, 20, 30)), RNG)
    sweep = policy.decide_sweep(seen(at(5)), rows.targets, RNG)
    assert sweep.choices[:, 0].tolist() == [1 if weight < 1.0 else 0 for weight in sweep.settings]


def test_what_was_not_tried_has_no_vote():
    rows = table([[NAN, 0.0], [NAN, 0.0], [1.0, NAN]])
    policy = KNNVoteConfig(k=2, cost_weight=0.0).fit(rows, seen(at(0, 1, 90)), RNG)
    assert policy.decide(asked(at(0)), rows.targets, RNG).target == "b"
    assert policy.decide(asked(at(90)), rows.targets, RNG).ranked[0].score == 0.5


def test_a_callers_budget_is_kept():
    rows = table([[0, 1]] * 3, cost=[[1, 2]] * 3)
    policy = KNNVoteConfig(k=3, cost_weight=0.0).fit(rows, seen(at(0, 1, 2)), RNG)
    assert policy.decide(asked(at(0)), rows.targets, RNG).target == "b"
    assert policy.decide(asked(at(0), budget_usd=1.5), rows.targets, RNG).target == "a"
    with pytest.raises(Exception, match="no target can be chosen") as refused:
        policy.decide(asked(at(0), budget_usd=0.5), rows.targets, RNG)
    assert set(refused.value.refusals) == {"a", "b"}


def test_a_newcomer_is_voted_for():
    rows = table([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]])
    policy = KNNVoteConfig(k=2, cost_weight=0.0).fit(rows.only(["a", "b"]), seen(at(0, 5, 90, 95)), RNG)
    wider = policy.onboard("c", rows, seen(at(0, 5, 90, 95)))
    assert wider.decide(asked(at(94)), rows.targets, RNG).target == "c"
    assert wider.decide(asked(at(2)), rows.targets, RNG).target == "a"


def test_it_beats_the_best_single_target_where_queries_differ_and_not_when_everyone_votes():
    rng = np.random.default_rng(0)
    chance = 0.3 + 0.1 * rng.random((8, 5))
    chance[np.arange(8), np.arange(8) % 5] = 0.9
    world = regions(chance.tolist(), rows=400, noise=1.5)
    ours = world.quality("knn-vote", k=30, cost_weight=0.0)
    assert ours > world.single() + 0.25
    assert ours > world.quality("linear", alpha=3.0) + 0.03
    assert world.quality("knn-vote", k=400, cost_weight=0.0) < world.single() + 0.05


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no outcome to learn from"):
        KNNVoteConfig().fit(table([[NAN]]), seen(at(0)), RNG)
    rows = table([[1.0]])
    with pytest.raises(Exception, match="no target here was fitted"):
        KNNVoteConfig().fit(rows, seen(at(0)), RNG).decide(asked(at(0)), Catalogue.of(["z"]), RNG)
    for settings in ({"k": 0}, {"cost_weight": -1.0}, {"fallbacks": -1}):
        with pytest.raises(ConfigError, match=r"knn-vote\."):
            KNNVoteConfig(**settings)
