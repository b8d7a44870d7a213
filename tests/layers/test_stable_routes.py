"""StableMoE: agreement rises in stage 1, and in stage 2 no token id ever changes its expert."""

from __future__ import annotations

import copy

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.plan import RouteContext
from junctor.layers.stable_routes import stablemoe

T, D, E, V = 64, 8, 4, 12


def batch(seed: int, training: bool = True) -> RouteContext:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (T,), generator=generator)
    table = torch.randn(V, D, generator=torch.Generator().manual_seed(99))
    x_TD = table[ids] + 0.1 * torch.randn(T, D, generator=generator)
    return RouteContext(x_TD, token_ids_T=ids, training=training)


def routes(gate: Gate, context: RouteContext) -> torch.Tensor:
    return gate(context)[0].dense_TE().argmax(1)


def train(gate: Gate, steps: int, seed: int = 0) -> None:
    slow, quick = ({"params": part.parameters(), "lr": lr} for part, lr in ((gate.scorer, 0.0003), (gate.balancer, 0.1)))
    optimiser = torch.optim.AdamW([slow, quick], weight_decay=0.1)
    for step in range(steps):
        context = batch(seed + step)
        plan, scores = gate(context)
        losses = gate.balancer.loss(plan, scores, context)
        optimiser.zero_grad(set_to_none=False)  # the worse case: zero gradients still decay weights
        (sum(losses.values()) + 0.01 * plan.weight_N.sum()).backward()
        optimiser.step()
        gate.balancer.update(plan.counts_E)


def agreement(gate: Gate) -> float:
    return (routes(gate, batch(1000)) == routes(gate, batch(1000, training=False))).float().mean().item()


def test_distillation_agrees_more_and_more_then_routes_never_flip() -> None:
    torch.manual_seed(0)
    gate = stablemoe(D, E, vocabulary=V, switch_step=40)
    before = agreement(gate)
    train(gate, 39)
    assert agreement(gate) > max(0.75, before + 0.3)
    assert not gate.balancer.frozen
    train(gate, 1, 39)
    assert gate.balancer.frozen
    first = routes(gate, batch(7))
    centroids = gate.scorer.centroids_ED.detach().clone()
    train(gate, 10, 40)
    assert torch.equal(routes(gate, batch(7)), first)  # flip rate exactly 0
    assert torch.equal(routes(gate, batch(7, training=False)), first)
    assert not torch.equal(gate.scorer.centroids_ED, centroids)
    ids = batch(7).token_ids_T
    assert all(len(set(first[ids == v].tolist())) == 1 for v in set(ids.tolist()))


def test_stage_one_is_the_greatest_affinity_and_its_weight_the_sigmoid() -> None:
    gate = stablemoe(D, E, vocabulary=V)
    context = batch(0)
    plan, scores = gate(context)
    z_TE = context.x_TD @ gate.scorer.centroids_ED.t()
    assert torch.equal(plan.dense_TE().argmax(1), z_TE.argmax(1))
    torch.testing.assert_close(plan.dense_TE().sum(1), z_TE.amax(1).sigmoid())
    losses = gate.balancer.loss(plan, scores, context)
    counts, mean = plan.counts_E.float(), T / E
    own = torch.stack([z_TE[z_TE.argmax(1) == e, e].sigmoid().sum() for e in range(E)])
    torch.testing.assert_close(losses["balance"], 0.3 * ((counts - mean) / mean * own).sum() / T)
    (grad,) = torch.autograd.grad(losses["distil"], gate.scorer.centroids_ED, allow_unused=True)
    assert grad is None  # the teacher is not taught


def test_a_loaded_state_goes_on_in_its_stage() -> None:
    gate, other = (stablemoe(D, E, vocabulary=V, switch_step=2) for _ in range(2))
    train(gate, 3)
    other.load_state_dict(copy.deepcopy(gate.state_dict()))
    assert torch.equal(routes(other, batch(3)), routes(gate, batch(3)))
    assert other.balancer.frozen
    assert all(float(loss.detach()) == 0 for loss in gate.balancer.loss(*gate(batch(0)), batch(0)).values())


def test_forward_counts_nothing() -> None:
    gate = stablemoe(D, E, vocabulary=V, switch_step=1)
    before = copy.deepcopy(gate.state_dict())
    gate(batch(0))
    gate(batch(0))
    assert all(torch.equal(value, before[name]) for name, value in gate.state_dict().items())


def test_bad_input_is_refused_and_empty_input_is_not() -> None:
    gate = stablemoe(D, E, vocabulary=V)
    with pytest.raises(UserError, match="token_ids_T"):
        gate(RouteContext(torch.zeros(3, D)))
    with pytest.raises(UserError, match="vocabulary"):
        gate(RouteContext(torch.zeros(1, D), token_ids_T=torch.tensor([V])))
    with pytest.raises(UserError, match="not a number"):
        gate(RouteContext(torch.full((1, D), torch.nan), token_ids_T=torch.tensor([0])))
    with pytest.raises(UserError, match="vocabulary"):
        stablemoe(D, E, vocabulary=0)
    empty = RouteContext(torch.zeros(0, D), token_ids_T=torch.zeros(0, dtype=torch.int64))
    plan, scores = gate(empty)
    assert plan.edges == 0
    assert all(float(loss.detach()) == 0 for loss in gate.balancer.loss(plan, scores, empty).values())
