"""ReMix: a sampled subset of adapters with constant weights, the gate trained by reinforcement.

Shape suffixes: T tokens, E experts, K chosen per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from junctor.layers.contracts import Gate, Scorer
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.pooling import LinearScore
from junctor.layers.selectors import TopK, check_k


def sequence_logp(logits_TE: Tensor, drawn_TK: Tensor) -> Tensor:
    """Log probability [T] of drawing these experts in this order without replacement (Plackett-Luce).

    log p = sum_j (z_{d_j} - logsumexp of z over what was left before draw j).
    """
    left_TE, total_T = logits_TE, logits_TE.new_zeros(logits_TE.shape[0])
    for drawn_T in drawn_TK.unbind(1):
        picked = drawn_T[:, None]
        total_T = total_T + left_TE.gather(1, picked).squeeze(1) - left_TE.logsumexp(1)
        left_TE = left_TE.scatter(1, picked, float("-inf"))
    return total_T


class SubsetScorer(Scorer):
    """z = W x; in training k experts drawn without replacement in proportion to softmax(z), else the k largest.

    probs_TE is 1/k on the drawn and 0 elsewhere: every chosen adapter weighs the same, so the effective support is k always,
    and no gradient reaches the gate through the weights. `logp` is the draw's log probability: train with `hooks.rloo_loss`,
    reward = -loss. Draws come from the context's generator (Gumbel keys, in fp32).
    """

    def __init__(self, d_model: int, experts: int, k: int) -> None:
        super().__init__(d_model, experts)
        self.k = check_k(k, experts)
        self.weight = LinearScore(d_model, experts, bias=False)

    def forward(self, context: RouteContext) -> Scores:
        """Scores of one draw."""
        logits_TE: Tensor = self.weight(context.x_TD)
        drawn_TK = self.draw(logits_TE.detach(), context) if context.training else logits_TE.topk(self.k, dim=1).indices
        weight_TE = torch.zeros_like(logits_TE).scatter(1, drawn_TK, 1.0 / self.k)
        bad_T = logits_TE.detach().isnan().any(1, keepdim=True)
        weight_TE = weight_TE.masked_fill(bad_T, float("nan"))
        return Scores(logits_TE, weight_TE, logp=sequence_logp(logits_TE, drawn_TK))

    def draw(self, logits_TE: Tensor, context: RouteContext) -> Tensor:
        """int64 [T, K], in the order drawn: the k largest of z plus Gumbel noise."""
        uniform_TE = torch.rand(logits_TE.shape, generator=context.generator, device=logits_TE.device)
        gumbel_TE = -torch.log(-torch.log(uniform_TE.clamp(1e-20, 1 - 1e-7)))
        return (logits_TE + gumbel_TE).topk(self.k, dim=1).indices


def remix(d_model: int, experts: int, k: int = 2) -> Gate:
    """ReMix's gate.

    Source: the paper's abstract and a summary. That subsets are drawn without
    replacement, and per token, is our reading, unverified.
    """
    return Gate(SubsetScorer(d_model, experts, min(k, experts)), TopK(min(k, experts), "plain"))
