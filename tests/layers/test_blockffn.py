"""BlockFFN: where experts act, the two losses by loop, and what training with them does."""

from __future__ import annotations

import math

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.blockffn import ChunkSchedule, blockffn, chunk_loss, locality_loss
from junctor.layers.plan import RouteContext, Scores


def scores_of(logits: torch.Tensor) -> Scores:
    return Scores(logits, logits.relu())


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_an_expert_acts_where_its_score_is_above_zero() -> None:
    torch.manual_seed(0)
    gate = blockffn(8, 6)
    x = torch.randn(20, 8)
    plan, scores = gate(RouteContext(x))
    plan.check()
    z = x @ gate.scorer.weight_ED.t()
    s = z.relu()
    slow = s / (s.square().mean(1, keepdim=True) + 1e-6).sqrt() * gate.scorer.gain_E
    assert torch.equal(plan.chosen_TE(), scores.logits_TE > 0)
    torch.testing.assert_close(plan.dense_TE(), slow)
    pull = torch.randn(20, 6)
    parameters = [gate.scorer.weight_ED, gate.scorer.gain_E]
    made, loop = (torch.autograd.grad((d * pull).sum(), parameters, retain_graph=True) for d in (plan.dense_TE(), slow))
    torch.testing.assert_close(made, loop, rtol=1e-5, atol=1e-4)


def test_the_sum_form_sums_to_one_and_idle_tokens_have_no_edge() -> None:
    gate = blockffn(4, 3, norm="sum")
    with torch.no_grad():
        gate.scorer.weight_ED.copy_(torch.eye(3, 4))
    plan, _ = gate(RouteContext(torch.tensor([[1.0, 3.0, -1.0, 0.0], [-1.0, -1.0, -1.0, 5.0]])))
    torch.testing.assert_close(plan.dense_TE(), torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]]))


def test_locality_loss_by_loop() -> None:
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)) * 0.02
    context = RouteContext(torch.zeros(8, 1), shape=(2, 4), padding_T=torch.tensor([False] * 7 + [True]))
    total, pairs = 0.0, 0
    for b, length in ((0, 4), (1, 3)):
        for t in range(1, length):
            pairs += 1
            for e in range(3):
                here, before = (sigmoid(100 * float(logits[b, s, e])) for s in (t, t - 1))
                total -= (before * math.log(here) + (1 - before) * math.log(1 - here)) / 3
    assert float(locality_loss(scores_of(logits.reshape(8, 3)), context)) == pytest.approx(total / pairs, rel=1e-4)


def test_chunk_loss_by_loop_with_a_short_last_chunk() -> None:
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    share = logits.relu() / logits.relu().sum(1, keepdim=True).clamp_min(1e-6)
    idle = [
        math.prod(1 - min(float(share[t, e]), 1 - 1e-6) for t in chunk) for chunk in (range(8), range(8, 10)) for e in range(3)
    ]
    made = chunk_loss(scores_of(logits), RouteContext(torch.zeros(10, 1), shape=(1, 10)))
    assert float(made) == pytest.approx(1 - sum(idle) / 6, rel=1e-4)


def test_losses_raise_overlap_and_chunk_sparsity() -> None:
    torch.manual_seed(0)
    gate = blockffn(8, 8, locality=0.3, chunk=3.0)
    chunks = torch.randn(8, 1, 8) + 0.4 * torch.randn(8, 8, 8)
    context = RouteContext(chunks.reshape(64, 8), shape=(2, 32))

    def sparsity() -> tuple[float, float]:
        chosen = gate(context)[0].chosen_TE().reshape(2, 4, 8, 8)
        tokens = chosen.reshape(2, 32, 8)
        return float((~chosen.any(2)).float().mean()), float((tokens[:, 1:] == tokens[:, :-1]).float().mean())

    before = sparsity()
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.02)
    for _ in range(60):
        plan, scores = gate(context)
        optimiser.zero_grad()
        torch.stack(list(gate.balancer.loss(plan, scores, context).values())).sum().backward()
        optimiser.step()
    after = sparsity()
    assert after[0] > before[0] + 0.1
    assert after[1] > before[1] + 0.05


def test_one_place_none_and_bad_settings() -> None:
    for tokens in (0, 1):
        gate = blockffn(4, 3)
        context = RouteContext(torch.randn(tokens, 4), shape=(1, tokens))
        assert all(v.isfinite() for v in gate.balancer.loss(*gate(context), context).values())
    with pytest.raises(UserError, match="norm"):
        blockffn(4, 3, norm="layer")
    with pytest.raises(UserError, match="chunks of 0"):
        blockffn(4, 3, size=0)


def test_the_chunk_weight_follows_its_loss_from_period_to_period() -> None:
    gates = [blockffn(4, 3, chunk=0.1) for _ in range(2)]
    schedule = ChunkSchedule(gates, warmup=4, stable=6, period=2, most=1.5)
    unweighted = [1.0, 1.0, 1.0, 1.0, 1.0, 0.6, 0.6, 0.4, 0.5, 1.5, 3.0, 3.0, 9.0, 9.0, 9.0]
    seen = []
    for loss in unweighted:
        assert gates[0].balancer.chunk == gates[1].balancer.chunk == schedule.weight
        seen.append(schedule.weight)
        schedule.step(loss * schedule.weight)
    want = [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]  # warm-up, then still
    # means per period: 1, 1, 0.8 | 0.5, 1, 3, 9: from step 6 on each period ends at (mean / mean before) times its start
    want += [0.09, 0.08, 0.08 - 0.015, 0.05, 0.075, 0.1, 0.125, 0.15, 0.15]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(want))


def test_the_schedule_goes_on_after_loading_and_scales_the_loss() -> None:
    gate = blockffn(4, 3, chunk=0.1)
    schedule = ChunkSchedule([gate], stable=2, period=2)
    for loss in (1.0, 1.0, 0.5, 0.5, 0.5):
        schedule.step(loss * schedule.weight)
    other = blockffn(4, 3, chunk=0.1)
    again = ChunkSchedule([other], stable=2, period=2)
    again.load_state_dict(schedule.state_dict())
    for loss in (0.4, 0.4, 0.1):
        assert again.weight == schedule.weight < 0.1
        for one in (schedule, again):
            one.step(loss * one.weight)
    context = RouteContext(torch.randn(8, 4), shape=(1, 8))
    plan, scores = other(context)
    loss = other.balancer.loss(plan, scores, context)["chunk"]
    torch.testing.assert_close(loss, again.weight * chunk_loss(scores, context, 8))
    for bad in ({"period": 0}, {"warmup": 5, "stable": 4}):
        with pytest.raises(UserError, match="schedule"):
            ChunkSchedule([gate], **bad)
    with pytest.raises(UserError, match="gates"):
        ChunkSchedule([blockffn(4, 3, chunk=0.0)])
