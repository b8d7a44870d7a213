"""Union of Experts: the parts add up to the block; weights normalised over the batch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.partition import cut_ffn, uoe
from junctor.layers.plan import RouteContext


def test_with_all_parts_active_the_output_is_the_dense_blocks() -> None:
    torch.manual_seed(0)
    up, down, x = torch.randn(24, 8).double(), torch.randn(8, 24).double(), torch.randn(10, 8).double()
    parts_up, parts_down = cut_ffn(up, down, 4)
    plan, _ = uoe(8, 4, k=4, normalise="ones")(RouteContext(x))
    out = torch.zeros_like(x)
    for token, expert, weight in zip(plan.token_N, plan.expert_N(), plan.weight_N.double(), strict=True):
        out[token] += weight * (parts_down[expert] @ functional.gelu(parts_up[expert] @ x[token]))
    torch.testing.assert_close(out, functional.gelu(x @ up.t()) @ down.t())


@pytest.mark.parametrize("by", ["token", "expert"])
def test_half_of_the_parts_with_mean_weight_1(by: str) -> None:
    torch.manual_seed(0)
    gate = uoe(8, 4, by=by)  # type: ignore[arg-type]
    plan, scores = gate(RouteContext(torch.randn(20, 8)))
    plan.check()
    assert plan.edges == 40
    p = scores.probs_TE
    mask = torch.zeros(20, 4)
    if by == "token":
        mask.scatter_(1, p.topk(2, dim=1).indices, 1.0)
    else:
        mask.scatter_(0, p.topk(10, dim=0).indices, 1.0)
        assert plan.counts_E.tolist() == [10] * 4
    slow = p * mask / (p * mask).sum(0, keepdim=True) * mask.sum(0)
    torch.testing.assert_close(plan.dense_TE(), slow)
    pull = torch.randn(20, 4)
    made, loop = (
        torch.autograd.grad((d * pull).sum(), gate.scorer.weight_ED, retain_graph=True)[0] for d in (plan.dense_TE(), slow)
    )
    torch.testing.assert_close(made, loop, rtol=1e-4, atol=1e-5)


def test_batch_dependence_is_declared() -> None:
    assert not uoe(8, 4).batch_invariant
    assert not uoe(8, 4).causal
    alone = uoe(8, 4, normalise="token")
    assert alone.causal
    assert alone.batch_invariant
    assert not uoe(8, 4, by="expert", normalise="token").causal


def test_padding_takes_no_seat_and_no_weight() -> None:
    padding = torch.arange(20) >= 10
    for by in ("token", "expert"):
        plan, _ = uoe(8, 4, by=by)(RouteContext(torch.randn(20, 8), padding_T=padding))  # type: ignore[arg-type]
        assert plan.edges == 20
        assert not padding[plan.token_N].any()


def test_settings_that_cannot_be() -> None:
    for bad in ({"k": 5}, {"by": "head"}, {"normalise": "all"}):
        with pytest.raises(UserError):
            uoe(8, 4, **bad)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="parts"):
        cut_ffn(torch.zeros(10, 4), torch.zeros(4, 10), 3)
