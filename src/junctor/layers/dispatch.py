"""From a plan to outputs: y_t = sum over the edges (t, e) of the plan of w_te * f_e(x_t). Four exact backends, one switch.

Shape suffixes: T tokens, N edges sorted by expert, R edges of one expert, D model width, O output width, E experts.

    reference    a loop over tokens and their edges: slow, the oracle of the tests
    slices       gather, one product per expert over its slice, index_add
    grouped_mm   gather, torch's grouped product over all experts, index_add
    fused        junctor.layers.fused: one autograd function over kept buffers
    auto         the fastest of the last three that runs here, measured at the first call of a kind and kept

No backend pads and none drops: an edge in the plan is computed, and edges that a capacity refused are in `Plan.dropped`.
Products run in the autocast type when autocast is on.

Two traps of the grouped product are closed here: rows beyond the last offset get uninitialised gradients (so the counts must
sum to N), and its backward fails on gradients with stride 0 (so gradients are made contiguous).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.experts import ExpertBank, run_expert, unbind
from junctor.layers.fused import Buffers, Edges, FusedExperts
from junctor.layers.plan import Plan

Stack = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
Compute = Callable[[ExpertBank, Plan, list[int], Tensor, Stack], Tensor]

ROUNDS = 3
_CHOSEN: dict[tuple[object, ...], str] = {}


def _reference(bank: ExpertBank, plan: Plan, counts: list[int], x_TD: Tensor, stack: Stack) -> Tensor:
    weights = list(unbind(stack))
    rows: list[list[Tensor]] = [[] for _ in range(plan.tokens)]
    at = 0
    for e, count in enumerate(counts):
        for n in range(at, at + count):
            t = int(plan.token_N[n])
            one = run_expert(bank, x_TD[t : t + 1], weights[e])[0]
            rows[t].append(one * plan.weight_N[n].to(one.dtype))
        at += count
    nothing = x_TD.new_zeros(bank.d_out)
    return torch.stack([torch.stack(one).sum(0) if one else nothing for one in rows])


def _slices(bank: ExpertBank, plan: Plan, counts: list[int], x_TD: Tensor, stack: Stack) -> Tensor:
    parts = torch.split(x_TD.index_select(0, plan.token_N), counts)
    outs = [run_expert(bank, x_RD, weights) for x_RD, weights in zip(parts, unbind(stack), strict=True) if x_RD.shape[0]]
    return _combine(plan, torch.cat(outs))


def _combine(plan: Plan, out_NO: Tensor) -> Tensor:
    weighted_NO = out_NO * plan.weight_N.to(out_NO.dtype)[:, None]
    return out_NO.new_zeros(plan.tokens, out_NO.shape[1]).index_add(0, plan.token_N, weighted_NO)


class _Contiguous(torch.autograd.Function):
    """Identity whose gradient is contiguous."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        """The input."""
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        """The gradient, laid out anew when it has to be."""
        return grad.contiguous()


def _grouped_product(x_NX: Tensor, w_EXY: Tensor, offs_E: Tensor, bias_EY: Tensor | None, expert_N: Tensor) -> Tensor:
    product = cast(Callable[..., Tensor], getattr(functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None))
    y_NY: Tensor = _Contiguous.apply(product(x_NX, w_EXY, offs=offs_E))  # type: ignore[no-untyped-call]
    return y_NY if bias_EY is None else y_NY + bias_EY.index_select(0, expert_N)


def _grouped_mm(bank: ExpertBank, plan: Plan, counts: list[int], x_TD: Tensor, stack: Stack) -> Tensor:
    w_in, w_out, b_in, b_out = stack
    if sum(counts) != plan.edges:
        raise UserError(f"counts sum to {sum(counts)}, not {plan.edges}", field="plan.counts_E", fix="one count per expert")
    offs_E = torch.cumsum(plan.counts_E, 0).to(torch.int32)
    expert_N = plan.expert_N()
    h_NI = _grouped_product(x_TD.index_select(0, plan.token_N), w_in, offs_E, b_in, expert_N)
    return _combine(plan, _grouped_product(bank.middle(h_NI), w_out, offs_E, b_out, expert_N))


def _fused(bank: ExpertBank, plan: Plan, counts: list[int], x_TD: Tensor, stack: Stack) -> Tensor:
    edges = Edges.of(plan.token_N, counts, plan.tokens)
    y_TO: Tensor = FusedExperts.apply(x_TD, plan.weight_N, *stack, bank, edges, buffers_of(bank))  # type: ignore[no-untyped-call]
    return y_TO


BACKENDS: dict[str, Compute] = {"reference": _reference, "slices": _slices, "grouped_mm": _grouped_mm, "fused": _fused}


def buffers_of(bank: ExpertBank) -> Buffers:
    """The bank's buffers; made at its first fused call."""
    kept = bank.__dict__.get("_buffers_kept")
    if kept is None:
        kept = bank.__dict__["_buffers_kept"] = Buffers()
    return cast(Buffers, kept)


