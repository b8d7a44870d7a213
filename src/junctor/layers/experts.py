"""Banks of experts: weights of all experts stacked, so that one matrix product per expert (or one grouped product) runs them.

Shape suffixes: E real experts, P pseudo-experts, D model width, H hidden width, I width after the first product (H, or 2H for a
GLU whose gate and up halves lie side by side), O output width, R rows of one expert.

Every kind is the same three steps, so that each dispatch backend is written once:

    h_RI = x_RD @ w_in_DI (+ b_in_I)
    a_RH = act(h_RI)                      ffn, lora
    a_RH = act(h_RI[:, :H]) * h_RI[:, H:] glu
    y_RO = a_RH @ w_out_HO (+ b_out_O)    lora: times alpha / r

Pseudo-experts come after the real ones and hold no weights: first `zero` experts (no output), then `identity` experts (the
token itself). Stacked parameters are never indexed per expert: the backward of `w[e]` writes a zero tensor of the size of the
whole stack for each expert, O(E²) in time; `unbind` writes it once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function and its derivative, as calls that write into a buffer: `out(h, into)`, `back(grad, h, into)`."""

    plain: Callable[[Tensor], Tensor]
    out: Callable[[Tensor, Tensor], object]
    back: Callable[[Tensor, Tensor, Tensor], object]


_ATEN = torch.ops.aten


def _gelu(approximate: str) -> Activation:
    return Activation(
        lambda h: functional.gelu(h, approximate=approximate),
        lambda h, into: _ATEN.gelu.out(h, approximate=approximate, out=into),
        lambda grad, h, into: _ATEN.gelu_backward.grad_input(grad, h, approximate=approximate, grad_input=into),
    )


ACTIVATIONS: dict[str, Activation] = {
    "gelu": _gelu("none"),
    "gelu_tanh": _gelu("tanh"),
    "silu": Activation(
        functional.silu,
        lambda h, into: _ATEN.silu.out(h, out=into),
        lambda grad, h, into: _ATEN.silu_backward.grad_input(grad, h, grad_input=into),
    ),
    "relu": Activation(
        functional.relu,
        lambda h, into: torch.clamp_min(h, 0, out=into),
        lambda grad, h, into: _ATEN.threshold_backward.grad_input(grad, h, 0, grad_input=into),
    ),
    "identity": Activation(lambda h: h, lambda h, into: into.copy_(h), lambda grad, _h, into: into.copy_(grad)),
}

KINDS = {"ffn": ("gelu", False), "glu": ("silu", True), "lora": ("identity", False)}


def _refuse(message: str, where: str, fix: str) -> NoReturn:
    raise UserError(message, field=f"experts.{where}", fix=fix)


