"""TESTAM's gate: which expert's answer is most like what a memory recalls for the token.

Shape suffixes: T tokens, B sequences, S positions (T = B S), E experts, M memory units, C memory width, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.competition import Responses, responses
from junctor.layers.contracts import Scorer
from junctor.layers.experts import ExpertBank
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.pooling import sequence_T
from junctor.layers.selectors import real_T


def xavier(*shape: int) -> nn.Parameter:
    """Uniform within sqrt(6 / (fan in + fan out)) of the last two dimensions."""
    bound = (6.0 / (shape[-1] + shape[-2])) ** 0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class MemoryScorer(Scorer):
    """z_te = cos(r_t, a_te), p = softmax(z).

    r_t = softmax(x_t Q Mem') Mem, what the memory [M, C] recalls. a_te = sum_s softmax_s(h_te Q_e (h_se K_e)') h_se V_e,
    attention of expert e's outputs h_te over the sequence. Every expert answers every token, in evaluation too, as
    released. There the attention is over all positions of a window that is known; here over earlier ones and the own, so that
    routes are causal.

    `attach_experts` gives the bank, or a callable of x [T, D] to outputs [T, E, D]; it is not owned. Gradients of z reach the
    experts, as released.
    """

    def __init__(self, d_model: int, experts: int, units: int = 20, width: int = 32) -> None:
        super().__init__(d_model, experts)
        if min(units, width) < 1:
            raise UserError(f"{units} units of width {width}", field="memory", fix="both at least 1")
        self.memory_MC, self.query_DC = xavier(units, width), xavier(d_model, width)
        self.queries_EDC, self.keys_EDC, self.values_EDC = (xavier(experts, d_model, width) for _ in range(3))
        self._experts: tuple[ExpertBank | Responses] | None = None

    def attach_experts(self, experts: ExpertBank | Responses) -> None:
        """Where the experts' outputs come from."""
        self._experts = (experts,)

    def forward(self, context: RouteContext) -> Scores:
        """Scores of the context's tokens."""
        if context.x_TD.dim() != 2 or context.x_TD.shape[1] != self.d_model:
            raise UserError(f"is {tuple(context.x_TD.shape)}", field="x_TD", fix=f"(tokens, {self.d_model})")
        real = real_T(context)
        x_TD = torch.where(real[:, None], context.x_TD, torch.zeros_like(context.x_TD))
        with torch.autocast(x_TD.device.type, enabled=False):
            out_TED = responses(self._experts, x_TD, self.experts)
            recalled_TC = self.recall(x_TD.float())
            answer_TEC = self.attend(out_TED, context, real)
            logits_TE = functional.cosine_similarity(recalled_TC[:, None], answer_TEC, dim=-1)
            spoilt_T1 = x_TD.float().sum(dim=1, keepdim=True).isnan()
            logits_TE = logits_TE.masked_fill(spoilt_T1, torch.nan)
            return Scores(logits_TE, logits_TE.softmax(dim=-1))

    def recall(self, x_TD: Tensor) -> Tensor:
        """R [T, C]."""
        memory_MC = self.memory_MC.float()
        return (x_TD @ self.query_DC.float() @ memory_MC.t()).softmax(dim=-1) @ memory_MC

    def attend(self, out_TED: Tensor, context: RouteContext, real: Tensor) -> Tensor:
        """A [T, E, C]; padding is nobody's past."""
        _, batch = sequence_T(context)
        h_BSED = out_TED.reshape(batch, len(out_TED) // max(batch, 1), self.experts, self.d_model)
        query, key, value = (
            torch.einsum("bsed,edc->besc", h_BSED, one.float()) for one in (self.queries_EDC, self.keys_EDC, self.values_EDC)
        )
        place_S = torch.arange(h_BSED.shape[1], device=real.device)
        seen_BSS = (place_S[:, None] >= place_S) & real.reshape(batch, 1, h_BSED.shape[1]) | (place_S[:, None] == place_S)
        mixed_BESC = functional.scaled_dot_product_attention(query, key, value, seen_BSS[:, None], scale=1.0)
        return mixed_BESC.permute(0, 2, 1, 3).reshape(len(out_TED), self.experts, query.shape[-1])
