"""A kept figure is of another key as soon as code that it came from changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from junctor.bench import sources


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of somebody's, which imports one of ours."""
    (tmp_path / "somebodys_part.py").write_text("from junctor.estimators import mean\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "somebodys_part.py"


def forget() -> None:
    for cached in (sources._file, sources._digest, sources._imports):
        cached.cache_clear()


def test_a_change_anywhere_below_changes_the_digest(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    first = sources.code_digest("somebodys_part:Config")
    assert first == sources.code_digest("somebodys_part:Config")
    digest = sources._digest
    for touched in ("somebodys_part", "junctor.estimators.mean", "junctor.estimators.measured", "junctor.policy"):
        monkeypatch.setattr(sources, "_digest", lambda name, t=touched: "other" if name == t else digest(name))
        assert sources.code_digest("somebodys_part:Config") != first, touched
    monkeypatch.setattr(sources, "_digest", lambda name: "other" if name == "junctor.gateway.app" else digest(name))
    assert sources.code_digest("somebodys_part:Config") == first, "it does not import the gateway"


def test_what_is_no_module_has_no_digest() -> None:
    assert sources.code_digest("") == ""
    assert sources.code_digest("no.such.module:Config") == ""
