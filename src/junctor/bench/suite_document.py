"""The suite's board as data: JSON of schema 1. `suite_board` makes it, `suite_page` and `suite_markdown` show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from junctor.bench.document import CardNote
from junctor.errors import TableError

SCHEMA = 1
Figure = tuple[float, float, float]
"""The mean over seeds and its 95% interval."""
Clears = Literal["yes", "no", "tied", "bar", "reference", ""]
"""Against the best cheap bar, by the paired interval of the headline: above, below, or not to be told apart; "bar" is that bar
itself, "reference" looks at the test outcomes, "" has no headline figure.
"""


class Standing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One policy in one experiment on one set.

    figures            metric -> (mean over seeds, low, high)
    rank               by the headline among all that are not references; ties share it
    vs_best_bar        paired difference of the headline to the best cheap bar, and its interval
    vs_best_blind_bar  the same to the best of the bars that read no label of the query
    status, why        done, skipped or failed, and why
    """

    policy: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    rank: float | None = None
    clears_the_cheap_bars: Clears = ""
    clears_the_blind_bars: Clears = ""
    vs_best_bar: Figure | None = None
    vs_best_blind_bar: Figure | None = None
    seeds: int = 0
    seconds: float = 0.0
    status: str = "done"
    why: str = ""
    notes: tuple[str, ...] = ()
    curves: Mapping[str, Any] = field(default_factory=dict)


class Table(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One experiment on one set; `side` is set where the same fits were judged on another test side."""

    experiment: str
    set: str
    headline: str
    rows: tuple[Standing, ...]
    side: str = ""
    best_bar: str = ""
    best_blind_bar: str = ""
    notes: tuple[str, ...] = ()
    singles: Mapping[str, Any] = field(default_factory=dict)
    card: CardNote | None = None

    def find(self, policy: str) -> Standing | None:
        """The row of a policy, or None."""
        return next((row for row in self.rows if row.policy == policy), None)


class MeanRank(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a policy stands over all sets of an experiment: the mean of its ranks, and how often it clears the cheap bars."""

    experiment: str
    policy: str
    mean_rank: float
    sets: int
    of: int
    yes: int = 0
    tied: int = 0
    no: int = 0


class SetFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A set as it was used."""

    name: str
    title: str
    queries: int
    targets: int
    label: str = ""
    datasets: int = 0
    costs: bool = False
    digest: str = ""
    notes: tuple[str, ...] = ()


class ExperimentFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An experiment as it was asked."""

    name: str
    title: str
    question: str
    metrics: Mapping[str, str] = field(default_factory=dict)
    less_is_better: tuple[str, ...] = ()
    bars: tuple[str, ...] = ()


class PolicyFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A policy: where it comes from and what it reads."""

    name: str
    title: str = ""
    family: str = ""
    status: str = ""
    needs: tuple[str, ...] = ()
    summary: str = ""


class SuiteBoard(Struct, frozen=True, kw_only=True):
    """Everything that a run of the suite found.

    absent, unloaded, left_out   sets, experiments and policies that are not on the board, each with the reason
    seconds                      of work, all units together, as they took when they were made
    """

    tables: tuple[Table, ...]
    ranks: tuple[MeanRank, ...] = ()
    sets: tuple[SetFacts, ...] = ()
    experiments: tuple[ExperimentFacts, ...] = ()
    policies: tuple[PolicyFacts, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    unloaded: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    suite: str = "published"
    schema: int = SCHEMA
    junctor: str = ""
    encoder: str = ""
    seeds: int = 0
    resamples: int = 0
    quick: bool = False
    seconds: float = 0.0
    units: int = 0
    failed: int = 0

    def of(self, experiment: str) -> list[Table]:
        """The tables of an experiment, in the order of the sets."""
        return [table for table in self.tables if table.experiment == experiment]

    def save(self, path: Path) -> None:
        """Write the JSON document."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=0) + b"\n")


def load_suite(path: Path) -> SuiteBoard:
    """Read it back; raises TableError when the file is not one of schema 1."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=SuiteBoard)
    except (OSError, msgspec.MsgspecError) as error:
        raise TableError(f"is not a suite's board: {error}", field=str(path), fix="name one that the suite wrote") from error
    if found.schema != SCHEMA:
        raise TableError(f"has schema {found.schema}, not {SCHEMA}", field=str(path), fix="write it again with this version")
    return found
