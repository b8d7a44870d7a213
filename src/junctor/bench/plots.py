"""The report's plots, as SVG text for the page: colours are CSS variables, so that one drawing serves a light and a dark page.

matplotlib is loaded here and only when a plot is drawn, through its object interface: no display, no global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from junctor.bench.document import LESS_IS_BETTER, Board, Frontier, Row
from junctor.bench.formats import TITLES, number, usd
from junctor.errors import MissingExtra

WIDE, NARROW = 10.4, 4.2
"""Inches: drawn once for a desk and once for a phone."""
LOG_WHEN = 20.0
"""Costs that spread over more than this go on a logarithmic axis."""

INK, SOFT, _GRID = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0401{i:02x}" for i in range(8))
_VARIABLES = {INK: "--ink", SOFT: "--soft", _GRID: "--grid", **{c: f"--s{i}" for i, c in enumerate(SERIES)}}
"""Stand-in colours that the drawing uses, each replaced by a CSS variable of the page."""
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))
MARKERS = "osD^vPX*"
_FAR_INSIDE = 0.72
"""A curve that ends left of this share of the axis is labelled where it ends, if nothing else ends there."""
_LABEL_HEIGHT, _LABEL_WIDTH = 0.07, 0.32
"""Room that a label in the plot takes, as shares of the axes."""


@dataclass(frozen=True, slots=True)
class Look:
    """How one policy is drawn."""

    colour: str
    dash: Any
    marker: str
    width: float
    layer: int


def looks(board: Board) -> Mapping[str, Look]:
    """A look per policy: colours for those asked about, greys for references; shapes differ too, for who sees no colours."""
    found: dict[str, Look] = {}
    references = 0
    for place, name in enumerate(n for n in board.judged if any(row.policy == n for row in board.rows)):
        colour = SERIES[place % len(SERIES)]
        found[name] = Look(colour, DASHES[place // len(SERIES) % 4], MARKERS[place % 8], 2.0, 4)
    for name in board.policies():
        if name == "oracle":
            found[name] = Look(INK, (0, (1, 1.6)), "*", 1.4, 2)
        elif name not in found:
            found[name] = Look(SOFT, DASHES[(references + 1) % 4], MARKERS[references % 7], 1.4, 3)
            references += 1
    return found


def has_costs(board: Board) -> bool:
    """Whether a cost-quality plot can be drawn."""
    return any(len(f.cost_usd) > 1 for f in board.frontiers.values())


def cost_ratio(board: Board) -> float:
    """The dearest point of all curves over the cheapest: above LOG_WHEN, the cost axis is logarithmic."""
    costs = [cost for curve in board.frontiers.values() for cost in curve.cost_usd if cost > 0]
    return max(costs) / min(costs) if costs else 1.0


def frontier(board: Board, width: float) -> str:
    """Quality against cost: each policy's hull, its operating point, every single target, the best one named. SVG."""
    narrow = width < 6
    figure, axes = new_figure(width, 5.6 if narrow else 5.4)
    shown = looks(board)
    ends = []
    for policy in reversed(board.policies()):
        curve = board.frontiers.get(policy)
        if curve is not None:
            handle = _draw_policy(axes, board, policy, curve, shown[policy])
            ends.append((policy, handle))
    _draw_singles(axes, board)
    if cost_ratio(board) > LOG_WHEN:
        _log_axis(axes, cost_ratio(board))
    axes.xaxis.set_major_formatter(lambda value, _: usd(value * 1000))
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set_xlabel("USD per 1,000 queries")
    axes.set_ylabel("mean quality")
    axes.margins(x=0.04, y=0.06)
    order = {name: i for i, name in enumerate(board.policies())}
    ends.sort(key=lambda end: order[end[0]])
    if narrow:
        _legend_below(figure, ends)
    else:
        _labels_right(figure, axes, board, shown, [name for name, _ in ends])
    return as_svg(figure, f"frontier-{width}")


