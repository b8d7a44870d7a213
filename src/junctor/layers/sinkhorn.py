"""SSR: on a share of the training steps, route by an entropic transport plan between tokens and experts.

Shape suffixes: T tokens, E experts, K chosen per token.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.balancing import StepClock
from junctor.layers.contracts import Gate, Selector
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.scorers import noise_like
from junctor.layers.selectors import TopK, Weights, check_k, checked, edge_weights, kept, plan_from_indices


def transport(logits_TE: Tensor, iterations: int, eps: float = 1.0, padding_T: Tensor | None = None) -> Tensor:
    """P = diag(u) exp(z / eps) diag(v): rows sum to 1 exactly, columns to T/E as the iterations go on. Padding rows are 0."""
    scaled_TE = logits_TE / eps
    if padding_T is not None:
        scaled_TE = scaled_TE.masked_fill(padding_T[:, None], 0.0)
    real_T = torch.zeros_like(scaled_TE[:, 0]) if padding_T is None else padding_T.float() * -1e30
    tokens = scaled_TE.shape[0] if padding_T is None else int((~padding_T).sum())
    seats = math.log(max(tokens, 1) / scaled_TE.shape[1])
    column_E = torch.zeros_like(scaled_TE[:1])
    for _ in range(iterations):
        row_T = real_T - (scaled_TE + column_E).logsumexp(dim=1)
        column_E = seats - (scaled_TE + row_T[:, None]).logsumexp(dim=0, keepdim=True)
    row_T = real_T - (scaled_TE + column_E).logsumexp(dim=1)
    return (scaled_TE + column_E + row_T[:, None]).exp()


class SinkhornTopK(Selector):
    """Top-k of the transport plan with the plan's own values as weights on chosen steps, plain top-k on all others.

    share       part of the training steps that use the plan: step n does when floor((n+1) share) > floor(n share): no draw, so
                a replayed forward takes the same branch. 1 is every training step; evaluation never does
    iterations  Sinkhorn rounds; the gradient goes through them. 2-3 suffice
    eps         temperature of the transport
    noise       standard deviation of the Gaussian noise on the logits in training steps that do not use the plan: tokens then
                choose, and are weighed, by softmax(z + noise n)

    Even at convergence, when the plan's columns are equal, top-k loads are not. On chosen steps a token's route depends on the
    whole batch.
    """

    causal: ClassVar[bool] = False
    batch_invariant: ClassVar[bool] = False

    def __init__(
        self,
        k: int,
        *,
        share: float,
        iterations: int,
        eps: float,
        weights: Weights,
        noise: float = 0.0,
        clock: StepClock | None = None,
    ) -> None:
        super().__init__()
        if not (0.0 <= share <= 1.0 and iterations >= 1 and eps > 0.0):
            raise UserError(
                f"share {share}, {iterations} iterations, eps {eps}", field="ssr", fix="share in 0..1, iterations >= 1, eps > 0"
            )
        if noise < 0.0:
            raise UserError(f"is {noise}", field="noise", fix="0 or more")
        self.plain, self.noise = TopK(k, weights), noise
        self.share, self.iterations, self.eps = share, iterations, eps
        self._clock = (clock or StepClock(),)  # in a tuple: it is the gate's balancer, and saved there

    def uses_plan(self, context: RouteContext) -> bool:
        """Whether this step routes by the transport plan."""
        if not context.training or self.share in (0.0, 1.0):
            return context.training and self.share == 1.0
        step = int(self._clock[0].at(context))
        return math.floor((step + 1) * self.share) > math.floor(step * self.share)

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """The plan of this step's kind."""
        if not self.uses_plan(context):
            if self.noise and context.training:
                logits_TE = scores.logits_TE + self.noise * noise_like(scores.logits_TE, context.generator)
                selection_TE = logits_TE.softmax(dim=-1)
                scores = replace(scores, logits_TE=logits_TE, probs_TE=selection_TE)
            made: Plan = self.plain(selection_TE, scores, context)
            return made
        checked(selection_TE, scores, context)
        k = check_k(self.plain.k, selection_TE.shape[1])
        plan_TE = transport(scores.logits_TE, self.iterations, self.eps, context.padding_T)
        value_TK, expert_TK = plan_TE.detach().topk(k, dim=1, sorted=False)
        keep_TK = kept(value_TK, context)
        weight_TK = edge_weights(plan_TE.gather(1, expert_TK), self.plain.weights, self.plain.scale, keep_TK)
        return plan_from_indices(expert_TK, weight_TK, selection_TE.shape[1], keep_TK)


def ssr(
    d_model: int,
    experts: int,
    *,
    k: int = 2,
    share: float = 0.01,
    iterations: int = 20,
    eps: float = 1.0,
    noise: float = 0.0,
    weights: Weights | None = None,
) -> Gate:
    """`ssr`: selective Sinkhorn routing, no auxiliary loss.

    Source: Selective Sinkhorn Routing for Improved Sparse Mixture of Experts (arXiv 2511.08972), by its abstract and a
    third-party summary: rows sum to 1, columns to T/E; 0.1-1 % of the steps; eps 0.5 or 1; top-k of the plan, renormalised.
    There the steps are drawn, and softmax steps have Gaussian noise on the logits; here the steps are spaced evenly. [U] the
    number of iterations, and how large the noise is: none by default, `noise` is its standard deviation.
    """
    chosen: Weights = weights or ("plain" if k == 1 else "renormalised")
    clock = StepClock()
    selector = SinkhornTopK(
        check_k(k, experts), share=share, iterations=iterations, eps=eps, weights=chosen, noise=noise, clock=clock
    )
    return Gate(LinearScorer(d_model, experts), selector, clock)
