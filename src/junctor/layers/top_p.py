"""As many experts as a probability mass needs: top-p (Dynamic-MoE) and the entropy hybrid.

Shape suffixes: T tokens, E experts, K candidates per token.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer, normalised, tsallis
from junctor.layers.contracts import Gate, Selector
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import check_k, check_shapes, edge_weights, kept, plan_from_indices

Ties = Literal["shortest", "released"]


def prefix_mask(sorted_TK: Tensor, mass: float, ties: Ties = "shortest") -> Tensor:
    """Mask [T, K] over probabilities sorted downwards: the shortest prefix whose sum reaches `mass`, crossing expert included.

    ties  where a sum equals `mass` exactly: "shortest" stops there; "released" (the published code) takes one more.
          Uniform over 4 and mass 0.5: 2 or 3 experts
    """
    before_TK = sorted_TK.cumsum(dim=1) - sorted_TK
    before_TK[:, 1:] = sorted_TK.cumsum(dim=1)[:, :-1]
    return before_TK < mass if ties == "shortest" else before_TK <= mass


class TopP(Selector):
    """The shortest prefix of a token's sorted probabilities whose mass reaches p; weights are the probabilities as they are.

    p        mass to reach, 0 < p <= 1
    most     candidates per token (top-k first, the full row is never sorted); with E candidates the kept mass is >= p always,
             with fewer a token that would need more takes `most`
    least    at least so many
    ties     see `prefix_mask`
    weights  "plain" or "renormalised": then a token with one expert gives the gate no gradient, so `least` must be 2
    """

    def __init__(
        self,
        p: float,
        *,
        most: int | None = None,
        least: int = 1,
        ties: Ties = "shortest",
        weights: Literal["plain", "renormalised"] = "plain",
    ) -> None:
        super().__init__()
        if not 0.0 < p <= 1.0:
            raise UserError(f"a mass of {p}", field="p", fix="0 < p <= 1")
        if ties not in ("shortest", "released"):
            raise UserError(f"no rule for ties is called {ties!r}", field="ties", fix="shortest or released")
        check_k(least, most, field="least")
        if weights == "renormalised" and least == 1:
            raise UserError(
                "one weight renormalised is the constant 1: the gate would get no gradient",
                field="weights",
                fix='weights="plain", or least=2',
            )
        self.p, self.most, self.least, self.ties, self.weights = p, most, least, ties, weights

    def extra_repr(self) -> str:
        """For print(gate)."""
        return f"p={self.p}, most={self.most}, least={self.least}, ties={self.ties}, weights={self.weights}"

    def take_TK(self, prob_TK: Tensor) -> Tensor:
        """Mask over the sorted candidates."""
        take_TK = prefix_mask(prob_TK, self.p, self.ties)
        take_TK[:, : self.least] = True
        return take_TK

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Candidates, prefix, weights."""
        check_shapes(selection_TE, scores, context)
        experts = selection_TE.shape[1]
        most = check_k(self.most or experts, experts, field="most")
        check_k(self.least, most, field="least")
        ranked_TK = selection_TE.detach().topk(most, dim=1)
        allowed_TK = kept(ranked_TK.values, context)
        prob_TK = scores.probs_TE.gather(1, ranked_TK.indices)
        take_TK = self.take_TK(prob_TK.detach())
        keep_TK = take_TK if allowed_TK is None else take_TK & allowed_TK
        weight_TK = edge_weights(prob_TK, self.weights, 1.0, keep_TK)
        return plan_from_indices(ranked_TK.indices, weight_TK, experts, keep_TK)


class SoftOrTopP(TopP):
    """Undecided tokens use all experts, the others top-p: by the Tsallis entropy S_q of the token's probabilities.

    threshold  H: S_q > H * (its greatest value) routes softly to every expert
    q          1 is Shannon's entropy
    """

    def __init__(self, p: float, *, threshold: float = 0.9, q: float = 1.1, least: int = 2, ties: Ties = "shortest") -> None:
        super().__init__(p, least=least, ties=ties)
        if not 0.0 <= threshold <= 1.0:
            raise UserError(f"a threshold of {threshold}", field="threshold", fix="0 to 1, a share of the greatest entropy")
        self.threshold, self.q = threshold, q

    def take_TK(self, prob_TK: Tensor) -> Tensor:
        """All candidates where the entropy is high, else the prefix."""
        uniform_1K = torch.full_like(prob_TK[:1], 1.0 / prob_TK.shape[1])
        limit = self.threshold * tsallis(uniform_1K, self.q) if prob_TK.shape[0] else 0.0
        soft_T = tsallis(normalised(prob_TK), self.q) > limit
        return super().take_TK(prob_TK) | soft_T[:, None]


def dynamic_moe(
    d_model: int,
    experts: int,
    *,
    p: float = 0.4,
    most: int | None = None,
    ties: Ties = "shortest",
    entropy: float = 1e-2,
    switch: float = 1e-2,
) -> Gate:
    """`dynamic-moe`: harder tokens get more experts: top-p, weights not renormalised, entropy loss and Switch loss.

    Huang et al. 2024, Harder Tasks Need More Experts, section 3; the released router was read. It takes one expert more where
    the mass is met exactly (`ties="released"`). [U] p = 0.4 and both loss weights are from memory.
    """
    return Gate(LinearScorer(d_model, experts), TopP(p, most=most, ties=ties), LossBalancer(switch=switch, entropy=entropy))


def entropy_hybrid(
    d_model: int,
    experts: int,
    *,
    p: float = 0.75,
    threshold: float = 0.9,
    q: float = 1.1,
    least: int = 2,
    entropy: float = 1e-2,
    switch: float = 1e-3,
) -> Gate:
    """`entropy-hybrid`: all experts for undecided tokens, top-p for the rest, Tsallis and Switch losses.

    The rule of DynMoLE on any bank of experts. [U] the threshold's scale (here a share of the greatest entropy) and p.
    """
    selector = SoftOrTopP(p, threshold=threshold, q=q, least=min(least, experts))
    return Gate(LinearScorer(d_model, experts), selector, LossBalancer(q=q, switch=switch, entropy=entropy))
