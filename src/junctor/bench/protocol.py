"""run_bench: one protocol for every policy.

Per seed: split, tune on validation rows, fit on training and validation rows, choose along the knob on test rows, judge. Over
seeds: the mean of each figure, with an interval from a bootstrap over queries and seeds that is paired across policies.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from junctor.bench import summary
from junctor.bench.document import Board
from junctor.bench.latency import DecideTime, decide_time
from junctor.bench.prepare import Progress, Setup, prepare
from junctor.bench.resample import Resamples, draw
from junctor.bench.seedrun import TEST, SeedResult, run_seed
from junctor.errors import TableError
from junctor.outcomes import OutcomeTable
from junctor.outcomes.splitting import Split, split_table

FEW_ROWS = 1000
SEEDS, SEEDS_WHEN_FEW = 5, 20


def run_bench(
    table: OutcomeTable,
    *,
    policies: Sequence[str] | None = None,
    split: str | None = None,
    seeds: int | None = None,
    encoder: str = "static",
    progress: Progress | None = None,
    dataset: str = "",
    use_card: bool = True,
    resamples: int = 1000,
    timing_calls: int = 200,
) -> Board:
    """Judge policies on a table of recorded outcomes, beside the cheap bars and the oracle.

    policies      registered policies or estimators; the learned bars by default
    split         a ratio or the name of a split column; the recorded split by default, else 60/20/20
    seeds         repetitions; 5 by default, 20 with fewer than 1,000 test rows
    encoder       who turns texts into vectors, for policies that read them
    progress      called with (what, done, total)
    use_card      count outcomes and rank as the card of a recognised public table says
    resamples     bootstrap draws of the test queries, paired across policies
    timing_calls  single decisions that are timed per policy

    Raises TableError when there is nothing to compare, UnknownName for a policy or encoder that does not exist.
    """
    started = time.perf_counter()
    setup = prepare(table, policies, encoder, use_card, progress)
    splits = splits_of(setup.table, split, seeds)
    draws = draws_of(splits, resamples)
    results = []
    total = len(splits) * (len(setup.configs) + 1)
    for number, parts in enumerate(splits):
        place = number * (len(setup.configs) + 1)
        sides = {side: per_seed[number] for side, per_seed in draws.items()}
        results.append(run_seed(setup, parts, number, sides, _Counter(progress, f"seed {number + 1}", place, total)))
    times = _times(setup, splits[0], results[0], timing_calls)
    picks = np.random.default_rng(1).integers(len(splits), size=(resamples, len(splits)))
    return summary.board(setup, splits, results, times, picks, dataset, time.perf_counter() - started)


class _Counter:
    """Counts the steps of a run for the progress bar."""

    def __init__(self, progress: Progress | None, title: str, done: int, total: int) -> None:
        self.progress, self.title, self.done, self.total = progress, title, done, total

    def __call__(self, what: str) -> None:
        if self.progress is not None:
            self.progress(f"{self.title}: {what}", self.done, self.total)
        self.done += 1


def splits_of(table: OutcomeTable, split: str | None, seeds: int | None) -> list[Split]:
    """One split per seed; raises TableError when fewer than two test rows are left."""
    first = split_table(table, split=split, seed=0)
    if len(first.test) < 2:
        raise TableError(
            f"has {len(first.test)} usable test rows", field="split", fix="record more queries, or give another ratio"
        )
    if seeds is not None and seeds < 1:
        raise TableError(f"{seeds} is not a number of repetitions", field="seeds", fix="at least 1")
    count = seeds or (SEEDS_WHEN_FEW if len(first.test) < FEW_ROWS else SEEDS)
    return [first, *(split_table(table, split=split, seed=number) for number in range(1, count))]


def draws_of(splits: Sequence[Split], count: int) -> dict[str, list[Resamples]]:
    """Resamples of each judged side, per seed; a side that some seed lacks is not judged."""
    rng = np.random.default_rng(0)
    sides: dict[str, list[NDArray[np.intp]]] = {TEST: [parts.test for parts in splits]}
    for name in splits[0].extra:
        rows = [parts.extra[name] for parts in splits if name in parts.extra]
        if len(rows) == len(splits):
            sides[name] = rows
    return {name: draw([side.tolist() for side in rows], count, rng) for name, rows in sides.items()}


def _times(setup: Setup, split: Split, result: SeedResult, calls: int) -> dict[str, DecideTime]:
    if calls < 1:
        return {}
    test = setup.table.take(split.test)
    rng = np.random.default_rng(0)
    return {name: decide_time(fit.policy, setup.encoder, test, rng, calls) for name, fit in result.fits.items()}
