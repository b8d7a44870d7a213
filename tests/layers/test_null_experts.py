"""AdaMoE: real experts per token, tokens without any, and the loss over nulls."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.null_experts import NullSwitchLoss, NullTopK, adamoe
from junctor.layers.plan import Plan, RouteContext, Scores


def run(logits: torch.Tensor, k: int, nulls: int, *, renormalise: bool = True) -> tuple[Plan, Scores]:
    scores = Scores(logits, logits.softmax(1))
    selector = NullTopK(k, nulls, renormalise=renormalise)
    return selector(scores.probs_TE, scores, RouteContext(torch.zeros(len(logits), 1))), scores


@pytest.mark.parametrize("renormalise", [True, False])
def test_equals_the_slow_reference(renormalise: bool) -> None:
    logits = torch.randn(30, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plan, scores = run(logits, 3, 3, renormalise=renormalise)
    plan.check()
    rows = []
    for row in scores.probs_TE:
        mask = torch.zeros(7)
        mask[row.detach().topk(3).indices] = 1
        real = (row * mask)[:4]
        rows.append(real / real.sum().clamp_min(1e-20) if renormalise else real)
    slow = torch.stack(rows)
    torch.testing.assert_close(plan.dense_TE(), slow)
    pull = torch.randn(30, 4)
    made, loop = (torch.autograd.grad((d * pull).sum(), logits, retain_graph=True)[0] for d in (plan.dense_TE(), slow))
    torch.testing.assert_close(made, loop)
    assert plan.edges + plan.nulls == 90
    assert plan.edges / 30 == pytest.approx(3 * (1 - plan.nulls / 90))


def test_all_nulls_means_no_edge() -> None:
    logits = torch.tensor([[0.0, 0.0, 5.0, 5.0], [5.0, 0.0, 5.0, 0.0], [5.0, 5.0, 0.0, 0.0]])
    plan, _ = run(logits, 2, 2)
    assert plan.chosen_TE().sum(1).tolist() == [0, 1, 2]
    assert plan.nulls == 3
    assert plan.dense_TE()[0].tolist() == [0.0, 0.0]


def test_loss_averages_the_nulls() -> None:
    """Two nulls of very different load cost what two even ones do: the gradient pushes both alike."""
    torch.manual_seed(0)
    logits = torch.randn(40, 6)
    logits[:, 4] += 3.0
    plan, scores = run(logits, 2, 2)
    made = NullSwitchLoss(1.0).loss(plan, scores, RouteContext(torch.zeros(40, 1)))["switch"]
    loads = [float(c) for c in plan.counts_E] + [plan.nulls / 2] * 2
    slow = 6 * sum(load / 80 * float(p) for load, p in zip(loads, scores.probs_TE.mean(0), strict=True))
    assert float(made) == pytest.approx(slow, rel=1e-5)


def test_more_nulls_fewer_real_experts() -> None:
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    edges = []
    for nulls in (1, 4, 16):
        torch.manual_seed(0)
        edges.append(adamoe(8, 4, k=3, nulls=nulls)(RouteContext(x))[0].edges)
    assert edges[0] > edges[1] > edges[2]


def test_the_plan_and_the_gate_speak_of_real_experts() -> None:
    gate = adamoe(8, 4, k=5)
    plan, scores = gate(RouteContext(torch.randn(9, 8), padding_T=torch.arange(9) < 3))
    assert (gate.experts, plan.experts, scores.probs_TE.shape[1]) == (4, 4, 8)
    assert plan.edges + plan.nulls == 30


@pytest.mark.parametrize("bad", [{"k": 9}, {"nulls": 0}, {"k": 0}])
def test_settings_that_cannot_be(bad: dict[str, int]) -> None:
    with pytest.raises(UserError):
        adamoe(8, 4, **bad)
