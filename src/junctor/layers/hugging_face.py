"""Our gates inside the MoE blocks of Hugging Face models (Mixtral, OLMoE, Qwen-MoE and those built alike).

Shape suffixes: T tokens, E experts, K experts of the token that has most, D model width, H hidden width.

Such a block has `gate`, a module with a weight [E, D] that returns (logits, weights [T, K], experts [T, K]), and `experts`,
with stacked weights gate_up_proj [E, 2H, D] and down_proj [E, D, H]. Three moves:

    equivalent_gate(block)     the block's own routing as one of our gates, sharing its weight's values: same logits as before
    swap_gate(block, gate)     only the gate is replaced; the block's experts run as before, by the library's own kernels
    to_layer(block, gate)      the block as a MoELayer: our gate and our dispatch on a copy of its experts

Verified against transformers 5.23. The library's recorder of gate logits looks for its own gate class: with a swapped gate,
`output_router_logits` gives none; take losses from the plan instead. Nothing here imports transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.experts import ExpertBank
from junctor.layers.layer import MoELayer, check_scores
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext
from junctor.layers.selectors import TopK
from junctor.layers.upcycle import activation_of


def is_block(module: nn.Module) -> bool:
    """Whether this looks like such a block."""
    gate, experts = getattr(module, "gate", None), getattr(module, "experts", None)
    stacked = all(getattr(getattr(experts, name, None), "ndim", 0) == 3 for name in ("gate_up_proj", "down_proj"))
    return stacked and isinstance(gate, nn.Module)


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The model's MoE blocks by dotted name."""
    return {name: module for name, module in model.named_modules() if is_block(module)}


def _experts(block: nn.Module) -> Any:
    if not is_block(block):
        raise UserError(
            f"{type(block).__name__} has no gate beside stacked experts", field="block", fix="see junctor.layers.hugging_face"
        )
    return cast(Any, block).experts


def equivalent_gate(block: nn.Module) -> Gate:
    """Softmax over all experts, top-k, renormalised where the block does so; a copy of the block's gate weight."""
    experts, theirs = _experts(block), cast(Any, block).gate
    if getattr(theirs, "bias", None) is not None or not hasattr(theirs, "top_k"):
        raise UserError(
            f"{type(theirs).__name__} is not a softmax top-k gate", field="block.gate", fix="build the gate yourself"
        )
    scorer = LinearScorer(theirs.weight.shape[1], experts.gate_up_proj.shape[0])
    with torch.no_grad():
        scorer.weight_ED.copy_(theirs.weight)
    renormalised = bool(getattr(theirs, "norm_topk_prob", True)) and theirs.top_k > 1
    gate = Gate(scorer, TopK(theirs.top_k, "renormalised" if renormalised else "plain"), name="linear")
    return gate.to(theirs.weight.device)


def padded(plan: Plan) -> tuple[Tensor, Tensor]:
    """The plan as (weights [T, K], experts [T, K]): a token with fewer edges than K has expert 0 with weight 0 in the rest."""
    order_N = torch.argsort(plan.token_N, stable=True)
    token_N = plan.token_N[order_N]
    per_T = torch.bincount(token_N, minlength=plan.tokens)
    k = max(int(per_T.max()), 1) if plan.tokens else 1
    place_N = torch.arange(plan.edges, device=token_N.device) - (per_T.cumsum(0) - per_T)[token_N]
    expert_TK = torch.zeros(plan.tokens, k, dtype=torch.int64, device=token_N.device)
    weight_TK = plan.weight_N.new_zeros(plan.tokens, k)
    expert_TK[token_N, place_N] = plan.expert_N()[order_N]
    return weight_TK.index_put((token_N, place_N), plan.weight_N[order_N]), expert_TK


class SwappedGate(nn.Module):
    """One of our gates with the signature of theirs."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, weights and experts of the flattened tokens."""
        x_TD = hidden.reshape(-1, hidden.shape[-1])
        shape = tuple(hidden.shape[:-1]) if hidden.dim() == 3 else ()
        context = RouteContext(x_TD=x_TD, shape=shape, training=self.training)
        plan, scores = self.gate(context)
        check_scores(scores, context)
        weight_TK, expert_TK = padded(plan)
        return scores.logits_TE.to(hidden.dtype), weight_TK.to(hidden.dtype), expert_TK


def _fits(block: nn.Module, gate: Gate, *, allow_non_causal: bool) -> None:
    experts = _experts(block).gate_up_proj.shape[0]
    if gate.experts != experts:
        raise UserError(
            f"the gate knows {gate.experts} experts, the block has {experts}", field="gate", fix=f"experts={experts}"
        )
    if gate.heads > 1:
        raise UserError(
            f"gate {gate.name or 'given'!r} routes parts of tokens", field="gate", fix="a gate over tokens: experts are as wide"
        )
    if not gate.causal and not allow_non_causal:
        raise UserError(
            f"gate {gate.name or 'given'!r} looks at later tokens", field="gate", fix="another gate, or allow_non_causal=True"
        )


def swap_gate(block: nn.Module, gate: Gate, *, allow_non_causal: bool = False) -> nn.Module:
    """Put the gate in place of the block's; returns the block's former gate, to put back."""
    _fits(block, gate, allow_non_causal=allow_non_causal)
    former: nn.Module = cast(Any, block).gate
    cast(Any, block).gate = SwappedGate(gate).train(former.training)
    return former


def swap_gates(model: nn.Module, build: Callable[[nn.Module], Gate], **settings: Any) -> dict[str, nn.Module]:
    """Swap in `build(block)` for every block; returns the former gates by the blocks' names."""
    found = blocks(model)
    if not found:
        raise UserError("the model has no MoE block", field="model", fix="see junctor.layers.hugging_face.is_block")
    return {name: swap_gate(block, build(block), **settings) for name, block in found.items()}


class _SharedExpert(nn.Module):
    """Qwen2-MoE's: sigmoid(w x) times an FFN."""

    def __init__(self, ffn: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.ffn, self.gate = ffn, gate

    def forward(self, x: Tensor) -> Tensor:
        """Output of the shared expert."""
        return torch.sigmoid(cast(Tensor, self.gate(x))) * cast(Tensor, self.ffn(x))


def to_layer(block: nn.Module, gate: Gate | None = None, dispatcher: str = "auto", **settings: Any) -> MoELayer:
    """A MoELayer with a copy of the block's experts; the gate is the block's own, unless given. Put it where the block was."""
    theirs = _experts(block)
    count, double, d_model = theirs.gate_up_proj.shape
    made = {"device": theirs.down_proj.device, "dtype": theirs.down_proj.dtype}
    bank = ExpertBank(count, d_model, double // 2, "glu", activation=activation_of(theirs.act_fn), **made)
    with torch.no_grad():
        bank.w_in_EDI.copy_(theirs.gate_up_proj.transpose(1, 2))
        bank.w_out_EHO.copy_(theirs.down_proj.transpose(1, 2))
    shared = getattr(block, "shared_expert", None)
    if shared is not None:
        shared = _SharedExpert(shared, cast(Any, block).shared_expert_gate)
    layer = MoELayer(gate or equivalent_gate(block), bank, dispatcher, shared=shared, **settings)
    return layer.train(block.training)
