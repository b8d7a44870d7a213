"""BIP balance: prices of experts from the dual of "k experts per token, Tk/E tokens per expert".

Shape suffixes: T tokens, E experts.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.contracts import Balancer, Gate
from junctor.layers.linear import Activation, LinearScorer
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.selectors import TopK, Weights, check_k


def rank_value(values_RC: Tensor, rank: int, *, midpoint: bool) -> Tensor:
    """Per row, the (rank+1)-th largest value, or the midpoint of the rank-th and the next; beyond the row: its least value."""
    size = values_RC.shape[1]
    if rank < size and 8 * rank < size:
        top_RK = values_RC.topk(rank + 1, dim=1).values
        return (top_RK[:, rank - 1] + top_RK[:, rank]) / 2 if midpoint else top_RK[:, rank]
    below_R = values_RC.kthvalue(max(size - rank, 1), dim=1).values
    if not midpoint or rank >= size:
        return below_R
    return (values_RC.kthvalue(size - rank + 1, dim=1).values + below_R) / 2


def prices(score_TE: Tensor, k: int, iterations: int, *, midpoint: bool) -> Tensor:
    """Prices q_E, from zero, so that top-k of s - q loads the experts evenly.

    p_t = (k+1)-th largest of s_t - q;  q_e = (Tk/E + 1)-th largest of s_.e - p; repeated. The plain form clamps both at zero;
    `midpoint` clamps neither and takes the middle between the last one in and the first one out, which needs fewer rounds.
    """
    tokens, experts = score_TE.shape
    price_E = score_TE.new_zeros(experts)
    seats = max(tokens * k // experts, 1)
    if k >= experts or seats >= tokens:
        return price_E
    column_ET = score_TE.t().contiguous()
    for _ in range(iterations):
        pay_T = rank_value(score_TE - price_E, k, midpoint=midpoint)
        pay_T = pay_T if midpoint else pay_T.relu()
        price_E = rank_value(column_ET - pay_T, seats, midpoint=midpoint)
        price_E = price_E if midpoint else price_E.relu()
    return price_E


class Bip(Balancer):
    """Selection s - q, q solved anew in each batch, from zero: balanced from the first step, nothing to learn or keep.

    Source: "Binary-Integer-Programming Based Algorithm for Expert Load Balancing in MoE" (arXiv 2502.15451), algorithm 1;
    [U] the loop is from memory. A warm start (q carried from batch to batch, clamped at zero) drifts until 13-20 % of the
    tokens have no price and balance is lost; so q starts from zero here, and `midpoint=True` (default, ours) drops the clamp.
    Needs scores that differ: with equal scores (a gate at zero) no price separates tokens.

    A token's route depends on the whole batch, later tokens too: not causal, not batch invariant. The plain top-k of a
    generating model is another route than the training one.
    """

    causal: ClassVar[bool] = False
    batch_invariant: ClassVar[bool] = False

    def __init__(self, k: int, iterations: int = 4, *, midpoint: bool = True) -> None:
        super().__init__()
        if iterations < 1:
            raise UserError(f"{iterations} iterations", field="iterations", fix="at least 1; 4 is usual")
        self.k, self.iterations, self.midpoint = check_k(k), iterations, midpoint

    @torch.no_grad()
    def adjust(self, scores: Scores, context: RouteContext) -> Tensor:
        """Selection scores s - q, detached; padding does not take part in the prices."""
        score_TE = scores.probs_TE.detach()
        real_TE = score_TE if context.padding_T is None else score_TE[~context.padding_T]
        if real_TE.shape[0] == 0 or not bool(real_TE.sum().isfinite()):
            return score_TE
        price = self.solve(real_TE)
        return score_TE - (price[self.owner(context)] if self.online else price)

    online: ClassVar[bool] = False

    def solve(self, real_TE: Tensor) -> Tensor:
        """q_E of the batch."""
        return prices(real_TE, self.k, self.iterations, midpoint=self.midpoint)

    def owner(self, context: RouteContext) -> Tensor:
        """For the online form: which block of tokens each token belongs to."""
        raise NotImplementedError


class BipOnline(Bip):
    """The online form: prices for a block of tokens come from the blocks before it in the batch, never from itself.

    The paper's online form (algorithm 3 [U]) updates heaps after each token; here prices are solved after each block, so the
    first block is routed without prices and the balance is that of the rest. Tokens are taken in flattened order: a token's
    route depends on earlier tokens and on other sequences, not on later tokens of its own: causal, not batch invariant.

    blocks  into how many blocks of equal size the batch is cut
    """

    causal: ClassVar[bool] = True
    online: ClassVar[bool] = True

    def __init__(self, k: int, iterations: int = 4, *, midpoint: bool = True, block: int = 256) -> None:
        super().__init__(k, iterations, midpoint=midpoint)
        if block < 1:
            raise UserError(f"blocks of {block} tokens", field="block", fix="at least 1")
        self.block = block

    def solve(self, real_TE: Tensor) -> Tensor:
        """Prices per block: row b is solved on the tokens before block b; row 0 is zero."""
        starts = range(0, real_TE.shape[0], self.block)
        rows = [self.priced(real_TE[:start]) for start in starts]
        return torch.stack(rows)

    def priced(self, past_TE: Tensor) -> Tensor:
        """q_E of the tokens so far."""
        if past_TE.shape[0] == 0:
            return past_TE.new_zeros(past_TE.shape[1])
        return prices(past_TE, self.k, self.iterations, midpoint=self.midpoint)

    def owner(self, context: RouteContext) -> Tensor:
        """Index of the block, counting tokens that are not padding."""
        tokens = context.x_TD.shape[0]
        ones_T = torch.ones(tokens, dtype=torch.int64, device=context.x_TD.device)
        real_T = ones_T if context.padding_T is None else (~context.padding_T).long()
        return (real_T.cumsum(0) - 1).clamp_min(0) // self.block


def bip(
    d_model: int,
    experts: int,
    *,
    k: int = 2,
    iterations: int = 4,
    midpoint: bool = True,
    online: bool = False,
    block: int = 256,
    weights: Weights = "plain",
    activation: Activation = "softmax",
) -> Gate:
    """`bip`: top-k of s - q with the batch's own prices, or (`online=True`) those of the tokens before; see Bip."""
    check_k(k, experts)
    balancer = BipOnline(k, iterations, midpoint=midpoint, block=block) if online else Bip(k, iterations, midpoint=midpoint)
    return Gate(LinearScorer(d_model, experts, activation), TopK(k, weights), balancer)
