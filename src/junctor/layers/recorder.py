"""The diagnostics callback: collects plans of every gate in a model while it is open, and says what was seen.

Shape suffixes: T tokens, E experts.

    recorder = Recorder(model)
    with recorder.step(120):
        loss = model(batch)          # replays by activation checkpointing are not counted
    recorder.save(Path("diagnostics.json"))
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers import diagnostics as measure
from junctor.layers.contracts import Gate
from junctor.layers.layer import in_backward
from junctor.layers.plan import Plan, RouteContext, Scores

SCHEMA = 1


@dataclass(slots=True)
class LayerTrace:
    """What was seen of one gate.

    history    one line per step: MaxVio, entropy, experts per token, drops …, over that step's calls
    counts_E   edges since the beginning
    routes, ids   the latest kept routes (bool [T, E]) and token ids of them, for locality and specialisation
    """

    experts: int
    history: list[dict[str, float]] = field(default_factory=list)
    counts_E: Tensor | None = None
    routes: list[Tensor] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)
    calls: list[dict[str, float]] = field(default_factory=list)
    step_counts_E: Tensor | None = None

    @property
    def kept(self) -> int:
        """Tokens whose routes are kept."""
        return sum(one.shape[0] for one in self.routes)


class Recorder:
    """Watches every `Gate` of a model by forward hooks; adds nothing to the model and nothing while it is closed.

    keep   tokens per layer whose full routes are kept (the latest ones); figures that need no routes see all tokens
    """

    def __init__(self, model: nn.Module, keep: int = 8192) -> None:
        if keep < 0:
            raise UserError(f"keep {keep} tokens", field="keep", fix="0 or more")
        self.keep = keep
        self.traces: dict[str, LayerTrace] = {}
        self._gates = {name or "gate": one for name, one in model.named_modules() if isinstance(one, Gate)}
        if not self._gates:
            raise UserError("the model has no gate", field="model", fix="pass a model with a layer of junctor.layers in it")

    @contextmanager
    def step(self, number: int) -> Iterator[Recorder]:
        """Record what the gates do inside; one line of history per gate and step."""
        handles = [gate.register_forward_hook(self._hook(name)) for name, gate in self._gates.items()]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for trace in self.traces.values():
                _close(trace, number)

    def _hook(self, name: str) -> Any:
        def seen(gate: nn.Module, given: tuple[Any, ...], made: tuple[Plan, Scores]) -> None:
            del gate
            if not in_backward():  # activation checkpointing runs the forward again there
                with torch.no_grad():
                    self._note(name, given[0] if given else None, *made)

        return seen

    def _note(self, name: str, context: RouteContext | None, plan: Plan, scores: Scores) -> None:
        trace = self.traces.setdefault(name, LayerTrace(plan.experts))
        counts_E = plan.counts_E.detach().cpu()
        trace.step_counts_E = counts_E if trace.step_counts_E is None else trace.step_counts_E + counts_E
        trace.calls.append(
            {
                "tokens": plan.tokens,
                "edges": plan.edges,
                "entropy": measure.routing_entropy(scores.probs_TE),
                "dropped": plan.dropped,
                "nulls": plan.nulls,
            }
        )
        if self.keep and plan.granularity == "token":
            trace.routes.append(plan.chosen_TE().cpu())
            ids_T = context.token_ids_T if context is not None else None
            trace.ids.append(torch.full((plan.tokens,), -1) if ids_T is None else ids_T.detach().reshape(-1).cpu())
            while len(trace.routes) > 1 and trace.kept - trace.routes[0].shape[0] >= self.keep:
                del trace.routes[0], trace.ids[0]

    def summary(self, segment: int = 16) -> dict[str, Any]:
        """Everything as plain JSON: per layer the history and the figures over what was kept."""
        layers = {name: _figures(trace, segment) for name, trace in self.traces.items()}
        return {"schema": SCHEMA, "segment": segment, "layers": layers}

    def routes(self) -> dict[str, Tensor]:
        """The kept routes per layer, bool [T, E]: what two checkpoints are compared by."""
        return {name: torch.cat(trace.routes) for name, trace in self.traces.items() if trace.routes}

    def save(self, path: Path, segment: int = 16) -> None:
        """Write the summary; raises UserError when the file cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.summary(segment), indent=1) + "\n", "utf-8")
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", field=str(path), fix="name another file") from error


