"""Balance losses by hand, entropies at their limits, and the loss-free bias."""

from __future__ import annotations

import math

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer, LossFree, balanced_top_k, loss_free, max_vio, shannon, tsallis
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import TopK


def routed(logits: torch.Tensor, k: int = 1, **more: object) -> tuple[Plan, Scores, RouteContext]:
    scores = Scores(logits, logits.softmax(1))
    context = RouteContext(torch.zeros(len(logits), 2), **more)  # type: ignore[arg-type]
    plan: Plan = TopK(k, "plain")(scores.probs_TE, scores, context)
    return plan, scores, context


def test_losses_equal_their_formulas() -> None:
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    plan, scores, context = routed(logits, 2)
    made = LossBalancer(switch=1.0, z=1.0, importance=1.0, entropy=1.0).loss(plan, scores, context)
    p = scores.probs_TE
    share = torch.tensor([sum(1 for t in range(12) if e in p[t].topk(2).indices) for e in range(4)]) / 24
    assert float(made["switch"]) == pytest.approx(float(4 * (share * p.mean(0)).sum()), rel=1e-5)
    assert float(made["z"]) == pytest.approx(sum(math.log(sum(math.exp(v) for v in row)) ** 2 for row in logits.tolist()) / 12)
    total = p.sum(0)
    assert float(made["importance"]) == pytest.approx(float(total.var(unbiased=False) / total.mean() ** 2), rel=1e-5)
    assert float(made["entropy"]) == pytest.approx(float(-(p * p.log()).sum(1).mean()), rel=1e-5)


def test_switch_loss_is_1_when_even_and_its_gradient_unloads_the_busiest() -> None:
    even = torch.eye(4).repeat(3, 1) * 5.0
    plan, scores, context = routed(even)
    assert float(LossBalancer(switch=1.0).loss(plan, scores, context)["switch"]) == pytest.approx(1.0)
    logits = torch.zeros(8, 3)
    logits[:, 0] = 1.0
    logits.requires_grad_()
    plan, scores, context = routed(logits)
    LossBalancer(switch=1.0).loss(plan, scores, context)["switch"].backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1:] < 0).all()


def test_padding_changes_no_loss() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    balancer = LossBalancer(switch=1.0, z=1.0, importance=1.0, entropy=1.0, q=1.5)
    plain = balancer.loss(*routed(logits, 2))
    padding = torch.tensor([False] * 6 + [True] * 3)
    padded = balancer.loss(*routed(torch.cat([logits, torch.full((3, 4), 7.0)]), 2, padding_T=padding))
    assert {k: float(v) for k, v in plain.items()} == pytest.approx({k: float(v) for k, v in padded.items()}, rel=1e-5)


def test_no_tokens_give_zero_losses() -> None:
    made = LossBalancer(switch=1.0, z=1.0, importance=1.0, entropy=1.0).loss(*routed(torch.zeros(0, 4), 2))
    assert all(float(value) == 0.0 for value in made.values())


def test_unknown_loss_and_unusable_order() -> None:
    with pytest.raises(UserError, match="swich"):
        LossBalancer(swich=0.1)
    with pytest.raises(UserError, match="q"):
        tsallis(torch.ones(1, 2) / 2, 0.0)


def test_tsallis_meets_shannon_and_its_own_extremes() -> None:
    p = torch.randn(5, 6, generator=torch.Generator().manual_seed(2)).double().softmax(1)
    torch.testing.assert_close(tsallis(p, 1.0001), shannon(p), rtol=1e-3, atol=0)
    torch.testing.assert_close(tsallis(p, 1.0), shannon(p))
    uniform, certain = torch.full((1, 6), 1 / 6).double(), torch.eye(6)[:1].double()
    assert float(tsallis(uniform, 2.0)) == pytest.approx(1 - 1 / 6)
    assert float(tsallis(certain, 2.0)) == pytest.approx(0.0)
    edge = certain.clone().requires_grad_()
    (tsallis(edge, 1.1) + shannon(edge)).sum().backward()
    assert edge.grad is not None
    assert edge.grad.isfinite().all()


