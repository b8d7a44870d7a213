"""A routed layer that stands where an FFN stood: gate, experts, dispatcher. And what balances it between optimiser steps.

Shape suffixes: T tokens (flattened over all leading dimensions of the input), D model width, E experts.

    layer = MoELayer(gate("linear", 256, 8, k=2), ExpertBank(8, 256, 512))
    y = layer(x)                                    # [..., 256] -> [..., 256]
    out = layer.forward_with_plan(x)                # y, plan, scores, losses
    hook = BalanceHook(model, optimiser)            # the balancers' update, once per optimiser step

The forward is pure: nothing is counted in it, so activation checkpointing may run it twice; what a gate
drew, it then draws again (`replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.catalogue import gate as named_gate
from junctor.layers.contracts import Balancer, Gate
from junctor.layers.dispatch import BACKENDS, dispatch
from junctor.layers.experts import ExpertBank
from junctor.layers.plan import Plan, RouteContext, RouterOutput, Scores
from junctor.layers.replay import Draws, in_backward

Watcher = Callable[["MoELayer", Plan], None]

CONFIG_KEYS = (
    "d_model",
    "experts",
    "hidden",
    "gate",
    "gate_settings",
    "bank",
    "dispatcher",
    "autoregressive",
    "allow_non_causal",
)


class Removable(Protocol):
    """What `remove()` undoes."""

    def remove(self) -> None:
        """Undo it."""


class _Watch:
    """Removes one watcher of a layer."""

    def __init__(self, watchers: dict[int, Watcher], key: int) -> None:
        self.watchers, self.key = watchers, key

    def remove(self) -> None:
        """Stop watching."""
        self.watchers.pop(self.key, None)


def attach_experts(gate: Gate, experts: ExpertBank) -> None:
    """Show the bank to those parts of the gate that look at experts (they have `attach_experts`)."""
    for part in gate.parts:
        attach: Callable[[ExpertBank], None] | None = getattr(part, "attach_experts", None)
        if attach is not None:
            attach(experts)


def bank_for(gate: Gate, experts: int, d_model: int, hidden: int, **settings: Any) -> ExpertBank:
    """Experts for tokens of width D under this gate: as wide as its parts of a token are."""
    return ExpertBank(experts, d_model // gate.heads, hidden, **settings)


class MoELayer(nn.Module):
    """y_t = sum over the experts of the gate's plan of w_te f_e(x_t), plus the shared expert's output if there is one.

    A gate over heads cuts x_t into `gate.heads` parts; the sum is then over each part, and the results lie side by side.

    gate              a Gate; `gate.experts` must be the bank's, pseudo-experts included
    experts           an ExpertBank, as wide as the gate's parts are; a gate that looks at experts is shown it
    dispatcher        "auto" or a backend of junctor.layers.dispatch
    shared            a module that every token passes as well, or None
    autoregressive    whether the model predicts tokens from earlier ones: then a gate that looks at later tokens
                      (`causal=False`) is refused, unless `allow_non_causal`
    """

    def __init__(
        self,
        gate: Gate,
        experts: ExpertBank,
        dispatcher: str = "auto",
        *,
        shared: nn.Module | None = None,
        autoregressive: bool = True,
        allow_non_causal: bool = False,
    ) -> None:
        super().__init__()
        self.gate, self.experts, self.dispatcher, self.shared = gate, experts, dispatcher, shared
        self.autoregressive, self.allow_non_causal = autoregressive, allow_non_causal
        self._watchers: dict[int, Watcher] = {}
        self._draws = Draws()
        self._check()
        attach_experts(gate, experts)

    def _check(self) -> None:
        if self.dispatcher != "auto" and self.dispatcher not in BACKENDS:
            raise UserError(f"no dispatcher {self.dispatcher!r}", field="dispatcher", fix="auto, " + ", ".join(BACKENDS))
        if self.gate.experts != self.experts.experts:
            raise UserError(
                f"the gate knows {self.gate.experts} experts, the bank has {self.experts.experts}",
                field="experts",
                fix="make both of one size; zero and identity experts count",
            )
        if self.gate.heads > 1 and self.experts.d_model != self.gate.scorer.d_model:
            raise UserError(
                f"experts of width {self.experts.d_model} for parts of width {self.gate.scorer.d_model}",
                field="experts",
                fix=f"a bank of the tokens' width over {self.gate.heads} heads",
            )
        if self.autoregressive and not self.gate.causal and not self.allow_non_causal:
            raise UserError(
                f"gate {self.gate.name or 'given'!r} looks at later tokens: an autoregressive model would see its own future",
                field="gate",
                fix="another gate, autoregressive=False for a model that sees all tokens, or allow_non_causal=True",
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MoELayer:
        """From plain values.

        d_model, experts, hidden   sizes; `experts` are real ones
        gate, gate_settings        name and settings of the gate
        bank                       further settings of ExpertBank (kind, bias, zero, …)
        dispatcher, autoregressive, allow_non_causal
        """
        unknown = sorted(set(config) - set(CONFIG_KEYS))
        missing = [key for key in ("d_model", "experts", "hidden", "gate") if key not in config]
        if unknown or missing:
            raise UserError("unknown key" if unknown else "missing", field=(unknown or missing)[0], fix=", ".join(CONFIG_KEYS))
        about = config.get("bank", {})
        count = config["experts"] + about.get("zero", 0) + about.get("identity", 0)
        gate = named_gate(config["gate"], config["d_model"], count, **config.get("gate_settings", {}))
        bank = bank_for(gate, config["experts"], config["d_model"], config["hidden"], **about)
        rest = {key: config[key] for key in ("dispatcher", "autoregressive", "allow_non_causal") if key in config}
        return cls(gate, bank, **rest)

    @property
    def d_model(self) -> int:
        """D, the tokens' width: the experts' unless the gate cuts tokens into heads."""
        return self.experts.d_model * self.gate.heads

    def context(self, x: Tensor, **about: Any) -> RouteContext:
        """The input as a gate sees it; `about` are RouteContext's other fields, per token in any shape with T elements."""
        flat = {key: one.reshape(-1) if key.endswith("_T") and one is not None else one for key, one in about.items()}
        shape = tuple(x.shape[:-1]) if x.dim() == 3 else ()
        return RouteContext(x_TD=x.reshape(-1, x.shape[-1]), shape=shape, training=self.training, **flat)

    def forward(self, x: Tensor, **about: Any) -> Tensor:
        """The output, in the input's shape. `about`: token_ids_T, task_ids_T, padding_T, state, step, generator, …"""
        return self._run(x, about)[0]

    def forward_with_plan(self, x: Tensor, **about: Any) -> RouterOutput:
        """Output, plan, scores and the balancer's losses (weighted, to be added to the model's)."""
        y, plan, scores, context = self._run(x, about)
        return RouterOutput(y, plan, scores, self.gate.balancer.loss(plan, scores, context))

    def _run(self, x: Tensor, about: Mapping[str, Any]) -> tuple[Tensor, Plan, Scores, RouteContext]:
        if x.dim() < 1 or x.shape[-1] != self.d_model or not x.is_floating_point():
            raise UserError(f"{x.dtype} of shape {tuple(x.shape)}", field="x", fix=f"floats [..., {self.d_model}]")
        if x.device != self.experts.w_in_EDI.device:
            raise UserError(
                f"the input lies on {x.device}, the experts on {self.experts.w_in_EDI.device}",
                field="x.device",
                fix="move the layer and its input to one device",
            )
        context = self._draws.own(self.context(x, **about))
        plan, scores = self.gate(context)
        check_scores(scores, context)
        self._tell(plan)
        parts = context.x_TD.reshape(-1, self.experts.d_model)
        y_TO = dispatch(plan, parts, self.experts, self.dispatcher).reshape(-1, self.experts.d_out * self.gate.heads)
        if self.shared is not None:
            y_TO = y_TO + self.shared(context.x_TD)
        return y_TO.reshape(*x.shape[:-1], self.experts.d_out * self.gate.heads), plan, scores, context

    def watch(self, watcher: Watcher) -> Removable:
        """Call `watcher(layer, plan)` at each forward, except where activation checkpointing runs it again."""
        key = max(self._watchers, default=0) + 1
        self._watchers[key] = watcher
        return _Watch(self._watchers, key)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _tell(self, plan: Plan) -> None:
        if self._watchers and not in_backward():
            for watcher in list(self._watchers.values()):
                watcher(self, plan)

    def __getstate__(self) -> dict[str, Any]:
        """Without those who watch: they belong to the run, not to the layer."""
        return {**self.__dict__, "_watchers": {}}

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"gate={self.gate.name or 'given'}, dispatcher={self.dispatcher}"


