"""LLMRouterBench (also called OpenRouterBench): one JSON result file per dataset, split and model, with a record per query.

Verified in ynulihao/LLMRouterBench: `data_collector/storage.py` (fields model_name, dataset_name, split, demo, records; a
record has index, origin_query, prompt, prompt_tokens, completion_tokens, cost, score; file names end in _YYYYMMDD_HHMMSS or
-YYYYMMDD_HHMMSS), `baselines/data_loader.py` (the latest file of a dataset, split and model counts, demo runs do not) and
README.md (folders results/bench/DATASET/SPLIT/MODEL). A null score stays null here; their loader counts it as 0. Their split is
the part of the benchmark that was asked, not a split for routing: it goes into the query id, not into `split`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from junctor.errors import TableError
from junctor.outcomes.collecting import Collector
from junctor.outcomes.columns import Options
from junctor.outcomes.files import check_exists, first_line
from junctor.outcomes.table import OutcomeTable, normalise


def read(path: Path, *, clip: bool = False) -> OutcomeTable:
    """Read one result file, or every .json file under a folder; the latest of each dataset, split and model counts."""
    check_exists(path, folder=True)
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise TableError("holds no JSON files", field=str(path), fix="name the folder of results/bench")
    latest: dict[tuple[str, str, str], tuple[str, Path, Mapping[str, Any]]] = {}
    for file in files:
        result = _result(file)
        if result.get("demo"):
            continue
        key = (str(result["dataset_name"]), str(result.get("split", "")), str(result["model_name"]))
        stamp = _stamp(file)
        if key not in latest or stamp > latest[key][0]:
            latest[key] = (stamp, file, result)
    options = Options(str(path), clip=clip, drop_empty=True)
    collector = Collector(options)
    differing = sum(_collect(collector, key, file, result) for key, (_, file, result) in latest.items())
    if differing:
        options.notes.append(f"{differing} records name another query text than the first model's record; the first was kept")
    return collector.table("dataset")


def _result(file: Path) -> Mapping[str, Any]:
    try:
        result = msgspec.json.decode(file.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TableError(f"is not JSON: {first_line(error)}", field=str(file), fix="download it anew") from error
    needed = ("dataset_name", "model_name", "records")
    missing = [name for name in needed if not isinstance(result, dict) or name not in result]
    if missing:
        raise TableError(f"has no {missing[0]}, so this is no result file", field=str(file), fix="name a folder of results")
    found: Mapping[str, Any] = result
    return found


def _stamp(file: Path) -> str:
    """The time in the file name, which sorts by age; files without one are oldest, by name."""
    found = re.search(r"(\d{8})_(\d{6})$", file.stem)
    return f"1{found[1]}{found[2]}" if found else f"0{file.name}"


def _collect(collector: Collector, key: tuple[str, str, str], file: Path, result: Mapping[str, Any]) -> int:
    """Add the records of one file; returns how many name another text than an earlier model's record of the same query."""
    dataset, split, model = key
    differing = 0
    for place, record in enumerate(result["records"]):
        where = f"{file}: records[{place}]"
        if not isinstance(record, dict) or "index" not in record or "score" not in record:
            raise TableError("is no record", field=where, fix="a record has index, origin_query and score")
        text = _text(record)
        row = collector.query(f"{dataset}/{split}/{record['index']}", text, {"dataset": dataset})
        differing += normalise(text) != normalise(collector.text(row))
        collector.outcome(
            row,
            model,
            where,
            quality=record["score"],
            cost_usd=record.get("cost"),
            input_tokens=record.get("prompt_tokens"),
            output_tokens=record.get("completion_tokens"),
        )
    return differing


def _text(record: Mapping[str, Any]) -> str:
    text = record.get("origin_query") or record.get("prompt") or ""
    return text if isinstance(text, str) else msgspec.json.encode(text).decode()
