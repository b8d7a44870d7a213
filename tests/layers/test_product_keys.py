"""Product keys: the k best pairs equal the k best of all N² scores, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.plan import RouteContext
from junctor.layers.product_keys import omnimoe, product_top_k

T, D, N = 9, 6, 5


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randn(T, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [N, 3])
@pytest.mark.parametrize("k", [1, 2, N, N + 2, N * 3])
def test_product_top_k_is_brute_force_top_k(k: int, side: int) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        left, right = torch.randn(T, side, generator=generator), torch.randn(T, N, generator=generator)
        value, index = product_top_k(left, right, k)
        brute = (left[:, :, None] + right[:, None, :]).flatten(1).topk(k, dim=1)
        assert torch.equal(value, brute.values)
        assert torch.equal(index, brute.indices)


def test_ties_still_give_k_different_experts_of_the_best_value() -> None:
    value, index = product_top_k(torch.zeros(2, N), torch.zeros(2, N), 7)
    assert (value == 0).all()
    assert all(len(set(row.tolist())) == 7 for row in index)


@pytest.mark.parametrize("normalise", ["token", "batch"])
@pytest.mark.parametrize("experts", [N * N, 8, 7])
def test_the_gate_equals_the_dense_reference(normalise: str, experts: int) -> None:
    gate = omnimoe(D, experts, 3, normalise=normalise)
    x_TD = tokens().requires_grad_()
    plan, scores = gate(RouteContext(x_TD))
    plan.check()
    reference: Gate = Gate(gate.scorer, gate.selector)
    slow, slow_scores = reference(RouteContext(x_TD))
    torch.testing.assert_close(plan.dense_TE(), slow.dense_TE())
    torch.testing.assert_close(scores.probs_TE, slow_scores.probs_TE)
    torch.testing.assert_close(scores.probs_TE.sum(1), torch.ones(T))
    weight = torch.arange(float(experts))
    leaves = [x_TD, gate.scorer.weight_SD]
    fast_grad = torch.autograd.grad((plan.dense_TE() * weight).sum(), leaves)
    slow_grad = torch.autograd.grad((slow.dense_TE() * weight).sum(), leaves)
    torch.testing.assert_close(fast_grad, slow_grad)


def test_a_million_experts_make_two_thousand_columns() -> None:
    gate = omnimoe(D, 1_000_000, 4)
    plan, scores = gate(RouteContext(tokens()))
    assert plan.edges == 4 * T
    assert plan.experts == 1_000_000
    assert scores.logits_TE.shape == (T, 2000)
    plan.weight_N.sum().backward()
    assert gate.scorer.weight_SD.grad.abs().sum() > 0


def test_batch_statistics_are_declared_and_folded_only_between_steps() -> None:
    gate, plain = omnimoe(D, N * N, normalise="batch"), omnimoe(D, N * N)
    assert not gate.causal
    assert not gate.batch_invariant
    assert plain.causal
    assert plain.batch_invariant
    assert sum(p.numel() for p in gate.parameters()) == 2 * N * D
    before = copy.deepcopy(gate.scorer.state_dict())
    for _ in range(2):  # a checkpointed block runs forward twice
        gate(RouteContext(tokens()))
    assert torch.equal(gate.scorer.mean_S, before["mean_S"])
    gate.balancer.update(torch.zeros(N * N))
    raw = (tokens() @ gate.scorer.weight_SD.t()).detach()
    torch.testing.assert_close(gate.scorer.mean_S, 0.1 * raw.mean(0))
    part = gate(RouteContext(tokens()[:4]))[1].logits_TE
    assert not torch.allclose(part, gate(RouteContext(tokens()))[1].logits_TE[:4])
    quiet = [gate(RouteContext(x, training=False))[1].logits_TE for x in (tokens(), tokens()[:4])]
    torch.testing.assert_close(quiet[0][:4], quiet[1])


def test_padding_does_not_move_batch_statistics() -> None:
    gate = omnimoe(D, N * N, normalise="batch")
    padding = torch.arange(T) >= 4
    loud = tokens().clone()
    loud[4:] *= 100
    one = gate(RouteContext(loud, padding_T=padding))
    two = gate(RouteContext(tokens()[:4]))
    torch.testing.assert_close(one[1].logits_TE[:4], two[1].logits_TE)
    assert one[0].edges == two[0].edges


def test_bad_input_is_refused_and_empty_input_is_not() -> None:
    for settings in ({"experts": 0}, {"experts": 25, "k": 26}, {"experts": 25, "normalise": "layer"}):
        with pytest.raises(UserError):
            omnimoe(D, **settings)  # type: ignore[arg-type]
    for normalise in ("token", "batch"):
        gate = omnimoe(D, 25, normalise=normalise)
        assert gate(RouteContext(torch.zeros(0, D)))[0].edges == 0
        with pytest.raises(UserError, match="not a number"):
            gate(RouteContext(torch.full((T, D), torch.nan)))
        with pytest.raises(UserError, match="x_TD"):
            gate(RouteContext(torch.zeros(T, D + 1)))
