"""Scores over a graph of the tokens: distributions smoothed over similar tokens, and scores by graph convolution.

Shape suffixes: T tokens, B sequences, S tokens of a sequence (T = B S), E experts, D model width.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.scorers import Float32Scorer, fresh, from_probs, linear32, positive, top_k_gate

Smoothing = Literal["similarity", "attention", "none"]
Convolution = Literal["gcn", "sage", "gat"]


def by_sequence(values_TX: Tensor, context: RouteContext) -> Tensor:
    """[B, S, X]: the rows by sequence, zero where a token is padding. Without a shape all tokens are one sequence."""
    batch, length = _sequences(context)
    if context.padding_T is not None:
        values_TX = values_TX.masked_fill(context.padding_T[:, None], 0.0)
    return values_TX.reshape(batch, length, values_TX.shape[1])


def _sequences(context: RouteContext) -> tuple[int, int]:
    tokens = context.x_TD.shape[0]
    if len(context.shape) < 2:
        return 1, tokens
    batch, length = context.shape[0], context.shape[1]
    if batch * length != tokens or len(context.shape) > 2:
        raise UserError(f"is {context.shape} for {tokens} tokens", field="context.shape", fix="(batch, sequence)")
    return batch, length


def visible_BSS(context: RouteContext, causal: bool) -> Tensor:
    """Which token (last axis) may speak for which: not padding, not later if causal; itself always."""
    batch, length = _sequences(context)
    device = context.x_TD.device
    real_BS = torch.ones(batch, length, dtype=torch.bool, device=device)
    if context.padding_T is not None:
        real_BS = ~context.padding_T.view(batch, length)
    seen_BSS = real_BS[:, None, :].expand(batch, length, length)
    if causal:
        seen_BSS = seen_BSS & torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen_BSS | torch.eye(length, dtype=torch.bool, device=device)


def cosine_BSS(x_BSD: Tensor) -> Tensor:
    """Cosine of each pair of tokens of a sequence."""
    unit_BSD = functional.normalize(x_BSD, dim=-1)
    return unit_BSD @ unit_BSD.transpose(1, 2)


class SmoothedScorer(Float32Scorer):
    """p' = S p, p = softmax(x W'): a token's distribution is a mean over tokens like it. Causal: S sees no later token.

    "similarity"  S = row-softmax(cos(x_i, x_j) / temperature) over the tokens of the sequence
    "attention"   S = the block's attention from the context ([T, T] for one sequence, or [B, S, S]; heads already averaged),
                  masked again and made to sum to 1
    "none"        S = I: the plain linear gate
    Source: Improving Routing in Sparse Mixture of Experts with Graph of Tokens (Nguyen et al., 2025, arXiv 2505.00792),
    abstract only. Unverified: that p and not the logits are smoothed, the form of the similarity, its temperature, the mean
    over heads. The paper proves a lower entropy of expert selection; for a mean of distributions Jensen gives the opposite
    (the entropy of S p is at least the S-mean of the entropies), so that claim belongs to a form that we did not see. What
    does fall here is the flip rate under noise. S costs T S per layer. Decoding needs the sequence so far, not one token.
    """

    sees_later = False

    def __init__(self, d_model: int, experts: int, smoothing: Smoothing = "similarity", temperature: float = 0.1) -> None:
        super().__init__(d_model, experts)
        if smoothing not in get_args(Smoothing):
            raise UserError(f"is {smoothing!r}", field="smoothing", fix="one of " + ", ".join(get_args(Smoothing)))
        self.smoothing: Smoothing = smoothing
        self.temperature = positive(temperature, "temperature")
        self.weight_ED = fresh(experts, d_model)

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Linear scores, smoothed."""
        logits_TE = linear32(x_TD, self.weight_ED)
        probs_TE = logits_TE.softmax(dim=-1)
        if self.smoothing == "none" or not x_TD.shape[0]:
            return Scores(logits_TE, probs_TE)
        mixed_BSE = self.mixing(x_TD, context) @ by_sequence(probs_TE, context)
        return from_probs(mixed_BSE.flatten(0, 1))

    def mixing(self, x_TD: Tensor, context: RouteContext) -> Tensor:
        """S [B, S, S]; rows sum to 1."""
        visible = visible_BSS(context, not self.sees_later)
        if self.smoothing == "similarity":
            near_BSS = cosine_BSS(by_sequence(x_TD, context)) / self.temperature
            return near_BSS.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        given_BSS = self._attention(context, visible.shape).float() * visible
        total_BS1 = given_BSS.sum(dim=-1, keepdim=True)
        alone_BSS = torch.eye(given_BSS.shape[-1], device=given_BSS.device).expand_as(given_BSS)
        return torch.where(total_BS1 > 0, given_BSS / total_BS1.clamp_min(1e-20), alone_BSS)

    @staticmethod
    def _attention(context: RouteContext, shape: torch.Size) -> Tensor:
        given = context.attention_TT
        if given is not None and given.dim() == 2:
            given = given[None]
        if given is None or given.shape != shape:
            found = "missing" if given is None else f"of shape {tuple(given.shape)}"
            raise UserError(f"is {found}", field="context.attention_TT", fix=f"the block's attention, {tuple(shape)}")
        return given


class WholeSmoothedScorer(SmoothedScorer):
    """The same where S sees the whole sequence: for encoders."""

    causal = False
    sees_later = True


