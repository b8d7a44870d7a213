"""Gates side by side: the same model, seeds, data order and active FLOPs; a table with intervals, curves and diagnostics.

Shape suffixes: T tokens, E experts, K experts per token, D model width.

What is held equal: the text, the windows and their order (a seed's data do not depend on the gate), the optimiser, the number
of steps, the validation windows, and the *active* FLOPs of the experts. A gate that takes another number of experts per token
than K gets experts of another width, so that edges per token times width is the same at the start of training; total parameters
then differ, and a gate whose number of experts moves during training drifts from the match: both are in the table. "dense" is
the plain FFN of the same active FLOPs.

Each run is kept in `runs/GATE-SEED.json` under the output folder with the settings that it depends on: asked again with the
same settings it is read, not repeated, so a comparison that was stopped goes on where it was. A change of the code is not
noticed: name another folder then. Times are medians of single runs, one after the other, with the load beside them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from torch import Tensor

from junctor.errors import UserError
from junctor.layers import catalogue, text_data
from junctor.layers.catalogue import GateEntry
from junctor.layers.catalogue import gate as named_gate
from junctor.layers.layer import BalanceHook, MoELayer, attach_experts, bank_for
from junctor.layers.plan import RouteContext
from junctor.layers.recorder import Recorder
from junctor.layers.tiny_lm import DENSE, TinyConfig, TinyLM, next_character_loss, settings_of

SCHEMA = 1
Step = Callable[[str, int, int], None]

# Two-sided 95 per cent points of Student's t for 1 to 10 degrees of freedom; beyond that, Cornish and Fisher's series.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """What is compared, and how.

    gates    names; "name:k=1+rate=0.01" gives a gate settings of its own
    dense    whether the dense FFN of the same active FLOPs is trained as well
    held     validation windows, the same for all
    every    steps between evaluations (0: a tenth of all)
    match    whether experts' width follows the number of experts that a gate takes
    """

    gates: tuple[str, ...]
    steps: int = 1000
    seeds: int = 3
    batch: int = 16
    lr: float = 1e-3
    held: int = 64
    every: int = 0
    dense: bool = True
    match: bool = True
    allow_non_causal: bool = False
    layers: int = 4
    d_model: int = 128
    heads: int = 4
    experts: int = 8
    hidden: int = 256
    sequence: int = 128
    k: int = 2

    @property
    def interval(self) -> int:
        """Steps between evaluations."""
        return self.every or max(1, self.steps // 10)


@dataclass(slots=True)
class Run:
    """One training: what came out, or why it could not be done (`refused`)."""

    gate: str
    seed: int
    key: str
    refused: str = ""
    hidden: int = 0
    parameters: int = 0
    gate_parameters: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    held: list[tuple[int, float]] = field(default_factory=list)
    ms_per_step: float = 0.0
    best_ms_per_step: float = 0.0
    load_average: float = 0.0
    experts_per_token: float = 0.0
    max_violation: float = 0.0
    entropy: float = 0.0
    dropped: int = 0
    flip_rate: float | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)


def parse_gate(spec: str) -> tuple[str, dict[str, Any]]:
    """The name and settings of "name:k=1+rate=0.01"; values are read as JSON, else taken as text."""
    name, _, rest = spec.partition(":")
    settings: dict[str, Any] = {}
    for part in (part for part in rest.split("+") if part):
        key, sign, value = part.partition("=")
        if not sign:
            raise UserError(f"{part!r} sets nothing", field=spec, fix="write name:key=value+key=value")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return name, settings


def compare(settings: CompareSettings, data: Path, out: Path, progress: Step | None = None) -> dict[str, Any]:
    """Train everything that is not there yet, and write `compare.json` with the table; `plots` draws it."""
    check(settings)
    text = text_data.read_text(data)
    names = ([DENSE] if settings.dense else []) + [name for name in settings.gates if name != DENSE]
    jobs = [(seed, name) for seed in range(settings.seeds) for name in names]
    total = len(jobs) * settings.steps
    runs = []
    for place, (seed, name) in enumerate(jobs):
        told = partial(_tell, progress, f"{name} seed {seed}", place * settings.steps, total)
        runs.append(kept_run(settings, name, seed, text, out, told))
        told(settings.steps)
    document = summarise(settings, names, runs, {"file": data.name, "digest": text.digest, "characters": len(text.train)})
    _write(out / "compare.json", document)
    return document


def check(settings: CompareSettings) -> None:
    """Raise UserError for settings that cannot work, before anything is trained."""
    for name in (parse_gate(spec)[0] for spec in settings.gates):
        if name != DENSE:
            entry_of(name)
    for key in ("steps", "seeds", "batch", "held", "sequence", "experts", "hidden", "layers", "k"):
        if getattr(settings, key) < 1:
            raise UserError("must be at least 1", field=key, fix="pass a positive number")
    if settings.k > settings.experts:
        raise UserError(f"{settings.k} of {settings.experts} experts", field="k", fix="no more than there are experts")
    if not settings.gates and not settings.dense:
        raise UserError("names no gate", field="gates", fix="pass names of `junctor layers list`")


def entry_of(name: str) -> GateEntry:
    """The catalogue's entry; raises UnknownName with the known ones."""
    found = next((one for one in catalogue.GATES if one.name == name), None)
    if found is None:
        named_gate(name, 1, 1)  # raises with the list
        raise AssertionError(name)
    return found


