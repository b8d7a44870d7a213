"""Balance losses, the entropies they share, and the loss-free bias.

Shape suffixes: T tokens, E experts, N edges. All losses leave padding out and are defined (zero) for no tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.contracts import Balancer, Gate
from junctor.layers.linear import Activation, LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import TopK, Weights, check_k

_TINY = 1e-20


def real_rows(values_TE: Tensor, context: RouteContext) -> Tensor:
    """The rows of tokens that are not padding."""
    return values_TE if context.padding_T is None else values_TE[~context.padding_T]


def mean_rows(values_TE: Tensor) -> Tensor:
    """Mean over tokens; zeros (with a gradient path) when there are none."""
    return values_TE.sum(dim=0) / max(values_TE.shape[0], 1)


def normalised(probs_TE: Tensor) -> Tensor:
    """Rows that sum to 1: a no-op for a softmax, needed for sigmoid and ReLU scores."""
    return probs_TE / probs_TE.sum(dim=-1, keepdim=True).clamp_min(_TINY)


def max_vio(counts_E: Tensor) -> float:
    """max_e c_e / mean c - 1: 0 when all experts have the same load."""
    return float(counts_E.max() / counts_E.double().mean().clamp_min(_TINY)) - 1.0


def switch_loss(plan: Plan, scores: Scores, context: RouteContext) -> Tensor:
    """E * sum_e f_e P_e, f_e = c_e / N (no gradient), P_e = mean_t p_te (Fedus et al. 2021, Switch, eq. 4). 1 when even."""
    share_E = plan.counts_E.float() / max(plan.edges, 1)
    mean_E = mean_rows(real_rows(normalised(scores.probs_TE), context))
    return plan.experts * (share_E * mean_E).sum()


def z_loss(plan: Plan, scores: Scores, context: RouteContext) -> Tensor:
    """mean_t logsumexp(z_t)^2 (Zoph et al. 2022, ST-MoE, eq. 5): keeps logits small."""
    del plan
    return mean_rows(real_rows(scores.logits_TE, context).logsumexp(dim=-1, keepdim=True).square()).sum()


def importance_loss(plan: Plan, scores: Scores, context: RouteContext) -> Tensor:
    """CV^2 of importance_e = sum_t p_te (Shazeer et al. 2017, eq. 6-7): variance over squared mean."""
    del plan
    total_E = real_rows(scores.probs_TE, context).sum(dim=0)
    return total_E.var(unbiased=False) / total_E.mean().square().clamp_min(_TINY)


def shannon(probs_TE: Tensor) -> Tensor:
    """Entropy per row, -sum p ln p, with 0 ln 0 = 0: value and gradient are finite at zero."""
    return -(probs_TE * probs_TE.clamp_min(_TINY).log()).sum(dim=-1)


def tsallis(probs_TE: Tensor, q: float) -> Tensor:
    """Tsallis entropy per row: (1 - sum p^q) / (q - 1); Shannon's as q -> 1. Least 0, most (1 - E^(1-q)) / (q - 1)."""
    if q <= 0.0:
        raise UserError(f"q is {q}", field="q", fix="q > 0; 1 is Shannon's entropy")
    if abs(q - 1.0) < 1e-6:
        return shannon(probs_TE)
    return (1.0 - probs_TE.clamp_min(_TINY).pow(q).sum(dim=-1)) / (q - 1.0)


def entropy_loss(plan: Plan, scores: Scores, context: RouteContext, q: float = 1.0) -> Tensor:
    """Mean entropy of a token's probabilities: minimised, routes become decided and variable-k gates take fewer experts."""
    del plan
    return mean_rows(tsallis(real_rows(normalised(scores.probs_TE), context), q)[:, None]).sum()


Loss = Callable[[Plan, Scores, RouteContext], Tensor]
LOSSES: dict[str, Loss] = {"switch": switch_loss, "z": z_loss, "importance": importance_loss, "entropy": entropy_loss}


