"""`junctor trials`: what candidates have shown beside the policies that serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from junctor.cli.output import console, write_json
from junctor.cli.serving import CONFIG, open_config

if TYPE_CHECKING:
    from rich.console import Console

    from junctor.engine.trial_report import Estimated, TrialReport


def trials(
    config: Path | None = CONFIG,
    journal: Path | None = typer.Option(None, help="Journal file; default: the one that the configuration names."),
    last: int = typer.Option(100_000, min=1, help="Look at so many decisions at the end of the journal."),
    json: bool = typer.Option(False, "--json", help="Print the reports as JSON."),
) -> None:
    """Tell what each trial has shown: where a candidate chooses otherwise, what it earns, or would have earned.

    Example: junctor trials --journal junctor.journal
    """
    from junctor.engine.trial_report import trial_reports

    if journal is None:
        opened = open_config(config)
        journal = opened.path(opened.journal.path)
    reports = trial_reports(journal, most=last)
    if json:
        write_json(reports, "-")
        return
    out = console()
    if not reports:
        out.print(f"no trial has left a trace in {journal}")
    for report in reports:
        _print(out, report)


def _print(out: Console, report: TrialReport) -> None:
    from rich.table import Table

    name = f"[bold]{report.alias}[/bold] / [bold]{report.trial}[/bold]"
    if report.kind == "split":
        out.print(f"{name}  {report.policy or '-'} decided {report.taken} of {report.decisions}")
    else:
        agreed = "-" if report.agreement is None else f"{report.agreement:.1%}"
        out.print(
            f"{name}  {report.policy or '-'} looked at {report.decisions}, agrees in {agreed}, undecided {report.undecided}"
        )
    table = Table("", "current", "candidate", "difference", "decisions", box=None, header_style="bold", pad_edge=False)
    for measure, compared in (("quality", report.quality), ("USD a request", report.cost_usd)):
        if compared is not None:
            cells = (_cell(compared.current), _cell(compared.candidate), _cell(compared.difference))
            table.add_row(measure, *cells, str(compared.difference.rows))
    if table.rows:
        out.print(table)
    for note in report.notes:
        out.print(f"   · {note}", markup=False)


def _cell(found: Estimated) -> str:
    return f"{found.value:.4g} ({found.low:.4g} … {found.high:.4g})"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(trials)
