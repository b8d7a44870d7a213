"""Wrappers of the training loop: unbiased policy gradients, steps that leave old inputs alone, shifts tuned at test time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from junctor.errors import UserError
from junctor.layers.hooks import ProjectedStep, input_basis, optimise_shift, policy_loss, rloo_loss, shifted
from junctor.layers.merging import kalavai
from junctor.layers.plan import RouteContext
from junctor.layers.remix import remix, sequence_logp

E, D = 4, 6
REWARD = {
    frozenset(pair): value for pair, value in zip(itertools.combinations(range(E), 2), (1, -2, 0.5, 3, 0, -1), strict=True)
}


def outcomes(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probability and reward of all 12 ordered pairs."""
    pairs = torch.tensor(list(itertools.permutations(range(E), 2)))
    reward = torch.tensor([REWARD[frozenset(pair.tolist())] for pair in pairs]).float()
    return sequence_logp(z.expand(len(pairs), E), pairs), reward


def test_rloo_is_unbiased_by_enumeration():
    z = torch.tensor([0.3, -0.5, 1.0, 0.1], requires_grad=True)
    logp, reward = outcomes(z)
    torch.testing.assert_close(logp.exp().sum(), torch.tensor(1.0))
    (truth,) = torch.autograd.grad((logp.exp() * reward).sum(), z, retain_graph=True)
    single = sum(p * policy_loss(logp[i : i + 1], reward[i : i + 1]) for i, p in enumerate(logp.exp().tolist()))
    (policy,) = torch.autograd.grad(single, z, retain_graph=True)
    torch.testing.assert_close(-policy, truth, rtol=1e-4, atol=1e-5)
    total = torch.zeros(E)
    chance = logp.exp().tolist()
    for i, j in itertools.product(range(len(chance)), repeat=2):
        (grad,) = torch.autograd.grad(rloo_loss(logp[[i, j]], reward[[i, j]]), z, retain_graph=True)
        total += chance[i] * chance[j] * -grad
    torch.testing.assert_close(total, truth, rtol=1e-4, atol=1e-5)


def test_rloo_variance_falls_with_samples():
    z = torch.zeros(E, requires_grad=True)
    logp, reward = outcomes(z)
    jac = torch.stack([torch.autograd.grad(one, z, retain_graph=True)[0] for one in logp])
    draw = torch.Generator().manual_seed(0)

    def spread(m: int) -> float:
        index = torch.multinomial(logp.detach().exp().expand(400, -1), m, replacement=True, generator=draw)
        r = reward[index]
        others = (r.sum(1, keepdim=True) - r) / (m - 1)
        return ((r - others)[..., None] * jac[index]).mean(1).var(0).sum().item()

    assert spread(8) < 0.5 * spread(2)


def test_policy_losses_refuse_what_does_not_fit():
    with pytest.raises(UserError):
        rloo_loss(torch.zeros(1), torch.zeros(1))
    with pytest.raises(UserError):
        policy_loss(torch.zeros(2), torch.zeros(3))


