"""RouterArena (RouteWorks): cached results, one JSONL file per model, one line per query and run.

Verified in RouteWorks/RouterArena: `cached_results/gemini-2.0-flash-001.jsonl` (global_index, question, llm_selected,
token_usage.input_tokens and .output_tokens, success, run_number, evaluation_result.score and .inference_cost in USD).
The dataset is the global index without its number, as its own evaluation tells datasets apart. Some METEOR scores are slightly
negative: pass clip=True. A failed call has no score and stays null; several runs of one query are samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from junctor.errors import TableError
from junctor.outcomes.collecting import Collector
from junctor.outcomes.columns import Options
from junctor.outcomes.files import check_exists, load_lines
from junctor.outcomes.table import OutcomeTable


def read(path: Path, *, clip: bool = False) -> OutcomeTable:
    """Read one model's JSONL file, or every .jsonl file in a folder."""
    check_exists(path, folder=True)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise TableError("holds no JSONL files", field=str(path), fix="name the folder cached_results")
    collector = Collector(Options(str(path), clip=clip, drop_empty=True))
    for file in files:
        for number, record in enumerate(load_lines(file), 1):
            _collect(collector, record, file.stem, f"{file}: record {number}")
    return collector.table("dataset")


def _collect(collector: Collector, record: Mapping[str, Any], stem: str, where: str) -> None:
    index = record.get("global_index") or record.get("global index")
    if not isinstance(index, str):
        raise TableError(
            "has no global_index, so this is not a cached result", field=where, fix="name a file of cached_results"
        )
    dataset, underscore, _ = index.rpartition("_")
    row = collector.query(index, str(record.get("question") or ""), {"dataset": dataset if underscore else index})
    result, usage = record.get("evaluation_result") or {}, record.get("token_usage") or {}
    if not isinstance(result, dict) or not isinstance(usage, dict):
        raise TableError("evaluation_result and token_usage must be objects", field=where, fix="download the file anew")
    collector.outcome(
        row,
        str(record.get("llm_selected") or stem),
        where,
        quality=result.get("score") if record.get("success", True) else None,
        cost_usd=result.get("inference_cost"),
        input_tokens=usage.get("input_tokens"),
        output_tokens=usage.get("output_tokens"),
    )
