"""BASE: in training every expert takes the same number of tokens, by a balanced assignment solved with an auction in torch.

Shape suffixes: T tokens, E experts, U unassigned tokens, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.bip import prices
from junctor.layers.contracts import Gate, Scorer, Selector
from junctor.layers.linear import fp32_logits
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import checked, plan_from_indices

ROUNDS = 2000


def seats_E(score_TE: Tensor) -> Tensor:
    """Seats per expert, adding up to T: T/E each, and one more for those that the tokens like best on average."""
    tokens, experts = score_TE.shape
    seats = torch.full((experts,), tokens // experts, dtype=torch.int64, device=score_TE.device)
    seats[score_TE.sum(dim=0).topk(tokens % experts).indices] += 1
    return seats


def rank_within(expert_T: Tensor, bid_T: Tensor) -> Tensor:
    """0 for the highest bid on each expert, 1 for the next ...; -1 for tokens that bid on none (expert -1)."""
    by_bid_T = bid_T.argsort(descending=True, stable=True)
    order_T = by_bid_T[expert_T[by_bid_T].argsort(stable=True)]
    sorted_T = expert_T[order_T]
    start_T = torch.searchsorted(sorted_T, sorted_T)
    rank_T = torch.empty_like(expert_T)
    rank_T[order_T] = torch.arange(expert_T.shape[0], device=expert_T.device) - start_T
    return torch.where(expert_T < 0, -1, rank_T)


def auction(score_TE: Tensor, seats_E: Tensor, eps: float | None = None, rounds: int = ROUNDS) -> Tensor:
    """int64 [T], the expert of each token: loads are exactly `seats_E`, the sum of scores at most T * eps below the best.

    Bertsekas' auction for similar objects, all unassigned tokens bidding at once: each bids on its best expert up to the
    margin over its second best plus eps; the expert keeps its highest bids, and its price is the least of them once full.
    Starts from the dual prices of `prices`, which leaves few tokens to bid. After `rounds` the rest fill the free seats.

    eps  default: a thousandth of the scores' spread
    """
    tokens, experts = score_TE.shape
    score_TE = score_TE.double()
    if experts == 1 or tokens == 0:
        return torch.zeros(tokens, dtype=torch.int64, device=score_TE.device)
    step = eps or max(1e-3 * float(score_TE.max() - score_TE.min()), 1e-6)
    price_E = prices(score_TE, 1, 8, midpoint=True)
    held_T = torch.full((tokens,), -1, dtype=torch.int64, device=score_TE.device)
    bid_T = score_TE.new_full((tokens,), -torch.inf)
    for _ in range(rounds):
        free_U = (held_T < 0).nonzero().squeeze(1)
        if free_U.numel() == 0:
            return held_T
        best_U2 = (score_TE[free_U] - price_E).topk(2, dim=1)
        expert_U = best_U2.indices[:, 0]
        held_T[free_U] = expert_U
        bid_T[free_U] = price_E[expert_U] + best_U2.values[:, 0] - best_U2.values[:, 1] + step
        held_T[(held_T >= 0) & (rank_within(held_T, bid_T) >= seats_E[held_T.clamp_min(0)])] = -1
        price_E = asking(price_E, held_T, bid_T, seats_E)
    return fill(score_TE, held_T, seats_E)


def asking(price_E: Tensor, held_T: Tensor, bid_T: Tensor, seats_E: Tensor) -> Tensor:
    """The least bid that a full expert holds; the old price where seats are free."""
    sold = held_T >= 0
    least_E = torch.full_like(price_E, torch.inf).scatter_reduce(0, held_T[sold], bid_T[sold], "amin")
    full_E = (torch.bincount(held_T[sold], minlength=price_E.shape[0]) >= seats_E) & (seats_E > 0)
    shut_E = torch.where(seats_E > 0, price_E, torch.inf)
    return torch.where(full_E, least_E, shut_E)


def fill(score_TE: Tensor, held_T: Tensor, seats_E: Tensor) -> Tensor:
    """Give the unassigned tokens the free seats, in order."""
    left_E = seats_E - torch.bincount(held_T[held_T >= 0], minlength=score_TE.shape[1])
    held_T[held_T < 0] = torch.repeat_interleave(torch.arange(score_TE.shape[1], device=held_T.device), left_E)
    return held_T


class Centroids(Scorer):
    """z = x . c_e, p = sigmoid(z); centroids orthogonal with gain 0.1 (orthogonal rows need E <= D; else columns)."""

    def __init__(self, d_model: int, experts: int, gain: float = 0.1) -> None:
        super().__init__(d_model, experts)
        self.centroid_ED = nn.Parameter(torch.empty(experts, d_model))
        nn.init.orthogonal_(self.centroid_ED, gain=gain)

    def forward(self, context: RouteContext) -> Scores:
        """Scores of the context's tokens."""
        logits_TE = fp32_logits(context.x_TD, self.centroid_ED)
        return Scores(logits_TE, logits_TE.sigmoid())


