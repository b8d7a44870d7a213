"""The board: what a bench run found, as data: JSON of schema 1. `terminal` prints it and `report` draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from junctor.errors import TableError

SCHEMA = 1

METRICS: Mapping[str, str] = {
    "quality": "mean quality at the operating point",
    "quality_macro": "the same, as the plain mean over datasets",
    "cost_usd": "mean USD per query at the operating point",
    "aiq": "mean height of the cost-quality hull, cheapest to dearest single target",
    "aiq_released": "AIQ as RouterBench's released code computes it",
    "area": "the same area without the hull",
    "hypervolume": "area that the knob's settings dominate, cost from the cheapest to the dearest single target as 0 to 1",
    "qnc": "least cost that equals the most accurate single target, over that target's cost",
    "cost_at_equal_quality": "least USD per query that equals the best single target",
    "peak": "best quality along the knob, chosen on the test rows",
    "apgr": "average performance gap recovered over the share of strong calls",
    "cpt50": "least share of strong calls that recovers 50% of the gap",
    "cpt80": "least share of strong calls that recovers 80% of the gap",
    "oracle_gap_closed": "share of the way from the best single target to the oracle",
    "routerarena": "RouterArena's score of quality and cost",
    "vl_rank": "VL-RouterBench's rank score",
    "vs_best_bar": "headline metric minus that of the best cheap bar, paired",
    "decide_us_p50": "median µs per decision, encoding included",
    "decide_us_p99": "99th percentile µs per decision, encoding included",
    "fit_s": "seconds to tune and fit once",
}
"""Every metric a row may carry. One that a table cannot give has no row."""

LESS_IS_BETTER = frozenset(
    {"cost_usd", "qnc", "cost_at_equal_quality", "cpt50", "cpt80", "decide_us_p50", "decide_us_p99", "fit_s"}
)


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure: the mean over seeds and its 95% interval.

    `reached` is below 1 when some resamples did not reach the figure (QNC, cost at equal quality): the interval then speaks of
    the others only.
    """

    policy: str
    metric: str
    value: float
    low: float
    high: float
    seeds: int
    reached: float = 1.0


class Frontier(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the cost-quality plot draws of a policy: its hull, averaged over seeds, and its operating point."""

    cost_usd: tuple[float, ...] = ()
    quality: tuple[float, ...] = ()


class Single(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One target called for everything, on the test rows."""

    target: str
    quality: float
    cost_usd: float | None = None


class Tuned(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a policy was fitted: the settings that won on validation rows, per seed, and how many were tried."""

    policy: str
    settings: tuple[Mapping[str, Any], ...] = ()
    tried: int = 1


class NotedBar(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A published or noted figure beside ours, and why they differ."""

    policy: str
    metric: str
    split: str
    noted: float
    source: str
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


class CardNote(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the dataset card of this table says."""

    name: str
    title: str
    notes: tuple[str, ...] = ()
    bars: tuple[NotedBar, ...] = ()


class Part(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A split beside the test split (out of distribution, say), judged with the same fitted policies."""

    rows: tuple[Row, ...]
    queries: int
    best_bar: str = ""
    per_dataset: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Board(Struct, frozen=True, kw_only=True):
    """Everything a run found.

    rows          one per policy and metric
    headline      the metric that ranks
    judged        the policies that were asked about; the others in `rows` are references
    best_bar      the cheap bar that the others are compared with
    split         name -> number of queries
    per_dataset   policy -> dataset -> quality at the operating point
    """

    dataset: str
    rows: tuple[Row, ...]
    headline: str = "quality"
    judged: tuple[str, ...] = ()
    best_bar: str = ""
    schema: int = SCHEMA
    junctor: str = ""
    encoder: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, int] = field(default_factory=dict)
    seeds: int = 1
    resamples: int = 0
    elapsed_s: float = 0.0
    notes: tuple[str, ...] = ()
    per_dataset: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dataset_sizes: Mapping[str, int] = field(default_factory=dict)
    extra_splits: Mapping[str, Part] = field(default_factory=dict)
    frontiers: Mapping[str, Frontier] = field(default_factory=dict)
    singles: tuple[Single, ...] = ()
    best_single: str = ""
    tuned: tuple[Tuned, ...] = ()
    card: CardNote | None = None

    def find(self, policy: str, metric: str) -> Row | None:
        """The row of a policy and metric, or None when the table could not give it."""
        return next((row for row in self.rows if row.policy == policy and row.metric == metric), None)

    def value(self, policy: str, metric: str) -> float | None:
        """The figure alone, or None."""
        row = self.find(policy, metric)
        return None if row is None else row.value

    def policies(self) -> list[str]:
        """All policies, best first by the headline metric; those without it follow, by quality."""
        names = dict.fromkeys(row.policy for row in self.rows)
        return sorted(names, key=self._rank)

    def _rank(self, policy: str) -> tuple[bool, float]:
        headline = self.value(policy, self.headline)
        quality = self.value(policy, "quality") or 0.0
        return headline is None, -(quality if headline is None else headline)

    def save(self, path: str | Path) -> None:
        """Write the JSON document."""
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(board_document(self)), indent=1) + b"\n")


def board_document(board: Board) -> dict[str, Any]:
    """The board as plain data, schema 1, without keys that say nothing; docs/bench.md describes it.

    Raises TableError should a figure be NaN or infinite: such a row must not exist.
    """
    for row in (*board.rows, *(r for part in board.extra_splits.values() for r in part.rows)):
        if not all(map(math.isfinite, (row.value, row.low, row.high))):
            raise TableError("is not a number", field=f"{row.policy}.{row.metric}", fix="leave the row out")
    document: dict[str, Any] = msgspec.to_builtins(board)
    first = {"schema": document.pop("schema"), "dataset": document.pop("dataset"), "rows": document.pop("rows")}
    return first | {key: value for key, value in document.items() if value not in (None, {}, [], "")}


def load_board(path: str | Path) -> Board:
    """Read a board back; raises TableError when the file is not one of schema 1."""
    try:
        board = msgspec.json.decode(Path(path).read_bytes(), type=Board)
    except OSError as error:
        raise TableError("cannot be read", field=str(path), fix="name a board that `junctor bench` wrote") from error
    except msgspec.MsgspecError as error:
        raise TableError(f"is not a board: {error}", field=str(path), fix="name a board that `junctor bench` wrote") from error
    if board.schema != SCHEMA:
        raise TableError(f"has schema {board.schema}, not {SCHEMA}", field=str(path), fix="write it again with this version")
    return board


def rows_of(policy: str, figures: Sequence[tuple[str, float, float, float, float]], seeds: int) -> list[Row]:
    """Rows in the order of METRICS from (metric, value, low, high, reached)."""
    order = {name: i for i, name in enumerate(METRICS)}
    ordered = sorted(figures, key=lambda figure: order.get(figure[0], len(order)))
    rows = [
        (Row(policy=policy, metric=metric, value=value, low=low, high=high, seeds=seeds), reached)
        for metric, value, low, high, reached in ordered
    ]
    return [row if reached == 1 else msgspec.structs.replace(row, reached=reached) for row, reached in rows]
