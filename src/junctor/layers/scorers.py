"""Scores of one token from its own vector: linear, cosine, expert attention, hypernetwork, recurrent over depth, mixture.

Shape suffixes: T tokens, E experts, D model width, R router width, M sub-scorers, W hypernetwork width.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from junctor.errors import UserError
from junctor.layers.balancing import LossBalancer
from junctor.layers.contracts import Gate, Scorer
from junctor.layers.linear import Activation, LinearScorer, activate, fp32_logits
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.selectors import TopK, Weights, check_k

TINY = 1e-20


def linear32(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None = None) -> Tensor:
    """The product x W' + b in fp32, whatever the parameters are stored in."""
    return functional.linear(x_TD, weight_ED.float(), None if bias_E is None else bias_E.float())


def fresh(*shape: int) -> nn.Parameter:
    """A trainable matrix whose product with a unit-variance input has unit variance."""
    return nn.Parameter(torch.randn(shape) * shape[-1] ** -0.5)


def from_probs(probs_TE: Tensor, state: Tensor | None = None) -> Scores:
    """Scores of a distribution that has no logits of its own: the logits are its logarithm."""
    return Scores(probs_TE.clamp_min(TINY).log(), probs_TE, state)


def positive(value: float, field: str) -> float:
    """The value if it is above zero."""
    if not value > 0:
        raise UserError(f"is {value}", field=field, fix="a number above zero")
    return float(value)


def token_ids(context: RouteContext, vocabulary: int) -> Tensor:
    """The context's token ids; UserError when there are none, too few, or (on a CPU, where looking is free) unknown ones."""
    ids_T = context.token_ids_T
    if ids_T is None or ids_T.shape != context.x_TD.shape[:1]:
        found = "missing" if ids_T is None else f"of shape {tuple(ids_T.shape)}"
        raise UserError(f"are {found}", field="token_ids_T", fix=f"give one int64 id per token: {context.x_TD.shape[0]}")
    looked = ids_T.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked and ids_T.numel() and not 0 <= int(ids_T.min()) <= int(ids_T.max()) < vocabulary:
        raise UserError("name a token outside the vocabulary", field="token_ids_T", fix=f"0 to {vocabulary - 1}")
    return ids_T


