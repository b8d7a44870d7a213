"""radar: recovery of simulated items and abilities, the adaptive test, where it must win, and what one ability cannot say."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators import item_response
from junctor.estimators.radar import RadarConfig
from junctor.estimators.regression import sigmoid

from .tables import NAN, seen, table
from .traits import aiq_of, fitted, halves, quality_of, two_pl, unit, world


def simulated(rows=2000, dim=8, seed=0, **settings):
    rng = np.random.default_rng(seed)
    found, truth = two_pl(rng, rows, 8, dim)
    every = np.arange(rows)
    return found, truth, RadarConfig(alpha=0.1, **settings).fit(found.table(every), found.features(every), rng)


def test_the_slope_of_the_loss_is_right():
    rng = np.random.default_rng(0)
    quality = rng.random((30, 4))
    quality[rng.random(quality.shape) < 0.3] = NAN
    for dimensions in (1, 2):
        problem = item_response._Problem(rng.standard_normal((30, 3)), quality, dimensions, 0.7)
        here = problem.start(rng) + 0.1 * rng.standard_normal(len(problem.start(rng)))
        slope = problem.loss(here)[1]
        for place in range(len(here)):
            step = np.zeros(len(here))
            step[place] = 1e-6
            wanted = (problem.loss(here + step)[0] - problem.loss(here - step)[0]) / 2e-6
            assert slope[place] == pytest.approx(wanted, abs=1e-5), (dimensions, place)


def test_simulated_abilities_slopes_and_difficulties_come_back():
    found, truth, fit = simulated()
    abilities = fit.abilities[:, 0]
    assert abilities == pytest.approx(truth["theta"], abs=0.15)
    assert abilities.mean() == pytest.approx(0.0, abs=1e-9)
    assert abilities.std() == pytest.approx(1.0)
    slopes, offsets = fit.items(found.features(np.arange(2000)))
    assert np.corrcoef(slopes[:, 0], truth["slope"])[0, 1] > 0.98
    assert np.corrcoef(offsets / slopes[:, 0], truth["difficulty"])[0, 1] > 0.98
    assert (slopes > 0).all()
    assert fit.losses[-1] < fit.losses[0]
    error = np.abs(fit.predict_many(found.features(np.arange(2000))).quality - found.chance)
    assert error.mean() < 0.03


def test_onboarding_finds_the_ability_alone():
    found, truth, fit = simulated()
    rng = np.random.default_rng(1)
    rows = np.arange(400)
    answers = (rng.random(400) < sigmoid(truth["slope"][rows] * (0.7 - truth["difficulty"][rows]))).astype(float)
    wider = fit.onboard("new", table(answers[:, None], targets=["new"]), found.features(rows))
    assert wider.abilities[-1, 0] == pytest.approx(0.7, abs=0.2)
    assert np.array_equal(wider.abilities[:-1], fit.abilities)
    assert wider._items is fit._items


def ability_errors(fit, found, truth, calls, people=40):
    """Mean error of the ability after so many calls, chosen one after another and at random."""
    rng = np.random.default_rng(calls)
    pool = np.arange(400)
    features = found.features(pool)
    slopes, offsets = fit.items(features)
    chosen, drawn = [], []
    for _ in range(people):
        ability = rng.uniform(-2.0, 2.0)
        answers = (rng.random(400) < sigmoid(truth["slope"][pool] * (ability - truth["difficulty"][pool]))).astype(float)
        _, at = fit.adaptive_test(features, answers.__getitem__, calls)
        rows = rng.permutation(400)[:calls]
        chosen.append(abs(at[0] - ability))
        drawn.append(abs(item_response.ability(slopes[rows], offsets[rows], answers[rows])[0][0] - ability))
    return np.mean(chosen), np.mean(drawn)


def test_the_adaptive_test_needs_fewer_calls_than_random_ones():
    found, truth, fit = simulated()
    for calls in (8, 20):
        chosen, drawn = ability_errors(fit, found, truth, calls)
        assert chosen < 0.7 * drawn, f"{calls} calls: {chosen:.2f} against {drawn:.2f}"


def test_asking_queries_that_tell_least_would_be_worse_than_random(monkeypatch):
    found, truth, fit = simulated()
    least = item_response.information
    monkeypatch.setattr(item_response, "information", lambda *args: -least(*args))
    chosen, drawn = ability_errors(fit, found, truth, 20)
    assert chosen > drawn


def test_the_next_query_is_the_one_of_most_fisher_information():
    _, _, fit = simulated()
    features = seen(np.random.default_rng(3).standard_normal((50, 8)).astype(np.float32))
    slopes, offsets = fit.items(features)
    chance = sigmoid(-offsets)  # before any answer the ability is 0
    first = fit.next_row(features, [], [])
    assert first == int((slopes[:, 0] ** 2 * chance * (1 - chance)).argmax())
    assert fit.next_row(features, [first], [1.0]) != first
    asked, _ = fit.adaptive_test(features, lambda row: 1.0, 99)
    assert sorted(asked) == list(range(50)), "every query once, however many calls are allowed"
    with pytest.raises(UserError, match="every query was asked"):
        fit.next_row(features, asked, [1.0] * 50)


def test_in_several_dimensions_queries_are_chosen_for_what_is_not_known_yet():
    slopes = np.array([[1.0, 0.0], [0.9, 0.0], [0.0, 0.8]])
    _, covariance = item_response.ability(slopes[:1], np.zeros(1), np.array([1.0]))
    told = item_response.information(slopes, np.zeros(3), np.zeros(2), covariance)
    assert told[2] > told[1], "the second query tells of a dimension that no answer spoke of"


def margins(seed):
    found, _ = two_pl(np.random.default_rng(seed), 1500, 8, 40)
    recorded = np.random.default_rng(seed + 100).random(found.chance.shape) < 0.35
    train, test = halves(1500, 250)
    bars = (("mean", {}), ("knn", {"k": 20}), ("linear", {"alpha": 100.0}), ("kmeans-table", {"clusters": 5}))
    bar = max(aiq_of(name, found, train, test, recorded, **settings) for name, settings in bars)
    own = aiq_of("radar", found, train, test, recorded)
    without = aiq_of("radar", found, train, test, recorded, alpha=1e9)
    return own - bar, without - bar


@pytest.mark.slow
def test_beats_the_cheap_bars_on_a_sparse_log_where_difficulty_is_shared_and_not_without_its_items():
    """250 rows, a third of the cells: what a query's difficulty costs one target, it costs them all."""
    found = np.array([margins(seed) for seed in range(3)]).mean(axis=0)
    assert found[0] > 0.01
    assert found[1] < 0.0


