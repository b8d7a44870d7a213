"""BlockFFN: a ReLU decides how many experts a token uses; losses make neighbours agree and chunks sparse.

Shape suffixes: T tokens, E experts, B sequences, S places, C chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.contracts import Balancer, Gate, Scorer, Selector
from junctor.layers.expert_choice import grouped_shape
from junctor.layers.linear import fp32_logits
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import checked, plan_from_mask, real_T

_TINY = 1e-6


class ReluNormScorer(Scorer):
    """z = x W^T, s = relu(z), p = g * s / sqrt(mean_e s^2 + 1e-6) (RMSNorm with gain g), or s / sum s with norm="sum"."""

    def __init__(self, d_model: int, experts: int, norm: str = "rms") -> None:
        super().__init__(d_model, experts)
        if norm not in ("rms", "sum"):
            raise UserError(f"no norm is called {norm!r}", field="norm", fix="rms or sum")
        self.norm = norm
        self.weight_ED = nn.Parameter(torch.randn(experts, d_model) * 0.02)
        self.gain_E = nn.Parameter(torch.ones(experts), requires_grad=norm == "rms")

    def forward(self, context: RouteContext) -> Scores:
        """Scores of the context's tokens."""
        logits_TE = fp32_logits(context.x_TD, self.weight_ED)
        active_TE = logits_TE.relu()
        if self.norm == "sum":
            return Scores(logits_TE, active_TE / active_TE.sum(dim=1, keepdim=True).clamp_min(_TINY))
        scale_T1 = (active_TE.square().mean(dim=1, keepdim=True) + _TINY).rsqrt()
        return Scores(logits_TE, active_TE * scale_T1 * self.gain_E.float())


