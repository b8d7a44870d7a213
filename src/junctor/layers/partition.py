"""Union of Experts: a dense block cut into experts that add up to it, and a gate normalised over the batch.

Shape suffixes: T tokens, E experts, K chosen per token, D width, F hidden width, P hidden width of one part (F/E).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.contracts import Gate, Selector
from junctor.layers.expert_choice import top_in_group
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import check_k, checked, plan_from_mask, real_T

Normalise = Literal["batch", "token", "ones"]


def cut_ffn(up_FD: Tensor, down_DF: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Tensor-parallel parts of y = down(act(up x)): up [E, P, D] and down [E, D, P]; the parts' outputs add up to y.

    Cut by rows of `up` and columns of `down`; a bias of `down` belongs outside the parts.
    """
    hidden, width = up_FD.shape
    if hidden % experts or down_DF.shape != (width, hidden):
        raise UserError(
            f"up {tuple(up_FD.shape)}, down {tuple(down_DF.shape)}, {experts} parts",
            field="experts",
            fix="down has up's shape transposed, and the parts divide the hidden width",
        )
    part = hidden // experts
    return up_FD.reshape(experts, part, width), down_DF.reshape(width, experts, part).movedim(1, 0)


class PartChoice(Selector):
    """Which parts of the block act on which token: top-k parts per token, or (`by="expert"`) top-C tokens per part, C = T k/E.

    normalise  "batch": w_te = C p_te / sum_t' p_t'e over the tokens of the part, as released: mean weight 1, and a token's
               weight depends on the whole batch. "token": w = E p_te, whatever the batch. "ones": w = 1: with k = E the
               dense block exactly, but no gradient for the gate
    """

    causal: ClassVar[bool] = False
    batch_invariant: ClassVar[bool] = False

    def __init__(self, k: int, *, by: Literal["token", "expert"] = "token", normalise: Normalise = "batch") -> None:
        super().__init__()
        if by not in ("token", "expert") or normalise not in ("batch", "token", "ones"):
            raise UserError(f"by {by!r}, normalise {normalise!r}", field="uoe", fix="token or expert; batch, token or ones")
        self.k, self.by, self.normalise = check_k(k), by, normalise

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Choose, then weigh."""
        checked(selection_TE, scores, context)
        check_k(self.k, selection_TE.shape[1])
        real = real_T(context)
        chosen_TE = self.chosen(selection_TE.detach(), real)
        return plan_from_mask(chosen_TE, self.weights(scores.probs_TE, chosen_TE))

    def chosen(self, rank_TE: Tensor, real: Tensor) -> Tensor:
        """Mask [T, E]."""
        if self.by == "token":
            best_TK = rank_TE.topk(self.k, dim=1, sorted=False).indices
            return torch.zeros_like(rank_TE, dtype=torch.bool).scatter_(1, best_TK, True) & real[:, None]
        size_1 = real.sum()[None]
        seats_1 = torch.minimum((size_1 * self.k / rank_TE.shape[1]).round().long().clamp_min(1), size_1)
        return top_in_group(rank_TE[None], real[None], seats_1)[0]

    def weights(self, probs_TE: Tensor, chosen_TE: Tensor) -> Tensor:
        """[T, E]."""
        if self.normalise == "ones":
            return torch.ones_like(probs_TE)
        if self.normalise == "token":
            return probs_TE * probs_TE.shape[1]
        taken_TE = torch.where(chosen_TE, probs_TE, torch.zeros_like(probs_TE))
        return taken_TE * (chosen_TE.sum(dim=0) / taken_TE.sum(dim=0).clamp_min(1e-20))


class PartChoicePerToken(PartChoice):
    """Parts chosen and weighed per token alone: causal and batch invariant."""

    causal: ClassVar[bool] = True
    batch_invariant: ClassVar[bool] = True


def uoe(
    d_model: int,
    experts: int,
    *,
    k: int | None = None,
    by: Literal["token", "expert"] = "token",
    normalise: Normalise = "batch",
) -> Gate:
    """`uoe`: Union of Experts: softmax gate over the parts of a dense block, the better half of them by default.

    Yang et al. 2025, Union of Experts (part of the released code read): E/2 parts, gate normalised over the batch and scaled by
    the capacity. For attention heads as parts see `head_selection.SelectedHeads`. Both patch-wise (`by="token"`) and
    expert-wise choice. With normalise="token" or "ones" and by="token" the route is causal and batch invariant.
    """
    alone = by == "token" and normalise != "batch"
    kind = PartChoicePerToken if alone else PartChoice
    selector = kind(check_k(k or max(experts // 2, 1), experts), by=by, normalise=normalise)
    return Gate(LinearScorer(d_model, experts), selector)
