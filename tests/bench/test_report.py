"""The HTML report: one file, everything in it, nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from junctor.bench import plots
from junctor.bench.board import Board, Row
from junctor.bench.cards import cards
from junctor.bench.report import render_report, summary_sentence, write_report

VOID = {"meta", "br", "use", "path", "rect", "stop"}


class Outline(HTMLParser):
    """Collects headings and text, and fails on tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def page(board: Board) -> str:
    return render_report(board)


def test_the_page_is_well_formed_and_complete(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.wrong == []
    assert outline.open == []
    expected = ["made", "Leaderboard", "Cost and quality", "Intervals: AIQ", "Quality per dataset", "Tuning", "Provenance"]
    assert [h for h in outline.headings if h in expected] == expected
    assert any(h.startswith("ood_test") for h in outline.headings)


def test_nothing_is_fetched_from_outside(page: str) -> None:
    without_names = re.sub(r'xmlns(:\w+)?="[^"]+"', "", page)
    assert not re.search(r"https?://|<script|<link|@import|url\((?!#)", without_names)


def test_every_policy_and_dataset_is_in_it(page: str, board: Board) -> None:
    for name in board.policies():
        assert f"<th>{name}</th>" in page
    for dataset in board.dataset_sizes:
        assert f"<th>{dataset} <small>" in page


def test_plots_follow_the_page_in_light_and_dark(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "var(--ink)" in page
    assert "var(--s0)" in page
    assert not re.search(r"#0[1-4]0[0-9]0", page)


def test_names_are_escaped(board: Board) -> None:
    rows = tuple(msgspec.structs.replace(row, policy="<b>knn") if row.policy == "knn" else row for row in board.rows)
    page = render_report(msgspec.structs.replace(board, rows=rows, dataset="<script>"))
    assert "<script>" not in page
    assert "<b>knn" not in page


def test_without_costs_the_intervals_take_the_frontiers_place(board: Board) -> None:
    page = render_report(msgspec.structs.replace(board, frontiers={}, headline="quality"))
    assert "Cost and quality" not in page
    assert "Intervals: quality" in page


def test_the_card_and_its_reasons_are_in_it(board: Board) -> None:
    card = cards()[0]
    page = render_report(msgspec.structs.replace(board, card=card.note(lambda *_: None)))
    assert card.title in page
    assert "why they differ" in page


def test_same_board_same_page(board: Board, page: str, tmp_path: Path) -> None:
    write_report(board, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text("utf-8") == page


def difference(board: Board, low: float, high: float) -> str:
    row = Row(policy="knn", metric="vs_best_bar", value=(low + high) / 2, low=low, high=high, seeds=2)
    lead = Row(policy="knn", metric="aiq", value=2.0, low=1.9, high=2.1, seeds=2)
    rest = tuple(r for r in board.rows if (r.policy, r.metric) not in (("knn", "aiq"), ("knn", "vs_best_bar")))
    return summary_sentence(msgspec.structs.replace(board, rows=(lead, row, *rest), best_bar="linear"))


def test_the_summary_claims_a_win_only_outside_the_interval(board: Board) -> None:
    assert "above the best cheap bar" in difference(board, 0.01, 0.02)
    assert "cannot be told from" in difference(board, -0.01, 0.02)
    assert "below the best cheap bar" in difference(board, -0.02, -0.01)


def test_the_summary_says_when_the_leader_is_itself_a_bar(board: Board) -> None:
    text = summary_sentence(msgspec.structs.replace(board, best_bar=board.policies()[1], judged=(board.policies()[1],)))
    assert "itself one of the cheap bars" in text


def test_the_summary_has_nothing_to_say_without_a_headline_figure(board: Board) -> None:
    assert "No policy" in summary_sentence(msgspec.structs.replace(board, judged=("random",)))


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    assert plots.spread([0.9, 0.89, 0.5], 0.05, 1.0) == pytest.approx([0.9, 0.85, 0.5])
    pushed = plots.spread([0.02, 0.01, 0.0], 0.05, 1.0)
    assert pushed == pytest.approx([0.1, 0.05, 0.0])
    assert plots.spread([1.2], 0.05, 1.0) == [1.0]
    assert plots.spread([], 0.05, 1.0) == []


def test_looks_differ_in_more_than_colour(board: Board) -> None:
    found = plots.looks(board)
    assert set(found) == set(board.policies())
    shapes = [(look.marker, str(look.dash)) for look in found.values()]
    assert len(set(shapes)) == len(shapes)


def test_costs_that_spread_widely_go_on_a_logarithmic_axis(board: Board) -> None:
    def with_costs(change: Callable[[float], float]) -> Board:
        curves = {n: msgspec.structs.replace(f, cost_usd=tuple(map(change, f.cost_usd))) for n, f in board.frontiers.items()}
        return msgspec.structs.replace(board, frontiers=curves)

    wide, narrow = with_costs(lambda cost: cost**3), with_costs(lambda cost: 0.1 + cost)
    assert plots.cost_ratio(wide) > plots.LOG_WHEN > plots.cost_ratio(narrow)
    ticks = [plots.frontier(one, plots.WIDE).count('id="xtick_') for one in (wide, narrow)]
    assert ticks[0] != ticks[1]


def test_a_label_goes_into_the_plot_only_where_nothing_else_ends() -> None:
    where = {"a": (0.1, 0.5), "b": (0.12, 0.52), "c": (0.1, 0.9), "d": (0.6, 0.5)}
    assert [name for name in where if plots.alone(name, where)] == ["c", "d"]


def test_policies_that_end_at_one_point_are_labelled_beside_the_plot(board: Board) -> None:
    """Their names are moved apart: no two labels lie at one height."""
    first = next(iter(board.frontiers.values()))
    crowded = {name: msgspec.structs.replace(first) for name in board.frontiers}
    drawn = plots.frontier(msgspec.structs.replace(board, frontiers=crowded), plots.WIDE)
    labels = re.findall(r"<!-- ([\w-]+)(?:  [\d.]+)? -->\s*<g [^>]*translate\(([\d.]+) ([\d.]+)\)", drawn)
    heights = [float(y) for name, _, y in labels if name in board.frontiers and name != "best-single"]
    assert len(heights) >= 4
    assert min(abs(a - b) for i, a in enumerate(heights) for b in heights[:i]) > 8
