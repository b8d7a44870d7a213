"""The plug-in door works with a real installed package: listed, fitted, judged, on the board, and checked like one of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

CHECK = """
from junctor.registry import load
from junctor.testing import check_estimator, check_policy
check_policy(load("policy", "short-first")())
check_estimator(load("estimator", "by-length")(), learns=False)
print("conforms")
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the example package is installed, in a folder of its own."""
    site = tmp_path_factory.mktemp("plugin") / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(ROOT / "plugin_example")]
    subprocess.run(install, check=True, capture_output=True)
    return os.environ | {"PYTHONPATH": str(site)}


@pytest.fixture
def junctor(installed: dict[str, str], tmp_path: Path) -> Run:
    """The command line in that environment, in a folder with a table: short prompts are solved by both, long ones by one."""
    rows = ["query,dataset,score:small,score:large,cost_usd:small,cost_usd:large"]
    rows += [f"q{i} {'word ' * (i % 60)},d{i % 2},{int(i % 60 < 15)},1,0.001,0.02" for i in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(rows))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "junctor", *words]
        return subprocess.run(command, capture_output=True, text=True, env=installed, cwd=tmp_path, check=False)

    return run


@pytest.mark.slow
def test_an_installed_plugin_is_a_policy_like_any_other(junctor: Run, installed: dict[str, str]) -> None:
    judged = junctor("bench", "t.csv", "--policies", "short-first,by-length", "--seeds", "2", "--json", "-")
    assert judged.returncode == 0, judged.stderr
    quality = {r["policy"]: r["value"] for r in json.loads(judged.stdout)["rows"] if r["metric"] == "quality"}
    assert quality["short-first"] > quality["cheapest"]
    assert quality["by-length"] > quality["cheapest"]
    checked = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, env=installed, check=False)
    assert checked.stdout.strip() == "conforms", checked.stderr


@pytest.mark.slow
def test_an_installed_plugin_is_listed_with_what_it_says_of_itself(junctor: Run) -> None:
    listed = {entry["name"]: entry for entry in json.loads(junctor("policies", "--json").stdout)}
    silent, told = listed["short-first"], listed["by-length"]
    assert (silent["kind"], silent["status"], silent["needs"]) == ("policy", "plug-in", [])
    assert (told["kind"], told["status"], told["family"]) == ("estimator", "ours", "neighbours and tables")
    assert told["onboards"]
    shown = junctor("policies", "short-first")
    assert shown.returncode == 0, shown.stderr
    assert "words" in shown.stdout
    assert "how many lengths are told apart" in " ".join(junctor("policies", "by-length").stdout.split())


@pytest.mark.slow
def test_an_installed_plugin_is_on_the_board_of_the_suite(junctor: Run, tmp_path: Path) -> None:
    """Two processes: the workers must find the package by themselves."""
    words = "bench --suite published --quick --sets t.csv --experiments standard --jobs 2 --encoder lexical --out kept"
    made = junctor(*words.split(), "--policies", "short-first,by-length", "--board", "board")
    assert made.returncode == 0, made.stderr
    (table,) = json.loads((tmp_path / "board" / "board.json").read_text("utf-8"))["tables"]
    rows = {row["policy"]: row for row in table["rows"]}
    assert {"short-first", "by-length", "best-single", "oracle"} <= set(rows)
    assert rows["by-length"]["rank"] == 1
    assert rows["by-length"]["clears_the_cheap_bars"] == "yes"
    quality = {name: row["figures"]["quality"][0] for name, row in rows.items()}
    assert quality["short-first"] > quality["cheapest"], "without a knob it has no curve, but a quality"
    assert "short-first" in (tmp_path / "board" / "README.md").read_text("utf-8")
    assert "found here" in junctor("policies", "by-length", "--board", "board/board.json").stdout
