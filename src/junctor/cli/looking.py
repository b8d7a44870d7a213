"""`junctor explain`: one decision, from the journal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from junctor.cli.output import console, write_json
from junctor.cli.serving import CONFIG, open_config
from junctor.errors import UnknownDecision
from junctor.plans.telling import plan_lines
from junctor.types import looks_at_answers

if TYPE_CHECKING:
    from rich.console import Console

    from junctor.journal import DecisionRecord, FeedbackRecord, OutcomeRecord, Record
    from junctor.types import Decision, Outcome


def explain(
    id_: str = typer.Argument(metavar="ID", help="The decision: the x-junctor-decision header of a reply."),
    config: Path | None = CONFIG,
    journal: Path | None = typer.Option(None, help="Journal file; default: the one that the configuration names."),
    json: bool = typer.Option(False, "--json", help="Print the records as JSON."),
) -> None:
    """Explain one decision: what was chosen, from what, why, what every attempt did, and what came of it.

    Example: junctor explain 0198f2… --config demo/junctor.toml
    """
    from junctor.journal import find

    if journal is None:
        opened = open_config(config)
        journal = opened.path(opened.journal.path)
    records = find(journal, id_)
    if not records:
        raise UnknownDecision("is not in the journal", field=id_, fix=f"look for it in {journal}")
    if json:
        write_json(records, "-")
        return
    out = console()
    for record in records:
        _print_record(out, record)


def _print_record(out: Console, record: Record) -> None:
    from junctor.journal import DecisionRecord, FeedbackRecord, OutcomeRecord, ShadowRecord

    if isinstance(record, DecisionRecord):
        _print_decision_record(out, record)
    elif isinstance(record, OutcomeRecord):
        _print_outcome(out, record)
    elif isinstance(record, FeedbackRecord):
        _print_feedback(out, record)
    elif isinstance(record, ShadowRecord):
        said = f"would take {record.target}" if record.target else record.why
        out.print(f"trial {record.trial}: {record.policy or 'the candidate'}: {said}", markup=False)


def _print_decision_record(out: Console, record: DecisionRecord) -> None:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(record.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    out.print(f"decision [bold]{record.decision.id}[/bold]  {at}  asked for {record.alias or record.decision.target!r}")
    if record.text:
        out.print(f"[dim]{record.text[:200]!r}[/dim]")
    if record.side:
        out.print(f"   · trial {record.trial}: the {record.side} policy decided", markup=False)
    print_decision(out, record.decision, dict(record.refusals))


def print_decision(out: Console, decision: Decision, refusals: dict[str, str]) -> None:
    """The choice, the reasons, the ranked table, and why each other target was not eligible."""
    from rich.table import Table

    version = f" ({decision.version})" if decision.version else ""
    out.print(f"-> [bold]{decision.target}[/bold]  by policy {decision.policy}{version}, propensity {decision.propensity:.3g}")
    for reason in decision.reasons:
        out.print(f"   · {reason}")
    if looks_at_answers(decision.plan):
        for line in plan_lines(decision.plan, 1):
            out.print(f" {line}", markup=False)
    table = Table("target", "score", "quality", "cost USD", "latency s", box=None, header_style="bold", pad_edge=False)
    for row in decision.ranked:
        mark = "[bold]" if row.target == decision.target else ""
        cells = (f"{row.score:.4f}", *(_number(getattr(row.predicted, n)) for n in ("quality", "cost_usd", "latency_s")))
        table.add_row(f"{mark}{row.target}", *cells)
    if decision.ranked:
        out.print(table)
    for target, why in refusals.items():
        out.print(f"   [dim]not eligible: {target}: {why}[/dim]")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _print_outcome(out: Console, record: OutcomeRecord) -> None:
    for attempt in record.attempts:
        took = f"{(attempt.ended_s - attempt.started_s) * 1e3:.1f} ms"
        what = f"[red]{attempt.error}[/red] {attempt.detail}" if attempt.error else "answered"
        role = f" [dim]({attempt.role})[/dim]" if attempt.role else ""
        out.print(f"attempt {attempt.target}: {what} after {took}{role}")
    for step in record.steps:
        out.print(f"   · {step}", markup=False)
    ended = f"[red]{record.error}[/red]" if record.error else f"served by [bold]{record.target}[/bold]"
    out.print(f"outcome: {ended}  {_outcome(record.outcome)}")


def _print_feedback(out: Console, record: FeedbackRecord) -> None:
    out.print(f"feedback: {_outcome(record.outcome)} {record.comment}")


def _outcome(outcome: Outcome) -> str:
    known = ((name, getattr(outcome, name)) for name in outcome.__struct_fields__)
    return ", ".join(f"{name} {value:.4g}" for name, value in known if value is not None) or "nothing known"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(no_args_is_help=True)(explain)
