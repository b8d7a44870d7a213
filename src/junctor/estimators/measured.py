"""Outcomes as one matrix: quality, cost, latency and tokens of all targets side by side, so that one pass serves them all.

Estimators treat every recorded measure alike. `Columns` says what the C columns are: measure by measure, target by target. A
cell that was not recorded is NaN here and must be masked by whoever reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from junctor.errors import TableError, UserError
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Figures, Prediction

PREDICTED = ("quality", "cost_usd", "latency_s", "output_tokens")
UNKNOWN_VARIANCE = 0.25
"""The largest variance that a quality in [0, 1] can have: assumed where fewer than two values were recorded."""


HUGE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Columns:
    """What the C = len(measures) * len(targets) columns are; `measures` is a prefix-closed choice of PREDICTED."""

    targets: tuple[str, ...]
    measures: tuple[str, ...]

    @property
    def width(self) -> int:
        """C."""
        return len(self.targets) * len(self.measures)

    def prediction(self, flat: Array, quality_std: Array | None = None) -> Prediction:
        """From expected values [C] or [N, C]."""
        m = len(self.targets)
        parts = {name: flat[..., i * m : (i + 1) * m] for i, name in enumerate(self.measures)}
        return Prediction(
            parts["quality"], quality_std, parts.get("cost_usd"), parts.get("latency_s"), parts.get("output_tokens")
        )

    def figures(self, flat: list[float]) -> Figures:
        """From expected values [C] as plain numbers."""
        m = len(self.targets)
        parts = {name: flat[i * m : (i + 1) * m] for i, name in enumerate(self.measures)}
        return Figures(parts["quality"], parts.get("cost_usd"), parts.get("latency_s"), parts.get("output_tokens"))

    def plus(self, target: str) -> Columns:
        """With one more target, the last; raises UserError when it is known already."""
        if target in self.targets:
            raise UserError("is already known", field=target, fix="onboard each target once, or fit anew")
        return Columns((*self.targets, target), self.measures)

    def widen(self, flat: Array, addition: Array) -> Array:
        """Put a new last target's values [..., K] beside flat values [..., C]; K is the number of measures."""
        cube = flat.reshape(*flat.shape[:-1], len(self.measures), len(self.targets))
        wide: Array = np.concatenate([cube, addition[..., None]], axis=-1)
        return wide.reshape(*flat.shape[:-1], -1)


def stack(table: OutcomeTable) -> tuple[Columns, Array]:
    """The table's outcomes as [N, C]; a measure without a single value is left out, quality never is."""
    found: list[tuple[str, Array]] = [("quality", table.quality)]
    for name in PREDICTED[1:]:
        values: Array | None = getattr(table, name)
        if values is not None and not np.isnan(values).all():
            found.append((name, values))
    columns = Columns(table.targets.ids, tuple(name for name, _ in found))
    return columns, np.ascontiguousarray(np.concatenate([values for _, values in found], axis=1), dtype=np.float64)


def calibration(columns: Columns, target: str, rows: OutcomeTable, features: Features) -> tuple[Array, Features]:
    """What a few billed rows say of a new target: values [n, K] and features of the n rows that record its quality.

    Raises TableError when the rows do not have the target, or never record its quality.
    """
    one = rows.only([target])
    places = np.flatnonzero(one.mask[:, 0])
    if not len(places):
        raise TableError("no quality is recorded", field=target, fix="onboard with rows on which the target was tried")
    blank = np.full(len(one), np.nan)
    parts = [blank if (values := getattr(one, name)) is None else values[:, 0] for name in columns.measures]
    return np.stack(parts, axis=1)[places], features.take(places)


def same_rows(table: OutcomeTable, features: Features, who: str) -> None:
    """Raise UserError when features and outcomes do not describe the same rows."""
    if len(table) != len(features):
        raise UserError(
            f"{len(features)} rows of features for {len(table)} rows of outcomes", field=who, fix="take the same rows of both"
        )


def of_width(vectors: NDArray[np.float32], width: int, who: str) -> NDArray[np.float32]:
    """The vectors; raises UserError when they are not as long as those of the fit."""
    if vectors.shape[1] != width:
        raise UserError(
            f"vectors of {vectors.shape[1]} numbers, fitted on {width}",
            field=who,
            fix="use the encoder that it was fitted with",
        )
    return vectors


def sums(values: Array, groups: NDArray[np.intp], count: int) -> tuple[Array, Array]:
    """Per group and column: the sum of what was recorded and how often it was, both [count, C]."""
    seen = ~np.isnan(values)
    total, times = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(total, groups, np.where(seen, values, 0.0))
    np.add.at(times, groups, seen.astype(np.float64))
    return total, times


def means(values: Array) -> Array:
    """Mean of each column over what was recorded [C]; NaN for a column without a value."""
    seen = ~np.isnan(values)
    times = seen.sum(axis=0)
    total = np.where(seen, values, 0.0).sum(axis=0)
    mean: Array = np.divide(total, times, out=np.full(values.shape[1], np.nan), where=times > 0)
    return mean


def variances(values: Array) -> Array:
    """Variance of each column over what was recorded [C]; the largest possible one where fewer than two values are."""
    centred = values - means(values)
    times = (~np.isnan(values)).sum(axis=0)
    total = np.nansum(centred**2, axis=0)
    return np.where(times > 1, total / np.maximum(times, 1), UNKNOWN_VARIANCE)


def shrunk(total: Array, times: Array, prior: Array, shrinkage: float) -> Array:
    """Means drawn to the prior as if it had been seen `shrinkage` times more; the prior itself where nothing was seen."""
    weight = times + shrinkage
    known = np.where(np.isnan(prior), 0.0, prior)
    mean = np.divide(total + shrinkage * known, weight, out=np.broadcast_to(prior, total.shape).copy(), where=weight > 0)
    return np.where(np.isnan(prior), np.nan, mean)


def tables(values: Array, targets: int, groups: NDArray[np.intp], count: int, shrinkage: float) -> tuple[Array, Array]:
    """Means [count, C], drawn to the overall ones, and standard errors [count, M] of quality, per group."""
    total, times = sums(values, groups, count)
    mean = shrunk(total, times, means(values), shrinkage)
    quality = values[:, :targets]
    square, seen = sums((quality - mean[groups, :targets]) ** 2, groups, count)
    return mean, standard_error(square / np.maximum(seen, 1.0), seen, variances(quality))


def standard_error(variance: Array, times: Array | float, prior: Array) -> Array:
    """Of a mean of `times` values: their own variance, taken together with one value's worth of the prior variance."""
    n = np.maximum(times, 1.0)
    error: Array = np.sqrt((np.maximum(variance, 0.0) * times + prior) / (times + 1.0) / n)
    return error


def paged(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy on huge pages, where the system has them: a scan of a few MB on small ones spends a sixth of its time on look-ups.

    numpy asks for huge pages from 4 MiB on, so a smaller array lives at the start of a buffer of that size.
    """
    room = np.empty(max(values.size, HUGE_BYTES // values.itemsize), values.dtype)
    out = room[: values.size].reshape(values.shape)
    out[...] = values
    return out


def frozen(*arrays: Array) -> None:
    """Make arrays read-only: they are handed out many times."""
    for values in arrays:
        values.flags.writeable = False


def blocks(rows: int, width: int, cells: int = 2_000_000) -> Sequence[slice]:
    """Slices over `rows` so that a block times `width` stays under so many cells."""
    step = max(1, cells // max(1, width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
