"""Columns: what their names mean, their values as numpy arrays, and what every form of a table says about its queries."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from junctor.errors import TableError
from junctor.outcomes.files import near
from junctor.outcomes.table import MEASURES, Array

if TYPE_CHECKING:
    import polars as pl

TEXTS = ("query", "prompt", "question", "text", "utterance")
LABELS = ("dataset", "task", "category", "task_name", "eval_name", "scenario", "group", "benchmark", "domain")
ALSO_KEPT = ("language", "modality", "tenant")
QUERY_IDS = ("query_id", "qid", "id", "sample_id", "prompt_id", "global_index")
# Column prefix -> field of OutcomeTable.
PREFIXES = {"score": "quality", **{name: name for name in MEASURES if name != "quality"}, "propensity": "propensity"}


@dataclass
class Options:
    """How to read a table: its name for errors, the columns that the caller named, and how lenient to be."""

    where: str
    text: str | None = None
    label: str | None = None
    split: str | None = None
    clip: bool = False
    drop_empty: bool = False
    labels: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    nans: dict[str, int] = field(default_factory=dict)

    def at(self, column: str) -> str:
        """The place of a column, for errors."""
        return f"{self.where}: {column}"


@dataclass(frozen=True)
class Measured:
    """The columns `measure:target` of a wide table: field -> target -> column, targets in the order of the file."""

    targets: tuple[str, ...]
    columns: dict[str, dict[str, str]]


def measured(names: Sequence[str], options: Options) -> Measured:
    """Sort out which columns hold which measure of which target; raises TableError for a misspelled or orphaned one."""
    columns: dict[str, dict[str, str]] = {}
    ignored: Counter[str] = Counter()
    for name in names:
        prefix, colon, target = name.partition(":")
        if not colon or not target:
            continue
        if prefix in PREFIXES:
            columns.setdefault(PREFIXES[prefix], {})[target] = name
        elif guess := _misspelled(prefix):
            raise TableError(
                f"no measure is called {prefix!r}", field=options.at(name), fix=f"did you mean '{guess}:{target}'?"
            )
        else:
            ignored[prefix] += 1
    targets = tuple(columns.get("quality", ()))
    if targets and ignored:
        options.notes.append("ignored columns: " + ", ".join(f"{prefix}:* ({n})" for prefix, n in ignored.items()))
    for found in columns.values():
        for target, name in found.items():
            if targets and target not in targets:
                raise TableError("there is no score of this target", field=options.at(name), fix=near(target, targets))
    return Measured(targets, columns)


def _misspelled(prefix: str) -> str | None:
    if prefix == "quality":
        return "score"
    close = difflib.get_close_matches(prefix.lower(), PREFIXES, n=1, cutoff=0.8)
    return close[0] if close else None


def numbers(column: pl.Series, options: Options) -> Array:
    """float64 [N]; null is NaN. Numbers written as text are read, true and false are 1 and 0; else TableError.

    A floating-point NaN reads like null; `options.nans` counts them, so that a note can tell.
    """
    import polars as pl

    where = options.at(column.name)
    if column.dtype == pl.String:
        column = _parsed(column, where)
    elif not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise TableError(f"holds {column.dtype}, not numbers", field=where, fix="store numbers")
    values = np.array(column.cast(pl.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)
    nans = int(np.isnan(values).sum()) - column.null_count()
    if nans:
        options.nans[column.name] = nans
    return values


def _parsed(column: pl.Series, where: str) -> pl.Series:
    import polars as pl

    plain = column.str.strip_chars()
    words = plain.str.to_lowercase().replace({"true": "1", "false": "0", "": None, "null": None, "none": None, "na": None})
    parsed = words.cast(pl.Float64, strict=False)
    wrong = (parsed.is_null() & words.is_not_null()).arg_true()
    if len(wrong):
        row = int(wrong[0])
        raise TableError(
            f"{str(column[row])[:40]!r} is not a number", field=f"{where}, row {row + 1}", fix="a number, or empty"
        )
    return parsed


def strings(column: pl.Series) -> list[str]:
    """N strings; null is ""."""
    import polars as pl

    return column.cast(pl.String).fill_null("").to_list()


def is_text(column: pl.Series) -> bool:
    """Whether a column holds text (or nothing at all)."""
    import polars as pl

    return column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)


def pick(frame: pl.DataFrame, names: Iterable[str]) -> str | None:
    """The first of the names that is a column."""
    return next((name for name in names if name in frame.columns), None)


def named(frame: pl.DataFrame, name: str, options: Options, what: str) -> str:
    """The name of a column that the caller asked for; raises TableError when there is none."""
    if name not in frame.columns:
        raise TableError(f"there is no such {what} column", field=options.at(name), fix=near(name, frame.columns))
    if what != "gold" and frame[name].dtype.is_nested():
        raise TableError(f"holds {frame[name].dtype}, not text", field=options.at(name), fix=f"one {what} per row")
    return name


def queries(frame: pl.DataFrame, options: Options) -> dict[str, Any]:
    """Texts, ids, labels and split of a frame with one row per query, as fields of OutcomeTable."""
    labels, label_name = _labels(frame, options)
    split = options.split or pick(frame, ("split",))
    if split is not None:
        named(frame, split, options, "split")
    return {
        "texts": _texts(frame, options),
        "ids": _ids(frame),
        "labels": labels,
        "label_name": label_name,
        "split": None if split is None else strings(frame[split]),
        "split_name": split or "split",
    }


def _texts(frame: pl.DataFrame, options: Options) -> list[str]:
    name = options.text
    if name is None:
        name = pick(frame, TEXTS)
        if name is None:
            options.notes.append(_without_text(frame))
            return [""] * frame.height
    else:
        named(frame, name, options, "text")
    column = frame[name]
    if not is_text(column):
        fix = f"name the column of queries; {near(name, [n for n in frame.columns if is_text(frame[n])])}"
        raise TableError(f"holds {column.dtype}, not text", field=options.at(name), fix=fix)
    missing = column.null_count()
    if missing:
        options.notes.append(f"{missing} queries have no text")
    return strings(column)


def _without_text(frame: pl.DataFrame) -> str:
    """What it means that no column holds the queries, and which of them might."""
    said = "there is no text column: every query is its own group, and only labels can tell them apart"
    free = [name for name in frame.columns if ":" not in name and name not in (*QUERY_IDS, "split") and _is_prose(frame[name])]
    return f"{said}; if {' or '.join(free[:3])} holds the queries, name it with --text" if free else said


def _is_prose(column: pl.Series) -> bool:
    """Whether a column looks like queries: text, mostly different from row to row, and no numbers."""
    import polars as pl

    if column.dtype != pl.String or column.n_unique() <= len(column) // 2:
        return False
    return not bool(column.str.strip_chars().cast(pl.Float64, strict=False).is_not_null().any())


def _ids(frame: pl.DataFrame) -> tuple[str, ...]:
    """The query ids, where a column has a different one for each row; else none, and rows are numbered."""
    for name in QUERY_IDS:
        if name in frame.columns and not frame[name].dtype.is_nested():
            column = frame[name]
            if column.null_count() == 0 and column.n_unique() == frame.height:
                return tuple(strings(column))
    return ()


def _labels(frame: pl.DataFrame, options: Options) -> tuple[dict[str, list[str]], str]:
    named_by_caller = [options.label] if options.label else []
    for name in named_by_caller:
        named(frame, name, options, "label")
    there = [name for name in (*LABELS, *ALSO_KEPT) if name in frame.columns]
    kept = [name for name in there if _groups_rows(frame[name])]
    options.notes += [
        f"{name} has {frame[name].n_unique()} values for {frame.height} rows, so it is no label; --label {name} makes it one"
        for name in there
        if name not in kept and name in LABELS and name != options.label and is_text(frame[name])
    ]
    kept += [name for name in (*named_by_caller, *options.labels) if name in frame.columns]
    label_name = options.label or next((name for name in kept if name in LABELS), "")
    return {name: strings(frame[name]) for name in dict.fromkeys(kept)}, label_name


def _groups_rows(column: pl.Series) -> bool:
    """Whether a text column can serve as a label: a column of ids or of free text cannot."""
    return is_text(column) and column.n_unique() <= max(20, len(column) // 2)
