"""Adapter banks: exact against slow references, and the properties that define them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from junctor.errors import UserError
from junctor.layers.adapters import (
    AdaptedLinear,
    CoreBank,
    LimeBank,
    LoraBank,
    PyramidBank,
    bank_from_peft,
    lora_scale,
    read_lora,
)
from junctor.layers.head_wise import mh_moe
from junctor.layers.merging import kalavai
from junctor.layers.plan import Plan
from junctor.layers.selectors import plan_from_mask

D, O, E, R, T = 6, 5, 4, 2, 9  # noqa: E741


def routed(seed: int = 0) -> tuple[Plan, torch.Tensor, torch.Tensor]:
    """A ragged plan, its dense weights (a leaf) and an input; token 0 has no edge."""
    torch.manual_seed(seed)
    chosen = torch.rand(T, E) > 0.5
    chosen[0] = False
    weight = torch.rand(T, E, requires_grad=True)
    return plan_from_mask(chosen, weight), weight, torch.randn(T, D, requires_grad=True)


def stir(module: nn.Module) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.5 * torch.randn_like(p))


def same(got, want, inputs):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    pairs = zip(
        torch.autograd.grad(got.square().sum(), inputs, retain_graph=True),
        torch.autograd.grad(want.square().sum(), inputs, retain_graph=True),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["sorted", "dense"])
def test_lora_bank_equals_a_dense_reference_with_gradients(path):
    plan, weight, x = routed()
    bank = LoraBank(D, O, E, R, alpha=3.0, path=path)
    assert bank(x, plan).abs().max() == 0
    stir(bank)
    dense = plan.dense_TE()
    want = sum(dense[:, e, None] * (x @ bank.down_ERD[e].t() @ bank.up_EOR[e].t()) * 1.5 for e in range(E))
    same(bank(x, plan), want, (x, weight, *bank.parameters()))
    assert bank(x, plan)[0].abs().max() == 0


def test_core_merge_equals_the_sum_of_per_expert_outputs():
    plan, weight, x = routed(1)
    bank = CoreBank(D, O, E, R)
    stir(bank)
    same(bank(x, plan), bank.per_expert(x, plan), (x, weight, *bank.parameters()))
    assert sum(p.numel() for p in bank.parameters()) == R * (D + O) + E * R * R


def test_pyramid_reparameterised_weight_equals_the_routed_sum_for_a_fixed_task():
    torch.manual_seed(2)
    bank = PyramidBank(D, O, (1, 2, 4))
    stir(bank)
    weight = torch.rand(3, requires_grad=True)
    x = torch.randn(T, D, requires_grad=True)
    plan = plan_from_mask(torch.ones(T, 3, dtype=torch.bool), weight.expand(T, 3))
    same(bank(x, plan), x @ bank.reparameterised(weight).t(), (x, weight, *bank.parameters()))
    with pytest.raises(UserError):
        PyramidBank(D, O, (0, 1))


def test_lime_starts_as_plain_lora_and_its_merge_is_the_sum_of_outputs():
    plan, weight, x = routed(3)
    bank = LimeBank(D, O, E, R)
    with torch.no_grad():
        bank.up.weight.normal_()
    one = plan_from_mask(torch.ones(T, E, dtype=torch.bool), torch.rand(T, E).softmax(-1))
    torch.testing.assert_close(bank(x, one), bank.delta(x))
    stir(bank)
    dense = plan.dense_TE()
    want = sum(dense[:, e, None] * bank.delta(x) * bank.modulation_EO[e] for e in range(E)) + bank.delta(x) * bank.shared_O
    same(bank(x, plan), want, (x, weight, *bank.parameters()))


def test_adapted_linear_keeps_the_frozen_layer_and_trains_bank_and_gate():
    layer = AdaptedLinear(nn.Linear(D, O), LoraBank(D, O, E, R), kalavai(D, E))
    x = torch.randn(2, 3, D)
    torch.testing.assert_close(layer(x), layer.linear(x))
    stir(layer.bank)
    layer(x).square().sum().backward()
    assert layer.linear.weight.grad is None
    assert layer.gate.scorer.weight_ED.grad.abs().max() > 0
    with pytest.raises(UserError):
        AdaptedLinear(nn.Linear(D, O), LoraBank(D, O, E, R))(x)
    with pytest.raises(UserError):
        AdaptedLinear(nn.Linear(D, O), LoraBank(O, D, E, R))
    with pytest.raises(UserError):
        AdaptedLinear(nn.Linear(D, O), LoraBank(D, O, E, R), kalavai(D, E + 1))


@pytest.mark.parametrize("kind", [LoraBank, CoreBank, LimeBank])
def test_banks_zero_tokens_half_precision_and_misfits(kind):
    bank = kind(D, O, E, R)
    none = plan_from_mask(torch.zeros(0, E, dtype=torch.bool), torch.zeros(0, E))
    assert bank(torch.zeros(0, D), none).shape == (0, O)
    plan, _, x = routed()
    stir(bank)
    low = bank.to(torch.bfloat16)(x.bfloat16(), plan.with_weights(plan.weight_N.bfloat16()))
    assert low.dtype == torch.bfloat16
    assert bool(low.isfinite().all())
    with pytest.raises(UserError):
        bank(x[:3], plan)
    with pytest.raises(UserError):
        kind(D, O, 0, R)


def peft_state(rank: int, saved: bool, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    head = "base_model.model." if saved else ""
    tail = "" if saved else ".default"
    module = "layers.0.q_proj"
    return {
        f"{head}{module}.lora_A{tail}.weight": torch.randn(rank, D),
        f"{head}{module}.lora_B{tail}.weight": torch.randn(O, rank),
    }


def test_bank_from_peft_weights_of_different_rank_and_scale():
    states = [(peft_state(2, True, 0), {"lora_alpha": 8}), (peft_state(4, False, 1), {"lora_alpha": 8, "use_rslora": True})]
    bank, x = bank_from_peft(states, "layers.0.q_proj"), torch.randn(T, D)
    for e, (state, _) in enumerate(states):
        down, up = state.values()
        one_hot = torch.zeros(T, 2)
        one_hot[:, e] = 1
        torch.testing.assert_close(bank(x, plan_from_mask(one_hot > 0, one_hot)), x @ down.t() @ up.t() * 4)


def test_peft_weights_that_are_not_plain_lora_are_refused():
    good = peft_state(2, True, 0)
    assert lora_scale({"lora_alpha": 8, "alpha_pattern": {"q_proj": 2}}, 2, "layers.0.q_proj") == 1.0
    with pytest.raises(UserError, match="plain LoRA"):
        read_lora({"m.lora_magnitude_vector.default.weight": torch.ones(2)})
    with pytest.raises(UserError, match="both"):
        read_lora(dict(list(good.items())[:1]))
    with pytest.raises(UserError, match="does not cover"):
        bank_from_peft([(good, {"lora_alpha": 1})], "other")
    with pytest.raises(UserError, match="lora_alpha"):
        bank_from_peft([(good, {})], "layers.0.q_proj")
    two = {"m.lora_A.a.weight": torch.ones(1, 1), "m.lora_A.b.weight": torch.ones(1, 1)}
    with pytest.raises(UserError, match="two adapters"):
        read_lora(two)
    with pytest.raises(UserError, match="A is"):
        read_lora({"m.lora_A.weight": torch.ones(2, 2), "m.lora_B.weight": torch.ones(2, 3)})


def test_a_gate_over_heads_is_refused() -> None:
    with pytest.raises(UserError, match="parts of tokens"):
        AdaptedLinear(nn.Linear(8, 4), LoraBank(8, 4, 3), mh_moe(8, 3, heads=4))
