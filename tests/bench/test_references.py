"""Oracle, zero router and random, on tables small enough to check by eye."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.bench.references import Curve, both_ways, gathered, mirrored, oracle, oracle_choices, random_choice, zero_router
from junctor.bench.seedrun import best_single, operating_point
from junctor.outcomes import OutcomeTable
from junctor.policy import Sweep
from junctor.types import Catalogue


def small(cost: bool = True, quality: list[list[float]] | None = None) -> OutcomeTable:
    q = np.array(quality or [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.2, 0.9, 1.0], [0.0, 1.0, np.nan]])
    c = np.array([[3.0, 2.0, 1.0]] * len(q))
    return OutcomeTable(["a", "b", "c", "d"][: len(q)], Catalogue.of(["x", "y", "z"]), q, c if cost else None)


def test_oracle_takes_the_best_then_the_cheapest_and_pays_the_cheapest_when_all_fail() -> None:
    assert oracle_choices(small()).tolist() == [1, 2, 2, 1]


def test_oracle_never_takes_an_unrecorded_cell() -> None:
    table = small()
    for price in (0.0, 0.1, 10.0, np.inf):
        assert table.mask[np.arange(4), oracle_choices(table, price)].all()


def test_oracle_gives_up_quality_when_its_price_is_too_high() -> None:
    assert oracle_choices(small(), 0.05).tolist() == [1, 2, 2, 1]
    assert oracle_choices(small(), 2.0)[0] == 2


def test_oracle_without_costs_is_one_point() -> None:
    curve = oracle(small(cost=False))
    assert curve.quality.shape == (1, 4)
    assert curve.cost_usd is None
    assert not curve.knob


def test_oracle_curve_runs_from_all_quality_to_the_cheapest_calls() -> None:
    curve = oracle(small())
    assert curve.cost_usd is not None
    assert curve.quality[0].mean() == pytest.approx(0.75)
    assert curve.cost_usd[-1].tolist() == [1.0, 1.0, 1.0, 2.0]
    assert (np.diff(curve.cost_usd.mean(axis=1)) <= 1e-12).all()


def test_zero_router_is_made_of_the_single_targets() -> None:
    curve = zero_router(small(), operating=1)
    assert curve.quality.shape == (3, 4)
    assert np.nanmean(curve.quality[1]) == pytest.approx(2.9 / 4)
    assert curve.mixed
    assert curve.operating == 1


def test_random_is_the_expectation_over_recorded_targets() -> None:
    curve = random_choice(small())
    assert curve.quality[0] == pytest.approx([2 / 3, 0.0, 0.7, 0.5])
    assert curve.strong is None


def test_swept_both_ways_the_oracle_reaches_every_share_of_strong_calls() -> None:
    table = small(quality=[[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]).only(["x", "y"])
    priced = replace(table, cost_usd=np.array([[1.0, 0.0]] * 3))
    joined = both_ways(oracle(priced, 0), oracle(mirrored(priced), 0))
    assert joined.strong is not None
    points = set(zip(joined.strong.mean(axis=1).round(3).tolist(), joined.quality.mean(axis=1).round(3).tolist(), strict=True))
    # strong only where it is needed; on the tie too; everywhere; nowhere
    assert points == {(0.333, 1.0), (0.667, 1.0), (1.0, 0.667), (0.0, 0.667)}


def test_gathered_reads_the_chosen_cells_and_the_share_of_strong_calls() -> None:
    sweep = Sweep(np.array([0.0, 1.0]), np.array([[0, 1, 2, 1], [0, 0, 0, 0]]), np.ones((2, 4)))
    curve = gathered(small(), sweep, strong=0)
    assert curve.quality.tolist() == [[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.2, 0.0]]
    assert curve.strong is not None
    assert curve.strong.mean(axis=1).tolist() == [0.25, 1.0]
    assert curve.knob


def test_operating_point_is_the_best_affordable_setting_and_the_cheapest_of_equals() -> None:
    quality = np.array([[0.9], [0.8], [0.8], [0.1]])
    cost = np.array([[9.0], [5.0], [4.0], [1.0]])
    curve = Curve(quality, cost, knob=True)
    assert operating_point(curve, 6.0) == 2
    assert operating_point(curve, 9.0) == 0
    assert operating_point(curve, 0.5) == 3


def test_best_single_counts_rows_or_datasets() -> None:
    table = OutcomeTable(
        list("abcd"),
        Catalogue.of(["rows", "sets"]),
        np.array([[1.0, 0.6], [1.0, 0.6], [1.0, 0.6], [0.0, 0.9]]),
        labels={"dataset": ["p", "p", "p", "q"]},
        label_name="dataset",
    )
    assert best_single(table, macro=False) == 0
    assert best_single(table, macro=True) == 1
