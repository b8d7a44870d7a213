"""Product keys: the k best of N² experts from two lists of N scores, without N² scores.

Shape suffixes: T tokens, E experts (E = L R; L = R = N where E is a square), S = L + R keys of both sides, D width, K chosen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.contracts import Balancer, Gate
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.scorers import Float32Scorer, fresh, linear32
from junctor.layers.selectors import TopK, check_k, kept, plan_from_indices


def product_top_k(left_TL: Tensor, right_TR: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores and indices [T, K] of the k pairs (i, j) of highest left_i + right_j; pair (i, j) is expert i R + j.

    Exact: a pair outside the best k of a side is beaten by k pairs that differ from it on that side only.
    """
    side = right_TR.shape[1]
    check_k(k, left_TL.shape[1] * side)
    left_TK, row_TK = left_TL.topk(min(k, left_TL.shape[1]), dim=1)
    right_TK, column_TK = right_TR.topk(min(k, side), dim=1)
    sums, pairs = every_pair(left_TK, right_TK), (row_TK[:, :, None] * side + column_TK[:, None, :])
    best_TK, place_TK = sums.topk(k, dim=1)
    return best_TK, pairs.flatten(1).gather(1, place_TK)


class ProductKeyScorer(Float32Scorer):
    """score(i, j) = log softmax(x Wl')_i + log softmax(x Wr')_j, so p = exp(score) is a distribution over all pairs.

    weight_SD  trainable, left rows then right rows: 2 sqrt(E) D numbers score E experts. Where E is no square the sides are its
               most equal divisors (8 = 2 x 4; a prime is 1 x E, which gains nothing)
    Each side is standardised before its softmax, without learned scale: over the side's scores of the token itself here.
    """

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        if experts < 1:
            raise UserError(f"is {experts}", field="experts", fix="at least 1")
        self.left = next(side for side in range(math.isqrt(experts), 0, -1) if experts % side == 0)
        self.right = experts // self.left
        self.weight_SD = fresh(self.left + self.right, d_model)

    def sides(self, x_TD: Tensor, context: RouteContext) -> tuple[Tensor, Tensor]:
        """The two lists of log probabilities, [T, L] and [T, R]."""
        raw_TS = self.standardise(linear32(x_TD, self.weight_SD), context)
        left_TL, right_TR = torch.split(raw_TS, [self.left, self.right], dim=1)
        return left_TL.log_softmax(dim=-1), right_TR.log_softmax(dim=-1)

    def standardise(self, raw_TS: Tensor, context: RouteContext) -> Tensor:
        """Zero mean and unit variance over a token's own scores, side by side."""
        del context
        sides = torch.split(raw_TS, [self.left, self.right], dim=1)
        return torch.cat([functional.layer_norm(side, side.shape[1:]) for side in sides], dim=1)

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """All E scores: for balance losses, diagnostics and as the slow reference of `product_top_k`."""
        logits_TE = every_pair(*self.sides(x_TD, context))
        return Scores(logits_TE, logits_TE.exp())


def every_pair(left_TL: Tensor, right_TR: Tensor) -> Tensor:
    """[T, E] left_i + right_j of all pairs."""
    return (left_TL[:, :, None] + right_TR[:, None, :]).flatten(1)


