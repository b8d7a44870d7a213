"""The report in headless Chromium: it lays out without overflow, wide and narrow, and its plots have a size."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from junctor.bench.board import Board
from junctor.bench.report import render_report

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
PROBE = """
<script>
addEventListener("load", () => {
  const plots = [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect()).filter(b => b.width > 0);
  document.title = JSON.stringify({
    wide: document.documentElement.scrollWidth, window: innerWidth,
    plots: plots.map(b => [Math.round(b.width), Math.round(b.height)]),
  });
});
</script>
"""


def measured(page: str, folder: Path, width: int) -> dict[str, object]:
    """What the browser makes of the page: its width, the window's, and the size of every plot that is shown."""
    path = folder / f"report-{width}.html"
    path.write_text(page.replace("</head>", PROBE + "</head>", 1), "utf-8")
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={folder}/profile-{width}",
        f"--window-size={width},2000",
        "--dump-dom",
        path.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", shown, re.DOTALL)
    assert title is not None
    found: dict[str, object] = json.loads(unescape(title[1]))
    return found


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium (make test does where it may)")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_fits_its_window_and_shows_its_plots(board: Board, tmp_path: Path, width: int) -> None:
    found = measured(render_report(board), tmp_path, width)
    assert found["window"] == width
    assert isinstance(found["wide"], int)
    assert found["wide"] <= width, "the page scrolls sideways"
    sizes = found["plots"]
    assert isinstance(sizes, list)
    assert len(sizes) >= 2
    assert all(w > 250 and h > 120 for w, h in sizes if h > 40), sizes


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium (make test does where it may)")
def test_the_check_sees_a_page_that_overflows(tmp_path: Path) -> None:
    page = "<!doctype html><html><head></head><body><div style='width:3000px;height:9px'></div></body></html>"
    assert measured(page, tmp_path, 1280)["wide"] == 3000 + 8
