"""routerbench-mlp: a world that only a network bends to, one product for all targets, and a loss that falls."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators.routerbench_mlp import RouterBenchMLPConfig
from junctor.testing import planted

from .regions import Split, split
from .tables import NAN, seen, table

RNG = np.random.default_rng(0)


def crossed(seed: int, rows: int = 1500, dim: int = 12) -> Split:
    """Which of two targets is right hangs on the sign of a product: no line tells, and neighbours need far more rows."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows + 600, dim))
    side = 0.4 * np.sign(x[:, 0] * x[:, 1])
    return split(np.stack([0.5 + side, 0.5 - side, np.full(len(x), 0.55)], axis=1), x, rows, seed=seed)


def test_it_beats_the_cheap_bars_where_skills_cross_and_not_with_one_hidden_unit():
    world = crossed(0)
    ours = world.quality("routerbench-mlp", steps=400)
    bars = (("knn", {"k": 10}), ("knn", {"k": 40}), ("linear", {"alpha": 3.0}), ("kmeans-table", {"clusters": 20}))
    assert ours > max(world.quality(name, **settings) for name, settings in bars) + 0.05
    assert ours > world.single() + 0.15
    assert world.quality("routerbench-mlp", hidden=1, steps=400) < world.quality("knn", k=40)


def test_it_predicts_as_scikit_learn_does():
    from sklearn.neural_network import MLPRegressor

    world = crossed(1, rows=200)
    config = RouterBenchMLPConfig(hidden=20, steps=100)
    fitted = config.fit(world.table, world.features, np.random.default_rng(3))
    seed = int(np.random.default_rng(3).integers(2**31))
    y = world.table.quality[:, 0]
    model = MLPRegressor(hidden_layer_sizes=(20,), max_iter=100, batch_size=200, random_state=seed, learning_rate_init=1e-3)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(world.features.embedding, (y - y.mean()).astype(np.float32))
    wanted = np.clip(model.predict(world.seen.embedding) + y.mean(), 0.0, 1.0)
    assert fitted.predict_many(world.seen).quality[:, 0] == pytest.approx(wanted, abs=1e-5)


def test_the_loss_falls_and_cost_is_one_number_per_target():
    rows, features = planted(200)
    fitted = RouterBenchMLPConfig(steps=100).fit(rows, features, RNG)
    assert fitted.losses[-1] < 0.8 * fitted.losses[0]
    cost = fitted.predict_many(features).cost_usd
    assert (cost == rows.cost_usd.mean(axis=0)).all() or cost == pytest.approx(np.tile(rows.cost_usd.mean(axis=0), (200, 1)))


def test_targets_with_little_or_nothing_recorded():
    vectors = RNG.standard_normal((8, 4)).astype(np.float32)
    quality = np.full((8, 3), NAN)
    quality[:, 0], quality[:3, 1] = 1.0, [1, 0, 0]
    found = RouterBenchMLPConfig().fit(table(quality), seen(vectors), RNG).predict(seen(vectors[:1])).quality
    assert found[:2] == pytest.approx([1.0, 1 / 3])
    assert np.isnan(found[2])


def test_passes_keep_to_both_limits():
    config = RouterBenchMLPConfig(rounds=30, steps=400, batch=200)
    assert config.passes(100) == 30
    assert config.passes(8000) == 10
    assert config.passes(10**6) == 1


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no row to learn from"):
        RouterBenchMLPConfig().fit(table(np.empty((0, 1))), seen(np.empty((0, 2), np.float32)), RNG)
    for settings in ({"hidden": 0}, {"rounds": 0}, {"batch": 0}, {"steps": 0}, {"alpha": -1.0}, {"rate": float("inf")}):
        with pytest.raises(ConfigError, match=r"routerbench-mlp\."):
            RouterBenchMLPConfig(**settings)
