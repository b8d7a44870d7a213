"""How much of a dense FFN's speed a routed layer keeps, per dispatch backend; and what gates cost.

    python benchmarks/layers.py [--json -] [--rounds 9] [--tokens 4096] [--device cpu] [--backends fused,auto] [--no-gates]

`share_of_dense` is the time of the dense FFN of equal active FLOPs over the time of the layer, both forward and backward,
gate included, medians of interleaved rounds in one process (`share_of_dense_best` from the fastest rounds). Cases on a CPU:
fp32, width 256, experts of 512 (GELU), top-2; E = 8, E = 64, and E = 64 where one expert takes 22 times the mean. On a GPU:
bf16, width 1024, GLU experts of 512, top-8 of 64, 16384 tokens. `kept_mb` is what the forward keeps for the backward. For
gates, `share_of_layer` is the time from scores to plan (adjusting and selecting, forward) over that of the layer at E = 64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from junctor.errors import UserError
from junctor.layers.catalogue import GATES, gate
from junctor.layers.checking import Stand
from junctor.layers.contracts import Gate
from junctor.layers.dispatch import BACKENDS, chosen, why_not_grouped
from junctor.layers.experts import ExpertBank
from junctor.layers.layer import MoELayer
from junctor.layers.linear import LinearScorer
from junctor.layers.plan import RouteContext, Scores
from junctor.layers.selectors import TopK

SKEW = 22.0


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table, before it is measured."""

    name: str
    experts: int
    k: int
    d_model: int
    hidden: int
    kind: str
    skew: float = 0.0


ON_CPU = (
    Case("E=8", 8, 2, 256, 512, "ffn"),
    Case("E=64", 64, 2, 256, 512, "ffn"),
    Case(f"E=64, load {SKEW:.0f}:1", 64, 2, 256, 512, "ffn", SKEW),
)
ON_GPU = (Case("GPU E=64, top-8", 64, 8, 1024, 512, "glu"),)


class SkewedScorer(LinearScorer):
    """Lifts expert 0 until it takes `skew` times the mean load."""

    def __init__(self, d_model: int, experts: int, k: int, skew: float) -> None:
        super().__init__(d_model, experts, std=d_model**-0.5)
        self.k, self.share = k, min(skew * k / experts, 1.0)

    def forward(self, context: RouteContext) -> Scores:
        """Linear scores, shifted."""
        logits_TE = super().forward(context).logits_TE
        with torch.no_grad():
            last_T = logits_TE[:, 1:].topk(self.k, dim=1).values[:, -1]
            lift = torch.quantile(last_T - logits_TE[:, 0], self.share)
        shifted_TE = torch.cat((logits_TE[:, :1] + lift, logits_TE[:, 1:]), dim=1)
        return Scores(shifted_TE, shifted_TE.softmax(-1))


class DenseGlu(nn.Module):
    """SwiGLU."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d_model, 2 * hidden, bias=False), nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Output."""
        gate_TH, up_TH = self.up(x).chunk(2, dim=-1)
        y: Tensor = self.down(nn.functional.silu(gate_TH) * up_TH)
        return y


def dense_of(case: Case) -> nn.Module:
    """The FFN of equal active FLOPs."""
    hidden = case.k * case.hidden
    if case.kind == "glu":
        return DenseGlu(case.d_model, hidden)
    first, last = nn.Linear(case.d_model, hidden, bias=False), nn.Linear(hidden, case.d_model, bias=False)
    return nn.Sequential(first, nn.GELU(), last)


def layer_of(case: Case, backend: str) -> MoELayer:
    """The routed layer."""
    skewed = SkewedScorer(case.d_model, case.experts, case.k, case.skew)
    scorer = skewed if case.skew else LinearScorer(case.d_model, case.experts, std=case.d_model**-0.5)
    bank = ExpertBank(case.experts, case.d_model, case.hidden, case.kind)
    return MoELayer(Gate(scorer, TopK(case.k)), bank, backend)


def step(model: nn.Module, x: Tensor, dy: Tensor) -> float:
    """Seconds of a forward and a backward pass."""
    model.zero_grad(set_to_none=True)
    x.grad = None
    wait(x)
    started = time.perf_counter()
    model(x).backward(dy)
    wait(x)
    return time.perf_counter() - started


