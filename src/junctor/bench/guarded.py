"""Guarded routing: the right expert for a request of a known domain, and nobody for a request of none.

Source of the protocol: Guarded Query Routing (GQR-Bench). Nobody sees an out-of-domain row: heads learn from in-domain rows,
and thresholds give up 5 % of held-out in-domain rows. Those that do set it with strangers say so in their name ("told").
Rejection is averaged over *sets* of strangers, not over their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.bench.experiment import Array, Experiment, Result
from junctor.bench.latency import decide_time
from junctor.bench.prepare import Setup
from junctor.bench.protocol import splits_of
from junctor.bench.resample import Resamples, draw
from junctor.errors import UserError
from junctor.features import Features
from junctor.fitting import config_with
from junctor.outcomes import OutcomeTable
from junctor.outcomes.splitting import Split
from junctor.policies.arch_router import PolicyWords
from junctor.policies.gqr import Guarded as GuardedPolicy
from junctor.policies.gqr import outside_rows
from junctor.policy import Policy

NONE = "none"
LOSS = 0.05
NEIGHBOURS = 5
MOST_SEEDS = 2
"""Rows are mostly the same for all seeds here: only what is drawn while fitting differs."""
TIMED_CALLS = 100
FEWEST_STRANGERS = 20

Rows = NDArray[np.intp]
Flags = NDArray[np.bool_]

_ARCH = {"loss": LOSS, "other": NONE}
FITTED: dict[str, tuple[str, dict[str, Any]]] = {
    "gqr": ("gqr", {"loss": LOSS}),
    "gqr:fine": ("gqr", {"loss": LOSS, "label": "policy", "parts": 1}),
    "gqr:svm": ("gqr", {"loss": LOSS, "head": "svm"}),
    "gqr:fasttext": ("gqr", {"loss": LOSS, "head": "fasttext"}),
    "gqr:wide-mlp": ("gqr", {"loss": LOSS, "head": "wide-mlp"}),
    "gqr:told": ("gqr", {"loss": LOSS, "outsiders": True}),
    "gqr:fine+told": ("gqr", {"loss": LOSS, "label": "policy", "parts": 1, "outsiders": True}),
    "arch-router": ("arch-router", _ARCH),
    "arch-router:fine": ("arch-router", {**_ARCH, "label": "policy"}),
    "arch-router:hierarchy": ("arch-router", {**_ARCH, "label": "policy", "hierarchy": True}),
    "arch-router:words": ("arch-router", {**_ARCH, "mode": "words"}),
    "arch-router:fine words": ("arch-router", {**_ARCH, "mode": "words", "label": "policy"}),
    "max-logit": ("gqr", {"loss": LOSS, "parts": 1}),
    "centroid": ("arch-router", {**_ARCH, "mode": "centroid"}),
}
"""Name -> registered policy and settings. "told" alone sets its threshold with the strangers among its training rows."""
KNN = "knn-distance"


class Guarded(Experiment):
    """Route or reject."""

    name: ClassVar[str] = "guarded"
    title: ClassVar[str] = "Guarded routing"
    question: ClassVar[str] = "Does a request reach the expert of its domain, and nobody when it belongs to none?"
    metrics: ClassVar[Mapping[str, str]] = {
        "gqr_score": "harmonic mean of in-domain accuracy and rejection",
        "id_accuracy": "share of in-domain requests that reach the right expert; a rejected one is wrong",
        "rejection": "share of out-of-domain requests that are rejected, mean over the sets of strangers",
        "auroc": "chance that an in-domain request looks more at home than a stranger, mean over sets",
        "decide_us": "microseconds per decision, encoding included, median",
    }
    headline: ClassVar[str] = "gqr_score"
    less_is_better: ClassVar[frozenset[str]] = frozenset({"decide_us"})
    bars: ClassVar[tuple[str, ...]] = ("max-logit", "centroid", KNN)

    def policies(self, setup: Setup) -> tuple[str, ...]:
        """The guards and the bars, where the table has the target `none` and rows for which it alone is right."""
        if outside_rows(setup.table, NONE).sum() < FEWEST_STRANGERS or setup.features.embedding is None:
            return ()
        has = setup.table.labels
        told = _strangers_among(ground_of(setup, 1, 0)[0].known, setup)
        fitted = [
            name
            for name, (_, settings) in FITTED.items()
            if settings.get("label", "") in ("", *has) and (told or not settings.get("outsiders"))
        ]
        return (*fitted, KNN)

    def run(self, setup: Setup, policy: str, *, seeds: int, resamples: int) -> Result:
        """Fit on in-domain rows, judge on in-domain rows and on every set of strangers."""
        try:
            per_seed = [_judged(setup, trial, policy) for trial in ground_of(setup, min(seeds, MOST_SEEDS), resamples)]
        except UserError as error:
            return Result(skipped=str(error))
        known = [metric for metric in self.metrics if all(metric in one for one in per_seed)]
        notes = ("its threshold was set with out-of-domain rows of the training side",) if "told" in policy else ()
        return Result({metric: np.stack([one[metric] for one in per_seed]) for metric in known}, notes=notes)


@dataclass(frozen=True)
class Trial:
    """One seed: rows to learn from, rows to judge on, which of these are of no domain, and paired resamples of them.

    known, judged   row numbers of the table
    strangers       set of strangers -> mask over `judged`
    """

    number: int
    known: Rows
    judged: Rows
    strangers: Mapping[str, Flags]
    resamples: Resamples

    @property
    def inside(self) -> Flags:
        """[n] whether a judged row is in domain."""
        return np.asarray(~np.any(list(self.strangers.values()), axis=0), dtype=bool)


_GROUNDS: dict[tuple[int, int, int], tuple[Setup, list[Trial]]] = {}


def ground_of(setup: Setup, seeds: int, resamples: int) -> list[Trial]:
    """The trials of a set, from the seeds alone; made once in a process."""
    key = (id(setup.table), seeds, resamples)
    if key not in _GROUNDS:
        splits = splits_of(setup.table, setup.split, seeds)
        draws = draw([split.test.tolist() for split in splits], resamples, np.random.default_rng(0))
        trials = [_trial(setup.table, split, number, draws[number]) for number, split in enumerate(splits)]
        _GROUNDS[key] = (setup, trials)
    return _GROUNDS[key][1]


def _trial(table: OutcomeTable, split: Split, number: int, draws: Resamples) -> Trial:
    away = outside_rows(table, NONE)[split.test]
    given = table.labels.get("outside", ["strangers"] * len(table))
    names = np.array([given[i] for i in split.test.tolist()], dtype=object)
    strangers = {str(name): away & (names == name) for name in sorted(set(names[away].tolist()))}
    return Trial(number, np.sort(np.concatenate([split.train, split.validation])), split.test, strangers, draws)


def _strangers_among(rows: Rows, setup: Setup) -> bool:
    return bool(outside_rows(setup.table, NONE)[rows].any())


def _judged(setup: Setup, trial: Trial, policy: str) -> dict[str, Array]:
    """Every metric as [1 + B]."""
    seen = setup.features.take(trial.judged).without_labels()
    if policy == KNN:
        return _figures(setup, trial, *_by_distance(setup, trial, seen))
    made = _fitted(setup, trial, policy)
    choices, _ = made.decide_many(seen, setup.table.targets, np.random.default_rng(trial.number))
    score = made.inside(seen) if isinstance(made, (GuardedPolicy, PolicyWords)) else None
    time = decide_time(made, setup.encoder, setup.table.take(trial.judged), np.random.default_rng(0), TIMED_CALLS)
    figures = _figures(setup, trial, choices, score)
    return {**figures, "decide_us": np.full(len(figures["gqr_score"]), time.p50_us)}


def _fitted(setup: Setup, trial: Trial, policy: str) -> Policy:
    name, settings = FITTED[policy]
    encoder = "static" if setup.encoder is None else setup.encoder.name
    rows = trial.known
    if not settings.get("outsiders"):
        rows = rows[~outside_rows(setup.table, NONE)[rows]]
    config = config_with(name, encoder, settings)
    return config.fit(setup.table.take(rows), setup.features.take(rows), np.random.default_rng(trial.number))


def _by_distance(setup: Setup, trial: Trial, seen: Features) -> tuple[Rows, Array]:
    """The bar: the commonest domain among the nearest rows, or none when they are farther than 95 % of held-out rows' are."""
    rows = trial.known[~outside_rows(setup.table, NONE)[trial.known]]
    held = np.random.default_rng([trial.number, 31]).random(len(rows)) < 0.15
    best = setup.table.quality.argmax(axis=1)
    vectors = setup.features.vectors(KNN)
    ask = _neighbours(vectors[rows[~held]], best[rows[~held]], len(setup.table.targets))
    threshold = np.quantile(ask(vectors[rows[held]])[1], LOSS)
    choices, score = ask(seen.vectors(KNN))
    return np.where(score < threshold, setup.table.targets.ids.index(NONE), choices), score


