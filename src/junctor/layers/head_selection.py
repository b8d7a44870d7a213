"""Attention whose heads are experts: a gate says which heads act on which token (Union of Experts' attention).

Shape suffixes: B sequences, S positions, T = B S tokens, H heads, D model width, C = D / H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.layer import check_scores
from junctor.layers.plan import Plan, RouteContext, RouterOutput
from junctor.layers.replay import Draws


class SelectedHeads(nn.Module):
    """y_t = b + sum over the heads of the gate's plan of w_th O_h a_h(t), a_h the head's attention at token t.

    The cut is that of tensor parallelism: head h owns its rows of Q, K, V and its columns of the output map, so that the heads'
    outputs add up to the block's. With every head at weight 1 this is the dense attention exactly.

    Source: Yang et al. 2025, Union of Experts, the selection of attention heads (part of the released code read): the `uoe`
    gate, top H/2 of a softmax, normalised over the batch. A head's keys and values are those of all tokens; [U] whether the
    released block leaves out those of tokens that did not choose it. All heads are computed and the unchosen ones weighed 0:
    this is the function, and saves no time.

    gate            over H parts; with `causal` attention one that looks at later tokens is refused, unless `allow_non_causal`
    """

    def __init__(
        self, d_model: int, gate: Gate, *, causal: bool = True, bias: bool = False, allow_non_causal: bool = False
    ) -> None:
        super().__init__()
        if d_model % gate.experts:
            raise UserError(
                f"width {d_model} does not divide into {gate.experts} heads", field="gate", fix="a divisor of d_model"
            )
        if causal and not gate.causal and not allow_non_causal:
            raise UserError(
                f"gate {gate.name or 'given'!r} looks at later tokens",
                field="gate",
                fix='uoe with normalise="token", causal=False, or allow_non_causal=True',
            )
        self.d_model, self.gate, self.causal = d_model, gate, causal
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model, bias=bias), nn.Linear(d_model, d_model, bias=bias)
        self._draws = Draws()

    @property
    def heads(self) -> int:
        """H."""
        return self.gate.experts

    def forward(self, x_BSD: Tensor, **about: Any) -> Tensor:
        """The attended tokens. `about`: what a RouteContext may know beside them."""
        return self.forward_with_plan(x_BSD, **about).y

    def forward_with_plan(self, x_BSD: Tensor, **about: Any) -> RouterOutput:
        """Output, plan over heads, scores, losses."""
        if x_BSD.dim() != 3 or x_BSD.shape[2] != self.d_model:
            raise UserError(f"is {tuple(x_BSD.shape)}", field="x_BSD", fix=f"(batch, sequence, {self.d_model})")
        flat = {key: one.reshape(-1) if key.endswith("_T") and one is not None else one for key, one in about.items()}
        made = RouteContext(x_BSD.flatten(0, 1), tuple(x_BSD.shape[:2]), training=self.training, **flat)
        context = self._draws.own(made)
        plan, scores = self.gate(context)
        check_scores(scores, context)
        y_BSD = self.out(self.attend(x_BSD, context.padding_T) * self.weights(plan, x_BSD))
        return RouterOutput(y_BSD, plan, scores, self.gate.balancer.loss(plan, scores, context))

    def weights(self, plan: Plan, x_BSD: Tensor) -> Tensor:
        """[B, S, D]: each head's weight on its channels."""
        return plan.dense_TE().to(x_BSD.dtype).repeat_interleave(self.d_model // self.heads, dim=1).reshape(x_BSD.shape)

    def attend(self, x_BSD: Tensor, padding_T: Tensor | None = None) -> Tensor:
        """The heads' attention side by side, [B, S, D]; padding is looked at by nobody but itself."""
        b, s, d = x_BSD.shape
        if padding_T is not None:
            x_BSD = x_BSD.masked_fill(padding_T.reshape(b, s, 1), 0.0)
        query, key, value = self.qkv(x_BSD).reshape(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        place_S = torch.arange(s, device=x_BSD.device)
        seen_BSS = (place_S[:, None] >= place_S)[None] if self.causal else x_BSD.new_ones(1, s, s, dtype=torch.bool)
        if padding_T is not None:
            seen_BSS = seen_BSS & ~padding_T.reshape(b, 1, s) | (place_S[:, None] == place_S)
        y_BHSC = functional.scaled_dot_product_attention(query, key, value, seen_BSS[:, None])
        return y_BHSC.transpose(1, 2).reshape(b, s, d)
