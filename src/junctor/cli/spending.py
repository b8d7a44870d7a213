"""`junctor spend`: what it cost and what it would have cost otherwise, from the journal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from junctor.cli.output import console, write_json
from junctor.cli.serving import CONFIG, open_config
from junctor.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from junctor.config import Config


def spend(
    config: Path | None = CONFIG,
    by: str = typer.Option("target", help="tenant, team, key, alias, target, policy or day."),
    since: str = typer.Option("all", help="First day, in UTC: 2026-01-31, today or all."),
    journal: Path | None = typer.Option(None, help="Journal file; default: the one that the configuration names."),
    cpu_us: float = typer.Option(160.0, min=0, help="Processor time of one request in microseconds, charged against savings."),
    json: bool = typer.Option(False, "--json", help="Print all tables as JSON."),
) -> None:
    """Tell what it cost, by whom, and what "always the best single target" would have cost (an estimate that says what it
    rests on).

    Example: junctor spend --by alias --since today
    """
    from junctor.telemetry.spend import AXES, by_team, day_start, read_books, rows_of

    axes = (*AXES, "team")
    if by not in axes:
        raise ConfigError(f"{by!r} is nothing to add up by", field="--by", fix=f"one of: {', '.join(axes)}")
    opened = open_config(config)
    prices = {id_: target.price for id_, target in opened.targets.items() if target.price is not None}
    path = journal or opened.path(opened.journal.path)
    first = day_start(since, "--since")
    books = read_books(path, prices, opened.telemetry.usd_per_cpu_hour)
    savings = books.savings(first, cpu_us / 1e6)
    tables = rows_of(books, AXES, first)
    if opened.gateway.keys == "required":
        tables["team"] = by_team(tables["key"], _teams(opened))
    elif by == "team":
        raise ConfigError("there are no teams without keys", field="--by", fix='write keys = "required" under [gateway]')
    if json:
        write_json({"total": books.total(first), "tables": tables, "savings": savings}, "-")
        return
    _print(console(), by, tables[by], savings)


def _teams(config: Config) -> dict[str, str]:
    """Key -> team, as the store of keys has it."""
    import asyncio

    from junctor.tenancy.keeping import Keeper

    async def read() -> dict[str, str]:
        async with Keeper.open(config, actor="junctor spend") as keeper:
            return {record.id: record.team for record in await keeper.store.keys()}

    return asyncio.run(read())


def _print(out: Console, by: str, rows: list[dict[str, Any]], savings: list[dict[str, Any]]) -> None:
    from rich.table import Table

    if not rows:
        out.print("nothing was decided in this time")
        return
    table = Table(by, box=None, header_style="bold", pad_edge=False)
    for name in ("cost USD", "decisions", "calls", "tokens in", "tokens out"):
        table.add_column(name, justify="right")
    for row in rows:
        counts = (f"{row[name]:,.0f}" for name in ("decisions", "calls", "input_tokens", "output_tokens"))
        table.add_row(str(row[by]) or "-", f"{row['cost_usd']:.6f}", *counts)
    out.print(table)
    for row in savings:
        out.print(_saving(row), markup=False, soft_wrap=True)


def _saving(row: dict[str, Any]) -> str:
    """One alias's line."""
    start = f"{row['alias']}: billed {row['billed_usd']:.6f} USD for {row['answered']:,} answers"
    if row["saved_usd"] is None:
        return f"{start}; what one target would have cost is not known"
    share = "" if row["saved_share"] is None else f" ({round(row['saved_share'] * 100) + 0}%)"
    basis = "the dearest by list price" if row["basis"] == "list price" else f"best by {row['basis']}"
    return (
        f"{start}; always {row['best_single']} ({basis}) about {row['single_usd']:.6f} for the {row['compared']:,} that can be "
        f"compared: saved {row['saved_usd']:.6g}{share} after {row['failed_usd']:.6g} for failed calls and "
        f"{row['cpu_usd']:.3g} for processor time"
    )


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    options: dict[str, Any] = {"no_args_is_help": False}
    app.command(**options)(spend)
