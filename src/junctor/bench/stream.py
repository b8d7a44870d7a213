"""Experiment "stream": N requests in some order, a budget per target, and nothing beyond it. After PORT's evaluation.

Budgets: together what the cheapest target (by training mean) would cost on all test requests; split in proportion to
sqrt(quality / cost) of the training means. A policy sees predictions and what is left of the budgets, never an outcome.

A request is served when the call that its policy chose could be paid with what was left. It is **lost** when that call turns
out dearer than what is left, when the policy declines it, or, with the check, when no target's predicted cost is left. Lost
requests score nothing and cost nothing. The requests on which a policy explores are part of the stream and of its figures.

Every policy runs twice: as it is ("insists on its first choice"), and with the check ("skips what cannot be paid"). Most of a
published lead over baselines that insist are the requests that those lose, so the headline is the one with the check.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor import registry
from junctor.bench.experiment import Experiment, Result
from junctor.bench.prepare import Setup
from junctor.bench.protocol import splits_of
from junctor.bench.resample import Resamples, draw
from junctor.errors import UserError
from junctor.estimators.knn import KNNConfig
from junctor.estimators.measured import means
from junctor.features import Features
from junctor.fitting import Fit, config_with, fit_policy
from junctor.outcomes import OutcomeTable
from junctor.outcomes.splitting import Split
from junctor.policies.allocating import PUBLISHED_K, Allocator, AllocatorConfig
from junctor.policies.lp_offline import LPOffline
from junctor.policies.pricing import dearest_for_unknown, optimum, walk
from junctor.policies.utility import UtilityConfig, UtilityPolicy
from junctor.policy import Array, Policy, PolicyConfig

ALLOCATORS = ("port", "greedy-feasible", "lp-offline", "batch-split")
REFERENCES = ("random", "greedy-cost", "knn-cost")
ORDINARY = ("knn", "linear", "carrot", "stack")
PERMUTATIONS = 20
"""At least so many orders of the stream, over all seeds together."""
TRADES = (0.0, *np.geomspace(0.01, 100.0, 9).tolist())
"""Cost weights among which an ordinary policy's is chosen on a stream of validation rows."""
CHECKED = "_checked"

Serve = Callable[[Array, Array, Array, Array, np.random.Generator, bool], NDArray[np.intp]]
"""(predicted quality, predicted cost, budgets, bills, rng, check) -> positions [N], -1 = lost."""


@dataclass(frozen=True)
class Course:
    """One seed's stream: the rows to learn from, those that come, their budgets [M], the order of each run [P, N]."""

    number: int
    setup: Setup
    split: Split
    known: NDArray[np.intp]
    rows: NDArray[np.intp]
    budgets: Array
    orders: NDArray[np.intp]

    @cached_property
    def table(self) -> OutcomeTable:
        """Outcomes of the rows that come."""
        return self.setup.table.take(self.rows)

    @property
    def bills(self) -> Array:
        """[N, M] USD."""
        assert self.table.cost_usd is not None
        return self.table.cost_usd

    @cached_property
    def best(self) -> Array:
        """[N] what each request contributes to the optimum that knows all outcomes."""
        found = optimum(self.table.quality, self.bills, self.budgets)
        return np.asarray((found.shares * self.table.quality).sum(axis=1))

    @cached_property
    def near(self) -> tuple[Array, Array]:
        """Predicted quality and cost [N, M] of the 5 nearest recorded queries: the published estimates."""
        config = UtilityConfig(estimator=KNNConfig(k=PUBLISHED_K))
        return predicted(self.fitted(config), self.features(config.needs), self.bills)

    @cached_property
    def best_predicted(self) -> Array:
        """[N] what each request is predicted to contribute to the optimum of the published estimates."""
        quality, cost = self.near
        found = optimum(quality, cost, self.budgets)
        return np.asarray((found.shares * np.nan_to_num(quality)).sum(axis=1))

    def fitted(self, config: PolicyConfig) -> UtilityPolicy:
        """The config, fitted on the known rows."""
        table, features = self.setup.table.take(self.known), self.setup.features.take(self.known)
        made = config.fit(table, features, np.random.default_rng(self.number))
        assert isinstance(made, UtilityPolicy)
        return made

    def features(self, needs: frozenset[str]) -> Features:
        """Of the rows that come, without labels unless they are asked for."""
        found = self.setup.features.take(self.rows)
        return found if "labels" in needs else found.without_labels()

    def runs(self, serve: Serve, quality: Array, cost: Array, *, check: bool) -> Array:
        """[3, N] per request: quality, bill and served (0 or 1), each averaged over the orders."""
        total = np.zeros((3, len(self.rows)))
        for run, order in enumerate(self.orders):
            rng = np.random.default_rng([self.number, run, 1])
            chosen = serve(quality[order], cost[order], self.budgets, self.bills[order], rng, check)
            rows = order[chosen >= 0]
            places = chosen[chosen >= 0]
            total[0, rows] += self.table.quality[rows, places]
            total[1, rows] += self.bills[rows, places]
            total[2, rows] += 1.0
        return total / len(self.orders)


