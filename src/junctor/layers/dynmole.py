"""DynMoLE: a token whose route is uncertain takes every adapter, a decided one takes the shortest prefix of mass.

Shape suffixes: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer, normalised, tsallis
from junctor.layers.contracts import Gate, Selector
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import check_k, checked, plan_from_mask, real_T


class EntropyHybrid(Selector):
    """All experts where S_q(p) > threshold; else those whose cumulative mass stays at or below `mass`, and at least `least`.

    S_q(p) = (1 - sum p^q) / (q - 1). Weights are p itself, not renormalised. The released code keeps a prefix while its
    cumulative mass is <= mass, so the expert that crosses is left out (other top-p gates keep it): `least` is what saves a
    token with p_1 > mass.
    """

    def __init__(self, threshold: float, q: float = 1.1, mass: float = 0.75, least: int = 2) -> None:
        super().__init__()
        if not 0.0 < mass <= 1.0:
            raise UserError(f"mass is {mass}", field="mass", fix="above 0, at most 1")
        self.threshold, self.q, self.mass, self.least = threshold, q, mass, check_k(least)

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """The hybrid's plan."""
        checked(selection_TE, scores, context)
        check_k(self.least, selection_TE.shape[1], field="least")
        p_TE = normalised(selection_TE.detach().float().clamp_min(0.0))
        value_TE, index_TE = p_TE.sort(dim=1, descending=True, stable=True)
        prefix_TE = value_TE.cumsum(1) <= self.mass
        prefix_TE[:, : self.least] = True
        chosen_TE = torch.zeros_like(prefix_TE).scatter(1, index_TE, prefix_TE)
        chosen_TE |= (tsallis(p_TE, self.q) > self.threshold)[:, None]
        return plan_from_mask(chosen_TE & real_T(context)[:, None], scores.probs_TE)


def dynmole(
    d_model: int,
    experts: int,
    threshold: float = 0.9,
    q: float = 1.1,
    mass: float = 0.75,
    least: int = 2,
    entropy: float = 1e-2,
    balance: float = 1e-3,
) -> Gate:
    """DynMoLE's gate: linear scores, the entropy hybrid, Tsallis entropy loss (1e-2) and Switch loss (1e-3).

    Source: the abstract and public training code for the order of operations,
    q and the loss weights. Unverified: threshold 0.9, mass 0.75 and least 2 as the paper's settings.
    """
    selector = EntropyHybrid(threshold, q, mass, min(least, experts))
    return Gate(LinearScorer(d_model, experts), selector, LossBalancer(q=q, entropy=entropy, switch=balance))
