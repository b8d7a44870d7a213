"""Every example runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_runs_and_prints_something(path: Path) -> None:
    ran = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    assert ran.stderr == ""


@pytest.mark.slow
def test_the_in_process_example_answers_right() -> None:
    [path] = [path for path in EXAMPLES if path.name == "in_process.py"]
    said = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True, timeout=100).stdout
    assert "noitcnuj" in said
    assert "Paris" in said
