"""Merges, adapters and continual gates are found by name and keep what their entries say."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.catalogue import GATES, SYSTEMS, gate
from junctor.layers.plan import RouteContext

MODULES = ("merging", "task_table", "prototypes", "dynmole", "adapter_gates", "remix", "flylora", "continual", "domains")
MINE = [one for one in GATES if one.where.split(":")[0].removeprefix("junctor.layers.") in MODULES]


@pytest.mark.parametrize("entry", MINE, ids=lambda one: one.name)
def test_named_gate_is_built_and_declares_what_its_entry_says(entry):
    made = gate(entry.name, 8, 4)
    assert made.name == entry.name
    assert made.causal == entry.causal
    plan, _ = made(RouteContext(x_TD=torch.randn(6, 8), shape=(2, 3)))
    plan.check()
    again = gate(entry.name, 8, 4)
    again.load_state_dict(made.state_dict())


@pytest.mark.parametrize("entry", MINE, ids=lambda one: one.name)
def test_tokens_on_another_device_are_refused_and_copies_are_whole(entry):
    made = gate(entry.name, 8, 4)
    with pytest.raises(UserError):
        made(RouteContext(x_TD=torch.randn(6, 8, device="meta"), shape=(2, 3)))
    twin = copy.deepcopy(made)
    kept = {id(one) for one in made.modules()}
    assert not [name for name, one in twin.named_modules() if id(one) in kept]
    source = twin.balancer.__dict__.get("source")
    assert source is None or source is twin.scorer.encoder


def test_there_are_nineteen_and_names_are_unique():
    assert len(MINE) == 19
    names = [one.name for one in (*GATES, *SYSTEMS)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("entry", SYSTEMS, ids=lambda one: one.name)
def test_named_system_exists(entry):
    module, _, attribute = entry.where.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))