def noise_like(like_TE: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise from the context's generator, which may live on another device."""
    device = like_TE.device if generator is None else generator.device
    return torch.randn(like_TE.shape, generator=generator, device=device).to(like_TE.device)


class Float32Scorer(Scorer):
    """A scorer that sees fp32 input and is not touched by autocast. Subclasses write `score`."""

    def forward(self, context: RouteContext) -> Scores:
        """Check the input, leave autocast, score."""
        x_TD = self.checked(context.x_TD)
        with torch.autocast(x_TD.device.type, enabled=False):
            return self.score(x_TD.float(), context)

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Scores of fp32 tokens."""
        raise NotImplementedError

    def checked(self, x_TD: Tensor) -> Tensor:
        """The tokens if they are [T, D] numbers on the scorer's device."""
        if x_TD.dim() != 2 or x_TD.shape[1] != self.d_model or not x_TD.is_floating_point():
            raise UserError(
                f"is {tuple(x_TD.shape)} {x_TD.dtype}", field="x_TD", fix=f"flatten to (tokens, {self.d_model}) floating point"
            )
        home = next(chain(self.parameters(), self.buffers()), None)
        if home is not None and home.device != x_TD.device:
            raise UserError(
                f"lies on {x_TD.device}, the gate on {home.device}", field="x_TD", fix="move one to the other's device"
            )
        return x_TD


class TemperedLinearScorer(LinearScorer):
    """z = (x W' + b) / temperature (+ noise · N(0, 1) in training), p = activation(z).

    bias_E  trainable, or None.  Noisy top-k with a learned noise scale (Shazeer et al., 2017) is another thing.
    """

    def __init__(
        self,
        d_model: int,
        experts: int,
        activation: Activation = "softmax",
        *,
        bias: bool = False,
        temperature: float = 1.0,
        noise: float = 0.0,
    ) -> None:
        super().__init__(d_model, experts, activation)
        self.temperature, self.noise = positive(temperature, "temperature"), noise
        self.bias_E = nn.Parameter(torch.zeros(experts)) if bias else None

    def forward(self, context: RouteContext) -> Scores:
        """One matrix product, then temperature and noise."""
        logits_TE = fp32_logits(context.x_TD, self.weight_ED, self.bias_E) / self.temperature
        if self.noise and context.training:
            logits_TE = logits_TE + self.noise * noise_like(logits_TE, context.generator)
        return Scores(logits_TE, activate(logits_TE, self.activation))


class CosineScorer(Float32Scorer):
    """z_e = s cos(P x, w_e), p = softmax(z): routing on direction alone (Chi et al., X-MoE, 2022, section 3.2; also tutel).

    P_RD        projection to R dimensions, or none when width is 0
    weight_ER   prototypes;  scale = exp(log_scale), trainable, held under `most`. A zero vector scores 0 everywhere
    Unverified: the clamp of the scale (100) is tutel's, and X-MoE's own temperature schedule was not read.
    """

    def __init__(self, d_model: int, experts: int, width: int = 0, scale: float = 10.0, most: float = 100.0) -> None:
        super().__init__(d_model, experts)
        self.project_RD = fresh(width, d_model) if width else None
        self.weight_ER = fresh(experts, width or d_model)
        self.log_scale = nn.Parameter(torch.tensor(positive(scale, "scale")).log())
        self.log_most = torch.tensor(positive(most, "most")).log().item()

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Cosine with every prototype."""
        del context
        x_TR = x_TD if self.project_RD is None else linear32(x_TD, self.project_RD)
        cosine_TE = functional.normalize(x_TR, dim=1) @ functional.normalize(self.weight_ER.float(), dim=1).t()
        logits_TE = cosine_TE * self.log_scale.float().clamp(max=self.log_most).exp()
        return Scores(logits_TE, logits_TE.softmax(dim=-1))


class ExpertAttentionScorer(Float32Scorer):
    """q, k, v = x Wq', x Wk', x Wv' in R^E; A = row-softmax(q k') of E x E, no 1/sqrt scale; z = A v; p = softmax(z).

    Source: Yuan 2.0-M32 (Wu et al., 2024), released model code. Costs 3 D E + E² exponentials per token: the E² is the method,
    so at E = 64 it is no cheap gate.
    qkv_3ED  trainable, stacked
    """

    def __init__(self, d_model: int, experts: int) -> None:
        super().__init__(d_model, experts)
        self.qkv_3ED = nn.Parameter(torch.randn(3, experts, d_model) * d_model**-0.5)

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Attention of experts to experts, one token at a time."""
        del context
        query_TE, key_TE, value_TE = linear32(x_TD, self.qkv_3ED.flatten(0, 1)).chunk(3, dim=1)
        logits_TE: Tensor = ExpertAttention.apply(query_TE, key_TE, value_TE)  # type: ignore[no-untyped-call]
        return Scores(logits_TE, logits_TE.softmax(dim=-1))


