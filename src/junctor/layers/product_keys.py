"""Product keys: the k best of N² experts from two lists of N scores, without N² scores.

Shape suffixes: T tokens, E experts (E = N²), N keys per side, D model width, K experts per token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.contracts import Balancer, Gate
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.scorers import Float32Scorer, linear32
from junctor.layers.selectors import TopK, check_k, kept, plan_from_indices


def product_top_k(left_TN: Tensor, right_TN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores and indices [T, K] of the k pairs (i, j) of highest left_i + right_j; pair (i, j) is expert i N + j.

    Exact: a pair outside the best k of a side is beaten by k pairs that differ from it on that side only.
    """
    side = left_TN.shape[1]
    check_k(k, side * side)
    first = min(k, side)
    left_TK, row_TK = left_TN.topk(first, dim=1)
    right_TK, column_TK = right_TN.topk(first, dim=1)
    sums, pairs = (left_TK[:, :, None] + right_TK[:, None, :]).flatten(1), (row_TK[:, :, None] * side + column_TK[:, None, :])
    best_TK, place_TK = sums.topk(k, dim=1)
    return best_TK, pairs.flatten(1).gather(1, place_TK)


class ProductKeyScorer(Float32Scorer):
    """score(i, j) = log softmax(x Wx')_i + log softmax(x Wy')_j, so p = exp(score) is a distribution over N² experts.

    weight_2ND  trainable: 2 N D numbers score N² experts
    Each side is standardised before its softmax, without learned scale: over the N scores of the token itself here.
    """

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        self.side = math.isqrt(experts)
        if experts < 1 or self.side**2 != experts:
            raise UserError(f"is {experts}", field="experts", fix=f"a square, such as {max(self.side, 1) ** 2}")
        self.weight_2ND = torch.nn.Parameter(torch.randn(2, self.side, d_model) * d_model**-0.5)

    def sides(self, x_TD: Tensor, context: RouteContext) -> tuple[Tensor, Tensor]:
        """The two lists of log probabilities, [T, N] each."""
        raw_T2N = linear32(x_TD, self.weight_2ND.flatten(0, 1)).unflatten(1, (2, self.side))
        left_TN, right_TN = self.standardise(raw_T2N, context).log_softmax(dim=-1).unbind(1)
        return left_TN, right_TN

    def standardise(self, raw_T2N: Tensor, context: RouteContext) -> Tensor:
        """Zero mean and unit variance over a token's own scores."""
        del context
        return torch.nn.functional.layer_norm(raw_T2N, (self.side,))

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """All N² scores: for balance losses, diagnostics and as the slow reference of `product_top_k`."""
        left_TN, right_TN = self.sides(x_TD, context)
        logits_TE = (left_TN[:, :, None] + right_TN[:, None, :]).flatten(1)
        return Scores(logits_TE, logits_TE.exp())


class BatchProductKeyScorer(ProductKeyScorer):
    """The released form: each key is standardised over the batch in training, by running statistics in evaluation.

    In training a token's route so depends on the rest of its batch, later tokens too: declared, not hidden. Forward only notes
    the last batch's statistics (a replay notes the same); `fold`, once per optimiser step, moves the running ones.
    """

    causal = False
    batch_invariant = False
    mean_2N: Tensor
    variance_2N: Tensor
    last_mean_2N: Tensor
    last_variance_2N: Tensor

    def __init__(self, d_model: int, experts: int, momentum: float = 0.1) -> None:
        super().__init__(d_model, experts)
        self.momentum = momentum
        for prefix in ("", "last_"):
            self.register_buffer(prefix + "mean_2N", torch.zeros(2, self.side))
            self.register_buffer(prefix + "variance_2N", torch.ones(2, self.side))

    def standardise(self, raw_T2N: Tensor, context: RouteContext) -> Tensor:
        """Zero mean and unit variance over the batch's real tokens, or by the running statistics."""
        real = raw_T2N if context.padding_T is None else raw_T2N[~context.padding_T]
        if not context.training or real.shape[0] < 2:
            return (raw_T2N - self.mean_2N.float()) * (self.variance_2N.float() + 1e-5).rsqrt()
        variance_2N, mean_2N = torch.var_mean(real, dim=0, correction=0)
        with torch.no_grad():
            self.last_mean_2N.copy_(mean_2N)
            self.last_variance_2N.copy_(variance_2N)
        return (raw_T2N - mean_2N) * (variance_2N + 1e-5).rsqrt()

    @torch.no_grad()
    def fold(self) -> None:
        """Move the running statistics towards the last batch's."""
        self.mean_2N.lerp_(self.last_mean_2N, self.momentum)
        self.variance_2N.lerp_(self.last_variance_2N, self.momentum)


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

    dense_up_to  up to so many experts Scores carry all E columns; above it they carry the 2 N factors, left then right, so that
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
            left_TN, right_TN = self.scorer.sides(x_TD.float(), context)
            score_TK, expert_TK = product_top_k(left_TN, right_TN, self.k)
            plan = plan_from_indices(expert_TK, score_TK.exp(), self.experts, kept(score_TK.detach(), context))
            if self.experts <= self.dense_up_to:
                logits = (left_TN[:, :, None] + right_TN[:, None, :]).flatten(1)
            else:
                logits = torch.cat([left_TN, right_TN], dim=1)
        return plan, Scores(logits, logits.exp())


def omnimoe(d_model: int, experts: int, k: int = 2, *, normalise: str = "token", dense_up_to: int = 4096) -> Gate:
    """OmniMoE's gate; `normalise` is "token" (ours) or "batch" (as released: not causal, not batch-invariant)."""
    kinds = {"token": ProductKeyScorer, "batch": BatchProductKeyScorer}
    if normalise not in kinds:
        raise UserError(f"is {normalise!r}", field="normalise", fix="one of " + ", ".join(kinds))
    return ProductKeyGate(kinds[normalise](d_model, experts), k, dense_up_to)
