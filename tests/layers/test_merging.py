"""SMEAR, MoFME's modulations, KALAVAI: the properties that define them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from junctor.errors import UserError
from junctor.layers.merging import (
    FilmBank,
    Fused,
    MergedExperts,
    divergence,
    fit_router,
    kalavai,
    merged_parameters,
    predicted_gain,
    smear,
)
from junctor.layers.plan import RouteContext
from junctor.layers.selectors import plan_from_mask

D, E = 6, 3


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 8), nn.GELU(), nn.Linear(8, D))


def merged() -> MergedExperts:
    torch.manual_seed(0)
    return MergedExperts(smear(D, E), [mlp() for _ in range(E)])


def test_smear_merged_expert_is_the_weighted_average_of_parameters():
    layer, weight_BE = merged(), torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    made = merged_parameters(list(layer.members), weight_BE)
    for b in range(2):
        by_hand = mlp()
        with torch.no_grad():
            for name, value in by_hand.named_parameters():
                members = [dict(m.named_parameters())[name] for m in layer.members]
                value.copy_(sum(w * p for w, p in zip(weight_BE[b], members, strict=True)))
                torch.testing.assert_close(made[name][b], value)
        x = torch.randn(2, 4, D)
        torch.testing.assert_close(layer.with_weights(x, weight_BE)[b], by_hand(x[b]))


def test_smear_one_hot_is_that_expert_and_gradients_match_a_plain_loop():
    layer, x = merged(), torch.randn(2, 4, D)
    torch.testing.assert_close(layer.with_weights(x, torch.eye(E)[[2, 0]])[0], layer.members[2](x[0]))
    weight = torch.full((2, E), 1 / E, requires_grad=True)
    layer.with_weights(x, weight).square().sum().backward()
    got = [p.grad.clone() for p in layer.members.parameters()]
    got_weight = weight.grad.clone()
    layer.zero_grad(), weight.grad.zero_()
    total = torch.zeros(())
    for b in range(2):
        names = dict(layer.members[0].named_parameters())
        named = {n: sum(weight[b, e] * dict(layer.members[e].named_parameters())[n] for e in range(E)) for n in names}
        total = total + torch.func.functional_call(layer.members[0], named, (x[b],)).square().sum()
    total.backward()
    torch.testing.assert_close(got_weight, weight.grad)
    for one, parameter in zip(got, layer.members.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_smear_gate_is_per_example_ignores_padding_and_says_not_causal():
    gate, x = smear(D, E), torch.randn(8, D)
    padding = torch.tensor([False, False, True, True] * 2)
    plan, scores = gate(RouteContext(x_TD=x, shape=(2, 4), padding_T=padding))
    plan.check()
    assert not gate.causal
    torch.testing.assert_close(scores.probs_TE[0], scores.probs_TE[1])
    assert plan.edges == 4 * E
    x[2] = 1e6
    _, again = gate(RouteContext(x_TD=x, shape=(2, 4), padding_T=padding))
    torch.testing.assert_close(scores.probs_TE, again.probs_TE)


@pytest.mark.parametrize("shape", [(), (2, 4)])
def test_smear_bad_input(shape):
    gate = smear(D, E)
    with pytest.raises(UserError):
        gate(RouteContext(x_TD=torch.full((8, D), float("nan")), shape=shape))
    plan, _ = gate(RouteContext(x_TD=torch.randn(8, D), shape=shape, padding_T=torch.ones(8, dtype=torch.bool)))
    assert plan.edges == 0
    plan, _ = gate(RouteContext(x_TD=torch.zeros(0, D), shape=(0, 4) if shape else ()))
    assert plan.tokens == 0
    plan, scores = gate(RouteContext(x_TD=torch.randn(D, 8).t().half(), shape=shape))
    assert scores.probs_TE.dtype == torch.float32
    assert plan.edges == 8 * E
    with pytest.raises(UserError):
        gate(RouteContext(x_TD=torch.randn(7, D), shape=(2, 4)))


def test_experts_that_differ_cannot_be_merged():
    with pytest.raises(UserError, match="not every expert"):
        merged_parameters([nn.Linear(2, 2), nn.Linear(2, 3)], torch.ones(1, 2))
    with pytest.raises(UserError, match="weights"):
        merged_parameters([nn.Linear(2, 2)], torch.ones(1, 2))
    with pytest.raises(UserError):
        MergedExperts(smear(D, E), [mlp()])


def test_film_identity_returns_the_base_and_parameters_grow_by_2_d_squared():
    base = nn.Linear(D, D)
    bank, x = FilmBank(base, D, E), torch.randn(5, D)
    weight = torch.rand(5, E).softmax(-1)
    plan = plan_from_mask(torch.ones(5, E, dtype=torch.bool), weight)
    torch.testing.assert_close(bank(x, plan), base(x))
    sizes = [sum(p.numel() for p in FilmBank(base, D, e).parameters()) for e in (1, 2)]
    assert sizes[1] - sizes[0] == 2 * D * D + 2 * D


def test_film_equals_a_dense_reference_with_gradients_and_passes_unrouted_tokens():
    torch.manual_seed(1)
    bank, x = FilmBank(nn.Linear(D, D), D, E), torch.randn(7, D, requires_grad=True)
    with torch.no_grad():
        for p in bank.parameters():
            p.add_(0.3 * torch.randn_like(p))
    chosen = torch.rand(7, E) > 0.5
    chosen[0] = False
    weight = torch.rand(7, E, requires_grad=True)
    inputs = (x, weight, *bank.parameters())
    got = bank(x, plan_from_mask(chosen, weight))
    h = bank.base(x)
    y = sum(
        (weight[:, e] * chosen[:, e])[:, None]
        * ((h @ bank.scale_EDD[e].t() + bank.scale_ED[e]) * h + h @ bank.shift_EDD[e].t() + bank.shift_ED[e])
        for e in range(E)
    )
    want = bank.adaptor(torch.where(chosen.any(1)[:, None], y, h))
    torch.testing.assert_close(got, want)
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), inputs), torch.autograd.grad(want.square().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gain_line_has_both_published_constants():
    assert predicted_gain(10.0) == pytest.approx(8.2 - 2.72)
    assert predicted_gain(18.52, "readme") == pytest.approx(12.36, abs=0.02)
    assert divergence(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0])) == pytest.approx(37.5)
    with pytest.raises(UserError):
        predicted_gain(1.0, "other")
    with pytest.raises(UserError):
        divergence(torch.zeros(1), torch.zeros(1))


def fuse(spread: float) -> tuple[float, float, tuple[float, float, float]]:
    """Divergence and gain in per cent, and the mean loss of the best specialist, the uniform average and the fused model.

    Three domains, each with a map `spread` away from the base's, and the same irreducible noise.
    """
    torch.manual_seed(2)
    loss, base = nn.functional.mse_loss, torch.randn(D, 2) * 0.3
    truth = [base + spread * torch.randn(D, 2) for _ in range(3)]
    xs = [4 * torch.eye(D)[e] + 0.5 * torch.randn(60, D) for e in range(3)]
    ys = [one @ w + 0.3 * torch.randn(60, 2) for one, w in zip(xs, truth, strict=True)]
    x, y = torch.cat(xs), torch.cat(ys)
    members = [nn.Linear(D, 2, bias=False) for _ in range(3)]
    with torch.no_grad():
        for member, one, target in zip(members, xs, ys, strict=True):
            member.weight.copy_(torch.linalg.lstsq(one, target).solution.t())
    before = torch.stack([loss(one @ base, target) for one, target in zip(xs, ys, strict=True)])
    after = torch.stack([loss(m(one), target) for m, one, target in zip(members, xs, ys, strict=True)]).detach()
    fused = Fused(kalavai(D, 3), members)
    alone = min(loss(m(x), y).item() for m in members)
    uniform = loss(fused(x), y).item()
    fit_router(fused, [(x, y)], loss, steps=80, lr=0.1)
    assert all(not p.requires_grad for p in fused.members.parameters())
    last = loss(fused(x), y).item()
    return divergence(before, after), 100 * (alone - last) / alone, (alone, uniform, last)


def test_kalavai_gain_grows_with_divergence_and_the_uniform_average_does_not_do():
    found = [fuse(spread) for spread in (0.02, 0.1, 0.5)]
    assert [one[0] for one in found] == sorted(one[0] for one in found)
    assert [one[1] for one in found] == sorted(one[1] for one in found)
    assert found[-1][1] > found[0][1] + 20
    alone, uniform, fused = found[-1][2]
    assert fused < alone < uniform
    with pytest.raises(UserError):
        Fused(kalavai(D, 3), [mlp()])
