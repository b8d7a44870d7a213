"""scope: retrieval by hand, a fingerprint that costs its anchors only, and a world where both stages are needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators.scope import Scope, ScopeConfig, drawn
from junctor.testing import planted

from .regions import Split, regions
from .tables import NAN, at, seen, table

RNG = np.random.default_rng(0)


def specialists(seed: int, noise: float = 1.7) -> Split:
    rng = np.random.default_rng(seed)
    chance = 0.3 + 0.1 * rng.random((8, 5))
    chance[np.arange(8), np.arange(8) % 5] = 0.9
    return regions(chance.tolist(), rows=1000, noise=noise, seed=seed, test=1500)


def test_stage_one_weighs_anchors_by_similarity_squared():
    rows = table([[1, 0], [0, 1], [0, 0]], cost=[[1, 2], [3, 4], [9, 9]])
    fitted = ScopeConfig(neighbours=2, mix=0.0).fit(rows, seen(at(0, 60, 180)), RNG)
    found = fitted.predict(seen(at(0)))
    assert found.quality == pytest.approx([1.0 / 1.25, 0.25 / 1.25])
    assert found.cost_usd == pytest.approx([(1 + 3 * 0.25) / 1.25, (2 + 4 * 0.25) / 1.25])


def test_an_anchor_without_an_outcome_pulls_to_the_mean():
    rows = table([[1.0], [NAN], [0.0], [0.0]])
    found = ScopeConfig(neighbours=2, mix=0.0).fit(rows, seen(at(0, 1, 90, 91)), RNG).predict(seen(at(0.5))).quality
    assert 1 / 3 < found[0] < 1.0


def test_only_anchors_are_remembered():
    world = specialists(0)
    fitted = ScopeConfig(anchors=50).fit(world.table, world.features, RNG)
    assert len(fitted.anchor_ids) == len(set(fitted.anchor_ids)) == 50
    assert fitted.state().arrays["values"].shape == (50, 5)


def test_anchors_are_drawn_from_each_label_in_proportion_and_fuller_rows_go_first():
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    rows = table([[1.0, 0.0]] * 100, labels=labels)
    rows.quality[::2, 1] = NAN
    chosen = drawn(rows, 20, np.random.default_rng(0))
    assert [sum(labels[i] == name for i in chosen) for name in "abc"] == [12, 6, 2]
    assert (chosen % 2 == 1).all()


def test_a_newcomer_costs_its_anchors_and_is_known_as_well_as_the_others():
    world = specialists(1)
    *known, new = world.table.targets.ids
    config = ScopeConfig(anchors=120)
    whole = config.fit(world.table, world.features, np.random.default_rng(5))
    old = config.fit(world.table.only(known), world.features, np.random.default_rng(5))
    called = [world.table.ids.index(id_) for id_ in old.anchor_ids]
    wider = old.onboard(new, world.table.take(called), world.features.take(called))
    assert wider.anchor_ids == whole.anchor_ids
    assert wider.predict_many(world.seen).quality == pytest.approx(whole.predict_many(world.seen).quality)


def test_a_newcomer_may_be_called_on_other_rows_than_the_anchors():
    rows, features = planted(300)
    *known, new = rows.targets.ids
    old = ScopeConfig(anchors=60).fit(rows.only(known), features, RNG)
    found = old.onboard(new, rows.take(np.arange(100)), features.take(np.arange(100))).predict_many(features).quality[:, -1]
    assert found.mean() == pytest.approx(rows.quality[:, -1].mean(), abs=0.1)


def test_both_stages_together_beat_each_alone_and_the_cheap_bars_on_the_same_few_outcomes():
    worlds = [specialists(seed) for seed in range(3)]

    def quality(**settings) -> float:
        return float(np.mean([world.quality("scope", anchors=150, **settings) for world in worlds]))

    both = quality(mix=0.5, alpha=1.0)
    assert both > quality(mix=0.0) + 0.005  # stage II gone
    assert both > quality(mix=1.0, alpha=1.0) + 0.03  # stage I gone
    few = [_anchors_only(world, world.fit("scope", anchors=150).estimator) for world in worlds]
    assert both > np.mean([world.single() for world in few]) + 0.15
    assert both > np.mean([world.quality("linear", alpha=3.0) for world in few]) + 0.03


def _anchors_only(world: Split, fitted: Scope) -> Split:
    rows = [world.table.ids.index(id_) for id_ in fitted.anchor_ids]
    return replace(world, table=world.table.take(rows), features=world.features.take(rows))


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no row to learn from"):
        ScopeConfig().fit(table(np.empty((0, 1))), seen(np.empty((0, 2), np.float32)), RNG)
    for settings in ({"anchors": 0}, {"neighbours": 0}, {"mix": 1.5}, {"alpha": 0.0}):
        with pytest.raises(ConfigError, match=r"scope\."):
            ScopeConfig(**settings)
