"""run_bench on a small world: what is on the board, what is left out, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from junctor.bench import seedrun
from junctor.bench.document import METRICS, Board, board_document
from junctor.bench.prepare import check, chosen_policies, with_usable_costs
from junctor.bench.protocol import run_bench, splits_of
from junctor.errors import TableError, UnknownName, UserError
from junctor.fitting import config_with, fit_policy, policy_config
from junctor.outcomes import OutcomeTable

COST_METRICS = {
    "cost_usd",
    "aiq",
    "aiq_released",
    "area",
    "hypervolume",
    "qnc",
    "peak",
    "routerarena",
    "vl_rank",
    "cost_at_equal_quality",
}


Made = Callable[..., OutcomeTable]


def bench(table: OutcomeTable, **given: Any) -> Board:
    return run_bench(table, **{"encoder": "lexical", "seeds": 2, "resamples": 200, "timing_calls": 5, **given})


def metrics_of(board: Board, policy: str) -> set[str]:
    return {row.metric for row in board.rows if row.policy == policy}


def test_all_bars_and_references_are_on_the_board(board: Board) -> None:
    expected = {"random", "cheapest", "best-single", "label-table", "zero-router", "knn", "linear", "kmeans-table", "oracle"}
    assert set(board.policies()) == expected
    assert board.judged == ("knn", "linear", "kmeans-table")


def test_a_policy_that_reads_the_text_finds_the_right_target(board: Board) -> None:
    saved = board.value("knn", "cost_usd"), board.value("best-single", "cost_usd")
    assert saved[0] is not None
    assert saved[1] is not None
    assert saved[0] < 0.7 * saved[1]
    assert board.best_single == "big"
    assert (board.value("knn", "aiq") or 0) > (board.value("zero-router", "aiq") or 1) + 0.05


def test_the_oracle_bounds_everything(board: Board) -> None:
    for metric in ("quality", "aiq", "oracle_gap_closed"):
        top = board.value("oracle", metric)
        assert top is not None
        assert all(row.value <= top + 1e-9 for row in board.rows if row.metric == metric)
    assert board.value("oracle", "oracle_gap_closed") == pytest.approx(1.0)
    assert board.value("best-single", "oracle_gap_closed") == pytest.approx(0.0)


def test_figures_lie_in_their_intervals_and_are_known_metrics(board: Board) -> None:
    for row in board.rows:
        assert row.metric in METRICS
        assert row.low <= row.value <= row.high
        assert all(map(math.isfinite, (row.low, row.value, row.high)))


def test_policies_without_a_knob_have_no_curve_metric(board: Board) -> None:
    for policy in ("random", "cheapest", "best-single"):
        assert not metrics_of(board, policy) & {"aiq", "area", "hypervolume", "qnc", "peak"}
        assert {"quality", "cost_usd"} <= metrics_of(board, policy)


def test_differences_are_to_the_best_bar(board: Board) -> None:
    assert board.best_bar
    assert board.find(board.best_bar, "vs_best_bar") is None
    for policy in ("knn", "zero-router"):
        row = board.find(policy, "vs_best_bar")
        if row is not None:
            gap = (board.value(policy, "aiq") or 0) - (board.value(board.best_bar, "aiq") or 0)
            assert row.value == pytest.approx(gap)


def test_deciding_and_fitting_are_timed_where_something_is_fitted(board: Board) -> None:
    assert {"decide_us_p50", "decide_us_p99", "fit_s"} <= metrics_of(board, "knn")
    assert not {"decide_us_p50", "fit_s"} & metrics_of(board, "oracle")


def test_other_splits_are_judged_apart_with_the_same_policies(board: Board, made: Made) -> None:
    part = board.extra_splits["ood_test"]
    assert part.queries == sum(s == "ood_test" for s in made().split or ())
    assert {row.policy for row in part.rows} == set(board.policies())
    assert not {"fit_s", "decide_us_p50"} & {row.metric for row in part.rows}


def test_per_dataset_means_add_up_to_the_macro_mean(board: Board) -> None:
    for policy in board.policies():
        assert np.mean(list(board.per_dataset[policy].values())) == pytest.approx(board.value(policy, "quality_macro"))


def test_the_board_names_its_data_but_not_where_it_lies(board: Board, made: Made) -> None:
    assert board.data["source"] == "made.parquet"
    assert "/somewhere" not in str(board_document(board))
    assert board.data["digest"] == made().digest()


def test_tuning_is_reported_per_seed(board: Board) -> None:
    knn = next(t for t in board.tuned if t.policy == "knn")
    assert knn.tried > 1
    assert len(knn.settings) == board.seeds
    assert all("k" in settings for settings in knn.settings)


@pytest.mark.slow
def test_same_run_same_figures_but_for_times(made: Made) -> None:
    first, second = (bench(made(120), policies=["knn"]) for _ in range(2))
    timed = {"fit_s", "decide_us_p50", "decide_us_p99"}
    assert [r for r in first.rows if r.metric not in timed] == [r for r in second.rows if r.metric not in timed]


@pytest.mark.slow
def test_naming_more_policies_does_not_change_the_others(made: Made) -> None:
    few, more = bench(made(120), policies=["knn"], seeds=1), bench(made(120), policies=["knn", "mean"], seeds=1)
    assert few.find("knn", "quality") == more.find("knn", "quality")
    assert more.judged == ("knn", "mean")


@pytest.mark.slow
def test_test_outcomes_do_not_reach_what_is_fitted_or_chosen(made: Made) -> None:
    """Turning the test rows' outcomes upside down changes figures, but neither settings nor operating costs."""
    table = made(120)
    test = np.array([s == "test" for s in table.split or ()])
    turned = replace(table, quality=np.where(test[:, None], 1.0 - table.quality, table.quality))
    first, second = bench(table, policies=["knn"]), bench(turned, policies=["knn"])
    assert first.tuned == second.tuned
    assert first.value("knn", "cost_usd") == second.value("knn", "cost_usd")
    assert first.value("knn", "quality") != second.value("knn", "quality")


