"""Long rows into cells: many draws of one (query, target) become their mean, and are kept as samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from junctor.outcomes.table import Array

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Cells:
    """Means [N, M] and, where some cell was drawn more than once, samples [N, M, S]; by measure."""

    means: dict[str, Array]
    samples: dict[str, Array]


def fill(rows: Index, columns: Index, values: Mapping[str, Array], shape: tuple[int, int]) -> Cells:
    """Put R recorded draws into a table of `shape`; `rows` and `columns` [R] say where each belongs.

    A cell's mean leaves out NaN. Draws of a cell are numbered in the order in which they come.
    """
    flat = rows * shape[1] + columns
    draw = _number(flat)
    depth = int(draw.max(initial=0)) + 1
    means = {name: _mean(flat, given, shape) for name, given in values.items()}
    samples: dict[str, Array] = {}
    if depth > 1:
        for name, given in values.items():
            drawn = np.full((*shape, depth), np.nan)
            drawn[rows, columns, draw] = given
            samples[name] = drawn
    return Cells(means, samples)


def _number(flat: Index) -> Index:
    """0, 1, 2 … for the first, second, third time that each value appears."""
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.intp)
    lengths = np.diff(np.r_[starts, len(ordered)])
    numbers = np.empty(len(flat), np.intp)
    numbers[order] = np.arange(len(flat)) - np.repeat(starts, lengths)
    return numbers


def _mean(flat: Index, given: Array, shape: tuple[int, int]) -> Array:
    size = shape[0] * shape[1]
    seen = ~np.isnan(given)
    count = np.bincount(flat[seen], minlength=size)
    total = np.bincount(flat[seen], weights=given[seen], minlength=size)
    mean = np.full(size, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.reshape(shape)
