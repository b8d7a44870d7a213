"""A dense model's FFN becomes experts: copies of it, or slices of it, behind a gate.

Shape suffixes: E experts, D model width, H hidden width of one expert, I = H or 2H, O output width.

Copies (sparse upcycling): while the experts are copies and a token's weights sum to 1, the layer computes exactly what the
dense FFN did; `noise` then sets the copies apart. Slices: the hidden units are dealt out to E experts of hidden / E units,
whose sum is the dense FFN when every expert acts with weight 1; the output bias is shared out equally.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.catalogue import gate as named_gate
from junctor.layers.contracts import Gate
from junctor.layers.experts import ExpertBank
from junctor.layers.layer import MoELayer

GLU_NAMES = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"), ("wi_0", "wi_1", "wo"))


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense FFN's weights, laid out as one expert of a bank."""

    kind: str
    activation: str
    w_in_DI: Tensor
    w_out_HO: Tensor
    b_in_I: Tensor | None
    b_out_O: Tensor | None


def _refuse(message: str, fix: str) -> NoReturn:
    raise UserError(message, field="dense_ffn", fix=fix)


def activation_of(module: object) -> str:
    """Our name of an activation module or function."""
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    named = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Identity: "identity"}
    found = next((name for kind, name in named.items() if isinstance(module, kind)), None)
    found = found or {
        "SiLUActivation": "silu",
        "GELUActivation": "gelu",
        "PytorchGELUTanh": "gelu_tanh",
        "GELUTanh": "gelu_tanh",
        "NewGELUActivation": "gelu_tanh",
    }.get(type(module).__name__)
    found = found or {torch.nn.functional.silu: "silu", torch.nn.functional.gelu: "gelu", torch.relu: "relu"}.get(module)  # type: ignore[call-overload]
    return found or _refuse(f"its activation {module!r} is not known", "GELU, SiLU, ReLU or none")


def read_dense(ffn: nn.Module) -> Dense:
    """The weights of nn.Sequential(Linear, activation, Linear) or of a GLU with three projections; UserError for others."""
    if isinstance(ffn, nn.Sequential):
        return _sequential(ffn)
    for names in GLU_NAMES:
        found = [getattr(ffn, name, None) for name in names]
        if all(isinstance(one, nn.Linear) for one in found):
            return _glu(ffn, *found)  # type: ignore[arg-type]
    _refuse(
        f"{type(ffn).__name__} is neither a Sequential nor a GLU", "projections named " + " or ".join(map("/".join, GLU_NAMES))
    )


def _bias(linear: nn.Linear) -> Tensor | None:
    found: Tensor | None = linear.bias
    return found


def _sequential(ffn: nn.Sequential) -> Dense:
    if any(isinstance(part, nn.Dropout) and part.p > 0 for part in ffn):
        _refuse("it has dropout, which experts have not", "set p to 0 first, and put dropout after the layer")
    parts = [part for part in ffn if not isinstance(part, nn.Dropout)]
    first, middle, last = parts if len(parts) == 3 else (None, None, None)
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
        _refuse(f"it is {[type(part).__name__ for part in parts]}", "Linear, activation, Linear")
    return Dense("ffn", activation_of(middle), first.weight.t(), last.weight.t(), _bias(first), _bias(last))


def _glu(ffn: nn.Module, gate: nn.Linear, up: nn.Linear, down: nn.Linear) -> Dense:
    acting = next((getattr(ffn, name) for name in ("act_fn", "act", "activation") if hasattr(ffn, name)), nn.SiLU())
    halves = [one for one in (_bias(gate), _bias(up)) if one is not None]
    if len(halves) == 1:
        _refuse("only one of its two input projections has a bias", "give both one, or none")
    b_in = torch.cat(halves) if halves else None
    return Dense("glu", activation_of(acting), torch.cat((gate.weight, up.weight)).t(), down.weight.t(), b_in, _bias(down))


def bank_of_copies(dense: Dense, experts: int) -> ExpertBank:
    """E copies."""
    hidden, d_out = dense.w_out_HO.shape
    bank = _empty_bank(dense, experts, hidden, d_out)
    _fill(bank, dense, lambda part: part.expand(experts, *part.shape), lambda bias_O: bias_O.expand(experts, d_out))
    return bank


def bank_of_slices(dense: Dense, experts: int) -> ExpertBank:
    """The hidden units dealt out in order: expert e has units e H to (e + 1) H."""
    units, d_out = dense.w_out_HO.shape
    if units % experts:
        _refuse(f"{units} hidden units do not divide by {experts}", "as many experts as divide the hidden width")
    bank = _empty_bank(dense, experts, units // experts, d_out)
    halves = 2 if dense.kind == "glu" else 1

    def cut(part: Tensor) -> Tensor:
        if part is dense.w_out_HO:
            return part.reshape(experts, -1, d_out)
        pieces = part.reshape(*part.shape[:-1], halves, experts, -1).movedim(-2, 0)
        return torch.flatten(pieces, -2)

    _fill(bank, dense, cut, lambda bias_O: (bias_O / experts).expand(experts, d_out))
    return bank


def _empty_bank(dense: Dense, experts: int, hidden: int, d_out: int) -> ExpertBank:
    weight = dense.w_in_DI
    return ExpertBank(
        experts,
        weight.shape[0],
        hidden,
        dense.kind,
        d_out=d_out,
        bias=dense.b_in_I is not None or dense.b_out_O is not None,
        activation=dense.activation,
        device=weight.device,
        dtype=weight.dtype,
    )


@torch.no_grad()
def _fill(bank: ExpertBank, dense: Dense, cut: Callable[[Tensor], Tensor], share: Callable[[Tensor], Tensor]) -> None:
    bank.w_in_EDI.copy_(cut(dense.w_in_DI))
    bank.w_out_EHO.copy_(cut(dense.w_out_HO))
    if bank.b_in_EI is not None:
        bank.b_in_EI.copy_(torch.zeros(()) if dense.b_in_I is None else cut(dense.b_in_I))
    if bank.b_out_EO is not None:
        bank.b_out_EO.copy_(torch.zeros(()) if dense.b_out_O is None else share(dense.b_out_O))


@torch.no_grad()
def _shake(bank: ExpertBank, noise: float, generator: torch.Generator | None) -> None:
    for weight in (bank.w_in_EDI, bank.w_out_EHO):
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight)
        weight.add_(drawn * (noise * weight.std()))


def upcycle(
    dense_ffn: nn.Module,
    experts: int,
    gate: str | Gate,
    *,
    slices: bool = False,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    gate_settings: dict[str, Any] | None = None,
    **layer: Any,
) -> MoELayer:
    """The FFN as a routed layer; the FFN itself is left as it is.

    gate, gate_settings   a Gate of as many experts, or a name and its settings
    slices                deal the hidden units out instead of copying them
    noise                 standard deviation of what is added to the experts' weights, in units of theirs
    layer                 MoELayer's further settings
    """
    dense = read_dense(dense_ffn)
    bank = bank_of_slices(dense, experts) if slices else bank_of_copies(dense, experts)
    if noise:
        _shake(bank, noise, generator)
    if isinstance(gate, str):
        gate = named_gate(gate, bank.d_model, experts, **(gate_settings or {})).to(bank.w_in_EDI.device)
    return MoELayer(gate, bank, **layer)
