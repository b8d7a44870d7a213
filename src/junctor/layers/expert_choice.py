"""Experts choose tokens: EC-DLM (capacity follows the mask ratio) and pMoE (patches of an image).

Shape suffixes: T tokens, E experts, B groups (sequences, or one for the whole batch), S places in a group.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.contracts import Gate, Selector
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import checked, plan_from_mask, real_T

Schedule = Literal["linear", "cosine", "constant"]


def grouped_shape(context: RouteContext, per: str) -> tuple[int, int]:
    """(B, S): one group per sequence, or one for the batch and when the shape is unknown; UserError when it does not fit."""
    tokens = context.x_TD.shape[0]
    if per == "batch" or not context.shape:
        return 1, tokens
    if len(context.shape) < 2 or math.prod(context.shape) != tokens:
        raise UserError(
            f"{tokens} tokens came in shape {tuple(context.shape)}",
            field="context.shape",
            fix="(batch, sequence) of the tokens",
        )
    return context.shape[0], tokens // max(context.shape[0], 1)


def top_in_group(score_BSE: Tensor, real_BS: Tensor, seats_B: Tensor) -> Tensor:
    """Mask [B, S, E]: in each group each expert takes its `seats_B` best real places."""
    hidden_BES = score_BSE.masked_fill(~real_BS[:, :, None], -torch.inf).movedim(2, 1).contiguous()
    most = int(seats_B.max()) if seats_B.numel() else 0
    place_BEC = hidden_BES.topk(most, dim=2).indices
    taken_BEC = (torch.arange(most, device=score_BSE.device) < seats_B[:, None, None]).expand_as(place_BEC)
    chosen_BES = torch.zeros_like(hidden_BES, dtype=torch.bool).scatter(2, place_BEC, taken_BEC)
    return chosen_BES.movedim(1, 2) & real_BS[:, :, None]


class ExpertChoice(Selector):
    """Each expert takes its top C tokens; a token has 0 to E experts. Weight: the token's probability of the expert.

    capacity    mean experts per token: C = round(capacity * tokens / E), at least 1, at most the tokens
    low         capacity where everything is masked; equals `capacity` when None
    mask_token  id of the mask; the ratio r of masked tokens sets the capacity: low + (capacity - low) * g(1 - r), g linear or
                cosine. None: constant capacity
    per         "batch": one pool of tokens; subclasses: per sequence

    Which tokens an expert takes depends on later tokens: not causal.
    """

    causal: ClassVar[bool] = False
    batch_invariant: ClassVar[bool] = False
    per: ClassVar[str] = "batch"

    def __init__(
        self, capacity: float, *, low: float | None = None, mask_token: int | None = None, schedule: Schedule = "linear"
    ) -> None:
        super().__init__()
        if capacity <= 0.0 or (low is not None and not 0.0 < low <= capacity):
            raise UserError(f"capacity {low} to {capacity}", field="capacity", fix="0 < low <= capacity (experts per token)")
        if schedule not in ("linear", "cosine", "constant"):
            raise UserError(f"no schedule is called {schedule!r}", field="schedule", fix="linear, cosine or constant")
        self.capacity, self.low = float(capacity), float(capacity if low is None else low)
        self.mask_token, self.schedule = mask_token, schedule

    def factor_B(self, context: RouteContext, real_BS: Tensor) -> Tensor:
        """Mean experts per token of each group, from its share of masked tokens."""
        if self.mask_token is None or self.schedule == "constant":
            return torch.full((real_BS.shape[0],), self.capacity, device=real_BS.device)
        if context.token_ids_T is None:
            raise UserError("the mask ratio needs token ids", field="context.token_ids_T", fix="pass them, or mask_token=None")
        masked_BS = (context.token_ids_T.reshape(real_BS.shape) == self.mask_token) & real_BS
        clear_B = 1.0 - masked_BS.sum(1).float() / real_BS.sum(1).clamp_min(1)
        rise_B = clear_B if self.schedule == "linear" else (1.0 - (math.pi * clear_B).cos()) / 2
        return self.low + (self.capacity - self.low) * rise_B

    def seats_B(self, context: RouteContext, real_BS: Tensor, experts: int) -> Tensor:
        """C of each group: none where it is all padding."""
        size_B = real_BS.sum(dim=1)
        wanted_B = (self.factor_B(context, real_BS) * size_B / experts).round().long().clamp_min(1)
        return torch.minimum(wanted_B, size_B)

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Let the experts choose."""
        checked(selection_TE, scores, context)
        chosen_TE = self.chosen(self.ranking(selection_TE, scores).detach(), context)
        return plan_from_mask(chosen_TE, self.weights(scores, chosen_TE, context))

    def ranking(self, selection_TE: Tensor, scores: Scores) -> Tensor:
        """What tokens are compared by."""
        del scores
        return selection_TE

    def chosen(self, selection_TE: Tensor, context: RouteContext) -> Tensor:
        """Mask [T, E]."""
        groups, size = grouped_shape(context, self.per)
        real_BS = real_T(context).reshape(groups, size)
        experts = selection_TE.shape[1]
        seats_B = self.seats_B(context, real_BS, experts)
        return top_in_group(selection_TE.reshape(groups, size, experts), real_BS, seats_B).reshape(-1, experts)

    def weights(self, scores: Scores, chosen_TE: Tensor, context: RouteContext) -> Tensor:
        """The probabilities as they are."""
        del chosen_TE, context
        return scores.probs_TE


