"""How many experts a token deserves: by the attention it receives (DA-MoE), or by a threshold and its depth (DynaMoE).

Shape suffixes: T tokens, E experts, K candidates per token, B sequences, S places (Q queries).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer
from junctor.layers.contracts import Gate, Selector
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import check_k, check_shapes, kept, plan_from_indices, real_T


def first_k(selection_TE: Tensor, scores: Scores, context: RouteContext, most: int, count_T: Tensor) -> Plan:
    """The count_T best experts of each token, at most `most`; weights are the probabilities as they are."""
    value_TK, expert_TK = selection_TE.detach().topk(most, dim=1)
    allowed_TK = kept(value_TK, context)
    keep_TK = torch.arange(most, device=count_T.device) < count_T[:, None]
    keep_TK = keep_TK if allowed_TK is None else keep_TK & allowed_TK
    return plan_from_indices(expert_TK, scores.probs_TE.gather(1, expert_TK), selection_TE.shape[1], keep_TK)


def received_attention(context: RouteContext) -> Tensor:
    """[T]: the attention that a token receives, summed over the queries of its sequence that are not padding.

    `context.attention_TT` is [B, Q, S] (averaged over heads), or [S, S] for one sequence, or [T, T] with zero blocks across
    sequences.
    """
    attention = context.attention_TT
    tokens = context.x_TD.shape[0]
    if attention is None:
        raise UserError("this gate reads the attention", field="context.attention_TT", fix="pass it: [batch, query, key]")
    groups = attention if attention.dim() == 3 else attention[None]
    if groups.dim() != 3 or groups.shape[0] * groups.shape[2] != tokens or groups.shape[1] != groups.shape[2]:
        raise UserError(
            f"attention is {tuple(attention.shape)} for {tokens} tokens",
            field="context.attention_TT",
            fix="[batch, query, key]",
        )
    real_BS = real_T(context).reshape(groups.shape[0], groups.shape[1])
    return (groups.detach().float() * real_BS[:, :, None]).sum(dim=1).reshape(-1)


class AttentionK(Selector):
    """K_t = least + round((most - least) * i_t / max i of its sequence), i_t the attention that the token receives.

    Later tokens give attention too, so it is not causal; it depends on the token's own sequence only.
    """

    causal: ClassVar[bool] = False

    def __init__(self, least: int, most: int) -> None:
        super().__init__()
        self.most = check_k(most, field="most")
        self.least = check_k(least, most, field="least")

    def count_T(self, context: RouteContext) -> Tensor:
        """Experts per token."""
        received_T = received_attention(context)
        if received_T.numel() == 0:
            return received_T.long()
        attention = context.attention_TT
        groups = attention.shape[0] if attention is not None and attention.dim() == 3 else 1
        sequences = context.shape[0] if groups == 1 and len(context.shape) > 1 else groups
        received_BS = (received_T * real_T(context)).reshape(sequences, -1)
        share_T = (received_BS / received_BS.amax(dim=1, keepdim=True).clamp_min(1e-20)).reshape(-1)
        return self.least + ((self.most - self.least) * share_T).round().long()

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Count, then the best so many."""
        check_shapes(selection_TE, scores, context)
        check_k(self.most, selection_TE.shape[1], field="most")
        return first_k(selection_TE, scores, context, self.most, self.count_T(context))


class ThresholdK(Selector):
    """As many experts as have p >= threshold * max p, from 1 to `most`."""

    def __init__(self, threshold: float, most: int) -> None:
        super().__init__()
        if not 0.0 < threshold <= 1.0:
            raise UserError(f"a threshold of {threshold}", field="threshold", fix="above 0, at most 1 (a share of the best)")
        self.threshold, self.most = threshold, check_k(most, field="most")

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Count, then the best so many."""
        check_shapes(selection_TE, scores, context)
        check_k(self.most, selection_TE.shape[1], field="most")
        probs_TE = scores.probs_TE.detach()
        count_T = (probs_TE >= self.threshold * probs_TE.amax(dim=1, keepdim=True)).sum(dim=1)
        return first_k(selection_TE, scores, context, self.most, count_T.clamp(1, self.most))


# Share of the range at relative depth t in 0..1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "uniform": lambda t: 1.0 + 0.0 * t,
    "descending": lambda t: 1.0 - t,
    "ascending": lambda t: t,
    "pyramid": lambda t: 1.0 - abs(2.0 * t - 1.0),
    "valley": lambda t: abs(2.0 * t - 1.0),
    "wave": lambda t: (1.0 + math.sin(4.0 * math.pi * t)) / 2.0,
}


def depth_schedule(name: str, layers: int, least: int, most: int) -> list[int]:
    """The greatest number of experts per layer: least + round((most - least) * share(depth)), depth l / (layers - 1).

    uniform      most everywhere        descending   from most to least     ascending    from least to most
    pyramid      most in the middle     valley       least in the middle    wave         two periods of a sine
    """
    if name not in SCHEDULES:
        raise UserError(f"no schedule is called {name!r}", field="schedule", fix="known: " + ", ".join(SCHEDULES))
    if layers < 1 or not 1 <= least <= most:
        raise UserError(f"{layers} layers, {least} to {most} experts", field="schedule", fix="layers >= 1, 1 <= least <= most")
    depths = [layer / max(layers - 1, 1) for layer in range(layers)]
    return [least + math.floor((most - least) * SCHEDULES[name](depth) + 0.5) for depth in depths]


def da_moe(d_model: int, experts: int, *, least: int = 1, most: int | None = None, switch: float = 1e-2) -> Gate:
    """`da-moe`: the more attention a token receives, the more experts it gets.

    Source: DA-MoE, dynamic expert allocation (abstract only). [U] the map from importance to K_t, that importance is the
    mean over heads, the balance loss. Needs `context.attention_TT`.
    """
    check_k(most or 1, experts, field="most")
    return Gate(LinearScorer(d_model, experts), AttentionK(least, most or min(4, experts)), LossBalancer(switch=switch))


def dynamoe(
    d_model: int,
    experts: int,
    *,
    threshold: float = 0.5,
    schedule: str = "descending",
    layer: int = 0,
    layers: int = 1,
    least: int = 1,
    most: int | None = None,
    switch: float = 1e-2,
) -> Gate:
    """`dynamoe`: experts above a threshold, at most K_max(layer) by one of six depth schedules.

    Source: DynaMoE (abstract only). [U] that the threshold is relative to the token's best expert, and the formulas of the
    schedules; its language evidence is small (perplexities above 1000).
    """
    if not 0 <= layer < layers:
        raise UserError(f"layer {layer} of {layers}", field="layer", fix=f"0 to {layers - 1}")
    top = check_k(min(4, experts) if most is None else most, experts, field="most")
    limit = depth_schedule(schedule, layers, least, top)[layer]
    return Gate(LinearScorer(d_model, experts), ThresholdK(threshold, limit), LossBalancer(switch=switch))
