"""What a trial has shown so far, from the journal: whether the candidate chooses otherwise, and what it earns or would have.

Where it took a share, the two sides are compared as they are. Where it only looked on, its value is estimated from what
the current policy did, which took target a with probability p: with w = [candidate = a] / p, reward r and prediction q̂

    IPS     mean of w · r                     unbiased where every target that the candidate takes had a chance
    SNIPS   Σ w · r / Σ w                     steadier
    DR      mean of q̂(candidate) + w · (r - q̂(a))     the steadiest where predictions are any good: this one is told

(Horvitz, Thompson 1952; Swaminathan, Joachims 2015; Dudík, Langford, Li 2011.) A current policy that never explores says
nothing about targets that it would not take: then the weights do not average 1, DR is no more than the predictions, and the
report says so. Intervals are 95%, normal, and count what is kept on one side together as one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from math import sqrt
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from junctor.journal import DecisionRecord, FeedbackRecord, OutcomeRecord, Record, ShadowRecord, read
from junctor.types import Outcome

TWO_SIDED = 1.96
MOST = 100_000
NO_SUPPORT = 0.1
"""Weights that average further than this (and further than chance explains) from 1 tell of targets that were never tried."""
NAN = float("nan")
Array = NDArray[np.float64]
Measure = Literal["quality", "cost_usd"]
_Later = OutcomeRecord | FeedbackRecord | ShadowRecord
EARLY = 1024


class Estimated(Struct, frozen=True, kw_only=True):
    """A mean and its 95% interval over `rows` decisions; NaN (null in JSON) where that cannot be said."""

    value: float
    low: float
    high: float
    rows: int


class Compared(Struct, frozen=True, kw_only=True):
    """One measure: quality in [0, 1] or US dollars a request. `ips` and `snips` are there for a shadow only.

    `difference` is the candidate less the current policy.
    """

    current: Estimated
    candidate: Estimated
    difference: Estimated
    ips: Estimated | None = None
    snips: Estimated | None = None


class TrialReport(Struct, frozen=True, kw_only=True):
    """One trial.

    kind            "shadow" (it looked on) or "split" (it took a share)
    policy          the candidate's, as it calls itself
    since, until    Unix seconds of the first and last decision
    decisions       shadow: that it looked at; split: on both sides together
    taken           split: by the candidate
    undecided       that it could not decide
    agreement       shadow: share of decisions in which it would have done the same
    effective_rows  shadow: decisions of its own that the journal is worth (Kish)
    mean_weight     shadow: 1 where the current policy leaves every target a chance
    notes           what to beware of
    """

    alias: str
    trial: str
    kind: Literal["shadow", "split"]
    policy: str = ""
    since: float = 0.0
    until: float = 0.0
    decisions: int = 0
    taken: int = 0
    undecided: int = 0
    agreement: float | None = None
    effective_rows: float | None = None
    mean_weight: float | None = None
    quality: Compared | None = None
    cost_usd: Compared | None = None
    notes: tuple[str, ...] = ()


class _Row(Struct):
    """A decision and what came of it."""

    alias: str
    at: float
    target: str
    propensity: float
    policy: str
    trial: str
    side: str
    unit: str
    predicted: dict[str, Outcome]
    served: str = ""
    quality: float | None = None
    cost_usd: float | None = None
    shadows: list[ShadowRecord] = []


def trial_reports(journal: Path | str | Iterable[Record], *, most: int = MOST) -> tuple[TrialReport, ...]:
    """A report per trial over the last `most` decisions of a journal, by alias and name. Raises JournalError."""
    rows = _joined(read(journal) if isinstance(journal, Path | str) else journal, most)
    split: dict[tuple[str, str], list[_Row]] = {}
    shadowed: dict[tuple[str, str], list[tuple[_Row, ShadowRecord]]] = {}
    for row in rows:
        for trial in row.trial.split(",") if row.trial else ():
            split.setdefault((row.alias, trial), []).append(row)
        for record in row.shadows:
            shadowed.setdefault((row.alias, record.trial), []).append((row, record))
    reports = [_split(alias, trial, found) for (alias, trial), found in split.items()]
    reports += [_shadow(alias, trial, found) for (alias, trial), found in shadowed.items()]
    return tuple(sorted(reports, key=lambda report: (report.alias, report.trial, report.kind)))


def _joined(records: Iterable[Record], most: int) -> list[_Row]:
    rows: OrderedDict[str, _Row] = OrderedDict()
    early: OrderedDict[str, list[_Later]] = OrderedDict()  # of several threads and workers one may be quicker with its line
    for record in records:
        if isinstance(record, DecisionRecord):
            row = rows[record.decision.id] = _row(record)
            for later in early.pop(record.decision.id, ()):
                _take(row, later)
            if len(rows) > most:
                rows.popitem(last=False)
        elif isinstance(record, OutcomeRecord | FeedbackRecord | ShadowRecord):
            found = rows.get(record.id)
            if found is not None:
                _take(found, record)
            else:
                early.setdefault(record.id, []).append(record)
                if len(early) > EARLY:
                    early.popitem(last=False)
    return list(rows.values())


def _row(record: DecisionRecord) -> _Row:
    decision = record.decision
    return _Row(
        alias=record.alias,
        at=record.at,
        target=decision.target,
        propensity=decision.propensity,
        policy=decision.policy,
        trial=record.trial,
        side=record.side,
        unit=record.unit,
        predicted={ranked.target: ranked.predicted for ranked in decision.ranked},
    )


def _take(row: _Row, record: _Later) -> None:
    if isinstance(record, ShadowRecord):
        row.shadows.append(record)
        return
    if isinstance(record, OutcomeRecord):
        row.served = record.target
    said = record.outcome
    row.quality = row.quality if said.quality is None else said.quality
    row.cost_usd = row.cost_usd if said.cost_usd is None else said.cost_usd


def _split(alias: str, trial: str, rows: Sequence[_Row]) -> TrialReport:
    sides = {side: [row for row in rows if row.side == side] for side in ("current", "candidate")}
    theirs = sides["candidate"]
    notes = [] if theirs else ["the candidate has decided nothing yet"]
    if theirs and not any(row.quality is not None for row in theirs):
        notes.append("no quality is known on the candidate's side: send feedback")
    return TrialReport(
        alias=alias,
        trial=trial,
        kind="split",
        policy=theirs[0].policy if theirs else "",
        since=min(row.at for row in rows),
        until=max(row.at for row in rows),
        decisions=len(rows),
        taken=len(theirs),
        quality=_sides(sides["current"], theirs, "quality"),
        cost_usd=_sides(sides["current"], theirs, "cost_usd"),
        notes=tuple(notes),
    )


def _sides(current: Sequence[_Row], candidate: Sequence[_Row], measure: Measure) -> Compared | None:
    """As it came: who was served by whom after failures is part of what a policy leads to."""
    found = [_plain(rows, measure) for rows in (current, candidate)]
    if not all(one.rows for one, _ in found):
        return None
    (ours, our_error), (theirs, their_error) = found
    error = sqrt(our_error**2 + their_error**2)
    difference = _between(theirs.value - ours.value, error, ours.rows + theirs.rows)
    return Compared(current=ours, candidate=theirs, difference=difference)


def _plain(rows: Sequence[_Row], measure: Measure) -> tuple[Estimated, float]:
    known = [
        (value, row.unit or f"\0{place}") for place, row in enumerate(rows) if (value := getattr(row, measure)) is not None
    ]
    return _ratio(np.array([value for value, _ in known]), np.ones(len(known)), [unit for _, unit in known])


def _shadow(alias: str, trial: str, rows: Sequence[tuple[_Row, ShadowRecord]]) -> TrialReport:
    decided = [(row, record) for row, record in rows if record.target]
    weights = np.array([(record.target == row.target) / max(row.propensity, 1e-9) for row, record in decided])
    square = float((weights**2).sum())
    notes: list[str] = []
    if decided and not _supported(weights):
        notes.append(
            f"the weights average {weights.mean():.2f}, not 1: the current policy leaves some targets no chance, and what the "
            "candidate would do otherwise is judged by predictions alone"
        )
    if decided and not any(row.quality is not None for row, _ in decided):
        notes.append("no quality is known: send feedback")
    return TrialReport(
        alias=alias,
        trial=trial,
        kind="shadow",
        policy=decided[0][1].policy if decided else "",
        since=min(row.at for row, _ in rows),
        until=max(row.at for row, _ in rows),
        decisions=len(rows),
        undecided=len(rows) - len(decided),
        agreement=float(np.mean([record.target == row.target for row, record in decided])) if decided else None,
        effective_rows=float(weights.sum()) ** 2 / square if square > 0 else 0.0,
        mean_weight=float(weights.mean()) if decided else None,
        quality=_estimated(decided, "quality"),
        cost_usd=_estimated(decided, "cost_usd"),
        notes=tuple(notes),
    )


def _supported(weights: Array) -> bool:
    error = float(weights.std()) / sqrt(len(weights))
    return abs(float(weights.mean()) - 1.0) <= max(NO_SUPPORT, 3 * error)


def _estimated(decided: Sequence[tuple[_Row, ShadowRecord]], measure: Measure) -> Compared | None:
    """Only decisions whose own target answered and of which the measure is known."""
    known = [
        (row, record, float(value))
        for row, record in decided
        if (value := getattr(row, measure)) is not None and row.served in ("", row.target)
    ]
    if not known:
        return None
    reward = np.array([value for _, _, value in known])
    otherwise = float(reward.mean())
    weight = np.array([(record.target == row.target) / max(row.propensity, 1e-9) for row, record, _ in known])
    taken = np.array([_predicted(row, row.target, measure, otherwise) for row, _, _ in known])
    wanted = np.array([_predicted(row, record.target, measure, otherwise) for row, record, _ in known])
    robust = wanted + weight * (reward - taken)
    one = np.ones(len(known))
    return Compared(
        current=_ratio(reward, one)[0],
        candidate=_ratio(robust, one)[0],
        difference=_ratio(robust - reward, one)[0],
        ips=_ratio(weight * reward, one)[0],
        snips=_ratio(weight * reward, weight)[0],
    )


def _predicted(row: _Row, target: str, measure: Measure, otherwise: float) -> float:
    found = row.predicted.get(target)
    value = None if found is None else getattr(found, measure)
    return otherwise if value is None else float(value)


def _ratio(above: Array, below: Array, units: Sequence[str] | None = None) -> tuple[Estimated, float]:
    """Σ above / Σ below with its standard error by linearisation; rows of one unit count as one."""
    total = float(below.sum())
    if not total > 0:
        return Estimated(value=NAN, low=NAN, high=NAN, rows=len(above)), NAN
    value = float(above.sum()) / total
    rest = above - value * below
    if units is not None:
        rest = np.bincount(np.unique(np.array(units), return_inverse=True)[1], weights=rest).astype(np.float64)
    count = len(rest)
    error = sqrt(float((rest**2).sum()) * count / (count - 1)) / total if count > 1 else NAN
    return _between(value, error, len(above)), error


def _between(value: float, error: float, rows: int) -> Estimated:
    return Estimated(value=value, low=value - TWO_SIDED * error, high=value + TWO_SIDED * error, rows=rows)
