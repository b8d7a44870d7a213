"""Two levels: first a group of experts (a node, a device), then experts inside it: SMILE, SAM; LocMoE's pull.

Shape suffixes: T tokens, E experts, G groups of M = E/G experts each, K chosen per token, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer, mean_rows, normalised, real_rows
from junctor.layers.contracts import Balancer, Gate, Scorer, Selector
from junctor.layers.linear import LinearScorer, fp32_logits
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import TopK, check_k, checked, kept, plan_from_indices


def group_size(experts: int, groups: int) -> int:
    """M; UserError unless the groups are equal."""
    if groups < 1 or experts % groups:
        raise UserError(f"{experts} experts in {groups} groups", field="groups", fix="a divisor of the number of experts")
    return experts // groups


class TwoLevelScorer(Scorer):
    """p_te = softmax_g(x W_node^T)_g * softmax within g (x W_local^T)_e; rows sum to 1; logits are log p."""

    def __init__(self, d_model: int, experts: int, groups: int) -> None:
        super().__init__(d_model, experts)
        self.groups, self.size = groups, group_size(experts, groups)
        self.node_GD = nn.Parameter(torch.randn(groups, d_model) * 0.02)
        self.local_ED = nn.Parameter(torch.randn(experts, d_model) * 0.02)

    def forward(self, context: RouteContext) -> Scores:
        """Scores of the context's tokens."""
        node_TG = fp32_logits(context.x_TD, self.node_GD).log_softmax(dim=1)
        local_TE = fp32_logits(context.x_TD, self.local_ED)
        local_TGM = local_TE.reshape(-1, self.groups, self.size).log_softmax(dim=2)
        logits_TE = (node_TG[:, :, None] + local_TGM).reshape(-1, self.experts)
        return Scores(logits_TE, logits_TE.exp())


