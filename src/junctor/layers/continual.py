"""Learning task after task without moving the old routes: SAME, and T2MIR's pair of token and task gates.

Shape suffixes: T tokens, B sequences, E experts, D width, C width of a task code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer, real_rows
from junctor.layers.contracts import Gate, Scorer
from junctor.layers.hooks import ProjectedStep
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.pooling import Float32State, LinearScore, mean_BD
from junctor.layers.replay import Draws
from junctor.layers.scorers import noise_like
from junctor.layers.selectors import TopK, check_k


class RememberingScorer(Float32State, LinearScorer):
    """A linear scorer that keeps the second moment of the inputs it has been shown: gram = sum x xᵀ, in fp32 buffers.

    `observe` is called between tasks on inputs of the task just learned, never in forward.
    """

    gram_DD: Tensor
    seen: Tensor

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        self.register_buffer("gram_DD", torch.zeros(d_model, d_model))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, x_TD: Tensor) -> None:
        """Add inputs of a finished task."""
        if not bool(x_TD.isfinite().all()):
            raise UserError("inputs are not all finite", field="x_TD", fix="show the inputs that the gate was trained on")
        self.gram_DD.add_(x_TD.float().t() @ x_TD.float())
        self.seen.add_(x_TD.shape[0])

    def basis(self, energy: float = 1.0) -> Tensor:
        """Orthonormal [D, R]: the directions that hold this share of the seen inputs' energy; 1 keeps all of them."""
        value_D, vector_DD = torch.linalg.eigh(self.gram_DD.double())
        value_D, vector_DD = value_D.flip(0).clamp_min(0.0), vector_DD.flip(1)
        if not int(self.seen) or float(value_D[0]) == 0.0:
            return self.gram_DD.new_zeros(self.d_model, 0)
        real = int((value_D > value_D[0] * 1e-6).sum())
        need = int((value_D.cumsum(0) / value_D.sum() < energy).sum()) + 1 if energy < 1.0 else real
        kept_DR: Tensor = vector_DD[:, : min(need, real)]
        return kept_DR.float().contiguous()

    def damping(self, strength: float) -> Tensor:
        """(I + strength C / mean eigenvalue of C)⁻¹ [D, D], C the seen inputs' covariance: small along what was often seen."""
        eye = torch.eye(self.d_model, device=self.gram_DD.device)
        if not int(self.seen):
            return eye
        relative_DD = self.gram_DD / (self.gram_DD.trace() / self.d_model).clamp_min(1e-12)
        out_DD: Tensor = torch.linalg.inv(eye + strength * relative_DD)
        return out_DD


def same(d_model: int, experts: int, k: int = 2, balance: float = 0.0) -> Gate:
    """SAME's gate: linear top-k whose updates are projected off the old tasks' inputs (`same_step`).

    Source: the abstract only. The projection gives
    logits that do not change on the span of the seen inputs; how the paper chooses its rank, the damping's exact form and the
    rule of adaptive freezing are unverified.
    """
    selector = TopK(k := min(k, experts), "plain" if k == 1 else "renormalised")
    return Gate(RememberingScorer(d_model, experts), selector, LossBalancer(switch=balance))


def same_step(
    optimiser: torch.optim.Optimizer,
    gate: Gate,
    experts: Mapping[nn.Parameter, Tensor] | None = None,
    still: Mapping[nn.Parameter, Tensor] | None = None,
    energy: float = 1.0,
) -> ProjectedStep:
    """The optimiser for the next task: the gate's step projected, experts' steps damped by `experts`, `still` ones frozen."""
    scorer = cast(RememberingScorer, gate.scorer)
    return ProjectedStep(optimiser, {scorer.weight_ED: scorer.basis(energy)}, experts, still)


def settled(old_counts_E: Tensor, new_counts_E: Tensor, least: float = 0.05) -> Tensor:
    """Bool [E], experts to freeze: they took at least this share of the old tasks' edges and take less of the new task's."""
    old_E = old_counts_E.float() / old_counts_E.sum().clamp_min(1)
    new_E = new_counts_E.float() / new_counts_E.sum().clamp_min(1)
    return (old_E >= least) & (new_E < least)


@dataclass(frozen=True, slots=True)
class NoisyScores(Scores):
    """Scores of noisy logits, with what they were without noise (clean_TE) and the noise's scale (scale_TE)."""

    clean_TE: Tensor | None = None
    scale_TE: Tensor | None = None


