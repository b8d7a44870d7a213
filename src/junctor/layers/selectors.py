"""From choices to a plan, and plain top-k. Every selector ends in `plan_from_indices` or `plan_from_mask`.

Shape suffixes: T tokens, E experts, K chosen per token, N edges (token-expert pairs, expert-sorted).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.contracts import Selector
from junctor.layers.plan import Plan, RouteContext, Scores

Weights = Literal["renormalised", "plain", "constant"]
WEIGHTS: tuple[Weights, ...] = ("renormalised", "plain", "constant")
_TINY = 1e-20


def plan_from_indices(
    expert_TK: Tensor, weight_TK: Tensor, experts: int, keep_TK: Tensor | None = None, *, dropped: int = 0, nulls: int = 0
) -> Plan:
    """A plan from up to K chosen experts per token: one stable sort, no loop over experts.

    expert_TK  int64, the chosen experts; a row names no expert twice
    weight_TK  the edges' weights
    keep_TK    bool, False where a choice is no edge (padding, masked expert), or None: all are
    """
    tokens, k = expert_TK.shape
    flat, weight_N = expert_TK.reshape(-1), weight_TK.reshape(-1)
    source_N: Tensor | None = None
    if keep_TK is not None:
        source_N = keep_TK.reshape(-1).nonzero().squeeze(1)
        flat, weight_N = flat[source_N], weight_N[source_N]
    order_N = torch.argsort(flat.to(torch.int32), stable=True)
    source_N = order_N if source_N is None else source_N[order_N]
    counts_E = torch.bincount(flat, minlength=experts)
    token_N = torch.div(source_N, max(k, 1), rounding_mode="floor")
    return Plan(token_N, weight_N[order_N], counts_E, tokens, dropped=dropped, nulls=nulls)


def plan_from_mask(chosen_TE: Tensor, weight_TE: Tensor, *, dropped: int = 0, nulls: int = 0) -> Plan:
    """A plan from a choice matrix and weights of the same shape: the column-major scan is the sort."""
    expert_N, token_N = chosen_TE.t().nonzero(as_tuple=True)
    counts_E = torch.bincount(expert_N, minlength=chosen_TE.shape[1])
    return Plan(token_N, weight_TE[token_N, expert_N], counts_E, chosen_TE.shape[0], dropped=dropped, nulls=nulls)


def checked(selection_TE: Tensor, scores: Scores, context: RouteContext) -> Tensor:
    """The selection scores if they can be ranked; UserError where shapes disagree or a real token's score is not a number.

    Minus infinity is allowed: that expert is not to be taken.
    """
    check_shapes(selection_TE, scores, context)
    if not torch.compiler.is_compiling() and bool(selection_TE.sum().isnan()):
        refuse_nan(selection_TE, context)
    return selection_TE


def check_shapes(selection_TE: Tensor, scores: Scores, context: RouteContext) -> None:
    """Raise UserError unless selection, weights and tokens are of one size."""
    wanted = (context.x_TD.shape[0], scores.probs_TE.shape[-1])
    if tuple(selection_TE.shape) != wanted or tuple(scores.probs_TE.shape) != wanted:
        raise UserError(
            f"selection is {tuple(selection_TE.shape)}, weights are {tuple(scores.probs_TE.shape)}",
            field="selection_TE",
            fix=f"both must be (tokens, experts) = {wanted}",
        )
    if selection_TE.device != scores.probs_TE.device:
        raise UserError(
            f"selection lies on {selection_TE.device}, weights on {scores.probs_TE.device}",
            field="selection_TE",
            fix="move the gate and its input to one device",
        )


def refuse_nan(scores_TK: Tensor, context: RouteContext) -> None:
    """Raise UserError when a token that is not padding has a score that is not a number, or is plus infinity."""
    bad_T = (scores_TK.isnan() | scores_TK.isposinf()).any(dim=1)
    if context.padding_T is not None:
        bad_T = bad_T & ~context.padding_T
    if bool(bad_T.any()):
        first = int(bad_T.nonzero()[0])
        raise UserError(
            f"{int(bad_T.sum())} tokens have a score that is not a number or is infinite, the first is token {first}",
            field="selection_TE",
            fix="look for NaN in the layer's input or the gate's weights",
        )


def real_T(context: RouteContext) -> Tensor:
    """bool, True where a token may be routed (it is not padding)."""
    if context.padding_T is None:
        return torch.ones(context.x_TD.shape[0], dtype=torch.bool, device=context.x_TD.device)
    return ~context.padding_T


def check_k(k: int, experts: int | None = None, *, field: str = "k") -> int:
    """The k if it is possible; UserError below 1 or above the number of experts."""
    if k < 1 or (experts is not None and k > experts):
        most = "" if experts is None else f" to {experts} (the number of experts)"
        raise UserError(f"cannot choose {k} experts per token", field=field, fix=f"1{most}")
    return k


def edge_weights(probs_TK: Tensor, weights: Weights, scale: float = 1.0, keep_TK: Tensor | None = None) -> Tensor:
    """What the chosen experts' outputs are multiplied by: p / sum p over the chosen, p itself, or 1/k; times `scale`."""
    if weights == "plain":
        return probs_TK if scale == 1.0 else probs_TK * scale
    if weights == "renormalised":
        kept_TK = probs_TK if keep_TK is None else torch.where(keep_TK, probs_TK, torch.zeros_like(probs_TK))
        return kept_TK * (scale / kept_TK.sum(dim=1, keepdim=True).clamp_min(_TINY))
    return torch.full_like(probs_TK, scale / max(probs_TK.shape[1], 1))


