"""Routes fixed by the token id: nothing is learned, nothing moves.

Shape suffixes: T tokens, E experts, V vocabulary, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.scorers import Float32Scorer, token_ids
from junctor.layers.selectors import TopK


class HashScorer(Float32Scorer):
    """p_te = 1/k for the k experts of token t's id, 0 elsewhere: a table drawn once from `seed`.

    table_VK  int64 buffer. Column 0 is balanced: over ids (their counts equal to within one), or, given counts_V, over
              occurrences, the most frequent id first to the least loaded expert. Further columns are distinct random others.
    Source: Hash Layers (Roller et al., 2021), random and balanced assignment, section 3; the router S-Hash of the unified
    scaling laws. Their MultiHash (different hashes for slices of an expert's parameters) is another thing and is not here.
    """

    table_VK: Tensor

    def __init__(
        self, d_model: int, experts: int, vocabulary: int, k: int = 1, seed: int = 0, counts_V: Tensor | None = None
    ) -> None:
        super().__init__(d_model, experts)
        if not 1 <= k <= experts or vocabulary < 1:
            raise UserError(f"k is {k}, the vocabulary {vocabulary}", field="k", fix=f"k of 1 to {experts}, one id or more")
        generator = torch.Generator().manual_seed(seed)
        first_V = _evenly(vocabulary, experts, generator) if counts_V is None else _by_frequency(counts_V, experts, vocabulary)
        shift_VK = torch.rand(vocabulary, experts - 1, generator=generator).topk(k - 1, dim=1).indices + 1
        rest_VK = (first_V[:, None] + shift_VK) % experts
        self.register_buffer("table_VK", torch.cat([first_V[:, None], rest_VK], dim=1))

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Look the ids up."""
        expert_TK = self.table_VK[token_ids(context, self.table_VK.shape[0])]
        probs_TE = x_TD.new_zeros(x_TD.shape[0], self.experts)
        probs_TE.scatter_(1, expert_TK, 1.0 / expert_TK.shape[1])
        return Scores(probs_TE, probs_TE)


def _evenly(vocabulary: int, experts: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(vocabulary, generator=generator) % experts


def _by_frequency(counts_V: Tensor, experts: int, vocabulary: int) -> Tensor:
    if counts_V.shape != (vocabulary,):
        raise UserError(f"is {tuple(counts_V.shape)}", field="counts_V", fix=f"one count per id: {vocabulary}")
    load, first_V = [0.0] * experts, torch.zeros(vocabulary, dtype=torch.int64)
    for token in counts_V.argsort(descending=True, stable=True).tolist():
        expert = min(range(experts), key=load.__getitem__)
        first_V[token] = expert
        load[expert] += float(counts_V[token])
    return first_V


def hashed(
    d_model: int, experts: int, k: int = 1, *, vocabulary: int = 256, seed: int = 0, counts_V: Tensor | None = None
) -> Gate:
    """The hash gate: constant routes, constant weights 1/k."""
    return Gate(HashScorer(d_model, experts, vocabulary, k, seed, counts_V), TopK(k, "plain"))
