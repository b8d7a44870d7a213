"""Routing each head's part of a token by itself: H decisions per token, granularity "head".

Shape suffixes: T tokens, H heads, P parts (P = T H, the heads of a token lie together), E experts, D model width, C = D / H.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer
from junctor.layers.contracts import Gate
from junctor.layers.experts import ExpertBank
from junctor.layers.layer import MoELayer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.scorers import Float32Scorer, fresh, linear32
from junctor.layers.selectors import TopK, check_k


def split_heads(context: RouteContext, heads: int) -> RouteContext:
    """The context of the parts: x is [T H, D / H], ids and padding repeated."""
    x_TD = context.x_TD
    if x_TD.dim() != 2 or x_TD.shape[1] % heads:
        raise UserError(f"is {tuple(x_TD.shape)}", field="x_TD", fix=f"(tokens, a multiple of {heads})")
    x_PC = x_TD.reshape(x_TD.shape[0] * heads, x_TD.shape[1] // heads)
    shape = (context.shape[0], context.shape[1] * heads) if len(context.shape) == 2 else ()
    return replace(
        context,
        x_TD=x_PC,
        shape=shape,
        token_ids_T=_each(context.token_ids_T, heads),
        task_ids_T=_each(context.task_ids_T, heads),
        segment_ids_T=_each(context.segment_ids_T, heads),
        padding_T=_each(context.padding_T, heads),
    )


def _each(values_T: Tensor | None, heads: int) -> Tensor | None:
    return None if values_T is None else values_T.repeat_interleave(heads)


def join_heads(y_PC: Tensor, heads: int) -> Tensor:
    """[T, D] of the parts' outputs: the heads side by side again."""
    return y_PC.reshape(y_PC.shape[0] // heads, heads * y_PC.shape[1])


class HeadScorer(Float32Scorer):
    """z_the = x_th · w_he (or w_e, one matrix for all heads, when `shared`), p = softmax over E. Sees parts, width D / H.

    weight_HEC  trainable; H is 1 when shared
    """

    def __init__(self, d_model: int, experts: int, heads: int, *, shared: bool = False) -> None:
        if heads < 1 or d_model % heads:
            raise UserError(f"is {heads}", field="heads", fix=f"a divisor of d_model = {d_model}")
        super().__init__(d_model // heads, experts)
        self.heads = heads
        self.weight_HEC = fresh(1 if shared else heads, experts, d_model // heads)

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """One small matrix product per head."""
        del context
        if self.weight_HEC.shape[0] == 1:
            logits_PE = linear32(x_TD, self.weight_HEC[0])
        else:
            x_HTC = x_TD.reshape(x_TD.shape[0] // self.heads, self.heads, self.d_model)
            logits_PE = (x_HTC.transpose(0, 1) @ self.weight_HEC.float().mT).transpose(0, 1).flatten(0, 1)
        return Scores(logits_PE, logits_PE.softmax(dim=-1))


class HeadLosses(LossBalancer):
    """The shared losses over parts instead of tokens."""

    def __init__(self, heads: int, **weights: float) -> None:
        super().__init__(**weights)
        self.heads = heads

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """As for tokens, with the parts' padding."""
        return super().loss(plan, scores, split_heads(context, self.heads))


class HeadGate(Gate):
    """A gate over parts. Takes the tokens' context; its plan counts T H parts of width D / H: experts see those, and
    `join_heads` puts their outputs side by side.

    Source: head-wise routing for continual learning (MH-MoE; BWT 11.2 % to 4.5 % on TRACE), abstract only; an older method of
    the same name (multi-head MoE, sub-tokens with merge layers) is not this one. Unverified: whether heads share a matrix.
    """  # fmt: skip

    def __init__(self, scorer: HeadScorer, k: int, switch: float = 0.01) -> None:
        weights = TopK(check_k(k, scorer.experts), "plain" if k == 1 else "renormalised")
        super().__init__(scorer, weights, HeadLosses(scorer.heads, switch=switch))
        self.heads = scorer.heads

    def forward(self, context: RouteContext) -> tuple[Plan, Scores]:
        """Split, then as any gate."""
        plan, scores = super().forward(split_heads(context, self.heads))
        return replace(plan, granularity="head"), scores


class HeadWiseLayer(MoELayer):
    """Drop-in for an FFN: the parts of [..., D] go to experts of width D / H, their outputs lie side by side again.

    A MoELayer that takes nothing but a gate over heads and experts that give back a part's width; what a token has (ids,
    padding) is given per token, not per part. At equal hidden width its active FLOPs are those of a layer over whole tokens.
    """

    def __init__(self, gate: Gate, experts: ExpertBank, dispatcher: str = "auto", **settings: Any) -> None:
        wanted = (gate.experts, gate.scorer.d_model, gate.scorer.d_model)
        if not isinstance(gate, HeadGate):
            raise UserError(f"{gate.name or 'the gate'} routes whole tokens", field="gate", fix="a HeadGate, or MoELayer")
        if (experts.experts, experts.d_model, experts.d_out) != wanted:
            raise UserError(
                f"{experts.experts} of width {experts.d_model}", field="experts", fix=f"{wanted[0]} of width {wanted[1]}"
            )
        super().__init__(gate, experts, dispatcher, **settings)


def effective_compositions(plan: Plan, label_P: Tensor) -> Tensor:
    """[E] the effective number of kinds of part that an expert serves: exp of the entropy of `label_P` (any clustering of the
    parts, int64 from 0) over its edges; 0 for an idle expert. Small: a route serves few compositions of features.

    Unverified: the paper's N_eff is known from its abstract only; this is the plain reading of it.
    """  # fmt: skip
    kinds = int(label_P.max()) + 1 if label_P.numel() else 1
    flat_N = plan.expert_N() * kinds + label_P[plan.token_N]
    count = torch.bincount(flat_N, minlength=plan.experts * kinds).view(plan.experts, kinds).double()
    share = count / count.sum(dim=1, keepdim=True).clamp_min(1.0)
    entropy_E = -torch.xlogy(share, share).sum(dim=1)
    return torch.where(plan.counts_E > 0, entropy_E.exp(), torch.zeros_like(entropy_E))


def mh_moe(d_model: int, experts: int, k: int = 1, *, heads: int = 4, shared: bool = False, switch: float = 0.01) -> Gate:
    """Head-wise top-k."""
    return HeadGate(HeadScorer(d_model, experts, heads, shared=shared), k, switch)
