"""Every metric by hand, and how each can go wrong."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench import metrics


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float64)


def one(value: float) -> np.ndarray:
    return np.array([value], dtype=np.float64)


COST, QUALITY = row(1.0, 2.0, 4.0), row(0.2, 0.6, 0.8)


class TestAIQ:
    def test_is_the_mean_height_of_the_hull(self) -> None:
        # 1..2 rises from .2 to .6 (area .4), 2..4 from .6 to .8 (area 1.4); the window is 3 wide
        assert metrics.aiq(COST, QUALITY, one(1.0), one(4.0))[0] == pytest.approx(1.8 / 3)

    def test_a_point_under_the_hull_changes_nothing(self) -> None:
        with_bad = metrics.aiq(row(1.0, 2.0, 3.0, 4.0), row(0.2, 0.6, 0.1, 0.8), one(1.0), one(4.0))
        assert with_bad == pytest.approx(metrics.aiq(COST, QUALITY, one(1.0), one(4.0)))

    def test_what_lies_left_of_the_first_point_counts_nothing(self) -> None:
        assert metrics.aiq(row(3.0), row(0.9), one(1.0), one(4.0))[0] == pytest.approx(0.9 / 3)

    def test_is_not_defined_when_all_targets_cost_the_same(self) -> None:
        assert np.isnan(metrics.aiq(COST, QUALITY, one(2.0), one(2.0))[0])

    def test_released_divides_by_the_dear_end_and_starts_at_the_first_point(self) -> None:
        assert metrics.aiq_released(COST, QUALITY, one(4.0))[0] == pytest.approx(1.8 / 4)
        assert np.isnan(metrics.aiq_released(row(0.0), row(0.5), one(0.0))[0])


class TestArea:
    def test_charges_a_curve_that_falls(self) -> None:
        cost, quality = row(1.0, 2.0, 3.0), row(0.8, 0.2, 0.8)
        assert metrics.curve_area(cost, quality, one(1.0), one(3.0))[0] == pytest.approx(0.5)
        assert metrics.aiq(cost, quality, one(1.0), one(3.0))[0] == pytest.approx(0.8)

    def test_is_not_defined_without_a_window(self) -> None:
        assert np.isnan(metrics.curve_area(COST, QUALITY, one(1.0), one(1.0))[0])


class TestHypervolume:
    def test_is_a_staircase_up_to_the_reference(self) -> None:
        # normalised costs 0, 1/3, 1: a third at .2, two thirds at .6, nothing left for .8
        assert metrics.hypervolume(COST, QUALITY, one(1.0), one(4.0))[0] == pytest.approx(0.2 / 3 + 0.6 * 2 / 3)

    def test_the_order_of_settings_and_dominated_ones_do_not_matter(self) -> None:
        turned = metrics.hypervolume(row(4.0, 3.0, 1.0, 2.0), row(0.8, 0.1, 0.2, 0.6), one(1.0), one(4.0))
        assert turned == pytest.approx(metrics.hypervolume(COST, QUALITY, one(1.0), one(4.0)))

    def test_depends_on_the_reference_point(self) -> None:
        found = metrics.hypervolume(COST, QUALITY, one(1.0), one(4.0), (2.0, 0.5))
        assert found[0] == pytest.approx(0.1 * 2 / 3 + 0.3 * 1)

    def test_cheaper_than_the_window_gains_nothing_and_no_window_is_not_defined(self) -> None:
        assert metrics.hypervolume(row(0.1), row(0.5), one(1.0), one(4.0))[0] == pytest.approx(0.5)
        assert metrics.hypervolume(row(9.0), row(0.5), one(1.0), one(4.0))[0] == 0.0
        assert np.isnan(metrics.hypervolume(row(1.0), row(0.5), one(1.0), one(1.0))[0])


class TestQNC:
    def test_is_the_share_of_the_best_targets_cost(self) -> None:
        assert metrics.qnc(COST, QUALITY, one(0.6), one(4.0))[0] == pytest.approx(0.5)

    def test_takes_settings_as_they_are_and_the_cheapest_that_will_do(self) -> None:
        assert metrics.qnc(COST, QUALITY, one(0.61), one(4.0))[0] == pytest.approx(1.0)
        assert metrics.qnc(row(3.0, 2.0, 4.0), row(0.9, 0.9, 0.8), one(0.7), one(4.0))[0] == pytest.approx(0.5)

    def test_not_reached_is_not_a_hundred_per_cent(self) -> None:
        assert np.isnan(metrics.qnc(COST, QUALITY, one(0.81), one(4.0))[0])

    def test_may_exceed_one(self) -> None:
        assert metrics.qnc(COST, QUALITY, one(0.8), one(2.0))[0] == pytest.approx(2.0)

    def test_equal_up_to_rounding_counts_as_reached(self) -> None:
        assert metrics.qnc(COST, QUALITY, one(0.8 + 1e-9), one(4.0))[0] == pytest.approx(1.0)


def test_cost_at_equal_quality_is_in_usd_and_nan_when_never_equal() -> None:
    assert metrics.cost_at_equal_quality(COST, QUALITY, one(0.4))[0] == pytest.approx(1.5)
    assert np.isnan(metrics.cost_at_equal_quality(COST, QUALITY, one(0.9))[0])


def test_peak_is_the_best_point_even_when_it_is_not_the_dearest() -> None:
    assert metrics.peak(row(0.2, 0.9, 0.8))[0] == 0.9


class TestGapClosed:
    def test_is_zero_at_the_best_single_and_one_at_the_oracle(self) -> None:
        found = metrics.gap_closed(np.array([0.6, 0.7, 0.8]), np.full(3, 0.6), np.full(3, 0.8))
        assert found == pytest.approx([0.0, 0.5, 1.0])

    def test_is_negative_below_the_best_single(self) -> None:
        assert metrics.gap_closed(one(0.5), one(0.6), one(0.8))[0] == pytest.approx(-0.5)

    def test_is_not_defined_when_the_oracle_gains_nothing(self) -> None:
        assert np.isnan(metrics.gap_closed(one(0.6), one(0.6), one(0.6))[0])


class TestShareOfStrongCalls:
    def test_a_coin_recovers_half(self) -> None:
        # a coin of bias .5 between qualities .4 and .8
        assert metrics.apgr(row(0.5), row(0.6), one(0.4), one(0.8))[0] == pytest.approx(0.5)
        assert metrics.cpt(row(0.5), row(0.6), one(0.4), one(0.8), 0.8)[0] == pytest.approx(0.8)

    def test_by_hand(self) -> None:
        # half the calls recover 80% of the gap: triangles and trapezoids .5*(0+.8)/2 + .5*(.8+1)/2
        share, quality = row(0.5), row(0.72)
        assert metrics.apgr(share, quality, one(0.4), one(0.8))[0] == pytest.approx(0.65)
        assert metrics.cpt(share, quality, one(0.4), one(0.8), 0.5)[0] == pytest.approx(0.3125)
        assert metrics.cpt(share, quality, one(0.4), one(0.8), 0.8)[0] == pytest.approx(0.5)

    def test_can_exceed_one_when_the_weak_target_is_right_where_the_strong_is_not(self) -> None:
        assert metrics.apgr(row(0.1, 0.9), row(0.95, 0.95), one(0.4), one(0.8))[0] > 1.0

    def test_is_not_defined_when_strong_is_no_better(self) -> None:
        assert np.isnan(metrics.apgr(row(0.5), row(0.6), one(0.8), one(0.8))[0])
        assert np.isnan(metrics.cpt(row(0.5), row(0.6), one(0.8), one(0.7), 0.5)[0])


class TestRankScores:
    def test_routerarena_by_hand(self) -> None:
        # USD 1 per 1,000 queries: log2(200) / log2(200 / .0044) of the way up
        cheap = np.log(200.0) / np.log(200.0 / 0.0044)
        want = 1.1 * 0.7 * cheap / (0.1 * 0.7 + cheap)
        assert metrics.routerarena(one(0.7), one(0.001))[0] == pytest.approx(want)

    def test_cost_outside_the_bounds_is_clipped(self) -> None:
        assert metrics.log_cheapness(np.array([1e-9, 300.0, 0.0]), 0.0044, 200.0).tolist() == [1.0, 0.0, 1.0]
        assert metrics.routerarena(one(0.9), one(1.0))[0] == 0.0

    def test_beta_weighs_quality_not_its_square(self) -> None:
        assert metrics.rank_score(one(0.5), one(1.0))[0] == pytest.approx(1.1 * 0.5 / 1.05)
        assert metrics.rank_score(one(0.0), one(0.0))[0] == 0.0

    def test_vl_rank_uses_each_datasets_own_bounds(self) -> None:
        quality, cost = row(0.8, 0.8), row(1.0, 100.0)
        low, high = row(1.0, 100.0), row(4.0, 400.0)
        assert metrics.vl_rank(quality, cost, low, high)[0] == pytest.approx(1.1 * 0.8 / 1.08)

    def test_vl_rank_leaves_out_a_dataset_where_all_cost_the_same(self) -> None:
        both = metrics.vl_rank(row(0.8, 0.1), row(1.0, 5.0), row(1.0, 5.0), row(4.0, 5.0))
        assert both[0] == pytest.approx(1.1 * 0.8 / 1.08)
        assert np.isnan(metrics.vl_rank(row(0.8), row(5.0), row(5.0), row(5.0))[0])
