"""Expert choice: loads exactly C, capacity by the mask ratio, patches per image."""

from __future__ import annotations

import pytest
import torch

from junctor.errors import UserError
from junctor.layers.expert_choice import ec_dlm, pmoe
from junctor.layers.plan import RouteContext


def slow_choice(probs: torch.Tensor, seats: int) -> torch.Tensor:
    """Mask [T, E], one expert at a time."""
    mask = torch.zeros_like(probs, dtype=torch.bool)
    for e in range(probs.shape[1]):
        best = sorted(range(len(probs)), key=lambda t: -float(probs[t, e]))[:seats]
        mask[best, e] = True
    return mask


def test_loads_are_exactly_c_and_equal_to_the_slow_choice() -> None:
    torch.manual_seed(0)
    plan, scores = ec_dlm(8, 4, capacity=1.5)(RouteContext(torch.randn(40, 8)))
    plan.check()
    assert plan.counts_E.tolist() == [15] * 4
    mask = slow_choice(scores.probs_TE.detach(), 15)
    assert torch.equal(plan.chosen_TE(), mask)
    torch.testing.assert_close(plan.dense_TE(), scores.probs_TE * mask)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_capacity_follows_the_mask_ratio(schedule: str) -> None:
    gate = ec_dlm(8, 4, capacity=2.0, low=0.5, mask_token=9, schedule=schedule, per="sequence")  # type: ignore[arg-type]
    ids = torch.zeros(3, 16, dtype=torch.int64)
    ids[0] = 9
    ids[1, :8] = 9
    context = RouteContext(torch.randn(48, 8), shape=(3, 16), token_ids_T=ids.reshape(-1))
    per_sequence = gate(context)[0].chosen_TE().reshape(3, 16, 4).sum(1)
    assert per_sequence.tolist() == [[2] * 4, [5] * 4, [8] * 4]


def test_the_constant_schedule_ignores_the_mask() -> None:
    gate = ec_dlm(8, 4, capacity=2.0, low=0.5, mask_token=9, schedule="constant")
    ids = torch.full((16,), 9)
    assert gate(RouteContext(torch.randn(16, 8), token_ids_T=ids))[0].counts_E.tolist() == [8] * 4


def test_padding_is_never_taken_and_lowers_c() -> None:
    padding = torch.arange(40) >= 20
    plan, _ = ec_dlm(8, 4, capacity=2.0)(RouteContext(torch.randn(40, 8), padding_T=padding))
    assert plan.counts_E.tolist() == [10] * 4
    assert not padding[plan.token_N].any()
    few = torch.arange(40) >= 1
    assert ec_dlm(8, 4, capacity=4.0)(RouteContext(torch.randn(40, 8), padding_T=few))[0].counts_E.tolist() == [1] * 4


def test_patches_per_image_with_weights_over_them() -> None:
    torch.manual_seed(0)
    gate = pmoe(8, 3, patches=4)
    plan, scores = gate(RouteContext(torch.randn(30, 8), shape=(2, 15)))
    assert plan.chosen_TE().reshape(2, 15, 3).sum(1).tolist() == [[4] * 3] * 2
    torch.testing.assert_close(plan.dense_TE().reshape(2, 15, 3).sum(1), torch.ones(2, 3))
    slow = torch.zeros(30, 3)
    for image in range(2):
        logits = scores.logits_TE[image * 15 : image * 15 + 15]
        for e in range(3):
            best = logits[:, e].detach().topk(4).indices
            slow[image * 15 + best, e] = logits[best, e].softmax(0)
    torch.testing.assert_close(plan.dense_TE(), slow)
    pull = torch.randn(30, 3)
    made, by_loop = (
        torch.autograd.grad((dense * pull).sum(), gate.scorer.weight_ED, retain_graph=True)[0]
        for dense in (plan.dense_TE(), slow)
    )
    torch.testing.assert_close(made, by_loop, rtol=1e-4, atol=1e-5)


def test_patches_of_the_class_win_after_training() -> None:
    """Two of 16 patches carry the label's pattern; the share of them that is taken rises to nearly 1."""
    torch.manual_seed(0)
    gate, value = pmoe(8, 2, patches=4), torch.nn.Linear(8, 1)
    pattern = torch.nn.functional.normalize(torch.randn(8), dim=0) * 3
    optimiser = torch.optim.Adam([*gate.parameters(), *value.parameters()], lr=0.05)

    def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        label = torch.randint(0, 2, (32,)).float() * 2 - 1
        x = torch.randn(32, 16, 8) * 0.5
        place = torch.rand(32, 16).argsort(1)[:, :2]
        x[torch.arange(32)[:, None], place] += pattern + label[:, None, None] * torch.eye(8)[0] * 2
        return x.reshape(-1, 8), label, torch.zeros(32, 16, dtype=torch.bool).scatter(1, place, True).reshape(-1)

    def share(x: torch.Tensor, relevant: torch.Tensor) -> float:
        chosen = gate(RouteContext(x, shape=(32, 16)))[0].chosen_TE()
        return float(chosen[relevant].any(1).float().mean())

    x, _, relevant = batch()
    before = share(x, relevant)
    for _ in range(120):
        seen, label, _ = batch()
        plan, _ = gate(RouteContext(seen, shape=(32, 16)))
        edges = value(seen[plan.token_N]).squeeze(1) * plan.weight_N
        score = torch.zeros(512).index_add(0, plan.token_N, edges).reshape(32, 16).sum(1)
        optimiser.zero_grad()
        torch.nn.functional.softplus(-label * score).mean().backward()
        optimiser.step()
    assert before < 0.7
    assert share(x, relevant) > 0.9


def test_settings_and_contexts_that_cannot_be() -> None:
    for bad in ({"capacity": 0.0}, {"low": 3.0}, {"schedule": "steps"}):
        with pytest.raises(UserError):
            ec_dlm(8, 4, **bad)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no gradient"):
        pmoe(8, 4, patches=1)
    with pytest.raises(UserError, match="came in shape"):
        pmoe(8, 4)(RouteContext(torch.randn(10, 8), shape=(3, 4)))
    with pytest.raises(UserError, match="token ids"):
        ec_dlm(8, 4, mask_token=1)(RouteContext(torch.randn(10, 8)))
