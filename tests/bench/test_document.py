"""The JSON document: schema 1, no gap that looks like a number, and back again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from junctor.bench.board import METRICS, SCHEMA, Board, Row, board_document, load_board
from junctor.errors import TableError

OPTIONAL = {
    "headline": str,
    "judged": list,
    "best_bar": str,
    "junctor": str,
    "encoder": dict,
    "data": dict,
    "split": dict,
    "seeds": int,
    "resamples": int,
    "elapsed_s": float,
    "notes": list,
    "per_dataset": dict,
    "dataset_sizes": dict,
    "extra_splits": dict,
    "frontiers": dict,
    "singles": list,
    "best_single": str,
    "tuned": list,
    "card": dict,
}


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with a document of schema 1."""
    found = [] if document.get("schema") == SCHEMA else ["schema"]
    found += [key for key in document if key not in {"schema", "dataset", "rows", *OPTIONAL}]
    found += [key for key, kind in OPTIONAL.items() if key in document and not isinstance(document[key], kind)]
    seen = set()
    for row in document["rows"]:
        name = f"{row.get('policy')}.{row.get('metric')}"
        if set(row) - {"reached"} != {"policy", "metric", "value", "low", "high", "seeds"}:
            found.append(f"{name}: keys")
        elif row["metric"] not in METRICS or not all(math.isfinite(row[k]) for k in ("value", "low", "high")):
            found.append(f"{name}: figure")
        elif not row["low"] <= row["value"] <= row["high"] or row["seeds"] < 1:
            found.append(f"{name}: interval")
        if name in seen:
            found.append(f"{name}: twice")
        seen.add(name)
    return found


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def test_the_document_has_schema_1_and_no_nan(board: Board, tmp_path: Path) -> None:
    board.save(tmp_path / "board.json")
    text = (tmp_path / "board.json").read_text("utf-8")
    document = json.loads(text, parse_constant=refuse)
    assert problems(document) == []
    assert list(document)[:3] == ["schema", "dataset", "rows"]
    assert "null" not in text


def test_the_check_finds_what_is_wrong(board: Board) -> None:
    document = msgspec.json.decode(msgspec.json.encode(board_document(board)))
    first = document["rows"][0]
    broken = [
        {**first, "value": float("nan")},
        {**first, "metric": "AIQ"},
        {**first, "low": first["value"] + 1},
        {"policy": "x", "metric": "quality", "value": 1},
    ]
    for row in broken:
        assert problems({**document, "rows": [row]})
    assert problems({**document, "schema": 2}) == ["schema"]
    assert problems({**document, "surprise": 1}) == ["surprise"]
    assert problems({**document, "rows": [first, first]})


def test_a_board_is_read_back_as_it_was(board: Board, tmp_path: Path) -> None:
    board.save(tmp_path / "board.json")
    assert load_board(tmp_path / "board.json") == board


def test_a_figure_that_is_not_a_number_is_refused() -> None:
    row = Row(policy="knn", metric="qnc", value=float("nan"), low=0.0, high=1.0, seeds=1)
    with pytest.raises(TableError, match=r"knn\.qnc"):
        board_document(Board(dataset="d", rows=(row,)))


def test_files_that_are_no_board_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"rows": 3}')
    (tmp_path / "later.json").write_text('{"schema": 2, "dataset": "d", "rows": []}')
    with pytest.raises(TableError, match="not a board"):
        load_board(tmp_path / "other.json")
    with pytest.raises(TableError, match="schema 2"):
        load_board(tmp_path / "later.json")
    with pytest.raises(TableError, match="cannot be read"):
        load_board(tmp_path / "none.json")


def test_policies_are_ranked_by_the_headline_and_those_without_it_come_last(board: Board) -> None:
    ranked = board.policies()
    values = [board.value(name, board.headline) for name in ranked]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=True)
    assert values[: len(known)] == known