def test_remix_support_is_always_k_with_constant_weights_and_no_gradient_through_them():
    gate, x = remix(D, E, 2), torch.randn(50, D)
    plan, scores = gate(RouteContext(x_TD=x, generator=torch.Generator().manual_seed(0)))
    plan.check()
    assert (plan.chosen_TE().sum(1) == 2).all()
    assert (plan.weight_N == 0.5).all()
    assert not plan.weight_N.requires_grad
    assert scores.logp.requires_grad
    again, _ = gate(RouteContext(x_TD=x, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(plan.token_N, again.token_N)
    final, quiet = gate(RouteContext(x_TD=x, training=False))
    torch.testing.assert_close(final.chosen_TE(), torch.zeros(50, E).scatter(1, quiet.logits_TE.topk(2).indices, 1) > 0)


def test_remix_draws_subsets_at_the_stated_rate_and_earns_more_with_training():
    torch.manual_seed(0)
    gate, x = remix(2, E, 2), torch.ones(1500, 2)
    generator = torch.Generator().manual_seed(1)
    plan, scores = gate(RouteContext(x_TD=x, generator=generator))
    logp, _ = outcomes(scores.logits_TE[0].detach())
    pairs = list(itertools.permutations(range(E), 2))
    want = torch.zeros(E)
    for chance, pair in zip(logp.exp().tolist(), pairs, strict=True):
        want[list(pair)] += chance
    torch.testing.assert_close(plan.counts_E / 1500, want, atol=0.05, rtol=0)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.05)
    for _ in range(40):
        draws = [gate(RouteContext(x_TD=x[:16], generator=generator)) for _ in range(4)]
        rewards = [
            torch.tensor([REWARD[frozenset(row.nonzero().flatten().tolist())] for row in p.chosen_TE()]) for p, _ in draws
        ]
        optimiser.zero_grad()
        rloo_loss(torch.stack([s.logp for _, s in draws]), torch.stack(rewards).float()).backward()
        optimiser.step()
    late, reward = outcomes(gate(RouteContext(x_TD=x[:1], training=False))[1].logits_TE[0].detach())
    assert (late.exp() * reward).sum() > (logp.exp() * reward).sum() + 0.5


def test_remix_bad_input():
    gate = remix(D, E, 2)
    with pytest.raises(UserError):
        gate(RouteContext(x_TD=torch.full((3, D), float("nan")), training=False))
    assert gate(RouteContext(x_TD=torch.zeros(0, D)))[0].tokens == 0
    empty, _ = gate(RouteContext(x_TD=torch.randn(3, D), padding_T=torch.ones(3, dtype=torch.bool)))
    assert empty.edges == 0
    _, scores = gate(RouteContext(x_TD=torch.randn(D, 3).t().half()))
    assert scores.logits_TE.dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_projected_steps_leave_old_outputs_unchanged_whatever_the_optimiser(kind):
    torch.manual_seed(0)
    layer = nn.Linear(D, E, bias=False)
    old = torch.randn(30, 3) @ torch.randn(3, D)
    before = layer(old).detach()
    step = ProjectedStep(kind(layer.parameters(), lr=0.1, weight_decay=0.1), {layer.weight: input_basis(old, 1.0)})
    new, target = torch.randn(20, D), torch.randn(20, E)
    first = nn.functional.mse_loss(layer(new), target).item()
    for _ in range(20):
        step.zero_grad()
        loss = nn.functional.mse_loss(layer(new), target)
        loss.backward()
        step.step()
    torch.testing.assert_close(layer(old), before, atol=1e-4, rtol=0)
    assert loss.item() < first


def test_basis_keeps_the_asked_energy():
    x = torch.randn(40, 1) @ torch.randn(1, D) * 10 + 0.01 * torch.randn(40, D)
    assert input_basis(x, 0.99).shape == (D, 1)
    assert input_basis(x, 1.0).shape == (D, D)
    assert input_basis(torch.zeros(5, D)).shape == (D, 0)
    assert input_basis(torch.zeros(0, D)).shape == (D, 0)
    with pytest.raises(UserError):
        input_basis(x, 0.0)
    with pytest.raises(UserError):
        ProjectedStep(torch.optim.SGD([w := nn.Parameter(torch.zeros(2, 3))], lr=1), {w: torch.zeros(2, 1)})


def test_shift_of_zero_is_the_identity_and_tuning_lowers_the_loss_and_touches_nothing_else():
    torch.manual_seed(0)
    gate, x = kalavai(D, E), torch.randn(10, D)
    nn.init.normal_(gate.scorer.weight_ED)
    context = RouteContext(x_TD=x)
    with torch.no_grad():
        want = gate.scorer(context).probs_TE
    shift = shifted(gate)
    assert shifted(gate) is shift
    assert gate.causal
    assert torch.equal(gate.scorer(context).probs_TE, want)
    weights = [p.clone() for p in shift.inner.parameters()]
    outputs = torch.randn(10, E)

    def loss() -> torch.Tensor:
        return (gate.scorer(context).probs_TE * outputs).sum()

    history = optimise_shift([shift], loss, steps=15, lr=0.1)
    assert history[-1] < history[0]
    assert bool(shift.shift_E.any())
    for old, now in zip(weights, shift.inner.parameters(), strict=True):
        assert torch.equal(old, now)
        assert now.grad is None
    optimise_shift([shift], loss, steps=0, lr=0.1)
    assert torch.equal(gate.scorer(context).probs_TE, want)