def why_not_grouped(x_TD: Tensor, stack: Stack) -> str:
    """Why torch's grouped product cannot run on these, or "" when it can."""
    if not hasattr(functional, "grouped_mm") and not hasattr(torch, "_grouped_mm"):
        return "this PyTorch has none"
    if x_TD.dtype not in {torch.float32, torch.bfloat16, torch.float16}:
        return f"not for {x_TD.dtype}"
    if x_TD.device.type == "cuda" and x_TD.dtype != torch.bfloat16:
        return "on a GPU only for bfloat16"
    widths = (x_TD.shape[1], stack[0].shape[2], stack[1].shape[1], stack[1].shape[2])
    if any(width * x_TD.element_size() % 16 for width in widths):
        return "rows must be multiples of 16 bytes"
    return ""


def chosen() -> dict[tuple[object, ...], str]:
    """What "auto" found fastest so far, by (experts, D, I, H, O, kind, bias, type, device, size of the batch, gradients)."""
    return dict(_CHOSEN)


def forget() -> None:
    """Measure again at the next calls."""
    _CHOSEN.clear()


def choose(bank: ExpertBank, plan: Plan, counts: list[int], x_TD: Tensor, stack: Stack) -> str:
    """The fastest backend for calls like this one; measured once, on this call's data, apart from the model's gradients."""
    training = torch.is_grad_enabled()
    size = plan.edges.bit_length() // 2
    key = (*stack[0].shape, *stack[1].shape[1:], bank.kind, stack[2] is not None, x_TD.dtype, x_TD.device, size, training)
    found = _CHOSEN.get(key)
    if found is None:
        names = ["fused", "slices", *([] if why_not_grouped(x_TD, stack) else ["grouped_mm"])]
        times = dict.fromkeys(names, float("inf"))
        for _ in range(ROUNDS):
            for name in names:
                times[name] = min(times[name], _timed(BACKENDS[name], bank, plan, counts, x_TD, stack, training))
        found = _CHOSEN[key] = min(times, key=times.__getitem__)
    return found


def _timed(
    compute: Compute, bank: ExpertBank, plan: Plan, counts: list[int], x_TD: Tensor, stack: Stack, training: bool
) -> float:
    x, w_in, w_out, b_in, b_out = (None if one is None else one.detach().requires_grad_(training) for one in (x_TD, *stack))
    apart = plan.with_weights(plan.weight_N.detach().requires_grad_(training))
    _wait(x_TD)
    started = time.perf_counter()
    y = compute(bank, apart, counts, cast(Tensor, x), (cast(Tensor, w_in), cast(Tensor, w_out), b_in, b_out))
    if training:
        torch.autograd.backward(y, torch.ones_like(y))
    _wait(x_TD)
    return time.perf_counter() - started


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _check(plan: Plan, x_TD: Tensor, bank: ExpertBank) -> None:
    if x_TD.dim() != 2 or x_TD.shape[1] != bank.d_model:
        raise UserError(f"tokens of shape {tuple(x_TD.shape)}", field="x", fix=f"[tokens, {bank.d_model}]")
    if plan.experts != bank.experts or plan.tokens != x_TD.shape[0]:
        raise UserError(
            f"the plan is for {plan.tokens} tokens and {plan.experts} experts, not {x_TD.shape[0]} and {bank.experts}",
            field="plan",
            fix="give the gate as many experts as the bank has, pseudo-experts included",
        )
    devices = {x_TD.device, bank.w_in_EDI.device, plan.token_N.device, plan.counts_E.device, plan.weight_N.device}
    if len(devices) > 1:
        raise UserError(
            "tokens, plan and experts lie on " + " and ".join(sorted(str(one) for one in devices)),
            field="x.device",
            fix="move the layer and its input to one device",
        )


