"""The board on a terminal: ranked, intervals beside figures, references dimmed, never wider than the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from junctor.bench.document import Board, CardNote, Part
from junctor.bench.formats import TITLES, number, with_interval

_COLUMNS = (
    "quality",
    "cost_usd",
    "vs_best_bar",
    "quality_macro",
    "apgr",
    "cpt50",
    "qnc",
    "decide_us_p50",
    "oracle_gap_closed",
    "area",
    "peak",
    "fit_s",
    "routerarena",
    "cpt80",
    "decide_us_p99",
    "vl_rank",
)
"""What is shown beside the headline, most wanted first: the last ones go when the console is narrow."""

_INTERVALS = frozenset({"quality", "vs_best_bar"})


def print_board(board: Board, console: Console) -> None:
    """Print the leaderboard, the splits beside it, the dataset card and the notes."""
    console.print(_heading(board), style="bold")
    console.print(_leaderboard(board, console.width))
    for name, part in board.extra_splits.items():
        console.print(_part(board, name, part, console.width))
    if board.card is not None:
        _print_card(board.card, console)
    for note in board.notes:
        console.print(f"[dim]·[/dim] {escape(note)}", highlight=False)


def columns_for(board: Board, width: int) -> list[str]:
    """The metrics that fit `width` characters: the headline, then the most wanted of those that the board has."""
    wanted = [board.headline, *(m for m in _COLUMNS if m != board.headline)]
    left = width - 8 - max(len(name) for name in board.policies())
    chosen: list[str] = []
    for metric in wanted:
        cells = [_cell(board, policy, metric, metric == board.headline) for policy in board.policies()]
        if not any(cells):
            continue
        need = max(len(TITLES[metric]), *map(len, cells)) + 3
        if chosen and need > left:
            continue
        chosen.append(metric)
        left -= need
    return chosen


def _heading(board: Board) -> Text:
    queries = board.split.get("test", 0)
    return Text(
        f"{board.dataset or 'board'}: {queries:,} test queries, {board.seeds} seeds, ranked by {TITLES[board.headline]}"
    )


def _leaderboard(board: Board, width: int) -> Table:
    table = _new_table()
    table.add_column("#", justify="right")
    table.add_column("policy", no_wrap=True)
    metrics = columns_for(board, width)
    for metric in metrics:
        table.add_column(TITLES[metric], justify="right", no_wrap=True)
    rank = 0
    for policy in board.policies():
        rank += policy != "oracle"
        cells = [_cell(board, policy, metric, metric == board.headline) or "–" for metric in metrics]
        place = "" if policy == "oracle" else str(rank)
        table.add_row(place, escape(policy), *cells, style="" if policy in board.judged else "dim")
    return table


def _cell(board: Board, policy: str, metric: str, is_headline: bool) -> str:
    row = board.find(policy, metric)
    if row is None:
        return ""
    return with_interval(row) if is_headline or metric in _INTERVALS else number(metric, row.value)


def _part(board: Board, name: str, part: Part, width: int) -> Table:
    other = Board(
        dataset=name, rows=part.rows, headline=_part_headline(board, part), judged=board.judged, split={"test": part.queries}
    )
    table = _leaderboard(other, width)
    table.title = f"{name}: {part.queries:,} queries, the same fitted policies"
    return table


def _part_headline(board: Board, part: Part) -> str:
    has = {row.metric for row in part.rows}
    return board.headline if board.headline in has else "quality"


def _print_card(card: CardNote, console: Console) -> None:
    console.print(f"[bold]{escape(card.title)}[/bold] (recognised by its targets and labels)", highlight=False)
    if card.bars:
        table = _new_table()
        for title in ("noted bar", "split", "noted", "measured here"):
            table.add_column(title, justify="left" if title in ("noted bar", "split") else "right", no_wrap=True)
        table.add_column("why they differ", ratio=1)
        for bar in card.bars:
            measured = "–" if bar.measured is None else number(bar.metric, bar.measured)
            label = f"{bar.policy} {TITLES.get(bar.metric, bar.metric)}"
            table.add_row(escape(label), bar.split, number(bar.metric, bar.noted), measured, escape(bar.why or "as noted"))
        console.print(table)
    for note in card.notes:
        console.print(f"[dim]·[/dim] {escape(note)}", highlight=False)


def _new_table(columns: Sequence[str] = ()) -> Table:
    return Table(*columns, box=None, padding=(0, 1), header_style="bold", title_justify="left", title_style="bold")
