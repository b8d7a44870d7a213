"""The three forms of a table: wide (`score:T` columns), long (one row per draw) and gold (one right target per query)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from junctor.errors import TableError
from junctor.outcomes.cells import Index, fill
from junctor.outcomes.checking import catalogue, check_values, drop_unmeasured
from junctor.outcomes.columns import PREFIXES, Measured, Options, named, numbers, pick, queries, strings
from junctor.outcomes.table import Array, OutcomeTable
from junctor.types import Catalogue

if TYPE_CHECKING:
    import polars as pl

LONG_IDS = ("query_id", "qid", "id")
LONG_TARGETS = ("target", "model")
LONG_SCORES = ("score", "quality")


def from_wide(frame: pl.DataFrame, found: Measured, known: Catalogue | None, options: Options) -> OutcomeTable:
    """One row per query, one column per measure and target."""
    arrays: dict[str, Array] = {}
    for measure, columns in found.columns.items():
        values = np.full((frame.height, len(found.targets)), np.nan)
        for place, target in enumerate(found.targets):
            if target in columns:
                name = columns[target]
                values[:, place] = check_values(numbers(frame[name], options), measure, options.at(name), options)
        arrays[measure] = values
    return OutcomeTable(targets=catalogue(found.targets, known), **drop_unmeasured(arrays), **queries(frame, options))


def long_columns(frame: pl.DataFrame) -> tuple[str, str, str] | None:
    """The columns of query id, target and score of a long table, or None when it is not one."""
    names = [pick(frame, choice) for choice in (LONG_IDS, LONG_TARGETS, LONG_SCORES)]
    id_, target, score = names
    return None if id_ is None or target is None or score is None else (id_, target, score)


def from_long(frame: pl.DataFrame, columns: tuple[str, str, str], known: Catalogue | None, options: Options) -> OutcomeTable:
    """One row per draw: query id, target, score, and where known sample, propensity, the other measures, text, labels."""
    id_, target, score = columns
    for name in (id_, target):
        _complete(frame, name, options)
    frame = _in_sample_order(frame, id_, target, options)
    first, rows = _codes(frame, id_)
    targets, places = _codes(frame, target)
    described = queries(frame[first], options)
    described["ids"] = tuple(strings(frame[id_][first]))
    _agree(frame, id_, first[rows], options)
    measures = {"quality": score, **{field: name for name, field in PREFIXES.items() if name != "score"}}
    values = {
        field: check_values(numbers(frame[name], options), field, options.at(name), options)
        for field, name in measures.items()
        if name in frame.columns
    }
    ids = strings(frame[target][targets])
    cells = fill(rows, places, drop_unmeasured(values), (len(first), len(ids)))
    samples = {name: drawn for name, drawn in cells.samples.items() if name != "propensity"}
    described |= {"samples": samples, **cells.means}
    return OutcomeTable(targets=catalogue(ids, known), **described)


def _complete(frame: pl.DataFrame, name: str, options: Options) -> None:
    named(frame, name, options, "query id" if name in LONG_IDS else "target")
    missing = frame[name].is_null().arg_true()
    if len(missing):
        raise TableError("is empty", field=f"{options.at(name)}, row {int(missing[0]) + 1}", fix="name it in every row")


def _in_sample_order(frame: pl.DataFrame, id_: str, target: str, options: Options) -> pl.DataFrame:
    """Rows with the samples of each cell in ascending order; raises TableError when a sample is there twice."""
    if "sample" not in frame.columns:
        return frame
    key = [id_, target, "sample"]
    twice = frame.select(key).is_duplicated().arg_true()
    if len(twice):
        query, name, sample = frame[key].row(int(twice[1]))
        where = f"{options.where}, row {int(twice[1]) + 1}"
        raise TableError(f"sample {sample} of query {query!r} and target {name!r} is there twice", field=where, fix="drop one")
    order = np.argsort(numbers(frame["sample"], options), kind="stable")
    return frame if np.array_equal(order, np.arange(len(order))) else _reordered(frame, order, id_, target)


def _reordered(frame: pl.DataFrame, order: Index, id_: str, target: str) -> pl.DataFrame:
    """Rows by sample within each cell, cells by their first appearance: so queries and targets keep the order of the file."""
    _, rows = _codes(frame, id_)
    _, places = _codes(frame, target)
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    return frame[np.lexsort((rank, places, rows))]


def _codes(frame: pl.DataFrame, name: str) -> tuple[Index, Index]:
    """The row where each distinct value first appears, and for each row which of them it holds."""
    import polars as pl

    distinct = frame.select(name).with_row_index("_row").unique(subset=name, keep="first", maintain_order=True)
    distinct = distinct.with_row_index("_code")
    codes = frame.select(name).join(distinct, on=name, how="left", maintain_order="left")["_code"]
    return distinct["_row"].cast(pl.Int64).to_numpy().astype(np.intp), codes.to_numpy().astype(np.intp)


def _agree(frame: pl.DataFrame, id_: str, first: Index, options: Options) -> None:
    """Every row of a query must name the same text and the same split; a row that leaves it out agrees."""
    text = options.text or pick(frame, ("query", "prompt", "question", "text", "utterance"))
    for name in (text, options.split or pick(frame, ("split",))):
        if name is None or name not in frame.columns:
            continue
        column = frame[name]
        differs = (column != column[first]).fill_null(value=False).arg_true()
        if len(differs):
            row = int(differs[0])
            where = f"{options.at(name)}, row {row + 1}"
            raise TableError(f"differs from an earlier row of query {frame[id_][row]!r}", field=where, fix="one per query id")


def from_gold(frame: pl.DataFrame, gold: str, known: Catalogue | None, options: Options) -> OutcomeTable:
    """One row per query and the id (or the list of ids) of its right target: quality is 1 there and 0 elsewhere.

    Targets are those of `known`, in their order, then further gold ids as they appear. A query whose gold is empty has no right
    target among them: it scores 0 everywhere.
    """
    named(frame, gold, options, "gold")
    right = _right(frame[gold], options)
    named_ids = dict.fromkeys(id_ for ids in right for id_ in ids)
    ids = list(dict.fromkeys([*(known.ids if known else ()), *named_ids]))
    if not named_ids:
        raise TableError("names no right target in any row", field=options.at(gold), fix="fill it, or name another column")
    _note_gold(right, [id_ for id_ in named_ids if known is not None and known.get(id_) is None], options)
    place = {id_: i for i, id_ in enumerate(ids)}
    quality = np.zeros((frame.height, len(ids)))
    pairs = [(row, place[id_]) for row, found in enumerate(right) for id_ in found]
    quality[tuple(np.array(pairs).T)] = 1.0
    described = queries(frame.drop(gold), options)
    return OutcomeTable(targets=catalogue(ids, known), quality=quality, **described)


def _right(column: pl.Series, options: Options) -> Sequence[Sequence[str]]:
    import polars as pl

    if column.dtype == pl.List(pl.String):
        return [[id_ for id_ in found or () if id_] for found in column.to_list()]
    if column.dtype.is_nested():
        raise TableError(f"holds {column.dtype}, not ids", field=options.at(column.name), fix="an id, or a list of ids")
    return [[id_] if id_ else [] for id_ in strings(column)]


def _note_gold(right: Sequence[Sequence[str]], unknown: Sequence[str], options: Options) -> None:
    nobody = sum(not found for found in right)
    if nobody:
        options.notes.append(f"{nobody} queries name no right target: every target scores 0 there")
    if unknown:
        listed = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        options.notes.append(f"{len(unknown)} gold targets are not in the targets file ({listed})")
