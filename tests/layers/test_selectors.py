"""Plans from choices against a loop, and top-k with its traps."""

from __future__ import annotations

import time

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import TopK, plan_from_indices, plan_from_mask


def scores_of(tokens: int, experts: int, seed: int = 0) -> Scores:
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    return Scores(logits, logits.softmax(1))


def context_of(tokens: int, **more: object) -> RouteContext:
    return RouteContext(torch.zeros(tokens, 4), **more)  # type: ignore[arg-type]


def by_loop(scores: Scores, k: int, weights: str, scale: float, padding: torch.Tensor | None = None) -> torch.Tensor:
    """The dense weights of top-k, one token at a time."""
    rows = []
    for token, row in enumerate(scores.probs_TE):
        best = sorted(range(len(row)), key=lambda e: -float(row[e].detach()))[:k]
        mask = torch.zeros(len(row))
        if padding is None or not padding[token]:
            mask[best] = 1.0
        taken = row * mask
        if weights == "renormalised":
            taken = taken / taken.sum().clamp_min(1e-20)
        rows.append(mask / k * scale if weights == "constant" else taken * scale)
    return torch.stack(rows)


@pytest.mark.parametrize("weights", ["renormalised", "plain", "constant"])
@pytest.mark.parametrize("padded", [False, True])
def test_top_k_equals_the_loop_in_weights_and_gradients(weights: str, padded: bool) -> None:
    scores = scores_of(19, 6)
    padding = (torch.arange(19) % 4 == 1) if padded else None
    plan = TopK(3, weights, scale=1.5)(scores.probs_TE, scores, context_of(19, padding_T=padding))  # type: ignore[arg-type]
    plan.check()
    dense = by_loop(scores, 3, weights, 1.5, padding)
    torch.testing.assert_close(plan.dense_TE(), dense)
    assert plan.edges == 3 * int((~padding).sum() if padding is not None else 19)
    if weights != "constant":
        pull = torch.randn(19, 6, generator=torch.Generator().manual_seed(1))
        sparse_grad = torch.autograd.grad((plan.dense_TE() * pull).sum(), scores.logits_TE, retain_graph=True)[0]
        torch.testing.assert_close(sparse_grad, torch.autograd.grad((dense * pull).sum(), scores.logits_TE)[0])
    else:
        assert not plan.weight_N.requires_grad


def test_edges_are_sorted_by_expert_then_token() -> None:
    scores = scores_of(50, 7)
    plan = TopK(4)(scores.probs_TE, scores, context_of(50))
    order = plan.expert_N() * 50 + plan.token_N
    assert torch.equal(order, order.sort().values)
    assert torch.equal(plan.chosen_TE().sum(0), plan.counts_E)


def test_both_builders_agree() -> None:
    scores = scores_of(33, 5)
    best = scores.probs_TE.topk(2, dim=1).indices
    mask = torch.zeros(33, 5, dtype=torch.bool).scatter_(1, best, True)
    one = plan_from_indices(best, scores.probs_TE.gather(1, best), 5)
    other = plan_from_mask(mask, scores.probs_TE)
    assert torch.equal(one.token_N, other.token_N)
    assert torch.equal(one.weight_N, other.weight_N)
    assert torch.equal(one.counts_E, other.counts_E)


def test_renormalised_top_1_is_refused_because_its_gradient_is_zero() -> None:
    with pytest.raises(UserError, match="no gradient"):
        TopK(1)
    scores = scores_of(9, 4)
    plan: Plan = TopK(1, "plain")(scores.probs_TE, scores, context_of(9))
    (grad,) = torch.autograd.grad(plan.weight_N.sum(), scores.logits_TE)
    assert float(grad.abs().sum()) > 0


@pytest.mark.parametrize("bad", [{"k": 0}, {"k": -1}, {"k": 2, "weights": "softmax"}])
def test_settings_that_cannot_be(bad: dict[str, object]) -> None:
    with pytest.raises(UserError):
        TopK(**bad)  # type: ignore[arg-type]


def test_more_than_the_experts_is_a_typed_error() -> None:
    scores = scores_of(3, 4)
    with pytest.raises(UserError, match="cannot choose 5"):
        TopK(5)(scores.probs_TE, scores, context_of(3))


def test_nan_is_named_but_not_where_it_is_padding() -> None:
    scores = scores_of(4, 3)
    broken = scores.probs_TE.detach().clone()
    broken[2, 1] = torch.nan
    with pytest.raises(UserError, match="token 2"):
        TopK(2)(broken, scores, context_of(4))
    plan = TopK(2)(broken, scores, context_of(4, padding_T=torch.tensor([False, False, True, False])))
    assert 2 not in plan.token_N


def test_an_expert_at_minus_infinity_is_never_taken() -> None:
    scores = scores_of(4, 3)
    masked = scores.probs_TE.detach().clone()
    masked[0, :2] = -torch.inf
    masked[1] = -torch.inf
    plan = TopK(2)(masked, scores, context_of(4))
    assert plan.chosen_TE().sum(1).tolist() == [1, 0, 2, 2]
    assert float(plan.dense_TE()[0].sum().detach()) == pytest.approx(1.0)


def test_no_tokens_all_padding_and_odd_layouts_are_defined() -> None:
    empty = scores_of(0, 3)
    assert TopK(2)(empty.probs_TE, empty, context_of(0)).edges == 0
    scores = scores_of(4, 3)
    assert TopK(2)(scores.probs_TE, scores, context_of(4, padding_T=torch.ones(4, dtype=torch.bool))).edges == 0
    strided = scores.probs_TE.detach().t().contiguous().t()
    assert torch.equal(TopK(2)(strided, scores, context_of(4)).token_N, TopK(2)(scores.probs_TE, scores, context_of(4)).token_N)
    half = Scores(scores.logits_TE.bfloat16(), scores.probs_TE.bfloat16())
    assert TopK(2)(half.probs_TE, half, context_of(4)).weight_N.dtype == torch.float32


def test_sizes_and_devices_must_agree() -> None:
    scores = scores_of(4, 3)
    with pytest.raises(UserError, match="selection is"):
        TopK(2)(scores.probs_TE[:3], scores, context_of(4))
    with pytest.raises(UserError, match="selection lies on meta"):
        TopK(2)(scores.probs_TE.to("meta"), scores, context_of(4))


def test_scores_to_plan_is_a_small_part_of_a_layer() -> None:
    """At 64 experts, against the layer's own products at a fifth of the benchmark's tokens."""
    scores, x = scores_of(1024, 64), torch.randn(1024, 256)
    up, down = torch.randn(256, 1024), torch.randn(1024, 256)
    context = context_of(1024)
    gate_s, layer_s = [], []
    with torch.no_grad():
        for _ in range(5):
            begin = time.perf_counter()
            TopK(2)(scores.probs_TE, scores, context)
            middle = time.perf_counter()
            ((x @ up).relu() @ down).sum()
            gate_s.append(middle - begin)
            layer_s.append(3 * (time.perf_counter() - middle))
    assert min(gate_s) < 0.25 * min(layer_s)
