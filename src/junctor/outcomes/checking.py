"""What every recorded number must satisfy, whichever form it came in. Rows in messages count from 1, without the header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.errors import TableError
from junctor.outcomes.columns import Options
from junctor.outcomes.table import Array, OutcomeTable
from junctor.types import Catalogue

PERCENT = (5.0, 100.0)
"""A column whose largest score lies in here is more likely one of percentages than one of slips."""


def check_values(values: Array, measure: str, where: str, options: Options) -> Array:
    """The values of one column, in range: quality in [0, 1], propensity in (0, 1], the rest finite and not negative.

    With `options.clip`, qualities outside [0, 1] are moved to the nearer end, and a note says how many.
    """
    _refuse(values, np.isinf, "is infinite", where, "an outcome that was not recorded is null, never infinite")
    if measure == "quality":
        outside = (values < 0) | (values > 1)
        if options.clip and outside.any():
            column = where.removeprefix(options.at(""))
            options.notes.append(f"{int(outside.sum())} scores of {column} clipped to [0, 1]")
            return np.clip(values, 0.0, 1.0)
        percent = (
            "divide them by 100 if they are percentages" if PERCENT[0] < values[outside].max(initial=0.0) <= PERCENT[1] else ""
        )
        fix = f"{percent or 'rescale them'}, or pass clip=True (--clip) to move them to the nearer end"
        _refuse(values, lambda v: (v < 0) | (v > 1), "is outside [0, 1]", where, fix)
    elif measure == "propensity":
        _refuse(values, lambda v: (v <= 0) | (v > 1), "is no probability", where, "propensities lie in (0, 1]")
    else:
        _refuse(values, lambda v: v < 0, "is negative", where, "record null where it is not known")
    return values


def _refuse(values: Array, wrong: Callable[[Array], NDArray[np.bool_]], what: str, where: str, fix: str) -> None:
    rows = np.flatnonzero(wrong(values))
    if len(rows):
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise TableError(f"{values[rows[0]]:g} {what}{more}", field=f"{where}, row {rows[0] + 1}", fix=fix)


def finish(table: OutcomeTable, options: Options) -> OutcomeTable:
    """The last check on a whole table, every target was recorded at least once; adds what reading had to note."""
    empty = [id_ for id_, seen in zip(table.targets.ids, np.asarray(table.mask.any(axis=0)), strict=True) if not seen]
    if empty and not options.drop_empty:
        listed = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        raise TableError(
            "no quality was recorded for it",
            field=options.at(listed),
            fix="drop its columns, or pass drop_empty=True (--drop-empty)",
        )
    if empty:
        left = [id_ for id_ in table.targets.ids if id_ not in set(empty)]
        if not left:
            raise TableError("no quality was recorded at all", field=options.where, fix="record at least one target")
        table = table.only(left)
        options.notes.append(f"dropped targets without any recorded quality: {', '.join(empty)}")
    if options.nans:
        held = ", ".join(list(options.nans)[:3]) + (", …" if len(options.nans) > 3 else "")
        options.notes.append(f"{sum(options.nans.values())} values are NaN and count as not recorded ({held})")
    return replace(table, notes=tuple(dict.fromkeys(options.notes)), source=table.source or Path(options.where).name)


def drop_unmeasured(fields: dict[str, Array]) -> dict[str, Any]:
    """Without the measures of which nothing was recorded; quality stays."""
    return {name: values for name, values in fields.items() if name == "quality" or not np.isnan(values).all()}


def catalogue(ids: tuple[str, ...] | list[str], known: Catalogue | None = None) -> Catalogue:
    """Targets of these ids, described by `known` where it has them."""
    if known is None:
        return Catalogue.of(list(ids))
    return Catalogue([known.get(id_) or Catalogue.of([id_])[0] for id_ in ids])
