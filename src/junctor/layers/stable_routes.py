"""Two stages: learn balanced routes and distil them into the token ids, then freeze them for good.

Shape suffixes: T tokens, E experts, D model width, V vocabulary, R width of the distilled embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.balancing import mean_rows, real_rows
from junctor.layers.contracts import Balancer, Gate
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.scorers import Float32Scorer, linear32, token_ids
from junctor.layers.selectors import TopK


def _orthogonal(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(nn.init.orthogonal_(torch.empty(rows, columns), gain=0.1))


class CentroidScorer(Float32Scorer):
    """z = x c_e, p = sigmoid(z); the layer's output is p f_e(x) + (1 - p) x, of which the plan carries p.

    centroids_ED  trainable, orthogonal rows of norm 0.1
    """

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        self.centroids_ED = _orthogonal(experts, d_model)

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Affinity with each centroid."""
        del context
        logits_TE = linear32(x_TD, self.centroids_ED)
        return Scores(logits_TE, logits_TE.sigmoid())


class StableRoutes(Balancer):
    """Who is chosen: stage 1 the greatest affinity (a loss balances it), stage 2 the expert of the token's id, frozen.

    Stage 1   loss "balance" = sum_e (c_e - c̄) / c̄ · sum over e's own tokens of sigmoid(z_te), over T;
              loss "distil" = cross-entropy of the distilled scores E_v · C_e with the expert of greatest affinity
              (mean over tokens; the released code sums)
    Stage 2   from optimiser step `switch_step` on: route_V, the distilled table's argmax, an int64 buffer; no loss. A token
              id's expert then never changes, whatever an optimiser does to the parameters: the flip rate is exactly 0. The
              weight still is sigmoid(x c_e), and c_e is still trained
    Evaluation in stage 1 already takes the distilled routes, as the released code does, so that it measures what will be used.
    Stage and steps lie in buffers: a loaded state goes on where it was. `update` (once per optimiser step) moves them.
    embedding_VR, distilled_ER  trainable in stage 1; R = 50 as released
    """

    steps: Tensor
    frozen: Tensor
    route_V: Tensor

    def __init__(
        self,
        experts: int,
        vocabulary: int,
        switch_step: int,
        width: int = 50,
        balance: float = 0.3,
        distil: float = 1.0,
    ) -> None:
        super().__init__()
        if vocabulary < 1 or switch_step < 0:
            raise UserError(
                f"vocabulary {vocabulary}, step {switch_step}", field="vocabulary", fix="one id or more, a step of 0 or more"
            )
        self.switch_step, self.balance, self.distil = switch_step, balance, distil
        self.embedding_VR = nn.Parameter(torch.randn(vocabulary, width))
        self.distilled_ER = _orthogonal(experts, width)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
        self.register_buffer("route_V", torch.zeros(vocabulary, dtype=torch.int64))

    def distilled(self, context: RouteContext) -> Tensor:
        """Scores [T, E] of the token ids alone."""
        ids_T = token_ids(context, self.route_V.shape[0])
        with torch.autocast(ids_T.device.type, enabled=False):
            return self.embedding_VR.float()[ids_T] @ self.distilled_ER.float().t()

    def choice(self, scores: Scores, context: RouteContext) -> Tensor:
        """int64 [T], the expert of each token."""
        with torch.no_grad():
            source_TE = scores.logits_TE if context.training else self.distilled(context)
            live_T = source_TE.argmax(dim=1)
            return torch.where(self.frozen, self.route_V[token_ids(context, self.route_V.shape[0])], live_T)

    def adjust(self, scores: Scores, context: RouteContext) -> Tensor:
        """Minus infinity but for the chosen expert."""
        choice_T1 = self.choice(scores, context)[:, None]
        probs_TE = scores.probs_TE.detach()
        return torch.full_like(probs_TE, -torch.inf).scatter(1, choice_T1, probs_TE.gather(1, choice_T1))

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """Balance and distillation; zero in stage 2."""
        live = (~self.frozen).float()
        even = max(plan.edges, 1) / plan.experts
        excess_N = ((plan.counts_E - even) / even)[plan.expert_N()]
        balance = (excess_N * plan.weight_N).sum() / max(plan.tokens, 1)
        target_T = scores.logits_TE.detach().argmax(dim=1)
        each_T = functional.cross_entropy(self.distilled(context), target_T, reduction="none")
        distil = mean_rows(real_rows(each_T[:, None], context)).sum()
        return {"balance": self.balance * live * balance, "distil": self.distil * live * distil}

    def update(self, counts_E: Tensor) -> None:
        """Count the step; freeze at the switch."""
        del counts_E
        self.steps += 1
        if not bool(self.frozen) and int(self.steps) >= self.switch_step:
            self.freeze()

    @torch.no_grad()
    def freeze(self) -> None:
        """Begin stage 2: fill the table from the distilled router."""
        self.route_V.copy_((self.embedding_VR.float() @ self.distilled_ER.float().t()).argmax(dim=1))
        self.frozen.fill_(True)


def stablemoe(
    d_model: int,
    experts: int,
    *,
    vocabulary: int = 256,
    switch_step: int = 1000,
    width: int = 50,
    balance: float = 0.3,
    distil: float = 1.0,
) -> Gate:
    """StableMoE (Dai et al., 2022), released `moe_layer.py` with the word-embedding router: top-1, weight sigmoid(x c_e).

    Unverified: the losses' weights (0.3 and 1) and the share of steps in stage 1. The released bigram, CNN and transformer
    routers are not here: their routes would depend on more than the token id.
    """
    routes = StableRoutes(experts, vocabulary, switch_step, width, balance, distil)
    return Gate(CentroidScorer(d_model, experts), TopK(1, "plain"), routes)
