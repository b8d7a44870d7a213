"""Gates for many languages and domains: families of experts, steering towards a pivot, pseudo-labels, phases by entropy.

Shape suffixes: T tokens, E experts, D width, L layers, Q languages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.balancing import importance_loss, mean_rows, normalised, real_rows, shannon
from junctor.layers.contracts import Balancer, Gate
from junctor.layers.hooks import ShiftedScorer, shifted
from junctor.layers.linear import LinearScorer, fp32_logits
from junctor.layers.memory import MemoryScorer
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.pooling import Float32State, task_T
from junctor.layers.selectors import TopK, check_k


def _top(k: int, experts: int) -> TopK:
    k = check_k(min(k, experts), experts)
    return TopK(k, "plain" if k == 1 else "renormalised")


# Post-MoE: experts by language family, in the last layers only


def expert_layers(layers: int, last: int) -> tuple[bool, ...]:
    """Which layers hold experts: the last ones; every earlier layer stays dense."""
    if not 0 <= last <= layers:
        raise UserError(f"{last} of {layers} layers", field="last", fix=f"0 to {layers}")
    return tuple(layer >= layers - last for layer in range(layers))


def family_table(family_of: Mapping[str, str]) -> tuple[dict[str, int], list[int]]:
    """Language ids (by name, sorted) and the family number of each id, from names: {"de": "germanic", …}."""
    names = sorted(set(family_of.values()))
    languages = {language: i for i, language in enumerate(sorted(family_of))}
    return languages, [names.index(family_of[language]) for language in languages]


def allowed_QE(family_of_Q: Sequence[int], experts: int, shared: int) -> Tensor:
    """bool, the experts of each language: its family's own, and the last `shared` ones, which every language may use."""
    families, own = max(family_of_Q) + 1, experts - shared
    if not 0 <= shared < experts or own < families or min(family_of_Q) < 0:
        raise UserError(
            f"{experts} experts, {shared} shared, {families} families",
            field="experts",
            fix="at least one own expert per family",
        )
    owner_E = torch.arange(own) * families // own
    table = torch.tensor(list(family_of_Q))[:, None] == owner_E[None]
    return torch.cat([table, torch.ones(len(family_of_Q), shared, dtype=torch.bool)], dim=1)


class FamilyScorer(LinearScorer):
    """z = x Wᵀ over the experts that the token's language may use, minus infinity elsewhere. Languages are task ids."""

    allowed_QE: Tensor

    def __init__(self, d_model: int, experts: int, families: Sequence[int], shared: int) -> None:
        super().__init__(d_model, experts)
        self.register_buffer("allowed_QE", allowed_QE(families, experts, shared))

    def forward(self, context: RouteContext) -> Scores:
        """Scores of each token alone."""
        allowed_TE = self.allowed_QE[task_T(context, self.allowed_QE.shape[0])]
        logits_TE = fp32_logits(context.x_TD, self.weight_ED).masked_fill(~allowed_TE, float("-inf"))
        return Scores(logits_TE, logits_TE.softmax(-1))


class OnlyAllowed(Balancer):
    """An expert at minus infinity is not selected, also where fewer than k are left."""

    def adjust(self, scores: Scores, context: RouteContext) -> Tensor:
        """Probabilities, or minus infinity."""
        del context
        return scores.probs_TE.detach().masked_fill(scores.logits_TE.isneginf(), float("-inf"))


def post_moe(d_model: int, experts: int, k: int = 2, families: Sequence[int] = (0,), shared: int = 0) -> Gate:
    """Language-family experts: top-k among the family's experts and the cross-lingual ones.

    families   the family number of each language id (`family_table`); languages of one family share experts, so a further
               language costs no parameter. `expert_layers` says where such layers go
    Source: the abstract only ("Post-MoE": experts in the last layers, language-specific routing, families for 50 languages);
    how cross-lingual experts are chosen there is unverified.
    """
    return Gate(FamilyScorer(d_model, experts, families, shared), _top(k, experts), OnlyAllowed())


# Multilingual steering: a bonus for experts that the pivot language uses


def frequency(plan: Plan) -> Tensor:
    """Share of edges per expert, fp32 [E]; zeros for an empty plan."""
    return plan.counts_E.float() / max(plan.edges, 1)


