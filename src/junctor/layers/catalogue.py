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
        "linear",
        "junctor.layers.scorers:linear",
        "Shazeer et al. 2017, without its learned noise",
        "faithful",
        "softmax, sigmoid or ReLU of one matrix, top-k",
    ),
    GateEntry(
        "cosine",
        "junctor.layers.scorers:cosine",
        "Chi et al. 2022, X-MoE, section 3.2",
        "adapted",
        "scaled cosine with prototypes, top-k",
    ),
    GateEntry(
        "yuan2",
        "junctor.layers.scorers:yuan2",
        "Wu et al. 2024, Yuan 2.0-M32 (authors' code)",
        "faithful",
        "attention of experts to experts per token, top-k",
    ),
    GateEntry(
        "hyperrouter",
        "junctor.layers.scorers:hyperrouter",
        "Do et al. 2023, HyperRouter (authors' code)",
        "faithful",
        "weights made by a frozen hypernetwork from one trained vector",
    ),
    GateEntry(
        "rmoe",
        "junctor.layers.scorers:rmoe",
        "Qiu et al. 2024, RMoE (authors' code)",
        "faithful",
        "one GRU over the layers' router states",
    ),
    GateEntry(
        "mor",
        "junctor.layers.scorers:mor",
        "Mixture of Routers (abstract), arXiv 2503.23362",
        "adapted",
        "sub-routers' distributions mixed by a main router",
    ),
    GateEntry(
        "hash",
        "junctor.layers.token_hash:hashed",
        "Roller et al. 2021, Hash Layers, section 3",
        "faithful",
        "constant experts per token id",
    ),
    GateEntry(
        "got-smoe",
        "junctor.layers.token_graph:got_smoe",
        "Nguyen et al. 2025, Graph of Tokens (abstract), arXiv 2505.00792",
        "adapted",
        "distributions smoothed over similar or attended tokens",
    ),
    GateEntry(
        "gnn-moe",
        "junctor.layers.token_graph:gnn_moe",
        "GNN-MoE (abstract)",
        "adapted",
        "scores convolved over the nearest tokens",
        causal=False,
    ),
    GateEntry(
        "mh-moe",
        "junctor.layers.head_wise:mh_moe",
        "Head-wise routing for continual learning (abstract), arXiv 2602.12587; not the sub-token MH-MoE",
        "adapted",
        "each head's part of a token routed by itself",
    ),
    GateEntry(
        "omnimoe",
        "junctor.layers.product_keys:omnimoe",
        "OmniMoE (authors' code)",
        "adapted",
        "product keys: the best pairs of two short lists",
    ),
    GateEntry(
        "lime",
        "junctor.layers.zero_parameter:lime",
        "LiME (authors' code, in part)",
        "adapted",
        "no parameters: the first channels are the scores, count by threshold",
    ),
    GateEntry(
        "stablemoe",
        "junctor.layers.stable_routes:stablemoe",
        "Dai et al. 2022, StableMoE (authors' code)",
        "faithful",
        "learned routes distilled into token ids, then frozen",
    ),
    GateEntry(
        "competesmoe",
        "junctor.layers.competition:competesmoe",
        "CompeteSMoE (authors' code)",
        "adapted",
        "on some steps all experts answer and the loudest win",
    ),
    GateEntry(
        "erc",
        "junctor.layers.coupling:erc",
        "Expert-router coupling loss (abstract)",
        "adapted",
        "an expert should answer its own router row most",
    ),
    GateEntry(
        "mofme",
        "junctor.layers.uncertain:mofme_gate",
        "Zhang et al. 2023, MoFME (abstract), arXiv 2312.16610",
        "adapted",
        "readings under dropout, weighed down where they disagree",
    ),
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
        "Jiang et al. 2021, Switch and Mixture (abstract), arXiv 2110.07431",
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
    GateEntry(
        "smear",
        "junctor.layers.merging:smear",
        "Muqeeth et al. 2023, Soft Merging of Experts with Adaptive Routing",
        "adapted",
        "one distribution per example, for merging the experts' parameters",
        causal=False,
    ),
    GateEntry(
        "kalavai",
        "junctor.layers.merging:kalavai",
        "Kumaresan 2026, KALAVAI (abstract and readme)",
        "adapted",
        "linear and soft over finished specialists, trained last",
    ),
    GateEntry(
        "poly",
        "junctor.layers.task_table:poly",
        "Ponti et al. 2023, Combining Modular Skills; Caccia et al. 2023, Multi-Head Adapter Routing",
        "adapted",
        "one row of skill weights per task",
    ),
    GateEntry(
        "ept",
        "junctor.layers.task_table:ept",
        "EPT, pyramid of adapters (abstract)",
        "adapted",
        "task table over the scales of a pyramid of adapters",
    ),
    GateEntry(
        "phatgoose",
        "junctor.layers.prototypes:phatgoose",
        "Muqeeth et al. 2024, PHATGOOSE",
        "faithful",
        "top-2 of normalised products with vectors trained apart",
    ),
    GateEntry(
        "glider",
        "junctor.layers.prototypes:glider",
        "Glider, global and local scores (abstract)",
        "adapted",
        "an instruction's score beside the token's",
    ),
    GateEntry(
        "dynmole",
        "junctor.layers.dynmole:dynmole",
        "DynMoLE (abstract; public training code)",
        "adapted",
        "every adapter for uncertain tokens, a top-p prefix for the rest",
    ),
    GateEntry(
        "lora-mixer",
        "junctor.layers.adapter_gates:lora_mixer",
        "LoRA-Mixer (abstract)",
        "adapted",
        "hard while the task is known, soft top-k afterwards",
    ),
    GateEntry(
        "comol",
        "junctor.layers.adapter_gates:comol",
        "CoMoL, core-space mixture of LoRA (abstract)",
        "adapted",
        "soft over cores, read from the adapter's own low-rank part",
    ),
    GateEntry(
        "remix",
        "junctor.layers.remix:remix",
        "ReMix (abstract)",
        "adapted",
        "a sampled subset with constant weights, trained by reinforcement",
    ),
    GateEntry(
        "flylora",
        "junctor.layers.flylora:flylora",
        "FlyLoRA (authors' code), bias on |y| + d",
        "adapted",
        "frozen random projection, top-k of magnitude, corrected bias",
    ),
    GateEntry(
        "flylora-released",
        "junctor.layers.flylora:flylora_released",
        "FlyLoRA (authors' code), bias on |y + d|",
        "faithful",
        "the same with the released bias, which unbalances",
    ),
    GateEntry(
        "same",
        "junctor.layers.continual:same",
        "SAME (abstract)",
        "adapted",
        "linear top-k whose updates leave the old tasks' logits alone",
    ),
    GateEntry(
        "t2mir-token",
        "junctor.layers.continual:t2mir_token",
        "T2MIR (authors' code), token-wise half",
        "adapted",
        "noisy top-k",
    ),
    GateEntry(
        "t2mir-task",
        "junctor.layers.continual:t2mir_task",
        "T2MIR (authors' code), task-wise half",
        "adapted",
        "noisy top-k of a pooled task code, with a contrastive loss",
        causal=False,
    ),
    GateEntry(
        "post-moe",
        "junctor.layers.domains:post_moe",
        "Post-MoE, language-family experts (abstract)",
        "adapted",
        "top-k among the experts of the token's language family",
    ),
    GateEntry(
        "multilingual",
        "junctor.layers.domains:multilingual",
        "Multilingual routing in mixture-of-experts (abstract)",
        "adapted",
        "linear top-k, steered towards the pivot language's experts",
    ),
    GateEntry(
        "testam",
        "junctor.layers.domains:least_error",
        "TESTAM (authors' code): gate and losses, not its experts",
        "adapted",
        "top-1, trained as a classifier of which expert errs least",
    ),
    GateEntry(
        "magnet",
        "junctor.layers.domains:magnet",
        "MAGNET (abstract): the gate, not its graph experts",
        "adapted",
        "linear top-k; from coverage to specialisation by entropy",
    ),
)

