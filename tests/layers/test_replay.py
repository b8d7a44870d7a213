"""Under activation checkpointing a gate draws in the replay what it drew in the forward: gradients are equal."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from junctor.errors import UserError
from junctor.layers.adapters import AdaptedLinear, LoraBank
from junctor.layers.catalogue import gate
from junctor.layers.layer import MoELayer
from junctor.layers.plan import RouteContext
from junctor.layers.replay import Draws, checksum, rewinding

D, E = 8, 6
NOISY: dict[str, dict[str, Any]] = {
    "remix": {},
    "t2mir-token": {},
    "mofme": {"readings": 3, "drop": 0.5},
    "erc": {"weight": 1.0},
    "ssr": {"noise": 2.0, "share": 0.0},
    "base": {"workers": 3},
    "poly": {},
}


def layer_of(name: str) -> MoELayer:
    torch.manual_seed(0)
    config = {"d_model": D, "experts": E, "hidden": 5, "gate": name, "gate_settings": NOISY[name], "allow_non_causal": True}
    return MoELayer.from_config({**config, "dispatcher": "reference"})


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(3, 7, D, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def loss_of(layer: MoELayer, x: Tensor, generator: torch.Generator) -> Tensor:
    """Output, losses and log probabilities: all that is differentiated."""
    made = layer.forward_with_plan(x, generator=generator)
    total = made.y.square().sum() + sum(one.sum() for one in made.losses.values())
    return total if made.scores.logp is None else total + made.scores.logp.square().mean()


def gradients(layer: nn.Module, total: Tensor, *inputs: Tensor) -> list[Tensor]:
    layer.zero_grad()
    for one in inputs:
        one.grad = None
    total.backward()
    return [one.grad.clone() for one in (*inputs, *layer.parameters()) if one.grad is not None]


def assert_same(mine: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(mine) == len(wanted) > 1
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", NOISY)
def test_checkpointed_gradients_are_those_without(name: str, reentrant: bool) -> None:
    layer, x, found = layer_of(name), tokens(), []
    for checkpointed in (False, True):
        draws = torch.Generator().manual_seed(3)

        def run(x: Tensor, draws: torch.Generator = draws) -> Tensor:
            return loss_of(layer, x, draws)

        total = checkpoint(run, x, use_reentrant=reentrant) if checkpointed else run(x)
        found.append(gradients(layer, total, x))
    assert_same(*found)


def test_noise_differs_between_forwards_and_follows_the_callers_seed() -> None:
    layer, x = layer_of("t2mir-token"), tokens()
    draws = torch.Generator().manual_seed(3)
    first, second = layer(x, generator=draws), layer(x, generator=draws)
    assert not torch.equal(first, second)
    assert torch.equal(layer(x, generator=torch.Generator().manual_seed(3)), first)
    state = draws.get_state()
    layer.eval()(x, generator=draws)
    assert torch.equal(draws.get_state(), state)  # evaluation draws nothing


@pytest.mark.parametrize("same", [False, True])
def test_many_forwards_before_one_backward_and_a_replay_leaves_the_stream_alone(same: bool) -> None:
    """Two layers in one checkpointed segment, two micro-batches, of equal tokens too; the backward starts with the last."""
    first, second = layer_of("remix"), layer_of("t2mir-token")
    both = nn.ModuleList([first, second])
    xs = (tokens(0), tokens(0 if same else 1))
    found, states = [], []

    for checkpointed in (False, True):
        draws = torch.Generator().manual_seed(3)

        def segment(x: Tensor, draws: torch.Generator = draws) -> Tensor:
            return second(first(x, generator=draws), generator=draws).square().sum()

        parts = [checkpoint(segment, x, use_reentrant=False) if checkpointed else segment(x) for x in xs]
        states.append(draws.get_state())
        found.append(gradients(both, sum(parts[1:], parts[0]), *xs))
        assert torch.equal(draws.get_state(), states[-1])
    assert_same(*found)
    assert torch.equal(*states)


def test_an_adapter_replays_too() -> None:
    torch.manual_seed(0)
    bank = LoraBank(D, D, E, rank=2)
    nn.init.normal_(bank.up_EOR)
    layer = AdaptedLinear(nn.Linear(D, D), bank, gate("t2mir-token", D, E))
    x, found = tokens(), []
    for checkpointed in (False, True):
        draws = torch.Generator().manual_seed(3)

        def run(x: Tensor, draws: torch.Generator = draws) -> Tensor:
            return layer(x, context=RouteContext(x.reshape(-1, D), generator=draws)).square().sum()

        found.append(gradients(layer, checkpoint(run, x, use_reentrant=False) if checkpointed else run(x), x))
    assert_same(*found)


def test_a_gate_alone_is_rewound_by_the_caller_also_in_a_second_backward() -> None:
    made, x = gate("t2mir-token", D, E), tokens()[0].detach().requires_grad_()
    nn.init.normal_(made.scorer.clean.weight)
    pull, found = torch.randn(x.shape[0], E), []
    for settings in ({}, {"context_fn": rewinding}):
        draws = torch.Generator().manual_seed(3)

        def run(x: Tensor, draws: torch.Generator = draws) -> Tensor:
            return (made(RouteContext(x, generator=draws))[0].dense_TE() * pull).sum()

        if settings:
            total = checkpoint(run, x, use_reentrant=False, context_fn=rewinding(draws))
            state = draws.get_state()
            (early,) = torch.autograd.grad(total, x, retain_graph=True)
            found.append([early, *torch.autograd.grad(total, x)])
            assert torch.equal(draws.get_state(), state)
        else:
            found.append(list(torch.autograd.grad(run(x), x)) * 2)
    assert_same(*found)


def test_a_replay_of_other_tokens_is_named_and_rewinding_helps() -> None:
    layer, x = layer_of("remix"), tokens()
    wobble = iter([0.0, 1e-7, 0.0, 1e-7])

    def run(x: Tensor) -> Tensor:
        return layer(x + next(wobble), generator=draws).square().sum()

    draws = torch.Generator().manual_seed(3)
    with pytest.raises(UserError, match="no forward had"):
        checkpoint(run, x, use_reentrant=False).backward()
    checkpoint(run, x, use_reentrant=False, context_fn=rewinding(draws)).backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 7), (4, 8), (0, 8)])
def test_a_checksum_sees_every_bit_and_no_layout(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x = torch.randn(shape).to(dtype)
    assert checksum(x) == checksum(x.t().contiguous().t())
    if x.numel():
        other = x.clone()
        other[-1, -1] = torch.nextafter(x[-1, -1].float(), torch.tensor(9.0)) if dtype == torch.float32 else -x[-1, -1]
        assert checksum(other) != checksum(x)
        other[-1, -1] = torch.nan
        assert checksum(other) == checksum(other.clone())
    assert checksum(x) != checksum(x.reshape(-1, 1))


def test_what_was_drawn_is_no_part_of_the_layer() -> None:
    layer, draws = layer_of("remix"), torch.Generator()
    layer(tokens(), generator=draws)
    assert len(layer._draws._forwards) == 1
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert isinstance(other._draws, Draws)
        assert not other._draws._forwards
    assert not any("draws" in key for key in layer.state_dict())
