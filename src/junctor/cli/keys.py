"""`junctor keys`: make, list, show, revoke and rotate virtual keys. `junctor audit`: who changed what."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from junctor.cli.output import console, write_json
from junctor.cli.serving import CONFIG, open_config

if TYPE_CHECKING:
    from junctor.tenancy.keeping import Keeper

T = TypeVar("T")
JSON = typer.Option(False, "--json", help="Print JSON.")
ID = typer.Argument(metavar="ID", help="The id of the key: what stands after jk-.")

group = typer.Typer(no_args_is_help=True, help="Virtual keys: make, list, show, revoke and rotate them.")


def _with_keeper(config: Path | None, do: Callable[[Keeper], Awaitable[T]]) -> T:
    """Open the store, do one thing, close it."""
    from junctor.tenancy.keeping import Keeper

    opened = open_config(config)

    async def run() -> T:
        async with Keeper.open(opened, actor=_who()) as keeper:
            return await do(keeper)

    return asyncio.run(run())


def _who() -> str:
    """For the audit log; a container may have no name for its user."""
    try:
        return f"{getpass.getuser()} (junctor keys)"
    except (OSError, KeyError):
        return "junctor keys"


def _told(made: tuple[Any, str], *, json: bool) -> None:
    record, key = made
    if json:
        write_json({"key": key, "record": record}, "-")
        return
    out = console()
    out.print(f"[bold]{key}[/bold]", soft_wrap=True)
    out.print(f"This is the only time that it is shown. Its id is {record.id}.")


@group.command()
def create(
    config: Path | None = CONFIG,
    name: str = typer.Option("", help="What it is for: shown in lists and reports."),
    team: str = typer.Option("", help="The [teams.NAME] that it belongs to; budgets and limits of both apply."),
    tenant: str = typer.Option("", help="The tenant whose calls these are; replies in caches are shared within it."),
    model: list[str] | None = typer.Option(None, help="An alias or target that it may use; repeat for more; default: all."),
    priority: int | None = typer.Option(None, min=0, max=9, help="0 is the most important; default: the team's, else 1."),
    budget_usd: float | None = typer.Option(None, min=0, help="Most US dollars per period."),
    soft_budget_usd: float | None = typer.Option(None, min=0, help="From here on answers carry a warning."),
    period: str = typer.Option("month", help="day, week, month (of the calendar, UTC) or total."),
    requests_per_minute: int | None = typer.Option(None, min=1, help="Most calls in any 60 seconds."),
    tokens_per_minute: int | None = typer.Option(None, min=1, help="Most tokens in any 60 seconds."),
    expires: str = typer.Option("", help="How long it is good for: 12h, 30d, 2w; default: until it is revoked."),
    json: bool = JSON,
) -> None:
    """Make a key, and show it once.

    Example: junctor keys create --name ci --team research --budget-usd 20 --expires 30d
    """
    wanted = {
        "name": name,
        "team": team,
        "tenant": tenant,
        "models": tuple(model or ()),
        "priority": priority,
        "budget_usd": budget_usd,
        "soft_budget_usd": soft_budget_usd,
        "period": period,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    _told(_with_keeper(config, lambda keeper: keeper.create(wanted, expires)), json=json)


@group.command("list")
def list_(
    config: Path | None = CONFIG,
    everything: bool = typer.Option(False, "--all", help="Revoked and expired ones too."),
    json: bool = JSON,
) -> None:
    """List the keys with what they have spent in their period.

    Example: junctor keys list
    """
    from rich.table import Table

    rows = _with_keeper(config, lambda keeper: keeper.rows(everything=everything))
    if json:
        write_json(rows, "-")
        return
    table = Table("id", "name", "team", "state", "spent USD", "budget USD", "per minute", "models", box=None, pad_edge=False)
    for row in rows:
        budget = "" if row["budget_usd"] is None else f"{row['budget_usd']:g} a {row['period']}"
        limits = ", ".join(
            f"{row[field]} {unit}"
            for field, unit in (("requests_per_minute", "calls"), ("tokens_per_minute", "tokens"))
            if row[field] is not None
        )
        models = ", ".join(row["models"]) or "all"
        table.add_row(row["id"], row["name"], row["team"], row["state"], f"{row['spent_usd']:.6f}", budget, limits, models)
    console().print(table)


@group.command()
def show(id_: str = ID, config: Path | None = CONFIG, json: bool = JSON) -> None:
    """Show one key: what it may do, and what it has spent.

    Example: junctor keys show k3v9x2m4qa
    """
    row = _with_keeper(config, lambda keeper: keeper.row(id_))
    if json:
        write_json(row, "-")
        return
    out = console()
    for field, value in row.items():
        out.print(f"{field:>22}  {value}", markup=False)


@group.command()
def revoke(id_: str = ID, config: Path | None = CONFIG) -> None:
    """End a key now, in all workers within a second.

    Example: junctor keys revoke k3v9x2m4qa
    """
    record = _with_keeper(config, lambda keeper: keeper.revoke(id_))
    console().print(f"revoked {record.id} {record.name}", markup=False)


@group.command()
def rotate(
    id_: str = ID,
    config: Path | None = CONFIG,
    grace: str = typer.Option("24h", help="How long the old secret is still good: 0s ends it now."),
    json: bool = JSON,
) -> None:
    """Give a key a new secret; what it may do and what it has spent stay.

    Example: junctor keys rotate k3v9x2m4qa --grace 1h
    """
    _told(_with_keeper(config, lambda keeper: keeper.rotate(id_, grace)), json=json)


def audit(
    config: Path | None = CONFIG,
    most: int = typer.Option(50, "--most", "-n", min=1, max=100_000, help="How many lines, the latest."),
    json: bool = JSON,
) -> None:
    """Show the audit log: keys made, rotated and revoked, budgets used up, configurations read again, logins.

    Example: junctor audit -n 20
    """
    from datetime import UTC, datetime

    entries = _with_keeper(config, lambda keeper: keeper.store.entries(most))
    if json:
        write_json(entries, "-")
        return
    out = console()
    for entry in entries:
        at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        detail = " ".join(f"{name}={value}" for name, value in entry.detail.items())
        line = f"{at}  {entry.action:<22} {entry.subject:<24} {entry.actor}  {detail}"
        out.print(line.rstrip(), markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    options: dict[str, Any] = {"no_args_is_help": False}
    app.add_typer(group, name="keys")
    app.command(**options)(audit)
