"""Uncertainty-aware scores: equal to linear where readings agree, flatter where they do not, repeatable in evaluation."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.plan import RouteContext
from junctor.layers.uncertain import DropoutScorer, UncertainScores, mofme_gate

T, D, E = 8, 10, 4


def tokens() -> torch.Tensor:
    return torch.randn(T, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("readings", [0, 8])
def test_without_dropout_it_is_the_linear_gate(readings: int) -> None:
    scorer = DropoutScorer(D, E, readings, drop=0.0)
    scores = scorer(RouteContext(tokens()))
    torch.testing.assert_close(scores.logits_TE, tokens() @ scorer.weight_ED.t())
    assert isinstance(scores, UncertainScores)
    assert float(scores.variance_TE.detach().max()) < 1e-10


def test_the_formula_by_hand() -> None:
    scorer = DropoutScorer(D, E, readings=5, drop=0.4)
    x_TD = tokens().requires_grad_()
    scores = scorer(RouteContext(x_TD, training=False))
    each = torch.stack([(x_TD * mask) @ scorer.weight_ED.t() for mask in scorer.masks_MD])
    wanted = each.mean(0) / (1 + torch.pi / 8 * each.var(0, correction=0)).sqrt()
    torch.testing.assert_close(scores.logits_TE, wanted)
    weight = torch.arange(float(E))
    one, two = (
        torch.autograd.grad((z.softmax(1) * weight).sum(), x_TD, retain_graph=True)[0] for z in (scores.logits_TE, wanted)
    )
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("readings", [0, 64])
def test_more_disagreement_gives_flatter_weights(readings: int) -> None:
    torch.manual_seed(0)
    weight, entropies = 3 * torch.randn(E, D) * D**-0.5, []
    for drop in (0.0, 0.2, 0.6):
        scorer = DropoutScorer(D, E, readings, drop)
        scorer.weight_ED.data.copy_(weight)
        p = scorer(RouteContext(tokens(), training=False)).probs_TE.detach()
        entropies.append(float(-(p * p.log()).sum(1).mean()))
    assert entropies == sorted(entropies)


def test_the_closed_form_is_the_limit_of_many_readings() -> None:
    few, all_of_them = DropoutScorer(D, E, 20_000, 0.3), DropoutScorer(D, E, 0, 0.3)
    all_of_them.weight_ED.data.copy_(few.weight_ED.data)
    one, two = (scorer(RouteContext(tokens(), training=False)) for scorer in (few, all_of_them))
    torch.testing.assert_close(one.variance_TE, two.variance_TE, rtol=0.1, atol=0.02)
    torch.testing.assert_close(one.logits_TE, two.logits_TE, rtol=0.05, atol=0.03)


def test_evaluation_repeats_and_training_draws_from_the_generator() -> None:
    gate = mofme_gate(D, E, readings=8, drop=0.3)
    quiet = [gate.scorer(RouteContext(tokens(), training=False)).logits_TE for _ in range(2)]
    assert torch.equal(*quiet)
    drawn = [gate.scorer(RouteContext(tokens(), generator=torch.Generator().manual_seed(seed))).logits_TE for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    one = gate.scorer(RouteContext(tokens()[:1], generator=torch.Generator().manual_seed(1))).logits_TE
    torch.testing.assert_close(one, drawn[0][:1])


def test_bad_input_is_refused_and_empty_input_is_not() -> None:
    for settings in ({"readings": -1}, {"drop": 1.0}, {"k": E + 1}):
        with pytest.raises(UserError):
            mofme_gate(D, E, **settings)  # type: ignore[arg-type]
    gate = mofme_gate(D, E)
    assert gate(RouteContext(torch.zeros(0, D)))[0].edges == 0
    with pytest.raises(UserError, match="not a number"):
        gate(RouteContext(torch.full((3, D), torch.nan)))
