"""SSR: marginals of the transport plan, and which steps use it."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.plan import RouteContext
from junctor.layers.sinkhorn import SinkhornTopK, ssr, transport


def test_marginals() -> None:
    logits = torch.randn(96, 8, generator=torch.Generator().manual_seed(0)) + torch.linspace(-1, 1, 8)
    plan = transport(logits, 30)
    torch.testing.assert_close(plan.sum(1), torch.ones(96))
    torch.testing.assert_close(plan.sum(0), torch.full((8,), 12.0), rtol=1e-3, atol=0)
    few = transport(logits, 3).sum(0)
    assert float((few / 12 - 1).abs().max()) < 0.05
    assert torch.allclose(transport(logits + 3.0 * torch.randn(96, 1), 30), plan, atol=1e-5), "rows may be shifted"


def test_top_k_loads_are_not_equal_even_at_convergence() -> None:
    logits = torch.randn(512, 8, generator=torch.Generator().manual_seed(1)) + torch.linspace(-1, 1, 8)
    loads = torch.bincount(transport(logits, 100).topk(2, dim=1).indices.reshape(-1), minlength=8)
    assert loads.max() > loads.min()
    greedy = torch.bincount(logits.topk(2, dim=1).indices.reshape(-1), minlength=8)
    assert loads.max() < greedy.max()


def test_padding_is_outside_the_plan() -> None:
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    padding = torch.arange(20) >= 12
    logits[15] = torch.nan
    plan = transport(logits, 5, padding_T=padding)
    torch.testing.assert_close(plan[:12], transport(logits[:12], 5))
    assert not plan[12:].any()


def test_the_share_of_steps_and_evaluation() -> None:
    selector = ssr(8, 4, share=0.25).selector
    assert isinstance(selector, SinkhornTopK)
    x = torch.zeros(2, 8)
    used = [selector.uses_plan(RouteContext(x, step=step)) for step in range(100)]
    assert sum(used) == 25
    assert not any(selector.uses_plan(RouteContext(x, step=step, training=False)) for step in range(100))


def test_steps_are_counted_by_the_update() -> None:
    gate = ssr(8, 4, share=0.5)
    assert isinstance(gate.selector, SinkhornTopK)
    used = []
    for _ in range(6):
        used.append(gate.selector.uses_plan(RouteContext(torch.zeros(2, 8))))
        gate.balancer.update(torch.zeros(4))
    assert used == [False, True] * 3
    assert gate.state_dict()["balancer.steps"] == 6


def test_weights_come_from_the_plan_with_its_gradient() -> None:
    torch.manual_seed(0)
    gate = ssr(8, 4, share=1.0, iterations=3, weights="plain")
    plan, scores = gate(RouteContext(torch.randn(24, 8)))
    whole = transport(scores.logits_TE, 3)
    torch.testing.assert_close(plan.weight_N, whole[plan.token_N, plan.expert_N()])
    made = torch.autograd.grad(plan.weight_N.square().sum(), gate.scorer.weight_ED, retain_graph=True)[0]
    slow = torch.autograd.grad((whole * plan.chosen_TE()).square().sum(), gate.scorer.weight_ED)[0]
    torch.testing.assert_close(made, slow)
    never, scores = ssr(8, 4, share=0.0, weights="plain")(RouteContext(torch.randn(24, 8)))
    torch.testing.assert_close(never.weight_N, scores.probs_TE[never.token_N, never.expert_N()])


def test_default_weights_are_renormalised_or_plain_for_one() -> None:
    context = RouteContext(torch.randn(24, 8), step=99)
    plan, _ = ssr(8, 4)(context)
    torch.testing.assert_close(plan.dense_TE().sum(1), torch.ones(24))
    assert float(ssr(8, 4, k=1)(context)[0].weight_N.detach().max()) < 1.0


@pytest.mark.parametrize("bad", [{"share": 1.5}, {"iterations": 0}, {"eps": 0.0}, {"k": 9}])
def test_settings_that_cannot_be(bad: dict[str, float]) -> None:
    with pytest.raises(UserError):
        ssr(8, 4, **bad)  # type: ignore[arg-type]


def test_plain_steps_are_noisy_on_demand() -> None:
    torch.manual_seed(0)
    gate, x = ssr(8, 4, share=0.0, noise=3.0), torch.randn(200, 8)
    plans = [gate(RouteContext(x, generator=torch.Generator().manual_seed(seed)))[0].chosen_TE() for seed in (0, 0, 1)]
    assert torch.equal(plans[0], plans[1])
    assert not torch.equal(plans[0], plans[2])
    quiet, scores = gate(RouteContext(x, training=False))
    best = scores.logits_TE.topk(2, dim=1).indices
    assert bool(quiet.chosen_TE().gather(1, best).all())
    made, scores = gate(RouteContext(x, generator=torch.Generator().manual_seed(0)))
    noisy = scores.logits_TE + 3.0 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    kept = noisy.softmax(1).masked_fill(~made.chosen_TE(), 0.0)
    torch.testing.assert_close(made.dense_TE(), kept / kept.sum(1, keepdim=True))
    always = ssr(8, 4, share=1.0, noise=3.0)
    draw = torch.Generator().manual_seed(0)
    always(RouteContext(x, generator=draw))
    assert torch.equal(draw.get_state(), torch.Generator().manual_seed(0).get_state())  # the plan has no noise
    with pytest.raises(UserError, match="noise"):
        ssr(8, 4, noise=-1.0)
