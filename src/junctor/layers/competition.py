"""Competition: on scheduled steps all experts answer and the loudest win; the router learns to foresee the winners.

Shape suffixes: T tokens, E experts, D model width, O output width, N edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer, mean_rows, real_rows
from junctor.layers.contracts import Gate
from junctor.layers.experts import ExpertBank
from junctor.layers.linear import LinearScorer, fp32_logits
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import TopK, check_k

Responses = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class CompetitionSchedule:
    """Which layers compete at which step: a pure function of the step, so that a replayed forward decides the same.

    layers  how many layers share the schedule;  most  at most so many of them at one step
    rate    probability that a layer competes at a step after `warmup` steps without competition
    """

    rate: float = 0.1
    warmup: int = 100
    layers: int = 1
    most: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0 or self.layers < 1 or self.most < 0:
            raise UserError(f"is {self}", field="schedule", fix="a rate of 0 to 1, one layer or more, at most 0 or more")

    def competing(self, step: int) -> list[int]:
        """The layers that compete at this step."""
        if step < self.warmup:
            return []
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        draws: list[float] = torch.rand(self.layers, generator=generator).tolist()
        willing = sorted((draw, layer) for layer, draw in enumerate(draws) if draw < self.rate)
        return sorted(layer for _, layer in willing[: self.most])


@dataclass(frozen=True, slots=True)
class CompetitionScores(Scores):
    """Scores of a competing step: logits_TE are the router's, probs_TE the experts' own responses; `likeness`: mean cosine of
    the outputs of two experts for one token.
    """  # fmt: skip

    likeness: Tensor | None = None


class CompetitionScorer(LinearScorer):
    """Plain steps: p = softmax(x W'). Competing steps: p_e = a_e = mean over O of softplus(f_e(x)), from all E experts.

    `attach_experts` gives the bank, or a callable of x [T, D] to outputs [T, E, O]. It is not owned (no parameter is counted
    twice). A competing step without it raises. In evaluation there is no competition.
    """

    def __init__(self, d_model: int, experts: int, schedule: CompetitionSchedule, layer: int = 0) -> None:
        super().__init__(d_model, experts)
        if not 0 <= layer < schedule.layers:
            raise UserError(f"is {layer}", field="layer", fix=f"0 to {schedule.layers - 1}, or a schedule of more layers")
        self.schedule, self.layer = schedule, layer
        self._experts: tuple[ExpertBank | Responses] | None = None

    def attach_experts(self, experts: ExpertBank | Responses) -> None:
        """Where the experts' outputs come from."""
        self._experts = (experts,)

    def competes(self, context: RouteContext) -> bool:
        """Whether this call is a competition."""
        return context.training and self.layer in self.schedule.competing(context.step)

    def forward(self, context: RouteContext) -> Scores:
        """The router's scores; on a competing step the responses beside them."""
        logits_TE = fp32_logits(context.x_TD, self.weight_ED)
        if not self.competes(context):
            return Scores(logits_TE, logits_TE.softmax(dim=-1))
        out_TEO = responses(self._experts, context.x_TD, self.experts)
        with torch.autocast(out_TEO.device.type, enabled=False):
            return CompetitionScores(logits_TE, functional.softplus(out_TEO).mean(dim=-1), likeness=_likeness(out_TEO, context))


def responses(experts: tuple[ExpertBank | Responses] | None, x_TD: Tensor, count: int) -> Tensor:
    """Outputs [T, E, O] of all experts that were attached, fp32; UserError where none were, or they are of another number."""
    if experts is None:
        raise UserError("no experts to look at", field="experts", fix="gate.scorer.attach_experts(bank)")
    (attached,) = experts
    if isinstance(attached, ExpertBank):
        out_TEO: Tensor = attached(x_TD.to(attached.w_in_EDI.dtype)).transpose(0, 1)
    else:
        out_TEO = attached(x_TD)
    if out_TEO.dim() != 3 or out_TEO.shape[:2] != (x_TD.shape[0], count):
        fix = f"({x_TD.shape[0]}, {count}, width)"
        raise UserError(f"are {tuple(out_TEO.shape)}", field="responses", fix=fix)
    return out_TEO.float()


def _likeness(out_TEO: Tensor, context: RouteContext) -> Tensor:
    experts = out_TEO.shape[1]
    total_TO = functional.normalize(out_TEO, dim=-1).sum(dim=1)
    pairs_T1 = (total_TO.square().sum(dim=1, keepdim=True) - experts) / max(experts * (experts - 1), 1)
    return mean_rows(real_rows(pairs_T1, context)).sum()


class CompetitionLoss(LossBalancer):
    """Switch loss always; on a competing step also

    "distil"     MSE(softmax z, sg softmax a) over all experts, plus the same over the chosen edges: only the router learns
    "diversity"  mean cosine between two experts' outputs for a token: only the experts learn
    """

    def __init__(self, distil: float = 1.0, diversity: float = 0.01, **weights: float) -> None:
        super().__init__(**weights)
        self.distil, self.diversity = distil, diversity

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """All that apply to this step."""
        losses = super().loss(plan, scores, context)
        if isinstance(scores, CompetitionScores) and scores.likeness is not None:
            losses["distil"] = self.distil * _foresight(plan, scores, context)
            losses["diversity"] = self.diversity * scores.likeness
        return losses


def _foresight(plan: Plan, scores: Scores, context: RouteContext) -> Tensor:
    gap_TE = (scores.logits_TE.softmax(dim=-1) - scores.probs_TE.softmax(dim=-1).detach()).square()
    everywhere = mean_rows(real_rows(gap_TE, context)).mean()
    return everywhere + gap_TE[plan.token_N, plan.expert_N()].sum() / max(plan.edges, 1)


def overlap(plan: Plan, scores: Scores, k: int) -> float:
    """Share of a competition's winners that the router's own top-k names: what the distillation raises."""
    guess_TK = scores.logits_TE.topk(k, dim=1).indices
    hit = plan.chosen_TE().gather(1, guess_TK).sum()
    return float(hit) / max(plan.edges, 1)


def competesmoe(
    d_model: int,
    experts: int,
    k: int = 2,
    *,
    rate: float = 0.1,
    warmup: int = 100,
    layers: int = 1,
    layer: int = 0,
    most: int = 1,
    seed: int = 0,
    switch: float = 0.01,
    distil: float = 1.0,
    diversity: float = 0.01,
) -> Gate:
    """CompeteSMoE (Nguyen et al.), released code: winners of the competition weigh a / sum a, else a plain top-k router.

    A competing step costs E / k of a plain one, plus the chosen experts again in the dispatch (the released code too evaluates
    them twice). `overlap` measures how well the router foresees. Unverified: the values of rate, warm-up and loss weights.
    """
    schedule = CompetitionSchedule(rate, warmup, layers, most, seed)
    scorer = CompetitionScorer(d_model, experts, schedule, layer)
    chosen = TopK(check_k(k, experts), "plain" if k == 1 else "renormalised")
    return Gate(scorer, chosen, CompetitionLoss(distil, diversity, switch=switch))
