"""Fit a policy: tuned on validation rows, then fitted on training and validation rows together. Test rows are never seen.

Wherever a policy is named, an estimator's name means the utility policy over it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from junctor import registry
from junctor.curves import area_under_hull
from junctor.errors import TableError, UnknownName, UserError
from junctor.estimators.measured import means
from junctor.estimators.settings import configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policies.utility import UtilityConfig
from junctor.policy import Array, EstimatorConfig, Policy, PolicyConfig, Replayable

Rows = Sequence[int] | NDArray[np.integer[Any]]
Progress = Callable[[int, int], None]
EVEN = 1e-12
"""Scores closer than this are the same."""
RESAMPLES = 50
"""Bootstrap draws of the validation rows, to tell candidates apart."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted policy, the config that won, and every (settings, validation score) that was tried, in order."""

    policy: Policy
    config: PolicyConfig
    tried: list[tuple[dict[str, Any], float]]


def policy_config(name: str, settings: Mapping[str, Any] | None = None) -> PolicyConfig:
    """The policy of this name, or the utility policy over the estimator of this name.

    Settings of an estimator's name may be its own or the utility's. Raises UnknownName, or ConfigError for an unknown key or a
    wrong type.
    """
    given = dict(settings or {})
    policies = {entry.name for entry in registry.entries("policy")}
    estimators = {entry.name for entry in registry.entries("estimator")}
    if name in policies:
        made: PolicyConfig = configured(registry.load("policy", name), given, name)
        return made
    if name not in estimators:
        try:
            registry.find("policy", name)
        except UnknownName as error:
            raise UnknownName(error.message, field=error.field, fix=f"{error.fix}, {', '.join(sorted(estimators))}") from error
    return _over_estimator(name, given)


def config_with(name: str, encoder: str, settings: Mapping[str, Any] | None = None) -> PolicyConfig:
    """`policy_config`; a part that reads texts itself (descriptions, examples) is told which encoder made the features."""
    config = policy_config(name, settings)
    own = config.settings()
    inner = own.get("estimator_settings")
    if "encoder" in own or (isinstance(inner, Mapping) and "encoder" in inner):
        return policy_config(name, {**(settings or {}), "encoder": encoder})
    return config


def _over_estimator(name: str, given: dict[str, Any]) -> UtilityConfig:
    """Settings that the estimator knows go to it, the trade's own to the utility; all others are unknown to the estimator."""
    kind: type[EstimatorConfig] = registry.load("estimator", name)
    own = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    trade = {f.name for f in fields(UtilityConfig)} - {"estimator", "estimator_settings"} - own
    estimator = configured(kind, {k: v for k, v in given.items() if k not in trade}, name, also=sorted(trade))
    shared = configured(UtilityConfig, {k: v for k, v in given.items() if k in trade}, name)
    values = {f.name: getattr(shared, f.name) for f in fields(UtilityConfig)}
    return UtilityConfig(**{**values, "estimator": estimator, "label": shared.label or name})


def fit_policy(
    config: PolicyConfig,
    table: OutcomeTable,
    features: Features,
    train: Rows,
    validation: Rows,
    rng: np.random.Generator,
    *,
    progress: Progress | None = None,
    settle: Callable[[PolicyConfig], PolicyConfig] | None = None,
    tune: bool = True,
) -> Fit:
    """Fit every candidate on the training rows, judge it on the validation rows, fit the winner on both.

    Candidates share one seed, so that luck does not choose between them; ties go to the first. Without validation rows, or with
    a single candidate, nothing is tuned, nor without `tune`. `settle` may change the winner before it is fitted. Raises
    TableError for rows that are not in the table or in both parts.
    """
    train, validation = _checked(train, len(table)), _checked(validation, len(table))
    if len(np.intersect1d(train, validation)):
        raise TableError("is also a training row", field="validation", fix="tune on rows that were not fitted on")
    seed = int(rng.integers(2**63))
    candidates = list(config.candidates(len(train))) if len(validation) and tune else [config]
    report = progress or (lambda _done, _total: None)
    steps = len(candidates) + 1 if len(candidates) > 1 else 1
    tried, best = _tune(candidates, table, features, train, validation, seed, lambda done: report(done, steps))
    best = settle(best) if settle else best
    rows = np.sort(np.concatenate([train, validation]))
    everything = len(rows) == len(table)  # a copy of a million rows is not made for nothing
    known = (table, features) if everything else (table.take(rows), features.take(rows))
    policy = best.fit(*known, np.random.default_rng(seed))
    policy.version = _version(best, table, rows, seed)
    report(steps, steps)
    return Fit(policy, best, tried)


def visible(policy: Policy, features: Features) -> Features:
    """What a policy may look at when it decides: labels of new requests are for those alone who say that they need them."""
    return features if "labels" in policy.needs else features.without_labels()


