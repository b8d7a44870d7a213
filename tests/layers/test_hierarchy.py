"""Two-level gates: probabilities, groups, losses per level, and the pull to local experts."""

from __future__ import annotations

import math

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.hierarchy import LocalityBalance, PooledScorer, TwoLevelScorer, capacity_bound, locmoe, sam, smile
from junctor.layers.plan import RouteContext
from junctor.testing import check_gate


def test_two_level_probabilities_multiply_and_sum_to_1() -> None:
    torch.manual_seed(0)
    scorer = TwoLevelScorer(8, 6, 2)
    x = torch.randn(10, 8)
    scores = scorer(RouteContext(x))
    node = (x @ scorer.node_GD.t()).softmax(1)
    local = torch.cat([(x @ scorer.local_ED[g * 3 : g * 3 + 3].t()).softmax(1) * node[:, g : g + 1] for g in range(2)], dim=1)
    torch.testing.assert_close(scores.probs_TE, local)
    torch.testing.assert_close(scores.probs_TE.sum(1), torch.ones(10))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_all_experts_of_a_token_lie_in_its_best_group(k: int) -> None:
    torch.manual_seed(0)
    gate = sam(8, 6, groups=2, k=k)
    x = torch.randn(30, 8)
    plan, scores = gate(RouteContext(x))
    plan.check()
    rows = []
    for t in range(30):
        g = int((x[t] @ gate.scorer.node_GD.t()).argmax())
        inside = scores.probs_TE[t, g * 3 : g * 3 + 3].detach().topk(k).indices + g * 3
        mask = torch.zeros(6)
        mask[inside] = 1
        rows.append(scores.probs_TE[t] * mask)
    slow = torch.stack(rows)
    torch.testing.assert_close(plan.dense_TE(), slow)
    pull = torch.randn(30, 6)
    parameters = list(gate.scorer.parameters())
    made, loop = (torch.autograd.grad((d * pull).sum(), parameters, retain_graph=True) for d in (plan.dense_TE(), slow))
    torch.testing.assert_close(made, loop)
    assert all(float(grad.abs().sum()) > 0 for grad in made), "both levels learn"


def test_smile_is_greedy_per_level_not_the_best_product() -> None:
    gate = smile(2, 4, groups=2)
    with torch.no_grad():
        gate.scorer.node_GD.copy_(torch.tensor([[0.1, 0.0], [0.0, 0.0]]))
        gate.scorer.local_ED.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0], [0.0, 0.0]]))
    plan, scores = gate(RouteContext(torch.tensor([[1.0, 0.0]])))
    assert int(scores.probs_TE.argmax()) == 2
    assert plan.chosen_TE()[0].tolist() == [True, False, False, False]


def test_level_losses_are_1_when_even_and_by_loop_otherwise() -> None:
    torch.manual_seed(1)
    gate = smile(8, 6, groups=3, node=1.0, local=1.0)
    context = RouteContext(torch.randn(40, 8) * 20)
    plan, scores = gate(context)
    made = gate.balancer.loss(plan, scores, context)
    p = scores.probs_TE.detach().reshape(40, 3, 2)
    chosen = plan.chosen_TE().reshape(40, 3, 2)
    node = 3 * sum(float(chosen[:, g].any(1).float().mean() * p[:, g].sum(1).mean()) for g in range(3))
    local = 0.0
    for g in range(3):
        took = chosen[:, g].any(1)
        inside = (p[:, g] / p[:, g].sum(1, keepdim=True))[took]
        local += 2 * sum(float(chosen[:, g, m].float().mean() * inside[:, m].mean()) for m in range(2) if took.any())
    assert float(made["node"].detach()) == pytest.approx(node, rel=1e-5)
    assert float(made["local"].detach()) == pytest.approx(local, rel=1e-5)