def _compute_types(x_TD: Tensor, bank: ExpertBank) -> tuple[Tensor, Stack]:
    """Tokens and weights in the type to compute in: autocast's when that is on, else the weights' own."""
    kind = x_TD.device.type
    want = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else bank.w_in_EDI.dtype
    if x_TD.dtype != want and not torch.is_autocast_enabled(kind):
        raise UserError(f"tokens are {x_TD.dtype}, experts {want}", field="x.dtype", fix="convert one, or use torch.autocast")
    w_in, w_out, b_in, b_out = (None if one is None else one.to(want) for one in bank.stacked())
    return x_TD.to(want), (cast(Tensor, w_in), cast(Tensor, w_out), b_in, b_out)


def _real_part(plan: Plan, counts: list[int], bank: ExpertBank) -> Plan:
    """The plan's edges to experts with weights."""
    real = sum(counts[: bank.real])
    return replace(plan, token_N=plan.token_N[:real], weight_N=plan.weight_N[:real], counts_E=plan.counts_E[: bank.real])


def _identity_part(plan: Plan, counts: list[int], bank: ExpertBank, x_TD: Tensor) -> Tensor:
    """What identity experts give: w_te x_t."""
    first = sum(counts[: bank.real + bank.zero])
    token_N, weight_N = plan.token_N[first:], plan.weight_N[first:]
    return _combine(replace(plan, token_N=token_N, weight_N=weight_N), x_TD.index_select(0, token_N))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def dispatch(plan: Plan, x_TD: Tensor, bank: ExpertBank, backend: str = "auto") -> Tensor:
    """Outputs y_TO. A token without edges gets zeros; weights' gradients exist (as zeros) even when there is no edge at all."""
    if backend != "auto" and backend not in BACKENDS:
        raise UserError(f"no backend {backend!r}", field="backend", fix="auto, " + ", ".join(BACKENDS))
    _check(plan, x_TD, bank)
    x_TD, stack = _compute_types(x_TD, bank)
    if backend == "grouped_mm" and (reason := why_not_grouped(x_TD, stack)):
        raise UserError(f"the grouped product cannot run: {reason}", field="backend", fix="use auto, slices or fused")
    counts: list[int] = plan.counts_E.tolist()
    if sum(counts) != plan.edges or plan.weight_N.shape[0] != plan.edges:
        plan.check()
    with torch.autocast(x_TD.device.type, enabled=False):
        return _outputs(plan, counts, x_TD, bank, stack, backend)


def _outputs(plan: Plan, counts: list[int], x_TD: Tensor, bank: ExpertBank, stack: Stack, backend: str) -> Tensor:
    part = _real_part(plan, counts, bank)
    if bank.scale != 1.0:
        part = part.with_weights(part.weight_N * bank.scale)
    counts_real = counts[: bank.real]
    if not part.edges:
        backend = "fused"
    elif backend == "auto":
        backend = choose(bank, part, counts_real, x_TD, stack)
    y_TO = BACKENDS[backend](bank, part, counts_real, x_TD, stack)
    return y_TO + _identity_part(plan, counts, bank, x_TD) if bank.identity else y_TO
