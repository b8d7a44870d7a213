"""Banks of low-rank adapters over a frozen linear layer: LoRA (also from `peft` weights), core space, pyramid, modulated.

Shape suffixes: T tokens, E adapters, N edges (expert-sorted), D input width, O output width, R rank, S scales of a pyramid.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Literal

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.contracts import Gate
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.replay import Draws

Path = Literal["dense", "sorted"]


def frozen(linear: nn.Linear) -> nn.Linear:
    """The layer with its parameters frozen."""
    linear.requires_grad_(False)
    return linear


class Bank(nn.Module):
    """What adapter banks share: `forward(x_TD, plan)` gives the routed sum of the adapters' outputs [T, O]."""

    def __init__(self, d_in: int, d_out: int, experts: int) -> None:
        super().__init__()
        if min(d_in, d_out, experts) < 1:
            raise UserError(f"{experts} adapters of {d_in} to {d_out}", field="experts", fix="all at least 1")
        self.d_in, self.d_out, self.experts = d_in, d_out, experts

    def forward(self, x_TD: Tensor, plan: Plan) -> Tensor:
        """sum_e w_te f_e(x_t)."""
        raise NotImplementedError

    def fits(self, x_TD: Tensor, plan: Plan) -> None:
        """Raise UserError unless tokens, width and number of adapters agree."""
        if plan.experts != self.experts or x_TD.shape != (plan.tokens, self.d_in):
            raise UserError(
                f"plan of {plan.tokens} tokens, {plan.experts} adapters; input {tuple(x_TD.shape)}",
                field="plan",
                fix=f"{self.experts} adapters, input (tokens, {self.d_in})",
            )


class LoraBank(Bank):
    """E LoRA adapters: f_e(x) = (alpha / r) B_e A_e x, with A_e [R, D] and B_e [O, R] as `peft` names and shapes them.

    path   "sorted": one pair of small products per adapter over its tokens. "dense": one product A x for all adapters, the
           weights (zero without an edge) on the R-wide parts, one product back: exact too, and faster while E * R is small
    Built as LoRA is: A uniform as nn.Linear, B zero, so that the frozen layer's output is unchanged.
    """

    def __init__(self, d_in: int, d_out: int, experts: int, rank: int = 8, alpha: float = 16.0, path: Path = "sorted") -> None:
        super().__init__(d_in, d_out, experts)
        if rank < 1:
            raise UserError(f"rank {rank}", field="rank", fix="at least 1")
        self.rank, self.scale, self.path = rank, alpha / rank, path
        self.down_ERD = nn.Parameter(torch.empty(experts, rank, d_in))
        self.up_EOR = nn.Parameter(torch.zeros(experts, d_out, rank))
        nn.init.uniform_(self.down_ERD, -1 / math.sqrt(d_in), 1 / math.sqrt(d_in))

    def forward(self, x_TD: Tensor, plan: Plan) -> Tensor:
        """The routed sum."""
        self.fits(x_TD, plan)
        return self._dense(x_TD, plan) if self.path == "dense" else self._sorted(x_TD, plan)

    def _dense(self, x_TD: Tensor, plan: Plan) -> Tensor:
        low_TX = x_TD @ self.down_ERD.flatten(0, 1).t()
        weight_TX = plan.dense_TE().repeat_interleave(self.rank, 1).to(low_TX.dtype)
        return (low_TX * weight_TX) @ self.up_EOR.permute(0, 2, 1).flatten(0, 1) * self.scale

    def _sorted(self, x_TD: Tensor, plan: Plan) -> Tensor:
        sizes = plan.counts_E.tolist()
        parts = torch.split(x_TD.index_select(0, plan.token_N), sizes)
        pairs = zip(parts, self.down_ERD.unbind(0), self.up_EOR.unbind(0), strict=True)
        y_NO = torch.cat([part @ down.t() @ up.t() for part, down, up in pairs]) * self.scale
        weighted_NO = y_NO * plan.weight_N[:, None].to(y_NO.dtype)
        return y_NO.new_zeros(plan.tokens, self.d_out).index_add(0, plan.token_N, weighted_NO)


