"""`junctor bench`: every policy on one outcome table, by one protocol. `junctor import`: public formats to that table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from junctor.cli import suiting
from junctor.cli.output import console, progress, write_json, write_text
from junctor.errors import UserError

if TYPE_CHECKING:
    from junctor.outcomes import OutcomeTable

TABLE = typer.Argument(None, metavar="DATA", help="Outcome table: Parquet, CSV or JSON lines. Not with --suite.")
DATA = typer.Argument(help="Outcome table: Parquet, CSV or JSON lines.", show_default=False)
TEXT = typer.Option(None, help="Text column; default: the first of query, prompt, question, text, utterance.")
LABEL = typer.Option(None, help="Column that figures are grouped by; default: the first of dataset, task, category, ….")
GOLD = typer.Option(None, help="Column with the id of the right target: each row becomes 1 for it and 0 for the others.")
TARGETS = typer.Option(None, "--targets", help="File that describes the targets: id (or tool_id) and description.")
QUERIES = typer.Option(None, "--queries", help="File with the texts and labels, where the outcomes only have query ids.")
SPLIT = typer.Option(None, help="Split column, or a ratio such as 70/10/20; default: the `split` column, else 60/20/20.")
ENCODER = typer.Option("static", help="Text to vector: static, minilm or lexical.")
DROP_EMPTY = typer.Option(False, "--drop-empty", help="Leave out targets without any score instead of refusing them.")
CLIP = typer.Option(False, "--clip", help="Clip scores outside [0, 1] instead of refusing them.")


def bench(
    data: Path | None = TABLE,
    policies: str | None = typer.Option(None, help="Comma-separated policies or estimators; default: all the bars."),
    text: str | None = TEXT,
    label: str | None = LABEL,
    split: str | None = SPLIT,
    gold: str | None = GOLD,
    targets: Path | None = TARGETS,
    queries: Path | None = QUERIES,
    seeds: int | None = typer.Option(None, min=1, help="Repetitions; default 5, and 20 under 1,000 test rows."),
    encoder: str = ENCODER,
    clip: bool = CLIP,
    drop_empty: bool = DROP_EMPTY,
    card: bool = typer.Option(True, help="Apply what is known about a recognised public table, and print its noted bars."),
    json: str | None = typer.Option(None, "--json", metavar="FILE", help='Write the board as JSON (schema 1); "-" is stdout.'),
    html: Path | None = typer.Option(None, metavar="FILE", help="Write a report with plots: one file, works offline."),
    suite: str | None = suiting.SUITE,
    data_folder: Path | None = suiting.FOLDER,
    out: Path = suiting.OUT,
    board: Path | None = suiting.BOARD,
    sets: str | None = suiting.SETS,
    experiments: str | None = suiting.EXPERIMENTS,
    resamples: int | None = suiting.RESAMPLES,
    jobs: int = suiting.JOBS,
    engine: str = suiting.ENGINE,
    quick: bool = suiting.QUICK,
) -> None:
    """Judge policies on recorded outcomes: quality, cost, AIQ and their kin, with intervals, beside the cheap bars.

    Hyper-parameters are tuned on validation rows only. Random, cheapest, best single, tables and the oracle are always shown.

    With --suite published, every registered policy is judged on every published set, in every experiment: the standard
    protocol, out of distribution, onboarding of unseen targets, both at once, guarded, bandits, off-policy, streams under
    budgets. Results are kept under --out: a run that was stopped goes on where it was, and after a change only what it touched
    is made anew.

    Examples: junctor bench outcomes.parquet --html report.html; junctor bench intents.csv --gold intent --policies knn,linear;
    junctor bench --suite published --jobs 2 --out suite --board docs/board;
    junctor bench --suite published --sets routerbench,mine.parquet --experiments standard,ood --quick
    """
    named = listed(policies)
    if suite is not None:
        given = suiting.Asked(suite, data_folder, out, board, listed(sets), listed(experiments), named)
        suiting.run(given, seeds, resamples, jobs, engine, encoder, json, html, quick=quick, table=data)
        return
    if data is None:
        raise UserError("no table is named", field="DATA", fix="name an outcome table, or pass --suite published")
    options = {"text": text, "label": label, "gold": gold, "targets": targets, "queries": queries, "split": split}
    table = open_table(data, **options, clip=clip, drop_empty=drop_empty)
    _bench(table, data.stem, named, ratio(split), seeds, encoder, card, json, html)


def _bench(
    table: OutcomeTable,
    dataset: str,
    policies: list[str] | None,
    split: str | None,
    seeds: int | None,
    encoder: str,
    card: bool,
    json: str | None,
    html: Path | None,
) -> None:
    """One table: run, print, and write what was asked for."""
    from junctor.bench.board import board_document, print_board
    from junctor.bench.protocol import run_bench

    with progress("reading") as step:
        board = run_bench(
            table,
            policies=policies,
            split=split,
            seeds=seeds,
            encoder=encoder,
            progress=step,
            dataset=dataset,
            use_card=card,
        )
    print_board(board, console(to_error=json == "-"))
    if json:
        write_json(board_document(board), json)
    if html:
        from junctor.bench.report import render_report

        write_text(html, render_report(board))
        console(to_error=True).print(f"report: {html}")


def listed(names: str | None) -> list[str] | None:
    """A comma-separated option as a list; None stays None."""
    return [name.strip() for name in names.split(",") if name.strip()] if names else None


def ratio(split: str | None) -> str | None:
    """A ratio goes to the splitter; a column name was already read with the table."""
    from junctor.outcomes.splitting import is_ratio

    return split if split and is_ratio(split) else None


def open_table(data: Path, **options: Any) -> OutcomeTable:
    """Read a table as the shared options of these commands say."""
    from junctor.outcomes.reading import read_table

    if ratio(options.get("split")):
        options["split"] = None
    return read_table(data, **options)


LITELLM = "litellm"


def import_(
    format_: str = typer.Argument(
        metavar="FORMAT", help="routerbench, sprout, embedllm, routereval, …, litellm; see `junctor formats`."
    ),
    source: Path = typer.Argument(help="File or folder in that format."),
    out: Path | None = typer.Option(
        None, "--out", "-o", help="Outcome table to write, .parquet or .csv; of litellm the configuration [junctor.toml]."
    ),
    trust_pickle: bool = typer.Option(
        False, "--trust-pickle", help="Open a pickle: it can run any code, so only for a file whose maker you trust."
    ),
) -> None:
    """Turn a public format, or a gateway's journal, into an outcome table, or LiteLLM's configuration into ours.

    Example: junctor import journal demo/junctor.journal --out live.parquet

    Example: junctor import litellm config.yaml --out junctor.toml
    """
    if format_ == LITELLM:
        from junctor.cli.importing import import_litellm

        import_litellm(source, out)
        return
    from junctor.outcomes.importers import import_outcomes
    from junctor.outcomes.writing import write_table

    if out is None:
        raise UserError("is missing", field="--out", fix="name the table to write, for example --out live.parquet")
    table = import_outcomes(format_, source, trust_pickle=trust_pickle)
    write_table(table, out)
    for note in table.notes:
        console(to_error=True).print(f"note: {note}", markup=False)
    console().print(f"{len(table):,} queries x {len(table.targets)} targets -> {out}")


def formats() -> None:
    """List the formats that `junctor import` reads."""
    from junctor.outcomes.importers import FORMATS

    out = console()
    for name, summary in FORMATS.items():
        out.print(f"[bold]{name:16}[/bold] {summary}")
    out.print(f"[bold]{LITELLM:16}[/bold] the configuration of a LiteLLM proxy; becomes ours, not a table")


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(no_args_is_help=True)(bench)
    app.command("import", no_args_is_help=True)(import_)
    app.command("formats", no_args_is_help=False)(formats)
