"""Comparisons by hand: shares won, ratings, margins, and the way back to quality."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.estimators import pairwise

from .tables import NAN


def test_a_win_counts_one_and_a_tie_half():
    found = pairwise.won(np.array([[1.0, 0.0, 0.0], [1.0, 1.0, NAN], [NAN, 0.7, 0.2], [NAN, NAN, 1.0]]))
    # the first beats two; ties; .5 of a gap is three quarters of a win; alone there is nothing to win
    assert found == pytest.approx(np.array([[2.0, 0.5, 0.5], [0.5, 0.5, 0.0], [0.0, 0.75, 0.25], [0.0, 0.0, 0.0]]))


def test_shares_won_add_up_to_the_comparisons():
    rng = np.random.default_rng(0)
    quality = np.where(rng.random((50, 5)) < 0.3, NAN, rng.random((50, 5)))
    assert pairwise.won(quality).sum() == pytest.approx(pairwise.met(quality).sum() / 2)
    weights = rng.random((2, 50))
    assert pairwise.met(quality, weights).sum(axis=(1, 2)) / 2 == pytest.approx((weights @ pairwise.won(quality)).sum(axis=1))


def test_two_targets_have_the_log_odds_of_their_wins():
    counts = np.array([[0.0, 4.0], [4.0, 0.0]])
    found = pairwise.bradley_terry(np.array([3.0, 1.0]), counts, ties=1e-9)
    assert found[0] - found[1] == pytest.approx(np.log(3.0), abs=1e-5)
    assert found.sum() == pytest.approx(0.0, abs=1e-9)


def test_ratings_are_at_the_maximum_of_the_likelihood():
    rng = np.random.default_rng(1)
    quality = np.where(rng.random((400, 6)) < 0.5, NAN, (rng.random((400, 6)) < np.linspace(0.1, 0.9, 6)).astype(float))
    wins, counts = pairwise.won(quality).sum(axis=0), pairwise.met(quality)
    found = pairwise.bradley_terry(wins, counts, ties=1e-6)
    expected = (counts / (1.0 + np.exp(-(found[:, None] - found[None, :])))).sum(axis=1)
    assert expected == pytest.approx(wins, abs=1e-3)


def test_the_undefeated_have_finite_ratings():
    counts = np.where(np.eye(3), 0.0, 4.5)
    for ties in (0.5, 1e-6):
        found = pairwise.bradley_terry(np.array([9.0, 2.25, 2.25]), counts, ties)
        assert np.isfinite(found).all()
        assert found[1] == pytest.approx(found[2])
    nonsense = pairwise.bradley_terry(np.array([99.0, 0.0, 0.0]), counts, ties=0.5)
    assert np.isfinite(nonsense).all()
    assert found.argmax() == 0


def test_with_complete_rows_margins_are_gaps_to_the_average():
    quality = (np.random.default_rng(2).random((500, 4)) < [0.2, 0.5, 0.6, 0.9]).astype(float)
    ratings = pairwise.bradley_terry(pairwise.won(quality).sum(axis=0), pairwise.met(quality), ties=1e-9)
    assert pairwise.margins(ratings, 4) == pytest.approx(quality.mean(axis=0) - quality.mean(), abs=1e-6)


def test_margins_are_against_the_pool_and_ignore_what_was_never_rated():
    found = pairwise.margins(np.array([0.0, NAN, np.log(3.0)]), pool=2)
    assert found[0] == 0.0
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(0.5)


def test_qualities_keep_gaps_and_stay_inside():
    assert pairwise.qualities(np.array([0.2, -0.2]), 0.9) == pytest.approx([1.0, 0.6])
    assert pairwise.qualities(np.array([[0.1, -0.2, NAN]]), 0.1)[0, :2] == pytest.approx([0.3, 0.0])
    assert pairwise.qualities(np.array([0.9, -0.9]), 0.5).tolist() == [1.0, 0.0]
    assert pairwise.qualities(np.empty(0), 0.5).shape == (0,)
