"""The plain scorer under most published gates: one matrix, then softmax, sigmoid or ReLU.

Shape suffixes: T tokens, E experts, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.contracts import Scorer
from junctor.layers.plan import RouteContext, Scores

Activation = Literal["softmax", "sigmoid", "relu"]


def fp32_logits(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None = None) -> Tensor:
    """Logits x W^T (+ b) in fp32, also under autocast and for half precision; UserError where width or device disagree."""
    if x_TD.dim() != 2 or x_TD.shape[1] != weight_ED.shape[1]:
        raise UserError(
            f"tokens are {tuple(x_TD.shape)}, the gate reads width {weight_ED.shape[1]}",
            field="x_TD",
            fix=f"flatten to (tokens, {weight_ED.shape[1]})",
        )
    if x_TD.device != weight_ED.device:
        raise UserError(
            f"tokens lie on {x_TD.device}, the gate on {weight_ED.device}",
            field="x_TD",
            fix="move the gate to the tokens' device",
        )
    with torch.autocast(x_TD.device.type, enabled=False):
        return functional.linear(x_TD.float(), weight_ED.float(), None if bias_E is None else bias_E.float())


def activate(logits_TE: Tensor, activation: Activation) -> Tensor:
    """The probabilities that weights are taken from."""
    if activation == "softmax":
        return logits_TE.softmax(dim=-1)
    return logits_TE.sigmoid() if activation == "sigmoid" else logits_TE.relu()


class LinearScorer(Scorer):
    """z = x W^T, p = softmax(z), sigmoid(z) or relu(z); W is E x D, drawn from N(0, std^2).

    outputs  rows of W when that is not E (null experts add some)
    """

    def __init__(
        self, d_model: int, experts: int, activation: Activation = "softmax", std: float = 0.02, outputs: int | None = None
    ) -> None:
        super().__init__(d_model, experts)
        if activation not in ("softmax", "sigmoid", "relu"):
            raise UserError(f"no activation is called {activation!r}", field="activation", fix="softmax, sigmoid or relu")
        self.activation: Activation = activation
        self.weight_ED = nn.Parameter(torch.randn(outputs or experts, d_model) * std)

    def forward(self, context: RouteContext) -> Scores:
        """Scores of the context's tokens."""
        logits_TE = fp32_logits(context.x_TD, self.weight_ED)
        return Scores(logits_TE, activate(logits_TE, self.activation))
