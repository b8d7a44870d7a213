"""Bootstrap over queries, paired across policies, and over seeds.

Every policy of a seed is judged on the same resamples, so a difference between two of them keeps its pairing. Seeds whose test
sets overlap share their draws: a query that is drawn twice is drawn twice in every seed that tests on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.uint8]

_CHUNK = 16_000_000
"""Most cells of a weight matrix that are turned into floats at a time: 64 MB."""


@dataclass(frozen=True, slots=True)
class Resamples:
    """How often each of N test queries occurs in each of B resamples: `counts` [B, N].

    Row 0 of every mean is the test set as it is.
    """

    counts: Counts

    def means(self, values: Array) -> Array:
        """Means [1 + B, L] of `values` [L, N] over each resample; cells that are NaN are left out, all NaN gives NaN."""
        known = ~np.isnan(values)
        complete = bool(known.all())
        filled = values if complete else np.where(known, values, 0.0)
        sums = self._sums(filled)
        sizes = self._sums(known[:1].astype(float) if complete else known.astype(float))
        return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=np.broadcast_to(sizes > 0, sums.shape))

    def only(self, rows: NDArray[np.bool_]) -> Resamples:
        """The same resamples restricted to some of the queries: `rows` is a boolean mask [N]."""
        return Resamples(self.counts[:, rows])

    def _sums(self, values: Array) -> Array:
        step = max(1, _CHUNK // max(1, values.shape[1]))
        columns = np.ascontiguousarray(values.T, dtype=np.float32)
        parts = [self.counts[i : i + step].astype(np.float32) @ columns for i in range(0, len(self.counts), step)]
        return np.concatenate([values.sum(axis=1)[None, :], *parts]).astype(np.float64)


def draw(test_rows: Sequence[Sequence[int]], count: int, rng: np.random.Generator) -> list[Resamples]:
    """`count` resamples of the queries that the seeds test on: one Resamples per seed, in the order of its own rows.

    The union of all test sets is resampled with replacement and then restricted to each seed's, so that seeds stay paired.
    """
    place = {id_: i for i, id_ in enumerate(dict.fromkeys(id_ for rows in test_rows for id_ in rows))}
    size = len(place)
    counts = np.empty((count, size), dtype=np.uint8)
    for b in range(count):
        counts[b] = np.minimum(np.bincount(rng.integers(size, size=size), minlength=size), 255)
    return [Resamples(_nonempty(counts[:, [place[id_] for id_ in rows]])) for rows in test_rows]


def _nonempty(counts: Counts) -> Counts:
    """A resample that missed a small test set altogether is that set as it is."""
    counts[counts.sum(axis=1, dtype=np.int64) == 0] = 1
    return counts


def over_seeds(per_seed: Array, picks: NDArray[np.intp], *, median: bool = False) -> tuple[float, Array]:
    """The mean over seeds and its replicates, in which the seeds are resampled too.

    per_seed   [S, 1 + B] a metric per seed and resample
    picks      [B, S] which seeds each replicate takes
    median     for figures that may be out of reach (NaN): the median over seeds, out of reach counting as infinite

    Gives the value (NaN when it is not defined, or out of reach) and B replicates.
    """
    columns = np.arange(picks.shape[0])[:, None] + 1
    if not median:
        return float(per_seed[:, 0].mean()), np.asarray(per_seed[picks, columns].mean(axis=1))
    reach = np.where(np.isnan(per_seed), np.inf, per_seed)
    value, replicates = np.median(reach[:, 0]), np.median(reach[picks, columns], axis=1)
    return float(value) if np.isfinite(value) else float("nan"), np.where(np.isfinite(replicates), replicates, np.nan)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its central 95% interval; `reached` is the share of resamples in which it was defined at all."""

    value: float
    low: float
    high: float
    reached: float = 1.0


def interval(value: float, replicates: Array) -> Interval | None:
    """The 2.5th to 97.5th percentile of the replicates, stretched to hold the value; None when the value is not defined."""
    if not np.isfinite(value):
        return None
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return Interval(value, value, value, 0.0)
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)), len(known) / len(replicates))
