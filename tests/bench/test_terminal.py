"""The print-out fits its console and says what stands behind the figures."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from rich.console import Console

from junctor.bench.board import Board, Row, print_board
from junctor.bench.cards import cards
from junctor.bench.formats import number, usd, with_interval
from junctor.bench.terminal import columns_for


def printed(board: Board, width: int = 100, *, color: bool = False) -> str:
    stream = io.StringIO()
    system = "truecolor" if color else None
    print_board(board, Console(file=stream, width=width, force_terminal=color, color_system=system, highlight=False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 100, 200])
def test_no_line_is_wider_than_the_console(board: Board, width: int) -> None:
    assert max(map(len, printed(board, width).splitlines())) <= width


def test_narrow_consoles_drop_columns_and_keep_the_headline(board: Board) -> None:
    narrow, wide = columns_for(board, 60), columns_for(board, 300)
    assert narrow[0] == wide[0] == board.headline
    assert len(narrow) < len(wide)


def test_headline_has_its_interval(board: Board) -> None:
    assert re.search(r"knn +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", printed(board))


def test_references_are_dimmed_and_asked_about_policies_are_not(board: Board) -> None:
    lines = printed(board, color=True).splitlines()
    dim = {name: any("\x1b[2m" in line for line in lines if re.search(rf"{name} .*0\.\d", line)) for name in ("oracle", "knn")}
    assert dim == {"oracle": True, "knn": False}


def test_other_splits_and_notes_are_printed(board: Board) -> None:
    text = printed(board)
    assert "ood_test" in text
    for note in board.notes:
        assert note.split()[0] in text


def test_the_card_stands_beside_the_figures(board: Board) -> None:
    card = cards()[0]
    with_card = msgspec.structs.replace(board, card=card.note(lambda *_: board.find("oracle", "quality")))
    text = printed(with_card)
    assert card.title in text
    assert "why they differ" in text
    assert "why they differ" not in printed(board)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("quality", 0.8123, "0.812"),
        ("cost_usd", 0.00499, "$4.99"),
        ("cost_usd", 0.0000811, "$0.0811"),
        ("qnc", 0.675, "67.5%"),
        ("decide_us_p50", 63.4, "63 µs"),
        ("decide_us_p99", 12345.0, "12.3 ms"),
        ("fit_s", 2.345, "2.35 s"),
        ("fit_s", 23.4, "23 s"),
        ("vs_best_bar", 0.01, "+0.010"),
    ],
)
def test_units(metric: str, value: float, text: str) -> None:
    assert number(metric, value) == text


def test_intervals_are_in_brackets_and_left_out_when_they_have_no_width() -> None:
    row = Row(policy="p", metric="quality", value=0.812, low=0.797, high=0.826, seeds=5)
    assert with_interval(row) == "0.812 [0.797, 0.826]"
    assert with_interval(msgspec.structs.replace(row, low=0.812, high=0.812)) == "0.812"


def test_dollars_have_no_tail_of_zeros() -> None:
    assert [usd(v) for v in (0, 0.1, 0.2, 0.0052, 5, 1234)] == ["$0", "$0.10", "$0.20", "$0.0052", "$5.00", "$1,234"]