@torch.compiler.disable  # type: ignore[untyped-decorator]
def check_scores(scores: Scores, context: RouteContext) -> None:
    """Raise UserError when a token that is not padding has a score that is not a number."""
    if not bool(scores.probs_TE.detach().sum().isnan()):
        return
    bad_T = scores.probs_TE.isnan().any(dim=1)
    if context.padding_T is not None:
        bad_T = bad_T & ~context.padding_T.repeat_interleave(len(bad_T) // len(context.padding_T))
    if bool(bad_T.any()):
        raise UserError(
            f"{int(bad_T.sum())} tokens have a score that is not a number, the first is token {int(bad_T.nonzero()[0])}",
            field="scores",
            fix="look for NaN in the layer's input or the gate's weights",
        )


class BalanceHook:
    """Counts each layer's edges per expert outside the forward, and calls the balancers' `update` once per optimiser step.

    Counted are forwards in training mode, over as many micro-batches as there are between two steps; not counted are
    evaluation and the replays of activation checkpointing. Layers that share a gate share its counts.

    model       its MoELayers are watched
    optimiser   after its step, `step` runs by itself; without one, call `step` yourself
    reduce      whether counts are summed over the processes of torch.distributed, when that runs
    """

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer | None = None, *, reduce: bool = True) -> None:
        self.reduce = reduce
        self.layers = [one for one in model.modules() if isinstance(one, MoELayer)]
        if not self.layers:
            raise UserError("the model has no MoELayer", field="model", fix="give the model that holds the layers")
        self.counts: dict[Gate, Tensor] = {}
        self._handles: list[Removable] = [layer.watch(self.count) for layer in self.layers]
        if optimiser is not None:
            self._handles.append(optimiser.register_step_post_hook(lambda *_: self.step()))

    def count(self, layer: MoELayer, plan: Plan) -> None:
        """Add a plan's counts to those of the layer's gate, if the layer is in training mode."""
        if layer.training:
            counts_E = plan.counts_E.detach().to(torch.int64)
            before = self.counts.get(layer.gate)
            self.counts[layer.gate] = counts_E.clone() if before is None else before + counts_E

    def step(self) -> None:
        """Update all balancers with the counts since the last step."""
        gates = dict.fromkeys(layer.gate for layer in self.layers)
        for gate in gates:
            counts_E = self.counts.pop(gate, None)
            if counts_E is None and self._shared():
                counts_E = torch.zeros(gate.experts, dtype=torch.int64, device=next(self._devices(gate)))
            if counts_E is not None:
                self._update(gate.balancer, counts_E)

    def _shared(self) -> bool:
        return self.reduce and torch.distributed.is_available() and torch.distributed.is_initialized()

    def _devices(self, gate: Gate) -> Any:
        return (layer.experts.w_in_EDI.device for layer in self.layers if layer.gate is gate)

    def _update(self, balancer: Balancer, counts_E: Tensor) -> None:
        if self._shared():
            torch.distributed.all_reduce(counts_E)
        with torch.no_grad():
            balancer.update(counts_E)

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
