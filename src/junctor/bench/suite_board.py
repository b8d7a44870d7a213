"""From the suite's kept results to its board: means over seeds, paired intervals, who clears the cheap bars, mean ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import junctor
from junctor import registry
from junctor.about import About
from junctor.bench import store
from junctor.bench.document import CardNote, Row
from junctor.bench.experiment import Array, Experiment
from junctor.bench.experiments import experiment, participants
from junctor.bench.prepare import Setup
from junctor.bench.resample import interval, over_seeds
from junctor.bench.store import DONE, FAILED, Record
from junctor.bench.suite import Planned
from junctor.bench.suite_document import (
    Clears,
    ExperimentFacts,
    Figure,
    MeanRank,
    PolicyFacts,
    SetFacts,
    Standing,
    SuiteBoard,
    Table,
)
from junctor.bench.summary import MAY_BE_OUT_OF_REACH
from junctor.errors import JunctorError

Figures = Mapping[str, Array]
Replicates = tuple[float, NDArray[np.float64]]
REFERENCES = frozenset({"oracle", "zero-router", "lp-offline"})
"""They look at the test outcomes, so they do not rank."""
EVEN = 1e-9
DIGITS = 6


def suite_board(planned: Planned, records: Sequence[Record]) -> SuiteBoard:
    """The board of a run. Nothing is fitted: it is made anew from the kept results in seconds."""
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        grouped.setdefault((record.unit.experiment, record.unit.set), []).append(record)
    tables = [table for key, found in grouped.items() for table in _tables(planned, *key, found)]
    names = list(dict.fromkeys(table.experiment for table in tables))
    return SuiteBoard(
        tables=tuple(tables),
        ranks=tuple(rank for name in names for rank in _mean_ranks(name, tables)),
        sets=tuple(_set_facts(planned, name) for name in planned.sets),
        experiments=tuple(_experiment_facts(experiment(name)) for name in names),
        policies=tuple(_policy_facts(name, needs) for name, needs in participants().needs.items()),
        absent=dict(planned.absent),
        unloaded=dict(planned.unloaded),
        left_out=dict(participants().left_out),
        junctor=junctor.__version__,
        encoder=planned.run.encoder,
        seeds=planned.run.seeds,
        resamples=planned.run.resamples,
        quick=planned.run.quick,
        seconds=round(sum(record.seconds for record in records), 1),
        units=len(records),
        failed=sum(record.status == FAILED for record in records),
    )


def _tables(planned: Planned, name: str, set_: str, records: Sequence[Record]) -> list[Table]:
    """The test side, and every other side that the same fits were judged on."""
    out = Path(planned.run.out)
    figures = {r.unit.policy: store.figures_of(out, r.unit) for r in records if r.status == DONE}
    sides = dict.fromkeys(metric.rpartition("/")[0] for found in figures.values() for metric in found)
    made = [_table(name, set_, side, records, figures) for side in sorted(sides or {"": None})]
    return [_with_card(planned.setups[set_], table, made) for table in made]


def _table(name: str, set_: str, side: str, records: Sequence[Record], figures: Mapping[str, Figures]) -> Table:
    asked = experiment(name)
    headline = next((record.headline for record in records if record.headline), asked.headline)
    found = {policy: _replicated(_of_side(values, side)) for policy, values in figures.items()}
    better = -1.0 if headline in asked.less_is_better else 1.0
    bar, blind = _best_bar(asked, found, headline, better), _best_bar(asked, found, headline, better, blind=True)
    ranks = _ranks(found, headline, better)
    rows = [_standing(r, found.get(r.unit.policy, {}), figures, side, headline, (bar, blind), better, ranks) for r in records]
    if side:
        rows = [row for row in rows if row.figures]
    singles: Mapping[str, Any] = next((record.curves["singles"] for record in records if "singles" in record.curves), {})
    return Table(
        experiment=name,
        set=set_,
        headline=headline,
        rows=tuple(sorted(rows, key=lambda row: _order(row, headline, better))),
        side=side,
        best_bar=bar,
        best_blind_bar=blind,
        notes=_shared_notes(records) if not side else (),
        singles=singles if not side else {},
    )


def _of_side(figures: Figures, side: str) -> dict[str, Array]:
    """The figures of one side, by the metric's own name."""
    return {metric.rpartition("/")[2]: values for metric, values in figures.items() if metric.rpartition("/")[0] == side}


