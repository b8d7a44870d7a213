"""Our gates in tiny Mixtral, OLMoE and Qwen-MoE models with random weights."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.head_wise import mh_moe
from junctor.layers.hugging_face import blocks, equivalent_gate, padded, swap_gate, swap_gates, to_layer
from junctor.layers.layer import MoELayer
from junctor.layers.linear import LinearScorer
from junctor.layers.selectors import TopK, plan_from_mask

needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
SMALL = {
    "vocab_size": 17,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
}
MODELS: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4},
    "Olmoe": {"num_experts": 4, "norm_topk_prob": False},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 6},
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 8, "norm_topk_prob": True, "head_dim": 4},
}


def model_of(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL, **MODELS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for block in blocks(model).values():
            block.gate.weight.normal_()
    return model


def logits(model: Any) -> Tensor:
    return model(torch.arange(14).reshape(2, 7)).logits.detach()


@needs_transformers
@pytest.mark.parametrize("name", MODELS)
def test_the_equivalent_gate_gives_the_same_logits(name: str) -> None:
    model = model_of(name)
    before = logits(model)
    former = swap_gates(model, equivalent_gate)
    assert len(former) == 2
    torch.testing.assert_close(logits(model), before, rtol=1e-6, atol=1e-6)


@needs_transformers
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dispatcher", ["fused", "slices"])
def test_blocks_turned_into_our_layers_give_the_same_logits(name: str, dispatcher: str) -> None:
    model = model_of(name)
    before = logits(model)
    for layer in model.model.layers:
        layer.mlp = to_layer(layer.mlp, dispatcher=dispatcher)
    assert any(isinstance(module, MoELayer) for module in model.modules())
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)


@needs_transformers
def test_another_gate_changes_the_logits_and_the_former_one_restores_them() -> None:
    model = model_of("Mixtral")
    before = logits(model)
    former = swap_gates(model, lambda block: Gate(LinearScorer(8, 4, "sigmoid", std=1.0), TopK(1, "plain")))
    assert not torch.allclose(logits(model), before)
    for name, block in blocks(model).items():
        block.gate = former[name]
    assert torch.equal(logits(model), before)


@needs_transformers
def test_a_swapped_gate_learns() -> None:
    model = model_of("Olmoe")
    swap_gates(model, equivalent_gate)
    model(torch.arange(14).reshape(2, 7)).logits.square().sum().backward()
    for block in blocks(model).values():
        assert block.gate.gate.scorer.weight_ED.grad.abs().sum() > 0  # type: ignore[union-attr]


@needs_transformers
def test_what_does_not_fit_is_refused() -> None:
    block = next(iter(blocks(model_of("Mixtral")).values()))
    with pytest.raises(UserError, match="knows 5 experts, the block has 4"):
        swap_gate(block, Gate(LinearScorer(8, 5), TopK(2)))
    sees = type("Sees", (TopK,), {"causal": False})
    with pytest.raises(UserError, match="parts of tokens"):
        swap_gate(block, mh_moe(8, 4, heads=2))
    with pytest.raises(UserError, match="looks at later tokens"):
        swap_gate(block, Gate(LinearScorer(8, 4), sees(2)))
    swap_gate(block, Gate(LinearScorer(8, 4), sees(2)), allow_non_causal=True)


def test_other_modules_are_refused() -> None:
    with pytest.raises(UserError, match="no gate beside stacked experts"):
        equivalent_gate(nn.Linear(2, 2))
    with pytest.raises(UserError, match="no MoE block"):
        swap_gates(nn.Linear(2, 2), equivalent_gate)


def test_a_ragged_plan_is_padded_with_weight_zero() -> None:
    chosen_TE = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    weight_TE = torch.rand(3, 3)
    weight_TK, expert_TK = padded(plan_from_mask(chosen_TE, weight_TE))
    assert expert_TK.tolist() == [[0, 2], [0, 0], [1, 0]]
    torch.testing.assert_close(torch.zeros(3, 3).scatter_add(1, expert_TK, weight_TK), weight_TE * chosen_TE)