@pytest.mark.slow
def test_without_costs_no_cost_metric_has_a_row(made: Made) -> None:
    board = bench(made(120, costs=False))
    assert not {row.metric for row in board.rows} & COST_METRICS
    assert "cheapest" not in board.policies()
    assert board.headline == "quality"
    assert any("quality alone" in note for note in board.notes)


@pytest.mark.slow
def test_without_labels_no_macro_mean_and_no_label_table(made: Made) -> None:
    board = bench(made(120, labels=False))
    assert "label-table" not in board.policies()
    assert not any(row.metric == "quality_macro" for row in board.rows)
    assert board.per_dataset == {}


def test_two_targets_without_costs_are_swept_by_share_of_strong_calls(made: Made) -> None:
    table = made(240, costs=False).only(["big", "bard"])
    board = bench(table)
    assert board.headline == "apgr"
    assert board.value("random", "apgr") == pytest.approx(0.5, abs=0.03)
    assert (board.value("knn", "apgr") or 0) > 0.55
    assert {"cpt50", "cpt80"} <= metrics_of(board, "knn")
    assert not {row.metric for row in board.rows} & COST_METRICS


def test_two_targets_with_costs_have_both_kinds_of_figure(made: Made) -> None:
    board = bench(made(240).only(["big", "bard"]))
    assert {"apgr", "aiq", "cost_usd"} <= metrics_of(board, "knn")


def test_more_than_two_targets_have_no_apgr(board: Board) -> None:
    assert not any(row.metric in {"apgr", "cpt50", "cpt80"} for row in board.rows)


def test_twenty_seeds_under_a_thousand_test_rows_and_each_ratio_split_differs(made: Made) -> None:
    splits = splits_of(made(200), "60/20/20", None)
    assert len(splits) == 20
    assert len({tuple(parts.test.tolist()) for parts in splits}) == 20
    assert len(splits_of(made(200), "60/20/20", 3)) == 3


def test_five_seeds_over_a_thousand_test_rows_and_a_recorded_test_split_stays(made: Made) -> None:
    splits = splits_of(made(4200), None, None)
    assert len(splits) == 5
    assert len({tuple(parts.test.tolist()) for parts in splits}) == 1
    assert len({tuple(parts.validation.tolist()) for parts in splits}) == 5


def test_a_ratio_split_is_run_without_timing_when_that_is_wanted(made: Made) -> None:
    board = bench(made(90), policies=["mean"], split="60/20/20", seeds=2, timing_calls=0)
    assert board.find("mean", "decide_us_p50") is None
    assert board.find("mean", "fit_s") is not None
    assert board.extra_splits == {}


