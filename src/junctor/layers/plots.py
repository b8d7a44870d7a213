"""Drawings of a comparison: losses over steps, final losses with intervals, loads. matplotlib is loaded when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from junctor.errors import MissingExtra, UserError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
INK, SOFT, LINE = "#222222", "#767676", "#E3E3E3"
FORMATS = ("svg", "png")

Curve = Sequence[tuple[float, float]]


def draw_comparison(document: Mapping[str, Any], out: Path) -> list[Path]:
    """Losses over steps, final losses with intervals, and loads of a comparison's document."""
    held = {name: curves["held"] for name, curves in document["curves"].items()}
    rows = [(r["gate"], r["loss"], r["loss_low"], r["loss_high"]) for r in document["rows"] if not r["refused"]]
    seeds = document["settings"]["seeds"]
    made = save_curves(held, out / "losses", title=f"Validation loss, {seeds} seeds", up="nats per character")
    if rows:
        across = "validation loss, nats per character" + (" (95 % over seeds)" if seeds > 1 else " (one seed: no interval)")
        made += save_intervals(rows, out / "final", title="Final validation loss", across=across)
    if document["loads"]:
        made += save_loads(document["loads"], out / "loads", title="Load per layer and expert, seed 0")
    return made


def draw_recording(summary: Mapping[str, Any], out: Path) -> list[Path]:
    """MaxVio and entropy over steps, one line per layer, and the loads, of what a Recorder saved."""
    layers, made = summary["layers"], []
    for key, up in (("max_violation", "MaxVio"), ("entropy", "entropy of the scores over log E")):
        lines = {name: [[(line["step"], line[key]) for line in layer["history"]]] for name, layer in layers.items()}
        made += save_curves(lines, out / key, title=f"{up}, by layer", up=up)
    shares = [[count / max(1, sum(layer["counts"])) for count in layer["counts"]] for layer in layers.values()]
    return made + (save_loads({"all layers": shares}, out / "loads", title="Load per layer and expert") if shares else [])


def save_curves(curves: Mapping[str, Sequence[Curve]], where: Path, *, title: str, up: str) -> list[Path]:
    """One line per name: the mean over its seeds at each step, a band from lowest to highest. Best final value first.

    curves   per name one curve of (step, value) per seed
    """
    kept = {name: [one for one in seeds if one] for name, seeds in curves.items()}
    kept = {name: seeds for name, seeds in kept.items() if seeds}
    figure, axes = _figure(7.6, max(4.2, 0.24 * len(kept) + 1.4))
    order = sorted(kept, key=lambda name: sum(seed[-1][1] for seed in kept[name]) / len(kept[name]))
    for place, name in enumerate(order):
        steps, low, mean, high = _band(kept[name])
        look = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place // len(COLOURS) % len(DASHES)]}
        axes.plot(steps, mean, linewidth=1.7, label=f"{name}  {mean[-1]:.3f}", **look)
        if len(kept[name]) > 1:
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.12, linewidth=0)
    axes.set_xlabel("optimiser steps")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(up)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    if kept:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5, labelcolor=INK)
    return _save(figure, where)


def save_intervals(rows: Sequence[tuple[str, float, float, float]], where: Path, *, title: str, across: str) -> list[Path]:
    """A dot and its interval per row (name, value, low, high), best on top."""
    figure, axes = _figure(6.4, 0.32 * len(rows) + 1.3)
    ordered = sorted(rows, key=lambda row: -row[1])
    for place, (_, value, low, high) in enumerate(ordered):
        axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=2.2, solid_capstyle="butt")
        axes.plot([value], [place], "o", color=COLOURS[0], markersize=6)
        note = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8.5, "color": INK}
        axes.annotate(f"{value:.4f}", (1.0, place), xycoords=("axes fraction", "data"), **note)
    axes.set_yticks(range(len(ordered)), [row[0] for row in ordered])
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_xlabel(across)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    return _save(figure, where)


def save_loads(loads: Mapping[str, Sequence[Sequence[float]]], where: Path, *, title: str) -> list[Path]:
    """Per name a small table of shares, layers down and experts across; colour is the share over the fair share."""
    columns = min(4, max(1, len(loads)))
    rows = max(1, -(-len(loads) // columns))
    figure, _ = _figure(2.1 * columns + 1.2, 1.4 * rows + 0.8, bare=True)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    image = None
    for place, axes in enumerate(grid.reshape(-1)):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(False)
        if place < len(loads):
            name = list(loads)[place]
            fair = [[share * len(row) for share in row] for row in loads[name]]
            image = axes.imshow(fair, cmap="cividis", vmin=0.0, vmax=2.0, aspect="auto")
            axes.set_title(name, fontsize=9, color=INK)
    if image is not None:
        bar = figure.colorbar(image, ax=grid, fraction=0.05, pad=0.02, extend="max")
        bar.set_label("load over fair share", color=INK, fontsize=8.5)
        bar.ax.tick_params(labelsize=8, colors=INK)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=11)
    return _save(figure, where)


def _band(seeds: Sequence[Curve]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Steps that all seeds have, with lowest, mean and highest value."""
    common = sorted(set.intersection(*({step for step, _ in seed} for seed in seeds)))
    values = [[dict(seed)[step] for seed in seeds] for step in common]
    return common, [min(v) for v in values], [sum(v) / len(v) for v in values], [max(v) for v in values]


def _figure(width: float, height: float, *, bare: bool = False) -> tuple[Any, Any]:
    """A figure that needs no display; raises MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtra("needs the package matplotlib", field="plots", fix="pip install matplotlib") from error
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    if bare:
        return figure, None
    axes = figure.add_subplot()
    axes.grid(color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=SOFT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _save(figure: Any, where: Path) -> list[Path]:
    """Write `where` with each suffix; same input, same SVG."""
    import matplotlib as mpl

    made = [where.with_suffix(f".{suffix}") for suffix in FORMATS]
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context({"svg.hashsalt": where.name, "svg.fonttype": "path"}):
            figure.savefig(made[0], format="svg", bbox_inches="tight", metadata={"Date": None})
            figure.savefig(made[1], format="png", bbox_inches="tight", dpi=140)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", field=str(where), fix="name another folder") from error
    return made