class WithinGroup(Selector):
    """The group of greatest total selection score, then the top k inside it; weights are the probabilities as they are.

    All k experts of a token lie in one group. Renormalised over the chosen, the group's probability would cancel and the first
    level would get no gradient: not offered.
    """

    def __init__(self, groups: int, k: int) -> None:
        super().__init__()
        self.groups, self.k = groups, check_k(k)

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Group, then experts."""
        checked(selection_TE, scores, context)
        tokens, experts = selection_TE.shape
        size = group_size(experts, self.groups)
        check_k(self.k, size)
        rank_TGM = selection_TE.detach().reshape(tokens, self.groups, size)
        group_T1 = rank_TGM.sum(dim=2).argmax(dim=1, keepdim=True)
        inside_TM = rank_TGM.gather(1, group_T1[:, :, None].expand(tokens, 1, size)).squeeze(1)
        value_TK, local_TK = inside_TM.topk(self.k, dim=1, sorted=False)
        expert_TK = group_T1 * size + local_TK
        keep_TK = kept(value_TK, context)
        return plan_from_indices(expert_TK, scores.probs_TE.gather(1, expert_TK), experts, keep_TK)


class LevelBalance(Balancer):
    """A Switch loss per level: over groups, G sum_g f_g P_g; inside them, M sum_e f_e P_e|g.

    f_g and f_e are shares of all edges, P_g the mean probability of the group, P_e|g the mean of p_te / p_tg over the tokens
    that chose g. Both are 1 when even.
    """

    def __init__(self, groups: int, node: float, local: float) -> None:
        super().__init__()
        self.groups, self.node, self.local = groups, node, local

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """Both losses, weighted."""
        probs_TE = normalised(scores.probs_TE)
        size = group_size(plan.experts, self.groups)
        share_GM = plan.counts_E.float().reshape(self.groups, size) / max(plan.edges, 1)
        probs_TGM = probs_TE.reshape(-1, self.groups, size)
        node_G = mean_rows(real_rows(probs_TGM.sum(dim=2), context))
        inside_TGM = probs_TGM / probs_TGM.sum(dim=2, keepdim=True).clamp_min(1e-20)
        took_TG1 = plan.chosen_TE().reshape(-1, self.groups, size).any(dim=2)[:, :, None]
        local_GM = (inside_TGM * took_TG1).sum(dim=0) / took_TG1.sum(dim=0).clamp_min(1)
        return {
            "node": self.node * self.groups * (share_GM.sum(dim=1) * node_G).sum(),
            "local": self.local * size * (share_GM * local_GM).sum(),
        }


class LocalityBalance(LossBalancer):
    """Switch loss plus locality: KL(mean p || q), q the share `pull` evenly over the local experts, the rest over the others.

    pull = (number of local experts) / E is plain evenness; towards 1 only local experts are wanted.
    """

    target_E: Tensor

    def __init__(self, experts: int, local: Sequence[int], *, pull: float, locality: float, switch: float) -> None:
        super().__init__(switch=switch)
        if not local or not all(0 <= one < experts for one in local) or len(set(local)) == experts:
            raise UserError(f"local experts {list(local)}", field="local", fix=f"some, not all, of 0 to {experts - 1}")
        if not 0.0 < pull < 1.0:
            raise UserError(f"a pull of {pull}", field="pull", fix="between 0 and 1")
        self.locality = locality
        here_E = torch.zeros(experts)
        here_E[list(set(local))] = 1.0
        self.register_buffer("target_E", pull * here_E / here_E.sum() + (1 - pull) * (1 - here_E) / (1 - here_E).sum())

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """The Switch loss and the locality loss, weighted."""
        made = super().loss(plan, scores, context)
        mean_E = mean_rows(real_rows(normalised(scores.probs_TE), context)).clamp_min(1e-20)
        made["locality"] = self.locality * (mean_E * (mean_E / self.target_E.float()).log()).sum()
        return made


class PooledScorer(Scorer):
    """Grouped average pooling: z_e = mean of the e-th of E equal groups of channels, p = softmax(z). No parameters.

    The rows of the gate, 1/M on the group's M = D/E channels and 0 elsewhere, are orthogonal by construction; D additions per
    token instead of D E products.
    """

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        if d_model % experts:
            raise UserError(f"{d_model} channels in {experts} groups", field="experts", fix="a divisor of d_model")

    def rows(self) -> Tensor:
        """The gate's rows [E, D]."""
        size = self.d_model // self.experts
        return torch.eye(self.experts).repeat_interleave(size, dim=1) / size

    def forward(self, context: RouteContext) -> Scores:
        """Scores of each token alone."""
        if context.x_TD.dim() != 2 or context.x_TD.shape[1] != self.d_model:
            raise UserError(f"tokens are {tuple(context.x_TD.shape)}", field="x_TD", fix=f"(tokens, {self.d_model})")
        logits_TE = context.x_TD.float().reshape(-1, self.experts, self.d_model // self.experts).mean(dim=2)
        return Scores(logits_TE, logits_TE.softmax(dim=1))


def capacity_bound(x_TD: Tensor, weight_ED: Tensor) -> float:
    """LocMoE's lower bound on tokens per expert: exp(D c^2 / (2 - c^2)) / E, c the greatest |cosine| of a token and a gate row.

    [U] the formula is from memory of the abstract and its derivation; it grows with the angle's cosine and the width.
    """
    if x_TD.shape[0] == 0:
        return 0.0
    unit_TD = torch.nn.functional.normalize(x_TD.float(), dim=1)
    unit_ED = torch.nn.functional.normalize(weight_ED.float(), dim=1)
    cosine = float((unit_TD @ unit_ED.t()).abs().max())
    exponent = weight_ED.shape[1] * cosine**2 / (2.0 - cosine**2)
    return math.exp(exponent) / weight_ED.shape[0] if exponent < 700.0 else math.inf


def smile(d_model: int, experts: int, *, groups: int = 2, node: float = 1e-2, local: float = 1e-2) -> Gate:
    """`smile`: node, then one expert in the node, p = p_node * p_local; a balance loss per level.

    He et al. 2022, SMILE, section 3 (abstract read). [U] the form of the two losses. The speed-up needs a network; here the
    routes and losses are built.
    """
    group_size(experts, groups)
    return Gate(TwoLevelScorer(d_model, experts, groups), WithinGroup(groups, 1), LevelBalance(groups, node, local))


def sam(d_model: int, experts: int, *, groups: int = 2, k: int = 2, node: float = 1e-2, local: float = 1e-2) -> Gate:
    """`sam`: Switch and Mixture: one group of experts, then top-k inside it.

    Jiang et al. 2021, Switch and Mixture (abstract read). [U] that the weights are p_group * p_local as they are.
    """
    check_k(k, group_size(experts, groups))
    return Gate(TwoLevelScorer(d_model, experts, groups), WithinGroup(groups, k), LevelBalance(groups, node, local))


def locmoe(
    d_model: int,
    experts: int,
    *,
    local: Sequence[int] | None = None,
    pull: float = 0.75,
    locality: float = 1e-2,
    switch: float = 1e-2,
    k: Literal[1, 2] = 1,
    pooled: bool = False,
) -> Gate:
    """`locmoe`: top-k with plain weights, orthogonal gate rows, Switch loss and a pull to the local experts.

    Li et al. 2024, LocMoE (abstract read). [U] the KL form and its target. `local`: the first half by default. The
    scorer is a trained matrix whose rows start orthogonal, or with pooled=True the paper's grouped average pooling
    (`PooledScorer`; [U] that nothing is trained behind it): then the layers before it learn the routes.
    """
    scorer: Scorer = PooledScorer(d_model, experts) if pooled else LinearScorer(d_model, experts)
    if isinstance(scorer, LinearScorer):
        nn.init.orthogonal_(scorer.weight_ED, gain=0.1)
    here = tuple(range(max(experts // 2, 1))) if local is None else tuple(local)
    balancer = LocalityBalance(experts, here, pull=pull, locality=locality, switch=switch)
    return Gate(scorer, TopK(check_k(k, experts), "plain"), balancer)
