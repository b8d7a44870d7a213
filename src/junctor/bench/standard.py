"""The standard protocol, policy by policy: split, tune on validation rows, fit, choose along the knob on test rows, judge.

It is `run_bench` taken apart: the same splits, resamples, figures and references, so that a policy that ran alone can be paired
with all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.bench.document import LESS_IS_BETTER, METRICS
from junctor.bench.experiment import Array, Experiment, Result
from junctor.bench.experiments import able
from junctor.bench.judge import Frame, Judged, judge
from junctor.bench.latency import decide_time
from junctor.bench.prepare import BENCH_ONLY, Setup
from junctor.bench.protocol import draws_of, splits_of
from junctor.bench.references import BARS
from junctor.bench.seedrun import TEST, Seed, SeedResult, fit_and_judge, frame_of, references_of, seed_of
from junctor.bench.summary import HEADLINES, mean_frontier, plain_settings
from junctor.errors import UserError
from junctor.fitting import config_with
from junctor.outcomes.splitting import Split, draw_groups

MOST_KNOWN = 3000
"""Training and validation rows that a policy may learn from; larger sets are thinned, in proportion within each label."""
MOST_JUDGED = 3000
"""Test rows per seed, likewise; a recorded test side is judged whole, so that published figures stand beside ours."""
TIMED_CALLS = 100


@dataclass(frozen=True)
class Ground:
    """What all policies of a set share: the seeds' views of the data and what everybody is judged against."""

    seeds: Sequence[Seed]
    frames: Sequence[Mapping[str, Frame]]
    notes: tuple[str, ...]


class Standard(Experiment):
    """Fit on recorded outcomes, decide on rows that nobody has seen."""

    name: ClassVar[str] = "standard"
    title: ClassVar[str] = "Standard protocol"
    question: ClassVar[str] = (
        "Learned from recorded outcomes of like queries, how well does it choose on queries it has not seen?"
    )
    metrics: ClassVar[Mapping[str, str]] = METRICS
    headline: ClassVar[str] = "quality"
    less_is_better: ClassVar[frozenset[str]] = LESS_IS_BETTER
    bars: ClassVar[tuple[str, ...]] = BARS

    def policies(self, setup: Setup) -> tuple[str, ...]:
        """All that can be fitted here, and the references."""
        reads = readable(setup)
        fitted = [name for name in able(reads) if name not in BENCH_ONLY]
        if setup.table.cost_usd is None:
            fitted = [name for name in fitted if name != "cheapest"]
        billed = setup.table.cost_usd is not None
        return (*fitted, "random", *(("zero-router",) if billed else ()), "oracle")

    def ranked_by(self, setup: Setup) -> str:
        """The card's headline, else AIQ where calls are billed, APGR for two models without costs, and quality elsewhere."""
        if setup.card is not None:
            return setup.card.headline
        billed = setup.table.cost_usd is not None
        return HEADLINES[0] if billed else HEADLINES[1] if setup.by_share else HEADLINES[2]

    def run(self, setup: Setup, policy: str, *, seeds: int, resamples: int) -> Result:
        """Fit and judge `seeds` times."""
        ground = ground_of(setup, seeds, resamples)
        results: list[SeedResult] = []
        try:
            for number, (seed, frames) in enumerate(zip(ground.seeds, ground.frames, strict=True)):
                results.append(_one(seed, frames, policy, results[0] if number and _fixed_split(setup) else None))
        except UserError as error:
            return Result(skipped=str(error))
        return _result(ground, results, policy)


def readable(setup: Setup) -> tuple[str, ...]:
    """What a policy can read of this set's queries."""
    vectors = ("embedding",) if setup.features.embedding is not None else ()
    labels = ("labels",) if any(setup.table.label) else ()
    return (*vectors, *labels)


_GROUNDS: dict[tuple[int, int, int], tuple[Setup, Ground]] = {}


def ground_of(setup: Setup, seeds: int, resamples: int) -> Ground:
    """Splits, frames and resamples of a set: made once in a process, from the seeds alone."""
    key = (id(setup.table), seeds, resamples)
    if key not in _GROUNDS:
        splits = splits_of(setup.table, setup.split, seeds)
        thinned = [thin(setup, split, number) for number, split in enumerate(splits)]
        draws = draws_of(thinned, resamples)
        views = [seed_of(setup, split, number) for number, split in enumerate(thinned)]
        frames = [{side: frame_of(view, side, per[i]) for side, per in draws.items()} for i, view in enumerate(views)]
        notes = list(splits[0].notes)
        known = len(splits[0].train) + len(splits[0].validation)
        if known > MOST_KNOWN:
            notes.append(f"policies learn from {MOST_KNOWN:,} of the {known:,} training rows, drawn anew for each seed")
        if len(splits[0].test) > len(thinned[0].test):
            notes.append(f"{MOST_JUDGED:,} of {len(splits[0].test):,} test rows are judged, drawn anew for each seed")
        _GROUNDS[key] = (setup, Ground(views, frames, tuple(notes)))
    return _GROUNDS[key][1]


