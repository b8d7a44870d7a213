"""fusionfactory: both readings, what the correction takes from other targets, newcomers, odd tables."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators.fusionfactory import FusionFactoryConfig, _correction
from junctor.estimators.knn import KNNConfig
from junctor.estimators.linear import LinearConfig
from junctor.testing import planted

from .tables import NAN, seen, table
from .traits import halves, quality_of, rarely_tried

RNG = np.random.default_rng(0)


def test_without_the_correction_it_is_the_mean_of_both_readings():
    rows, features = planted()
    fit = FusionFactoryConfig(fuse=False).fit(rows, features, RNG)
    near = KNNConfig(k=40).fit(rows, features, RNG).predict_many(features)
    direct = LinearConfig(alpha=30.0).fit(rows, features, RNG).predict_many(features)
    found = fit.predict_many(features)
    assert found.quality == pytest.approx((near.quality + direct.quality) / 2)
    assert found.cost_usd == pytest.approx((near.cost_usd + direct.cost_usd) / 2)


def test_the_correction_is_learned_from_all_readings():
    rng = np.random.default_rng(1)
    readings = rng.random((4000, 4))
    quality = np.column_stack([readings[:, 1], readings[:, 1]])
    weights, bias = _correction(readings, quality, np.full((4000, 2), 0.5), 1.0)
    assert readings @ weights + bias + 0.5 == pytest.approx(quality, abs=0.01)
    blank, zero = _correction(np.empty((0, 4)), np.empty((0, 2)), np.empty((0, 2)), 1.0)
    assert not blank.any()
    assert not zero.any()


def test_equal_queries_are_never_read_by_models_that_saw_them():
    rows, features = planted(60)
    twins = np.repeat(np.arange(30), 2)
    config = FusionFactoryConfig(k=1)
    shown, both = config._left_out(rows.take(twins), features.take(twins), np.random.default_rng(0))
    assert sorted(shown.tolist()) == list(range(60))
    known = rows.quality[twins][shown]
    assert (both[:, :4] == known).mean() < 0.95, "a twin in the other fold would give every answer away"


@pytest.mark.slow
def test_beats_the_cheap_bars_where_others_speak_for_targets_hardly_tried_and_not_without_them():
    train, test = halves(2500, 1500)
    gains = []
    for seed in range(3):
        found, recorded = rarely_tried(np.random.default_rng(seed))
        bars = [("best-single", {}), ("knn", {"k": 40}), ("knn", {"k": 80}), ("linear", {"alpha": 10.0})]
        bars.append(("kmeans-table", {"clusters": 24}))
        bar = max(quality_of(name, found, train, test, recorded, **settings) for name, settings in bars)
        own, without = (
            quality_of("fusionfactory", found, train, test, recorded, penalty=100.0, fuse=fuse) for fuse in (True, False)
        )
        gains.append((own - bar, without - bar))
    assert np.mean(gains, axis=0)[0] > 0.02
    assert np.mean(gains, axis=0)[1] < 0.0


def test_a_newcomer_borrows_from_the_others():
    found, _ = rarely_tried(np.random.default_rng(1), share=1.0)
    train, test = halves(2500, 1500)
    known = list(found.targets.ids[:5])
    few = train[:150]
    errors = []
    for fuse in (True, False):
        config = FusionFactoryConfig(fuse=True)
        old = config.fit(found.table(train).only(known), found.features(train), np.random.default_rng(7))
        wider = old.onboard("t5", found.table(few).only(["t5"]), found.features(few))
        if not fuse:
            wider._weights[:, -1], wider._bias[-1] = 0.0, 0.0
        told = wider.predict_many(found.features(test)).quality
        errors.append(np.abs(told[:, 5] - found.chance[test, 5]).mean())
        assert np.array_equal(told[:, :5], old.predict_many(found.features(test)).quality)
    assert errors[0] < 0.9 * errors[1]


def test_odd_tables_have_defined_results():
    x = np.random.default_rng(2).standard_normal((30, 3)).astype(np.float32)
    for quality in (np.ones((30, 3)), np.full((30, 2), 0.4), np.full((30, 1), 0.7)):
        found = FusionFactoryConfig().fit(table(quality), seen(x), RNG).predict_many(seen(x)).quality
        assert found == pytest.approx(quality, abs=0.05)
    assert np.isnan(FusionFactoryConfig().fit(table([[1.0, NAN]] * 30), seen(x), RNG).predict(seen(x)).quality[1])
    for rows in (1, 2, 3):
        small = FusionFactoryConfig().fit(table(np.ones((rows, 2))), seen(x[:rows]), RNG)
        assert np.isfinite(small.predict_many(seen(x)).quality).all()


def test_bad_settings_and_rows_are_refused():
    for settings in ({"k": 0}, {"alpha": 0.0}, {"penalty": 0.0}):
        with pytest.raises(ConfigError, match=r"fusionfactory\."):
            FusionFactoryConfig(**settings)
    with pytest.raises(UserError, match="no row to learn from"):
        FusionFactoryConfig().fit(table(np.empty((0, 2))), seen(np.empty((0, 2), np.float32)), RNG)
