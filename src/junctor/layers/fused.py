"""The fused backend: forward and backward of a routed expert bank as one autograd function, writing into buffers it keeps.

Shape suffixes: T tokens, N edges sorted by expert, R edges of one expert, D model width, H hidden width, I = H or 2H, O output
width, E experts.

What it saves over the composed form: one pass over each expert's rows (its intermediate results stay in cache), no stacking
of per-expert results, a weighted gather-sum instead of index_add (`embedding_bag` over the edges in token order), and
gradients of the stacked weights written in place, expert by expert, into buffers that are used again once nobody holds them:
a new 33 MB tensor costs more in page faults than the products that fill it. No duplicate of the expert outputs is kept for
the gradient of the weights: with g = (dy W_outᵀ), <dy, a W_out> = <g, a>.

    forward   h = x[token] W_in + b_in,  a = mid(h),  o = a W_out + b_out,  y_t = sum over edges of t of w_n o_n
    backward  dy_n = dy[token],  g = dy_n W_outᵀ,  dw = <g, a> + <dy_n, b_out>,  dW_out = (w a)ᵀ dy_n,
              dh = mid'(h) * (w g),  dW_in = x[token]ᵀ dh,  dx_t = sum over edges of t of dh_n W_inᵀ
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from junctor.layers.experts import ExpertBank, unbind


class Buffers:
    """Memory on a CPU that is handed out again when nobody else holds it. Copies and pickles come out empty.

    Kept are at most `LANE` pieces per name, grown to the largest asked for; `clear` lets go of them.
    """

    LANE = 2

    def __init__(self) -> None:
        self._lanes: dict[tuple[object, ...], list[Tensor]] = {}
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, object]) -> Buffers:
        return Buffers()

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()

    def clear(self) -> None:
        """Keep nothing."""
        self._lanes.clear()

    def take(self, name: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised tensor; its memory may have been handed out before, if all users of that are gone."""
        size = math.prod(shape)
        if not size or like.device.type != "cpu" or _COUNT is None:
            return like.new_empty(shape)
        with self._lock:
            lane = self._lanes.setdefault((name, like.dtype, torch.is_inference_mode_enabled()), [])
            for piece in lane:
                if piece.numel() >= size and _holders(piece) == 1:
                    return piece[:size].view(shape).detach()
            held = [piece for piece in lane if _holders(piece) > 1]
            lane[:] = [*held, like.new_empty(size)][-self.LANE :]
            return lane[-1].view(shape).detach()


_COUNT = getattr(torch._C, "_storage_Use_Count", None)


def _raw_count(piece: Tensor) -> int:
    storage = piece.untyped_storage()
    return int(_COUNT(storage._cdata)) if _COUNT is not None else 0


_ALONE = _raw_count(torch.empty(1))  # the handle that asks is counted, too


def _holders(piece: Tensor) -> int:
    """How many tensors share this memory."""
    return _raw_count(piece) - _ALONE + 1


@dataclass(frozen=True, slots=True)
class Edges:
    """Where rows come from and go to.

    token_N     token of each edge
    counts      edges of each real expert
    order_N     edges in token order
    start_T     where each token's edges begin in order_N
    """

    token_N: Tensor
    counts: list[int]
    order_N: Tensor
    start_T: Tensor

    @classmethod
    def of(cls, token_N: Tensor, counts: list[int], tokens: int) -> Edges:
        """From expert-sorted edges."""
        per_T = torch.bincount(token_N, minlength=tokens)
        return cls(token_N, counts, torch.argsort(token_N, stable=True), per_T.cumsum(0) - per_T)

    def sum_by_token(self, rows_NX: Tensor, weight_N: Tensor | None) -> Tensor:
        """The (weighted) sum of each token's rows, [T, X]; zero for a token without edges."""
        if not rows_NX.shape[0] or not self.start_T.shape[0]:
            return rows_NX.new_zeros(self.start_T.shape[0], rows_NX.shape[1])
        ordered = None if weight_N is None else weight_N[self.order_N].to(rows_NX.dtype)
        summed: Tensor = functional.embedding_bag(self.order_N, rows_NX, self.start_T, mode="sum", per_sample_weights=ordered)
        return summed


