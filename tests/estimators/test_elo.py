"""elo: ratings by hand, uneven logs, tables without text, newcomers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.errors import ConfigError, UserError
from junctor.estimators import pairwise
from junctor.estimators.elo import EloConfig

from .tables import NAN, seen, table
from .traits import halves, quality_of, uneven_log

RNG = np.random.default_rng(0)
BLANK = seen(np.empty((0, 2), np.float32))


def fit(quality, **settings):
    rows = table(quality)
    return EloConfig(**settings).fit(rows, rows.features(), RNG)


def test_ten_wins_of_eleven_are_four_hundred_points():
    found = fit([[1.0, 0.0]] * 10 + [[0.0, 1.0]], ties=1e-9)
    assert found.ratings["a"] - found.ratings["b"] == pytest.approx(400.0, abs=0.1)
    assert sum(found.ratings.values()) / 2 == pytest.approx(1000.0)


def test_with_complete_rows_expected_quality_is_the_mean():
    quality = (np.random.default_rng(1).random((300, 4)) < [0.1, 0.4, 0.5, 0.8]).astype(float)
    found = fit(quality, ties=1e-9).predict(BLANK).quality
    assert found == pytest.approx(quality.mean(axis=0), abs=1e-6)


def test_the_order_of_rows_does_not_matter():
    quality = np.random.default_rng(2).random((100, 3))
    assert fit(quality).ratings == pytest.approx(fit(quality[::-1]).ratings)


def test_reads_tables_without_text_or_vectors():
    rows = replace(table([[1.0, 0.0]] * 5, cost=[[2.0, 1.0]] * 5), texts=[""] * 5)
    found = EloConfig().fit(rows, rows.features(), RNG)
    assert found.needs == frozenset()
    assert found.predict_many(rows.features()).quality.shape == (5, 2)
    assert found.predict(rows.features()).cost_usd.tolist() == [2.0, 1.0]


def test_beats_the_best_single_on_an_uneven_log_and_not_without_its_pairs(monkeypatch):
    """Good targets were mostly tried on hard queries: their means are low, but on the same query they win."""
    train, test = halves(4000, 3000)
    found, recorded = uneven_log(np.random.default_rng(0), by_query=False)
    bars = [quality_of(name, found, train, test, recorded) for name in ("best-single", "knn", "linear")]
    assert quality_of("elo", found, train, test, recorded) > max(bars) + 0.05
    whole = pairwise.won

    def torn(quality):
        """Compare outcomes of different queries: every column in an order of its own."""
        return whole(np.stack([np.random.default_rng(i).permutation(c) for i, c in enumerate(quality.T)], axis=1))

    monkeypatch.setattr(pairwise, "won", torn)
    assert quality_of("elo", found, train, test, recorded) < max(bars) + 0.02


def test_a_newcomer_is_rated_against_what_is_expected_of_the_others():
    rng = np.random.default_rng(3)
    quality = (rng.random((2000, 4)) < [0.2, 0.5, 0.7, 0.6]).astype(float)
    old = EloConfig().fit(table(quality[:, :3]), of_rows(2000), RNG)
    calibration = table(np.column_stack([np.full((400, 3), NAN), quality[:400, 3]]))
    wider = old.onboard("d", calibration, calibration.features())
    assert wider.predict(BLANK).quality[3] == pytest.approx(0.6, abs=0.06)
    assert wider.predict(BLANK).quality[:3] == pytest.approx(old.predict(BLANK).quality)
    assert {k: v for k, v in wider.ratings.items() if k != "d"} == pytest.approx(old.ratings)


def of_rows(rows):
    return seen(np.zeros((rows, 2), np.float32))


def test_odd_tables_have_defined_results():
    assert fit(np.ones((5, 3))).predict(BLANK).quality.tolist() == [1.0, 1.0, 1.0]
    assert fit([[0.3]] * 4).predict(BLANK).quality == pytest.approx([0.3])
    apart = fit([[1.0, NAN], [NAN, 0.0]] * 3).predict(BLANK).quality
    assert apart == pytest.approx([0.5, 0.5]), "never on one query: nothing tells them apart"
    assert "b" not in fit([[1.0, NAN]] * 3).ratings
    with pytest.raises(UserError, match="no row to learn from"):
        fit(np.empty((0, 2)))
    with pytest.raises(ConfigError, match=r"elo\.ties"):
        EloConfig(ties=0.0)