def specialists():
    rng = np.random.default_rng(0)
    domain = rng.integers(2, size=1200)
    x = np.hstack([unit(3.0 * np.eye(2)[domain] + rng.standard_normal((1200, 2))), 0.3 * rng.standard_normal((1200, 6))])
    chance = np.where(domain[:, None] == 0, [0.9, 0.2, 0.6], [0.2, 0.88, 0.5])
    return world(rng, x, chance, np.ones(3))


def test_one_ability_is_one_ranking_for_unrelated_domains_and_two_are_not():
    found = specialists()
    train, test = halves(1200, 800)
    best = quality_of("best-single", found, train, test)
    one, two = (quality_of("radar", found, train, test, dimensions=k, alpha=3.0) for k in (1, 2))
    assert one <= best + 0.01, "a scalar ability cannot say: good at code, bad at law"
    assert two > best + 0.2
    order = fitted("radar", found, train, None, {}).estimator.predict_many(found.features(test)).quality.argsort(axis=1)
    assert (order == order[0]).all()


def test_odd_tables_have_defined_results():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3)).astype(np.float32)
    for quality in (np.ones((40, 3)), np.full((40, 2), 0.5), rng.random((40, 1)), np.repeat(rng.random((40, 1)), 3, axis=1)):
        for dimensions in (1, 3):
            fit = RadarConfig(dimensions=dimensions).fit(table(quality), seen(x), rng)
            found = fit.predict_many(seen(x)).quality
            assert np.isfinite(found).all()
            assert np.abs(found.mean(axis=0) - quality.mean(axis=0)).max() < 0.06
    never = RadarConfig().fit(table([[1.0, NAN], [0.0, NAN]] * 5), seen(x[:10]), rng)
    assert np.isnan(never.predict(seen(x[:1])).quality[1])


def test_bad_settings_and_rows_are_refused():
    for settings in ({"dimensions": 0}, {"alpha": 0.0}, {"steps": 0}):
        with pytest.raises(ConfigError, match=r"radar\."):
            RadarConfig(**settings)
    with pytest.raises(UserError, match="no row to learn from"):
        RadarConfig().fit(table(np.empty((0, 2))), seen(np.empty((0, 2), np.float32)), np.random.default_rng(0))
    _, _, fit = simulated(rows=50)
    with pytest.raises(UserError, match="vectors of 2 numbers, fitted on 8"):
        fit.predict(seen(np.ones((1, 2), np.float32)))