class CoreBank(Bank):
    """CoMoL: E cores C_e [R, R] between one shared A [R, D] and one shared B [O, R].

    dW(x) = (alpha / r) B (sum_e g_e(x) C_e) A.

    Merging in the core equals the sum of the adapters' outputs exactly, because the map is linear in C. Parameters:
    R (D + O) + E R²; the gate adds E R when it reads A x (`comol`). Source: the paper's abstract; initial values (cores the
    identity plus noise, B zero) and whether gates are sparse are unverified.
    """

    def __init__(self, d_in: int, d_out: int, experts: int, rank: int = 8, alpha: float = 16.0) -> None:
        super().__init__(d_in, d_out, experts)
        self.rank, self.scale = rank, alpha / rank
        self.down = nn.Linear(d_in, rank, bias=False)
        self.core_ERR = nn.Parameter(torch.eye(rank).repeat(experts, 1, 1) + 0.02 * torch.randn(experts, rank, rank))
        self.up = nn.Linear(rank, d_out, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x_TD: Tensor, plan: Plan) -> Tensor:
        """Cores first merged per token, then one pass; memory T R²."""
        self.fits(x_TD, plan)
        low_TR = self.down(x_TD)
        core_TRR = torch.einsum("te,eij->tij", plan.dense_TE().to(low_TR.dtype), self.core_ERR)
        y_TO: Tensor = self.up(torch.einsum("tij,tj->ti", core_TRR, low_TR)) * self.scale
        return y_TO

    def per_expert(self, x_TD: Tensor, plan: Plan) -> Tensor:
        """The same as the sum of E separate adapters' outputs: what the merge is checked against."""
        self.fits(x_TD, plan)
        low_TR, weight_TE = self.down(x_TD), plan.dense_TE()
        outs = [weight_TE[:, e, None] * self.up(low_TR @ core.t()) for e, core in enumerate(self.core_ERR.unbind(0))]
        return torch.stack(outs).sum(0) * self.scale


class PyramidBank(Bank):
    """EPT: one shared subspace A [R, D]; scale s reads its first R_s rows and has its own up-projection B_s [O, R_s].

    y = sum_s w_s B_s (A x)[:R_s]; for fixed weights (one task) this is one matrix, W = sum_s w_s B_s A[:R_s]
    (`reparameterised`), so that a task costs nothing extra when served. Source: the paper's abstract; nesting the scales as
    prefixes of one subspace, and the task-aware gate being a softmax over a table, are our reading, unverified.
    """

    def __init__(self, d_in: int, d_out: int, ranks: Sequence[int], alpha: float = 16.0) -> None:
        super().__init__(d_in, d_out, len(ranks))
        if min(ranks) < 1:
            raise UserError(f"ranks {list(ranks)}", field="ranks", fix="each at least 1")
        self.ranks, self.scale = tuple(ranks), alpha / max(ranks)
        self.down = nn.Linear(d_in, max(ranks), bias=False)
        self.ups = nn.ParameterList([torch.zeros(d_out, rank) for rank in ranks])

    def forward(self, x_TD: Tensor, plan: Plan) -> Tensor:
        """The routed sum over scales."""
        self.fits(x_TD, plan)
        low_TR, weight_TS = self.down(x_TD), plan.dense_TE()
        outs = [weight_TS[:, s, None] * (low_TR[:, :r] @ self.ups[s].t()) for s, r in enumerate(self.ranks)]
        return torch.stack(outs).sum(0) * self.scale

    def reparameterised(self, weight_S: Tensor) -> Tensor:
        """The one matrix [O, D] that these weights amount to: add it to the frozen weight."""
        parts = [weight_S[s] * self.ups[s] @ self.down.weight[:r] for s, r in enumerate(self.ranks)]
        return torch.stack(parts).sum(0) * self.scale


