"""Shared by all tests: where recorded data lies, no cache outside the test's own folder, and the command line."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding caches of one test run are shared between its tests, and never touch the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "xdg-cache"))


@pytest.fixture(autouse=True)
def _no_walk_of_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway looks through the whole heap once when it starts: nothing in its own process, a second in one full of tests."""
    serving = sys.modules.get("junctor.gateway.serving")
    if serving is not None:
        monkeypatch.setattr(serving, "_calm_collector", contextlib.nullcontext)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded outcome data; tests that need it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip("the recorded outcome data does not lie beside this repository (../shared/data)")
    return DATA


class Ran:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def junctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a command in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")

    from junctor.cli import main

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["junctor", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ran(int(ended.value.code or 0), printed.out, printed.err)

    return run
