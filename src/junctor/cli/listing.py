"""`junctor policies`: everything that is registered, and one part in full."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from junctor import registry
from junctor.cli.output import console, write_json
from junctor.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from junctor.bench.suite_document import SuiteBoard
    from junctor.describing import Description

LISTED = ("policy", "estimator", "encoder", "provider")
"""The kinds that are listed when none is named."""
NOT_LISTED = frozenset({"formula", "complexity", "adapted", "unverified", "claims", "settings"})
"""What a part's own page says and the list does not."""
MEANS = {
    "faithful": "the published rule, on our encoder",
    "adapted": "a stated part of what was published is replaced",
    "simulated": "it needs data that is recorded nowhere we could read; a stated simulation stands in for it",
    "ours": "not published elsewhere",
    "plug-in": "from another package, which does not say where it comes from",
    "broken": "it cannot be imported",
}


def policies(
    name: str = typer.Argument(
        "", metavar="[NAME]", help="One policy or estimator in full, with its figures.", show_default=False
    ),
    kind: str = typer.Option("", help="Only one kind: policy, estimator, encoder, provider, accept or aggregate."),
    family: str = typer.Option("", help="Only one family, such as `online` or `latent traits`."),
    board: Path | None = typer.Option(None, help="The suite's board.json that NAME's figures come from; default: docs/board."),
    json: bool = typer.Option(False, "--json", help="Print the same as JSON."),
) -> None:
    """List what is registered: where it comes from, how close we are to it, and what it needs.

    Wherever a policy is named, an estimator's name means the utility policy over it. The status is one of: faithful (the
    published rule on our encoder), adapted (a stated part is replaced), simulated (a stated simulation stands in for data that
    nobody published), ours, plug-in.

    Examples: junctor policies; junctor policies --family "latent traits"; junctor policies knn; junctor policies --json
    """
    if name:
        if kind or family:
            raise UserError("one part needs no filter", field=name, fix="leave out --kind and --family")
        _page(name, board, json=json)
        return
    from junctor.describing import CHOOSING, described

    kinds = [kind] if kind else [k for k in LISTED if not family or k in CHOOSING]
    if family and not set(kinds) <= set(CHOOSING):
        raise UserError(f"parts of kind {kind} have no family", field="--family", fix="leave it out")
    found = described([k for k in kinds if k in CHOOSING], family)
    others = [entry for k in kinds if k not in CHOOSING for entry in registry.entries(k)]
    if json:
        write_json([*map(_short, found), *map(_line, others)], "-")
        return
    _print_list(console(), found)
    _print_others(console(), others)
    if found:
        console().print("\n[dim]One in full, with what was claimed for it and what it got here: junctor policies NAME[/dim]")


def _short(one: Description) -> dict[str, Any]:
    return {key: getattr(one, key) for key in one.__struct_fields__ if key not in NOT_LISTED}


def _line(entry: registry.Entry) -> dict[str, str]:
    return {"kind": entry.kind, "name": entry.name, "summary": entry.summary, "extra": entry.extra, "where": entry.where}


def _print_list(out: Console, found: Sequence[Description]) -> None:
    """A table per family, all with the same columns; two lines a part."""
    from rich.table import Table
    from rich.text import Text

    widths = [
        max((len(line) for one in found for line in cell(one).split("\n")), default=0) for cell in (_named, _status, _needs)
    ]
    for family in _families(found):
        table = Table(box=None, show_header=False, pad_edge=False)
        for width in widths:
            table.add_column(width=width, no_wrap=True)
        table.add_column()
        for one in found:
            if one.family == family:
                what = Text(one.why or one.summary, no_wrap=True, overflow="ellipsis").append(f"\n{one.source}", "dim")
                cells = [Text(cell(one)) for cell in (_named, _status, _needs)]
                cells[0].stylize("dim", len(one.name))
                table.add_row(*cells, what)
        out.print(f"[bold]{family or 'from other packages'}[/bold]")
        out.print(table)
        out.print()


def _named(one: Description) -> str:
    return f"{one.name}\n{one.kind}"


def _status(one: Description) -> str:
    return f"{one.status}\n{f'[{one.extra}]' if one.extra else ''}"


def _families(found: Sequence[Description]) -> Iterable[str]:
    """The families that occur, in their order; parts of other packages that name none come last."""
    from junctor.about import FAMILIES

    there = {one.family for one in found}
    return [family for family in (*FAMILIES, *sorted(there - {*FAMILIES, ""}), "") if family in there]


def _needs(one: Description) -> str:
    """What deciding reads beside the text, one a line."""
    return "by setting" if one.needs is None else "\n".join(one.needs) or "–"


