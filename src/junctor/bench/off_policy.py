"""Experiment "off-policy": what would a policy have earned on decisions that another one took, and how sure is that?

Half of the logged queries is learned from, by everybody and by the outcome model; the decisions of known propensity on the
other half judge. Rows of one query are merged for fitting: a query with the cells that somebody tried.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.bench.experiment import Array, Experiment, Result
from junctor.bench.experiments import able
from junctor.bench.offline_estimators import Logs, doubly_robust, effective_rows, halves, interval, ips, replay, snips
from junctor.bench.prepare import BENCH_ONLY, Setup
from junctor.bench.worlds import requests
from junctor.errors import UserError
from junctor.estimators.settings import estimator_config
from junctor.features import Features
from junctor.fitting import config_with
from junctor.outcomes import OutcomeTable
from junctor.outcomes.table import MEASURES
from junctor.policy import Learner, Policy, PolicyConfig
from junctor.types import Outcome

LEAST_ROWS = 100
OUTCOME_MODEL = {"alpha": 10.0, "loss": "squared"}
UNIFORM = 1e-9
"""Propensities closer than this are the same: only a uniform log can be replayed."""


@dataclass(frozen=True)
class Trial:
    """One seed.

    known, known_features   what is learned from: a row per query, with the cells that were tried
    asked, asked_features   the queries that judge, a row per query, with the cells that were tried
    logs                    their decisions of known propensity; `logs.query` is a row of `asked`
    rows                    [N] where these decisions are in the whole table
    expected                [queries, M] rewards by a ridge that was fitted on other queries
    uniform                 whether the log was
    """

    number: int
    known: OutcomeTable
    known_features: Features
    asked: OutcomeTable
    asked_features: Features
    logs: Logs
    rows: NDArray[np.intp]
    expected: Array
    uniform: bool

    def rng(self, name: str) -> np.random.Generator:
        """The randomness of one policy."""
        return np.random.default_rng([self.number, zlib.crc32(name.encode())])


class OffPolicy(Experiment):
    """Judging from logs with propensities."""

    name: ClassVar[str] = "off-policy"
    title: ClassVar[str] = "Off-policy evaluation"
    question: ClassVar[str] = "From logs in which one target was tried per decision: what would this policy have earned?"
    metrics: ClassVar[Mapping[str, str]] = {
        "value_dr": "doubly robust estimate of the mean reward",
        "value_snips": "self-normalised inverse propensity estimate",
        "value_ips": "inverse propensity estimate",
        "value_replay": "mean reward where a uniform log agrees with the policy",
        "value_known": "mean reward of what it chose, over the queries on which that was tried by anybody",
        "effective_sample_size": "rows of its own that the log is worth",
        "interval_width": "width of the 95% interval of value_dr",
        "value_while_learning": "learners from a cold start, replayed on the log: mean reward of the decisions that agreed",
    }
    headline: ClassVar[str] = "value_dr"
    less_is_better: ClassVar[frozenset[str]] = frozenset({"interval_width"})
    bars: ClassVar[tuple[str, ...]] = ("random", "best-single", "label-table")

    def policies(self, setup: Setup) -> tuple[str, ...]:
        """All that can be fitted; none where no propensity is recorded."""
        propensity = setup.table.propensity
        if propensity is None or (~np.isnan(propensity) & setup.table.mask).sum() < LEAST_ROWS:
            return ()
        reads = ["embedding"] if setup.features.embedding is not None else []
        reads += ["labels"] if any(setup.table.label) else []
        names = [name for name in able(reads) if name not in BENCH_ONLY]
        return (*(name for name in names if setup.table.cost_usd is not None or name != "cheapest"), "random")

    def run(self, setup: Setup, policy: str, *, seeds: int, resamples: int) -> Result:
        """Fit on one half of the queries and judge on the other, `seeds` times."""
        try:
            trials = prepared(setup, seeds)
            found = [_judged(setup, trial, policy, resamples) for trial in trials]
        except UserError as error:
            return Result(skipped=str(error))
        figures = {name: np.stack([one[name] for one in found]) for name in found[0]}
        first = trials[0]
        notes = (
            f"judged on {len(first.logs):,} logged decisions on {len(first.asked):,} queries, learned from the other half",
            "queries are resampled, with all decisions on them",
        )
        return Result(figures, {}, notes)


_LATEST: list[tuple[Setup, int, list[Trial]]] = []


def prepared(setup: Setup, seeds: int) -> list[Trial]:
    """The halves of all seeds, kept for the next policy of the same set."""
    for held, count, made in _LATEST:
        if held is setup and count == seeds:
            return made
    trials = [_trial(setup, number) for number in range(seeds)]
    _LATEST[:] = [(setup, seeds, trials)]
    return trials


def _trial(setup: Setup, number: int) -> Trial:
    table, features = setup.table, setup.features
    assert table.propensity is not None
    rng = np.random.default_rng([number, 13])
    learned = halves(table.groups(), rng)
    known, known_features, _ = merged(table, features, np.flatnonzero(learned))
    asked, asked_features, place = merged(table, features, np.flatnonzero(~learned))
    rows = np.flatnonzero(~learned & (table.mask & ~np.isnan(table.propensity)).any(axis=1))
    if not len(rows):
        raise UserError("no row that judges has one", field="propensity", fix="log the probability of what was chosen")
    action = np.where(np.isnan(table.propensity[rows]), -1.0, table.propensity[rows]).argmax(axis=1)
    propensity = table.propensity[rows, action]
    logs = Logs(action, table.quality[rows, action], propensity, place[rows])
    expected = _expected((known, known_features), (asked, asked_features), logs, rng)
    uniform = bool(np.ptp(propensity) < UNIFORM)
    return Trial(number, known, known_features, asked, asked_features, logs, rows, expected, uniform)


def merged(table: OutcomeTable, features: Features, rows: NDArray[np.intp]) -> tuple[OutcomeTable, Features, NDArray[np.intp]]:
    """One row per query of these rows, each cell the mean of what was recorded of it.

    Also [N] which of them each row of the table became, -1 for the others.
    """
    groups = table.groups()[rows]
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    order = rows[first]
    arrays: dict[str, Any] = {
        name: _means(values[rows], place, len(first)) for name in MEASURES if (values := getattr(table, name)) is not None
    }
    found = np.full(len(table), -1, dtype=np.intp)
    found[rows] = place
    return replace(table.take(order), propensity=None, samples={}, split=None, **arrays), features.take(order), found


def _means(values: Array, place: NDArray[np.intp], count: int) -> Array:
    known = ~np.isnan(values)
    total, times = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(total, place, np.where(known, values, 0.0))
    np.add.at(times, place, known.astype(np.float64))
    mean: Array = np.divide(total, times, out=np.full(total.shape, np.nan), where=times > 0)
    return mean


def _expected(
    known: tuple[OutcomeTable, Features], asked: tuple[OutcomeTable, Features], logs: Logs, rng: np.random.Generator
) -> Array:
    """[queries, M] rewards: for each half of the queries that judge, from all others."""
    table, features = asked
    if features.embedding is None or known[1].embedding is None:
        mean = np.nan_to_num(_means(known[0].quality, np.zeros(len(known[0]), np.intp), 1), nan=float(logs.reward.mean()))
        return np.repeat(mean, len(table), axis=0)
    side = halves(np.arange(len(table)), rng)
    expected = np.empty(table.quality.shape)
    for half in (side, ~side):
        quality = np.vstack([known[0].quality, table.quality[~half]])
        texts = [*known[1].texts, *features.take(np.flatnonzero(~half)).texts]
        vectors = np.vstack([known[1].embedding, features.embedding[~half]])
        fit = OutcomeTable(texts=texts, targets=table.targets, quality=quality)
        model = estimator_config("linear", OUTCOME_MODEL).fit(fit, fit.features(vectors), rng)
        expected[half] = model.predict_many(features.take(np.flatnonzero(half)).without_labels()).quality
    return np.where(np.isnan(expected), float(logs.reward.mean()), expected)


def _judged(setup: Setup, trial: Trial, policy: str, resamples: int) -> dict[str, Array]:
    """[1 + B] per metric."""
    shares, config = _shares(setup, trial, policy)
    logs, per_row = trial.logs, shares[trial.logs.query]

    estimates = {
        "value_dr": doubly_robust(logs, per_row, trial.expected[logs.query]),
        "value_snips": snips(logs, per_row),
        "value_ips": ips(logs, per_row),
    }
    if trial.uniform:
        estimates["value_replay"] = replay(logs, per_row)
    draws = {name: np.random.default_rng([trial.number, 17]) for name in estimates}
    found = {name: one.resampled(logs.query, resamples, draws[name]) for name, one in estimates.items()}
    low, high = interval(found["value_dr"])
    found["interval_width"] = np.full(1 + resamples, high - low)
    found["effective_sample_size"] = np.full(1 + resamples, effective_rows(logs, per_row))
    found["value_known"] = np.full(1 + resamples, known_value(trial.asked.quality, shares))
    if config is not None and issubclass(config.fitted, Learner) and hasattr(config, "warm") and trial.uniform:
        found["value_while_learning"] = np.full(1 + resamples, _while_learning(setup, trial, config, policy))
    return found


def _shares(setup: Setup, trial: Trial, policy: str) -> tuple[Array, PolicyConfig | None]:
    """[queries, M] probabilities with which a policy chooses, and its config."""
    shape = trial.asked.quality.shape
    if policy == "random":
        return np.full(shape, 1.0 / shape[1]), None
    encoder = "static" if setup.encoder is None else setup.encoder.name
    config = setup.configs.get(policy) or config_with(policy, encoder)
    rng = trial.rng(policy)
    made: Policy = config.fit(trial.known, _seen(trial.known_features, config.needs), rng)
    frozen = made.frozen() if hasattr(made, "frozen") else made
    chosen, _ = frozen.decide_many(_seen(trial.asked_features, config.needs), trial.asked.targets, rng)
    return np.asarray(chosen[:, None] == np.arange(shape[1]), dtype=np.float64), config


def known_value(quality: Array, shares: Array) -> float:
    """Mean reward of what a policy chooses, from the cells [queries, M] that somebody tried.

    Per target the mean over the tried ones of the queries that it is chosen for, weighted by how often it is chosen: some
    targets were tried oftener than others, but which queries they were tried on does not depend on the query.
    """
    weight = np.where(np.isnan(quality), 0.0, shares)
    total = weight.sum(axis=0)
    mean = np.divide((weight * np.nan_to_num(quality)).sum(axis=0), total, out=np.zeros(len(total)), where=total > 0)
    often = np.where(total > 0, shares.sum(axis=0), 0.0)
    return float(often @ mean / often.sum()) if often.sum() > 0 else float("nan")


def _while_learning(setup: Setup, trial: Trial, config: PolicyConfig, policy: str) -> float:
    cold: PolicyConfig = replace(config, warm=0.0)  # type: ignore[type-var]
    learner = cold.fit(trial.known, _seen(trial.known_features, config.needs), trial.rng(f"{policy} cold"))
    assert isinstance(learner, Learner)
    features = _seen(setup.features.take(trial.rows), config.needs)
    kept = replayed(learner, setup.table.take(trial.rows), features, trial.rng(f"{policy} replay"))
    return float(trial.logs.reward[kept].mean()) if len(kept) else float("nan")


def replayed(learner: Learner, table: OutcomeTable, features: Features, rng: np.random.Generator) -> NDArray[np.intp]:
    """Let a learner live through the decisions of a uniform log in random order: the rows on which it chose what was logged.

    A row on which it chooses otherwise is dropped, and it learns nothing from it: what is left is as if it had served N / M
    requests itself (Li, Chu, Langford, Wang 2011, section 4).
    """
    asked = requests(features)
    action = table.mask.argmax(axis=1).tolist()
    kept = []
    for row in rng.permutation(len(table)).tolist():
        made = learner.decide(asked[row], table.targets, rng)
        if table.targets.position(made.target) == action[row]:
            learner.learn(made, Outcome(quality=float(table.quality[row, action[row]])))
            kept.append(row)
    return np.array(kept, dtype=np.intp)


def _seen(features: Features, needs: frozenset[str]) -> Features:
    return features if "labels" in needs else features.without_labels()
