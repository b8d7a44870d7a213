"""coe: predicted categories, the general category, and the map of best quality within a budget in expectation."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from junctor.errors import ConfigError, NoTarget, UserError
from junctor.estimators.categories import Recogniser, crossed, doubt, of_labels, recogniser
from junctor.fitting import fit_policy, policy_config
from junctor.outcomes import OutcomeTable
from junctor.policies.coe import SAVINGS, CoEConfig, solve
from junctor.testing.planted import planted
from junctor.types import Catalogue, Constraints, Request

RNG = np.random.default_rng(0)
COST = np.array([1.0, 1.0, 1.0, 4.0])
SPECIALIST, OTHERWISE, GENERALIST = 0.9, 0.3, 0.6


def world(rows=600, seed=0, categories=3, blurred=0.0):
    """Categories as directions; expert k is good at category k alone, and a dear generalist is fair at everything.

    A share `blurred` of the queries lies between all categories: which one it is of cannot be told from its vector.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(categories, size=rows)
    centres = np.eye(categories, 16) * 4
    vectors = centres[kind] + 0.5 * rng.standard_normal((rows, 16))
    vague = rng.random(rows) < blurred
    vectors[vague] = 0.5 * rng.standard_normal((int(vague.sum()), 16))
    chance = np.full((rows, categories + 1), OTHERWISE)
    chance[np.arange(rows), kind] = SPECIALIST
    chance[:, -1] = GENERALIST
    quality = (rng.random(chance.shape) < chance).astype(float)
    names = [f"kind {k}" for k in kind.tolist()]
    ids = [*(f"expert {k}" for k in range(categories)), "generalist"]
    cost = np.tile(np.array([1.0] * categories + [4.0]) * 1e-3, (rows, 1))
    table = OutcomeTable(
        [f"q{i}" for i in range(rows)], Catalogue.of(ids), quality, cost, labels={"kind": names}, label_name="kind"
    )
    return table, table.features(vectors.astype(np.float32)), chance


def worth(policy, table, features, chance):
    """Mean true chance of what is chosen, the labels unseen."""
    choices, _ = policy.decide_many(features.without_labels(), table.targets, np.random.default_rng(0))
    return float(chance[np.arange(len(table)), choices].mean())


def test_planted_world_experts_by_category_beat_any_single_one():
    table, features, _ = world(seed=1)
    later, seen, chance = world(seed=2)
    policy = CoEConfig().fit(table, features, RNG)
    assert worth(policy, later, seen, chance) > 0.85
    single = policy_config("best-single").fit(table, features, RNG)
    assert worth(single, later, seen, chance) == pytest.approx(GENERALIST)
    # the key part removed: always in doubt, so that there is one category only
    blind = CoEConfig(doubt=0.0).fit(table, features, RNG)
    assert worth(blind, later, seen, chance) < 0.65


def test_planted_world_doubt_sends_vague_queries_to_the_generalist():
    table, features, _ = world(rows=1500, seed=3, blurred=0.5)
    later, seen, chance = world(rows=1500, seed=4, blurred=0.5)
    unsure = CoEConfig(doubt=0.6).fit(table, features, RNG)
    sure = CoEConfig(doubt=1.0, crossed=False).fit(table, features, RNG)
    assert worth(unsure, later, seen, chance) > worth(sure, later, seen, chance) + 0.03


def test_categories_are_estimated_as_they_are_predicted():
    # Labels that vectors say nothing about: by true category each expert looks like the right one, by predicted category none.
    table, features, _ = world(rows=400, seed=5)
    rng = np.random.default_rng(0)
    noise = table.features(rng.standard_normal(features.embedding.shape).astype(np.float32))
    honest, fooled = (CoEConfig(crossed=c, doubt=1.0).fit(table, noise, RNG) for c in (True, False))
    seen = np.unique(honest.maps[0][:3])
    assert [table.targets.ids[m] for m in seen] == ["generalist"]
    assert sorted(fooled.maps[0][:3].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(8))
def test_the_program_is_exact(seed):
    rng = np.random.default_rng(seed)
    quality, cost, shares = rng.random((4, 4)), rng.random((4, 4)), rng.dirichlet(np.ones(4))
    quality[0, 1] = np.nan
    for budget in rng.uniform(np.delete(cost, 1, 1).min(axis=1) @ shares, cost.max(axis=1) @ shares, 5):
        found = solve(shares, quality, cost, budget)
        maps = [m for m in product(range(4), repeat=4) if m[0] != 1]
        paid = np.array([shares @ cost[range(4), m] for m in maps])
        gained = np.array([shares @ quality[range(4), m] for m in maps])
        best = gained[paid <= budget].max()
        assert shares @ cost[range(4), found] <= budget * (1 + 1e-6)
        assert shares @ quality[range(4), found] == pytest.approx(best)


