"""The diagnostics callback: collects plans of every gate in a model while it is open, and says what was seen.

Shape suffixes: T tokens, E experts.

    recorder = Recorder(model)
    with recorder.step(120):
        loss = model(batch)          # replays by activation checkpointing are not counted
    recorder.save(Path("diagnostics.json"))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers import diagnostics as measure
from junctor.layers.contracts import Gate
from junctor.layers.plan import Plan, RouteContext, Scores
from junctor.layers.replay import in_backward

SCHEMA = 1


@dataclass(slots=True)
class Routes:
    """Routes of some tokens with what is known of those: token ids and task (domain) ids, -1 where they were not given."""

    chosen_TE: Tensor
    ids_T: Tensor
    tasks_T: Tensor

    @classmethod
    def of(cls, plan: Plan, context: RouteContext | None) -> Routes:
        """A plan's routes, on the CPU."""
        ids_T = context.token_ids_T if context is not None else None
        tasks_T = context.task_ids_T if context is not None else None
        return cls(plan.chosen_TE().cpu(), _known(ids_T, plan.tokens), _known(tasks_T, plan.tokens))

    @classmethod
    def joined(cls, parts: Sequence[Routes]) -> Routes:
        """One after the other."""
        return cls(
            torch.cat([one.chosen_TE for one in parts]),
            torch.cat([one.ids_T for one in parts]),
            torch.cat([one.tasks_T for one in parts]),
        )

    def __len__(self) -> int:
        return self.chosen_TE.shape[0]


@dataclass(slots=True)
class LayerTrace:
    """What was seen of one gate.

    history    one line per step: MaxVio, entropy, experts per token, drops, flips …, over that step's calls
    counts_E   edges since the beginning
    kept       the latest routes, for locality and specialisation
    before     the routes of the step before, for flips
    calls, now, step_counts_E   of the open step
    """

    experts: int
    history: list[dict[str, float]] = field(default_factory=list)
    counts_E: Tensor | None = None
    kept: list[Routes] = field(default_factory=list)
    before: Routes | None = None
    calls: list[dict[str, float]] = field(default_factory=list)
    now: list[Routes] = field(default_factory=list)
    step_counts_E: Tensor | None = None


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
            routes = Routes.of(plan, context)
            trace.now.append(routes)
            trace.kept.append(routes)
            for held in (trace.now, trace.kept):
                while len(held) > 1 and sum(map(len, held)) - len(held[0]) >= self.keep:
                    del held[0]

    def summary(self, segment: int = 16) -> dict[str, Any]:
        """Everything as plain JSON: per layer the history and the figures over what was kept."""
        layers = {name: _figures(trace, segment) for name, trace in self.traces.items()}
        return {"schema": SCHEMA, "segment": segment, "layers": layers}

    def routes(self) -> dict[str, Tensor]:
        """The kept routes per layer, bool [T, E]: what two checkpoints are compared by."""
        return {name: Routes.joined(trace.kept).chosen_TE for name, trace in self.traces.items() if trace.kept}

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
    if trace.now:
        now, before = Routes.joined(trace.now), trace.before
        if before is not None and torch.equal(now.ids_T, before.ids_T) and bool((now.ids_T >= 0).all()):
            line["flip_rate"] = measure.flip_rate(before.chosen_TE, now.chosen_TE)  # the same tokens as in the step before
        trace.before = now
    trace.history.append({"step": number, **line})
    trace.counts_E = trace.step_counts_E if trace.counts_E is None else trace.counts_E + trace.step_counts_E
    trace.calls, trace.now, trace.step_counts_E = [], [], None


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
        routes = Routes.joined(trace.kept)
        figures |= _locality(routes.chosen_TE, segment) | _classes(routes.chosen_TE, routes.ids_T) | _committee(routes)
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


def _committee(routes: Routes) -> dict[str, Any]:
    """The standing committee over tasks, where at least two were named."""
    mass_CE = measure.class_mass_CE(routes.chosen_TE, routes.tasks_T)
    mass_CE = mass_CE[mass_CE.sum(1) > 0]
    if len(mass_CE) < 2:
        return {}
    found = measure.standing_committee(mass_CE)
    return {"committee": list(found.members), "committee_coverage": found.coverage, "gini": found.gini}


def _known(ids_T: Tensor | None, tokens: int) -> Tensor:
    return torch.full((tokens,), -1) if ids_T is None else ids_T.detach().reshape(-1).cpu()
