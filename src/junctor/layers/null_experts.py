"""AdaMoE: some of the experts are null; a token that chooses them uses fewer real ones.

Shape suffixes: T tokens, E real experts, M real and null experts, K chosen per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.balancing import mean_rows, real_rows
from junctor.layers.contracts import Balancer, Gate, Selector
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import Weights, check_k, check_shapes, edge_weights, kept, plan_from_indices


class NullTopK(Selector):
    """Top-k over E real and n null experts; nulls cost nothing, have no edge, and are counted in `plan.nulls`.

    Scores have E + n columns, the plan E experts. `renormalise=True`: weights over a token's real choices sum to 1 (a token
    with a single one gives the gate no gradient through the output); else the probabilities as they are. A token whose
    choices are all null has no edge: its output is zero.
    """

    def __init__(self, k: int, nulls: int, *, renormalise: bool = True) -> None:
        super().__init__()
        if nulls < 1:
            raise UserError(f"{nulls} null experts", field="nulls", fix="at least 1")
        self.k, self.nulls, self.renormalise = check_k(k), nulls, renormalise

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Choose among all, keep the real ones."""
        check_shapes(selection_TE, scores, context)
        check_k(self.k, selection_TE.shape[1])
        experts = selection_TE.shape[1] - self.nulls
        value_TK, expert_TK = selection_TE.detach().topk(self.k, dim=1, sorted=False)
        allowed_TK = kept(value_TK, context)
        null_TK = expert_TK >= experts
        keep_TK = ~null_TK if allowed_TK is None else ~null_TK & allowed_TK
        taken = int((null_TK if allowed_TK is None else null_TK & allowed_TK).sum())
        weights: Weights = "renormalised" if self.renormalise else "plain"
        weight_TK = edge_weights(scores.probs_TE.gather(1, expert_TK), weights, 1.0, keep_TK)
        return plan_from_indices(expert_TK, weight_TK, experts, keep_TK, nulls=taken)


class NullSwitchLoss(Balancer):
    """Switch loss over E + n experts in which each null's load is the nulls' average: they need not be even among themselves.

    M * sum_m f_m P_m with f_m = c_m / N for real ones and f_m = (nulls / n) / N for each null, N all choices. The
    released code averages along the wrong axis, which changes nothing when k <= E; this is the paper's form.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """The weighted loss, by the name "switch"."""
        width = scores.probs_TE.shape[-1]
        nulls = width - plan.experts
        total = max(plan.edges + plan.nulls, 1)
        share_M = torch.full((width,), plan.nulls / nulls / total, device=scores.probs_TE.device)
        share_M[: plan.experts] = plan.counts_E.float() / total
        mean_M = mean_rows(real_rows(scores.probs_TE, context))
        return {"switch": self.weight * width * (share_M * mean_M).sum()}


def adamoe(
    d_model: int, experts: int, *, k: int = 3, nulls: int | None = None, renormalise: bool = True, switch: float = 1e-2
) -> Gate:
    """`adamoe`: null experts, larger k, softmax over all, weights renormalised over the real ones.

    Zeng et al. 2024, AdaMoE, section 3; router and loss of the released code were read (its loss is k times ours: it adds up
    the k choices). nulls: as many as real experts by default [U].
    """
    extra = experts if nulls is None else nulls
    selector = NullTopK(check_k(k, experts + extra), extra, renormalise=renormalise)
    return Gate(LinearScorer(d_model, experts, outputs=experts + extra), selector, NullSwitchLoss(switch))
