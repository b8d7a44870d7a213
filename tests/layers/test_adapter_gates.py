"""Gates of adapters: entropy hybrid, task tables, prototypes, core space, hard-soft."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from junctor.errors import UserError
from junctor.layers.adapter_gates import comol, comol_adapter, lime_adapter, lora_mixer, mutual_information
from junctor.layers.balancing import shannon, tsallis
from junctor.layers.dynmole import EntropyHybrid, dynmole
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.prototypes import SelfGated, fit_gate_vector, glider, phatgoose
from junctor.layers.task_table import MhrLinear, TaskTableScorer, ept, poly

D, E, T = 6, 4, 8
BUILDERS = [dynmole, poly, ept, phatgoose, glider, comol, lora_mixer]


@pytest.mark.parametrize("build", BUILDERS)
def test_every_gate_gives_a_sound_plan_and_answers_bad_input(build):
    torch.manual_seed(0)
    gate = build(D, E)
    plan, scores = gate(RouteContext(x_TD=torch.randn(D, T).t()))
    plan.check()
    assert plan.tokens == T
    assert gate.experts == E
    assert gate.causal
    assert gate.batch_invariant
    assert scores.logits_TE.dtype == torch.float32
    half, low = gate(RouteContext(x_TD=torch.randn(T, D).half()))
    assert low.logits_TE.dtype == torch.float32
    assert half.tokens == T
    assert gate(RouteContext(x_TD=torch.zeros(0, D)))[0].edges == 0
    assert gate(RouteContext(x_TD=torch.randn(T, D), padding_T=torch.ones(T, dtype=torch.bool)))[0].edges == 0
    sum(plan.weight_N * torch.randn(plan.edges)).backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in gate.parameters())
    if build not in (poly, ept):
        with pytest.raises(UserError):
            gate(RouteContext(x_TD=torch.full((T, D), float("nan"))))
        with pytest.raises(UserError):
            gate(RouteContext(x_TD=torch.randn(T, D + 1)))


def test_tsallis_goes_to_shannon_and_uncertain_tokens_take_every_expert():
    p = torch.tensor([[0.25] * 4, [0.94, 0.02, 0.02, 0.02], [0.5, 0.3, 0.15, 0.05]])
    torch.testing.assert_close(tsallis(p, 1.0001), shannon(p), atol=1e-3, rtol=0)
    scores = Scores(p.log(), p)
    context = RouteContext(x_TD=torch.zeros(3, D))
    plan = EntropyHybrid(1.2, p=0.85, least=1)(p, scores, context)
    assert plan.chosen_TE().sum(1).tolist() == [4, 1, 2]
    torch.testing.assert_close(plan.dense_TE()[2], torch.tensor([0.5, 0.3, 0.0, 0.0]))
    assert EntropyHybrid(9.0, p=0.85, least=3)(p, scores, context).chosen_TE().sum(1).tolist() == [3, 3, 3]
    for bad in (lambda: EntropyHybrid(1.0, p=0.0), lambda: EntropyHybrid(1.0, least=0)):
        with pytest.raises(UserError):
            bad()
    with pytest.raises(UserError):
        EntropyHybrid(1.0, least=5)(p, scores, context)


def test_dynmole_losses_lower_the_mean_number_of_adapters():
    torch.manual_seed(0)
    gate, x = dynmole(D, 8, entropy=0.3, balance=0.01), torch.randn(200, D)
    context = RouteContext(x_TD=x)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.05)
    before = gate(context)[0].edges
    for _ in range(40):
        plan, scores = gate(context)
        optimiser.zero_grad()
        sum(gate.balancer.loss(plan, scores, context).values()).backward()
        optimiser.step()
    assert gate(context)[0].edges < 0.6 * before


def mhr(splits: int, tasks: int = 3) -> MhrLinear:
    torch.manual_seed(1)
    layer = MhrLinear(nn.Linear(D, 4), E, tasks, splits, rank=2, noise=False)
    nn.init.normal_(layer.up_EHYR)
    nn.init.normal_(layer.table_QHE)
    return layer


def test_poly_merge_is_the_weighted_average_of_parameters_and_one_block_of_mhr():
    layer, x = mhr(1), torch.randn(2, 5, D)
    task = torch.tensor([2, 0])
    weight = layer.table_QHE[task, 0].sigmoid()
    weight = weight / weight.sum(1, keepdim=True)
    for b in range(2):
        down = sum(weight[b, e] * layer.down_EHRX[e, 0] for e in range(E))
        up = sum(weight[b, e] * layer.up_EHYR[e, 0] for e in range(E))
        want = layer.linear(x[b]) + x[b] @ down.t() @ up.t() * layer.scale
        torch.testing.assert_close(layer(x, task)[b], want)
    gate = poly(D, E, 3, noise=False)
    with torch.no_grad():
        gate.scorer.table_QE.copy_(layer.table_QHE[:, 0])
    _, scores = gate(RouteContext(x_TD=x[:, 0], task_ids_T=task))
    torch.testing.assert_close(scores.probs_TE, weight)


def test_mhr_blocks_have_their_own_weights():
    layer, task = mhr(2), torch.tensor([0])
    with torch.no_grad():
        layer.table_QHE.fill_(-40.0)
        layer.table_QHE[0, 0, 1] = layer.table_QHE[0, 1, 3] = 0.0
    down, up = layer.merged(task)
    torch.testing.assert_close(down[0, :, : D // 2], layer.down_EHRX[1, 0])
    torch.testing.assert_close(down[0, :, D // 2 :], layer.down_EHRX[3, 1])
    torch.testing.assert_close(up[0, :2], layer.up_EHYR[1, 0])
    torch.testing.assert_close(up[0, 2:], layer.up_EHYR[3, 1])


def test_mhr_mu_equals_a_uniform_table_and_mhr_z_trains_the_table_alone():
    layer, x = mhr(2), torch.randn(3, 5, D)
    task = torch.tensor([0, 1, 2])
    mean = layer.averaged()
    layer.train_table_only()
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["table_QHE"]
    with torch.no_grad():
        layer.table_QHE.fill_(0.7)
    torch.testing.assert_close(mean(x, task), layer(x, task))
    with pytest.raises(UserError):
        MhrLinear(nn.Linear(D, 4), E, 3, splits=4)
    with pytest.raises(UserError):
        layer(x, task[:2])


def test_polys_skills_are_drawn_in_training_one_draw_per_example():
    gate = poly(D, E, 2)
    with torch.no_grad():
        gate.scorer.table_QE.copy_(torch.linspace(-2, 2, 2 * E).view(2, E))
    shape, task = (2000, 3), torch.arange(2000).remainder(2).repeat_interleave(3)

    def probs(training: bool = True, seed: int = 0) -> torch.Tensor:
        draw = torch.Generator().manual_seed(seed)
        context = RouteContext(torch.zeros(6000, D), shape, task_ids_T=task, training=training, generator=draw)
        return gate(context)[1].probs_TE.view(*shape, E)

    drawn = probs()
    torch.testing.assert_close(drawn[:, :1].expand_as(drawn), drawn)
    torch.testing.assert_close(drawn.sum(-1), torch.ones(shape))
    assert torch.equal(probs(), drawn)
    assert not torch.equal(probs(seed=1), drawn)
    logits = gate.scorer(RouteContext(torch.zeros(6000, D), shape, task_ids_T=task)).logits_TE.view(*shape, E)
    on = (logits[::2, 0] > 0).double().mean(0)  # a relaxed Bernoulli is above one half with the Bernoulli's probability
    torch.testing.assert_close(on, gate.scorer.table_QE[0].detach().sigmoid().double(), atol=0.06, rtol=0)
    quiet = gate.scorer.table_QE[task].sigmoid().view(*shape, E)
    torch.testing.assert_close(probs(training=False), quiet / quiet.sum(-1, keepdim=True))
    drawn.square().mean().backward()
    assert bool(gate.scorer.table_QE.grad.abs().sum() > 0)
    with pytest.raises(UserError, match="Bernoulli"):
        TaskTableScorer(D, E, 2, "softmax", noise=True)


def test_mhr_draws_its_skills_from_the_generator_and_not_in_evaluation():
    layer, x, task = MhrLinear(nn.Linear(D, 4), E, 3, 2, rank=2), torch.randn(3, 5, D), torch.tensor([0, 1, 1])
    nn.init.normal_(layer.up_EHYR)
    one, same, other = (layer(x, task, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    down, _ = layer.merged(task)
    assert not torch.allclose(down[1], down[2])  # the same task, another example, another draw
    down, _ = layer.eval().merged(task)
    assert torch.equal(down[1], down[2])


def test_a_task_gate_needs_its_tasks():
    gate = poly(D, E, 3)
    for ids in (None, torch.zeros(T - 1, dtype=torch.int64), torch.full((T,), 3)):
        with pytest.raises(UserError):
            gate(RouteContext(x_TD=torch.randn(T, D), task_ids_T=ids))
    with pytest.raises(UserError):
        poly(D, E, 0)


def domain(e: int, draw: torch.Generator) -> torch.Tensor:
    centre = torch.zeros(16)
    centre[3 * e : 3 * e + 3] = 2.0
    return centre + torch.randn(120, 16, generator=draw)


def test_phatgoose_vectors_trained_apart_route_each_domain_to_its_adapter():
    torch.manual_seed(0)
    draw, base = torch.Generator().manual_seed(0), nn.Linear(16, 4, bias=False)
    vectors, adapters = [], []
    for e in range(E):
        x, adapter = domain(e, draw), nn.Linear(16, 4, bias=False)
        gated = SelfGated(base, adapter, 16)
        y = base(x).detach() + adapter(x).detach()
        vectors.append(fit_gate_vector(gated, [(x, y)], nn.functional.mse_loss, lr=0.02))
        adapters.append(adapter)
        assert all(p.grad is None for p in [*base.parameters(), *adapter.parameters()])
    gate = phatgoose(16, E)
    gate.scorer.load(vectors)
    hits = [(gate(RouteContext(x_TD=domain(e, draw)))[1].logits_TE.argmax(1) == e).float().mean().item() for e in range(E)]
    assert min(hits) > 2 / E
    plan, scores = gate(RouteContext(x_TD=domain(0, draw)))
    top = scores.logits_TE.topk(2)
    torch.testing.assert_close(plan.dense_TE().gather(1, top.indices), top.values.softmax(1))
    with pytest.raises(UserError):
        gate.scorer.load(vectors[:2])


def test_glider_ends_of_the_mix_are_its_two_parts():
    torch.manual_seed(0)
    context = RouteContext(x_TD=torch.randn(T, D), task_ids_T=torch.arange(T) % 2)
    local, overall = (glider(D, E, tasks=2, mix=mix) for mix in (0.0, 1.0))
    alone = phatgoose(D, E)
    alone.scorer.load(list(local.scorer.prototype_ED))
    torch.testing.assert_close(local(context)[1].logits_TE, alone(context)[1].logits_TE)
    task, adapter = torch.randn(2, 16), torch.randn(E, 16)
    overall.scorer.describe(task, adapter)
    want = nn.functional.cosine_similarity(task[:, None], adapter[None], dim=2)
    torch.testing.assert_close(overall(context)[1].logits_TE, want[context.task_ids_T])
    for bad in (lambda: glider(D, E, mix=2.0), lambda: overall.scorer.describe(task[:1], adapter)):
        with pytest.raises(UserError):
            bad()


def test_comol_gate_reads_the_banks_own_projection():
    layer = comol_adapter(nn.Linear(D, 5), E, rank=2)
    assert layer.gate.scorer.down is layer.bank.down
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 2 * (D + 5) + E * 4 + E * 2
    nn.init.normal_(layer.bank.up.weight)
    x = torch.randn(T, D)
    plan, _ = layer.route(x)
    torch.testing.assert_close(layer(x), layer.linear(x) + layer.bank.per_expert(x, plan))
    with pytest.raises(UserError):
        comol(D, E, down=nn.Linear(D + 1, 2))


def test_lora_mixer_is_hard_while_tasks_are_known_and_routes_learn_them():
    torch.manual_seed(0)
    gate, task = lora_mixer(D, E), torch.arange(80) % E
    x = nn.functional.one_hot(task, D).float() + 0.3 * torch.randn(80, D)
    context = RouteContext(x_TD=x, task_ids_T=task)
    plan, scores = gate(context)
    assert torch.equal(plan.dense_TE() > 0, nn.functional.one_hot(task, E).bool())
    assert (plan.weight_N == 1).all()
    before = mutual_information(task, scores.probs_TE, E)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(40):
        plan, scores = gate(context)
        optimiser.zero_grad()
        sum(gate.balancer.loss(plan, scores, context).values()).backward()
        optimiser.step()
    after = mutual_information(task, gate(context)[1].probs_TE, E)
    assert before < 0.1 < 0.5 * math.log(E) < after
    later, _ = gate(RouteContext(x_TD=x, task_ids_T=task, training=False))
    assert later.edges == 160


def test_lime_has_no_routing_parameter_and_reads_output_and_delta():
    torch.manual_seed(0)
    layer, x = lime_adapter(nn.Linear(D, 5), E, rank=2), torch.randn(T, D)
    assert not list(layer.gate.parameters())
    nn.init.normal_(layer.bank.up.weight)
    nn.init.normal_(layer.bank.modulation_EO)
    plan, scores = layer.route(x)
    torch.testing.assert_close(layer(x), layer.linear(x) + layer.bank(x, plan))
    count = plan.chosen_TE().sum(1)
    assert count.min() >= 1
    assert count.max() <= E
    with torch.no_grad():
        layer.bank.up.weight.mul_(-1.0)
    assert not torch.equal(layer.route(x)[1].logits_TE, scores.logits_TE)