class BatchProductKeyScorer(ProductKeyScorer):
    """The released form: each key is standardised over the batch in training, by running statistics in evaluation.

    In training a token's route so depends on the rest of its batch, later tokens too: declared, not hidden. Forward only notes
    the last batch's statistics (a replay notes the same); `fold`, once per optimiser step, moves the running ones.
    """

    causal = False
    batch_invariant = False
    mean_S: Tensor
    variance_S: Tensor
    last_mean_S: Tensor
    last_variance_S: Tensor

    def __init__(self, d_model: int, experts: int, momentum: float = 0.1) -> None:
        super().__init__(d_model, experts)
        self.momentum = momentum
        keys = self.left + self.right
        for prefix in ("", "last_"):
            self.register_buffer(prefix + "mean_S", torch.zeros(keys))
            self.register_buffer(prefix + "variance_S", torch.ones(keys))

    def standardise(self, raw_TS: Tensor, context: RouteContext) -> Tensor:
        """Zero mean and unit variance over the batch's real tokens, or by the running statistics."""
        real = raw_TS if context.padding_T is None else raw_TS[~context.padding_T]
        if not context.training or real.shape[0] < 2:
            return (raw_TS - self.mean_S.float()) * (self.variance_S.float() + 1e-5).rsqrt()
        variance_S, mean_S = torch.var_mean(real, dim=0, correction=0)
        with torch.no_grad():
            self.last_mean_S.copy_(mean_S)
            self.last_variance_S.copy_(variance_S)
        return (raw_TS - mean_S) * (variance_S + 1e-5).rsqrt()

    @torch.no_grad()
    def fold(self) -> None:
        """Move the running statistics towards the last batch's."""
        self.mean_S.lerp_(self.last_mean_S, self.momentum)
        self.variance_S.lerp_(self.last_variance_S, self.momentum)


class FoldStatistics(Balancer):
    """No balance; between optimiser steps it folds a scorer's batch statistics."""

    def __init__(self, scorer: BatchProductKeyScorer) -> None:
        super().__init__()
        self._scorer = (scorer,)  # in a tuple: not a second owner of its parameters

    def update(self, counts_E: Tensor) -> None:
        """Fold."""
        del counts_E
        self._scorer[0].fold()


class ProductKeyGate(Gate):
    """Top-k pairs by `product_top_k`, weight exp(score), not renormalised. A balancer's shift is not applied: there is no
    per-expert score to shift.

    dense_up_to  up to so many experts Scores carry all E columns; above it the L + R factors, left then right, so that
                 nothing of size T E is ever made (a million experts cost 2,000 columns)
    Source: OmniMoE (Cartesian product routing), released code: batch normalisation without affine part, log-softmax, pairs,
    exp(score). Its atomic experts (rank one) and shared SwiGLU are experts, not gate. Per-token standardisation, the default
    here, is ours: the released one routes by batch.
    """  # fmt: skip

    scorer: ProductKeyScorer

    def __init__(self, scorer: ProductKeyScorer, k: int, dense_up_to: int = 4096) -> None:
        fold = FoldStatistics(scorer) if isinstance(scorer, BatchProductKeyScorer) else None
        super().__init__(scorer, TopK(check_k(k, scorer.experts), "plain"), fold)
        self.k, self.dense_up_to = k, dense_up_to

    def forward(self, context: RouteContext) -> tuple[Plan, Scores]:
        """Two short lists, k pairs, the plan."""
        x_TD = self.scorer.checked(context.x_TD)
        with torch.autocast(x_TD.device.type, enabled=False):
            left_TL, right_TR = self.scorer.sides(x_TD.float(), context)
            score_TK, expert_TK = product_top_k(left_TL, right_TR, self.k)
            plan = plan_from_indices(expert_TK, score_TK.exp(), self.experts, kept(score_TK.detach(), context))
            if self.experts <= self.dense_up_to:
                logits = every_pair(left_TL, right_TR)
            else:
                logits = torch.cat([left_TL, right_TR], dim=1)
        return plan, Scores(logits, logits.exp())


def omnimoe(d_model: int, experts: int, k: int = 2, *, normalise: str = "token", dense_up_to: int = 4096) -> Gate:
    """OmniMoE's gate; `normalise` is "token" (ours) or "batch" (as released: not causal, not batch-invariant)."""
    kinds = {"token": ProductKeyScorer, "batch": BatchProductKeyScorer}
    if normalise not in kinds:
        raise UserError(f"is {normalise!r}", field="normalise", fix="one of " + ", ".join(kinds))
    return ProductKeyGate(kinds[normalise](d_model, experts), k, dense_up_to)
