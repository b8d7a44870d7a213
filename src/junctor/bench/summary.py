"""From the seeds' results to the board: means, intervals, differences, and what plots and readers need beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

import junctor
from junctor.bench.document import METRICS, Board, Frontier, Part, Row, Single, Tuned, rows_of
from junctor.bench.latency import DecideTime
from junctor.bench.prepare import Setup
from junctor.bench.references import BARS
from junctor.bench.resample import interval, over_seeds
from junctor.bench.seedrun import TEST, SeedResult
from junctor.outcomes.splitting import Split

Array = NDArray[np.float64]
Picks = NDArray[np.intp]
Replicated = Mapping[str, Mapping[str, tuple[float, Array]]]
"""policy -> metric -> (value, [B] replicates)."""

HEADLINES = ("aiq", "apgr", "quality")
"""What ranks when no card says so: the first of these that any policy has."""
GRID = 48
MAY_BE_OUT_OF_REACH = frozenset({"qnc", "cost_at_equal_quality"})


def board(
    setup: Setup,
    splits: Sequence[Split],
    results: Sequence[SeedResult],
    times: Mapping[str, DecideTime],
    picks: Picks,
    dataset: str,
    elapsed_s: float,
) -> Board:
    """Everything that the seeds found, as one document."""
    seeds, test = len(splits), replicated(results, TEST, picks)
    headline = _headline(setup, test)
    bar = best_bar(test, headline)
    rows = _rows(_with_differences(test, headline, bar), seeds) + _time_rows(results, times, seeds)
    extras = {side: _part(splits, results, side, picks, headline) for side in results[0].judged if side != TEST}
    return Board(
        dataset=dataset,
        rows=tuple(_ordered(rows)),
        headline=headline,
        judged=setup.judged,
        best_bar=bar,
        junctor=junctor.__version__,
        encoder={} if setup.encoder is None else {"name": setup.encoder.name, "digest": setup.encoder.digest},
        data=_data(setup),
        split={"train": len(splits[0].train), "validation": len(splits[0].validation), TEST: len(splits[0].test)},
        seeds=seeds,
        resamples=len(picks),
        elapsed_s=round(elapsed_s, 2),
        notes=_notes(setup, splits, results),
        per_dataset=_per_dataset(results, TEST),
        dataset_sizes=_sizes(setup, splits[0].test),
        extra_splits=extras,
        frontiers=_frontiers(results),
        singles=_singles(setup, results),
        best_single=results[0].best_single,
        tuned=_tuned(results),
        card=None if setup.card is None else setup.card.note(_finder(rows, extras)),
    )


def replicated(results: Sequence[SeedResult], side: str, picks: Picks) -> dict[str, dict[str, tuple[float, Array]]]:
    """Every figure of a judged side: its mean over seeds (QNC and its like: median), and the bootstrap's replicates of that."""
    found: dict[str, dict[str, tuple[float, Array]]] = {}
    for policy in results[0].judged[side]:
        if all(policy in result.judged[side] for result in results):
            figures = [result.judged[side][policy].figures for result in results]
            shared = [name for name in figures[0] if all(name in other for other in figures)]
            found[policy] = {
                name: over_seeds(np.stack([f[name] for f in figures]), picks, median=name in MAY_BE_OUT_OF_REACH)
                for name in shared
            }
    return found


def best_bar(found: Replicated, headline: str) -> str:
    """The cheap bar of the highest headline figure; "" when no bar has one."""
    values = {name: found[name][headline][0] for name in BARS if name in found and headline in found[name]}
    values = {name: value for name, value in values.items() if np.isfinite(value)}
    return max(values, key=values.__getitem__) if values else ""


def _headline(setup: Setup, found: Replicated) -> str:
    wanted: tuple[str, ...] = () if setup.card is None else (setup.card.headline,)
    for metric in (*wanted, *HEADLINES):
        if any(np.isfinite(figures[metric][0]) for figures in found.values() if metric in figures):
            return metric
    return "quality"


def _with_differences(found: Replicated, headline: str, bar: str) -> Replicated:
    """Adds the paired difference of each policy's headline figure to the best bar's."""
    if not bar:
        return found
    value, replicates = found[bar][headline]
    added = {}
    for policy, figures in found.items():
        added[policy] = dict(figures)
        if policy != bar and headline in figures:
            added[policy]["vs_best_bar"] = (figures[headline][0] - value, figures[headline][1] - replicates)
    return added


def _rows(found: Replicated, seeds: int) -> list[Row]:
    rows: list[Row] = []
    for policy, figures in found.items():
        known = {name: interval(value, replicates) for name, (value, replicates) in figures.items()}
        shown = [(name, i.value, i.low, i.high, i.reached) for name, i in known.items() if i is not None]
        rows += rows_of(policy, shown, seeds)
    return rows


def _time_rows(results: Sequence[SeedResult], times: Mapping[str, DecideTime], seeds: int) -> list[Row]:
    """Times: the spread of fitting is over seeds; deciding is timed once."""
    rows: list[Row] = []
    for policy in results[0].fit_s:
        took = [result.fit_s[policy] for result in results if policy in result.fits]
        if len(took) == len(results):
            rows += rows_of(policy, [("fit_s", float(np.mean(took)), min(took), max(took), 1.0)], seeds)
        if policy in times:
            time = times[policy]
            rows += rows_of(policy, [("decide_us_p50", time.p50_us, time.p50_us, time.p50_us, 1.0)], 1)
            rows += rows_of(policy, [("decide_us_p99", time.p99_us, time.p99_us, time.p99_us, 1.0)], 1)
    return rows


