"""A small character model with a routed FFN in each block: what gates are compared in, and the from-scratch example.

Shape suffixes: B sequences, S characters of a sequence, D model width, H heads, V characters, T tokens (B x S flattened).

    x = x + attention(norm(x));  x = x + MoELayer(norm(x))       four times, pre-norm, learned positions, untied output

The first recipe's size: 4 layers, D = 128, 4 heads, 8 experts of hidden 256, top-2, sequence 128.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from junctor.errors import ArtefactError, UserError
from junctor.layers import catalogue
from junctor.layers.catalogue import gate as named_gate
from junctor.layers.contracts import Gate
from junctor.layers.layer import MoELayer, bank_for
from junctor.layers.plan import RouteContext, RouterOutput

DENSE = "dense"
"""Not a gate: a plain FFN, the limit that routed layers are held against."""


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """What a TinyLM is.

    gate      a name of the catalogue, or "dense": one FFN of width `hidden` for all tokens
    settings  the gate's own
    hidden    of one expert
    allow_non_causal   take a gate that looks at later tokens all the same (its losses then mean nothing for generation)
    """

    vocabulary: int
    gate: str = "loss-free"
    settings: dict[str, Any] = field(default_factory=dict)
    layers: int = 4
    d_model: int = 128
    heads: int = 4
    experts: int = 8
    hidden: int = 256
    sequence: int = 128
    dispatcher: str = "auto"
    allow_non_causal: bool = False


@dataclass(frozen=True, slots=True)
class LmOutput:
    """Logits [B, S, V], and what each routed layer did (none in a dense model)."""

    logits_BSV: Tensor
    routed: tuple[RouterOutput, ...]

    def losses(self) -> dict[str, Tensor]:
        """The balancers' losses, summed over layers, already weighted."""
        total: dict[str, Tensor] = {}
        for one in self.routed:
            for name, value in one.losses.items():
                total[name] = total[name] + value if name in total else value
        return total


class Attention(nn.Module):
    """Causal self-attention; on demand also the mean of the heads' weights, [B, S, S]."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        if d_model % heads:
            raise UserError(f"width {d_model} does not divide into {heads} heads", field="heads", fix="a divisor of d_model")
        self.heads = heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x_BSD: Tensor, *, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """The attended tokens, and the weights if wanted."""
        b, s, d = x_BSD.shape
        q, k, v = self.qkv(x_BSD).reshape(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y_BHSd = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        seen = _mean_weights(q, k) if weights else None
        return self.out(y_BHSd.transpose(1, 2).reshape(b, s, d)), seen


def _mean_weights(q: Tensor, k: Tensor) -> Tensor:
    """Mean over heads of the causal attention weights, [B, S, S], without gradient."""
    with torch.no_grad():
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).triu(1)
        seen: Tensor = logits.masked_fill(later, -torch.inf).softmax(-1).mean(1)
        return seen


class Block(nn.Module):
    """Attention and an FFN, routed or dense."""

    def __init__(self, config: TinyConfig, gate: Gate | None) -> None:
        super().__init__()
        d = config.d_model
        self.wants_attention = gate is not None and reads_attention(gate)
        self.norm_attention, self.norm_ffn = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = Attention(d, config.heads)
        self.ffn: nn.Module
        if gate is None:
            self.ffn = nn.Sequential(
                nn.Linear(d, config.hidden, bias=False), nn.GELU(), nn.Linear(config.hidden, d, bias=False)
            )
        else:
            bank = bank_for(gate, config.experts, d, config.hidden)
            self.ffn = MoELayer(gate, bank, config.dispatcher, allow_non_causal=config.allow_non_causal)

    def forward(self, x_BSD: Tensor, **about: Any) -> tuple[Tensor, RouterOutput | None]:
        """The block's output, and what its layer did."""
        y_BSD, seen_BSS = self.attention(self.norm_attention(x_BSD), weights=self.wants_attention)
        x_BSD = x_BSD + y_BSD
        normed = self.norm_ffn(x_BSD)
        if not isinstance(self.ffn, MoELayer):
            return x_BSD + self.ffn(normed), None
        if seen_BSS is not None:
            about["attention_TT"] = seen_BSS
        made = self.ffn.forward_with_plan(normed, **about)
        return x_BSD + made.y, made


