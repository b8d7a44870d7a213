"""write_table and write_long: what is written reads back, and a write that fails leaves the old file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from junctor.errors import TableError
from junctor.outcomes import MEASURES, OutcomeTable, read_table, write_long, write_table
from junctor.outcomes.targets import sidecar_path
from junctor.types import Catalogue, Limits, Price, Target

NAN = np.nan


def table(**changes: Any) -> OutcomeTable:
    targets = [
        Target(
            id="m@low",
            kind="model",
            description='cheap, "fast"',
            model="m",
            settings={"effort": "low"},
            price=Price(input_usd_per_mtok=0.1),
            limits=Limits(context_tokens=8000),
            capabilities=frozenset({"tools", "vision"}),
        ),
        Target(id="org/big:2", kind="agent"),
    ]
    given: dict[str, Any] = {
        "texts": ["line\nbreak, comma", "Grüße", ""],
        "targets": Catalogue(targets),
        "quality": np.array([[1.0, 0.1 + 0.2], [NAN, 0.0], [0.5, NAN]]),
        "cost_usd": np.array([[1e-7, 2.0], [NAN, 3.0], [4.0, NAN]]),
        "latency_s": np.array([[0.1, NAN], [NAN, NAN], [NAN, 2.0]]),
        "energy_j": np.array([[5.0, 6.0], [7.0, 8.0], [9.0, NAN]]),
        "input_tokens": np.array([[5.0, 6.0], [7.0, 8.0], [9.0, NAN]]),
        "output_tokens": np.array([[50.0, 60.0], [70.0, 80.0], [90.0, NAN]]),
        "labels": {"topic": ["a", "", "b"], "language": ["de", "de", "en"]},
        "label_name": "topic",
        "split": ["train", "test", "ood_x"],
        "split_name": "fold",
        "ids": ("q1", "q2", "q3"),
        "propensity": np.array([[0.5, 0.5], [NAN, 1.0], [0.25, NAN]]),
        "source": "somewhere",
        "notes": ("one thing",),
    }
    return OutcomeTable(**{**given, **changes})


def same(a: OutcomeTable, b: OutcomeTable) -> None:
    for name in (*MEASURES, "propensity"):
        found, wanted = getattr(a, name), getattr(b, name)
        assert (found is None) == (wanted is None), name
        if wanted is not None:
            np.testing.assert_array_equal(found, wanted, err_msg=name)
    assert list(a.targets) == list(b.targets)
    assert {n: list(v) for n, v in a.labels.items()} == {n: list(v) for n, v in b.labels.items()}
    assert (a.label_name, a.split_name, a.source) == (b.label_name, b.split_name, b.source)
    assert (list(a.texts), a.split, a.ids) == (list(b.texts), b.split, b.ids)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_everything_reads_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"t.{suffix}"
    write_table(table(), path)
    read = read_table(path)
    same(read, table())
    assert read.digest() == table().digest()
    write_table(read, path)
    again = read_table(path)
    same(again, table())
    assert again.notes == read.notes, "notes must not pile up"


def test_a_table_without_texts_reads_back_without_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(table(texts=["", "", ""]), path)
    assert "query" not in pl.read_parquet(path).columns
    same(read_table(path), table(texts=["", "", ""]))


def test_what_was_not_recorded_is_null_and_never_nan(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(table(), path)
    column = pl.read_parquet(path)["score:m@low"]
    assert column.to_list() == [1.0, None, 0.5]


def test_samples_read_back_from_the_long_form(tmp_path: Path) -> None:
    draws = np.array([[[1.0, 1.0, 1.0], [0.2, 0.4, NAN]], [[NAN] * 3, [0.0, NAN, NAN]], [[0.5, 0.5, NAN], [NAN] * 3]])
    mean = np.array([[1.0, 0.3], [NAN, 0.0], [0.5, NAN]])
    sampled = table(quality=mean, samples={"quality": draws}, latency_s=None, propensity=None)
    path = tmp_path / "long.parquet"
    write_long(sampled, path)
    read = read_table(path)
    np.testing.assert_array_equal(read.samples["quality"], draws)
    np.testing.assert_allclose(read.quality, mean)
    assert read.cost_usd is not None
    np.testing.assert_allclose(read.cost_usd, table().cost_usd)
    assert list(read.targets) == list(sampled.targets)
    assert read.split == list(sampled.split or ())


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_without_samples_reads_back_from_the_long_form(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"long.{suffix}"
    plain = table(propensity=None, latency_s=None, energy_j=None, input_tokens=None, output_tokens=None)
    write_long(plain, path)
    same(read_table(path), plain)


def test_the_long_form_needs_distinct_ids(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="two queries have the same id"):
        write_long(table(ids=("a", "a", "b")), tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["query", "score:x", "target", "fold", "query_id"])
def test_a_label_with_a_reserved_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TableError, match="a label cannot be called that"):
        write_table(table(labels={name: ["a", "b", "c"]}, label_name=name), tmp_path / "t.parquet")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"cannot be written as \.xlsx"):
        write_table(table(), tmp_path / "t.xlsx")


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    write_table(table(), path)
    before = path.read_bytes()

    def broken(self: pl.DataFrame, place: Path) -> None:
        place.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_csv", broken)
    with pytest.raises(TableError, match="No space left"):
        write_table(table(quality=np.zeros((3, 2))), path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.csv.targets.json"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TableError, match="cannot be written"):
        write_table(table(), tmp_path / "file" / "t.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is damaged"), ('{"targets": [{"kind": "model"}]}', "is damaged"), ('{"format": 2}', "has format 2")],
)
def test_a_damaged_sidecar_is_named_and_never_ignored(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "t.parquet"
    write_table(table(), path)
    sidecar_path(path).write_text(content)
    with pytest.raises(TableError, match=message) as caught:
        read_table(path)
    assert caught.value.field.endswith("t.parquet.targets.json")


def test_a_table_reads_without_its_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(table(), path)
    sidecar_path(path).unlink()
    read = read_table(path, label="topic", split="fold")
    np.testing.assert_array_equal(read.quality, table().quality)
    assert read.targets[0].description == ""


def test_arguments_win_over_the_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(table(), path)
    assert read_table(path, label="language").label_name == "language"
