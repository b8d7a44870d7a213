"""Onboarding: two thirds of the targets are known, one third is new and is added from a few billed calibration calls.

Nobody refits: a policy is asked to `onboard`. Beside it stand the same policy without the new targets, and fitted anew on all
recorded outcomes. Source of the protocol: UniRoute (Jitkrittum et al. 2025, section 6) and RADAR (2025) add unseen models so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor import registry
from junctor.bench.experiment import Array, Experiment, Result
from junctor.bench.experiments import able
from junctor.bench.judge import Frame, judge
from junctor.bench.prepare import BENCH_ONLY, Setup
from junctor.bench.references import gathered
from junctor.bench.seedrun import TEST, Seed, seed_of
from junctor.bench.standard import ground_of, readable, thin
from junctor.bench.unseen import folds_of, left_out
from junctor.errors import UserError
from junctor.features import Features
from junctor.fitting import config_with, fit_policy, visible
from junctor.outcomes import OutcomeTable
from junctor.policy import Policy, PolicyConfig

Rows = NDArray[np.intp]
CALIBRATION = (50, 100, 250, 500, 1000)
BOTH_CALIBRATION = 250
MOST_SEEDS, MOST_KNOWN, MOST_TARGETS, CLUSTERS = 2, 1200, 15, 20
BOTH_SEEDS, BOTH_FOLDS = 2, 2
SHARE_NEW = 3
"""One target in so many is new."""
CHEAP = ("mean", "label-table", "knn", "linear", "kmeans-table")
"""The cheap policies that can onboard; `mean` is the best single target once the new ones are known."""


@dataclass(frozen=True)
class Lesson:
    """One seed: who is known and who is new, on which rows, and what everybody is judged against (all targets)."""

    seed: Seed
    frame: Frame
    known: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def rows(self) -> Rows:
        """Everything that may be learned from."""
        return np.sort(self.seed.known)


class Onboarding(Experiment):
    """New targets from few calls."""

    name: ClassVar[str] = "onboarding"
    title: ClassVar[str] = "Onboarding unseen targets"
    question: ClassVar[str] = "A third of the targets is new: how good is the choice after a few billed calls to each of them?"
    metrics: ClassVar[Mapping[str, str]] = {
        "onboarded": "mean of the figure over 50 to 1,000 calibration queries, on a logarithmic axis; rows drawn at random",
        "onboarded_stratified": "the same, calibration queries drawn in proportion from clusters of queries",
        "without": "the figure without the new targets",
        "full": "the figure when fitted anew on all recorded outcomes",
        "calibration_usd": "what the calls to the new targets cost, USD, at the most calibration queries",
        **{f"n{n}": f"the figure after {n} calibration queries" for n in CALIBRATION},
    }
    headline: ClassVar[str] = "onboarded"
    less_is_better: ClassVar[frozenset[str]] = frozenset({"calibration_usd"})
    bars: ClassVar[tuple[str, ...]] = CHEAP

    def policies(self, setup: Setup) -> tuple[str, ...]:
        """Those that can onboard, on sets of at least three targets."""
        return _able_to_onboard(setup) if len(setup.table.targets) >= SHARE_NEW else ()

    def run(self, setup: Setup, policy: str, *, seeds: int, resamples: int) -> Result:
        """Per seed: other targets are new, other rows calibrate."""
        figures: dict[str, list[Array]] = {}
        try:
            for number in range(min(seeds, MOST_SEEDS)):
                lesson = _lesson(_narrow(setup), number, seeds, resamples)
                for name, values in _learned(lesson, policy, number).items():
                    figures.setdefault(name, []).append(values)
        except UserError as error:
            return Result(skipped=str(error))
        stacked = {name: np.stack(values) for name, values in figures.items() if len(values) == min(seeds, MOST_SEEDS)}
        return Result(stacked, _curve(stacked), (_note(setup),))


class BothAtOnce(Experiment):
    """New targets and new queries."""

    name: ClassVar[str] = "ood+onboarding"
    title: ClassVar[str] = "Out of distribution and onboarding at once"
    question: ClassVar[str] = (
        "New targets, calibrated on old datasets: how well are they used on a dataset that nobody has learned from?"
    )
    metrics: ClassVar[Mapping[str, str]] = {
        "onboarded": f"the figure after {BOTH_CALIBRATION} calibration queries of the other datasets",
        "without": "the figure without the new targets",
        "full": "the figure when fitted anew on all recorded outcomes of the other datasets",
    }
    headline: ClassVar[str] = "onboarded"
    bars: ClassVar[tuple[str, ...]] = CHEAP

    def policies(self, setup: Setup) -> tuple[str, ...]:
        """Those that can onboard, on sets of at least three targets and two datasets."""
        good = len(setup.table.targets) >= SHARE_NEW and len(left_out(setup)) > 1
        return _able_to_onboard(setup) if good else ()

    def run(self, setup: Setup, policy: str, *, seeds: int, resamples: int) -> Result:
        """Every fold and seed; the mean over datasets."""
        narrow = _narrow(setup)
        folds = folds_of(narrow, seeds, resamples)[:BOTH_FOLDS]
        rounds = min(seeds, BOTH_SEEDS)
        found: dict[str, list[list[Array]]] = {}
        try:
            for fold in folds:
                lessons = [_shared(seed, frame, n) for n, (seed, frame) in enumerate(zip(fold.seeds, fold.frames, strict=True))]
                figures = _at_once(lessons[:rounds], policy)
                for metric in figures[0]:
                    found.setdefault(metric, []).append([one[metric] for one in figures])
        except UserError as error:
            return Result(skipped=str(error))
        note = f"left out in turn: {', '.join(fold.left_out for fold in folds)}; {_note(setup)}"
        return Result({metric: np.mean(values, axis=0) for metric, values in found.items()}, notes=(note,))


def _able_to_onboard(setup: Setup) -> tuple[str, ...]:
    """Estimators, and policies that have an answer of their own; not those whose answer is "fit me anew"."""
    estimators = {entry.name for entry in registry.entries("estimator")}
    good = []
    for name in able(readable(setup)):
        if name in BENCH_ONLY:
            continue
        if name in estimators or registry.load("policy", name).fitted.onboard is not Policy.onboard:
            good.append(name)
    return tuple(good)


_NARROW: dict[int, tuple[Setup, Setup]] = {}


def _narrow(setup: Setup) -> Setup:
    """At most so many targets: a draw of them where there are more, the same for everybody."""
    count = len(setup.table.targets)
    if count <= MOST_TARGETS:
        return setup
    key = id(setup.table)
    if key not in _NARROW:
        drawn = np.sort(np.random.default_rng(29).permutation(count)[:MOST_TARGETS])
        table = setup.table.only([setup.table.targets.ids[i] for i in drawn.tolist()])
        _NARROW[key] = (setup, replace(setup, table=table, card=None))
    return _NARROW[key][1]


_LESSONS: dict[tuple[int, int, int, int], Lesson] = {}


def _lesson(setup: Setup, number: int, seeds: int, resamples: int) -> Lesson:
    """The standard split of this seed, thinned."""
    key = (id(setup.table), number, seeds, resamples)
    if key not in _LESSONS:
        ground = ground_of(setup, seeds, resamples)
        split = thin(setup, ground.seeds[number].split, number, MOST_KNOWN)
        frame = ground.frames[number][TEST]
        _LESSONS[key] = _shared(seed_of(replace(setup, card=None), split, number), frame, number)
    return _LESSONS[key]


def _shared(seed: Seed, frame: Frame, number: int) -> Lesson:
    ids = seed.fitting.targets.ids
    order = np.random.default_rng([number, 31]).permutation(len(ids)).tolist()
    new = sorted(order[: max(1, len(ids) // SHARE_NEW)])
    return Lesson(seed, frame, tuple(ids[i] for i in range(len(ids)) if i not in new), tuple(ids[i] for i in new))


def _learned(lesson: Lesson, name: str, number: int) -> dict[str, Array]:
    """All figures of one seed [1 + B]."""
    base, config = _without_new(lesson, name)
    figures = {"without": _figure(lesson, base, lesson.known, name), "full": _full(lesson, config, name)}
    sizes = [n for n in CALIBRATION if n <= len(lesson.rows)] or [len(lesson.rows)]
    for ending, order in (("", _at_random(lesson, number)), ("_stratified", _stratified(lesson, number))):
        heights = [_figure(lesson, _onboarded(lesson, base, order[:n]), _everyone(lesson), name) for n in sizes]
        figures |= {f"n{n}{ending}": height for n, height in zip(sizes, heights, strict=True)}
        figures[f"onboarded{ending}"] = _log_mean(sizes, heights)
    bill = _bill(lesson, _at_random(lesson, number)[: sizes[-1]])
    return figures | ({"calibration_usd": np.array([bill])} if bill is not None else {})


def _at_once(lessons: Sequence[Lesson], name: str) -> list[dict[str, Array]]:
    """Figures per seed; the settings that won for the first are kept: the judged dataset never helped to choose them."""
    settled: PolicyConfig | None = None
    found = []
    for number, lesson in enumerate(lessons):
        base, settled = _without_new(lesson, name, settled)
        rows = _at_random(lesson, number)[:BOTH_CALIBRATION]
        figures = {
            "onboarded": _figure(lesson, _onboarded(lesson, base, rows), _everyone(lesson), name),
            "without": _figure(lesson, base, lesson.known, name),
            "full": _full(lesson, settled, name),
        }
        found.append(figures)
    return found


def _without_new(lesson: Lesson, name: str, settled: PolicyConfig | None = None) -> tuple[Policy, PolicyConfig]:
    """The policy that knows the old targets only, tuned on validation rows unless settled, and the settings that won."""
    seed = lesson.seed
    encoder = "static" if seed.setup.encoder is None else seed.setup.encoder.name
    config = settled or config_with(name, encoder)
    table, features, split = seed.fitting.only(lesson.known), seed.setup.features, seed.split
    fit = fit_policy(config, table, features, split.train, split.validation, seed.rng(name), tune=settled is None)
    return fit.policy, fit.config


def _full(lesson: Lesson, config: PolicyConfig, name: str) -> Array:
    table, features = lesson.seed.fitting.take(lesson.rows), lesson.seed.setup.features.take(lesson.rows)
    policy = config.fit(table.only(_everyone(lesson)), features, lesson.seed.rng(name))
    return _figure(lesson, policy, _everyone(lesson), name)


def _everyone(lesson: Lesson) -> tuple[str, ...]:
    """Old targets first: the order in which a policy that onboards knows them."""
    return (*lesson.known, *lesson.new)


def _onboarded(lesson: Lesson, policy: Policy, rows: Rows) -> Policy:
    """One new target after the other; each is told what was recorded of it, and of those before it, on the same rows."""
    table, features = lesson.seed.fitting.take(rows), lesson.seed.setup.features.take(rows)
    known = list(lesson.known)
    for target in lesson.new:
        known.append(target)
        policy = policy.onboard(target, table.only(known), features)
    return policy


def _figure(lesson: Lesson, policy: Policy, ids: Sequence[str], name: str) -> Array:
    """AIQ where calls are billed, else quality, of the policy's choices among these targets: [1 + B]."""
    table, frame = lesson.frame.table, lesson.frame
    features: Features = visible(policy, lesson.seed.setup.features.take(lesson.seed.split.test))
    part = table.only(list(ids))
    sweep = policy.decide_sweep(features, part.targets, lesson.seed.rng(name))
    if table.cost_usd is None:
        quality = np.take_along_axis(part.quality, sweep.choices[0][:, None], axis=1)[:, 0]
        return frame.resamples.means(quality[None, :])[:, 0]
    return judge(gathered(part, sweep), frame).figures["aiq" if len(sweep.settings) > 1 else "quality"]


