"""read_table: every form of every file format, and every mistake named with its place and its fix."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from junctor.errors import MissingExtra, TableError
from junctor.outcomes import OutcomeTable, read_table
from junctor.types import Price

WIDE: dict[str, list[Any]] = {
    "query": ["2+2?", "a river?", "3+3?"],
    "dataset": ["maths", "geo", "maths"],
    "split": ["train", "train", "test"],
    "score:small": [1, 0, None],
    "score:large": [1.0, 1.0, 0.5],
    "cost_usd:small": [0.1, 0.2, None],
    "cost_usd:large": [1.0, 2.0, 3.0],
    "latency_s:large": [4.0, 5.0, 6.0],
}


def save(path: Path, columns: dict[str, list[Any]]) -> Path:
    frame = pl.DataFrame(columns, strict=False)
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_ndjson(path)
    return path


def refused(path: Path, **options: Any) -> TableError:
    with pytest.raises(TableError) as caught:
        read_table(path, **options)
    assert str(path) in caught.value.field, "the message must name the file"
    assert caught.value.fix, "the message must say what to do"
    return caught.value


def wide(tmp_path: Path, drop: str = "", **changes: list[Any]) -> Path:
    columns = {name: values for name, values in (WIDE | changes).items() if name != drop}
    return save(tmp_path / "wide.parquet", columns)


# --- wide -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl", "t.ndjson"])
def test_a_wide_table_reads_alike_from_every_format(tmp_path: Path, name: str) -> None:
    table = read_table(save(tmp_path / name, WIDE))
    assert table.texts == ["2+2?", "a river?", "3+3?"]
    assert table.targets.ids == ("small", "large")
    np.testing.assert_array_equal(table.quality, [[1, 1], [0, 1], [np.nan, 0.5]])
    assert table.cost_usd is not None
    np.testing.assert_array_equal(table.cost_usd, [[0.1, 1], [0.2, 2], [np.nan, 3]])
    assert table.latency_s is not None
    np.testing.assert_array_equal(table.latency_s, [[np.nan, 4], [np.nan, 5], [np.nan, 6]])
    assert table.energy_j is None
    assert table.split == ["train", "train", "test"]
    assert (table.label_name, table.label) == ("dataset", ["maths", "geo", "maths"])
    assert table.source == name


def test_true_and_false_are_one_and_zero(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("query,score:a\nx,True\ny,false\nz,\n")
    np.testing.assert_array_equal(read_table(path).quality, [[1], [0], [np.nan]])
    np.testing.assert_array_equal(read_table(save(tmp_path / "t.parquet", {"query": ["x"], "score:a": [True]})).quality, [[1]])


def test_ids_of_a_csv_keep_their_zeros_and_texts_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,query,score:a\n001,12,1\n002,1e3,0\n")
    table = read_table(path)
    assert table.ids == ("001", "002")
    assert table.texts == ["12", "1e3"]


def test_ids_that_repeat_are_no_ids(tmp_path: Path) -> None:
    path = save(tmp_path / "t.parquet", {"id": ["a", "a"], "query": ["x", "y"], "score:m": [1, 0]})
    assert read_table(path).ids == ("0", "1")


def test_the_text_and_the_label_can_be_named(tmp_path: Path) -> None:
    path = wide(tmp_path, body=["A", "B", "C"], topic=["t1", "t2", "t1"])
    table = read_table(path, text="body", label="topic")
    assert table.texts == ["A", "B", "C"]
    assert table.label == ["t1", "t2", "t1"]
    assert set(table.labels) == {"dataset", "topic"}


def test_texts_are_found_in_the_stated_order(tmp_path: Path) -> None:
    path = save(tmp_path / "t.parquet", {"text": ["no"], "prompt": ["yes"], "Query": ["no"], "score:m": [1]})
    assert read_table(path).texts == ["yes"]


def test_a_column_of_ids_is_no_label_unless_it_is_named(tmp_path: Path) -> None:
    rows = 60
    path = save(
        tmp_path / "t.parquet",
        {"query": ["q"] * rows, "task": [f"t{i}" for i in range(rows)], "group": ["g"] * rows, "score:m": [1] * rows},
    )
    assert read_table(path).label_name == "group"
    assert len(set(read_table(path, label="task").label)) == rows


def test_a_table_without_text_reads_and_each_row_is_its_own_group(tmp_path: Path) -> None:
    table = read_table(wide(tmp_path, drop="query"))
    assert table.texts == ["", "", ""]
    assert len(set(table.groups().tolist())) == 3
    assert "no text column" in table.notes[0]


def test_missing_texts_are_empty_and_counted(tmp_path: Path) -> None:
    table = read_table(wide(tmp_path, query=["x", None, "y"]))
    assert table.texts == ["x", "", "y"]
    assert table.notes == ("1 queries have no text",)


def test_nan_is_not_recorded_and_is_reported(tmp_path: Path) -> None:
    table = read_table(wide(tmp_path, **{"score:small": [float("nan"), None, 1.0]}))
    assert table.mask[:, 0].tolist() == [False, False, True]
    assert table.notes == ("1 values are NaN and count as not recorded (score:small)",)


def test_columns_of_no_known_measure_are_ignored_and_listed(tmp_path: Path) -> None:
    table = read_table(wide(tmp_path, **{"response_chars:small": [1, 2, 3], "response_chars:large": [1, 2, 3]}))
    assert table.notes == ("ignored columns: response_chars:* (2)",)


def test_one_target_and_repeated_queries_are_fine(tmp_path: Path) -> None:
    path = save(tmp_path / "t.parquet", {"query": ["same", "same"], "score:only": [1, 0]})
    assert read_table(path).quality.tolist() == [[1], [0]]


def test_another_split_column_can_be_named(tmp_path: Path) -> None:
    table = read_table(wide(tmp_path, fold=["dev", "train", "test"]), split="fold")
    assert table.split == ["dev", "train", "test"]
    assert table.split_name == "fold"


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"score:small": [1, 1.5, None]}, "score:small, row 2", "1.5 is outside [0, 1]"),
        ({"score:small": [-0.1, -0.2, 1]}, "score:small, row 1", "-0.1 is outside [0, 1] (and 1 more)"),
        ({"score:large": [1, float("inf"), 0]}, "score:large, row 2", "inf is infinite"),
        ({"cost_usd:large": [1, 2, -3]}, "cost_usd:large, row 3", "-3 is negative"),
        ({"score:small": ["1", "0", "n/a!"]}, "score:small, row 3", "'n/a!' is not a number"),
        ({"score:small": [[1], [2], [3]]}, "score:small", "not numbers"),
        ({"scroe:small": [1, 1, 1]}, "scroe:small", "no measure is called 'scroe'"),
        ({"quality:small": [1, 1, 1]}, "quality:small", "no measure is called 'quality'"),
        ({"latency:small": [1, 1, 1]}, "latency:small", "no measure is called 'latency'"),
        ({"cost_usd:smal": [1, 1, 1]}, "cost_usd:smal", "no score of this target"),
        ({"score:dead": [None, None, None]}, "dead", "no quality was recorded for it"),
        ({"query": [1, 2, 3]}, "query", "holds Int64, not text"),
        ({"split": [["train"], ["test"], None]}, "split", "holds List(String), not text"),
    ],
)
def test_a_bad_column_is_named_with_its_row(tmp_path: Path, changes: dict[str, list[Any]], where: str, message: str) -> None:
    options = {"text": "query"} if "query" in changes else {}
    error = refused(wide(tmp_path, **changes), **options)
    assert error.field.endswith(where)
    assert message in error.message


def test_the_fix_of_a_misspelled_measure_is_the_right_column(tmp_path: Path) -> None:
    assert "'latency_s:small'" in refused(wide(tmp_path, **{"latency:small": [1, 1, 1]})).fix


def test_scores_out_of_range_can_be_clipped_and_are_counted(tmp_path: Path) -> None:
    path = wide(tmp_path, **{"score:small": [-0.03, 1.2, 1.0]})
    assert "clip=True" in refused(path).fix
    table = read_table(path, clip=True)
    assert table.quality[:, 0].tolist() == [0.0, 1.0, 1.0]
    assert table.notes == ("2 scores of score:small clipped to [0, 1]",)


def test_infinite_scores_are_refused_even_when_clipping(tmp_path: Path) -> None:
    assert "infinite" in refused(wide(tmp_path, **{"score:small": [float("-inf"), 1, 1]}), clip=True).message


def test_targets_without_any_quality_can_be_dropped(tmp_path: Path) -> None:
    path = wide(tmp_path, **{"score:dead": [None, None, None], "cost_usd:dead": [1, 1, 1]})
    table = read_table(path, drop_empty=True)
    assert table.targets.ids == ("small", "large")
    assert "dead" in table.notes[0]


def test_dropping_every_target_leaves_nothing_and_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "t.parquet", {"query": ["x"], "score:a": [None]})
    assert "at all" in refused(path, drop_empty=True).message


@pytest.mark.parametrize("option", ["text", "label", "split", "gold"])
def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path, option: str) -> None:
    error = refused(wide(tmp_path), **{option: "datasett"})
    assert error.field.endswith("datasett")
    assert "did you mean 'dataset'?" in error.fix


def test_a_table_of_something_else_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    error = refused(save(tmp_path / "t.csv", {"left": ["a"], "right": ["b"]}))
    assert "left, right" in error.message
    assert "gold=COLUMN" in error.fix
    assert "query id" in refused(save(tmp_path / "l.csv", {"model": ["a"], "score": [1]})).fix


# --- files ------------------------------------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.parquet").message == "does not exist"
    (tmp_path / "d.parquet").mkdir()
    assert "is a folder" in refused(tmp_path / "d.parquet").message


def test_an_unknown_suffix_is_refused_and_a_pickle_points_to_the_importers(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_text("x")
    assert ".parquet" in refused(tmp_path / "t.xlsx").fix
    (tmp_path / "t.pkl").write_text("x")
    assert "junctor import" in refused(tmp_path / "t.pkl").fix


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    whole = wide(tmp_path).read_bytes()
    path = tmp_path / "half.parquet"
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as Parquet" in refused(path).message


@pytest.mark.parametrize("content", ["", "query,score:a\n"])
def test_a_csv_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    refused(path)


def test_an_empty_jsonl_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n")
    assert "no rows" in refused(tmp_path / "t.jsonl").message


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pl, "read_parquet", forbidden)
    assert "Permission denied" in refused(wide(tmp_path)).message


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("query,score:a\nx,1\n".encode("utf-8-sig"))
    assert read_table(path).texts == ["x"]


def test_long_whole_numbers_in_json_keep_every_digit(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"id": 9007199254740993, "query": "x", "score:a": 1}\n{"id": 9007199254740992, "query": "y", "score:a": 1}\n'
    )
    assert read_table(path).ids == ("9007199254740993", "9007199254740992")


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("query,score:a,score:a\nx,1,0\n")
    error = refused(path)
    assert error.field.endswith("score:a")
    assert "twice" in error.message


def test_text_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"query,score:a\nfine,1\ncaf\xe9,1\n")
    assert refused(path).field.endswith("line 3")
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"query": "fine", "score:a": 1}\n{"query": "caf\xe9", "score:a": 1}\n')
    assert refused(path).field.endswith("line 2")


def test_a_csv_line_with_too_many_cells_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("query,score:a\nx,1,2,3\n")
    assert "cannot be read as CSV" in refused(path).message


@pytest.mark.parametrize("line", ['{"query": ', "[1, 2]", "null"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"query": "x", "score:a": 1}\n' + line + "\n")
    assert refused(path).field.endswith("line 2")


def test_nested_json_is_left_out_and_mixed_ids_become_text(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"id": 1, "query": "x", "score:a": 1, "more": {"deep": 1}, "pairs": [["a", 0.5]]}\n'
        '{"id": "b", "query": "y", "score:a": true, "big": 1e30}\n'
    )
    table = read_table(path)
    assert table.ids == ("1", "b")
    assert table.quality.tolist() == [[1], [1]]


def test_without_polars_the_install_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wide(tmp_path)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtra, match=r"pip install 'junctor\[bench\]'"):
        read_table(path)


# --- long -------------------------------------------------------------------------------------------------------------------

LONG: dict[str, list[Any]] = {
    "query_id": ["q2", "q2", "q1", "q1", "q2"],
    "target": ["b", "a", "a", "b", "b"],
    "score": [1.0, 0.0, 1.0, 0.0, 0.0],
    "cost_usd": [0.2, 0.1, 0.1, None, 0.4],
    "query": ["two", "two", "one", None, "two"],
    "task": ["t", "t", "u", "u", "t"],
    "propensity": [0.5, 0.25, 1.0, 0.5, 0.5],
}


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_a_long_table_averages_its_samples_and_keeps_them(tmp_path: Path, name: str) -> None:
    table = read_table(save(tmp_path / name, LONG))
    assert table.ids == ("q2", "q1")
    assert table.targets.ids == ("b", "a")
    assert table.texts == ["two", "one"]
    assert table.label == ["t", "u"]
    np.testing.assert_array_equal(table.quality, [[0.5, 0.0], [0.0, 1.0]])
    assert table.cost_usd is not None
    np.testing.assert_allclose(table.cost_usd, [[0.3, 0.1], [np.nan, 0.1]])
    assert table.propensity is not None
    np.testing.assert_allclose(table.propensity, [[0.5, 0.25], [0.5, 1.0]])
    assert set(table.samples) == {"quality", "cost_usd"}
    np.testing.assert_array_equal(table.samples["quality"], [[[1, 0], [0, np.nan]], [[0, np.nan], [1, np.nan]]])


def test_a_cell_that_no_row_names_is_not_recorded(tmp_path: Path) -> None:
    path = save(tmp_path / "t.parquet", {"qid": [1, 2], "model": ["a", "b"], "quality": [1, 0]})
    table = read_table(path)
    np.testing.assert_array_equal(table.quality, [[1, np.nan], [np.nan, 0]])
    assert table.ids == ("1", "2")
    assert table.samples == {}


def test_numbered_samples_are_put_in_order_and_rows_keep_theirs(tmp_path: Path) -> None:
    columns = {"id": ["x", "y", "x"], "target": ["m", "m", "m"], "score": [0.0, 0.5, 1.0], "sample": [2, 1, 1]}
    table = read_table(save(tmp_path / "t.parquet", columns))
    assert table.ids == ("x", "y")
    np.testing.assert_array_equal(table.samples["quality"], [[[1, 0]], [[0.5, np.nan]]])


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"sample": [1, 1, 1, 1, 1]}, "row 5", "sample 1 of query 'q2' and target 'b' is there twice"),
        ({"query": ["two", "2", "one", None, "two"]}, "query, row 2", "differs from an earlier row of query 'q2'"),
        ({"split": ["test", "test", "train", "test", "test"]}, "split, row 4", "differs"),
        ({"target": ["b", None, "a", "b", "b"]}, "target, row 2", "is empty"),
        ({"target": [["b"], ["a"], ["a"], ["b"], ["b"]]}, "target", "holds List(String), not text"),
        ({"score": [1.0, 0.0, 7.0, 0.0, 0.0]}, "score, row 3", "7 is outside [0, 1]"),
        ({"propensity": [0.5, 0.0, 1, 1, 1]}, "propensity, row 2", "0 is no probability"),
    ],
)
def test_a_bad_long_row_is_named(tmp_path: Path, changes: dict[str, list[Any]], where: str, message: str) -> None:
    error = refused(save(tmp_path / "t.parquet", LONG | changes))
    assert error.field.endswith(where)
    assert message in error.message


def test_texts_and_labels_can_come_from_a_file_of_queries(tmp_path: Path) -> None:
    path = save(tmp_path / "t.parquet", {"id": [1, 1, 2], "model": ["a", "b", "a"], "score": [1, 0, 1]})
    asked = save(tmp_path / "q.csv", {"id": ["2", "1", "3"], "question": ["two", "one", "three"], "category": ["c", "d", "c"]})
    table = read_table(path, queries=asked)
    assert table.texts == ["one", "two"]
    assert table.label == ["d", "c"]


def test_a_query_that_the_file_of_queries_does_not_hold_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "t.parquet", {"id": ["1", "9"], "model": ["a", "b"], "score": [1, 0]})
    asked = save(tmp_path / "q.csv", {"id": ["1"], "question": ["one"]})
    assert "'9'" in refused(path, queries=asked).message
    twice = save(tmp_path / "q2.csv", {"id": ["1", "1"], "question": ["one", "uno"]})
    assert "twice" in refused_with(path, twice).message
    nameless = save(tmp_path / "q3.csv", {"question": ["one"]})
    assert "query ids" in refused_with(path, nameless).message


def refused_with(path: Path, queries: Path) -> TableError:
    with pytest.raises(TableError) as caught:
        read_table(path, queries=queries)
    return caught.value


# --- gold -------------------------------------------------------------------------------------------------------------------


def gold(tmp_path: Path, **options: Any) -> OutcomeTable:
    path = save(
        tmp_path / "g.csv",
        {"text": ["wake me", "play jazz", "hello"], "intent": ["alarm", "music", None], "scenario": ["a", "m", "m"]},
    )
    return read_table(path, gold="intent", **options)


def test_a_gold_column_gives_one_to_the_right_target_and_zero_to_the_rest(tmp_path: Path) -> None:
    table = gold(tmp_path)
    assert table.targets.ids == ("alarm", "music")
    assert table.quality.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert table.notes == ("1 queries name no right target: every target scores 0 there",)
    assert set(table.labels) == {"scenario"}, "the answer must not be a label"


def test_a_targets_file_describes_targets_and_adds_those_that_are_never_right(tmp_path: Path) -> None:
    described = tmp_path / "tools.jsonl"
    described.write_text(
        '{"tool_id": "timer", "name": "t", "description": "Set a timer"}\n{"tool_id": "alarm", "description": "Wake"}\n'
    )
    table = gold(tmp_path, targets=described)
    assert table.targets.ids == ("timer", "alarm", "music")
    assert table.quality.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert [(t.kind, t.description) for t in table.targets] == [("tool", "Set a timer"), ("tool", "Wake"), ("model", "")]
    assert "1 gold targets are not in the targets file (music)" in table.notes


def test_several_right_targets_are_all_right(tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    path.write_text(
        '{"prompt": "p", "positive": ["a", "b"]}\n{"prompt": "q", "positive": []}\n{"prompt": "r", "positive": ["c"]}\n'
    )
    assert read_table(path, gold="positive").quality.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_a_gold_column_that_names_nothing_is_refused(tmp_path: Path) -> None:
    empty = save(tmp_path / "e.parquet", {"text": ["x"], "gold": [None]})
    assert "no right target in any row" in refused(empty, gold="gold").message
    nested = save(tmp_path / "n.parquet", {"text": ["x"], "gold": [[1, 2]]})
    assert "not ids" in refused(nested, gold="gold").message


# --- targets ----------------------------------------------------------------------------------------------------------------


def test_prices_come_from_the_targets_file_where_they_are_whole(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.csv",
        {
            "model": ["small", "large", "other"],
            "usd_per_million_input_tokens": [0.5, None, 1],
            "output_usd_per_mtok": [1.5, None, 2],
        },
    )
    table = read_table(wide(tmp_path), targets=path)
    assert [t.id for t in table.targets] == ["small", "large"], "a target that was never recorded is no column"
    assert table.targets[0].price == Price(input_usd_per_mtok=0.5, output_usd_per_mtok=1.5)
    assert table.targets[1].price is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"title": ["a"]}, "names no targets"),
        ({"id": ["a", "a"]}, "'a' is there twice"),
        ({"id": ["a", None]}, "an id is empty"),
        ({"id": ["a"], "usd_per_call": ["cheap"]}, "is not a number"),
    ],
)
def test_a_bad_targets_file_is_named(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    path = save(tmp_path / "m.parquet", columns)
    with pytest.raises(TableError, match=message) as caught:
        read_table(wide(tmp_path), targets=path)
    assert str(path) in caught.value.field
