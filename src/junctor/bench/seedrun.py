"""One seed: fit every policy on the training side, let it choose on the judged sides, and turn choices into figures."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from junctor.bench.judge import Frame, Judged, judge
from junctor.bench.prepare import Setup
from junctor.bench.references import Curve, both_ways, gathered, mirrored, oracle, random_choice, replayed, zero_router
from junctor.bench.resample import Resamples
from junctor.errors import UserError
from junctor.features import Features
from junctor.fitting import Fit, fit_policy, policy_config, visible
from junctor.outcomes import OutcomeTable
from junctor.outcomes.splitting import Split
from junctor.policy import Array, Policy, PolicyConfig, Replayable

TEST = "test"


@dataclass
class SeedResult:
    """What one seed found: figures per judged side and policy, how the policies were fitted, and the policies themselves."""

    judged: dict[str, dict[str, Judged]] = field(default_factory=dict)
    fits: dict[str, Fit] = field(default_factory=dict)
    fit_s: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    singles: tuple[Array, Array | None] | None = None
    best_single: str = ""


@dataclass(frozen=True)
class Seed:
    """One seed's view of the data; `fitting` is what policies learn from: the table, priced by share where need be."""

    setup: Setup
    split: Split
    number: int
    fitting: OutcomeTable
    best_single: int
    strong: int | None

    def rng(self, name: str) -> np.random.Generator:
        """The randomness of one policy: naming other policies does not change it."""
        return np.random.default_rng([self.number, zlib.crc32(name.encode())])

    @property
    def known(self) -> NDArray[np.intp]:
        """Training and validation rows: everything that a policy may learn from."""
        return np.concatenate([self.split.train, self.split.validation])


def run_seed(
    setup: Setup, split: Split, number: int, resamples: Mapping[str, Resamples], step: Callable[[str], None]
) -> SeedResult:
    """Fit and judge everything once. `resamples` holds one entry per judged side; `step` is told each policy's name."""
    seed = seed_of(setup, split, number)
    frames = {side: frame_of(seed, side, draws) for side, draws in resamples.items()}
    result = SeedResult(best_single=setup.table.targets.ids[seed.best_single])
    result.judged = {side: {} for side in frames}
    for name, config in setup.configs.items():
        step(name)
        try:
            fit_and_judge(seed, name, config, frames, result)
        except UserError as error:
            if name in setup.judged:
                raise
            result.skipped[name] = str(error)
    step("references")
    for side, frame in frames.items():
        for name, curve in references_of(seed, frame).items():
            result.judged[side][name] = judge(curve, frame)
    test = frames[TEST]
    result.singles = test.singles_quality[0], test.singles_cost[0] if test.billed else None
    return result


def seed_of(setup: Setup, split: Split, number: int) -> Seed:
    """Choose the best single target on the training side, and price calls by share where that takes the place of cost."""
    known = np.concatenate([split.train, split.validation])
    best = best_single(setup.table.take(known), macro=setup.macro)
    if len(setup.table.targets) != 2:
        return Seed(setup, split, number, setup.table, best, None)
    table = setup.table
    if setup.by_share:
        cost = np.zeros(table.quality.shape)
        cost[:, best] = 1.0
        table = replace(table, cost_usd=np.where(table.mask, cost, np.nan))
    return Seed(setup, split, number, table, best, best)


def best_single(table: OutcomeTable, *, macro: bool) -> int:
    """The target of the highest mean quality: over rows, or over datasets when they count alike; ties to the cheapest."""
    labels = np.array(table.label, dtype=object)
    names = sorted(set(table.label)) if macro else []
    groups = [table.quality[labels == name] for name in names] or [table.quality]
    means = np.mean([_column_means(group) for group in groups], axis=0)
    cost = np.zeros(len(means)) if table.cost_usd is None else _column_means(table.cost_usd)
    return int(np.lexsort((cost, -np.round(means, 12)))[0])


def operating_point(curve: Curve, ceiling: float) -> int:
    """The setting of the best quality among those that cost no more than `ceiling` USD per query on average.

    Ties go to the cheaper setting; when every setting is dearer, the cheapest. Called on validation rows, never on test rows.
    """
    assert curve.cost_usd is not None
    quality, cost = np.nanmean(curve.quality, axis=1), np.nanmean(curve.cost_usd, axis=1)
    allowed = cost <= ceiling * (1 + 1e-9)
    if not allowed.any():
        return int(cost.argmin())
    best = np.where(allowed, quality, -np.inf)
    return int(np.where(best >= best.max() - 1e-12, cost, np.inf).argmin())