def test_the_bias_ranks_but_does_not_weigh_and_gets_no_gradient() -> None:
    torch.manual_seed(0)
    gate = loss_free(8, 4, k=2)
    balancer = gate.balancer
    assert isinstance(balancer, LossFree)
    balancer.bias_E.copy_(torch.tensor([5.0, 0.0, 0.0, 0.0]))
    plan, scores = gate(RouteContext(torch.randn(10, 8)))
    assert plan.counts_E[0] == 10
    torch.testing.assert_close(plan.dense_TE()[:, 0], scores.probs_TE[:, 0])
    assert not balancer.adjust(scores, RouteContext(torch.zeros(10, 8))).requires_grad
    assert not list(balancer.parameters())
    assert balancer.loss(plan, scores, RouteContext(torch.zeros(10, 8))) == {}


def test_loss_free_max_vio_falls_to_near_the_sampling_floor() -> None:
    """Skewed sigmoid scores, 8 experts, k = 2, fresh tokens at every step."""
    draw = torch.Generator().manual_seed(3)
    skew = torch.linspace(-0.5, 0.5, 8)
    balancer = LossFree(8, rate=5e-3)
    before = []
    for _ in range(150):
        logits = torch.randn(512, 8, generator=draw) * 0.5 + skew
        scores, context = Scores(logits, logits.sigmoid()), RouteContext(torch.zeros(512, 1))
        plan = TopK(2, "plain")(balancer.adjust(scores, context), scores, context)
        before.append(max_vio(plan.counts_E))
        balancer.update(plan.counts_E)
    assert before[0] > 0.8
    assert sum(before[-20:]) / 20 < 0.3


def test_forward_never_counts_and_update_moves_by_the_sign() -> None:
    balancer = LossFree(3, rate=0.01)
    gate = loss_free(4, 3, k=1, rate=0.01)
    gate(RouteContext(torch.randn(5, 4)))
    gate(RouteContext(torch.randn(5, 4)))
    assert gate.state_dict()["balancer.bias_E"].tolist() == [0.0, 0.0, 0.0]
    balancer.update(torch.tensor([9, 3, 0]))
    assert balancer.bias_E.tolist() == pytest.approx([-0.01, 0.01, 0.01])
    balancer.update(torch.zeros(3, dtype=torch.int64))
    assert balancer.bias_E.tolist() == pytest.approx([-0.01, 0.01, 0.01])
    proportional = LossFree(3, rate=0.01, signed=False)
    proportional.update(torch.tensor([9, 3, 0]))
    assert proportional.bias_E.tolist() == pytest.approx([-0.0125, 0.0025, 0.01])


def test_the_bias_stays_fp32_and_exact_when_the_model_is_cast() -> None:
    gate = loss_free(4, 3)
    assert isinstance(gate.balancer, LossFree)
    gate.balancer.bias_E.fill_(0.001)
    gate.bfloat16()
    assert gate.balancer.bias_E.dtype == torch.float32
    assert gate.balancer.bias_E.tolist() == torch.full((3,), 0.001).tolist()
    assert gate(RouteContext(torch.randn(5, 4).bfloat16()))[1].logits_TE.dtype == torch.float32


def test_wrong_counts_and_rates() -> None:
    with pytest.raises(UserError, match="one per expert"):
        LossFree(3).update(torch.zeros(4))
    with pytest.raises(UserError, match="rate"):
        LossFree(3, rate=0.0)
    with pytest.raises(UserError, match="cannot choose 9"):
        balanced_top_k(4, 3, k=9)


def test_autocast_leaves_the_scores_in_fp32() -> None:
    gate = balanced_top_k(8, 4)
    x = torch.randn(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, under = gate(RouteContext(x))
    assert torch.equal(under.logits_TE, gate(RouteContext(x))[1].logits_TE)
