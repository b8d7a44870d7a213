"""routellm-sw: its weights and closed form by hand, where it must win, and the published MMLU rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from junctor.bench import metrics
from junctor.errors import ConfigError, UserError
from junctor.estimators import pairwise
from junctor.estimators.routellm_sw import RouteLLMSimilarityConfig
from junctor.outcomes.reading import read_table

from .tables import NAN, at, seen, table
from .traits import halves, quality_of, uneven_log

RNG = np.random.default_rng(0)


def test_weights_are_gamma_to_the_similarity_over_the_largest():
    fit = RouteLLMSimilarityConfig(gamma=10.0).fit(table([[1, 0], [0, 1], [1, 1]]), seen(at(0, 60, 90)), RNG)
    found = fit._weights(at(30))[0]
    near = np.cos(np.radians([30, 30, 60]))
    assert found / found[0] == pytest.approx(10.0 ** (1 + near / near.max()) / 100.0, rel=1e-5)


def test_for_two_targets_the_chance_is_a_weighted_mean_of_wins():
    rng = np.random.default_rng(1)
    quality = rng.integers(2, size=(60, 2)).astype(float)
    places = at(*rng.uniform(0, 90, 60))
    fit = RouteLLMSimilarityConfig().fit(table(quality), seen(places), rng)
    weights = fit._weights(at(20))[0]
    wins = (1.0 + quality[:, 0] - quality[:, 1]) / 2.0
    chance = weights @ wins / weights.sum()
    assert fit._margins(weights[None])[0] == pytest.approx([chance - 0.5, 0.5 - chance])


def test_the_closed_form_is_what_newtons_method_finds_on_complete_rows():
    rng = np.random.default_rng(2)
    quality = (rng.random((80, 4)) < [0.3, 0.5, 0.6, 0.8]).astype(float)
    fit = RouteLLMSimilarityConfig().fit(table(quality), seen(at(*rng.uniform(0, 90, 80))), rng)
    weights = fit._weights(at(5, 70))
    share = weights / weights.sum(axis=1, keepdims=True)
    ratings = pairwise.bradley_terry(share @ pairwise.won(quality), pairwise.met(quality, share), ties=1e-9)
    assert fit._margins(weights) == pytest.approx(pairwise.margins(ratings, 4), abs=1e-5)


def test_a_steeper_gamma_listens_to_nearer_rows():
    rng = np.random.default_rng(3)
    angle = rng.uniform(0, 90, 400)
    quality = np.column_stack([angle < 45, angle >= 45]).astype(float)
    gaps = []
    for gamma in (10.0, 1e6):
        fit = RouteLLMSimilarityConfig(gamma=gamma).fit(table(quality), seen(at(*angle)), rng)
        gaps.append(fit._margins(fit._weights(at(10)))[0, 0])
    assert 0.0 < gaps[0] < gaps[1]
    told = RouteLLMSimilarityConfig().fit(table(quality), seen(at(*angle)), rng).predict(seen(at(5))).quality
    assert told[0] - told[1] > 0.6, "the slope undoes the smoothing"


@pytest.mark.slow
def test_beats_bars_that_do_not_compare_on_an_uneven_log_and_not_without_similarity():
    train, test = halves(4000, 3000)
    found, recorded = uneven_log(np.random.default_rng(0))
    bars = [("best-single", {}), ("knn", {"k": 40}), ("linear", {"alpha": 3.0}), ("kmeans-table", {}), ("elo", {})]
    bar = max(quality_of(name, found, train, test, recorded, **settings) for name, settings in bars)
    assert quality_of("routellm-sw", found, train, test, recorded) > bar + 0.015
    assert quality_of("routellm-sw", found, train, test, recorded, gamma=1.0001) < bar - 0.05


def test_odd_tables_have_defined_results():
    places = at(*np.linspace(0, 90, 12))
    for quality in (np.ones((12, 3)), np.full((12, 2), 0.4), np.full((12, 1), 0.7)):
        assert RouteLLMSimilarityConfig().fit(table(quality), seen(places), RNG).predict_many(seen(places)).quality == (
            pytest.approx(quality, abs=1e-6)
        )
    apart = RouteLLMSimilarityConfig().fit(table([[1.0, NAN], [NAN, 0.0]] * 6), seen(places), RNG).predict(seen(at(3))).quality
    assert apart == pytest.approx([0.5, 0.5])
    assert np.isnan(RouteLLMSimilarityConfig().fit(table([[1.0, NAN]] * 12), seen(places), RNG).predict(seen(at(3))).quality[1])
    empty = RouteLLMSimilarityConfig().fit(table([[NAN, NAN]] * 12), seen(places), RNG).predict_many(seen(places)).quality
    assert np.isnan(empty).all()
    one = RouteLLMSimilarityConfig().fit(table([[1.0, 0.0]]), seen(at(3)), RNG).predict(seen(at(90))).quality
    assert np.isfinite(one).all()
    opposite = RouteLLMSimilarityConfig().fit(table([[1.0, 0.0]]), seen(at(0)), RNG).predict(seen(at(180))).quality
    assert np.isfinite(opposite).all()


def test_bad_settings_and_rows_are_refused():
    with pytest.raises(ConfigError, match=r"routellm-sw\.gamma"):
        RouteLLMSimilarityConfig(gamma=1.0)
    with pytest.raises(UserError, match="no row to learn from"):
        RouteLLMSimilarityConfig().fit(table(np.empty((0, 2))), seen(np.empty((0, 2), np.float32)), RNG)


def mmlu_apgr(data: Path, encoder: str, seeds: int) -> np.ndarray:
    """[seeds, 3] APGR, CPT50 and CPT80 with 1,500 random training rows and the released gamma of 10."""
    from junctor.encoders import load_encoder
    from junctor.encoders.cache import EmbeddingCache

    rows = read_table(data / "routellm/routellm_mmlu_gsm8k.parquet")
    rows = rows.take([name.startswith("mmlu") for name in rows.label])
    vectors = EmbeddingCache(load_encoder(encoder)).encode(rows.texts)
    means = rows.quality.mean(axis=0)
    strong, weak = int(means.argmax()), int(means.argmin())
    found = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(rows))
        train, test = order[:1500], order[1500:]
        bare = rows.take(train)
        fit = RouteLLMSimilarityConfig().fit(bare, bare.features(vectors[train]), np.random.default_rng(seed))
        told = fit.predict_many(rows.take(test).features(vectors[test])).quality
        lead = told[:, strong] - told[:, weak]
        cuts = np.quantile(lead, np.linspace(0, 1, 11))
        calls = lead[None, :] >= cuts[:, None]
        quality = np.where(calls, rows.quality[test, strong], rows.quality[test, weak]).mean(axis=1)[None]
        share, ends = calls.mean(axis=1)[None], rows.quality[test].mean(axis=0)
        low, high = ends[[weak]], ends[[strong]]
        figures = [metrics.apgr(share, quality, low, high), *(metrics.cpt(share, quality, low, high, w) for w in (0.5, 0.8))]
        found.append([float(f[0]) for f in figures])
    return np.array(found)


@pytest.mark.data
@pytest.mark.slow
def test_routellms_mmlu_rows_give_the_noted_bar(data: Path):
    """Noted: .638 / .318 / .633 with MiniLM vectors, which this code gives too (.637 / .324 / .635); the paper has .603."""
    apgr, cpt50, cpt80 = mmlu_apgr(data, "static", 10).mean(axis=0)
    assert apgr == pytest.approx(0.634, abs=0.01)
    assert cpt50 == pytest.approx(0.313, abs=0.02)
    assert cpt80 == pytest.approx(0.652, abs=0.03)