def _spans(counts: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) of experts that have any."""
    spans, at = [], 0
    for expert, rows in enumerate(counts):
        if rows:
            spans.append((expert, slice(at, at + rows)))
        at += rows
    return spans


def _middle(bank: ExpertBank, h_RI: Tensor, a_RH: Tensor) -> None:
    if not bank.glu:
        bank.act.out(h_RI, a_RH)
        return
    gate_RH, up_RH = h_RI.chunk(2, dim=1)
    bank.act.out(gate_RH, a_RH)
    a_RH.mul_(up_RH)


def _middle_back(bank: ExpertBank, ga_RH: Tensor, h_RI: Tensor, dh_RI: Tensor) -> None:
    """From the gradient of a to that of h."""
    if not bank.glu:
        bank.act.back(ga_RH, h_RI, dh_RI)
        return
    gate_RH, up_RH = h_RI.chunk(2, dim=1)
    dgate_RH, dup_RH = dh_RI.chunk(2, dim=1)
    torch.mul(ga_RH, bank.act.plain(gate_RH), out=dup_RH)
    bank.act.back(ga_RH.mul_(up_RH), gate_RH, dgate_RH)


def _product(x_RX: Tensor, w_XY: Tensor, bias_Y: Tensor | None, out: Tensor) -> None:
    if bias_Y is None:
        torch.mm(x_RX, w_XY, out=out)
    else:
        torch.addmm(bias_Y, x_RX, w_XY, out=out)


class FusedExperts(torch.autograd.Function):
    """y_TO of a bank's real experts. Differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_N: Tensor,
        w_in: Tensor,
        w_out: Tensor,
        b_in: Tensor | None,
        b_out: Tensor | None,
        bank: ExpertBank,
        edges: Edges,
        buffers: Buffers,
    ) -> Tensor:
        """Outputs; rows and both middle results are kept for the gradient."""
        n = edges.token_N.shape[0]
        x_ND = buffers.take("x", x_TD, (n, w_in.shape[1]))
        torch.index_select(x_TD, 0, edges.token_N, out=x_ND)
        h_NI = buffers.take("h", x_TD, (n, w_in.shape[2]))
        a_NH = buffers.take("a", x_TD, (n, w_out.shape[1]))
        o_NO = buffers.take("rows", x_TD, (n, w_out.shape[2]))
        rows = zip(*(torch.split(one, edges.counts) for one in (x_ND, h_NI, a_NH, o_NO)), strict=True)
        for (x, h, a, o), (in_DI, out_HO, in_I, out_O) in zip(rows, unbind((w_in, w_out, b_in, b_out)), strict=True):
            if x.shape[0]:
                _product(x, in_DI, in_I, h)
                _middle(bank, h, a)
                _product(a, out_HO, out_O, o)
        ctx.save_for_backward(x_ND, weight_N, w_in, w_out, b_in, b_out, h_NI, a_NH)
        ctx.bank, ctx.edges, ctx.buffers = bank, edges, buffers
        return edges.sum_by_token(o_NO, weight_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weights and stacked weights."""
        back = _Backward(ctx, dy_TO)
        for e, rows in _spans(ctx.edges.counts):
            back.expert(e, rows)
        return (*back.gradients(), None, None, None)


class _Backward:
    """Buffers of one backward pass; `expert` fills the parts of one expert."""

    def __init__(self, ctx: Any, dy_TO: Tensor) -> None:
        self.x_ND, self.weight_N, self.w_in, self.w_out, self.b_in, self.b_out, self.h_NI, self.a_NH = ctx.saved_tensors
        self.bank, self.edges, self.needs = ctx.bank, ctx.edges, ctx.needs_input_grad
        take = ctx.buffers.take
        self.dy_ND = take("dy", self.x_ND, (self.x_ND.shape[0], self.w_out.shape[2]))
        torch.index_select(dy_TO, 0, self.edges.token_N, out=self.dy_ND)
        self.dh_NI = take("dh", self.h_NI, tuple(self.h_NI.shape))
        self.dx_ND = take("rows", self.x_ND, tuple(self.x_ND.shape)) if self.needs[0] else None
        self.dweight_N = torch.empty_like(self.weight_N) if self.needs[1] else None
        stacks = (self.w_in, self.w_out, self.b_in, self.b_out)
        self.stacks = [
            take(f"grad{i}", stack, tuple(stack.shape)) if self.needs[2 + i] and stack is not None else None
            for i, stack in enumerate(stacks)
        ]
        self._clear_idle()

    def _clear_idle(self) -> None:
        idle = [e for e, rows in enumerate(self.edges.counts) if not rows]
        for stack in self.stacks:
            if stack is not None and idle:
                stack[idle] = 0

    def expert(self, e: int, rows: slice) -> None:
        """Everything that one expert's rows give."""
        dy, a, h, dh = self.dy_ND[rows], self.a_NH[rows], self.h_NI[rows], self.dh_NI[rows]
        g_RH = torch.mm(dy, self.w_out[e].t())
        self._weights(e, rows, g_RH)
        w_R1 = self.weight_N[rows].to(g_RH.dtype)[:, None]
        _middle_back(self.bank, g_RH.mul_(w_R1), h, dh)
        d_in, d_out, d_bin, d_bout = self.stacks
        if d_out is not None:
            torch.mm((a * w_R1).t(), dy, out=d_out[e])
        if d_bout is not None:
            torch.mm(w_R1.t(), dy, out=d_bout[e : e + 1])
        if d_in is not None:
            torch.mm(self.x_ND[rows].t(), dh, out=d_in[e])
        if d_bin is not None:
            torch.sum(dh, 0, out=d_bin[e])
        if self.dx_ND is not None:
            torch.mm(dh, self.w_in[e].t(), out=self.dx_ND[rows])

    def _weights(self, e: int, rows: slice, g_RH: Tensor) -> None:
        if self.dweight_N is None:
            return
        gained_R = torch.linalg.vecdot(g_RH, self.a_NH[rows])
        if self.b_out is not None:
            gained_R = gained_R + self.dy_ND[rows] @ self.b_out[e]
        self.dweight_N[rows] = gained_R.to(self.dweight_N.dtype)

    def gradients(self) -> tuple[Tensor | None, ...]:
        """In the order of forward's arguments."""
        dx_TD = None if self.dx_ND is None else self.edges.sum_by_token(self.dx_ND, None)
        return dx_TD, self.dweight_N, *self.stacks