# Parts of systems that are not gates: `where` is a module to build, with arguments of its own (see its docstring).
SYSTEMS: tuple[GateEntry, ...] = (
    GateEntry(
        "smear-merge",
        "junctor.layers.merging:MergedExperts",
        "Muqeeth et al. 2023, SMEAR",
        "faithful",
        "one pass through the weighted average of the experts' parameters",
        causal=False,
    ),
    GateEntry(
        "mofme-bank",
        "junctor.layers.merging:FilmBank",
        "MoFME (authors' code)",
        "adapted",
        "feature-wise modulations of one shared base",
    ),
    GateEntry(
        "kalavai-fusion",
        "junctor.layers.merging:Fused",
        "Kumaresan 2026, KALAVAI",
        "adapted",
        "frozen specialists mixed per token; the gain is predicted",
    ),
    GateEntry(
        "mhr",
        "junctor.layers.task_table:MhrLinear",
        "Caccia et al. 2023, Multi-Head Adapter Routing",
        "adapted",
        "adapters merged per task and block; -z and -mu forms",
    ),
    GateEntry(
        "lora-bank",
        "junctor.layers.adapters:LoraBank",
        "Hu et al. 2021, LoRA; peft's names and shapes",
        "faithful",
        "LoRA adapters over a frozen linear layer, routed by any plan",
    ),
    GateEntry(
        "comol-bank",
        "junctor.layers.adapters:CoreBank",
        "CoMoL (abstract)",
        "adapted",
        "cores between a shared down- and up-projection",
    ),
    GateEntry(
        "ept-bank",
        "junctor.layers.adapters:PyramidBank",
        "EPT, pyramid of adapters (abstract)",
        "adapted",
        "up-projections of several widths over one subspace",
    ),
    GateEntry(
        "lime-bank",
        "junctor.layers.adapters:LimeBank",
        "LiME (authors' code, in part)",
        "adapted",
        "one shared delta, modulated per expert",
    ),
    GateEntry(
        "flylora-adapter",
        "junctor.layers.flylora:flylora_adapter",
        "FlyLoRA (authors' code)",
        "adapted",
        "ranks as experts over a frozen random projection",
    ),
    GateEntry(
        "uoe-attention",
        "junctor.layers.head_selection:SelectedHeads",
        "Yang et al. 2025, Union of Experts (part of the authors' code)",
        "adapted",
        "attention whose heads are experts, chosen per token",
    ),
    GateEntry(
        "t2mir",
        "junctor.layers.continual:TwoWay",
        "T2MIR (authors' code)",
        "adapted",
        "token-wise and task-wise mixtures, concatenated",
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
