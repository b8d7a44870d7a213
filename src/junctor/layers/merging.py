"""Merge experts instead of selecting them: parameters (SMEAR), modulations (MoFME), finished models (KALAVAI).

Shape suffixes: T tokens, B examples (sequences), S tokens per example, E experts, D width, V outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from junctor.errors import UserError
from junctor.layers.contracts import Gate, Scorer
from junctor.layers.linear import LinearScorer, fp32_logits
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.pooling import All, mean_BD, standardised


class SmearScorer(Scorer):
    """One distribution per example: p = softmax(LN(mean_t x_t) · LN(v_e) / sqrt(D)); every token of the example has it.

    SMEAR ("Soft Merging of Experts with Adaptive Routing"; router as in the authors' code). The mean sees later
    tokens, so causal=False. Whether the norms have learned scales is unverified: here they have none.
    """

    causal: ClassVar[bool] = False

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        self.prototype_ED = nn.Parameter(torch.randn(experts, d_model))

    def forward(self, context: RouteContext) -> Scores:
        """Scores of each token's example."""
        x_BD, seq_T = mean_BD(context)
        logits_BE = fp32_logits(standardised(x_BD), standardised(self.prototype_ED)) / math.sqrt(self.d_model)
        logits_TE = logits_BE[seq_T]
        return Scores(logits_TE, logits_TE.softmax(-1))


def smear(d_model: int, experts: int) -> Gate:
    """The gate of SMEAR: soft over all experts, per example. Use it with `MergedExperts`."""
    return Gate(SmearScorer(d_model, experts), All())


def merged_parameters(experts: Sequence[nn.Module], weight_BE: Tensor) -> dict[str, Tensor]:
    """W_b = sum_e w_be W_e for every parameter and buffer by name: [B, ...]; memory is B times one expert."""
    named = [dict(one.named_parameters()) | dict(one.named_buffers()) for one in experts]
    if len(named) != weight_BE.shape[1]:
        raise UserError(f"{len(named)} experts and {weight_BE.shape[1]} weights", field="experts", fix="one weight per expert")
    out: dict[str, Tensor] = {}
    for name, first in named[0].items():
        if any(name not in one or one[name].shape != first.shape for one in named):
            raise UserError(
                f"not every expert has {name} of shape {tuple(first.shape)}", field="experts", fix="build them alike"
            )
        stacked = torch.stack([one[name] for one in named])
        out[name] = torch.einsum("be,e...->b...", weight_BE.to(stacked.dtype), stacked)
    return out


class MergedExperts(nn.Module):
    """SMEAR's dispatcher: one pass per example through the weighted average of the experts' parameters.

    y_b = f(x_b; sum_e w_be W_e). For an expert that is linear in its parameters this is the sum of outputs; for others it is
    not. The cost in multiply-adds does not grow with E beyond the averaging itself.
    """

    def __init__(self, gate: Gate, experts: Sequence[nn.Module]) -> None:
        super().__init__()
        if gate.experts != len(experts):
            raise UserError(
                f"the gate knows {gate.experts}, not {len(experts)}", field="experts", fix="as many as the gate has"
            )
        self.gate, self.members = gate, nn.ModuleList(experts)

    def forward(self, x_BSD: Tensor, padding_BS: Tensor | None = None) -> Tensor:
        """[B, S, D] to what one expert gives for it."""
        b, s, d = x_BSD.shape
        flat = RouteContext(
            x_TD=x_BSD.reshape(b * s, d), shape=(b, s), padding_T=None if padding_BS is None else padding_BS.reshape(-1)
        )
        weight_BE = self.gate.scorer(flat).probs_TE.reshape(b, s, -1)[:, 0]
        return self.with_weights(x_BSD, weight_BE)

    def with_weights(self, x_BSD: Tensor, weight_BE: Tensor) -> Tensor:
        """The same with given weights."""
        merged = merged_parameters(list(self.members), weight_BE)

        def one(parameters: dict[str, Tensor], x_SD: Tensor) -> Tensor:
            out: Tensor = functional_call(self.members[0], parameters, (x_SD,))
            return out

        y: Tensor = vmap(one)(merged, x_BSD)
        return y


class FilmBank(nn.Module):
    """MoFME's experts: feature-wise modulations of one shared base. y = adaptor(sum_e w_e ((A_e h + a_e) * h + B_e h + b_e)).

    h = base(x) [T, D]; A_e, B_e are D x D, so an expert adds 2 D² + 2 D parameters. Built as the identity: A = B = b = 0, a =
    1, adaptor = 1; with weights that sum to one the base's output then comes back exactly. Source: the authors' code
    ("Efficient Deweather Mixture-of-Experts with Uncertainty-aware Feature-wise Linear Modulation"); the gate is a plan, so
    any gate serves. A token without an edge keeps h. Whether the released adaptor has a bias is unverified; here it has none.
    """

    def __init__(self, base: nn.Module, d_model: int, experts: int) -> None:
        super().__init__()
        self.base, self.experts = base, experts
        self.scale_EDD = nn.Parameter(torch.zeros(experts, d_model, d_model))
        self.scale_ED = nn.Parameter(torch.ones(experts, d_model))
        self.shift_EDD = nn.Parameter(torch.zeros(experts, d_model, d_model))
        self.shift_ED = nn.Parameter(torch.zeros(experts, d_model))
        self.adaptor = nn.Linear(d_model, d_model, bias=False)
        nn.init.eye_(self.adaptor.weight)

    def forward(self, x_TD: Tensor, plan: Plan) -> Tensor:
        """The base once, then each expert's modulation of the tokens it takes."""
        h_TD: Tensor = self.base(x_TD)
        parts = torch.split(h_TD.index_select(0, plan.token_N), plan.counts_E.tolist())
        banks = (self.scale_EDD, self.scale_ED, self.shift_EDD, self.shift_ED)
        y_ND = torch.cat([_film(*one) for one in zip(parts, *(bank.unbind(0) for bank in banks), strict=True)])
        out_TD = torch.zeros_like(h_TD).index_add(0, plan.token_N, (y_ND * plan.weight_N[:, None]).to(h_TD.dtype))
        routed_T = torch.zeros(plan.tokens, dtype=torch.bool, device=h_TD.device)
        routed_T[plan.token_N] = True
        adapted: Tensor = self.adaptor(torch.where(routed_T[:, None], out_TD, h_TD))
        return adapted


def _film(h_ND: Tensor, scale_DD: Tensor, scale_D: Tensor, shift_DD: Tensor, shift_D: Tensor) -> Tensor:
    return (h_ND @ scale_DD.t() + scale_D) * h_ND + h_ND @ shift_DD.t() + shift_D


GAIN_SLOPE = 0.82
GAIN_OFFSETS = {"abstract": -2.72, "readme": -2.84}


def divergence(base_loss_E: Tensor, own_loss_E: Tensor) -> float:
    """KALAVAI's divergence in per cent: mean over domains of how far a specialist's own loss is below the base's."""
    if base_loss_E.shape != own_loss_E.shape or not bool((base_loss_E > 0).all()):
        raise UserError("needs one positive base loss per specialist", field="base_loss_E", fix="losses on held-out rows")
    return float((100.0 * (base_loss_E - own_loss_E) / base_loss_E).mean())


def predicted_gain(divergence_percent: float, constants: Literal["abstract", "readme"] = "abstract") -> float:
    """Expected gain of the fused model over the best specialist, in per cent: 0.82 * divergence - 2.72.

    The authors' readme has -2.84 in place of the abstract's -2.72 (six to seven conditions, R² 0.865): name which one you use.
    The line was fitted at 3 to 26 per cent; below 3.3 it is negative, which is to be read as "do not fuse".
    """
    if constants not in GAIN_OFFSETS:
        raise UserError(f"no constants are called {constants!r}", field="constants", fix="abstract or readme")
    return GAIN_SLOPE * divergence_percent + GAIN_OFFSETS[constants]


def kalavai(d_model: int, experts: int) -> Gate:
    """The gate of KALAVAI: one linear map without bias, soft over all specialists, trained last (500 steps). Use `Fused`.

    The weights start at zero, so fusion starts as the plain average.
    All specialists run: sending a token to the likeliest alone lost 21.1 per cent in the authors' runs. Source: readme and
    code.
    """
    return Gate(LinearScorer(d_model, experts, std=0.0), All())


class Fused(nn.Module):
    """Frozen specialists of one origin, their outputs mixed per token: y = sum_e p_e(h) f_e(x), where h is the router's input.

    router_input   gives h [T, D] from x (the base's last hidden state in the paper); x itself when not given
    """

    def __init__(
        self, gate: Gate, specialists: Sequence[nn.Module], router_input: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        if gate.experts != len(specialists):
            raise UserError(f"the gate knows {gate.experts}", field="specialists", fix=f"give {gate.experts} specialists")
        self.gate, self.members, self.router_input = gate, nn.ModuleList(specialists), router_input
        self.members.requires_grad_(False)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Mixed outputs [T, V]; gradients reach the gate only."""
        with torch.no_grad():
            h_TD = x_TD if self.router_input is None else self.router_input(x_TD)
            y_TEV = torch.stack([one(x_TD) for one in self.members], dim=1)
        scores: Scores = self.gate.scorer(RouteContext(x_TD=h_TD))
        return torch.einsum("te,tev->tv", scores.probs_TE.to(y_TEV.dtype), y_TEV)


def fit_router(
    fused: Fused, batches: Sequence[tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], Tensor], steps: int, lr: float
) -> list[float]:
    """Train the fused model's gate alone on mixed data; the losses in order."""
    optimiser = torch.optim.Adam(fused.gate.parameters(), lr=lr)
    history: list[float] = []
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimiser.zero_grad()
        value = loss(fused(x), y)
        torch.autograd.backward(value)
        optimiser.step()
        history.append(value.item())
    return history
