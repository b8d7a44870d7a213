"""Pooling over sequences, and the arithmetic of scores in fp32: what sequence- and task-level gates are made from.

Shape suffixes: T tokens (flattened over batch and sequence), B sequences, E experts, D model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.contracts import Selector
from junctor.layers.linear import fp32_logits
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import checked, plan_from_mask, real_T


class Float32State(nn.Module):
    """A module whose own floating buffers stay fp32 when the model is cast to half precision; they move between devices."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, now in list(self.named_buffers(recurse=False)):
            if now.is_floating_point() and now.dtype != torch.float32:
                setattr(self, name, before[name].to(now.device, torch.float32))
        return self


class LinearScore(nn.Linear):
    """A linear map whose product is computed in fp32."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Logits, fp32."""
        return fp32_logits(input, self.weight, self.bias)


def standardised(x_TD: Tensor) -> Tensor:
    """Layer norm without learned scale or shift, fp32."""
    return functional.layer_norm(x_TD.float(), x_TD.shape[-1:])


def sequence_T(context: RouteContext) -> tuple[Tensor, int]:
    """int64, the sequence of each token, and how many sequences there are; without a shape all tokens are one sequence."""
    tokens, device = context.x_TD.shape[0], context.x_TD.device
    if len(context.shape) < 2:
        return torch.zeros(tokens, dtype=torch.int64, device=device), 1
    batch, length = context.shape[0], context.shape[1]
    if batch * length != tokens:
        raise UserError(f"{tokens} tokens do not fill {context.shape}", field="context.shape", fix="(batch, sequence)")
    return torch.arange(batch, device=device).repeat_interleave(length), batch


def mean_BD(context: RouteContext) -> tuple[Tensor, Tensor]:
    """Mean of each sequence's real tokens, fp32 (zero where there are none), and the sequence of each token."""
    seq_T, batch = sequence_T(context)
    real = real_T(context).float()
    sums_BD = context.x_TD.new_zeros(batch, context.x_TD.shape[1], dtype=torch.float32)
    sums_BD = sums_BD.index_add(0, seq_T, torch.where(real[:, None] > 0, context.x_TD.float(), 0.0))
    count_B = sums_BD.new_zeros(batch).index_add(0, seq_T, real)
    return sums_BD / count_B.clamp_min(1.0)[:, None], seq_T


def task_T(context: RouteContext, tasks: int) -> Tensor:
    """int64, the task of each token; without task ids there must be one task only."""
    if context.task_ids_T is None:
        if tasks == 1:
            return torch.zeros(context.x_TD.shape[0], dtype=torch.int64, device=context.x_TD.device)
        raise UserError("this gate routes by task, and no task was given", field="context.task_ids_T", fix=f"0 to {tasks - 1}")
    ids = context.task_ids_T
    if ids.shape != (context.x_TD.shape[0],):
        raise UserError(f"is of shape {tuple(ids.shape)}", field="context.task_ids_T", fix="one id per token")
    if ids.device.type == "cpu" and ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= tasks):
        raise UserError(
            f"names tasks {int(ids.min())} to {int(ids.max())}", field="context.task_ids_T", fix=f"0 to {tasks - 1}"
        )
    return ids


class All(Selector):
    """Every expert of positive weight, the probability as its weight: soft routing, for merges and small banks."""

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """All edges whose selection score is above zero; padding has none."""
        checked(selection_TE, scores, context)
        chosen_TE = (selection_TE.detach() > 0) & real_T(context)[:, None]
        return _every(scores.probs_TE) if bool(chosen_TE.all()) else plan_from_mask(chosen_TE, scores.probs_TE)


def _every(weight_TE: Tensor) -> Plan:
    tokens, experts = weight_TE.shape
    counts_E = torch.full((experts,), tokens, dtype=torch.int64, device=weight_TE.device)
    return Plan(torch.arange(tokens, device=weight_TE.device).repeat(experts), weight_TE.t().reshape(-1), counts_E, tokens)
