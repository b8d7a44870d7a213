"""BASE: exact loads in training, close to the best assignment, argmax in evaluation."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.assignment import Centroids, auction, base, seats_E
from junctor.layers.plan import RouteContext


def best_total(score: torch.Tensor, seats: torch.Tensor) -> float:
    """Greatest sum over all assignments with these loads, by enumeration."""
    tokens, experts = score.shape
    totals = [
        sum(float(score[t, e]) for t, e in enumerate(choice))
        for choice in product(range(experts), repeat=tokens)
        if [choice.count(e) for e in range(experts)] == seats.tolist()
    ]
    return max(totals)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("tokens", "experts"), [(6, 3), (7, 3), (6, 2), (2, 4), (1, 3)])
def test_as_good_as_the_enumerated_best(tokens: int, experts: int, seed: int) -> None:
    score = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))
    seats = seats_E(score)
    expert = auction(score, seats, eps=1e-5)
    assert torch.equal(torch.bincount(expert, minlength=experts), seats)
    total = float(score[torch.arange(tokens), expert].sum())
    assert total >= best_total(score, seats) - tokens * 1e-5 - 1e-5


@pytest.mark.parametrize("kind", ["skewed", "equal", "tied"])
def test_loads_are_exact_whatever_the_scores(kind: str) -> None:
    draw = torch.Generator().manual_seed(0)
    score = torch.randn(512, 8, generator=draw)
    score = {"skewed": score + 5 * torch.arange(8), "equal": torch.zeros(512, 8), "tied": score.round()}[kind]
    assert torch.bincount(auction(score, seats_E(score)), minlength=8).tolist() == [64] * 8


def test_running_out_of_rounds_still_gives_exact_loads() -> None:
    score = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) + torch.arange(4)
    assert torch.bincount(auction(score, seats_E(score), rounds=1), minlength=4).tolist() == [16] * 4


def test_training_is_even_evaluation_is_the_best_expert() -> None:
    torch.manual_seed(0)
    gate = base(16, 4)
    x = torch.randn(40, 16) + 1.0
    plan, scores = gate(RouteContext(x))
    assert plan.counts_E.tolist() == [10] * 4
    torch.testing.assert_close(plan.weight_N, scores.logits_TE.sigmoid()[plan.token_N, plan.expert_N()])
    plan.weight_N.sum().backward()
    seen, _ = gate(RouteContext(x, training=False))
    assert torch.equal(seen.chosen_TE().float().argmax(1), scores.logits_TE.argmax(1))
    assert seen.counts_E.tolist() != [10] * 4
    assert not gate.causal
    assert not gate.batch_invariant


def test_padding_takes_no_seat() -> None:
    torch.manual_seed(0)
    padding = torch.arange(20) % 5 == 0
    plan, _ = base(8, 4)(RouteContext(torch.randn(20, 8), padding_T=padding))
    assert plan.counts_E.tolist() == [4] * 4
    assert not padding[plan.token_N].any()


def test_centroids_start_orthogonal_with_gain_a_tenth() -> None:
    centroid = Centroids(16, 4).centroid_ED
    torch.testing.assert_close(centroid @ centroid.t(), 0.01 * torch.eye(4), atol=1e-6, rtol=0)


def test_one_expert_takes_all() -> None:
    assert base(4, 1)(RouteContext(torch.randn(5, 4)))[0].counts_E.tolist() == [5]


def test_workers_take_a_shuffled_part_each_and_are_even_in_it() -> None:
    torch.manual_seed(0)
    gate, x = base(16, 4, workers=3), torch.randn(62, 16)
    padding = torch.arange(62) >= 60
    context = RouteContext(x, padding_T=padding, generator=torch.Generator().manual_seed(1))
    parts = gate.selector.parts(replace(context, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(60))
    assert not torch.equal(torch.cat(parts), torch.arange(60))
    plan, scores = gate(context)
    chosen = plan.chosen_TE()
    for part in parts:
        assert chosen[part].sum(0).tolist() == [5] * 4
        logits = scores.logits_TE[part].detach()
        expert = auction(logits, seats_E(logits))
        assert torch.equal(chosen[part].int().argmax(1), expert)
    assert not chosen[60:].any()
    again = gate(replace(context, generator=torch.Generator().manual_seed(1)))[0].chosen_TE()
    assert torch.equal(again, chosen)
    few = gate(RouteContext(x[:2]))[0]  # fewer tokens than workers
    assert few.edges == 2
    with pytest.raises(UserError, match="workers"):
        base(16, 4, workers=0)
