"""Uncertainty-aware scores: many dropped-out readings of one token, weighed down where they disagree.

Shape suffixes: T tokens, E experts, D model width, M readings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.scorers import Float32Scorer, fresh, linear32, top_k_gate


@dataclass(frozen=True, slots=True)
class UncertainScores(Scores):
    """Scores with variance_TE, the variance of each logit over the readings."""

    variance_TE: Tensor | None = None


class DropoutScorer(Float32Scorer):
    """M readings z_m = (x * mask_m) W' / (1 - drop); mean mu, variance v; p = softmax(mu / sqrt(1 + pi v / 8)).

    A mask is over channels and the same for all tokens of a call, so that a token's scores do not depend on its neighbours. In
    training the masks come from the context's generator; in evaluation they are a fixed buffer, so routes are repeatable.
    readings = 0 (the default) is the limit of many readings with a mask per channel and token, in closed form and without
    chance: mu = x W', v = drop / (1 - drop) (x²)(W²)'; two matrix products instead of M.
    weight_ED  trainable;  masks_MD  buffer
    Source: the uncertainty-aware router of MoFME (Zhang et al., 2023, arXiv 2312.16610), abstract only: "well-calibrated
    weights". Unverified: that the readings are Monte-Carlo dropout, and how they become weights; the division is MacKay's
    (1992) approximation of the mean of a logistic under a Gaussian logit, ours here. The released file that was read has a
    plain sparse softmax. MoFME's modulations are experts, not gate.
    """

    masks_MD: Tensor

    def __init__(self, d_model: int, experts: int, readings: int = 0, drop: float = 0.1, seed: int = 0) -> None:
        super().__init__(d_model, experts)
        if readings < 0 or not 0.0 <= drop < 1.0:
            raise UserError(
                f"{readings} readings, drop {drop}", field="readings", fix="0 (closed form) or more; drop of 0 to below 1"
            )
        self.readings, self.drop = readings, drop
        self.weight_ED = fresh(experts, d_model)
        self.register_buffer("masks_MD", self._masks(torch.Generator().manual_seed(seed), torch.device("cpu")))

    def _masks(self, generator: torch.Generator | None, device: torch.device) -> Tensor:
        drawn_on = device if generator is None else generator.device
        draw_MD = torch.rand(self.readings, self.d_model, generator=generator, device=drawn_on).to(device)
        return (draw_MD >= self.drop).float() / (1.0 - self.drop)

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Mean and variance, then the calibrated logits."""
        mean_TE, variance_TE = self._sampled(x_TD, context) if self.readings else self._expected(x_TD)
        logits_TE = mean_TE * (1.0 + math.pi / 8 * variance_TE).rsqrt()
        return UncertainScores(logits_TE, logits_TE.softmax(dim=-1), variance_TE=variance_TE)

    def _expected(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        weight_ED = self.weight_ED.float()
        return linear32(x_TD, weight_ED), self.drop / (1.0 - self.drop) * linear32(x_TD.square(), weight_ED.square())

    def _sampled(self, x_TD: Tensor, context: RouteContext) -> tuple[Tensor, Tensor]:
        masks_MD = self._masks(context.generator, x_TD.device) if context.training else self.masks_MD.float()
        weights = (masks_MD[:, None, :] * self.weight_ED.float()).flatten(0, 1)
        each_TME = linear32(x_TD, weights).view(-1, self.readings, self.experts)
        mean_TE = each_TME.mean(dim=1)
        return mean_TE, (each_TME - mean_TE[:, None]).square().mean(dim=1)


def mofme_gate(
    d_model: int, experts: int, k: int = 2, *, readings: int = 0, drop: float = 0.1, seed: int = 0, switch: float = 0.01
) -> Gate:
    """The gate of MoFME: top-k of the uncertainty-aware scores."""
    return top_k_gate(DropoutScorer(d_model, experts, readings, drop, seed), k, switch=switch)