class LossBalancer(Balancer):
    """A weighted sum of the shared losses: LossBalancer(switch=0.01, z=0.001); known: switch, z, importance, entropy.

    q  the order of the entropy: 1 Shannon, else Tsallis
    """

    def __init__(self, *, q: float = 1.0, **weights: float) -> None:
        super().__init__()
        for name in weights:
            if name not in LOSSES:
                raise UserError(f"no balance loss is called {name!r}", field=name, fix="known: " + ", ".join(LOSSES))
        self.weights, self.q = {name: float(weight) for name, weight in weights.items() if weight}, q

    def extra_repr(self) -> str:
        """For print(gate)."""
        return ", ".join(f"{name}={weight}" for name, weight in self.weights.items())

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """The named losses, each times its weight."""
        return {name: weight * self.one(name, plan, scores, context) for name, weight in self.weights.items()}

    def one(self, name: str, plan: Plan, scores: Scores, context: RouteContext) -> Tensor:
        """One loss, not weighted."""
        if name == "entropy":
            return entropy_loss(plan, scores, context, self.q)
        return LOSSES[name](plan, scores, context)


class StepClock(LossBalancer):
    """Losses, and a count of optimiser steps for gates that follow a schedule: one per `update`, saved with the model.

    A caller that passes `context.step` is believed where that is later.
    """

    steps: Tensor

    def __init__(self, *, q: float = 1.0, **weights: float) -> None:
        super().__init__(q=q, **weights)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def at(self, context: RouteContext) -> Tensor:
        """Optimiser steps so far, a scalar tensor (reading it on a GPU waits)."""
        return self.steps.clamp_min(context.step)

    @torch.no_grad()
    def update(self, counts_E: Tensor) -> None:
        """One step more, whatever the counts."""
        del counts_E
        self.steps += 1


class LossFree(Balancer):
    """Loss-free balance: rank by s_te + b_e, weigh by s_te alone; between optimiser steps b_e += u * sign(mean c - c_e).

    Wang et al. 2024, Auxiliary-Loss-Free Load Balancing (arXiv 2408.15664), algorithm 1. u = 1e-3 with sigmoid scores; [U]
    that this is the paper's value. With softmax scores of many experts a fixed u is too large or too small: prefer the sigmoid.
    `signed=False` moves by u * (mean c - c_e) / mean c instead. No gradient reaches the scores from here. The bias lies in an
    fp32 buffer that stays fp32 when the model is cast; a token's route depends on earlier steps, not on its batch.
    """

    bias_E: Tensor

    def __init__(self, experts: int, rate: float = 1e-3, *, signed: bool = True) -> None:
        super().__init__()
        if not rate > 0.0:
            raise UserError(f"the rate is {rate}", field="rate", fix="above 0; 0.001 is usual with sigmoid scores")
        self.rate, self.signed = rate, signed
        self.register_buffer("bias_E", torch.zeros(experts))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before_E = self.bias_E
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.bias_E.dtype != torch.float32:
            self.bias_E = before_E.to(self.bias_E.device, torch.float32)
        return self

    def adjust(self, scores: Scores, context: RouteContext) -> Tensor:
        """Selection scores s + b, detached."""
        del context
        return scores.probs_TE.detach() + self.bias_E

    @torch.no_grad()
    def update(self, counts_E: Tensor) -> None:
        """One step of the bias, from the counts since the last optimiser step; counts of zero move nothing."""
        if counts_E.shape != self.bias_E.shape:
            raise UserError(f"{counts_E.shape[0]} counts", field="counts_E", fix=f"{self.bias_E.shape[0]}: one per expert")
        load_E = counts_E.to(self.bias_E)
        gap_E = load_E.mean() - load_E
        self.bias_E += self.rate * (gap_E.sign() if self.signed else gap_E / load_E.mean().clamp_min(_TINY))


def balanced_top_k(
    d_model: int,
    experts: int,
    *,
    k: int = 2,
    weights: Weights | None = None,
    switch: float = 0.01,
    z: float = 1e-3,
    importance: float = 0.0,
    activation: Activation = "softmax",
) -> Gate:
    """Top-k with auxiliary losses: the Switch loss and the z-loss by default (Fedus et al. 2021; Zoph et al. 2022)."""
    chosen: Weights = weights or ("plain" if k == 1 else "renormalised")
    losses = LossBalancer(switch=switch, z=z, importance=importance)
    return Gate(LinearScorer(d_model, experts, activation), TopK(check_k(k, experts), chosen), losses)


def loss_free(
    d_model: int,
    experts: int,
    *,
    k: int = 2,
    rate: float = 1e-3,
    weights: Weights = "plain",
    activation: Activation = "sigmoid",
    signed: bool = True,
) -> Gate:
    """`loss-free`: sigmoid scores, top-k of s + b, weights s; see LossFree."""
    scorer = LinearScorer(d_model, experts, activation)
    return Gate(scorer, TopK(check_k(k, experts), weights), LossFree(experts, rate, signed=signed))