class Stream(Experiment):
    """How much quality a policy gets out of budgets that do not reach, request by request."""

    name: ClassVar[str] = "stream"
    title: ClassVar[str] = "A stream under budgets"
    question: ClassVar[str] = "How much quality does a policy get out of fixed budgets per target, request by request?"
    headline: ClassVar[str] = "relative_performance_checked"
    less_is_better: ClassVar[frozenset[str]] = frozenset({"cost", "cost_checked"})
    bars: ClassVar[tuple[str, ...]] = (*REFERENCES, "greedy-feasible")
    metrics: ClassVar[dict[str, str]] = {
        name + suffix: meaning + how
        for suffix, how in (
            ("", "; insists on its first choice"),
            (CHECKED, "; skips targets whose remaining budget is below the predicted cost"),
        )
        for name, meaning in {
            "relative_performance": "performance over the optimum of the linear program that knows every outcome",
            "relative_performance_estimates": "performance over the optimum that the estimates of 5 neighbours promise",
            "performance": "sum of the scores of served requests",
            "cost": "USD billed for the whole stream",
            "performance_per_cost": "performance per USD",
            "throughput": "share of requests that were served",
        }.items()
    }

    def policies(self, setup: Setup) -> tuple[str, ...]:
        """The policies under budgets, the references, and ordinary policies with predictions; none without costs or vectors."""
        if setup.table.cost_usd is None or setup.by_share or setup.features.embedding is None:
            return ()
        usable = _complete(setup.table)
        if usable.mean() < 0.5:
            return ()
        known = {entry.name for entry in registry.entries("estimator")}
        ordinary = [name for name in (*ORDINARY, *setup.judged) if name in known]
        return tuple(dict.fromkeys((*ALLOCATORS, *REFERENCES, *ordinary)))

    def run(self, setup: Setup, policy: str, *, seeds: int, resamples: int) -> Result:
        """Run one policy over every seed's stream, with and without the check."""
        streams, draws = prepared(setup, seeds, resamples)
        try:
            found = [self._figures(stream, draw_, policy) for stream, draw_ in zip(streams, draws, strict=True)]
        except UserError as error:
            return Result(skipped=str(error))
        figures = {name: np.stack([one[name] for one in found]) for name in self.metrics}
        orders = sum(len(stream.orders) for stream in streams)
        notes = (
            f"{orders} orders of the stream; lost requests score nothing, the exploration phase is included",
            "resamples weigh the requests' own results anew, the stream is not run again",
        )
        return Result(figures=figures, notes=notes)

    def _figures(self, stream: Course, resamples: Resamples, policy: str) -> dict[str, Array]:
        out: dict[str, Array] = {}
        serves, quality, cost = servers(stream, policy)
        for check, serve in zip((False, True), serves, strict=True):
            run = stream.runs(serve, quality, cost, check=check)
            got = resamples.means(np.vstack([run, stream.best, stream.best_predicted]))
            suffix, rows = CHECKED if check else "", len(stream.rows)
            out["performance" + suffix], out["cost" + suffix] = got[:, 0] * rows, got[:, 1] * rows
            out["throughput" + suffix] = got[:, 2]
            out["performance_per_cost" + suffix] = _ratio(got[:, 0], got[:, 1])
            out["relative_performance" + suffix] = _ratio(got[:, 0], got[:, 3])
            out["relative_performance_estimates" + suffix] = _ratio(got[:, 0], got[:, 4])
        return out


