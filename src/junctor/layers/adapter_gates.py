"""Gates made for adapter banks: CoMoL's in the core space, LoRA-Mixer's with hard routes while the task is known.

Shape suffixes: T tokens, E adapters, R rank, D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.adapters import AdaptedLinear, CoreBank, LimeBank
from junctor.layers.balancing import LossBalancer, mean_rows
from junctor.layers.contracts import Gate, Scorer, Selector
from junctor.layers.linear import LinearScorer, fp32_logits
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.pooling import All, LinearScore, task_T
from junctor.layers.selectors import TopK, checked, plan_from_mask, real_T
from junctor.layers.zero_parameter import FirstChannelScorer, lime


class CoreScorer(Scorer):
    """p = softmax(G A x): the gate reads the adapter's own R numbers, so it adds E R parameters and nothing per input width."""

    def __init__(self, d_model: int, experts: int, down: nn.Linear) -> None:
        super().__init__(d_model, experts)
        if down.in_features != d_model:
            raise UserError(f"down-projection reads {down.in_features}", field="down", fix=f"it must read {d_model}")
        self.down, self.score = down, LinearScore(down.out_features, experts, bias=False)

    def forward(self, context: RouteContext) -> Scores:
        """Scores of each token alone."""
        logits_TE: Tensor = self.score(fp32_logits(context.x_TD, self.down.weight))
        return Scores(logits_TE, logits_TE.softmax(-1))


def comol(d_model: int, experts: int, rank: int = 8, k: int | None = None, down: nn.Linear | None = None) -> Gate:
    """CoMoL's gate; soft over all cores, or top-k. `down` is the bank's A (`comol_adapter` shares it), else an own one."""
    selector: Selector = All() if k is None else TopK(k, "plain" if k == 1 else "renormalised")
    return Gate(CoreScorer(d_model, experts, down or nn.Linear(d_model, rank, bias=False)), selector)


def comol_adapter(linear: nn.Linear, experts: int, rank: int = 8, alpha: float = 16.0, k: int | None = None) -> AdaptedLinear:
    """A frozen linear layer with a core-space bank whose gate shares the bank's A."""
    bank = CoreBank(linear.in_features, linear.out_features, experts, rank, alpha)
    return AdaptedLinear(linear, bank, comol(linear.in_features, experts, rank, k, bank.down))


def lime_adapter(linear: nn.Linear, experts: int, rank: int = 8, alpha: float = 16.0, **settings: Any) -> AdaptedLinear:
    """A frozen linear layer with LiME on it: the gate without parameters reads the layer's output and the bank's delta.

    settings   of `zero_parameter.lime`: theta, gamma, temperature, window …
    """
    bank = LimeBank(linear.in_features, linear.out_features, experts, rank, alpha)
    gate = lime(linear.in_features, experts, **settings)
    cast(FirstChannelScorer, gate.scorer).attach(linear, bank.delta)
    return AdaptedLinear(linear, bank, gate)


class HardSoft(Selector):
    """Hard while the task is known: in training with task ids, the adapter of the token's task alone; else the k likeliest.

    The hard edge's weight is 1 in value and p in gradient (1 + p - p without gradient). Soft weights are renormalised.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.soft = TopK(k, "plain" if k == 1 else "renormalised")

    def forward(self, selection_TE: Tensor, scores: Scores, context: RouteContext) -> Plan:
        """The plan of either kind."""
        if not context.training or context.task_ids_T is None:
            out: Plan = self.soft(selection_TE, scores, context)
            return out
        checked(selection_TE, scores, context)
        chosen_TE = functional.one_hot(task_T(context, selection_TE.shape[1]), selection_TE.shape[1]).bool()
        hard_TE = 1.0 + (scores.probs_TE - scores.probs_TE.detach())
        return plan_from_mask(chosen_TE & real_T(context)[:, None], hard_TE)


class SpecialisationBalance(LossBalancer):
    """LoRA-Mixer's balance: Switch loss over the batch, and cross-entropy with the token's task where it is known."""

    def __init__(self, balance: float, align: float) -> None:
        super().__init__(switch=balance)
        self.align = align

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """Both parts, weighted."""
        out = super().loss(plan, scores, context)
        if context.task_ids_T is not None:
            task = task_T(context, scores.logits_TE.shape[1])
            each_T = functional.cross_entropy(scores.logits_TE, task, reduction="none")[real_T(context)]
            out["alignment"] = self.align * mean_rows(each_T[:, None]).sum()
        return out


def lora_mixer(d_model: int, experts: int, k: int = 2, balance: float = 1e-2, align: float = 1e-1) -> Gate:
    """LoRA-Mixer's gate: linear scores, hard-soft routes, specialisation-balance loss; the task's id is its adapter's index.

    Source: the paper's abstract (adapters serial in attention's projections: wrap those with `AdaptedLinear`). The form of the
    loss, its weights and the straight-through hard edge are our reading, unverified.
    """
    return Gate(LinearScorer(d_model, experts), HardSoft(min(k, experts)), SpecialisationBalance(balance, align))


def mutual_information(task_T: Tensor, probs_TE: Tensor, tasks: int) -> float:
    """I(task; adapter) in nats, the adapter drawn from each token's probabilities: 0 when routes do not tell tasks apart."""
    joint_QE = torch.zeros(tasks, probs_TE.shape[1], dtype=torch.float64)
    joint_QE.index_add_(0, task_T.cpu(), probs_TE.detach().double().cpu())
    joint_QE /= joint_QE.sum().clamp_min(1e-300)
    product_QE = joint_QE.sum(1, keepdim=True) * joint_QE.sum(0, keepdim=True)
    return float((joint_QE * (joint_QE.clamp_min(1e-300) / product_QE.clamp_min(1e-300)).log()).sum())
