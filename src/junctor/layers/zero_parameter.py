"""Routing with no parameters: the first E channels of what the layer computes anyway are the scores.

Shape suffixes: T tokens, E experts, D width of what is read, B sequences, S tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer
from junctor.layers.contracts import Gate, Selector
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.scorers import TINY, Float32Scorer, positive
from junctor.layers.selectors import checked, plan_from_mask, real_T
from junctor.layers.token_graph import by_sequence


class FirstChannelScorer(Float32Scorer):
    """z = (gamma h / absmax(h) + (1 - gamma) d / absmax(d)) / temperature, p = softmax(z); h, d: the first E channels of the
    frozen layer's output and of the shared adapter's delta. No parameters at all.

    window    z is the mean over the token and the window - 1 before it, in its sequence; 1: the token alone
    absmax    per token, over its E channels. A released run takes it over the whole batch: see BatchChannelScorer
    `attach(frozen, delta)` says where h and d come from: callables of x_TD. Unattached, h is x itself and there is no d (then
    gamma is 1): the gate of a layer without an adapter.
    Source: LiME, released code in part. Unverified: which of the two gamma multiplies, and that the n-gram window is a mean of
    scores over preceding tokens.
    """  # fmt: skip

    def __init__(self, d_model: int, experts: int, gamma: float = 0.6, temperature: float = 0.5, window: int = 1) -> None:
        super().__init__(d_model, experts)
        if not 0.0 <= gamma <= 1.0 or window < 1:
            raise UserError(f"gamma is {gamma}, window {window}", field="gamma", fix="gamma of 0 to 1, window of 1 or more")
        self.gamma, self.temperature, self.window = gamma, positive(temperature, "temperature"), window
        self._sources: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None
        if d_model < experts:
            self._narrow(d_model)

    def _narrow(self, width: int) -> None:
        raise UserError(f"{width} channels cannot score {self.experts} experts", field="experts", fix=f"at most {width}")

    def attach(self, frozen: Callable[[Tensor], Tensor], delta: Callable[[Tensor], Tensor]) -> None:
        """Read the frozen output and the adapter's delta; both take x_TD and give E channels or more. Not owned."""
        self._sources = (frozen, delta)

    def forward(self, context: RouteContext) -> Scores:
        """Read the channels as the layer computes them, then score in fp32."""
        x_TD = self.checked(context.x_TD)
        parts = [(x_TD, 1.0)]
        if self._sources is not None:
            frozen, delta = self._sources
            parts = [(frozen(x_TD), self.gamma), (delta(x_TD), 1.0 - self.gamma)]
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = torch.stack([share * self._channels(part, context) for part, share in parts]).sum(0)
            logits_TE = self._smoothed(logits_TE, context) / self.temperature
            return Scores(logits_TE, logits_TE.softmax(dim=-1))

    def _channels(self, part_TD: Tensor, context: RouteContext) -> Tensor:
        if part_TD.shape[1] < self.experts:
            self._narrow(part_TD.shape[1])
        first_TE = part_TD[:, : self.experts].float()
        return first_TE / self.absmax(first_TE, context).clamp_min(TINY)

    def absmax(self, first_TE: Tensor, context: RouteContext) -> Tensor:
        """Per token."""
        del context
        return first_TE.abs().amax(dim=1, keepdim=True)

    def _smoothed(self, logits_TE: Tensor, context: RouteContext) -> Tensor:
        if self.window == 1 or not logits_TE.shape[0]:
            return logits_TE
        real_T1 = real_T(context).float()[:, None]
        both = by_sequence(torch.cat([logits_TE, real_T1], dim=1), context)
        padded = functional.pad(both, (0, 0, self.window - 1, 0))
        total = padded.unfold(1, self.window, 1).sum(dim=-1).flatten(0, 1)
        return total[:, :-1] / total[:, -1:].clamp_min(1.0)


class BatchChannelScorer(FirstChannelScorer):
    """The form with one absmax over the whole batch: a token's route depends on other requests and on later tokens."""

    causal = False
    batch_invariant = False

    def absmax(self, first_TE: Tensor, context: RouteContext) -> Tensor:
        """Over all real tokens."""
        real_TE = first_TE[real_T(context)].abs()
        return real_TE.max() if real_TE.numel() else first_TE.new_ones(())


class AutoTopK(Selector):
    """Keep the experts with p >= theta max p: 1 to E of them, no k. Weights: p over the sum of the kept p.

    Source: LiME's Auto-Top-K. theta = 1 keeps the best alone (and all that tie with it), theta = 0 keeps all.
    """

    def __init__(self, theta: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= theta <= 1.0:
            raise UserError(f"is {theta}", field="theta", fix="0 to 1")
        self.theta = theta

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """Threshold relative to the best."""
        best_TE = checked(selection_TE.detach(), scores, context)
        chosen_TE = (best_TE >= self.theta * best_TE.amax(dim=1, keepdim=True)) & real_T(context)[:, None]
        kept_TE = scores.probs_TE * chosen_TE
        return plan_from_mask(chosen_TE, kept_TE / kept_TE.sum(dim=1, keepdim=True).clamp_min(TINY))


def lime(
    d_model: int,
    experts: int,
    *,
    theta: float = 0.5,
    gamma: float = 0.6,
    temperature: float = 0.5,
    window: int = 1,
    absmax: str = "token",
    switch: float = 0.0,
) -> Gate:
    """LiME's gate; `absmax` is "token" or "batch" (neither causal nor batch-invariant). A balance loss acts on what is read."""
    kinds = {"token": FirstChannelScorer, "batch": BatchChannelScorer}
    if absmax not in kinds:
        raise UserError(f"is {absmax!r}", field="absmax", fix="one of " + ", ".join(kinds))
    scorer = kinds[absmax](d_model, experts, gamma, temperature, window)
    return Gate(scorer, AutoTopK(theta), LossBalancer(switch=switch))
