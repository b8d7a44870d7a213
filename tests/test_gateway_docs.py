"""The pages under docs/gateway: every configuration in them loads, every program in them runs, every command exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.core

from junctor.build import build_service
from junctor.cli import app
from junctor.config import parse_config

PAGES = Path(__file__).parent.parent / "docs" / "gateway"
MINE = ("quick-start", "recipes", "deploying", "cache", "migrating-from-litellm")


def blocks(page: str, kind: str) -> list[str]:
    text = (PAGES / f"{page}.md").read_text("utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Tables of both; the page's own win."""
    out = dict(base)
    for key, value in more.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


BASE = tomllib.loads(blocks("quick-start", "toml")[0])
CONFIGS = [pytest.param(text, id=f"{page}-{i}") for page in MINE for i, text in enumerate(blocks(page, "toml"))]


@pytest.mark.parametrize("text", CONFIGS)
async def test_every_configuration_works(text: str, tmp_path: Path, monkeypatch) -> None:
    for name in ("OPENAI_API_KEY", "THERE_KEY"):
        monkeypatch.setenv(name, "sk-of-a-test")
    monkeypatch.setenv("JUNCTOR_STATE", "sqlite:state.db")
    tree = tomllib.loads(text)
    config = parse_config(merged(BASE, tree), tmp_path)
    service = build_service(config)
    assert set(tree.get("aliases", {})) <= set(service.engine.aliases)
    await service.aclose()


def test_the_program_of_the_quick_start_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    scripted = re.sub(r'kind = "openai_compatible"\n.*\n.*\n', 'kind = "scripted"\n', blocks("quick-start", "toml")[0])
    (tmp_path / "junctor.toml").write_text(scripted)
    monkeypatch.chdir(tmp_path)
    (program,) = blocks("quick-start", "python")
    exec(compile(program, "quick-start.md", "exec"), {})
    said = capsys.readouterr().out
    assert "ok gpt-4o-mini" in said
    assert "mean cost" in said


def test_every_command_exists() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    known = dict(group.commands)
    found = 0
    for page in MINE:
        for line in "\n".join(blocks(page, "sh")).splitlines():
            for call in re.findall(r"\bjunctor ([a-z]+)((?: --?[a-z-]+| [a-z]+)*)", line):
                name, rest = call
                if name not in known:
                    assert "docker" in line or "kubectl" in line, line
                    continue
                command = known[name]
                words = rest.split()
                if isinstance(command, typer.core.TyperGroup) and words:
                    command = command.commands[words[0]]
                flags = {opt for param in command.params for opt in param.opts}
                assert {word for word in words if word.startswith("-")} <= flags, line
                found += 1
    assert found >= 10
