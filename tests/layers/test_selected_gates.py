"""What every gate of balance, hierarchy and variable k keeps: exact edges, true flags, defined limits, a pure forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from junctor.errors import UserError
from junctor.layers.catalogue import GATES, gate
from junctor.layers.contracts import Gate
from junctor.layers.plan import RouteContext

HERE = {
    *("balancing", "bip", "assignment", "sinkhorn", "expert_choice", "top_p", "null_experts", "blockffn"),
    *("variable_k", "hierarchy", "reuse", "partition"),
}
MADE = [entry for entry in GATES if entry.where.partition(":")[0].rpartition(".")[2] in HERE]
FORMS: dict[str, dict[str, Any]] = {
    **{entry.name: {} for entry in MADE},
    "bip, online": {"online": True, "block": 4},
    "ssr, always": {"share": 1.0},
    "ec-dlm, per sequence": {"per": "sequence"},
    "uoe, per token": {"normalise": "token"},
    "adamoe, plain": {"renormalise": False},
}


def build(form: str, experts: int = 4) -> Gate:
    torch.manual_seed(0)
    return gate(form.partition(",")[0], 8, experts, **FORMS[form])


def context_of(seed: int = 0, batch: int = 2, size: int = 10) -> RouteContext:
    draw = torch.Generator().manual_seed(seed)
    attention = (3 * torch.randn(batch, size, size, generator=draw)).tril().softmax(-1)
    x = torch.randn(batch * size, 8, generator=draw)
    return RouteContext(x, shape=(batch, size), attention_TT=attention.tril(), step=5)


def test_eighteen_names() -> None:
    assert len(MADE) == 18
    assert all(build(entry.name).causal == entry.causal for entry in MADE)


@pytest.mark.parametrize("form", FORMS)
def test_sparse_edges_equal_all_experts_run_densely(form: str) -> None:
    """Output and every gradient: to the tokens, the gate's parameters and the experts."""
    made = build(form)
    context = context_of()
    x = context.x_TD.clone().requires_grad_()
    context = replace(context, x_TD=x)
    expert = torch.randn(4, 8, 8).requires_grad_()
    plan, _ = made(context)
    plan.check()
    edge_x = x[plan.token_N]
    edges = torch.einsum("nd,ndf->nf", edge_x, expert[plan.expert_N()]).tanh() * plan.weight_N[:, None]
    sparse = torch.zeros_like(x).index_add(0, plan.token_N, edges)
    dense = torch.einsum("te,tef->tf", plan.dense_TE(), torch.einsum("td,edf->tef", x, expert).tanh())
    torch.testing.assert_close(sparse, dense)
    inputs = [x, expert, *(p for p in made.parameters() if p.requires_grad)]
    pull = torch.randn(x.shape)
    fast = torch.autograd.grad((sparse * pull).sum(), inputs, retain_graph=True)
    slow = torch.autograd.grad((dense * pull).sum(), inputs)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert all(float(grad.abs().sum()) > 0 for grad in fast), "the gate gets a gradient"


@pytest.mark.parametrize("form", [form for form in FORMS if build(form).causal])
def test_later_tokens_do_not_change_earlier_routes(form: str) -> None:
    made = build(form)
    context = context_of()
    for cut in (3, 7):
        x = context.x_TD.clone().reshape(2, 10, 8)
        x[:, cut:] = 3 * torch.randn(2, 10 - cut, 8)
        if not made.batch_invariant:
            x[0] = context.x_TD[:10]
        before, after = (made(replace(context, x_TD=one.reshape(20, 8)))[0].dense_TE() for one in (context.x_TD, x))
        torch.testing.assert_close(before.reshape(2, 10, 4)[:, :cut], after.reshape(2, 10, 4)[:, :cut])


@pytest.mark.parametrize("form", [form for form in FORMS if build(form).batch_invariant])
def test_other_sequences_do_not_change_a_route(form: str) -> None:
    made = build(form)
    context = context_of()
    x = context.x_TD.clone()
    x[10:] = 3 * torch.randn(10, 8)
    before, after = (made(replace(context, x_TD=one))[0].dense_TE()[:10] for one in (context.x_TD, x))
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("form", [form for form in FORMS if not build(form).batch_invariant and form != "ssr"])
def test_the_flag_is_needed(form: str) -> None:
    """Some change elsewhere in the batch does change a route or a weight."""
    made = build(form)
    context = context_of(size=32)
    first = made(context)[0].dense_TE()
    for seed in range(1, 6):
        other = context_of(seed, size=32).x_TD * 3
        x = torch.cat([other[:32], context.x_TD[32:]])
        if not torch.equal(made(replace(context, x_TD=x))[0].dense_TE()[32:], first[32:]):
            return
    pytest.fail("declared batch dependent, but no change was seen")


@pytest.mark.parametrize("form", FORMS)
def test_limits_are_defined(form: str) -> None:
    made = build(form)
    context = context_of()
    nowhere = replace(context, padding_T=torch.ones(20, dtype=torch.bool))
    nothing = replace(context, x_TD=torch.zeros(0, 8), shape=(2, 0), attention_TT=torch.zeros(2, 0, 0))
    for empty in (nowhere, nothing):
        plan, scores = made(empty)
        assert (plan.edges, plan.nulls, plan.dropped) == (0, 0, 0)
        assert all(loss.isfinite() for loss in made.balancer.loss(plan, scores, empty).values())
    strided = context.x_TD.t().contiguous().t()
    assert torch.equal(made(replace(context, x_TD=strided))[0].chosen_TE(), made(context)[0].chosen_TE())
    for dtype in (torch.bfloat16, torch.float16):
        plan, scores = made(replace(context, x_TD=context.x_TD.to(dtype)))
        plan.check()
        assert (plan.weight_N.dtype, scores.logits_TE.dtype) == (torch.float32, torch.float32)
    lone, _ = made(context_of(batch=1, size=1))
    lone.check()


@pytest.mark.parametrize("form", FORMS)
def test_bad_input_is_a_typed_error(form: str) -> None:
    made = build(form)
    context = context_of()
    broken = context.x_TD.clone()
    broken[3, 0] = torch.nan
    for bad in (broken, torch.zeros(20, 7), context.x_TD.to("meta")):
        with pytest.raises(UserError):
            made(replace(context, x_TD=bad))
    padding = torch.arange(20) == 3
    plan, _ = made(replace(context, x_TD=broken, padding_T=padding))
    assert plan.edges > 0
    assert plan.weight_N.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_forward_is_pure_and_replays(form: str) -> None:
    made = build(form)
    context = context_of()
    state = {name: value.clone() for name, value in made.state_dict().items()}
    first, again = made(context)[0], made(context)[0]
    assert torch.equal(first.dense_TE(), again.dense_TE())
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())

    def run(x: torch.Tensor) -> torch.Tensor:
        return made(replace(context, x_TD=x))[0].dense_TE()

    x = context.x_TD.clone().requires_grad_()
    pull = torch.randn(20, 4)
    (plain,) = torch.autograd.grad((run(x) * pull).sum(), x)
    (replayed,) = torch.autograd.grad((checkpoint(run, x, use_reentrant=False) * pull).sum(), x)
    torch.testing.assert_close(replayed, plain)


@pytest.mark.parametrize("form", FORMS)
def test_state_dict_restores_the_route(form: str) -> None:
    made, other = build(form), build(form)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    other.load_state_dict(made.state_dict())
    assert torch.equal(made(context_of())[0].dense_TE(), other(context_of())[0].dense_TE())
