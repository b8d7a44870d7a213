"""One policy's figures out of the suite's board: what its page and `junctor policies NAME` show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from junctor.bench.suite_document import MeanRank, Standing, SuiteBoard, Table, load_suite
from junctor.bench.suite_words import CLEARS, facts, named, place, signed, spread, title

BOARD = Path("docs") / "board" / "board.json"
"""Where the board lies in a checkout."""
MAKE = "junctor bench --suite published --out suite --board docs/board"
"""What makes it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A policy in one experiment on one set, in words: the headline with its interval, and against the best cheap bar."""

    experiment: str
    set: str
    metric: str
    figure: str
    difference: str
    bar: str
    clears: str
    rank: str


def board_file(given: Path | None = None) -> Path | None:
    """The board that was named; else that of the folder we are in, else that of the checkout; None when there is none."""
    if given is not None:
        return given
    for folder in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (folder / BOARD).is_file():
            return folder / BOARD
    return None


def open_board(given: Path | None = None) -> SuiteBoard | None:
    """That board, read; None when there is none. Raises TableError for a file that is no suite's board."""
    path = board_file(given)
    return None if path is None else load_suite(path)


def found_of(suite: SuiteBoard, policy: str) -> list[Found]:
    """Every row of this policy that has the headline figure, experiment by experiment."""
    made = []
    for asked in facts(suite).values():
        for table in suite.of(asked.name):
            row = table.find(policy)
            if row is not None and table.headline in row.figures:
                made.append(_found(suite, table, row, asked.title))
    return made


def _found(suite: SuiteBoard, table: Table, row: Standing, experiment: str) -> Found:
    ranked = sum(other.rank is not None for other in table.rows)
    return Found(
        experiment=experiment,
        set=named(suite, table),
        metric=title(table.headline),
        figure=spread(table.headline, row.figures[table.headline]),
        difference=signed(row.vs_best_bar),
        bar=table.best_bar,
        clears=CLEARS[row.clears_the_cheap_bars],
        rank=f"{place(row)} of {ranked}" if row.rank is not None else "–",
    )


def gone_of(suite: SuiteBoard, policy: str) -> list[str]:
    """Where it was left out or failed, and why; and why it is not on the board at all."""
    made = [f"{policy} takes no part: {suite.left_out[policy]}"] if policy in suite.left_out else []
    for table in suite.tables:
        row = None if table.side else table.find(policy)
        if row is not None and row.status != "done":
            made.append(f"{table.experiment} on {named(suite, table)}: {row.status}, {row.why}")
    return made


def mean_rank(suite: SuiteBoard, policy: str, experiment: str = "standard") -> MeanRank | None:
    """How it stands over all sets of an experiment."""
    return next((rank for rank in suite.ranks if rank.policy == policy and rank.experiment == experiment), None)


def best_of(suite: SuiteBoard, policy: str, experiment: str = "standard") -> str:
    """The set on which it is the furthest above the best cheap bar, or the least below it; "" when it is on none."""
    seen = [
        (row.vs_best_bar[0], signed(row.vs_best_bar), named(suite, table))
        for table in suite.of(experiment)
        if not table.side and (row := table.find(policy)) is not None and row.vs_best_bar is not None
    ]
    if not seen:
        return ""
    _, difference, where = max(seen, key=lambda one: one[0])
    return f"{difference} on {where}"


def losses_of(suite: SuiteBoard, policy: str) -> tuple[str, Sequence[float]]:
    """The largest set on which a fit left a loss curve, and that curve; ("", ()) when there is none."""
    sizes = {one.name: one.queries for one in suite.sets}
    best: tuple[int, str, Sequence[float]] = (-1, "", ())
    for table in suite.tables:
        row = None if table.side else table.find(policy)
        losses: Sequence[float] = () if row is None else row.curves.get("losses", ())
        if losses and sizes.get(table.set, 0) > best[0]:
            best = sizes.get(table.set, 0), named(suite, table), losses
    return best[1], best[2]
