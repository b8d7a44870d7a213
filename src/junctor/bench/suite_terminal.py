"""The suite's summary on a terminal: mean ranks, what failed, and where the rest was written."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from junctor.bench.suite_document import MeanRank, SuiteBoard
from junctor.bench.suite_words import facts, lead

MOST_FAILURES = 10


def print_suite(suite: SuiteBoard, console: Console) -> None:
    """Print the mean ranks, the sets that are absent, and the units that failed."""
    console.print(escape(lead(suite)), style="bold")
    console.print(_ranks(suite, console.width))
    for name, why in {**suite.absent, **suite.unloaded}.items():
        console.print(f"[dim]·[/dim] {escape(name)} is left out: {escape(why)}", highlight=False)
    failed = [(table, row) for table in suite.tables if not table.side for row in table.rows if row.status == "failed"]
    for table, row in failed[:MOST_FAILURES]:
        where = escape(f"{table.experiment}/{table.set}/{row.policy}")
        console.print(f"[red]failed[/red] {where}: {escape(row.why)}", highlight=False)
    if len(failed) > MOST_FAILURES:
        console.print(f"[red]and {len(failed) - MOST_FAILURES} more failed[/red]: the page lists all", highlight=False)


def _ranks(suite: SuiteBoard, width: int) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    found: dict[str, dict[str, MeanRank]] = {}
    for rank in suite.ranks:
        found.setdefault(rank.policy, {})[rank.experiment] = rank
    names = list(facts(suite))
    names = names[: max(1, (width - 22) // 17)]
    table.add_column("mean rank (above/tied/below)", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for policy, ranks in found.items():
        table.add_row(escape(policy), *(_cell(ranks.get(name)) for name in names))
    return table


def _cell(rank: MeanRank | None) -> str:
    if rank is None:
        return "–"
    return f"{rank.mean_rank:.1f}{'' if rank.sets == rank.of else '*'} ({rank.yes}/{rank.tied}/{rank.no})"