def forest(board: Board, width: float, metric: str = "") -> str:
    """One figure of every policy (the headline) with its 95% interval, best first; best single and oracle as lines. SVG."""
    metric = metric or board.headline
    rows = [row for name in board.policies() if (row := board.find(name, metric)) is not None]
    narrow = width < 6
    figure, axes = new_figure(width, 0.9 + 0.36 * len(rows))
    shown = looks(board)
    for place, row in enumerate(rows):
        _draw_interval(axes, row, place, shown[row.policy])
    axes.set_yticks(range(len(rows)), [row.policy for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    title = TITLES[metric] + (" (less is better)" if metric in LESS_IS_BETTER else "")
    axes.set_xlabel(f"{title}, mean over {board.seeds} seeds and 95% interval", fontsize=8 if narrow else 9.5)
    for name, dash in (("best-single", "--"), ("oracle", ":")):
        found = next((row for row in rows if row.policy == name), None)
        if found is not None:
            axes.axvline(found.value, color=SOFT, linewidth=1, linestyle=dash, zorder=1)
    axes.margins(x=0.05)
    figure.subplots_adjust(left=(1.3 if narrow else 1.5) / width, right=1 - (0.75 if narrow else 0.9) / width)
    _fit_vertically(figure, top=0.1, bottom=0.62)
    return as_svg(figure, f"forest-{metric}-{width}")


def _draw_policy(axes: Any, board: Board, policy: str, curve: Frontier, look: Look) -> Any:
    style = {"color": look.colour, "linestyle": look.dash, "linewidth": look.width, "zorder": look.layer}
    (line,) = axes.plot(curve.cost_usd, curve.quality, **style)
    point = board.value(policy, "cost_usd"), board.value(policy, "quality")
    if None in point:
        return line
    size = 11 if look.marker == "*" else 7
    marker = {"marker": look.marker, "markersize": size, "markeredgecolor": look.colour, "zorder": look.layer + 2}
    faced = {**style, **marker, "markerfacecolor": look.colour}
    axes.plot(*point, **faced)
    line.set_marker(look.marker)
    line.set_markevery([])
    return line


def _draw_singles(axes: Any, board: Board) -> None:
    known = [s for s in board.singles if s.cost_usd]
    axes.plot([s.cost_usd for s in known], [s.quality for s in known], "o", ms=4, mfc="none", mec=SOFT, zorder=2)


def _labels_right(figure: Any, axes: Any, board: Board, shown: Mapping[str, Look], names: Sequence[str]) -> None:
    """Names where curves end: beside the plot, moved apart and joined by a thin line, or in it where the end is far inside."""
    figure.subplots_adjust(left=0.75 / WIDE, right=1 - 2.7 / WIDE, top=0.97, bottom=0.11)
    figure.canvas.draw()
    to_axes = axes.transData + axes.transAxes.inverted()
    where = {name: to_axes.transform((board.frontiers[name].cost_usd[-1], board.frontiers[name].quality[-1])) for name in names}
    inside = [name for name in names if where[name][0] < _FAR_INSIDE and alone(name, where)]
    for name in inside:
        style = {"va": "center", "fontsize": 9, "color": shown[name].colour, "zorder": 8}
        axes.annotate(_labelled(board, name), where[name], (8, -8), "axes fraction", "offset points", **style)
    order = sorted((name for name in names if name not in inside), key=lambda name: -where[name][1])
    heights = spread([float(where[name][1]) for name in order], 0.052, 0.99)
    for name, height in zip(order, heights, strict=True):
        _label_beside(axes, _labelled(board, name), shown[name], where[name], height)


def alone(name: str, where: Mapping[str, Sequence[float]]) -> bool:
    """Whether no other end lies where the label of this one would go; places are shares of the axes."""
    x, y = where[name][0], where[name][1]
    others = [place for other, place in where.items() if other != name]
    return all(abs(y - place[1]) > _LABEL_HEIGHT or not x - 0.05 < place[0] < x + _LABEL_WIDTH for place in others)


def _label_beside(axes: Any, text: str, look: Look, end: tuple[float, float], height: float) -> None:
    arrow = {"arrowstyle": "-", "color": look.colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    both = {"xycoords": "axes fraction", "textcoords": "axes fraction", "annotation_clip": False}
    if end[0] >= _FAR_INSIDE:  # a line across the whole plot would look like data
        axes.annotate("", xy=end, xytext=(1.035, height), arrowprops=arrow, zorder=1, **both)
    mark = {"marker": look.marker, "markersize": 6, "color": look.colour, "linestyle": "none", "clip_on": False}
    axes.plot([1.05], [height], transform=axes.transAxes, **mark)
    axes.text(1.068, height, text, transform=axes.transAxes, va="center", fontsize=9, color=look.colour, clip_on=False)


def _labelled(board: Board, name: str) -> str:
    """A policy with its headline figure; the best single target with its name."""
    figure = board.value(name, board.headline)
    if name == "best-single":
        target = board.best_single.rpartition("/")[2]
        return f"{name}: {target if len(target) <= 22 else target[:21] + '…'}"
    return name if figure is None else f"{name}  {number(board.headline, figure)}"


def _legend_below(figure: Any, ends: Sequence[tuple[str, Any]]) -> None:
    rows = (len(ends) + 1) // 2
    figure.subplots_adjust(left=0.14, right=0.97, top=0.98, bottom=0.115 + 0.036 * rows)
    names, handles = zip(*ends, strict=True)
    for handle in handles:
        handle.set_markevery(None)
    legend = figure.legend(
        handles, names, loc="lower center", ncols=2, frameon=False, fontsize=8, handlelength=2.6, borderaxespad=0
    )
    for text in legend.get_texts():
        text.set_color(INK)
    figure.canvas.draw()
    for handle in handles:
        handle.set_markevery([])


def _log_axis(axes: Any, ratio: float) -> None:
    """Labels at 1, 2 and 5 of each decade as long as there are few decades."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 300 else (1.0, 3.0) if ratio < 3000 else (1.0,)))


def _draw_interval(axes: Any, row: Row, place: int, look: Look) -> None:
    axes.plot([row.low, row.high], [place, place], color=look.colour, linewidth=2.2, solid_capstyle="butt", zorder=3)
    axes.plot([row.value], [place], look.marker, color=look.colour, markersize=8 if look.marker == "*" else 6.5, zorder=4)
    style = {"va": "center", "fontsize": 8.5, "color": INK, "clip_on": False}
    axes.annotate(number(row.metric, row.value), (1.0, place), (6, 0), ("axes fraction", "data"), "offset points", **style)


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Falling heights moved apart so that neighbours are at least `gap` apart and none is above `top`; order is kept."""
    placed: list[float] = []
    for height in heights:
        placed.append(min([height, top, *(placed[-1:] and [placed[-1] - gap])]))
    low = placed[-1] if placed else 0.0
    if low < 0:
        for i in range(len(placed) - 1, -1, -1):
            floor = 0.0 if i == len(placed) - 1 else placed[i + 1] + gap
            placed[i] = max(placed[i], floor)
    return placed


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """An empty drawing of so many inches in the page's own colours; raises MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtra("needs the package matplotlib", field="report", fix="pip install 'junctor[bench]'") from error
    figure = Figure(figsize=(width, height), facecolor="none")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(facecolor="none")
    axes.tick_params(colors=INK, labelsize=9 if width > 6 else 8, length=3, color=SOFT)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _fit_vertically(figure: Any, *, top: float, bottom: float) -> None:
    height = figure.get_figheight()
    figure.subplots_adjust(top=1 - top / height, bottom=bottom / height)


def as_svg(figure: Any, salt: str) -> str:
    """The drawing as an `<svg>` element: same input, same text; stand-in colours become CSS variables."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'<svg [^>]*?(viewBox="[^"]+")[^>]*>', r'<svg \1 role="img" aria-hidden="true">', text, count=1)