class GraphScorer(Float32Scorer):
    """Scores by one graph convolution over the k nearest tokens (cosine) of a sequence; not causal (patches of an image).

    z = x W'.   "gcn"   D^-1/2 (A + I) D^-1/2 z, A symmetric
                "sage"  z + mean of the neighbours' x Wn'
                "gat"   sum_j a_ij z_j, a = softmax over the neighbours and itself of leaky-relu(u·z_i + v·z_j)
    Without edges (neighbours = 0, or a sequence of one token) all three are the linear gate, exactly.
    Source: GNN-MoE (domain generalisation with Kronecker adapters), abstract only. Unverified: how its graph is made, depth
    (one convolution here) and the size of k. Its experts, Kronecker adapters, are not part of a gate.
    """

    causal = False

    def __init__(self, d_model: int, experts: int, convolution: Convolution = "gcn", neighbours: int = 8) -> None:
        super().__init__(d_model, experts)
        if convolution not in get_args(Convolution) or neighbours < 0:
            known = ", ".join(get_args(Convolution))
            raise UserError(
                f"{convolution!r} with {neighbours} neighbours", field="convolution", fix=f"one of {known}; 0 or more"
            )
        self.convolution: Convolution = convolution
        self.neighbours = neighbours
        self.weight_ED = fresh(experts, d_model)
        self.neighbour_ED = fresh(experts, d_model) if convolution == "sage" else None
        self.attend_2E = nn.Parameter(torch.randn(2, experts) * experts**-0.5) if convolution == "gat" else None

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Linear scores, then one step over the graph."""
        x_BSD = by_sequence(x_TD, context)
        z_BSE = linear32(x_BSD, self.weight_ED)
        edges_BSS = self.edges(x_BSD.detach(), context)
        if self.convolution == "gcn":
            out_BSE = _gcn(z_BSE, edges_BSS)
        elif self.convolution == "sage":
            assert self.neighbour_ED is not None
            out_BSE = z_BSE + linear32(_mean(x_BSD, edges_BSS), self.neighbour_ED)
        else:
            assert self.attend_2E is not None
            out_BSE = _gat(z_BSE, edges_BSS, self.attend_2E.float())
        logits_TE = out_BSE.flatten(0, 1)
        return Scores(logits_TE, logits_TE.softmax(dim=-1))

    def edges(self, x_BSD: Tensor, context: RouteContext) -> Tensor:
        """The edges, bool [B, S, S]: the nearest real tokens of each, itself not among them."""
        length = x_BSD.shape[1]
        alone_BSS = torch.zeros(x_BSD.shape[0], length, length, dtype=torch.bool, device=x_BSD.device)
        k = min(self.neighbours, length - 1)
        if k <= 0:
            return alone_BSS
        allowed = visible_BSS(context, causal=False) & ~torch.eye(length, dtype=torch.bool, device=x_BSD.device)
        near = cosine_BSS(x_BSD).masked_fill(~allowed, -torch.inf).topk(k, dim=-1).indices
        return alone_BSS.scatter(2, near, True) & allowed


def _gcn(z_BSE: Tensor, edges_BSS: Tensor) -> Tensor:
    loops = torch.eye(edges_BSS.shape[-1], dtype=torch.bool, device=edges_BSS.device)
    adjacent_BSS = (edges_BSS | edges_BSS.transpose(1, 2) | loops).float()
    scale_BS1 = adjacent_BSS.sum(dim=-1, keepdim=True).rsqrt()
    return scale_BS1 * (adjacent_BSS @ (scale_BS1 * z_BSE))


def _mean(x_BSD: Tensor, edges_BSS: Tensor) -> Tensor:
    adjacent_BSS = edges_BSS.float()
    return (adjacent_BSS @ x_BSD) / adjacent_BSS.sum(dim=-1, keepdim=True).clamp_min(1.0)


def _gat(z_BSE: Tensor, edges_BSS: Tensor, attend_2E: Tensor) -> Tensor:
    loops = torch.eye(edges_BSS.shape[-1], dtype=torch.bool, device=edges_BSS.device)
    from_BS, to_BS = (z_BSE @ attend_2E.t()).unbind(-1)
    energy_BSS = functional.leaky_relu(from_BS[:, :, None] + to_BS[:, None, :], 0.2)
    return energy_BSS.masked_fill(~(edges_BSS | loops), -torch.inf).softmax(dim=-1) @ z_BSE


def got_smoe(
    d_model: int,
    experts: int,
    k: int = 2,
    *,
    smoothing: Smoothing = "similarity",
    temperature: float = 0.1,
    causal: bool = True,
    switch: float = 0.01,
) -> Gate:
    """Graph of Tokens: top-k of the smoothed distribution."""
    kind = SmoothedScorer if causal else WholeSmoothedScorer
    return top_k_gate(kind(d_model, experts, smoothing, temperature), k, switch=switch)


def gnn_moe(
    d_model: int,
    experts: int,
    k: int = 2,
    *,
    convolution: Convolution = "gcn",
    neighbours: int = 8,
    switch: float = 0.01,
) -> Gate:
    """GNN-MoE: top-k of the graph-convolved scores."""
    return top_k_gate(GraphScorer(d_model, experts, convolution, neighbours), k, switch=switch)
