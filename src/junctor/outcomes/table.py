"""OutcomeTable: recorded outcomes of queries x targets, as numpy arrays. The training and the benchmark format."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from junctor.errors import TableError
from junctor.features import Features
from junctor.types import Catalogue, Outcome

Array = NDArray[np.float64]
MEASURES = ("quality", "cost_usd", "latency_s", "energy_j", "input_tokens", "output_tokens")


@dataclass(frozen=True)
class OutcomeTable:
    """N queries x M targets. A cell that was not recorded is NaN, never zero.

    texts         N query texts
    targets       M targets (columns)
    quality       [N, M] in [0, 1]
    cost_usd, latency_s, energy_j, input_tokens, output_tokens   [N, M], or None where the table has no such column
    labels        name -> N strings, "" where there is none; `label_name` is the one that per-dataset figures group by
    split         N strings ("train", "validation", "test", "ood_…"), or None
    ids           N query ids
    samples       measure -> [N, M, S]: repeated draws of a cell (probes, self-consistency), padded with NaN
    propensity    [N, M] probability with which the logging policy chose the cell, or None
    source        where it came from, for artefacts and reports; never a secret
    notes         what reading had to decide, for people: one sentence each
    split_name    the column that `split` was read from
    """

    texts: Sequence[str]
    targets: Catalogue
    quality: Array
    cost_usd: Array | None = None
    latency_s: Array | None = None
    energy_j: Array | None = None
    input_tokens: Array | None = None
    output_tokens: Array | None = None
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    label_name: str = ""
    split: Sequence[str] | None = None
    ids: Sequence[str] = ()
    samples: Mapping[str, Array] = field(default_factory=dict)
    propensity: Array | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    split_name: str = "split"

    def __post_init__(self) -> None:
        shape = (len(self.texts), len(self.targets))
        arrays = {name: getattr(self, name) for name in (*MEASURES, "propensity")}
        for name, found in (*arrays.items(), *self.samples.items()):
            if found is not None and found.shape[:2] != shape:
                raise TableError(
                    f"has shape {found.shape}, not {shape}", field=name, fix="one row per query, one column per target"
                )
        if not self.ids:
            object.__setattr__(self, "ids", tuple(str(i) for i in range(shape[0])))
        columns = {"ids": self.ids, self.split_name: self.split, **self.labels}
        for name, values in columns.items():
            if values is not None and len(values) != shape[0]:
                raise TableError(f"has {len(values)} values for {shape[0]} queries", field=name, fix="one value per query")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[N, M]: which cells have a recorded quality."""
        return ~np.isnan(self.quality)

    @property
    def label(self) -> Sequence[str]:
        """The N labels that figures are grouped by; all "" when the table has none."""
        return self.labels.get(self.label_name, [""] * len(self.texts))

    def take(self, rows: Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]) -> OutcomeTable:
        """The given rows (positions or a boolean mask), in the given order."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.intp)
        places: list[int] = index.tolist()
        arrays = {n: a[index] for n in (*MEASURES, "propensity") if (a := getattr(self, n)) is not None}
        return replace(
            self,
            texts=[self.texts[i] for i in places],
            labels={name: [values[i] for i in places] for name, values in self.labels.items()},
            split=None if self.split is None else [self.split[i] for i in places],
            ids=tuple(self.ids[i] for i in places),
            samples={name: values[index] for name, values in self.samples.items()},
            **arrays,
        )

    def only(self, target_ids: Sequence[str]) -> OutcomeTable:
        """The columns of these targets, in the given order; raises TableError for an unknown one."""
        places = []
        for id_ in target_ids:
            place = self.targets.position(id_)
            if place is None:
                raise TableError("is not in the table", field=id_, fix=f"it has: {', '.join(self.targets.ids)}")
            places.append(place)
        arrays = {n: a[:, places] for n in (*MEASURES, "propensity") if (a := getattr(self, n)) is not None}
        return replace(
            self,
            targets=Catalogue([self.targets[i] for i in places]),
            samples={name: values[:, places] for name, values in self.samples.items()},
            **arrays,
        )

    def features(self, embedding: NDArray[np.float32] | None = None) -> Features:
        """What estimators see of the N queries; `embedding` is [N, D] when an encoder ran."""
        return Features(self.texts, embedding, self.labels)

    def outcome(self, row: int, column: int) -> Outcome:
        """One cell."""
        cell: dict[str, float | None] = {}
        for name in MEASURES:
            values = getattr(self, name)
            value = float("nan") if values is None else float(values[row, column])
            cell[name] = None if np.isnan(value) else value
        return Outcome(**cell)

    def groups(self) -> NDArray[np.intp]:
        """[N] group number by normalised prompt: rows of one group never go to different splits.

        Groups are numbered as they appear. A row without text says nothing about which query it is: it is its own group.
        """
        return self._groups

    @cached_property
    def _groups(self) -> NDArray[np.intp]:
        numbers: dict[str | int, int] = {}
        keys = (normalise(text) or row for row, text in enumerate(self.texts))
        found = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.intp, len(self.texts))
        found.setflags(write=False)
        return found

    def digest(self) -> str:
        """SHA-256 over texts, targets and every recorded number: names the data that a policy was fitted on."""
        h = hashlib.sha256()
        for text in (*self.texts, *self.targets.ids):
            h.update(text.encode("utf-8", "surrogatepass") + b"\0")
        for name in MEASURES:
            values = getattr(self, name)
            if values is not None:
                h.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return h.hexdigest()


def normalise(text: str) -> str:
    """A prompt for comparing: NFKC, case folded, white space collapsed. Two prompts equal here are one query."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


assert set(MEASURES) <= {f.name for f in fields(OutcomeTable)}
