"""Top-p: mass, ties, candidates; and the entropy hybrid."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.catalogue import gate
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.top_p import SoftOrTopP, TopP, dynamic_moe


def run(selector: TopP, probs: torch.Tensor, **more: object) -> Plan:
    scores = Scores(probs.log(), probs)
    plan: Plan = selector(probs, scores, RouteContext(torch.zeros(len(probs), 1), **more))  # type: ignore[arg-type]
    plan.check()
    return plan


def probs_of(tokens: int, experts: int, seed: int = 0) -> torch.Tensor:
    return (2 * torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))).softmax(1).requires_grad_()


def slow_prefix(row: torch.Tensor, p: float) -> list[int]:
    order = sorted(range(len(row)), key=lambda e: -float(row[e]))
    mass, taken = 0.0, []
    for e in order:
        if mass >= p:
            break
        taken.append(e)
        mass += float(row[e])
    return taken


@pytest.mark.parametrize("p", [0.3, 0.6, 0.9])
def test_kept_mass_reaches_p_with_the_fewest_experts(p: float) -> None:
    probs = probs_of(60, 8)
    plan = run(TopP(p), probs)
    mask = torch.zeros(60, 8)
    for t, row in enumerate(probs.detach()):
        mask[t, slow_prefix(row, p)] = 1
    assert torch.equal(plan.chosen_TE(), mask.bool())
    torch.testing.assert_close(plan.dense_TE(), probs * mask)
    kept = plan.dense_TE().detach().sum(1)
    assert (kept >= p - 1e-6).all()
    least = torch.where(plan.chosen_TE(), probs.detach(), torch.inf).amin(1)
    assert (kept - least < p).all()
    pull = torch.randn(60, 8)
    made, slow = (torch.autograd.grad((d * pull).sum(), probs)[0] for d in (plan.dense_TE(), probs * mask))
    torch.testing.assert_close(made, slow)


def test_ties_are_defined() -> None:
    uniform = torch.full((1, 4), 0.25)
    assert run(TopP(0.5), uniform).edges == 2
    assert run(TopP(0.5, ties="released"), uniform).edges == 3
    assert run(TopP(1.0), uniform).edges == 4


def test_candidates_bound_the_count_and_the_floor_holds() -> None:
    probs = probs_of(40, 8)
    assert int(run(TopP(0.99, most=3), probs).chosen_TE().sum(1).max()) == 3
    narrow, wide = run(TopP(0.4, most=8), probs), run(TopP(0.4), probs)
    assert torch.equal(narrow.token_N, wide.token_N)
    assert int(run(TopP(0.01, least=2), probs).chosen_TE().sum(1).min()) == 2


def test_renormalised_needs_two() -> None:
    with pytest.raises(UserError, match="no gradient"):
        TopP(0.5, weights="renormalised")
    plan = run(TopP(0.5, weights="renormalised", least=2), probs_of(20, 6))
    torch.testing.assert_close(plan.dense_TE().sum(1), torch.ones(20))


def test_entropy_loss_lowers_the_count_over_training() -> None:
    torch.manual_seed(0)
    made = dynamic_moe(8, 6, p=0.6, entropy=1.0, switch=0.0)
    x = torch.randn(64, 8)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.5)
    before = made(RouteContext(x))[0].edges / 64
    for _ in range(60):
        plan, scores = made(RouteContext(x))
        optimiser.zero_grad()
        sum(made.balancer.loss(plan, scores, RouteContext(x)).values()).backward()  # type: ignore[union-attr]
        optimiser.step()
    assert made(RouteContext(x))[0].edges / 64 < before - 0.5


def test_undecided_tokens_take_all_experts() -> None:
    probs = torch.tensor([[0.25, 0.25, 0.26, 0.24], [0.97, 0.01, 0.01, 0.01]])
    for q in (1.0, 1.1, 2.0):
        plan = run(SoftOrTopP(0.5, threshold=0.9, q=q), probs)
        assert plan.chosen_TE().sum(1).tolist() == [4, 2]
    assert run(SoftOrTopP(0.5, threshold=1.0), probs).chosen_TE().sum(1).tolist() == [2, 2]


def test_padding_and_masked_experts() -> None:
    probs = probs_of(6, 4)
    padding = torch.arange(6) < 2
    assert not padding[run(TopP(0.9), probs, padding_T=padding).token_N].any()
    ranked = probs.detach().clone()
    ranked[:, 0] = -torch.inf
    plan = TopP(1.0)(ranked, Scores(probs.log(), probs), RouteContext(torch.zeros(6, 1)))
    assert plan.counts_E.tolist() == [0, 6, 6, 6]


@pytest.mark.parametrize("bad", [{"p": 0.0}, {"p": 1.1}, {"p": 0.5, "ties": "last"}, {"p": 0.5, "least": 3, "most": 2}])
def test_settings_that_cannot_be(bad: dict[str, object]) -> None:
    with pytest.raises(UserError):
        TopP(**bad)  # type: ignore[arg-type]


def test_more_candidates_than_experts() -> None:
    with pytest.raises(UserError, match="cannot choose 9"):
        gate("dynamic-moe", 8, 4, most=9)(RouteContext(torch.zeros(2, 8)))
    with pytest.raises(UserError, match="threshold"):
        gate("entropy-hybrid", 8, 4, threshold=1.5)