def _replicated(figures: Figures) -> dict[str, Replicates]:
    """Value and replicates of each figure; one that was not resampled has its seeds for replicates."""
    return {metric: _over(values, median=metric in MAY_BE_OUT_OF_REACH) for metric, values in figures.items() if values.size}


def _over(values: Array, *, median: bool) -> Replicates:
    seeds, draws = values.shape[0], values.shape[1] - 1
    if not draws:
        return float(values[:, 0].mean()), values[:, 0]
    picks = np.random.default_rng(1).integers(seeds, size=(draws, seeds))
    return over_seeds(values, picks, median=median)


def _best_bar(
    asked: Experiment, found: Mapping[str, Mapping[str, Replicates]], headline: str, better: float, *, blind: bool = False
) -> str:
    """The cheap bar of the best headline; `blind` leaves out those that read labels of the query, or look at test outcomes."""
    needs = participants().needs
    values = {name: found[name][headline][0] for name in asked.bars if headline in found.get(name, {})}
    if blind:
        values = {n: v for n, v in values.items() if n not in REFERENCES and "labels" not in needs.get(n, frozenset())}
    values = {name: value for name, value in values.items() if np.isfinite(value)}
    return max(values, key=lambda name: better * values[name]) if values else ""


def _standing(
    record: Record,
    found: Mapping[str, Replicates],
    figures: Mapping[str, Figures],
    side: str,
    headline: str,
    bars: tuple[str, str],
    better: float,
    ranks: Mapping[str, float],
) -> Standing:
    policy = record.unit.policy
    shown = {metric: _figure(*pair) for metric, pair in found.items()}
    against = [_difference(figures, side, policy, bar, headline) for bar in bars]
    return Standing(
        policy=policy,
        figures={metric: figure for metric, figure in shown.items() if figure is not None},
        rank=ranks.get(policy),
        clears_the_cheap_bars=_clears(policy, bars[0], against[0], better),
        clears_the_blind_bars=_clears(policy, bars[1], against[1], better),
        vs_best_bar=against[0],
        vs_best_blind_bar=against[1],
        seeds=max((values.shape[0] for values in figures.get(policy, {}).values()), default=0),
        seconds=record.seconds,
        status=record.status,
        why=record.why,
        notes=tuple(record.notes),
        curves={} if side else {name: values for name, values in record.curves.items() if name != "singles"},
    )


def _figure(value: float, replicates: NDArray[np.float64]) -> Figure | None:
    found = interval(value, replicates)
    return None if found is None else (_round(found.value), _round(found.low), _round(found.high))


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _difference(figures: Mapping[str, Figures], side: str, policy: str, bar: str, headline: str) -> Figure | None:
    """The paired difference of the headline to a bar's: on each resample of each seed, before anything is averaged."""
    if not bar or policy == bar or policy not in figures:
        return None
    mine, theirs = _of_side(figures[policy], side).get(headline), _of_side(figures[bar], side).get(headline)
    if mine is None or theirs is None or mine.shape != theirs.shape:
        return None
    median = headline in MAY_BE_OUT_OF_REACH
    (value, replicates), (other, others) = _over(mine, median=median), _over(theirs, median=median)
    return _figure(value - other, replicates - others)


def _clears(policy: str, bar: str, difference: Figure | None, better: float) -> Clears:
    if unranked(policy):
        return "reference"
    if policy == bar:
        return "bar"
    if difference is None:
        return ""
    low, high = sorted((better * difference[1], better * difference[2]))
    return "yes" if low > 0 else "no" if high < 0 else "tied"


def unranked(policy: str) -> bool:
    """References, and plans whose verifier is drawn from the very outcome that they are judged by (no table records one)."""
    if policy in REFERENCES:
        return True
    about = _about(policy)
    return about is not None and about.family == "after the answer" and about.status == "simulated"


def _ranks(found: Mapping[str, Mapping[str, Replicates]], headline: str, better: float) -> dict[str, float]:
    """Ranks by the headline from 1; equal figures share the mean of their places; references do not rank."""
    values = {
        policy: better * figures[headline][0]
        for policy, figures in found.items()
        if not unranked(policy) and headline in figures and np.isfinite(figures[headline][0])
    }
    ranks = {}
    for policy, value in values.items():
        above = sum(other > value + EVEN for other in values.values())
        even = sum(abs(other - value) <= EVEN for other in values.values())
        ranks[policy] = above + (even + 1) / 2
    return ranks


