"""Every gate of the catalogue passes the conformance suite."""

from __future__ import annotations

from typing import Any

import pytest

from junctor.errors import UserError
from junctor.layers.catalogue import GATES, gate
from junctor.layers.experts import ExpertBank
from junctor.layers.layer import MoELayer
from junctor.testing import check_gate

SPECIAL: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize("name", [entry.name for entry in GATES])
def test_gate(name: str) -> None:
    check_gate(lambda d_model, experts: gate(name, d_model, experts), **SPECIAL.get(name, {}))


@pytest.mark.parametrize("entry", GATES, ids=lambda entry: entry.name)
def test_the_catalogue_says_what_the_parts_declare(entry: Any) -> None:
    made = gate(entry.name, 16, 16)
    assert made.causal == entry.causal
    assert entry.summary
    assert entry.source
    bank = ExpertBank(made.experts, 16, 4)
    if not entry.causal:
        with pytest.raises(UserError, match="looks at later tokens"):
            MoELayer(made, bank)


def test_names_are_unique_and_an_unknown_one_is_refused() -> None:
    names = [entry.name for entry in GATES]
    assert len(set(names)) == len(names)
    with pytest.raises(UserError, match="no gate is called 'none'"):
        gate("none", 8, 4)
