"""Experts per token by received attention, by a threshold, and by depth."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.plan import RouteContext
from junctor.layers.variable_k import SCHEDULES, da_moe, depth_schedule, dynamoe, received_attention


def attended(batch: int = 2, size: int = 8, seed: int = 0, **more: object) -> RouteContext:
    draw = torch.Generator().manual_seed(seed)
    attention = (3 * torch.randn(batch, size, size, generator=draw)).softmax(-1)
    x = torch.randn(batch * size, 8, generator=draw)
    return RouteContext(x, shape=(batch, size), attention_TT=attention, **more)  # type: ignore[arg-type]


def test_k_is_monotone_in_received_attention() -> None:
    context = attended()
    plan, scores = da_moe(8, 6, least=1, most=4)(context)
    plan.check()
    assert context.attention_TT is not None
    counts = plan.chosen_TE().sum(1).reshape(2, 8)
    received = context.attention_TT.sum(1)
    for row, got in zip(received, counts, strict=True):
        assert (got[row.argsort()].diff() >= 0).all()
        assert int(got.max()) == 4
        slow = [1 + round(3 * float(value / row.max())) for value in row]
        assert got.tolist() == slow
    taken = torch.zeros(16, 6)
    for t, row in enumerate(scores.probs_TE.detach()):
        taken[t, row.topk(int(counts.reshape(-1)[t])).indices] = 1
    torch.testing.assert_close(plan.dense_TE(), scores.probs_TE * taken)


def test_attention_forms_agree_and_padded_queries_give_none() -> None:
    context = attended(1)
    assert context.attention_TT is not None
    flat = RouteContext(context.x_TD, attention_TT=context.attention_TT[0])
    torch.testing.assert_close(received_attention(context), received_attention(flat))
    padding = torch.arange(8) >= 6
    padded = RouteContext(context.x_TD, attention_TT=context.attention_TT, padding_T=padding)
    torch.testing.assert_close(received_attention(padded), context.attention_TT[0, :6].sum(0))
    assert not padding[da_moe(8, 6)(padded)[0].token_N].any()


def test_no_tokens_in_any_form() -> None:
    for attention in (torch.zeros(0, 0), torch.zeros(0, 4, 4), torch.zeros(2, 0, 0)):
        assert da_moe(8, 6)(RouteContext(torch.zeros(0, 8), shape=(0, 4), attention_TT=attention))[0].edges == 0


def test_without_attention_or_with_another_shape() -> None:
    with pytest.raises(UserError, match="reads the attention"):
        da_moe(8, 6)(RouteContext(torch.zeros(4, 8)))
    with pytest.raises(UserError, match="attention is"):
        da_moe(8, 6)(RouteContext(torch.zeros(4, 8), attention_TT=torch.ones(3, 3)))
    with pytest.raises(UserError, match="cannot choose 7"):
        da_moe(8, 6, most=7)


def test_schedules_are_exact() -> None:
    assert {name: depth_schedule(name, 5, 1, 5) for name in SCHEDULES} == {
        "uniform": [5, 5, 5, 5, 5],
        "descending": [5, 4, 3, 2, 1],
        "ascending": [1, 2, 3, 4, 5],
        "pyramid": [1, 3, 5, 3, 1],
        "valley": [5, 3, 1, 3, 5],
        "wave": [3, 3, 3, 3, 3],
    }
    assert depth_schedule("wave", 9, 1, 5) == [3, 5, 3, 1, 3, 5, 3, 1, 3]
    assert depth_schedule("descending", 1, 2, 4) == [4]
    for bad in (("steps", 3, 1, 2), ("wave", 0, 1, 2), ("wave", 3, 3, 2)):
        with pytest.raises(UserError):
            depth_schedule(*bad)


@pytest.mark.parametrize("layer", range(3))
def test_threshold_counts_up_to_the_layers_limit(layer: int) -> None:
    torch.manual_seed(0)
    gate = dynamoe(8, 6, threshold=0.97, schedule="descending", layer=layer, layers=3, most=5)
    plan, scores = gate(RouteContext(torch.randn(40, 8)))
    probs = scores.probs_TE.detach()
    limit = [5, 3, 1][layer]
    slow = [min(sum(float(v) >= float(0.97 * row.max()) for v in row), limit) for row in probs]
    assert plan.chosen_TE().sum(1).tolist() == slow
    if layer == 0:
        assert len(set(slow)) > 2


def test_settings_that_cannot_be() -> None:
    for bad in ({"threshold": 0.0}, {"layer": 1}, {"most": 7}, {"schedule": "steps"}):
        with pytest.raises(UserError):
            dynamoe(8, 6, **bad)  # type: ignore[arg-type]
