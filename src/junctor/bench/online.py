"""Experiment "bandit": what does it cost to learn while serving, and how good is what was learned?

A stream of training rows in random order, one for all policies of a seed; only the chosen target's outcome is revealed, late,
some of it twice. Regret is counted against the best fixed target in hindsight, the best of two policies that were fitted with
full information (ridge and kNN, each predicting rows that it was not fitted on), and the oracle of every single query. Then the
policy is frozen and judged on test rows. Half as long a stream with a change half-way is lived through once per kind of change.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor import registry
from junctor.bench.experiment import Array, Experiment, Result
from junctor.bench.experiments import able
from junctor.bench.prepare import Setup
from junctor.bench.protocol import splits_of
from junctor.bench.resample import Resamples, draw
from junctor.bench.worlds import CHANGES, Change, World, changed, live, world_of
from junctor.errors import UserError
from junctor.estimators.settings import estimator_config
from junctor.features import Features
from junctor.fitting import config_with
from junctor.outcomes import OutcomeTable
from junctor.policy import Learner, PolicyConfig

STEPS = 3000
CHANGED_STEPS = 1500
LEAST_STEPS = 200
COST_WEIGHT = 0.1
"""Quality given up for what the dearest single target costs, where calls are billed."""
POINTS = 100
PER = 1000.0
"""Regret is told per so many requests."""
REFERENCES = ("random", "best-single", "knn")
CLASSES: dict[str, dict[str, Any]] = {"linear": {"loss": "squared", "alpha": 30.0}, "knn": {"k": 40}}
FIRST_ROWS = 0.05
"""Share of other rows that a learner without a cold start is fitted on."""


@dataclass(frozen=True)
class Trial:
    """One seed: its stream, its changed streams, its test rows, and what resamples them."""

    number: int
    world: World
    worlds: Mapping[Change, World]
    other: OutcomeTable
    other_features: Features
    test: OutcomeTable
    test_features: Features
    steps: Resamples
    rows: Resamples

    def rng(self, name: str) -> np.random.Generator:
        """The randomness of one policy."""
        return np.random.default_rng([self.number, zlib.crc32(name.encode())])

    @cached_property
    def in_class(self) -> NDArray[np.intp]:
        """[T] choices of the better of the policies that were fitted with full information."""
        found = [crossed(self.world, name) for name in CLASSES]
        return max(found, key=lambda chosen: _taken(self.world.utility, chosen).sum())

    @cached_property
    def bars(self) -> dict[str, Array]:
        """[T] utility of what regret is counted against."""
        utility = self.world.utility
        best = int(utility.sum(axis=0).argmax())
        return {"fixed": utility[:, best], "class": _taken(utility, self.in_class), "oracle": utility.max(axis=1)}


class Bandit(Experiment):
    """Learning from partial feedback."""

    name: ClassVar[str] = "bandit"
    title: ClassVar[str] = "Learning while serving"
    question: ClassVar[str] = (
        "Seeing only what came of its own choices, late and some of it twice, how soon does it choose well?"
    )
    metrics: ClassVar[Mapping[str, str]] = {
        "frozen_utility": "quality less 0.1 of the cost in units of the dearest target's, on test rows, without exploration",
        "frozen_quality": "quality on test rows after the stream, without exploration",
        "regret_fixed": "utility lost per 1,000 requests against the best single target in hindsight; below 0: more than it",
        "regret_class": "the same against the better of ridge and kNN fitted with full information, each on the other half",
        "regret_oracle": "the same against the best target of every query",
        "regret_after_change": "against the best single target of the time after a change: mean over the changes below",
        "regret_after_price": "after the best target became the dearest by far",
        "regret_after_new_arm": "after the best target turned up",
        "regret_after_swap": "after the best and the worst target changed places behind their names",
    }
    headline: ClassVar[str] = "frozen_utility"
    less_is_better: ClassVar[frozenset[str]] = frozenset(name for name in metrics if name.startswith("regret"))
    bars: ClassVar[tuple[str, ...]] = ("random", "best-single")

    def policies(self, setup: Setup) -> tuple[str, ...]:
        """All learners that can read this set, and three references; none where too few rows are recorded completely."""
        if setup.table.propensity is not None or complete(setup.table).sum() < 2 * LEAST_STEPS:
            return ()
        vectors = setup.features.embedding is not None
        labels = any(setup.table.label)
        reads = [*(["embedding"] if vectors else []), *(["labels"] if labels else [])]
        known = {entry.name for entry in registry.entries("policy")}
        learners = [name for name in able(reads) if name in known and _learns(config_with(name, "static"))]
        return (*learners, *(REFERENCES if vectors else REFERENCES[:2]))

    def run(self, setup: Setup, policy: str, *, seeds: int, resamples: int) -> Result:
        """Live through every seed's streams."""
        try:
            trials = prepared(setup, seeds, resamples)
            found = [_one(setup, trial, policy) for trial in trials]
        except UserError as error:
            return Result(skipped=str(error))
        figures = {name: np.stack([one.figures[name] for one in found]) for name in found[0].figures}
        return Result(figures, _curves([one.lost for one in found]), _notes(trials[0], policy))


