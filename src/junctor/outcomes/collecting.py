"""Collector: outcome records, one by one and in any order, into an OutcomeTable. What the importers of record formats use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from junctor.errors import TableError
from junctor.outcomes.cells import fill
from junctor.outcomes.checking import catalogue, check_values, drop_unmeasured, finish
from junctor.outcomes.columns import Options
from junctor.outcomes.table import MEASURES, OutcomeTable
from junctor.types import Catalogue

KEPT = (*MEASURES, "propensity")


class Collector:
    """Collects queries and their outcomes. A query is known by its id, a second mention changes nothing."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._rows: dict[str, int] = {}
        self._texts: list[str] = []
        self._splits: list[str] = []
        self._labels: list[Mapping[str, str]] = []
        self._targets: dict[str, int] = {}
        self._where: tuple[list[int], list[int]] = ([], [])
        self._values: dict[str, list[float]] = {name: [] for name in KEPT}

    def query(self, id_: str, text: str, labels: Mapping[str, str], split: str = "") -> int:
        """The row of a query, made at its first mention."""
        row = self._rows.setdefault(id_, len(self._rows))
        if row == len(self._texts):
            self._texts.append(text)
            self._labels.append(labels)
            self._splits.append(split)
        return row

    def text(self, row: int) -> str:
        """The text of a row."""
        return self._texts[row]

    def target(self, id_: str) -> int:
        """The column of a target, made at its first mention."""
        return self._targets.setdefault(id_, len(self._targets))

    def outcome(self, row: int, target: str, where: str, **values: Any) -> None:
        """One recorded draw; a value that is None is not known. Raises TableError, at `where`, for one that is no number."""
        self._where[0].append(row)
        self._where[1].append(self.target(target))
        for name, collected in self._values.items():
            collected.append(_number(values.get(name), f"{where}: {name}"))

    def table(self, label_name: str = "", known: Catalogue | None = None) -> OutcomeTable:
        """All of it; raises TableError for a value out of range, no row, no target, or a target without any quality."""
        if not self._rows:
            raise TableError("holds no records", field=self.options.where, fix="check that this is the right file and format")
        shape = (len(self._rows), len(self._targets))
        values = {
            name: check_values(np.array(collected), name, self.options.at(name), self.options)
            for name, collected in self._values.items()
        }
        rows, places = (np.array(side, dtype=np.intp) for side in self._where)
        cells = fill(rows, places, drop_unmeasured(values), shape)
        names = dict.fromkeys(name for labels in self._labels for name in labels)
        measures: dict[str, Any] = dict(cells.means)
        return finish(
            OutcomeTable(
                texts=self._texts,
                targets=catalogue(list(self._targets), known),
                labels={name: [labels.get(name, "") for labels in self._labels] for name in names},
                label_name=label_name if label_name in names else "",
                split=self._splits if any(self._splits) else None,
                ids=tuple(self._rows),
                samples={name: drawn for name, drawn in cells.samples.items() if name != "propensity"},
                **measures,
            ),
            self.options,
        )


def _number(value: Any, where: str) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, int | float):
        return float(value)
    raise TableError(f"{str(value)[:40]!r} is not a number", field=where, fix="a number, or null where it is not known")
