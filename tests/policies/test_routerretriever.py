"""routerretriever: pilots by hand, ties, and a world where each winner has two homes far apart."""

from __future__ import annotations

import numpy as np
import pytest
from tests.estimators.regions import Split, regions, unit
from tests.estimators.tables import NAN, at, seen, table

from junctor.errors import ConfigError, TableError, UserError
from junctor.policies.routerretriever import RouterRetrieverConfig, centroids, wins

RNG = np.random.default_rng(0)


def test_wins_are_shared_and_queries_on_which_all_tie_say_nothing():
    quality = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, NAN], [NAN, 0.3, 0.5], [NAN, NAN, NAN]])
    assert wins(quality, "share").tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert wins(quality, "first").tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_a_pilot_is_the_centroid_of_a_groups_wins():
    pilots, owner = centroids(at(0, 20, 90, 180), np.array([[1, 0], [1, 0], [0, 1], [1, 0]]), ["x", "x", "x", "y"], "share")
    assert owner.tolist() == [0, 1, 0]
    assert pilots == pytest.approx(at(10, 90, 180), abs=1e-6)


def test_the_most_similar_pilot_decides_and_cost_is_taken_off():
    rows = table([[1, 0]] * 2 + [[0, 1]] * 2, cost=[[1, 2]] * 4, labels=["x", "x", "y", "y"])
    policy = RouterRetrieverConfig().fit(rows, seen(at(0, 10, 80, 90)), RNG)
    choices, _ = policy.decide_many(seen(at(3, 50, 88)), rows.targets, RNG)
    assert choices.tolist() == [0, 1, 1]
    sweep = policy.decide_sweep(seen(at(88)), rows.targets, RNG)
    assert sweep.choices[0, 0] == 1
    assert sweep.choices[-1, 0] == 0


def two_homes(seed: int) -> Split:
    """Each of three targets is good in two regions that lie opposite each other; a fourth is fair everywhere."""
    rng = np.random.default_rng(seed)
    axes = unit(rng.standard_normal((3, 32)))
    good = [[0.85 if j == t else 0.2 for j in range(3)] + [0.5] for t in range(3)]
    centres, names = np.vstack([axes, -axes]), ["one"] * 3 + ["other"] * 3
    return regions([*good, *good], rows=300, noise=1.2, centres=centres, names=names, seed=seed)


def test_it_beats_the_cheap_bars_where_winners_have_two_homes_and_not_without_its_groups():
    worlds = [two_homes(seed) for seed in range(3)]

    def quality(name: str, **settings) -> float:
        return float(np.mean([world.quality(name, **settings) for world in worlds]))

    ours = quality("routerretriever", pool="max")
    assert ours > np.mean([world.single() for world in worlds]) + 0.1
    assert ours > quality("linear", alpha=3.0) + 0.1
    assert quality("routerretriever", pool="max", groups="none") < ours - 0.1


def test_nothing_to_tell_targets_apart_is_no_accident():
    rows = table([[1, 1], [0, 0]], cost=[[2, 1]] * 2)
    policy = RouterRetrieverConfig().fit(rows, seen(at(0, 90)), RNG)
    choices, _ = policy.decide_many(seen(at(0, 45)), rows.targets, RNG)
    assert choices.tolist() == [1, 1]


def test_a_newcomer_wins_against_those_whom_the_rows_record():
    rows = table([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    policy = RouterRetrieverConfig().fit(rows.only(["a", "b"]), seen(at(0, 90, 180)), RNG)
    wider = policy.onboard("c", rows, seen(at(0, 90, 180)))
    assert wider.decide_many(seen(at(170)), rows.targets, RNG)[0].tolist() == [2]
    with pytest.raises(TableError, match="no other target to compare with"):
        policy.onboard("c", rows.only(["c"]), seen(at(0, 90, 180)))


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no outcome to learn from"):
        RouterRetrieverConfig().fit(table([[NAN]]), seen(at(0)), RNG)
    for settings in ({"pool": "min"}, {"groups": "x"}, {"ties": "all"}, {"cost_weight": -1.0}, {"fallbacks": -1}):
        with pytest.raises(ConfigError, match=r"routerretriever\."):
            RouterRetrieverConfig(**settings)
