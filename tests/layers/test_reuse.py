"""ReXMoE: the pool grows with the step, and only router rows are added."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.plan import RouteContext
from junctor.layers.reuse import PoolScorer, rexmoe


def pool(scorer: PoolScorer, step: int) -> set[int]:
    return set(scorer.allowed_E(RouteContext(torch.zeros(1, 8), step=step)).nonzero().squeeze(1).tolist())


def test_the_pool_only_grows_from_own_to_all() -> None:
    scorer = rexmoe(8, 12, reuse=3, own=1, ramp=100).scorer
    assert isinstance(scorer, PoolScorer)
    pools = [pool(scorer, step) for step in range(0, 121, 5)]
    assert pools[0] == {4, 5, 6, 7}
    assert pools[-1] == set(range(12))
    assert all(small <= large for small, large in pairwise(pools))
    assert {len(one) for one in pools} >= {4, 8, 12}
    assert pool(PoolScorer(8, 12, reuse=3, own=0, ramp=0), 0) == set(range(12))


def test_update_moves_the_clock_that_is_saved_and_copied() -> None:
    gate = rexmoe(8, 12, reuse=3, own=1, ramp=4)
    assert isinstance(gate.scorer, PoolScorer)
    for _ in range(2):
        gate.balancer.update(torch.zeros(12))
    assert len(pool(gate.scorer, 0)) == 8
    copied, loaded = deepcopy(gate), rexmoe(8, 12, reuse=3, own=1, ramp=4)
    loaded.load_state_dict(gate.state_dict())
    for other in (copied, loaded):
        assert isinstance(other.scorer, PoolScorer)
        assert pool(other.scorer, 0) == pool(gate.scorer, 0)
        other.balancer.update(torch.zeros(12))
        other.balancer.update(torch.zeros(12))
        assert len(pool(other.scorer, 0)) == 12
    assert len(pool(gate.scorer, 0)) == 8


def test_masked_experts_get_no_edge_even_when_k_is_more_than_the_pool() -> None:
    torch.manual_seed(0)
    gate = rexmoe(8, 6, k=4, reuse=3, own=2, ramp=10)
    plan, scores = gate(RouteContext(torch.randn(9, 8)))
    assert plan.counts_E.tolist() == [0, 0, 0, 0, 9, 9]
    torch.testing.assert_close(plan.dense_TE().sum(1), torch.ones(9))
    (grad,) = torch.autograd.grad((plan.dense_TE() * torch.randn(9, 6)).sum(), gate.scorer.weight_ED)
    assert grad.isfinite().all()
    assert not grad[:4].any()
    assert gate(RouteContext(torch.randn(9, 8), step=10))[0].edges == 36
    assert scores.probs_TE[:, :4].sum() == 0


def test_equals_plain_top_k_of_the_layer_at_step_0() -> None:
    torch.manual_seed(0)
    gate = rexmoe(8, 8, k=2, reuse=2, own=0, ramp=10)
    x = torch.randn(20, 8)
    plan, _ = gate(RouteContext(x))
    own = (x @ gate.scorer.weight_ED[:4].t()).softmax(1)
    best = own.topk(2, dim=1)
    slow = torch.zeros(20, 8).scatter(1, best.indices, best.values / best.values.sum(1, keepdim=True))
    torch.testing.assert_close(plan.dense_TE(), slow)


def test_only_router_rows_grow_and_the_order_is_saved() -> None:
    gate = rexmoe(8, 12, reuse=3)
    assert sum(p.numel() for p in gate.parameters()) == 12 * 8
    assert "scorer.rank_E" in gate.state_dict()


@pytest.mark.parametrize("bad", [{"reuse": 5}, {"own": 2}, {"ramp": -1}, {"k": 13}])
def test_settings_that_cannot_be(bad: dict[str, int]) -> None:
    with pytest.raises(UserError):
        rexmoe(8, 12, **bad)
