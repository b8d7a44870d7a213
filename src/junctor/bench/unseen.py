"""Out of distribution: leave one dataset out, learn from the others, choose on the one that was left out.

Source of the protocol: RouterDC (Chen et al. 2024) and UniRoute (Jitkrittum et al. 2025) judge so; the mean is over datasets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.bench.document import LESS_IS_BETTER, METRICS
from junctor.bench.experiment import Array, Experiment, Result
from junctor.bench.experiments import able
from junctor.bench.judge import Frame, judge
from junctor.bench.prepare import BENCH_ONLY, Setup
from junctor.bench.references import BARS
from junctor.bench.resample import draw
from junctor.bench.seedrun import TEST, Seed, SeedResult, fit_and_judge, frame_of, references_of, seed_of
from junctor.bench.standard import readable
from junctor.errors import UserError
from junctor.fitting import config_with
from junctor.outcomes.splitting import Split, draw_groups
from junctor.policy import PolicyConfig

Rows = NDArray[np.intp]
MOST_LEFT_OUT = 4
"""Datasets that are left out in turn: the largest ones."""
MOST_SEEDS = 2
"""Seeds here: the test rows are the same for all, only what is learned from differs."""
MOST_KNOWN, MOST_TEST = 1000, 800
FEWEST_ROWS = 30
VALIDATION = 0.2


@dataclass(frozen=True)
class Fold:
    """One dataset left out: a view of the data per seed, and what everybody is judged against in each."""

    left_out: str
    seeds: Sequence[Seed]
    frames: Sequence[Frame]


class OutOfDistribution(Experiment):
    """Queries of a kind that nobody has learned from."""

    name: ClassVar[str] = "ood"
    title: ClassVar[str] = "Out of distribution"
    question: ClassVar[str] = "Learned from all datasets but one, how well does it choose on the one that was left out?"
    metrics: ClassVar[Mapping[str, str]] = METRICS
    headline: ClassVar[str] = "quality"
    less_is_better: ClassVar[frozenset[str]] = LESS_IS_BETTER
    bars: ClassVar[tuple[str, ...]] = BARS

    def policies(self, setup: Setup) -> tuple[str, ...]:
        """Everybody, on sets of several datasets; not on two models without costs, whose gap vanishes on some datasets."""
        if len(left_out(setup)) < 2 or setup.by_share:
            return ()
        billed = setup.table.cost_usd is not None
        fitted = [n for n in able(readable(setup)) if n not in BENCH_ONLY and (billed or n != "cheapest")]
        return (*fitted, "random", *(("zero-router",) if billed else ()), "oracle")

    def ranked_by(self, setup: Setup) -> str:
        """AIQ where calls are billed, quality elsewhere."""
        return "quality" if setup.table.cost_usd is None else "aiq"

    def run(self, setup: Setup, policy: str, *, seeds: int, resamples: int) -> Result:
        """Every dataset in turn; settings are tuned once per dataset, on validation rows of the others."""
        found: dict[str, list[list[Array]]] = {}
        per_dataset: dict[str, float] = {}
        try:
            for fold in folds_of(setup, seeds, resamples):
                figures = _judged(setup, fold, policy)
                for metric in figures[0]:
                    found.setdefault(metric, []).append([one[metric] for one in figures])
                per_dataset[fold.left_out] = float(np.mean([one["quality"][0] for one in figures]))
        except UserError as error:
            return Result(skipped=str(error))
        whole = {metric: np.mean(values, axis=0) for metric, values in found.items() if len(values) == len(per_dataset)}
        return Result(whole, {"per_dataset": per_dataset}, _notes(setup))


def left_out(setup: Setup) -> list[str]:
    """The datasets that are left out in turn, largest first."""
    usable = np.asarray(setup.table.mask.all(axis=1)).tolist()
    counted = Counter(name for name, good in zip(setup.table.label, usable, strict=True) if name and good)
    large = [name for name, count in counted.most_common() if count >= FEWEST_ROWS]
    return large[:MOST_LEFT_OUT] if len(counted) > 1 else []


_FOLDS: dict[tuple[int, int, int], tuple[Setup, list[Fold]]] = {}


def folds_of(setup: Setup, seeds: int, resamples: int) -> list[Fold]:
    """All folds of a set, made once in a process."""
    key = (id(setup.table), min(seeds, MOST_SEEDS), resamples)
    if key not in _FOLDS:
        plain = replace(setup, card=None)
        made = [_fold(plain, name, number, key[1], resamples) for number, name in enumerate(left_out(setup))]
        _FOLDS[key] = (setup, made)
    return _FOLDS[key][1]


def _fold(setup: Setup, name: str, number: int, seeds: int, resamples: int) -> Fold:
    table, groups = setup.table, setup.table.groups()
    inside = np.array([label == name for label in table.label])
    rng = np.random.default_rng([number, 17])
    test = np.flatnonzero(inside & table.mask.all(axis=1))
    test = np.sort(rng.permutation(test)[:MOST_TEST])
    known = np.flatnonzero(~inside & ~np.isin(groups, groups[inside]))
    draws = draw([test.tolist()], resamples, np.random.default_rng([number, 19]))[0]
    views = [seed_of(setup, _parts(setup, known, test, seed), seed) for seed in range(seeds)]
    return Fold(name, views, [frame_of(view, TEST, draws) for view in views])


def _parts(setup: Setup, known: Rows, test: Rows, seed: int) -> Split:
    """Train and validation rows of the other datasets, in proportion within each, and the rest left alone."""
    label = [setup.table.label[i] for i in known.tolist()]
    share = min(1.0, MOST_KNOWN / len(known))
    shares = (share * (1 - VALIDATION), share * VALIDATION, *((1 - share,) if share < 1 else ()))
    groups = np.unique(setup.table.groups()[known], return_inverse=True)[1].astype(np.intp)
    part = draw_groups(groups, label, shares, np.random.default_rng([seed, 23]))
    return Split(known[part == 0], known[part == 1], test)


def _judged(setup: Setup, fold: Fold, policy: str) -> list[Mapping[str, Array]]:
    """Figures per seed; the settings that won for the first seed are kept."""
    if policy in BENCH_ONLY:
        pairs = zip(fold.seeds, fold.frames, strict=True)
        return [judge(references_of(seed, frame, only=policy)[policy], frame).figures for seed, frame in pairs]
    encoder = "static" if setup.encoder is None else setup.encoder.name
    config: PolicyConfig = config_with(policy, encoder)
    figures = []
    for number, (seed, frame) in enumerate(zip(fold.seeds, fold.frames, strict=True)):
        result = SeedResult(judged={TEST: {}})
        fit_and_judge(seed, policy, config, {TEST: frame}, result, tune=not number)
        config = result.fits[policy].config
        figures.append(result.judged[TEST][policy].figures)
    return figures


def _notes(setup: Setup) -> tuple[str, ...]:
    names = left_out(setup)
    every = len({name for name in setup.table.label if name})
    which = "all" if len(names) == every else f"the {len(names)} largest of {every}"
    said = f"left out in turn: {which} datasets ({', '.join(names)})"
    return (f"{said}; at most {MOST_KNOWN:,} rows of the others are learned from and at most {MOST_TEST:,} are judged",)