def test_progress_is_told_what_is_done(made: Made) -> None:
    seen: list[tuple[str, int, int]] = []
    bench(made(120), policies=["knn"], progress=lambda *step: seen.append(step))
    assert any(what.startswith("seed 2: knn") for what, _, _ in seen)
    fitting = [(done, total) for what, done, total in seen if what.startswith("seed")]
    assert fitting == [(i, len(fitting)) for i in range(len(fitting))]


class TestBadInput:
    def test_one_target(self, made: Made) -> None:
        with pytest.raises(TableError, match="one target only"):
            bench(made(60).only(["big"]))

    def test_fewer_than_two_usable_rows(self, made: Made) -> None:
        table = made(60)
        with pytest.raises(TableError, match="1 rows with a recorded quality"):
            bench(replace(table, quality=np.where(np.arange(60)[:, None] == 7, table.quality, np.nan)))

    def test_nothing_to_compare(self, made: Made) -> None:
        table = made(60, costs=False)
        with pytest.raises(TableError, match="nothing to compare"):
            bench(replace(table, quality=np.ones_like(table.quality)))

    def test_equal_quality_at_different_cost_is_worth_comparing(self, made: Made) -> None:
        table = made(60)
        check(replace(table, quality=np.ones_like(table.quality)))

    def test_too_few_test_rows(self, made: Made) -> None:
        table = made(60)
        alone = ["test" if i == 3 else "train" for i in range(60)]
        with pytest.raises(TableError, match="1 usable test rows"):
            bench(replace(table, split=alone))

    def test_no_policy_named(self, made: Made) -> None:
        with pytest.raises(UserError, match="names no policy"):
            bench(made(60), policies=[])

    def test_unknown_policy(self, made: Made) -> None:
        with pytest.raises(UnknownName, match="knnn"):
            bench(made(60), policies=["knnn"])

    def test_no_seed(self, made: Made) -> None:
        with pytest.raises(TableError, match="repetitions"):
            bench(made(60), seeds=0)


def test_costs_that_are_mostly_missing_are_not_used_and_it_says_so(made: Made) -> None:
    table = made(60)
    assert table.cost_usd is not None
    gaps = table.cost_usd.copy()
    gaps[:, 1] = np.nan
    without, notes = with_usable_costs(replace(table, cost_usd=gaps))
    assert without.cost_usd is None
    assert "67%" in notes[0]
    assert "small" in notes[0]
    assert with_usable_costs(table)[1] == []


def test_costs_that_are_all_alike_are_not_used(made: Made) -> None:
    table = made(60)
    without, notes = with_usable_costs(replace(table, cost_usd=np.full(table.quality.shape, 0.2)))
    assert without.cost_usd is None
    assert "cost the same" in notes[0]


def test_naming_a_reference_does_not_fit_it(made: Made) -> None:
    asked, fitted = chosen_policies(made(60), ["oracle", "knn"])
    assert asked == ("oracle", "knn")
    assert "oracle" not in fitted


def test_described_targets_bring_the_policy_that_reads_descriptions(made: Made) -> None:
    table = made(60, costs=False)
    described = replace(table, targets=type(table.targets)([*(replace_description(t) for t in table.targets)]))
    assert "similarity" in chosen_policies(described, None)[0]
    assert "similarity" not in chosen_policies(table, None)[0]


def replace_description(target: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(target, description="good at it")


def test_a_policy_that_reads_descriptions_uses_the_encoder_of_the_run() -> None:
    assert config_with("similarity", "lexical").settings()["estimator_settings"]["encoder"] == "lexical"
    assert config_with("knn", "lexical").settings() == policy_config("knn").settings()


def test_a_bar_that_cannot_be_fitted_is_left_out_with_a_note_but_not_one_that_was_asked_for(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(config: Any, *given: Any, **more: Any) -> Any:
        if config.settings().get("estimator") == "linear":
            raise UserError("cannot be fitted today", field="linear")
        return fit_policy(config, *given, **more)

    monkeypatch.setattr(seedrun, "fit_policy", failing)
    board = bench(made(90), policies=["mean"], seeds=1)
    assert "linear" not in board.policies()
    assert any("linear is not on the board" in note for note in board.notes)
    with pytest.raises(UserError, match="today"):
        bench(made(90), policies=["linear"], seeds=1)