def _learns(config: PolicyConfig) -> bool:
    """Whether it learns of quality from feedback; the policies under budgets only settle their accounts."""
    family = "online" if config.about is None else config.about.family
    return issubclass(config.fitted, Learner) and family == "online"


@dataclass(frozen=True)
class _Found:
    """One seed's figures [1 + B], and what was lost at each step against each reference [T]."""

    figures: dict[str, Array]
    lost: dict[str, Array]


_LATEST: list[tuple[Setup, int, int, list[Trial]]] = []


def prepared(setup: Setup, seeds: int, resamples: int) -> list[Trial]:
    """The streams of all seeds, kept for the next policy of the same set. Raises TableError as the protocol's split does."""
    for held, count, draws, made in _LATEST:
        if held is setup and (count, draws) == (seeds, resamples):
            return made
    splits = splits_of(setup.table, setup.split, seeds)
    usable = complete(setup.table)
    rng = np.random.default_rng(0)
    tests = draw([split.test[usable[split.test]].tolist() for split in splits], resamples, rng)
    trials = []
    for number, (split, rows) in enumerate(zip(splits, tests, strict=True)):
        known = np.concatenate([split.train, split.validation])
        order = np.random.default_rng([number, 3]).permutation(known[usable[known]])
        if len(order) < LEAST_STEPS:
            raise UserError(f"{len(order)} rows to learn from are too few", field="bandit", fix="record more rows completely")
        trials.append(_trial(setup, number, order, split.test[usable[split.test]], rows, resamples))
    _LATEST[:] = [(setup, seeds, resamples, trials)]
    return trials


def complete(table: OutcomeTable) -> NDArray[np.bool_]:
    """[N] rows with every quality and, where calls are billed, every cost."""
    known = table.mask if table.cost_usd is None else table.mask & ~np.isnan(table.cost_usd)
    return np.asarray(known.all(axis=1))


def _trial(
    setup: Setup, number: int, order: NDArray[np.intp], test: NDArray[np.intp], rows: Resamples, resamples: int
) -> Trial:
    table, features = setup.table, setup.features
    weight = 0.0 if table.cost_usd is None else COST_WEIGHT
    rng = np.random.default_rng([number, 5])
    other = order[-max(20, round(FIRST_ROWS * len(order))) :]
    order = order[: len(order) - len(other)]
    stream = order[:STEPS]
    world = world_of(table.take(stream), features.take(stream), weight, rng)
    short = order[: min(CHANGED_STEPS, len(order))]
    calm = world_of(table.take(short), features.take(short), weight, rng)
    worlds = {change: there for change in CHANGES if (there := changed(calm, change)) is not None}
    steps = draw([range(len(stream))], resamples, np.random.default_rng([number, 7]))[0]
    return Trial(
        number,
        world,
        worlds,
        replace(table.take(other), targets=world.before),
        features.take(other),
        table.take(test),
        features.take(test),
        steps,
        rows,
    )


