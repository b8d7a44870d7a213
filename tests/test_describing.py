"""What is known of each registered part: complete for ours, honest for others', and quick to find out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar, get_args

import pytest

from junctor import registry
from junctor.about import FAMILIES, Status
from junctor.describing import BROKEN, PLUG_IN, described, description, shown
from junctor.errors import UnknownName
from junctor.meanings import meanings
from junctor.policies.random import RandomConfig

OURS = [entry for entry in registry.BUILTIN if entry.kind in ("estimator", "policy")]
PUBLISHED = (
    "knn avengers uniroute routerretriever icl-router carrot tryage hybrid-llm routerbench-mlp scope hallucibot radar "
    "routellm-mf routellm-sw model-sat elo routerdc ragrouter graphrouter lookahead r2-router ellie-sql fusionfactory coe "
    "arch-router gqr vllm-sr adaptdhm vlm-continual greenserv barp linucb thompson epsilon-greedy exp3 port "
    "greedy-feasible lp-offline batch-split frugalgpt automix routerbench-cascade acar stack"
)


def test_every_published_way_is_registered() -> None:
    assert set(PUBLISHED.split()) <= {entry.name for entry in OURS}


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry.name)
def test_every_part_of_ours_says_where_it_comes_from(entry: registry.Entry) -> None:
    about = entry.load().about
    assert about is not None, f"{entry.where} needs an `about`"
    assert about.family in FAMILIES
    assert about.status in get_args(Status)
    for said in (about.title, about.source, about.formula, about.complexity):
        assert said.strip()
    if about.status in ("adapted", "simulated"):
        assert about.adapted, "say what replaces what"
    assert about.link == "" or about.link.startswith("https://")
    assert all(claim.figure and claim.on for claim in about.claims)


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry.name)
def test_every_setting_of_ours_is_explained(entry: registry.Entry) -> None:
    found = description(entry.name)
    assert found.why == ""
    assert [one.name for one in found.settings if not one.meaning] == [], f"say it in the docstring of {entry.where}"


def test_describing_all_of_them_is_quick_and_imports_no_learner() -> None:
    """torch and scikit-learn are for fitting: a list must not wait for them."""
    code = (
        "import json, sys, time\n"
        "from junctor.cli import app\n"
        "started = time.perf_counter()\n"
        "from junctor.describing import described\n"
        "names = [one.name for one in described()]\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'polars', 'matplotlib', 'faiss', 'ray', 'onnxruntime'} & set(sys.modules)\n"
        "print(json.dumps([len(names), sorted(heavy), time.perf_counter() - started]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, heavy, seconds = json.loads(done.stdout)
    assert count >= len(OURS)
    assert heavy == []
    assert seconds < 5.0, "about half a second on a quiet machine"


def test_what_a_part_can_do_is_told_from_its_classes() -> None:
    found = {one.name: one for one in described()}
    assert found["linucb"].learns
    assert not found["knn"].learns
    assert found["knn"].onboards
    assert not found["coe"].onboards
    assert found["automix"].replays
    assert not found["best-single"].replays
    assert found["label-table"].needs == ("labels",)
    assert found["stack-labels"].needs == ("embedding", "labels")
    assert found["random"].needs == ()
    assert found["rules"].needs is None, "it cannot be made without a setting"


@dataclass(frozen=True, kw_only=True)
class Elsewhere(RandomConfig):
    """fallbacks: as elsewhere; speed: how fast."""

    name: ClassVar[str] = "elsewhere"
    about = None
    speed: float = float("inf")


def test_a_plug_in_without_about_and_a_broken_one_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("elsewhere", f"{__name__}:Elsewhere", "junctor.policies"),
        EntryPoint("torn", "no_such_package.torn:Config", "junctor.policies"),
        EntryPoint("wrong", "json:dumps", "junctor.policies"),
    ]
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Elsewhere.__module__])
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "junctor.policies" else [])
    registry.forget()
    try:
        found = {one.name: one for one in described(("policy",))}
        assert (found["elsewhere"].status, found["elsewhere"].family) == (PLUG_IN, "")
        said = {one.name: one.meaning for one in found["elsewhere"].settings}
        assert said == {"fallbacks": "how many of the next best stand by in the plan", "speed": "how fast"}
        assert found["torn"].status == BROKEN
        assert "needs the package no_such_package" in found["torn"].why
        assert found["wrong"].status == BROKEN
        assert {one.name for one in described(("policy",), "online")} >= {"linucb"}
    finally:
        registry.forget()


def test_an_unknown_name_or_family_says_what_there_is() -> None:
    with pytest.raises(UnknownName, match="did you mean 'uniroute'"):
        description("unirote")
    with pytest.raises(UnknownName, match="families: bars; "):
        described(family="offline")


class Base:
    """Shared.

    rate          of learning
    first, last   the ends
        of it all
    """


class Derived(Base):
    """kind: round (edge, curve) or none; rate: of steps. With a rate nothing is tuned: that is final.

    weight   what counts; height likewise for lengths
    steep    as elsewhere
    """


class Wordless:
    pass


def test_meanings_are_read_in_both_manners_and_inherited() -> None:
    names = ["kind", "rate", "first", "last", "weight", "height", "edge", "final", "nowhere", "steep"]
    assert meanings(Derived, names) == {
        "kind": "round (edge, curve) or none",
        "rate": "of steps. With a rate nothing is tuned: that is final",
        "first": "the ends of it all",
        "last": "the ends of it all",
        "weight": "what counts; height likewise for lengths",
        "height": "(after `weight`) likewise for lengths",
        "edge": "of round, see `kind`",
        "final": "see `kind`",
        "steep": "as elsewhere",
    }
    assert meanings(Wordless, ["rate"]) == {"rate": "AdamW's learning rate"}
    assert meanings(Derived, []) == {}


def test_values_are_shown_as_people_write_them() -> None:
    values = [None, True, "auto", "", "\n", 0.5, (1, 2), {}]
    assert [shown(value) for value in values] == ["none", "true", "auto", '""', '"\\n"', "0.5", "[1,2]", "{}"]