def test_budget_is_kept_in_expectation_and_the_knob_walks_from_dear_to_cheap():
    table, features = planted(600)
    free = CoEConfig().fit(table, features, RNG)
    budget = free.expected_cost / 3
    held = CoEConfig(budget_usd=budget).fit(table, features, RNG)
    assert held.expected_cost <= budget * (1 + 1e-6)
    choices, _ = held.decide_many(features, table.targets, RNG)
    paid = table.cost_usd[np.arange(len(table)), choices].mean()
    assert paid <= budget * 1.1
    sweep = free.decide_sweep(features, table.targets, RNG)
    assert sweep.settings.tolist() == list(SAVINGS)
    spent = np.take_along_axis(table.cost_usd, sweep.choices.T, axis=1).mean(axis=0)
    assert (np.diff(spent) <= 1e-12).all()
    assert spent[-1] == pytest.approx(table.cost_usd.mean(axis=0).min(), rel=0.02)


def test_a_budget_that_cannot_be_met_takes_the_cheapest_and_says_so():
    table, features = planted()
    policy = CoEConfig(budget_usd=1e-9).fit(table, features, RNG)
    made = policy.decide(Request(features=features.take([0])), table.targets, RNG)
    assert made.target == "linguist"
    assert "no map meets the budget" in made.reasons[0]


def test_a_requests_own_budget_is_hard():
    table, features = planted()
    policy = CoEConfig().fit(table, features, RNG)
    for limit, expected in ((0.00015, {"linguist"}), (0.001, {"linguist", "calculator", "programmer"})):
        made = policy.decide(
            Request(features=features.take([0]), constraints=Constraints(budget_usd=limit)), table.targets, RNG
        )
        assert {row.target for row in made.ranked} <= expected
    with pytest.raises(NoTarget, match="costs more than the budget"):
        policy.decide(Request(features=features.take([0]), constraints=Constraints(budget_usd=1e-9)), table.targets, RNG)


@pytest.mark.parametrize("classifier", ["logistic", "knn"])
def test_without_labels_or_costs_clusters_stand_in(classifier):
    table, features = planted()
    bare = replace(table, labels={}, label_name="", cost_usd=None)
    policy = CoEConfig(clusters=3, classifier=classifier).fit(bare, bare.features(features.embedding), RNG)
    assert policy.table.groups == ("cluster 0", "cluster 1", "cluster 2", "general")
    assert np.isnan(policy.decide_sweep(features, table.targets, RNG).settings).all()
    right = table.quality[np.arange(len(table)), policy.decide_many(features, table.targets, RNG)[0]].mean()
    assert right > 0.8


def test_degenerate_tables_are_survived():
    table, features = planted(40)
    flat = replace(table, quality=np.ones_like(table.quality))
    assert CoEConfig().fit(flat, features, RNG).decide_many(features, table.targets, RNG)[0].shape == (40,)
    alone = table.only(["calculator"])
    assert (CoEConfig().fit(alone, features, RNG).decide_many(features, alone.targets, RNG)[0] == 0).all()
    single = replace(table, labels={"topic": ["one"] * 40})
    assert CoEConfig().fit(single, features, RNG).table.groups == ("one", "general")
    with pytest.raises(UserError, match="no row to learn from"):
        CoEConfig().fit(table.take([]), features.take(np.arange(0)), RNG)
    with pytest.raises(UserError, match="no label 'nonsense'"):
        CoEConfig(label="nonsense").fit(table, features, RNG)
    with pytest.raises(ConfigError, match=r"coe\.doubt"):
        CoEConfig(doubt=2.0)


def test_doubt_is_zero_when_sure_and_one_when_even():
    assert doubt(np.array([[30.0, -30.0, -30.0], [0.0, 0.0, 0.0], [-9.0, -9.0, -9.0]])) == pytest.approx([0, 1, 1], abs=1e-6)
    assert doubt(np.zeros((1, 1))).tolist() == [0.0]


@pytest.mark.parametrize("kind", ["logistic", "knn", "centroid"])
def test_recognisers_round_trip_and_cross_fitted_scores_are_not_the_fitted_ones(kind):
    table, features = planted(120)
    names, rows = of_labels(table)
    made = recogniser(kind, features.embedding, rows, len(names))
    again = Recogniser.from_state(made.state("r"), "r")
    assert np.array_equal(made.scores(features.embedding), again.scores(features.embedding))
    fresh = crossed(kind, features.embedding, rows, len(names), np.random.default_rng(0))
    assert (fresh.argmax(axis=1) == rows).mean() > 0.9
    # a label that vectors say nothing about is learned by heart, but cross-fitted scores are not fooled
    noise = np.random.default_rng(1).standard_normal((120, 64)).astype(np.float32)
    blind = crossed(kind, noise, rows, len(names), np.random.default_rng(0), alpha=0.1, neighbours=1)
    by_heart = recogniser(kind, noise, rows, len(names), alpha=0.1, neighbours=1).scores(noise)
    assert (by_heart.argmax(axis=1) == rows).mean() > (blind.argmax(axis=1) == rows).mean() + 0.15


def test_the_threshold_is_tuned_on_validation_rows():
    table, features = planted(300)
    fit = fit_policy(CoEConfig(), table, features, np.arange(200), np.arange(200, 300), np.random.default_rng(0))
    assert [settings["doubt"] for settings, _ in fit.tried] == [0.4, 0.7, 1.0]