def wait(x: Tensor) -> None:
    """Until the GPU is done, where there is one."""
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that one forward keeps for the backward, parameters aside."""
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def note(one: Tensor) -> Tensor:
        storage = one.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return one

    with torch.autograd.graph.saved_tensors_hooks(note, lambda one: one):
        y = model(x)
    del y
    return sum(kept.values())


def backends_of(case: Case, wanted: list[str], x: Tensor) -> list[str]:
    """Those of the wanted that run here."""
    bank = layer_of(case, "fused").to(x).experts
    return [one for one in wanted if one != "grouped_mm" or not why_not_grouped(x, bank.stacked())]


def rows_of(case: Case, wanted: list[str], tokens: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """All backends of a case beside the dense FFN, interleaved."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    x = torch.randn(tokens, case.d_model, device=device, dtype=dtype).requires_grad_()
    dy = torch.randn_like(x)
    models: dict[str, nn.Module] = {"dense": dense_of(case).to(x)}
    for backend in backends_of(case, wanted, x):
        torch.manual_seed(1)
        models[backend] = layer_of(case, backend).to(x)
    times: dict[str, list[float]] = {name: [] for name in models}
    for i in range(rounds + 2):
        for name, model in models.items():
            taken = step(model, x, dy)
            if i >= 2:
                times[name].append(taken)
    return [row_of(case, name, models[name], times, x) for name in models if name != "dense"]


def row_of(case: Case, backend: str, model: nn.Module, times: dict[str, list[float]], x: Tensor) -> dict[str, Any]:
    """One row."""
    taken, dense = times[backend], times["dense"]
    plan = model.forward_with_plan(x).plan  # type: ignore[operator]
    counts_E = plan.counts_E.float()
    return {
        "case": case.name,
        "backend": backend,
        "share_of_dense": round(statistics.median(dense) / statistics.median(taken), 3),
        "share_of_dense_best": round(min(dense) / min(taken), 3),
        "ktok_s": round(x.shape[0] / statistics.median(taken) / 1e3, 1),
        "max_over_mean_load": round(float(counts_E.max() / counts_E.mean()), 2),
        "dropped": plan.dropped,
        "kept_mb": round(kept_bytes(model, x) / 1e6, 1),
    }


def median_time(call: Callable[[], object], rounds: int) -> float:
    """Seconds at the median."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def gate_rows(tokens: int, rounds: int, length: int = 128) -> list[dict[str, Any]]:
    """Each gate of the catalogue: from scores to plan, beside the whole layer with the first gate."""
    stand = Stand(lambda *_: layer.gate, d_model=256, experts=64, batch=max(tokens // length, 1), length=min(length, tokens))
    layer = layer_of(ON_CPU[1], "auto")
    x = torch.randn(stand.batch, stand.length, 256, requires_grad=True)
    dy = torch.randn_like(x)
    step(layer, x, dy)
    whole = statistics.median([step(layer, x, dy) for _ in range(rounds)])
    context = stand.context(x.detach())
    return [gate_row(entry.name, context, whole, rounds) for entry in GATES]


def gate_row(name: str, context: RouteContext, whole: float, rounds: int) -> dict[str, Any]:
    """One gate."""
    row: dict[str, Any] = {"case": "gate overhead, E=64", "backend": name, "share_of_dense": None}
    try:
        made = gate(name, 256, 64)
        with torch.no_grad():
            scores = made.scorer(context)
            made.selector(made.balancer.adjust(scores, context), scores, context)
            selecting = median_time(lambda: made.selector(made.balancer.adjust(scores, context), scores, context), rounds)
            scoring = median_time(lambda: made.scorer(context), rounds)
    except UserError as refusal:
        return {**row, "share_of_layer": None, "refused": str(refusal)}
    return {**row, "share_of_layer": round(selecting / whole, 3), "scorer_share_of_layer": round(scoring / whole, 3)}


def main() -> int:
    """Command line."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--json", default="-", help="file to write, or -")
    asked.add_argument("--rounds", type=int, default=9)
    asked.add_argument("--tokens", type=int, default=0)
    asked.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    asked.add_argument("--backends", default=",".join([*(one for one in BACKENDS if one != "reference"), "auto"]))
    asked.add_argument("--no-gates", action="store_true")
    given = asked.parse_args()
    tokens = given.tokens or (16384 if given.device == "cuda" else 4096)
    rows = []
    for case in ON_GPU if given.device == "cuda" else ON_CPU:
        rows += rows_of(case, given.backends.split(","), tokens, given.rounds, given.device)
    if given.device == "cpu" and not given.no_gates:
        rows += gate_rows(tokens, given.rounds)
    found = {
        "rows": rows,
        "chosen": sorted(set(chosen().values())),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    text = json.dumps(found, indent=1)
    if given.json == "-":
        print(text)
    else:
        Path(given.json).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
