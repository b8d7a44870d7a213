"""Upcycled FFNs compute what the dense ones did."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import RouteContext
from junctor.layers.selectors import TopK, plan_from_mask
from junctor.layers.upcycle import upcycle

D, H, E = 8, 12, 4


class Glu(nn.Module):
    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(D, H, bias=bias), nn.Linear(D, H, bias=bias)
        self.down_proj, self.act_fn = nn.Linear(H, D, bias=bias), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return y


def ffns() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "gelu": nn.Sequential(nn.Linear(D, H), nn.GELU(), nn.Linear(H, D)),
        "tanh gelu, no bias": nn.Sequential(nn.Linear(D, H, bias=False), nn.GELU("tanh"), nn.Linear(H, D, bias=False)),
        "relu, one bias, dropout 0": nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Dropout(0.0), nn.Linear(H, D, bias=False)),
        "wider output": nn.Sequential(nn.Linear(D, H), nn.SiLU(), nn.Linear(H, 2 * D)),
        "glu": Glu(),
        "glu with bias": Glu(bias=True),
    }


def gate(k: int = 2) -> Gate:
    return Gate(LinearScorer(D, E), TopK(k))


class Everyone(TopK):
    """All experts with weight 1."""

    def forward(self, selection_TE: Tensor, scores: object, context: RouteContext) -> object:  # type: ignore[override]
        ones_TE = torch.ones_like(selection_TE)
        return plan_from_mask(ones_TE.bool(), ones_TE)


@pytest.mark.parametrize("name", ffns())
def test_copies_give_the_dense_output_when_weights_sum_to_one(name: str) -> None:
    dense, x = ffns()[name], torch.randn(3, 5, D)
    torch.testing.assert_close(upcycle(dense, E, gate())(x), dense(x))


@pytest.mark.parametrize("name", ffns())
def test_slices_together_give_the_dense_output(name: str) -> None:
    dense, x = ffns()[name], torch.randn(3, 5, D)
    layer = upcycle(dense, E, Gate(LinearScorer(D, E), Everyone(2)), slices=True)
    assert layer.experts.hidden == H // E
    torch.testing.assert_close(layer(x), dense(x))


def test_noise_sets_copies_apart_by_its_size_and_the_dense_ffn_keeps_its_weights() -> None:
    dense = ffns()["gelu"]
    before = dense[0].weight.clone()  # type: ignore[index]
    first, again = (upcycle(dense, E, gate(), noise=0.1, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    spread = (first.experts.w_in_EDI - before.t()).std() / before.std()
    assert 0.08 < spread < 0.12
    assert torch.equal(first.experts.w_in_EDI, again.experts.w_in_EDI)
    assert torch.equal(dense[0].weight, before)  # type: ignore[index]


@pytest.mark.parametrize(
    ("dense", "match"),
    [
        (nn.Linear(D, D), "neither a Sequential nor a GLU"),
        (nn.Sequential(nn.Linear(D, H), nn.Linear(H, D)), "Linear, activation, Linear"),
        (nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, D)), "not known"),
        (nn.Sequential(nn.Linear(D, H), nn.GELU(), nn.Dropout(0.1), nn.Linear(H, D)), "dropout"),
    ],
)
def test_what_cannot_be_upcycled_is_refused(dense: nn.Module, match: str) -> None:
    with pytest.raises(UserError, match=match):
        upcycle(dense, E, gate())


def test_slices_must_divide_the_hidden_width() -> None:
    with pytest.raises(UserError, match="do not divide by 5"):
        upcycle(ffns()["gelu"], 5, Gate(LinearScorer(D, 5), TopK(2)), slices=True)