class LimeBank(Bank):
    """LiME: one shared LoRA delta, modulated per expert: y = delta(x) * (sum_e w_te m_e + m_0), with m_e [O].

    m_e starts at 1 and m_0 (the shared vector) at 0, so that with weights that sum to one it starts as plain LoRA. The plan
    comes from the gate without parameters. Source: the authors' code, in part; the initial values are unverified.
    """

    def __init__(self, d_in: int, d_out: int, experts: int, rank: int = 8, alpha: float = 16.0) -> None:
        super().__init__(d_in, d_out, experts)
        self.down, self.up = nn.Linear(d_in, rank, bias=False), nn.Linear(rank, d_out, bias=False)
        nn.init.zeros_(self.up.weight)
        self.scale = alpha / rank
        self.modulation_EO = nn.Parameter(torch.ones(experts, d_out))
        self.shared_O = nn.Parameter(torch.zeros(d_out))

    def delta(self, x_TD: Tensor) -> Tensor:
        """The shared adapter's output [T, O]: the gate reads its first E channels."""
        out: Tensor = self.up(self.down(x_TD)) * self.scale
        return out

    def forward(self, x_TD: Tensor, plan: Plan) -> Tensor:
        """The modulated delta."""
        self.fits(x_TD, plan)
        delta_TO = self.delta(x_TD)
        return delta_TO * (plan.dense_TE().to(delta_TO.dtype) @ self.modulation_EO + self.shared_O)


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus a routed bank of adapters: y = W x + b + bank(x, plan). Takes [..., D].

    With a gate the layer routes for itself; a plan given to `forward` is used instead (one gate for many layers).
    """

    def __init__(self, linear: nn.Linear, bank: Bank, gate: Gate | None = None) -> None:
        super().__init__()
        if (linear.in_features, linear.out_features) != (bank.d_in, bank.d_out):
            raise UserError(
                f"bank is {bank.d_in} to {bank.d_out}",
                field="bank",
                fix=f"the layer is {linear.in_features} to {linear.out_features}",
            )
        if gate is not None and gate.experts != bank.experts:
            raise UserError(f"the gate knows {gate.experts} adapters", field="gate", fix=f"the bank has {bank.experts}")
        if gate is not None and gate.heads > 1:
            raise UserError("the gate routes parts of tokens", field="gate", fix="a gate over whole tokens")
        self.linear, self.bank, self.gate = frozen(linear), bank, gate
        self._draws = Draws()

    def forward(self, x: Tensor, plan: Plan | None = None, context: RouteContext | None = None) -> Tensor:
        """Adapted output."""
        x_TD = x.reshape(-1, x.shape[-1])
        if plan is None:
            plan, _ = self.route(x, context)
        y: Tensor = self.linear(x)
        delta_TO: Tensor = self.bank(x_TD, plan)
        return y + delta_TO.reshape(y.shape).to(y.dtype)

    def route(self, x: Tensor, context: RouteContext | None = None) -> tuple[Plan, Scores]:
        """Plan and scores of the layer's own gate."""
        if self.gate is None:
            raise UserError("the layer has no gate", field="plan", fix="give a plan, or build the layer with a gate")
        made = context or RouteContext(x_TD=x.reshape(-1, x.shape[-1]), shape=tuple(x.shape[:-1]), training=self.training)
        out: tuple[Plan, Scores] = self.gate(self._draws.own(made))
        return out


_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.(?P<adapter>[^.]+))?\.weight$")
_FOREIGN = ("lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B", "lora_bias")