class BalancedAssignment(Selector):
    """One expert per token: the balanced assignment of the logits in training, the best one in evaluation. Weight p.

    In training every load is T/E, up to one when E does not divide T. A token's route then depends on the whole batch.

    workers  the tokens are shuffled, by the context's generator, cut into so many parts, and each part is assigned by itself:
             what BASE does over its workers, so that a worker's tokens are a sample of all and not of one document. Loads are
             then even in each part. 1: the best assignment of the whole batch, which no shuffle changes
    """

    def __init__(self, workers: int = 1) -> None:
        super().__init__()
        if workers < 1:
            raise UserError(f"is {workers}", field="workers", fix="at least 1")
        self.workers = workers

    causal: ClassVar[bool] = False
    batch_invariant: ClassVar[bool] = False

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Assign, then weigh."""
        checked(selection_TE, scores, context)
        expert_T = self.train_T(scores, context) if context.training else selection_TE.detach().argmax(dim=1)
        keep_TK = None if context.padding_T is None else ~context.padding_T[:, None]
        weight_TK = scores.probs_TE.gather(1, expert_T[:, None])
        return plan_from_indices(expert_T[:, None], weight_TK, selection_TE.shape[1], keep_TK)

    @torch.no_grad()
    def train_T(self, scores: Scores, context: RouteContext) -> Tensor:
        """The assignment of the tokens that are not padding; 0 for padding."""
        logits_TE = scores.logits_TE.detach()
        expert_T = torch.zeros(logits_TE.shape[0], dtype=torch.int64, device=logits_TE.device)
        for part_U in self.parts(context):
            expert_T[part_U] = auction(logits_TE[part_U], seats_E(logits_TE[part_U]))
        return expert_T

    def parts(self, context: RouteContext) -> tuple[Tensor, ...]:
        """The real tokens of each worker; a part without tokens is left out."""
        real_U = torch.arange(context.x_TD.shape[0], device=context.x_TD.device)
        if context.padding_T is not None:
            real_U = real_U[~context.padding_T]
        if self.workers == 1:
            return (real_U,)
        device = real_U.device if context.generator is None else context.generator.device
        order_U = torch.randperm(len(real_U), generator=context.generator, device=device).to(real_U.device)
        return tuple(part for part in real_U[order_U].tensor_split(self.workers) if len(part))


def base(d_model: int, experts: int, *, gain: float = 0.1, workers: int = 1) -> Gate:
    """`base`: balanced assignment in training, argmax in evaluation; edge weight a = sigmoid(x . c_e).

    Lewis et al. 2021, BASE Layers, section 2; the released layer gives y = a f(x) + (1 - a) x with f(x) = x + g(x), that is
    y = x + a g(x): the weighted sum of this plan inside a residual block. workers > 1 shuffles and assigns part by part, as
    on that many devices. Training and evaluation route differently: measure both.
    """
    return Gate(Centroids(d_model, experts, gain), BalancedAssignment(workers))
