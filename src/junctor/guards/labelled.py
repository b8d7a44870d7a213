"""Labelled texts from a file: CSV, JSON lines, or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from junctor.errors import MissingExtra, TableError

YES = frozenset({"1", "1.0", "true", "yes", "y", "unsafe", "t"})
NO = frozenset({"0", "0.0", "false", "no", "n", "safe", "f"})


def read_labelled(path: Path, text: str, label: str) -> tuple[list[str], list[bool]]:
    """(texts, labels) of two columns; rows without a label are left out. Raises TableError that names the column or row."""
    texts: list[str] = []
    labels: list[bool] = []
    for number, row in enumerate(_rows(path), 1):
        for column in (text, label):
            if column not in row:
                raise TableError("is no column of it", field=column, fix=f"it has: {', '.join(map(str, row))}")
        said = str(row[label]).strip().lower() if row[label] is not None else ""
        if not said or row[text] is None:
            continue
        if said not in YES and said not in NO:
            raise TableError("is neither 0 nor 1", field=f"row {number}, {label}", fix="write 0 or 1, true or false")
        texts.append(str(row[text]))
        labels.append(said in YES)
    return texts, labels


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix in (".jsonl", ".ndjson"):
            for line in path.read_text("utf-8").splitlines():
                if line.strip():
                    found = json.loads(line)
                    yield found if isinstance(found, dict) else {}
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                yield from csv.DictReader(file)
        else:
            raise TableError("is neither .csv, .jsonl nor .parquet", field=str(path), fix="save it as one of them")
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}", field=str(path), fix="name a file") from error
    except ValueError as error:
        raise TableError("cannot be read: it is damaged", field=str(path), fix="save it again") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import polars as pl
    except ModuleNotFoundError as error:
        raise MissingExtra("needs the package polars", field=str(path), fix="pip install 'junctor[bench]'") from error
    yield from pl.read_parquet(path).iter_rows(named=True)