def settings_of(name: str) -> dict[str, Any]:
    """The settings that a gate's builder takes, with their defaults."""
    entry = next((one for one in catalogue.GATES if one.name == name), None)
    if entry is None:
        return {}
    module, _, attribute = entry.where.partition(":")
    taken = inspect.signature(getattr(import_module(module), attribute)).parameters
    return {key: one.default for key, one in taken.items() if one.default is not inspect.Parameter.empty}


def gates_of(config: TinyConfig) -> list[Gate]:
    """One gate per layer. Those that need depth or vocabulary are told; those that recur over depth share one cell."""
    takes = settings_of(config.gate)
    made: list[Gate] = []
    for layer in range(config.layers):
        own = dict(config.settings)
        known = {"layer": layer, "layers": config.layers, "vocabulary": config.vocabulary}
        own = {**{key: value for key, value in known.items() if key in takes}, **own}
        if "cell" in takes and made:
            own["cell"] = getattr(made[0].scorer, "cell", None)
        made.append(named_gate(config.gate, config.d_model, config.experts, **own))
    return made


@torch.no_grad()
def reads_attention(gate: Gate) -> bool:
    """Whether the gate asks for the block's attention: tried on four tokens, so that others do not pay for it."""
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(4, gate.scorer.d_model * gate.heads, generator=generator)
    try:
        gate(RouteContext(x_TD, (1, 4), token_ids_T=torch.zeros(4, dtype=torch.int64), generator=generator))
    except UserError as error:
        return error.field == "context.attention_TT"
    return False


class TinyLM(nn.Module):
    """Characters in, next-character logits out."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.characters = nn.Embedding(config.vocabulary, config.d_model)
        self.places = nn.Embedding(config.sequence, config.d_model)
        nn.init.normal_(self.characters.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        gates: list[Gate] | list[None] = [None] * config.layers if config.gate == DENSE else gates_of(config)
        self.blocks = nn.ModuleList(Block(config, gate) for gate in gates)
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocabulary, bias=False)

    def forward(self, ids_BS: Tensor, *, step: int = 0, generator: torch.Generator | None = None) -> LmOutput:
        """Logits of the next character at every place."""
        if ids_BS.dim() != 2 or ids_BS.shape[1] > self.config.sequence:
            raise UserError(
                f"ids of shape {tuple(ids_BS.shape)}", field="ids_BS", fix=f"[batch, up to {self.config.sequence} characters]"
            )
        x_BSD = self.characters(ids_BS) + self.places.weight[: ids_BS.shape[1]]
        about: dict[str, Any] = {"token_ids_T": ids_BS, "step": step, "generator": generator}
        routed: list[RouterOutput] = []
        for block in self.blocks:
            x_BSD, made = block(x_BSD, **about)
            if made is not None:
                routed.append(made)
                about["state"] = made.scores.state
        return LmOutput(self.head(self.norm(x_BSD)), tuple(routed))

    @torch.no_grad()
    def generate(self, ids_S: Tensor, count: int, *, temperature: float = 0.8, seed: int = 0) -> Tensor:
        """`count` more characters after the given ones; temperature 0 takes the likeliest."""
        if not len(ids_S):
            raise UserError("is empty", field="prompt", fix="give at least one character")
        was, generator = self.training, torch.Generator(device=ids_S.device).manual_seed(seed)
        self.eval()
        for _ in range(count):
            logits_V = self(ids_S[None, -self.config.sequence :], generator=generator).logits_BSV[0, -1]
            if temperature > 0:
                nxt = torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator)
            else:
                nxt = logits_V.argmax(keepdim=True)
            ids_S = torch.cat([ids_S, nxt])
        self.train(was)
        return ids_S


def next_character_loss(output: LmOutput, targets_BS: Tensor) -> Tensor:
    """Mean cross-entropy in nats per character, without the balancers' losses."""
    return functional.cross_entropy(output.logits_BSV.flatten(0, 1), targets_BS.flatten())


def save(model: TinyLM, path: Path, alphabet: str) -> None:
    """Weights, the gates' state, the configuration and the alphabet in one safetensors file."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"config": json.dumps(asdict(model.config)), "alphabet": alphabet})
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", field=str(path), fix="name another file") from error


def load(path: Path) -> tuple[TinyLM, str]:
    """A saved model in evaluation mode, and its alphabet; raises ArtefactError when the file is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            about = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
        model = TinyLM(TinyConfig(**json.loads(about["config"])))
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtefactError(f"is no saved model: {error}", field=str(path), fix="save it with tiny_lm.save") from error
    return model.eval(), about["alphabet"]