def _tune(
    candidates: list[PolicyConfig],
    table: OutcomeTable,
    features: Features,
    train: NDArray[np.intp],
    validation: NDArray[np.intp],
    seed: int,
    report: Callable[[int], None],
) -> tuple[list[tuple[dict[str, Any], float]], PolicyConfig]:
    """All candidates' validation scores, and the first of the best; a single one is not scored."""
    if len(candidates) == 1:
        return [], candidates[0]
    fitting = table.take(train), features.take(train)
    judging = table.take(validation), features.take(validation)
    tried: list[tuple[dict[str, Any], float]] = []
    sweeps: list[Judged] = []
    for done, candidate in enumerate(candidates, start=1):
        policy = candidate.fit(*fitting, np.random.default_rng(seed))
        sweeps.append(_judged(policy, judging[0], visible(policy, judging[1]), np.random.default_rng(seed)))
        tried.append((candidate.settings(), _score(sweeps[-1], None)))
        report(done)
    scores = np.array([score for _, score in tried])
    return tried, candidates[_first_even(scores, sweeps, np.random.default_rng(seed))]


def _first_even(scores: Array, sweeps: Sequence[Judged], rng: np.random.Generator) -> int:
    """The first candidate that a paired bootstrap over validation rows cannot tell from the best one.

    The one-standard-error rule of Breiman et al. (1984, section 3.4.3): grids begin with the smoothest, and among settings that
    differ by luck alone the smoother one does better on rows that nobody has seen.
    """
    best = int(np.argmax(scores))
    rows = sweeps[best].quality.shape[1]
    counts = rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(np.float64)
    top = np.array([_score(sweeps[best], c) for c in counts])
    for place in range(best):
        loss = scores[best] - scores[place]
        if loss <= EVEN:
            return place
        error = (top - np.array([_score(sweeps[place], c) for c in counts])).std()
        if loss <= error:
            return place
    return best


@dataclass(frozen=True, slots=True)
class Judged:
    """A policy's sweep on validation rows: quality and cost of the chosen cells [L, n], and the window of single costs."""

    quality: Array
    cost: Array | None
    low: float = 0.0
    high: float = 0.0


def validation_score(policy: Policy, table: OutcomeTable, features: Features, rng: np.random.Generator) -> float:
    """Mean height of the hull of the policy's sweep between the cheapest and the dearest single target (AIQ on these rows).

    Without recorded costs, the mean quality at the knob's best setting. Cells that were not recorded do not count.
    """
    return _score(_judged(policy, table, features, rng), None)


def _judged(policy: Policy, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Judged:
    quality, cost = _came_to(policy, table, features, rng)
    if table.cost_usd is not None and cost is not None:
        single = means(table.cost_usd)
        low, high = float(np.nanmin(single, initial=np.inf)), float(np.nanmax(single, initial=-np.inf))
        if low < high < np.inf:
            return Judged(quality, cost, low, high)
    return Judged(quality, None)


def _came_to(policy: Policy, table: OutcomeTable, features: Features, rng: np.random.Generator) -> tuple[Array, Array | None]:
    """Quality and cost [L, n] of the chosen cells, or of all calls where plans look at answers."""
    if isinstance(policy, Replayable):
        replay = policy.replay(table, features, rng)
        return replay.quality, replay.cost_usd
    choices = policy.decide_sweep(features, table.targets, rng).choices.T
    quality = np.take_along_axis(table.quality, choices, axis=1).T
    return quality, None if table.cost_usd is None else np.take_along_axis(table.cost_usd, choices, axis=1).T


def _score(judged: Judged, counts: Array | None) -> float:
    """On the rows as they are, or with row i counted `counts[i]` times."""
    quality = _weighted(judged.quality, counts)
    if judged.cost is None:
        return float(np.nanmax(quality, initial=0.0))
    return area_under_hull(_weighted(judged.cost, counts), quality, judged.low, judged.high)


def _weighted(values: Array, counts: Array | None) -> Array:
    """[L]: mean over the cells that were recorded."""
    if counts is None:
        return means(values.T)
    seen = ~np.isnan(values)
    total: Array = np.where(seen, values, 0.0) @ counts
    return total / np.maximum(seen @ counts, 1e-12)


def _checked(rows: Rows, count: int) -> NDArray[np.intp]:
    index = np.asarray(rows)
    if index.dtype == bool or (index.size and not np.issubdtype(index.dtype, np.integer)):
        raise UserError("must be row positions", field="rows", fix="pass numpy.flatnonzero(mask)")
    index = index.astype(np.intp).ravel()
    if index.size and (index.min() < 0 or index.max() >= count):
        raise TableError(f"names a row that is not among the {count}", field="rows", fix="split the same table")
    return index


def _version(config: PolicyConfig, table: OutcomeTable, rows: NDArray[np.intp], seed: int) -> str:
    """Short name of what the fit depends on: settings, data, rows and seed."""
    plain = msgspec.json.encode([config.name, config.settings(), table.digest(), seed], order="sorted")
    return hashlib.sha256(plain + rows.astype("<i8").tobytes()).hexdigest()[:12]
