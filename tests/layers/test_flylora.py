"""FlyLoRA: no gate parameter, a nearly orthogonal projection, and what each form of its bias does to the load."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from junctor.errors import UserError
from junctor.layers.flylora import RankBank, flylora, flylora_adapter, flylora_released, gram
from junctor.layers.plan import RouteContext


def imbalance(form: str, steps: int = 300, rate: float = 0.02) -> tuple[float, float]:
    """Largest count over the mean minus one after so many updates, and the largest shift."""
    gate = flylora(64, 16, 4, form="magnitude" if form == "none" else form, rate=rate)
    gate.scorer.down_ED.copy_(torch.randn(16, 64, generator=torch.Generator().manual_seed(1)) / 8)
    gate.scorer.down_ED.mul_(torch.linspace(0.8, 1.2, 16)[:, None])
    draw = torch.Generator().manual_seed(0)
    loads = torch.zeros(16)
    for step in range(steps):
        plan, _ = gate(RouteContext(x_TD=torch.randn(128, 64, generator=draw)))
        if form != "none":
            gate.balancer.update(plan.counts_E)
        if step >= steps - 40:
            loads += plan.counts_E
    return (loads.max() / loads.mean() - 1).item(), gate.balancer.bias_E.abs().max().item()


def test_the_released_bias_unbalances_and_the_magnitude_bias_balances():
    (still, _), (released, grown), (ours, kept) = imbalance("none"), imbalance("released"), imbalance("magnitude")
    assert ours < 0.5 * still < still < released
    assert grown > 2 * kept


def test_no_gate_parameter_near_diagonal_gram_and_share_of_nonzero():
    gate = flylora(2000, 16, 4)
    assert not list(gate.parameters())
    assert "scorer.down_ED" in gate.state_dict()
    assert (gate.scorer.down_ED != 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    made = gram(gate)
    off = made - torch.diag(made.diagonal())
    assert off.abs().max() < 0.15 * made.diagonal().mean()


def test_adapter_equals_the_masked_product_with_gradients():
    torch.manual_seed(0)
    layer, x = flylora_adapter(nn.Linear(10, 6), rank=8, k=2), torch.randn(2, 5, 10, requires_grad=True)
    torch.testing.assert_close(layer(x), layer.linear(x))
    nn.init.normal_(layer.bank.up_OE)
    y = x.reshape(-1, 10) @ layer.gate.scorer.down_ED.t()
    mask = torch.zeros_like(y).scatter(1, y.abs().topk(2).indices, 1.0)
    want = layer.linear(x) + ((y * mask) @ layer.bank.up_OE.t() * 2.0).reshape(2, 5, 6)
    torch.testing.assert_close(layer(x), want)
    inputs = (x, layer.bank.up_OE)
    for a, b in zip(
        torch.autograd.grad(layer(x).square().sum(), inputs), torch.autograd.grad(want.square().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_shift_changes_the_choice_and_never_the_weights():
    gate, x = flylora(10, 8, 2), torch.randn(20, 10)
    gate.balancer.bias_E[3] = 100.0
    plan, scores = gate(RouteContext(x_TD=x))
    assert plan.counts_E[3] == 20
    torch.testing.assert_close(plan.dense_TE()[:, 3], scores.logits_TE[:, 3])


def test_bad_input():
    assert flylora_released(10, 8).balancer.form == "released"
    for call in (lambda: flylora(10, 4, 5), lambda: flylora(10, 4, 2, form="other"), lambda: RankBank(4, 4, 0)):
        with pytest.raises(UserError):
            call()
    gate = flylora(10, 8)
    with pytest.raises(UserError):
        gate(RouteContext(x_TD=torch.full((2, 10), float("nan"))))
    assert gate(RouteContext(x_TD=torch.zeros(0, 10)))[0].edges == 0
    padded, _ = gate(RouteContext(x_TD=torch.randn(2, 10), padding_T=torch.ones(2, dtype=torch.bool)))
    assert padded.edges == 0
    assert gate(RouteContext(x_TD=torch.randn(10, 2).t().half()))[1].logits_TE.dtype == torch.float32
