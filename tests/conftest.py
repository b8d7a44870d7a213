"""Shared by all tests: where recorded data lies, and no cache outside the test's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding caches of one test run are shared between its tests, and never touch the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "xdg-cache"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded outcome data; tests that need it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip("the recorded outcome data does not lie beside this repository (../shared/data)")
    return DATA
