"""TESTAM's memory gate and losses, against loops."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.catalogue import gate
from junctor.layers.domains import worst_and_best_loss
from junctor.layers.experts import ExpertBank
from junctor.layers.layer import MoELayer
from junctor.layers.plan import RouteContext, Scores
from junctor.testing import check_gate

D, E, S = 6, 3, 4


def test_scores_are_cosines_of_recall_and_attention_by_loop() -> None:
    torch.manual_seed(0)
    made, bank = gate("testam", D, E, memory=5, width=7), ExpertBank(E, D, 4)
    layer, scorer = MoELayer(made, bank), made.scorer
    x = torch.randn(2, S, D)
    scores = layer.forward_with_plan(x).scores
    for b in range(2):
        outs = bank(x[b])
        for s in range(S):
            recalled = (x[b, s] @ scorer.query_DC @ scorer.memory_MC.t()).softmax(0) @ scorer.memory_MC
            for e in range(E):
                energy = outs[e, s] @ scorer.queries_EDC[e] @ (outs[e, : s + 1] @ scorer.keys_EDC[e]).t()
                answer = energy.softmax(0) @ (outs[e, : s + 1] @ scorer.values_EDC[e])
                want = torch.dot(recalled, answer) / (recalled.norm() * answer.norm())
                torch.testing.assert_close(scores.logits_TE[b * S + s, e], want)


def test_it_keeps_what_every_gate_keeps_and_trains_in_a_layer() -> None:
    check_gate(lambda d_model, experts: gate("testam", d_model, experts, memory=4, width=8))
    layer = MoELayer(gate("testam", D, E, memory=5), ExpertBank(E, D, 4))
    layer(torch.randn(2, S, D)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())
    assert not any("experts" in name for name, _ in layer.gate.named_parameters())
    with pytest.raises(UserError, match="no experts"):
        gate("testam", D, E, memory=5)(RouteContext(torch.randn(S, D)))
    with pytest.raises(UserError, match="memory"):
        gate("testam", D, E, memory=5, width=0)


def test_the_two_losses_by_loop() -> None:
    torch.manual_seed(1)
    logits, error = torch.randn(50, E, requires_grad=True), torch.rand(50, E)
    logp, want = logits.log_softmax(1), torch.zeros(())
    for t in range(50):
        chosen, worst, best = int(logits[t].argmax()), int(error[t].argmax()), int(error[t].argmin())
        want = want - 0.5 * logp[t, best]
        if chosen != worst:
            want = want - 0.5 * logp[t, chosen]
        else:
            others = [e for e in range(E) if e != worst]
            for e in others:
                want = want - 0.5 * error[t, e] / error[t, others].sum() * logp[t, e]
    loss = worst_and_best_loss(Scores(logits, logits.softmax(1)), error)
    torch.testing.assert_close(loss, want / (50 * E))
    loss.backward()
    none = torch.zeros(0, E)
    assert worst_and_best_loss(Scores(none, none), none) == 0
    with pytest.raises(UserError, match="error_TE"):
        worst_and_best_loss(Scores(logits, logits), error[:, :2])


def test_training_with_them_leaves_the_worst_expert() -> None:
    torch.manual_seed(0)
    x = torch.randn(240, D)
    kind = torch.arange(240) % E
    x[:, :E] = 2.0 * torch.nn.functional.one_hot(kind, E)
    error = 1.0 - 0.8 * torch.nn.functional.one_hot(kind, E) - 0.3 * torch.nn.functional.one_hot((kind + 1) % E, E)
    made = gate("testam", D, E)
    optimiser = torch.optim.Adam(made.parameters(), lr=0.1)
    for _ in range(40):
        optimiser.zero_grad()
        worst_and_best_loss(made.scorer(RouteContext(x)), error).backward()
        optimiser.step()
    taken = made(RouteContext(x, training=False))[0].chosen_TE().int().argmax(1)
    assert float((taken == kind).double().mean()) > 0.95
    assert float((taken == error.argmax(1)).double().mean()) == 0.0
