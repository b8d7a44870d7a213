"""The gates that differ in their scorer, by name: built, flagged, saved, copied, replayed and run on awkward input alike."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from junctor.layers.catalogue import GATES, gate
from junctor.layers.contracts import Gate
from junctor.layers.dispatch import dispatch
from junctor.layers.experts import ExpertBank
from junctor.layers.plan import Plan, RouteContext

B, S, D, E = 2, 5, 16, 8
T = B * S
NAMES: dict[str, dict[str, Any]] = {
    "linear": {},
    "cosine": {},
    "yuan2": {},
    "hyperrouter": {"width": 16},
    "rmoe": {"width": 8},
    "mor": {},
    "hash": {},
    "got-smoe": {},
    "gnn-moe": {"neighbours": 2},
    "mh-moe": {},
    "omnimoe": {},
    "lime": {},
    "stablemoe": {},
    "competesmoe": {},
    "erc": {"weight": 0.0},
    "mofme": {},
}


def context(seed: int = 0, **about: Any) -> RouteContext:
    generator = torch.Generator().manual_seed(seed)
    x_TD = about.pop("x_TD", torch.randn(T, D, generator=generator))
    ids = torch.randint(256, (x_TD.shape[0],), generator=generator)
    shape = (B, x_TD.shape[0] // B)
    about.setdefault("generator", torch.Generator().manual_seed(seed))
    return RouteContext(x_TD, shape, token_ids_T=ids, **about)


@pytest.fixture(params=sorted(NAMES))
def made(request: pytest.FixtureRequest) -> Gate:
    torch.manual_seed(0)
    return gate(request.param, D, E, **NAMES[request.param])


def total(plan: Plan, made: Gate) -> torch.Tensor:
    return (plan.dense_TE() * torch.arange(1.0, made.experts + 1)).sum()


def test_flags_are_the_entrys(made: Gate) -> None:
    entry = next(one for one in GATES if one.name == made.name)
    assert entry.causal == made.causal
    assert made.batch_invariant


def test_the_plan_is_whole_and_every_parameter_gets_a_gradient(made: Gate) -> None:
    about = context()
    plan, scores = made(about)
    plan.check()
    assert scores.logits_TE.shape == scores.probs_TE.shape == (plan.tokens, E)
    loss = total(plan, made) + sum(made.balancer.loss(plan, scores, about).values())
    if any(True for _ in made.parameters()):
        loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())


def test_saving_copying_and_replaying_change_nothing(made: Gate) -> None:
    about = context(training=False)
    plan, _ = made(about)
    stream = io.BytesIO()
    torch.save(made.state_dict(), stream)
    stream.seek(0)
    torch.manual_seed(9)
    other = gate(made.name, D, E, **NAMES[made.name])
    other.load_state_dict(torch.load(stream))
    for twin in (other, copy.deepcopy(made)):
        torch.testing.assert_close(twin(about)[0].dense_TE(), plan.dense_TE())


def test_a_checkpointed_forward_gives_the_same_gradient(made: Gate) -> None:
    if not any(True for _ in made.parameters()):
        return

    def run(x_TD: torch.Tensor) -> torch.Tensor:
        return total(made(context(x_TD=x_TD))[0], made)

    grads = []
    for call in (run, lambda x: checkpoint(run, x, use_reentrant=False)):
        x_TD = context().x_TD.clone().requires_grad_()
        made.zero_grad()
        value = call(x_TD)
        if value.requires_grad:
            value.backward()
        grads.append([p.grad for p in made.parameters()])
    for one, two in zip(*grads, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two)


def test_padding_emptiness_and_other_sequences(made: Gate) -> None:
    padding = torch.zeros(T, dtype=torch.bool)
    padding[[1, 7]] = True
    plan, _ = made(context(padding_T=padding))
    each = plan.tokens // T
    assert not plan.chosen_TE()[padding.repeat_interleave(each)].any()
    assert made(context(padding_T=torch.ones(T, dtype=torch.bool)))[0].edges == 0
    assert made(context(x_TD=torch.zeros(0, D)))[0].edges == 0
    changed = context().x_TD.clone()
    changed[S:] += 1
    one, two = (made(context(x_TD=x))[1].logits_TE[: S * each] for x in (context().x_TD, changed))
    torch.testing.assert_close(one, two)


def test_half_precision_is_scored_in_float32(made: Gate) -> None:
    x_TD = context().x_TD.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan, scores = made(context(x_TD=x_TD))
    assert scores.logits_TE.dtype == scores.probs_TE.dtype == plan.weight_N.dtype == torch.float32
    torch.testing.assert_close(made(context(x_TD=x_TD.float()))[1].logits_TE, scores.logits_TE)


def test_a_layer_equals_the_dense_sum_forward_and_backward(made: Gate) -> None:
    heads = getattr(made, "heads", 1)
    bank = ExpertBank(E, D // heads, 6)
    leaf_TD = context().x_TD.requires_grad_()
    about = context(x_TD=leaf_TD)
    plan, _ = made(about)
    part_PC = leaf_TD.reshape(plan.tokens, -1)
    fast = dispatch(plan, part_PC, bank, "slices").reshape(T, D)
    slow = torch.einsum("te,eto->to", plan.dense_TE(), bank(part_PC)).reshape(T, D)
    torch.testing.assert_close(fast, slow)
    leaves = [leaf_TD, *bank.parameters(), *made.scorer.parameters()]
    weight_TD = torch.randn(T, D, generator=torch.Generator().manual_seed(1))
    grads = [torch.autograd.grad((y * weight_TD).sum(), leaves, retain_graph=True, allow_unused=True) for y in (fast, slow)]
    for one, two in zip(*grads, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_scores_compile_into_one_graph(made: Gate) -> None:
    if made.name == "mh-moe":
        return  # its scorer sees parts, not tokens
    about = context(training=False)

    def score(x_TD: torch.Tensor, ids_T: torch.Tensor) -> torch.Tensor:
        given = RouteContext(x_TD, (B, S), token_ids_T=ids_T, training=False)
        return made.balancer.adjust(made.scorer(given), given)

    assert about.token_ids_T is not None
    torch._dynamo.reset()
    compiled = torch.compile(score, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(about.x_TD, about.token_ids_T), score(about.x_TD, about.token_ids_T))
