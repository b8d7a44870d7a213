"""Gates by name: which composition a published system is. Importing this loads no torch; building a gate does."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from junctor.errors import UnknownName

if TYPE_CHECKING:
    from junctor.layers.contracts import Gate

Status = Literal["faithful", "adapted", "simulated", "ours"]


@dataclass(frozen=True, slots=True)
class GateEntry:
    """One named gate.

    where    "module:function": called with (d_model, experts, **settings), returns a Gate
    source   paper, section; arXiv id only where we are sure of it
    causal   what its parts declare: a token's route does not depend on later tokens
    summary  one line
    """

    name: str
    where: str
    source: str
    status: Status
    summary: str
    causal: bool = True


GATES: tuple[GateEntry, ...] = ()


def gate(name: str, d_model: int, experts: int, **settings: Any) -> Gate:
    """Build the gate of this name; raises UnknownName with the known ones."""
    entry = next((one for one in GATES if one.name == name), None)
    if entry is None:
        raise UnknownName(f"no gate is called {name!r}", field="gate", fix="known: " + ", ".join(one.name for one in GATES))
    module, _, attribute = entry.where.partition(":")
    build = getattr(importlib.import_module(module), attribute)
    made: Gate = build(d_model, experts, **settings)
    made.name = name
    return made
