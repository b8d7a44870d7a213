"""routellm-mf: its slope, what pairs say, where it must win, newcomers, odd tables."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators import routellm_mf
from junctor.estimators.regression import sigmoid
from junctor.estimators.routellm_mf import RouteLLMFactorsConfig

from .tables import NAN, seen, table
from .traits import fitted, halves, quality_of, uneven_log, unit, world


def test_the_slope_of_the_loss_is_right():
    rng = np.random.default_rng(0)
    quality = np.where(rng.random((40, 4)) < 0.3, NAN, rng.random((40, 4)))
    problem = routellm_mf._Problem(rng.standard_normal((40, 3)), quality, 2, 0.7, rng)
    here = problem.start(rng) + 0.3 * rng.standard_normal(len(problem.start(rng)))
    slope = problem.loss(here)[1]
    for place in range(len(here)):
        step = np.zeros(len(here))
        step[place] = 1e-3
        wanted = (problem.loss(here + step)[0] - problem.loss(here - step)[0]) / 2e-3
        assert slope[place] == pytest.approx(wanted, abs=5e-3)


def test_of_many_targets_every_one_meets_equally_many_others():
    first, second = routellm_mf._pairs(50, np.random.default_rng(0))
    assert len(first) <= routellm_mf.MOST_PAIRS
    assert len(set(np.bincount(np.concatenate([first, second]), minlength=50))) == 1
    assert (first != second).all()


def test_the_chance_of_winning_comes_back():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3000, 5))
    chance = sigmoid(1.5 * x[:, 0])
    won = (rng.random(3000) < chance).astype(float)
    rows = table(np.column_stack([won, 1.0 - won]))
    fit = RouteLLMFactorsConfig(alpha=0.1).fit(rows, seen(x.astype(np.float32)), rng)
    found = fit.chance(seen(x.astype(np.float32)), "a", "b")
    assert np.abs(found - chance).mean() < 0.03
    assert fit.losses[-1] < fit.losses[0]
    many = fit.predict_many(seen(x.astype(np.float32))).quality
    assert np.corrcoef(many[:, 0] - many[:, 1], found)[0, 1] > 0.999


def test_ties_pull_to_one_half():
    x = np.tile(np.eye(2, dtype=np.float32), (50, 1))
    rows = table(np.tile([[1.0, 1.0], [1.0, 0.0]], (50, 1)))
    fit = RouteLLMFactorsConfig(alpha=0.1).fit(rows, seen(x), np.random.default_rng(0))
    tie, win = fit.chance(seen(x[:2]), "a", "b")
    assert tie == pytest.approx(0.5, abs=0.1)
    assert win > 0.85


@pytest.mark.slow
def test_beats_bars_that_do_not_compare_on_an_uneven_log_and_not_without_the_query():
    train, test = halves(4000, 3000)
    gains = []
    for seed in range(2):
        found, recorded = uneven_log(np.random.default_rng(seed))
        bars = [("best-single", {}), ("knn", {"k": 40}), ("linear", {"alpha": 3.0}), ("kmeans-table", {}), ("elo", {})]
        bar = max(quality_of(name, found, train, test, recorded, **settings) for name, settings in bars)
        own, without = (quality_of("routellm-mf", found, train, test, recorded, alpha=alpha) for alpha in (2.0, 1e9))
        gains.append((own - bar, without - bar))
    assert np.mean(gains, axis=0)[0] > 0.015
    assert np.mean(gains, axis=0)[1] < -0.05


def test_a_newcomer_is_a_vector_in_the_space_of_the_others():
    rng = np.random.default_rng(2)
    x = unit(rng.standard_normal((3000, 20)))
    taste = np.concatenate([np.eye(3), [[0.7, 0.7, 0.0]]])
    chance = np.clip(0.5 + 1.2 * x[:, :3] @ taste.T, 0.02, 0.98)
    found = world(rng, x, chance, np.ones(4))
    train, test = halves(3000, 2500)
    old = RouteLLMFactorsConfig(alpha=1.0).fit(found.table(train).only(["t0", "t1", "t2"]), found.features(train), rng)
    few = train[:200]
    wider = old.onboard("t3", found.table(few).only(["t3"]), found.features(few))
    told = wider.predict_many(found.features(test)).quality
    assert np.corrcoef(told[:, 3] - told[:, 2], (chance[:, 3] - chance[:, 2])[test])[0, 1] > 0.85
    assert np.array_equal(told[:, :3].argmax(axis=1), old.predict_many(found.features(test)).quality.argmax(axis=1))


def test_odd_tables_have_defined_results():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 3)).astype(np.float32)
    for quality in (np.ones((30, 3)), np.full((30, 2), 0.4), np.full((30, 1), 0.7)):
        found = RouteLLMFactorsConfig().fit(table(quality), seen(x), rng).predict_many(seen(x)).quality
        assert found == pytest.approx(quality, abs=1e-3)
    lonely = RouteLLMFactorsConfig().fit(table([[1.0, NAN], [NAN, 0.0]] * 15), seen(x), rng).predict_many(seen(x)).quality
    assert lonely == pytest.approx(np.full((30, 2), 0.5), abs=0.05)
    assert np.isnan(RouteLLMFactorsConfig().fit(table([[1.0, NAN]] * 30), seen(x), rng).predict(seen(x)).quality[1])


def test_bad_settings_and_rows_are_refused():
    for settings in ({"dim": 0}, {"alpha": 0.0}, {"steps": 0}):
        with pytest.raises(ConfigError, match=r"routellm-mf\."):
            RouteLLMFactorsConfig(**settings)
    with pytest.raises(UserError, match="no row to learn from"):
        RouteLLMFactorsConfig().fit(table(np.empty((0, 2))), seen(np.empty((0, 2), np.float32)), np.random.default_rng(0))


def test_same_targets_in_any_order_of_columns_are_told_apart():
    found, recorded = uneven_log(np.random.default_rng(5), rows=800)
    train, _ = halves(800, 700)
    policy = fitted("routellm-mf", found, train, recorded, {})
    assert policy.estimator.targets == found.targets.ids
