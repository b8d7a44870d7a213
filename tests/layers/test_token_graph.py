"""Scores over the tokens' graph: S = I and no edges give the linear gate; nothing looks ahead or into another sequence."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.plan import RouteContext
from junctor.layers.token_graph import GraphScorer, SmoothedScorer, WholeSmoothedScorer, gnn_moe, got_smoe

B, S, D, E = 2, 6, 5, 4


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randn(B * S, D, generator=torch.Generator().manual_seed(seed))


def test_without_smoothing_it_is_the_linear_gate() -> None:
    scorer = SmoothedScorer(D, E, "none")
    torch.testing.assert_close(scorer(RouteContext(tokens())).probs_TE, (tokens() @ scorer.weight_ED.t()).softmax(1))
    alone = SmoothedScorer(D, E, "attention")
    eye = torch.eye(S).expand(B, S, S)
    got = alone(RouteContext(tokens(), shape=(B, S), attention_TT=eye)).probs_TE
    torch.testing.assert_close(got, (tokens() @ alone.weight_ED.t()).softmax(1))


def test_smoothing_is_the_slow_loop() -> None:
    scorer = SmoothedScorer(D, E, temperature=0.5)
    x_TD = tokens().requires_grad_()
    p_TE = (x_TD @ scorer.weight_ED.t()).softmax(1)
    rows = []
    for b in range(B):
        for i in range(S):
            seen = x_TD[b * S : b * S + i + 1]
            share = (torch.cosine_similarity(x_TD[b * S + i][None], seen, dim=1) / 0.5).softmax(0)
            rows.append(share @ p_TE[b * S : b * S + i + 1])
    wanted = torch.stack(rows)
    got = scorer(RouteContext(x_TD, shape=(B, S))).probs_TE
    torch.testing.assert_close(got, wanted)
    weight = torch.arange(float(E))
    one, two = (torch.autograd.grad((p * weight).sum(), x_TD, retain_graph=True)[0] for p in (got, wanted))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", ["similarity", "attention"])
def test_a_later_token_and_another_sequence_change_nothing(smoothing: str) -> None:
    scorer = SmoothedScorer(D, E, smoothing)  # type: ignore[arg-type]
    attention = torch.rand(B, S, S, generator=torch.Generator().manual_seed(3))
    changed = tokens().clone()
    changed[3:S] += 5
    one = scorer(RouteContext(tokens(), shape=(B, S), attention_TT=attention)).probs_TE
    two = scorer(RouteContext(changed, shape=(B, S), attention_TT=attention)).probs_TE
    assert torch.equal(one[:3], two[:3])
    assert torch.equal(one[S:], two[S:])
    assert not torch.allclose(one[3:S], two[3:S])


def test_the_form_that_sees_the_whole_sequence_says_so() -> None:
    whole = got_smoe(D, E, causal=False)
    assert not whole.causal
    assert whole.batch_invariant
    assert got_smoe(D, E).causal
    changed = tokens().clone()
    changed[S - 1] += 5
    scorer = WholeSmoothedScorer(D, E)
    one, two = (scorer(RouteContext(x, shape=(B, S))).probs_TE for x in (tokens(), changed))
    assert not torch.allclose(one[0], two[0])


def test_smoothing_lowers_the_flip_rate_under_noise() -> None:
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(4, 16, generator=generator) * 2
    x_TD = centres[torch.arange(128) % 4] + 0.6 * torch.randn(128, 16, generator=generator)
    noise = torch.randn(128, 16, generator=generator)
    weight = torch.randn(8, 16, generator=generator) / 4
    flips = {}
    for smoothing in ("none", "similarity"):
        scorer = WholeSmoothedScorer(16, 8, smoothing)  # type: ignore[arg-type]
        scorer.weight_ED.data.copy_(weight)
        tops = [scorer(RouteContext(x)).probs_TE.argmax(1) for x in (x_TD, x_TD + noise)]
        flips[smoothing] = (tops[0] != tops[1]).float().mean()
    assert flips["similarity"] < 0.5 * flips["none"]


@pytest.mark.parametrize("kind", ["got", "gnn"])
def test_padding_neither_speaks_nor_is_routed(kind: str) -> None:
    gate = got_smoe(D, E, causal=False) if kind == "got" else gnn_moe(D, E, neighbours=2)
    padding = torch.zeros(B * S, dtype=torch.bool)
    padding[[1, 4, S]] = True
    poisoned = tokens().clone()
    poisoned[padding] = torch.nan
    one, one_scores = gate(RouteContext(tokens(), shape=(B, S), padding_T=padding))
    two, two_scores = gate(RouteContext(poisoned, shape=(B, S), padding_T=padding))
    torch.testing.assert_close(one_scores.probs_TE[~padding], two_scores.probs_TE[~padding])
    assert not one.chosen_TE()[padding].any()
    assert torch.equal(one.chosen_TE(), two.chosen_TE())


@pytest.mark.parametrize("convolution", ["gcn", "sage", "gat"])
def test_without_edges_a_convolution_is_the_linear_gate(convolution: str) -> None:
    scorer = GraphScorer(D, E, convolution, neighbours=0)  # type: ignore[arg-type]
    linear = tokens() @ scorer.weight_ED.t()
    torch.testing.assert_close(scorer(RouteContext(tokens(), shape=(B, S))).logits_TE, linear)
    with_edges = GraphScorer(D, E, convolution, neighbours=3)  # type: ignore[arg-type]
    with_edges.weight_ED.data.copy_(scorer.weight_ED)
    single = with_edges(RouteContext(tokens(), shape=(B * S, 1))).logits_TE
    torch.testing.assert_close(single, linear)
    assert not torch.allclose(with_edges(RouteContext(tokens(), shape=(B, S))).logits_TE, linear)


def test_edges_are_the_nearest_tokens() -> None:
    scorer = GraphScorer(D, E, neighbours=2)
    x_BSD = tokens().view(B, S, D)
    edges = scorer.edges(x_BSD, RouteContext(tokens(), shape=(B, S)))
    for b in range(B):
        for i in range(S):
            near = torch.cosine_similarity(x_BSD[b, i][None], x_BSD[b], dim=1)
            near[i] = -9
            assert set(edges[b, i].nonzero().flatten().tolist()) == set(near.topk(2).indices.tolist())


def test_a_convolution_is_the_slow_loop() -> None:
    x_BSD, context = tokens().view(B, S, D), RouteContext(tokens(), shape=(B, S))
    gcn, sage, gat = (GraphScorer(D, E, kind, neighbours=2) for kind in ("gcn", "sage", "gat"))  # type: ignore[arg-type]
    edges = gcn.edges(x_BSD, context)
    for scorer in (gcn, sage, gat):
        got = scorer(context).logits_TE.view(B, S, E)
        z = x_BSD @ scorer.weight_ED.t()
        for b in range(B):
            both = edges[b] | edges[b].t()
            degree = both.sum(1) + 1
            for i in range(S):
                near = edges[b, i].nonzero().flatten()
                if scorer is gcn:
                    wide = [*both[i].nonzero().flatten().tolist(), i]
                    wanted = sum(z[b, j] / (degree[i] * degree[j]).sqrt() for j in wide)
                elif scorer is sage:
                    wanted = z[b, i] + x_BSD[b, near].mean(0) @ scorer.neighbour_ED.t()
                else:
                    own = torch.cat([near, torch.tensor([i])])
                    u, v = scorer.attend_2E
                    energy = torch.nn.functional.leaky_relu(z[b, i] @ u + z[b, own] @ v, 0.2)
                    wanted = energy.softmax(0) @ z[b, own]
                torch.testing.assert_close(got[b, i], wanted)


def test_bad_input_is_refused_and_empty_input_is_not() -> None:
    for gate in (got_smoe(D, E), gnn_moe(D, E)):
        plan, _ = gate(RouteContext(torch.zeros(0, D)))
        assert plan.edges == 0
        with pytest.raises(UserError, match="shape"):
            gate(RouteContext(tokens(), shape=(B, S + 1)))
    with pytest.raises(UserError, match="attention"):
        got_smoe(D, E, smoothing="attention")(RouteContext(tokens()))
    with pytest.raises(UserError, match="smoothing"):
        got_smoe(D, E, smoothing="both")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="convolution"):
        gnn_moe(D, E, convolution="cheb")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not a number"):
        got_smoe(D, E)(RouteContext(torch.full((3, D), torch.nan)))
