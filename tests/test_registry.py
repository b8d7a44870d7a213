"""Names lead to parts; a name that does not, a missing extra and a broken door each say what to do."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint

import pytest

from junctor import registry
from junctor.errors import MissingExtra, UnknownName
from junctor.registry import BUILTIN, GROUPS, Entry


@pytest.mark.parametrize("entry", BUILTIN, ids=lambda e: f"{e.kind}:{e.name}")
def test_every_built_in_part_loads_and_bears_its_name(entry: Entry) -> None:
    part = entry.load()
    assert part.name == entry.name
    assert part.__doc__
    assert entry.summary


def test_names_are_unique_within_and_across_what_a_policy_may_be_called() -> None:
    for kind in GROUPS:
        names = [e.name for e in BUILTIN if e.kind == kind]
        assert len(names) == len(set(names))
    callable_as_policy = [e.name for e in BUILTIN if e.kind in ("policy", "estimator")]
    assert len(callable_as_policy) == len(set(callable_as_policy))


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"no estimator is called 'knm' \(did you mean 'knn'\? known: "):
        registry.load("estimator", "knm")
    with pytest.raises(UnknownName, match="no kind of part is called 'gizmo'"):
        list(registry.entries("gizmo"))


def test_a_missing_package_answers_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name="onnxruntime")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match=r"minilm: needs the package onnxruntime \(pip install 'junctor\[minilm\]'\)"):
        registry.load("encoder", "minilm")


@pytest.mark.parametrize("where", ["junctor.nowhere:Thing", "junctor.types:Nothing"])
def test_a_broken_door_names_itself(where: str) -> None:
    with pytest.raises(UnknownName, match=f"mine: {where} does not exist"):
        Entry("policy", "mine", where).load()


def test_entry_points_are_found_and_never_hide_a_built_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", "junctor.types:Request", "junctor.policies"),
        EntryPoint("random", "junctor.types:Target", "junctor.policies"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "junctor.policies" else [])
    registry.forget()
    try:
        assert registry.find("policy", "mine").summary == "from junctor.types"
        assert registry.load("policy", "random").__name__ == "RandomConfig"
    finally:
        registry.forget()
