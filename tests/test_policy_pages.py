"""Every part of ours has a page, and the page says what the code says. Figures may be older: they are not compared."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if str(ROOT / "scripts") not in sys.path:
    sys.path.insert(0, str(ROOT / "scripts"))

import policy_pages  # noqa: E402  the scripts' folder is no package
from junctor.bench.suite_document import ExperimentFacts, MeanRank, SetFacts, Standing, SuiteBoard, Table  # noqa: E402
from junctor.describing import Description, description  # noqa: E402

PAGES = ROOT / "docs" / "policies"
PARTS = policy_pages.parts_of_ours()
AGAIN = "write the pages again: make pages"


@pytest.mark.parametrize("one", PARTS, ids=lambda one: one.name)
def test_the_page_says_what_the_code_says(one: Description) -> None:
    path = PAGES / f"{one.name}.md"
    assert path.is_file(), AGAIN
    above, mark, below = path.read_text("utf-8").partition(policy_pages.MARK)
    assert above + mark == policy_pages.head_of(one).rstrip(), AGAIN
    assert "Found here" in below
    for link in re.findall(r"\]\(([^)#:]+)\)", above + below):
        if "board" not in link:
            assert (PAGES / link).exists(), f"{path.name} links to {link}, which is not there"


def test_the_index_has_a_row_of_each() -> None:
    index = (PAGES / "README.md").read_text("utf-8").splitlines()
    for one in PARTS:
        cells = policy_pages.grid([], [policy_pages.row_of(one, None)[:3]])[-1]
        assert any(line.startswith(cells.removesuffix(" |")) for line in index), f"{one.name}: {AGAIN}"


def test_no_page_of_a_part_that_is_gone() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} - {"README"} == {one.name for one in PARTS}, AGAIN


@pytest.mark.parametrize("one", [one for one in PARTS if one.extra == "neural"], ids=lambda one: one.name)
def test_what_is_trained_shows_its_loss_and_that_it_came_to_rest(one: Description) -> None:
    text = (PAGES / f"{one.name}.md").read_text("utf-8")
    assert f"losses/{one.name}.svg" in text, AGAIN
    drawn = (PAGES / "losses" / f"{one.name}.svg").read_text("utf-8")
    points = re.search(r'points="([^"]+)"', drawn)
    assert points is not None
    heights = [float(pair.partition(",")[2]) for pair in points[1].split()]
    fall = max(heights) - heights[0]
    assert fall > 0, "the loss falls: down is a larger y"
    late = abs(heights[-1] - heights[len(heights) * 3 // 4])
    assert late < fall / 2, "most of the way is made before the last quarter"


def board(*, quick: bool = False) -> SuiteBoard:
    bar = Standing(policy="linear", figures={"aiq": (0.5, 0.4, 0.6)}, rank=2, clears_the_cheap_bars="bar")
    curve = {"losses": [2.0, 1.0, 0.75, 0.5, 0.5]}
    ours = Standing(
        policy="knn", figures={"aiq": (0.75, 0.7, 0.8)}, rank=1, clears_the_cheap_bars="yes", vs_best_bar=(0.25, 0.1, 0.3)
    )
    trained = Standing(policy="routerdc", status="failed", why="it took too long", curves=curve)
    return SuiteBoard(
        tables=(Table(experiment="standard", set="s", headline="aiq", rows=(ours, bar, trained), best_bar="linear"),),
        ranks=(MeanRank(experiment="standard", policy="knn", mean_rank=1.5, sets=1, of=2),),
        sets=(SetFacts(name="s", title="A | set", queries=1, targets=2),),
        experiments=(ExperimentFacts(name="standard", title="Standard protocol", question="?"),),
        left_out={"fixed": "it needs a setting"},
        seeds=5,
        encoder="static",
        quick=quick,
    )


def test_figures_come_from_the_board() -> None:
    page = policy_pages.page(description("knn"), board())
    row = "| Standard protocol | A \\| set | AIQ 0.750 [0.700, 0.800] | +0.250 [+0.100, +0.300] (linear) | yes | 1 of 2 |"
    assert row in page.splitlines()
    assert "not to be quoted" not in page
    assert "not to be quoted" in policy_pages.page(description("knn"), board(quick=True))
    assert "junctor bench --suite published" in policy_pages.page(description("knn"), None)
    assert "- fixed takes no part: it needs a setting" in policy_pages.page(description("fixed"), board())
    index = policy_pages.index(PARTS, board())
    assert re.search(r"\[knn\].* \| 1.5\\\* \| \+0.250 \[\+0.100, \+0.300\] on A \\\| set \|", index)
    assert policy_pages.row_of(description("linear"), board())[3:] == ["–", "–"]


def test_a_loss_curve_of_the_board_goes_before_one_made_here() -> None:
    curve = policy_pages.curve_of(description("routerdc"), board())
    assert curve is not None
    assert curve.losses == [2.0, 1.0, 0.75, 0.5, 0.5]
    assert "2 to 0.5 in 5 epochs; the last quarter of them makes 0% of the way" in "\n".join(curve.words())
    assert "routerdc" in curve.drawing()
    assert policy_pages.curve_of(description("knn"), board()) is None
    still = policy_pages.Curve("x", "here", [1.0])
    assert "1 to 1 in 1 epochs" in "\n".join(still.words())
    assert "NaN" not in still.drawing()


def test_the_same_pages_twice_and_old_ones_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_pages, "parts_of_ours", lambda: [description(name) for name in ("knn", "routerbench-mlp")])
    board().save(tmp_path / "board.json")
    given = ["--board", str(tmp_path / "board.json"), "--out", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gone.md").write_text("old")
    assert policy_pages.main(given) == 0
    first = {path.name: path.read_text("utf-8") for path in (tmp_path / "out").rglob("*.*")}
    assert set(first) == {"README.md", "knn.md", "routerbench-mlp.md", "routerbench-mlp.svg"}
    assert policy_pages.main(given) == 0
    assert {path.name: path.read_text("utf-8") for path in (tmp_path / "out").rglob("*.*")} == first
    assert policy_pages.main([*given, "knn"]) == 0
    assert (tmp_path / "out" / "routerbench-mlp.md").is_file(), "a part of the pages leaves the others alone"
