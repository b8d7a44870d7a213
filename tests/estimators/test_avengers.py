"""avengers: a mixture worked out by hand, and a world of many noisy regions where nearest clusters beat everything cheap."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators.avengers import Avengers, AvengersConfig
from junctor.estimators.measured import Columns

from .regions import regions
from .tables import NAN, at, seen, table

RNG = np.random.default_rng(0)


def made(accuracy, angles=(0.0, 60.0, 180.0), **settings) -> Avengers:
    accuracy = np.array(accuracy, dtype=np.float64)
    targets = tuple("abcd"[: accuracy.shape[1]])
    return Avengers(AvengersConfig(**settings), Columns(targets, ("quality",)), at(*angles), accuracy, np.zeros(accuracy.shape))


def specialists(seed: int) -> list[list[float]]:
    """Eight regions, five targets; in each region one of them is good."""
    rng = np.random.default_rng(seed)
    chance = 0.3 + 0.1 * rng.random((8, 5))
    chance[np.arange(8), np.arange(8) % 5] = 0.9
    return chance.tolist()


def test_the_two_nearest_clusters_are_mixed_by_hand():
    found = made([[0.9, 0.1], [0.4, 0.6], [0.0, 0.0]], nearest=2, beta=2.0).predict(seen(at(0)))
    near = np.exp(2.0 * np.cos(np.radians([0.0, 60.0])))
    weight = near / near.sum()
    low, high = weight @ [0.1, 0.4], weight @ [0.9, 0.6]
    relative = np.array([weight[0], weight[1]])
    assert found.quality == pytest.approx(low + relative * (high - low))


def test_scaling_within_a_cluster_makes_a_small_difference_count_as_much_as_a_large_one():
    accuracy = [[0.50, 0.52], [0.60, 0.55]]
    near = seen(at(29.9))
    scaled = made(accuracy, (0.0, 60.0), nearest=2, beta=0.5).predict(near).quality
    plain = made(accuracy, (0.0, 60.0), nearest=2, beta=0.5, scaling="none").predict(near).quality
    assert scaled.argmax() == 1
    assert plain.argmax() == 0


def test_one_cluster_is_its_table_and_no_sharpness_is_the_plain_mean():
    accuracy = [[0.9, 0.1], [0.4, 0.6], [0.0, 0.2]]
    assert made(accuracy, nearest=1).predict(seen(at(170))).quality.tolist() == [0.0, 0.2]
    flat = made(accuracy, beta=0.0, scaling="none").predict(seen(at(170))).quality
    assert flat == pytest.approx(np.mean(accuracy, axis=0))


def test_clusters_in_which_all_targets_tie_and_targets_never_tried():
    found = made([[0.5, 0.5, NAN]] * 3).predict(seen(at(10))).quality
    assert found[:2] == pytest.approx([0.5, 0.5])
    assert np.isnan(found[2])
    alone = made([[0.3], [0.6], [0.9]], nearest=1).predict(seen(at(0))).quality
    assert alone == pytest.approx([0.3])


def test_it_beats_the_cheap_bars_where_regions_are_many_and_noisy_and_not_without_its_clusters():
    worlds = [regions(specialists(seed), rows=400, noise=2.0, seed=seed) for seed in range(2)]
    won = np.mean([world.quality("avengers", clusters=8) for world in worlds])
    assert won > np.mean([world.single() for world in worlds]) + 0.25
    for name, settings in (("knn", {"k": 20}), ("linear", {"alpha": 3.0})):
        assert won > np.mean([world.quality(name, **settings) for world in worlds]) + 0.02
    without = np.mean([world.quality("avengers", clusters=1) for world in worlds])
    assert without == pytest.approx(np.mean([world.single() for world in worlds]))


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no row to learn from"):
        AvengersConfig().fit(table(np.empty((0, 1))), seen(np.empty((0, 2), np.float32)), RNG)
    for settings in ({"clusters": 0}, {"nearest": 0}, {"beta": -1.0}, {"shrinkage": -1.0}, {"scaling": "max"}):
        with pytest.raises(ConfigError, match=r"avengers\."):
            AvengersConfig(**settings)


def test_the_grid_starts_with_few_clusters_and_stops_where_they_would_be_empty():
    assert [one.clusters for one in AvengersConfig().candidates(330)] == [8, 16, 32]
    assert [one.clusters for one in AvengersConfig().candidates(3)] == [8]