class TopK(Selector):
    """The k experts of highest selection score; weights from the probabilities, never from the selection score.

    k        per token; a row with fewer than k allowed experts (others at minus infinity) gets fewer edges
    weights  "renormalised": w = scale * p / sum of the chosen p. With k = 1 that is the constant 1 and the gate's gradient is
             exactly zero, so it is refused. "plain": w = scale * p. "constant": w = scale / k, no gradient reaches the gate
             through it (for gates trained otherwise: policy gradient, distillation, a loss on the scores)
    scale    factor on every weight
    """

    def __init__(self, k: int, weights: Weights = "renormalised", scale: float = 1.0) -> None:
        super().__init__()
        self.k, self.weights, self.scale = check_k(k), weights, float(scale)
        if weights not in WEIGHTS:
            raise UserError(f"no weighting is called {weights!r}", field="weights", fix="known: " + ", ".join(WEIGHTS))
        if weights == "renormalised" and k == 1:
            raise UserError(
                "one weight renormalised is the constant 1: the gate would get no gradient",
                field="weights",
                fix='with k = 1 use weights="plain"',
            )

    def extra_repr(self) -> str:
        """For print(gate)."""
        return f"k={self.k}, weights={self.weights}, scale={self.scale}"

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Top-k, then the weights of the chosen."""
        check_shapes(selection_TE, scores, context)
        check_k(self.k, selection_TE.shape[1])
        value_TK, expert_TK = selection_TE.detach().topk(self.k, dim=1, sorted=False)
        keep_TK = kept(value_TK, context)
        weight_TK = edge_weights(scores.probs_TE.float().gather(1, expert_TK), self.weights, self.scale, keep_TK)
        return plan_from_indices(expert_TK, weight_TK, selection_TE.shape[1], keep_TK)


def kept(value_TK: Tensor, context: RouteContext) -> Tensor | None:
    """bool, which of the chosen are edges: not padding, not at minus infinity; None: all. NaN raises (top-k ranks it first).

    Inside a compiled graph nothing is read back: NaN is not looked for there and goes on into the weights.
    """
    keep_TK = None if context.padding_T is None else (~context.padding_T)[:, None].expand_as(value_TK)
    if not torch.compiler.is_compiling() and bool(value_TK.sum().isfinite()):
        return keep_TK
    if not torch.compiler.is_compiling():
        refuse_nan(value_TK, context)
    allowed_TK = ~value_TK.isneginf()
    return allowed_TK if keep_TK is None else keep_TK & allowed_TK
