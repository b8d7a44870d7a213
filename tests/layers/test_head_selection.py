"""Heads as experts: the dense attention when all act, a slow loop otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from junctor.errors import UserError
from junctor.layers.catalogue import gate
from junctor.layers.head_selection import SelectedHeads

B, S, D, H = 2, 5, 8, 4


def layer(causal: bool = True, **settings: object) -> SelectedHeads:
    torch.manual_seed(0)
    return SelectedHeads(D, gate("uoe", D, H, **settings), causal=causal, bias=True)


def x() -> torch.Tensor:
    return torch.randn(B, S, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("causal", [True, False])
def test_with_all_heads_it_is_the_dense_attention(causal: bool) -> None:
    ours = layer(causal, k=H, normalise="ones")
    dense = nn.MultiheadAttention(D, H, batch_first=True)
    with torch.no_grad():
        dense.in_proj_weight.copy_(ours.qkv.weight)
        dense.in_proj_bias.copy_(ours.qkv.bias)
        dense.out_proj.weight.copy_(ours.out.weight)
        dense.out_proj.bias.copy_(ours.out.bias)
    later = torch.ones(S, S, dtype=torch.bool).triu(1) if causal else None
    torch.testing.assert_close(ours(x()), dense(x(), x(), x(), attn_mask=later, need_weights=False)[0])


@pytest.mark.parametrize("normalise", ["token", "batch"])
def test_chosen_heads_add_up_by_loop_with_their_gradients(normalise: str) -> None:
    ours, tokens = layer(normalise == "token", normalise=normalise), x().requires_grad_()
    made = ours.forward_with_plan(tokens)
    assert made.plan.edges == B * S * H // 2
    weight = made.plan.dense_TE().view(B, S, H)
    want, size = ours.out.bias.expand(B, S, D), D // H
    for h in range(H):
        q, k, v = (part[..., h * size : (h + 1) * size] for part in ours.qkv(tokens).split(D, dim=2))
        energy = q @ k.transpose(1, 2) / size**0.5
        if ours.causal:
            energy = energy.masked_fill(torch.ones(S, S, dtype=torch.bool).triu(1), -torch.inf)
        head = energy.softmax(2) @ v @ ours.out.weight[:, h * size : (h + 1) * size].t()
        want = want + weight[:, :, h : h + 1] * head
    torch.testing.assert_close(made.y, want)
    leaves = [tokens, *ours.parameters()]
    pull = torch.randn(B, S, D)
    mine = torch.autograd.grad((made.y * pull).sum(), leaves, retain_graph=True)
    for one, other in zip(mine, torch.autograd.grad((want * pull).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other)
    assert all(bool(one.abs().sum() > 0) for one in mine)


def test_no_token_sees_later_ones_or_padding() -> None:
    ours = layer(normalise="token").eval()
    other = x()
    other[:, 3:] += 1.0
    torch.testing.assert_close(ours(x())[:, :3], ours(other)[:, :3])
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[:, 1] = True
    spoilt = x()
    spoilt[:, 1] = torch.nan
    torch.testing.assert_close(ours(spoilt, padding_T=padding)[:, 2:], ours(x(), padding_T=padding)[:, 2:])
    assert ours(torch.zeros(0, S, D)).shape == (0, S, D)


def test_state_checkpointing_and_what_is_refused() -> None:
    ours, again = layer(normalise="token"), layer(normalise="token", k=2)
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again(x()), ours(x()))
    noisy, found = SelectedHeads(D, gate("t2mir-token", D, H)), []
    for checkpointed in (False, True):
        draws, tokens = torch.Generator().manual_seed(3), x().requires_grad_()

        def run(one: torch.Tensor, draws: torch.Generator = draws) -> torch.Tensor:
            return noisy(one, generator=draws).square().sum()

        total = checkpoint(run, tokens, use_reentrant=False) if checkpointed else run(tokens)
        found += torch.autograd.grad(total, tokens)
    torch.testing.assert_close(*found)
    with pytest.raises(UserError, match="later tokens"):
        layer()
    with pytest.raises(UserError, match="divide"):
        SelectedHeads(D, gate("uoe", D, 3, normalise="token"))
    with pytest.raises(UserError, match="x_BSD"):
        ours(torch.zeros(S, D))
    with pytest.raises(UserError, match="not a number"):
        ours(torch.full((B, S, D), torch.nan))