def _at_random(lesson: Lesson, number: int) -> Rows:
    return lesson.rows[np.random.default_rng([number, 37]).permutation(len(lesson.rows))]


def _stratified(lesson: Lesson, number: int) -> Rows:
    """An order of which every beginning holds each cluster of queries in proportion."""
    rows = lesson.rows
    cluster = _clusters(lesson.seed.setup, rows)
    rng = np.random.default_rng([number, 41])
    place = np.empty(len(rows))
    for one in np.unique(cluster):
        members = rng.permutation(np.flatnonzero(cluster == one))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return rows[np.argsort(place, kind="stable")]


def _clusters(setup: Setup, rows: Rows) -> NDArray[np.intp]:
    """By k-means of the vectors; by label where there are none."""
    if setup.features.embedding is None:
        label = setup.table.label
        return np.unique([label[i] for i in rows.tolist()], return_inverse=True)[1].astype(np.intp)
    from sklearn.cluster import MiniBatchKMeans

    vectors = setup.features.embedding[rows]
    count = min(CLUSTERS, len(np.unique(vectors, axis=0)))
    made = MiniBatchKMeans(count, random_state=0, n_init=1, batch_size=1024).fit(vectors)
    return np.asarray(made.labels_, dtype=np.intp)


def _log_mean(sizes: Sequence[int], heights: Sequence[Array]) -> Array:
    """Mean height over the logarithm of the number of calls."""
    if len(sizes) == 1:
        return heights[0]
    x = np.log(np.array(sizes, dtype=np.float64))
    stack = np.stack(heights)
    area = (np.diff(x)[:, None] * (stack[1:] + stack[:-1]) / 2).sum(axis=0)
    return np.asarray(area / (x[-1] - x[0]))