def flip_rates(before: Recorder, after: Recorder) -> dict[str, float]:
    """Flip rate per layer between two recordings of the same tokens (two checkpoints)."""
    old, new = before.routes(), after.routes()
    return {name: measure.flip_rate(old[name], new[name]) for name in old if name in new}


def _close(trace: LayerTrace, number: int) -> None:
    """Fold the calls of a step into one line of history."""
    if not trace.calls or trace.step_counts_E is None:
        return
    tokens = sum(call["tokens"] for call in trace.calls)
    line = {name: sum(call[name] for call in trace.calls) for name in ("dropped", "nulls")}
    line["experts_per_token"] = sum(call["edges"] for call in trace.calls) / tokens if tokens else 0.0
    line["entropy"] = sum(call["entropy"] * call["tokens"] for call in trace.calls) / tokens if tokens else 0.0
    line["max_violation"] = measure.max_violation(trace.step_counts_E)
    trace.history.append({"step": number, **line})
    trace.counts_E = trace.step_counts_E if trace.counts_E is None else trace.counts_E + trace.step_counts_E
    trace.calls, trace.step_counts_E = [], None


def _figures(trace: LayerTrace, segment: int) -> dict[str, Any]:
    counts_E = trace.counts_E if trace.counts_E is not None else torch.zeros(trace.experts)
    figures: dict[str, Any] = {
        "experts": trace.experts,
        "counts": [int(c) for c in counts_E.tolist()],
        "max_violation": measure.max_violation(counts_E),
        "idle_share": measure.idle_share(counts_E),
        "effective_experts": measure.effective_number(counts_E),
        "history": trace.history,
    }
    if trace.kept:
        chosen_TE = torch.cat(trace.routes)
        figures |= _locality(chosen_TE, segment) | _classes(chosen_TE, torch.cat(trace.ids))
    return figures


def _locality(chosen_TE: Tensor, segment: int) -> dict[str, Any]:
    """SRP beside what chance would give, SCH with a cache of twice the active experts and on shuffled tokens, effective routes.

    Segments run through the kept tokens in their order, so the sequence length should be a multiple of the segment's.
    """
    if chosen_TE.shape[0] < segment:
        return {"effective_routes": measure.effective_routes(chosen_TE)}
    experts = chosen_TE.shape[1]
    active = max(1, round(float(chosen_TE.sum()) / chosen_TE.shape[0]))
    share_E = chosen_TE.double().mean(0).tolist()
    used = [e for e in range(experts) if share_E[e] > 0]
    srp_E = measure.segment_routing_performance(chosen_TE, segment)
    cache = min(experts, 2 * active)
    shuffled_TE = chosen_TE[torch.randperm(chosen_TE.shape[0], generator=torch.Generator().manual_seed(0))]
    return {
        "effective_routes": measure.effective_routes(chosen_TE),
        "srp": float(srp_E[used].mean()) if used else 0.0,
        "srp_random": sum(measure.random_srp(share_E[e], segment) for e in used) / len(used) if used else 0.0,
        "cache": cache,
        "sch": measure.segment_cache_hit_rate(chosen_TE, segment, cache),
        "sch_random": measure.segment_cache_hit_rate(shuffled_TE, segment, cache),
    }


def _classes(chosen_TE: Tensor, ids_T: Tensor) -> dict[str, Any]:
    """Specialisation on token ids, where they were given."""
    known_T = ids_T >= 0
    if not bool(known_T.any()):
        return {}
    mass_CE = measure.class_mass_CE(chosen_TE, ids_T)
    used_CE = mass_CE[mass_CE.sum(1) > 0]
    return {
        "specialisation": measure.specialisation(used_CE),
        "specialisation_share": measure.specialisation_share(used_CE),
        "classes_per_route": measure.compositions_per_route(chosen_TE[known_T], ids_T[known_T]),
    }
