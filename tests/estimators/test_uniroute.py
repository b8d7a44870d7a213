"""uniroute: a cost that does not depend on the query, a learned cluster map, and new targets from a few answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators.uniroute import UniRouteConfig
from junctor.testing import planted

from .regions import Split, regions, split
from .tables import NAN, at, seen, table

RNG = np.random.default_rng(0)


def test_cost_is_one_number_per_target_and_quality_is_per_cluster():
    rows = table([[1, 0]] * 2 + [[0, 1]] * 2, cost=[[1, 5], [3, 5], [5, 5], [7, NAN]])
    fitted = UniRouteConfig(clusters=2, shrinkage=0.0).fit(rows, seen(at(0, 5, 90, 95)), RNG)
    found = fitted.predict_many(seen(at(1, 91)))
    assert found.quality.tolist() == [[1, 0], [0, 1]]
    assert found.cost_usd.tolist() == [[4, 5], [4, 5]]
    assert found.latency_s is None


def test_an_empty_cluster_takes_the_targets_mean():
    rows = table([[1, 1], [1, 0], [0, NAN], [1, NAN]])
    fitted = UniRouteConfig(clusters=2, shrinkage=2.0).fit(rows, seen(at(0, 5, 90, 95)), RNG)
    assert fitted.predict(seen(at(92))).quality[1] == pytest.approx(0.5)


def new_specialist(seed: int) -> Split:
    """Four known targets; the fifth, which is the last, is good in half of the eight regions and bad in the others."""
    rng = np.random.default_rng(seed)
    chance = 0.3 + 0.1 * rng.random((8, 5))
    chance[np.arange(8), np.arange(8) % 4] = 0.65
    chance[:, -1] = 0.2
    chance[::2, -1] = 0.9
    return regions(chance.tolist(), rows=600, noise=1.7, seed=seed)


def onboarded(world: Split, name: str, count: int, **settings) -> float:
    """Quality with the last target known from `count` random rows only."""
    *known, new = world.table.targets.ids
    policy = replace(world, table=world.table.only(known)).fit(name, **settings)
    rows = np.random.default_rng(7).permutation(len(world.table))[:count]
    return world.reached(policy.onboard(new, world.table.take(rows), world.features.take(rows)))


def test_an_unseen_target_is_better_known_from_few_rows_than_by_nearest_neighbours():
    worlds = [new_specialist(seed) for seed in range(3)]
    ours = np.mean([onboarded(world, "uniroute", 80, clusters=8) for world in worlds])
    knn = max(np.mean([onboarded(world, "knn", 80, k=k) for world in worlds]) for k in (10, 20, 40))
    ridge = np.mean([onboarded(world, "linear", 80, alpha=1.0) for world in worlds])
    before = np.mean([replace(w, table=w.table.only(w.table.targets.ids[:-1])).quality("knn", k=20) for w in worlds])
    assert ours > max(knn, ridge) + 0.02
    assert ours > before + 0.05
    # without its clusters the newcomer is good or bad for all queries alike
    assert np.mean([onboarded(world, "uniroute", 80, clusters=1) for world in worlds]) < knn


def quiet_direction(seed: int, rows: int = 800) -> Split:
    """A loud direction that says nothing of the targets, and a quiet one that decides between the first two of three."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows + 600, 16))
    x[:, 0] = 3.0 * np.sign(x[:, 0]) * (1.0 + 0.3 * rng.random(len(x)))
    x[:, 2:] *= 0.5
    side = 0.4 * np.tanh(3.0 * x[:, 1])
    turned, _ = np.linalg.qr(rng.standard_normal((16, 16)))
    return split(np.stack([0.5 + side, 0.5 - side, np.full(len(x), 0.55)], axis=1), x @ turned, rows, seed=seed)


def test_the_learned_map_finds_what_the_nearest_centre_does_not():
    worlds = [quiet_direction(seed) for seed in range(2)]
    learned = np.mean([world.quality("uniroute", clusters=10, map="learned") for world in worlds])
    nearest = np.mean([world.quality("uniroute", clusters=10) for world in worlds])
    assert learned > nearest + 0.02
    assert learned > np.mean([world.single() for world in worlds]) + 0.2


def test_the_learned_map_lowers_its_loss_and_is_saved_with_it():
    rows, features = planted()
    fitted = UniRouteConfig(clusters=5, map="learned").fit(rows, features, RNG)
    assert fitted.losses[-1] < fitted.losses[0]
    again = type(fitted).from_state(fitted.state())
    assert again.losses == fitted.losses
    assert np.array_equal(again.predict_many(features).quality, fitted.predict_many(features).quality)
    one = fitted.predict(features.take([3])).quality
    assert one == pytest.approx(fitted.predict_many(features).quality[3])


def test_the_learned_map_also_takes_newcomers_and_gaps():
    rows, features = planted()
    quality = rows.quality.copy()
    quality[::2, 0] = NAN
    quality[:, 1] = NAN
    *known, new = rows.targets.ids
    sparse = replace(rows, quality=quality)
    fitted = UniRouteConfig(clusters=5, map="learned").fit(sparse.only(known), features, RNG)
    found = fitted.onboard(new, sparse, features).predict_many(features).quality
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(np.delete(found, 1, axis=1)).all()


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no row to learn from"):
        UniRouteConfig().fit(table(np.empty((0, 1))), seen(np.empty((0, 2), np.float32)), RNG)
    for settings in ({"clusters": 0}, {"shrinkage": -1.0}, {"map": "mlp"}):
        with pytest.raises(ConfigError, match=r"uniroute\."):
            UniRouteConfig(**settings)
