"""DynMoLE: a token whose route is uncertain takes every adapter, a decided one takes a prefix of the probability mass.

Shape suffixes: T tokens, E experts, K = E candidates in falling order.
"""

from __future__ import annotations

from torch import Tensor

from junctor.layers.balancing import LossBalancer, normalised, tsallis
from junctor.layers.contracts import Gate
from junctor.layers.linear import LinearScorer
from junctor.layers.top_p import TopP


class EntropyHybrid(TopP):
    """All experts where S_q(p) > threshold; else those whose cumulative mass stays at or below `p`, and at least `least`.

    S_q(p) = (1 - sum p^q) / (q - 1), compared as it is (`top_p.SoftOrTopP`: as a share of its most). Weights are p
    itself, not renormalised. The released code keeps a prefix while its cumulative mass is <= p, so the expert that crosses is
    left out (top-p keeps it): `least` is what saves a token whose first probability is above p.
    """

    def __init__(self, threshold: float, q: float = 1.1, p: float = 0.75, least: int = 2) -> None:
        super().__init__(p, least=least)
        self.threshold, self.q = threshold, q

    def take_TK(self, prob_TK: Tensor) -> Tensor:
        """Mask over the sorted candidates."""
        take_TK = prob_TK.cumsum(dim=1) <= self.p
        take_TK[:, : self.least] = True
        return take_TK | (tsallis(normalised(prob_TK), self.q) > self.threshold)[:, None]


def dynmole(
    d_model: int,
    experts: int,
    threshold: float = 0.9,
    q: float = 1.1,
    p: float = 0.75,
    least: int = 2,
    entropy: float = 1e-2,
    balance: float = 1e-3,
) -> Gate:
    """DynMoLE's gate: linear scores, the entropy hybrid, Tsallis entropy loss (1e-2) and Switch loss (1e-3).

    Source: the abstract; public training code for the order of operations, q and the loss weights. Unverified: threshold 0.9,
    p 0.75 and least 2 as the paper's settings.
    """
    selector = EntropyHybrid(threshold, q, p, min(least, experts))
    return Gate(LinearScorer(d_model, experts), selector, LossBalancer(q=q, entropy=entropy, switch=balance))