class ExpertChoicePerSequence(ExpertChoice):
    """The same within each sequence, whose own mask ratio sets its capacity: independent of the rest of the batch."""

    batch_invariant: ClassVar[bool] = True
    per: ClassVar[str] = "sequence"


class PatchChoice(ExpertChoicePerSequence):
    """Each expert takes its top l patches of each image, weighed by a softmax over those l (per expert, per image).

    Patches are compared by an expert's logits, not by a probability over experts; a balancer's shift has no effect.

    patches  l; with l = 1 the weight is the constant 1 and the gate's gradient zero, so it is refused
    """

    def __init__(self, patches: int) -> None:
        super().__init__(1.0)
        if patches < 2:
            raise UserError(f"{patches} patches per expert", field="patches", fix="at least 2: one patch weighs 1, no gradient")
        self.patches = patches

    def ranking(self, selection_TE: Tensor, scores: Scores) -> Tensor:
        """The logits."""
        del selection_TE
        return scores.logits_TE

    def seats_B(self, context: RouteContext, real_BS: Tensor, experts: int) -> Tensor:
        """The l of every image; fewer where it has fewer real patches."""
        del context, experts
        return real_BS.sum(dim=1).clamp_max(self.patches)

    def weights(self, scores: Scores, chosen_TE: Tensor, context: RouteContext) -> Tensor:
        """Softmax of the logits over the patches that an expert takes from an image; zero elsewhere."""
        groups, size = grouped_shape(context, self.per)
        logits_TE = scores.logits_TE.masked_fill(~chosen_TE, -1e30)
        weight_BSE = logits_TE.reshape(groups, size, logits_TE.shape[1]).softmax(dim=1)
        return weight_BSE.reshape(logits_TE.shape)


def ec_dlm(
    d_model: int,
    experts: int,
    *,
    capacity: float = 2.0,
    low: float | None = None,
    mask_token: int | None = None,
    schedule: Schedule = "linear",
    per: Literal["batch", "sequence"] = "batch",
) -> Gate:
    """`ec-dlm`: expert choice for diffusion language models, capacity higher where fewer tokens are masked.

    Zhou et al. 2022, Expert Choice Routing, section 3 (softmax over experts, then the top C tokens per expert); the capacity by
    timestep after expert-choice diffusion language models (abstract only): [U] the form of C(t); the ratio of mask tokens
    stands for the timestep. For models that are not autoregressive.
    """
    kind = ExpertChoicePerSequence if per == "sequence" else ExpertChoice
    selector = kind(capacity, low=low, mask_token=mask_token, schedule=schedule)
    return Gate(LinearScorer(d_model, experts), selector)


def pmoe(d_model: int, experts: int, *, patches: int = 4) -> Gate:
    """`pmoe`: patch-level choice, l of n patches per expert and image (Chowdhury et al. 2023, Patch-level routing in MoE).

    `context.shape` is (images, patches). [U] that the weight is a softmax over the l taken patches.
    """
    return Gate(LinearScorer(d_model, experts), PatchChoice(patches))
