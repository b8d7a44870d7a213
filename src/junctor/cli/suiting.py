"""`junctor bench --suite`: every policy on every published set. The options are declared here, the work is in junctor.bench."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from junctor.cli.output import console, progress, write_json, write_text
from junctor.errors import UserError

if TYPE_CHECKING:
    from junctor.bench.suite_document import SuiteBoard

PANEL = "The suite"
SUITE = typer.Option(None, help="`published`: every policy on every published set.", rich_help_panel=PANEL)
FOLDER = typer.Option(
    None,
    "--data",
    help="Folder of the sets; default: $JUNCTOR_DATA, else shared/data beside the checkout.",
    rich_help_panel=PANEL,
)
OUT = typer.Option(Path("suite"), help="Folder that results are kept in, and resumed from.", rich_help_panel=PANEL)
BOARD = typer.Option(
    None, help="Folder for board.json, index.html and README.md; default: `board` under --out.", rich_help_panel=PANEL
)
SETS = typer.Option(None, help="Comma-separated sets, or outcome tables of yours; default: all.", rich_help_panel=PANEL)
EXPERIMENTS = typer.Option(None, help="Comma-separated experiments; default: all.", rich_help_panel=PANEL)
RESAMPLES = typer.Option(None, min=1, help="Paired bootstrap draws; default 200.", rich_help_panel=PANEL)
JOBS = typer.Option(2, min=1, help="Worker processes.", rich_help_panel=PANEL)
ENGINE = typer.Option("local", help="`local`, or `ray`: the same work on a Ray cluster (RAY_ADDRESS).", rich_help_panel=PANEL)
QUICK = typer.Option(False, "--quick", help="300 rows a set, 2 seeds, 50 resamples: does it run?", rich_help_panel=PANEL)
SEEDS, DRAWS, QUICK_SEEDS, QUICK_DRAWS = 5, 200, 2, 50
ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Asked:
    """Which suite, where from, where to, and which part of it."""

    suite: str
    folder: Path | None
    out: Path
    board: Path | None
    sets: list[str] | None
    experiments: list[str] | None
    policies: list[str] | None


def run(
    asked: Asked,
    seeds: int | None,
    resamples: int | None,
    jobs: int,
    engine: str,
    encoder: str,
    json: str | None,
    html: Path | None,
    *,
    quick: bool,
    table: Path | None,
) -> None:
    """Run what is not done yet, then write and print the board."""
    from junctor.bench import sets, suite
    from junctor.bench.prepared import Run
    from junctor.bench.suite_board import suite_board
    from junctor.bench.suite_terminal import print_suite

    _check(asked, engine, table)
    folder = sets.data_folder(asked.folder)
    given = Run(
        data="" if folder is None else str(folder),
        out=str(asked.out.resolve()),
        encoder=encoder,
        seeds=seeds or (QUICK_SEEDS if quick else SEEDS),
        resamples=resamples or (QUICK_DRAWS if quick else DRAWS),
        quick=quick,
    )
    with progress("reading") as step:
        planned = suite.plan(given, sets.chosen(asked.sets), asked.experiments, asked.policies, step)
        records = suite.run_suite(planned, jobs=jobs, engine=engine, progress=step)
    found = suite_board(planned, records)
    print_suite(found, console(to_error=json == "-"))
    _write(found, asked.board or asked.out / "board", json, html)


def _check(asked: Asked, engine: str, table: Path | None) -> None:
    if asked.suite != "published":
        raise UserError(f"there is no suite {asked.suite!r}", field="--suite", fix="the one there is: published")
    if engine not in ENGINES:
        raise UserError(f"there is no engine {engine!r}", field="--engine", fix=f"one of {', '.join(ENGINES)}")
    if table is not None:
        raise UserError("a table and a suite are two things", field=str(table), fix=f"judge it in the suite: --sets {table}")


def _write(found: SuiteBoard, folder: Path, json: str | None, html: Path | None) -> None:
    import msgspec

    from junctor.bench.suite_markdown import write_board
    from junctor.bench.suite_page import render_suite

    written = write_board(found, folder)
    console(to_error=True).print(f"board: {', '.join(path.name for path in written[:3])} in {folder}")
    if json:
        write_json(msgspec.to_builtins(found), json)
    if html:
        write_text(html, render_suite(found))