def _ordered(rows: Sequence[Row]) -> list[Row]:
    policies = {name: i for i, name in enumerate(dict.fromkeys(row.policy for row in rows))}
    metrics = {name: i for i, name in enumerate(METRICS)}
    return sorted(rows, key=lambda row: (policies[row.policy], metrics[row.metric]))


def _part(
    splits: Sequence[Split],
    results: Sequence[SeedResult],
    side: str,
    picks: Picks,
    headline: str,
) -> Part:
    found = replicated(results, side, picks)
    bar = best_bar(found, headline)
    rows = _rows(_with_differences(found, headline, bar), len(results))
    size = len(splits[0].extra[side])
    return Part(rows=tuple(_ordered(rows)), queries=size, best_bar=bar, per_dataset=_per_dataset(results, side))


def _finder(rows: Sequence[Row], extras: Mapping[str, Part]) -> Callable[[str, str, str], Row | None]:
    sides = {TEST: rows, **{name: part.rows for name, part in extras.items()}}

    def find(side: str, policy: str, metric: str) -> Row | None:
        return next((row for row in sides.get(side, ()) if row.policy == policy and row.metric == metric), None)

    return find


def _per_dataset(results: Sequence[SeedResult], side: str) -> dict[str, dict[str, float]]:
    """Policy -> dataset -> mean over the seeds that test on it."""
    found: dict[str, dict[str, float]] = {}
    for policy in results[0].judged[side]:
        seen = [result.judged[side][policy].per_dataset for result in results if policy in result.judged[side]]
        names = dict.fromkeys(name for values in seen for name in values)
        found[policy] = {name: float(np.mean([v[name] for v in seen if name in v])) for name in names}
    return {policy: values for policy, values in found.items() if values}


def _sizes(setup: Setup, rows: NDArray[np.intp]) -> dict[str, int]:
    labels = [setup.table.label[i] for i in rows.tolist()]
    return {name: labels.count(name) for name in sorted(set(labels)) if name}


def _frontiers(results: Sequence[SeedResult]) -> dict[str, Frontier]:
    found = {}
    for policy in results[0].judged[TEST]:
        hulls = [h for result in results if (j := result.judged[TEST].get(policy)) and (h := j.hull) is not None]
        if hulls and len(hulls) == len(results):
            found[policy] = mean_frontier(hulls)
    return found


def mean_frontier(hulls: Sequence[tuple[Array, Array]]) -> Frontier:
    """The mean height of the seeds' hulls, from where all of them have begun to where the last one ends.

    Fine enough that straight lines between its points look right on a logarithmic axis too.
    """
    start, end = max(x[0] for x, _ in hulls), max(x[-1] for x, _ in hulls)
    corners = np.unique(np.concatenate([x for x, _ in hulls]))
    corners = corners[(corners > start) & (corners < end)]
    between = np.geomspace(start, end, GRID) if start > 0 else np.linspace(start, end, GRID)
    few = corners if len(corners) <= GRID else np.array([])
    grid = np.unique(np.concatenate([[start], few, between[1:-1], [end]])) if end > start else np.array([start])
    height = np.mean([np.interp(grid, x, y) for x, y in hulls], axis=0)
    return Frontier(cost_usd=tuple(grid.tolist()), quality=tuple(height.tolist()))


def _singles(setup: Setup, results: Sequence[SeedResult]) -> tuple[Single, ...]:
    seen = [result.singles for result in results if result.singles is not None]
    quality = np.mean([q for q, _ in seen], axis=0)
    costs = [c for _, c in seen if c is not None]
    cost = np.mean(costs, axis=0) if costs else None
    return tuple(
        Single(target=id_, quality=float(quality[i]), cost_usd=None if cost is None else float(cost[i]))
        for i, id_ in enumerate(setup.table.targets.ids)
        if np.isfinite(quality[i])
    )


def _tuned(results: Sequence[SeedResult]) -> tuple[Tuned, ...]:
    """The winning settings per seed, for policies that had a choice."""
    found = []
    for policy in results[0].fits:
        fits = [result.fits[policy] for result in results if policy in result.fits]
        tried = max(len(fit.tried) for fit in fits)
        if tried > 1:
            found.append(
                Tuned(policy=policy, settings=tuple(plain_settings(fit.config.settings()) for fit in fits), tried=tried)
            )
    return tuple(found)


def plain_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """The hyper-parameters that were tuned over: an estimator's own where the policy wraps one."""
    inner = settings.get("estimator_settings")
    chosen = inner if isinstance(inner, Mapping) and inner else settings
    return {
        key: value
        for key, value in chosen.items()
        if isinstance(value, (str, int, float, bool)) and value == value and value != ""
    }


def _data(setup: Setup) -> dict[str, object]:
    table = setup.table
    return {
        "source": PurePath(table.source).name,
        "digest": table.digest(),
        "queries": len(table),
        "targets": list(table.targets.ids),
        "label": table.label_name if any(table.label) else "",
    }


def _notes(setup: Setup, splits: Sequence[Split], results: Sequence[SeedResult]) -> tuple[str, ...]:
    notes = [*setup.notes, *splits[0].notes]
    if setup.by_share:
        notes.append(
            "no costs are recorded for the two targets: a call of the one that is better on training rows counts 1, of the "
            "other 0, and policies are swept over the share of strong calls"
        )
    elif setup.table.cost_usd is None:
        notes.append("no usable costs: quality alone is compared")
    else:
        notes.append(
            "quality and cost are read where validation rows put the knob: best quality at no more than the best single "
            "target's cost"
        )
    notes += [f"{name} is not on the board: {why}" for name, why in results[0].skipped.items()]
    for policy, judged in results[0].judged[TEST].items():
        if judged.recorded < 1:
            notes.append(
                f"{policy} is judged on {judged.recorded:.0%} of the test rows: its choice was not recorded on the rest"
            )
    return tuple(dict.fromkeys(notes))
