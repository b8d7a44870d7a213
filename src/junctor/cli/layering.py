"""`junctor layers`: gates side by side on a text, what a run showed, and which gates there are."""

from __future__ import annotations

import importlib.util
import json as jsonlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from junctor.cli.output import console, progress, write_json
from junctor.errors import MissingExtra, UserError

layers = typer.Typer(
    name="layers",
    no_args_is_help=True,
    help="In-model routing: compare gates on a text, read diagnostics, list what there is. Extra: junctor[layers].",
)


def need_torch() -> None:
    """Raise MissingExtra where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("needs the package torch", field="junctor layers", fix="pip install 'junctor[layers]'")


@layers.command("compare", no_args_is_help=True)
def compare(
    gates: str = typer.Option(..., help="Comma-separated gates; settings after a colon: loss-free,linear:k=1+switch=0.01"),
    data: Path = typer.Option(..., help="Text file (UTF-8) to learn; the last tenth is held out."),
    out: Path = typer.Option(..., help="Folder for the runs, table, curves and pictures; asked again, finished runs are kept."),
    steps: int = typer.Option(1000, min=1, help="Optimiser steps per run."),
    seeds: int = typer.Option(3, min=1, help="Repetitions: initial weights and data order; intervals are over these."),
    batch: int = typer.Option(16, min=1, help="Windows per step."),
    sequence: int = typer.Option(128, min=1, help="Characters per window."),
    width: int = typer.Option(128, min=8, help="Model width."),
    depth: int = typer.Option(4, min=1, help="Layers."),
    experts: int = typer.Option(8, min=1, help="Experts per layer."),
    hidden: int = typer.Option(256, min=8, help="Width of an expert, for a gate that takes K of them."),
    k: int = typer.Option(2, min=1, help="Experts per token, where a gate lets one choose."),
    lr: float = typer.Option(1e-3, help="Learning rate of AdamW."),
    every: int = typer.Option(0, min=0, help="Steps between evaluations; default a tenth of all."),
    held: int = typer.Option(64, min=1, help="Windows of the held-out text, the same for all."),
    dense: bool = typer.Option(True, help="Also train the dense FFN of the same active FLOPs."),
    match: bool = typer.Option(True, help="Match active FLOPs by the experts' width where a gate takes another number than K."),
    allow_non_causal: bool = typer.Option(
        False, help="Train gates that look at later tokens too; their losses are no measure."
    ),
    plots: bool = typer.Option(True, help="Draw curves, intervals and loads (SVG and PNG; needs matplotlib)."),
    json: str | None = typer.Option(None, "--json", metavar="FILE", help='Also write the document here; "-" is stdout.'),
) -> None:
    """Train a small character model with each gate: same seeds, same data in the same order, matched active FLOPs.

    Example: junctor layers compare --gates loss-free,bip,dynamic-moe --steps 1000 --seeds 3 --data input.txt --out gates
    """
    need_torch()
    from junctor.layers.compare import CompareSettings
    from junctor.layers.compare import compare as run

    names = tuple(name.strip() for name in gates.split(",") if name.strip())
    shape = {"sequence": sequence, "d_model": width, "layers": depth, "experts": experts, "hidden": hidden, "k": k}
    settings = CompareSettings(
        names,
        steps=steps,
        seeds=seeds,
        batch=batch,
        lr=lr,
        held=held,
        every=every,
        dense=dense,
        match=match,
        allow_non_causal=allow_non_causal,
        heads=next(n for n in (4, 2, 1) if width % n == 0),
        **shape,
    )
    with progress("training") as step:
        document = run(settings, data, out, step)
    if json:
        write_json(document, json)
    _print_comparison(document, to_error=json == "-")
    console(to_error=True).print(f"table and curves: {out / 'compare.json'}", markup=False)
    if plots:
        _draw(document, out)


@layers.command("report", no_args_is_help=True)
def report(
    run: Path = typer.Argument(metavar="RUN", help="Folder of a comparison, one run's JSON, or a Recorder's JSON."),
    plots: Path | None = typer.Option(None, metavar="FOLDER", help="Draw it into this folder (SVG and PNG; needs matplotlib)."),
    json: bool = typer.Option(False, "--json", help="Print the same as JSON."),
) -> None:
    """Say what a run's gates did: balance, entropy, locality, specialisation, layer by layer.

    Examples: junctor layers report gates; junctor layers report gates/runs/bip-0.json; junctor layers report diagnostics.json
    """
    found = _read(run / "compare.json" if run.is_dir() else run)
    if plots is not None:
        _draw(found, plots)
    if json:
        write_json(found, "-")
    elif "rows" in found:
        _print_comparison(found, to_error=False)
        _print_routes(found["rows"])
    else:
        _print_layers(found.get("diagnostics") or found, str(run))


@layers.command("list")
def list_(json: bool = typer.Option(False, "--json", help="Print the same as JSON.")) -> None:
    """List gates, systems, measures and planners: where each comes from, how close it is to that, and which are causal."""
    from junctor.layers.catalogue import GATES, SYSTEMS
    from junctor.layers.parts import PARTS

    if json:
        routed = (("gate", GATES), ("system", SYSTEMS))
        found = [{**_line(one), "kind": kind, "causal": one.causal} for kind, entries in routed for one in entries]
        write_json(found + [{**_line(one), "kind": one.kind, "causal": None} for one in PARTS], "-")
        return
    out = console()
    notes = [(_line(one), "" if one.causal else ", not causal") for one in GATES]
    notes += [(_line(one), ", system" + ("" if one.causal else ", not causal")) for one in SYSTEMS]
    for line, note in notes + [(_line(one), f", {one.kind}") for one in PARTS]:
        out.print(f"[bold]{line['key']}[/bold]  [dim]{line['status']}{note}[/dim]")
        out.print(f"    {line['summary']}  [dim]{line['source']}[/dim]")


def _line(one: Any) -> dict[str, str]:
    return {"key": one.name, "source": one.source, "status": one.status, "summary": one.summary, "where": one.where}


def _draw(found: Mapping[str, Any], folder: Path) -> None:
    """Pictures of a comparison, or of one recording."""
    from junctor.layers import plots

    if "rows" in found:
        made = plots.draw_comparison(found, folder)
    else:
        made = plots.draw_recording(found.get("diagnostics") or found, folder)
    console(to_error=True).print("pictures: " + ", ".join(str(path) for path in made), markup=False)


def _read(path: Path) -> dict[str, Any]:
    """A document of ours; raises UserError for anything else."""
    try:
        found = jsonlib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", field=str(path), fix="name a folder of `layers compare`"
        ) from error
    except ValueError as error:
        raise UserError("is not JSON", field=str(path), fix="name a folder or JSON file of `layers compare`") from error
    if not isinstance(found, dict) or not ({"rows", "layers", "diagnostics"} & set(found)):
        raise UserError("holds no comparison and no diagnostics", field=str(path), fix="name a folder of `layers compare`")
    if found.get("refused"):
        raise UserError(f"this run was refused: {found['refused']}", field=str(path), fix="look at the comparison's table")
    return found


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, to_error: bool = False) -> None:
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        made.add_column(name, justify="left" if place == 0 else "right", no_wrap=place > 0, overflow="fold")
    for row in rows:
        made.add_row(*row)
    console(to_error=to_error).print(made)


def _print_comparison(document: Mapping[str, Any], *, to_error: bool) -> None:
    """One row per gate; refused ones say why below."""
    settings, rows = document["settings"], document["rows"]
    title = f"{settings['steps']} steps, {settings['seeds']} seeds, {document['data']['file']}: validation loss in nats"
    columns = ("gate", "loss", "95 %", "vs dense", "ms", "MaxVio", "entropy", "K", "active", "M")
    done = [row for row in rows if not row["refused"]]
    _table(title, columns, [_cells(row) for row in done], to_error=to_error)
    console(to_error=to_error).print(
        "[dim]ms per step; K experts per token; active: FLOPs of the experts over K experts' at full width; "
        "M: million parameters; vs dense: paired over seeds[/dim]"
    )
    for row in rows:
        if row["refused"]:
            console(to_error=True).print(f"{row['gate']}: {row['refused']}", markup=False)


def _cells(row: Mapping[str, Any]) -> list[str]:
    routed = row["gate"] != "dense"
    half = (row["loss_high"] - row["loss_low"]) / 2
    gap = row["vs_dense"]
    return [
        row["gate"] + ("" if row["causal"] else " (not causal)"),
        f"{row['loss']:.4f}",
        f"± {half:.4f}" if row["seeds"] > 1 else "one seed",
        f"{gap[0]:+.4f}" if gap and routed else "",
        f"{row['ms_per_step']:.0f}",
        f"{row['max_violation']:.2f}" if routed else "",
        f"{row['entropy']:.2f}" if routed else "",
        f"{row['experts_per_token']:.2f}" if routed else "",
        f"{row['active_share']:.2f}",
        f"{row['parameters'] / 1e6:.2f}",
    ]


def _print_routes(rows: Sequence[Mapping[str, Any]]) -> None:
    """How routes behave: locality beside chance, specialisation, distinct routes."""
    columns = ("gate", "SRP", "SRP by chance", "SCH", "specialisation", "routes", "flips", "dropped")
    keys = ("srp", "srp_random", "sch", "specialisation_share", "effective_routes", "flip_rate")
    cells = [[row["gate"], *(_figure(row.get(key)) for key in keys), f"{row.get('dropped', 0):.0f}"] for row in rows]
    shown = [row for row, source in zip(cells, rows, strict=True) if source.get("srp") is not None]
    if shown:
        _table("Routes, mean over layers and seeds", columns, shown)


def _print_layers(found: Mapping[str, Any], title: str) -> None:
    columns = ("layer", "MaxVio", "idle", "in use", "SRP", "chance", "SCH", "special", "routes")
    keys = (
        "max_violation",
        "idle_share",
        "effective_experts",
        "srp",
        "srp_random",
        "sch",
        "specialisation_share",
        "effective_routes",
    )
    rows = [[name.removesuffix(".gate"), *(_figure(layer.get(key)) for key in keys)] for name, layer in found["layers"].items()]
    _table(title, columns, rows)
    console().print(
        "[dim]MaxVio: fullest expert over the mean, less one; idle: share of experts unused; in use: effective number; "
        "SRP and SCH: locality in segments; special: how much the character decides the expert; "
        "routes: effective number of expert sets[/dim]"
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(layers)