def _print_others(out: Console, entries: Sequence[registry.Entry]) -> None:
    from rich.table import Table

    if not entries:
        return
    table = Table("kind", "name", "what it does", "extra", box=None, header_style="bold", pad_edge=False)
    for entry in entries:
        table.add_row(entry.kind, entry.name, entry.summary, rf"\[{entry.extra}]" if entry.extra else "")
    out.print(table)


def _page(name: str, board: Path | None, *, json: bool) -> None:
    """One part in full, and its figures where there is a board."""
    from junctor.bench.suite_policy import found_of, gone_of, open_board
    from junctor.describing import description

    one = description(name)
    suite = open_board(board)
    if json:
        figures = [] if suite is None else found_of(suite, name)
        write_json({"about": one, "figures": figures, "missing": [] if suite is None else gone_of(suite, name)}, "-")
        return
    out = console()
    _print_about(out, one)
    _print_settings(out, one)
    _print_claims(out, one)
    _print_figures(out, one, suite)


def _print_about(out: Console, one: Description) -> None:
    out.print(f"[bold]{one.name}[/bold]  {one.title if one.title != one.name else ''}".rstrip())
    out.print(one.summary, markup=False)
    install = f"; to fit it: pip install 'junctor[{one.extra}]'" if one.extra else ""
    rows = {
        "kind": f"{one.kind}{f', {one.family}' if one.family else ''}",
        "status": f"{one.status}: {one.why or MEANS[one.status]}",
        "source": " ".join(filter(None, (one.source, one.link))),
        "code": one.where,
        "needs": needs_in_words(one) + install,
        "also": ", ".join(abilities(one)),
        "formula": one.formula,
        "complexity": one.complexity,
    }
    _print_rows(out, [(head, text) for head, text in rows.items() if text])
    for head, texts in (("What replaces what", one.adapted), ("Not verified", one.unverified)):
        if texts:
            out.print(f"\n[bold]{head}[/bold]")
            _print_rows(out, [(" ·", text) for text in texts])


def _print_rows(out: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Two columns, the second wrapped within itself."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for head, text in rows:
        table.add_row(head, Text(text))
    out.print(table)


def needs_in_words(one: Description) -> str:
    """What deciding reads beside the text, in a line."""
    return "depends on its settings" if one.needs is None else ", ".join(one.needs) or "nothing but the text"


def abilities(one: Description) -> list[str]:
    """What it can do beside choosing, in words."""
    said = {
        "learns from feedback while it serves": one.learns,
        "takes a new target from a few rows": one.onboards,
        "looks at answers before it stops": one.replays,
    }
    return [words for words, true in said.items() if true]


def _print_settings(out: Console, one: Description) -> None:
    from rich.table import Table
    from rich.text import Text

    from junctor.describing import shown

    if not one.settings:
        return
    table = Table("setting", "default", "what it means", box=None, header_style="bold", pad_edge=False)
    for setting in one.settings:
        tried = f" (tried: {', '.join(map(shown, setting.tried))})" if setting.tried else ""
        default = "required" if setting.required else shown(setting.default)
        table.add_row(setting.name, Text(default), Text(setting.meaning + tried))
    out.print()
    out.print(table)


def _print_claims(out: Console, one: Description) -> None:
    from rich.table import Table
    from rich.text import Text

    if not one.claims:
        return
    table = Table("claimed", "on", "how sure", box=None, header_style="bold", pad_edge=False)
    for claim in one.claims:
        table.add_row(Text(claim.figure), Text(claim.on), claim.sure)
    out.print()
    out.print(table)


def _print_figures(out: Console, one: Description, suite: SuiteBoard | None) -> None:
    from rich.table import Table
    from rich.text import Text

    from junctor.bench.suite_policy import MAKE, found_of, gone_of

    out.print()
    if suite is None:
        out.print(f"No figures: there is no board here. Make one: {MAKE}", markup=False)
        return
    table = Table(
        "found here", "on", "figure", "against the best cheap bar", "clears it?", box=None, header_style="bold", pad_edge=False
    )
    for found in found_of(suite, one.name):
        against = f"{found.difference} ({found.bar})" if found.difference != "–" else "–"
        cells = (found.experiment, found.set, f"{found.metric} {found.figure}", against, found.clears)
        table.add_row(*map(Text, cells))
    if table.row_count:
        out.print(table)
    for why in gone_of(suite, one.name):
        out.print(f"· {why}", markup=False)
    if suite.quick:
        out.print("A quick run on few rows: not to be quoted.", style="dim")


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(no_args_is_help=False)(policies)
