"""What is known of targets besides outcomes: a file of descriptions and prices, and the sidecar that `write_table` leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Struct

from junctor.errors import TableError
from junctor.outcomes.columns import Options, numbers, pick, strings
from junctor.outcomes.files import check_exists, first_line, load_frame, replace_file
from junctor.outcomes.table import OutcomeTable
from junctor.types import Catalogue, Price, Target

if TYPE_CHECKING:
    import polars as pl

IDS = ("tool_id", "skill_id", "target", "id", "model", "name")
PRICES = {
    "input_usd_per_mtok": ("input_usd_per_mtok", "usd_per_million_input_tokens"),
    "output_usd_per_mtok": ("output_usd_per_mtok", "usd_per_million_output_tokens"),
    "usd_per_call": ("usd_per_call",),
}
SUFFIX = ".targets.json"


class Sidecar(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a table file itself cannot hold: targets beyond their ids, which columns are labels, where the data came from."""

    format: int = 1
    targets: tuple[Target, ...] = ()
    labels: tuple[str, ...] = ()
    label_name: str = ""
    split_name: str = "split"
    source: str = ""
    notes: tuple[str, ...] = ()


def sidecar_path(path: Path) -> Path:
    """`outcomes.parquet` -> `outcomes.parquet.targets.json`."""
    return path.with_name(path.name + SUFFIX)


def save_sidecar(table: OutcomeTable, path: Path) -> None:
    """Write the sidecar of a table file, in one step."""
    found = Sidecar(
        targets=tuple(table.targets),
        labels=tuple(table.labels),
        label_name=table.label_name,
        split_name=table.split_name,
        source=table.source,
        notes=table.notes,
    )
    text = msgspec.json.format(msgspec.json.encode(found), indent=1)
    replace_file(sidecar_path(path), text)


def load_sidecar(path: Path) -> Sidecar | None:
    """The sidecar beside a table file, or None; raises TableError when it is damaged."""
    place = sidecar_path(path)
    if not place.exists():
        return None
    try:
        found = msgspec.json.decode(place.read_bytes(), type=Sidecar)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fix = "write the table anew, or delete this file to do without descriptions and prices"
        raise TableError(f"is damaged: {first_line(error)}", field=str(place), fix=fix) from error
    if found.format != 1:
        raise TableError(f"has format {found.format}, not 1", field=str(place), fix="read it with a newer junctor")
    return found


def load_targets(path: Path | str) -> Catalogue:
    """The targets described in a Parquet, CSV or JSONL file.

    The id is the first of the columns tool_id, skill_id, target, id, model, name; `description`, `kind` and prices in USD per
    million tokens (input_usd_per_mtok, output_usd_per_mtok, usd_per_call) are taken where they are. Raises TableError.
    """
    path = Path(path)
    check_exists(path)
    frame = load_frame(path)
    options = Options(str(path))
    name = pick(frame, IDS)
    if name is None:
        raise TableError("names no targets", field=str(path), fix=f"give it one of the columns {', '.join(IDS)}")
    ids = strings(frame[name])
    repeated = sorted({id_ for id_ in ids if ids.count(id_) > 1}) if len(set(ids)) < len(ids) else []
    if repeated or "" in ids:
        wrong = f"{repeated[0]!r} is there twice" if repeated else "an id is empty"
        raise TableError(wrong, field=options.at(name), fix="one row per target, each with its own id")
    descriptions = _optional(frame, "description")
    kinds = _optional(frame, "kind")
    default = {"tool_id": "tool", "skill_id": "skill"}.get(name, "model")
    prices = _prices(frame, options)
    return Catalogue(
        [
            Target(id=id_, kind=kind or default, description=description, price=price)
            for id_, kind, description, price in zip(ids, kinds, descriptions, prices, strict=True)
        ]
    )


def _optional(frame: pl.DataFrame, name: str) -> list[str]:
    return strings(frame[name]) if name in frame.columns else [""] * frame.height


def _prices(frame: pl.DataFrame, options: Options) -> list[Price | None]:
    found: dict[str, Any] = {}
    for name, columns in PRICES.items():
        column = pick(frame, columns)
        if column is not None:
            found[name] = numbers(frame[column], options)
    if not found:
        return [None] * frame.height
    known = ~np.all([np.isnan(values) for values in found.values()], axis=0)
    filled = {name: np.nan_to_num(values).tolist() for name, values in found.items()}
    return [
        Price(**{name: values[row] for name, values in filled.items()}) if known[row] else None for row in range(frame.height)
    ]