class ExpertAttention(torch.autograd.Function):
    """z_i = sum_j a_ij v_j, a_i = softmax_j(q_i k_j), per token; some tokens at a time, so that no T E² tensor is kept.

    With g = dL/dz the backward needs A times two columns and A' times three:
    dq_i = g_i (sum_j a_ij v_j k_j - z_i sum_j a_ij k_j);  dv_j = sum_i a_ij g_i;
    dk_j = v_j sum_i a_ij g_i q_i - sum_i a_ij g_i z_i q_i.
    """

    @staticmethod
    def forward(ctx: Any, query_TE: Tensor, key_TE: Tensor, value_TE: Tensor) -> Tensor:
        """Z."""
        size = _rows_at_once(query_TE)
        parts = zip(*(torch.split(part, size) for part in (query_TE, key_TE, value_TE)), strict=True)
        z_TE = torch.cat([(_attention(q, k) @ v[:, :, None]).squeeze(-1) for q, k, v in parts])
        ctx.save_for_backward(query_TE, key_TE, value_TE, z_TE)
        return z_TE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v."""
        rows = [torch.split(part, _rows_at_once(part)) for part in (*ctx.saved_tensors, grads[0])]
        made = [_attention_grads(q, k, v, z, g) for q, k, v, z, g in zip(*rows, strict=True)]
        query_TE, key_TE, value_TE = (torch.cat(part) for part in zip(*made, strict=True))
        return query_TE, key_TE, value_TE


def _rows_at_once(rows_TE: Tensor) -> int:
    room = 2**18 if rows_TE.device.type == "cpu" else 2**26  # 1 MB, which a cache holds; elsewhere 256 MB
    return max(1, room // max(rows_TE.shape[1], 1) ** 2)


def _attention(query_RE: Tensor, key_RE: Tensor) -> Tensor:
    return (query_RE[:, :, None] * key_RE[:, None, :]).softmax(dim=-1)


def _attention_grads(q: Tensor, k: Tensor, v: Tensor, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mix_REE = _attention(q, k)
    vk, k_mean = (mix_REE @ torch.stack([v * k, k], dim=2)).unbind(2)
    gq, gzq, grad_v = (torch.stack([g * q, g * z * q, g], dim=1) @ mix_REE).unbind(1)
    return g * (vk - z * k_mean), v * gq - gzq, grad_v


class HyperScorer(Float32Scorer):
    """[W | b] = H(e), z = x W' + b; e in R^D is trained, H = Linear(D, 256), ReLU, Linear(256, E (D + 1)) is not.

    Source: HyperRouter (Do et al., 2023), released `custom_gate.py`. There H is an ordinary submodule, so unless the trainer
    freezes it, it is trained too; here H lives in buffers and no optimiser can reach it. `frozen=False` is the released form.
    """

    first_WD: Tensor
    first_WD_bias: Tensor
    second_NW: Tensor
    second_NW_bias: Tensor

    def __init__(self, d_model: int, experts: int, width: int = 256, *, frozen: bool = True) -> None:
        super().__init__(d_model, experts)
        self.embedding_D = nn.Parameter(torch.randn(d_model))
        parts = {"first_WD": (width, d_model), "second_NW": (experts * (d_model + 1), width)}
        for name, (rows, columns) in parts.items():
            bound = columns**-0.5
            self._keep(name, torch.empty(rows, columns).uniform_(-bound, bound), frozen)
            self._keep(name + "_bias", torch.empty(rows).uniform_(-bound, bound), frozen)

    def _keep(self, name: str, value: Tensor, frozen: bool) -> None:
        if frozen:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, nn.Parameter(value))

    def weights(self) -> tuple[Tensor, Tensor]:
        """W [E, D] and b [E] that the hypernetwork makes now."""
        hidden_W = linear32(self.embedding_D.float(), self.first_WD, self.first_WD_bias).relu()
        both_EN = linear32(hidden_W, self.second_NW, self.second_NW_bias).view(self.experts, self.d_model + 1)
        return both_EN[:, :-1], both_EN[:, -1]

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """A linear score with made weights."""
        del context
        weight_ED, bias_E = self.weights()
        logits_TE = functional.linear(x_TD, weight_ED, bias_E)
        return Scores(logits_TE, logits_TE.softmax(dim=-1))


class DepthCell(nn.Module):
    """The GRU that all layers of a recurrent gate share; gates, in rows: reset, update, new (torch's order)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.input_3RR, self.state_3RR = fresh(3 * width, width), fresh(3 * width, width)
        self.input_bias, self.state_bias = nn.Parameter(torch.zeros(3 * width)), nn.Parameter(torch.zeros(3 * width))

    def forward(self, input_TR: Tensor, state_TR: Tensor) -> Tensor:
        """The next state, in fp32."""
        reset, update, new = linear32(input_TR, self.input_3RR, self.input_bias).chunk(3, dim=1)
        reset_s, update_s, new_s = linear32(state_TR, self.state_3RR, self.state_bias).chunk(3, dim=1)
        fresh_TR = torch.tanh(new + torch.sigmoid(reset + reset_s) * new_s)
        keep_TR = torch.sigmoid(update + update_s)
        return fresh_TR + keep_TR * (state_TR - fresh_TR)


class RecurrentScorer(Float32Scorer):
    """u = P_l x, h_l = GRU(u, h_{l-1}), z = W_l h_l: the recurrence runs over depth, not time, so token order is irrelevant.

    Source: RMoE (Qiu et al., 2024), released code. One GRU for all layers: pass the same `cell` to every layer's gate.
    h_l is the Scores.state that the next layer's context must carry; the first layer starts from zeros; never detached.
    """

    def __init__(self, d_model: int, experts: int, cell: DepthCell) -> None:
        super().__init__(d_model, experts)
        self.cell = cell
        self.project_RD, self.weight_ER = fresh(cell.width, d_model), fresh(experts, cell.width)

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """One step of the GRU, then a linear score."""
        before_TR = context.state
        if before_TR is None:
            before_TR = x_TD.new_zeros(x_TD.shape[0], self.cell.width)
        if before_TR.shape != (x_TD.shape[0], self.cell.width):
            raise UserError(
                f"is {tuple(before_TR.shape)}",
                field="context.state",
                fix=f"the previous layer's Scores.state, {(x_TD.shape[0], self.cell.width)}",
            )
        state_TR = self.cell(linear32(x_TD, self.project_RD), before_TR.float())
        logits_TE = linear32(state_TR, self.weight_ER)
        return Scores(logits_TE, logits_TE.softmax(dim=-1), state_TR)


class MixtureScorer(Float32Scorer):
    """p = sum_m a_m softmax(W_m x), a = softmax(W_0 x): M sub-scorers under a main one.

    Source: Mixture of Routers (for LoRA experts), abstract only; that the mixture is of probabilities and not of logits, and
    that top-k follows it, is unverified.
    main_MD, weight_MED  trainable
    """

    def __init__(self, d_model: int, experts: int, routers: int = 4) -> None:
        super().__init__(d_model, experts)
        if routers < 1:
            raise UserError(f"is {routers}", field="routers", fix="at least 1 sub-scorer")
        self.routers = routers
        self.main_MD = fresh(routers, d_model)
        self.weight_MED = fresh(routers, experts, d_model)

    def score(self, x_TD: Tensor, context: RouteContext) -> Scores:
        """Mix the sub-scorers' distributions."""
        del context
        each_TME = linear32(x_TD, self.weight_MED.flatten(0, 1)).view(-1, self.routers, self.experts).softmax(dim=-1)
        main_TM = linear32(x_TD, self.main_MD).softmax(dim=-1)
        return from_probs((main_TM[:, None, :] @ each_TME).squeeze(1))


def top_k_gate(scorer: Scorer, k: int, weights: Weights | None = None, scale: float = 1.0, switch: float = 0.01) -> Gate:
    """The gate of a scorer under top-k, with the Switch loss at weight `switch`.

    Weights: renormalised over the chosen, which for a softmax is the softmax over the chosen logits; but plain for k = 1,
    where renormalising would leave no gradient.
    """
    chosen: Weights = weights or ("plain" if k == 1 else "renormalised")
    return Gate(scorer, TopK(check_k(k, scorer.experts), chosen, scale), LossBalancer(switch=switch))


def linear(
    d_model: int,
    experts: int,
    k: int = 2,
    *,
    activation: Activation = "softmax",
    bias: bool = False,
    temperature: float = 1.0,
    noise: float = 0.0,
    weights: Weights | None = None,
    scale: float = 1.0,
    switch: float = 0.01,
) -> Gate:
    """The plain gate: linear scores, top-k."""
    scorer = TemperedLinearScorer(d_model, experts, activation, bias=bias, temperature=temperature, noise=noise)
    return top_k_gate(scorer, k, weights, scale, switch)


def cosine(d_model: int, experts: int, k: int = 2, *, width: int = 0, scale: float = 10.0, switch: float = 0.01) -> Gate:
    """Top-k of the cosine with learned prototypes."""
    return top_k_gate(CosineScorer(d_model, experts, width, scale), k, switch=switch)


def yuan2(d_model: int, experts: int, k: int = 2, *, switch: float = 0.01) -> Gate:
    """Yuan 2.0-M32's attention over experts, top-k, softmax over the chosen."""
    return top_k_gate(ExpertAttentionScorer(d_model, experts), k, switch=switch)


def hyperrouter(d_model: int, experts: int, k: int = 2, *, width: int = 256, frozen: bool = True, switch: float = 0.01) -> Gate:
    """HyperRouter: top-k of z, softmax over the k."""
    return top_k_gate(HyperScorer(d_model, experts, width, frozen=frozen), k, switch=switch)


def rmoe(
    d_model: int,
    experts: int,
    k: int = 2,
    *,
    width: int = 128,
    cell: DepthCell | None = None,
    switch: float = 0.01,
) -> Gate:
    """RMoE: the layer-recurrent gate; pass one `cell` to all layers, and each layer's Scores.state to the next context."""
    return top_k_gate(RecurrentScorer(d_model, experts, cell or DepthCell(width)), k, switch=switch)


def mor(d_model: int, experts: int, k: int = 2, *, routers: int = 4, switch: float = 0.01) -> Gate:
    """Mixture of Routers, top-k of the mixed distribution."""
    return top_k_gate(MixtureScorer(d_model, experts, routers), k, switch=switch)
