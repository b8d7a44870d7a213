"""Families of languages, steering, pseudo-labels and phases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from junctor.errors import UserError
from junctor.layers.domains import (
    classification_loss,
    expert_layers,
    family_table,
    frequency,
    least_error,
    magnet,
    middle_layers,
    multilingual,
    pivot_bonus,
    post_moe,
    pseudo_labels,
    roles,
    routing_divergence,
    steer,
)
from junctor.layers.plan import RouteContext, Scores

D, E = 6, 4


@pytest.mark.parametrize("build", [post_moe, multilingual, least_error, magnet])
def test_every_gate_gives_a_sound_plan_and_answers_bad_input(build):
    gate = build(D, E)
    plan, _ = gate(RouteContext(x_TD=torch.randn(D, 5).t()))
    plan.check()
    assert plan.tokens == 5
    assert gate.causal
    assert gate.batch_invariant
    assert gate(RouteContext(x_TD=torch.randn(5, D).half()))[1].logits_TE.dtype == torch.float32
    assert gate(RouteContext(x_TD=torch.zeros(0, D)))[0].edges == 0
    assert gate(RouteContext(x_TD=torch.randn(5, D), padding_T=torch.ones(5, dtype=torch.bool)))[0].edges == 0
    with pytest.raises(UserError):
        gate(RouteContext(x_TD=torch.full((5, D), float("nan"))))
    with pytest.raises(UserError):
        gate(RouteContext(x_TD=torch.randn(5, D + 1)))


def test_post_moe_families_share_experts_and_early_layers_are_dense():
    assert expert_layers(6, 2) == (False, False, False, False, True, True)
    languages, families = family_table({"de": "germanic", "nl": "germanic", "fr": "romance"})
    gate = post_moe(D, 5, 3, families, shared=1)
    assert gate.scorer.allowed_QE.tolist()[languages["de"]] == gate.scorer.allowed_QE.tolist()[languages["nl"]]
    ids = torch.tensor([languages["de"], languages["nl"], languages["fr"]] * 4)
    plan, _scores = gate(RouteContext(x_TD=torch.randn(12, D), task_ids_T=ids))
    own = gate.scorer.allowed_QE[ids]
    assert not bool((plan.chosen_TE() & ~own).any())
    assert (plan.chosen_TE().sum(1) == own.sum(1).clamp_max(3)).all()
    torch.testing.assert_close(plan.dense_TE().sum(1), torch.ones(12))
    plan.weight_N.square().sum().backward()
    assert bool(gate.scorer.weight_ED.grad.isfinite().all())
    for bad in (lambda: post_moe(D, 2, families=(0, 1, 2)), lambda: expert_layers(2, 3), lambda: post_moe(D, 2, shared=2)):
        with pytest.raises(UserError):
            bad()
    with pytest.raises(UserError):
        gate(RouteContext(x_TD=torch.randn(12, D)))


def test_steering_lowers_divergence_to_the_pivot_in_the_chosen_layers_only():
    torch.manual_seed(0)
    gates = [multilingual(D, 8) for _ in range(6)]
    for gate in gates:
        nn.init.normal_(gate.scorer.inner.weight_ED, std=0.5)
    english, other = torch.randn(300, D) + 1, torch.randn(300, D) - 1

    def used(x: torch.Tensor) -> list[torch.Tensor]:
        return [frequency(gate(RouteContext(x_TD=x, training=False))[0]) for gate in gates]

    pivot, before = used(english), used(other)
    bonus = pivot_bonus(torch.stack(pivot), bonus=1.5, top=2)
    steer(gates, bonus)
    after = used(other)
    chosen = list(middle_layers(6))
    assert chosen == [2, 3]
    for layer in range(6):
        old, now = routing_divergence(before[layer], pivot[layer]), routing_divergence(after[layer], pivot[layer])
        assert now < old if layer in chosen else now == old
    steer(gates, torch.zeros(6, 8))
    assert all(torch.equal(a, b) for a, b in zip(used(other), before, strict=True))
    with pytest.raises(UserError):
        steer(gates, torch.zeros(5, 8))
    with pytest.raises(UserError):
        pivot_bonus(torch.stack(pivot), 1.0, top=9)


def test_routing_divergence_has_its_two_ends():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert routing_divergence(one, one) == pytest.approx(0.0, abs=1e-9)
    assert routing_divergence(one, other) == pytest.approx(math.log(2))


def test_testam_gate_learns_which_of_three_different_experts_errs_least():
    torch.manual_seed(0)
    x = torch.randn(240, D)
    kind = torch.arange(240) % 3
    x[:, :3] = 2.0 * nn.functional.one_hot(kind, 3)
    experts = [nn.Identity(), nn.ReLU(), nn.Sequential(nn.Linear(D, D), nn.Tanh())]
    outputs = torch.stack([expert(x).detach() for expert in experts], dim=1)
    truth = outputs[torch.arange(240), kind]
    error = (outputs - truth[:, None]).square().mean(2)
    gate = least_error(D)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(40):
        optimiser.zero_grad()
        classification_loss(gate.scorer(RouteContext(x_TD=x)), error).backward()
        optimiser.step()
    plan, _ = gate(RouteContext(x_TD=x, training=False))
    assert (plan.chosen_TE().int().argmax(1) == pseudo_labels(error)).float().mean() > 0.95
    with pytest.raises(UserError):
        pseudo_labels(torch.full((2, 3), float("nan")))
    with pytest.raises(UserError):
        classification_loss(gate.scorer(RouteContext(x_TD=x)), error[:, :2])
    none = torch.zeros(0, 3)
    assert classification_loss(Scores(none, none), none) == 0


def test_magnet_changes_phase_at_the_threshold_once_and_keeps_it_in_its_state():
    gate = magnet(D, E, threshold=0.8, decay=0.5)
    context = RouteContext(x_TD=torch.randn(10, D))
    plan, scores = gate(context)
    for _ in range(5):
        gate.balancer.update(torch.tensor([10, 0, 0, 0]))
    assert gate.balancer.phase == "coverage"
    assert set(gate.balancer.loss(plan, scores, context)) == {"coverage"}
    gate.balancer.update(torch.zeros(E, dtype=torch.int64))
    steps = 0
    while gate.balancer.phase == "coverage":
        gate.balancer.update(torch.tensor([5, 5, 5, 5]))
        steps += 1
    assert steps == 3  # 1 - 0.5^3 = 0.875 is the first at or above 0.8
    gate.balancer.update(torch.tensor([10, 0, 0, 0]))
    assert set(gate.balancer.loss(plan, scores, context)) == {"specialisation"}
    again = magnet(D, E)
    again.load_state_dict(gate.state_dict())
    assert again.balancer.phase == "specialisation"
    assert roles(4) == ("dominant", "balanced", "complementary", "dominant")
    with pytest.raises(UserError):
        magnet(D, E, threshold=0.0)


def test_magnet_losses_do_what_their_phase_says():
    torch.manual_seed(0)
    gate, x = magnet(D, E, weight=1.0), torch.randn(60, D) + 1.0
    nn.init.normal_(gate.scorer.weight_ED)
    context = RouteContext(x_TD=x)

    def train() -> float:
        optimiser, value = torch.optim.Adam(gate.parameters(), lr=0.05), 0.0
        for _ in range(30):
            plan, scores = gate(context)
            optimiser.zero_grad()
            loss = sum(gate.balancer.loss(plan, scores, context).values())
            loss.backward()
            optimiser.step()
            value = loss.item()
        return value

    plan, scores = gate(context)
    first = gate.balancer.loss(plan, scores, context)["coverage"].item()
    assert train() < 0.5 * first
    gate.balancer.phase_.fill_(1)
    plan, scores = gate(context)
    first = gate.balancer.loss(plan, scores, context)["specialisation"].item()
    assert train() < 0.5 * first
