"""Gates that read the task, not the token: Poly, MHR and their cheap forms, EPT's scales.

Shape suffixes: T tokens, B examples, S tokens per example, E skills (adapters), H blocks of the width, D input, O output, R
rank, X = D / H, Y = O / H, Q tasks.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.adapters import frozen
from junctor.layers.contracts import Gate, Scorer
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.pooling import All, sequence_T, task_T

TableActivation = Literal["sigmoid", "softmax"]


def table_probs(logits: Tensor, activation: TableActivation) -> Tensor:
    """softmax(z), or Poly's sigmoid(z) / sum sigmoid(z); over the last dimension, fp32."""
    if activation == "softmax":
        return logits.float().softmax(-1)
    logp = nn.functional.logsigmoid(logits.float())
    return logp.softmax(-1)


def relaxed(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Z + ln u - ln(1 - u), u uniform, fp32: its sigmoid is a relaxed Bernoulli draw of temperature 1 (reparametrised)."""
    device = logits.device if generator is None else generator.device
    u = torch.rand(logits.shape, generator=generator, device=device).to(logits.device).clamp(1e-6, 1 - 1e-6)
    return logits.float() + torch.logit(u)


class TaskTableScorer(Scorer):
    """z = Z[task of the token], Z [Q, E]; the token itself is not looked at.

    noise   in training the skills are drawn: relaxed Bernoulli of temperature 1 instead of sigmoid(z), one draw per sequence
            and task; in evaluation nothing is
    """

    def __init__(
        self,
        d_model: int,
        experts: int,
        tasks: int = 1,
        activation: TableActivation = "sigmoid",
        *,
        noise: bool = False,
    ) -> None:
        super().__init__(d_model, experts)
        if tasks < 1:
            raise UserError(f"{tasks} tasks", field="tasks", fix="at least 1")
        if noise and activation != "sigmoid":
            raise UserError("a softmax has no Bernoulli draw", field="noise", fix="noise=False, or the sigmoid")
        self.tasks, self.activation, self.noise = tasks, activation, noise
        self.table_QE = nn.Parameter(torch.empty(tasks, experts).uniform_(-1e-3, 1e-3))

    def forward(self, context: RouteContext) -> Scores:
        """Scores of the tokens' tasks."""
        task = task_T(context, self.tasks)
        if task.device != self.table_QE.device:
            raise UserError(
                f"task ids lie on {task.device}, the table on {self.table_QE.device}",
                field="context",
                fix="move both to one device",
            )
        if not (self.noise and context.training):
            return Scores(self.table_QE.float()[task], table_probs(self.table_QE, self.activation)[task])
        seq_T, batch = sequence_T(context)
        drawn_BQE = relaxed(self.table_QE.expand(batch, -1, -1), context.generator)
        probs_BQE = table_probs(drawn_BQE, self.activation)
        return Scores(drawn_BQE[seq_T, task], probs_BQE[seq_T, task])


def poly(d_model: int, experts: int, tasks: int = 1, *, noise: bool = True) -> Gate:
    """Poly: w = sigmoid(Z[task]) / sum sigmoid, soft over all skills; Z starts uniform in ±1e-3.

    In training sigmoid(Z) is a relaxed Bernoulli draw of temperature 1, one per example, as released; noise=False: it is not.

    Source: the authors' code ("Combining modular skills in multitask learning"; "Multi-head adapter routing" for the initial
    values). The published system merges A and B as parameters: `MhrLinear(splits=1)`. With a bank of adapters this gate gives
    the sum of outputs instead, which is another function, because B A is a product.
    """
    return Gate(TaskTableScorer(d_model, experts, tasks, "sigmoid", noise=noise), All())


def ept(d_model: int, experts: int, tasks: int = 1) -> Gate:
    """EPT's task-aware gate: softmax of a table over the scales of `adapters.PyramidBank`. Form unverified."""
    return Gate(TaskTableScorer(d_model, experts, tasks, "softmax"), All())


class MhrLinear(nn.Module):
    """A frozen linear layer with E LoRA skills merged per task and per block: MHR; with one block it is Poly.

    W[q, h] = sigmoid(Z[q, h]) / sum sigmoid over skills; block h of A (inputs X h … X (h+1)) is sum_e W[q, h, e] A_e's block,
    block h of B (outputs) likewise; y = W_0 x + (alpha / r) B_q A_q x. Source: the authors' code ("Multi-Head Adapter
    Routing"). In training sigmoid(Z) is a relaxed Bernoulli draw of temperature 1 per example and block, from `generator`;
    noise=False leaves it out.
    MHR-z: `train_table_only()`. MHR-mu: `averaged()`, one adapter for all tasks, the skills' mean.
    """

    def __init__(
        self,
        linear: nn.Linear,
        experts: int,
        tasks: int,
        splits: int = 1,
        rank: int = 4,
        alpha: float = 16.0,
        *,
        noise: bool = True,
    ) -> None:
        super().__init__()
        d, o = linear.in_features, linear.out_features
        if splits < 1 or d % splits or o % splits:
            raise UserError(f"{splits} blocks do not divide {d} and {o}", field="splits", fix="a divisor of both widths")
        self.linear, self.scale, self.noise = frozen(linear), alpha / rank, noise
        self.experts, self.tasks, self.splits, self.rank = experts, tasks, splits, rank
        bound = d**-0.5
        self.down_EHRX = nn.Parameter(torch.empty(experts, splits, rank, d // splits).uniform_(-bound, bound))
        self.up_EHYR = nn.Parameter(torch.zeros(experts, splits, o // splits, rank))
        self.table_QHE = nn.Parameter(torch.empty(tasks, splits, experts).uniform_(-1e-3, 1e-3))

    def merged(self, task_B: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """A [B, R, D] and B [B, O, R] of these tasks; in training with the noise of this call."""
        logits_BHE = self.table_QHE[task_B]
        if self.noise and self.training:
            logits_BHE = relaxed(logits_BHE, generator)
        weight_BHE = table_probs(logits_BHE, "sigmoid").to(self.down_EHRX.dtype)
        down_BRHX = torch.einsum("bhe,ehrx->brhx", weight_BHE, self.down_EHRX)
        up_BHYR = torch.einsum("bhe,ehyr->bhyr", weight_BHE, self.up_EHYR)
        return down_BRHX.flatten(2), up_BHYR.flatten(1, 2)

    def forward(self, x_BSD: Tensor, task_B: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, S, D] with one task per example."""
        if task_B.shape != x_BSD.shape[:1]:
            raise UserError(f"{tuple(task_B.shape)} tasks for {x_BSD.shape[0]} examples", field="task_B", fix="one per example")
        down_BRD, up_BOR = self.merged(task_B, generator)
        y: Tensor = self.linear(x_BSD)
        return y + (x_BSD @ down_BRD.transpose(1, 2) @ up_BOR.transpose(1, 2)) * self.scale

    def train_table_only(self) -> None:
        """MHR-z: the skills stay as they are, a new task tunes its row of Z (splits * experts numbers)."""
        self.down_EHRX.requires_grad_(False)
        self.up_EHYR.requires_grad_(False)

    def averaged(self) -> MhrLinear:
        """MHR-mu: the mean of the skills as one adapter, ready to be tuned; equals uniform Z."""
        out = MhrLinear(self.linear, 1, self.tasks, self.splits, self.rank, self.scale * self.rank, noise=False)
        with torch.no_grad():
            out.down_EHRX.copy_(self.down_EHRX.mean(0, keepdim=True))
            out.up_EHYR.copy_(self.up_EHYR.mean(0, keepdim=True))
        out.table_QHE.requires_grad_(False)
        return out
