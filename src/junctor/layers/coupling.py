"""Coupling of router and experts: an expert should answer its own router row more than any other.

Shape suffixes: E experts (I, J the two sides of the E x E matrix), D model width, H hidden width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer
from junctor.layers.contracts import Gate
from junctor.layers.experts import ExpertBank
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.scorers import TINY
from junctor.layers.selectors import TopK, check_k

ExpertWeights = Callable[[], Tensor]


def radius(rows_ED: Tensor) -> Tensor:
    """eps_i = ‖r_i - r_near‖ / (2 ‖r_i‖), detached: noise of this relative size cannot carry a row to another's side."""
    rows_ED = rows_ED.detach()
    apart_II = torch.cdist(rows_ED, rows_ED, compute_mode="donot_use_mm_for_euclid_dist")
    apart_II.fill_diagonal_(torch.inf)
    near_E = apart_II.amin(dim=1)
    return torch.where(near_E.isfinite(), near_E / (2 * rows_ED.norm(dim=1)).clamp_min(TINY), 0.0)


def proxies(rows_ED: Tensor, generator: torch.Generator | None) -> Tensor:
    """r̃_i = r_i * delta_i, delta_i drawn per channel from U(1 - eps_i, 1 + eps_i)."""
    device = rows_ED.device if generator is None else generator.device
    draw_ED = torch.rand(rows_ED.shape, generator=generator, device=device).to(rows_ED.device)
    return rows_ED * (1 + radius(rows_ED)[:, None] * (2 * draw_ED - 1))


def coupling_matrix(proxy_ED: Tensor, w_in_EDH: Tensor, *, scale_free: bool = False) -> Tensor:
    """M [I, J]: norm of expert j's hidden answer to proxy i, ‖r̃_i W_j‖; scale-free: over ‖r̃_i‖ ‖W_j‖."""
    matrix_IJ = torch.stack([(proxy_ED @ w_DH).norm(dim=1) for w_DH in w_in_EDH.unbind(0)], dim=1)
    if not scale_free:
        return matrix_IJ
    size_J = w_in_EDH.flatten(1).norm(dim=1)
    relative_IJ: Tensor = matrix_IJ / (proxy_ED.norm(dim=1)[:, None] * size_J).clamp_min(TINY)
    return relative_IJ


def coupling_loss(matrix_IJ: Tensor, alpha: float = 1.0) -> Tensor:
    """Mean over i != j of relu(M_ij - a M_ii) + relu(M_ji - a M_ii): the diagonal should lead its row and its column."""
    own_I1 = alpha * matrix_IJ.diagonal()[:, None]
    both_IJ = (matrix_IJ - own_I1).relu() + (matrix_IJ.t() - own_I1).relu()
    experts = matrix_IJ.shape[0]
    off_IJ = both_IJ - torch.diag_embed(both_IJ.diagonal())
    return off_IJ.sum() / max(experts * (experts - 1), 1)


class CouplingLoss(LossBalancer):
    """The loss "erc" beside the shared ones. Its time is E² D H, whatever the number of tokens.

    `attach_experts` gives the bank, or a callable to its input weights [E, D, H], called at each loss. Not owned.
    scale_free  as published, M can fall because all weights shrink; True divides by the norms
    """

    def __init__(self, scorer: LinearScorer, weight: float, alpha: float, *, scale_free: bool, switch: float) -> None:
        super().__init__(switch=switch)
        if not 0.0 <= alpha <= 1.0:
            raise UserError(f"is {alpha}", field="alpha", fix="0 to 1")
        self.weight, self.alpha, self.scale_free = weight, alpha, scale_free
        self._scorer = (scorer,)  # in a tuple: not a second owner of its parameters
        self._experts: tuple[ExpertBank | ExpertWeights] | None = None

    def attach_experts(self, experts: ExpertBank | ExpertWeights) -> None:
        """Where the experts' input weights come from."""
        self._experts = (experts,)

    def matrix(self, generator: torch.Generator | None) -> Tensor:
        """M of this moment, with fresh proxies."""
        if self._experts is None:
            raise UserError("no experts to couple with", field="experts", fix="gate.balancer.attach_experts(bank)")
        (experts,) = self._experts
        w_in_EDH = (experts.w_in_EDI if isinstance(experts, ExpertBank) else experts()).float()
        rows_ED = self._scorer[0].weight_ED.float()
        if w_in_EDH.dim() != 3 or w_in_EDH.shape[:2] != rows_ED.shape:
            raise UserError(f"are {tuple(w_in_EDH.shape)}", field="weights", fix=f"{(*rows_ED.shape, 'hidden')}")
        with torch.autocast(rows_ED.device.type, enabled=False):
            return coupling_matrix(proxies(rows_ED, generator), w_in_EDH, scale_free=self.scale_free)

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """The shared losses and "erc"."""
        losses = super().loss(plan, scores, context)
        if self.weight:
            losses["erc"] = self.weight * coupling_loss(self.matrix(context.generator), self.alpha)
        return losses


def erc(
    d_model: int,
    experts: int,
    k: int = 2,
    *,
    weight: float = 1.0,
    alpha: float = 1.0,
    scale_free: bool = False,
    switch: float = 0.01,
) -> Gate:
    """Linear top-k with the expert-router coupling loss (abstract and summary page only).

    Unverified: that delta is drawn per channel (it could be one number per row), the loss weight, and the mean's divisor. The
    loss needs the experts: attach them, or set weight=0.
    """
    scorer = LinearScorer(d_model, experts)
    chosen = TopK(check_k(k, experts), "plain" if k == 1 else "renormalised")
    return Gate(scorer, chosen, CouplingLoss(scorer, weight, alpha, scale_free=scale_free, switch=switch))
