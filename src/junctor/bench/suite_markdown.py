"""The suite's main tables as Markdown: what is read in a repository, beside the page and the JSON document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from junctor.bench import suite_plots
from junctor.bench.suite_document import MeanRank, SuiteBoard, Table
from junctor.bench.suite_page import render_suite
from junctor.bench.suite_words import CLEARS, called, explained, facts, lead, named, place, signed, spread, title

MOST_ROWS = 12
"""Rows of a table here; the page and the JSON document have all."""


def write_board(suite: SuiteBoard, folder: Path) -> list[Path]:
    """board.json, index.html, README.md and the frontier of every priced set, in this folder; gives what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    suite.save(folder / "board.json")
    (folder / "index.html").write_text(render_suite(suite), "utf-8")
    drawn = {}
    for table in suite.of("standard"):
        svg = "" if table.side else suite_plots.frontier_of(table, suite)
        if svg:
            drawn[table.set] = folder / f"{table.set}.svg"
            drawn[table.set].write_text(suite_plots.standalone(svg), "utf-8")
    (folder / "README.md").write_text(render_markdown(suite, {name: path.name for name, path in drawn.items()}), "utf-8")
    return [folder / "board.json", folder / "index.html", folder / "README.md", *drawn.values()]


def render_markdown(suite: SuiteBoard, drawings: dict[str, str] | None = None) -> str:
    """The main tables."""
    parts = ["# The board", "", lead(suite), "", "[All rows and curves](index.html), and the same [as JSON](board.json).", ""]
    parts += ["## Mean ranks", "", *_ranks(suite), ""]
    for asked in facts(suite).values():
        parts += [f"## {asked.title}", "", asked.question, ""]
        for table in suite.of(asked.name):
            parts += [f"### {named(suite, table)}", "", *_table(suite, table), "", explained(table), ""]
            if asked.name == "standard" and not table.side and drawings and table.set in drawings:
                parts += [f"![Quality against cost on {named(suite, table)}]({drawings[table.set]})", ""]
    parts += _missing(suite)
    return "\n".join(parts).rstrip() + "\n"


def _ranks(suite: SuiteBoard) -> list[str]:
    found: dict[str, dict[str, MeanRank]] = {}
    for rank in suite.ranks:
        found.setdefault(rank.policy, {})[rank.experiment] = rank
    names = list(facts(suite))
    rows = [[called(suite, policy), *(_rank(ranks.get(name)) for name in names)] for policy, ranks in found.items()]
    key = (
        "Mean rank over sets, 1 is best; in brackets sets above the best cheap bar / tied with it / below it; *: not all sets."
    )
    return [*_grid(["policy", *names], rows), "", key]


def _rank(rank: MeanRank | None) -> str:
    if rank is None:
        return "–"
    return f"{rank.mean_rank:.1f}{'' if rank.sets == rank.of else '*'} ({rank.yes}/{rank.tied}/{rank.no})"


def _table(suite: SuiteBoard, table: Table) -> list[str]:
    """The best rows, and the best bar wherever it stands."""
    rows = [row for row in table.rows if row.figures]
    kept = rows[:MOST_ROWS] + [
        row for row in rows[MOST_ROWS:] if row.policy in (table.best_bar, table.best_blind_bar, "best-single")
    ]
    head = ["#", "policy", title(table.headline), "vs best bar", "clears the cheap bars?"]
    cells = [
        [
            place(row),
            called(suite, row.policy),
            spread(table.headline, row.figures.get(table.headline)),
            signed(row.vs_best_bar),
            CLEARS[row.clears_the_cheap_bars],
        ]
        for row in kept
    ]
    more = [f"{len(rows) - len(kept)} more are [on the page](index.html)."] if len(rows) > len(kept) else []
    return [*_grid(head, cells), *(["", *more] if more else [])]


def _missing(suite: SuiteBoard) -> Iterable[str]:
    for kind, found in {"Sets": suite.absent, "Experiments": suite.unloaded, "Policies": suite.left_out}.items():
        if found:
            yield from (f"## {kind} that are not on the board", "", *(f"- {name}: {why}" for name, why in found.items()), "")


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
