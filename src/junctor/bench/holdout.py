"""One fitted policy on the rows that its fit never touched, against the best single target and the cheapest: is it any use?

Every figure has a 95 % interval from a bootstrap over queries. Differences are paired. Where a policy chooses as the single
target does, the difference is zero, recorded or not; so it is the share of rows on which they choose differently times the mean
difference on those of them where both outcomes were recorded. Intervals are widened for few rows ("expanded percentile",
Hesterberg 2015), because the plain percentile is too narrow exactly where people ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from junctor.bench.resample import Interval
from junctor.features import Features
from junctor.fitting import visible
from junctor.outcomes import OutcomeTable
from junctor.policies.best_single import BestSingleConfig
from junctor.policies.cheapest import CheapestConfig
from junctor.policy import Array, Policy, Replayable

SCHEMA = 1
RESAMPLES = 2000
LEAST_WINS = 6
"""Rows that differ in quality, before a difference can be told from chance at 95 %: 2 x 0.5^6 is the first below 0.05."""
POWER = NormalDist().inv_cdf(0.8)
LEVEL = NormalDist().inv_cdf(0.975)
MOST_ROWS = 100_000
"""More than that nobody records to learn of a difference that small."""
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Against:
    """The policy beside one single target.

    role           "best single" or "cheapest", by what was recorded of the fitting rows
    rows           test rows with a recorded outcome of this target: its own figures are of these
    differ         test rows on which the policy does otherwise; `pairs` of them have both outcomes
    difference     the policy's quality less this target's; None where no pair was recorded
    verdict        "better", "worse", "open" (cannot be told), "same" (it always does the same) or "unknown" (no pair)
    more           rows to record before this difference could be told from noise, four times out of five; None: no such number
    """

    role: str
    target: str
    rows: int
    quality: Interval | None
    cost_usd: Interval | None
    differ: int
    pairs: int
    difference: Interval | None
    verdict: str
    more: int | None


@dataclass(frozen=True, slots=True)
class Holdout:
    """What a policy came to on test rows.

    rows, counted   test rows, and those of them where what it chose was recorded
    share           of the table's rows that are test rows
    choices         target -> share of the test rows; empty for plans that look at answers
    """

    policy: str
    rows: int
    counted: int
    quality: Interval | None
    cost_usd: Interval | None
    choices: dict[str, float]
    against: tuple[Against, ...]


def hold_out(
    policy: Policy,
    table: OutcomeTable,
    features: Features,
    fitted: Sequence[int] | Places,
    test: Sequence[int] | Places,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Holdout:
    """Judge a policy on the rows `test`; which single target is best or cheapest is read off the rows `fitted`.

    Raises NoTarget when the policy has no choice for a row.
    """
    rows, known = np.asarray(test, dtype=np.intp), np.asarray(fitted, dtype=np.intp)
    judged, seen = table.take(rows), features.take(rows)
    quality, cost, choices = _came_to(policy, judged, visible(policy, seen), rng)
    counts = rng.multinomial(len(rows), np.full(len(rows), 1.0 / len(rows)), size=resamples).astype(np.float64)
    singles = _singles(table.take(known), features.take(known), judged, seen, rng)
    shares = {} if choices is None else _shares(choices, table.targets.ids)
    against = tuple(
        _against(role, place, judged, quality, choices, counts, len(table), len(rows)) for role, place in singles.items()
    )
    return Holdout(
        policy.title, len(rows), int((~np.isnan(quality)).sum()), _mean(quality, counts), _cost(cost, counts), shares, against
    )


def _came_to(
    policy: Policy, table: OutcomeTable, features: Features, rng: np.random.Generator
) -> tuple[Array, Array | None, Places | None]:
    """Quality [N], cost [N] and choices [N] as it would serve; no choices for plans that look at answers."""
    if isinstance(policy, Replayable):
        replay = policy.replay(table, features, rng)
        return replay.quality[0], None if replay.cost_usd is None else replay.cost_usd[0], None
    choices, _ = policy.decide_many(features, table.targets, rng)
    at = np.arange(len(table)), choices
    return table.quality[at], None if table.cost_usd is None else table.cost_usd[at], choices


def _singles(
    known: OutcomeTable, features: Features, judged: OutcomeTable, seen: Features, rng: np.random.Generator
) -> dict[str, int]:
    """Role -> place of the target; the cheapest is left out where nothing says what anything costs, or where it is the best."""
    made = {"best single": BestSingleConfig().fit(known, features, rng)}
    if known.cost_usd is not None or any(target.price is not None for target in known.targets):
        made["cheapest"] = CheapestConfig().fit(known, features, rng)  # type: ignore[assignment]
    places = {role: int(one.decide_many(seen.take([0]), judged.targets, rng)[0][0]) for role, one in made.items()}
    return {role: place for role, place in places.items() if role == "best single" or place != places["best single"]}


def _against(
    role: str,
    place: int,
    table: OutcomeTable,
    quality: Array,
    choices: Places | None,
    counts: Array,
    total: int,
    rows: int,
) -> Against:
    own = table.quality[:, place]
    otherwise = np.ones(rows, dtype=bool) if choices is None else choices != place
    lead = np.where(otherwise, quality - own, np.nan)
    pairs = int((~np.isnan(lead)).sum())
    difference, error = _lead(lead, otherwise, counts)
    verdict = _verdict(difference, int(otherwise.sum()), int((np.nan_to_num(lead) != 0).sum()))
    more = _more(difference, error, rows, total) if verdict == "open" else None
    cost = None if table.cost_usd is None else _cost(table.cost_usd[:, place], counts)
    id_ = table.targets.ids[place]
    seen = int((~np.isnan(own)).sum())
    return Against(role, id_, seen, _mean(own, counts), cost, int(otherwise.sum()), pairs, difference, verdict, more)


def _lead(lead: Array, otherwise: NDArray[np.bool_], counts: Array) -> tuple[Interval | None, float]:
    """Mean difference over all rows, and its standard error; nothing without a pair, zero where it always does the same."""
    if not otherwise.any():
        return Interval(0.0, 0.0, 0.0), 0.0
    pairs = int((~np.isnan(lead)).sum())
    if not pairs:
        return None, 0.0
    value = float(otherwise.mean() * np.nanmean(lead))
    share = counts @ otherwise / counts.sum(axis=1)
    replicates = share * _means(lead, counts)
    return _interval(value, replicates, pairs), float(np.nanstd(replicates))


def _verdict(difference: Interval | None, differ: int, unequal: int) -> str:
    if not differ:
        return "same"
    if difference is None:
        return "unknown"
    if unequal < LEAST_WINS or difference.low <= 0.0 <= difference.high:
        return "open"
    return "better" if difference.value > 0 else "worse"


def _more(difference: Interval | None, error: float, rows: int, total: int) -> int | None:
    """Rows of the table, test rows in the same proportion, that would show this difference; None when out of reach."""
    if difference is None or difference.value == 0.0 or error == 0.0:
        return None
    needed = rows * ((LEVEL + POWER) * error / difference.value) ** 2
    more = (needed - rows) * total / rows
    if more > MOST_ROWS:
        return None
    digits: int = 10 ** max(0, len(str(int(max(more, 1.0)))) - 2)
    return max(digits, round(more / digits) * digits)


def _cost(values: Array | None, counts: Array) -> Interval | None:
    return None if values is None else _mean(values, counts, unit=False)


def _mean(values: Array, counts: Array, *, unit: bool = True) -> Interval | None:
    """Mean over recorded cells; `unit`: values lie in [0, 1].

    Where all of these are alike, resamples cannot tell how sure that is: with none of n rows otherwise, up to 3 / n of all
    could be ("rule of three").
    """
    seen = values[~np.isnan(values)]
    if not len(seen):
        return None
    found = _interval(float(seen.mean()), _means(values, counts), len(seen))
    if not unit:
        return found
    slack = 3.0 / len(seen) if np.ptp(seen) == 0 else 0.0
    return Interval(found.value, max(0.0, found.low - slack), min(1.0, found.high + slack))


def _means(values: Array, counts: Array) -> Array:
    """[B]; NaN for a resample without a recorded cell."""
    seen = ~np.isnan(values)
    size = counts @ seen.astype(np.float64)
    total = counts @ np.where(seen, values, 0.0)
    return np.asarray(np.divide(total, size, out=np.full(len(counts), np.nan), where=size > 0))


def _interval(value: float, replicates: Array, rows: int) -> Interval:
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return Interval(value, value, value, 0.0)
    tail = _tail(rows)
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return Interval(value, min(value, float(low)), max(value, float(high)), len(known) / len(replicates))


def _tail(rows: int) -> float:
    """Share of resamples beyond either end: 0.025, and less where few rows are resampled."""
    if rows < 3:
        return 0.0
    free = rows - 1
    z = LEVEL
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return NormalDist().cdf(-t * (rows / free) ** 0.5)


def _shares(choices: Places, ids: Sequence[str]) -> dict[str, float]:
    found = np.bincount(choices, minlength=len(ids)) / len(choices)
    return {ids[i]: float(found[i]) for i in np.argsort(-found, kind="stable").tolist() if found[i] > 0}


def sentences(found: Holdout) -> tuple[str, ...]:
    """What is to be made of it, in plain words."""
    said = [_sentence(found, one) for one in found.against]
    lost = found.rows - found.counted
    if lost:
        said.append(
            f"{lost} of {found.rows} test rows do not count for {found.policy}: the outcome of what it chose was not recorded"
        )
    return tuple(said)


def _sentence(found: Holdout, one: Against) -> str:
    name = f"the {one.role} target ({one.target})"
    on = f"on {found.rows} test rows"
    if one.verdict == "same":
        return f"chooses {one.target} {on}, every time: it is {name}"
    if one.verdict == "unknown":
        return f"cannot be compared with {name}: of the {one.differ} test rows where they differ, none has both outcomes"
    assert one.difference is not None
    by = f"by {abs(one.difference.value):.3f} ({one.difference.low:+.3f} to {one.difference.high:+.3f})"
    paid = _paid(found, one)
    if one.verdict == "open":
        more = (
            f"record about {one.more:,} more" if one.more is not None else "no number of rows in reach would show a difference"
        )
        return f"cannot be told from {name} {on}{paid}: {more}"
    return f"{one.verdict} than {name} {by} beyond noise {on}{paid}"


def _paid(found: Holdout, one: Against) -> str:
    if found.cost_usd is None or one.cost_usd is None or not one.cost_usd.value > 0:
        return ""
    times = found.cost_usd.value / one.cost_usd.value
    return f", at {times:,.0f} times its cost" if times >= 2 else f", at {times:.0%} of its cost"


def document(found: Holdout) -> dict[str, Any]:
    """The same as plain data: `junctor fit --help` says what is in it."""
    return {
        "schema": SCHEMA,
        "policy": found.policy,
        "judged": True,
        "test_rows": found.rows,
        "counted": found.counted,
        "quality": _plain(found.quality),
        "cost_usd": _plain(found.cost_usd),
        "choices": found.choices,
        "against": [
            {
                "role": one.role,
                "target": one.target,
                "rows": one.rows,
                "quality": _plain(one.quality),
                "cost_usd": _plain(one.cost_usd),
                "differ": one.differ,
                "pairs": one.pairs,
                "difference": _plain(one.difference),
                "verdict": one.verdict,
                "record_more": one.more,
            }
            for one in found.against
        ],
        "sentences": list(sentences(found)),
    }


def _plain(found: Interval | None) -> dict[str, float] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}
