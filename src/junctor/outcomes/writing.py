"""write_table and write_long: an OutcomeTable into Parquet or CSV, with a sidecar for what columns cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from junctor.errors import TableError
from junctor.outcomes.columns import PREFIXES
from junctor.outcomes.files import require_polars, save_frame
from junctor.outcomes.table import Array, OutcomeTable
from junctor.outcomes.targets import save_sidecar

if TYPE_CHECKING:
    import polars as pl

Flags = NDArray[np.bool_]
TEXT = "query"
ID = "query_id"
RESERVED = {TEXT, ID, "target", "sample", *PREFIXES}


def write_table(table: OutcomeTable, path: Path | str) -> None:
    """Write one row per query: `read_table` gives back texts, ids, split, labels, every measure, propensities and targets.

    A number that was not recorded is null. Samples are not in this form: see `write_long`. Both files are replaced in one step
    each. Raises TableError when a label has a reserved name or the file cannot be written.
    """
    path = Path(path)
    require_polars(path)
    import polars as pl

    columns = _described(table)
    for prefix, field in PREFIXES.items():
        values: Array | None = getattr(table, field)
        if values is not None:
            for column, id_ in enumerate(table.targets.ids):
                columns[f"{prefix}:{id_}"] = _nullable(values[:, column])
    _save(table, pl.DataFrame(columns), path)


def write_long(table: OutcomeTable, path: Path | str) -> None:
    """Write one row per recorded draw, samples included: query_id, target, sample, score, other measures, text, split, labels.

    A measure that has a mean but no samples is repeated in each draw of its cell. Query ids must differ from one another.
    """
    path = Path(path)
    require_polars(path)
    import polars as pl

    if len(set(table.ids)) != len(table):
        raise TableError("two queries have the same id", field="ids", fix="give each query its own id before writing")
    values = {prefix: _draws(table, field) for prefix, field in PREFIXES.items() if getattr(table, field) is not None}
    recorded = np.any([~np.isnan(v) for prefix, v in values.items() if prefix != "propensity"], axis=0)
    drawn = _drawn(table)
    # A cell without draws of its own is one row: its means.
    undrawn = recorded & ~drawn.any(axis=2, keepdims=True)
    undrawn[:, :, 1:] = False
    keep = drawn | undrawn
    rows, places, draws = np.nonzero(keep)
    columns: dict[str, Any] = {name: pl.Series(name, column)[rows] for name, column in _described(table).items()}
    columns["target"] = pl.Series(table.targets.ids)[places]
    columns["sample"] = draws
    columns |= {prefix: _nullable(found[rows, places, draws]) for prefix, found in values.items()}
    _save(table, pl.DataFrame(columns), path)


def _described(table: OutcomeTable) -> dict[str, Any]:
    columns: dict[str, Any] = {ID: list(table.ids)}
    if any(table.texts):
        columns[TEXT] = list(table.texts)
    if table.split is not None:
        columns[table.split_name] = [name or None for name in table.split]
    for name, values in table.labels.items():
        if name in RESERVED or ":" in name or name in columns:
            raise TableError("a label cannot be called that", field=name, fix="rename the label")
        columns[name] = [value or None for value in values]
    return columns


def _nullable(values: Array) -> pl.Series:
    import polars as pl

    return pl.Series(np.ascontiguousarray(values)).fill_nan(None)


def _drawn(table: OutcomeTable) -> Flags:
    """[N, M, S]: which draws some measure recorded."""
    if not table.samples:
        return np.zeros((len(table), len(table.targets), 1), dtype=bool)
    found: Flags = np.any([~np.isnan(drawn) for drawn in table.samples.values()], axis=0)
    return found


def _draws(table: OutcomeTable, field: str) -> Array:
    """[N, M, S]: the samples of a measure, or its mean in every draw."""
    depth = next((drawn.shape[2] for drawn in table.samples.values()), 1)
    mean: Array = getattr(table, field)
    repeated = np.repeat(mean[:, :, None], depth, axis=2)
    if field not in table.samples:
        return repeated
    drawn = table.samples[field]
    return np.where(np.isnan(drawn).all(axis=2, keepdims=True), repeated, drawn)


def _save(table: OutcomeTable, frame: pl.DataFrame, path: Path) -> None:
    save_frame(frame, path)
    save_sidecar(table, path)
