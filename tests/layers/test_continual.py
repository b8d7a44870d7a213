"""SAME and T2MIR: old routes stay, and task codes gather."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from junctor.errors import UserError
from junctor.layers.adapters import LoraBank
from junctor.layers.continual import TwoWay, same, same_step, settled, smooth_load, t2mir_task, t2mir_token
from junctor.layers.plan import RouteContext

D, E = 8, 4


@pytest.mark.parametrize("build", [same, t2mir_token, t2mir_task])
def test_every_gate_gives_a_sound_plan_and_answers_bad_input(build):
    gate = build(D, E)
    plan, _scores = gate(RouteContext(x_TD=torch.randn(D, 6).t(), shape=(2, 3)))
    plan.check()
    assert gate.causal == (build is not t2mir_task)
    assert gate(RouteContext(x_TD=torch.randn(6, D).half()))[1].logits_TE.dtype == torch.float32
    assert gate(RouteContext(x_TD=torch.zeros(0, D)))[0].edges == 0
    assert gate(RouteContext(x_TD=torch.randn(6, D), padding_T=torch.ones(6, dtype=torch.bool)))[0].edges == 0
    with pytest.raises(UserError):
        gate(RouteContext(x_TD=torch.full((6, D), float("nan"))))
    with pytest.raises(UserError):
        gate(RouteContext(x_TD=torch.randn(6, D + 1)))


def test_same_old_task_logits_do_not_move_while_the_new_task_is_learned():
    torch.manual_seed(0)
    gate = same(D, E)
    old, new = torch.randn(60, 3) @ torch.randn(3, D), torch.randn(60, D)
    gate.scorer.observe(old)
    before, _ = gate(RouteContext(x_TD=old))
    want = gate.scorer(RouteContext(x_TD=old)).logits_TE.detach()
    labels = torch.randint(0, E, (60,))
    step = same_step(torch.optim.AdamW(gate.parameters(), lr=0.05, weight_decay=0.1), gate)
    losses = []
    for _ in range(40):
        step.zero_grad()
        loss = nn.functional.cross_entropy(gate.scorer(RouteContext(x_TD=new)).logits_TE, labels)
        loss.backward()
        step.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    torch.testing.assert_close(gate.scorer(RouteContext(x_TD=old)).logits_TE, want, atol=1e-4, rtol=0)
    after, _ = gate(RouteContext(x_TD=old))
    assert torch.equal(after.chosen_TE(), before.chosen_TE())


def test_same_without_memory_is_the_plain_optimiser_and_energy_bounds_the_rank():
    gate = same(D, E)
    assert gate.scorer.basis().shape == (D, 0)
    torch.testing.assert_close(gate.scorer.damping(5.0), torch.eye(D))
    x = torch.randn(50, 1) @ torch.randn(1, D) * 10 + 0.1 * torch.randn(50, D)
    gate.scorer.observe(x)
    assert gate.scorer.basis(0.9).shape == (D, 1)
    assert gate.scorer.basis(1.0).shape == (D, D)
    direction = gate.scorer.basis(0.9)[:, 0]
    damped = gate.scorer.damping(1.0) @ direction
    assert damped.norm() < 0.2
    assert gate.half().scorer.gram_DD.dtype == torch.float32
    assert gate.scorer.weight_ED.dtype == torch.float16
    with pytest.raises(UserError):
        gate.scorer.observe(torch.full((1, D), float("inf")))


def test_damped_steps_and_settled_experts():
    gate, stacked = same(D, E), nn.Parameter(torch.zeros(3, D, 2))
    gate.scorer.observe(torch.randn(40, D))
    shape = torch.stack([gate.scorer.damping(s) for s in (0.0, 1.0, 3.0)])
    still = settled(torch.tensor([0, 50, 50]), torch.tensor([90, 9, 1]))
    assert still.tolist() == [False, False, True]
    step = same_step(torch.optim.SGD([stacked], lr=1.0), gate, {stacked: shape}, {stacked: still})
    stacked.grad = torch.randn(3, D, 2)
    grad = stacked.grad.clone()
    step.step()
    torch.testing.assert_close(stacked[0], -grad[0])
    torch.testing.assert_close(stacked[1], -shape[1] @ grad[1])
    assert not bool(stacked[2].any())


def test_t2mir_same_task_codes_come_closer_than_cross_task():
    torch.manual_seed(0)
    gate = t2mir_task(D, E, contrast=1.0, momentum=0.9)
    task = torch.arange(6) % 3
    centres = torch.randn(3, D) * 0.5
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.01)

    def context() -> RouteContext:
        x = centres[task][:, None] + torch.randn(6, 5, D, generator=draw)
        return RouteContext(x_TD=x.reshape(30, D), shape=(6, 5), task_ids_T=task.repeat_interleave(5), generator=draw)

    def gap() -> float:
        code = nn.functional.normalize(gate.scorer(context()).state[::5].detach(), dim=1)
        near = code @ code.t()
        alike = task[:, None] == task[None]
        return (near[alike & ~torch.eye(6, dtype=torch.bool)].mean() - near[~alike].mean()).item()

    before = sum(gap() for _ in range(10)) / 10
    kept = gate.balancer.copy.weight.clone()
    for _ in range(80):
        made = context()
        plan, scores = gate(made)
        optimiser.zero_grad()
        sum(gate.balancer.loss(plan, scores, made).values()).backward()
        optimiser.step()
        gate.balancer.update(plan.counts_E)
    assert sum(gap() for _ in range(10)) / 10 > before + 0.1 > 0.1
    assert not torch.equal(kept, gate.balancer.copy.weight)
    assert not gate.balancer.copy.weight.requires_grad
    first = gate.scorer(context()).probs_TE.reshape(6, 5, E)
    torch.testing.assert_close(first[:, 0], first[:, 4])


def test_t2mir_noise_is_the_generators_and_absent_at_inference():
    gate, x = t2mir_token(D, E), torch.randn(6, D)
    one, other = (gate(RouteContext(x_TD=x, generator=torch.Generator().manual_seed(3)))[1].logits_TE for _ in range(2))
    assert torch.equal(one, other)
    quiet = gate(RouteContext(x_TD=x, training=False))[1].logits_TE
    torch.testing.assert_close(quiet, x @ gate.scorer.clean.weight.t())


def test_t2mir_layer_concatenates_and_names_both_gates_losses():
    banks = [LoraBank(D, 3, E, 2) for _ in range(2)]
    layer = TwoWay(t2mir_token(D, E), banks[0], t2mir_task(D, E), banks[1])
    out, losses = layer(RouteContext(x_TD=torch.randn(6, D), shape=(2, 3)))
    assert out.shape == (6, 6)
    assert set(losses) == {"token.importance", "token.load", "task.importance", "task.load", "task.contrast"}
    assert "token_bank.down_ERD" in layer.state_dict()


def test_smooth_load_is_the_probability_of_being_chosen_again():
    torch.manual_seed(0)
    gate, k = t2mir_token(D, E, 2), 2
    nn.init.normal_(gate.scorer.noise.weight)
    padding = torch.arange(7) >= 5
    context = RouteContext(torch.randn(7, D), padding_T=padding, generator=torch.Generator().manual_seed(1))
    plan, scores = gate(context)
    normal = torch.distributions.Normal(0.0, 1.0)
    want = torch.zeros(E)
    for t in range(5):
        for e in range(E):
            others = [scores.logits_TE[t, i].item() for i in range(E) if i != e]
            threshold = sorted(others, reverse=True)[k - 1]
            want[e] += normal.cdf((scores.clean_TE[t, e] - threshold) / scores.scale_TE[t, e]).detach()
    load = smooth_load(scores, context, k)
    torch.testing.assert_close(load, want)
    loss = gate.balancer.loss(plan, scores, context)["load"]
    torch.testing.assert_close(loss, 0.01 * want.var(unbiased=False) / want.mean() ** 2)
    loss.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in gate.scorer.parameters())  # the noise's scale is trained too
    draws = torch.stack([(scores.clean_TE + torch.randn(7, E) * scores.scale_TE)[0] for _ in range(4000)]).detach()
    fixed = scores.logits_TE[0].detach()
    for e in range(E):
        trial = fixed.repeat(4000, 1)
        trial[:, e] = draws[:, e]
        share = (trial.topk(k, dim=1).indices == e).any(1).double().mean()
        one = smooth_load(replace_rows(scores), RouteContext(context.x_TD[:1]), k)[e].detach()
        assert abs(float(share) - float(one)) < 0.04


def replace_rows(scores):
    """The first token's scores alone."""
    names = ("logits_TE", "probs_TE", "clean_TE", "scale_TE")
    return replace(scores, **{name: getattr(scores, name)[:1] for name in names})


def test_smooth_load_without_noise_counts_and_takes_every_expert_when_k_is_all():
    gate, x = t2mir_token(D, E, 2), torch.randn(9, D)
    plan, scores = gate(RouteContext(x, training=False))
    torch.testing.assert_close(smooth_load(scores, RouteContext(x), 2), plan.counts_E.float())
    _, noisy = gate(RouteContext(x))
    torch.testing.assert_close(smooth_load(noisy, RouteContext(x), E), torch.full((E,), 9.0))
    context = RouteContext(torch.zeros(0, D))
    assert float(gate.balancer.loss(*gate(context), context)["load"].detach()) == 0.0
