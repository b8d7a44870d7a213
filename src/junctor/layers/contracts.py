"""The parts of a gate: Scorer -> Balancer.adjust -> Selector -> Plan. A published system is a composition of them, by name.

Rules that every part keeps: scores are computed in fp32; weights never contain the balancer's shift; learned and counted state
lives in buffers, in fp32 also under autocast; forward is pure, because activation checkpointing runs it twice; losses are
returned, never stored; every random draw comes from the context's generator. What is not true of a part it declares:
`causal=False` when a token's route can depend on later tokens, `batch_invariant=False` when it can depend on other sequences.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from junctor.layers.plan import Plan, RouteContext, Scores


class Scorer(nn.Module):
    """Scores tokens against experts; its parameters are the gate's parameters.

    d_model, experts   D and E
    """

    causal: ClassVar[bool] = True
    batch_invariant: ClassVar[bool] = True

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__()
        self.d_model, self.experts = d_model, experts

    def forward(self, context: RouteContext) -> Scores:
        """Scores of the context's tokens."""
        raise NotImplementedError


class Balancer(nn.Module):
    """Keeps experts evenly loaded: by a shift of the selection scores, by a loss, or by a rule between optimiser steps."""

    causal: ClassVar[bool] = True
    batch_invariant: ClassVar[bool] = True

    def adjust(self, scores: Scores, context: RouteContext) -> Tensor:
        """Selection scores [T, E]: what the selector ranks by. The shift is detached: no gradient comes from here."""
        del context
        return scores.probs_TE

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """Auxiliary losses by name, already weighted."""
        del plan, scores, context
        return {}

    def update(self, counts_E: Tensor) -> None:
        """Called once per optimiser step with the counts since the last one; never inside forward."""
        del counts_E


class Selector(nn.Module):
    """From selection scores to a plan. No parameters; `probs_TE` gives the weights, `selection_TE` the ranking."""

    causal: ClassVar[bool] = True
    batch_invariant: ClassVar[bool] = True

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """The plan for the context's tokens; padding tokens have no edge."""
        raise NotImplementedError


class Gate(nn.Module):
    """A scorer, a balancer and a selector under one name.

    `forward` gives (plan, scores); `loss` and `update` are the balancer's.

    causal            all parts are: may be used in an autoregressive model
    batch_invariant   all parts are: a token's route does not depend on what else is in the batch
    heads             1, or into how many parts of equal width a token is cut; each is then routed by itself, to experts of
                      width D / heads (granularity "head")
    """

    heads: int = 1

    def __init__(self, scorer: Scorer, selector: Selector, balancer: Balancer | None = None, name: str = "") -> None:
        super().__init__()
        self.scorer, self.selector, self.balancer = scorer, selector, balancer or Balancer()
        self.name = name

    @property
    def parts(self) -> tuple[Scorer, Selector, Balancer]:
        """The three parts."""
        return self.scorer, self.selector, self.balancer

    @property
    def causal(self) -> bool:
        """Whether no token's route depends on later tokens."""
        return all(part.causal for part in self.parts)

    @property
    def batch_invariant(self) -> bool:
        """Whether no token's route depends on other sequences of the batch."""
        return all(part.batch_invariant for part in self.parts)

    @property
    def experts(self) -> int:
        """E."""
        return self.scorer.experts

    def forward(self, context: RouteContext) -> tuple[Plan, Scores]:
        """Score, adjust, select."""
        scores: Scores = self.scorer(context)
        selection = self.balancer.adjust(scores, context)
        plan: Plan = self.selector(selection, scores, context)
        return plan, scores