def smooth_load(scores: Scores, context: RouteContext, k: int) -> Tensor:
    """Load_e = sum_t P(e is among the k of t when its own noise is drawn again), fp32 [E], with a gradient.

    P = Phi((clean_te - threshold_te) / scale_te), the threshold the k-th largest of the other noisy logits (Shazeer et al.
    2017, equations 8 to 10). Without noise it is the count, without a gradient; with k = E every P is 1.
    """
    noisy_TE = real_rows(scores.logits_TE, context)
    if not isinstance(scores, NoisyScores) or scores.clean_TE is None or scores.scale_TE is None:
        return torch.zeros_like(noisy_TE).scatter(1, noisy_TE.topk(k, dim=1).indices, 1.0).sum(dim=0)
    if k >= noisy_TE.shape[1]:
        return torch.ones_like(noisy_TE).sum(dim=0)
    best_TK = noisy_TE.topk(k + 1, dim=1).values
    inside_TE = noisy_TE >= best_TK[:, k - 1 : k]
    threshold_TE = torch.where(inside_TE, best_TK[:, k:], best_TK[:, k - 1 : k])
    gap_TE = real_rows(scores.clean_TE, context) - threshold_TE
    chance_TE: Tensor = torch.special.ndtr(gap_TE / real_rows(scores.scale_TE, context))
    return chance_TE.sum(dim=0)


class ImportanceAndLoad(LossBalancer):
    """CV² of importance and CV² of the smooth load, each with its weight."""

    def __init__(self, k: int, importance: float, load: float) -> None:
        super().__init__(importance=importance)
        self.k, self.load = k, load

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """Both losses."""
        out = super().loss(plan, scores, context)
        if self.load:
            load_E = smooth_load(scores, context, min(self.k, plan.experts))
            out["load"] = self.load * load_E.var(unbiased=False) / load_E.mean().square().clamp_min(1e-20)
        return out