def middle_layers(layers: int) -> range:
    """The middle third, rounded outwards."""
    return range(layers // 3, layers - layers // 3)


def pivot_bonus(pivot_LE: Tensor, bonus: float, top: int, layers: Sequence[int] | None = None) -> Tensor:
    """[L, E], `bonus` for the `top` experts that the pivot language uses most in each of these layers (middle ones)."""
    check_k(top, pivot_LE.shape[1], field="top")
    out_LE = torch.zeros_like(pivot_LE)
    for layer in middle_layers(pivot_LE.shape[0]) if layers is None else layers:
        out_LE[layer, pivot_LE[layer].topk(top).indices] = bonus
    return out_LE


@torch.no_grad()
def steer(gates: Sequence[Gate], bonus_LE: Tensor) -> None:
    """Add each layer's bonus to its gate's logits; zeros undo it. No weight changes."""
    if bonus_LE.shape != (len(gates), gates[0].experts):
        raise UserError(f"bonus is {tuple(bonus_LE.shape)}", field="bonus_LE", fix=f"({len(gates)}, {gates[0].experts})")
    for gate, bonus_E in zip(gates, bonus_LE, strict=True):
        shifted(gate).shift_E.copy_(bonus_E)


def routing_divergence(one_E: Tensor, other_E: Tensor) -> float:
    """Jensen-Shannon divergence of two expert frequencies, in nats: 0 alike, ln 2 disjoint."""
    one_E, other_E = one_E.double(), other_E.double()
    return float(shannon((one_E + other_E) / 2) - (shannon(one_E) + shannon(other_E)) / 2)


def multilingual(d_model: int, experts: int, k: int = 2) -> Gate:
    """A linear top-k gate that can be steered; a gate that is there already is steered by `steer` just so.

    Source: the abstract only ("Multilingual routing in mixture-of-experts"): experts of middle layers that English uses often
    are promoted at inference. Size of the bonus, and additive rather than forced selection, are unverified.
    """
    return Gate(ShiftedScorer(LinearScorer(d_model, experts)), _top(k, experts))


# TESTAM: the gate is a classifier of which expert errs least


def pseudo_labels(error_TE: Tensor) -> Tensor:
    """int64 [T], the expert of least error (the first of equals); errors need no gradient."""
    if bool(error_TE.isnan().any()):
        raise UserError("an error is not a number", field="error_TE", fix="per-token losses of every expert")
    return error_TE.detach().argmin(dim=1)


def classification_loss(scores: Scores, error_TE: Tensor) -> Tensor:
    """Cross-entropy of the gate with the pseudo-labels; zero without tokens."""
    if error_TE.shape != scores.logits_TE.shape:
        raise UserError(
            f"errors are {tuple(error_TE.shape)}",
            field="error_TE",
            fix=f"one per token and expert: {tuple(scores.logits_TE.shape)}",
        )
    each_T = functional.cross_entropy(scores.logits_TE, pseudo_labels(error_TE), reduction="none")
    return mean_rows(each_T[:, None]).sum()


def worst_and_best_loss(scores: Scores, error_TE: Tensor) -> Tensor:
    """TESTAM's two losses, as released: -(1/2) mean over T and E of (avoid_te + best_te) ln p_te; zero without tokens.

    best_te is 1 for the expert of least error. avoid_te is 1 for the expert that the gate has chosen, unless that errs most:
    then the others share one, in proportion to their errors.
    """
    if error_TE.shape != scores.logits_TE.shape:
        fix = f"one per token and expert: {tuple(scores.logits_TE.shape)}"
        raise UserError(f"errors are {tuple(error_TE.shape)}", field="error_TE", fix=fix)
    error_TE, experts = error_TE.detach(), error_TE.shape[1]
    best_TE = functional.one_hot(pseudo_labels(error_TE), experts).float()
    chosen_T, worst_T = scores.logits_TE.detach().argmax(dim=1), error_TE.argmax(dim=1)
    chosen_TE = functional.one_hot(chosen_T, experts).float()
    others_TE = error_TE * (1 - functional.one_hot(worst_T, experts))
    others_TE = others_TE / others_TE.sum(dim=1, keepdim=True).clamp_min(1e-20)
    avoid_TE = torch.where((chosen_T == worst_T)[:, None], others_TE, chosen_TE)
    return -0.5 * mean_rows((avoid_TE + best_TE) * scores.logits_TE.log_softmax(dim=-1)).mean()


def least_error(d_model: int, experts: int = 3, *, memory: int = 0, width: int = 32) -> Gate:
    """TESTAM's gate: top-1 among (three) experts of different kind, trained by `worst_and_best_loss`.

    memory   units of the memory that the gate reads (20 as released, of width 32), see `memory.MemoryScorer`; 0: a linear gate
    Every expert runs in training, to know the errors; with the memory always, without it one runs afterwards. Source: the
    authors' code ("A time-enhanced spatio-temporal attention model with mixture of experts"). Not built: its three experts
    (temporal, spatio-temporal, attention), whose graph is made from the memory too: experts of any kind will do here; and the
    optional weighting of the losses by uncertainty. The released output is not multiplied by the weight; here it is.
    """
    scorer = MemoryScorer(d_model, experts, memory, width) if memory else LinearScorer(d_model, experts)
    return Gate(scorer, TopK(1, "plain"))


# MAGNET: first every expert is used, then each token decides

Phase = Literal["coverage", "specialisation"]


class EntropyPhase(Float32State, Balancer):
    """Coverage until the load's entropy is high, specialisation from then on.

    coverage         loss = weight * CV² of importance: use every expert
    specialisation   loss = weight * mean entropy of a token's probabilities: decide
    The switch is made in `update`, once: when the running mean of entropy(counts) / ln E reaches `threshold`.
    """

    phase_: Tensor
    entropy_: Tensor

    def __init__(self, threshold: float, weight: float, decay: float) -> None:
        super().__init__()
        if not 0.0 < threshold <= 1.0 or not 0.0 <= decay < 1.0:
            raise UserError(
                f"threshold {threshold}, decay {decay}", field="threshold", fix="threshold in (0, 1], decay in [0, 1)"
            )
        self.threshold, self.weight, self.decay = threshold, weight, decay
        self.register_buffer("phase_", torch.zeros((), dtype=torch.int64))
        self.register_buffer("entropy_", torch.zeros(()))

    @property
    def phase(self) -> Phase:
        """Where training is."""
        return "specialisation" if int(self.phase_) else "coverage"

    def loss(self, plan: Plan, scores: Scores, context: RouteContext) -> dict[str, Tensor]:
        """The phase's loss under its name."""
        if self.phase == "coverage":
            return {"coverage": self.weight * importance_loss(plan, scores, context)}
        each_T = shannon(normalised(real_rows(scores.probs_TE, context)))
        return {"specialisation": self.weight * mean_rows(each_T[:, None]).sum()}

    @torch.no_grad()
    def update(self, counts_E: Tensor) -> None:
        """Follow the load; a step without edges says nothing."""
        total = int(counts_E.sum())
        if not total or counts_E.shape[0] < 2:
            return
        now = shannon(counts_E.float() / total) / math.log(counts_E.shape[0])
        self.entropy_.lerp_(now.to(self.entropy_), 1.0 - self.decay)
        if float(self.entropy_) >= self.threshold:
            self.phase_.fill_(1)


ROLES = ("dominant", "balanced", "complementary")


def roles(experts: int) -> tuple[str, ...]:
    """A role per expert, in turn: labels for reports."""
    return tuple(ROLES[e % len(ROLES)] for e in range(experts))


def magnet(d_model: int, experts: int, k: int = 2, threshold: float = 0.9, weight: float = 1e-2, decay: float = 0.9) -> Gate:
    """MAGNET's gate: linear top-k whose loss changes from coverage to specialisation when the routing entropy is high enough.

    Source: the abstract only. That entropy is the load's, the threshold and both losses are unverified; its experts' roles
    (dominant, balanced, complementary modalities) are labels here (`roles`), the graph models behind them are not built.
    """
    return Gate(LinearScorer(d_model, experts), _top(k, experts), EntropyPhase(threshold, weight, decay))
