"""FlyLoRA: ranks as experts, picked by the size of a frozen random projection; two forms of its bias.

Shape suffixes: T tokens, E = R ranks (each rank is an expert), D input width, O output width.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.adapters import AdaptedLinear, Bank
from junctor.layers.balancing import LossFree
from junctor.layers.contracts import Gate, Scorer
from junctor.layers.linear import fp32_logits
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.selectors import TopK, check_k

Form = Literal["magnitude", "released"]
FORMS: tuple[Form, ...] = ("magnitude", "released")


class FrozenProjection(Scorer):
    """y = A x with A [R, D] random, sparse and never trained: an entry is nonzero with probability k/R, then N(0, 1/R²).

    The gate has no parameter. Logits and weights are both y (signed): rank e then contributes y_e B[:, e].
    """

    down_ED: Tensor

    def __init__(self, d_model: int, experts: int, k: int, seed: int = 0) -> None:
        super().__init__(d_model, experts)
        draw = torch.Generator().manual_seed(seed)
        keep = torch.rand(experts, d_model, generator=draw) < check_k(k, experts) / experts
        self.register_buffer("down_ED", torch.randn(experts, d_model, generator=draw) * keep / experts)

    def forward(self, context: RouteContext) -> Scores:
        """Y as logits and as weights."""
        y_TE = fp32_logits(context.x_TD, self.down_ED)
        return Scores(y_TE, y_TE)


class MagnitudeBias(LossFree):
    """Selection by size of y, shifted by d; per optimiser step d += rate * sign(mean count - count).

    form   "magnitude": |y| + d, our correction: a starved rank is picked more. "released": |y + d| as in the authors' code,
           where a positive d makes a rank with y < 0 *less* likely: on Gaussian inputs the load grows apart and d without bound
    """

    def __init__(self, experts: int, form: Form = "magnitude", rate: float = 1e-3) -> None:
        super().__init__(experts, rate)
        if form not in FORMS:
            raise UserError(f"no form is called {form!r}", field="form", fix="known: " + ", ".join(FORMS))
        self.form: Form = form

    def adjust(self, scores: Scores, context: RouteContext) -> Tensor:
        """Selection scores, detached."""
        del context
        y_TE = scores.logits_TE.detach()
        return (y_TE + self.bias_E).abs() if self.form == "released" else y_TE.abs() + self.bias_E


class RankBank(Bank):
    """The trained half: out = (alpha / R) sum over chosen ranks of y_e B[:, e]; the plan's weights are the y_e."""

    def __init__(self, d_in: int, d_out: int, ranks: int, alpha: float | None = None) -> None:
        super().__init__(d_in, d_out, ranks)
        self.up_OE = nn.Parameter(torch.zeros(d_out, ranks))
        self.scale = (2.0 * ranks if alpha is None else alpha) / ranks

    def forward(self, x_TD: Tensor, plan: Plan) -> Tensor:
        """A masked product: R is small, so the mask is dense."""
        self.fits(x_TD, plan)
        return plan.dense_TE().to(self.up_OE.dtype) @ self.up_OE.t() * self.scale


def flylora(
    d_model: int, experts: int, k: int | None = None, form: Form = "magnitude", rate: float = 1e-3, seed: int = 0
) -> Gate:
    """FlyLoRA's implicit gate; `experts` is the rank (32 in the paper), k a quarter of it (8 of 32) when not given.

    Source: the authors' code. The paper's alpha is 2 R and its rate 1e-3. Weights are signed: use it with `RankBank`.
    """
    chosen = max(1, experts // 4) if k is None else k
    return Gate(FrozenProjection(d_model, experts, chosen, seed), TopK(chosen, "plain"), MagnitudeBias(experts, form, rate))


def flylora_released(d_model: int, experts: int, k: int | None = None, rate: float = 1e-3, seed: int = 0) -> Gate:
    """The same with the authors' |y + d|: faithful, and it unbalances."""
    return flylora(d_model, experts, k, "released", rate, seed)


def flylora_adapter(linear: nn.Linear, rank: int = 32, k: int | None = None, **settings: object) -> AdaptedLinear:
    """A frozen linear layer with FlyLoRA on it."""
    gate = flylora(linear.in_features, rank, k, **settings)  # type: ignore[arg-type]
    return AdaptedLinear(linear, RankBank(linear.in_features, linear.out_features, rank), gate)


def gram(gate: Gate) -> Tensor:
    """A Aᵀ of a gate's projection: near diagonal, which is why adapters made this way can be summed."""
    down_ED = cast(FrozenProjection, gate.scorer).down_ED
    return down_ED @ down_ED.t()
