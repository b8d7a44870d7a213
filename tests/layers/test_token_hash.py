"""Hash routing: constant, balanced, and k distinct experts."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.plan import RouteContext
from junctor.layers.token_hash import HashScorer, hashed

D, E, V = 4, 5, 53


def context(ids: torch.Tensor, scale: float = 1.0) -> RouteContext:
    return RouteContext(torch.randn(ids.shape[0], D) * scale, token_ids_T=ids)


@pytest.mark.parametrize("k", [1, 3, E])
def test_a_token_ids_experts_are_constant_and_distinct(k: int) -> None:
    gate = hashed(D, E, k, vocabulary=V)
    ids = torch.arange(V)
    first, _ = gate(context(ids))
    again, _ = gate(context(ids, 100.0))
    assert torch.equal(first.chosen_TE(), again.chosen_TE())
    assert (first.chosen_TE().sum(1) == k).all()
    torch.testing.assert_close(first.weight_N, torch.full((V * k,), 1 / k))
    assert not list(gate.parameters())


def test_the_table_is_balanced_over_ids_and_over_occurrences() -> None:
    counts = torch.bincount(HashScorer(D, E, V).table_VK[:, 0], minlength=E)
    assert counts.max() - counts.min() <= 1
    seen_V = torch.arange(1, V + 1).square()
    table = HashScorer(D, E, V, counts_V=seen_V).table_VK[:, 0]
    load = torch.zeros(E).index_add(0, table, seen_V.float())
    assert load.max() / load.mean() < 1.02


def test_seeds_differ_and_state_dicts_carry_the_table() -> None:
    one, two = HashScorer(D, E, V, seed=1), HashScorer(D, E, V, seed=2)
    assert not torch.equal(one.table_VK, two.table_VK)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.table_VK, two.table_VK)


def test_ids_that_are_missing_or_unknown_are_refused() -> None:
    gate = hashed(D, E, vocabulary=V)
    with pytest.raises(UserError, match="token_ids_T"):
        gate(RouteContext(torch.zeros(3, D)))
    with pytest.raises(UserError, match="vocabulary"):
        gate(context(torch.tensor([0, V])))
    with pytest.raises(UserError, match="k"):
        hashed(D, E, E + 1)
    with pytest.raises(UserError, match="counts_V"):
        HashScorer(D, E, V, counts_V=torch.ones(3))
    plan, _ = gate(context(torch.zeros(0, dtype=torch.int64)))
    assert plan.edges == 0