def _one(setup: Setup, trial: Trial, policy: str) -> _Found:
    world = trial.world
    chosen, tested = _lived(setup, trial, policy)
    got = _taken(world.utility, chosen)
    lost = {name: bar - got for name, bar in trial.bars.items()}
    figures = {f"regret_{name}": PER * trial.steps.means(values[None, :])[:, 0] for name, values in lost.items()}
    figures["frozen_quality"] = trial.rows.means(_average(trial.test.quality, tested)[None, :])[:, 0]
    worth = world.worth(trial.test.quality, trial.test.cost_usd)
    figures["frozen_utility"] = trial.rows.means(_average(worth, tested)[None, :])[:, 0]
    after = {}
    for change, there in trial.worlds.items():
        left = _after(setup, trial, there, policy)
        after["regret_after_" + change.replace(" ", "_")] = _resampled(left, trial.steps)
        lost[f"after {change}"] = left
    if after:
        figures |= after
        figures["regret_after_change"] = np.mean(list(after.values()), axis=0)
    return _Found(figures, lost)


def _lived(setup: Setup, trial: Trial, policy: str) -> tuple[NDArray[np.intp], Array]:
    """Choices on the stream [T], and shares of the choices on the test rows [N, M]."""
    world, rng = trial.world, trial.rng(policy)
    shape = trial.test.quality.shape
    if policy == "random":
        return rng.integers(shape[1], size=len(world)), np.full(shape, 1.0 / shape[1])
    if policy == "best-single":
        best = int(world.utility.mean(axis=0).argmax())
        return np.full(len(world), best), _shares(np.full(shape[0], best), shape[1])
    if policy == "knn":
        there = predicted(world, policy, world.table, world.features, trial.test_features).argmax(axis=1)
        return crossed(world, policy), _shares(there, shape[1])
    learner = started(setup, trial, world, policy)
    chosen = live(learner, world, rng)
    frozen = learner.frozen() if hasattr(learner, "frozen") else learner
    there, _ = frozen.decide_many(_seen(trial.test_features, learner.needs), world.after, rng)
    return chosen, _shares(there, shape[1])


def _after(setup: Setup, trial: Trial, world: World, policy: str) -> Array:
    """[T / 2] utility lost after a change, against the best single target of that time."""
    rng, half = trial.rng(f"{policy} after"), world.half
    utility = world.utility[half:]
    if policy == "random":
        chosen = rng.integers(utility.shape[1], size=len(utility))
    elif policy == "best-single":
        chosen = np.full(len(utility), int(world.utility[:half].mean(axis=0).argmax()))
    elif policy == "knn":
        known = np.arange(half)
        there = world.features.take(np.arange(half, len(world)))
        worth = predicted(world, policy, world.table.take(known), world.features.take(known), there)
        absent = [world.before.position(id_) is None for id_ in world.table.targets.ids]
        chosen = np.where(absent, -np.inf, worth).argmax(axis=1)
    else:
        learner = started(setup, trial, world, policy)
        chosen = live(learner, world, rng)[half:]
    best = int(utility.sum(axis=0).argmax())
    return np.asarray(utility[:, best] - _taken(utility, chosen))


def started(setup: Setup, trial: Trial, world: World, policy: str) -> Learner:
    """The learner before its first request: it knows prompts and list prices, and no outcome.

    One that has no setting for that (`warm`) is fitted on a twentieth of the rows instead, as many as 20 at least.
    """
    encoder = "static" if setup.encoder is None else setup.encoder.name
    config = setup.configs.get(policy) or config_with(policy, encoder)
    config = _priced(config, world.weight)
    rng = np.random.default_rng([trial.number, zlib.crc32(policy.encode()), 1])
    ids = world.before.ids
    if any(f.name == "warm" for f in fields(config)):  # type: ignore[arg-type]
        cold: PolicyConfig = replace(config, warm=0.0)  # type: ignore[type-var]
        made = cold.fit(world.table.only(ids), _seen(world.features, config.needs), rng)
    else:
        made = config.fit(trial.other.only(ids), _seen(trial.other_features, config.needs), rng)
    assert isinstance(made, Learner)
    return made


