"""Head-wise routing: T H decisions, each from its own part alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu

from junctor.errors import UserError
from junctor.layers.catalogue import gate
from junctor.layers.experts import ExpertBank
from junctor.layers.head_wise import HeadWiseLayer, effective_compositions, join_heads, mh_moe, split_heads
from junctor.layers.layer import BalanceHook, MoELayer
from junctor.layers.plan import RouteContext

T, D, H, E = 5, 8, 4, 3


def tokens() -> torch.Tensor:
    return torch.randn(T, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shared", [False, True])
def test_a_token_makes_a_decision_per_head(shared: bool) -> None:
    gate = mh_moe(D, E, heads=H, shared=shared)
    plan, scores = gate(RouteContext(tokens(), shape=(1, T)))
    plan.check()
    assert (plan.granularity, plan.tokens, plan.edges) == ("head", T * H, T * H)
    weight = gate.scorer.weight_HEC
    for t in range(T):
        for h in range(H):
            part = tokens()[t, 2 * h : 2 * h + 2]
            logits = weight[0 if shared else h] @ part
            torch.testing.assert_close(scores.logits_TE[t * H + h], logits)
            assert plan.chosen_TE()[t * H + h, logits.argmax()]


def test_a_heads_route_depends_on_its_own_part_alone() -> None:
    gate = mh_moe(D, E, heads=H)
    changed = tokens().clone()
    changed[:, :2] += 3  # head 0
    one, two = (gate(RouteContext(x))[1].logits_TE.view(T, H, E) for x in (tokens(), changed))
    assert torch.equal(one[:, 1:], two[:, 1:])
    assert not torch.allclose(one[:, 0], two[:, 0])


def test_parts_come_back_side_by_side() -> None:
    x_TD = tokens()
    assert torch.equal(join_heads(split_heads(RouteContext(x_TD), H).x_TD, H), x_TD)


def test_padding_and_losses_speak_of_parts() -> None:
    gate = mh_moe(D, E, heads=H)
    padding = torch.tensor([False, True, False, False, True])
    context = RouteContext(tokens(), padding_T=padding)
    plan, scores = gate(context)
    assert plan.edges == 3 * H
    loss = gate.balancer.loss(plan, scores, context)["switch"]
    keep = ~padding.repeat_interleave(H)
    wanted = 0.01 * E * (plan.counts_E / plan.edges * scores.probs_TE[keep].mean(0)).sum()
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert gate.scorer.weight_HEC.grad.abs().sum() > 0


def test_a_layer_is_its_parts_experts_side_by_side() -> None:
    torch.manual_seed(0)
    gate, bank = mh_moe(D, E, heads=H), ExpertBank(E, D // H, 5)
    layer = HeadWiseLayer(gate, bank, "slices")
    x = torch.randn(2, T, D)
    padding = torch.zeros(2, T, dtype=torch.bool)
    padding[0, 1] = True
    made = layer.forward_with_plan(x, padding_T=padding)
    assert made.plan.granularity == "head"
    assert set(made.losses) == {"switch"}
    weights = made.plan.dense_TE().view(2, T, H, E)
    for h in range(H):
        part = slice(h * D // H, (h + 1) * D // H)
        outs = bank(x[..., part].reshape(2 * T, -1)).view(E, 2, T, -1)
        torch.testing.assert_close(made.y[..., part], torch.einsum("bse,ebsc->bsc", weights[:, :, h], outs))
    assert made.y[0, 1].abs().sum() == 0
    torch.testing.assert_close(layer(x, padding_T=padding), made.y)
    with pytest.raises(UserError, match="width"):
        HeadWiseLayer(gate, ExpertBank(E, D, 5))


def slow(layer: MoELayer, x_TD: torch.Tensor) -> torch.Tensor:
    """Head by head, token by token, expert by expert; k experts of renormalised probability (of plain one for k = 1)."""
    gate, rows = layer.gate, []
    width, k = D // gate.heads, gate.selector.k
    for x_D in x_TD:
        parts = []
        for h in range(gate.heads):
            part = x_D[h * width : (h + 1) * width]
            p_E = (gate.scorer.weight_HEC[h] @ part).softmax(0)
            best = p_E.topk(k).indices.tolist()
            total = p_E[best].sum() if k > 1 else torch.ones(())
            outs = [p_E[e] / total * (gelu(part @ layer.experts.w_in_EDI[e]) @ layer.experts.w_out_EHO[e]) for e in best]
            parts.append(torch.stack(outs).sum(0))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("backend", ["reference", "slices", "fused"])
def test_output_and_all_gradients_are_those_of_a_slow_loop(k: int, backend: str) -> None:
    torch.manual_seed(0)
    settings = {"heads": H, "k": k}
    config = {"d_model": D, "experts": E, "hidden": 5, "gate": "mh-moe", "gate_settings": settings, "dispatcher": backend}
    layer = MoELayer.from_config(config)
    x = torch.randn(1, T, D, requires_grad=True)
    wanted = slow(layer, x[0])
    made = layer(x)[0]
    torch.testing.assert_close(made, wanted)
    pull, leaves = torch.randn(T, D), [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad((made * pull).sum(), leaves), torch.autograd.grad((wanted * pull).sum(), leaves), strict=True
    ):
        torch.testing.assert_close(one, other)
    again = MoELayer.from_config(config)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x)[0], made)


def test_a_layer_of_heads_is_counted_and_names_what_does_not_fit() -> None:
    layer = HeadWiseLayer(mh_moe(D, E, heads=H), ExpertBank(E, D // H, 5))
    assert layer.d_model == D
    counted = BalanceHook(layer)
    layer(torch.randn(2, T, D))
    assert int(counted.counts[layer.gate].sum()) == 2 * T * H
    bad = torch.randn(T, D)
    bad[1] = torch.nan
    with pytest.raises(UserError, match="not a number"):
        layer(bad)
    layer.eval()(bad, padding_T=torch.tensor([False, True, False, False, False]))
    with pytest.raises(UserError, match="floats"):
        layer(torch.randn(T, D // H))
    with pytest.raises(UserError, match="parts of width 2"):
        MoELayer(mh_moe(D, E, heads=H), ExpertBank(E, D, 5))
    with pytest.raises(UserError, match="whole tokens"):
        HeadWiseLayer(gate("linear", D, E), ExpertBank(E, D, 5))


def test_effective_compositions_count_kinds() -> None:
    gate = mh_moe(D, E, heads=H)
    plan, _ = gate(RouteContext(tokens()))
    torch.testing.assert_close(
        effective_compositions(plan, torch.zeros(T * H, dtype=torch.int64)), (plan.counts_E > 0).double()
    )
    own = effective_compositions(plan, torch.arange(T * H))
    torch.testing.assert_close(own, plan.counts_E.double())


def test_bad_input_is_refused_and_empty_input_is_not() -> None:
    for bad in ({"heads": 3}, {"heads": 0}, {"k": E + 1}):
        with pytest.raises(UserError):
            mh_moe(D, E, **bad)
    gate = mh_moe(D, E, heads=H)
    assert gate(RouteContext(torch.zeros(0, D)))[0].edges == 0
    with pytest.raises(UserError, match="x_TD"):
        gate(RouteContext(torch.zeros(3, D + 1)))
    with pytest.raises(UserError, match="not a number"):
        gate(RouteContext(torch.full((3, D), torch.nan)))