def read_lora(state: Mapping[str, Tensor], adapter: str | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by module name out of a `peft` state dict.

    Knows "base_model.model.M.lora_A.weight" (saved adapters) and "M.lora_A.NAME.weight" (a live model's state dict). DoRA
    magnitudes, embedding adapters, adapters with a bias and those of convolutions are refused, not misread.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if any(part in name for part in _FOREIGN):
            raise UserError("is not a plain LoRA weight", field=name, fix="DoRA, embeddings and biases are not supported")
        hit = _NAME.match(name)
        if hit and (adapter is None or hit["adapter"] in (None, adapter)):
            kept = found.setdefault(hit["module"], {})
            if hit["part"] in kept:
                raise UserError("two adapters in one state dict", field=name, fix="say which: adapter=NAME")
            kept[hit["part"]] = value
    return {module: _pair(module, parts) for module, parts in found.items()}


def _pair(module: str, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if set(parts) != {"A", "B"}:
        raise UserError(f"has lora_{' and lora_'.join(parts)} only", field=module, fix="both lora_A and lora_B are needed")
    down, up = parts["A"], parts["B"]
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise UserError(f"A is {tuple(down.shape)}, B is {tuple(up.shape)}", field=module, fix="A (r, in), B (out, r)")
    return down, up


def lora_scale(config: Mapping[str, Any], rank: int, module: str) -> float:
    """Alpha / r, or alpha / sqrt(r) with rslora, from an adapter_config.json's fields; alpha_pattern is honoured."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    alpha = next((value for key, value in patterns.items() if re.search(rf"(^|\.){key}$", module)), config.get("lora_alpha"))
    if alpha is None:
        raise UserError("has no lora_alpha", field="adapter_config", fix="pass the fields of adapter_config.json")
    divisor: float = math.sqrt(rank) if config.get("use_rslora") else rank
    return float(alpha) / divisor


Adapter = tuple[Mapping[str, Tensor], Mapping[str, Any]]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def load_peft(where: FilePath | str) -> Adapter:
    """A saved `peft` adapter, (state dict, fields of adapter_config.json), from its folder or its .safetensors file.

    Only safetensors are read, never pickled weights (adapter_model.bin). Raises UserError for what is no LoRA adapter.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = FilePath(where)
    weights = path / WEIGHTS if path.is_dir() else path
    try:
        config = json.loads((weights.parent / CONFIG).read_text("utf-8"))
        state = load_file(weights)
    except OSError as error:
        fix = f"a folder with {WEIGHTS} and {CONFIG}"
        raise UserError(f"cannot be read: {error.strerror or error}", field=str(where), fix=fix) from error
    except (ValueError, SafetensorError) as error:
        raise UserError(f"is no saved adapter: {error}", field=str(where), fix="save_pretrained of peft") from error
    if config.get("peft_type") != "LORA":
        raise UserError(f"is {config.get('peft_type')}, not LORA", field=f"{where}: peft_type", fix="a LoRA adapter")
    if config.get("bias", "none") != "none":
        raise UserError("the base layers' biases were trained too", field=f"{where}: bias", fix='an adapter with bias="none"')
    return state, config


def bank_from_peft(adapters: Sequence[Adapter | FilePath | str], module: str) -> LoraBank:
    """One bank for `module` out of several `peft` adapters, each a folder, or (state dict, fields of adapter_config.json).

    Ranks may differ (the smaller are padded with zeros, which changes nothing); each adapter's scale is folded into its B.
    """
    pairs = []
    for adapter in adapters:
        state, config = load_peft(adapter) if isinstance(adapter, str | FilePath) else adapter
        weights = read_lora(state)
        if module not in weights:
            raise UserError("an adapter does not cover it", field=module, fix="it covers: " + ", ".join(sorted(weights)))
        down, up = weights[module]
        pairs.append((down, up * lora_scale(config, down.shape[0], module)))
    rank = max(down.shape[0] for down, _ in pairs)
    bank = LoraBank(pairs[0][0].shape[1], pairs[0][1].shape[0], len(pairs), rank, alpha=float(rank))
    with torch.no_grad():
        bank.down_ERD.zero_()
        for e, (down, up) in enumerate(pairs):
            if down.shape[1] != bank.d_in or up.shape[0] != bank.d_out:
                raise UserError(
                    f"adapter {e} is {down.shape[1]} to {up.shape[0]}", field=module, fix="adapters of one base model"
                )
            bank.down_ERD[e, : down.shape[0]] = down
            bank.up_EOR[e, :, : down.shape[0]] = up
    return bank