class NoisyScorer(Scorer):
    """z = x W + n softplus(x W_n) in training, n from N(0, 1) by the context's generator; z = x W otherwise; softmax.

    W_n starts at zero, so that the noise's scale starts at ln 2.
    """

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        self.clean = LinearScore(d_model, experts, bias=False)
        self.noise = LinearScore(d_model, experts, bias=False)
        nn.init.zeros_(self.noise.weight)

    def forward(self, context: RouteContext) -> Scores:
        """Scores of each token alone."""
        return self.noisy(context.x_TD, context)

    def noisy(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Scores of these rows."""
        clean_TE: Tensor = self.clean(x_TD)
        if not context.training:
            return Scores(clean_TE, clean_TE.softmax(-1))
        scale_TE = functional.softplus(self.noise(x_TD))
        logits_TE = clean_TE + noise_like(clean_TE, context.generator) * scale_TE
        return NoisyScores(logits_TE, logits_TE.softmax(-1), clean_TE=clean_TE, scale_TE=scale_TE)


class TaskCodeScorer(NoisyScorer):
    """One route per sequence: code = mean over its tokens of encoder(x); noisy scores of the code. `state` is the code [T, C].

    The mean sees later tokens: causal=False.
    """

    causal: ClassVar[bool] = False

    def __init__(self, d_model: int, experts: int, code: int) -> None:
        super().__init__(code, experts)
        self.d_model = d_model
        self.encoder = LinearScore(d_model, code)

    def forward(self, context: RouteContext) -> Scores:
        """Scores of each token's sequence."""
        x_BD, seq_T = mean_BD(context)
        code_BC: Tensor = self.encoder(x_BD)
        made = self.noisy(code_BC, context)
        rows: dict[str, Any] = {"logits_TE": made.logits_TE[seq_T], "probs_TE": made.probs_TE[seq_T], "state": code_BC[seq_T]}
        if isinstance(made, NoisyScores) and made.clean_TE is not None and made.scale_TE is not None:
            rows |= {"clean_TE": made.clean_TE[seq_T], "scale_TE": made.scale_TE[seq_T]}
        return replace(made, **rows)


class TaskContrast(ImportanceAndLoad):
    """InfoNCE between codes and a momentum copy's codes, so that sequences of one task lie together; plus ImportanceAndLoad.

    loss_b = -log (sum over sequences j of b's task exp(q_b · k_j / temperature) / sum over all j), q and k of unit length, k
    from the copy. Without task ids only b itself is of b's task. The copy follows in `update`: copy = momentum copy + (1 -
    momentum) encoder.
    """

    def __init__(
        self,
        scorer: TaskCodeScorer,
        weight: float,
        momentum: float,
        temperature: float,
        *,
        k: int,
        importance: float,
        load: float,
    ) -> None:
        super().__init__(k, importance, load)
        self.__dict__["source"] = scorer.encoder
        self.copy = copy.deepcopy(scorer.encoder).requires_grad_(False)
        self.weight, self.momentum, self.temperature = weight, momentum, temperature

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """Importance, load and contrast."""
        x_BD, seq_T = mean_BD(context)
        out = super().loss(plan, scores, context)
        if not len(x_BD) or scores.state is None:
            return out
        first_B = torch.searchsorted(seq_T, torch.arange(len(x_BD), device=seq_T.device))
        query_BC = functional.normalize(scores.state[first_B], dim=1)
        key_BC = functional.normalize(self.copy(x_BD).detach(), dim=1)
        own_BB = torch.eye(len(x_BD), dtype=torch.bool, device=seq_T.device)
        if context.task_ids_T is not None:
            task_B = context.task_ids_T[first_B]
            own_BB = task_B[:, None] == task_B[None]
        near_BB = query_BC @ key_BC.t() / self.temperature
        matched_B = near_BB.masked_fill(~own_BB, float("-inf")).logsumexp(1)
        return out | {"contrast": self.weight * (near_BB.logsumexp(1) - matched_B).mean()}

    @torch.no_grad()
    def update(self, counts_E: Tensor) -> None:
        """Move the copy; once per optimiser step."""
        del counts_E
        for kept, now in zip(self.copy.parameters(), self.__dict__["source"].parameters(), strict=True):
            kept.lerp_(now.to(kept), 1.0 - self.momentum)


def t2mir_token(d_model: int, experts: int, k: int = 2, importance: float = 1e-2, load: float = 1e-2) -> Gate:
    """T2MIR's token-wise gate: noisy top-k with the CV² losses of importance and of smooth load; their weights unverified."""
    return Gate(NoisyScorer(d_model, experts), _top(k, experts), ImportanceAndLoad(k, importance, load))


def t2mir_task(
    d_model: int,
    experts: int,
    k: int = 2,
    code: int = 16,
    contrast: float = 1e-2,
    momentum: float = 0.99,
    temperature: float = 0.1,
    importance: float = 1e-2,
    load: float = 1e-2,
) -> Gate:
    """T2MIR's task-wise gate: noisy top-k of a pooled code, trained with a contrastive loss.

    Source: the authors' code ("Mixture-of-experts meets in-context reinforcement learning"); code width, momentum, temperature
    and loss weights are unverified.
    """
    scorer = TaskCodeScorer(d_model, experts, code)
    return Gate(
        scorer, _top(k, experts), TaskContrast(scorer, contrast, momentum, temperature, k=k, importance=importance, load=load)
    )


def _top(k: int, experts: int) -> TopK:
    k = check_k(min(k, experts), experts)
    return TopK(k, "plain" if k == 1 else "renormalised")


Bank = Callable[[Tensor, Plan], Tensor]


class TwoWay(nn.Module):
    """T2MIR's layer: a token-wise and a task-wise mixture side by side, their outputs concatenated [T, 2 O]."""

    def __init__(self, token_gate: Gate, token_bank: Bank, task_gate: Gate, task_bank: Bank) -> None:
        super().__init__()
        self.token_gate, self.token_bank, self.task_gate, self.task_bank = token_gate, token_bank, task_gate, task_bank
        self._draws = Draws()

    def forward(self, context: RouteContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Both outputs, and both gates' losses under "token." and "task."."""
        context = self._draws.own(context)
        outs: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        for name, gate, bank in (("token", self.token_gate, self.token_bank), ("task", self.task_gate, self.task_bank)):
            plan, scores = gate(context)
            outs.append(bank(context.x_TD, plan))
            losses |= {f"{name}.{key}": value for key, value in gate.balancer.loss(plan, scores, context).items()}
        return torch.cat(outs, dim=-1), losses
