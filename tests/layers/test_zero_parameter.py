"""LiME: no parameters, 1 to E experts per token, and a route that depends on the token alone unless declared otherwise."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.plan import RouteContext
from junctor.layers.zero_parameter import AutoTopK, FirstChannelScorer, lime

T, D, E = 12, 8, 4


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randn(T, D, generator=torch.Generator().manual_seed(seed))


def test_it_has_no_parameters_and_takes_one_to_all_experts() -> None:
    gate = lime(D, E)
    assert not list(gate.parameters())
    assert not list(gate.buffers())
    plan, scores = gate(RouteContext(tokens()))
    plan.check()
    count_T = plan.chosen_TE().sum(1)
    assert count_T.min() >= 1
    assert count_T.max() <= E
    assert len(set(count_T.tolist())) > 1
    torch.testing.assert_close(plan.dense_TE().sum(1), torch.ones(T))
    best = scores.probs_TE.amax(1, keepdim=True)
    assert torch.equal(plan.chosen_TE(), scores.probs_TE >= 0.5 * best)


def test_the_formula_and_its_gradient_by_hand() -> None:
    gate = lime(D, E, gamma=0.7, temperature=0.4)
    frozen, down = torch.randn(D, D), torch.randn(D, D)
    gate.scorer.attach(lambda x: x @ frozen, lambda x: x @ down)
    x_TD = tokens().requires_grad_()
    plan, _ = gate(RouteContext(x_TD))
    rows = []
    for x in x_TD:
        h, d = (x @ frozen)[:E], (x @ down)[:E]
        p = ((0.7 * h / h.abs().max() + 0.3 * d / d.abs().max()) / 0.4).softmax(0)
        kept = torch.where(p >= 0.5 * p.max(), p, torch.zeros(()))
        rows.append(kept / kept.sum())
    wanted, weight = torch.stack(rows), torch.arange(float(E))
    torch.testing.assert_close(plan.dense_TE(), wanted)
    one, two = (torch.autograd.grad((w * weight).sum(), x_TD)[0] for w in (plan.dense_TE(), wanted))
    torch.testing.assert_close(one, two)


def test_per_token_absmax_makes_a_route_independent_of_the_batch_and_batch_absmax_says_that_it_does_not() -> None:
    loud = tokens().clone()
    loud[-1] *= 50
    plain, batch = lime(D, E), lime(D, E, absmax="batch")
    one, two = (plain(RouteContext(x))[1].logits_TE for x in (tokens(), loud))
    assert torch.equal(one[:-1], two[:-1])
    assert plain.causal
    assert plain.batch_invariant
    one, two = (batch(RouteContext(x))[1].logits_TE for x in (tokens(), loud))
    assert not torch.allclose(one[:-1], two[:-1])
    assert not batch.causal
    assert not batch.batch_invariant


def test_a_window_looks_back_only_and_within_its_sequence() -> None:
    scorer, plain = FirstChannelScorer(D, E, window=3), FirstChannelScorer(D, E)
    context = RouteContext(tokens(), shape=(2, 6))
    raw = plain(context).logits_TE.view(2, 6, E)
    wanted = torch.stack([torch.stack([raw[b, max(0, i - 2) : i + 1].mean(0) for i in range(6)]) for b in range(2)])
    torch.testing.assert_close(scorer(context).logits_TE, wanted.flatten(0, 1))


def test_auto_k_at_its_ends() -> None:
    scores = FirstChannelScorer(D, E)(RouteContext(tokens()))
    for theta, count in ((0.0, E), (1.0, 1)):
        plan = AutoTopK(theta)(scores.probs_TE, scores, RouteContext(tokens()))
        assert (plan.chosen_TE().sum(1) == count).all()


def test_bad_input_is_refused_and_empty_input_is_not() -> None:
    for settings in (
        {"experts": D + 1},
        {"gamma": 2.0},
        {"window": 0},
        {"theta": -1.0},
        {"temperature": 0.0},
        {"absmax": "row"},
    ):
        with pytest.raises(UserError):
            lime(**{"d_model": D, "experts": E} | settings)  # type: ignore[arg-type]
    for absmax in ("token", "batch"):
        gate = lime(D, E, absmax=absmax, window=2)
        assert gate(RouteContext(torch.zeros(0, D)))[0].edges == 0
        hidden = RouteContext(tokens(), padding_T=torch.ones(T, dtype=torch.bool))
        assert gate(hidden)[0].edges == 0
        assert gate(RouteContext(torch.zeros(2, D)))[0].edges == 2 * E  # all alike: all experts
        with pytest.raises(UserError, match="not a number"):
            gate(RouteContext(torch.full((3, D), torch.nan)))
    gate.scorer.attach(lambda x: x[:, :2], lambda x: x)
    with pytest.raises(UserError, match="channels"):
        gate(RouteContext(tokens()))
