"""CompeteSMoE: winners by response, a router that learns to foresee them, and a schedule that a replay repeats."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.competition import CompetitionSchedule, competesmoe, overlap
from junctor.layers.experts import ExpertBank
from junctor.layers.plan import RouteContext

T, D, E, K = 32, 6, 5, 2


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randn(T, D, generator=torch.Generator().manual_seed(seed))


def test_the_winners_are_the_loudest_and_weigh_their_share() -> None:
    torch.manual_seed(0)
    gate = competesmoe(D, E, K, rate=1.0, warmup=0)
    weight = torch.randn(E, D, 3, requires_grad=True)
    gate.scorer.attach_experts(lambda x: torch.einsum("td,edo->teo", x, weight))
    plan, scores = gate(RouteContext(tokens()))
    loud = torch.nn.functional.softplus(torch.einsum("td,edo->teo", tokens(), weight)).mean(-1)
    top = loud.topk(K, dim=1)
    wanted = torch.zeros(T, E).scatter(1, top.indices, top.values / top.values.sum(1, keepdim=True))
    torch.testing.assert_close(plan.dense_TE(), wanted)
    plan.weight_N.square().sum().backward()
    assert weight.grad.abs().sum() > 0  # the experts learn from winning
    assert gate.scorer.weight_ED.grad is None  # the router does not
    torch.testing.assert_close(scores.logits_TE, tokens() @ gate.scorer.weight_ED.t())


def test_its_losses_by_hand_and_whom_they_teach() -> None:
    torch.manual_seed(0)
    gate = competesmoe(D, E, K, rate=1.0, warmup=0, distil=2.0, diversity=0.5, switch=0.0)
    weight = torch.randn(E, D, 3, requires_grad=True)
    gate.scorer.attach_experts(lambda x: torch.einsum("td,edo->teo", x, weight))
    context = RouteContext(tokens())
    plan, scores = gate(context)
    losses = gate.balancer.loss(plan, scores, context)
    gap = (scores.logits_TE.softmax(1) - scores.probs_TE.softmax(1).detach()).square()
    torch.testing.assert_close(losses["distil"], 2.0 * (gap.mean() + gap[plan.chosen_TE()].mean()))
    out = torch.einsum("td,edo->teo", tokens(), weight)
    unit = torch.nn.functional.normalize(out, dim=-1)
    pairs = torch.einsum("teo,tfo->tef", unit, unit)
    off = (pairs.sum((1, 2)) - E) / (E * (E - 1))
    torch.testing.assert_close(losses["diversity"], 0.5 * off.mean())
    assert torch.autograd.grad(losses["distil"], weight, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(losses["diversity"], gate.scorer.weight_ED, allow_unused=True)[0] is None


@pytest.mark.slow
def test_the_router_learns_to_foresee_the_winners() -> None:
    torch.manual_seed(0)
    gate = competesmoe(D, E, K, rate=1.0, warmup=0, switch=0.0, distil=100.0)
    bank = ExpertBank(E, D, 8)
    gate.scorer.attach_experts(lambda x: 4 * torch.einsum("td,edi->tei", x, bank.w_in_EDI.detach()))
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.05)
    seen = []
    for _ in range(80):
        plan, scores = gate(RouteContext(tokens()))
        seen.append(overlap(plan, scores, K))
        optimiser.zero_grad()
        gate.balancer.loss(plan, scores, RouteContext(tokens()))["distil"].backward()
        optimiser.step()
    assert seen[-1] > seen[0] + 0.2


def test_plain_steps_are_a_plain_gate_and_need_no_experts() -> None:
    gate = competesmoe(D, E, K, warmup=10, rate=1.0)
    for context in (RouteContext(tokens(), step=9), RouteContext(tokens(), step=20, training=False)):
        plan, scores = gate(context)
        torch.testing.assert_close(scores.probs_TE, scores.logits_TE.softmax(1))
        assert set(gate.balancer.loss(plan, scores, context)) == {"switch"}
    with pytest.raises(UserError, match="attach"):
        gate(RouteContext(tokens(), step=10))


def test_a_schedule_is_a_pure_function_of_the_step_with_at_most_so_many_layers() -> None:
    schedule = CompetitionSchedule(rate=0.5, warmup=3, layers=6, most=2, seed=1)
    steps = [schedule.competing(step) for step in range(200)]
    assert steps == [CompetitionSchedule(rate=0.5, warmup=3, layers=6, most=2, seed=1).competing(s) for s in range(200)]
    assert steps[:3] == [[], [], []]
    assert max(map(len, steps)) == 2
    assert {layer for step in steps for layer in step} == set(range(6))
    alone = CompetitionSchedule(rate=0.25, warmup=0)
    share = sum(bool(alone.competing(step)) for step in range(400)) / 400
    assert 0.18 < share < 0.32


def test_bad_input_is_refused_and_empty_input_is_not() -> None:
    for settings in ({"k": E + 1}, {"rate": 2.0}, {"layer": 1}, {"layers": 0}):
        with pytest.raises(UserError):
            competesmoe(D, E, **settings)  # type: ignore[arg-type]
    gate = competesmoe(D, E, K, rate=1.0, warmup=0)
    gate.scorer.attach_experts(lambda x: x[:, None, :].expand(-1, E, -1))
    empty = RouteContext(torch.zeros(0, D))
    plan, scores = gate(empty)
    assert plan.edges == 0
    assert all(float(loss.detach()) == 0 for loss in gate.balancer.loss(plan, scores, empty).values())
    with pytest.raises(UserError, match="not a number"):
        gate(RouteContext(torch.full((3, D), torch.nan)))
    gate.scorer.attach_experts(lambda x: x)
    with pytest.raises(UserError, match="responses"):
        gate(RouteContext(tokens()))


def test_a_bank_competes_with_all_its_experts_and_is_not_owned() -> None:
    gate, bank = competesmoe(D, E, K, rate=1.0, warmup=0), ExpertBank(E, D, 8)
    gate.scorer.attach_experts(bank)
    scores = gate.scorer(RouteContext(tokens()))
    wanted = torch.nn.functional.softplus(bank(tokens())).mean(-1).t()
    torch.testing.assert_close(scores.probs_TE, wanted)
    assert len(list(gate.parameters())) == 1