def _bill(lesson: Lesson, rows: Rows) -> float | None:
    """USD of all calls to the new targets on these rows."""
    table: OutcomeTable = lesson.seed.fitting.take(rows).only(lesson.new)
    return None if table.cost_usd is None else float(np.nansum(table.cost_usd))


def _curve(figures: Mapping[str, Array]) -> dict[str, Any]:
    """The mean over seeds at every number of calibration queries."""
    if not figures:
        return {}
    sizes = [n for n in range(1, CALIBRATION[-1] + 1) if f"n{n}" in figures]
    mean = {name: float(values[:, 0].mean()) for name, values in figures.items()}
    drawn = {ending or "random": [mean[f"n{n}{ending}"] for n in sizes] for ending in ("", "_stratified")}
    return {
        "onboarding": {
            "n": sizes,
            "random": drawn["random"],
            "stratified": drawn["_stratified"],
            "full": mean["full"],
            "without": mean["without"],
        }
    }


def _note(setup: Setup) -> str:
    count = len(setup.table.targets)
    drawn = f"{MOST_TARGETS} of {count} targets, drawn once" if count > MOST_TARGETS else f"all {count} targets"
    figure = "AIQ" if setup.table.cost_usd is not None else "quality"
    return (
        f"the figure is {figure}; {drawn}, a third of them new, other ones for each seed; at most {MOST_KNOWN:,} training rows"
    )
