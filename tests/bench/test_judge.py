"""Figures of one policy on four queries, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.bench.judge import Frame, judge
from junctor.bench.references import Curve, gathered
from junctor.bench.resample import Resamples
from junctor.outcomes import OutcomeTable
from junctor.policy import Sweep
from junctor.types import Catalogue

QUALITY = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
COST = np.array([[4.0, 1.0]] * 4)


def frame(labels: bool = True, quality: np.ndarray = QUALITY, billed: bool = True) -> Frame:
    table = OutcomeTable(
        list("abcd"),
        Catalogue.of(["dear", "cheap"]),
        quality,
        COST,
        labels={"task": ["p", "p", "q", "q"]} if labels else {},
        label_name="task" if labels else "",
    )
    return Frame(table, Resamples(np.ones((3, 4), dtype=np.uint8)), best_single=0, strong=0, weak=1, billed=billed)


def curve(at: Frame, operating: int = 0) -> Curve:
    """Three settings: always dear, the right one each time, always cheap."""
    choices = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
    return gathered(at.table, Sweep(np.array([0.0, 1.0, 2.0]), choices, np.ones(choices.shape)), operating, strong=0)


def value(figures: dict[str, np.ndarray], metric: str) -> float:
    return float(figures[metric][0])


def test_every_figure_at_the_operating_point_and_along_the_curve() -> None:
    at = frame()
    figures = dict(judge(curve(at, operating=1), at).figures)
    assert value(figures, "quality") == 1.0
    assert value(figures, "cost_usd") == 2.5
    assert value(figures, "oracle_gap_closed") == 1.0
    assert value(figures, "peak") == 1.0
    # hull: (1, .5) to (2.5, 1), flat to 4
    assert value(figures, "aiq") == pytest.approx((1.5 * 0.75 + 1.5) / 3)
    # joined as it is: it falls to .75 at 4
    assert value(figures, "area") == pytest.approx((1.5 * 0.75 + 1.5 * 0.875) / 3)
    assert value(figures, "aiq_released") == pytest.approx((1.5 * 0.75 + 1.5) / 4)
    assert value(figures, "qnc") == pytest.approx(2.5 / 4)
    assert value(figures, "cost_at_equal_quality") == pytest.approx(1.75)
    # strong is called on half of the queries and all of the gap is closed twice over: PGR 0, 2, 1
    assert value(figures, "apgr") == pytest.approx(0.5 * 1 + 0.5 * 1.5)
    assert value(figures, "cpt50") == pytest.approx(0.125)


def test_macro_mean_weighs_datasets_alike() -> None:
    at = frame(quality=np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    found = judge(curve(at), at)
    assert value(dict(found.figures), "quality_macro") == pytest.approx((1.0 + 0.5) / 2)
    assert found.per_dataset == {"p": 1.0, "q": 0.5}


def test_without_labels_there_is_no_macro_mean_but_a_rank_score_over_the_whole_set() -> None:
    at = frame(labels=False)
    found = judge(curve(at), at)
    assert "quality_macro" not in found.figures
    assert found.per_dataset == {}
    assert np.isfinite(found.figures["vl_rank"]).all()


def test_shares_that_stand_in_for_costs_give_no_cost_figure() -> None:
    at = frame(billed=False)
    figures = judge(curve(at), at).figures
    assert "apgr" in figures
    assert not {"cost_usd", "aiq", "routerarena"} & set(figures)


def test_a_single_point_has_no_curve_figure() -> None:
    at = frame()
    figures = judge(Curve(at.table.quality[:, :1].T, COST[:, :1].T), at).figures
    assert "quality" in figures
    assert not {"aiq", "area", "peak", "qnc", "apgr"} & set(figures)


def test_choices_that_were_not_recorded_are_counted() -> None:
    holes = QUALITY.copy()
    holes[0, 0] = np.nan
    at = frame(quality=holes)
    found = judge(curve(at), at)
    assert found.recorded == 0.75
    assert value(dict(found.figures), "quality") == pytest.approx(2 / 3)