def frame_of(seed: Seed, side: str, draws: Resamples) -> Frame:
    """What everybody is judged against on one side of the split."""
    rows = seed.split.test if side == TEST else seed.split.extra[side]
    weak = None if seed.strong is None else 1 - seed.strong
    billed = seed.fitting.cost_usd is not None and not seed.setup.by_share
    return Frame(seed.fitting.take(rows), draws, seed.best_single, seed.strong, weak, billed)


def fit_and_judge(
    seed: Seed, name: str, config: PolicyConfig, frames: Mapping[str, Frame], result: SeedResult, *, tune: bool = True
) -> None:
    """Fit one policy, choose its operating point, and add its figures on every judged side to `result`."""
    features, split = seed.setup.features, seed.split
    started = time.perf_counter()
    if name == "best-single":
        config = policy_config("fixed", {"target": seed.setup.table.targets.ids[seed.best_single]})
    fit = fit_policy(config, seed.fitting, features, split.train, split.validation, seed.rng(name), tune=tune)
    result.fit_s[name] = time.perf_counter() - started
    result.fits[name] = fit
    setting = _chosen_setting(seed, name, fit)
    # A plan bills all its calls: with the costs turned round, its first call would be another one, not the same knob's far end.
    mirror = _mirror(seed, name, fit) if seed.setup.by_share and not isinstance(fit.policy, Replayable) else None
    for side, frame in frames.items():
        there = features.take(split.test if side == TEST else split.extra[side])
        curve = _curve(fit.policy, frame.table, there, seed, name)
        if mirror is not None and curve.knob:
            curve = both_ways(curve, _curve(mirror, mirrored(frame.table), there, seed, name))
        result.judged[side][name] = judge(replace(curve, operating=min(setting, len(curve.quality) - 1)), frame)


def _curve(policy: Policy, table: OutcomeTable, features: Features, seed: Seed, name: str) -> Curve:
    """What the policy's choices came to, or its plans, where they look at answers; without anything to trade, its first
    setting alone.
    """
    features = visible(policy, features)
    if isinstance(policy, Replayable):
        return replayed(policy.replay(table, features, seed.rng(name)), by_share=seed.setup.by_share)
    sweep = policy.decide_sweep(features, table.targets, seed.rng(name))
    if table.cost_usd is None:
        sweep = replace(sweep, settings=sweep.settings[:1], choices=sweep.choices[:1], propensities=sweep.propensities[:1])
    return gathered(table, sweep, 0, seed.strong)


def _mirror(seed: Seed, name: str, fit: Fit) -> Policy:
    """The same policy learned with the weak target as the dear one: its knob goes on to where every call is strong."""
    table = mirrored(seed.fitting).take(seed.known)
    return fit.config.fit(table, seed.setup.features.take(seed.known), seed.rng(name))


def _chosen_setting(seed: Seed, name: str, fit: Fit) -> int:
    """Where on its knob a policy stands: chosen on validation rows by a copy that was fitted without them."""
    rows = seed.split.validation
    if seed.setup.by_share or seed.fitting.cost_usd is None or not len(rows):
        return 0
    table, features = seed.fitting, seed.setup.features
    train = seed.split.train
    probe = fit.config.fit(table.take(train), features.take(train), seed.rng(name))
    curve = _curve(probe, table.take(rows), features.take(rows), seed, name)
    return operating_point(curve, _ceiling(seed)) if curve.knob else 0


def _ceiling(seed: Seed) -> float:
    """Mean USD per query of the best single target on validation rows."""
    assert seed.fitting.cost_usd is not None
    return float(np.nanmean(seed.fitting.cost_usd[seed.split.validation, seed.best_single]))


def references_of(seed: Seed, frame: Frame, only: str = "") -> dict[str, Curve]:
    """Random choice in expectation, the oracle, and the zero router where calls are billed; or one of them alone."""
    made = {"random": _random, "oracle": _oracle, "zero-router": _zero_router}
    if not frame.billed:
        del made["zero-router"]
    return {name: make(seed, frame) for name, make in made.items() if only in ("", name)}


def _random(seed: Seed, frame: Frame) -> Curve:
    del seed
    return random_choice(frame.table)


def _oracle(seed: Seed, frame: Frame) -> Curve:
    curve = oracle(frame.table, seed.strong)
    return both_ways(curve, oracle(mirrored(frame.table), seed.strong)) if seed.setup.by_share else curve


def _zero_router(seed: Seed, frame: Frame) -> Curve:
    rows = seed.split.validation
    place = seed.best_single
    if len(rows):
        place = operating_point(zero_router(seed.fitting.take(rows), 0), _ceiling(seed))
    return zero_router(frame.table, place, seed.strong)


def _column_means(values: Array) -> Array:
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), -np.inf)
