"""What docs/plans.md shows works as it stands there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from junctor import registry
from junctor.build import build_engine
from junctor.config import parse_config
from junctor.plans.contracts import Given, Trace
from junctor.providers.embedded import EMBEDDED
from junctor.types import Cascade, Request

PAGE = (Path(__file__).parents[2] / "docs" / "plans.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_configuration_decides(tmp_path):
    """The page's table of settings over the embedded pool."""
    shown = tomllib.loads(blocks("toml")[0])
    targets = {t.id: {"provider": "embedded", "model": t.model} for t in EMBEDDED}
    tree = {"providers": {"embedded": {}}, "targets": targets, "journal": {"path": ""}, **shown}
    engine = build_engine(parse_config(tree, tmp_path), dry_run=True)
    routed = engine.route(Request(text="2 + 2"), "careful")
    assert isinstance(routed.decision.plan, Cascade)
    assert routed.decision.target == "arithmetic"


def test_the_rule_judges():
    """The page's class, as it is written there."""
    space: dict[str, object] = {"__name__": "my_package.rules"}
    exec(compile(blocks("python")[0], "plans.md", "exec", dont_inherit=True), space)
    rule = space["LongEnough"](words=2)
    trace = Trace(query="q", answers=(Given(target="t", text="one two"),))
    assert rule.judge(trace).accept
    assert not rule.judge(Trace(query="q", answers=(Given(target="t", text="one"),))).accept


@pytest.mark.parametrize("kind", ["accept", "aggregate"])
def test_every_rule_is_on_the_page(kind):
    """And under its registered name."""
    for entry in registry.entries(kind):
        assert f"| `{entry.name}` |" in PAGE


def test_the_policies_on_the_page_exist():
    """All four."""
    for name in ("frugalgpt", "automix", "routerbench-cascade", "acar"):
        assert f"| `{name}` |" in PAGE
        assert registry.load("policy", name).about is not None
