"""read_table: a Parquet, CSV or JSONL file into an OutcomeTable. docs/data.md describes the forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from junctor.errors import TableError
from junctor.outcomes.checking import finish
from junctor.outcomes.columns import QUERY_IDS, Options, measured, pick
from junctor.outcomes.files import load_frame
from junctor.outcomes.forms import LONG_IDS, LONG_SCORES, LONG_TARGETS, from_gold, from_long, from_wide, long_columns
from junctor.outcomes.table import OutcomeTable
from junctor.outcomes.targets import Sidecar, load_sidecar, load_targets
from junctor.outcomes.writing import write_long, write_table
from junctor.types import Catalogue

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_table", "write_long", "write_table"]


def read_table(
    path: Path | str,
    *,
    text: str | None = None,
    label: str | None = None,
    gold: str | None = None,
    targets: Path | str | None = None,
    split: str | None = None,
    queries: Path | str | None = None,
    clip: bool = False,
    drop_empty: bool = False,
) -> OutcomeTable:
    """Read recorded outcomes. Raises TableError (what, where, the fix), or MissingExtra without polars.

    text        column of query texts; by default the first of query, prompt, question, text, utterance
    label       column that figures are grouped by; by default the first of dataset, task, category, task_name, eval_name, …
    gold        column with the id (or list of ids) of each query's right target: quality is then 1 there and 0 elsewhere
    targets     file that describes targets: id, description, kind, prices; with `gold`, every target in it becomes a column
    split       column of split names; by default "split" where there is one
    queries     file with the text, labels and split of each query id, for a long table that holds only ids
    clip        move qualities outside [0, 1] to the nearer end instead of refusing the file
    drop_empty  leave out targets of which no quality was recorded instead of refusing the file

    A sidecar FILE.targets.json (see write_table) is read where there is one; arguments win over it.
    """
    path = Path(path)
    sidecar = load_sidecar(path) or Sidecar()
    options = Options(str(path), text, label, split, clip, drop_empty, sidecar.labels, list(sidecar.notes))
    frame = load_frame(path)
    if options.label is None and sidecar.label_name in frame.columns:
        options.label = sidecar.label_name
    if options.split is None and sidecar.split_name in frame.columns:
        options.split = sidecar.split_name
    known = Catalogue(sidecar.targets) if sidecar.targets else None
    if targets is not None:
        known = load_targets(targets)
    if queries is not None:
        frame = _joined(frame, Path(queries), options)
    return finish(replace(_form(frame, gold, known, options), source=sidecar.source), options)


def _form(frame: pl.DataFrame, gold: str | None, known: Catalogue | None, options: Options) -> OutcomeTable:
    if gold is not None:
        return from_gold(frame, gold, known, options)
    found = measured(frame.columns, options)
    if found.targets:
        return from_wide(frame, found, known, options)
    long = long_columns(frame)
    if long is not None:
        return from_long(frame, long, known, options)
    raise _neither(frame, options)


def _neither(frame: pl.DataFrame, options: Options) -> TableError:
    part = [pick(frame, names) for names in (LONG_IDS, LONG_TARGETS, LONG_SCORES)]
    shown = ", ".join(frame.columns[:12]) + (", …" if len(frame.columns) > 12 else "")
    if part[1] is not None and part[2] is not None:
        fix = f"a long table also needs a query id: one of the columns {', '.join(LONG_IDS)}"
    else:
        fix = "add columns `score:TARGET`, or query_id, target and score, or pass gold=COLUMN (--gold) to name the right target"
    return TableError(f"holds no outcomes; its columns are {shown}", field=options.where, fix=fix)


def _joined(frame: pl.DataFrame, path: Path, options: Options) -> pl.DataFrame:
    """The frame with the columns of a queries file added by query id; raises TableError for an id that it does not hold."""
    import polars as pl

    more = load_frame(path)
    here, there = pick(frame, QUERY_IDS), pick(more, QUERY_IDS)
    if here is None or there is None:
        where = options.where if here is None else str(path)
        raise TableError("has no column of query ids", field=where, fix=f"one of {', '.join(QUERY_IDS)}")
    more = more.with_columns(pl.col(there).cast(pl.String))
    frame = frame.with_columns(pl.col(here).cast(pl.String))
    if more[there].is_duplicated().any():
        raise TableError("a query id is there twice", field=f"{path}: {there}", fix="one row per query")
    unknown = frame[here].is_in(more[there].to_list()).not_().fill_null(value=False).arg_true()
    if len(unknown):
        row = int(unknown[0])
        where = f"{options.at(here)}, row {row + 1}"
        raise TableError(f"query {frame[here][row]!r} is not in {path}", field=where, fix="add it, or drop its rows")
    kept = [name for name in more.columns if name == there or name not in frame.columns]
    return frame.join(more.select(kept), left_on=here, right_on=there, how="left", maintain_order="left")