class Positive(Selector):
    """Every expert whose logit is above zero: 0 to E per token; weights are the scorer's, with a gradient."""

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Edges where z > 0 and the token is not padding."""
        checked(selection_TE, scores, context)
        chosen_TE = scores.logits_TE.detach() > 0
        if context.padding_T is not None:
            chosen_TE = chosen_TE & ~context.padding_T[:, None]
        return plan_from_mask(chosen_TE, scores.probs_TE)


def locality_loss(scores: Scores, context: RouteContext, sharpness: float = 100.0) -> Tensor:
    """Mean BCE(sigmoid(K z_t), sigmoid(K z_{t-1})) over neighbours in a sequence, K = 100: they should use the same experts.

    Taken on the logits before the ReLU: after it an idle expert would read as one half. Both sides get a
    gradient, as in the released code.
    """
    groups, size = grouped_shape(context, "sequence")
    if size < 2:
        return scores.logits_TE.sum() * 0.0
    sharp_BSE = (sharpness * scores.logits_TE).reshape(groups, size, -1)
    real_BS = real_T(context).reshape(groups, size)
    pair_BS = real_BS[:, 1:] & real_BS[:, :-1]
    each_BSE = functional.binary_cross_entropy_with_logits(sharp_BSE[:, 1:], sharp_BSE[:, :-1].sigmoid(), reduction="none")
    return (each_BSE.mean(dim=2) * pair_BS).sum() / pair_BS.sum().clamp_min(1)


def chunk_loss(scores: Scores, context: RouteContext, chunk: int = 8) -> Tensor:
    """1 - mean over chunks and experts of prod_t (1 - s_te / sum_e s_te): the share of experts that a chunk of tokens uses."""
    groups, size = grouped_shape(context, "sequence")
    active_TE = scores.logits_TE.relu()
    share_TE = active_TE / active_TE.sum(dim=1, keepdim=True).clamp_min(_TINY)
    share_TE = share_TE * real_T(context)[:, None]
    idle_BSE = torch.log1p(-share_TE.clamp_max(1.0 - _TINY)).reshape(groups, size, active_TE.shape[1])
    short = -size % chunk
    padded_BSE = functional.pad(idle_BSE, (0, 0, 0, short))
    idle_BCE = padded_BSE.reshape(groups, (size + short) // chunk, chunk, active_TE.shape[1]).sum(dim=2).exp()
    return 1.0 - idle_BCE.mean() if idle_BCE.numel() else scores.logits_TE.sum() * 0.0


class ChunkSparsity(Balancer):
    """The locality and chunk losses, weighted; `ChunkSchedule` moves the weight of the latter between steps."""

    def __init__(self, locality: float, chunk: float, size: int) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"chunks of {size} tokens", field="size", fix="at least 1; 8 is the paper's")
        self.locality, self.chunk, self.size = locality, chunk, size

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """Both losses, times their weights."""
        del plan
        made = {}
        if self.locality:
            made["locality"] = self.locality * locality_loss(scores, context)
        if self.chunk:
            made["chunk"] = self.chunk * chunk_loss(scores, context, self.size)
        return made


class ChunkSchedule:
    """Moves the chunk loss's weight by how that loss goes, as released: to what BlockFFN calls its adaptive factor.

    Up to `warmup` steps the weight rises evenly to what the gates were built with, up to `stable` steps it stays. From then on,
    at the end of each `period` it sets out for weight * r, evenly over the next period, r = mean chunk loss of the period /
    that of the period before: up when sparsity is lost, down when it is won. r above 1 is at least `least`, and the weight at
    most `most` times its first value.

    Call `step` once per optimiser step with the sum over these gates of losses["chunk"], as they gave it (weighted). Defaults
    of stable and period are the released ones; those of least and most are the class's there, what was trained with is
    unverified. The released schedule belongs to the chunk loss alone.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        *,
        warmup: int = 0,
        stable: int = 1000,
        period: int = 100,
        least: float = 1.0,
        most: float = 1.0,
    ) -> None:
        self.balancers = [gate.balancer for gate in gates if isinstance(gate.balancer, ChunkSparsity)]
        starts = {one.chunk for one in self.balancers}
        if len(starts) != 1 or min(starts) <= 0.0:
            raise UserError(f"chunk weights {sorted(starts)}", field="gates", fix="blockffn gates of one chunk weight above 0")
        if period < 1 or not 0 <= warmup <= stable or most <= 0.0:
            raise UserError(
                f"warmup {warmup}, stable {stable}, period {period}, most {most}",
                field="schedule",
                fix="0 <= warmup <= stable, period at least 1, most above 0",
            )
        (self.start,) = starts
        self.warmup, self.stable, self.period, self.least, self.most = warmup, stable, period, least, most
        self.steps, self.origin, self.ratio, self.into = 0, self.start, 1.0, 0
        self.now: list[float] = []
        self.before: list[float] = []
        self._set()

    @property
    def weight(self) -> float:
        """Of the coming step."""
        if self.steps + 1 < self.warmup:
            return self.start * (self.steps + 1) / self.warmup
        return self.origin * (1.0 + (self.ratio - 1.0) * min(1.0, self.into / self.period))

    def step(self, loss: float | Tensor) -> None:
        """After an optimiser step: note its chunk loss, set the gates' weight for the next."""
        self.now.append(float(loss) / self.weight)
        current = self.weight
        self.steps, self.into = self.steps + 1, self.into + 1
        if self.steps % self.period == 0:
            if self.steps >= self.stable and self.before:
                self.origin, self.ratio, self.into = current, self._ratio(current), 1
            self.before, self.now = self.now, []
        self._set()

    def _ratio(self, current: float) -> float:
        """Where the weight goes in the next period, over where it is."""
        old = sum(self.before) / len(self.before)
        ratio = sum(self.now) / len(self.now) / old if old > 0.0 else 1.0
        return min(self.start * self.most / current, max(self.least, ratio) if ratio > 1.0 else ratio)

    def _set(self) -> None:
        for balancer in self.balancers:
            balancer.chunk = self.weight

    def state_dict(self) -> dict[str, Any]:
        """Where it is: save it beside the model, whose state does not hold the weight."""
        return {key: copy(getattr(self, key)) for key in ("start", "steps", "origin", "ratio", "into", "now", "before")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for key, value in state.items():
            setattr(self, key, copy(value))
        self._set()


def blockffn(
    d_model: int, experts: int, *, norm: str = "rms", locality: float = 1e-3, chunk: float = 1e-2, size: int = 8
) -> Gate:
    """`blockffn`: ReLU router with RMSNorm; an expert acts where its score is above zero.

    Song et al. 2025, BlockFFN (arXiv 2507.08771), equations 3 to 5, and the released code. Loss weights [U];
    `ChunkSchedule` moves one of them.
    """
    return Gate(ReluNormScorer(d_model, experts, norm), Positive(), ChunkSparsity(locality, chunk, size))
