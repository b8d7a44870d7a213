"""The bootstrap: paired, seeded, honest about gaps."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.resample import Resamples, draw, interval, over_seeds


def test_row_zero_is_the_test_set_as_it_is_and_each_resample_has_its_size() -> None:
    (draws,) = draw([range(50)], 200, np.random.default_rng(0))
    values = np.arange(50.0)[None, :]
    assert draws.counts.sum(axis=1).tolist() == [50] * 200
    assert draws.means(values)[0, 0] == 24.5
    by_hand = np.repeat(np.arange(50.0), draws.counts[3]).mean()
    assert draws.means(values)[4, 0] == pytest.approx(by_hand, rel=1e-6)


def test_seeds_that_share_queries_share_their_draws() -> None:
    first, second = draw([[1, 2, 3, 4, 5, 6], [4, 5, 6, 7, 8, 9]], 50, np.random.default_rng(0))
    assert (first.counts[:, 3:] == second.counts[:, :3]).all()


def test_the_same_seed_gives_the_same_draws_and_another_does_not() -> None:
    one, same, other = (draw([range(30)], 20, np.random.default_rng(seed))[0].counts for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_unrecorded_cells_are_left_out_of_the_mean() -> None:
    draws = Resamples(np.array([[1, 1, 1], [0, 2, 1]], dtype=np.uint8))
    found = draws.means(np.array([[1.0, np.nan, 0.0], [np.nan, 1.0, np.nan]]))
    assert found[:, 0].tolist() == [0.5, 0.5, 0.0]
    assert found[:, 1].tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(draws.means(np.array([[np.nan] * 3]))).all()


def test_a_resample_that_misses_a_small_set_is_that_set() -> None:
    (tiny, _) = draw([[0], list(range(400))], 300, np.random.default_rng(0))
    assert tiny.counts.min() >= 1


def test_over_seeds_averages_each_replicate_over_the_seeds_it_picked() -> None:
    per_seed = np.array([[1.0, 10.0, 20.0], [3.0, 30.0, 40.0]])
    value, replicates = over_seeds(per_seed, np.array([[0, 0], [0, 1]]))
    assert value == 2.0
    assert replicates.tolist() == [10.0, 30.0]


def test_the_median_counts_out_of_reach_as_infinite() -> None:
    nan = float("nan")
    per_seed = np.array([[0.7, 0.6, nan], [0.8, nan, nan], [nan, 0.9, 0.5]])
    value, replicates = over_seeds(per_seed, np.array([[0, 1, 2], [0, 1, 2]]), median=True)
    assert value == 0.8
    assert replicates[0] == 0.9
    assert np.isnan(replicates[1])
    assert np.isnan(over_seeds(per_seed[1:, 1:], np.array([[0, 1]]), median=True)[0])


def test_interval_covers_the_mean_of_a_known_distribution() -> None:
    rng = np.random.default_rng(3)
    (draws,) = draw([range(400)], 2000, rng)
    sample = rng.normal(0.5, 0.2, size=(1, 400))
    means = draws.means(sample)[:, 0]
    found = interval(float(means[0]), means[1:])
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.2 / 20, rel=0.1)


def test_paired_differences_are_narrower_than_unpaired_ones() -> None:
    rng = np.random.default_rng(4)
    (draws,) = draw([range(300)], 1000, rng)
    hard = rng.uniform(size=(1, 300))
    first, second = draws.means(hard)[1:, 0], draws.means(hard + 0.01)[1:, 0]
    assert np.std(second - first) < 0.01 * np.std(first)


def test_a_figure_that_is_not_reached_has_no_interval_and_partly_reached_says_so() -> None:
    assert interval(float("nan"), np.array([1.0, 2.0])) is None
    partly = interval(1.0, np.array([0.9, 1.1, np.nan, np.nan]))
    assert partly is not None
    assert partly.reached == 0.5
    never = interval(1.0, np.array([np.nan]))
    assert never is not None
    assert (never.low, never.high, never.reached) == (1.0, 1.0, 0.0)