def thin(setup: Setup, split: Split, number: int, most: int = MOST_KNOWN) -> Split:
    """The split with at most so many rows to learn from, and MOST_JUDGED of a drawn test side, by label in proportion."""
    rng = np.random.default_rng([number, most])
    known = len(split.train) + len(split.validation)
    if known > most:
        kept = [_some(setup, rows, most / known, rng) for rows in (split.train, split.validation)]
        split = replace(split, train=kept[0], validation=kept[1])
    if len(split.test) > MOST_JUDGED and not _fixed_split(setup):
        split = replace(split, test=_some(setup, split.test, MOST_JUDGED / len(split.test), rng))
    return split


def _some(setup: Setup, rows: NDArray[np.intp], share: float, rng: np.random.Generator) -> NDArray[np.intp]:
    label = setup.table.label
    part = draw_groups(np.arange(len(rows)), [label[i] for i in rows.tolist()], (share, 1 - share), rng)
    return np.asarray(rows[part == 0], dtype=np.intp)


def _fixed_split(setup: Setup) -> bool:
    """Whether the test rows are the same for all seeds: then settings that won once are honest for every seed."""
    return setup.table.split is not None and setup.split is None


def _one(seed: Seed, frames: Mapping[str, Frame], policy: str, before: SeedResult | None) -> SeedResult:
    """One seed; `before` lends the settings that won on its validation rows."""
    result = SeedResult(best_single=seed.setup.table.targets.ids[seed.best_single])
    result.judged = {side: {} for side in frames}
    if policy in BENCH_ONLY:
        for side, frame in frames.items():
            result.judged[side][policy] = judge(references_of(seed, frame, only=policy)[policy], frame)
    else:
        encoder = "static" if seed.setup.encoder is None else seed.setup.encoder.name
        known = before is not None and bool(before.fits[policy].tried)
        config = before.fits[policy].config if known and before is not None else config_with(policy, encoder)
        fit_and_judge(seed, policy, config, frames, result, tune=not known)
    if policy == "oracle":
        test = frames[TEST]
        result.singles = test.singles_quality[0], test.singles_cost[0] if test.billed else None
    return result


def _result(ground: Ground, results: Sequence[SeedResult], policy: str) -> Result:
    sides = results[0].judged
    figures: dict[str, Array] = {}
    for side in sides:
        found = [result.judged[side][policy].figures for result in results]
        prefix = "" if side == TEST else f"{side}/"
        for metric in found[0]:
            if all(metric in other for other in found):
                figures[prefix + metric] = np.stack([other[metric] for other in found])
    figures |= _times(ground.seeds[0], results, policy)
    judged = [result.judged[TEST][policy] for result in results]
    notes = list(ground.notes)
    if judged[0].recorded < 1:
        notes.append(f"judged on {judged[0].recorded:.0%} of the test rows: its choice was not recorded on the rest")
    return Result(figures, _curves(ground, results, judged, policy), tuple(notes))


def _times(seed: Seed, results: Sequence[SeedResult], policy: str) -> dict[str, Array]:
    """Seconds to tune and fit per seed, and µs per decision, timed once."""
    if policy not in results[0].fit_s:
        return {}
    found = {"fit_s": np.array([[result.fit_s[policy]] for result in results])}
    test = seed.setup.table.take(seed.split.test)
    time = decide_time(results[0].fits[policy].policy, seed.setup.encoder, test, np.random.default_rng(0), TIMED_CALLS)
    return found | {"decide_us_p50": np.array([[time.p50_us]]), "decide_us_p99": np.array([[time.p99_us]])}


def _curves(ground: Ground, results: Sequence[SeedResult], judged: Sequence[Judged], policy: str) -> dict[str, Any]:
    """What plots and readers need: the hull, quality per dataset, the settings that won, and (oracle) every single target."""
    found: dict[str, Any] = {"per_dataset": _per_dataset(judged)}
    hulls = [one.hull for one in judged if one.hull is not None]
    if len(hulls) == len(judged):
        curve = mean_frontier(hulls)
        found["frontier"] = {"cost_usd": list(curve.cost_usd), "quality": list(curve.quality)}
    fits = [result.fits[policy] for result in results if policy in result.fits]
    if fits and len(fits[0].tried) > 1:
        found["tuned"] = {"tried": len(fits[0].tried), "settings": [plain_settings(fit.config.settings()) for fit in fits]}
    if fits and (losses := _losses(fits[0].policy)):
        found["losses"] = losses
    if policy == "oracle":
        found["singles"] = _singles(ground, results)
    return found


def _losses(policy: object) -> list[float]:
    """Training loss per epoch of the first seed's fit, for those that are trained by gradient descent."""
    losses = getattr(getattr(policy, "estimator", policy), "losses", ())
    return [round(float(value), 5) for value in losses]


def _per_dataset(judged: Sequence[Judged]) -> dict[str, float]:
    names = dict.fromkeys(name for one in judged for name in one.per_dataset)
    return {n: float(np.mean([one.per_dataset[n] for one in judged if n in one.per_dataset])) for n in names}


def _singles(ground: Ground, results: Sequence[SeedResult]) -> dict[str, Any]:
    seen = [result.singles for result in results if result.singles is not None]
    costs = [cost for _, cost in seen if cost is not None]
    return {
        "best": results[0].best_single,
        "targets": list(ground.seeds[0].setup.table.targets.ids),
        "quality": np.mean([quality for quality, _ in seen], axis=0).tolist(),
        "cost_usd": np.mean(costs, axis=0).tolist() if costs else [],
    }
