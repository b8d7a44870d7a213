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


GATES: tuple[GateEntry, ...] = (
    GateEntry(
        "top-k",
        "junctor.layers.balancing:balanced_top_k",
        "Fedus et al. 2021 (Switch); Zoph et al. 2022 (ST-MoE)",
        "faithful",
        "linear, top-k, Switch loss and z-loss",
    ),
    GateEntry(
        "loss-free",
        "junctor.layers.balancing:loss_free",
        "Wang et al. 2024, algorithm 1, arXiv 2408.15664",
        "faithful",
        "top-k of s + b; the bias moves between optimiser steps",
    ),
    GateEntry(
        "bip",
        "junctor.layers.bip:bip",
        "Binary-integer-programming balance, arXiv 2502.15451",
        "adapted",
        "top-k of s - q, prices solved in the batch or from the tokens before",
        causal=False,
    ),
    GateEntry(
        "base",
        "junctor.layers.assignment:base",
        "Lewis et al. 2021, BASE Layers, section 2",
        "faithful",
        "balanced assignment in training (auction), argmax in evaluation",
        causal=False,
    ),
    GateEntry(
        "ssr",
        "junctor.layers.sinkhorn:ssr",
        "Selective Sinkhorn Routing (abstract)",
        "adapted",
        "transport plan on a share of the steps, top-k on the rest",
        causal=False,
    ),
    GateEntry(
        "ec-dlm",
        "junctor.layers.expert_choice:ec_dlm",
        "Zhou et al. 2022, section 3; expert-choice diffusion LMs (abstract)",
        "adapted",
        "experts take their top C tokens, C by the mask ratio",
        causal=False,
    ),
    GateEntry(
        "pmoe",
        "junctor.layers.expert_choice:pmoe",
        "Chowdhury et al. 2023, patch-level routing",
        "adapted",
        "each expert takes l patches of an image",
        causal=False,
    ),
    GateEntry(
        "dynamic-moe",
        "junctor.layers.top_p:dynamic_moe",
        "Huang et al. 2024, Harder Tasks Need More Experts, section 3",
        "faithful",
        "top-p, entropy loss",
    ),
    GateEntry(
        "entropy-hybrid",
        "junctor.layers.top_p:entropy_hybrid",
        "DynMoLE's rule (abstract)",
        "adapted",
        "all experts for undecided tokens, top-p for the rest",
    ),
    GateEntry(
        "adamoe",
        "junctor.layers.null_experts:adamoe",
        "Zeng et al. 2024, AdaMoE, section 3",
        "faithful",
        "top-k over real and null experts",
    ),
    GateEntry(
        "blockffn",
        "junctor.layers.blockffn:blockffn",
        "Song et al. 2025, BlockFFN, section 3",
        "faithful",
        "ReLU scores, RMSNorm, locality and chunk losses",
    ),
    GateEntry(
        "da-moe",
        "junctor.layers.variable_k:da_moe",
        "DA-MoE, dynamic expert allocation (abstract)",
        "adapted",
        "experts per token by received attention",
        causal=False,
    ),
    GateEntry(
        "dynamoe",
        "junctor.layers.variable_k:dynamoe",
        "DynaMoE (abstract)",
        "adapted",
        "experts above a threshold, at most a number set by depth",
    ),
    GateEntry(
        "smile",
        "junctor.layers.hierarchy:smile",
        "He et al. 2022, SMILE, section 3",
        "adapted",
        "one node, one expert in it; a balance loss per level",
    ),
    GateEntry(
        "sam",
        "junctor.layers.hierarchy:sam",
        "Jiang et al. 2021, Switch and Mixture (abstract)",
        "adapted",
        "one group, top-k inside it",
    ),
    GateEntry(
        "locmoe",
        "junctor.layers.hierarchy:locmoe",
        "Li et al. 2024, LocMoE (abstract)",
        "adapted",
        "top-k with a pull to local experts",
    ),
    GateEntry(
        "rexmoe",
        "junctor.layers.reuse:rexmoe",
        "ReXMoE (abstract)",
        "adapted",
        "neighbouring layers' experts, let in step by step",
    ),
    GateEntry(
        "uoe",
        "junctor.layers.partition:uoe",
        "Yang et al. 2025, Union of Experts",
        "adapted",
        "parts of a dense block, gate normalised over the batch",
        causal=False,
    ),
)


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
