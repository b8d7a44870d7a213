"""Scorers of one token from its own vector: formulas by hand, gradients, the trap of each, and bad input."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers import scorers
from junctor.layers.contracts import Gate
from junctor.layers.plan import RouteContext

T, D, E = 7, 6, 4
BUILDERS = {
    "linear": scorers.linear,
    "cosine": scorers.cosine,
    "yuan2": scorers.yuan2,
    "hyperrouter": scorers.hyperrouter,
    "rmoe": scorers.rmoe,
    "mor": scorers.mor,
}


def tokens(rows: int = T, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=sorted(BUILDERS))
def gate(request: pytest.FixtureRequest) -> Gate:
    torch.manual_seed(1)
    return BUILDERS[request.param](D, E, 2)


def test_weights_of_a_token_sum_to_one_and_carry_gradient(gate: Gate) -> None:
    plan, scores = gate(RouteContext(tokens()))
    plan.check()
    assert plan.edges == 2 * T
    torch.testing.assert_close(plan.dense_TE().sum(1), torch.ones(T))
    (plan.dense_TE() * torch.arange(E)).sum().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in gate.parameters())
    assert scores.logits_TE.dtype == scores.probs_TE.dtype == torch.float32


def test_weights_and_gradient_equal_the_dense_reference(gate: Gate) -> None:
    x_TD = tokens().requires_grad_()
    plan, scores = gate(RouteContext(x_TD))
    out = torch.arange(1.0, E + 1)
    (got,) = torch.autograd.grad((plan.dense_TE() * out).sum(), x_TD, retain_graph=True)
    masked_TE = torch.where(plan.chosen_TE(), scores.probs_TE, torch.zeros(()))
    wanted_TE = masked_TE / masked_TE.sum(1, keepdim=True)
    (wanted,) = torch.autograd.grad((wanted_TE * out).sum(), x_TD)
    torch.testing.assert_close(plan.dense_TE(), wanted_TE)
    torch.testing.assert_close(got, wanted)


def test_a_tokens_route_depends_on_itself_alone(gate: Gate) -> None:
    x_TD = tokens()
    alone = torch.cat([gate.scorer(RouteContext(row[None])).logits_TE for row in x_TD])
    torch.testing.assert_close(gate.scorer(RouteContext(x_TD)).logits_TE, alone)


def test_half_precision_autocast_and_strides_still_score_in_float32(gate: Gate) -> None:
    x_TD = tokens().bfloat16()
    wanted = gate.scorer(RouteContext(x_TD.float())).logits_TE
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gate.scorer(RouteContext(x_TD)).logits_TE, wanted)
    wide = torch.stack([x_TD.float(), x_TD.float()], dim=2)[:, :, 0]
    assert not wide.is_contiguous()
    torch.testing.assert_close(gate.scorer(RouteContext(wide)).logits_TE, wanted)
    half = gate.bfloat16().scorer(RouteContext(x_TD))
    assert half.logits_TE.dtype == torch.float32


def test_bad_input_is_refused_and_empty_input_is_not(gate: Gate) -> None:
    plan, _ = gate(RouteContext(tokens(0)))
    assert (plan.edges, plan.tokens) == (0, 0)
    plan, _ = gate(RouteContext(tokens(), padding_T=torch.ones(T, dtype=torch.bool)))
    assert plan.edges == 0
    with pytest.raises(UserError, match="x_TD"):
        gate(RouteContext(torch.zeros(T, D + 1)))
    with pytest.raises(UserError, match="device"):
        gate(RouteContext(torch.zeros(T, D, device="meta")))
    with pytest.raises(UserError, match="not a number"):
        gate(RouteContext(torch.full((T, D), torch.nan)))


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_more_experts_than_there_are_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="k"):
        BUILDERS[name](D, E, E + 1)


def test_linear_is_the_hand_formula_and_its_noise_is_the_generators() -> None:
    scorer = scorers.TemperedLinearScorer(D, E, "sigmoid", bias=True, temperature=2.0, noise=0.5)
    x_TD = tokens()
    quiet = scorer(RouteContext(x_TD, training=False))
    torch.testing.assert_close(quiet.logits_TE, (x_TD @ scorer.weight_ED.t() + scorer.bias_E) / 2)
    torch.testing.assert_close(quiet.probs_TE, quiet.logits_TE.sigmoid())
    noisy = [scorer(RouteContext(x_TD, generator=torch.Generator().manual_seed(s))).logits_TE for s in (3, 3, 4)]
    torch.testing.assert_close(noisy[0], noisy[1])
    assert not torch.allclose(noisy[0], noisy[2])
    assert not torch.allclose(noisy[0], quiet.logits_TE)


@pytest.mark.parametrize("bad", [{"activation": "tanh"}, {"temperature": 0.0}])
def test_linear_refuses_what_it_does_not_know(bad: dict[str, object]) -> None:
    with pytest.raises(UserError):
        scorers.TemperedLinearScorer(D, E, **bad)  # type: ignore[arg-type]


def test_one_expert_keeps_its_gradient() -> None:
    gate = scorers.linear(D, E, 1)
    plan, _ = gate(RouteContext(tokens()))
    plan.weight_N.sum().backward()
    assert gate.scorer.weight_ED.grad.abs().sum() > 0
    with pytest.raises(UserError, match="gradient"):
        scorers.linear(D, E, 1, weights="renormalised")


def test_cosine_ignores_length_and_a_zero_vector_scores_zero() -> None:
    gate = scorers.cosine(D, E, 2, width=3)
    x_TD = tokens()
    scale = gate.scorer.log_scale.exp()
    one = gate.scorer(RouteContext(x_TD)).logits_TE
    torch.testing.assert_close(one, gate.scorer(RouteContext(x_TD * 7)).logits_TE)
    assert one.abs().max() <= scale + 1e-5
    assert gate.scorer(RouteContext(torch.zeros(1, D))).logits_TE.abs().sum() == 0


def test_yuan_is_the_hand_formula_and_not_linear() -> None:
    scorer = scorers.ExpertAttentionScorer(D, E)
    x_TD = tokens()
    wq, wk, wv = scorer.qkv_3ED
    by_hand = []
    for x in x_TD:
        q, k, v = wq @ x, wk @ x, wv @ x
        by_hand.append(torch.softmax(torch.outer(q, k), dim=1) @ v)
    torch.testing.assert_close(scorer(RouteContext(x_TD)).logits_TE, torch.stack(by_hand))
    double = scorer(RouteContext(2 * x_TD)).logits_TE
    assert not torch.allclose(double, 2 * torch.stack(by_hand), atol=1e-2)


@pytest.mark.parametrize("rows", [0, 1, 2, 100])
def test_expert_attention_has_the_gradients_of_the_plain_form(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "_rows_at_once", lambda part: max(rows, 1))
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(T if rows else 0, E, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    q, k, v = parts
    plain = ((q[:, :, None] * k[:, None, :]).softmax(-1) @ v[:, :, None]).squeeze(-1)
    fast = scorers.ExpertAttention.apply(q, k, v)
    torch.testing.assert_close(fast, plain)
    up = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(fast, parts, up), torch.autograd.grad(plain, parts, up))


def test_yuan_scores_an_expert_by_the_other_experts_too() -> None:
    scorer = scorers.ExpertAttentionScorer(D, E)
    before = scorer(RouteContext(tokens())).logits_TE
    with torch.no_grad():
        scorer.qkv_3ED[2, 3] += 1  # only the value of expert 3
    assert ((scorer(RouteContext(tokens())).logits_TE - before)[:, 0].abs() > 0).all()


def test_hyper_trains_the_embedding_alone_and_its_weights_still_move() -> None:
    scorer = scorers.HyperScorer(D, E, 16)
    assert [name for name, _ in scorer.named_parameters()] == ["embedding_D"]
    scorer.requires_grad_(True)  # what a trainer may do to the whole model: nothing thaws
    kept = {name: value.clone() for name, value in scorer.named_buffers()}
    before = scorer.weights()[0].detach()
    optimiser = torch.optim.AdamW(scorer.parameters(), lr=0.1, weight_decay=0.1)
    scorer(RouteContext(tokens())).logits_TE.square().mean().backward()
    optimiser.step()
    assert (scorer.weights()[0] - before).abs().max() > 1e-4
    assert all(torch.equal(value, kept[name]) for name, value in scorer.named_buffers())
    assert len(list(scorers.HyperScorer(D, E, 16, frozen=False).parameters())) == 5


def test_hyper_is_the_hypernetwork_by_hand_and_grows_nothing_trainable() -> None:
    scorer = scorers.HyperScorer(D, E, 16)
    hidden = torch.relu(scorer.first_WD @ scorer.embedding_D + scorer.first_WD_bias)
    both = (scorer.second_NW @ hidden + scorer.second_NW_bias).view(E, D + 1)
    x_TD = tokens()
    torch.testing.assert_close(scorer(RouteContext(x_TD)).logits_TE, x_TD @ both[:, :D].t() + both[:, D])
    more = scorers.HyperScorer(D, 4 * E, 16)
    assert sum(p.numel() for p in more.parameters()) == sum(p.numel() for p in scorer.parameters())


def two_layers() -> tuple[Gate, Gate]:
    cell = scorers.DepthCell(5)
    return scorers.rmoe(D, E, 2, cell=cell), scorers.rmoe(D, E, 2, cell=cell)


def test_a_recurrent_layers_scores_depend_on_the_layer_before() -> None:
    first, second = two_layers()
    x_TD = tokens()
    _, before = first(RouteContext(x_TD))
    _, after = second(RouteContext(x_TD, state=before.state))
    after.logits_TE.square().sum().backward()
    assert first.scorer.project_RD.grad.abs().sum() > 0
    assert first.scorer.cell is second.scorer.cell


def test_recurrence_runs_over_depth_not_time() -> None:
    first, second = two_layers()
    x_TD, order = tokens(), torch.randperm(T, generator=torch.Generator().manual_seed(2))

    def run(rows: torch.Tensor) -> torch.Tensor:
        return second.scorer(RouteContext(rows, state=first.scorer(RouteContext(rows)).state)).logits_TE

    torch.testing.assert_close(run(x_TD)[order], run(x_TD[order]))


def test_the_shared_cell_is_torchs_gru() -> None:
    cell = scorers.DepthCell(5)
    torch.nn.init.normal_(cell.state_bias)
    theirs = torch.nn.GRUCell(5, 5)
    theirs.load_state_dict(
        {
            "weight_ih": cell.input_3RR.data,
            "weight_hh": cell.state_3RR.data,
            "bias_ih": cell.input_bias.data,
            "bias_hh": cell.state_bias.data,
        }
    )
    given, state = torch.randn(T, 5), torch.randn(T, 5)
    torch.testing.assert_close(cell(given, state), theirs(given, state))


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match="state"):
        scorers.rmoe(D, E, 2)(RouteContext(tokens(), state=torch.zeros(T, 3)))


def test_a_one_hot_mixture_is_that_sub_scorer() -> None:
    scorer = scorers.MixtureScorer(D, E, 3)
    x_TD = tokens()
    x_TD[:, 0] = 1.0
    with torch.no_grad():
        scorer.main_MD.zero_()
        scorer.main_MD[1, 0] = 1000.0
    wanted = (x_TD @ scorer.weight_MED[1].t()).softmax(1)
    assert torch.equal(scorer(RouteContext(x_TD)).probs_TE, wanted) or torch.allclose(
        scorer(RouteContext(x_TD)).probs_TE, wanted, atol=1e-7
    )
    with pytest.raises(UserError, match="routers"):
        scorers.mor(D, E, 2, routers=0)
