"""Routing among adapters that were trained apart: one vector per adapter (PHATGOOSE), with a global part (Glider).

Shape suffixes: T tokens, E adapters, D width, G width of an instruction embedding, Q tasks, O output width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.contracts import Gate, Scorer
from junctor.layers.linear import fp32_logits
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.pooling import standardised, task_T
from junctor.layers.selectors import TopK


class PrototypeScorer(Scorer):
    """z_te = LN(x_t) · LN(v_e) / sqrt(D), norms without learned scale; p = softmax(z)."""

    prototype_ED: Tensor

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        self.prototype_ED = nn.Parameter(torch.randn(experts, d_model))

    def forward(self, context: RouteContext) -> Scores:
        """Scores of each token alone."""
        logits_TE = self.local(context)
        return Scores(logits_TE, logits_TE.softmax(-1))

    def local(self, context: RouteContext) -> Tensor:
        """Z."""
        return fp32_logits(standardised(context.x_TD), standardised(self.prototype_ED)) / math.sqrt(self.d_model)

    def load(self, vectors: Sequence[Tensor]) -> None:
        """Take the gate vectors of separately trained adapters, in their order."""
        if len(vectors) != self.experts:
            raise UserError(f"{len(vectors)} vectors", field="vectors", fix=f"{self.experts}: one per adapter")
        with torch.no_grad():
            self.prototype_ED.copy_(torch.stack(list(vectors)))


def phatgoose(d_model: int, experts: int, k: int = 2) -> Gate:
    """PHATGOOSE's gate: top-2 of z, softmax over the two, per token and module; vectors from `fit_gate_vector`.

    Source: the authors' code ("Learning to Route Among Specialized Experts for Zero-Shot Generalization").
    """
    return Gate(PrototypeScorer(d_model, experts), _top(min(k, experts)))


def _top(k: int) -> TopK:
    return TopK(k, "plain" if k == 1 else "renormalised")


class SelfGated(nn.Module):
    """What a vector is trained in: y = base(x) + sigmoid(v · x) adapter(x), base and adapter frozen, v starting at zero."""

    def __init__(self, base: nn.Module, adapter: nn.Module, d_model: int) -> None:
        super().__init__()
        self.base, self.adapter = base.requires_grad_(False), adapter.requires_grad_(False)
        self.vector_D = nn.Parameter(torch.zeros(d_model))

    def forward(self, x_TD: Tensor) -> Tensor:
        """Gated output."""
        y: Tensor = self.base(x_TD)
        delta: Tensor = self.adapter(x_TD)
        return y + torch.sigmoid(fp32_logits(x_TD, self.vector_D[None])).to(delta.dtype) * delta


def fit_gate_vector(
    gated: SelfGated,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int = 100,
    lr: float = 1e-3,
) -> Tensor:
    """PHATGOOSE's second stage: train v alone on the adapter's own data; nobody else's data is needed. Gives v."""
    optimiser = torch.optim.Adam([gated.vector_D], lr=lr)
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimiser.zero_grad()
        torch.autograd.backward(loss(gated(x), y))
        optimiser.step()
    return gated.vector_D.detach().clone()


class GliderScorer(PrototypeScorer):
    """z = mix * cos(instruction of the task, adapter's embedding) / temperature + (1 - mix) * PHATGOOSE's z.

    instruction_QG, embedding_EG   buffers, from any text encoder: `describe`
    The local part is PHATGOOSE's with mix 0; mix 1 is the global part alone, the same for all tokens of a task.
    """

    instruction_QG: Tensor
    embedding_EG: Tensor

    def __init__(self, d_model: int, experts: int, tasks: int, width: int, mix: float, temperature: float) -> None:
        super().__init__(d_model, experts)
        if not 0.0 <= mix <= 1.0 or temperature <= 0.0:
            raise UserError(f"mix {mix}, temperature {temperature}", field="mix", fix="mix in 0…1, temperature above 0")
        self.tasks, self.mix, self.temperature = tasks, mix, temperature
        self.register_buffer("instruction_QG", torch.zeros(tasks, width))
        self.register_buffer("embedding_EG", torch.zeros(experts, width))

    def describe(self, instruction_QG: Tensor, embedding_EG: Tensor) -> None:
        """Take the embeddings of the tasks' instructions and of the adapters."""
        if instruction_QG.shape != self.instruction_QG.shape or embedding_EG.shape != self.embedding_EG.shape:
            raise UserError(
                f"got {tuple(instruction_QG.shape)} and {tuple(embedding_EG.shape)}",
                field="instruction_QG",
                fix=f"{tuple(self.instruction_QG.shape)} and {tuple(self.embedding_EG.shape)}",
            )
        self.instruction_QG.copy_(instruction_QG)
        self.embedding_EG.copy_(embedding_EG)

    def overall(self, context: RouteContext) -> Tensor:
        """The global part [T, E]."""
        cosine_QE = (
            functional.normalize(self.instruction_QG.float(), dim=1)
            @ functional.normalize(self.embedding_EG.float(), dim=1).t()
        )
        return (cosine_QE / self.temperature)[task_T(context, self.tasks)]

    def forward(self, context: RouteContext) -> Scores:
        """Both parts, mixed."""
        logits_TE = self.mix * self.overall(context) + (1.0 - self.mix) * self.local(context)
        return Scores(logits_TE, logits_TE.softmax(-1))


def glider(
    d_model: int, experts: int, k: int = 2, tasks: int = 1, width: int = 16, mix: float = 0.5, temperature: float = 1.0
) -> Gate:
    """Glider: a global score from an instruction's embedding beside a local one per token and module; top-2.

    Source: the paper's abstract ("Glider: Global and Local Instruction-Driven Expert Router"). There the instruction is
    written by a language model; here any embedding serves. The mixing rule and its weight are unverified.
    """
    return Gate(GliderScorer(d_model, experts, tasks, width, mix, temperature), _top(min(k, experts)))