def _priced(config: PolicyConfig, weight: float) -> PolicyConfig:
    """The config at the experiment's trade of quality for cost, where it has one."""
    if hasattr(config, "priced"):
        made: PolicyConfig = config.priced(weight)
        return made
    if any(f.name == "cost_weight" for f in fields(config)):  # type: ignore[arg-type]
        return replace(config, cost_weight=weight)  # type: ignore[type-var]
    return config


def _seen(features: Features, needs: frozenset[str]) -> Features:
    return features if "labels" in needs else features.without_labels()


def predicted(world: World, name: str, table: OutcomeTable, features: Features, there: Features) -> Array:
    """[n, M] utility of every target on other rows, by an estimator that was fitted on these with full information."""
    made = estimator_config(name, CLASSES[name]).fit(table, features.without_labels(), np.random.default_rng(0))
    found = made.predict_many(there.without_labels())
    return world.worth(found.quality, found.cost_usd if world.cost is not None else None)


def crossed(world: World, name: str) -> NDArray[np.intp]:
    """[T] choices of an estimator with full information, each half of the stream chosen for by a fit on the other half."""
    chosen = np.empty(len(world), dtype=np.intp)
    for part in (0, 1):
        fit, judge = (np.flatnonzero(np.arange(len(world)) % 2 == side) for side in (part, 1 - part))
        worth = predicted(world, name, world.table.take(fit), world.features.take(fit), world.features.take(judge))
        chosen[judge] = worth.argmax(axis=1)
    return chosen


def _taken(values: Array, chosen: NDArray[np.intp]) -> Array:
    found: Array = values[np.arange(len(values)), chosen]
    return found


def _shares(chosen: NDArray[np.intp], targets: int) -> Array:
    return np.asarray(chosen[:, None] == np.arange(targets), dtype=np.float64)


def _average(values: Array, shares: Array) -> Array:
    return np.asarray((values * shares).sum(axis=1))


def _resampled(lost: Array, steps: Resamples) -> Array:
    """[1 + B] per 1,000 requests, on the resamples of as many steps of the stream."""
    return PER * Resamples(_nonempty(steps.counts[:, : len(lost)])).means(lost[None, :])[:, 0]


def _nonempty(counts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(counts.sum(axis=1, dtype=np.int64)[:, None] == 0, np.uint8(1), counts)


def _curves(found: list[dict[str, Array]]) -> dict[str, Any]:
    """Cumulative regret, mean over seeds, at no more than 100 steps."""
    curves: dict[str, Any] = {}
    for name in found[0]:
        length = min(len(one[name]) for one in found)
        total = np.mean([np.cumsum(one[name][:length]) for one in found], axis=0)
        at = np.unique(np.linspace(0, length - 1, min(POINTS, length)).round().astype(int))
        key = name.replace(" ", "_") if name.startswith("after") else f"regret_{name}"
        curves[key] = {"step": (at + 1).tolist(), "lost": np.round(total[at], 4).tolist()}
    return curves


def _notes(trial: Trial, policy: str) -> tuple[str, ...]:
    world = trial.world
    said = [f"{len(world):,} requests; feedback comes 10 steps late on average, 5% of it twice"]
    if world.cost is not None:
        said.append(f"utility is quality less {world.weight:g} of the cost in units of the dearest target's mean")
    if policy in ("best-single", "knn"):
        said.append("a reference with full information: it has seen every outcome of the stream")
    return tuple(said)