def _order(row: Standing, headline: str, better: float) -> tuple[bool, bool, float, str]:
    figure = row.figures.get(headline)
    other = row.figures.get("quality")
    height = figure if figure is not None else other
    return not row.figures, figure is None, -better * height[0] if height is not None else 0.0, row.policy


def _shared_notes(records: Sequence[Record]) -> tuple[str, ...]:
    """What all say of their units: said once, on top."""
    done = [set(record.notes) for record in records if record.status == DONE and record.notes]
    common = set.intersection(*done) if done else set()
    first = next((record for record in records if record.status == DONE and record.notes), None)
    return tuple(note for note in first.notes if note in common) if first is not None else ()


def _with_card(setup: Setup, table: Table, tables: Sequence[Table]) -> Table:
    """The noted bars of a recognised set beside ours, under the table of the experiment that they belong to."""
    card = setup.card
    if card is None or table.side:
        return table
    sides = {one.side or "test": one for one in tables}

    def find(side: str, policy: str, metric: str) -> Row | None:
        row = sides[side].find(policy) if side in sides else None
        figure = None if row is None else row.figures.get(metric)
        if figure is None:
            return None
        return Row(policy=policy, metric=metric, value=figure[0], low=figure[1], high=figure[2], seeds=1)

    note: CardNote = card.note(find, table.experiment)
    return _replaced(table, card=note) if note.bars else table


def _replaced(table: Table, **changes: Any) -> Table:
    made: Table = msgspec.structs.replace(table, **changes)
    return made


def _mean_ranks(name: str, tables: Sequence[Table]) -> list[MeanRank]:
    """Over the test sides of all sets of an experiment, best first; who took part in less than half of them comes after."""
    mine = [table for table in tables if table.experiment == name and not table.side]
    found = []
    for policy in dict.fromkeys(row.policy for table in mine for row in table.rows if row.rank is not None):
        rows = [row for table in mine if (row := table.find(policy)) is not None and row.rank is not None]
        counts = {word: sum(row.clears_the_cheap_bars == word for row in rows) for word in ("yes", "tied", "no")}
        mean = float(np.mean([row.rank for row in rows]))
        found.append(MeanRank(experiment=name, policy=policy, mean_rank=round(mean, 3), sets=len(rows), of=len(mine), **counts))
    return sorted(found, key=lambda rank: (2 * rank.sets < rank.of, rank.mean_rank))


def _set_facts(planned: Planned, name: str) -> SetFacts:
    table, one = planned.setups[name].table, planned.sets[name]
    return SetFacts(
        name=name,
        title=one.title,
        queries=len(table),
        targets=len(table.targets),
        label=table.label_name if any(table.label) else "",
        datasets=len({label for label in table.label if label}),
        costs=table.cost_usd is not None,
        digest=one.digest(Path(planned.run.data))[:16],
        notes=tuple(planned.setups[name].notes),
    )


def _experiment_facts(asked: Experiment) -> ExperimentFacts:
    return ExperimentFacts(
        name=asked.name,
        title=asked.title,
        question=asked.question,
        metrics=dict(asked.metrics),
        less_is_better=tuple(sorted(asked.less_is_better)),
        bars=tuple(asked.bars),
    )


def _entry(name: str) -> registry.Entry | None:
    """The registry line of an estimator or policy."""
    return next((one for kind in ("estimator", "policy") for one in registry.entries(kind) if one.name == name), None)


@cache
def _about(name: str) -> About | None:
    """What a policy's config says of itself; None where nothing is said."""
    entry = _entry(name)
    try:
        about = None if entry is None else getattr(entry.load(), "about", None)
    except JunctorError:
        return None
    return about if isinstance(about, About) else None


def _policy_facts(name: str, needs: frozenset[str]) -> PolicyFacts:
    """From the registry line and the config's `about`."""
    entry, about = _entry(name), _about(name)
    bare = PolicyFacts(name=name, needs=tuple(sorted(needs)), summary="" if entry is None else entry.summary)
    if about is None:
        return bare
    made: PolicyFacts = msgspec.structs.replace(bare, title=about.title, family=about.family, status=about.status)
    return made
