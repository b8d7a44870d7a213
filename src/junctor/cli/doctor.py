"""`junctor doctor`: is everything there that the gateway needs, and does it answer?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from junctor.cli.output import console, write_json
from junctor.cli.serving import CONFIG, config_path

if TYPE_CHECKING:
    from rich.console import Console

    from junctor.cli.checkup import Finding

MARKS = {
    "ok": "[green]ok     [/green]",
    "warning": "[yellow]warning[/yellow]",
    "failed": "[red]FAILED [/red]",
    "skipped": "[dim]skipped[/dim]",
}


def doctor(
    config: Path | None = CONFIG,
    offline: bool = typer.Option(False, "--offline", help="Ask no upstream and no server of state."),
    probe: bool = typer.Option(False, "--probe", help="Call every target for one token; costs a little."),
    json: bool = typer.Option(False, "--json", help="Print the findings as JSON."),
) -> None:
    """Check the configuration, its secrets, policies, journal, state, port and prices, and that every upstream answers.

    One line a check, with what to do where something is wrong. Exit code 1 when a check failed; warnings are none.

    Example: junctor doctor --config junctor.toml
    """
    from junctor.cli.checkup import examine

    found: list[Finding] = []
    out = console()
    for finding in examine(config_path(config), offline=offline, probe=probe):
        found.append(finding)
        if not json:
            _print(out, finding)
    counted = {state: sum(f.state == state for f in found) for state in MARKS}
    if json:
        write_json({"ok": not counted["failed"], "counted": counted, "findings": found}, "-")
    else:
        out.print(f"{counted['ok']} ok, {counted['warning']} warnings, {counted['failed']} failed")
    if counted["failed"]:
        raise typer.Exit(1)


def _print(out: Console, finding: Finding) -> None:
    from rich.markup import escape

    fix = f" [dim]({escape(finding.fix)})[/dim]" if finding.fix else ""
    out.print(f"{MARKS[finding.state]} [bold]{escape(finding.check)}[/bold]: {escape(finding.said)}{fix}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(no_args_is_help=False)(doctor)
