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
from junctor.layers.pooling import All, task_T

TableActivation = Literal["sigmoid", "softmax"]


def table_probs(logits: Tensor, activation: TableActivation) -> Tensor:
    """softmax(z), or Poly's sigmoid(z) / sum sigmoid(z); over the last dimension, fp32."""
    if activation == "softmax":
        return logits.float().softmax(-1)
    logp = nn.functional.logsigmoid(logits.float())
    return logp.softmax(-1)


class TaskTableScorer(Scorer):
    """z = Z[task of the token], Z [Q, E]; the token itself is not looked at."""

    def __init__(self, d_model: int, experts: int, tasks: int = 1, activation: TableActivation = "sigmoid") -> None:
        super().__init__(d_model, experts)
        if tasks < 1:
            raise UserError(f"{tasks} tasks", field="tasks", fix="at least 1")
        self.tasks, self.activation = tasks, activation
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
        return Scores(self.table_QE.float()[task], table_probs(self.table_QE, self.activation)[task])


def poly(d_model: int, experts: int, tasks: int = 1) -> Gate:
    """Poly: w = sigmoid(Z[task]) / sum sigmoid, soft over all skills; Z starts uniform in ±1e-3.

    Source: the authors' code ("Combining modular skills in multitask learning"; "Multi-head adapter routing" for the initial
    values). The published system merges A and B as parameters: `MhrLinear(splits=1)`. With a bank of adapters this gate gives
    the sum of outputs instead, which is another function, because B A is a product. The relaxed Bernoulli noise is left out.
    """
    return Gate(TaskTableScorer(d_model, experts, tasks, "sigmoid"), All())


def ept(d_model: int, experts: int, tasks: int = 1) -> Gate:
    """EPT's task-aware gate: softmax of a table over the scales of `adapters.PyramidBank`. Form unverified."""
    return Gate(TaskTableScorer(d_model, experts, tasks, "softmax"), All())


class MhrLinear(nn.Module):
    """A frozen linear layer with E LoRA skills merged per task and per block: MHR; with one block it is Poly.

    W[q, h] = sigmoid(Z[q, h]) / sum sigmoid over skills; block h of A (inputs X h … X (h+1)) is sum_e W[q, h, e] A_e's block,
    block h of B (outputs) likewise; y = W_0 x + (alpha / r) B_q A_q x. Source: the authors' code ("Multi-Head Adapter
    Routing"); the relaxed Bernoulli noise of training is left out.
    MHR-z: `train_table_only()`. MHR-mu: `averaged()`, one adapter for all tasks, the skills' mean.
    """

    def __init__(
        self, linear: nn.Linear, experts: int, tasks: int, splits: int = 1, rank: int = 4, alpha: float = 16.0
    ) -> None:
        super().__init__()
        d, o = linear.in_features, linear.out_features
        if splits < 1 or d % splits or o % splits:
            raise UserError(f"{splits} blocks do not divide {d} and {o}", field="splits", fix="a divisor of both widths")
        self.linear, self.scale = frozen(linear), alpha / rank
        self.experts, self.tasks, self.splits, self.rank = experts, tasks, splits, rank
        bound = d**-0.5
        self.down_EHRX = nn.Parameter(torch.empty(experts, splits, rank, d // splits).uniform_(-bound, bound))
        self.up_EHYR = nn.Parameter(torch.zeros(experts, splits, o // splits, rank))
        self.table_QHE = nn.Parameter(torch.empty(tasks, splits, experts).uniform_(-1e-3, 1e-3))

    def merged(self, task_B: Tensor) -> tuple[Tensor, Tensor]:
        """A [B, R, D] and B [B, O, R] of these tasks."""
        weight_BHE = table_probs(self.table_QHE, "sigmoid")[task_B].to(self.down_EHRX.dtype)
        down_BRHX = torch.einsum("bhe,ehrx->brhx", weight_BHE, self.down_EHRX)
        up_BHYR = torch.einsum("bhe,ehyr->bhyr", weight_BHE, self.up_EHYR)
        return down_BRHX.flatten(2), up_BHYR.flatten(1, 2)

    def forward(self, x_BSD: Tensor, task_B: Tensor) -> Tensor:
        """[B, S, D] with one task per example."""
        if task_B.shape != x_BSD.shape[:1]:
            raise UserError(f"{tuple(task_B.shape)} tasks for {x_BSD.shape[0]} examples", field="task_B", fix="one per example")
        down_BRD, up_BOR = self.merged(task_B)
        y: Tensor = self.linear(x_BSD)
        return y + (x_BSD @ down_BRD.transpose(1, 2) @ up_BOR.transpose(1, 2)) * self.scale

    def train_table_only(self) -> None:
        """MHR-z: the skills stay as they are, a new task tunes its row of Z (splits * experts numbers)."""
        self.down_EHRX.requires_grad_(False)
        self.up_EHYR.requires_grad_(False)

    def averaged(self) -> MhrLinear:
        """MHR-mu: the mean of the skills as one adapter, ready to be tuned; equals uniform Z."""
        out = MhrLinear(self.linear, 1, self.tasks, self.splits, self.rank, self.scale * self.rank)
        with torch.no_grad():
            out.down_EHRX.copy_(self.down_EHRX.mean(0, keepdim=True))
            out.up_EHYR.copy_(self.up_EHYR.mean(0, keepdim=True))
        out.table_QHE.requires_grad_(False)
        return out
