"""The plan: which expert takes which token, and with what weight. The one type that gates, dispatchers and diagnostics share.

Shape suffixes: T tokens (flattened over batch and sequence), E experts, N edges (token-expert pairs), D model width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from junctor.errors import UserError

GRANULARITIES = ("token", "head", "segment", "sequence", "task")


@dataclass(frozen=True, slots=True)
class Plan:
    """Expert-sorted sparse edges; ragged: a token has 0 to E of them.

    token_N     int64, the token of each edge; edges of one expert lie together, tokens ascending within an expert
    weight_N    what the expert's output is multiplied by; carries the gradient to the scores
    counts_E    int64, edges per expert; sums to N
    tokens      T
    dropped     edges that a capacity refused: counted, never silent
    nulls       edges that went to null experts (which cost nothing and have no edge here)
    granularity what a "token" of this plan is
    """

    token_N: Tensor
    weight_N: Tensor
    counts_E: Tensor
    tokens: int
    dropped: int = 0
    nulls: int = 0
    granularity: str = "token"

    @property
    def experts(self) -> int:
        """E."""
        return int(self.counts_E.shape[0])

    @property
    def edges(self) -> int:
        """N."""
        return int(self.token_N.shape[0])

    def expert_N(self) -> Tensor:
        """int64, the expert of each edge."""
        return torch.repeat_interleave(torch.arange(self.experts, device=self.counts_E.device), self.counts_E)

    def dense_TE(self) -> Tensor:
        """The weights as a matrix, zero where there is no edge: for tests and diagnostics, never for the fast path."""
        out = self.weight_N.new_zeros(self.tokens, self.experts)
        return out.index_put((self.token_N, self.expert_N()), self.weight_N, accumulate=True)

    def chosen_TE(self) -> Tensor:
        """bool, which expert takes which token."""
        out = torch.zeros(self.tokens, self.experts, dtype=torch.bool, device=self.token_N.device)
        out[self.token_N, self.expert_N()] = True
        return out

    def with_weights(self, weight_N: Tensor) -> Plan:
        """The same edges with other weights."""
        return replace(self, weight_N=weight_N)

    def check(self) -> None:
        """Raise UserError unless the parts fit together; reads values back, so for tests and the first call only."""
        n = self.edges
        if self.weight_N.shape != (n,) or int(self.counts_E.sum()) != n:
            raise UserError(
                f"{n} edges, {tuple(self.weight_N.shape)} weights, {int(self.counts_E.sum())} counted",
                field="plan",
                fix="one weight per edge, and counts that add up",
            )
        if n and (int(self.token_N.min()) < 0 or int(self.token_N.max()) >= self.tokens):
            raise UserError("names a token that is not there", field="plan.token_N", fix=f"0 to {self.tokens - 1}")


@dataclass(frozen=True, slots=True)
class Scores:
    """What a scorer says of T tokens and E experts.

    logits_TE   fp32
    probs_TE    fp32, what weights are taken from: a softmax, a sigmoid, a ReLU … of the logits
    state       passed on to the next layer's scorer (recurrent routers), or None
    logp        log probability of what was sampled, for policy gradients, or None
    """

    logits_TE: Tensor
    probs_TE: Tensor
    state: Tensor | None = None
    logp: Tensor | None = None


@dataclass(frozen=True, slots=True)
class RouteContext:
    """Everything that a gate may look at. Only `x_TD` is always there.

    x_TD            the tokens, flattened
    shape           (batch, sequence) that they came in; () when unknown
    token_ids_T, task_ids_T, segment_ids_T   int64, or None
    padding_T       bool, True where the token is padding and must not be routed, or None
    state           the previous layer's Scores.state, or None
    attention_TT    summary of the block's attention per sequence, or None
    step            optimiser steps so far
    training        train or eval
    generator       every random draw comes from here
    """

    x_TD: Tensor
    shape: tuple[int, ...] = ()
    token_ids_T: Tensor | None = None
    task_ids_T: Tensor | None = None
    segment_ids_T: Tensor | None = None
    padding_T: Tensor | None = None
    state: Tensor | None = None
    attention_TT: Tensor | None = None
    step: int = 0
    training: bool = True
    generator: torch.Generator | None = None


@dataclass(frozen=True, slots=True)
class RouterOutput:
    """What a layer call gives beside its output: the plan, the scores, auxiliary losses by name (not yet weighted in)."""

    y: Tensor
    plan: Plan
    scores: Scores
    losses: dict[str, Tensor] = field(default_factory=dict)