_LATEST: list[tuple[Setup, int, int, tuple[list[Course], list[Resamples]]]] = []


def prepared(setup: Setup, seeds: int, resamples: int) -> tuple[list[Course], list[Resamples]]:
    """The streams of all seeds and the paired resamples of their requests; kept for the next policy of the same set.

    Raises TableError as the protocol's split does.
    """
    for held, count, draws, made in _LATEST:
        if held is setup and (count, draws) == (seeds, resamples):
            return made
    each = max(1, -(-PERMUTATIONS // seeds))
    splits = splits_of(setup.table, setup.split, seeds)
    streams = [_stream(setup, split, number, each) for number, split in enumerate(splits)]
    made = streams, draw([stream.rows.tolist() for stream in streams], resamples, np.random.default_rng(0))
    _LATEST[:] = [(setup, seeds, resamples, made)]
    return made


def _stream(setup: Setup, split: Split, number: int, orders: int) -> Course:
    known = np.sort(np.concatenate([split.train, split.validation]))
    rows = split.test[_complete(setup.table)[split.test]]
    assert setup.table.cost_usd is not None
    budgets = budgets_of(setup.table.take(known), setup.table.cost_usd[rows])
    draws = [np.random.default_rng([number, run]).permutation(len(rows)) for run in range(orders)]
    return Course(number, setup, split, known, rows, budgets, np.stack(draws))


def budgets_of(known: OutcomeTable, bills: Array) -> Array:
    """[M] USD: what the cheapest target would cost on all requests, split in proportion to sqrt(quality / cost).

    known   the rows whose means say what is cheapest and what a target is worth
    bills   [N, M] USD of the requests that come
    """
    assert known.cost_usd is not None
    quality, cost = np.nan_to_num(means(known.quality)), means(known.cost_usd)
    total = float(bills[:, int(np.nanargmin(cost))].sum())
    worth = np.sqrt(quality / np.where(cost > 0, cost, np.nan))
    finite = np.isfinite(worth)
    worth = np.where(finite, worth, worth[finite].max(initial=1.0))
    return np.asarray(total * worth / worth.sum())


def servers(stream: Course, policy: str) -> tuple[tuple[Serve, Serve], Array, Array]:
    """How a policy serves a stream, without and with the check, and what it predicts for it: quality and cost [N, M]."""
    if policy == "random":
        return (_at_random, _at_random), *stream.near
    if policy == "greedy-cost":
        return (_cheapest, _cheapest), *stream.near
    name = "knn" if policy == "knn-cost" else policy
    encoder = stream.setup.encoder
    config = stream.setup.configs.get(name) or config_with(name, encoder.name if encoder else "static")
    if isinstance(config, AllocatorConfig):
        return _allocating(stream, config)
    if not isinstance(config, UtilityConfig):
        raise UserError("gives no prediction that a budget could be set against", field=policy, fix="name an estimator")
    fit = _fitted(stream, config, name)
    assert isinstance(fit.policy, UtilityPolicy)
    found = predicted(fit.policy, stream.features(config.needs), stream.bills)
    if policy == "knn-cost":
        return (_cheapest, _cheapest), *found
    insisting, skipping = (_trading(weight, fit.policy.scales.cost_usd) for weight in _weights(stream, fit.config))
    return (insisting, skipping), *found


def predicted(policy: UtilityPolicy | Allocator, features: Features, like: Array) -> tuple[Array, Array]:
    """Predicted quality and cost [N, M]; NaN for a cost that it does not predict."""
    plug_in = policy.plug_in if isinstance(policy, Allocator) else policy
    found = plug_in.estimator.predict_many(features)
    return found.quality, np.full(like.shape, np.nan) if found.cost_usd is None else found.cost_usd


def _allocating(stream: Course, config: AllocatorConfig) -> tuple[tuple[Serve, Serve], Array, Array]:
    table, features = stream.setup.table.take(stream.known), stream.setup.features.take(stream.known)
    made: Policy = config.fit(table, features, np.random.default_rng(stream.number))
    assert isinstance(made, Allocator)
    found = predicted(made, stream.features(config.needs), stream.bills)
    if isinstance(made, LPOffline):  # its program knows no order: one for all of them
        return (_as_scored, _as_scored), optimum(*found, stream.budgets).scores(*found), found[1]
    allocate = made.allocate

    def serve(q: Array, c: Array, budgets: Array, bills: Array, rng: np.random.Generator, check: bool) -> NDArray[np.intp]:
        return allocate(q, c, budgets, rng, check=check, billed=bills)

    return (serve, serve), *found


def _fitted(stream: Course, config: UtilityConfig, name: str) -> Fit:
    """Tuned and fitted as on every board."""
    rng = np.random.default_rng([stream.number, zlib.crc32(name.encode())])
    setup, split = stream.setup, stream.split
    return fit_policy(config, setup.table, setup.features, split.train, split.validation, rng)


def _weights(stream: Course, config: PolicyConfig) -> tuple[float, float]:
    """The cost weights that do best on a stream of validation rows, without and with the check."""
    setup, split = stream.setup, stream.split
    assert setup.table.cost_usd is not None
    rows = split.validation[_complete(setup.table)[split.validation]]
    if not len(rows):
        return 1.0, 1.0
    budgets = budgets_of(setup.table.take(split.train), setup.table.cost_usd[rows])
    orders = np.stack([np.random.default_rng([stream.number, run, 2]).permutation(len(rows)) for run in range(3)])
    trial = replace(stream, known=split.train, rows=rows, budgets=budgets, orders=orders)
    probe = trial.fitted(config)
    quality, cost = predicted(probe, trial.features(config.needs), trial.bills)
    best = []
    for check in (False, True):
        runs = (trial.runs(_trading(weight, probe.scales.cost_usd), quality, cost, check=check) for weight in TRADES)
        best.append(TRADES[int(np.argmax([run[0].sum() for run in runs]))])
    return best[0], best[1]


def _trading(weight: float, scale: float) -> Serve:
    """Quality less `weight` times cost in units of `scale`."""

    def serve(q: Array, c: Array, budgets: Array, bills: Array, rng: np.random.Generator, check: bool) -> NDArray[np.intp]:
        del rng
        unit = scale if scale > 0 else 1.0
        return _served(q - weight * dearest_for_unknown(c) / unit, c, budgets, bills, check)

    return serve


def _as_scored(q: Array, c: Array, budgets: Array, bills: Array, rng: np.random.Generator, check: bool) -> NDArray[np.intp]:
    del rng
    return _served(q, c, budgets, bills, check)


def _cheapest(q: Array, c: Array, budgets: Array, bills: Array, rng: np.random.Generator, check: bool) -> NDArray[np.intp]:
    del q, rng
    return _served(-dearest_for_unknown(c), c, budgets, bills, check)


def _at_random(q: Array, c: Array, budgets: Array, bills: Array, rng: np.random.Generator, check: bool) -> NDArray[np.intp]:
    return _served(rng.random(q.shape), c, budgets, bills, check)


def _served(scores: Array, cost: Array, budgets: Array, bills: Array, check: bool) -> NDArray[np.intp]:
    return walk(np.where(np.isnan(scores), -np.inf, scores), cost, budgets.copy(), bills, check=check)


def _complete(table: OutcomeTable) -> NDArray[np.bool_]:
    """[N] rows with every quality and every cost."""
    assert table.cost_usd is not None
    return np.asarray((table.mask & ~np.isnan(table.cost_usd)).all(axis=1))


def _ratio(total: Array, over: Array) -> Array:
    return np.divide(total, over, out=np.full_like(total, np.nan), where=over > 0)