def _neighbours(vectors: NDArray[np.float32], best: Rows, targets: int) -> Callable[[NDArray[np.float32]], tuple[Rows, Array]]:
    """A function from vectors to the commonest best target among the nearest rows, and the mean cosine with these."""

    def ask(asked: NDArray[np.float32]) -> tuple[Rows, Array]:
        choices, close = np.empty(len(asked), np.intp), np.empty(len(asked))
        for start in range(0, len(asked), 500):
            near = asked[start : start + 500] @ vectors.T
            places = np.argpartition(-near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
            for row, place in enumerate(places):
                choices[start + row] = np.bincount(best[place], minlength=targets).argmax()
                close[start + row] = near[row, place].mean()
        return choices, close

    return ask


def _figures(setup: Setup, trial: Trial, choices: Rows, score: Array | None) -> dict[str, Array]:
    right = setup.table.quality[trial.judged, choices]
    none = setup.table.targets.position(NONE)
    rejected = (choices == none).astype(np.float64)
    accuracy = _mean_over(right, trial.inside, trial.resamples)
    rejection = np.mean([_mean_over(rejected, mask, trial.resamples) for mask in trial.strangers.values()], axis=0)
    both = accuracy + rejection
    found = {
        "gqr_score": np.divide(2 * accuracy * rejection, both, out=np.zeros_like(both), where=both > 0),
        "id_accuracy": accuracy,
        "rejection": rejection,
    }
    if score is not None:
        sets = [auroc(score, trial.inside, mask, trial.resamples) for mask in trial.strangers.values()]
        found["auroc"] = np.mean(sets, axis=0)
    return found


def _mean_over(values: Array, rows: Flags, resamples: Resamples) -> Array:
    """[1 + B] means over some of the rows."""
    return np.asarray(resamples.only(rows).means(values[rows][None, :])[:, 0])


def auroc(score: Array, inside: Flags, outside: Flags, resamples: Resamples) -> Array:
    """[1 + B] chance that a row of `inside` scores higher than one of `outside`; ties count half."""
    rows = np.flatnonzero(inside | outside)
    values, place = np.unique(score[rows], return_inverse=True)
    counts = np.vstack([np.ones((1, len(rows))), resamples.counts[:, rows].astype(np.float64)])
    ours, theirs = (np.zeros((len(counts), len(values))) for _ in range(2))
    for weights, mask in ((ours, inside[rows]), (theirs, outside[rows])):
        np.add.at(weights.T, place[mask], counts[:, mask].T)
    below = np.cumsum(theirs, axis=1) - theirs / 2
    total = ours.sum(axis=1) * theirs.sum(axis=1)
    found: Array = np.divide((ours * below).sum(axis=1), total, out=np.full(len(counts), np.nan), where=total > 0)
    return found