def kept_run(
    settings: CompareSettings, name: str, seed: int, text: text_data.Text, out: Path, told: Callable[[int], None]
) -> Run:
    """The run from its file if that fits, else trained now and written; a gate that refuses is reported, not fatal."""
    key = fingerprint(settings, name, seed, text.digest)
    path = out / "runs" / f"{_file_name(name)}-{seed}.json"
    if path.exists():
        found = _read_run(path)
        if found is not None and found.key == key and not found.refused:
            return found
    try:
        made = train(settings, name, seed, text, key, told)
    except (UserError, TypeError, ValueError, RuntimeError) as error:
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        made = Run(name, seed, key, refused=said)
    _write(path, asdict(made))
    return made


def fingerprint(settings: CompareSettings, name: str, seed: int, digest: str) -> str:
    """What a run depends on: everything but the other gates and the number of seeds."""
    about = {key: value for key, value in asdict(settings).items() if key not in {"gates", "seeds", "dense"}}
    words = json.dumps([SCHEMA, about, name, seed, digest, torch.__version__], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def model_config(settings: CompareSettings, spec: str, vocabulary: int) -> TinyConfig:
    """The model for one gate: K experts where the gate takes a `k`, and the width that matches the active FLOPs."""
    name, own = parse_gate(spec)
    shape = {key: getattr(settings, key) for key in ("layers", "d_model", "heads", "experts", "sequence")}
    if name == DENSE:
        return TinyConfig(vocabulary, DENSE, hidden=settings.k * settings.hidden, **shape)
    if settings_of(name).get("k") == 2:  # another default has its reason (null experts, top-1): then the width makes up for it
        own = {"k": settings.k, **own}
    hidden = matched_hidden(settings, name, own) if settings.match else settings.hidden
    return TinyConfig(vocabulary, name, own, hidden=hidden, allow_non_causal=settings.allow_non_causal, **shape)


def matched_hidden(settings: CompareSettings, name: str, own: dict[str, Any]) -> int:
    """Width of an expert such that (experts per token at the start) x width = K x `hidden`, to a multiple of 8."""
    taken = experts_at_start(settings, name, own)
    if taken <= 0 or abs(taken - settings.k) <= 0.05 * settings.k:
        return settings.hidden
    return max(8, round(settings.k * settings.hidden / taken / 8) * 8)


@torch.no_grad()
def experts_at_start(settings: CompareSettings, name: str, own: dict[str, Any]) -> float:
    """Experts per token of an untrained gate on normed random tokens, in training mode; no seed of ours is touched.

    Per head where heads are routed: its experts are as narrow as it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gate = named_gate(name, settings.d_model, settings.experts, **own)
        attach_experts(gate, bank_for(gate, settings.experts, settings.d_model, settings.hidden))
        generator = torch.Generator().manual_seed(0)
        tokens = 8 * settings.sequence
        x_TD = torch.randn(tokens, settings.d_model, generator=generator)
        ids_T = torch.randint(64, (tokens,), generator=generator)
        later = torch.ones(settings.sequence, settings.sequence, dtype=torch.bool).triu(1)
        seen = torch.zeros(later.shape).masked_fill(later, -torch.inf).softmax(-1).expand(8, -1, -1)
        about = RouteContext(x_TD, (8, settings.sequence), token_ids_T=ids_T, attention_TT=seen, generator=generator)
        plan, _ = gate(about)
    return float(plan.edges / (tokens * gate.heads))


def train(
    settings: CompareSettings, spec: str, seed: int, text: text_data.Text, key: str, told: Callable[[int], None] | None = None
) -> Run:
    """One training from scratch. Weights, data and the gates' own draws each have a generator, so gates share the data."""
    torch.manual_seed(seed)
    model = TinyLM(model_config(settings, spec, text.vocabulary))
    whole, gates = _sizes(model)
    run = Run(spec, seed, key, hidden=model.config.hidden, parameters=whole, gate_parameters=gates)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01)
    hook = BalanceHook(model, optimiser) if _routed(model) else None
    order, draws = torch.Generator().manual_seed(1000 + seed), torch.Generator().manual_seed(2000 + seed)
    held = text_data.even_windows(text.held, settings.sequence, settings.held)
    recorder = Recorder(model) if hook else None
    times = []
    for step in range(settings.steps):
        ids, targets = text_data.random_windows(text.train, settings.sequence, settings.batch, order)
        started = time.perf_counter()
        loss = _step(model, optimiser, ids, targets, step, draws)
        times.append(1000.0 * (time.perf_counter() - started))
        run.losses.append((step + 1, loss))
        if (step + 1) % settings.interval == 0 or step + 1 == settings.steps:
            run.held.append((step + 1, evaluate(model, held, settings.batch, step + 1, recorder)))
        if told:
            told(step + 1)
    if hook:
        hook.close()
    steady = times[len(times) // 10 :]
    run.ms_per_step, run.best_ms_per_step, run.load_average = median(steady), min(steady), os.getloadavg()[0]
    if recorder:
        _take_diagnostics(run, recorder)
    return run


def _step(
    model: TinyLM, optimiser: torch.optim.Optimizer, ids: Tensor, targets: Tensor, step: int, draws: torch.Generator
) -> float:
    """One optimiser step; the loss of the text alone. Raises UserError when it is no longer finite."""
    model.train()
    output = model(ids, step=step, generator=draws)
    loss = next_character_loss(output, targets)
    optimiser.zero_grad(set_to_none=True)
    (loss + sum(output.losses().values())).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    value = float(loss.detach())
    if value != value or value == float("inf"):
        raise UserError(f"the loss is {value} at step {step + 1}", field=model.config.gate, fix="a lower learning rate")
    return value


@torch.no_grad()
def evaluate(model: TinyLM, held: tuple[Tensor, Tensor], batch: int, step: int, recorder: Recorder | None = None) -> float:
    """Validation loss in evaluation mode, in nats per character; the recorder sees these forwards."""
    model.eval()
    draws = torch.Generator().manual_seed(0)
    losses: list[tuple[int, float]] = []

    def all_windows() -> None:
        for ids, targets in zip(torch.split(held[0], batch), torch.split(held[1], batch), strict=True):
            losses.append((len(ids), float(next_character_loss(model(ids, step=step, generator=draws), targets))))

    if recorder is None:
        all_windows()
    else:
        with recorder.step(step):
            all_windows()
    return sum(n * loss for n, loss in losses) / sum(n for n, _ in losses)


def _take_diagnostics(run: Run, recorder: Recorder) -> None:
    """Figures of the last evaluation, mean over layers, and the whole recording."""
    run.diagnostics = recorder.summary()
    last = [layer["history"][-1] for layer in run.diagnostics["layers"].values()]
    run.experts_per_token = mean(line["experts_per_token"] for line in last)
    run.max_violation = mean(line["max_violation"] for line in last)
    run.entropy = mean(line["entropy"] for line in last)
    run.dropped = int(sum(line["dropped"] for line in last))
    flips = [line["flip_rate"] for line in last if "flip_rate" in line]
    run.flip_rate = mean(flips) if flips else None


def _routed(model: TinyLM) -> list[MoELayer]:
    return [one for one in model.modules() if isinstance(one, MoELayer)]


def _sizes(model: TinyLM) -> tuple[int, int]:
    """Parameters of the model, and of its gates."""
    gates = {id(p): p.numel() for layer in _routed(model) for p in layer.gate.parameters()}
    return sum(p.numel() for p in model.parameters()), sum(gates.values())


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 per cent Student interval over seeds; for one value the interval is that value (nothing is known of it)."""
    middle = mean(values)
    if len(values) < 2:
        return middle, middle, middle
    free = len(values) - 1
    point = STUDENT[free - 1] if free <= len(STUDENT) else 1.95996 + 2.3722 / free + 2.8225 / free**2
    half = point * stdev(values) / len(values) ** 0.5
    return middle, middle - half, middle + half


def summarise(settings: CompareSettings, names: Sequence[str], runs: Sequence[Run], data: dict[str, Any]) -> dict[str, Any]:
    """The document: settings, one row per gate (best validation loss first, refused ones last), and the runs' curves."""
    rows = [_row(settings, name, [run for run in runs if run.gate == name], runs) for name in names]
    rows.sort(key=lambda row: (bool(row["refused"]), row["loss"]))
    curves = {
        name: {
            "train": [run.losses for run in runs if run.gate == name and not run.refused],
            "held": [run.held for run in runs if run.gate == name and not run.refused],
        }
        for name in names
    }
    loads = {run.gate: _shares(run) for run in runs if run.seed == 0 and run.diagnostics}
    return {"schema": SCHEMA, "settings": asdict(settings), "data": data, "rows": rows, "curves": curves, "loads": loads}


def _row(settings: CompareSettings, name: str, mine: Sequence[Run], runs: Sequence[Run]) -> dict[str, Any]:
    done = [run for run in mine if not run.refused]
    entry = next((one for one in catalogue.GATES if one.name == parse_gate(name)[0]), None)
    row: dict[str, Any] = {
        "gate": name,
        "status": entry.status if entry else "limit",
        "causal": entry.causal if entry else True,
        "seeds": len(done),
        "refused": next((run.refused for run in mine if run.refused), "") if not done else "",
        "loss": 0.0,
    }
    if not done:
        return row
    row["loss"], row["loss_low"], row["loss_high"] = interval([run.held[-1][1] for run in done])
    row["vs_dense"] = _paired(done, [run for run in runs if run.gate == DENSE and not run.refused])
    for key in ("ms_per_step", "best_ms_per_step", "max_violation", "entropy", "experts_per_token", "dropped", "hidden"):
        row[key] = mean(getattr(run, key) for run in done)
    row["parameters"], row["gate_parameters"] = done[0].parameters, done[0].gate_parameters
    active = settings.k if name == DENSE else row["experts_per_token"]
    width = settings.hidden if name == DENSE else row["hidden"]
    row["active_share"] = active * width / (settings.k * settings.hidden)
    for key in ("srp", "srp_random", "sch", "specialisation_share", "effective_routes"):
        found = [layer[key] for run in done for layer in run.diagnostics.get("layers", {}).values() if key in layer]
        row[key] = mean(found) if found else None
    flips = [run.flip_rate for run in done if run.flip_rate is not None]
    row["flip_rate"] = mean(flips) if flips else None
    return row


def _paired(mine: Iterable[Run], other: Iterable[Run]) -> list[float] | None:
    """Difference of final losses to another gate on the same seeds: mean, low, high; None without a common seed."""
    theirs = {run.seed: run.held[-1][1] for run in other}
    gaps = [run.held[-1][1] - theirs[run.seed] for run in mine if run.seed in theirs]
    return list(interval(gaps)) if gaps else None


def _shares(run: Run) -> list[list[float]]:
    """Each layer's load shares."""
    counts = [layer["counts"] for layer in run.diagnostics["layers"].values()]
    return [[c / max(1, sum(row)) for c in row] for row in counts]


def _tell(progress: Step | None, what: str, before: int, total: int, done: int) -> None:
    if progress:
        progress(what, before + done, total)


def _file_name(spec: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in spec)


def _read_run(path: Path) -> Run | None:
    """A kept run, or None when the file is not whole."""
    try:
        return Run(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, value: Any) -> None:
    """JSON, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(value) + "\n", "utf-8")
        draft.replace(path)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", field=str(path), fix="name another folder") from error