class ExpertBank(nn.Module):
    """Experts of one kind and size.

    kind        "ffn" (GELU MLP), "glu" (SwiGLU) or "lora" (low rank, no activation; `hidden` is the rank)
    hidden      H; the rank for "lora"
    d_out       O; D unless given
    bias        biases after both products
    activation  another of ACTIVATIONS than the kind's own
    alpha       "lora": outputs are multiplied by alpha / hidden
    zero, identity   numbers of pseudo-experts, which take the last indices

    `experts` counts real and pseudo-experts: it is what a gate must have. Weights start uniform within ±1/sqrt(fan in), as
    nn.Linear's do; LoRA's second factor starts at zero, so that an untrained adapter changes nothing.
    """

    b_in_EI: nn.Parameter | None
    b_out_EO: nn.Parameter | None

    def __init__(
        self,
        experts: int,
        d_model: int,
        hidden: int,
        kind: str = "ffn",
        *,
        d_out: int | None = None,
        bias: bool = False,
        activation: str | None = None,
        alpha: float | None = None,
        zero: int = 0,
        identity: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.real, self.d_model, self.hidden, self.kind = experts, d_model, hidden, kind
        self.d_out = d_model if d_out is None else d_out
        self.zero, self.identity = zero, identity
        self._check(kind, activation)
        own, self.glu = KINDS[kind]
        self.activation = activation or own
        self.scale = 1.0 if kind != "lora" or alpha is None else alpha / hidden
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        inner = 2 * hidden if self.glu else hidden
        self.w_in_EDI = nn.Parameter(torch.empty(experts, d_model, inner, **made))
        self.w_out_EHO = nn.Parameter(torch.empty(experts, hidden, self.d_out, **made))
        self.b_in_EI = nn.Parameter(torch.empty(experts, inner, **made)) if bias else None
        self.b_out_EO = nn.Parameter(torch.empty(experts, self.d_out, **made)) if bias else None
        self.reset_parameters()

    def _check(self, kind: str, activation: str | None) -> None:
        if kind not in KINDS:
            _refuse(f"no kind {kind!r}", "kind", "one of " + ", ".join(KINDS))
        if activation is not None and activation not in ACTIVATIONS:
            _refuse(f"no activation {activation!r}", "activation", "one of " + ", ".join(ACTIVATIONS))
        if min(self.real, self.d_model, self.hidden, self.d_out) < 1 or min(self.zero, self.identity) < 0:
            _refuse("sizes must be positive", "experts", "at least one real expert, widths of at least 1")
        if self.identity and self.d_out != self.d_model:
            _refuse(f"an identity expert cannot turn {self.d_model} into {self.d_out}", "identity", "leave d_out away")

    def reset_parameters(self) -> None:
        """New random weights."""
        for weight, bias in ((self.w_in_EDI, self.b_in_EI), (self.w_out_EHO, self.b_out_EO)):
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)
        if self.kind == "lora":
            nn.init.zeros_(self.w_out_EHO)

    @property
    def experts(self) -> int:
        """Real and pseudo-experts."""
        return self.real + self.zero + self.identity

    @property
    def act(self) -> Activation:
        """The activation."""
        return ACTIVATIONS[self.activation]

    def extra_repr(self) -> str:
        """What print() shows."""
        pseudo = f", zero={self.zero}, identity={self.identity}" if self.zero or self.identity else ""
        return f"{self.real} × {self.kind} {self.d_model}→{self.hidden}→{self.d_out}, {self.activation}{pseudo}"

    def stacked(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """w_in_EDI, w_out_EHO, b_in_EI, b_out_EO."""
        return self.w_in_EDI, self.w_out_EHO, self.b_in_EI, self.b_out_EO

    def middle(self, h_RI: Tensor) -> Tensor:
        """The elementwise step between the two products."""
        if not self.glu:
            return self.act.plain(h_RI)
        gate_RH, up_RH = h_RI.chunk(2, dim=-1)
        return self.act.plain(gate_RH) * up_RH

    def forward(self, x_TD: Tensor) -> Tensor:
        """Outputs of all real experts for all tokens, [E, T, O]: for distilling and tests; routing uses a dispatcher."""
        h_ETI = torch.einsum("td,edi->eti", x_TD, self.w_in_EDI)
        if self.b_in_EI is not None:
            h_ETI = h_ETI + self.b_in_EI[:, None]
        y_ETO = torch.einsum("eth,eho->eto", self.middle(h_ETI), self.w_out_EHO)
        if self.b_out_EO is not None:
            y_ETO = y_ETO + self.b_out_EO[:, None]
        return y_ETO * self.scale


def unbind(
    stack: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
    """Weights of one expert after the other; gradients are stacked once."""
    w_in, w_out, b_in, b_out = stack
    count = w_in.shape[0]
    none: tuple[None, ...] = (None,) * count
    return zip(
        w_in.unbind(0),
        w_out.unbind(0),
        none if b_in is None else b_in.unbind(0),
        none if b_out is None else b_out.unbind(0),
        strict=True,
    )


def run_expert(bank: ExpertBank, x_RD: Tensor, weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None]) -> Tensor:
    """One expert on its rows, [R, O], without LoRA's scale."""
    w_in_DI, w_out_HO, b_in_I, b_out_O = weights
    h_RI = x_RD @ w_in_DI if b_in_I is None else torch.addmm(b_in_I, x_RD, w_in_DI)
    a_RH = bank.middle(h_RI)
    return a_RH @ w_out_HO if b_out_O is None else torch.addmm(b_out_O, a_RH, w_out_HO)
