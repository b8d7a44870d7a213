"""The suite's results on disk: per unit a JSON document and an NPZ of figures, written in one step, found again by their key.

The key is a digest of everything that the unit's figures depend on. A rerun with the same key reads what is there.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

import junctor
from junctor import registry
from junctor.bench.experiment import Array, Result
from junctor.bench.experiments import EXPERIMENTS
from junctor.bench.prepared import Run
from junctor.bench.sources import code_digest
from junctor.outcomes.files import replace_file

DONE, SKIPPED, FAILED = "done", "skipped", "failed"


class Unit(Struct, frozen=True, order=True):
    """One policy in one experiment on one set."""

    experiment: str
    set: str
    policy: str

    @property
    def name(self) -> str:
        """For people and for file names."""
        return f"{self.experiment}/{self.set}/{self.policy}"


class Record(Struct, frozen=True, kw_only=True):
    """What became of a unit; its figures lie beside it.

    status   done, skipped (the policy cannot answer here) or failed; `why` says the reason of the last two
    """

    unit: Unit
    key: str
    status: str
    why: str = ""
    seconds: float = 0.0
    headline: str = ""
    notes: tuple[str, ...] = ()
    curves: dict[str, Any] = {}


def key_of(run: Run, unit: Unit, set_digest: str) -> str:
    """Names the figures of a unit: version, unit, data, seeds, and the code of the experiment and of the policy."""
    places = [EXPERIMENTS.get(unit.experiment, ""), *_places(unit.policy.partition(":")[0])]
    code = [code_digest(place) for place in places]
    says = [junctor.__version__, unit, set_digest, run.encoder, run.seeds, run.resamples, run.quick, code]
    return hashlib.sha256(msgspec.json.encode(says)).hexdigest()[:24]


def _places(policy: str) -> Sequence[str]:
    return [e.where for kind in ("estimator", "policy") for e in registry.entries(kind) if e.name == policy]


def _stem(out: Path, unit: Unit) -> Path:
    policy = re.sub(r"[^\w.+-]", "_", unit.policy)
    return out / unit.experiment / unit.set / policy


def save(out: Path, record: Record, figures: Mapping[str, Array]) -> None:
    """Write a unit's result: figures first, so that a document is never there without them."""
    stem = _stem(out, record.unit)
    stem.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    np.savez_compressed(stream, **{name: values.astype(np.float64) for name, values in figures.items()})  # type: ignore[arg-type]
    replace_file(stem.with_name(f"{stem.name}.npz"), stream.getvalue())
    replace_file(stem.with_name(f"{stem.name}.json"), msgspec.json.format(msgspec.json.encode(record), indent=1))


def find(out: Path, unit: Unit, key: str) -> Record | None:
    """The result of this very unit, or None: of another key, damaged, or not there."""
    stem = _stem(out, unit)
    try:
        record = msgspec.json.decode(stem.with_name(f"{stem.name}.json").read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if record.key == key and stem.with_name(f"{stem.name}.npz").is_file() else None


def figures_of(out: Path, unit: Unit) -> dict[str, Array]:
    """The figures of a unit that was found: metric -> [S, 1 + B]."""
    stem = _stem(out, unit)
    with np.load(stem.with_name(f"{stem.name}.npz"), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def before(out: Path, unit: Unit) -> float | None:
    """How many seconds this unit took the last time, whatever its key was."""
    stem = _stem(out, unit)
    try:
        return msgspec.json.decode(stem.with_name(f"{stem.name}.json").read_bytes(), type=Record).seconds
    except (OSError, msgspec.MsgspecError):
        return None


def record_of(unit: Unit, key: str, result: Result, headline: str, seconds: float) -> Record:
    """A result as it is kept."""
    return Record(
        unit=unit,
        key=key,
        status=SKIPPED if result.skipped else DONE,
        why=result.skipped,
        seconds=round(seconds, 3),
        headline=headline,
        notes=tuple(result.notes),
        curves=dict(result.curves),
    )