def test_group_loads_even_out_under_the_node_loss() -> None:
    torch.manual_seed(0)
    gate = smile(8, 4, groups=2, node=1.0, local=0.0)
    with torch.no_grad():
        gate.scorer.node_GD[0] += 0.3
    context = RouteContext(torch.randn(128, 8) + 0.5)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.02)

    def worst() -> float:
        return float(gate(context)[0].counts_E.reshape(2, 2).sum(1).max()) / 128

    before = worst()
    for _ in range(60):
        plan, scores = gate(context)
        optimiser.zero_grad()
        gate.balancer.loss(plan, scores, context)["node"].backward()
        optimiser.step()
    assert worst() < min(before, 0.7)


def test_local_share_rises_with_the_locality_weight() -> None:
    x = torch.randn(128, 8, generator=torch.Generator().manual_seed(0))
    shares = []
    for weight in (0.0, 0.2, 2.0):
        torch.manual_seed(0)
        gate = locmoe(8, 4, local=(2, 3), pull=0.9, locality=weight, switch=0.0)
        optimiser = torch.optim.SGD(gate.parameters(), lr=0.3)
        steady = x.clone()
        steady[:, 0] = 1.0
        for _ in range(40):
            plan, scores = gate(RouteContext(steady))
            optimiser.zero_grad()
            sum(gate.balancer.loss(plan, scores, RouteContext(steady)).values()).backward()  # type: ignore[union-attr]
            optimiser.step()
        shares.append(float(gate(RouteContext(steady))[0].counts_E[2:].sum()) / 128)
    assert shares[0] < shares[1] <= shares[2]
    assert shares[2] > 0.9


def test_locality_is_zero_at_its_target_and_survives_a_state_dict() -> None:
    balancer = LocalityBalance(4, (0,), pull=0.7, locality=1.0, switch=0.0)
    torch.testing.assert_close(balancer.target_E, torch.tensor([0.7, 0.1, 0.1, 0.1]))
    assert "target_E" in balancer.state_dict()


def test_capacity_bound() -> None:
    gate_rows = torch.eye(2, 4)
    orthogonal, aligned = torch.tensor([[0.0, 0.0, 1.0, 0.0]]), torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    assert capacity_bound(orthogonal, gate_rows) == pytest.approx(0.5)
    assert capacity_bound(aligned, gate_rows) == pytest.approx(math.exp(4) / 2)
    assert capacity_bound(torch.zeros(0, 4), gate_rows) == 0.0
    assert capacity_bound(torch.ones(1, 2000), torch.ones(1, 2000)) == math.inf


@pytest.mark.parametrize(
    ("build", "bad"),
    [(smile, {"groups": 4}), (sam, {"k": 4}), (locmoe, {"local": ()}), (locmoe, {"local": (9,)}), (locmoe, {"pull": 1.0})],
)
def test_settings_that_cannot_be(build: object, bad: dict[str, object]) -> None:
    with pytest.raises(UserError):
        build(8, 6, **bad)  # type: ignore[operator]


def test_pooled_scores_are_means_of_groups_and_their_rows_orthogonal() -> None:
    gate, x = locmoe(12, 4, pooled=True, k=2), torch.randn(9, 12)
    scorer = gate.scorer
    assert isinstance(scorer, PooledScorer)
    assert not list(scorer.parameters())
    plan, scores = gate(RouteContext(x))
    torch.testing.assert_close(scores.logits_TE, x @ scorer.rows().t())
    torch.testing.assert_close(scores.logits_TE[:, 1], x[:, 3:6].mean(1))
    gram = scorer.rows() @ scorer.rows().t()
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()))
    torch.testing.assert_close(plan.weight_N, scores.probs_TE[plan.token_N, plan.expert_N()])
    check_gate(lambda d_model, experts: locmoe(d_model, experts, pooled=True))
    with pytest.raises(UserError, match="13 channels"):
        locmoe(13, 4, pooled=True)
    with pytest.raises(UserError, match="x_TD"):
        gate(RouteContext(torch.randn(9, 8)))
