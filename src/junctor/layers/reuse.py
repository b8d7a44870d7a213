"""ReXMoE: a layer's router also scores the experts of neighbouring layers, let in step by step.

Shape suffixes: T tokens, E experts of the pool (own and reused), K chosen per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.balancing import StepClock
from junctor.layers.contracts import Gate, Scorer, Selector
from junctor.layers.linear import fp32_logits
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import TopK, Weights, check_k


class PoolScorer(Scorer):
    """Softmax over the pool's allowed experts: own ones always, reused ones by progressive scaling.

    The pool is `reuse` layers' experts, layer by layer; `own` says which block is this layer's. At step n the first
    floor((pool - own block) * min(n / ramp, 1)) of the reused experts, in one fixed random order, are let in: the pool only
    grows. Masked ones have logit minus infinity and probability 0. ramp = 0 lets all in from the start.
    """

    rank_E: Tensor

    def __init__(
        self, d_model: int, experts: int, *, reuse: int, own: int, ramp: int, seed: int = 0, clock: StepClock | None = None
    ) -> None:
        super().__init__(d_model, experts)
        if reuse < 1 or experts % reuse or not 0 <= own < reuse or ramp < 0:
            raise UserError(
                f"{experts} experts of {reuse} layers, own block {own}, ramp {ramp}",
                field="reuse",
                fix="reuse divides the pool, own is below reuse, ramp >= 0",
            )
        self.each, self.ramp = experts // reuse, ramp
        self._clock = (clock or StepClock(),)  # in a tuple: it is the gate's balancer, and saved there
        self.weight_ED = torch.nn.Parameter(torch.randn(experts, d_model) * 0.02)
        rank_E = torch.full((experts,), -1, dtype=torch.int64)
        reused = torch.tensor([one for one in range(experts) if one // self.each != own], dtype=torch.int64)
        order = torch.randperm(len(reused), generator=torch.Generator().manual_seed(seed))
        rank_E[reused[order]] = torch.arange(len(reused))
        self.register_buffer("rank_E", rank_E)

    def allowed_E(self, context: RouteContext) -> Tensor:
        """Mask [E] of the experts in the pool at this step, in evaluation too."""
        reused = self.experts - self.each
        if self.ramp == 0:
            return self.rank_E < reused
        return self.rank_E < reused * self._clock[0].at(context).clamp_max(self.ramp) // self.ramp

    def forward(self, context: RouteContext) -> Scores:
        """Scores of the context's tokens."""
        logits_TE = fp32_logits(context.x_TD, self.weight_ED)
        logits_TE = logits_TE.masked_fill(~self.allowed_E(context), -torch.inf)
        return Scores(logits_TE, logits_TE.softmax(dim=1))


class AllowedTopK(Selector):
    """Top-k that never takes an expert whose logit is minus infinity, even where fewer than k are left."""

    def __init__(self, k: int, weights: Weights) -> None:
        super().__init__()
        self.inner = TopK(k, weights)

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Mask, then top-k."""
        masked_TE = selection_TE.detach().masked_fill(scores.logits_TE.isneginf(), -torch.inf)
        made: Plan = self.inner(masked_TE, scores, context)
        return made


def rexmoe(
    d_model: int,
    experts: int,
    *,
    k: int = 2,
    reuse: int = 2,
    own: int = 0,
    ramp: int = 1000,
    weights: Weights = "renormalised",
    switch: float = 1e-2,
) -> Gate:
    """`rexmoe`: `experts` is the whole pool, that is `reuse` neighbouring layers' experts; only router rows are added.

    Source: ReXMoE (abstract and a summary). [U] the ramp's form, that the order of letting in is random, the loss weights.
    Steps are counted by the balancer's `update`, once per optimiser step, or told by `context.step`.
    """
    check_k(k, experts)
    clock = StepClock(switch=switch)
    scorer = PoolScorer(d_model, experts, reuse=reuse, own=own, ramp=ramp, clock=clock)
    return Gate(scorer, AllowedTopK(k, weights), clock)
