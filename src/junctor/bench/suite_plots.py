"""The suite's drawings as SVG texts: frontiers of the best policies per set, onboarding and regret curves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from junctor.bench.document import Board, Frontier, Row, Single
from junctor.bench.plots import DASHES, INK, SERIES, SOFT, WIDE, as_svg, frontier, new_figure
from junctor.bench.suite_document import Standing, SuiteBoard, Table

MOST = 6
"""Policies that are drawn beside the bars: more cannot be told apart."""
BARS_SHOWN = ("best-single", "zero-router", "label-table", "oracle")


def frontier_of(table: Table, suite: SuiteBoard) -> str:
    """Quality against cost of the set's best policies, its bars and its single targets; "" without costs."""
    ranked = [row for row in table.rows if row.rank is not None and "frontier" in row.curves]
    best = [row.policy for row in ranked if row.policy not in BARS_SHOWN][:MOST]
    drawn = [*best, *(name for name in BARS_SHOWN if _curve(table, name))]
    if not best:
        return ""
    return frontier(_as_board(table, suite, best, drawn), WIDE)


def _curve(table: Table, policy: str) -> Mapping[str, Any]:
    row = table.find(policy)
    found: Mapping[str, Any] = {} if row is None else row.curves.get("frontier", {})
    return found


def _as_board(table: Table, suite: SuiteBoard, judged: Sequence[str], drawn: Sequence[str]) -> Board:
    """The part of a table that the frontier plot of a single bench draws."""
    rows, curves = [], {}
    for name in drawn:
        found = table.find(name)
        assert found is not None
        rows += [
            Row(policy=name, metric=m, value=f[0], low=f[1], high=f[2], seeds=suite.seeds) for m, f in found.figures.items()
        ]
        curve = _curve(table, name)
        curves[name] = Frontier(cost_usd=tuple(curve["cost_usd"]), quality=tuple(curve["quality"]))
    one = table.singles
    costs = one.get("cost_usd") or [None] * len(one.get("targets", []))
    triples = zip(one.get("targets", []), one.get("quality", []), costs, strict=True)
    singles = tuple(Single(target=t, quality=q, cost_usd=c) for t, q, c in triples if q is not None)
    return Board(
        dataset=table.set,
        rows=tuple(rows),
        headline=table.headline,
        judged=tuple(judged),
        frontiers=curves,
        singles=singles,
        best_single=one.get("best", ""),
        seeds=suite.seeds,
    )


def onboarding_of(table: Table) -> str:
    """The figure against the number of calibration queries, and what fitting anew would give; "" without such curves."""
    rows = [row for row in table.rows if row.curves.get("onboarding", {}).get("n")][:MOST]
    if not rows:
        return ""
    lines = [(row.policy, row.curves["onboarding"]["n"], row.curves["onboarding"]["random"]) for row in rows]
    levels = [row.curves["onboarding"]["full"] for row in rows]
    return _lines(lines, "calibration queries", "figure on the test rows", f"onboarding-{table.set}", log=True, levels=levels)


def regret_of(table: Table, against: str = "regret_fixed") -> str:
    """Cumulative regret along the stream; "" without such curves."""
    rows = [row for row in table.rows if row.curves.get(against, {}).get("step")][: MOST + 2]
    lines = [(row.policy, row.curves[against]["step"], row.curves[against]["lost"]) for row in rows]
    return _lines(lines, "requests", "utility lost so far", f"{against}-{table.set}") if lines else ""


def losses_of(row: Standing) -> Sequence[float]:
    """Training loss per epoch of the first seed's fit."""
    found: Sequence[float] = row.curves.get("losses", ())
    return found


def _lines(
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    across: str,
    up: str,
    salt: str,
    *,
    log: bool = False,
    levels: Sequence[float] = (),
) -> str:
    """Lines with a legend; `levels` are drawn as ticks at the right end in the colours of the lines."""
    figure, axes = new_figure(7.2, 3.6)
    for place, (name, x, y) in enumerate(lines):
        colour, dash = SERIES[place % len(SERIES)], DASHES[place // len(SERIES) % len(DASHES)]
        axes.plot(
            x, y, color=colour, linestyle=dash, linewidth=1.6, label=name, marker="o" if len(x) < 12 else "", markersize=3.5
        )
        if place < len(levels):
            axes.plot([1.0, 1.02], [levels[place]] * 2, color=colour, linewidth=2, transform=_edge(axes), clip_on=False)
    if log:
        axes.set_xscale("log")
        axes.set_xticks(list(lines[0][1]), [f"{n:,}" for n in lines[0][1]])
        axes.minorticks_off()
    else:
        axes.axhline(0.0, color=SOFT, linewidth=0.8)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.03, 0.5), frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_color(INK)
    figure.subplots_adjust(left=0.1, right=0.74, top=0.96, bottom=0.14)
    return as_svg(figure, salt)


def _edge(axes: Any) -> Any:
    """Places whose x is a share of the axes and whose y is data."""
    return axes.get_yaxis_transform()


def standalone(svg: str) -> str:
    """The drawing as a file of its own: the page's light colours in place of its variables, on white."""
    style = files(__package__).joinpath("report.css").read_text("utf-8")
    light = style[: style.index("@media")]
    colours = dict(re.findall(r"(--[a-z0-9]+): (#[0-9a-f]{6})", light))
    text = re.sub(r"var\((--[a-z0-9]+)\)", lambda found: colours.get(found[1], "#000000"), svg)
    return text.replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ', 1
    ).replace(">", '><rect width="100%" height="100%" fill="#ffffff"/>', 1)
