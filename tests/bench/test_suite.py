"""The suite on small planted tables: resumed, in parallel, with failures and plug-ins, and in agreement with a single bench."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from junctor import registry
from junctor.bench import experiments, sets, store, suite
from junctor.bench.prepared import Run
from junctor.bench.protocol import run_bench
from junctor.bench.sets import PublishedSet
from junctor.bench.suite_board import suite_board
from junctor.bench.suite_document import SuiteBoard, Table, load_suite
from junctor.bench.suite_markdown import write_board
from junctor.bench.suite_page import render_suite
from junctor.errors import TableError, UnknownName, UserError
from junctor.outcomes.writing import write_table
from junctor.testing.planted import planted

pytestmark = pytest.mark.slow  # as a whole: `make check` is an inner loop

ROWS = 240
NAMES = ("mean", "knn", "label-table", "best-single")


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted table as a user's file."""
    path = tmp_path_factory.mktemp("sets") / "planted.parquet"
    write_table(planted(ROWS)[0], path)
    return path


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a handful of registered parts take part, so that a test takes seconds."""
    kept = (*NAMES, "random", "cheapest", "linear", "kmeans-table")
    parts = experiments.Participants({n: found for n, found in experiments.participants().needs.items() if n in kept}, {})
    for module in (experiments, suite):
        monkeypatch.setattr(module, "participants", lambda: parts)


def asked(out: Path, **given: Any) -> Run:
    return Run(**{"data": "", "out": str(out), "encoder": "lexical", "seeds": 2, "resamples": 30, **given})


def run(out: Path, path: Path, *names: str, jobs: int = 1, **given: Any) -> tuple[suite.Planned, SuiteBoard]:
    planned = suite.plan(asked(out, **given), [sets.of_file(path)], names or ("standard",), NAMES)
    return planned, suite_board(planned, suite.run_suite(planned, jobs=jobs))


def only(board: SuiteBoard, experiment: str = "standard") -> Table:
    (table,) = board.of(experiment)
    return table


@pytest.mark.slow
def test_a_rerun_fits_nothing_and_says_the_same(
    few: None, table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, first = run(tmp_path, table_file)
    assert suite.missing_units(planned) == []

    def never(*_: object) -> None:
        raise AssertionError("a unit was run again")

    monkeypatch.setattr(suite, "run_unit", never)
    _, second = run(tmp_path, table_file)
    assert first == second


@pytest.mark.slow
def test_what_a_figure_depends_on_is_in_the_key(few: None, table_file: Path, tmp_path: Path) -> None:
    planned, _ = run(tmp_path, table_file)
    for change in ({"seeds": 3}, {"resamples": 40}, {"encoder": "static"}, {"quick": True}):
        other = suite.plan(asked(tmp_path, **change), [sets.of_file(table_file)], ("standard",), NAMES)
        assert set(other.keys.values()).isdisjoint(planned.keys.values()), change
    moved = tmp_path / "other.parquet"
    write_table(planted(ROWS, seed=1)[0], moved)
    assert sets.of_file(moved).digest(Path()) != sets.of_file(table_file).digest(Path())


@pytest.mark.slow
def test_a_damaged_or_half_written_result_is_made_again(few: None, table_file: Path, tmp_path: Path) -> None:
    planned, board = run(tmp_path, table_file)
    folder = tmp_path / "standard" / "planted"
    (folder / "knn.json").write_text("{")
    (folder / "mean.npz").unlink()
    assert {unit.policy for unit in suite.missing_units(planned)} == {"knn", "mean"}
    _, again = run(tmp_path, table_file)
    assert only(again).find("knn") is not None
    assert _without_times(again) == _without_times(board)


def _without_times(board: SuiteBoard) -> Any:
    """Everything but seconds and microseconds."""
    found = json.loads(msgspec.json.encode(board))
    found["seconds"] = 0
    for table in found["tables"]:
        for row in table["rows"]:
            row["seconds"] = 0
            row["figures"] = {k: v for k, v in row.get("figures", {}).items() if k != "fit_s" and not k.startswith("decide")}
    return found


@pytest.mark.slow
def test_two_jobs_give_exactly_the_board_of_one(table_file: Path, tmp_path: Path) -> None:
    names = ("standard", "ood", "onboarding", "ood+onboarding")
    _, one = run(tmp_path / "one", table_file, *names, jobs=1)
    _, two = run(tmp_path / "two", table_file, *names, jobs=2)
    assert {table.experiment for table in one.tables} == set(names)
    assert _without_times(one) == _without_times(two)


@pytest.mark.slow
def test_figures_and_paired_intervals_are_those_of_a_single_bench(
    few: None, table_file: Path, tmp_path: Path, made: Callable[..., Any]
) -> None:
    """With an out-of-distribution split beside the test split, too."""
    for path in (table_file, tmp_path / "made.parquet"):
        if not path.exists():
            write_table(replace(made(), split=None), path)
        _, board = run(tmp_path / "out", path, resamples=60)
        from junctor.outcomes.reading import read_table

        alone = run_bench(
            read_table(path), policies=NAMES, encoder="lexical", seeds=2, resamples=60, timing_calls=0, dataset="planted"
        )
        table = only(board)
        assert (table.headline, table.best_bar) == (alone.headline, alone.best_bar)
        compared = 0
        for row in alone.rows:
            standing = table.find(row.policy)
            if standing is None or row.metric == "fit_s":
                continue
            figure = standing.vs_best_bar if row.metric == "vs_best_bar" else standing.figures[row.metric]
            assert figure == pytest.approx((row.value, row.low, row.high), rel=1e-5, abs=1e-9), (row.policy, row.metric)
            compared += 1
        assert compared > 40


def test_a_recorded_split_is_judged_on_all_its_sides(few: None, tmp_path: Path, made: Callable[..., Any]) -> None:
    path = tmp_path / "made.parquet"
    write_table(made(), path)
    _, board = run(tmp_path / "out", path)
    assert {table.side for table in board.of("standard")} == {"", "ood_test"}
    for table in board.of("standard"):
        assert table.find("knn") is not None
        assert table.best_bar


@pytest.mark.slow
def test_a_unit_that_fails_is_recorded_and_stops_nobody(
    few: None, table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from junctor.estimators.knn import KNNConfig

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(KNNConfig, "fit", broken)
    planned, board = run(tmp_path, table_file)
    row = only(board).find("knn")
    assert row is not None
    assert row.status == "failed"
    assert "ZeroDivisionError: planted" in row.why
    assert board.failed == 1
    assert only(board).find("mean") is not None
    assert [unit.policy for unit in suite.missing_units(planned)] == ["knn"], "a failure is tried again"
    assert "failed" in render_suite(board)


def test_a_unit_that_takes_too_long_is_given_up(
    few: None, table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from junctor.estimators.mean import MeanConfig

    monkeypatch.setattr(MeanConfig, "fit", lambda *_: time.sleep(30))
    planned = suite.plan(asked(tmp_path, limit_s=0.2), [sets.of_file(table_file)], ("standard",), ("mean",))
    (unit,) = (unit for unit in planned.units if unit.policy == "mean")
    record = suite.run_unit(planned.run, planned.sets["planted"], unit, planned.keys[unit])
    assert record.status == store.FAILED
    assert "longer than" in record.why


@pytest.mark.slow
def test_a_policy_that_cannot_answer_says_why(few: None, table_file: Path, tmp_path: Path) -> None:
    planned = suite.plan(asked(tmp_path), [sets.of_file(table_file)], ("onboarding",), ("mean",))
    assert "best-single" not in {unit.policy for unit in planned.units}, "it has no way to onboard"


@pytest.mark.slow
def test_a_plugin_takes_part_and_one_that_needs_a_setting_is_named(
    table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = registry.Entry("estimator", "borrowed", "junctor.estimators.mean:MeanConfig", "somebody else's")
    monkeypatch.setattr(registry, "BUILTIN", (*registry.BUILTIN, line))
    registry.forget()
    experiments.participants.cache_clear()
    try:
        planned = suite.plan(asked(tmp_path), [sets.of_file(table_file)], ("standard",), ("borrowed",))
        board = suite_board(planned, suite.run_suite(planned, jobs=1))
        assert only(board).find("borrowed") is not None
        assert "fixed" in experiments.participants().left_out
        assert "utility" in experiments.participants().left_out
    finally:
        monkeypatch.undo()
        registry.forget()
        experiments.participants.cache_clear()


@pytest.mark.slow
def test_labels_are_seen_only_by_who_asks_for_them(
    few: None, table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from junctor.estimators.knn import KNN

    seen: list[bool] = []
    predict = KNN.predict_many

    def spying(self: KNN, features: Any) -> Any:
        seen.append(bool(features.labels))
        return predict(self, features)

    monkeypatch.setattr(KNN, "predict_many", spying)
    _, board = run(tmp_path, table_file, "standard", "ood", "onboarding")
    assert seen
    assert not any(seen)
    table = only(board)
    known, blind = table.find("label-table"), table.find("mean")
    assert known is not None
    assert blind is not None
    assert known.figures["aiq"][0] > blind.figures["aiq"][0] + 0.02, "it reads labels, so it must see them"


@pytest.mark.slow
def test_unseen_datasets_cost_the_label_table_its_lead(few: None, table_file: Path, tmp_path: Path) -> None:
    _, board = run(tmp_path, table_file, "ood")
    table = only(board, "ood")
    known, blind = table.find("label-table"), table.find("mean")
    assert known is not None
    assert blind is not None
    assert known.figures["aiq"][0] == pytest.approx(blind.figures["aiq"][0], abs=1e-6)


@pytest.mark.slow
def test_onboarding_comes_between_not_knowing_and_fitting_anew(few: None, table_file: Path, tmp_path: Path) -> None:
    _, board = run(tmp_path, table_file, "onboarding", seeds=3)
    row = only(board, "onboarding").find("label-table")
    assert row is not None
    figures = {name: figure[0] for name, figure in row.figures.items()}
    assert figures["without"] < figures["onboarded"] <= figures["full"] + 0.02
    assert figures["calibration_usd"] > 0
    assert row.curves["onboarding"]["n"] == [50, 100]


@pytest.mark.slow
def test_the_board_can_be_read_back_and_shown(few: None, table_file: Path, tmp_path: Path) -> None:
    _, board = run(tmp_path / "out", table_file, "standard", "onboarding")
    written = write_board(board, tmp_path / "board")
    assert {path.name for path in written} >= {"board.json", "index.html", "README.md", "planted.svg"}
    assert load_suite(tmp_path / "board" / "board.json") == board
    page, text = (tmp_path / "board" / "index.html").read_text(), (tmp_path / "board" / "README.md").read_text()
    for said in ("clears the cheap bars?", "label-table", "Onboarding unseen targets", "mean rank"):
        assert said.lower() in page.lower()
        assert said.lower() in text.lower()
    assert "<svg" in page
    assert "var(--" not in (tmp_path / "board" / "planted.svg").read_text()
    assert "/tmp" not in page.replace(str(tmp_path), "/tmp"), "no path of this machine"
    (tmp_path / "board" / "board.json").write_text('{"tables": 3}')
    with pytest.raises(TableError, match="not a suite's board"):
        load_suite(tmp_path / "board" / "board.json")


@pytest.mark.slow
def test_verdicts_follow_the_paired_interval(few: None, table_file: Path, tmp_path: Path) -> None:
    _, board = run(tmp_path, table_file, resamples=100)
    table = only(board)
    for row in table.rows:
        if row.vs_best_bar is None:
            assert row.clears_the_cheap_bars in ("bar", "reference", "")
            continue
        _, low, high = row.vs_best_bar
        wanted = "yes" if low > 0 else "no" if high < 0 else "tied"
        assert row.clears_the_cheap_bars in (wanted, "reference"), row.policy
    assert table.best_bar == "label-table"
    assert table.best_blind_bar in ("knn", "linear", "kmeans-table")
    ranks = [row.rank for row in table.rows if row.rank is not None]
    assert sorted(ranks) == ranks


def test_absent_sets_are_named_and_mistakes_are_typed(tmp_path: Path, table_file: Path, few: None) -> None:
    lost = PublishedSet("lost", "A lost set", ("nowhere.parquet",), "junctor.bench.sets.matrices:own")
    planned = suite.plan(asked(tmp_path), [lost, sets.of_file(table_file)], ("standard",), NAMES)
    assert "nowhere.parquet is not in" in planned.absent["lost"]
    with pytest.raises(UserError, match="no set can be used"):
        suite.plan(asked(tmp_path), [lost])
    with pytest.raises(UnknownName, match="onboarding"):
        suite.plan(asked(tmp_path), [sets.of_file(table_file)], ("onboardin",))
    with pytest.raises(UnknownName, match="knn"):
        suite.plan(asked(tmp_path), [sets.of_file(table_file)], ("standard",), ("knnn",))
    with pytest.raises(UnknownName, match="neither a published set nor a file"):
        sets.chosen(["routerdc"])
    with pytest.raises(TableError, match="is not a folder"):
        sets.data_folder(tmp_path / "nope")


def test_an_experiment_that_is_not_there_is_reported(
    few: None, table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(experiments.EXPERIMENTS, "later", "junctor.bench.later:Later")
    planned = suite.plan(asked(tmp_path), [sets.of_file(table_file)], ("standard", "later"), NAMES)
    assert "No module named" in planned.unloaded["later"]
    assert {unit.experiment for unit in planned.units} == {"standard"}


def test_the_longest_first_and_what_belongs_together_in_a_row(few: None, table_file: Path, tmp_path: Path) -> None:
    planned = suite.plan(asked(tmp_path), [sets.of_file(table_file)], ("standard", "ood"), NAMES)
    left = suite.missing_units(planned)
    groups = [unit.experiment for unit in left]
    assert groups == sorted(groups, key=groups.index), "an experiment's units follow each other"
    guesses = [suite.guessed_seconds(planned, unit) for unit in left if unit.experiment == groups[0]]
    assert guesses == sorted(guesses, reverse=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_board(table_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    planned = suite.plan(asked(tmp_path / "ray"), [sets.of_file(table_file)], ("standard",), NAMES)
    spread = suite_board(planned, suite.run_suite(planned, jobs=2, engine="ray"))
    _, alone = run(tmp_path / "alone", table_file)
    assert _without_times(spread) == _without_times(alone)


def test_few_rows_of_every_side(made: Callable[..., Any]) -> None:
    from junctor.bench.prepared import QUICK_ROWS, _few

    table = made(rows=2000)
    small = _few(table)
    assert abs(len(small) - QUICK_ROWS) < 20
    assert set(small.split or ()) == set(table.split)
    assert np.array_equal(_few(table).quality, small.quality)
